package router_test

import (
	"context"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/holdfast-io/holdfast/actor"
	"github.com/holdfast-io/holdfast/fault"
	"github.com/holdfast-io/holdfast/peer/frame"
)

// outgoing is a call that an object makes.
func outgoing() *actor.Outgoing {
	return &actor.Outgoing{
		Class: counter.Name, Name: "x", Named: true, Existing: true, Method: "/" + counter.Service + "/Get", Body: []byte("body"),
		Deadline: time.Now().Add(time.Minute),
		Chain:    []actor.Link{{Event: 1, Label: `Relay "a"`}, {Event: 2, Label: `Relay "b"`}},
	}
}

// A call of an object is routed as others are, and its chain goes with it, from node to node too.
func TestCallsOfObjects(t *testing.T) {
	t.Parallel()
	for name, leader := range map[string]owner{"here": {self, 5}, "elsewhere": {2, 5}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			run(t, func(t *testing.T, w *world) {
				w.lead(leader.node, leader.term)
				ctx := metadata.AppendToOutgoingContext(context.Background(), "k", "v", "holdfast-name", "other")
				out := outgoing()
				answered := make(chan actor.Result, 1)
				w.r.Call(ctx, out, func(r actor.Result) { answered <- r })
				md := metadata.MD{"k": {"v"}}
				if leader.node == self {
					c := w.delivered()[0]
					if c.Method != named().Method || c.Name != "x" || !c.Deadline.Equal(out.Deadline) {
						t.Errorf("delivered %+v", c)
					}
					if diff := cmp.Diff(out.Chain, c.Chain) + cmp.Diff(md, c.Metadata); diff != "" {
						t.Errorf("(-made +delivered)\n%s", diff)
					}
					c.Done(actor.Result{Body: []byte("reply")})
				} else {
					s := w.last(1)
					want := frame.Request{
						Class: counter.UniqueKey, Method: "Get", Name: "x", Named: true, Body: []byte("body"), Deadline: out.Deadline, Existing: true, Hops: 1, Revision: 7,
						Metadata: md, Chain: []frame.Link{{Event: 1, Label: `Relay "a"`}, {Event: 2, Label: `Relay "b"`}},
					}
					if diff := cmp.Diff(want, s.req); diff != "" {
						t.Errorf("(-want +sent)\n%s", diff)
					}
					s.done(ok("reply"))
				}
				if r := <-answered; r.Err != nil || string(r.Body) != "reply" {
					t.Errorf("got %s, %v", r.Body, r.Err)
				}
			})
		})
	}
}

// A forwarded call reaches its object with the chain that came with it.
func TestTheChainOfAForwardedCallIsTold(t *testing.T) {
	t.Parallel()
	run(t, func(t *testing.T, w *world) {
		w.lead(self, 5)
		req := forwarded(1)
		req.Chain = []frame.Link{{Event: 3, Label: "Relay"}}
		w.route(req)
		if diff := cmp.Diff([]actor.Link{{Event: 3, Label: "Relay"}}, w.delivered()[0].Chain); diff != "" {
			t.Errorf("(-sent +delivered)\n%s", diff)
		}
		w.delivered()[0].Done(actor.Result{})
	})
}

// An object's call that certainly did not run is made again, and errors come back as they are.
func TestErrorsOfCallsOfObjects(t *testing.T) {
	t.Parallel()
	run(t, func(t *testing.T, w *world) {
		w.lead(2, 5)
		answered := make(chan actor.Result, 1)
		w.r.Call(t.Context(), outgoing(), func(r actor.Result) { answered <- r })
		w.last(1).done(noOwner(owner{}))
		time.Sleep(time.Second) //nolint:forbidigo // in a bubble: until it is made again
		w.last(2).done(frame.ErrorResponse(fault.New(fault.CallCycle, "no")))
		if r := <-answered; fault.ReasonOf(r.Err) != fault.CallCycle {
			t.Errorf("got %v", r.Err)
		}
		large := outgoing()
		large.Body = make([]byte, frame.BodyBytesMax+1)
		w.r.Call(t.Context(), large, func(r actor.Result) { answered <- r })
		if r := <-answered; fault.ReasonOf(r.Err) != fault.RequestTooLarge {
			t.Errorf("got %v", r.Err)
		}
		cancel := w.r.Call(t.Context(), outgoing(), func(r actor.Result) { answered <- r })
		cancel(context.Canceled)
		if s := w.last(3); len(s.canceled) != 1 {
			t.Errorf("canceled: %v", s.canceled)
		}
		w.last(3).done(frame.ErrorResponse(context.Canceled))
		<-answered
	})
}

// A call that was canceled between two tries is not made again, behind what its caller called since.
func TestACanceledCallIsNotMadeAgain(t *testing.T) {
	t.Parallel()
	for name, leader := range map[string]owner{"here": {self, 6}, "elsewhere": {3, 6}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			run(t, func(t *testing.T, w *world) {
				w.lead(2, 5)
				a := w.route(named())
				w.last(1).done(noOwner(owner{}))
				a.cancel(context.Canceled)
				w.lead(leader.node, leader.term)
				if resp := a.get(); status.Code(resp.Err()) != codes.Canceled {
					t.Errorf("got %v", resp.Err())
				}
				if len(w.sent()) > 1 || len(w.delivered()) > 0 {
					t.Error("it was made again")
				}
			})
		})
	}
}
