package frame

import (
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/holdfast-io/holdfast/fault"
	"github.com/holdfast-io/holdfast/placement"
)

// inbound is a call or query of the other side.
type inbound struct {
	Request

	m      *Mux
	id     uint64
	query  bool
	total  int       // size of the whole body
	stream *streamed // of a streamed call
	// The rest is guarded by Mux.mu.
	cancel   func(error) // the handler's, once it has the call
	canceled bool
	answered bool
}

func (in *inbound) whole() bool { return len(in.Body) == in.total }

// object is how a call names its object.
type object struct {
	class string
	named bool
	name  string
	id    placement.ObjectID
}

func (in *inbound) object() object {
	if in.query { // Queries wait for nobody.
		o := object{class: "?"}
		binary.BigEndian.PutUint64(o.id[:], in.id)
		return o
	}
	o := object{class: in.Class, named: in.Named, name: in.Name, id: in.ID}
	if o.class == "" { // The service is what comes before the method.
		o.class = in.Method
		for i := len(o.class) - 1; i >= 0; i-- {
			if o.class[i] == '/' {
				o.class = o.class[:i]
				break
			}
		}
	}
	return o
}

// partials are the calls whose bodies are not whole yet, and those that wait behind one for the
// same object: they are handed over in the order in which they began.
type partials struct {
	lines map[object][]*inbound
	bytes int
}

// add lines a call up if it has to wait.
func (p *partials) add(in *inbound) (waits bool) {
	if in.whole() && len(p.lines) == 0 {
		return false
	}
	o := in.object()
	line := p.lines[o]
	if in.whole() && len(line) == 0 {
		return false
	}
	if p.lines == nil {
		p.lines = make(map[object][]*inbound)
	}
	p.lines[o] = append(line, in)
	p.bytes += in.total
	return true
}

// release returns the calls at the head of a line that need not wait any more.
func (p *partials) release(o object) []*inbound {
	line := p.lines[o]
	n := 0
	for n < len(line) && line[n].whole() {
		p.bytes -= line[n].total
		n++
	}
	p.keep(o, line[n:])
	return line[:n]
}

// remove takes a call out of its line.
func (p *partials) remove(in *inbound) (was bool) {
	o := in.object()
	line := p.lines[o]
	for i, other := range line {
		if other == in {
			p.bytes -= in.total
			p.keep(o, append(line[:i:i], line[i+1:]...))
			return true
		}
	}
	return false
}

func (p *partials) keep(o object, line []*inbound) {
	if len(line) > 0 {
		p.lines[o] = line
	} else {
		delete(p.lines, o)
	}
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
		if err := m.takeMessage(msg.GetData()); err != nil {
			m.end(err)
			return
		}
		if !m.waitForRoom() {
			return
		}
	}
}

// waitForRoom stops the reader while too many replies wait to be sent: who does not read them gets
// no more of its calls taken (P6). Silence is judged by the writer meanwhile.
func (m *Mux) waitForRoom() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.queue.replies > m.o.QueueBytesMax {
		m.paused = true
		for m.cause == nil && m.queue.replies > m.o.QueueBytesMax/2 {
			m.resumed.Wait()
		}
		m.paused = false
	}
	return m.cause == nil
}

