package client_test

import (
	"context"
	"testing"
	"time"

	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/holdfast-io/holdfast/client"
	"github.com/holdfast-io/holdfast/fault"
	"github.com/holdfast-io/holdfast/peer/frame"
)

func connectTraced(t *testing.T, addr string) (*client.Client, *tracetest.SpanRecorder) {
	t.Helper()
	r := tracetest.NewSpanRecorder()
	c, err := client.New([]string{addr}, client.WithTracerProvider(sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(r))))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c, r
}

// ends waits for the only span.
func ends(t *testing.T, r *tracetest.SpanRecorder) sdktrace.ReadOnlySpan {
	t.Helper()
	for end := time.Now().Add(time.Minute); len(r.Ended()) == 0; <-time.After(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the span did not end")
		}
	}
	if n := len(r.Started()); n != 1 {
		t.Errorf("%d spans began", n)
	}
	return r.Ended()[0]
}

func TestCallsAreSpans(t *testing.T) {
	t.Parallel()
	tries := make(chan string, 2)
	n := serve(t, "127.0.0.1:0", func(req *frame.Request, reply func(frame.Response)) func(error) {
		tries <- req.Metadata.Get("traceparent")[0]
		if len(tries) == 1 {
			reply(frame.ErrorResponse(fault.New(fault.NoOwner, "not here")))
		} else {
			reply(frame.ErrorResponse(fault.New(fault.Panic, "it panicked")))
		}
		return nil
	})
	c, r := connectTraced(t, n.addr)
	if _, err := c.Name("Counter", "x").CallJSON(t.Context(), "Get", nil); fault.ReasonOf(err) != fault.Panic {
		t.Errorf("got %v", err)
	}
	s := ends(t, r)
	if first, second := <-tries, <-tries; first != second || first[3:35] != s.SpanContext().TraceID().String() {
		t.Errorf("sent with %s and %s, of the trace %s", first, second, s.SpanContext().TraceID())
	}
	if s.Name() != "Counter/Get" || s.Status().Code != codes.Error || len(s.Events()) != 1 || s.Events()[0].Name != "retry" {
		t.Errorf("got %s, %v, %v", s.Name(), s.Status(), s.Events())
	}
}

func TestStreamsAreSpans(t *testing.T) {
	t.Parallel()
	parents := make(chan int, 10)
	n := serve(t, "127.0.0.1:0", func(req *frame.Request, reply func(frame.Response)) func(error) {
		parents <- len(req.Metadata.Get("traceparent"))
		return parrot(req, reply)
	})
	for what, end := range map[string]func(cancel func()){"its end": func(func()) {}, "its caller": func(cancel func()) { cancel() }} {
		c, r := connectTraced(t, n.addr)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		stream := open(t, ctx, c.Name("Chat", "x"), bidi)
		if got := <-parents; got != 1 {
			t.Errorf("%d parents", got)
		}
		end(cancel)
		if ctx.Err() == nil {
			_ = stream.CloseSend()
			_ = stream.RecvMsg(&wrapperspb.StringValue{})
		}
		if s := ends(t, r); s.Name() != "Chat/Talk" || (s.Status().Code == codes.Error) != (ctx.Err() != nil) {
			t.Errorf("ended by %s: %s, %v", what, s.Name(), s.Status())
		}
	}
}
