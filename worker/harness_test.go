package worker_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-io/holdfast/actor"
	"github.com/holdfast-io/holdfast/node"
	"github.com/holdfast-io/holdfast/worker"
	"github.com/holdfast-io/holdfast/worker/bundle"
	"github.com/holdfast-io/holdfast/worker/web/outbound"
)

// world is a node that runs workers.
type world struct {
	t       testing.TB
	dir     string
	bundles []*bundle.Bundle
	config  func(*worker.Config)
	idle    time.Duration
	classes []actor.Class // in Go

	node    *node.Node
	worker  *worker.Worker // the first
	workers []*worker.Worker
	client  *outbound.Client
	logs    *logs
	stop    func()
}

// logs keeps what a worker logs.
type logs struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logs) Log(e *worker.LogEntry) {
	l.mu.Lock()
	defer l.mu.Unlock()
	fmt.Fprintf(&l.text, "%s %s %s\n", e.Level, e.Class, e.Text)
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// newWorld runs a worker of one module, named test.
func newWorld(tb testing.TB, source string, options ...func(*world)) *world {
	tb.Helper()
	return projectWorld(tb, writeProject(tb, "test", source), options...)
}

// also runs another worker of one module beside.
func also(name, source string) func(*world) {
	return func(w *world) { w.build(writeProject(w.t, name, source)) }
}

// writeProject writes a project of one module, whose exported classes are Durable Objects and bound by their names in
// upper case; lines "// bind NAME CLASS WORKER" bind others.
func writeProject(tb testing.TB, name, source string) string {
	tb.Helper()
	dir := tb.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "index.ts"), []byte(source), 0o600); err != nil {
		tb.Fatal(err)
	}
	config := fmt.Sprintf("name = %q\nmain = \"index.ts\"\ncompatibility_date = \"2026-10-01\"\n", name)
	for line := range strings.Lines(source) {
		switch words := strings.Fields(line); {
		case len(words) > 2 && words[0] == "export" && words[1] == "class":
			config += fmt.Sprintf("[[durable_objects.bindings]]\nname = %q\nclass_name = %q\n", strings.ToUpper(words[2]), words[2])
		case len(words) == 5 && words[0] == "//" && words[1] == "bind":
			config += fmt.Sprintf("[[durable_objects.bindings]]\nname = %q\nclass_name = %q\nscript_name = %q\n", words[2], words[3], words[4])
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "wrangler.toml"), []byte(config), 0o600); err != nil {
		tb.Fatal(err)
	}
	return dir
}

// projectWorld runs the worker of a project.
func projectWorld(tb testing.TB, project string, options ...func(*world)) *world {
	tb.Helper()
	w := &world{t: tb, dir: tb.TempDir(), logs: &logs{}}
	w.build(project)
	for _, o := range options {
		o(w)
	}
	w.start()
	tb.Cleanup(func() { w.stop() })
	return w
}

// build has the world run the worker of a project.
func (w *world) build(project string) {
	w.t.Helper()
	built, err := bundle.Build(project, bundle.Options{Modules: worker.Modules()})
	if err != nil {
		w.t.Fatal(err)
	}
	w.bundles = append(w.bundles, built.Bundle)
}

func (w *world) start() {
	w.t.Helper()
	w.client = outbound.New(outbound.Config{Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}})
	cluster := &lateCluster{}
	w.workers = nil
	classes := slices.Clone(w.classes)
	for _, b := range w.bundles {
		cfg := worker.Config{Bundle: b, Cluster: cluster, Fetch: w.client, Engines: 2, Logs: w.logs, ShowErrors: true, Logger: slog.New(slog.NewTextHandler(testWriter{w.t}, nil))}
		if raceDetector {
			cfg.CPUMax = 5 * time.Minute
		}
		if w.config != nil {
			w.config(&cfg)
		}
		run, err := worker.New(cfg)
		if err != nil {
			w.t.Fatal(err)
		}
		w.workers = append(w.workers, run)
		classes = append(classes, run.Classes()...)
	}
	w.worker = w.workers[0]
	for i := range classes {
		if w.idle > 0 {
			classes[i].IdleTimeout = w.idle
		}
	}
	const free = "127.0.0.1:0"
	var err error
	w.node, err = node.Start(w.t.Context(), node.Config{
		Name: "test", DataDir: w.dir, Bootstrap: true, Shards: 4, Classes: classes,
		GRPC: free, Peer: free, Gossip: free, HTTP: free, Admin: free,
		DrainTimeout: 5 * time.Second, MinFreeDisk: -1, Logger: slog.New(slog.NewTextHandler(testWriter{w.t}, &slog.HandlerOptions{Level: slog.LevelWarn})),
	})
	if err != nil {
		w.t.Fatal(err)
	}
	cluster.Set(w.node.Calls())
	w.stop = sync.OnceFunc(func() {
		if err := w.node.Close(context.WithoutCancel(w.t.Context())); err != nil {
			w.t.Error(err)
		}
		for _, run := range w.workers {
			run.Close()
		}
		w.client.Close()
	})
	if err := w.node.WaitReady(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
}

