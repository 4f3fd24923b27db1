package frame

import (
	"errors"
	"fmt"

	"github.com/holdfast-io/holdfast/fault"
)

// Both sides of a streamed call count what they may send, and what the other may: a window for the
// caller's messages opens with Begin, one for the answers with the call itself, and both move on as
// messages are taken at the other end. So a side that takes none holds up its own stream alone.

// partBytes is how much of a message goes out before it is another stream's turn.
const partBytes = 64 << 10

// pumpBytes is how much of streams is queued to be sent at a time: the rest waits in their pipes.
const pumpBytes = 256 << 10

// streamed is a streamed call in a conversation, on either side of it.
type streamed struct {
	m      *Mux
	call   uint64
	answer bool  // this side answers the call
	out    *Flow // what this side sends
	in     *Flow // what it receives

	// The rest is guarded by Mux.mu.
	gone   bool // nothing is sent any more
	queued bool // in Mux.sendable
	send   window
	rest   []byte // of the message being sent
	part   bool   // a message is being sent
	closed bool   // the other side knows that no more comes
	end    *end   // the reply, which follows the last message

	receive window
	partial []byte // of the message being received
	owed    window // taken, and not granted yet
	unread  int    // bytes received and not taken
}

// window is how many messages and bytes may be sent.
type window struct{ messages, bytes int }

func (w window) open() bool { return w.messages > 0 && w.bytes > 0 }

// spend takes a message of so many bytes out of the window.
func (w *window) spend(bytes int) {
	w.messages--
	w.bytes -= bytes
}

func (w *window) grow(messages, bytes int) {
	w.messages = min(w.messages+messages, creditMax)
	w.bytes = min(w.bytes+bytes, creditMax)
}

// full is the window of a stream when nothing is under way.
var full = window{messages: windowMessages, bytes: windowBytes}

// end is a reply that waits for the messages before it.
type end struct {
	response Response
	status   []byte
}

// side is the flag of the frames that this side sends.
func (s *streamed) side() byte {
	if s.answer {
		return flagAnswering
	}
	return 0
}

// newStreamed returns this side's part of a streamed call. attach follows when it is known to the Mux.
func newStreamed(m *Mux, call uint64, pipe *Pipe, answer bool) *streamed {
	if answer {
		return &streamed{m: m, call: call, answer: true, out: &pipe.Down, in: &pipe.Up, send: full}
	}
	return &streamed{m: m, call: call, out: &pipe.Up, in: &pipe.Down, receive: full}
}

func (s *streamed) attach() {
	s.in.OnTaken(s.taken)
	s.out.OnReadable(s.readable)
}

// begin opens the caller's window; the object has taken the call.
func (s *streamed) begin() {
	m := s.m
	m.mu.Lock()
	s.receive = full
	m.queue.add(appendCredit(m.queue.room(64), s.call, s.side(), full.messages, full.bytes), true)
	wake := m.wakeLocked()
	m.mu.Unlock()
	m.poke(wake)
}

// readable is told that there may be something to send.
func (s *streamed) readable() {
	m := s.m
	m.mu.Lock()
	wake := m.sendableLocked(s)
	m.mu.Unlock()
	m.poke(wake)
}

// sendableLocked puts a stream in the line of those that have something to send.
func (m *Mux) sendableLocked(s *streamed) (wake bool) {
	if s.gone || s.queued || m.cause != nil {
		return false
	}
	s.queued = true
	m.sendable = append(m.sendable, s)
	return m.wakeLocked()
}

// taken is told that a message was taken here: the other side may send more, once that is worth a
// frame.
func (s *streamed) taken(bytes int) {
	m := s.m
	m.mu.Lock()
	if s.gone {
		m.mu.Unlock()
		return
	}
	m.unread -= bytes
	s.unread -= bytes
	s.owed.grow(1, bytes)
	wake := false
	if m.cause == nil && (s.owed.messages >= windowMessages/2 || s.owed.bytes >= windowBytes/2) {
		s.receive.grow(s.owed.messages, s.owed.bytes)
		m.queue.add(appendCredit(m.queue.room(64), s.call, s.side(), s.owed.messages, s.owed.bytes), s.answer)
		s.owed = window{}
		wake = m.wakeLocked()
	}
	m.mu.Unlock()
	m.poke(wake)
}

