package web

import (
	"context"
	"time"

	"github.com/holdfast-io/holdfast/worker/quickjs"
	"github.com/holdfast-io/holdfast/worker/web/outbound"
)

// Host is what the platform needs of who runs the engine. Its methods are called in an entry of the engine, while
// JavaScript of some object runs, and must not block; all but Fetch, see there. In which object's event
// something runs is the host's to know: it knows which object's event it is in when Begin or StartTimer is
// called.
type Host interface {
	// Begin is called when JavaScript starts something that ends later: a fetch, a read, a write. An error refuses
	// it, and is thrown in JavaScript.
	Begin() (Op, error)
	// BeginFetch is Begin of what Fetch follows on.
	BeginFetch() (Op, error)
	// Fetch makes a request of JavaScript's: outbound.Client.Do, behind the gates that the object of op has. It is
	// called on a goroutine of the platform's, may block, and must return soon after ctx is done.
	Fetch(ctx context.Context, op Op, r *outbound.Request) (*outbound.Response, error)
	// StartTimer has Platform.FireTimer(id) called once after d, in an event of the object whose event this is. An
	// error refuses the timer, and is thrown in JavaScript. Numbers are not used twice.
	StartTimer(id int64, d time.Duration) error
	// StopTimer takes a timer back. It may have been fired already.
	StopTimer(id int64)
	// Log takes what console prints: one call, one text, of bounded length, which may have several lines.
	Log(level Level, text string)
	// Now is the time that JavaScript sees in performance.now.
	Now() time.Time
	// Clone makes a structured clone of a value.
	Clone(v quickjs.Value) (quickjs.Value, error)
	// Random fills p with random bytes that are fit for keys.
	Random(p []byte)
}

// Op is an operation under way.
type Op interface {
	// Settle is called once, on any goroutine, when the operation has ended. The host has run called in an
	// entry of the engine, in an event of the object that began the operation, and then lets JavaScript go on as after any
	// call (pending jobs). It may drop run when that object or the engine is gone.
	// It must not wait for the platform to be closed, which waits for it.
	// An error of run is the engine's (its time, its memory, a fault), and no fault of the operation.
	Settle(run func() error)
}

// Level is how a text was printed.
type Level int

// The levels of console.
const (
	Debug Level = iota // console.debug
	Log                // console.log
	Info               // console.info
	Warn               // console.warn
	Error              // console.error, and errors that nobody caught
)
