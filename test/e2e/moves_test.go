package e2e_test

import (
	"context"
	"flag"
	"fmt"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/holdfast-io/holdfast/client"
	"github.com/holdfast-io/holdfast/examples/counter/counterv1"
	"github.com/holdfast-io/holdfast/placement"
	"github.com/holdfast-io/holdfast/test/e2e/internal/classes/classesv1"
)

func boxShard(name string, shards int) int {
	return int(placement.ShardOf(placement.NewNamespace("Box").IDFromName(name), shards))
}

// boxes names objects of class Box in one shard that a node owns, as many as asked for.
func boxes(t *testing.T, through *process, owner string, count int) (names []string, shard int) {
	t.Helper()
	s, err := through.status()
	if err != nil {
		t.Fatal(err)
	}
	shard = -1
	for i := 0; len(names) < count; i++ {
		name := fmt.Sprintf("box-%d", i)
		if at := boxShard(name, len(s.Shards)); shard < 0 && s.Shards[at].Owner == owner || at == shard {
			shard, names = at, append(names, name)
		}
	}
	return names, shard
}

type held struct {
	keys int32
	err  error
	took time.Duration
}

// hold makes a Box hold its turn, through a node, and returns where its answer will be.
func hold(t *testing.T, through *process, name string, how *classesv1.HoldRequest) <-chan held {
	t.Helper()
	out := make(chan held, 1)
	ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(context.Background(), "holdfast-name", name), 60*time.Second)
	box := classesv1.NewBoxClient(through.conn())
	go func() {
		defer cancel()
		begun := time.Now()
		resp, err := box.Hold(ctx, how)
		out <- held{resp.GetKeys(), err, time.Since(begun)}
	}()
	return out
}

// fewShards make a small cluster of which every node still owns a part.
var fewShards = []string{"--shards", "32"}

// TestDrainPutsOffAHeldShard: a handler that holds its turn keeps its shard where it is, and the
// others of its shard go on meanwhile; what is not held moves at once. No call fails.
func TestDrainPutsOffAHeldShard(t *testing.T) {
	nodes := startNodes(t, prepareNodes(t, testnode, 3, fewShards...))
	names, shard := boxes(t, nodes[0], "n2", 2)
	answer := hold(t, nodes[0], names[0], &classesv1.HoldRequest{Millis: 8000})
	neighbour := classesv1.NewBoxClient(nodes[0].conn())
	call := func() time.Duration {
		begun := time.Now()
		if _, err := neighbour.Hold(with(t, "holdfast-name", names[1]), &classesv1.HoldRequest{}); err != nil {
			t.Errorf("the neighbour: %v", err)
		}
		return time.Since(begun)
	}
	call()
	drain(t, nodes[0], 1, []string{"still owns 1 shards", "handlers"}, "n2", "--wait", "4s")
	if s, err := nodes[0].status(); err != nil || s.Shards[shard].Owner != "n2" {
		t.Errorf("the held shard: %+v, %v", s.Shards[shard], err)
	}
	var worst time.Duration
	calls := 0
	for ; len(answer) == 0; calls++ {
		worst = max(worst, call())
	}
	got := <-answer
	if got.err != nil || got.keys != 1 || got.took < 8*time.Second {
		t.Errorf("the held call: %+v", got)
	}
	// Each attempt of the move takes half a second of the neighbour's time, and they are a second apart.
	t.Logf("%d calls of the neighbour, the slowest took %s", calls, worst)
	if worst > 2*time.Second || calls < 20 {
		t.Errorf("%d calls of the neighbour, the slowest took %s", calls, worst)
	}
	waitOwns(t, nodes[0], "n2", false)
	if resp, err := neighbour.Hold(with(t, "holdfast-name", names[0]), &classesv1.HoldRequest{}); err != nil || resp.GetKeys() != 2 {
		t.Errorf("the moved object: %v, %v", resp, err)
	}
}

