package client

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/holdfast-io/holdfast/fault"
	"github.com/holdfast-io/holdfast/peer/frame"
	"github.com/holdfast-io/holdfast/tracing"
)

// NewStream implements grpc.ClientConnInterface: it calls a streaming method, given as
// "/package.Service/Method", and returns when the object has taken the call, at most DefaultTimeout
// later; until then it tries again what certainly did not run. Call options are ignored. Streams keep
// no order with other calls of the stub.
//
// A stream lasts until either side ends it. When the object moves it ends with UNAVAILABLE, reason
// OWNER_CHANGED: open it again. As with any gRPC stream, read to the end or end ctx.
func (o *Object) NewStream(ctx context.Context, desc *grpc.StreamDesc, method string, _ ...grpc.CallOption) (grpc.ClientStream, error) {
	md, ids := outgoing(ctx)
	if len(ids) > 0 {
		return nil, fault.New(fault.InvalidArgument, "%s: streams take none", keyRequestID)
	}
	var span *tracing.Span
	if t := o.c.tracer; t != nil {
		span, md = t.Send(ctx, md, o.class+"/"+frame.BareMethod(method))
	}
	s, err := o.open(ctx, desc, method, md, span)
	if err != nil {
		span.End(err)
		return nil, err
	}
	return s, nil
}

// open tries to open a stream until it is open, or can't be.
func (o *Object) open(ctx context.Context, desc *grpc.StreamDesc, method string, md metadata.MD, span *tracing.Span) (*stream, error) {
	opening, done := context.WithTimeout(ctx, DefaultTimeout)
	defer done()
	for wait := retryMin; ; wait = min(2*wait, retryMax) {
		s, err := o.openStream(ctx, opening, desc, method, md, span)
		if err == nil {
			return s, nil
		}
		if !mayOpenAgain(err) || o.c.ctx.Err() != nil {
			return nil, err
		}
		t := time.NewTimer(wait/2 + rand.N(wait)) //nolint:gosec // jitter
		select {
		case <-t.C:
		case <-o.c.ctx.Done():
		case <-opening.Done():
			t.Stop()
			if ctx.Err() != nil {
				return nil, status.FromContextError(ctx.Err()).Err()
			}
			return nil, err
		}
	}
}

// mayOpenAgain says that a stream that was not opened certainly did not run.
func mayOpenAgain(err error) bool { return fault.ReasonOf(err).Retryable() }

// openStream tries to open a stream once.
func (o *Object) openStream(ctx, opening context.Context, desc *grpc.StreamDesc, method string, md metadata.MD, span *tracing.Span) (*stream, error) {
	s := &stream{o: o, ctx: ctx, desc: desc, caller: frame.NewCaller(), span: span}
	req := &frame.Request{
		Class: o.class, Method: frame.BareMethod(method), Name: o.name, Named: o.named, ID: o.id, Existing: o.existing,
		Metadata: md, Pipe: &s.caller.Pipe,
	}
	req.Deadline, _ = ctx.Deadline()
	o.mu.Lock()
	via := o.c.route(o.shardLocked())
	o.mu.Unlock()
	var m *frame.Mux
	if via != nil {
		m = via.mux.Load()
	}
	if m == nil {
		if o.c.ctx.Err() != nil {
			return nil, status.Error(codes.Canceled, errClosed.Error())
		}
		return nil, fault.New(fault.NoOwner, "no node can be reached at the moment")
	}
	s.cancel = m.Call(req, s.caller.End)
	select {
	case <-s.caller.Begun():
	case <-s.caller.Ended():
		if !s.caller.Pipe.Begun() {
			r := s.caller.Answer()
			if r.Err() == nil {
				return nil, status.Errorf(codes.Internal, "%s ended before it began", method)
			}
			return nil, s.ended(r.Err())
		}
	case <-opening.Done():
		s.cancel(context.Canceled)
		if ctx.Err() != nil {
			return nil, status.FromContextError(ctx.Err()).Err()
		}
		return nil, fault.New(fault.ObjectTimeout, "the object did not take the stream within %v; it may or may not have run", DefaultTimeout)
	}
	s.unwatch = context.AfterFunc(ctx, func() {
		s.cancel(context.Canceled)
		s.span.End(status.FromContextError(ctx.Err()).Err())
	})
	return s, nil
}

