package frame

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/holdfast-io/holdfast/fault"
	"github.com/holdfast-io/holdfast/placement"
	holdfastv1 "github.com/holdfast-io/holdfast/proto/holdfast/v1"
)

// Stream is a gRPC stream of frames, of either side.
type Stream interface {
	Send(*holdfastv1.Frames) error
	Recv() (*holdfastv1.Frames, error)
}

// Handler takes what the other side sends. Its methods are called by the conversation's reader,
// one at a time and in the order of sending: they must not block. reply may be called once, from
// any goroutine, and does not block either.
type Handler interface {
	// Call takes a call. The returned function, which may be nil, is called when the caller has
	// gone away or lost interest.
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
	// CallsMax bounds the calls that wait for an answer: default 16,384. Over it: OVERLOADED.
	CallsMax int
	// QueueBytesMax bounds what waits to be sent: default 64 MiB. Calls over it are refused with
	// OVERLOADED; while replies are over it nothing more is read.
	QueueBytesMax int
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
	return o
}

// LostError says that the conversation ended before the answer came. Sent is false when the call
// certainly never left, and so certainly did not run.
type LostError struct {
	Sent  bool
	Cause error
}

// Error implements error.
func (e *LostError) Error() string {
	if e.Sent {
		return fmt.Sprintf("the connection was lost before the answer came: %v", e.Cause)
	}
	return fmt.Sprintf("the connection was lost before the call was sent: %v", e.Cause)
}

// Unwrap implements errors.
func (e *LostError) Unwrap() error { return e.Cause }

// errSilent is why a conversation ends when the other side says nothing.
var errSilent = errors.New("the other side does not answer pings")

// Mux is one conversation. Calls may be made from any goroutine while Run runs.
type Mux struct {
	stream  Stream
	handler Handler
	o       Options

	ended   chan struct{}
	heard   atomic.Bool // since the last tick
	wake    chan struct{}
	drained *sync.Cond // on mu: the queue has shrunk, or the end has come

	mu       sync.Mutex
	cause    error // set: the conversation has ended
	nextCall uint64
	pending  map[uint64]*pending
	inbound  map[uint64]*inbound
	chunks   [][]byte // whole frames, each at most FrameBytesMax
	spare    []byte
	bodies   []*bodyRest // long bodies, which take turns
	queued   int         // bytes of chunks and bodies
	chunkSeq uint64      // number of the chunk being filled
	sentSeq  uint64      // chunks up to here were begun to be sent
}

type pending struct {
	done  func(Response)
	chunk uint64 // the chunk that has its first frame
	resp  Response
	total int
	query func([]byte, error)
}

type inbound struct {
	cancel   func(error)
	req      *Request
	total    int
	canceled bool
}

type bodyRest struct {
	call  uint64
	reply bool
	rest  []byte
}

// NewMux returns a conversation over the stream; Run begins it.
func NewMux(stream Stream, handler Handler, o Options) *Mux {
	m := &Mux{
		stream:   stream,
		handler:  handler,
		o:        o.withDefaults(),
		ended:    make(chan struct{}),
		wake:     make(chan struct{}, 1),
		pending:  make(map[uint64]*pending),
		inbound:  make(map[uint64]*inbound),
		chunkSeq: 1,
	}
	m.drained = sync.NewCond(&m.mu)
	return m
}

// Run converses until the stream ends, the other side falls silent, or ctx ends, and returns why.
// Every call without an answer gets a LostError. When it returns, the owner of the stream must end
// it (by returning from the server's handler, or cancelling the client's context): that ends the
// goroutine that reads.
func (m *Mux) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	go m.read() // Ends with the stream; see above.
	wg.Go(m.write)
	wg.Go(m.ping)
	select {
	case <-ctx.Done():
		m.end(context.Cause(ctx))
	case <-m.ended:
	}
	wg.Wait()
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.cause
}

