package tracing_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc/metadata"

	"github.com/holdfast-io/holdfast/fault"
	"github.com/holdfast-io/holdfast/tracing"
)

func newTracer(root sdktrace.Sampler) (*tracing.Tracer, *tracetest.SpanRecorder) {
	r := tracetest.NewSpanRecorder()
	return tracing.New(sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(r), sdktrace.WithSampler(sdktrace.ParentBased(root)))), r
}

const (
	traceID   = "0af7651916cd43dd8448eb211c80319c"
	parent    = "00-" + traceID + "-b7ad6b7169203331-"
	sampled   = parent + "01"
	unsampled = parent + "00"
)

func TestReceiveContinuesWhatIsSampled(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		what        string
		traceparent []string
		root        bool
		sampler     sdktrace.Sampler
		want, ours  bool // there is a span; it begins a trace
	}{
		{"sampled by its caller", []string{sampled}, false, sdktrace.NeverSample(), true, false},
		{"not sampled by its caller", []string{unsampled}, true, sdktrace.AlwaysSample(), false, false},
		{"from outside, sampled", nil, true, sdktrace.AlwaysSample(), true, true},
		{"from outside, not sampled", nil, true, sdktrace.NeverSample(), false, false},
		{"from another node, without a trace", nil, false, sdktrace.AlwaysSample(), false, false},
		{"nonsense", []string{"nonsense"}, true, sdktrace.AlwaysSample(), true, true},
		{"nonsense from another node", []string{"nonsense"}, false, sdktrace.AlwaysSample(), false, false},
		{"two of them", []string{sampled, sampled}, false, sdktrace.AlwaysSample(), false, false},
	} {
		tracer, recorder := newTracer(tt.sampler)
		md := metadata.MD{"traceparent": tt.traceparent}
		span := tracer.Receive(md, tt.root, trace.SpanKindServer, "Get")
		span.End(nil)
		ended := recorder.Ended()
		if (span != nil) != tt.want || len(ended) > 0 != tt.want {
			t.Errorf("%s: got a span: %t, want %t", tt.what, span != nil, tt.want)
			continue
		}
		if tt.want && ended[0].Parent().IsValid() == tt.ours {
			t.Errorf("%s: parent %v", tt.what, ended[0].Parent())
		}
	}
}

// A caller's decision not to sample goes along, and what metadata said before of another span does not.
func TestSend(t *testing.T) {
	t.Parallel()
	for _, sampler := range []sdktrace.Sampler{sdktrace.AlwaysSample(), sdktrace.NeverSample()} {
		tracer, _ := newTracer(sampler)
		span, md := tracer.Send(t.Context(), metadata.MD{"traceparent": {sampled}, "tracestate": {"a=b"}, "k": {"v"}}, "C/Get")
		is := sampler.Description() == sdktrace.AlwaysSample().Description()
		flags := map[bool]string{true: "-01", false: "-00"}[is]
		if got := md["traceparent"]; len(got) != 1 || strings.Contains(got[0], traceID) || !strings.HasSuffix(got[0], flags) || len(md["tracestate"]) > 0 || md["k"][0] != "v" {
			t.Errorf("%s: leaves with %v", sampler.Description(), md)
		}
		if (span != nil) != is {
			t.Errorf("%s: got a span: %t", sampler.Description(), span != nil)
		}
		span.End(nil)
	}
	if md := tracing.Continue(t.Context(), nil); md != nil {
		t.Errorf("without a span: leaves with %v", md)
	}
}

func TestInjectLeavesWhatItIsGiven(t *testing.T) {
	t.Parallel()
	tracer, _ := newTracer(sdktrace.AlwaysSample())
	md := metadata.MD{"traceparent": {sampled}}
	span := tracer.Receive(md, false, trace.SpanKindServer, "Get")
	defer span.End(nil)
	child := span.Child(trace.SpanKindClient, "forward")
	defer child.End(nil)
	out := child.Inject(md)
	if md["traceparent"][0] != sampled || out["traceparent"][0] == sampled || !strings.Contains(out["traceparent"][0], traceID) {
		t.Errorf("%v became %v", md, out)
	}
}

// No call is refused because a trace made its metadata too large.
func TestNoRoom(t *testing.T) {
	t.Parallel()
	tracer, _ := newTracer(sdktrace.AlwaysSample())
	large := metadata.MD{"k": {strings.Repeat("x", 62<<10)}}
	span, md := tracer.Send(t.Context(), large.Copy(), "C/Get")
	defer span.End(nil)
	if len(md) != 1 || len(span.Inject(large)) != 1 {
		t.Errorf("a trace was added to %d bytes", len(large["k"][0]))
	}
}

func TestErrorsAreTold(t *testing.T) {
	t.Parallel()
	tracer, recorder := newTracer(sdktrace.AlwaysSample())
	for _, tt := range []struct {
		err    error
		reason string
	}{
		{fault.New(fault.NoOwner, "no owner"), "NO_OWNER"},
		{context.DeadlineExceeded, "DeadlineExceeded"},
		{errors.New(strings.Repeat("long ", 1000)), "Unknown"},
	} {
		recorder.Reset()
		span := tracer.Receive(nil, true, trace.SpanKindServer, "Get")
		span.Failed("retry", tt.err)
		span.End(tt.err)
		span.End(nil) // A second time says nothing.
		got := recorder.Ended()
		if len(got) != 1 {
			t.Fatalf("%v: got %d spans", tt.err, len(got))
		}
		set := attribute.NewSet(got[0].Attributes()...)
		if reason, _ := set.Value("error.type"); reason.AsString() != tt.reason || got[0].Status().Code != codes.Error {
			t.Errorf("%v: got %v, %v", tt.err, got[0].Attributes(), got[0].Status())
		}
		if n := len(got[0].Status().Description); n > 600 {
			t.Errorf("an error of %d bytes is told in %d", len(tt.err.Error()), n)
		}
		if len(got[0].Events()) != 1 {
			t.Errorf("%v: events %v", tt.err, got[0].Events())
		}
	}
}

// Who does not trace has neither tracer nor spans.
func TestNil(t *testing.T) {
	t.Parallel()
	if tracing.New(nil) != nil {
		t.Error("a tracer of no provider")
	}
	var s *tracing.Span
	s.Event("e")
	s.Failed("f", errors.New("f"))
	s.Committed(1, 2)
	s.Called("C", "M", "id", nil, 0)
	s.End(errors.New("e"))
	md := metadata.MD{"k": {"v"}}
	if s.Child(trace.SpanKindInternal, "c") != nil || len(s.Inject(md)) != 1 || s.Context(t.Context()) != t.Context() {
		t.Error("a nil span does something")
	}
}