// TestStopWaitsForHandlers: a node that is stopped waits for a handler up to --drain-timeout; the call
// gets its answer. What runs for longer is reset and was never there. A handler that goes on even then
// does not keep the process.
func TestStopWaitsForHandlers(t *testing.T) {
	nodes := prepareNodes(t, testnode, 3, append(fewShards, "--drain-timeout", "4s")...)
	startNodes(t, nodes)
	for _, tc := range []struct {
		name   string
		how    *classesv1.HoldRequest
		code   codes.Code
		exit   int
		within time.Duration
	}{
		{"short", &classesv1.HoldRequest{Millis: 2500}, codes.OK, 0, 4 * time.Second},
		{"long", &classesv1.HoldRequest{Millis: 40_000}, codes.Aborted, 0, 8 * time.Second},
		{"stubborn", &classesv1.HoldRequest{Millis: 40_000, Stubborn: true}, codes.Aborted, 1, 12 * time.Second},
	} {
		t.Run(tc.name, func(t *testing.T) {
			names, _ := boxes(t, nodes[0], "n2", 1)
			before, err := classesv1.NewBoxClient(nodes[0].conn()).Hold(with(t, "holdfast-name", names[0]), &classesv1.HoldRequest{})
			if err != nil {
				t.Fatal(err)
			}
			answer := hold(t, nodes[0], names[0], tc.how)
			waitFor(t, "the handler to run", 10*time.Second, func() (bool, string) {
				_, body, err := nodes[1].get("/metrics")
				return err == nil && metricOf(body, "holdfast_queued_bytes") > 0, "it does not"
			})
			begun := time.Now()
			_ = nodes[1].cmd.Process.Signal(syscall.SIGTERM)
			exit := nodes[1].waitEnd(30 * time.Second)
			took := time.Since(begun)
			if exit != tc.exit || took > tc.within {
				t.Errorf("the node ended with %d after %s", exit, took)
			}
			got := <-answer
			t.Logf("ended with %d after %s; the call: %d, %v, after %s", exit, took, got.keys, got.err, got.took)
			want := before.GetKeys() + 1
			if code := status.Code(got.err); code != tc.code || code == codes.OK && got.keys != want {
				t.Errorf("the call: %d, %v, want %d and %s", got.keys, got.err, want, tc.code)
			} else if code == codes.OK {
				want++
			}
			after, err := classesv1.NewBoxClient(nodes[0].conn()).Hold(with(t, "holdfast-name", names[0]), &classesv1.HoldRequest{})
			// What ends as unknown may have taken effect: what it wrote before its context ended.
			if keys := after.GetKeys(); err != nil || keys != want && (got.err == nil || keys != want+1) {
				t.Errorf("afterwards: %v, %v, want %d", after, err, want)
			}
			nodes[1].start()
			nodes[1].waitReady()
			waitSpread(t, nodes[0], 3)
		})
	}
}

var rollingRounds = flag.Int("rolling-rounds", 2, "how often every node is restarted in turn under load")

// goLoad increments counters through the Go client, each by one caller. No call may fail.
type goLoad struct {
	t       *testing.T
	client  *client.Client
	stop    atomic.Bool
	wg      sync.WaitGroup
	calls   atomic.Int64
	slowest atomic.Int64 // nanoseconds
	failed  sync.Map
}

func runGoLoad(t *testing.T, nodes []*process, callers int) *goLoad {
	t.Helper()
	var addrs []string
	for _, p := range nodes {
		addrs = append(addrs, p.ports["grpc"])
	}
	c, err := client.New(addrs)
	if err != nil {
		t.Fatal(err)
	}
	l := &goLoad{t: t, client: c}
	prefix := fmt.Sprintf("go%d", loads.Add(1))
	for i := range callers {
		l.wg.Go(func() { l.run(fmt.Sprintf("%s-%d", prefix, i)) })
	}
	return l
}

func (l *goLoad) run(name string) {
	counter := counterv1.NewCounterClient(l.client.Name("Counter", name))
	for want := int64(1); !l.stop.Load(); want++ {
		begun := time.Now()
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		resp, err := counter.Increment(ctx, &counterv1.IncrementRequest{})
		cancel()
		l.calls.Add(1)
		for took := int64(time.Since(begun)); ; {
			if was := l.slowest.Load(); took <= was || l.slowest.CompareAndSwap(was, took) {
				break
			}
		}
		switch {
		case err != nil:
			l.failed.Store(name+": "+err.Error(), true)
			return
		case resp.GetValue() != want:
			l.failed.Store(fmt.Sprintf("%s = %d, want %d", name, resp.GetValue(), want), true)
			return
		}
	}
}

// finish stops the calls and fails the test if one of them has failed.
func (l *goLoad) finish() {
	l.stop.Store(true)
	l.wg.Wait()
	l.client.Close()
	l.failed.Range(func(what, _ any) bool {
		l.t.Errorf("Go client: %s", what)
		return true
	})
	l.t.Logf("Go client: %d calls, the slowest took %s", l.calls.Load(), time.Duration(l.slowest.Load()))
}

// TestRollingRestarts: every node is restarted in turn under load. No call of the Go client fails. Of
// plain gRPC only calls that did not run fail, by UNAVAILABLE; every counter is what was acknowledged.
func TestRollingRestarts(t *testing.T) {
	nodes := threeNodes(t)
	plain := newLoad(t, nodes, 200)
	plain.run(16)
	smart := runGoLoad(t, nodes, 16)
	plain.waitAcked(500)
	for range *rollingRounds {
		for _, p := range nodes {
			restartInOrder(t, p)
			plain.waitAcked(200)
		}
	}
	smart.finish()
	plain.finish()
	plain.exact()
}

// restartInOrder stops a node, starts it again, and waits until it takes part.
func restartInOrder(t *testing.T, p *process) {
	t.Helper()
	begun := time.Now()
	p.stop()
	if p.ended != nil {
		t.Errorf("%s ended with %v", p.name, p.ended)
	}
	stopped := time.Since(begun)
	p.start()
	p.waitReady()
	waitSpread(t, p, 3)
	t.Logf("%s: stopped in %s, back in %s", p.name, stopped, time.Since(begun)-stopped)
}

// exact checks as check does, and that nothing ended as unknown and nothing ran that was not
// acknowledged.
func (l *load) exact() {
	l.t.Helper()
	for i := range l.objects {
		l.objects[i].maybe = 0
	}
	if n := l.unknown.Load(); n != 0 {
		l.t.Errorf("%d calls of unknown outcome", n)
	}
	l.check()
}
