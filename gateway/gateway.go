// Package gateway is where callers come in: the public gRPC server, with the services of the
// classes themselves, holdfast.v1.Objects and Admin, health and reflection, and the admin HTTP
// handler. It turns what a caller sent into one request for the router, refuses what is malformed
// with an error that names field and limit (P7), and knows nothing of where objects are.
package gateway

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/reflection"
	"google.golang.org/grpc/status"

	"github.com/holdfast-io/holdfast/actor"
	"github.com/holdfast-io/holdfast/fault"
	"github.com/holdfast-io/holdfast/peer/frame"
	"github.com/holdfast-io/holdfast/placement"
	holdfastv1 "github.com/holdfast-io/holdfast/proto/holdfast/v1"
)

// Router takes calls to their owners; package router has the contract.
type Router interface {
	Route(req *frame.Request, reply func(frame.Response)) (cancel func(cause error))
	// NewUniqueID draws the id of a new object of a class.
	NewUniqueID(ctx context.Context, class string) (placement.ObjectID, error)
}

// Config of a Gateway.
type Config struct {
	Router Router
	// Classes that this node runs: their services are registered by name, so that reflection shows
	// them. Calls of other classes are taken as well.
	Classes []actor.Class
	// Admin answers holdfast.v1.Admin.
	Admin holdfastv1.AdminServer
	// Frames bounds the conversation with each client.
	Frames frame.Options
	// ReceivingMax bounds the requests of plain gRPC that are on their way in and those of them that are
	// slow, each: default 1,024. A request may take up to twice its size while it arrives.
	ReceivingMax int
	Logger       *slog.Logger
}

// reservedPrefix begins the names of services that only the cluster itself calls.
const reservedPrefix = "holdfast.system."

// receiveBytesMax is where gRPC itself cuts a message off. It lies above the documented limit, so
// that a request over that gets the documented error and not the library's.
const receiveBytesMax = 2*frame.BodyBytesMax + 1<<20

// streamWorkers is how many goroutines wait for unary calls.
const streamWorkers = 128

// Gateway is the public gRPC server.
type Gateway struct {
	holdfastv1.UnimplementedObjectsServer

	cfg    Config
	logger *slog.Logger
	server *grpc.Server
	health *health.Server
	in     *receivers
	wg     sync.WaitGroup
	unary  methodSet // of services that this node has no class for

	// stopping ends when Stop begins: streams take no new calls. ctx ends when Stop's own context
	// does: streams end, and calls are answered without waiting for what becomes of them.
	stopping context.Context //nolint:containedctx // a moment of the Gateway's life
	stop     context.CancelFunc
	ctx      context.Context //nolint:containedctx // another
	cancel   context.CancelCauseFunc
}

// New returns a Gateway that is not serving yet.
func New(cfg Config) *Gateway {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.ReceivingMax == 0 {
		cfg.ReceivingMax = 1024
	}
	g := &Gateway{cfg: cfg, logger: cfg.Logger, health: health.NewServer(), in: newReceivers(cfg.ReceivingMax)}
	g.stopping, g.stop = context.WithCancel(context.Background())
	g.ctx, g.cancel = context.WithCancelCause(context.Background())
	g.server = grpc.NewServer(
		grpc.ForceServerCodecV2(hybridCodec{encoding.GetCodecV2(proto.Name)}),
		grpc.UnknownServiceHandler(g.unknown),
		grpc.UnaryInterceptor(g.endAdmin),
		grpc.StreamInterceptor(g.endStreams),
		grpc.MaxRecvMsgSize(receiveBytesMax),
		grpc.MaxSendMsgSize(receiveBytesMax),
		grpc.ConnectionTimeout(10*time.Second),
		// Workers keep the stack that a call needs; what comes when all are busy gets a goroutine of its own.
		grpc.NumStreamWorkers(streamWorkers),
		grpc.WaitForHandlers(true),
		grpc.InitialWindowSize(1<<20),
		grpc.InitialConnWindowSize(4<<20),
		// What a caller that vanished has begun to send is not waited for.
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 10 * time.Second, Timeout: 5 * time.Second}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
	)
	g.server.RegisterService(g.in.bound(holdfastv1.Objects_ServiceDesc), g)
	if cfg.Admin != nil {
		holdfastv1.RegisterAdminServer(g.server, cfg.Admin)
	}
	healthv1.RegisterHealthServer(g.server, g.health)
	for i := range cfg.Classes {
		if service := cfg.Classes[i].Service; service != nil {
			g.register(service)
		}
	}
	reflection.Register(g.server)
	g.SetServing(false)
	return g
}

