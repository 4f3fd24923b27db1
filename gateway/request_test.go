package gateway_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/holdfast-io/holdfast/examples/counter/counterv1"
	"github.com/holdfast-io/holdfast/fault"
	"github.com/holdfast-io/holdfast/peer/frame"
	"github.com/holdfast-io/holdfast/placement"
	holdfastv1 "github.com/holdfast-io/holdfast/proto/holdfast/v1"
)

var someID = placement.NewNamespace("Counter").IDFromName("x")

// answer replies to the next call with a number, and returns it.
func (w *world) answer(value int64) *routed {
	w.t.Helper()
	c := w.next()
	body, err := proto.Marshal(&counterv1.GetResponse{Value: value})
	if err != nil {
		w.t.Fatal(err)
	}
	c.reply(frame.Response{Body: body})
	return c
}

// get calls a counter with so much metadata.
func (w *world) get(md ...string) <-chan error {
	w.t.Helper()
	ctx := metadata.AppendToOutgoingContext(w.t.Context(), md...)
	return async(w.t, func() error {
		_, err := counterv1.NewCounterClient(w.conn).Get(ctx, &counterv1.GetRequest{})
		return err
	})
}

// refuses wants an error of the reason that says all of that.
func refuses(t *testing.T, err error, reason fault.Reason, parts ...string) {
	t.Helper()
	if got := fault.ReasonOf(err); got != reason {
		t.Errorf("got reason %q of %v, want %q", got, err, reason)
		return
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("got %v, want %q in it", err, part)
		}
	}
}

// Exactly one of three keys names the object, and what names none is refused in words that help (P7).
func TestMetadataNamesTheObject(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	id := someID.String()
	for _, tt := range []struct {
		name string
		md   []string
		want frame.Request // when it is routed
		// or else the refusal:
		reason fault.Reason
		says   []string
	}{
		{name: "a name", md: []string{"holdfast-name", "x y"}, want: frame.Request{Name: "x y", Named: true}},
		{name: "a name in any case", md: []string{"Holdfast-Name", "x"}, want: frame.Request{Name: "x", Named: true}},
		{name: "an empty name", md: []string{"holdfast-name", ""}, want: frame.Request{Named: true}},
		{name: "a name of any bytes", md: []string{"holdfast-name-bin", "ä\x00\n"}, want: frame.Request{Name: "ä\x00\n", Named: true}},
		{name: "an empty name of bytes", md: []string{"holdfast-name-bin", ""}, want: frame.Request{Named: true}},
		{name: "an id", md: []string{"holdfast-id", id}, want: frame.Request{ID: someID}},
		{name: "the longest name", md: []string{"holdfast-name", strings.Repeat("n", 64<<10)}, want: frame.Request{Name: strings.Repeat("n", 64<<10), Named: true}},
		{name: "a request id", md: []string{"holdfast-name", "x", "holdfast-request-id", "r"}, want: frame.Request{Name: "x", Named: true, RequestID: "r"}},
		{name: "the longest request id", md: []string{"holdfast-name", "x", "holdfast-request-id", strings.Repeat("r", 128)}, want: frame.Request{Name: "x", Named: true, RequestID: strings.Repeat("r", 128)}},

		{name: "a long request id", md: []string{"holdfast-name", "x", "holdfast-request-id", strings.Repeat("r", 129)}, reason: fault.InvalidArgument, says: []string{"holdfast-request-id: at most 128 bytes, has 129"}},
		{name: "an empty request id", md: []string{"holdfast-name", "x", "holdfast-request-id", ""}, reason: fault.InvalidArgument, says: []string{"holdfast-request-id: must not be empty"}},
		{name: "two request ids", md: []string{"holdfast-name", "x", "holdfast-request-id", "r", "holdfast-request-id", "s"}, reason: fault.InvalidArgument, says: []string{"holdfast-request-id: send one, got 2"}},
		{name: "that must exist", md: []string{"holdfast-name", "x", "holdfast-existing", "true"}, want: frame.Request{Name: "x", Named: true, Existing: true}},
		{name: "that need not exist", md: []string{"holdfast-name", "x", "holdfast-existing", "false"}, want: frame.Request{Name: "x", Named: true}},
		{name: "that may exist", md: []string{"holdfast-name", "x", "holdfast-existing", "yes"}, reason: fault.InvalidArgument, says: []string{"holdfast-existing", "true and false", "yes"}},
		{name: "that must exist twice", md: []string{"holdfast-name", "x", "holdfast-existing", "true", "holdfast-existing", "true"}, reason: fault.InvalidArgument, says: []string{"holdfast-existing"}},
		{name: "nothing", reason: fault.MissingObject, says: []string{"holdfast-name", "holdfast-name-bin", "holdfast-id"}},
		{name: "another key of ours", md: []string{"holdfast-object", "x"}, reason: fault.MissingObject},
		{name: "two names", md: []string{"holdfast-name", "x", "holdfast-name", "y"}, reason: fault.AmbiguousObject, says: []string{"exactly one", "got 2"}},
		{name: "both kinds of name", md: []string{"holdfast-name", "x", "holdfast-name-bin", "x"}, reason: fault.AmbiguousObject},
		{name: "a name and an id", md: []string{"holdfast-name", "x", "holdfast-id", id}, reason: fault.AmbiguousObject},
		{name: "two ids", md: []string{"holdfast-id", id, "holdfast-id", id}, reason: fault.AmbiguousObject},
		{name: "a short id", md: []string{"holdfast-id", id[1:]}, reason: fault.InvalidID, says: []string{"holdfast-id", "64 hex digits"}},
		{name: "an id of other letters", md: []string{"holdfast-id", strings.Repeat("z", 64)}, reason: fault.InvalidID, says: []string{"holdfast-id"}},
		{name: "an empty id", md: []string{"holdfast-id", ""}, reason: fault.InvalidID},
		{name: "a long name", md: []string{"holdfast-name", strings.Repeat("n", 64<<10+1)}, reason: fault.InvalidArgument, says: []string{"name: at most 65536 bytes, has 65537"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			result := w.get(tt.md...)
			if tt.reason != "" {
				refuses(t, await(t, result, "no answer"), tt.reason, tt.says...)
				w.routedNone()
				return
			}
			got := w.answer(1)
			if err := await(t, result, "no answer"); err != nil {
				t.Error(err)
			}
			tt.want.Method = "/holdfast.examples.counter.v1.Counter/Get"
			if diff := cmp.Diff(&tt.want, got.Request); diff != "" {
				t.Errorf("routed (-want +got):\n%s", diff)
			}
		})
	}
}

