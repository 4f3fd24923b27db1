package replica_test

import (
	"testing"

	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/holdfast-io/holdfast/tracing"
)

// The span of a segment's commit ends when the segment is readable, and with an error when it is refused.
func TestCommitsAreTraced(t *testing.T) {
	t.Parallel()
	r := tracetest.NewSpanRecorder()
	tracer := tracing.New(sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(r)))
	c := newCluster(t, 1, 1)
	n := c.nodes[1]
	waitFor(t, "an owner", func() bool { return n.owner.term(0) != 0 })
	for what, tt := range map[string]struct {
		term   uint64
		events int
		code   codes.Code
	}{
		"committed": {n.owner.term(0), 3, codes.Unset},
		"refused":   {n.owner.term(0) + 1, 0, codes.Error},
	} {
		r.Reset()
		seg := segment(1, tt.term, 1, 1, "value")
		seg.Span = tracer.Receive(nil, true, trace.SpanKindInternal, "commit")
		n.host.Propose(0, seg, newResult())
		waitFor(t, "the span", func() bool { return len(r.Ended()) > 0 })
		if s := r.Ended()[0]; len(s.Events()) != tt.events || s.Status().Code != tt.code {
			t.Errorf("%s: %v, %v", what, s.Events(), s.Status())
		}
	}
}
