package actor

import (
	"log/slog"

	"github.com/holdfast-io/holdfast/placement"
)

// State is what an object has of Holdfast: its identity and its storage. The class's constructor
// gets it. Its methods may be used while an event of the object runs.
type State struct {
	o *incarnation
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
