package router

import (
	"context"

	"google.golang.org/grpc/metadata"

	"github.com/holdfast-io/holdfast/actor"
	"github.com/holdfast-io/holdfast/fault"
	"github.com/holdfast-io/holdfast/peer/frame"
	"github.com/holdfast-io/holdfast/tracing"
)

// Call takes a call that an object of this node makes to its owner, as Route does. It implements
// actor.Caller.
func (r *Router) Call(ctx context.Context, out *actor.Outgoing, done func(actor.Result)) (cancel func(cause error)) {
	if len(out.Body) > frame.BodyBytesMax {
		done(actor.Result{Err: fault.New(fault.RequestTooLarge, "request: at most %d bytes, has %d", frame.BodyBytesMax, len(out.Body))})
		return func(error) {}
	}
	md, _ := metadata.FromOutgoingContext(ctx) // A copy of our own.
	if r.cfg.Tracer != nil {
		md = tracing.Continue(ctx, md)
	}
	req := &frame.Request{
		Class: out.Class, Name: out.Name, Named: out.Named, ID: out.ID, Method: out.Method, Values: out.Values,
		Body: out.Body, Deadline: out.Deadline, Existing: out.Existing, Metadata: frame.WithoutReserved(md),
	}
	if !req.Values {
		req.Method = frame.BareMethod(out.Method)
	}
	for _, l := range out.Chain {
		req.Chain = append(req.Chain, frame.Link(l))
	}
	return r.Route(req, func(resp frame.Response) { done(actor.Result{Body: resp.Body, Err: resp.Err()}) })
}

// chainOf is the chain of a call as its object sees it.
func chainOf(req *frame.Request) []actor.Link {
	var chain []actor.Link
	for _, l := range req.Chain {
		chain = append(chain, actor.Link(l))
	}
	return chain
}
