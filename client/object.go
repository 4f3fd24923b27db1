package client

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/holdfast-io/holdfast/fault"
	"github.com/holdfast-io/holdfast/peer/frame"
	"github.com/holdfast-io/holdfast/placement"
	"github.com/holdfast-io/holdfast/tracing"
)

// Object is a stub: what calls one object. It is safe for concurrent use, and needs no closing.
//
// Calls are sent at once, one behind the other, to one node at a time: when the way to the object
// changes, or a call was refused that can be made again, the stub waits for the answers to what it
// has sent, and goes on with the rest in their order. A call whose caller waits for the answer
// (Invoke, CallJSON) has nothing behind it that could depend on the order, and is made again
// whatever has run meanwhile; one made with Send is not, once a later one has run.
type Object struct {
	c     *Client
	class string
	name  string
	named bool
	id    placement.ObjectID
	// existing says that the object must exist.
	existing bool

	sending sync.Mutex // held while calls are sent, so that they leave in order; taken before mu

	mu       sync.Mutex
	shard    int // -1: not known
	made     uint64
	sent     uint64 // the latest call sent
	unwaited int    // calls of Send without an answer
	flying   int    // calls sent and not answered
	via      *conn  // where they went
	line     []*Pending
	wait     time.Duration // before the line is tried again; 0: nothing was refused
	ran      uint64        // the latest call that may have run
	poisoned uint64        // calls up to this one are not made again
}

// Pending is a call under way. Wait for it, once.
type Pending struct {
	o        *Object
	ctx      context.Context //nolint:containedctx // the caller's, for this one call
	number   uint64
	unwaited bool // made by Send
	req      frame.Request
	span     *tracing.Span // nil: it is not traced
	answered chan frame.Response
	// The rest is guarded by Object.mu.
	cancel    func(error)
	abandoned bool
	last      error // what it was refused with
	doubt     bool  // it may have run, whatever it was refused with last
}

// Existing returns a stub of the same object whose calls fail with UNKNOWN_OBJECT when the object does
// not exist, that is, has neither data nor an alarm. Nothing of it runs then, and it does not come to
// be. The two stubs keep no order between each other.
func (o *Object) Existing() *Object {
	return &Object{c: o.c, class: o.class, name: o.name, named: o.named, id: o.id, existing: true, shard: -1}
}

// channels are reused: every call needs one for its answer.
var channels = sync.Pool{New: func() any { return make(chan frame.Response, 1) }}

// Invoke implements grpc.ClientConnInterface: it calls a unary method, given as
// "/package.Service/Method". Call options are ignored.
func (o *Object) Invoke(ctx context.Context, method string, args, reply any, _ ...grpc.CallOption) error {
	in, ok := args.(proto.Message)
	if !ok {
		return status.Errorf(codes.Internal, "arguments of type %T: not a protobuf message", args)
	}
	out, ok := reply.(proto.Message)
	if !ok {
		return status.Errorf(codes.Internal, "a reply of type %T: not a protobuf message", reply)
	}
	body, err := proto.Marshal(in)
	if err != nil {
		return status.Errorf(codes.Internal, "encode the arguments of %s: %v", method, err)
	}
	return o.send(ctx, &Pending{req: frame.Request{Method: method, Body: body}}).Wait(out)
}

// Send calls a method, given as "/package.Service/Method" or bare, and does not wait for the
// answer. Calls reach the object in the order of Send.
func (o *Object) Send(ctx context.Context, method string, args proto.Message) (*Pending, error) {
	body, err := proto.Marshal(args)
	if err != nil {
		return nil, status.Errorf(codes.Internal, "encode the arguments of %s: %v", method, err)
	}
	return o.send(ctx, &Pending{unwaited: true, req: frame.Request{Method: method, Body: body}}), nil
}

// CallJSON calls a method by its bare name with arguments that encoding/json encodes (a
// json.RawMessage is sent as it is, nil as no arguments), and returns the reply as JSON.
func (o *Object) CallJSON(ctx context.Context, method string, args any) (json.RawMessage, error) {
	var body []byte
	if args != nil {
		var err error
		if body, err = json.Marshal(args); err != nil {
			return nil, status.Errorf(codes.InvalidArgument, "encode the arguments of %s: %v", method, err)
		}
	}
	return o.send(ctx, &Pending{req: frame.Request{Method: method, Body: body, JSON: true}}).wait()
}

// Wait waits for the answer, decodes it into reply, and ends the Pending. When the caller's context
// ends first the object is told, and may or may not have run the call.
func (p *Pending) Wait(reply proto.Message) error {
	body, err := p.wait()
	if err != nil {
		return err
	}
	if err := proto.Unmarshal(body, reply); err != nil {
		return status.Errorf(codes.Internal, "decode the reply: %v", err)
	}
	return nil
}