// register adds a class's service: the same methods under the same names, with handlers that do
// not look into the messages.
func (g *Gateway) register(service *grpc.ServiceDesc) {
	if strings.HasPrefix(service.ServiceName, reservedPrefix) {
		return
	}
	desc := grpc.ServiceDesc{ServiceName: service.ServiceName, HandlerType: (*any)(nil), Metadata: service.Metadata}
	for _, m := range service.Methods {
		full := "/" + service.ServiceName + "/" + m.MethodName
		desc.Methods = append(desc.Methods, grpc.MethodDesc{
			MethodName: m.MethodName,
			Handler: func(_ any, ctx context.Context, dec func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
				var in rawMessage
				if err := dec(&in); err != nil {
					return nil, err
				}
				return g.call(ctx, full, in.data)
			},
		})
	}
	for _, s := range service.Streams {
		full := "/" + service.ServiceName + "/" + s.StreamName
		desc.Streams = append(desc.Streams, grpc.StreamDesc{
			StreamName: s.StreamName, ClientStreams: s.ClientStreams, ServerStreams: s.ServerStreams,
			Handler: func(_ any, stream grpc.ServerStream) error { return g.stream(full, stream) },
		})
	}
	g.server.RegisterService(g.in.bound(desc), g)
	g.health.SetServingStatus(service.ServiceName, healthv1.HealthCheckResponse_NOT_SERVING)
}

// Serve serves on the listener until Stop.
func (g *Gateway) Serve(l net.Listener) error { return g.server.Serve(l) }

// SetServing says to health checks whether this node takes calls.
func (g *Gateway) SetServing(ok bool) {
	state := healthv1.HealthCheckResponse_NOT_SERVING
	if ok {
		state = healthv1.HealthCheckResponse_SERVING
	}
	g.health.SetServingStatus("", state)
	for i := range g.cfg.Classes {
		if name := g.cfg.Classes[i].ServiceName(); name != "" && !strings.HasPrefix(name, reservedPrefix) {
			g.health.SetServingStatus(name, state)
		}
	}
}

// Stop takes no new calls, ends the streams with OWNER_CHANGED, waits for those under way until ctx ends, answers those that are left by
// OUTCOME_UNKNOWN, and closes every connection.
func (g *Gateway) Stop(ctx context.Context) {
	g.health.Shutdown()
	g.stop()
	done := make(chan struct{})
	go func() {
		g.server.GracefulStop()
		close(done)
	}()
	select {
	case <-done:
	case <-ctx.Done():
		// Cut off without an answer they would end as UNAVAILABLE, which says that they did not run.
		g.cancel(errStopping)
		t := time.NewTimer(answerGrace)
		defer t.Stop()
		select {
		case <-done:
		case <-t.C: // Somebody does not take the answer.
		}
		g.server.Stop()
		<-done
	}
	g.cancel(errStopping)
	g.wg.Wait()
}

// answerGrace is how long the last answers may take to leave.
const answerGrace = time.Second

// errStopping is why streams of calls end: what they carry from now on has certainly not run.
var errStopping = fault.New(fault.NoOwner, "the node is stopping; call another")

// errCutOff is what becomes of a call that was under way when the node could wait no longer.
var errCutOff = fault.New(fault.OutcomeUnknown, "the node stopped before the call was answered; it may or may not have taken effect: read before calling again")

