package worker_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime/debug"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-io/holdfast/actor"
	"github.com/holdfast-io/holdfast/storage/value"
	"github.com/holdfast-io/holdfast/worker"
	"github.com/holdfast-io/holdfast/worker/bundle"
)

const hostileTests = caller + `
let leak = [];
export class T extends DurableObject {
	async count() { const n = ((await this.ctx.storage.get('n')) ?? 0) + 1; await this.ctx.storage.put('n', n); return n; }
	async loops() { await this.ctx.storage.put('lost', 1); while (true) {} }
	async catches() { for (;;) { try { for (;;) {} } catch {} finally { for (;;) {} } } }
	async microtasks() { for (;;) await null; }
	async later() { setTimeout(() => { for (;;) {} }, 1); await scheduler.wait(10_000); }
	async builtin() { const a = new Array(1e6).fill(0); for (;;) a.indexOf(1); }
	async regexp() { /^(a+)+$/.test('a'.repeat(40) + 'b'); }
	async slices() { for (let i = 0; i < 1000; i++) { const end = Date.now() + 50; while (Date.now() < end) {} await scheduler.wait(1); } }
	async allocates() { for (;;) leak.push(new Array(1e5).fill(leak)); }
	async swallows() { for (;;) { try { for (;;) leak.push('x'.repeat(1e6) + leak.length); } catch {} } }
	async recurses() { return this.recurses2(); }
	recurses2() { return [this.recurses2()]; }
	async promises() { for (let i = 0; i < 50_000; i++) leak.push(new Promise(() => {}).then(() => {})); return leak.length; }
	async gigabyte() { return new Uint8Array(2 ** 30); }
	async fetch() { return new Response(new ReadableStream({ pull(c) { c.enqueue(new Uint8Array(2 ** 20)); } }, { highWaterMark: 0 })); }
	async endless() { return (await this.env.T.getByName('endless').fetch('http://x/')).status; }
	async linkLocal() { return (await fetch('http://169.254.169.254/latest/meta-data')).status; }
	async never() { await new Promise(() => {}); }
	async giant() { return 'x'.repeat(40 << 20); }
	async logs() { for (let i = 0; i < 100; i++) console.log('x'.repeat(1 << 20)); }
	async timers() { for (let i = 0; i < 100_000; i++) setTimeout(() => {}, 3600_000); }
	async rejects() { Promise.reject(new TypeError('nobody listens')); await null; return 1; }
	async writes() { for (let i = 0; i < 20_000; i++) this.ctx.storage.kv.put('k' + i, 1); }
	async bytes() { for (let i = 0; i < 20; i++) this.ctx.storage.kv.put('k' + i, 'x'.repeat(1 << 20)); }
	async calls() { const s = this.env.T.getByName('other'); await Promise.all(Array.from({ length: 3000 }, () => s.count())); }
	async stored() { return [...(await this.ctx.storage.list()).keys()].join(' '); }
}
`

const kindTests = caller + `
export class Kind extends DurableObject {
	async inGo() { return this.env.GO.getByName('x').count(); }
	async count() { const n = ((await this.ctx.storage.get('n')) ?? 0) + 1; await this.ctx.storage.put('n', n); return n; }
}
`

// goCounter is a class in Go beside the workers: its method count counts.
type goCounter struct{ n int }

func (c *goCounter) Invoke(context.Context, string, []byte) ([]byte, error) {
	c.n++
	return value.Encode(c.n)
}

func (*goCounter) Stream(context.Context, string, *actor.Stream) error {
	return errors.New("it has no streams")
}

// kindly calls another worker, and through it a class in Go, until it is stopped, and reports when one does not answer as it
// should. It returns a function that stops it.
func kindly(t *testing.T, w *world) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	counted := make(chan int)
	go func() {
		n := 0
		defer func() { counted <- n }()
		for ; ctx.Err() == nil && !t.Failed(); n++ {
			for _, method := range []string{"count", "inGo"} {
				r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://kind/KIND/x/"+method, nil)
				if err != nil {
					t.Error(err)
					return
				}
				if status, body := w.ask(w.workers[1], r); status != http.StatusOK || body != fmt.Sprintf(`{"value":%d}`, n+1) {
					t.Errorf("%s of another worker: got %d %q, want %d", method, status, body, n+1)
				}
			}
		}
	}()
	return func() {
		t.Helper()
		cancel()
		if n := <-counted; n < 50 {
			t.Errorf("the other worker was called %d times", n)
		}
	}
}

