package frame

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/holdfast-io/holdfast/fault"
	"github.com/holdfast-io/holdfast/placement"
	holdfastv1 "github.com/holdfast-io/holdfast/proto/holdfast/v1"
)

// Stream is a gRPC stream of frames, of either side. Send must be done with the message when it
// returns: the buffer is used again. What Recv returns must not be used again.
type Stream interface {
	Send(*holdfastv1.Frames) error
	Recv() (*holdfastv1.Frames, error)
}

// Handler takes what the other side sends. Its methods are called by the conversation's reader,
// one at a time and in the order of sending: they must not block. reply may be called once, from
// any goroutine, and does not block either.
//
// A call whose body did not fit into one frame is handed over when it is whole; other calls may
// come before it, but not those that name the same object in the same way.
type Handler interface {
	// Call takes a call and owns it. The returned function, which may be nil, is called at most
	// once, when the caller has gone away or lost interest.
	Call(req *Request, reply func(Response)) (cancel func(cause error))
	// Announce takes the news that a node owns a shard.
	Announce(shard placement.ShardID, node placement.NodeID, term uint64)
	// Query takes an administrative request.
	Query(kind string, body []byte, reply func([]byte, error))
}

// Options of a Mux. The zero value is usable.
type Options struct {
	// PingEvery is how often the other side is asked for a sign of life: default 200 ms.
	PingEvery time.Duration
	// DeadAfter is how many pings in a row may go by without anything received: default 5. They are
	// counted in this process's own ticks, so that its own pause is not taken for the other's death.
	DeadAfter int
	// CallsMax bounds the calls of each side that wait for an answer: default 16,384. Over it:
	// OVERLOADED.
	CallsMax int
	// QueueBytesMax bounds what waits to be sent: default 64 MiB. Calls over it are refused with
	// OVERLOADED; while replies are over it nothing more is read.
	QueueBytesMax int
	// StreamsMax bounds the streamed calls of each side: default 32,768. Over it: OVERLOADED.
	StreamsMax int
	// UnreadBytesMax bounds the messages of streams that have come and that nobody has taken: default
	// 64 MiB. The stream that would exceed it ends with SLOW_CONSUMER.
	UnreadBytesMax int
	// PartialBytesMax bounds the calls of the other side that are not whole yet, by the sizes they
	// are said to have, and those that wait behind them: default 128 MiB. Over it: OVERLOADED.
	PartialBytesMax int
}

func (o Options) withDefaults() Options {
	if o.PingEvery == 0 {
		o.PingEvery = 200 * time.Millisecond
	}
	if o.DeadAfter == 0 {
		o.DeadAfter = 5
	}
	if o.CallsMax == 0 {
		o.CallsMax = 16384
	}
	if o.QueueBytesMax == 0 {
		o.QueueBytesMax = 64 << 20
	}
	if o.StreamsMax == 0 {
		o.StreamsMax = 32768
	}
	if o.UnreadBytesMax == 0 {
		o.UnreadBytesMax = 64 << 20
	}
	if o.PartialBytesMax == 0 {
		o.PartialBytesMax = 128 << 20
	}
	return o
}

// Reasons why a conversation ends, or takes no more calls.
var (
	errSilent = errors.New("the other side does not answer pings")
	errBye    = errors.New("the other side takes no more calls")
)

// errStopping ends the streams that a side takes part in which stops.
var errStopping = fault.New(fault.OwnerChanged, "the node that the stream goes through is stopping; open it again")

// Mux is one conversation. Calls may be made from any goroutine while Run runs.
type Mux struct {
	stream  Stream
	handler Handler
	o       Options

	ended chan struct{}
	heard atomic.Bool   // since the last tick
	wake  chan struct{} // the writer waits on it when idle
	loops sync.WaitGroup
	names names // the reader's

	mu       sync.Mutex
	cause    error // set: the conversation has ended
	lastCall uint64
	waiting  map[uint64]*outbound // this side's calls
	taken    map[uint64]*inbound  // the other side's calls, not answered yet
	partials partials
	sendable []*streamed // have something to send
	streams  [2]int      // how many this side has made, and answers
	unread   int         // bytes received of streams and not taken
	greeted  bool        // the other side has said what it knows
	features uint64      // that
	queue    queue
	idle     bool // the writer waits
	paused   bool // the reader waits until replies have gone out
	pingDue  bool
	pongDue  bool
	bye      error         // set: no more calls are to be sent
	resumed  *sync.Cond    // on mu: the reader may go on, or the end has come
	drained  chan struct{} // Drain waits: closed when the other side has said that it sends no more
}

