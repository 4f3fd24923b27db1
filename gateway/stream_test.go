package gateway_test

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/holdfast-io/holdfast/fault"
	"github.com/holdfast-io/holdfast/peer/frame"
)

const (
	follow = "/feed.v1.Feed/Follow"
	others = "/other.v1.Other/Do"
)

var both = &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}

// open opens a stream of a client.
func (w *world) open(ctx context.Context, desc *grpc.StreamDesc, method string, md ...string) grpc.ClientStream {
	w.t.Helper()
	if md == nil {
		md = []string{"holdfast-name", "x"}
	}
	stream, err := w.conn.NewStream(metadata.AppendToOutgoingContext(ctx, md...), desc, method)
	if err != nil {
		w.t.Fatal(err)
	}
	return stream
}

func say(t *testing.T, stream grpc.ClientStream, text string) {
	t.Helper()
	if err := stream.SendMsg(wrapperspb.String(text)); err != nil {
		t.Fatal(err)
	}
}

func hears(t *testing.T, stream grpc.ClientStream, want string) {
	t.Helper()
	var got wrapperspb.StringValue
	if err := stream.RecvMsg(&got); err != nil || got.GetValue() != want {
		t.Errorf("heard %q, %v, want %q", got.GetValue(), err, want)
	}
}

// took is the next message that the object gets; empty at the caller's end.
func (c *routed) took(t *testing.T) string {
	t.Helper()
	readable := make(chan struct{}, 1)
	c.Pipe.Up.OnReadable(func() {
		select {
		case readable <- struct{}{}:
		default:
		}
	})
	for {
		msg, ok, over := c.Pipe.Up.Take()
		if ok {
			return strings.TrimLeft(string(msg), "\n\x00\x01\x02\x03\x04\x05\x06\x07\x08")
		}
		if over {
			return ""
		}
		await(t, readable, "no message came")
	}
}

func (c *routed) says(t *testing.T, text string) {
	t.Helper()
	if !c.Pipe.Down.Push(append([]byte{10, byte(len(text))}, text...)) {
		t.Error("too many messages wait")
	}
}

func TestStreamPassesThrough(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
	defer cancel()
	for _, method := range []string{"/chat.v1.Chat/Talk", others} { // Of a class here, and elsewhere.
		stream := w.open(ctx, both, method, "holdfast-name", "x", "k", "v")
		call := w.next()
		if call.Method != method || call.Name != "x" || call.Metadata.Get("k")[0] != "v" || call.Deadline.IsZero() || call.Pipe == nil {
			t.Errorf("routed %+v", call.Request)
		}
		call.Pipe.Begin()
		if _, err := stream.Header(); err != nil { // It comes before any message.
			t.Fatal(err)
		}
		call.says(t, "hello")
		hears(t, stream, "hello")
		say(t, stream, "one")
		say(t, stream, "two")
		for _, want := range []string{"one", "two"} {
			if got := call.took(t); got != want {
				t.Errorf("the object heard %q, want %q", got, want)
			}
		}
		if err := stream.CloseSend(); err != nil {
			t.Fatal(err)
		}
		if got := call.took(t); got != "" {
			t.Errorf("the object heard %q, want the end", got)
		}
		call.says(t, "bye")
		call.reply(frame.Response{})
		hears(t, stream, "bye")
		if err := stream.RecvMsg(new(wrapperspb.StringValue)); !errors.Is(err, io.EOF) {
			t.Errorf("at the end: %v", err)
		}
	}
}

func TestStreamErrorsKeepTheirReason(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	stream := w.open(t.Context(), &grpc.StreamDesc{ServerStreams: true}, follow)
	say(t, stream, "from the start")
	_ = stream.CloseSend()
	call := w.next()
	call.Pipe.Begin()
	call.says(t, "one")
	call.reply(frame.ErrorResponse(fault.New(fault.OwnerChanged, "moved")))
	hears(t, stream, "one")
	refuses(t, stream.RecvMsg(new(wrapperspb.StringValue)), fault.OwnerChanged, "moved")

	stream = w.open(t.Context(), both, follow, "k", "v")
	refuses(t, stream.RecvMsg(new(wrapperspb.StringValue)), fault.MissingObject, "holdfast-name")
	stream = w.open(t.Context(), both, "/holdfast.system.v1.Hidden/Get")
	refuses(t, stream.RecvMsg(new(wrapperspb.StringValue)), fault.UnknownClass, "reserved")
	w.routedNone()
}