// endAdmin ends the calls of Admin with the Gateway, as route does those of objects.
func (g *Gateway) endAdmin(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	if !isAdmin(info.FullMethod) {
		return handler(ctx, req)
	}
	var resp any
	err := g.untilCutOff(ctx, func(ctx context.Context) (err error) {
		resp, err = handler(ctx, req)
		return err
	})
	return resp, err
}

func isAdmin(method string) bool {
	return strings.HasPrefix(method, "/"+holdfastv1.Admin_ServiceDesc.ServiceName+"/")
}

// untilCutOff runs fn with a context that ends with the Gateway too.
func (g *Gateway) untilCutOff(ctx context.Context, fn func(ctx context.Context) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(g.ctx, func() { cancel(errCutOff) })()
	err := fn(ctx)
	if err != nil && errors.Is(context.Cause(ctx), errCutOff) {
		err = errCutOff
	}
	return err
}

// endStreams ends the streams of Admin as endAdmin does its calls, and those that watch the node's health
// when Stop begins: they last for ever, and Stop would wait for them as for calls.
func (g *Gateway) endStreams(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	switch {
	case isAdmin(info.FullMethod):
		return g.untilCutOff(stream.Context(), func(ctx context.Context) error { return handler(srv, &ownStream{stream, ctx}) })
	case info.FullMethod != healthv1.Health_Watch_FullMethodName:
		return handler(srv, stream)
	}
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	defer context.AfterFunc(g.stopping, cancel)()
	err := handler(srv, &ownStream{stream, ctx})
	if g.stopping.Err() != nil {
		return errStopping
	}
	return err
}

// ownStream is a stream with a context of its own.
type ownStream struct {
	grpc.ServerStream

	ctx context.Context //nolint:containedctx // the stream's
}

// Context implements grpc.ServerStream.
func (w *ownStream) Context() context.Context { return w.ctx }

// waiters are reused: a call needs a channel for its answer.
var waiters = sync.Pool{New: func() any { return make(chan frame.Response, 1) }}

// call takes one unary call of a class's own method.
func (g *Gateway) call(ctx context.Context, method string, body []byte) (*rawMessage, error) {
	req, err := newRequest(ctx, method, body)
	if err != nil {
		return nil, err
	}
	resp, err := g.route(ctx, req)
	if err != nil {
		return nil, err
	}
	return &rawMessage{data: resp.Body}, nil
}

func (g *Gateway) route(ctx context.Context, req *frame.Request) (frame.Response, error) {
	if len(req.Body) > frame.BodyBytesMax {
		return frame.Response{}, fault.New(fault.RequestTooLarge, "request: at most %d bytes, has %d", frame.BodyBytesMax, len(req.Body))
	}
	if err := checkReserved(req); err != nil {
		return frame.Response{}, err
	}
	if deadline, ok := ctx.Deadline(); ok {
		req.Deadline = deadline
	}
	answered, _ := waiters.Get().(chan frame.Response)
	cancel := g.cfg.Router.Route(req, func(r frame.Response) { answered <- r })
	select {
	case resp := <-answered:
		waiters.Put(answered)
		return resp, resp.Err()
	case <-ctx.Done():
		cancel(ctx.Err())
		return frame.Response{}, status.FromContextError(ctx.Err()).Err()
	case <-g.ctx.Done():
		cancel(errStopping)
		return frame.Response{}, errCutOff
	}
}

// checkReserved keeps callers away from what the cluster keeps of itself.
func checkReserved(req *frame.Request) error {
	if strings.HasPrefix(req.Class, actor.ReservedPrefix) {
		return fault.New(fault.UnknownClass, "class %q: names beginning with %q are reserved for the cluster itself", req.Class, actor.ReservedPrefix)
	}
	if method, ok := strings.CutPrefix(req.Method, "/"); ok && strings.HasPrefix(method, reservedPrefix) {
		service, _, _ := strings.Cut(method, "/")
		return fault.New(fault.UnknownClass, "service %q: names beginning with %q are reserved for the cluster itself", service, reservedPrefix)
	}
	return nil
}

