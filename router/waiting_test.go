package router_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-io/holdfast/actor"
	"github.com/holdfast-io/holdfast/fault"
	"github.com/holdfast-io/holdfast/peer/frame"
	"github.com/holdfast-io/holdfast/placement"
	"github.com/holdfast-io/holdfast/router"
)

func ofClass(class, body string) *frame.Request {
	return &frame.Request{Class: class, Method: "Get", Name: "x", Named: true, Body: []byte(body)}
}

// newer is a call whose sender knows later facts.
func newer(body string) *frame.Request {
	req := ofClass(counter.Name, body)
	req.Revision = 8
	return req
}

// ownEverything makes this node the owner, and notes the order in which calls reach it.
func (w *world) ownEverything() (order func() []string) {
	for s := range placement.ShardID(shards) {
		w.leaders[s] = owner{self, 1}
	}
	w.onLocal = func(c *actor.Call) { c.Done(actor.Result{Body: c.Body}) }
	return func() []string {
		var out []string
		for _, c := range w.delivered() {
			out = append(out, string(c.Body))
		}
		return out
	}
}

// learn is news of the facts by whatever way.
func (w *world) learn(revision uint64, classes ...router.ClassFacts) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.revision = revision
	for _, c := range classes {
		w.classes[c.Name] = c
	}
}

// P4: a call that waits for newer facts is not overtaken by a later one of its sender, however that
// one names the class, and however the facts come in.
func TestCallsThatWaitForTheFactsKeepTheirOrder(t *testing.T) {
	t.Parallel()
	fresh := router.ClassFacts{Name: "New", UniqueKey: "new-key", Service: "test.v1.New"}
	for name, tc := range map[string]struct{ first, second *frame.Request }{
		"unknown class": {ofClass("New", "1"), ofClass("New", "2")},
		"unknown service": {
			&frame.Request{Method: "/test.v1.New/Get", Name: "x", Named: true, Body: []byte("1")}, ofClass("New", "2"),
		},
		"class, then service": {
			ofClass("New", "1"), &frame.Request{Method: "/test.v1.New/Get", Name: "x", Named: true, Body: []byte("2")},
		},
		"later revision": {newer("1"), ofClass(counter.Name, "2")},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			run(t, func(t *testing.T, w *world) {
				order := w.ownEverything()
				let := make(chan struct{})
				w.refresh = func(context.Context) error { <-let; return nil }
				a := w.route(tc.first)
				synctest.Wait()
				// What was waited for comes by another way, and the second call has all it needs.
				w.learn(8, fresh)
				b := w.route(tc.second)
				if a.answered() || b.answered() {
					t.Fatal("a call went on before the facts came")
				}
				close(let)
				a.says("1")
				b.says("2")
				if diff := cmp.Diff([]string{"1", "2"}, order()); diff != "" {
					t.Errorf("order (-want +got):\n%s", diff)
				}
				w.route(ofClass("New", "3")).says("3")
			})
		})
	}
}

// A call that comes while those before it are let go waits behind the last of them.
func TestCallsThatComeWhileOthersAreLetGoKeepTheirOrder(t *testing.T) {
	t.Parallel()
	run(t, func(t *testing.T, w *world) {
		order := w.ownEverything()
		let := make(chan struct{})
		w.refresh = func(context.Context) error {
			<-let
			w.learn(8)
			return nil
		}
		var late *answer
		w.onLocal = func(c *actor.Call) {
			if string(c.Body) == "1" {
				late = w.route(ofClass(counter.Name, "4"))
			}
			c.Done(actor.Result{Body: c.Body})
		}
		calls := []*answer{w.route(newer("1")), w.route(ofClass(counter.Name, "2")), w.route(newer("3"))}
		synctest.Wait()
		close(let)
		for i, a := range calls {
			a.says(string(rune('1' + i)))
		}
		late.says("4")
		if diff := cmp.Diff([]string{"1", "2", "3", "4"}, order()); diff != "" {
			t.Errorf("order (-want +got):\n%s", diff)
		}
		if w.asked != 1 {
			t.Errorf("asked %d times for what one answer brought", w.asked)
		}
	})
}

