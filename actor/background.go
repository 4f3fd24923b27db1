package actor

import (
	"context"
	"log/slog"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/holdfast-io/holdfast/fault"
)

// Bounds of WaitUntil.
const (
	// BackgroundMax is how many functions of WaitUntil an object may have at a time.
	BackgroundMax = 64
	// BackgroundTimeMax is when the context of such a function ends.
	BackgroundTimeMax = 15 * time.Minute
)

// background is the name of what WaitUntil runs, where a method's would be.
const background = "WaitUntil"

// WaitUntil runs fn in a goroutine of its own, also after the handler has returned and its caller has
// the answer. The object stays in memory meanwhile.
//
// fn begins when everything that the object has written so far is durable and this node has been
// found to be its owner since, as after Confirm; what the event has written before is a segment of
// its own. When that fails fn does not run. It never has the turn, so it must not use the object,
// neither its storage nor what the class keeps in memory. It may call other objects, and this one, by
// its stubs, with its context. Nobody is told when it fails: its error is logged. A panic resets the
// object, as a handler's does.
//
// Its context ends after 15 minutes, when the object is reset, and when it has another owner, which a
// planned move does not put off: what fn does is lost then, unless an alarm or the next call begins it
// again. It should return soon after its context ends; until then it counts.
//
// WaitUntil refuses with OVERLOADED when the object has 64 such functions. ctx is the handler's own,
// or made from it.
func (s *State) WaitUntil(ctx context.Context, fn func(ctx context.Context) error) error {
	i := s.o
	e, err := i.join(eventOf(ctx))
	if err != nil {
		return err
	}
	gate, err := i.leaving(eventOf(ctx), background)
	if err != nil {
		i.retire(e)
		return err
	}
	i.shard.manager.wg.Go(func() { i.background(e, gate, fn) }) // The caller is one of the Manager's too.
	return nil
}

// join begins work that outlives the event.
func (i *incarnation) join(of *event) (*event, error) {
	call := &Call{
		Shard: i.shard.id, Object: i.ref, Class: i.class.Name, Method: background,
		Deadline: time.Now().Add(BackgroundTimeMax), Done: func(Result) {},
	}
	if of != nil {
		call.Span = of.call.Span
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	switch {
	case i.over != nil:
		return nil, i.over
	case of == nil, !i.m.going(of):
		return nil, ErrNoTurn
	}
	if !i.m.join(call.begun()) {
		return nil, fault.New(fault.Overloaded, "WaitUntil: an object has at most %d functions at a time", BackgroundMax)
	}
	i.shard.manager.queued.Add(call.bytes())
	return call.begun(), nil
}

// background runs fn when the gate is open.
func (i *incarnation) background(e *event, gate <-chan error, fn func(ctx context.Context) error) {
	defer i.retire(e)
	defer func() {
		if p := recover(); p != nil {
			i.panicked(e, p)
		}
	}()
	e.span = e.call.Span.Child(trace.SpanKindInternal, background)
	ctx := newEventContext(i.shard.manager.ctx, e.call)
	defer ctx.close()
	err := i.pass(ctx, gate)
	if err == nil {
		err = fn(ctx)
	}
	e.span.End(err)
	if err != nil {
		i.state.Logger().Warn("a function of WaitUntil failed", slog.Any("error", err))
	}
}

// retire ends work that outlived its event.
func (i *incarnation) retire(e *event) {
	i.mu.Lock()
	if e.over {
		i.m.returned()
	} else {
		i.m.retire(e)
		i.lastUsed = i.shard.manager.now()
	}
	i.unlock()
}
