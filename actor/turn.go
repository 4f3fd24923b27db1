package actor

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/holdfast-io/holdfast/fault"
)

// Bounds of BlockConcurrency.
const (
	// BlockTimeMax is how long BlockConcurrency, or Init, may take.
	BlockTimeMax = 30 * time.Second
	// BlockDepthMax is how deep calls of BlockConcurrency may be nested.
	BlockDepthMax = 64
)

// ErrNoTurn says that something was asked of an object that only the handler that has the object's
// turn may ask: not a function that Yield runs, nor a goroutine that has outlived its event, and not
// with a context other than the handler's own or one made from it.
var ErrNoTurn = errors.New("only the handler that has the object's turn can do this, with its own context: not a function that Yield runs, and no goroutine that has outlived its event")

// Initializer is what the instance of a class may implement to prepare itself, once an incarnation,
// before its first event: by reading its storage, or by asking others. Events wait meanwhile, as in
// BlockConcurrency, and its limit of 30 s holds. What Init writes becomes durable with the first
// event, or with Init's own Yield or Confirm.
//
// An error resets the object: every event that waits gets OBJECT_RESET with its text, and the next
// call tries again. ctx is not that of the call that happened to come first: it ends when the
// incarnation does.
type Initializer interface {
	Init(ctx context.Context) error
}

// Confirm waits until everything that the object has written is durable, and this node has been
// found to be its owner since. Call it before an effect that does not pass through Holdfast, such
// as an HTTP request. What was written before it is a segment of its own: it stays when the
// handler fails afterwards. The handler keeps its turn; Yield confirms too, and lets others in.
//
// An event that has passed a Confirm is not run again by Holdfast: when its owner changes before it
// has returned, its caller gets OUTCOME_UNKNOWN. It is refused inside a transaction.
func (s *State) Confirm(ctx context.Context) error { return s.o.confirm(ctx, "Confirm") }

// confirm is Confirm under the name that it was called by.
func (i *incarnation) confirm(ctx context.Context, what string) error {
	w, opened := barrierOf(eventOf(ctx))
	if err := i.barrier(w, what); err != nil {
		return err
	}
	return i.pass(ctx, opened)
}

// barrierOf makes a barrier of an event, and what tells when it is open, or why it never will be.
func barrierOf(e *event) (waiter, <-chan error) {
	opened := make(chan error, 1)
	return waiter{e: e, barrier: func(err error) { opened <- err }}, opened
}

// barrier closes the segment that an event that has the turn has written so far, and puts the event at
// the gate. what asks for it, and is named in errors; on an error the barrier is not told.
func (i *incarnation) barrier(w waiter, what string) error {
	i.mu.Lock()
	err := i.holds(w.e)
	if err == nil {
		err = i.notInTransaction(what)
	}
	i.mu.Unlock()
	if err != nil {
		return err
	}
	if err := i.close(w.e, nil, func(wrote writes, sole bool) gate { return i.m.barrier(w, wrote, sole) }); err != nil {
		return err
	}
	i.mu.Lock()
	i.unlock() // Sends what was answered at once.
	return nil
}

// pass waits for the gate to open.
func (i *incarnation) pass(ctx context.Context, gate <-chan error) error {
	select {
	case err := <-gate:
		return err
	default:
	}
	since := i.shard.manager.now()
	defer func() {
		waited := i.shard.manager.now() - since
		i.class.tally.count(i.shard.id, func(t *Tally) { t.GateWait.observe(waited) })
		i.shard.manager.tracePassed(ctx, since)
	}()
	select {
	case err := <-gate:
		return err
	case <-ctx.Done():
		return fault.New(fault.ObjectTimeout, "the call ended while its writes were being committed: %v", context.Cause(ctx))
	}
}

// holds says whether an event has the turn. The caller holds the lock.
func (i *incarnation) holds(e *event) error {
	if err := i.turn(); err != nil {
		return err
	}
	if i.m.running != e {
		return ErrNoTurn
	}
	return nil
}

// Yield gives up the object's turn while fn runs, so that other events of the object may run
// meanwhile, and has it back when it returns: call it to wait for the outside world. Handlers that
// want their turn back go before events that have not begun, in the order in which they asked.
//
// What the event has written so far becomes a segment of its own, which others see and which stays
// when the handler fails afterwards. fn runs when that is durable and this node has been found to
// be the owner since, as after Confirm: so it may act on the outside world. It must not use the
// object, neither its storage nor what the class keeps in memory; another event may be doing so.
// Storage refuses with ErrNoTurn while no other event has the turn, and can't tell otherwise. It
// should return soon after ctx ends. ctx is the handler's own, or made from it. Yield is refused inside
// a transaction.
//
// Yield returns fn's error. When the object was reset meanwhile or has another owner, it returns
// why: the caller has its answer already, and nothing that the handler still does gets out. At most
// 256 handlers of an object have begun and not returned; further events wait for them.
//
// An event that is in a Yield does not hold up a planned move of its object. It ends there, and its
// caller gets OUTCOME_UNKNOWN, because fn may have acted; OBJECT_RESET when the object is reset.
func (s *State) Yield(ctx context.Context, fn func(ctx context.Context) error) error {
	i, e := s.o, eventOf(ctx)
	w, gate := barrierOf(e)
	if err := i.barrier(w, "Yield"); err != nil {
		return err
	}
	i.poll()
	i.code.Unlock()
	i.leave(e)
	err := func() error {
		defer i.comeBack(e) // Also when fn panics: the class's deferred functions run in its turn.
		if err := i.pass(ctx, gate); err != nil {
			return err
		}
		return fn(ctx)
	}()
	i.mu.Lock()
	defer i.mu.Unlock()
	if e.over {
		return i.over
	}
	return err
}

