package router_test

import (
	"context"
	"slices"
	"testing"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"google.golang.org/grpc/metadata"

	"github.com/holdfast-io/holdfast/actor"
	"github.com/holdfast-io/holdfast/peer/frame"
	"github.com/holdfast-io/holdfast/router"
	"github.com/holdfast-io/holdfast/tracing"
)

// runTraced is run with a Router that begins a trace wherever one may begin.
func runTraced(t *testing.T, test func(t *testing.T, w *world, spans *tracetest.SpanRecorder)) {
	t.Helper()
	r := tracetest.NewSpanRecorder()
	tracer := tracing.New(sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(r)))
	runWith(t, func(cfg *router.Config) { cfg.Tracer = tracer }, func(t *testing.T, w *world) { test(t, w, r) })
}

// Each try is a span of its own, and why it was not the last is said.
func TestTriesAreTraced(t *testing.T) {
	t.Parallel()
	runTraced(t, func(t *testing.T, w *world, spans *tracetest.SpanRecorder) {
		w.lead(2, 5)
		w.onCall = func(s *sent) {
			if len(w.sent()) == 1 {
				s.done(noOwner(owner{}))
			} else {
				s.done(ok("reply"))
			}
		}
		w.route(named()).says("reply")
		var names []string
		parents := make(map[string]bool)
		for _, s := range spans.Ended() {
			names = append(names, s.Name())
			if s.Name() == "Counter/Get" && (len(s.Events()) != 1 || s.Events()[0].Name != "retry") {
				t.Errorf("events %v, want one retry", s.Events())
			}
		}
		for _, s := range w.sent() {
			parents[s.req.Metadata.Get("traceparent")[0]] = true
		}
		if want := []string{"forward", "forward", "Counter/Get"}; !slices.Equal(names, want) || len(parents) != 2 {
			t.Errorf("got %v, want %v; sent with %v", names, want, parents)
		}
	})
}

// A trace begins where a call comes in, and nowhere else.
func TestWhereTracesBegin(t *testing.T) {
	t.Parallel()
	for what, tt := range map[string]struct {
		change func(req *frame.Request)
		want   bool
	}{
		"from outside":         {func(*frame.Request) {}, true},
		"from another node":    {func(req *frame.Request) { req.Hops, req.Class = 1, counter.UniqueKey }, false},
		"of an object":         {func(req *frame.Request) { req.Chain = []frame.Link{{Event: 1}} }, false},
		"of the cluster's own": {func(req *frame.Request) { req.Class = "holdfast.Facts" }, false},
		"not sampled by its caller": {func(req *frame.Request) {
			req.Metadata = metadata.Pairs("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00")
		}, false},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			runTraced(t, func(t *testing.T, w *world, spans *tracetest.SpanRecorder) {
				w.lead(self, 5)
				w.classes["holdfast.Facts"] = router.ClassFacts{Name: "holdfast.Facts", UniqueKey: "facts"}
				w.onLocal = func(c *actor.Call) {
					if (c.Span != nil) != tt.want {
						t.Errorf("the object is told of a span: %t", c.Span != nil)
					}
					c.Done(actor.Result{})
				}
				req := named()
				tt.change(req)
				w.route(req).get()
				if len(w.delivered()) != 1 || len(spans.Ended()) > 0 != tt.want {
					t.Errorf("delivered %d times, %d spans", len(w.delivered()), len(spans.Ended()))
				}
			})
		})
	}
}

// What an object calls belongs to the span of the context that it calls with, whatever its metadata says.
func TestCallsOfObjectsContinueTheTrace(t *testing.T) {
	t.Parallel()
	runTraced(t, func(t *testing.T, w *world, spans *tracetest.SpanRecorder) {
		w.lead(self, 5)
		w.onLocal = func(c *actor.Call) { c.Done(actor.Result{}) }
		ctx, parent := sdktrace.NewTracerProvider().Tracer("test").Start(context.Background(), "handler")
		defer parent.End()
		ctx = metadata.AppendToOutgoingContext(ctx, "traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
		w.r.Call(ctx, outgoing(), func(actor.Result) {})
		got := spans.Ended()
		if len(got) != 1 || got[0].Parent().SpanID() != parent.SpanContext().SpanID() {
			t.Errorf("got %v, want a part of %v", got, parent.SpanContext())
		}
	})
}
