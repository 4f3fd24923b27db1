// Package tracing makes the spans of OpenTelemetry that follow a call: from where it comes in, through
// forwarding, to the commit of what it wrote.
//
// The context of a trace travels as every caller's metadata does, under the keys of W3C Trace Context, so
// nothing else on the wire knows of it. A nil *Tracer and a nil *Span are those of who does not trace: that is
// all that a call costs which is not traced.
package tracing

import (
	"context"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc/metadata"

	"github.com/holdfast-io/holdfast/fault"
)

// scope names the library in what is exported.
const scope = "github.com/holdfast-io/holdfast"

// Names of attributes.
const (
	// ClassKey, ObjectKey, NameKey and ShardKey say what was called: a class by its name, an object by its id and
	// its name, if it was called by that, and the shard that it is in.
	ClassKey  = attribute.Key("holdfast.class")
	ObjectKey = attribute.Key("holdfast.object.id")
	NameKey   = attribute.Key("holdfast.object.name")
	ShardKey  = attribute.Key("holdfast.shard")
	// NodeKey is the node that a call was forwarded to.
	NodeKey = attribute.Key("holdfast.node")
	// TermKey and IndexKey say where in its shard's log a segment is.
	TermKey  = attribute.Key("holdfast.term")
	IndexKey = attribute.Key("holdfast.index")

	reasonKey = attribute.Key("error.type")
	statusKey = attribute.Key("rpc.response.status_code")
)

// metadataBytesMax is how much metadata a call may have for a trace to be added to it. Calls with more than 64 KiB are
// refused, and none is to be refused because it is traced: what is added takes less than the difference.
const metadataBytesMax = 60 << 10

// errorBytesMax bounds the text of an error in a span.
const errorBytesMax = 512

// Tracer begins spans that no other span of this process is the parent of. It is safe for concurrent use.
type Tracer struct{ tracer trace.Tracer }

// New returns a Tracer whose spans are those of the provider, or nil when that is nil.
func New(provider trace.TracerProvider) *Tracer {
	if provider == nil {
		return nil
	}
	return &Tracer{provider.Tracer(scope)}
}

// Span is a span that is recorded. It is safe for concurrent use. Methods of a nil Span do nothing.
type Span struct {
	tracer trace.Tracer
	span   trace.Span
}

// w3c is how the context of a trace is written down.
var w3c propagation.TraceContext

// Keys of W3C Trace Context.
const (
	parentKey = "traceparent"
	stateKey  = "tracestate"
)

// Receive begins the span of a call that came in with metadata, as a part of the trace that this names. Where it
// names none, root says whether a trace may begin here. It returns nil when the call is not sampled.
func (t *Tracer) Receive(md metadata.MD, root bool, kind trace.SpanKind, name string) *Span {
	ctx := context.Background()
	if len(md[parentKey]) > 0 {
		ctx = w3c.Extract(ctx, carrier(md))
	}
	if parent := trace.SpanContextFromContext(ctx); parent.IsValid() && !parent.IsSampled() || !parent.IsValid() && !root {
		return nil
	}
	return recorded(t.tracer, ctx, name, trace.WithSpanKind(kind))
}

// Send begins the span of a call that is about to leave, below the span of ctx if that has one, and returns
// the metadata that it is to leave with: md, which Send may change, or new metadata. The span is nil when the
// call is not sampled; the metadata says so too.
func (t *Tracer) Send(ctx context.Context, md metadata.MD, name string) (*Span, metadata.MD) {
	ctx, span := t.tracer.Start(ctx, name, trace.WithSpanKind(trace.SpanKindClient)) //nolint:spancheck // its caller's
	md = inject(ctx, md)
	if !span.IsRecording() {
		return nil, md //nolint:spancheck // there is nothing to end
	}
	return &Span{t.tracer, span}, md //nolint:spancheck // its caller's
}

// Continue returns the metadata with which a call leaves that is made in the span of ctx, if that is sampled:
// md, which it may change, or new metadata.
func Continue(ctx context.Context, md metadata.MD) metadata.MD {
	if !trace.SpanContextFromContext(ctx).IsSampled() {
		return md
	}
	return inject(ctx, md)
}

// inject writes the context of a trace down, if there is room for it.
func inject(ctx context.Context, md metadata.MD) metadata.MD {
	if bytesOf(md) > metadataBytesMax {
		return md
	}
	if md == nil {
		md = make(metadata.MD, 2)
	}
	delete(md, stateKey) // Whatever the metadata had said was of another span.
	w3c.Inject(ctx, carrier(md))
	return md
}