// The object sees what its caller sent along, and nothing that is Holdfast's or gRPC's own.
func TestMetadataIsPassedOn(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	sent := []string{"app", "1", "app", "2", "data-bin", "\x00", "holdfast-hops", "9", "holdfast-from", "0"}
	named := async(t, func() error {
		_, err := holdfastv1.NewObjectsClient(w.conn).Call(metadata.AppendToOutgoingContext(t.Context(), sent...), &holdfastv1.CallRequest{
			Class: "Counter", Method: "Get", Object: &holdfastv1.CallRequest_Name{Name: "x"},
		})
		return err
	})
	calls := []*routed{w.next()}
	calls[0].reply(frame.Response{})
	own := w.get(append(sent, "holdfast-name", "x")...)
	calls = append(calls, w.answer(1))
	for i, result := range []<-chan error{named, own} {
		if err := await(t, result, "no answer"); err != nil {
			t.Error(err)
		}
		if diff := cmp.Diff(metadata.MD{"app": {"1", "2"}, "data-bin": {"\x00"}}, calls[i].Metadata); diff != "" {
			t.Errorf("metadata (-want +got):\n%s", diff)
		}
	}
}

// A caller's deadline goes along; without one it is the router's to set.
func TestDeadlineIsCarried(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
	defer cancel()
	want, _ := ctx.Deadline()
	ctx = metadata.AppendToOutgoingContext(ctx, "holdfast-name", "x")
	result := async(t, func() error {
		_, err := counterv1.NewCounterClient(w.conn).Get(ctx, &counterv1.GetRequest{})
		return err
	})
	if got := w.answer(1).Deadline; got.Sub(want).Abs() > 20*time.Second {
		t.Errorf("routed with deadline %s, want %s", got, want)
	}
	if err := await(t, result, "no answer"); err != nil {
		t.Error(err)
	}
	result = w.get("holdfast-name", "x")
	if got := w.answer(1).Deadline; !got.IsZero() {
		t.Errorf("routed with deadline %s, want none", got)
	}
	if err := await(t, result, "no answer"); err != nil {
		t.Error(err)
	}
}