// goneLocked ends this side's part of the call. What was received stays for who takes it.
func (m *Mux) goneLocked(s *streamed) {
	if s == nil || s.gone {
		return
	}
	m.unread -= s.unread
	s.gone, s.rest, s.partial, s.unread = true, nil, nil, 0
	m.streams[side(s.answer)]--
}

// Sides of a Mux.streams.
func side(answer bool) int {
	if answer {
		return 1
	}
	return 0
}

// takenFrom is a callback that is due when no lock is held.
type takenFrom struct {
	fn    func(int)
	bytes int
}

// pumpLocked queues what streams have to send, a part of each in turn. What it returns is to be
// called without the lock.
func (m *Mux) pumpLocked() (due []takenFrom) {
	for len(m.sendable) > 0 && m.queue.bytes < pumpBytes {
		s := m.sendable[0]
		m.sendable[0] = nil
		m.sendable = m.sendable[1:]
		s.queued = false
		if s.gone {
			continue
		}
		if !s.part {
			if waiting, _ := s.out.Waiting(); waiting > 0 && !s.send.open() {
				continue // Until the other side has taken some.
			}
			msg, ok, over, taken := s.out.take()
			if !ok {
				m.finishLocked(s, over)
				continue
			}
			if taken != nil {
				due = append(due, takenFrom{taken, len(msg)})
			}
			s.part, s.rest = true, msg
			s.send.spend(len(msg))
		}
		n, flags := len(s.rest), s.side()
		if n > partBytes {
			n, flags = partBytes, flags|flagPart
		}
		m.queue.add(appendMessage(m.queue.room(n+64), s.call, flags, s.rest[:n]), s.answer)
		s.rest = s.rest[n:]
		if flags&flagPart == 0 {
			s.part, s.rest = false, nil
		}
		s.queued = true
		m.sendable = append(m.sendable, s)
	}
	if len(m.sendable) == 0 {
		m.sendable = nil
	}
	return due
}

// finishLocked sends what follows the last message: the caller's end, or the reply.
func (m *Mux) finishLocked(s *streamed, over bool) {
	switch {
	case s.end != nil:
		r := &s.end.response
		m.queue.add(r.append(m.queue.room(r.head(s.end.status)), s.call, s.end.status, nil, 0), true)
		delete(m.taken, s.call)
		m.goneLocked(s)
	case over && !s.answer && !s.closed:
		s.closed = true
		m.queue.add(appendMessage(m.queue.room(64), s.call, s.side()|flagLast, nil), false)
	}
}

// replyLocked ends a streamed call of the other side once its messages are out.
func (m *Mux) replyLocked(s *streamed, r Response, status []byte) (wake bool) {
	r.Body = nil
	s.end = &end{r, status}
	if messages, _ := s.out.Waiting(); messages == 0 && !s.part {
		m.finishLocked(s, true) // It needs no room in the window.
		return m.wakeLocked()
	}
	return m.sendableLocked(s)
}

// streamLocked returns the stream that a frame of the other side is about, if it still is there.
func (m *Mux) streamLocked(call uint64, flags byte) *streamed {
	if flags&flagAnswering == 0 {
		if in := m.taken[call]; in != nil {
			return in.stream
		}
		return nil
	}
	if out := m.waiting[call]; out != nil {
		return out.stream
	}
	return nil
}

