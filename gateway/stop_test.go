package gateway_test

import (
	"context"
	"errors"
	"net"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"github.com/holdfast-io/holdfast/actor"
	"github.com/holdfast-io/holdfast/examples/counter"
	"github.com/holdfast-io/holdfast/examples/counter/counterv1"
	"github.com/holdfast-io/holdfast/fault"
	"github.com/holdfast-io/holdfast/gateway"
	"github.com/holdfast-io/holdfast/peer/frame"
	"github.com/holdfast-io/holdfast/placement"
	holdfastv1 "github.com/holdfast-io/holdfast/proto/holdfast/v1"
)

// silent is a router that answers nothing, and says when it was called and when it was told that
// nobody waits.
type silent struct{ called, canceled chan struct{} }

// Route implements gateway.Router.
func (s *silent) Route(*frame.Request, func(frame.Response)) func(error) {
	s.called <- struct{}{}
	return func(error) { s.canceled <- struct{}{} }
}

// NewUniqueID implements gateway.Router.
func (*silent) NewUniqueID(context.Context, string) (placement.ObjectID, error) {
	return placement.ObjectID{}, errors.New("not expected")
}

// deaf is an Admin that waits for its context.
type deaf struct {
	holdfastv1.UnimplementedAdminServer

	called chan struct{}
}

// RemoveNode implements holdfastv1.AdminServer.
func (d *deaf) RemoveNode(ctx context.Context, _ *holdfastv1.RemoveNodeRequest) (*holdfastv1.RemoveNodeResponse, error) {
	d.called <- struct{}{}
	<-ctx.Done()
	return nil, context.Cause(ctx)
}

// A call that is under way when the node can wait no longer may have run: its caller must not be told
// UNAVAILABLE, which proxies and clients repeat by themselves.
func TestStopTellsWhatItCutsOffThatItMayHaveRun(t *testing.T) {
	t.Parallel()
	r := &silent{make(chan struct{}, 4), make(chan struct{}, 4)}
	admin := &deaf{called: make(chan struct{}, 1)}
	g := gateway.New(gateway.Config{Router: r, Classes: []actor.Class{counter.Class()}, Admin: admin})
	l := bufconn.Listen(1 << 20)
	served := make(chan error, 1)
	go func() { served <- g.Serve(l) }()
	conn, err := grpc.NewClient("passthrough:///gateway", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()

	ctx := metadata.AppendToOutgoingContext(t.Context(), "holdfast-name", "x")
	results := make(chan error, 4)
	go func() {
		_, err := counterv1.NewCounterClient(conn).Get(ctx, &counterv1.GetRequest{})
		results <- err
	}()
	go func() {
		results <- conn.Invoke(ctx, "/other.v1.Other/Get", &counterv1.GetRequest{}, &counterv1.GetRequest{})
	}()
	go func() {
		_, err := holdfastv1.NewObjectsClient(conn).Call(ctx, &holdfastv1.CallRequest{
			Class: "Counter", Method: "Get", Object: &holdfastv1.CallRequest_Name{Name: "x"},
		})
		results <- err
	}()
	go func() {
		_, err := holdfastv1.NewAdminClient(conn).RemoveNode(ctx, &holdfastv1.RemoveNodeRequest{})
		results <- err
	}()
	for range 3 {
		<-r.called
	}
	<-admin.called

	over, cancel := context.WithCancel(t.Context())
	cancel()
	began := time.Now()
	g.Stop(over)
	if d := time.Since(began); d > 5*time.Second {
		t.Errorf("Stop took %v", d)
	}
	for range 4 {
		if err := <-results; status.Code(err) != codes.Aborted || fault.ReasonOf(err) != fault.OutcomeUnknown {
			t.Errorf("got %v", err)
		}
	}
	for range 3 {
		<-r.canceled
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
}