// Ended is closed when the conversation is over.
func (m *Mux) Ended() <-chan struct{} { return m.ended }

// Call sends a call. done is called exactly once, from any goroutine, possibly before Call
// returns, and must not block. The returned function says that nobody waits any more.
func (m *Mux) Call(req *Request, done func(Response)) (cancel func(cause error)) {
	if err := checkRequest(req); err != nil {
		done(ErrorResponse(err))
		return func(error) {}
	}
	m.mu.Lock()
	if err := m.refuseLocked(len(req.Body)); err != nil {
		m.mu.Unlock()
		done(ErrorResponse(err))
		return func(error) {}
	}
	m.nextCall++
	id := m.nextCall
	frame, rest := req.append(m.spare[:0], id, time.Now())
	m.pending[id] = &pending{done: done, chunk: m.queueLocked(frame)}
	m.spare = frame
	m.queueBodyLocked(id, false, rest)
	m.mu.Unlock()
	m.poke()
	return func(error) { m.cancelCall(id) }
}

// Query sends an administrative request.
func (m *Mux) Query(kind string, body []byte, done func([]byte, error)) {
	m.mu.Lock()
	if err := m.refuseLocked(len(body)); err != nil {
		m.mu.Unlock()
		done(nil, err)
		return
	}
	m.nextCall++
	id := m.nextCall
	var rest []byte
	room := bodyRoom(64 + len(kind))
	first := body
	if len(first) > room {
		first, rest = body[:room], body[room:]
	}
	frame := appendFrame(nil, kindQuery, id, func(dst []byte) []byte {
		dst = appendString(dst, kind)
		dst = binary.AppendUvarint(dst, uint64(len(body)))
		return append(dst, first...)
	})
	m.pending[id] = &pending{query: done, chunk: m.queueLocked(frame)}
	m.queueBodyLocked(id, false, rest)
	m.mu.Unlock()
	m.poke()
}

// Announce tells the other side that a node owns a shard. It is dropped when too much waits.
func (m *Mux) Announce(shard placement.ShardID, node placement.NodeID, term uint64) {
	m.mu.Lock()
	if m.cause == nil && m.queued < m.o.QueueBytesMax {
		m.queueLocked(appendFrame(nil, kindAnnounce, 0, func(dst []byte) []byte {
			dst = binary.AppendUvarint(dst, uint64(shard))
			dst = binary.BigEndian.AppendUint64(dst, uint64(node))
			return binary.AppendUvarint(dst, term)
		}))
	}
	m.mu.Unlock()
	m.poke()
}

func checkRequest(req *Request) error {
	switch {
	case len(req.Body) > BodyBytesMax:
		return fault.New(fault.RequestTooLarge, "request: at most %d bytes, has %d", BodyBytesMax, len(req.Body))
	case len(req.Name) > NameBytesMax:
		return fault.New(fault.InvalidArgument, "name: at most %d bytes, has %d", NameBytesMax, len(req.Name))
	case len(req.Metadata) > 0 && metadataBytes(req.Metadata) > MetadataBytesMax:
		return fault.New(fault.RequestTooLarge, "metadata: at most %d bytes", MetadataBytesMax)
	}
	return nil
}

func (m *Mux) refuseLocked(size int) error {
	switch {
	case m.cause != nil:
		return &LostError{Cause: m.cause}
	case len(m.pending) >= m.o.CallsMax:
		return fault.New(fault.Overloaded, "too many calls on one connection: at most %d", m.o.CallsMax)
	case m.queued+size > m.o.QueueBytesMax:
		return fault.New(fault.Overloaded, "too much waits to be sent on one connection: at most %d bytes", m.o.QueueBytesMax)
	}
	return nil
}