// The metadata keys that are Holdfast's own: those that name the object, and what is said of the call.
const (
	keyName    = "holdfast-name"
	keyNameBin = "holdfast-name-bin"
	keyID      = "holdfast-id"
	keyPrefix  = "holdfast-"
	// keyRequestID names the call itself, so that it can be sent again.
	keyRequestID = "holdfast-request-id"
	// keyExisting says, with "true", that the object must exist.
	keyExisting = "holdfast-existing"
)

// newRequest reads the metadata of a call.
func newRequest(ctx context.Context, method string, body []byte) (*frame.Request, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	req := &frame.Request{Method: method, Body: body, Metadata: callers(md)}
	named := 0
	for key, values := range md {
		switch key {
		case keyName, keyNameBin:
			named += len(values)
			req.Name, req.Named = values[0], true
		case keyID:
			named += len(values)
			id, err := placement.ParseID(values[0])
			if err != nil {
				return nil, fault.New(fault.InvalidID, "%s: %v", keyID, err)
			}
			req.ID = id
		case keyRequestID:
			if len(values) > 1 {
				return nil, fault.New(fault.InvalidArgument, "%s: send one, got %d", keyRequestID, len(values))
			}
			if err := setRequestID(req, keyRequestID, values[0]); err != nil {
				return nil, err
			}
		}
	}
	if values := md.Get(keyExisting); len(values) > 0 {
		if len(values) > 1 || values[0] != "true" && values[0] != "false" {
			return nil, fault.New(fault.InvalidArgument, "%s: must be one of true and false, is %.64q", keyExisting, values)
		}
		req.Existing = values[0] == "true"
	}
	switch {
	case named == 0:
		return nil, fault.New(fault.MissingObject, "which object? Send metadata %s (printable ASCII), %s (any UTF-8) or %s (64 hex digits)", keyName, keyNameBin, keyID)
	case named > 1:
		return nil, fault.New(fault.AmbiguousObject, "send exactly one of the metadata %s, %s and %s; got %d", keyName, keyNameBin, keyID, named)
	case len(req.Name) > frame.NameBytesMax:
		return nil, fault.New(fault.InvalidArgument, "name: at most %d bytes, has %d", frame.NameBytesMax, len(req.Name))
	}
	return req, nil
}

// setRequestID takes a request id that a caller has sent in a field.
func setRequestID(req *frame.Request, field, id string) error {
	switch {
	case id == "":
		return fault.New(fault.InvalidArgument, "%s: must not be empty", field)
	case len(id) > frame.RequestIDBytesMax:
		return fault.New(fault.InvalidArgument, "%s: at most %d bytes, has %d", field, frame.RequestIDBytesMax, len(id))
	}
	req.RequestID = id
	return nil
}

// callers returns what of a call's metadata is for the object.
func callers(md metadata.MD) (theirs metadata.MD) {
	for key, values := range md {
		if internalKey(key) {
			continue
		}
		if theirs == nil {
			theirs = make(metadata.MD)
		}
		theirs[key] = values
	}
	return theirs
}

// internalKey says that a metadata key is gRPC's own, or Holdfast's.
func internalKey(key string) bool {
	return strings.HasPrefix(key, keyPrefix) || strings.HasPrefix(key, ":") || strings.HasPrefix(key, "grpc-") || key == "content-type" || key == "user-agent" || key == "te"
}

// Call implements holdfastv1.ObjectsServer.
func (g *Gateway) Call(ctx context.Context, in *holdfastv1.CallRequest) (*holdfastv1.CallResponse, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	req := &frame.Request{
		Class: in.GetClass(), Method: in.GetMethod(), JSON: true, Body: []byte(in.GetJson()), Existing: in.GetExisting(), Metadata: callers(md),
	}
	switch object := in.GetObject().(type) {
	case *holdfastv1.CallRequest_Name:
		req.Name, req.Named = object.Name, true
	case *holdfastv1.CallRequest_Id:
		id, err := placement.ParseID(object.Id)
		if err != nil {
			return nil, fault.New(fault.InvalidID, "id: %v", err)
		}
		req.ID = id
	default:
		return nil, fault.New(fault.MissingObject, "which object? Set name or id")
	}
	switch {
	case req.Class == "":
		return nil, errNoClass()
	case req.Method == "":
		return nil, fault.New(fault.UnknownMethod, "method: must be given")
	}
	if in.RequestId != nil {
		if err := setRequestID(req, "request_id", in.GetRequestId()); err != nil {
			return nil, err
		}
	}
	resp, err := g.route(ctx, req)
	if err != nil {
		return nil, err
	}
	return &holdfastv1.CallResponse{Json: string(resp.Body)}, nil
}