func (m *Mux) takeMessage(b []byte) error {
	if len(b) > FrameBytesMax {
		return fmt.Errorf("message of %d bytes: %w", len(b), errMalformed)
	}
	size, now := len(b), time.Now()
	for len(b) > 0 {
		if len(b) < headerBytes {
			return errMalformed
		}
		n := uint64(binary.BigEndian.Uint32(b))
		if n > uint64(len(b)-headerBytes) {
			return errMalformed
		}
		n += headerBytes
		if err := m.takeFrame(b[headerBytes:n:n], size, now); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

// takeFrame takes one frame of a message of so many bytes.
func (m *Mux) takeFrame(b []byte, message int, now time.Time) error {
	d := decoder{b: b}
	kind, call := d.byte(), d.uvarint()
	if d.err != nil {
		return d.err
	}
	switch kind {
	case kindCall:
		in := &inbound{m: m, id: call}
		var err error
		if in.total, err = in.decode(d.b, now, &m.names); err != nil {
			return fmt.Errorf("call: %w", err)
		}
		return m.takeCall(in, message)
	case kindOpen:
		in := &inbound{m: m, id: call}
		var err error
		if in.total, err = in.decode(d.b, now, &m.names); err != nil || in.total > 0 {
			return fmt.Errorf("stream: %w", cmp.Or(err, errMalformed))
		}
		in.Pipe = new(Pipe)
		in.stream = newStreamed(m, call, in.Pipe, true)
		return m.takeCall(in, message)
	case kindMessage:
		return m.takeStreamMessage(call, d.b, message)
	case kindCredit:
		return m.takeCredit(call, d.b)
	case kindQuery:
		in := &inbound{m: m, id: call, query: true}
		var err error
		if in.total, err = in.decodeQuery(d.b); err != nil {
			return fmt.Errorf("query: %w", err)
		}
		return m.takeCall(in, message)
	case kindReply:
		var resp Response
		total, err := resp.decode(d.b, &m.names)
		if err != nil {
			return fmt.Errorf("reply: %w", err)
		}
		m.takeReply(call, resp, total, message)
	case kindBody:
		switch d.byte() {
		case 0:
			return m.takeCallBody(call, d.b)
		case 1:
			return m.takeReplyBody(call, d.b)
		default:
			return fmt.Errorf("body: %w", errMalformed)
		}
	case kindCancel:
		m.takeCancel(call)
	case kindPing:
		features, err := decodePing(d.b)
		if err != nil {
			return fmt.Errorf("ping: %w", err)
		}
		m.mu.Lock()
		m.pongDue, m.greeted, m.features = true, true, features
		wake := m.wakeLocked()
		m.mu.Unlock()
		m.poke(wake)
	case kindPong:
	case kindAnnounce:
		shard, node, term, err := decodeAnnounce(d.b)
		if err != nil {
			return fmt.Errorf("announcement: %w", err)
		}
		if m.handler != nil {
			m.handler.Announce(shard, node, term)
		}
	case kindBye:
		m.takeBye(call)
	default:
		return fmt.Errorf("frame of kind %d: %w", kind, errMalformed)
	}
	return nil
}

func (m *Mux) takeCall(in *inbound, message int) error {
	m.mu.Lock()
	if m.cause != nil {
		m.mu.Unlock()
		return m.cause
	}
	if _, twice := m.taken[in.id]; twice {
		m.mu.Unlock()
		return fmt.Errorf("call %d twice: %w", in.id, errMalformed)
	}
	full := len(m.taken)-m.streams[1] >= m.o.CallsMax
	if in.stream != nil {
		full = m.streams[1] >= m.o.StreamsMax
		m.streams[1]++
	}
	crowded := (!in.whole() || len(m.partials.lines) > 0) && m.partials.bytes+in.total > m.o.PartialBytesMax
	waits := false
	if !full && !crowded {
		m.taken[in.id] = in
		waits = m.partials.add(in)
	}
	m.mu.Unlock()
	switch {
	case full && in.stream != nil:
		in.reply(ErrorResponse(fault.New(fault.Overloaded, "too many streams on one connection: at most %d", m.o.StreamsMax)))
	case full:
		in.reply(ErrorResponse(fault.New(fault.Overloaded, "too many calls on one connection: at most %d", m.o.CallsMax)))
	case crowded:
		in.reply(ErrorResponse(fault.New(fault.Overloaded, "too many large calls on one connection: at most %d bytes", m.o.PartialBytesMax)))
	case waits:
		// The parts to come are appended: not to the message.
		in.Body = append(make([]byte, 0, min(in.total, 2*FrameBytesMax)), in.Body...)
	default:
		in.Body = own(in.Body, message)
		m.deliver(in)
	}
	return nil
}

// deliver hands a whole call to the handler.
func (m *Mux) deliver(in *inbound) {
	if m.handler == nil {
		in.reply(ErrorResponse(fault.New(fault.InvalidArgument, "this side takes no calls")))
		return
	}
	if in.query {
		m.handler.Query(in.Method, in.Body, func(body []byte, err error) {
			if err != nil {
				in.reply(ErrorResponse(err))
				return
			}
			in.reply(Response{Body: body})
		})
		return
	}
	if in.stream != nil {
		in.Pipe.OnBegin(in.stream.begin)
		in.stream.attach()
	}
	cancel := m.handler.Call(&in.Request, in.reply)
	if cancel == nil {
		return
	}
	m.mu.Lock()
	gone := in.canceled
	if !gone {
		in.cancel = cancel
	}
	m.mu.Unlock()
	if gone {
		cancel(context.Canceled)
	}
}

// reply sends the answer. What comes after the first, or after the end, goes nowhere.
func (in *inbound) reply(r Response) {
	m := in.m
	if len(r.Body) > BodyBytesMax {
		// As the owner says it itself, where it made the reply.
		r = ErrorResponse(status.Errorf(codes.Internal, "reply: at most %d bytes, has %d; the call has run, and what it wrote is kept", BodyBytesMax, len(r.Body)))
	}
	raw := r.encodeStatus()
	head := r.head(raw)
	first, rest := split(r.Body, head)
	m.mu.Lock()
	if m.cause != nil || in.answered {
		m.mu.Unlock()
		return
	}
	in.answered = true
	if in.stream != nil {
		wake := m.replyLocked(in.stream, r, raw)
		m.mu.Unlock()
		m.poke(wake)
		return
	}
	delete(m.taken, in.id)
	number := m.queue.add(r.append(m.queue.room(head+len(first)), in.id, raw, first, len(r.Body)), true)
	if len(rest) > 0 {
		m.queue.addLong(&longBody{call: in.id, reply: true, after: number, rest: rest})
	}
	wake := m.wakeLocked()
	m.mu.Unlock()
	m.poke(wake)
}

// stop cancels a call from this side; it is answered all the same.
func (in *inbound) stop(cause error) {
	m := in.m
	m.mu.Lock()
	cancel := in.cancel
	if in.canceled {
		cancel = nil
	}
	in.canceled = true
	m.mu.Unlock()
	if cancel != nil {
		cancel(cause)
	}
}

func (m *Mux) takeCallBody(call uint64, part []byte) error {
	m.mu.Lock()
	in := m.taken[call]
	if in == nil || in.whole() {
		m.mu.Unlock()
		return nil // Refused or canceled while its body was on the way.
	}
	if len(in.Body)+len(part) > in.total {
		m.mu.Unlock()
		return fmt.Errorf("body of call %d is longer than was said: %w", call, errMalformed)
	}
	in.Body = append(in.Body, part...)
	var ready []*inbound
	if in.whole() {
		ready = m.partials.release(in.object())
	}
	m.mu.Unlock()
	for _, in := range ready {
		m.deliver(in)
	}
	return nil
}

// takeCancel passes on that the caller does not wait any more, and drops a call that is not whole.
func (m *Mux) takeCancel(call uint64) {
	m.mu.Lock()
	in := m.taken[call]
	if in == nil || in.canceled {
		m.mu.Unlock()
		return
	}
	cancel := in.cancel
	in.canceled = true
	var ready []*inbound
	undelivered := m.partials.remove(in)
	if undelivered {
		ready = m.partials.release(in.object())
	}
	m.mu.Unlock()
	switch {
	case undelivered:
		in.reply(ErrorResponse(context.Canceled))
	case cancel != nil:
		cancel(context.Canceled)
	}
	if in.stream != nil {
		in.Pipe.Down.Discard() // Nobody reads it any more: the answer waits for none of it.
	}
	for _, in := range ready {
		m.deliver(in)
	}
}

func (m *Mux) takeReply(call uint64, resp Response, total, message int) {
	m.mu.Lock()
	out := m.waiting[call]
	if out != nil {
		m.goneLocked(out.stream)
		m.queue.dropLong(call, false) // Answered before it was all sent: it was refused.
		if total > len(resp.Body) {
			resp.Body = append(make([]byte, 0, min(total, 2*FrameBytesMax)), resp.Body...)
			out.resp, out.total = resp, total
			out = nil
		} else {
			delete(m.waiting, call)
		}
	}
	m.mu.Unlock()
	if out != nil {
		resp.Body = own(resp.Body, message)
		out.finish(resp)
	}
}

func (m *Mux) takeReplyBody(call uint64, part []byte) error {
	m.mu.Lock()
	out := m.waiting[call]
	if out == nil || out.total == 0 {
		m.mu.Unlock()
		return nil
	}
	if len(out.resp.Body)+len(part) > out.total {
		m.mu.Unlock()
		return fmt.Errorf("body of reply %d is longer than was said: %w", call, errMalformed)
	}
	out.resp.Body = append(out.resp.Body, part...)
	whole := len(out.resp.Body) == out.total
	if whole {
		delete(m.waiting, call)
	}
	m.mu.Unlock()
	if whole {
		out.finish(out.resp)
	}
	return nil
}

// byeAnswer is the call number of the answer to a bye.
const byeAnswer = 1

// takeBye stops this side's calls and says so; or takes the answer to this side's own bye.
func (m *Mux) takeBye(call uint64) {
	m.mu.Lock()
	wake := false
	switch {
	case m.cause != nil:
	case call == byeAnswer:
		if m.drained != nil {
			select {
			case <-m.drained:
			default:
				close(m.drained)
			}
		}
	case m.bye == nil:
		m.bye = errBye
		// Long bodies go on being sent after this; Drain waits for calls that have begun.
		m.queue.add(appendEmpty(m.queue.room(64), kindBye, byeAnswer), false)
		wake = m.wakeLocked()
	}
	m.mu.Unlock()
	m.poke(wake)
}
