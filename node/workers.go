package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/holdfast-io/holdfast/actor"
	"github.com/holdfast-io/holdfast/fault"
	systemv1 "github.com/holdfast-io/holdfast/proto/holdfast/system/v1"
	"github.com/holdfast-io/holdfast/worker/bundle"
)

const (
	// workerRetryMin and workerRetryMax bound how long a node waits before it tries again to load what it
	// could not load.
	workerRetryMin = time.Second
	workerRetryMax = time.Minute
	// workerGrace is how long a node may take to load a deployment before it gives ownership away.
	workerGrace = 5 * time.Second
)

// errNoLoader says that a program can't run workers.
var errNoLoader = errors.New("this program has no runtime for workers")

// workers runs on this node what is deployed in the cluster: it follows the facts. It is safe for concurrent
// use.
type workers struct {
	loader  Loader
	objects Objects
	main    string // the name of the worker of hosts that name none; empty: the only one
	logger  *slog.Logger
	facts   *factsCache
	manager *actor.Manager
	bundles *bundles
	wake    chan struct{} // capacity 1: there may be news
	handler atomic.Pointer[map[string]*runningWorker]

	mu struct {
		sync.Mutex
		closed  bool
		running map[string]*runningWorker // by name
		tried   map[string]*loadFailure   // what could not be loaded, by name
		seen    map[string]time.Time      // when this node learned of what it does not run yet
		logs    map[string]*logRing       // of every worker that was ever loaded here, by name
		synced  uint64                    // revision of the facts that it has followed
		next    chan struct{}             // closed when synced has changed
	}
	wg sync.WaitGroup
}

// loadFailure is a deployment that could not be loaded.
type loadFailure struct {
	number uint64
	err    error
	wait   time.Duration
	again  time.Time
}

// runningWorker is a worker that was loaded.
type runningWorker struct {
	*Worker

	name, hash string
	number     uint64
	// users are its being what is deployed, its classes, and requests. It is closed when there are none.
	users atomic.Int64
	owner *workers
}

func newWorkers(n *Node) *workers {
	w := &workers{
		loader: n.cfg.Loader, objects: n.Calls(), main: n.cfg.Worker, logger: n.log, facts: n.facts, manager: n.manager,
		bundles: &bundles{call: callReserved(n.router), store: n.store}, wake: make(chan struct{}, 1),
	}
	w.mu.running, w.mu.tried, w.mu.seen = make(map[string]*runningWorker), make(map[string]*loadFailure), make(map[string]time.Time)
	w.mu.logs, w.mu.next = make(map[string]*logRing), make(chan struct{})
	w.handler.Store(&map[string]*runningWorker{})
	return w
}

func (w *workers) poke() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// run follows the facts until ctx ends.
func (w *workers) run(ctx context.Context) {
	t := time.NewTicker(workerRetryMin)
	defer t.Stop()
	for {
		w.sync(ctx, w.bundles.load)
		select {
		case <-ctx.Done():
			return
		case <-w.wake:
		case <-t.C:
		}
	}
}

// begin loads what is at hand: a node that starts again runs what it ran before it takes anything over.
func (w *workers) begin(ctx context.Context) { w.sync(ctx, w.bundles.cached) }

// errNotCached says that a bundle is to be had of the cluster alone.
var errNotCached = errors.New("the bundle is not on this node's disk")

// sync makes what this node runs what the facts say. load returns the bundle of a hash.
func (w *workers) sync(ctx context.Context, load func(ctx context.Context, hash string, size uint64) ([]byte, error)) {
	view := w.facts.view.Load()
	for _, deployed := range view.facts.GetWorkers() {
		if ctx.Err() != nil {
			return
		}
		switch {
		case !w.due(deployed):
		case deployed.GetHash() == "":
			w.end(deployed)
		default:
			err := w.replace(ctx, deployed, load)
			if errors.Is(err, errNotCached) {
				return
			}
			w.note(deployed, err)
		}
	}
	w.bundles.keep(view.facts.GetWorkers())
	w.mu.Lock()
	defer w.mu.Unlock()
	w.mu.synced = view.revision
	close(w.mu.next)
	w.mu.next = make(chan struct{})
}

// due says whether there is something to be done, and to be done now, for what is deployed.
func (w *workers) due(deployed *systemv1.Worker) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	name, number := deployed.GetName(), deployed.GetNumber()
	running := w.mu.running[name]
	if running == nil && deployed.GetHash() == "" || running != nil && running.number == number {
		delete(w.mu.tried, name)
		delete(w.mu.seen, name)
		return false
	}
	if w.mu.seen[name].IsZero() {
		w.mu.seen[name] = time.Now()
	}
	failed := w.mu.tried[name]
	return failed == nil || failed.number != number || !time.Now().Before(failed.again)
}

