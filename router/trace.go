package router

import (
	"strings"

	"go.opentelemetry.io/otel/trace"

	"github.com/holdfast-io/holdfast/actor"
	"github.com/holdfast-io/holdfast/peer/frame"
	"github.com/holdfast-io/holdfast/tracing"
)

// trace begins the call's span, if it is sampled. A trace may begin where a call comes in from outside, and not at
// what the cluster asks of itself.
func (c *call) trace(t *tracing.Tracer) {
	req := c.req
	kind, outside := trace.SpanKindServer, req.Hops == 0 && len(req.Chain) == 0
	if req.Hops == 0 && !outside { // An object of this node makes it.
		kind = trace.SpanKindClient
	}
	root := outside && !strings.HasPrefix(req.Class, actor.ReservedPrefix)
	c.span = t.Receive(req.Metadata, root, kind, frame.BareMethod(req.Method))
	req.Metadata = c.span.Inject(req.Metadata)
}

// traceLocated says what object the call is of.
func (c *call) traceLocated() {
	if c.span == nil {
		return
	}
	var name *string
	if c.req.Named {
		name = &c.req.Name
	}
	c.span.Called(c.class.Name, frame.BareMethod(c.req.Method), c.ref.ID.String(), name, int(c.shard))
}

// traceForward begins the span of a try at another node, to which req is about to be sent.
func (c *call) traceForward(to belief, req *frame.Request) *tracing.Span {
	if c.span == nil {
		return nil
	}
	span := c.span.Child(trace.SpanKindClient, "forward", tracing.NodeKey.String(to.node.String()))
	req.Metadata = span.Inject(req.Metadata)
	return span
}
