package actor

import (
	"context"
	"math/rand/v2"
	"sync"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/holdfast-io/holdfast/fault"
	"github.com/holdfast-io/holdfast/storage/value"
)

// SentMax is how many calls of Stub.Send an object may have under way. Over it: OVERLOADED.
const SentMax = 1024

// Call calls a method by its bare name with JSON-like arguments: what storage/value encodes, maps, slices,
// text, bytes, numbers, and nil among it. A dynamic class gets them as they are; a method of a gRPC service
// takes one, which is to it what the same JSON is, or the protobuf message itself. into points to what the
// reply is decoded to, also JSON-like; nil: it is not looked at. In all else Call is as Invoke.
func (s *Stub) Call(ctx context.Context, method string, into any, args ...any) error {
	if err := checkClass(s.class); err != nil {
		return err
	}
	body, err := value.EncodeArguments(args...)
	if err != nil {
		return status.Errorf(codes.InvalidArgument, "arguments of %s: %v", method, err)
	}
	result := s.call(ctx, method, body, true)
	if result.Err != nil || into == nil {
		return result.Err
	}
	if err := value.Decode(result.Body, into); err != nil {
		return status.Errorf(codes.Internal, "decode the reply of %s: %v", method, err)
	}
	return nil
}

// Send makes a call as Call does, and does not wait for its answer: the handler goes on, and may give up
// its turn or return meanwhile. args is a CBOR array of arguments, and the reply is one CBOR item. The
// call leaves when everything that the object has written is durable, and this node has been found to be
// its owner since. Calls of one stub leave in the order in which they are made, and reach the other object
// in it unless that changes its owner meanwhile.
//
// ctx is the handler's own, or made from it, and ends the call only by its deadline: a little before it,
// after 30 s when it has none. cancel says that nobody waits for the answer any more, and so does the end
// of the incarnation. done is called exactly once, from any goroutine, possibly before Send returns, and
// must not block. A Wake has the object look at what it was told.
//
// Whoever waits for the answer without its turn is not found to be in a cycle, except in a section of
// BlockConcurrency or Block.
func (s *Stub) Send(ctx context.Context, method string, args []byte, done func(Result)) (cancel func(cause error)) {
	c := &sentCall{i: s.i, done: done}
	if err := checkClass(s.class); err != nil {
		done(Result{Err: err})
		return func(error) {}
	}
	e := eventOf(ctx)
	chain, err := s.i.send(e, c, len(args))
	if err == nil && len(chain) >= ChainMax {
		err = errLongChain(chain, s.String())
	}
	if err != nil {
		c.answer(Result{Err: err})
		return func(error) {}
	}
	out := &Outgoing{
		Class: s.class, Name: s.name, Named: s.named, ID: s.id, Existing: s.existing, Method: method, Values: true, Body: args,
		Deadline: endsBefore(ctx), Chain: chain,
	}
	if err := s.i.depart(e, func(err error) { c.leave(ctx, out, err) }); err != nil {
		_ = c.held(-len(args))
		c.answer(Result{Err: err})
	}
	return c.stop
}

// send counts a call that an event is about to make, with a body of so many bytes, and returns the chain
// that it is at the end of.
func (i *incarnation) send(e *event, c *sentCall, bytes int) ([]Link, error) {
	if e == nil {
		return nil, ErrNoTurn
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	switch {
	case i.over != nil:
		return nil, i.over
	case len(i.calls) >= SentMax:
		return nil, fault.New(fault.Overloaded, "the object has too many calls of others under way: at most %d", SentMax)
	}
	if err := c.held(bytes); err != nil {
		return nil, err
	}
	if i.calls == nil {
		i.calls, i.m.calling = make(map[uint64]*sentCall), make(map[uint64]sender)
	}
	c.number = rand.Uint64() | 1 //nolint:gosec // to tell events apart
	i.calls[c.number], i.m.calling[c.number] = c, sender{by: e, critical: e.depth > 0}
	return i.chainLocked(e, c.number), nil
}

// depart puts a call that an event is about to make at the output gate: fn is told when it is open, in the
// order of departures.
func (i *incarnation) depart(e *event, fn func(error)) error {
	return i.atGate(waiter{e: e, barrier: fn, inOrder: true}, outwardCall)
}

// sentCall is a call of Stub.Send.
type sentCall struct {
	i      *incarnation
	done   func(Result)
	number uint64 // in the chain

	mu struct {
		sync.Mutex
		canceled error
		cancel   func(error) // the Caller's
	}
}

// held counts the bytes of the body while it waits at the gate.
func (c *sentCall) held(bytes int) error {
	m := c.i.shard.manager
	if m.queued.Add(int64(bytes)) > m.cfg.QueuedBytesMax && bytes > 0 {
		m.queued.Add(-int64(bytes))
		return fault.New(fault.Overloaded, "the node's queues are full: at most %d bytes wait", m.cfg.QueuedBytesMax)
	}
	return nil
}

// leave makes the call, when the gate is open.
func (c *sentCall) leave(ctx context.Context, out *Outgoing, err error) {
	_ = c.held(-len(out.Body))
	c.mu.Lock()
	canceled := c.mu.canceled
	c.mu.Unlock()
	if err == nil && canceled != nil {
		err = status.FromContextError(canceled).Err()
	}
	if err != nil {
		c.answer(Result{Err: err})
		return
	}
	c.i.class.tally.count(c.i.shard.id, func(t *Tally) { t.CallsMade++ })
	cancel := c.i.shard.manager.cfg.Caller.Call(ctx, out, c.answer)
	c.mu.Lock()
	c.mu.cancel = cancel
	canceled = c.mu.canceled
	c.mu.Unlock()
	if canceled != nil {
		cancel(canceled)
	}
}

// stop says that nobody waits any more.
func (c *sentCall) stop(cause error) {
	if cause == nil {
		cause = context.Canceled
	}
	c.mu.Lock()
	if c.mu.canceled == nil {
		c.mu.canceled = cause
	}
	cancel := c.mu.cancel
	c.mu.Unlock()
	if cancel != nil {
		cancel(cause)
	}
}

// answer tells what became of the call. Whoever has been reset meanwhile, or has another owner, is told so.
func (c *sentCall) answer(r Result) {
	c.i.mu.Lock()
	if c.i.over != nil {
		r = Result{Err: c.i.over}
	} else {
		delete(c.i.calls, c.number)
		delete(c.i.m.calling, c.number)
	}
	c.i.mu.Unlock()
	c.done(r)
}
