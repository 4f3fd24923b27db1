package frame

import (
	"context"
	"io"
	"sync"

	"github.com/holdfast-io/holdfast/fault"
)

// Limits of streamed calls.
const (
	// MessageBytesMax is the size of one message of a stream: what gRPC's clients take by default.
	MessageBytesMax = 4 << 20
	// FlowMessagesMax and FlowBytesMax bound what waits in one direction of a stream at one node.
	FlowMessagesMax = 1024
	FlowBytesMax    = 4 << 20
	// Of a stream, the sender may be ahead of the receiver by so much; the message that reaches the
	// limit in bytes is sent as a whole still.
	windowMessages = 128
	windowBytes    = 64 << 10
)

// Pipe is the messages of one streamed call at one node, between whoever makes the call and whoever
// answers it: the call's own request opens it, and its reply ends it. The caller puts into Up, the
// other side into Down.
//
// Nothing is taken out of Up before Begin: until then the call can be made again elsewhere, with
// the same Pipe.
type Pipe struct {
	Up, Down Flow

	mu      sync.Mutex
	begun   bool
	onBegin func()
}

// Begin says that the object has taken the call: from here on it is not made again.
func (p *Pipe) Begin() {
	p.mu.Lock()
	fn := p.onBegin
	if p.begun {
		fn = nil
	}
	p.begun = true
	p.mu.Unlock()
	if fn != nil {
		fn()
	}
}

// Begun says whether the object has taken the call.
func (p *Pipe) Begun() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.begun
}

// OnBegin sets what Begin calls. It is the caller's, who sets it before the call is made.
func (p *Pipe) OnBegin(fn func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.onBegin = fn
}

// Flow is one direction of a Pipe: a bounded queue of messages. Messages belong to nobody: they are
// not changed any more. Methods are safe for concurrent use; callbacks are called without locks of
// the Flow, possibly when there is nothing (any more), and must not block.
type Flow struct {
	mu       sync.Mutex
	messages [][]byte
	bytes    int
	closed   bool
	dropped  bool // nobody takes any more
	readable func()
	taken    func(bytes int)
}

// Push adds a message, which goes nowhere when nobody takes any more. It returns false, and adds
// nothing, when too many wait. It is for one goroutine at a time.
func (f *Flow) Push(msg []byte) bool {
	f.mu.Lock()
	if len(f.messages) >= FlowMessagesMax || f.bytes+len(msg) > FlowBytesMax {
		f.mu.Unlock()
		return false
	}
	f.mu.Unlock()
	f.add(msg)
	return true
}

// add adds a message whose number and size are bounded otherwise.
func (f *Flow) add(msg []byte) {
	f.mu.Lock()
	if f.closed || f.dropped {
		taken := f.taken
		f.mu.Unlock()
		if taken != nil {
			taken(len(msg)) // By nobody.
		}
		return
	}
	f.messages = append(f.messages, msg)
	f.bytes += len(msg)
	fn := f.readable
	f.mu.Unlock()
	if fn != nil {
		fn()
	}
}

// Close says that no more messages come. Those that wait can still be taken.
func (f *Flow) Close() {
	f.mu.Lock()
	f.closed = true
	fn := f.readable
	f.mu.Unlock()
	if fn != nil {
		fn()
	}
}

// Discard forgets the messages that wait, and those to come.
func (f *Flow) Discard() {
	f.mu.Lock()
	bytes, taken, readable := f.bytes, f.taken, f.readable
	f.messages, f.bytes, f.dropped = nil, 0, true
	f.mu.Unlock()
	if taken != nil {
		taken(bytes)
	}
	if readable != nil {
		readable()
	}
}

// Take takes the oldest message. over says that there is none and none comes.
func (f *Flow) Take() (msg []byte, ok, over bool) {
	msg, ok, over, fn := f.take()
	if fn != nil {
		fn(len(msg))
	}
	return msg, ok, over
}