// outbound is a call of this side that waits for its answer.
type outbound struct {
	m     *Mux
	id    uint64
	done  func(Response)
	query func([]byte, error)
	// message has the first frame, and all of the call unless long; sent is then set when the last
	// frame goes out.
	message    uint64
	long, sent bool
	resp       Response // while its body is not whole
	total      int
	// Of a streamed call.
	pipe   *Pipe
	stream *streamed
}

// NewMux returns a conversation over the stream; Run begins it. handler may be nil: then all calls
// of the other side are refused.
func NewMux(stream Stream, handler Handler, o Options) *Mux {
	m := &Mux{
		stream:  stream,
		handler: handler,
		o:       o.withDefaults(),
		ended:   make(chan struct{}),
		wake:    make(chan struct{}, 1),
		waiting: make(map[uint64]*outbound),
		taken:   make(map[uint64]*inbound),
		pingDue: true, // At once: it opens the stream for who waits for its header.
	}
	m.resumed = sync.NewCond(&m.mu)
	return m
}

// Run converses until the stream ends, the other side falls silent, or ctx ends, and returns why.
// Every call without an answer gets a LostError.
//
// A Send or Recv may still be blocked when it returns. The owner of the stream must end that then,
// by returning from the server's handler or by cancelling the client's context; Wait waits for it.
func (m *Mux) Run(ctx context.Context) error {
	m.loops.Go(m.read)
	m.loops.Go(m.write)
	tick := time.NewTicker(m.o.PingEvery)
	defer tick.Stop()
	for silent := 0; ; {
		select {
		case <-ctx.Done():
			m.end(context.Cause(ctx))
			<-m.ended
			return m.why()
		case <-m.ended:
			return m.why()
		case <-tick.C:
			if m.heard.Swap(false) {
				silent = 0
			} else if silent++; silent >= m.o.DeadAfter {
				m.end(errSilent)
			}
			m.mu.Lock()
			m.pingDue = true
			wake := m.wakeLocked()
			m.mu.Unlock()
			m.poke(wake)
		}
	}
}

func (m *Mux) why() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.cause
}

// Wait waits for the goroutines of Run. Call it when Run has returned and the stream was ended.
func (m *Mux) Wait() { m.loops.Wait() }

// Open says that calls can be sent: the conversation has not ended, and the other side has not asked
// to be sent no more.
func (m *Mux) Open() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.cause == nil && m.bye == nil
}

// Ended is closed when the conversation is over and every call has its answer.
func (m *Mux) Ended() <-chan struct{} { return m.ended }

func nothing(error) {}

// Call sends a call. done is called exactly once, from any goroutine, possibly before Call
// returns, and must not block. The returned function says that nobody waits any more: the other
// side is told, and done is called still, with whatever it answers. req and what it refers to must
// not be changed until done is called.
//
// A streamed call lasts until done is called, and has messages meanwhile, which wait in the request's
// Pipe. It is not made while the other side has not said that it knows streams: LostError, not sent.
// Neither is a call of an object that must exist; to a side that does not know such calls: NO_OWNER.
//
// The error is OVERLOADED when a bound of Options is reached, a LostError when the conversation has
// ended or does before the answer came.
func (m *Mux) Call(req *Request, done func(Response)) (cancel func(cause error)) {
	if err := req.check(); err != nil {
		done(ErrorResponse(err))
		return nothing
	}
	var now time.Time
	if !req.Deadline.IsZero() {
		now = time.Now()
	}
	head := req.head()
	m.mu.Lock()
	err := m.refuseLocked(len(req.Body))
	if err == nil && req.Pipe != nil {
		err = m.refuseStreamLocked()
	}
	if err == nil && req.Existing {
		err = m.refuseUnknownLocked(featureExisting, "say whether an object exists")
	}
	if err == nil && req.Values {
		err = m.refuseUnknownLocked(featureValues, "take a call's arguments as values")
	}
	if err != nil {
		m.mu.Unlock()
		done(ErrorResponse(err))
		return nothing
	}
	m.lastCall++
	out := &outbound{m: m, id: m.lastCall, done: done}
	if req.Pipe != nil {
		out.pipe, out.stream = req.Pipe, newStreamed(m, out.id, req.Pipe, false)
		m.streams[0]++
	}
	first, rest := split(req.Body, head)
	b := m.queue.room(head + len(first))
	out.message = m.queue.add(req.append(b, out.id, now, first, len(req.Body)), false)
	wake := m.sendLocked(out, rest)
	m.mu.Unlock()
	m.poke(wake)
	if out.stream != nil {
		out.stream.attach()
	}
	return out.cancel
}

