package gateway_test

import (
	"context"
	"net"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	"github.com/holdfast-io/holdfast/actor"
	"github.com/holdfast-io/holdfast/examples/counter"
	"github.com/holdfast-io/holdfast/gateway"
	"github.com/holdfast-io/holdfast/peer/frame"
	"github.com/holdfast-io/holdfast/placement"
	holdfastv1 "github.com/holdfast-io/holdfast/proto/holdfast/v1"
)

// routed is one call as the router got it.
type routed struct {
	*frame.Request

	reply    func(frame.Response)
	canceled chan error // capacity 1
}

// router hands every call to the test.
type router chan *routed

// Route implements gateway.Router.
func (r router) Route(req *frame.Request, reply func(frame.Response)) func(error) {
	c := &routed{Request: req, reply: reply, canceled: make(chan error, 1)}
	r <- c
	return func(cause error) { c.canceled <- cause }
}

// NewUniqueID implements gateway.Router: the id is of a name, so that the test knows it.
func (r router) NewUniqueID(_ context.Context, class string) (placement.ObjectID, error) {
	return placement.NewNamespace(class).IDFromName("drawn"), nil
}

// world is a gateway and a client of it, over a connection in memory.
type world struct {
	*gateway.Gateway

	t      *testing.T
	router router
	conn   *grpc.ClientConn
	served chan error
}

// feed is a class with nothing but a stream.
var feed = actor.Class{Name: "Feed", Service: &grpc.ServiceDesc{
	ServiceName: "feed.v1.Feed", Streams: []grpc.StreamDesc{{StreamName: "Follow", ServerStreams: true, ClientStreams: true}},
}}

// chat is another.
var chat = actor.Class{Name: "Chat", Service: &grpc.ServiceDesc{
	ServiceName: "chat.v1.Chat", Streams: []grpc.StreamDesc{{StreamName: "Talk", ServerStreams: true, ClientStreams: true}},
}}

// hidden is a class that callers must not see.
var hidden = actor.Class{Name: "holdfast.Hidden", Service: &grpc.ServiceDesc{
	ServiceName: "holdfast.system.v1.Hidden", Methods: []grpc.MethodDesc{{MethodName: "Get"}},
}}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, router: make(router, 10), served: make(chan error, 1)}
	w.Gateway = gateway.New(gateway.Config{
		Router: w.router, Classes: []actor.Class{counter.Class(), feed, chat, hidden}, Admin: holdfastv1.UnimplementedAdminServer{},
	})
	l := bufconn.Listen(1 << 20)
	go func() { w.served <- w.Serve(l) }()
	var err error
	w.conn, err = grpc.NewClient("passthrough:///gateway",
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallSendMsgSize(1<<30), grpc.MaxCallRecvMsgSize(1<<30)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = w.conn.Close()
		w.Stop(over())
		if err := <-w.served; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return w
}

// over is a context that has ended.
func over() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}

// stopping stops the gateway, and closes the channel when that is done.
func (w *world) stopping() <-chan struct{} {
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.Stop(w.t.Context())
	}()
	return done
}

// next is the next call that the router gets.
func (w *world) next() *routed {
	w.t.Helper()
	return await(w.t, w.router, "no call was routed")
}

// routedNone wants no call to have been routed.
func (w *world) routedNone() {
	w.t.Helper()
	select {
	case c := <-w.router:
		w.t.Errorf("routed %+v", c.Request)
	default:
	}
}

// await receives what must come.
func await[T any](t *testing.T, from <-chan T, otherwise string) T {
	t.Helper()
	select {
	case v := <-from:
		return v
	case <-time.After(10 * time.Second):
		t.Fatal(otherwise)
		panic("not reached")
	}
}

// async runs a call beside the test and returns what becomes of it.
func async(t *testing.T, call func() error) <-chan error {
	t.Helper()
	result := make(chan error, 1)
	var wg sync.WaitGroup
	wg.Go(func() { result <- call() })
	t.Cleanup(wg.Wait)
	return result
}