// note takes down what became of a try.
func (w *workers) note(deployed *systemv1.Worker, err error) {
	name, number := deployed.GetName(), deployed.GetNumber()
	w.mu.Lock()
	defer w.mu.Unlock()
	if err == nil {
		delete(w.mu.tried, name)
		delete(w.mu.seen, name)
		w.logger.Info("worker", slog.String("worker", name), slog.Uint64("deployment", number))
		return
	}
	failed := &loadFailure{number: number, err: err, wait: workerRetryMin}
	if last := w.mu.tried[name]; last != nil && last.number == number {
		failed.wait = min(2*last.wait, workerRetryMax)
	}
	failed.again = time.Now().Add(failed.wait)
	w.mu.tried[name] = failed
	w.logger.Error("worker can't be loaded", slog.String("worker", name), slog.Uint64("deployment", number), slog.Any("error", err))
}

// replace loads what is deployed and has it run.
func (w *workers) replace(ctx context.Context, deployed *systemv1.Worker, load func(context.Context, string, uint64) ([]byte, error)) error {
	if w.loader == nil {
		return errNoLoader
	}
	file, err := load(ctx, deployed.GetHash(), deployed.GetSize())
	if err != nil {
		return err
	}
	b, err := bundle.Decode(file)
	if err != nil {
		return err
	}
	loaded, err := w.load(ctx, b, deployed.GetNumber())
	if err != nil {
		return err
	}
	return w.put(&runningWorker{Worker: loaded, name: deployed.GetName(), hash: deployed.GetHash(), number: deployed.GetNumber(), owner: w})
}

// load has a bundle loaded, and looks at what came of it.
func (w *workers) load(ctx context.Context, b *bundle.Bundle, number uint64) (*Worker, error) {
	if w.loader == nil {
		return nil, errNoLoader
	}
	loaded, err := w.loader.Load(ctx, Deployment{
		Bundle: b, Number: number, Objects: w.objects, Log: w.log(b.Name).Log, Logger: w.logger.With(slog.String("worker", b.Name)),
	})
	if err != nil {
		return nil, err
	}
	var want, got []string
	for _, c := range b.Classes {
		want = append(want, b.Name+"/"+c.Name)
	}
	for i := range loaded.Classes {
		loaded.Classes[i].Number = number
		got = append(got, loaded.Classes[i].Name)
	}
	slices.Sort(got)
	if slices.Sort(want); !slices.Equal(want, got) {
		if loaded.Close != nil {
			loaded.Close()
		}
		return nil, fmt.Errorf("the runtime made the classes %v of a bundle with %v", got, want)
	}
	return loaded, nil
}

// put makes a worker that was loaded what runs, in place of what did.
func (w *workers) put(r *runningWorker) error {
	r.users.Store(1)
	if len(r.Classes) > 0 {
		r.users.Add(1)
		if err := w.manager.Register(r.Classes, r.release); err != nil {
			r.release()
			r.release()
			return err
		}
	}
	w.mu.Lock()
	old, closed := w.mu.running[r.name], w.mu.closed
	if !closed {
		w.mu.running[r.name] = r
		w.publishLocked()
	}
	w.mu.Unlock()
	w.facts.SetLoaded(w.classes())
	if closed {
		r.release()
		return nil
	}
	w.retire(old, r.Classes)
	return nil
}

// end takes a worker away that is deployed no more.
func (w *workers) end(deployed *systemv1.Worker) {
	w.mu.Lock()
	old := w.mu.running[deployed.GetName()]
	delete(w.mu.running, deployed.GetName())
	w.publishLocked()
	w.mu.Unlock()
	w.facts.SetLoaded(w.classes())
	w.retire(old, nil)
	w.logger.Info("worker ends", slog.String("worker", deployed.GetName()), slog.Uint64("deployment", deployed.GetNumber()))
}

// publishLocked makes the handlers that there are known.
func (w *workers) publishLocked() {
	handlers := maps.Clone(w.mu.running)
	w.handler.Store(&handlers)
}

// retire ends what ran before, of whose classes those in now have other code.
func (w *workers) retire(old *runningWorker, now []actor.Class) {
	if old == nil {
		return
	}
	var gone []string
	for i := range old.Classes {
		name := old.Classes[i].Name
		if !slices.ContainsFunc(now, func(c actor.Class) bool { return c.Name == name }) {
			gone = append(gone, name)
		}
	}
	w.manager.Unregister(gone...)
	old.release()
}