// queueLocked queues a frame and returns the number of the chunk that has it.
func (m *Mux) queueLocked(frame []byte) uint64 {
	last := len(m.chunks) - 1
	if last < 0 || len(m.chunks[last])+len(frame) > FrameBytesMax {
		if last >= 0 {
			m.chunkSeq++
		}
		m.chunks = append(m.chunks, make([]byte, 0, max(len(frame), 4096)))
		last++
	}
	m.chunks[last] = append(m.chunks[last], frame...)
	m.queued += len(frame)
	return m.chunkSeq
}

func (m *Mux) queueBodyLocked(call uint64, reply bool, rest []byte) {
	if len(rest) > 0 {
		m.bodies = append(m.bodies, &bodyRest{call, reply, rest})
		m.queued += len(rest)
	}
}

func (m *Mux) poke() {
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

func (m *Mux) cancelCall(id uint64) {
	m.mu.Lock()
	_, waiting := m.pending[id]
	if waiting && m.cause == nil {
		m.queueLocked(appendFrame(nil, kindCancel, id, nil))
	}
	m.mu.Unlock()
	m.poke()
}

// reply sends the answer to a call of the other side.
func (m *Mux) reply(id uint64, r Response) {
	m.mu.Lock()
	delete(m.inbound, id)
	if m.cause == nil {
		if len(r.Body) > BodyBytesMax {
			r = ErrorResponse(fault.New(fault.RequestTooLarge, "reply: at most %d bytes, has %d", BodyBytesMax, len(r.Body)))
		}
		frame, rest := r.append(m.spare[:0], id)
		m.queueLocked(frame)
		m.spare = frame
		m.queueBodyLocked(id, true, rest)
	}
	m.mu.Unlock()
	m.poke()
}

// write sends what is queued: everything small first, in as few messages as may be, and then one
// frame of each long body in turn.
func (m *Mux) write() {
	var msg holdfastv1.Frames
	send := func(chunk []byte) bool {
		msg.Data = chunk
		if err := m.stream.Send(&msg); err != nil {
			m.end(err)
			return false
		}
		return true
	}
	for {
		m.mu.Lock()
		chunks := m.chunks
		m.chunks = nil
		if len(chunks) > 0 {
			m.sentSeq = m.chunkSeq
			m.chunkSeq++
		}
		bodies := m.bodyFramesLocked()
		ended := m.cause != nil
		m.mu.Unlock()
		if ended {
			return
		}
		sent := 0
		for _, c := range append(chunks, bodies...) {
			if !send(c) {
				return
			}
			sent += len(c)
		}
		m.mu.Lock()
		for _, c := range chunks {
			m.queued -= len(c)
		}
		idle := len(m.chunks) == 0 && len(m.bodies) == 0
		m.drained.Broadcast()
		m.mu.Unlock()
		if !idle {
			continue
		}
		select {
		case <-m.wake:
		case <-m.ended:
			return
		}
	}
}

// bodyFramesLocked takes one frame of each long body.
func (m *Mux) bodyFramesLocked() [][]byte {
	if len(m.bodies) == 0 {
		return nil
	}
	var out [][]byte
	kept := m.bodies[:0]
	for _, b := range m.bodies {
		n := min(len(b.rest), FrameBytesMax-32)
		part := b.rest[:n]
		b.rest = b.rest[n:]
		out = append(out, appendFrame(make([]byte, 0, n+32), kindBody, b.call, func(dst []byte) []byte {
			direction := byte(0)
			if b.reply {
				direction = 1
			}
			return append(append(dst, direction), part...)
		}))
		m.queued -= n
		if len(b.rest) > 0 {
			kept = append(kept, b)
		}
	}
	clear(m.bodies[len(kept):])
	m.bodies = kept
	return out
}

// ping asks for signs of life and ends the conversation when there are none.
func (m *Mux) ping() {
	t := time.NewTicker(m.o.PingEvery)
	defer t.Stop()
	silent := 0
	for {
		select {
		case <-m.ended:
			return
		case <-t.C:
		}
		if m.heard.Swap(false) {
			silent = 0
		} else if silent++; silent >= m.o.DeadAfter {
			m.end(errSilent)
			return
		}
		m.mu.Lock()
		m.queueLocked(appendFrame(nil, kindPing, 0, nil))
		m.mu.Unlock()
		m.poke()
	}
}

// end ends the conversation and answers everybody who waits.
func (m *Mux) end(cause error) {
	m.mu.Lock()
	if m.cause != nil {
		m.mu.Unlock()
		return
	}
	m.cause = cause
	waiting, inbound, sent := m.pending, m.inbound, m.sentSeq
	m.pending, m.inbound = nil, nil
	m.chunks, m.bodies = nil, nil
	close(m.ended)
	m.drained.Broadcast()
	m.mu.Unlock()
	for _, p := range waiting {
		p.finish(ErrorResponse(&LostError{Sent: p.chunk <= sent, Cause: cause}))
	}
	for _, in := range inbound {
		m.mu.Lock()
		cancel := in.cancel
		m.mu.Unlock()
		if cancel != nil {
			cancel(cause)
		}
	}
}

func (p *pending) finish(r Response) {
	if p.query != nil {
		p.query(r.Body, r.Err())
		return
	}
	p.done(r)
}

// read takes what the other side sends.
func (m *Mux) read() {
	for {
		msg, err := m.stream.Recv()
		if err != nil {
			m.end(err)
			return
		}
		m.heard.Store(true)
		if err := m.takeFrames(msg.GetData()); err != nil {
			m.end(err)
			return
		}
		if !m.waitForRoom() {
			return
		}
	}
}

// waitForRoom stops the reader while too much waits to be sent: who does not read its replies gets
// no more of its calls taken.
func (m *Mux) waitForRoom() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	for m.cause == nil && m.queued > m.o.QueueBytesMax {
		m.drained.Wait()
	}
	return m.cause == nil
}

