package actor

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/holdfast-io/holdfast/fault"
	"github.com/holdfast-io/holdfast/storage"
	"github.com/holdfast-io/holdfast/tracing"
)

// wall returns the wall clock's time of one of the Manager's, which is not long ago.
func (m *Manager) wall(at time.Duration) time.Time { return time.Now().Add(at - m.now()) }

// traceBegun records how long a traced event has waited in the mailbox, and begins the span of its handler.
func (i *incarnation) traceBegun(e *event) {
	m := i.shard.manager
	e.call.Span.Past("mailbox", m.wall(e.times.delivered), m.wall(e.times.begun))
	e.span = e.call.Span.Child(trace.SpanKindInternal, "handler")
}

// errHandlerOver is how the span of a handler ends that is told to nobody.
var errHandlerOver = fault.New(fault.ObjectReset, "the object was reset, or has another owner, before the handler returned")

// traceReturned ends the span of a traced event's handler. It has not returned a result when it is not ok.
func (e *event) traceReturned(result Result, ok bool) {
	if !ok {
		result.Err = errHandlerOver
	}
	e.span.End(result.Err)
}

// traceAnswered records how long the answer to a traced call has waited at the gate. Streams have other
// things to wait for there.
func (m *Manager) traceAnswered(c *Call) {
	if at := c.ev.times.returned; c.Pipe == nil && c.ev.gated && at != 0 {
		c.Span.Past("output gate", m.wall(at), time.Now())
	}
}

// tracePassed records how long a traced handler has waited at the gate, since a moment, and goes on.
func (m *Manager) tracePassed(ctx context.Context, since time.Duration) {
	if e := eventOf(ctx); e != nil {
		e.span.Past("output gate", m.wall(since), time.Now())
	}
}

// traceCommit begins the span of the commit of a traced event's segment. Those of streams, which may write for
// ever, are not recorded.
func (i *incarnation) traceCommit(e *event, seg *storage.Segment) {
	if e.call.Pipe == nil {
		seg.Span = e.call.Span.Child(trace.SpanKindInternal, "commit", tracing.ShardKey.Int(int(i.shard.id)))
	}
}