// Query sends an administrative request. done is called like that of Call.
func (m *Mux) Query(kind string, body []byte, done func([]byte, error)) (cancel func(cause error)) {
	if len(kind) > kindBytesMax || len(body) > BodyBytesMax {
		done(nil, fault.New(fault.RequestTooLarge, "query: at most %d bytes of kind and %d of body", kindBytesMax, BodyBytesMax))
		return nothing
	}
	m.mu.Lock()
	if err := m.refuseLocked(len(body)); err != nil {
		m.mu.Unlock()
		done(nil, err)
		return nothing
	}
	m.lastCall++
	out := &outbound{m: m, id: m.lastCall, query: done}
	head := 128 + len(kind)
	first, rest := split(body, head)
	b := m.queue.room(head + len(first))
	out.message = m.queue.add(appendQuery(b, out.id, kind, first, len(body)), false)
	wake := m.sendLocked(out, rest)
	m.mu.Unlock()
	m.poke(wake)
	return out.cancel
}

// sendLocked notes a call whose first frame is queued, and queues the rest of its body.
func (m *Mux) sendLocked(out *outbound, rest []byte) (wake bool) {
	m.waiting[out.id] = out
	if len(rest) > 0 {
		out.long = true
		m.queue.addLong(&longBody{call: out.id, of: out, after: out.message, rest: rest})
	}
	return m.wakeLocked()
}

// Announce tells the other side that a node owns a shard. It is dropped when too much waits.
func (m *Mux) Announce(shard placement.ShardID, node placement.NodeID, term uint64) {
	m.mu.Lock()
	wake := false
	if m.cause == nil && m.queue.bytes < m.o.QueueBytesMax {
		m.queue.add(appendAnnounce(m.queue.room(64), shard, node, term), false)
		wake = m.wakeLocked()
	}
	m.mu.Unlock()
	m.poke(wake)
}

