package gateway_test

import (
	"context"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"

	"github.com/holdfast-io/holdfast/examples/counter/counterv1"
	"github.com/holdfast-io/holdfast/fault"
	"github.com/holdfast-io/holdfast/peer/frame"
	holdfastv1 "github.com/holdfast-io/holdfast/proto/holdfast/v1"
)

// Health checks hear whether the node takes calls: for all of it and for each class.
func TestHealthFollowsSetServing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	check := func(when string, want healthv1.HealthCheckResponse_ServingStatus) {
		t.Helper()
		for _, service := range []string{"", counterv1.Counter_ServiceDesc.ServiceName} {
			got, err := healthv1.NewHealthClient(w.conn).Check(t.Context(), &healthv1.HealthCheckRequest{Service: service})
			if err != nil || got.GetStatus() != want {
				t.Errorf("%s, service %q: got %s, %v, want %s", when, service, got.GetStatus(), err, want)
			}
		}
	}
	check("at first", healthv1.HealthCheckResponse_NOT_SERVING)
	w.SetServing(true)
	check("when it serves", healthv1.HealthCheckResponse_SERVING)
	w.SetServing(false)
	check("when it is about to stop", healthv1.HealthCheckResponse_NOT_SERVING)
	_, err := healthv1.NewHealthClient(w.conn).Check(t.Context(), &healthv1.HealthCheckRequest{Service: hidden.Service.ServiceName})
	if status.Code(err) != codes.NotFound {
		t.Errorf("a reserved service: got %v", err)
	}
}