// stream is a streamed call of an object.
type stream struct {
	o       *Object
	ctx     context.Context //nolint:containedctx // the caller's, for this one call
	desc    *grpc.StreamDesc
	caller  *frame.Caller
	span    *tracing.Span // nil: it is not traced
	cancel  func(error)
	unwatch func() bool
}

// ended notes what the reply says of the object's owner, and returns what the caller is told.
func (s *stream) ended(err error) error {
	r := s.caller.Answer()
	s.o.c.learn(&r.Owner)
	if r.Owner.Shards != 0 {
		s.o.mu.Lock()
		s.o.shard = int(r.Owner.Shard)
		s.o.mu.Unlock()
	}
	if lost, ok := errors.AsType[*frame.LostError](err); ok && s.caller.Pipe.Begun() {
		return fault.New(fault.OwnerChanged, "the stream ended: the connection broke (%v); open it again, what it wrote before may or may not have taken effect", lost.Cause)
	}
	return err
}

// Header implements grpc.ClientStream. Objects send none.
func (s *stream) Header() (metadata.MD, error) { return nil, nil }

// Trailer implements grpc.ClientStream. Objects send none.
func (s *stream) Trailer() metadata.MD { return nil }

// CloseSend implements grpc.ClientStream.
func (s *stream) CloseSend() error {
	s.caller.CloseSend()
	return nil
}

// Context implements grpc.ClientStream.
func (s *stream) Context() context.Context { return s.ctx }

// SendMsg implements grpc.ClientStream. It waits while the object takes nothing.
func (s *stream) SendMsg(m any) error {
	in, ok := m.(proto.Message)
	if !ok {
		return status.Errorf(codes.Internal, "a message of type %T: not a protobuf message", m)
	}
	body, err := proto.Marshal(in)
	if err != nil {
		return status.Errorf(codes.Internal, "encode the message: %v", err)
	}
	err = s.caller.Send(s.ctx, body)
	if err != nil && s.ctx.Err() != nil {
		return status.FromContextError(s.ctx.Err()).Err()
	}
	return err
}

// RecvMsg implements grpc.ClientStream.
func (s *stream) RecvMsg(m any) error {
	out, ok := m.(proto.Message)
	if !ok {
		return status.Errorf(codes.Internal, "a message of type %T: not a protobuf message", m)
	}
	body, err := s.recv()
	if err != nil {
		return err
	}
	if err := proto.Unmarshal(body, out); err != nil {
		s.cancel(context.Canceled)
		return status.Errorf(codes.Internal, "decode the message: %v", err)
	}
	if s.desc.ServerStreams {
		return nil
	}
	switch _, err := s.recv(); { // The one answer counts when the call has ended well.
	case err == nil:
		s.cancel(context.Canceled)
		return status.Error(codes.Internal, "more than one answer from a method that has one")
	case errors.Is(err, io.EOF):
		return nil
	default:
		return err
	}
}

func (s *stream) recv() ([]byte, error) {
	body, err := s.caller.Recv(s.ctx)
	switch {
	case err == nil:
		return body, nil
	case s.ctx.Err() != nil:
		s.caller.Pipe.Down.Discard()
		err = status.FromContextError(s.ctx.Err()).Err()
	case !errors.Is(err, io.EOF):
		err = s.ended(err)
	}
	s.unwatch()
	if errors.Is(err, io.EOF) {
		s.span.End(nil)
	} else {
		s.span.End(err)
	}
	return nil, err
}