// Drain asks the other side to send no more calls, ends its streams with OWNER_CHANGED, waits until
// the calls that it had sent are answered and the answers sent, or ctx ends. The conversation goes on; its owner ends it afterwards, and no
// call of the other side is lost by that.
func (m *Mux) Drain(ctx context.Context) error {
	m.mu.Lock()
	if m.drained == nil {
		m.drained = make(chan struct{})
		m.queue.add(appendEmpty(m.queue.room(64), kindBye, 0), false)
	}
	drained := m.drained
	wake := m.wakeLocked()
	m.mu.Unlock()
	m.poke(wake)
	select {
	case <-drained:
	case <-m.ended:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		m.endStreams(errStopping)
		m.mu.Lock()
		over := len(m.taken) == 0 && m.queue.empty() && m.idle
		m.mu.Unlock()
		if over {
			return nil
		}
		select {
		case <-tick.C:
		case <-m.ended:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (m *Mux) refuseLocked(size int) error {
	switch {
	case m.cause != nil:
		return &LostError{Cause: m.cause}
	case m.bye != nil:
		return &LostError{Cause: m.bye}
	case len(m.waiting)-m.streams[0] >= m.o.CallsMax:
		return fault.New(fault.Overloaded, "too many calls on one connection: at most %d", m.o.CallsMax)
	case m.queue.bytes+size > m.o.QueueBytesMax:
		return fault.New(fault.Overloaded, "too much waits to be sent on one connection: at most %d bytes", m.o.QueueBytesMax)
	}
	return nil
}

// refuseUnknownLocked says why no call can be made now that is of a feature: a side that does not know it
// would take the call for another.
func (m *Mux) refuseUnknownLocked(feature uint64, what string) error {
	switch {
	case !m.greeted:
		return &LostError{Cause: errGreeting}
	case m.features&feature == 0:
		return fault.New(fault.NoOwner, "the node at the other end runs a release that can't %s: upgrade it", what)
	}
	return nil
}

// wakeLocked says whether the writer has to be woken, with poke, after mu is released.
func (m *Mux) wakeLocked() bool {
	wake := m.idle
	m.idle = false
	return wake
}

func (m *Mux) poke(wake bool) {
	if wake {
		select {
		case m.wake <- struct{}{}:
		default:
		}
	}
}

// cancel says that nobody waits for the call any more.
func (o *outbound) cancel(error) {
	m := o.m
	m.mu.Lock()
	wake := false
	if m.waiting[o.id] == o && m.cause == nil {
		m.queue.dropLong(o.id, false)
		if o.stream != nil {
			o.stream.send = window{}
		}
		m.queue.add(appendEmpty(m.queue.room(64), kindCancel, o.id), false)
		wake = m.wakeLocked()
	}
	m.mu.Unlock()
	m.poke(wake)
}

// finish gives the call its answer.
func (o *outbound) finish(r Response) {
	if o.query != nil {
		o.query(r.Body, r.Err())
		return
	}
	o.done(r)
}

// write sends what is queued, as many small frames a message as wait.
func (m *Mux) write() {
	var msg holdfastv1.Frames
	var scratch []byte
	yielded := false
	for {
		m.mu.Lock()
		m.addSignsLocked()
		if due := m.pumpLocked(); len(due) > 0 {
			m.mu.Unlock()
			for _, d := range due {
				d.fn(d.bytes)
			}
			m.mu.Lock()
		}
		if m.cause == nil && m.queue.empty() && len(m.sendable) == 0 {
			m.idle = true
			m.queue.shrink()
			scratch = nil
			m.mu.Unlock()
			select {
			case <-m.wake:
				yielded = false
				continue
			case <-m.ended:
				return
			}
		}
		if m.cause != nil {
			m.mu.Unlock()
			return
		}
		if !yielded && m.queue.bytes < 1024 {
			// Who woke the writer is often not alone: let the others queue theirs first.
			m.mu.Unlock()
			runtime.Gosched()
			yielded = true
			continue
		}
		yielded = false
		if m.queue.empty() { // Nothing came of what was sendable.
			m.mu.Unlock()
			continue
		}
		next, small := m.queue.take(scratch)
		m.mu.Unlock()

		msg.Data = next.data
		if err := m.stream.Send(&msg); err != nil {
			m.end(err)
			return
		}
		m.mu.Lock()
		if small {
			m.queue.done(next)
		} else {
			scratch = next.data
		}
		if m.paused {
			m.heard.Store(true) // Nothing is read now, but who takes replies is alive.
			if m.queue.replies <= m.o.QueueBytesMax/2 {
				m.resumed.Broadcast()
			}
		}
		m.mu.Unlock()
	}
}

// addSignsLocked queues the ping and the pong that are due: one of each at most waits.
func (m *Mux) addSignsLocked() {
	if m.pingDue {
		m.pingDue = false
		m.queue.add(appendPing(m.queue.room(64)), false)
	}
	if m.pongDue {
		m.pongDue = false
		m.queue.add(appendEmpty(m.queue.room(64), kindPong, 0), false)
	}
}

// end ends the conversation and answers everybody who waits.
func (m *Mux) end(cause error) {
	if cause == nil {
		cause = context.Canceled
	}
	m.mu.Lock()
	if m.cause != nil {
		m.mu.Unlock()
		return
	}
	m.cause = cause
	waiting, taken, begun := m.waiting, m.taken, m.queue.first
	m.waiting, m.taken = nil, nil
	lost := make([]LostError, 0, len(waiting))
	outs := make([]*outbound, 0, len(waiting))
	m.sendable = nil
	for _, out := range waiting {
		m.goneLocked(out.stream)
		sent := out.message <= begun
		if out.long {
			sent = out.sent
		}
		lost, outs = append(lost, LostError{Sent: sent, Cause: cause}), append(outs, out)
	}
	var pipes []*Pipe
	cancels := make([]func(error), 0, len(taken))
	for _, in := range taken {
		m.goneLocked(in.stream)
		if in.cancel != nil && !in.canceled {
			cancels = append(cancels, in.cancel)
		}
		in.canceled = true
		if in.stream != nil {
			pipes = append(pipes, in.Pipe)
		}
	}
	m.partials, m.queue = partials{}, queue{}
	m.resumed.Broadcast()
	m.mu.Unlock()
	for i, out := range outs {
		out.finish(ErrorResponse(&lost[i]))
	}
	for _, cancel := range cancels {
		cancel(cause)
	}
	for _, p := range pipes {
		p.Down.Discard() // Nobody reads it any more.
	}
	close(m.ended)
}