func (m *Mux) takeFrames(b []byte) error {
	now := time.Now()
	for len(b) > 0 {
		if len(b) < 4 {
			return errMalformed
		}
		n := binary.BigEndian.Uint32(b)
		if n > FrameBytesMax || uint64(n) > uint64(len(b)-4) {
			return errMalformed
		}
		if err := m.takeFrame(b[4:4+n:4+n], now); err != nil {
			return err
		}
		b = b[4+n:]
	}
	return nil
}

func (m *Mux) takeFrame(b []byte, now time.Time) error {
	d := decoder{b: b}
	kind, call := d.byte(), d.uvarint()
	if d.err != nil {
		return d.err
	}
	switch kind {
	case kindCall:
		req, total, err := decodeRequest(d.b, now)
		if err != nil {
			return err
		}
		return m.takeCall(call, req, total)
	case kindReply:
		resp, total, err := decodeResponse(d.b)
		if err != nil {
			return err
		}
		m.takeReply(call, resp, total)
	case kindBody:
		direction := d.byte()
		if d.err != nil {
			return d.err
		}
		return m.takeBody(call, direction == 1, d.b)
	case kindCancel:
		m.mu.Lock()
		var cancel func(error)
		if in := m.inbound[call]; in != nil {
			in.canceled = true
			cancel = in.cancel
		}
		m.mu.Unlock()
		if cancel != nil {
			cancel(context.Canceled)
		}
	case kindPing:
		m.mu.Lock()
		if m.cause == nil {
			m.queueLocked(appendFrame(nil, kindPong, 0, nil))
		}
		m.mu.Unlock()
		m.poke()
	case kindPong:
	case kindAnnounce:
		shard := d.uvarint()
		raw := d.take(8)
		term := d.uvarint()
		if d.err != nil || shard > placement.MaxShards {
			return errMalformed
		}
		if m.handler != nil {
			m.handler.Announce(placement.ShardID(shard), placement.NodeID(binary.BigEndian.Uint64(raw)), term)
		}
	case kindQuery:
		return m.takeQuery(call, &d)
	default:
		return fmt.Errorf("frame of kind %d: %w", kind, errMalformed)
	}
	return nil
}

