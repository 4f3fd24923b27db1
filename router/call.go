package router

import (
	"context"
	"sync"
	"time"
	"unicode/utf8"

	"google.golang.org/grpc/status"

	"github.com/holdfast-io/holdfast/fault"
	"github.com/holdfast-io/holdfast/peer/frame"
	"github.com/holdfast-io/holdfast/placement"
	"github.com/holdfast-io/holdfast/storage"
	"github.com/holdfast-io/holdfast/tracing"
)

// call is one call on its way.
type call struct {
	r    *Router
	req  *frame.Request
	span *tracing.Span // nil: it is not traced
	// Set by locate, and then never changed.
	class ClassFacts
	state *classState
	ref   storage.ObjectRef
	shard placement.ShardID

	until time.Time     // when the call is late
	wait  time.Duration // before the next try; of who tries
	full  time.Time     // when it was first refused for want of room; of who tries
	links links         // of the registry

	mu       sync.Mutex
	reply    func(frame.Response) // nil once answered
	located  bool
	at       place
	try      uint        // counts the tries
	to       belief      // sent to, while away
	cancel   func(error) // of the try under way
	canceled error
	// doubt is how a try ended of which it is not known whether it ran. Whatever becomes of later ones,
	// the caller must not be told that the call did not run.
	doubt error
	// superseded is when the owner that it was sent to was found to be one of the past.
	superseded time.Time
}

// place is where a call is.
type place uint8

const (
	nowhere place = iota // it waits for something here; unless a try has ended in doubt it has not run
	here                 // with the objects of this node
	away                 // sent to another node
)

// locate finds the object that the call names. Whoever shares the call already holds its lock.
func (c *call) locate(class ClassFacts) error {
	req := c.req
	if req.Class == "" {
		_, req.Method, _ = splitMethod(req.Method)
	}
	req.Class = class.Name // In full, whatever it was called by.
	if len(req.Name) > frame.NameBytesMax {
		return fault.New(fault.InvalidArgument, "name: at most %d bytes, has %d", frame.NameBytesMax, len(req.Name))
	}
	if !utf8.ValidString(req.Name) { // It could be stored, but not read back.
		return fault.New(fault.InvalidArgument, "name %.64q: must be UTF-8", req.Name)
	}
	c.state = c.r.classOf(class.UniqueKey)
	ns := c.state.namespace
	id := req.ID
	if req.Named {
		id = ns.IDFromName(req.Name)
	} else if err := ns.Check(id); err != nil {
		return fault.New(fault.InvalidID, "id %s: %v, that of class %s", id, err, class.Name)
	}
	c.class, c.ref = class, storage.ObjectRef{Class: class.UniqueKey, ID: id}
	c.shard = placement.ShardOf(id, c.r.cfg.Shards)
	c.located = true
	c.traceLocated()
	return nil
}

// begin notes that a try begins, and returns its number, or 0 when the call is over: whoever was told
// that it did not run must be right. One that was canceled before ends instead: its caller may have
// made another since, which it must not run behind.
func (c *call) begin(at place, to belief, cancel func(error)) (try uint) {
	c.mu.Lock()
	if c.reply == nil {
		c.mu.Unlock()
		return 0
	}
	if canceled := c.canceled; canceled != nil {
		c.mu.Unlock()
		c.fail(status.FromContextError(canceled).Err())
		return 0
	}
	c.try++
	c.at, c.to, c.cancel, c.superseded = at, to, cancel, time.Time{}
	try = c.try
	c.mu.Unlock()
	return try
}

// began notes how a try is to be canceled, if it still is under way.
func (c *call) began(try uint, cancel func(error)) {
	c.mu.Lock()
	current := c.try == try && c.at != nowhere && c.reply != nil
	if current {
		c.cancel = cancel
	}
	canceled := c.canceled
	c.mu.Unlock()
	if current && canceled != nil {
		cancel(canceled)
	}
}

// rest notes that no try is under way, and says whether there is still somebody to try for.
func (c *call) rest() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at, c.to, c.cancel, c.superseded = nowhere, belief{}, nil, time.Time{}
	return c.reply != nil
}

// supersede notes that the owner that the call was sent to is one of an earlier term.
func (c *call) supersede(shard placement.ShardID, term uint64, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.to.term != 0 && c.shard == shard && c.to.term < term && c.superseded.IsZero() {
		c.superseded = now
	}
}

// supersededTry returns the try under way if its owner has had the time to answer, else 0.
func (c *call) supersededTry(now time.Time) (try uint) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.superseded.IsZero() && now.Sub(c.superseded) > supersededGrace {
		return c.try
	}
	return 0
}

// ended notes that a try has ended with an error, and says whether the call is to be tried again. It is
// current unless another was begun, or is about to be, because this one's answer was given up.
func (c *call) ended(try uint, err error) (again, current bool) {
	reason := fault.ReasonOf(err)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.try != try || c.at == nowhere {
		return false, false
	}
	switch {
	case mayTryAgain(err):
		return true, true
	case reason == fault.OutcomeUnknown && c.req.RequestID != "":
		c.doubt = err
		return true, true
	case reason == fault.Overloaded: // Said of this try alone.
		return c.doubt != nil, true
	}
	return false, true
}

// giveUp answers a call that is not tried again, with why the last try did not run.
func (c *call) giveUp(err error) {
	c.mu.Lock()
	if c.doubt != nil {
		err = c.doubt
	}
	c.mu.Unlock()
	c.fail(err)
}

func (c *call) gone() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.reply == nil
}

// stop is given to the caller: nobody waits any more.
func (c *call) stop(cause error) {
	if cause == nil {
		cause = context.Canceled
	}
	c.mu.Lock()
	if c.canceled == nil {
		c.canceled = cause
	}
	cancel := c.cancel
	c.mu.Unlock()
	if cancel != nil {
		cancel(cause)
	}
}

// end answers the call here and now, whatever becomes of it elsewhere: why is told where it is.
func (c *call) end(cause error, why func(at place) error) {
	c.mu.Lock()
	reply, at, cancel, located := c.reply, c.at, c.cancel, c.located
	if at == nowhere && c.doubt != nil {
		at = away // So it was, and may have run there.
	}
	c.reply = nil
	if c.canceled == nil {
		c.canceled = cause
	}
	c.mu.Unlock()
	if reply == nil {
		return
	}
	if cancel != nil {
		cancel(cause)
	}
	c.respond(reply, located, frame.ErrorResponse(why(at)))
}

func (c *call) fail(err error) { c.answer(frame.ErrorResponse(err)) }

// answer answers the caller, once.
func (c *call) answer(resp frame.Response) {
	c.mu.Lock()
	reply, located := c.reply, c.located
	c.reply = nil
	c.mu.Unlock()
	if reply != nil {
		c.respond(reply, located, resp)
	}
}

// respond is of whoever took the reply: it adds a hint of who owns the object.
func (c *call) respond(reply func(frame.Response), located bool, resp frame.Response) {
	c.r.flying.remove(c)
	c.r.leave(len(c.req.Body))
	if located {
		if to, ok := c.r.owner(c.shard); ok && to.term != 0 {
			resp.Owner = frame.OwnerHint{
				Node: to.node, Addr: c.r.cfg.Addr(to.node), Shard: c.shard, Shards: uint32(c.r.cfg.Shards), Term: to.term, //nolint:gosec // below MaxShards
			}
		}
	}
	c.countError(located, &resp)
	if c.span != nil {
		c.span.End(resp.Err())
	}
	resp.Revision = c.r.cfg.Facts.Revision()
	reply(resp)
}