// Who waits no longer, the router is told; a late answer is nobody's.
func TestCancellationIsCarried(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, tt := range []struct {
		name string
		with func(context.Context) (context.Context, context.CancelFunc)
		end  bool
		want codes.Code
	}{
		{"canceled", context.WithCancel, true, codes.Canceled},
		{"too late", func(ctx context.Context) (context.Context, context.CancelFunc) {
			return context.WithTimeout(ctx, 100*time.Millisecond)
		}, false, codes.DeadlineExceeded},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ctx, cancel := tt.with(metadata.AppendToOutgoingContext(t.Context(), "holdfast-name", "x"))
			defer cancel()
			result := async(t, func() error {
				_, err := counterv1.NewCounterClient(w.conn).Get(ctx, &counterv1.GetRequest{})
				return err
			})
			c := w.next()
			if tt.end {
				cancel()
			}
			if err := await(t, result, "no answer"); status.Code(err) != tt.want {
				t.Errorf("the caller got %v, want %s", err, tt.want)
			}
			if cause := await(t, c.canceled, "the router was not told"); cause == nil {
				t.Error("the router was told no cause")
			}
			c.reply(frame.Response{Body: []byte("late")})
			// The next call gets its own answer, and not that one.
			after := w.get("holdfast-name", "x")
			w.answer(1)
			if err := await(t, after, "no answer"); err != nil {
				t.Error(err)
			}
		})
	}
}

// A request over the limit is refused by its name and the limit, one at the limit is not (P6, P7).
func TestRequestSizeIsBounded(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	send := func(size int) <-chan error {
		ctx := metadata.AppendToOutgoingContext(t.Context(), "holdfast-name", "x")
		in := &holdfastv1.CallRequest{Json: strings.Repeat("j", size-5)} // 5 bytes of tag and length
		if proto.Size(in) != size {
			t.Fatalf("the request has %d bytes, want %d", proto.Size(in), size)
		}
		return async(t, func() error {
			return w.conn.Invoke(ctx, counterv1.Counter_Get_FullMethodName, in, &counterv1.GetResponse{})
		})
	}
	const limit = 32 << 20
	result := send(limit)
	if got := w.answer(1); len(got.Body) != limit {
		t.Errorf("routed %d bytes, want %d", len(got.Body), limit)
	}
	if err := await(t, result, "no answer"); err != nil {
		t.Error(err)
	}
	refuses(t, await(t, send(limit+1), "no answer"), fault.RequestTooLarge, "request: at most 33554432 bytes, has 33554433")
	result = async(t, func() error {
		_, err := holdfastv1.NewObjectsClient(w.conn).Call(t.Context(), &holdfastv1.CallRequest{
			Class: "Counter", Object: &holdfastv1.CallRequest_Name{}, Method: "Get", Json: strings.Repeat("j", limit+1),
		})
		return err
	})
	refuses(t, await(t, result, "no answer"), fault.RequestTooLarge, "at most 33554432 bytes, has 33554433")
	w.routedNone()
}

// What the cluster keeps of itself is nobody else's to call, by whatever way.
func TestReservedClassesAreRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := metadata.AppendToOutgoingContext(t.Context(), "holdfast-name", "cluster")
	for _, method := range []string{"/holdfast.system.v1.System/RemoveNode", "/holdfast.system.v1.Hidden/Get"} {
		result := async(t, func() error { return w.conn.Invoke(ctx, method, &counterv1.GetRequest{}, &counterv1.GetResponse{}) })
		refuses(t, await(t, result, "no answer"), fault.UnknownClass, "reserved")
	}
	for _, class := range []string{"holdfast.System", "holdfast.anything"} {
		result := async(t, func() error {
			_, err := holdfastv1.NewObjectsClient(w.conn).Call(t.Context(), &holdfastv1.CallRequest{
				Class: class, Object: &holdfastv1.CallRequest_Name{Name: "cluster"}, Method: "Facts",
			})
			return err
		})
		refuses(t, await(t, result, "no answer"), fault.UnknownClass, class, "reserved")
	}
	w.routedNone()
}

