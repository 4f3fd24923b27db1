package e2e_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/holdfast-io/holdfast/examples/counter/counterv1"
)

// load increments counters through all the nodes, and remembers every answer.
type load struct {
	t       *testing.T
	prefix  string
	clients []counterv1.CounterClient
	objects []loadObject
	stop    atomic.Bool
	wg      sync.WaitGroup
	calls   atomic.Int64
	acked   atomic.Int64
	failed  sync.Map // reason to count: calls that failed for longer than their retry
	unknown atomic.Int64

	mu      sync.Mutex
	answers []answer // of the callers, in order
}

// answer is when a call was acknowledged, and how long after it was due.
type answer struct {
	at   time.Time
	took time.Duration
}

type loadObject struct {
	mu      sync.Mutex
	answers map[int64]int // how often each count was answered
	acked   int64
	maybe   int64         // calls whose outcome is not known
	fault   time.Time     // when it was hit, if it was
	pause   time.Duration // from then until the first answer of a call that began later
}

// loads counts them, so that no two use the same objects.
var loads atomic.Int64

func newLoad(t *testing.T, nodes []*process, objects int) *load {
	t.Helper()
	l := &load{t: t, prefix: fmt.Sprintf("load%d", loads.Add(1)), objects: make([]loadObject, objects)}
	for _, p := range nodes {
		l.clients = append(l.clients, counterv1.NewCounterClient(p.conn()))
	}
	for i := range l.objects {
		l.objects[i].answers = make(map[int64]int)
	}
	return l
}

func (l *load) name(i int) string { return fmt.Sprintf("%s-%d", l.prefix, i) }

// run starts callers; each calls one counter after another. They stop with finish.
func (l *load) run(callers int) {
	for caller := range callers {
		l.wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(caller), 7))
			for !l.stop.Load() {
				l.timed(rng, rng.IntN(len(l.objects)), time.Now())
			}
		})
	}
}

// timed calls an object by a call that was due at a time, and notes the answer.
func (l *load) timed(rng *rand.Rand, i int, due time.Time) {
	if !l.increment(rng, i) {
		return
	}
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.answers = append(l.answers, answer{at: now, took: now.Sub(due)})
}

// waitAcked waits until so many more calls are acknowledged.
func (l *load) waitAcked(more int64) {
	l.t.Helper()
	want := l.acked.Load() + more
	waitFor(l.t, "calls to be acknowledged", 30*time.Second, func() (bool, string) {
		got := l.acked.Load()
		return got >= want, fmt.Sprintf("%d of %d", got, want)
	})
}

func (l *load) finish() {
	l.stop.Store(true)
	l.wg.Wait()
}

// increment calls once, and again through another node while the call certainly did not run, for
// at most ten seconds. It says whether the call was acknowledged.
func (l *load) increment(rng *rand.Rand, i int) bool {
	o := &l.objects[i]
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	ctx = metadata.AppendToOutgoingContext(ctx, "holdfast-name", l.name(i))
	for {
		began := time.Now()
		resp, err := l.clients[rng.IntN(len(l.clients))].Increment(ctx, &counterv1.IncrementRequest{})
		l.calls.Add(1)
		if err == nil {
			o.answered(resp.GetValue(), began)
			l.acked.Add(1)
			return true
		}
		switch status.Code(err) {
		case codes.Unavailable:
			// Also what gRPC says when a connection breaks under a call: then it may have run.
			if !isFault(err) {
				o.mayHaveRun()
			}
			if ctx.Err() != nil {
				l.fail(err)
				return false
			}
			select {
			case <-time.After(5 * time.Millisecond):
			case <-ctx.Done():
			}
			continue
		case codes.Aborted:
			l.unknown.Add(1)
			o.mayHaveRun()
		default:
			o.mayHaveRun()
			l.fail(err)
		}
		return false
	}
}

func (l *load) fail(err error) {
	n, _ := l.failed.LoadOrStore(err.Error(), new(atomic.Int64))
	n.(*atomic.Int64).Add(1)
}

func (o *loadObject) answered(value int64, began time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.answers[value]++
	o.acked++
	if !o.fault.IsZero() && o.pause == 0 && began.After(o.fault) {
		o.pause = time.Since(o.fault)
	}
}

func (o *loadObject) mayHaveRun() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.maybe++
}

