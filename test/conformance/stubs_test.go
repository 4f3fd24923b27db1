package conformance_test

import (
	"context"
	"errors"
	"io"
	"strconv"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/holdfast-io/holdfast/actor"
	"github.com/holdfast-io/holdfast/client"
	"github.com/holdfast-io/holdfast/fault"
	holdfastv1 "github.com/holdfast-io/holdfast/proto/holdfast/v1"
)

var stubs = section{"Stubs and calls", []fact{
	{"a stub reaches its object through every node", func(t *testing.T, w *world) {
		o := w.object()
		for i := range 6 {
			if err := <-o.through(i%len(w.conns), func(_ context.Context, th *thing) error {
				n, _, err := actor.Get[int](th.Storage(), "n")
				want(t, "calls so far", n, i)
				return errors.Join(err, actor.Put(th.Storage(), "n", n+1))
			}); err != nil {
				t.Error(err)
			}
			w.step(o)
		}
	}},
	{"a method that the class does not have is refused, and the object lives on", func(t *testing.T, w *world) {
		o := w.object()
		o.must(put("k", 1))
		w.step(o)
		ctx, method := o.on(t.Context(), "Nothing")
		wantFault(t, w.conns[0].Invoke(ctx, method, wrapperspb.Bytes(nil), &wrapperspb.BytesValue{}), fault.UnknownMethod, `"Nothing"`)
		o.must(func(_ context.Context, th *thing) error {
			wantValue(t, th, "k", 1)
			return nil
		})
	}},
	{"handlers of the platform, and what is no method, can't be called", func(t *testing.T, w *world) {
		o := w.object()
		o.must(put("k", 1))
		for _, method := range []string{"Alarm", "Init", "PreShutdown", "alarm", "Storage", "State", "ID", ""} {
			w.step(o)
			_, err := holdfastv1.NewObjectsClient(w.conns[0]).Call(t.Context(), &holdfastv1.CallRequest{
				Class: o.class, Object: &holdfastv1.CallRequest_Id{Id: o.id.String()}, Method: method,
			})
			wantFault(t, err, fault.UnknownMethod, method)
		}
	}},
	{"a message has at most 32 MiB", func(t *testing.T, w *world) {
		o := w.object()
		o.script.acts["ok"] = nothing
		size := 32 << 20
		ctx, method := o.on(t.Context(), "Act")
		err := w.conns[0].Invoke(ctx, method, wrapperspb.Bytes(make([]byte, size)), &wrapperspb.BytesValue{})
		wantFault(t, err, fault.RequestTooLarge, strconv.Itoa(size))
		w.step(o)
		o.must(nothing)
	}},
	{"a stream of any length passes, and its calls keep the object", func(t *testing.T, w *world) {
		o := w.object()
		const count, size = 34, 1 << 20
		large := make([]byte, size)
		o.script.stream = func(stream grpc.ServerStream, th *thing) error {
			for i := range count {
				if err := th.WaitSent(stream.Context()); err != nil {
					return err
				}
				if err := stream.SendMsg(wrapperspb.Bytes(append([]byte{byte(i)}, large...))); err != nil {
					return err
				}
			}
			return nil
		}
		ctx, method := o.on(t.Context(), "Stream")
		stream, err := w.conns[w.owner(o)].NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, method)
		if err != nil {
			t.Fatal(err)
		}
		for i := range count {
			got := &wrapperspb.BytesValue{}
			if err := stream.RecvMsg(got); err != nil {
				t.Fatal(err)
			}
			if v := got.GetValue(); len(v) != size+1 || int(v[0]) != i {
				t.Fatalf("message %d has %d bytes, and begins with %x", i, len(v), v[:min(len(v), 1)])
			}
		}
		if err := stream.RecvMsg(&wrapperspb.BytesValue{}); !errors.Is(err, io.EOF) {
			t.Errorf("the stream ended with %v", err)
		}
	}},
	{"calls on one stub are delivered in the order of the calls (e-order)", func(t *testing.T, w *world) {
		var addrs []string
		for _, n := range w.nodes {
			addrs = append(addrs, n.Addresses().GRPC)
		}
		c, err := client.New(addrs)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		o := w.object()
		stub := c.Name(o.class, o.name)
		for range 2 {
			var calls []*client.Pending
			for i := range 100 {
				token := o.script.add(func(_ context.Context, th *thing) error {
					var seen []int
					seen, _, err := actor.Get[[]int](th.Storage(), "seen")
					return errors.Join(err, actor.Put(th.Storage(), "seen", append(seen, i)))
				})
				call, err := stub.Send(t.Context(), "Act", wrapperspb.Bytes([]byte(token)))
				if err != nil {
					t.Fatal(err)
				}
				calls = append(calls, call)
			}
			for _, call := range calls {
				if err := call.Wait(&wrapperspb.BytesValue{}); err != nil {
					t.Error(err)
				}
			}
			w.step(o)
			o.must(func(_ context.Context, th *thing) error {
				seen, _, err := actor.Get[[]int](th.Storage(), "seen")
				for i, n := range seen {
					if n != i {
						t.Errorf("call %d came as number %d", n, i)
					}
				}
				want(t, "calls", len(seen), 100)
				_, deleteErr := th.Storage().Delete("seen")
				return errors.Join(err, deleteErr)
			})
		}
	}},
	{"an error crosses with its type and its text", func(t *testing.T, w *world) {
		o, between := w.object(), w.object()
		for _, mine := range []error{status.Error(codes.OutOfRange, "too far"), errMine} {
			for name, err := range map[string]error{
				"straight":         o.do(func(context.Context, *thing) error { return mine }),
				"through a caller": between.do(call(o, func(context.Context, *thing) error { return mine })),
			} {
				s, _ := status.FromError(mine)
				if got, _ := status.FromError(err); got.Code() != s.Code() || got.Message() != s.Message() {
					t.Errorf("%s: got %v, want %v", name, err, mine)
				}
				if reason := fault.ReasonOf(err); reason != "" {
					t.Errorf("%s: a handler's error has reason %s", name, reason)
				}
			}
			w.step(o, between)
		}
	}},
	{"an error says whether the call may be repeated: .retryable, .overloaded, .durableObjectReset are reasons and codes", func(t *testing.T, w *world) {
		// The codes are what clients and proxies act on: UNAVAILABLE is sent again, the others are not.
		for reason, code := range map[fault.Reason]codes.Code{
			fault.OwnerChanged: codes.Unavailable, fault.NoOwner: codes.Unavailable, // retryable
			fault.Overloaded: codes.ResourceExhausted, fault.ObjectTimeout: codes.DeadlineExceeded, // overloaded
			fault.ObjectReset: codes.Aborted, fault.Panic: codes.Internal, // durableObjectReset
		} {
			want(t, string(reason), fault.New(reason, "").Code(), code)
		}
		o := w.object()
		wantFault(t, o.do(func(_ context.Context, th *thing) error { th.Abort("enough"); return nil }), fault.ObjectReset, "enough")
		w.step(o)
		o.must(nothing)
	}},
	{"an error of a method does not break the stub, nor the object", func(t *testing.T, w *world) {
		o := w.object()
		if err := o.do(func(_ context.Context, th *thing) error { th.memory = append(th.memory, "kept"); return errMine }); err == nil {
			t.Error("no error")
		}
		o.must(func(_ context.Context, th *thing) error {
			want(t, "the memory after an error", th.memory, []string{"kept"})
			return nil
		})
	}},
	{"a reset breaks no stub for good: the next call finds the object anew", func(t *testing.T, w *world) {
		caller, o := w.object(), w.object()
		caller.must(func(ctx context.Context, th *thing) error {
			err := call(o, func(_ context.Context, th *thing) error { th.Abort("broken"); return nil })(ctx, th)
			wantFault(t, err, fault.ObjectReset, "broken")
			return call(o, nothing)(ctx, th)
		})
		w.step(o, caller)
		caller.must(call(o, nothing))
	}},
	{"too many requests queued are refused as overload, and did not run", func(t *testing.T, w *world) {
		o := w.objectOf(narrow)
		held, release := make(chan struct{}), make(chan struct{})
		first := o.start(func(context.Context, *thing) error {
			close(held)
			<-release
			return nil
		})
		<-held
		ran := &log{}
		const sent = 3 * mailboxMax
		answers := make(chan error, sent)
		for range sent {
			go func() {
				answers <- <-o.through(0, func(context.Context, *thing) error { ran.sayf("ran"); return nil })
			}()
		}
		for range sent - mailboxMax {
			wantFault(t, <-answers, fault.Overloaded, "at most 4 events wait")
		}
		close(release)
		for range mailboxMax {
			if err := <-answers; err != nil {
				t.Errorf("one that had a place: %v", err)
			}
		}
		if err := <-first; err != nil {
			t.Error(err)
		}
		want(t, "calls that ran", ran.count(), mailboxMax)
	}},
	{"a call that would wait for itself is refused at once", func(t *testing.T, w *world) {
		a, b := w.object(), w.object()
		for range 2 {
			a.must(call(b, func(ctx context.Context, th *thing) error {
				wantFault(t, call(a, nothing)(ctx, th), fault.CallCycle, "")
				return nil
			}))
			w.step(a, b)
		}
	}},
}}
