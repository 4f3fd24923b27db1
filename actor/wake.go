package actor

import (
	"context"
	"log/slog"
	"time"

	"github.com/holdfast-io/holdfast/fault"
)

// Woken is what the instance of a class may implement to be told of a Wake that no handler takes: as an
// event of its own, with the turn, before events that have not begun. There is one at a time, which may
// Wait itself, and so keep the object in memory for as long as it wants to be woken. Its context ends
// with the incarnation. Its error is logged, and a panic resets the object.
type Woken interface {
	Woken(ctx context.Context) error
}

// woken is the name of the event, where a method's would be.
const woken = "Woken"

// Wake says that something has happened outside of the object for which one of its handlers is to have the
// turn: the conditions of those in a Wait are asked again, and the first that holds takes the Wake, as
// does one that has been found to hold since. When none does, and the instance is a Woken, it is told.
// So what Wake was called for has been seen to by whoever takes it; several calls may be taken at once.
//
// Wake may be called from any goroutine, with the turn or without, and does not block. It does nothing
// when the incarnation has ended.
func (s *State) Wake() {
	i := s.o
	i.mu.Lock()
	if i.over != nil {
		i.mu.Unlock()
		return
	}
	i.wakes++
	i.woken = true
	if e := i.sleeper(); e != nil {
		e.wait.poked = true
		i.awake(e)
	}
	i.unlock()
}

// sleeper returns an event in a Wait that can have the turn, to ask its own condition and then those of the
// others. The caller holds the lock.
func (i *incarnation) sleeper() *event {
	for _, e := range i.waits {
		if e.wait.paused && !e.over && (i.m.critical == nil || i.m.critical == e) {
			return e
		}
	}
	return nil
}

// takeWake notes that the condition of a handler holds, which was asked after so many wakes: it takes those.
func (i *incarnation) takeWake(wakes uint64) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.over == nil && i.wakes == wakes {
		i.woken = false
	}
}

// wakeable says that the object is to be told now of a Wake. When nobody wants to know, it will not. The
// caller holds the lock.
func (o *object) wakeable() bool {
	if !o.woken || o.m.running != nil {
		return false
	}
	o.woken = o.m.alive && o.now != nil && o.now.hears
	return o.woken && o.waker == nil && o.m.critical == nil && len(o.m.resuming) == 0
}

// waking is the event that tells the object.
func (o *object) waking() *event {
	o.woken = false
	call := &Call{Shard: o.shard.id, Object: o.ref, Class: o.class.Name, Method: woken, woken: true, Done: func(Result) {}}
	o.shard.manager.queued.Add(call.bytes())
	o.waker = o.m.interject(call)
	return o.waker
}

// wake runs the instance's Woken.
func (i *incarnation) wake(ctx context.Context, e *event) {
	if told, ok := i.impl.(Woken); ok {
		if err := told.Woken(ctx); err != nil {
			i.state.Logger().Warn("Woken failed", slog.Any("error", err))
		}
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.waker == e {
		i.waker = nil
	}
}

// Block begins what BlockConcurrency does with a function, for a class whose code goes on elsewhere
// meanwhile: no other event of the object runs until end is called, in the turn of the event that ctx is
// of, once. failed is why what was to be done has failed, and resets the object, which end returns. So
// does what takes more than 30 s, and a handler that returns without having called end. Sections may be
// nested, with those of BlockConcurrency too, at most 64 deep.
func (s *State) Block(ctx context.Context) (end func(failed error) error, err error) {
	i, e := s.o, eventOf(ctx)
	outermost, err := i.enter(e)
	if err != nil {
		return nil, err
	}
	stop := func() {}
	if outermost {
		ctx, cancel := context.WithCancel(i.context())
		i.shard.manager.wg.Go(func() {
			t := time.NewTimer(BlockTimeMax)
			defer t.Stop()
			select {
			case <-ctx.Done():
			case <-t.C:
				i.reset(e, errTooLong(fault.LimitBlock, BlockTimeMax))
			}
		})
		stop = cancel
	}
	return func(failed error) error {
		i.mu.Lock()
		err := i.holds(e)
		i.mu.Unlock()
		if err != nil {
			return err
		}
		stop()
		if failed != nil {
			i.reset(e, errFailed("Block", failed))
		}
		return i.exit(e, failed == nil)
	}, nil
}