// P6: however many wait, the facts are asked for once at a time; who came after the question was
// asked is not served by its answer.
func TestOneRefreshAtATime(t *testing.T) {
	t.Parallel()
	run(t, func(t *testing.T, w *world) {
		w.ownEverything()
		let := make(chan struct{})
		under := 0
		w.refresh = func(context.Context) error {
			if under++; under > 1 {
				t.Error("two refreshes at once")
			}
			<-let
			under--
			return nil
		}
		first := w.route(ofClass("New", "1"))
		synctest.Wait()
		var rest []*answer
		for range 100 {
			rest = append(rest, w.route(ofClass("New", "2")))
		}
		let <- struct{}{}
		first.fails(fault.UnknownClass)
		synctest.Wait()
		w.learn(8, router.ClassFacts{Name: "New", UniqueKey: "new-key"})
		let <- struct{}{}
		for _, a := range rest {
			a.says("2")
		}
		if w.asked != 2 {
			t.Errorf("asked %d times", w.asked)
		}
	})
}

// A caller of a class that there is not holds up neither other objects nor the calls by which the
// facts are asked for.
func TestCallsOfOtherObjectsPassThoseThatWait(t *testing.T) {
	t.Parallel()
	system := router.ClassFacts{Name: "holdfast.System", UniqueKey: "holdfast.System"}
	runWith(t, func(c *router.Config) { c.FactsClass = system.Name }, func(t *testing.T, w *world) {
		w.ownEverything()
		w.learn(7, system)
		other := router.ClassFacts{Name: "Other", UniqueKey: "other-key"}
		w.refresh = func(ctx context.Context) error {
			w.route(ofClass(system.Name, "facts")).says("facts")
			w.learn(8)
			return ctx.Err()
		}
		w.learn(7, other)
		// A node with later facts calls the object that keeps them, which is here.
		req := ofClass(system.Name, "from a node")
		req.Revision = 9
		w.route(req).says("from a node")
		w.route(newer("1")).says("1")
		if w.asked != 1 {
			t.Errorf("asked %d times", w.asked)
		}
		w.refresh = func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
		stuck := w.route(ofClass("New", ""))
		w.route(ofClass("Other", "2")).says("2")
		w.route(ofClass(counter.Name, "3")).says("3")
		newest := newer("4")
		newest.Revision = 10
		behind := []*answer{stuck, w.route(newest), w.route(ofClass(counter.Name, "5"))}
		elsewhere := ofClass(counter.Name, "6")
		elsewhere.Name = "y"
		w.route(elsewhere).says("6")
		for i, a := range behind {
			if a.answered() {
				t.Errorf("call %d did not wait", i)
			}
		}
	})
}

// What waits for the facts ends by its deadline, and did not run.
func TestDeadlineEndsACallThatWaitsForTheFacts(t *testing.T) {
	t.Parallel()
	run(t, func(t *testing.T, w *world) {
		order := w.ownEverything()
		w.refresh = func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
		req := newer("late")
		req.Deadline = time.Now().Add(time.Second)
		a, b := w.route(req), w.route(ofClass(counter.Name, "in time"))
		if text := a.fails(fault.ObjectTimeout); !strings.Contains(text, "did not run") {
			t.Errorf("got %s", text)
		}
		if a.after < time.Second || a.after > 1050*time.Millisecond {
			t.Errorf("answered after %v", a.after)
		}
		b.says("in time")
		if diff := cmp.Diff([]string{"in time"}, order()); diff != "" {
			t.Errorf("what ran (-want +got):\n%s", diff)
		}
	})
}

func TestCloseAnswersWhatWaitsForTheFacts(t *testing.T) {
	t.Parallel()
	run(t, func(t *testing.T, w *world) {
		order := w.ownEverything()
		w.refresh = func(context.Context) error { time.Sleep(time.Second); return errors.New("no facts") }
		a, b := w.route(newer("1")), w.route(ofClass(counter.Name, "2"))
		synctest.Wait()
		w.r.Close()
		a.fails(fault.NoOwner)
		b.fails(fault.NoOwner)
		w.route(newer("3")).fails(fault.NoOwner)
		if len(order()) != 0 {
			t.Errorf("%v ran", order())
		}
	})
}
