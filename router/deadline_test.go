package router_test

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-io/holdfast/actor"
	"github.com/holdfast-io/holdfast/fault"
	"github.com/holdfast-io/holdfast/peer/frame"
	"github.com/holdfast-io/holdfast/router"
)

// A handler that looks at nothing, or an event that waits behind one, leaves its caller waiting no
// longer than the deadline.
func TestDeadlineEndsACallOnThisNode(t *testing.T) {
	t.Parallel()
	run(t, func(t *testing.T, w *world) {
		w.lead(self, 1)
		req := named()
		req.Deadline = time.Now().Add(time.Second)
		a := w.route(req)
		if text := a.fails(fault.ObjectTimeout); !strings.Contains(text, "may or may not") {
			t.Errorf("got %s", text)
		}
		if a.after < time.Second || a.after > 1050*time.Millisecond {
			t.Errorf("answered after %v", a.after)
		}
		w.delivered()[0].Done(actor.Result{Body: []byte("too late")})
	})
}

// What waits to be tried again when the node stops has certainly not run: its caller may call
// another node (P7).
func TestCloseRefusesWhatWaitsForAnOwner(t *testing.T) {
	t.Parallel()
	run(t, func(t *testing.T, w *world) {
		waiting := w.route(named())
		time.Sleep(100 * time.Millisecond)
		w.lead(self, 1)
		w.r.Close()
		waiting.fails(fault.NoOwner)
		late := w.route(named())
		late.fails(fault.NoOwner)
		if len(w.delivered()) != 0 {
			t.Error("a call ran after Close")
		}
	})
}

func TestCloseAnswersWhatRunsHere(t *testing.T) {
	t.Parallel()
	run(t, func(t *testing.T, w *world) {
		w.lead(self, 1)
		a := w.route(named())
		synctest.Wait()
		w.r.Close()
		a.fails(fault.OutcomeUnknown)
		w.delivered()[0].Done(actor.Result{Body: []byte("too late")})
	})
}

// The first try's way of cancelling it comes after the second try has begun: it is not that one's.
func TestCancelReachesTheTryUnderWay(t *testing.T) {
	t.Parallel()
	run(t, func(t *testing.T, w *world) {
		w.lead(2, 3)
		w.onCall = func(s *sent) {
			if s.to == 2 {
				s.done(noOwner(owner{}))
				w.r.Learn(shard, 3, 4)
			}
		}
		a := w.route(named())
		w.last(2)
		gone := errors.New("gone")
		a.cancel(gone)
		calls := w.sent()
		if len(calls[0].canceled) != 0 || len(calls[1].canceled) != 1 {
			t.Errorf("canceled %v and %v", calls[0].canceled, calls[1].canceled)
		}
		// It still counts as sent to the owner of term 4, not 3.
		w.r.Learn(shard, 3, 4)
		time.Sleep(time.Second)
		if a.answered() {
			t.Error("ended as superseded by its own owner")
		}
		calls[1].done(frame.ErrorResponse(context.Canceled))
		a.get()
	})
}

// lateNews learns of an owner when a call has been given to the one before, and before it is sent.
type lateNews struct {
	*world

	asked atomic.Int32
}

func (l *lateNews) Revision() uint64 {
	if l.asked.Add(1) == 2 { // First by Route; then to be sent along.
		l.r.Learn(shard, 3, 4)
	}
	return l.world.Revision()
}

func TestNewsWhileACallIsSentSupersedeIt(t *testing.T) {
	t.Parallel()
	configure := func(c *router.Config) { c.Facts = &lateNews{world: c.Facts.(*world)} } //nolint:forcetypeassert // it is
	runWith(t, configure, func(t *testing.T, w *world) {
		w.lead(2, 3)
		a := w.route(named())
		if s := w.last(1); s.to != 2 {
			t.Fatalf("went to %v", s.to)
		}
		a.fails(fault.OutcomeUnknown)
		if a.after > 150*time.Millisecond {
			t.Errorf("answered after %v", a.after)
		}
	})
}
