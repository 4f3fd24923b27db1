package router

import (
	"time"

	"github.com/holdfast-io/holdfast/fault"
	"github.com/holdfast-io/holdfast/peer/frame"
)

// A streamed call is routed, tried again and ended as any other until the object has taken it
// (frame.Pipe.Begin): nothing of it has run before. From then on it stays where it is for as long as
// its caller, the object and the owner want, and whatever takes it away from its owner ends it with
// OWNER_CHANGED.

// begun says that the call is a stream that an object has taken.
func (c *call) begun() bool { return c.req.Pipe != nil && c.req.Pipe.Begun() }

// late says that the call's time is over: by its deadline, or, for a stream that has none and that no
// object has taken, by the time for that.
func (c *call) late(now time.Time) bool {
	if now.Before(c.until) {
		return false
	}
	return !c.req.Deadline.IsZero() || !c.begun()
}

func errStreamMoved(why string) error {
	return fault.New(fault.OwnerChanged, "the stream ended: %s; open it again, what it wrote before may or may not have taken effect", why)
}

// localPipe is a pipe as the objects of this node see it.
type localPipe struct{ *frame.Pipe }

// Take implements actor.Pipe.
func (p localPipe) Take() (msg []byte, ok, over bool) { return p.Up.Take() }

// OnReadable implements actor.Pipe.
func (p localPipe) OnReadable(fn func()) { p.Up.OnReadable(fn) }

// Push implements actor.Pipe.
func (p localPipe) Push(msg []byte) bool { return p.Down.Push(msg) }

// OnTaken implements actor.Pipe.
func (p localPipe) OnTaken(fn func(bytes int)) { p.Down.OnTaken(fn) }

// Waiting implements actor.Pipe.
func (p localPipe) Waiting() (messages, bytes int) { return p.Down.Waiting() }

// Discard implements actor.Pipe.
func (p localPipe) Discard() { p.Down.Discard() }