// restart stops the node and starts it on the same data.
func (w *world) restart() {
	w.t.Helper()
	w.stop()
	w.start()
}

type testWriter struct{ t testing.TB }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(p)))
	return len(p), nil
}

// get makes a request of the worker, and returns the status and the body.
func (w *world) get(path string) (int, string) {
	return w.do(httptest.NewRequestWithContext(w.t.Context(), http.MethodGet, "http://worker.test"+path, nil))
}

func (w *world) do(r *http.Request) (int, string) { return w.ask(w.worker, r) }

// ask has a handler answer a request.
func (w *world) ask(h http.Handler, r *http.Request) (int, string) {
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, r)
	body, err := io.ReadAll(rec.Body)
	if err != nil {
		w.t.Error(err)
	}
	return rec.Code, string(body)
}

// want makes a request that is to be answered so.
func (w *world) want(path, want string) {
	w.t.Helper()
	if status, body := w.get(path); status != http.StatusOK || body != want {
		w.t.Errorf("%s: got %d %q, want %q", path, status, body, want)
	}
}

// caller is the default export of workers whose objects tests call by HTTP: /BINDING/NAME/METHOD?args=JSON.
const caller = `
import { DurableObject, RpcTarget, WorkerEntrypoint, waitUntil } from "cloudflare:workers";
export default {
	async fetch(request, env, ctx) {
		const url = new URL(request.url);
		const [, binding, name, method] = url.pathname.split('/').map(decodeURIComponent);
		try {
			const stub = env[binding].getByName(name);
			const value = await stub[method](...JSON.parse(url.searchParams.get('args') ?? '[]'));
			return Response.json({ value });
		} catch (e) {
			const { name, message, remote, retryable, overloaded, durableObjectReset, durableObjectId } = e;
			return Response.json({ error: { name, message, remote, retryable, overloaded, durableObjectReset, durableObjectId } });
		}
	},
};
function equal(got, want, what = '') {
	const text = (v) => JSON.stringify(v, (_k, x) => x instanceof Map ? [...x] : x === undefined ? 'undefined' : x);
	if (text(got) !== text(want)) throw new Error(what + ': got ' + text(got) + ', want ' + text(want));
}
async function throws(fn, Class, message) {
	try {
		await fn();
	} catch (e) {
		if (!(e instanceof Class)) throw new Error('threw a ' + e.name + ': ' + e.message + ', want a ' + Class.name);
		equal(e.message, message);
		return;
	}
	throw new Error('did not throw ' + message);
}
`

// answer is what the caller answers.
type answer struct {
	Value any
	Error *struct {
		Name, Message                                     string
		Remote, Retryable, Overloaded, DurableObjectReset bool
		DurableObjectID                                   string
	}
}

// call calls a method of an object of a worker with the caller.
func (w *world) call(binding, name, method string, args ...any) answer {
	w.t.Helper()
	if args == nil {
		args = []any{}
	}
	text, err := json.Marshal(args)
	if err != nil {
		w.t.Fatal(err)
	}
	status, body := w.get("/" + binding + "/" + url.PathEscape(name) + "/" + method + "?args=" + url.QueryEscape(string(text)))
	var out answer
	if err := json.Unmarshal([]byte(body), &out); err != nil {
		w.t.Errorf("%s.%s: %d %q: %v", binding, method, status, body, err)
	}
	return out
}

// ok calls a method that must not fail, and returns what it returns.
func (w *world) ok(binding, name, method string, args ...any) any {
	w.t.Helper()
	a := w.call(binding, name, method, args...)
	if a.Error != nil {
		w.t.Errorf("%s.%s: %s: %s", binding, method, a.Error.Name, a.Error.Message)
	}
	return a.Value
}