// hostileWorld is a node with a worker that means no good, and another one.
func hostileWorld(t *testing.T, config func(*worker.Config)) *world {
	t.Helper()
	if raceDetector {
		t.Skip("with the race detector the engine is too slow for limits to say anything")
	}
	return newWorld(t, hostileTests, also("kind", kindTests), func(w *world) {
		w.config = config
		w.bundles[1].Bindings = append(w.bundles[1].Bindings, bundle.Binding{Name: "GO", Class: "Go", Worker: bundle.GoWorker})
		w.classes = []actor.Class{actor.NewDynamicClass("Go", func(*actor.State) actor.Dynamic { return &goCounter{} })}
	})
}

// Whatever the JavaScript of one worker does, it is ended with an error that says why, its object is of use again
// afterwards, and nobody else notices.
func TestHostileWorkers(t *testing.T) {
	const cpu, memory = "Durable Object exceeded its CPU time limit and was reset.", "Durable Object's isolate exceeded its memory limit and was reset."
	type attack struct {
		method, message string
		reset           bool
	}
	for name, tc := range map[string]struct {
		config  func(*worker.Config)
		attacks []attack
	}{
		"time": {func(c *worker.Config) { c.CPUMax, c.MemoryMax = 300*time.Millisecond, 96<<20 }, []attack{
			{"loops", cpu, true},
			{"catches", cpu, true},
			{"microtasks", cpu, true},
			{"later", cpu, true},
			{"builtin", cpu, true},
			{"regexp", cpu, true},
			{"slices", cpu, true},
			{"swallows", "", true}, // whichever limit it comes to first
		}},
		"space": {func(c *worker.Config) { c.MemoryMax = 96 << 20 }, []attack{
			{"allocates", memory, true},
			{"gigabyte", memory, true},
			{"recurses", "Maximum call stack size exceeded", false},
			{"giant", "Serialized RPC arguments or return values are limited to 32MiB", false},
			{"endless", "The body of a message to or from a Durable Object is limited to 32MiB.", false},
			{"timers", "Too much is waited for at a time: at most 10000 timers, fetches and calls may be pending.", false},
			{"writes", "at most 10000", false},
			{"bytes", "bytes", false},
			{"calls", "Durable Object is overloaded", false},
			{"linkLocal", "connecting to 169.254.169.254 is refused, since that is a link-local address", false},
		}},
	} {
		t.Run(name, func(t *testing.T) {
			w := hostileWorld(t, tc.config)
			stop := kindly(t, w)
			for _, a := range tc.attacks {
				before, _ := w.ok("T", a.method, "count").(float64)
				start := time.Now()
				got := w.call("T", a.method, a.method)
				took := time.Since(start)
				if got.Error == nil || !strings.Contains(got.Error.Message, a.message) || got.Error.DurableObjectReset != a.reset {
					t.Errorf("%s: got %v, %+v after %v", a.method, got.Value, got.Error, took)
				}
				if took > 10*time.Second {
					t.Errorf("%s took %v", a.method, took)
				}
				if after := w.ok("T", a.method, "count"); after != before+1 {
					t.Errorf("%s: the object counts %v after %v", a.method, after, before)
				}
			}
			if got := w.ok("T", "loops", "stored"); name == "time" && got != "n" {
				t.Errorf("what was written before the reset is there: %v", got)
			}
			stop()
		})
	}
}