func (p *Pending) wait() ([]byte, error) {
	select {
	case resp := <-p.answered:
		channels.Put(p.answered)
		return resp.Body, resp.Err()
	case <-p.ctx.Done():
		p.abandon()
		err := status.FromContextError(p.ctx.Err()).Err()
		p.span.End(err)
		return nil, err
	}
}

// tell gives the answer to who waits for it.
func (p *Pending) tell(resp frame.Response) {
	if p.span != nil {
		p.span.End(resp.Err())
	}
	p.answered <- resp
}

// abandon says that nobody waits any more.
func (p *Pending) abandon() {
	o := p.o
	o.mu.Lock()
	p.abandoned = true
	cancel := p.cancel
	if i := slices.Index(o.line, p); i >= 0 {
		o.line = slices.Delete(o.line, i, i+1)
		o.endedLocked(p)
	}
	o.mu.Unlock()
	if cancel != nil {
		cancel(context.Canceled)
	}
}

// endedLocked notes that a call has its answer, or that nobody waits for one.
func (o *Object) endedLocked(p *Pending) {
	if p.unwaited {
		o.unwaited--
	}
}

// send makes the call that p.req begins to describe.
func (o *Object) send(ctx context.Context, p *Pending) *Pending {
	p.o, p.ctx = o, ctx
	p.answered = channels.Get().(chan frame.Response) //nolint:forcetypeassert // nothing else is in it
	p.req.Class, p.req.Method = o.class, frame.BareMethod(p.req.Method)
	p.req.Name, p.req.Named, p.req.ID, p.req.Existing = o.name, o.named, o.id, o.existing
	var err error
	var ids []string
	p.req.Metadata, ids = outgoing(ctx)
	if t := o.c.tracer; t != nil {
		p.span, p.req.Metadata = t.Send(ctx, p.req.Metadata, o.class+"/"+p.req.Method)
	}
	if p.req.RequestID, err = o.c.requestID(ids); err != nil {
		p.tell(frame.ErrorResponse(err))
		return p
	}
	var ok bool
	if p.req.Deadline, ok = ctx.Deadline(); !ok {
		p.req.Deadline = time.Now().Add(DefaultTimeout)
	}
	o.sending.Lock()
	defer o.sending.Unlock()
	o.mu.Lock()
	o.made++
	p.number = o.made
	if p.unwaited {
		o.unwaited++
	}
	p.req.Ordered = o.unwaited > 0 // Else the nodes may make it again, which is quicker.
	via := o.c.route(o.shardLocked())
	switch {
	case len(o.line) >= CallsMax:
		o.endedLocked(p)
		o.mu.Unlock()
		p.tell(frame.ErrorResponse(fault.New(fault.Overloaded, "too many calls of one object wait to be sent: at most %d", CallsMax)))
		return p
	case len(o.line) > 0, via == nil, o.flying > 0 && via != o.via:
		o.line = append(o.line, p)
		idle := o.flying == 0
		o.mu.Unlock()
		if idle {
			o.later(time.Now().Add(retryMax)) // Or as soon as there is a connection.
		}
		return p
	}
	o.via = via
	o.flying++
	o.sent = p.number
	o.mu.Unlock()
	o.fly(p, via)
	return p
}

// fly sends a call. The caller holds sending and has counted the call as flying.
func (o *Object) fly(p *Pending, via *conn) {
	m := via.mux.Load()
	if m == nil {
		o.answer(p, frame.ErrorResponse(&frame.LostError{Cause: errGone}))
		return
	}
	cancel := m.Call(&p.req, func(r frame.Response) { o.answer(p, r) })
	if p.ctx.Done() == nil {
		return // It can't be abandoned.
	}
	o.mu.Lock()
	p.cancel = cancel
	abandoned := p.abandoned
	o.mu.Unlock()
	if abandoned {
		cancel(context.Canceled)
	}
}

// later makes the line go on at a time, or end when the client is closed.
func (o *Object) later(at time.Time) {
	if o.c.later(o, at) {
		return
	}
	o.mu.Lock()
	line := o.line
	o.line = nil
	for _, p := range line {
		o.endedLocked(p)
	}
	o.mu.Unlock()
	for _, p := range line {
		p.refuse()
	}
}

var errGone = status.Error(codes.Unavailable, "the connection ended")

