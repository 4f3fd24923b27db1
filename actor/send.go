package actor

import (
	"sync/atomic"

	"github.com/holdfast-io/holdfast/fault"
)

// Bounds of streams.
const (
	// StreamsMax is how many streams an object may have. Over it: OVERLOADED.
	StreamsMax = 16384
	// SendMessagesMax and SendBytesMax bound what an object has sent on a stream and its caller's side
	// has not taken. The stream that would exceed them ends with SLOW_CONSUMER.
	SendMessagesMax = 1024
	SendBytesMax    = 4 << 20
)

// send is a message on its way to a stream.
type send struct {
	to  *event
	msg []byte
}

// streamState is what a stream has besides an event.
type streamState struct {
	held, heldBytes int         // sent and not in the pipe yet
	draining        atomic.Bool // in WaitSent
	notify          atomic.Pointer[func()]
}

// notified tells the class, if it wants to know.
func (s *streamState) notified() {
	if fn := s.notify.Load(); fn != nil {
		(*fn)()
	}
}

func errStreamMoved() error {
	return fault.New(fault.OwnerChanged, "the object's owner changed; open the stream again, what it wrote before may or may not have taken effect")
}

// send takes a message that the running event sends on a stream.
func (m *machine) send(to *event, msg []byte) {
	to.stream.held++
	to.stream.heldBytes += len(msg)
	m.open = append(m.open, send{to, msg})
}

// sent takes what was sent in the open segment.
func (m *machine) sent() []send {
	sends := m.open
	m.open = nil
	return sends
}

// drop counts messages that go nowhere.
func (m *machine) drop(sends []send) {
	for _, s := range sends {
		m.dropped += len(s.msg)
	}
}

// hangUp ends a stream whose handler has not returned. slow says that what waits for its caller is
// dropped.
func (m *machine) hangUp(e *event, err error, slow bool) {
	if e.answered {
		return
	}
	e.answered, e.why = true, err
	m.answers = append(m.answers, answer{call: e.call, result: Result{Err: err}, slow: slow})
}

// pushed counts off what is in the pipes.
func (m *machine) pushed(sends []send) {
	for _, s := range sends {
		s.to.stream.held--
		s.to.stream.heldBytes -= len(s.msg)
	}
}

// outbox keeps answers in order that have to be: a stream's messages, and its end behind them. Others
// are sent by whoever finds them. Guarded by object.mu.
type outbox struct {
	answers []answer
	sending bool
}

// add takes the answers, if they are to be sent in order.
func (b *outbox) add(answers []answer) (ordered bool) {
	for i := 0; i < len(answers) && !ordered; i++ {
		ordered = answers[i].inOrder || len(answers[i].sends) > 0 || answers[i].call != nil && answers[i].call.Pipe != nil
	}
	if ordered {
		b.answers = append(b.answers, answers...)
	}
	return ordered
}

// sendsMax is how many messages are sent by whoever happens to open the gate, which may be the node's
// one loop.
const sendsMax = 64

// sendInOrder sends what is in the outbox, or leaves it to who is at it.
func (o *object) sendInOrder() {
	o.mu.Lock()
	if o.outbox.sending || len(o.outbox.answers) == 0 {
		o.mu.Unlock()
		return
	}
	o.outbox.sending = true
	n := 0
	for i := range o.outbox.answers {
		n += len(o.outbox.answers[i].sends)
	}
	o.mu.Unlock()
	if n > sendsMax {
		o.shard.manager.wg.Go(o.drainOutbox)
		return
	}
	o.drainOutbox()
}

func (o *object) drainOutbox() {
	for {
		o.mu.Lock()
		answers := o.outbox.answers
		o.outbox.answers = nil
		if len(answers) == 0 {
			o.outbox.sending = false
			o.mu.Unlock()
			return
		}
		o.mu.Unlock()
		for i := range answers {
			if sends := answers[i].sends; len(sends) > 0 {
				o.push(sends)
			}
			o.send(answers[i : i+1])
		}
	}
}

// push puts messages into their pipes, and hangs up on those that have no room.
func (o *object) push(sends []send) {
	o.class.tally.count(o.shard.id, func(t *Tally) { t.MessagesSent += uint64(len(sends)) })
	var slow []*event
	for _, s := range sends {
		if !s.to.call.Pipe.Push(s.msg) {
			o.shard.manager.queued.Add(-int64(len(s.msg)))
			slow = append(slow, s.to)
		}
	}
	o.mu.Lock()
	o.m.pushed(sends)
	for _, s := range sends {
		if s.to.stream.draining.Load() {
			o.awake(s.to)
		}
	}
	for _, e := range slow {
		o.m.hangUp(e, errSlowConsumer(), true)
	}
	o.unlock()
}

func errSlowConsumer() error {
	return fault.New(fault.SlowConsumer, "the caller takes the stream's messages too slowly: at most %d messages and %d bytes wait; what waited is dropped", SendMessagesMax, SendBytesMax)
}

// endStream tells a stream's end.
func (o *object) endStream(a answer) {
	if a.slow {
		a.call.Pipe.Discard()
	}
	o.shard.manager.done(a.call, a.result)
	a.call.Cancel(errStreamEnded) // The handler may go on: it is told by its context.
}

// crowded refuses a stream that is one too many.
func (o *object) crowded(e *event) error {
	if e.call.Pipe == nil {
		return nil
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.m.streams > StreamsMax {
		return fault.New(fault.Overloaded, "the object has too many streams: at most %d", StreamsMax)
	}
	return nil
}
