package router_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/holdfast-io/holdfast/actor"
	"github.com/holdfast-io/holdfast/fault"
	"github.com/holdfast-io/holdfast/peer/frame"
	"github.com/holdfast-io/holdfast/router"
)

func TestCallsAreCountedByTheirClassAndErrors(t *testing.T) {
	t.Parallel()
	run(t, func(t *testing.T, w *world) {
		w.lead(self, 3)
		// What a handler makes up is no label.
		own, err := status.New(codes.Code(77), "mine").WithDetails(&errdetails.ErrorInfo{Domain: fault.Domain, Reason: "INVENTED"})
		if err != nil {
			t.Fatal(err)
		}
		for _, err := range []error{nil, own.Err(), status.Error(codes.NotFound, "mine"), fault.New(fault.Panic, "")} {
			w.onLocal = func(c *actor.Call) { c.Done(actor.Result{Err: err}) }
			w.route(named()).get()
		}
		// Only the node at which it came in counts the error of a call.
		w.route(forwarded(1)).fails(fault.Panic)

		w.lead(2, 4)
		tries := 0
		w.onCall = func(s *sent) {
			if tries++; tries == 1 {
				s.done(noOwner(owner{}))
				return
			}
			s.done(frame.ErrorResponse(fault.New(fault.OutcomeUnknown, "")))
		}
		w.route(named()).fails(fault.OutcomeUnknown)
		for _, name := range []string{"Invented", "Another"} {
			w.route(&frame.Request{Class: name, Method: "Get", ID: id}).fails(fault.UnknownClass)
		}
		want := []router.ClassStats{
			{Errors: map[router.ErrorKind]uint64{{Code: codes.NotFound, Reason: fault.UnknownClass}: 2}},
			{UniqueKey: counter.UniqueKey, Forwarded: 2, Retries: 1, Errors: map[router.ErrorKind]uint64{
				{Code: codes.Unknown}:                               1,
				{Code: codes.NotFound}:                              1,
				{Code: codes.Internal, Reason: fault.Panic}:         1,
				{Code: codes.Aborted, Reason: fault.OutcomeUnknown}: 1,
			}},
		}
		if diff := cmp.Diff(want, w.r.Stats()); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
}

func TestCallsUnderWayAreCounted(t *testing.T) {
	t.Parallel()
	run(t, func(t *testing.T, w *world) {
		w.lead(self, 3)
		req := named()
		req.Body = make([]byte, 100)
		w.route(req)
		if calls, bytes := w.r.InFlight(); calls != 1 || bytes != router.CallBytes+100 {
			t.Errorf("while it runs: %d calls, %d bytes", calls, bytes)
		}
		w.delivered()[0].Done(actor.Result{})
		if calls, bytes := w.r.InFlight(); calls != 0 || bytes != 0 {
			t.Errorf("afterwards: %d calls, %d bytes", calls, bytes)
		}
	})
}