// answer takes the answer to a call that was sent.
func (o *Object) answer(p *Pending, resp frame.Response) {
	o.c.learn(&resp.Owner)
	err := resp.Err()
	reason := fault.ReasonOf(err)
	again := false
	o.mu.Lock()
	o.flying--
	p.cancel = nil
	if resp.Owner.Shards != 0 {
		o.shard = int(resp.Owner.Shard)
	}
	switch {
	case reason == fault.OutcomeUnknown:
		p.doubt, o.ran = true, max(o.ran, p.number)
		again = o.mayRepeatLocked(p, time.Now())
	case reason.Retryable(), reason == fault.Overloaded && p.doubt:
		again = o.mayRepeatLocked(p, time.Now())
	}
	switch {
	case again:
		if reason == fault.OutcomeUnknown || !p.doubt {
			p.last = err
		}
		p.span.Failed("retry", err)
		i, _ := slices.BinarySearchFunc(o.line, p, func(a, b *Pending) int { return cmp.Compare(a.number, b.number) })
		o.line = slices.Insert(o.line, i, p)
		o.wait = min(max(2*o.wait, retryMin), retryMax)
	case p.doubt && (reason.Retryable() || reason == fault.Overloaded || o.existing && reason == fault.UnknownObject):
		resp = frame.ErrorResponse(p.last)
		fallthrough
	case reason == fault.OutcomeUnknown, reason == fault.ObjectReset, reason == fault.Panic:
		o.ran = max(o.ran, p.number)
		if p.unwaited {
			o.poisoned = o.made
		}
	case reason.Retryable(), reason == fault.Overloaded: // It did not run.
	default:
		o.ran = max(o.ran, p.number)
		o.wait = 0
	}
	if !again {
		o.endedLocked(p)
	}
	pump, wait := o.flying == 0 && len(o.line) > 0, o.wait
	o.mu.Unlock()
	if !again {
		p.tell(resp)
	}
	if pump {
		at := time.Now()
		if wait > 0 {
			at = at.Add(wait/2 + rand.N(wait)) //nolint:gosec // jitter
		}
		o.later(at)
	}
}

// mayRepeatLocked says that a call may be sent again, or still: it did not run, or nothing was sent
// behind it that it could overtake by running later.
func (o *Object) mayRepeatLocked(p *Pending, now time.Time) bool {
	switch {
	case p.abandoned, now.After(p.req.Deadline), o.c.ctx.Err() != nil, p.number <= o.poisoned:
		return false
	}
	if p.doubt {
		return !p.unwaited || p.number == o.sent
	}
	return !p.unwaited || p.number > o.ran
}

// pump sends the calls in line, in order, when there is nothing under way and somewhere to send
// them. Those whose turn has passed get the error that they were refused with.
func (o *Object) pump() {
	o.sending.Lock()
	defer o.sending.Unlock()
	now := time.Now()
	var ready, failed []*Pending
	o.mu.Lock()
	if o.flying > 0 {
		o.mu.Unlock()
		return
	}
	o.line = slices.DeleteFunc(o.line, func(p *Pending) bool {
		may := o.mayRepeatLocked(p, now)
		if !may {
			failed = append(failed, p)
			o.endedLocked(p)
		}
		return !may
	})
	if o.via = o.c.route(o.shardLocked()); o.via != nil {
		ready, o.line = o.line, nil
		o.flying = len(ready)
		for _, p := range ready {
			o.sent = max(o.sent, p.number)
		}
	}
	via, waits := o.via, len(o.line) > 0
	o.mu.Unlock()
	for _, p := range failed {
		p.refuse()
	}
	for _, p := range ready {
		o.fly(p, via)
	}
	if waits {
		o.later(now.Add(retryMax))
	}
}

// refuse ends a call that is not made (again): unless it was in doubt it certainly did not run.
func (p *Pending) refuse() {
	err := p.last
	switch {
	case p.doubt: // The last was that.
	case p.o.c.ctx.Err() != nil:
		err = status.Error(codes.Canceled, errClosed.Error())
	case err == nil && time.Now().After(p.req.Deadline):
		err = fault.New(fault.NoOwner, "no node could be reached in time")
	case err == nil:
		err = fault.New(fault.NoOwner, "not sent: a call before it on the same stub failed with its outcome unknown")
	}
	p.tell(frame.ErrorResponse(err))
}

// shardLocked returns the object's shard: what an answer said, else a guess that holds unless the
// class was renamed.
func (o *Object) shardLocked() int {
	if o.shard >= 0 {
		return o.shard
	}
	table := o.c.owners.Load()
	if table == nil {
		return -1
	}
	id := o.id
	if o.named {
		id = placement.NewNamespace(o.class).IDFromName(o.name)
	}
	o.shard = int(placement.ShardOf(id, len(table.shards)))
	return o.shard
}

// outgoing returns the caller's metadata, and the request ids in it. What names the object is the stub's
// own business.
func outgoing(ctx context.Context) (md metadata.MD, ids []string) {
	md, _ = metadata.FromOutgoingContext(ctx) // A copy of our own.
	ids = md.Get(keyRequestID)
	return frame.WithoutReserved(md), ids
}

// String names the object for people.
func (o *Object) String() string {
	if o.named {
		return fmt.Sprintf("%s %q", o.class, o.name)
	}
	return fmt.Sprintf("%s %s", o.class, o.id)
}
