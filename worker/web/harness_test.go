package web_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/holdfast-io/holdfast/worker/quickjs"
	"github.com/holdfast-io/holdfast/worker/web"
	"github.com/holdfast-io/holdfast/worker/web/outbound"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// loop is a Host with one event loop: what a worker without gates would have. Its clock stands still while JavaScript
// runs, and jumps to the next timer when nothing else is under way: so the order of timers is certain, and waiting for
// them takes no time.
type loop struct {
	t      testing.TB
	engine *quickjs.Engine
	web    *web.Platform
	client *outbound.Client
	work   chan func() error
	done   chan struct{}

	// These belong to whoever runs events.
	now      time.Time
	timers   []timer // by when they are due
	underWay atomic.Int64

	logs struct {
		sync.Mutex
		lines []string
	}
}

type timer struct {
	id  int64
	due time.Time
}

func newLoop(tb testing.TB) *loop {
	tb.Helper()
	l := &loop{t: tb, work: make(chan func() error), done: make(chan struct{}), now: time.Now()}
	l.client = outbound.New(outbound.Config{Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}})
	var err error
	if l.engine, err = quickjs.New(quickjs.Options{MemoryMax: 128 << 20, TimeMax: time.Minute}); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(l.close)
	l.enter(func() (err error) {
		l.web, err = web.Install(l.engine, l)
		return err
	})
	return l
}

func (l *loop) close() {
	close(l.done)
	if l.web != nil {
		l.web.Close()
	}
	l.client.Close()
	if err := l.engine.Close(); err != nil {
		l.t.Error(err)
	}
}

// enter runs f as an event, with all that it sets off without waiting.
func (l *loop) enter(f func() error) {
	l.t.Helper()
	err := l.engine.Enter(func() error {
		if err := f(); err != nil {
			return err
		}
		for {
			for more := true; more; {
				var err error
				if more, err = l.engine.RunJobs(1000); err != nil {
					return err
				}
			}
			// Listeners of these may set off more.
			rejections := l.engine.TakeRejections()
			for _, r := range rejections {
				if err := l.web.UnhandledRejection(r); err != nil {
					return err
				}
			}
			if len(rejections) == 0 {
				break
			}
		}
		return nil
	})
	if err != nil {
		l.t.Fatalf("an event: %v", explained(err))
	}
}

func explained(err error) error {
	if js, ok := errors.AsType[*quickjs.Error](err); ok {
		return fmt.Errorf("%w\n%s", err, js.Stack)
	}
	return err
}

// run evaluates an expression and returns what its promise comes to, as a string.
func (l *loop) run(expression string) (string, error) {
	l.t.Helper()
	var promise *quickjs.Ref
	defer func() { promise.Free() }()
	l.enter(func() error {
		v, err := l.engine.Eval("Promise.resolve(("+expression+")).then((v) => typeof v === 'string' ? v : JSON.stringify(v) ?? 'undefined')", "expression.js")
		if err != nil {
			return err
		}
		promise, err = v.Keep()
		return err
	})
	deadline := time.Now().Add(30 * time.Second)
	for {
		var out string
		var err error
		state := quickjs.Pending
		l.enter(func() error {
			var v quickjs.Value
			state, v = promise.Value().Promise()
			switch state {
			case quickjs.Fulfilled:
				out, err = v.Text()
			case quickjs.Rejected:
				err = l.engine.Caught(v)
			default:
			}
			return nil
		})
		if state != quickjs.Pending {
			return out, err
		}
		if time.Now().After(deadline) || !l.next() {
			l.t.Fatalf("%s: never settled", expression)
		}
	}
}

// next runs the next event; false if there is none and none will come.
func (l *loop) next() bool {
	l.t.Helper()
	var due <-chan time.Time
	if len(l.timers) > 0 {
		if l.underWay.Load() == 0 {
			l.fire()
			return true
		}
		timer := time.NewTimer(l.timers[0].due.Sub(l.now))
		defer timer.Stop()
		due = timer.C
	} else if l.underWay.Load() == 0 {
		return false
	}
	began := time.Now()
	select {
	case f := <-l.work:
		l.now = l.now.Add(time.Since(began))
		l.underWay.Add(-1)
		l.enter(f)
	case <-due:
		l.fire()
	case <-time.After(30 * time.Second):
		return false
	}
	return true
}

// fire fires the timer that is due first.
func (l *loop) fire() {
	l.t.Helper()
	first := l.timers[0]
	l.timers = l.timers[1:]
	if first.due.After(l.now) {
		l.now = first.due
	}
	l.enter(func() error { return l.web.FireTimer(first.id) })
}

func (l *loop) want(expression, want string) {
	l.t.Helper()
	if got, err := l.run(expression); err != nil || got != want {
		l.t.Errorf("%s: got %q, %v; want %q", expression, got, err, want)
	}
}

func (l *loop) BeginFetch() (web.Op, error) { return l.Begin() }

func (l *loop) Begin() (web.Op, error) {
	l.underWay.Add(1)
	return l, nil
}

func (l *loop) Settle(run func() error) {
	select {
	case l.work <- run:
	case <-l.done:
	}
}

func (l *loop) Fetch(ctx context.Context, _ web.Op, r *outbound.Request) (*outbound.Response, error) {
	return l.client.Do(ctx, r)
}

func (l *loop) StartTimer(id int64, d time.Duration) error {
	t := timer{id: id, due: l.now.Add(d)}
	i, _ := slices.BinarySearchFunc(l.timers, t, func(other, t timer) int {
		if other.due.After(t.due) {
			return 1
		}
		return -1
	})
	l.timers = slices.Insert(l.timers, i, t)
	return nil
}

func (l *loop) StopTimer(id int64) {
	l.timers = slices.DeleteFunc(l.timers, func(t timer) bool { return t.id == id })
}

func (l *loop) Log(level web.Level, text string) {
	l.logs.Lock()
	defer l.logs.Unlock()
	l.logs.lines = append(l.logs.lines, fmt.Sprintf("%d %s", level, text))
}

// logged takes what was logged.
func (l *loop) logged() string {
	l.logs.Lock()
	defer l.logs.Unlock()
	out := strings.Join(l.logs.lines, "\n")
	l.logs.lines = nil
	return out
}

func (l *loop) Now() time.Time  { return l.now }
func (l *loop) Random(p []byte) { _, _ = rand.Read(p) }

// Clone copies what the tests have, by JavaScript's own means.
func (l *loop) Clone(v quickjs.Value) (quickjs.Value, error) {
	f, err := l.engine.Eval(`(function clone(v) {
		if (v instanceof Date) return new Date(v.getTime());
		if (v instanceof Map) return new Map([...v].map(([k, x]) => [clone(k), clone(x)]));
		if (v instanceof Set) return new Set([...v].map(clone));
		if (v instanceof ArrayBuffer) return v.slice();
		if (Array.isArray(v)) return v.map(clone);
		if (typeof v === "object" && v !== null) return Object.fromEntries(Object.entries(v).map(([k, x]) => [k, clone(x)]));
		return v;
	})`, "clone.js")
	if err != nil {
		return quickjs.Value{}, err
	}
	return f.Call(quickjs.Value{}, v)
}