// takeStreamMessage takes a message, or a part of one, in a message of frames of so many bytes.
func (m *Mux) takeStreamMessage(call uint64, b []byte, message int) error {
	d := decoder{b: b}
	flags := d.byte()
	if d.err != nil || flags&^(flagAnswering|flagPart|flagLast) != 0 || flags&flagLast != 0 && (flags != flagLast || len(d.b) > 0) {
		return fmt.Errorf("message of stream %d: %w", call, errMalformed)
	}
	m.mu.Lock()
	s := m.streamLocked(call, flags)
	if s == nil || s.gone {
		m.mu.Unlock()
		return nil // It has ended here.
	}
	if flags&flagLast != 0 {
		m.mu.Unlock()
		s.in.Close()
		return nil
	}
	if s.partial == nil && !s.receive.open() || len(s.partial)+len(d.b) > MessageBytesMax {
		m.mu.Unlock()
		return fmt.Errorf("message of stream %d is more than was granted: %w", call, errMalformed)
	}
	if m.unread+len(d.b) > m.o.UnreadBytesMax {
		return m.overflow(s)
	}
	m.unread += len(d.b)
	s.unread += len(d.b)
	if flags&flagPart != 0 {
		s.partial = append(s.partial, d.b...)
		m.mu.Unlock()
		return nil
	}
	msg := own(d.b, message)
	if s.partial != nil {
		msg, s.partial = append(s.partial, d.b...), nil
	}
	s.receive.spend(len(msg))
	m.mu.Unlock()
	s.in.add(msg)
	return nil
}

// overflow ends the stream that would have this side keep more than it may of all of them. The
// caller holds mu, which it releases.
func (m *Mux) overflow(s *streamed) error {
	err := fault.New(fault.SlowConsumer, "the streams of one connection have more than %d bytes that nobody takes", m.o.UnreadBytesMax)
	if s.answer {
		in := m.taken[s.call]
		m.mu.Unlock()
		m.takeCancel(s.call)
		in.reply(ErrorResponse(err))
		return nil
	}
	out := m.waiting[s.call]
	delete(m.waiting, s.call)
	m.goneLocked(s)
	m.queue.add(appendEmpty(m.queue.room(64), kindCancel, s.call), false)
	wake := m.wakeLocked()
	m.mu.Unlock()
	m.poke(wake)
	out.finish(ErrorResponse(err))
	return nil
}

// takeCredit takes the permission to send more. The first of the side that answers says that the
// object has taken the call.
func (m *Mux) takeCredit(call uint64, b []byte) error {
	flags, messages, bytes, err := decodeCredit(b)
	if err != nil {
		return fmt.Errorf("credit: %w", err)
	}
	m.mu.Lock()
	s := m.streamLocked(call, flags)
	wake := false
	var begun *Pipe
	if s != nil && !s.gone {
		s.send.grow(messages, bytes)
		wake = m.sendableLocked(s)
		if !s.answer {
			begun = m.waiting[call].pipe
		}
	}
	m.mu.Unlock()
	m.poke(wake)
	if begun != nil {
		begun.Begin()
	}
	return nil
}

// errGreeting is why nothing is sent yet that not every release knows.
var errGreeting = errors.New("the other side has not said yet what it knows")

// refuseStreamLocked says why no streamed call can be made now.
func (m *Mux) refuseStreamLocked() error {
	switch {
	case !m.greeted:
		return &LostError{Cause: errGreeting}
	case m.features&featureStreams == 0:
		return fault.New(fault.UnknownMethod, "the node at the other end runs a release without streaming methods: upgrade it").With(fault.KindKey, fault.KindUnary)
	case m.streams[0] >= m.o.StreamsMax:
		return fault.New(fault.Overloaded, "too many streams on one connection: at most %d", m.o.StreamsMax)
	}
	return nil
}

// endStreams ends the streams of the other side that have begun with an error, after the messages that
// they have. Of one that has not begun nobody knows yet whether it runs.
func (m *Mux) endStreams(err error) {
	m.mu.Lock()
	var ins []*inbound
	for _, in := range m.taken {
		if in.stream != nil && !in.answered && in.Pipe.Begun() {
			ins = append(ins, in)
		}
	}
	m.mu.Unlock()
	for _, in := range ins {
		in.reply(ErrorResponse(err))
		in.stop(err)
	}
}