// hold counts a user in. It returns false when there are none any more.
func (r *runningWorker) hold() bool {
	for {
		n := r.users.Load()
		if n == 0 {
			return false
		}
		if r.users.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

// release counts a user out.
func (r *runningWorker) release() {
	if r.users.Add(-1) == 0 && r.Close != nil {
		r.owner.wg.Go(r.Close)
	}
}

// close ends all that runs, and waits. The Manager has been closed, and no requests come.
func (w *workers) close() {
	w.mu.Lock()
	w.mu.closed = true
	running := w.mu.running
	w.mu.running = nil
	w.mu.Unlock()
	for _, r := range running {
		r.release()
	}
	w.wg.Wait()
}

// catchUp waits until this node runs what the facts said when it was called, or has tried.
func (w *workers) catchUp(ctx context.Context) error {
	want := w.facts.Revision()
	w.poke()
	for {
		w.mu.Lock()
		synced, next := w.mu.synced, w.mu.next
		w.mu.Unlock()
		if synced >= want {
			return nil
		}
		select {
		case <-next:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// classes are the names of those that run here.
func (w *workers) classes() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []string
	for _, r := range w.mu.running {
		for i := range r.Classes {
			out = append(out, r.Classes[i].Name)
		}
	}
	return out
}

// pending says, in words, which workers are deployed and not running here, and why. late are those that
// this node has had its time for, or can't load: it must not own what they have.
func (w *workers) pending() (all, late []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, deployed := range w.facts.view.Load().facts.GetWorkers() {
		name, running := deployed.GetName(), w.mu.running[deployed.GetName()]
		if deployed.GetHash() == "" || running != nil && running.number == deployed.GetNumber() {
			continue
		}
		text := fmt.Sprintf("worker %s: deployment %d is being loaded", name, deployed.GetNumber())
		failed := w.mu.tried[name]
		if failed != nil && failed.number == deployed.GetNumber() {
			text = fmt.Sprintf("worker %s: deployment %d can't be loaded: %v", name, deployed.GetNumber(), failed.err)
		} else {
			failed = nil
		}
		all = append(all, text)
		if seen := w.mu.seen[name]; failed != nil || !seen.IsZero() && time.Since(seen) > workerGrace {
			late = append(late, text)
		}
	}
	return all, late
}

// workerState is what a node says of a worker.
type workerState struct {
	Number uint64
	Error  string
}

// states says what this node runs, by the workers' names.
func (w *workers) states() map[string]workerState {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := make(map[string]workerState)
	for name, r := range w.mu.running {
		out[name] = workerState{Number: r.number}
	}
	for name, failed := range w.mu.tried {
		s := out[name]
		s.Error = failed.err.Error()
		out[name] = s
	}
	return out
}

// noClass says why a call of a class that this node does not run is refused.
func (w *workers) noClass(class string) error {
	if name, bare, ok := strings.Cut(class, "/"); ok {
		for _, deployed := range w.facts.view.Load().facts.GetWorkers() {
			if deployed.GetName() == name && !hasClass(deployed, bare) {
				return fault.New(fault.UnknownClass, "class %q: worker %s, as it is deployed, has no such class", class, name)
			}
		}
	}
	return fault.New(fault.NoOwner, "the owner of the object does not run class %q: it is about to load it, or to hand over", class)
}

func hasClass(deployed *systemv1.Worker, bare string) bool {
	return deployed.GetHash() != "" && slices.ContainsFunc(deployed.GetClasses(), func(c *systemv1.WorkerClass) bool { return c.GetName() == bare })
}

// ServeHTTP hands a request to the worker that the first label of its host names, or else to the main one, or
// to the only one that there is.
func (w *workers) ServeHTTP(rw http.ResponseWriter, req *http.Request) {
	running := *w.handler.Load()
	host := req.Host
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	label, _, _ := strings.Cut(host, ".")
	r := running[label]
	if r == nil {
		r = running[w.main]
	}
	if r == nil && len(running) == 1 {
		for _, only := range running {
			r = only
		}
	}
	switch {
	case len(running) == 0:
		http.Error(rw, "No worker is deployed on this cluster.", http.StatusNotFound)
	case r == nil:
		http.Error(rw, fmt.Sprintf("Which worker? The first label of the host names it, as in %s.localhost. There are: %s.",
			slices.Sorted(maps.Keys(running))[0], strings.Join(slices.Sorted(maps.Keys(running)), ", ")), http.StatusNotFound)
	case !r.hold(): // It has just been replaced.
		w.ServeHTTP(rw, req)
	default:
		defer r.release()
		if r.Handler == nil {
			http.Error(rw, fmt.Sprintf("Worker %s has no fetch handler.", r.name), http.StatusNotFound)
			return
		}
		r.Handler.ServeHTTP(rw, req)
	}
}