// What the router answers with reaches the caller with its code and its reason.
func TestErrorsKeepTheirReason(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	result := w.get("holdfast-name", "x")
	w.next().reply(frame.ErrorResponse(fault.New(fault.NoOwner, "nobody")))
	err := await(t, result, "no answer")
	refuses(t, err, fault.NoOwner, "nobody")
	if status.Code(err) != codes.Unavailable {
		t.Errorf("got code %s", status.Code(err))
	}
	result = w.get("holdfast-name", "x")
	w.next().reply(frame.ErrorResponse(status.Error(codes.OutOfRange, "the handler's own")))
	if err := await(t, result, "no answer"); status.Code(err) != codes.OutOfRange || fault.ReasonOf(err) != "" {
		t.Errorf("got %v", err)
	}
}

func TestCallTakesJSON(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	byName := func(name string) *holdfastv1.CallRequest {
		return &holdfastv1.CallRequest{Class: "w/C", Method: "M", Json: `{"a":1}`, Object: &holdfastv1.CallRequest_Name{Name: name}}
	}
	byID := func(id string) *holdfastv1.CallRequest {
		return &holdfastv1.CallRequest{Class: "w/C", Method: "M", Json: `{"a":1}`, Object: &holdfastv1.CallRequest_Id{Id: id}}
	}
	without := func(change func(*holdfastv1.CallRequest)) *holdfastv1.CallRequest {
		in := byName("x")
		change(in)
		return in
	}
	for _, tt := range []struct {
		name   string
		in     *holdfastv1.CallRequest
		want   frame.Request
		reason fault.Reason
		says   []string
	}{
		{name: "by name", in: byName("ä"), want: frame.Request{Name: "ä", Named: true}},
		{name: "by an empty name", in: byName(""), want: frame.Request{Named: true}},
		{name: "by id", in: byID(someID.String()), want: frame.Request{ID: someID}},
		{name: "with a request id", in: without(func(in *holdfastv1.CallRequest) { in.RequestId = new("r") }), want: frame.Request{Name: "x", Named: true, RequestID: "r"}},
		{name: "that must exist", in: without(func(in *holdfastv1.CallRequest) { in.Existing = true }), want: frame.Request{Name: "x", Named: true, Existing: true}},
		{name: "an empty request id", in: without(func(in *holdfastv1.CallRequest) { in.RequestId = new("") }), reason: fault.InvalidArgument, says: []string{"request_id: must not be empty"}},
		{name: "a long request id", in: without(func(in *holdfastv1.CallRequest) { in.RequestId = new(strings.Repeat("r", 129)) }), reason: fault.InvalidArgument, says: []string{"request_id: at most 128 bytes, has 129"}},
		{name: "bad id", in: byID("x"), reason: fault.InvalidID, says: []string{"id: ", "64 hex digits"}},
		{name: "no object", in: without(func(in *holdfastv1.CallRequest) { in.Object = nil }), reason: fault.MissingObject, says: []string{"name or id"}},
		{name: "no class", in: without(func(in *holdfastv1.CallRequest) { in.Class = "" }), reason: fault.UnknownClass, says: []string{"class: must be given"}},
		{name: "no method", in: without(func(in *holdfastv1.CallRequest) { in.Method = "" }), reason: fault.UnknownMethod, says: []string{"method: must be given"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var reply *holdfastv1.CallResponse
			result := async(t, func() (err error) {
				reply, err = holdfastv1.NewObjectsClient(w.conn).Call(t.Context(), tt.in)
				return err
			})
			if tt.reason != "" {
				refuses(t, await(t, result, "no answer"), tt.reason, tt.says...)
				w.routedNone()
				return
			}
			got := w.next()
			got.reply(frame.Response{Body: []byte(`{"b":2}`)})
			if err := await(t, result, "no answer"); err != nil || reply.GetJson() != `{"b":2}` {
				t.Errorf("got %v, %v", reply, err)
			}
			tt.want.Class, tt.want.Method, tt.want.JSON, tt.want.Body = "w/C", "M", true, []byte(`{"a":1}`)
			if diff := cmp.Diff(&tt.want, got.Request); diff != "" {
				t.Errorf("routed (-want +got):\n%s", diff)
			}
		})
	}
}
