package client_test

import (
	"context"
	"errors"
	"io"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/holdfast-io/holdfast/client"
	"github.com/holdfast-io/holdfast/fault"
	"github.com/holdfast-io/holdfast/peer/frame"
)

var bidi = &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}

// parrot says back what it hears, and ends with its caller.
func parrot(req *frame.Request, reply func(frame.Response)) func(error) {
	pipe := req.Pipe
	pipe.Begin()
	var ended atomic.Bool
	pipe.Up.OnReadable(func() {
		for {
			msg, ok, over := pipe.Up.Take()
			if !ok {
				if over && !ended.Swap(true) {
					reply(frame.Response{})
				}
				return
			}
			pipe.Down.Push(msg)
		}
	})
	return func(cause error) { reply(frame.ErrorResponse(cause)) }
}

func open(t *testing.T, ctx context.Context, o *client.Object, desc *grpc.StreamDesc) grpc.ClientStream { //nolint:revive // as other helpers
	t.Helper()
	stream, err := o.NewStream(ctx, desc, "/chat.v1.Chat/Talk")
	if err != nil {
		t.Fatal(err)
	}
	return stream
}

func TestStream(t *testing.T) {
	t.Parallel()
	requests := make(chan *frame.Request, 10)
	n := serve(t, "127.0.0.1:0", func(req *frame.Request, reply func(frame.Response)) func(error) {
		requests <- req
		return parrot(req, reply)
	})
	o := connect(t, n.addr).Name("Chat", "x")
	stream := open(t, metadata.AppendToOutgoingContext(t.Context(), "k", "v"), o, bidi)
	req := <-requests
	if req.Class != "Chat" || req.Method != "Talk" || req.Name != "x" || req.Metadata.Get("k")[0] != "v" || !req.Deadline.IsZero() {
		t.Errorf("got %+v", req)
	}
	for _, text := range []string{"one", "two"} {
		var got wrapperspb.StringValue
		if err := stream.SendMsg(wrapperspb.String(text)); err != nil {
			t.Fatal(err)
		}
		if err := stream.RecvMsg(&got); err != nil || got.GetValue() != text {
			t.Errorf("got %q, %v", got.GetValue(), err)
		}
	}
	_ = stream.CloseSend()
	if err := stream.RecvMsg(new(wrapperspb.StringValue)); !errors.Is(err, io.EOF) {
		t.Errorf("at the end: %v", err)
	}
	// The one answer of a client-streaming method comes with the end.
	stream = open(t, t.Context(), o, &grpc.StreamDesc{ClientStreams: true})
	_ = stream.SendMsg(wrapperspb.String("all"))
	_ = stream.CloseSend()
	var got wrapperspb.StringValue
	if err := stream.RecvMsg(&got); err != nil || got.GetValue() != "all" {
		t.Errorf("got %q, %v", got.GetValue(), err)
	}
	// The caller may leave.
	ctx, cancel := context.WithCancel(t.Context())
	stream = open(t, ctx, o, bidi)
	cancel()
	if err := stream.RecvMsg(&got); status.Code(err) != codes.Canceled {
		t.Errorf("got %v", err)
	}
}

func TestStreamIsOpenedAgainUntilItHasBegun(t *testing.T) {
	t.Parallel()
	var tries atomic.Int32
	n := serve(t, "127.0.0.1:0", func(req *frame.Request, reply func(frame.Response)) func(error) {
		switch tries.Add(1) {
		case 1:
			reply(frame.ErrorResponse(fault.New(fault.NoOwner, "not now")))
		case 2:
			req.Pipe.Begin()
			reply(frame.ErrorResponse(fault.New(fault.OwnerChanged, "moved")))
		default:
			reply(frame.ErrorResponse(fault.New(fault.UnknownMethod, "none")))
		}
		return nil
	})
	o := connect(t, n.addr).Name("Chat", "x")
	stream := open(t, t.Context(), o, bidi)
	if err := stream.RecvMsg(new(wrapperspb.StringValue)); fault.ReasonOf(err) != fault.OwnerChanged {
		t.Errorf("got %v", err)
	}
	if _, err := o.NewStream(t.Context(), bidi, "Talk"); fault.ReasonOf(err) != fault.UnknownMethod {
		t.Errorf("got %v", err)
	}
	if got := tries.Load(); got != 3 {
		t.Errorf("%d tries", got)
	}
}

func TestStreamEndsWithTheConnection(t *testing.T) {
	t.Parallel()
	n := serve(t, "127.0.0.1:0", parrot)
	o := connect(t, n.addr).Name("Chat", "x")
	stream := open(t, t.Context(), o, bidi)
	n.stop()
	if err := stream.RecvMsg(new(wrapperspb.StringValue)); fault.ReasonOf(err) != fault.OwnerChanged {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := o.NewStream(ctx, bidi, "Talk"); status.Code(err) != codes.Canceled {
		t.Errorf("got %v", err)
	}
}