// Tools like grpcurl find the classes, and not what is reserved.
func TestReflectionListsTheClasses(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	stream, err := reflectionv1.NewServerReflectionClient(w.conn).ServerReflectionInfo(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	err = stream.Send(&reflectionv1.ServerReflectionRequest{MessageRequest: &reflectionv1.ServerReflectionRequest_ListServices{}})
	if err != nil {
		t.Fatal(err)
	}
	resp, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, s := range resp.GetListServicesResponse().GetService() {
		got = append(got, s.GetName())
	}
	slices.Sort(got)
	want := []string{
		"chat.v1.Chat", "feed.v1.Feed", "grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection",
		"holdfast.examples.counter.v1.Counter", "holdfast.v1.Admin", "holdfast.v1.Objects",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("services (-want +got):\n%s", diff)
	}
}

// Who is in gets an answer, and nobody new comes in.
func TestStopAnswersWhatIsUnderWay(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	result := w.get("holdfast-name", "x")
	c := w.next()
	stopped := w.stopping()
	// A client that is told to go away takes the connection out of use.
	if !w.conn.WaitForStateChange(t.Context(), connectivity.Ready) {
		t.Fatal("the client was not told")
	}
	select {
	case <-stopped:
		t.Error("Stop returned with a call under way")
	default:
	}
	c.reply(frame.Response{Body: []byte{8, 7}})
	if err := await(t, result, "no answer"); err != nil {
		t.Errorf("the call under way got %v", err)
	}
	await(t, stopped, "Stop does not return")
	if err := await(t, w.get("holdfast-name", "x"), "no answer"); status.Code(err) != codes.Unavailable {
		t.Errorf("a call after Stop got %v", err)
	}
	w.routedNone()
}

// Who watches the health of the node hears that it is over, and does not hold up its end.
func TestStopDoesNotWaitForWatchers(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.SetServing(true)
	watch, err := healthv1.NewHealthClient(w.conn).Watch(t.Context(), &healthv1.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := watch.Recv(); err != nil || got.GetStatus() != healthv1.HealthCheckResponse_SERVING {
		t.Fatalf("got %s, %v", got.GetStatus(), err)
	}
	await(t, w.stopping(), "Stop waits for the watcher")
	for err == nil {
		var got *healthv1.HealthCheckResponse
		if got, err = watch.Recv(); err == nil && got.GetStatus() != healthv1.HealthCheckResponse_NOT_SERVING {
			t.Errorf("the watcher heard %s", got.GetStatus())
		}
	}
	if status.Code(err) != codes.Unavailable {
		t.Errorf("the watch ended with %v", err)
	}
}

// Stop waits no longer than it may: who is not through by then is cut off, and the router told.
func TestStopEndsWithItsContext(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	result := w.get("holdfast-name", "x")
	c := w.next()
	w.Stop(over())
	if err := await(t, result, "the call did not end"); status.Code(err) != codes.Aborted {
		t.Errorf("the call got %v", err)
	}
	if cause := await(t, c.canceled, "the router was not told"); cause == nil {
		t.Error("the router was told no cause")
	}
}

// converse opens the stream that Go clients speak.
func (w *world) converse() *frame.Mux {
	w.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	stream, err := holdfastv1.NewObjectsClient(w.conn).Stream(ctx)
	if err != nil {
		w.t.Fatal(err)
	}
	m := frame.NewMux(stream, nil, frame.Options{})
	ended := async(w.t, func() error { return m.Run(ctx) })
	w.t.Cleanup(func() {
		cancel()
		_ = await(w.t, ended, "the conversation does not end") // Why is the test's own to ask.
		m.Wait()
	})
	return m
}

func send(m *frame.Mux, req *frame.Request) <-chan frame.Response {
	got := make(chan frame.Response, 1)
	m.Call(req, func(r frame.Response) { got <- r })
	return got
}

// A client on a stream gets no further than one without: what only nodes may say is not heard.
func TestStreamTakesCallsOfClients(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := w.converse()
	got := send(m, &frame.Request{
		Class: "Counter", Method: "Get", Name: "x", Named: true, Hops: 2, Revision: 1 << 40, Body: []byte("b"),
		Chain:    []frame.Link{{Event: 1, Label: `Counter "y"`}},
		Metadata: metadata.MD{"app": {"1"}, "holdfast-from": {"0"}},
	})
	c := w.next()
	want := &frame.Request{Class: "Counter", Method: "Get", Name: "x", Named: true, Body: []byte("b"), Metadata: metadata.MD{"app": {"1"}}}
	if diff := cmp.Diff(want, c.Request); diff != "" {
		t.Errorf("routed (-want +got):\n%s", diff)
	}
	c.reply(frame.Response{Body: []byte("reply")})
	if r := await(t, got, "no answer"); r.Err() != nil || string(r.Body) != "reply" {
		t.Errorf("got %s, %v", r.Body, r.Err())
	}
	m.Announce(1, 2, 3)
	for _, req := range []*frame.Request{
		{Class: "holdfast.System", Method: "Facts", Name: "cluster", Named: true},
		{Method: "/holdfast.system.v1.System/Facts", Name: "cluster", Named: true},
	} {
		r := await(t, send(m, req), "no answer")
		refuses(t, r.Err(), fault.UnknownClass, "reserved")
	}
	answered := make(chan error, 1)
	m.Query("status", nil, func(_ []byte, err error) { answered <- err })
	refuses(t, await(t, answered, "no answer"), fault.InvalidArgument, "queries are for nodes")
	w.routedNone()
}

// A stream is drained before it ends: its calls under way are answered, and the client is told to
// send the next ones elsewhere.
func TestStopDrainsStreams(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := w.converse()
	got := send(m, &frame.Request{Class: "Counter", Method: "Get", Name: "x", Named: true})
	c := w.next()
	stopped := w.stopping()
	for m.Open() { // Each call finds out how far it is; one that comes too early is routed, and answered.
		late := send(m, &frame.Request{Class: "Counter", Method: "Get", Name: "x", Named: true})
		select {
		case early := <-w.router:
			early.reply(frame.Response{})
			<-late
		case <-late:
		}
	}
	c.reply(frame.Response{Body: []byte("reply")})
	if r := await(t, got, "no answer"); r.Err() != nil || string(r.Body) != "reply" {
		t.Errorf("the call under way got %s, %v", r.Body, r.Err())
	}
	await(t, stopped, "Stop does not return")
	await(t, m.Ended(), "the stream does not end")
}