func (i *incarnation) leave(e *event) {
	i.mu.Lock()
	defer i.unlock()
	if !e.over {
		i.m.leave()
	}
}

// comeBack waits for the turn. It does not look at the context: the class's code goes on when it
// returns. That ends, because handlers that run do, and when the event is over nobody is waited for
// but other handlers that are.
func (i *incarnation) comeBack(e *event) {
	var turn chan struct{}
	i.mu.Lock()
	if !e.over {
		turn = make(chan struct{})
		e.turn = turn
		i.m.want(e)
	}
	i.unlock()
	if turn != nil {
		<-turn
	}
	i.code.Lock()
}

// wake tells a handler that waits in comeBack. The caller holds the lock.
func (e *event) wake() {
	if e.turn != nil {
		close(e.turn)
		e.turn = nil
	}
}

// end ends the context of an event that is over.
func (e *event) end(why error) {
	e.call.Cancel(why)
	if e.cancel != nil {
		e.cancel(why)
	}
}

// BlockConcurrency runs fn and lets no other event of the object run until it returns, also while
// fn is in a Yield. When fn fails, by an error or a panic, the object can't be trusted and is reset:
// BlockConcurrency does not return then, the caller gets OBJECT_RESET with the error's text (PANIC
// after a panic), and so does everybody who waits. The same happens, with OBJECT_TIMEOUT, when fn
// takes more than 30 s.
//
// Calls may be nested, at most 64 deep. An error that it returns says that fn did not run, or that
// the object was reset or has another owner meanwhile. ctx is the handler's own, or made from it.
func (s *State) BlockConcurrency(ctx context.Context, fn func(ctx context.Context) error) error {
	return s.o.block(ctx, "BlockConcurrency", fn)
}

// block is BlockConcurrency, and Init's.
func (i *incarnation) block(ctx context.Context, what string, fn func(ctx context.Context) error) error {
	e := eventOf(ctx)
	outermost, err := i.enter(e)
	if err != nil {
		return err
	}
	if outermost {
		defer i.limit(e, what, BlockTimeMax)()
	}
	returned := false
	defer func() {
		if !returned {
			i.panicked(e, recover())
			panic(abortError{})
		}
	}()
	err = fn(ctx)
	returned = true
	if over := i.exit(e, err == nil); over != nil {
		return over
	}
	if err != nil {
		i.reset(e, errFailed(what, err))
		panic(abortError{})
	}
	return nil
}

func errTooLong(what string, most time.Duration) *fault.Error {
	return fault.New(fault.ObjectTimeout, "%s took more than %v, and the object was reset", what, most).With(fault.LimitKey, what)
}

func (i *incarnation) enter(e *event) (outermost bool, err error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if err := i.holds(e); err != nil {
		return false, err
	}
	if e.depth == BlockDepthMax {
		return false, fmt.Errorf("BlockConcurrency: nested at most %d deep", BlockDepthMax)
	}
	i.m.enter()
	return e.depth == 1, nil
}

// exit ends the section, unless all is over, and returns why.
func (i *incarnation) exit(e *event, ok bool) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if e.over {
		return i.over
	}
	if ok {
		i.m.exit()
	}
	return nil
}

// limit resets the object if what it returns is not called in time.
func (i *incarnation) limit(e *event, what string, most time.Duration) (stop func()) {
	stopped, done := make(chan struct{}), make(chan struct{})
	i.shard.manager.wg.Go(func() {
		defer close(done)
		t := time.NewTimer(most)
		defer t.Stop()
		select {
		case <-stopped:
		case <-t.C:
			i.reset(e, errTooLong(what, most))
		}
	})
	return func() {
		close(stopped)
		<-done
	}
}

// reset ends the incarnation: the event, if there is one, is told err, and everybody else that the
// object was reset.
func (i *incarnation) reset(e *event, err *fault.Error) {
	others := err
	if err.Reason != fault.ObjectReset {
		others = fault.New(fault.ObjectReset, "of another event: %s", err.Message)
		others.Metadata = err.Metadata
	}
	i.die(death{by: e, result: Result{Err: err}, begun: others, queued: others})
}

const defaultAbortReason = "the object aborted itself"

// Abort resets the object at once and does not return: what the event wrote is discarded, the
// callers that wait get OBJECT_RESET with the reason, and the next call finds the object as the
// last committed event left it. Call it from the handler's goroutine.
func (s *State) Abort(reason string) {
	s.Reset(reason)
	panic(abortError{})
}

// abortError unwinds the handler of an event that is over.
type abortError struct{}

// initialize runs the class's Init, if it has one.
func (i *incarnation) initialize(e *event, impl any) error {
	init, ok := impl.(Initializer)
	if !ok {
		return nil
	}
	ctx, cancel := context.WithCancelCause(context.WithValue(i.shard.manager.ctx, callKey{}, e.call))
	defer cancel(nil)
	i.mu.Lock()
	if !e.over {
		e.cancel = cancel
	}
	i.mu.Unlock()
	return i.block(ctx, fault.LimitInit, init.Init)
}
