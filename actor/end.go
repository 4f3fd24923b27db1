package actor

import (
	"context"
	"errors"
	"log/slog"

	"github.com/holdfast-io/holdfast/fault"
)

// errEvicted is why the incarnation of an object ends that is not in use.
var errEvicted = errors.New("the object was evicted from memory")

// ending is what is to be told of an incarnation's end.
type ending struct {
	i      *incarnation
	cancel context.CancelCauseFunc
	fns    []func()
	calls  []*sentCall
	why    error
}

// Context returns a context that ends with the incarnation: when the object is evicted, is reset, or has
// another owner. Its cause is why.
func (s *State) Context() context.Context { return s.o.context() }

func (i *incarnation) context() context.Context {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.ctx == nil {
		i.ctx, i.cancel = context.WithCancelCause(i.shard.manager.ctx)
		if i.over != nil {
			i.cancel(i.over)
		}
	}
	return i.ctx
}

// OnEnd has fn called when the incarnation ends, once, in a goroutine of its own: for a class to let go of
// what it has elsewhere. The instance is fn's alone meanwhile. Handlers that have not returned, because
// they wait for something, run on afterwards, in vain: what they call of Holdfast returns an error. fn is
// called at once if the incarnation has ended.
func (s *State) OnEnd(fn func()) {
	i := s.o
	i.mu.Lock()
	over := i.over != nil
	if !over {
		i.onEnd = append(i.onEnd, fn)
	}
	i.mu.Unlock()
	if over {
		i.runEnd([]func(){fn})
	}
}

// finished ends the incarnation, by why, and returns what is to be told without the lock, which the caller
// holds.
func (i *incarnation) finished(why error) ending {
	end := ending{i: i, cancel: i.cancel, fns: i.onEnd, why: why}
	for _, c := range i.calls {
		end.calls = append(end.calls, c)
	}
	i.over, i.onEnd, i.calls = why, nil, nil
	return end
}

// tell tells of the end. The caller holds no lock.
func (e *ending) tell() {
	if e.i == nil {
		return
	}
	if e.cancel != nil {
		e.cancel(e.why)
	}
	for _, c := range e.calls {
		c.stop(e.why)
	}
	if len(e.fns) == 0 {
		e.i.edition.release()
	} else {
		e.i.runEnd(append(e.fns, e.i.edition.release))
	}
}

func (i *incarnation) runEnd(fns []func()) {
	i.shard.manager.wg.Go(func() {
		i.code.Lock()
		defer i.code.Unlock()
		for _, fn := range fns {
			fn()
		}
	})
}

// Reset is Abort for who can't be unwound: it returns, and may be called from any goroutine. What a handler
// calls of Holdfast afterwards returns an error. When the handler of an alarm runs it is tried again,
// as after Abort.
func (s *State) Reset(reason string) {
	if reason == "" {
		reason = defaultAbortReason
	}
	s.o.reset(nil, fault.New(fault.ObjectReset, "the object was reset: %s", reason))
}

// AbandonAlarm gives up the alarm whose handler has the turn: the reset that follows does not have it tried
// again. Without such a handler it does nothing.
func (s *State) AbandonAlarm() {
	// What becomes of the alarm is a segment of its own; if it can't be written, the alarm is tried again.
	if err := s.o.abandonAlarm(); err != nil {
		s.Logger().Warn("alarm is not given up", slog.Any("error", err))
	}
}
