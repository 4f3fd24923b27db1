package actor

import (
	"context"
	"errors"
	"io"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/holdfast-io/holdfast/fault"
)

// errStreamEnded is why the context of a stream's handler ends when the stream has.
var errStreamEnded = errors.New("the stream has ended")

// serve runs an event of a streaming method.
func (i *incarnation) serve(ctx *eventContext, e *event) ([]byte, error) {
	pipe := e.call.Pipe
	pipe.OnReadable(func() {
		i.poke(e)
		e.stream.notified()
	})
	pipe.OnTaken(func(bytes int) {
		i.shard.manager.queued.Add(-int64(bytes))
		if e.stream.draining.Load() {
			i.poke(e)
		}
		e.stream.notified()
	})
	pipe.Begin()
	i.class.tally.count(i.shard.id, func(t *Tally) { t.Streams++ })
	defer i.class.tally.count(i.shard.id, func(t *Tally) { t.Streams-- })
	stream := &serverStream{i, ctx, e}
	var err error
	if impl, ok := i.impl.(Dynamic); ok && i.class.dynamic {
		err = impl.Stream(ctx, e.call.Method, &Stream{stream})
	} else {
		err = i.class.streams[e.call.Method].Handler(i.impl, stream)
	}
	pipe.OnReadable(nil)
	e.stream.notify.Store(nil)
	if err != nil {
		return nil, ownError(err)
	}
	return nil, nil
}

// serverStream is a stream as the class sees it. Streams have neither header nor trailer.
type serverStream struct {
	i   *incarnation
	ctx context.Context //nolint:containedctx // the handler's
	e   *event
}

// Context implements grpc.ServerStream.
func (s *serverStream) Context() context.Context { return s.ctx }

var errNoHeader = status.Error(codes.Unimplemented, "streams of objects carry no header: send what is in it as a message")

// SetHeader implements grpc.ServerStream.
func (*serverStream) SetHeader(md metadata.MD) error {
	if len(md) > 0 {
		return errNoHeader
	}
	return nil
}

// SendHeader implements grpc.ServerStream.
func (s *serverStream) SendHeader(md metadata.MD) error { return s.SetHeader(md) }

// SetTrailer implements grpc.ServerStream.
func (*serverStream) SetTrailer(metadata.MD) {}

// SendMsg implements grpc.ServerStream. It does not wait: the message goes out with everything else
// that the event lets out, when what was written before it is durable (P2). Any event of the object
// may send on any of its streams while it has the turn; a transaction that is rolled back takes nothing
// back that was sent in it. When too much waits for the stream's caller,
// the stream ends with SLOW_CONSUMER, and that is what SendMsg returns from then on.
func (s *serverStream) SendMsg(m any) error {
	out, ok := m.(proto.Message)
	if !ok {
		return status.Errorf(codes.Internal, "message type %T is no protobuf message", m)
	}
	msg, err := proto.Marshal(out)
	if err != nil {
		return err
	}
	return s.send(msg)
}

func (s *serverStream) send(msg []byte) error {
	if len(msg) > SendBytesMax {
		return fault.New(fault.ValueTooLarge, "message of a stream: at most %d bytes, has %d", SendBytesMax, len(msg))
	}
	return s.i.sendTo(s.e, msg)
}

func (i *incarnation) sendTo(to *event, msg []byte) error {
	i.mu.Lock()
	if err := i.turn(); err != nil {
		i.mu.Unlock()
		return err
	}
	if err := to.gone(); err != nil {
		i.mu.Unlock()
		return err
	}
	messages, bytes := to.call.Pipe.Waiting()
	if messages+to.stream.held >= SendMessagesMax || bytes+to.stream.heldBytes+len(msg) > SendBytesMax {
		err := errSlowConsumer()
		i.m.hangUp(to, err, true)
		i.unlock()
		return err
	}
	manager := i.shard.manager
	if manager.queued.Add(int64(len(msg))) > manager.cfg.QueuedBytesMax {
		manager.queued.Add(-int64(len(msg)))
		err := fault.New(fault.SlowConsumer, "the node's queues are full: at most %d bytes wait; what waited for the stream is dropped", manager.cfg.QueuedBytesMax)
		i.m.hangUp(to, err, true)
		i.unlock()
		return err
	}
	i.m.send(to, msg)
	i.mu.Unlock()
	return nil
}

// gone says why nothing more can be sent on a stream.
func (e *event) gone() error {
	if e.why != nil {
		return e.why
	}
	if e.answered {
		return status.Error(codes.Canceled, errStreamEnded.Error())
	}
	if cause := e.call.canceledBy(); cause != nil {
		return status.FromContextError(cause).Err()
	}
	return nil
}

// RecvMsg implements grpc.ServerStream. It gives up the turn while it waits, so that other events of
// the object run; what the event has written so far becomes a segment of its own. Only the stream's
// own handler may call it, and not inside a transaction.
func (s *serverStream) RecvMsg(m any) error {
	into, ok := m.(proto.Message)
	if !ok {
		return status.Errorf(codes.Internal, "message type %T is no protobuf message", m)
	}
	msg, err := s.recv()
	if err != nil {
		return err
	}
	if err := proto.Unmarshal(msg, into); err != nil {
		return fault.New(fault.InvalidArgument, "message: not a %s: %v", into.ProtoReflect().Descriptor().FullName(), err)
	}
	return nil
}

func (s *serverStream) recv() ([]byte, error) {
	for {
		if err := s.i.mayWait(s.ctx, s.e, "RecvMsg"); err != nil {
			return nil, err
		}
		msg, ok, over := s.e.call.Pipe.Take()
		switch {
		case ok:
			s.i.class.tally.count(s.i.shard.id, func(t *Tally) { t.MessagesReceived++ })
			return msg, nil
		case over:
			return nil, io.EOF
		}
		if err := s.i.pause(s.ctx, s.e, nil, 0); err != nil {
			return nil, err
		}
	}
}

// WaitSent gives up the turn until the caller of a stream has taken half of what may wait for it, and
// so makes room for as much again. A handler that has a long backlog to send calls it now and then, so
// as not to be its own SLOW_CONSUMER. ctx is the stream's.
func (s *State) WaitSent(ctx context.Context) error {
	i, e := s.o, eventOf(ctx)
	if e == nil || e.call.Pipe == nil {
		return status.Error(codes.Internal, "WaitSent: the context is not that of a stream")
	}
	for {
		if err := i.mayWait(ctx, e, "WaitSent"); err != nil {
			return err
		}
		e.stream.draining.Store(true)
		i.mu.Lock()
		messages, bytes := e.call.Pipe.Waiting()
		low := messages+e.stream.held <= SendMessagesMax/2 && bytes+e.stream.heldBytes <= SendBytesMax/2
		i.mu.Unlock()
		var err error
		if !low {
			err = i.pause(ctx, e, nil, 0)
		}
		e.stream.draining.Store(false)
		if low || err != nil {
			return err
		}
	}
}
