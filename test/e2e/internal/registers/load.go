// Package registers calls registers through all the nodes of a cluster, remembers every answer for the
// history check, and says afterwards what happened under each kind of fault.
//
// Each object in use has a caller of its own through every stub, so an object that does not answer
// holds up nobody else's calls. Turn goes on to fresh objects: histories are searched one by one,
// and must not get too long.
package registers

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/holdfast-io/holdfast/fault"
	"github.com/holdfast-io/holdfast/test/e2e/internal/classes/classesv1"
	"github.com/holdfast-io/holdfast/test/e2e/internal/history"
)

// Stub returns what calls an object, and the context to call it with.
type Stub func(object string) (context.Context, classesv1.RegisterClient)

// Config says what the load is. Every field is required.
type Config struct {
	// Seed of what is called.
	Seed uint64
	// Stubs, each another way to the cluster.
	Stubs []Stub
	// Objects in use at a time.
	Objects int
	// Pace of each caller: the time from one call to the next.
	Pace time.Duration
}

// CallTimeout is the deadline of each call.
const CallTimeout = 3 * time.Second

// Load is callers at work. Begin, End, Turn, Stop and ReadBack are for one goroutine, which drives
// it; the other methods are safe for concurrent use.
type Load struct {
	cfg     Config
	history *history.History
	callers []*caller

	generation atomic.Int64
	stop       chan struct{}
	wg         sync.WaitGroup
	stopped    time.Duration

	acked, failed atomic.Int64

	mu      sync.Mutex
	calls   []call
	windows []Window
}

// caller makes one call after another, to one object in use at a time.
type caller struct {
	id, slot int
	rng      *rand.Rand
	stub     Stub
	// seen is the last value it knows of the object.
	object string
	seen   int64
	acked  atomic.Int64
}

// call is one call for the table.
type call struct {
	object       string
	began, ended time.Duration
	result       string // "" acknowledged, else the reason
}

// Window is the time of one fault, until all is well again.
type Window struct {
	Kind       string
	Began, End time.Duration

	generation int64
	hit        func(object string) bool
}

// Start lets the callers call until Stop.
func Start(cfg Config) *Load {
	l := &Load{cfg: cfg, history: history.New(), stop: make(chan struct{})}
	for slot := range cfg.Objects {
		for _, stub := range cfg.Stubs {
			id := len(l.callers)
			one := &caller{id: id, slot: slot, stub: stub, rng: rand.New(rand.NewPCG(cfg.Seed, uint64(id+1)))} //nolint:gosec // to be repeated, not to be secret
			l.callers = append(l.callers, one)
			l.wg.Go(func() { l.run(one) })
		}
	}
	return l
}

func (l *Load) run(one *caller) {
	// Not all at once.
	pace := time.NewTimer(time.Duration(one.rng.Int64N(int64(l.cfg.Pace))))
	defer pace.Stop()
	for {
		select {
		case <-l.stop:
			return
		case <-pace.C:
		}
		pace.Reset(l.cfg.Pace)
		if l.do(one, one.next(l.object(l.generation.Load(), one.slot))) {
			one.acked.Add(1)
		}
	}
}

// object is the name of one.
func (l *Load) object(generation int64, slot int) string {
	return fmt.Sprintf("%d-%d", generation, slot)
}

// next draws a call, which is a write more often than not.
func (c *caller) next(object string) history.Operation {
	if c.object != object {
		c.object, c.seen = object, 0
	}
	op := history.Operation{Object: object, Client: c.id}
	switch c.rng.IntN(5) {
	case 0, 1:
		op.Kind = history.Get
	case 2:
		op.Kind, op.Amount = history.Add, 1+c.rng.Int64N(1<<40)
	default:
		op.Kind, op.Amount, op.Expected = history.CompareAndSet, c.rng.Int64(), c.seen
	}
	return op
}

// do makes a call and notes what came of it.
func (l *Load) do(one *caller, op history.Operation) bool {
	ctx, stub := one.stub(op.Object)
	ctx, cancel := context.WithTimeout(ctx, CallTimeout)
	defer cancel()
	op.Call = l.history.Now()
	var err error
	switch op.Kind {
	case history.Add:
		var s *classesv1.State
		s, err = stub.Add(ctx, &classesv1.AddRequest{Amount: op.Amount})
		op.State, op.Did = stateOf(s), true
	case history.CompareAndSet:
		var r *classesv1.CompareAndSetResponse
		r, err = stub.CompareAndSet(ctx, &classesv1.CompareAndSetRequest{Expected: op.Expected, Value: op.Amount})
		op.State, op.Did = stateOf(r.GetState()), r.GetSwapped()
	default:
		var s *classesv1.State
		s, err = stub.Get(ctx, &classesv1.GetRequest{})
		op.State = stateOf(s)
	}
	op.End = l.history.Now()
	result, ran := outcome(err)
	if op.Known = err == nil; op.Known {
		one.seen = op.State.Value
		l.acked.Add(1)
	} else {
		l.failed.Add(1)
	}
	if ran {
		l.history.Add(op)
	}
	l.mu.Lock()
	l.calls = append(l.calls, call{op.Object, op.Call, op.End, result})
	l.mu.Unlock()
	return op.Known
}

