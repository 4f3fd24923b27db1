package node

import (
	"context"
	"log/slog"
	"net/http"

	"github.com/holdfast-io/holdfast/actor"
	"github.com/holdfast-io/holdfast/placement"
	"github.com/holdfast-io/holdfast/worker/bundle"
)

// Loader makes workers run. A node has one of whoever starts it; one without runs no workers, and owns
// nothing in a cluster that has some.
type Loader interface {
	// Load makes what a deployment runs, until Worker.Close. It is also called to see whether a bundle can be
	// loaded at all. ctx ends when the node does. An error says why the bundle can't be loaded here, and is
	// shown to whoever deployed it. It may be called by several goroutines at once.
	Load(ctx context.Context, d Deployment) (*Worker, error)
}

// Deployment is what a Loader is to load.
type Deployment struct {
	Bundle *bundle.Bundle
	// Number is that of the deployment; 0: it is only to be seen whether it can be loaded.
	Number uint64
	// Objects is how what the worker runs calls objects, where it is none itself.
	Objects Objects
	// Log takes what the worker logs, for those who follow it. It is called by any goroutine, and does not block.
	Log    func(LogEntry)
	Logger *slog.Logger
}

// Worker is a deployment that was loaded.
type Worker struct {
	// Classes are dynamic classes, one for each of the bundle's, named WORKER/CLASS.
	Classes []actor.Class
	// Handler answers the worker's HTTP requests; nil: it has no fetch handler.
	Handler http.Handler
	// Close is called once when nothing runs the worker any more, in a goroutine of its own; nil: nothing is
	// to be done.
	Close func()
}

// Objects calls objects for who is none.
type Objects interface {
	actor.Caller
	// Namespace returns the namespace of a class; false when this node knows no such class.
	Namespace(class string) (placement.Namespace, bool)
}
