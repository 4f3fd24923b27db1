package actor

import (
	"context"
	"log/slog"

	"github.com/holdfast-io/holdfast/fault"
	"github.com/holdfast-io/holdfast/placement"
)

// State is what an object has of Holdfast: its identity and its storage. The class's constructor
// gets it. Its methods may be used while an event of the object runs.
type State struct {
	o *object
	// name is nil for an object that was only ever called by id.
	name    *string
	storage Storage
}

// ID returns the object's id.
func (s *State) ID() placement.ObjectID { return s.o.ref.ID }

// Name returns the object's name, and whether it has one: an object that was only ever called by
// its id does not know it.
func (s *State) Name() (string, bool) {
	if s.name == nil {
		return "", false
	}
	return *s.name, true
}

// Class returns the name of the object's class.
func (s *State) Class() string { return s.o.class.Name }

// Storage returns the object's durable storage.
func (s *State) Storage() *Storage { return &s.storage }

// Logger returns a logger that names the object.
func (s *State) Logger() *slog.Logger {
	return s.o.shard.manager.logger.With(slog.String("class", s.o.class.Name), slog.String("object", s.o.ref.ID.String()))
}

// abortError unwinds a handler that called Abort.
type abortError struct{ reason string }

// Abort resets the object at once and does not return: what the event wrote is discarded, the
// callers that wait get OBJECT_RESET with the reason, and the next call finds the object as the
// last committed event left it.
func (s *State) Abort(reason string) {
	if reason == "" {
		reason = "the object aborted itself"
	}
	panic(abortError{reason})
}

// Confirm waits until everything that the object has written is durable, and this node has been
// found to be its owner since. Call it before an effect that does not pass through Holdfast, such
// as an HTTP request. What was written before it is a segment of its own: it stays when the
// handler fails afterwards.
func (s *State) Confirm(ctx context.Context) error {
	done := make(chan error, 1)
	if err := s.o.barrier(func(err error) { done <- err }); err != nil {
		return err
	}
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return fault.New(fault.ObjectTimeout, "the call ended while its writes were being committed: %v", context.Cause(ctx))
	}
}