func (m *Mux) takeCall(call uint64, req *Request, total int) error {
	in := &inbound{req: req, total: total}
	m.mu.Lock()
	_, twice := m.inbound[call]
	full := len(m.inbound) >= m.o.CallsMax
	if m.cause == nil && !twice && !full {
		m.inbound[call] = in
	}
	m.mu.Unlock()
	switch {
	case twice:
		return fmt.Errorf("call %d twice: %w", call, errMalformed)
	case full && total > len(req.Body):
		return fmt.Errorf("too many calls on one connection: at most %d: %w", m.o.CallsMax, errMalformed)
	case full:
		m.reply(call, ErrorResponse(fault.New(fault.Overloaded, "too many calls on one connection: at most %d", m.o.CallsMax)))
		return nil
	}
	if total > len(req.Body) {
		body := make([]byte, 0, total)
		req.Body = append(body, req.Body...)
		return nil
	}
	m.deliver(call, in)
	return nil
}

func (m *Mux) deliver(call uint64, in *inbound) {
	if m.handler == nil {
		m.reply(call, ErrorResponse(fault.New(fault.InvalidArgument, "this side takes no calls")))
		return
	}
	cancel := m.handler.Call(in.req, func(r Response) { m.reply(call, r) })
	m.mu.Lock()
	in.cancel = cancel
	gone := in.canceled || m.cause != nil
	m.mu.Unlock()
	if gone && cancel != nil {
		cancel(context.Canceled)
	}
}

func (m *Mux) takeQuery(call uint64, d *decoder) error {
	kind := d.string(256)
	total := d.total()
	if d.err != nil || total < len(d.b) {
		return errMalformed
	}
	in := &inbound{req: &Request{Method: kind, Body: d.b}, total: total}
	if total > len(d.b) {
		return fmt.Errorf("query of %d bytes: %w", total, errMalformed) // Queries are small.
	}
	if m.handler == nil {
		m.reply(call, ErrorResponse(fault.New(fault.InvalidArgument, "this side takes no queries")))
		return nil
	}
	m.handler.Query(kind, in.req.Body, func(body []byte, err error) {
		r := Response{Body: body}
		if err != nil {
			r = ErrorResponse(err)
		}
		m.reply(call, r)
	})
	return nil
}

func (m *Mux) takeReply(call uint64, resp Response, total int) {
	m.mu.Lock()
	p := m.pending[call]
	if p != nil && total > len(resp.Body) {
		resp.Body = append(make([]byte, 0, total), resp.Body...)
		p.resp, p.total = resp, total
		p = nil
	} else if p != nil {
		delete(m.pending, call)
	}
	m.mu.Unlock()
	if p != nil {
		p.finish(resp)
	}
}

func (m *Mux) takeBody(call uint64, reply bool, part []byte) error {
	m.mu.Lock()
	if reply {
		p := m.pending[call]
		if p == nil || p.total == 0 {
			m.mu.Unlock()
			return nil // Nobody waits any more.
		}
		if len(p.resp.Body)+len(part) > p.total {
			m.mu.Unlock()
			return errMalformed
		}
		p.resp.Body = append(p.resp.Body, part...)
		whole := len(p.resp.Body) == p.total
		if whole {
			delete(m.pending, call)
		}
		m.mu.Unlock()
		if whole {
			p.finish(p.resp)
		}
		return nil
	}
	in := m.inbound[call]
	m.mu.Unlock()
	if in == nil {
		return nil
	}
	if len(in.req.Body)+len(part) > in.total {
		return errMalformed
	}
	in.req.Body = append(in.req.Body, part...)
	if len(in.req.Body) == in.total {
		m.deliver(call, in)
	}
	return nil
}
