package worker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/holdfast-io/holdfast/worker/quickjs"
	"github.com/holdfast-io/holdfast/worker/web"
)

// jobsAtOnce is how many promise jobs run between two looks at what they left.
const jobsAtOnce = 1000

// engine is one JavaScript engine of a worker, with what runs in it.
type engine struct {
	w *Worker

	mu sync.Mutex // held while JavaScript runs
	// Guarded by mu.
	js       *quickjs.Engine
	platform *web.Platform
	run      functions
	now      *entry // the entry under way
	lost     error  // why nothing runs here any more

	loops struct {
		sync.Mutex
		last int64
		by   map[int64]*loop // whose JavaScript runs here
		gone bool
	}
}

// functions are those of runtime.js.
type functions struct {
	load, construct, drop, call, callAt, read, fetch, alarm, preShutdown, serve, watch, makeError, thrown *quickjs.Ref
	ended, failed, replace, revive, storable                                                              *quickjs.Ref
}

func (f *functions) refs() map[string]**quickjs.Ref {
	return map[string]**quickjs.Ref{
		"load": &f.load, "construct": &f.construct, "drop": &f.drop, "call": &f.call, "callAt": &f.callAt, "read": &f.read, "fetch": &f.fetch,
		"alarm": &f.alarm, "preShutdown": &f.preShutdown, "serve": &f.serve, "watch": &f.watch, "makeError": &f.makeError,
		"thrown": &f.thrown, "ended": &f.ended, "failed": &f.failed, "replace": &f.replace, "revive": &f.revive, "storable": &f.storable,
	}
}

// entry is what a goroutine does in an engine while it has the engine's lock, for one loop.
type entry struct {
	loop *loop
	// object is whose loop it is, or nil.
	object *object
	// ctx is that of the object's event that has the turn.
	ctx context.Context //nolint:containedctx // the entry is shorter than the event
	// result is the promise that the entry is about, whose rejection is not unhandled.
	result quickjs.Value
}

// Errors by which JavaScript ends at once, and which it can't catch.
var (
	// errAborted ends the JavaScript of an object that is reset.
	errAborted = errors.New("the object was reset")
	// errGone says that what JavaScript belongs to has ended: it runs on in vain.
	errGone = errors.New("what this JavaScript belongs to has ended")
)

// enter runs fn for a loop, and then everything that it has set off without waiting for what is outside. then, if
// there is one, runs at the end. The errors of both are those of JavaScript (*quickjs.Error), errAborted, or a
// lostError: then the engine is lost, and everything in it is about to be reset.
func (e *engine) enter(en *entry, fn, then func() error) error {
	e.mu.Lock()
	err := e.enterLocked(en, fn, then)
	lost := e.lost
	e.mu.Unlock()
	if lost != nil {
		e.abandon(lost)
		return lost
	}
	return err
}

// errEngineClosed is the end of an engine of a worker that is closed.
var errEngineClosed = &lostError{cause: quickjs.ErrClosed}

func (e *engine) enterLocked(en *entry, fn, then func() error) error {
	if e.lost != nil {
		return e.lost
	}
	e.now = en
	defer func() { e.now = nil }()
	var took time.Duration
	err := e.js.Enter(func() error {
		defer func() { took = e.js.Spent() }()
		err := e.platform.NewEvent()
		if err == nil {
			err = fn()
		}
		if more := e.settle(err); err == nil || isFatal(more) {
			err = more
		}
		if err == nil && then != nil {
			err = then()
			if more := e.settle(err); err == nil || isFatal(more) { // A body that is taken begins to be read.
				err = more
			}
		}
		return e.keepable(err)
	})
	if isAbort(err) {
		return errAborted
	}
	spent := en.loop.spend(took, e.w.cfg.CPUMax)
	switch {
	case isFatal(err):
		e.lost = &lostError{cause: err, by: en.loop}
	case spent:
		e.lost = &lostError{cause: quickjs.ErrTimeLimit, by: en.loop}
	}
	return err
}

// settle runs the promise jobs, and reports what was rejected in vain. err is how the entry has begun.
func (e *engine) settle(err error) error {
	if isFatal(err) {
		return err
	}
	aborted := isAbort(err)
	for {
		more, err := e.js.RunJobs(jobsAtOnce)
		switch {
		case isAbort(err):
			aborted = true // What else the object has going is aborted as soon as it does anything.
		case err != nil:
			return err
		case !more:
			rejections := e.js.TakeRejections()
			if aborted {
				return &quickjs.PanicError{Value: errAborted}
			}
			told, err := e.reject(rejections)
			if !told || err != nil {
				return err
			}
		}
	}
}