func TestStreamMessageSizeIsBounded(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	stream := w.open(t.Context(), both, follow)
	call := w.next()
	call.Pipe.Begin()
	say(t, stream, strings.Repeat("x", frame.MessageBytesMax))
	refuses(t, stream.RecvMsg(new(wrapperspb.StringValue)), fault.RequestTooLarge, "4194304")
	_ = await(t, call.canceled, "the object was not told")
}

func TestCallerEndsItsStream(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx, cancel := context.WithCancel(t.Context())
	stream := w.open(ctx, both, follow)
	call := w.next()
	call.Pipe.Begin()
	cancel()
	_ = await(t, call.canceled, "the object was not told")
	if err := stream.RecvMsg(new(wrapperspb.StringValue)); status.Code(err) != codes.Canceled {
		t.Errorf("got %v", err)
	}
	// What comes from now on goes nowhere, and is no reason to end anything.
	for range 2 * frame.FlowMessagesMax {
		call.says(t, "late")
	}
}

// A slow caller is not waited for at the end of the node.
func TestStopEndsStreams(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	stream := w.open(t.Context(), both, follow)
	call := w.next()
	call.Pipe.Begin()
	call.says(t, "one")
	hears(t, stream, "one")
	stopped := w.stopping()
	refuses(t, stream.RecvMsg(new(wrapperspb.StringValue)), fault.OwnerChanged, "stopping")
	await(t, stopped, "the gateway does not stop")
	_ = await(t, call.canceled, "the object was not told")
}

// A method of a class that runs elsewhere is found to be unary once, whatever the size of its request.
func TestUnaryMethodOfAnUnknownServiceIsLearned(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	large := strings.Repeat("x", frame.MessageBytesMax+1)
	invoke := func(text string) <-chan error {
		return async(t, func() error {
			var reply wrapperspb.StringValue
			ctx := metadata.AppendToOutgoingContext(t.Context(), "holdfast-name", "x")
			err := w.conn.Invoke(ctx, others, wrapperspb.String(text), &reply)
			if err == nil && reply.GetValue() != "reply" {
				t.Errorf("got %q", reply.GetValue())
			}
			return err
		})
	}
	answer := func(size int) {
		t.Helper()
		call := w.next()
		if call.Pipe != nil || len(call.Body) < size {
			t.Errorf("routed a body of %d bytes, pipe %v", len(call.Body), call.Pipe)
		}
		call.reply(frame.Response{Body: []byte("\n\x05reply")})
	}
	result := invoke(large)
	w.next().reply(frame.ErrorResponse(fault.New(fault.UnknownMethod, "is unary").With(fault.KindKey, fault.KindUnary)))
	answer(len(large))
	if err := await(t, result, "no answer"); err != nil {
		t.Fatal(err)
	}
	result = invoke("small") // Known by now.
	answer(5)
	if err := await(t, result, "no answer"); err != nil {
		t.Fatal(err)
	}
	result = invoke("small")
	w.next().reply(frame.ErrorResponse(fault.New(fault.UnknownMethod, "streams").With(fault.KindKey, fault.KindStream)))
	refuses(t, await(t, result, "no answer"), fault.UnknownMethod, "streams")
	stream := w.open(t.Context(), both, others) // A new release of the class.
	call := w.next()
	if call.Pipe == nil {
		t.Fatal("still taken for a unary method")
	}
	call.reply(frame.Response{})
	if err := stream.RecvMsg(new(wrapperspb.StringValue)); !errors.Is(err, io.EOF) {
		t.Errorf("got %v", err)
	}
}