func stateOf(s *classesv1.State) history.State {
	return history.State{Value: s.GetValue(), Version: s.GetVersion()}
}

// outcome says why a call failed, and whether it may have run. That it did not is believed where the
// error says so: when it did all the same, the history does not add up.
func outcome(err error) (result string, mayHaveRun bool) {
	if err == nil {
		return "", true
	}
	switch reason := fault.ReasonOf(err); reason {
	case fault.NoOwner, fault.OwnerChanged, fault.Overloaded, fault.ObjectReset, fault.DiskFull:
		return string(reason), false
	case "":
	default:
		return string(reason), true
	}
	s := status.Convert(err)
	// The two ways in which gRPC says that there was no connection to send the call on.
	if s.Code() == codes.Unavailable && (strings.Contains(s.Message(), "while dialing") || strings.Contains(s.Message(), "reading server preface")) {
		return "not connected", false
	}
	return s.Code().String(), true
}

// Now is the time since the load began.
func (l *Load) Now() time.Duration { return l.history.Now() }

// Counts are how many calls have been acknowledged, and how many have failed.
func (l *Load) Counts() (acked, failed int64) { return l.acked.Load(), l.failed.Load() }

// Turn makes every next call go to a fresh object.
func (l *Load) Turn() { l.generation.Add(1) }

// Begin notes that a fault of a kind begins. hit says which objects it strikes, by their names: the
// median pause is theirs; nil means all of them. Call no Turn before End.
func (l *Load) Begin(kind string, hit func(object string) bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.windows = append(l.windows, Window{Kind: kind, Began: l.Now(), End: -1, generation: l.generation.Load(), hit: hit})
}

// End notes that the fault is over, and what it did to the cluster too.
func (l *Load) End() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.windows[len(l.windows)-1].End = l.Now()
}

// WaitAnswered waits until every caller was answered once more, which began after this.
func (l *Load) WaitAnswered(ctx context.Context) error {
	// The answer that comes next may be to a call under way.
	const more = 2
	before := make([]int64, len(l.callers))
	for i, one := range l.callers {
		before[i] = one.acked.Load()
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		waiting := 0
		for i, one := range l.callers {
			if one.acked.Load() < before[i]+more {
				waiting++
			}
		}
		if waiting == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%d of %d callers are not answered: %w", waiting, len(l.callers), context.Cause(ctx))
		case <-tick.C:
		}
	}
}

// ReadThrough sends reads of all the objects in use through one stub at once. It returns when they
// are being sent; wait waits for the answers.
func (l *Load) ReadThrough(stub int, times int) (wait func()) {
	var asked, answered sync.WaitGroup
	generation := l.generation.Load()
	for n := range times * l.cfg.Objects {
		one := &caller{id: len(l.callers) + n, stub: l.cfg.Stubs[stub]}
		asked.Add(1)
		answered.Go(func() {
			asked.Done()
			l.do(one, history.Operation{Object: l.object(generation, n%l.cfg.Objects), Client: one.id, Kind: history.Get})
		})
	}
	asked.Wait()
	return answered.Wait
}

// Stop ends the calls and waits for those under way.
func (l *Load) Stop() {
	close(l.stop)
	l.wg.Wait()
	l.stopped = l.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	if n := len(l.windows); n > 0 && l.windows[n-1].End < 0 {
		l.windows[n-1].End = l.stopped // The run was given up in the middle of a fault.
	}
}

// ReadBack reads every object once more, so that a write that is lost at the end is found missing.
// Call Stop before.
func (l *Load) ReadBack(ctx context.Context) error {
	retry := time.NewTicker(20 * time.Millisecond)
	defer retry.Stop()
	for i, object := range slices.Sorted(maps.Keys(l.history.ByObject())) {
		for try := i; ; try++ {
			one := l.callers[try%len(l.callers)]
			if l.do(one, history.Operation{Object: object, Client: one.id, Kind: history.Get}) {
				break
			}
			select {
			case <-ctx.Done():
				return fmt.Errorf("no last answer of %s: %w", object, context.Cause(ctx))
			case <-retry.C:
			}
		}
	}
	return nil
}

// Check searches the history: see [history.History.Check]. It returns what is wrong, one line each.
func (l *Load) Check(limit time.Duration) (history.Verdict, []string) {
	v := l.history.Check(limit)
	return v, l.history.Complaints(v)
}