// reject reports promises that were rejected and that nothing waits for, and says whether there were any.
func (e *engine) reject(rejections []quickjs.Rejection) (told bool, err error) {
	for _, r := range rejections {
		if r.Promise.Same(e.now.result) {
			continue
		}
		told = true
		if err := e.platform.UnhandledRejection(r); err != nil {
			return told, err
		}
	}
	return told, nil
}

// keepable makes of an error what can be used when its entry is over.
func (e *engine) keepable(err error) error {
	js, ok := errors.AsType[*quickjs.Error](err)
	if !ok || isFatal(err) {
		return err
	}
	return e.thrown(js)
}

// isAbort says that an error is that of an object that was reset on purpose.
func isAbort(err error) bool {
	p, ok := errors.AsType[*quickjs.PanicError](err)
	return ok && (p.Value == errAborted || p.Value == errGone) //nolint:errorlint // identity is meant
}

// isFatal says that the engine can't be trusted any more, or is of no use.
func isFatal(err error) bool {
	if err == nil || isAbort(err) {
		return false
	}
	if _, ok := errors.AsType[*quickjs.PanicError](err); ok {
		return true
	}
	for _, fatal := range []error{quickjs.ErrLost, quickjs.ErrTimeLimit, quickjs.ErrOutOfMemory, quickjs.ErrInterrupted, quickjs.ErrClosed} {
		if errors.Is(err, fatal) {
			return true
		}
	}
	return false
}

// lostError says that an engine is lost.
type lostError struct {
	cause error
	by    *loop // whose JavaScript did it
}

func (e *lostError) Error() string { return e.cause.Error() }
func (e *lostError) Unwrap() error { return e.cause }

// abandon resets everything that lives in an engine that is lost, once, and lets go of it.
func (e *engine) abandon(why error) {
	e.loops.Lock()
	if e.loops.gone {
		e.loops.Unlock()
		return
	}
	e.loops.gone = true
	loops := e.loops.by
	e.loops.by = nil
	e.loops.Unlock()
	e.w.logger.Error("a JavaScript engine is lost, and what ran in it is reset", slog.String("worker", e.w.bundle.Name), slog.Int("loops", len(loops)), slog.Any("error", why))
	for _, l := range loops {
		l.lose(why)
	}
	e.w.wg.Go(e.close)
}

// close frees the engine. Nothing enters it any more.
func (e *engine) close() {
	e.loops.Lock()
	e.loops.gone = true
	e.loops.Unlock()
	if e.platform != nil {
		e.platform.Close()
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.js == nil {
		return
	}
	if e.lost == nil {
		e.lost = errEngineClosed
	}
	for _, ref := range e.run.refs() {
		(*ref).Free()
	}
	if err := e.js.Close(); err != nil {
		e.w.logger.Warn("close a JavaScript engine", slog.Any("error", err))
	}
}

// add gives a loop its number; what is lost takes none.
func (e *engine) add(l *loop) error {
	e.loops.Lock()
	defer e.loops.Unlock()
	if e.loops.gone {
		return quickjs.ErrLost
	}
	e.loops.last++
	l.engine, l.number = e, e.loops.last
	e.loops.by[l.number] = l
	return nil
}

func (e *engine) remove(l *loop) {
	e.loops.Lock()
	defer e.loops.Unlock()
	delete(e.loops.by, l.number)
}

func (e *engine) isGone() bool {
	e.loops.Lock()
	defer e.loops.Unlock()
	return e.loops.gone
}

// newEngine makes an engine with the worker's code loaded.
func (w *Worker) newEngine() (*engine, error) {
	e := &engine{w: w}
	e.loops.by = make(map[int64]*loop)
	var err error
	e.js, err = quickjs.New(quickjs.Options{MemoryMax: w.cfg.MemoryMax, TimeMax: w.cfg.CPUMax, Load: loadRuntime})
	if err != nil {
		return nil, err
	}
	if err := e.start(); err != nil {
		e.close()
		return nil, fmt.Errorf("start worker %s: %w", w.bundle.Name, err)
	}
	return e, nil
}
