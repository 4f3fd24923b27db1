package worker

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/holdfast-io/holdfast/actor"
	"github.com/holdfast-io/holdfast/placement"
	"github.com/holdfast-io/holdfast/worker/bundle"
	"github.com/holdfast-io/holdfast/worker/quickjs"
	"github.com/holdfast-io/holdfast/worker/web/outbound"
)

// Defaults of a Config.
const (
	DefaultCPUMax    = 30 * time.Second
	DefaultMemoryMax = 128 << 20
)

// Cluster is what a worker needs of the node that runs it.
type Cluster interface {
	// Caller makes the calls of the worker's own handlers, which no object makes.
	actor.Caller
	// Namespace returns the namespace of a class; false when this node knows no such class.
	Namespace(class string) (placement.Namespace, bool)
}

// Config of a Worker.
type Config struct {
	Bundle  *bundle.Bundle
	Cluster Cluster
	// Fetch makes the worker's HTTP requests of others.
	Fetch *outbound.Client
	// Engines is how many JavaScript engines the worker has for its objects, and as many for its own handlers:
	// default GOMAXPROCS. Each is made when it is first needed, and takes about 1 MB and what the worker keeps.
	Engines int
	// MemoryMax is the memory of each engine in bytes: default 128 MiB.
	MemoryMax int64
	// CPUMax is how long JavaScript may run for one event: default 30 s.
	CPUMax time.Duration
	// ShowErrors has errors that the worker does not catch shown to the HTTP client: for development.
	ShowErrors bool
	// Logs takes what JavaScript logs; nil: Logger does.
	Logs LogSink
	// Logger takes what the worker itself has to say. Default: discards.
	Logger *slog.Logger
}

// Worker runs one bundle. It is safe for concurrent use.
type Worker struct {
	cfg    Config
	bundle *bundle.Bundle
	code   *quickjs.Bytecode
	mapper *bundle.Mapper
	logger *slog.Logger

	abilities sync.Once
	classes   map[string]abilitySet // since abilities

	// Objects and requests are in engines of their own: a request gets an object's error also when that takes
	// its engine with it.
	engines struct {
		sync.Mutex
		objects, requests []*engine // nil: not made yet, or lost
		closed            bool
	}
	turn     atomic.Uint64 // whose it is to take the next request
	requests atomic.Int64  // under way

	ctx    context.Context //nolint:containedctx // the worker's lifetime, ended by Close
	cancel context.CancelCauseFunc
	wg     sync.WaitGroup
}

// abilitySet is what a Durable Object class has besides methods.
type abilitySet struct{ alarm, preShutdown bool }

var errClosed = errors.New("the worker is being replaced")

// New makes a worker of a bundle, and runs the bundle's module once, in one of the engines: what is wrong with it
// is New's error. Close ends it.
func New(cfg Config) (*Worker, error) {
	w := &Worker{cfg: cfg, bundle: cfg.Bundle, logger: cfg.Logger}
	if w.logger == nil {
		w.logger = slog.New(slog.DiscardHandler)
	}
	if w.cfg.Engines <= 0 {
		w.cfg.Engines = runtime.GOMAXPROCS(0)
	}
	if w.cfg.MemoryMax <= 0 {
		w.cfg.MemoryMax = DefaultMemoryMax
	}
	if w.cfg.CPUMax <= 0 {
		w.cfg.CPUMax = DefaultCPUMax
	}
	if w.cfg.Logs == nil {
		w.cfg.Logs = slogSink{w.logger}
	}
	var err error
	if w.mapper, err = bundle.NewMapper(cfg.Bundle.SourceMap); err != nil {
		return nil, fmt.Errorf("worker %s: %w", cfg.Bundle.Name, err)
	}
	if w.code, err = quickjs.CompileModule(string(cfg.Bundle.Code), bundle.MainModule); err != nil {
		return nil, fmt.Errorf("worker %s: %w", cfg.Bundle.Name, err)
	}
	w.ctx, w.cancel = context.WithCancelCause(context.Background())
	w.engines.objects, w.engines.requests = make([]*engine, w.cfg.Engines), make([]*engine, w.cfg.Engines)
	if _, err := w.engineAt(w.engines.requests, 0); err != nil {
		w.cancel(err)
		return nil, err
	}
	return w, nil
}

// Name is the worker's.
func (w *Worker) Name() string { return w.bundle.Name }

// Classes are those of the worker's Durable Objects, for a node to run.
func (w *Worker) Classes() []actor.Class {
	out := make([]actor.Class, len(w.bundle.Classes))
	for i, class := range w.bundle.Classes {
		out[i] = actor.NewDynamicClass(w.bundle.Name+"/"+class.Name, func(s *actor.State) actor.Dynamic { return w.newObject(class.Name, s) })
	}
	return out
}

// Close ends what the worker does and waits for it. Its objects must have ended, and no request may come any more.
func (w *Worker) Close() {
	w.cancel(errClosed)
	w.engines.Lock()
	w.engines.closed = true
	w.engines.Unlock()
	for _, e := range slices.Concat(w.engines.objects, w.engines.requests) {
		if e != nil {
			e.close()
		}
	}
	w.wg.Wait()
}

// engineOf returns the engine in which an object lives.
func (w *Worker) engineOf(id placement.ObjectID) (*engine, error) {
	// Not the bytes that choose the shard: a node owns some shards only.
	return w.engineAt(w.engines.objects, int(binary.BigEndian.Uint64(id[8:16])%uint64(w.cfg.Engines))) //nolint:gosec // small
}

// engineAt returns one of a list of engines, which it makes when there is none, or none any more.
func (w *Worker) engineAt(list []*engine, n int) (*engine, error) {
	w.engines.Lock()
	defer w.engines.Unlock()
	if w.engines.closed {
		return nil, errClosed
	}
	e := list[n]
	if e != nil && !e.isGone() {
		return e, nil
	}
	e, err := w.newEngine()
	if err != nil {
		return nil, err
	}
	list[n] = e
	return e, nil
}
