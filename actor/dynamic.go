package actor

import (
	"context"
	"errors"
	"io"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/holdfast-io/holdfast/fault"
	"github.com/holdfast-io/holdfast/storage/value"
)

// Dynamic is the implementation of an object whose class does not say which methods it has. Everything
// else is as for other classes: it has the turn while it runs, and what it implements besides is asked
// for alike (Alarmer, Initializer, PreShutdowner, Woken).
//
// Unlike those of other classes, a handler may go on with what another has begun: whichever has the turn
// runs what is ready. So when the owner is lost, the callers of all those that had given up their turn
// are told that the outcome is unknown, also of those that did nothing themselves; and their request ids
// are recorded with every segment that may have writes of theirs.
type Dynamic interface {
	// Invoke runs a method. args is a CBOR array of arguments, and the reply one CBOR item, as in
	// docs/format/values.md; both are never changed. An error is as that of a method of a gRPC service; of
	// a method that there is not it is UNKNOWN_METHOD.
	Invoke(ctx context.Context, method string, args []byte) (reply []byte, err error)
	// Stream runs a method that is called with messages in both directions, and ends the stream when it
	// returns.
	Stream(ctx context.Context, method string, stream *Stream) error
}

// NewDynamicClass describes a class whose methods are not known beforehand. construct is called for each
// incarnation of each object, before its first event; what it returns is never called by two goroutines
// at once.
func NewDynamicClass(name string, construct func(*State) Dynamic) Class {
	return Class{Name: name, IdleTimeout: DefaultIdleTimeout, dynamic: true, construct: func(s *State) any { return construct(s) }}
}

// invoke runs an event of a dynamic class's method that is no stream.
func (i *incarnation) invoke(ctx context.Context, e *event, impl Dynamic) ([]byte, error) {
	args := e.call.Body
	switch {
	case e.call.JSON:
		var err error
		if args, err = value.ArgumentsFromJSON(args); err != nil {
			return nil, fault.New(fault.InvalidArgument, "arguments: %v", err)
		}
	case !e.call.Values:
		return nil, fault.New(fault.InvalidArgument, "class %s takes no protobuf messages: call it by holdfast.v1.Objects/Call, or by what calls with JSON", i.class.Name)
	}
	reply, err := impl.Invoke(ctx, e.call.Method, args)
	if err != nil {
		return nil, ownError(err)
	}
	if e.call.JSON {
		if reply, err = value.ToJSON(reply); err != nil {
			return nil, status.Errorf(codes.Internal, "reply of %s: %v; the call has run, and what it wrote is kept", e.call.Method, err)
		}
	}
	return reply, checkReply(e.call, reply)
}

// decodeValues reads the arguments of a call that are values into the one message of a gRPC method.
func decodeValues(args []byte, into proto.Message) error {
	items, err := value.SplitArguments(args)
	switch {
	case err != nil:
		return err
	case len(items) > 1:
		return errors.New("the method takes one argument")
	case len(items) == 0:
		return nil
	}
	if value.IsMessage(items[0]) {
		return value.Decode(items[0], into)
	}
	text, err := value.ToJSON(items[0])
	if err != nil {
		return err
	}
	return protojson.Unmarshal(text, into)
}

// encodeValue returns a gRPC method's reply as a value.
func encodeValue(reply proto.Message) ([]byte, error) {
	text, err := replyJSON.Marshal(reply)
	if err != nil {
		return nil, err
	}
	return value.FromJSON(text)
}

var replyJSON = protojson.MarshalOptions{EmitDefaultValues: true}

// Stream is a streamed call of a dynamic class. Messages are bytes, of at most 4 MiB each. Its methods are
// for who has the object's turn, but for Notify, and never change what they are given.
type Stream struct{ s *serverStream }

// Send sends a message. It does not wait: the message goes out with everything else that the event lets
// out, when what was written before it is durable (P2). Any event of the object may send. When too much
// waits for the stream's caller the stream ends with SLOW_CONSUMER, and that is what Send returns from
// then on; Room says whether there is room.
func (s *Stream) Send(msg []byte) error { return s.s.send(msg) }

// Recv waits for a message without the turn, as State.Wait does, and returns io.EOF behind the last. Only
// the stream's own handler may call it.
func (s *Stream) Recv() ([]byte, error) {
	return s.s.recv()
}

// TryRecv returns a message if there is one. The error is io.EOF behind the last.
func (s *Stream) TryRecv() (msg []byte, ok bool, err error) {
	msg, ok, over := s.s.e.call.Pipe.Take()
	if over {
		return nil, false, io.EOF
	}
	return msg, ok, nil
}

// Room says how many bytes more may be sent now; 0 also when too many messages wait.
func (s *Stream) Room() int {
	i, e := s.s.i, s.s.e
	i.mu.Lock()
	defer i.mu.Unlock()
	messages, bytes := e.call.Pipe.Waiting()
	if messages+e.stream.held >= SendMessagesMax {
		return 0
	}
	return max(SendBytesMax-bytes-e.stream.heldBytes, 0)
}

// Notify sets what is called, from any goroutine and without the turn, when there may be a message, or
// more room. It must not block.
func (s *Stream) Notify(fn func()) {
	if fn == nil {
		s.s.e.stream.notify.Store(nil)
		return
	}
	s.s.e.stream.notify.Store(&fn)
}
