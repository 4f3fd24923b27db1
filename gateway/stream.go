package gateway

import (
	"context"
	"errors"
	"io"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/status"

	"github.com/holdfast-io/holdfast/fault"
	"github.com/holdfast-io/holdfast/peer/frame"
)

// errStreamStopping is why streams end when the node does.
var errStreamStopping = fault.New(fault.OwnerChanged, "the node that the stream goes through is stopping; open it again")

// stream takes a streamed call of a class's own method.
func (g *Gateway) stream(method string, stream grpc.ServerStream) error {
	s, err := g.openStream(method, stream)
	if err != nil {
		return err
	}
	defer s.close()
	return s.run(g.stopping)
}

// clientStream is a streamed call of one of gRPC's clients.
type clientStream struct {
	*frame.Caller

	stream grpc.ServerStream
	ctx    context.Context //nolint:containedctx // ends with the caller's, or by the cause why the gateway ends it
	end    context.CancelCauseFunc
	cancel func(error) // the router's
	watch  func() bool // stops the watch of the gateway's end
}

// openStream routes a streamed call. Whatever the caller sends goes into its pipe until close.
func (g *Gateway) openStream(method string, stream grpc.ServerStream) (*clientStream, error) {
	req, err := newRequest(stream.Context(), method, nil)
	if err != nil {
		return nil, err
	}
	if err := checkReserved(req); err != nil {
		return nil, err
	}
	if deadline, ok := stream.Context().Deadline(); ok {
		req.Deadline = deadline
	}
	s := &clientStream{Caller: frame.NewCaller(), stream: stream}
	s.ctx, s.end = context.WithCancelCause(stream.Context())
	s.watch = context.AfterFunc(g.ctx, func() { s.end(errCutOff) })
	req.Pipe = &s.Pipe
	s.cancel = g.cfg.Router.Route(req, s.End)
	g.wg.Go(s.pump) // It ends when gRPC's handler returns.
	return s, nil
}

// close says that the caller takes no more.
func (s *clientStream) close() {
	s.watch()
	s.end(context.Canceled)
	s.cancel(context.Canceled)
	s.Pipe.Down.Discard()
}

// pump passes on what the caller sends.
func (s *clientStream) pump() {
	for {
		var in rawMessage
		err := s.stream.RecvMsg(&in)
		if errors.Is(err, io.EOF) {
			s.CloseSend()
			return
		}
		if err == nil {
			err = s.Send(s.ctx, in.data)
		}
		if err != nil {
			if !errors.Is(err, io.EOF) { // Else the call has ended by itself.
				s.end(err)
			}
			return
		}
	}
}

// run passes on what the object sends. gRPC's header goes out when the object has taken the call: from
// then on none of gRPC's own retries makes it again. From then on it also ends when stopping does;
// before, it may be about to run, and is waited for like a call.
func (s *clientStream) run(stopping context.Context) error {
	select {
	case <-s.Begun():
		defer context.AfterFunc(stopping, func() { s.end(errStreamStopping) })()
		if err := s.stream.SendHeader(nil); err != nil {
			return err
		}
	case <-s.Ended():
	case <-s.ctx.Done():
	}
	for {
		msg, err := s.Recv(s.ctx)
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return s.why(err)
		}
		if err := s.stream.SendMsg(&rawMessage{data: msg}); err != nil {
			return s.why(err)
		}
	}
}

// why returns what the caller is told: the gateway's own reason goes before what follows from it.
func (s *clientStream) why(err error) error {
	if cause := context.Cause(s.ctx); cause != nil && fault.ReasonOf(cause) != "" {
		return cause
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return status.FromContextError(err).Err()
	}
	return err
}

// unknown takes calls of services that this node has no class for: another node may. gRPC does not
// tell a unary call from a stream, and a stream's caller may wait for the object to speak first, so it
// is opened as a stream, unless it is known to be none: the object that refuses it as that says so, and
// has not run.
func (g *Gateway) unknown(_ any, stream grpc.ServerStream) error {
	method, _ := grpc.MethodFromServerStream(stream)
	if g.unary.has(method) {
		var in rawMessage
		if err := g.in.receive(stream.Context(), func() error { return stream.RecvMsg(&in) }); errors.Is(err, io.EOF) {
			return errNoRequest(method)
		} else if err != nil {
			return err
		}
		out, err := g.call(stream.Context(), method, in.data)
		if err != nil {
			if isKind(err, fault.KindStream) {
				g.unary.forget(method) // A new release of the class. The caller's next try finds it so.
			}
			return err
		}
		return stream.SendMsg(out)
	}
	s, err := g.openStream(method, stream)
	if err != nil {
		return err
	}
	defer s.close()
	err = s.run(g.stopping)
	if err == nil || !isKind(err, fault.KindUnary) {
		return err
	}
	g.unary.add(method)
	body, err := s.request(method)
	if err != nil {
		return err
	}
	out, err := g.call(stream.Context(), method, body)
	if err != nil {
		return err
	}
	return stream.SendMsg(out)
}

// request returns the one message of a call that turned out to be unary. Nobody has taken it.
func (s *clientStream) request(method string) ([]byte, error) {
	readable := make(chan struct{}, 1)
	s.Pipe.Up.OnReadable(func() {
		select {
		case readable <- struct{}{}:
		default:
		}
	})
	for {
		msg, ok, over := s.Pipe.Up.Take()
		switch {
		case ok:
			return msg, nil
		case over:
			return nil, errNoRequest(method)
		}
		select {
		case <-readable:
		case <-s.ctx.Done():
			return nil, s.why(s.ctx.Err())
		}
	}
}

func errNoRequest(method string) error {
	return fault.New(fault.InvalidArgument, "%s: send one message, the request; got none", method)
}

// isKind says that a call was refused because the method is of another kind.
func isKind(err error, kind string) bool {
	return fault.ReasonOf(err) == fault.UnknownMethod && fault.MetadataOf(err)[fault.KindKey] == kind
}

// methodSet remembers methods of other nodes' classes. It forgets all of them when it is full: what it
// does not know costs a round trip.
type methodSet struct {
	mu      sync.Mutex
	methods map[string]bool
}

const methodSetMax = 4096

func (m *methodSet) has(method string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.methods[method]
}

func (m *methodSet) add(method string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.methods == nil || len(m.methods) >= methodSetMax {
		m.methods = make(map[string]bool)
	}
	m.methods[method] = true
}

func (m *methodSet) forget(method string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.methods, method)
}