// What is waited for in vain, logged without end or not handled harms nobody.
func TestHostilePromises(t *testing.T) {
	w := hostileWorld(t, nil)
	stop := kindly(t, w)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	w.do(httptest.NewRequestWithContext(ctx, http.MethodGet, "http://worker.test/T/never/never", nil))
	if ctx.Err() == nil {
		t.Error("what never ends has ended")
	}
	if got := w.ok("T", "never", "count"); got != 1.0 {
		t.Errorf("beside a call that never ends: got %v", got)
	}
	if got := w.ok("T", "promises", "promises"); got != 50_000.0 {
		t.Errorf("promises that nobody settles: got %v", got)
	}
	w.ok("T", "logs", "logs")
	if n := len(w.logs.String()); n > 4<<20 {
		t.Errorf("%d bytes of logs", n)
	}
	w.ok("T", "rejects", "rejects")
	if !strings.Contains(w.logs.String(), "Uncaught (in promise)") || !strings.Contains(w.logs.String(), "nobody listens") {
		t.Errorf("a rejection that nobody handles is not logged: %.500s", w.logs)
	}
	stop()
}

// A worker's own handler is bounded alike.
func TestHostileHandlers(t *testing.T) {
	if raceDetector {
		t.Skip("with the race detector the engine is too slow for limits to say anything")
	}
	w := newWorld(t, `
let leak = [];
export default {
	async fetch(request) {
		switch (new URL(request.url).pathname) {
			case '/loop': for (;;) {}
			case '/memory': for (;;) leak.push(new Array(1e5).fill(leak));
			case '/recursion': { const f = () => [f()]; return f(); }
			case '/never': await new Promise(() => {});
			case '/gigabyte': return new Response(new Uint8Array(2 ** 30));
			case '/flow': {
				let n = 0;
				return new Response(new ReadableStream({ pull(c) { n++ < 1024 ? c.enqueue(new Uint8Array(2 ** 20)) : c.close(); } }, { highWaterMark: 0 }));
			}
			case '/stream': return new Response(new ReadableStream({ pull(c) { if (this.n) for (;;) {} this.n = 1; c.enqueue(new Uint8Array(1)); } }, { highWaterMark: 0 }));
		}
		return new Response('fine');
	},
};`, func(w *world) {
		w.config = func(c *worker.Config) { c.CPUMax, c.MemoryMax, c.Engines = time.Second, 64<<20, 1 }
	})
	for path, want := range map[string]int{"/loop": 503, "/memory": 503, "/recursion": 500, "/never": 500, "/gigabyte": 503} {
		if status, body := w.get(path); status != want {
			t.Errorf("%s: got %d %q, want %d", path, status, body, want)
		}
		w.want("/", "fine")
	}
	func() {
		defer func() {
			if recover() == nil {
				t.Error("a response that breaks off is taken for whole")
			}
		}()
		w.get("/stream")
	}()
	w.want("/", "fine")

	// A response that does not lie in memory may be as large as it likes.
	server := httptest.NewServer(w.worker)
	defer server.Close()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL+"/flow", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := server.Client().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	n, err := io.Copy(io.Discard, resp.Body)
	if err != nil || n != 1<<30 {
		t.Errorf("a response of 1 GiB: got %d bytes, %v", n, err)
	}
	if err := resp.Body.Close(); err != nil {
		t.Error(err)
	}
}

// Engines that were lost are freed.
func TestLostEnginesAreFreed(t *testing.T) {
	w := hostileWorld(t, func(c *worker.Config) { c.MemoryMax, c.Engines = 64<<20, 1 })
	w.call("T", "a", "allocates")
	before := resident(t)
	for range 10 {
		w.call("T", "a", "allocates")
	}
	if after := resident(t); after > before+128 {
		t.Errorf("ten engines of 64 MiB later the process takes %d MiB more", after-before)
	}
}

// resident is how many MiB of memory the process takes.
func resident(t *testing.T) int {
	t.Helper()
	debug.FreeOSMemory()
	statm, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		t.Skip("only Linux says how much memory a process takes")
	}
	var size, pages int
	if _, err := fmt.Fscan(bytes.NewReader(statm), &size, &pages); err != nil {
		t.Fatal(err)
	}
	return pages * os.Getpagesize() >> 20
}