// recorded begins a span. It returns nil when that is not recorded.
func recorded(t trace.Tracer, ctx context.Context, name string, options ...trace.SpanStartOption) *Span { //nolint:revive // as OpenTelemetry's own
	_, span := t.Start(ctx, name, options...) //nolint:spancheck // its caller's
	if !span.IsRecording() {
		return nil //nolint:spancheck // there is nothing to end
	}
	return &Span{t, span} //nolint:spancheck // its caller's
}

// Child begins a span below s.
func (s *Span) Child(kind trace.SpanKind, name string, attributes ...attribute.KeyValue) *Span {
	if s == nil {
		return nil
	}
	return recorded(s.tracer, s.Context(context.Background()), name, trace.WithSpanKind(kind), trace.WithAttributes(attributes...))
}

// Past records a span below s that is over.
func (s *Span) Past(name string, begun, ended time.Time) {
	if s == nil {
		return
	}
	_, span := s.tracer.Start(s.Context(context.Background()), name, trace.WithTimestamp(begun))
	span.End(trace.WithTimestamp(ended))
}

// Called says what object a call is of, of which method. The object's name is nil when it was called by its id.
func (s *Span) Called(class, method, id string, name *string, shard int) {
	if s == nil {
		return
	}
	s.span.SetName(class + "/" + method)
	s.span.SetAttributes(ClassKey.String(class), ObjectKey.String(id), ShardKey.Int(shard))
	if name != nil {
		s.span.SetAttributes(NameKey.String(*name))
	}
}

// Event records that something happened now.
func (s *Span) Event(name string) {
	if s != nil {
		s.span.AddEvent(name)
	}
}

// Failed records that something went wrong now, in the course of what may yet succeed.
func (s *Span) Failed(name string, err error) {
	if s != nil {
		s.span.AddEvent(name, trace.WithAttributes(reasonKey.String(reason(err)), attribute.String("error", text(err))))
	}
}

// Committed says where in the log what the span is of was committed.
func (s *Span) Committed(term, index uint64) {
	if s != nil {
		s.span.SetAttributes(TermKey.Int64(int64(term)), IndexKey.Int64(int64(index))) //nolint:gosec // they count
		s.span.AddEvent("committed")
	}
}

// End ends the span, with the error that what it is of ended with, or nil. Nothing may follow it.
func (s *Span) End(err error) {
	if s == nil {
		return
	}
	if err != nil {
		s.span.SetAttributes(reasonKey.String(reason(err)), statusKey.String(fault.StatusOf(err).Code().String()))
		s.span.SetStatus(codes.Error, text(err))
	}
	s.span.End()
}

// Context returns a context made from ctx whose span is s.
func (s *Span) Context(ctx context.Context) context.Context {
	if s == nil {
		return ctx
	}
	return trace.ContextWithSpan(ctx, s.span)
}

// Inject returns metadata like md that names s as the parent of what is received with it.
func (s *Span) Inject(md metadata.MD) metadata.MD {
	if s == nil {
		return md
	}
	return inject(s.Context(context.Background()), md.Copy())
}

// reason is what errors are counted by: Holdfast's own reason, else gRPC's code.
func reason(err error) string {
	if r := fault.ReasonOf(err); r != "" {
		return string(r)
	}
	return fault.StatusOf(err).Code().String()
}

func text(err error) string {
	s := fault.StatusOf(err).Message()
	if len(s) > errorBytesMax {
		s = s[:errorBytesMax] + "…"
	}
	return strings.ToValidUTF8(s, "")
}

func bytesOf(md metadata.MD) (n int) {
	for key, values := range md {
		for _, v := range values {
			n += len(key) + len(v) + 8
		}
	}
	return n
}

// carrier is metadata as OpenTelemetry reads and writes it.
type carrier metadata.MD

// Get implements propagation.TextMapCarrier.
func (c carrier) Get(key string) string { return strings.Join(c[key], ",") }

// Set implements propagation.TextMapCarrier.
func (c carrier) Set(key, value string) { c[key] = []string{value} }

// Keys implements propagation.TextMapCarrier.
func (c carrier) Keys() []string {
	keys := make([]string, 0, len(c))
	for key := range c {
		keys = append(keys, key)
	}
	return keys
}