// check compares every counter with what was answered: no acknowledged increment is lost, none is
// answered twice with the same count.
func (l *load) check() {
	l.t.Helper()
	acked := int64(0)
	for i := range l.objects {
		o := &l.objects[i]
		ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(context.Background(), "holdfast-name", l.name(i)), 20*time.Second)
		resp, err := l.clients[i%len(l.clients)].Get(ctx, &counterv1.GetRequest{})
		cancel()
		if err != nil {
			l.t.Fatalf("get %s: %v", l.name(i), err)
		}
		if v := resp.GetValue(); v < o.acked || v > o.acked+o.maybe {
			l.t.Errorf("%s = %d, but %d increments were acknowledged and %d may have run", l.name(i), v, o.acked, o.maybe)
		}
		for value, n := range o.answers {
			if n > 1 {
				l.t.Errorf("%s: %d was answered %d times", l.name(i), value, n)
			}
			if value > resp.GetValue() {
				l.t.Errorf("%s: %d was answered, but it is %d", l.name(i), value, resp.GetValue())
			}
		}
		acked += o.acked
	}
	l.failed.Range(func(reason, n any) bool {
		l.t.Errorf("%d calls failed: %s", n.(*atomic.Int64).Load(), reason)
		return true
	})
	l.t.Logf("%d calls, %d acknowledged, %d of unknown outcome", l.calls.Load(), acked, l.unknown.Load())
}

// TestThreeNodesAnswerRight: every answer is right, through every node.
func TestThreeNodesAnswerRight(t *testing.T) {
	nodes := threeNodes(t)
	l := newLoad(t, nodes, 1000)
	l.run(64)
	l.waitAcked(15_000)
	l.finish()
	l.check()
	if n := l.unknown.Load(); n != 0 {
		t.Errorf("%d calls of unknown outcome on a healthy cluster", n)
	}
}

// TestKillUnderLoad: calls go on when a node is killed, nothing is lost, and it comes back with no
// call failing.
func TestKillUnderLoad(t *testing.T) {
	nodes := threeNodes(t)
	victim := nodes[1]
	survivors := []*process{nodes[0], nodes[2]}
	l := newLoad(t, survivors, 300)
	owned := ownedBy(t, l, survivors[0], victim.name)
	l.run(64)
	l.waitAcked(10_000)
	fault := time.Now()
	victim.kill()
	l.watch(owned, fault)
	l.callEach(owned) // A pause ends with an answer, not when one of few callers next happens to come by.
	l.waitAnswered(owned)
	l.waitAcked(10_000)
	pauses := l.unwatch(owned)
	t.Logf("pause of %d killed objects: median %s, worst %s", len(pauses), pauses[len(pauses)/2], pauses[len(pauses)-1])
	// How long it takes is measured by the benchmarks; here it must only end.
	if worst := pauses[len(pauses)-1]; worst > 4*time.Second {
		t.Errorf("worst pause %s", worst)
	}
	before := l.unknown.Load()
	victim.start()
	victim.waitReady()
	waitSpread(t, survivors[0], 3)
	l.waitAcked(1000)
	l.finish()
	if n := l.unknown.Load() - before; n != 0 {
		t.Errorf("%d calls of unknown outcome while the node came back", n)
	}
	l.check()
}

// ownedBy returns the load's objects that a node owns.
func ownedBy(t *testing.T, l *load, through *process, owner string) []int {
	t.Helper()
	s, err := through.status()
	if err != nil {
		t.Fatal(err)
	}
	var out []int
	for i := range l.objects {
		if shard := counterShard(l.name(i), len(s.Shards)); s.Shards[shard].Owner == owner {
			out = append(out, i)
		}
	}
	if len(out) == 0 {
		t.Fatalf("%s owns none of the objects", owner)
	}
	return out
}

// watch has each of the objects note how long it takes, since a fault, to answer again.
func (l *load) watch(objects []int, fault time.Time) {
	for _, i := range objects {
		o := &l.objects[i]
		o.mu.Lock()
		o.fault, o.pause = fault, 0
		o.mu.Unlock()
	}
}

// callEach calls each of the objects once, at the same time.
func (l *load) callEach(objects []int) {
	for _, i := range objects {
		l.wg.Go(func() { l.increment(rand.New(rand.NewPCG(uint64(i), 11)), i) })
	}
}

// waitAnswered waits until each of the objects was answered since it is watched.
func (l *load) waitAnswered(objects []int) {
	l.t.Helper()
	waitFor(l.t, "an answer of every object", 30*time.Second, func() (bool, string) {
		for _, i := range objects {
			o := &l.objects[i]
			o.mu.Lock()
			answered := o.pause > 0
			o.mu.Unlock()
			if !answered {
				return false, l.name(i)
			}
		}
		return true, ""
	})
}

// unwatch returns the objects' pauses, the shortest first.
func (l *load) unwatch(objects []int) []time.Duration {
	var out []time.Duration
	for _, i := range objects {
		o := &l.objects[i]
		o.mu.Lock()
		out = append(out, o.pause)
		o.fault = time.Time{}
		o.mu.Unlock()
	}
	slices.Sort(out)
	return out
}