// NewUniqueID implements holdfastv1.ObjectsServer.
func (g *Gateway) NewUniqueID(ctx context.Context, in *holdfastv1.NewUniqueIDRequest) (*holdfastv1.NewUniqueIDResponse, error) {
	if in.GetClass() == "" {
		return nil, errNoClass()
	}
	if err := checkReserved(&frame.Request{Class: in.GetClass()}); err != nil {
		return nil, err
	}
	id, err := g.cfg.Router.NewUniqueID(ctx, in.GetClass())
	if err != nil {
		return nil, err
	}
	return &holdfastv1.NewUniqueIDResponse{Id: id.String()}, nil
}

func errNoClass() error { return fault.New(fault.UnknownClass, "class: must be given") }

// Stream implements holdfastv1.ObjectsServer.
func (g *Gateway) Stream(stream grpc.BidiStreamingServer[holdfastv1.Frames, holdfastv1.Frames]) error {
	ctx, cancel := context.WithCancelCause(stream.Context())
	defer cancel(nil)
	m := frame.NewMux(stream, &clientCalls{g}, g.cfg.Frames)
	drain := context.AfterFunc(g.stopping, func() {
		_ = m.Drain(g.ctx) // Whoever is not through by then is cut off.
		cancel(errStopping)
	})
	defer drain()
	err := m.Run(ctx)
	g.wg.Go(m.Wait) // It ends with the stream, and that when this returns.
	return err
}

// clientCalls takes what a client sends on a stream. What only nodes may say is ignored.
type clientCalls struct{ g *Gateway }

// Call implements frame.Handler.
func (c *clientCalls) Call(req *frame.Request, reply func(frame.Response)) func(error) {
	req.Hops, req.Revision, req.Chain = 0, 0, nil
	for key := range req.Metadata {
		if strings.HasPrefix(key, keyPrefix) {
			delete(req.Metadata, key)
		}
	}
	if err := checkReserved(req); err != nil {
		reply(frame.ErrorResponse(err))
		return nil
	}
	return c.g.cfg.Router.Route(req, reply)
}

// Announce implements frame.Handler.
func (*clientCalls) Announce(placement.ShardID, placement.NodeID, uint64) {}

// Query implements frame.Handler.
func (*clientCalls) Query(_ string, _ []byte, reply func([]byte, error)) {
	reply(nil, fault.New(fault.InvalidArgument, "queries are for nodes"))
}

// rawMessage is a message that is passed on without being looked into.
type rawMessage struct{ data []byte }

// hybridCodec passes raw messages through and leaves the rest to protobuf.
type hybridCodec struct{ proto encoding.CodecV2 }

// Marshal implements encoding.CodecV2.
func (c hybridCodec) Marshal(v any) (mem.BufferSlice, error) {
	if raw, ok := v.(*rawMessage); ok {
		return mem.BufferSlice{mem.SliceBuffer(raw.data)}, nil
	}
	return c.proto.Marshal(v)
}

// Unmarshal implements encoding.CodecV2.
func (c hybridCodec) Unmarshal(data mem.BufferSlice, v any) error {
	if raw, ok := v.(*rawMessage); ok {
		raw.data = data.Materialize()
		return nil
	}
	return c.proto.Unmarshal(data, v)
}

// Name implements encoding.CodecV2.
func (c hybridCodec) Name() string { return c.proto.Name() }