// take returns what is to be called afterwards, for who holds a lock.
func (f *Flow) take() (msg []byte, ok, over bool, taken func(int)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.messages) == 0 {
		return nil, false, f.closed, nil
	}
	msg = f.messages[0]
	f.messages[0] = nil
	if f.messages = f.messages[1:]; len(f.messages) == 0 {
		f.messages = nil
	}
	f.bytes -= len(msg)
	return msg, true, false, f.taken
}

// Waiting returns how many messages wait, and how large they are together.
func (f *Flow) Waiting() (messages, bytes int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.messages), f.bytes
}

// OnReadable sets what is called when there may be something to take, and calls it at once if there
// is. It is of who takes.
func (f *Flow) OnReadable(fn func()) {
	f.mu.Lock()
	f.readable = fn
	now := fn != nil && (len(f.messages) > 0 || f.closed)
	f.mu.Unlock()
	if now {
		fn()
	}
}

// OnTaken sets what is called when messages were taken, with their bytes: those of several messages
// only by Discard. It is of who puts in.
func (f *Flow) OnTaken(fn func(bytes int)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.taken = fn
}

// Caller is the caller's end of a streamed call, for callers that can wait. Send and CloseSend may be
// used beside Recv, each by one goroutine at a time.
type Caller struct {
	Pipe Pipe

	begun    chan struct{}
	ended    chan struct{}
	end      Response // once ended is closed
	readable chan struct{}
	room     chan struct{}
}

// NewCaller returns a Caller; the call's request is given its Pipe, and End as the reply function.
func NewCaller() *Caller {
	c := &Caller{begun: make(chan struct{}), ended: make(chan struct{}), readable: make(chan struct{}, 1), room: make(chan struct{}, 1)}
	c.Pipe.OnBegin(func() { close(c.begun) })
	c.Pipe.Down.OnReadable(func() { signal(c.readable) })
	c.Pipe.Up.OnTaken(func(int) { signal(c.room) })
	return c
}

func signal(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// End takes the reply, which ends the call.
func (c *Caller) End(r Response) {
	c.end = r
	close(c.ended)
}

// Begun is closed when the object has taken the call.
func (c *Caller) Begun() <-chan struct{} { return c.begun }

// Ended is closed when the call has ended. Messages that came before may still wait for Recv.
func (c *Caller) Ended() <-chan struct{} { return c.ended }

// Send sends a message, and waits while too many wait. The message must not be changed afterwards.
// When the call has ended it may return io.EOF, and Recv why. A message over the limit is refused once
// the call turns out to be one: it may be refused as a stream, and made again as a call.
func (c *Caller) Send(ctx context.Context, msg []byte) error {
	if len(msg) > MessageBytesMax {
		select {
		case <-c.ended:
			c.Pipe.Up.add(msg)
			return nil
		case <-c.begun:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		return fault.New(fault.RequestTooLarge, "message of a stream: at most %d bytes, has %d", MessageBytesMax, len(msg))
	}
	for {
		if messages, bytes := c.Pipe.Up.Waiting(); messages < windowMessages && bytes < windowBytes {
			c.Pipe.Up.add(msg)
			return nil
		}
		select {
		case <-c.room:
		case <-c.ended:
			return io.EOF
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// CloseSend says that no more messages come.
func (c *Caller) CloseSend() { c.Pipe.Up.Close() }

// Recv returns the next message. At the end of the call it returns its error, or io.EOF.
func (c *Caller) Recv(ctx context.Context) ([]byte, error) {
	for {
		if msg, ok, _ := c.Pipe.Down.Take(); ok {
			return msg, nil
		}
		select {
		case <-c.readable:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-c.ended:
			if msg, ok, _ := c.Pipe.Down.Take(); ok {
				return msg, nil // It came just before.
			}
			if err := c.end.Err(); err != nil {
				return nil, err
			}
			return nil, io.EOF
		}
	}
}

// Answer returns the reply: the zero Response until the call has ended.
func (c *Caller) Answer() Response {
	select {
	case <-c.ended:
		return c.end
	default:
		return Response{}
	}
}
