package web_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/holdfast-io/holdfast/worker/quickjs"
	"github.com/holdfast-io/holdfast/worker/web"
	"github.com/holdfast-io/holdfast/worker/web/outbound"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// loop is a Host with one event loop: what a worker without gates would have.
type loop struct {
	t      testing.TB
	engine *quickjs.Engine
	web    *web.Platform
	client *outbound.Client
	work   chan func() error
	done   chan struct{}

	mu struct {
		sync.Mutex
		logs   []string
		timers map[int64]*time.Timer
	}
}

func newLoop(tb testing.TB) *loop {
	tb.Helper()
	l := &loop{t: tb, work: make(chan func() error), done: make(chan struct{})}
	l.mu.timers = make(map[int64]*time.Timer)
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
	l.mu.Lock()
	for _, timer := range l.mu.timers {
		timer.Stop()
	}
	l.mu.Unlock()
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
	deadline := time.After(30 * time.Second)
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
		select {
		case f := <-l.work:
			l.enter(f)
		case <-deadline:
			l.t.Fatalf("%s: pending after 30 s", expression)
		}
	}
}

func (l *loop) want(expression, want string) {
	l.t.Helper()
	if got, err := l.run(expression); err != nil || got != want {
		l.t.Errorf("%s: got %q, %v; want %q", expression, got, err, want)
	}
}

func (l *loop) post(f func() error) {
	select {
	case l.work <- f:
	case <-l.done:
	}
}

func (l *loop) Begin() (web.Op, error) { return l, nil }

func (l *loop) Settle(run func() error) { l.post(run) }

func (l *loop) Fetch(ctx context.Context, _ web.Op, r *outbound.Request) (*outbound.Response, error) {
	return l.client.Do(ctx, r)
}

func (l *loop) StartTimer(id int64, d time.Duration) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mu.timers[id] = time.AfterFunc(d, func() {
		l.post(func() error { return l.web.FireTimer(id) })
	})
	return nil
}

func (l *loop) StopTimer(id int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if timer, ok := l.mu.timers[id]; ok {
		timer.Stop()
		delete(l.mu.timers, id)
	}
}

func (l *loop) Log(level web.Level, text string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mu.logs = append(l.mu.logs, fmt.Sprintf("%d %s", level, text))
}

// logged takes what was logged.
func (l *loop) logged() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := strings.Join(l.mu.logs, "\n")
	l.mu.logs = nil
	return out
}

func (l *loop) Now() time.Time  { return time.Now() }
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
