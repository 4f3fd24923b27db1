package actor

import (
	"context"

	"github.com/holdfast-io/holdfast/fault"
)

// Depart has fn told when everything that the object has written is durable, and this node has been found
// to be its owner since: then something may leave the object. What the event has written so far becomes a
// segment of its own. The error that fn gets says that nothing may leave, and why. Those who depart are told
// in the order in which they do.
//
// ctx is the handler's own, or made from it, and the handler has the turn. fn is called exactly once unless
// Depart returns an error, from any goroutine, possibly before Depart returns, and must not block. It is
// refused inside a transaction.
func (s *State) Depart(ctx context.Context, fn func(error)) error {
	return s.o.depart(eventOf(ctx), fn)
}

// EndSegment makes what the event has written so far a segment of its own, as giving up the turn does, and
// keeps the turn: for a class whose code goes on elsewhere between two of its steps. Inside a transaction
// it does nothing.
func (s *State) EndSegment(ctx context.Context) error {
	i, e := s.o, eventOf(ctx)
	i.mu.Lock()
	err := i.holds(e)
	i.mu.Unlock()
	if err != nil {
		return err
	}
	return i.part(e)
}

// ResetWith is Reset with a fault of the class's own, of reason OBJECT_RESET, which is what every caller that
// waits gets.
func (s *State) ResetWith(err *fault.Error) { s.o.reset(nil, err) }

// errFailed is why the object is reset in which what asks for it has failed. A class's own fault is told as
// it is.
func errFailed(what string, err error) *fault.Error {
	if own, ok := err.(*fault.Error); ok && own.Reason == fault.ObjectReset { //nolint:errorlint // one that is wrapped is not the class's own
		return own
	}
	return fault.New(fault.ObjectReset, "the object was reset because %s failed: %v", what, err)
}
