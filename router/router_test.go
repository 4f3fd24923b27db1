package router_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"go.uber.org/goleak"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/holdfast-io/holdfast/actor"
	"github.com/holdfast-io/holdfast/fault"
	"github.com/holdfast-io/holdfast/peer/frame"
	"github.com/holdfast-io/holdfast/placement"
	"github.com/holdfast-io/holdfast/router"
	"github.com/holdfast-io/holdfast/storage"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const self placement.NodeID = 1

const shards = 16

var counter = router.ClassFacts{Name: "Counter", UniqueKey: "counter-key", Service: "test.v1.Counter"}

// id is the object that the tests call, and shard where it is.
var (
	id    = placement.NewNamespace(counter.UniqueKey).IDFromName("x")
	shard = placement.ShardOf(id, shards)
)

type owner struct {
	node placement.NodeID
	term uint64
}

// sent is one call that went to another node.
type sent struct {
	to       placement.NodeID
	at       time.Time
	req      frame.Request
	done     func(frame.Response)
	canceled []error
}

// world is everything around a Router, and a script for it.
type world struct {
	t *testing.T
	r *router.Router

	mu       sync.Mutex
	classes  map[string]router.ClassFacts
	revision uint64
	refresh  func(ctx context.Context) error
	asked    int // how often Refresh was called
	leaders  map[placement.ShardID]owner
	wishes   map[placement.ShardID]placement.NodeID
	calls    []*sent
	onCall   func(s *sent)
	local    []*actor.Call
	onLocal  func(c *actor.Call)
}

func (w *world) Class(name string) (router.ClassFacts, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	c, ok := w.classes[name]
	return c, ok
}

func (w *world) Meant(name string) (meant []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for full := range w.classes {
		if strings.HasSuffix(full, "/"+name) {
			meant = append(meant, full)
		}
	}
	slices.Sort(meant)
	return meant
}

func (w *world) ByKey(key string) (router.ClassFacts, bool) {
	return w.find(func(c router.ClassFacts) bool { return c.UniqueKey == key })
}

func (w *world) ByService(service string) (router.ClassFacts, bool) {
	return w.find(func(c router.ClassFacts) bool { return c.Service == service })
}

func (w *world) find(is func(router.ClassFacts) bool) (router.ClassFacts, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range w.classes {
		if is(c) {
			return c, true
		}
	}
	return router.ClassFacts{}, false
}

func (w *world) Revision() uint64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.revision
}

func (w *world) Refresh(ctx context.Context) error {
	w.mu.Lock()
	w.asked++
	refresh := w.refresh
	w.mu.Unlock()
	if refresh == nil {
		return nil
	}
	return refresh(ctx)
}

func (w *world) Leader(shard placement.ShardID) (placement.NodeID, uint64, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	o, ok := w.leaders[shard]
	return o.node, o.term, ok
}

func (w *world) Deliver(c *actor.Call) {
	w.mu.Lock()
	w.local = append(w.local, c)
	answer := w.onLocal
	w.mu.Unlock()
	if answer != nil {
		answer(c)
	}
}

func (w *world) Call(to placement.NodeID, req *frame.Request, done func(frame.Response)) func(error) {
	s := &sent{to: to, at: time.Now(), req: *req, done: done}
	w.mu.Lock()
	w.calls = append(w.calls, s)
	answer := w.onCall
	w.mu.Unlock()
	if answer != nil {
		answer(s)
	}
	return func(cause error) {
		w.mu.Lock()
		defer w.mu.Unlock()
		s.canceled = append(s.canceled, cause)
	}
}

func (w *world) lead(node placement.NodeID, term uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.leaders[shard] = owner{node, term}
}

func (w *world) sent() []*sent {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]*sent(nil), w.calls...)
}

// last returns the newest call that went to another node, when there are so many.
func (w *world) last(n int) *sent {
	w.t.Helper()
	synctest.Wait()
	calls := w.sent()
	if len(calls) != n {
		w.t.Fatalf("%d calls went to other nodes, want %d", len(calls), n)
	}
	return calls[n-1]
}

func (w *world) delivered() []*actor.Call {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]*actor.Call(nil), w.local...)
}

// run runs a test against a Router in a bubble of its own.
func run(t *testing.T, test func(t *testing.T, w *world)) {
	t.Helper()
	runWith(t, func(*router.Config) {}, test)
}

func runWith(t *testing.T, configure func(*router.Config), test func(t *testing.T, w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := &world{
			t: t, classes: map[string]router.ClassFacts{counter.Name: counter}, revision: 7,
			leaders: make(map[placement.ShardID]owner), wishes: make(map[placement.ShardID]placement.NodeID),
		}
		cfg := router.Config{
			Self: self, Shards: shards, Facts: w, Local: w, Leaders: w, Remote: w,
			Wish: func(s placement.ShardID) (placement.NodeID, bool) {
				w.mu.Lock()
				defer w.mu.Unlock()
				n, ok := w.wishes[s]
				return n, ok
			},
			Addr: func(n placement.NodeID) string { return fmt.Sprintf("node%d:7070", n) },
		}
		configure(&cfg)
		w.r = router.New(cfg)
		w.r.Start()
		defer w.r.Close()
		test(t, w)
	})
}

// answer is what became of a call.
type answer struct {
	t      *testing.T
	cancel func(error)
	began  time.Time

	mu    sync.Mutex
	resp  []frame.Response
	after time.Duration
	first chan struct{}
}

func (w *world) route(req *frame.Request) *answer {
	a := &answer{t: w.t, began: time.Now(), first: make(chan struct{})}
	a.cancel = w.r.Route(req, func(resp frame.Response) {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.resp = append(a.resp, resp)
		if len(a.resp) == 1 {
			a.after = time.Since(a.began)
			close(a.first)
		} else {
			a.t.Errorf("answer %d: %v", len(a.resp), resp.Err())
		}
	})
	return a
}

// get waits for the answer.
func (a *answer) get() frame.Response {
	a.t.Helper()
	select {
	case <-a.first:
	case <-time.After(time.Hour):
		a.t.Fatal("no answer within an hour")
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.resp[0]
}

func (a *answer) answered() bool {
	synctest.Wait()
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.resp) > 0
}

// fails waits for the answer and checks that it has the reason.
func (a *answer) fails(want fault.Reason) string {
	a.t.Helper()
	resp := a.get()
	err := resp.Err()
	if got := fault.ReasonOf(err); got != want {
		a.t.Fatalf("got %v, want %s", err, want)
	}
	return err.Error()
}

// says waits for the answer and checks its body.
func (a *answer) says(want string) frame.Response {
	a.t.Helper()
	resp := a.get()
	if err := resp.Err(); err != nil || string(resp.Body) != want {
		a.t.Fatalf("got %q, %v, want %q", resp.Body, err, want)
	}
	return resp
}

func named() *frame.Request {
	return &frame.Request{Class: counter.Name, Method: "Get", Name: "x", Named: true}
}

// forwarded is what another node makes of named, that many times over.
func forwarded(hops uint8) *frame.Request {
	req := named()
	if req.Hops = hops; hops > 0 {
		req.Class = counter.UniqueKey
	}
	return req
}

func ordered() *frame.Request {
	req := named()
	req.Ordered = true
	return req
}

func noOwner(hint owner) frame.Response {
	resp := frame.ErrorResponse(fault.New(fault.NoOwner, "not here"))
	if hint.node != 0 {
		resp.Owner = frame.OwnerHint{Node: hint.node, Shard: shard, Shards: shards, Term: hint.term}
	}
	return resp
}

func ok(body string) frame.Response { return frame.Response{Body: []byte(body)} }

func TestOwnerRunsTheCall(t *testing.T) {
	t.Parallel()
	run(t, func(t *testing.T, w *world) {
		w.lead(self, 3)
		w.onLocal = func(c *actor.Call) { c.Done(actor.Result{Body: []byte("reply")}) }
		deadline := time.Now().Add(time.Second)
		resp := w.route(&frame.Request{
			Class: counter.UniqueKey, Method: "Get", Name: "x", Named: true, JSON: true, Deadline: deadline, Hops: 2,
			Metadata: metadata.Pairs("k", "v"), Body: []byte("request"),
		}).says("reply")
		want := frame.OwnerHint{Node: self, Addr: "node1:7070", Shard: shard, Shards: shards, Term: 3}
		if diff := cmp.Diff(want, resp.Owner); diff != "" || resp.Revision != 7 {
			t.Errorf("revision %d, hint (-want +got):\n%s", resp.Revision, diff)
		}
		calls := w.delivered()
		if len(calls) != 1 || len(w.sent()) != 0 {
			t.Fatalf("got %d calls here and %d elsewhere", len(calls), len(w.sent()))
		}
		wantCall := &actor.Call{
			Shard: shard, Object: storage.ObjectRef{Class: counter.UniqueKey, ID: id}, Class: counter.Name, Name: "x", Named: true,
			Method: "Get", JSON: true, Body: []byte("request"), Metadata: metadata.Pairs("k", "v"), Deadline: deadline,
		}
		if diff := cmp.Diff(wantCall, calls[0], cmpopts.IgnoreUnexported(actor.Call{}), cmpopts.IgnoreFields(actor.Call{}, "Done")); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
}

func TestErrorsOfTheObjectReachTheCaller(t *testing.T) {
	t.Parallel()
	run(t, func(t *testing.T, w *world) {
		own := status.Error(codes.AlreadyExists, "mine")
		w.lead(self, 3)
		w.onLocal = func(c *actor.Call) { c.Done(actor.Result{Err: own}) }
		if resp := w.route(named()).get(); !errors.Is(resp.Err(), own) {
			t.Errorf("from here: got %v", resp.Err())
		}
		w.lead(2, 4)
		w.onCall = func(s *sent) { s.done(frame.ErrorResponse(own)) }
		if resp := w.route(named()).get(); !errors.Is(resp.Err(), own) {
			t.Errorf("from elsewhere: got %v", resp.Err())
		}
		if len(w.delivered()) != 1 || len(w.sent()) != 1 {
			t.Error("a call that ran was tried again")
		}
	})
}

func TestServiceNamesTheClass(t *testing.T) {
	t.Parallel()
	run(t, func(t *testing.T, w *world) {
		w.lead(self, 1)
		w.onLocal = func(c *actor.Call) { c.Done(actor.Result{Body: []byte(c.Class + "." + c.Method)}) }
		w.route(&frame.Request{Method: "/test.v1.Counter/Increment", ID: id}).says("Counter.Increment")
		w.lead(2, 2)
		w.onCall = func(s *sent) { s.done(ok(s.req.Class + "." + s.req.Method)) }
		w.route(&frame.Request{Method: "/test.v1.Counter/Increment", ID: id}).says("counter-key.Increment")
	})
}

// A class may be renamed, and another take its name, while a call is on its way: it reaches the object that
// it was sent to, by a program that has the class under its former name too.
func TestForwardedCallsNameTheUniqueKey(t *testing.T) {
	t.Parallel()
	run(t, func(t *testing.T, w *world) {
		w.lead(self, 1)
		w.onLocal = func(c *actor.Call) { c.Done(actor.Result{Body: []byte(c.Class + " of " + c.Object.Class)}) }
		w.classes = map[string]router.ClassFacts{
			"Tally":   {Name: "Tally", UniqueKey: counter.UniqueKey, Runs: "Counter"},
			"Counter": {Name: "Counter", UniqueKey: "Counter#2", Runs: "Counter"},
		}
		w.route(forwarded(1)).says("Counter of counter-key")
		w.route(forwarded(0)).fails(fault.NoOwner) // Another object, in another shard.
		delete(w.classes, "Tally")
		w.route(forwarded(1)).fails(fault.UnknownClass)
	})
}

func TestCallIsForwardedToTheOwner(t *testing.T) {
	t.Parallel()
	run(t, func(t *testing.T, w *world) {
		w.lead(2, 3)
		deadline := time.Now().Add(time.Minute)
		req := &frame.Request{
			Class: counter.UniqueKey, Method: "Get", Name: "x", Named: true, JSON: true, Hops: 1, Revision: 5, Deadline: deadline,
			Metadata: metadata.Pairs("k", "v"), Body: []byte("request"),
		}
		want := *req
		want.Hops, want.Revision = 2, 7
		a := w.route(req)
		s := w.last(1)
		if diff := cmp.Diff(want, s.req); diff != "" || s.to != 2 {
			t.Errorf("to %v (-want +got):\n%s", s.to, diff)
		}
		if a.answered() {
			t.Fatal("answered before the owner")
		}
		time.Sleep(50 * time.Second)
		s.done(ok("reply"))
		a.says("reply")
		if len(w.delivered()) != 0 {
			t.Error("the call ran here too")
		}
	})
}

func TestTheRingsWishIsTheFirstGuess(t *testing.T) {
	t.Parallel()
	run(t, func(t *testing.T, w *world) {
		w.onCall = func(s *sent) { s.done(ok("reply")) }
		w.wishes[shard] = 3
		w.route(named()).says("reply")
		if s := w.last(1); s.to != 3 {
			t.Errorf("went to %v", s.to)
		}
		if node, ok := w.r.Owner(shard); !ok || node != 3 {
			t.Errorf("Owner: got %v, %t", node, ok)
		}
		// Who was asked by another node does not pass a guess on: that could go round for ever.
		req := forwarded(1)
		w.route(req).fails(fault.NoOwner)
		w.last(1)
	})
}

func TestTheLaterTermIsBelieved(t *testing.T) {
	t.Parallel()
	run(t, func(t *testing.T, w *world) {
		w.onCall = func(s *sent) { s.done(ok("reply")) }
		for _, step := range []struct {
			what string
			do   func()
			want placement.NodeID
		}{
			{"the replica here knows", func() { w.lead(2, 5) }, 2},
			{"news of an earlier term", func() { w.r.Learn(shard, 3, 4) }, 2},
			{"news of the same term", func() { w.r.Learn(shard, 3, 5) }, 2},
			{"news of a later term", func() { w.r.Learn(shard, 3, 6) }, 3},
			{"other news of that term", func() { w.r.Learn(shard, 4, 6) }, 3},
			{"the replica here catches up", func() { w.lead(4, 7) }, 4},
		} {
			step.do()
			if node, _ := w.r.Owner(shard); node != step.want {
				t.Errorf("%s: got %v, want %v", step.what, node, step.want)
			}
			w.route(named()).says("reply")
			if calls := w.sent(); calls[len(calls)-1].to != step.want {
				t.Errorf("%s: the call went to %v, want %v", step.what, calls[len(calls)-1].to, step.want)
			}
		}
		w.r.Learn(shards, 9, 9) // A shard that there is not.
		w.r.Learn(1<<31, 9, 9)
	})
}

func TestRedirectIsFollowed(t *testing.T) {
	t.Parallel()
	run(t, func(t *testing.T, w *world) {
		w.lead(2, 3)
		w.onCall = func(s *sent) {
			if s.to == 2 {
				s.done(noOwner(owner{3, 4}))
				return
			}
			s.done(ok("reply"))
		}
		a := w.route(named())
		resp := a.says("reply")
		if resp.Owner.Node != 3 || resp.Owner.Term != 4 || resp.Owner.Addr != "node3:7070" {
			t.Errorf("got hint %+v", resp.Owner)
		}
		if calls := w.sent(); len(calls) != 2 || calls[1].to != 3 || calls[1].req.Hops != 1 {
			t.Errorf("got %d calls, the last %+v", len(calls), calls[len(calls)-1])
		}
		if a.after > 20*time.Millisecond {
			t.Errorf("took %v", a.after)
		}
		w.route(named()).says("reply")
		if s := w.last(3); s.to != 3 {
			t.Errorf("the next call went to %v", s.to)
		}
	})
}

func TestRedirectToThisNodeIsFollowed(t *testing.T) {
	t.Parallel()
	run(t, func(t *testing.T, w *world) {
		w.lead(2, 3)
		w.onCall = func(s *sent) { s.done(noOwner(owner{self, 4})) }
		w.onLocal = func(c *actor.Call) { c.Done(actor.Result{Body: []byte("here")}) }
		w.route(named()).says("here")
	})
}

func TestWhatDidNotRunIsTriedAgain(t *testing.T) {
	t.Parallel()
	for _, reason := range []fault.Reason{fault.NoOwner, fault.OwnerChanged} {
		for where, leader := range map[string]placement.NodeID{"here": self, "elsewhere": 2} {
			t.Run(string(reason)+" "+where, func(t *testing.T) {
				t.Parallel()
				run(t, func(t *testing.T, w *world) {
					began := time.Now()
					err := func() error {
						if time.Since(began) < time.Second {
							return fault.New(reason, "not now")
						}
						return nil
					}
					w.onLocal = func(c *actor.Call) { c.Done(actor.Result{Body: []byte("reply"), Err: err()}) }
					w.onCall = func(s *sent) {
						if err := err(); err != nil {
							s.done(frame.ErrorResponse(err))
							return
						}
						s.done(ok("reply"))
					}
					w.lead(leader, 3)
					a := w.route(named())
					a.says("reply")
					tries := len(w.sent()) + len(w.delivered())
					if a.after < time.Second || a.after > 1100*time.Millisecond || tries < 10 || tries > 60 {
						t.Errorf("answered after %v and %d tries", a.after, tries)
					}
				})
			})
		}
	}
}

func TestRetriesEndByTheDeadline(t *testing.T) {
	t.Parallel()
	run(t, func(t *testing.T, w *world) {
		req := named()
		req.Deadline = time.Now().Add(300 * time.Millisecond)
		a := w.route(req)
		a.fails(fault.NoOwner)
		if a.after < 200*time.Millisecond || a.after > 300*time.Millisecond {
			t.Errorf("answered after %v", a.after)
		}
	})
}

func TestNewsOfAnOwnerWakesWhatWaits(t *testing.T) {
	t.Parallel()
	run(t, func(t *testing.T, w *world) {
		w.onCall = func(s *sent) { s.done(ok("reply")) }
		var waiting []*answer
		for range 10 {
			waiting = append(waiting, w.route(named()))
		}
		time.Sleep(time.Second)
		synctest.Wait()
		now := time.Now()
		w.r.Learn(shard, 2, 1)
		for _, a := range waiting {
			a.says("reply")
		}
		if d := time.Since(now); d != 0 {
			t.Errorf("they waited %v longer", d)
		}
	})
}

// The caller sends what it sent behind it too: a retry here would change their order.
func TestOrderedCallsAreNotTriedAgain(t *testing.T) {
	t.Parallel()
	run(t, func(t *testing.T, w *world) {
		w.route(ordered()).fails(fault.NoOwner)
		w.lead(2, 3)
		w.onCall = func(s *sent) { s.done(noOwner(owner{3, 4})) }
		resp := w.route(ordered()).get()
		if fault.ReasonOf(resp.Err()) != fault.NoOwner || resp.Owner.Node != 3 || resp.Owner.Addr != "node3:7070" {
			t.Errorf("got %v with hint %+v", resp.Err(), resp.Owner)
		}
		w.onCall = func(s *sent) { s.done(frame.ErrorResponse(&frame.LostError{Cause: errors.New("broken")})) }
		w.route(ordered()).fails(fault.NoOwner)
		w.lead(self, 5)
		w.onLocal = func(c *actor.Call) { c.Done(actor.Result{Err: fault.New(fault.OwnerChanged, "moved")}) }
		w.route(ordered()).fails(fault.OwnerChanged)
		if got := len(w.sent()) + len(w.delivered()); got != 3 {
			t.Errorf("%d tries of 4 calls, of which 3 had an owner", got)
		}
	})
}

// Only the node where a call came in tries again: else each hop would multiply the tries.
func TestForwardedCallsAreNotTriedAgain(t *testing.T) {
	t.Parallel()
	run(t, func(t *testing.T, w *world) {
		w.lead(2, 3)
		w.onCall = func(s *sent) { s.done(noOwner(owner{3, 4})) }
		req := forwarded(1)
		resp := w.route(req).get()
		if fault.ReasonOf(resp.Err()) != fault.NoOwner || resp.Owner.Node != 3 {
			t.Errorf("got %v with hint %+v", resp.Err(), resp.Owner)
		}
		w.last(1)
	})
}

func TestHopsAreLimited(t *testing.T) {
	t.Parallel()
	run(t, func(t *testing.T, w *world) {
		w.lead(2, 3)
		w.onCall = func(s *sent) { s.done(ok("reply")) }
		for hops := range uint8(6) {
			req := forwarded(hops)
			a := w.route(req)
			if hops < 3 {
				a.says("reply")
				continue
			}
			if text := a.fails(fault.NoOwner); !strings.Contains(text, "3 hops") {
				t.Errorf("got %s", text)
			}
		}
		w.last(3)
		w.lead(self, 4)
		w.onLocal = func(c *actor.Call) { c.Done(actor.Result{Body: []byte("here")}) }
		req := forwarded(3)
		w.route(req).says("here") // The last hop arrives.
	})
}

func TestACallThatWasSentWhenTheConnectionBrokeMayHaveRun(t *testing.T) {
	t.Parallel()
	run(t, func(t *testing.T, w *world) {
		w.lead(2, 3)
		w.onCall = func(s *sent) {
			s.done(frame.ErrorResponse(&frame.LostError{Sent: true, Cause: errors.New("broken")}))
		}
		w.route(named()).fails(fault.OutcomeUnknown)
		w.last(1)
	})
}

func identified() *frame.Request {
	req := named()
	req.RequestID = "r"
	return req
}

// With a request id what may have run is tried again, and what it was first asked is asked again.
func TestACallInDoubtWithARequestIDIsTriedAgain(t *testing.T) {
	t.Parallel()
	answers := []frame.Response{
		frame.ErrorResponse(&frame.LostError{Sent: true, Cause: errors.New("broken")}),
		frame.ErrorResponse(fault.New(fault.OutcomeUnknown, "")),
		frame.ErrorResponse(fault.New(fault.NoOwner, "")),
		frame.ErrorResponse(fault.New(fault.Overloaded, "")),
		ok("reply"),
	}
	run(t, func(t *testing.T, w *world) {
		w.lead(2, 3)
		w.onCall = func(s *sent) { s.done(answers[len(w.sent())-1]) }
		w.route(identified()).says("reply")
		w.last(len(answers))
		for i, s := range w.sent() {
			if s.req.RequestID != "r" {
				t.Errorf("try %d has request id %q", i+1, s.req.RequestID)
			}
		}
	})
	run(t, func(_ *testing.T, w *world) {
		w.lead(self, 3)
		w.onLocal = func(c *actor.Call) {
			if len(w.delivered()) == 1 {
				c.Done(actor.Result{Err: fault.New(fault.OutcomeUnknown, "")})
				return
			}
			c.Done(actor.Result{Body: []byte(c.RequestID)})
		}
		w.route(identified()).says("r")
	})
}

// A class of a worker is called by its bare name where one alone can be meant, and is known by its full one
// from then on.
func TestABareNameOfAClass(t *testing.T) {
	t.Parallel()
	run(t, func(t *testing.T, w *world) {
		full := router.ClassFacts{Name: "worker/Bare", UniqueKey: counter.UniqueKey}
		w.classes = map[string]router.ClassFacts{full.Name: full, "Bare": full}
		w.lead(self, 3)
		w.route(&frame.Request{Class: "Bare", Name: "x", Named: true, Method: "m/n", Values: true, Body: []byte{0x80}})
		if c := w.delivered()[0]; c.Class != full.Name || c.Object.ID != id || c.Method != "m/n" || !c.Values {
			t.Errorf("delivered %+v", c)
		}
		delete(w.classes, "Bare")
		w.classes["other/Bare"] = router.ClassFacts{Name: "other/Bare", UniqueKey: "other/Bare"}
		resp := w.route(&frame.Request{Class: "Bare", Name: "x", Named: true, Method: "m"}).get()
		if err := resp.Err(); fault.ReasonOf(err) != fault.UnknownClass || !strings.Contains(err.Error(), "other/Bare, worker/Bare") {
			t.Errorf("two of the name: %v", err)
		}
	})
}

// What must exist is decided by the owner alone: the request says so wherever it goes.
func TestExistingGoesToTheOwner(t *testing.T) {
	t.Parallel()
	run(t, func(t *testing.T, w *world) {
		req := named()
		req.Existing = true
		w.lead(2, 3)
		a := w.route(req)
		if s := w.last(1); !s.req.Existing {
			t.Errorf("sent %+v", s.req)
		}
		w.last(1).done(frame.ErrorResponse(fault.New(fault.UnknownObject, "")))
		a.fails(fault.UnknownObject)
		w.lead(self, 4)
		w.route(req)
		if c := w.delivered()[0]; !c.Existing {
			t.Errorf("delivered %+v", c)
		}
	})
}

// A call that has been in doubt is never said not to have run.
func TestACallStaysInDoubt(t *testing.T) {
	t.Parallel()
	for name, then := range map[string]frame.Response{
		"no owner":   noOwner(owner{}),
		"not sent":   frame.ErrorResponse(&frame.LostError{Cause: errors.New("broken")}),
		"overloaded": frame.ErrorResponse(fault.New(fault.Overloaded, "")),
		"gone":       frame.ErrorResponse(fault.New(fault.UnknownObject, "")), // It may have been deleted by the first try.
	} {
		t.Run(name, func(t *testing.T) {
			run(t, func(_ *testing.T, w *world) {
				w.lead(2, 3)
				w.onCall = func(s *sent) {
					if len(w.sent()) == 1 {
						s.done(frame.ErrorResponse(&frame.LostError{Sent: true, Cause: errors.New("broken")}))
						return
					}
					s.done(then)
				}
				req := identified()
				req.Existing = name == "gone"
				req.Deadline = time.Now().Add(200 * time.Millisecond)
				w.route(req).fails(fault.OutcomeUnknown)
				if tries := len(w.sent()); tries < 3 && name != "gone" || tries < 2 {
					t.Errorf("tried %d times", len(w.sent()))
				}
			})
		})
	}
	run(t, func(t *testing.T, w *world) { // Nobody ever answers: it may have run all the same.
		w.lead(2, 3)
		w.onCall = func(s *sent) { s.done(frame.ErrorResponse(fault.New(fault.OutcomeUnknown, ""))) }
		a := w.route(identified())
		w.r.Close()
		a.fails(fault.OutcomeUnknown)
	})
}

// With a request id a superseded owner is not waited for: the new one is asked. Should the old one answer
// after all, that is as good, but not if it can't say either.
func TestCallAtASupersededOwnerIsTriedAtTheNext(t *testing.T) {
	t.Parallel()
	for name, late := range map[string]struct {
		answer frame.Response
		want   string
	}{
		"an answer":    {ok("of the old"), "of the old"},
		"a refusal":    {noOwner(owner{}), "of the new"},
		"another loss": {frame.ErrorResponse(&frame.LostError{Sent: true, Cause: errors.New("broken")}), "of the new"},
	} {
		t.Run(name, func(t *testing.T) {
			run(t, func(t *testing.T, w *world) {
				w.lead(2, 3)
				a := w.route(identified())
				w.last(1)
				w.r.Learn(shard, 3, 4)
				time.Sleep(time.Second)
				if s := w.last(2); s.to != 3 {
					t.Errorf("the second try went to %v", s.to)
				}
				w.sent()[0].done(late.answer)
				w.last(2).done(ok("of the new"))
				a.says(late.want)
			})
		})
	}
}

func TestACallThatWasNotSentWhenTheConnectionBrokeIsTriedAgain(t *testing.T) {
	t.Parallel()
	run(t, func(t *testing.T, w *world) {
		w.wishes[shard] = 3
		w.r.Learn(shard, 2, 3)
		w.onCall = func(s *sent) {
			if s.to == 2 {
				s.done(frame.ErrorResponse(&frame.LostError{Cause: errors.New("broken")}))
				return
			}
			s.done(ok("reply"))
		}
		w.route(named()).says("reply")
		// What was learned led nowhere: it is forgotten, and the ring is asked.
		if s := w.last(2); s.to != 3 {
			t.Errorf("the second try went to %v", s.to)
		}
		w.lead(2, 4)
		req := named()
		req.Deadline = time.Now().Add(100 * time.Millisecond)
		if text := w.route(req).fails(fault.NoOwner); !strings.Contains(text, "broken") {
			t.Errorf("got %s", text)
		}
	})
}

func TestCallAtASupersededOwnerEndsAfterTheGrace(t *testing.T) {
	t.Parallel()
	run(t, func(t *testing.T, w *world) {
		w.lead(2, 3)
		a := w.route(named())
		w.last(1)
		time.Sleep(time.Second)
		if a.answered() {
			t.Fatal("answered while the owner was the owner")
		}
		w.r.Learn(shard, 3, 4)
		time.Sleep(90 * time.Millisecond)
		if a.answered() {
			t.Fatal("answered within the grace")
		}
		a.fails(fault.OutcomeUnknown)
		if d := a.after - time.Second; d > 150*time.Millisecond {
			t.Errorf("answered %v after the news", d)
		}
		w.last(1)
		w.sent()[0].done(ok("too late"))
	})
}

func TestASupersededOwnerMayStillAnswerWithinTheGrace(t *testing.T) {
	t.Parallel()
	run(t, func(t *testing.T, w *world) {
		w.lead(2, 3)
		ran, moved := w.route(named()), w.route(named())
		w.last(2)
		w.r.Learn(shard, 3, 4)
		time.Sleep(50 * time.Millisecond)
		w.sent()[0].done(ok("reply"))
		ran.says("reply")
		w.onCall = func(s *sent) { s.done(ok("from " + s.to.String())) }
		w.sent()[1].done(frame.ErrorResponse(fault.New(fault.OwnerChanged, "moved")))
		moved.says("from 0000000000000003")
	})
}

func TestNewsThatConcernOthersEndNothing(t *testing.T) {
	t.Parallel()
	run(t, func(t *testing.T, w *world) {
		w.lead(2, 3)
		known := w.route(named())
		w.last(1)
		w.r.Learn((shard+1)%shards, 3, 9)
		w.r.Learn(shard, 2, 3)
		w.r.Learn(shard, 3, 2)
		time.Sleep(time.Second)
		if known.answered() {
			t.Fatal("the call ended")
		}
		w.sent()[0].done(ok("reply"))
		known.says("reply")
	})
}

// Nobody knew a term when the call was sent to whom the ring wishes: no term supersedes it.
func TestAGuessIsNotSuperseded(t *testing.T) {
	t.Parallel()
	run(t, func(t *testing.T, w *world) {
		w.wishes[shard] = 2
		a := w.route(named())
		s := w.last(1)
		w.r.Learn(shard, 2, 4)
		time.Sleep(time.Second)
		if a.answered() {
			t.Fatal("the call ended")
		}
		s.done(ok("reply"))
		a.says("reply")
	})
}

func TestUnknownClassIsAskedForOnce(t *testing.T) {
	t.Parallel()
	run(t, func(t *testing.T, w *world) {
		w.lead(self, 1)
		w.onLocal = func(c *actor.Call) { c.Done(actor.Result{Body: []byte(c.Class)}) }
		for _, tc := range []struct {
			req  *frame.Request
			want string
		}{
			{&frame.Request{Class: "New", Method: "M", Named: true}, `class "New"`},
			{&frame.Request{Method: "/test.v1.New/M", Named: true}, `method "/test.v1.New/M"`},
			{&frame.Request{Method: "M", Named: true}, `method "M"`},
			{&frame.Request{Method: "/M", Named: true}, `method "/M"`},
			{&frame.Request{Named: true}, `method ""`},
		} {
			before := w.asked
			if text := w.route(tc.req).fails(fault.UnknownClass); !strings.Contains(text, tc.want) {
				t.Errorf("got %s", text)
			}
			if w.asked != before+1 {
				t.Errorf("%s: asked %d times", tc.want, w.asked-before)
			}
		}
		w.refresh = func(context.Context) error {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.classes["New"] = router.ClassFacts{Name: "New", UniqueKey: "New"}
			for s := range placement.ShardID(shards) {
				w.leaders[s] = owner{self, 1}
			}
			return nil
		}
		w.route(&frame.Request{Class: "New", Method: "M", Named: true}).says("New")
		before := w.asked
		w.route(&frame.Request{Class: "New", Method: "M", Named: true}).says("New")
		if w.asked != before {
			t.Error("a known class was asked for")
		}
	})
}

func TestUnknownClassIsNotDeniedWithoutTheFacts(t *testing.T) {
	t.Parallel()
	run(t, func(t *testing.T, w *world) {
		w.refresh = func(ctx context.Context) error {
			<-ctx.Done()
			return ctx.Err()
		}
		a := w.route(&frame.Request{Class: "New", Method: "M", Named: true})
		a.fails(fault.NoOwner)
		if a.after != 3*time.Second {
			t.Errorf("answered after %v", a.after)
		}
	})
}

func TestNewerFactsOfTheSenderAreFetched(t *testing.T) {
	t.Parallel()
	run(t, func(t *testing.T, w *world) {
		w.lead(self, 1)
		w.onLocal = func(c *actor.Call) { c.Done(actor.Result{Body: []byte(c.Object.Class)}) }
		w.refresh = func(context.Context) error {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.revision = 8
			for s := range placement.ShardID(shards) {
				w.leaders[s] = owner{self, 1}
			}
			w.classes[counter.Name] = router.ClassFacts{Name: counter.Name, UniqueKey: "another-key"}
			return nil
		}
		req := named()
		req.Revision = 7
		w.route(req).says(counter.UniqueKey)
		req = named()
		req.Revision = 8
		if resp := w.route(req).says("another-key"); resp.Revision != 8 {
			t.Errorf("got revision %d", resp.Revision)
		}
		if w.asked != 1 {
			t.Errorf("asked %d times", w.asked)
		}
	})
}

func TestMalformedObjectsAreRefused(t *testing.T) {
	t.Parallel()
	run(t, func(t *testing.T, w *world) {
		w.onLocal = func(c *actor.Call) { c.Done(actor.Result{}) }
		w.lead(self, 1)
		for _, id := range []placement.ObjectID{{}, {1}, placement.NewNamespace("another").IDFromName("x")} {
			if text := w.route(&frame.Request{Class: counter.Name, Method: "Get", ID: id}).fails(fault.InvalidID); !strings.Contains(text, id.String()) ||
				!strings.Contains(text, "Durable Object ID is not valid for this namespace") || !strings.Contains(text, "class Counter") {
				t.Errorf("got %s", text)
			}
		}
		long := named()
		long.Name = strings.Repeat("x", 64<<10+1)
		if text := w.route(long).fails(fault.InvalidArgument); !strings.Contains(text, "name") || !strings.Contains(text, "65536") {
			t.Errorf("got %s", text)
		}
		for _, name := range []string{"\xff", "a\xc3"} {
			garbled := named()
			garbled.Name = name
			if text := w.route(garbled).fails(fault.InvalidArgument); !strings.Contains(text, "name") || !strings.Contains(text, "UTF-8") {
				t.Errorf("got %s", text)
			}
		}
		if len(w.delivered()) > 0 || len(w.sent()) > 0 {
			t.Error("a refused call was tried")
		}
		for s := range placement.ShardID(shards) {
			w.leaders[s] = owner{self, 1}
		}
		for _, name := range []string{"", strings.Repeat("x", 64<<10), "\x00 ü"} {
			req := named()
			req.Name = name
			w.route(req).says("")
		}
	})
}

func TestCallsUnderWayAreLimited(t *testing.T) {
	t.Parallel()
	runWith(t, func(c *router.Config) { c.CallsMax = 3 }, func(t *testing.T, w *world) {
		w.lead(2, 3)
		var under []*answer
		for range 3 {
			under = append(under, w.route(named()))
		}
		for range 5 {
			a := w.route(named())
			if text := a.fails(fault.Overloaded); !strings.Contains(text, "3") {
				t.Errorf("got %s", text)
			}
			a.cancel(nil)
		}
		w.last(3).done(ok("reply"))
		under[2].says("reply")
		again := w.route(named())
		w.last(4).done(ok("reply"))
		again.says("reply")
		// What waits to be tried again counts as well, and so does what waits for the facts.
		w.sent()[0].done(ok(""))
		w.sent()[1].done(ok(""))
		w.onCall = func(s *sent) { s.done(noOwner(owner{})) }
		w.refresh = func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
		under = []*answer{w.route(named()), w.route(named()), w.route(&frame.Request{Class: "New"})}
		w.route(named()).fails(fault.Overloaded)
		for _, a := range under {
			a.fails(fault.NoOwner)
		}
		w.onCall = func(s *sent) { s.done(ok("reply")) }
		w.route(named()).says("reply")
	})
}

func TestBytesOfCallsUnderWayAreLimited(t *testing.T) {
	t.Parallel()
	const bodies = 100_000
	runWith(t, func(c *router.Config) { c.BytesMax = 3*router.CallBytes + bodies }, func(_ *testing.T, w *world) {
		w.lead(2, 3)
		large := func() *frame.Request {
			req := named()
			req.Body = make([]byte, bodies)
			return req
		}
		first := w.route(large())
		w.route(large()).fails(fault.Overloaded)
		second, third := w.route(named()), w.route(named())
		w.route(named()).fails(fault.Overloaded)
		w.last(3).done(ok("third"))
		third.says("third")
		fourth := w.route(named())
		for i, s := range w.sent() {
			if i != 2 {
				s.done(ok("reply"))
			}
		}
		first.says("reply")
		second.says("reply")
		fourth.says("reply")
		w.onCall = func(s *sent) { s.done(ok("reply")) }
		w.route(large()).says("reply")
	})
}

func TestCallWithoutADeadlineGetsOne(t *testing.T) {
	t.Parallel()
	run(t, func(t *testing.T, w *world) {
		w.lead(2, 3)
		a := w.route(named())
		if got := w.last(1).req.Deadline.Sub(a.began); got != 30*time.Second {
			t.Errorf("the owner was given %v", got)
		}
		a.fails(fault.ObjectTimeout)
		if a.after < 30*time.Second || a.after > 30*time.Second+50*time.Millisecond {
			t.Errorf("answered after %v", a.after)
		}
		if s := w.last(1); len(s.canceled) == 0 || !errors.Is(s.canceled[0], context.DeadlineExceeded) {
			t.Errorf("the owner was told %v", s.canceled)
		}
		w.lead(self, 4)
		began := time.Now()
		w.onLocal = func(c *actor.Call) { c.Done(actor.Result{Body: []byte(c.Deadline.Sub(began).String())}) }
		w.route(named()).says("30s")
	})
}

func TestDeadlineEndsAForwardedCall(t *testing.T) {
	t.Parallel()
	run(t, func(t *testing.T, w *world) {
		w.lead(2, 3)
		req := named()
		req.Deadline = time.Now().Add(time.Second)
		a := w.route(req)
		s := w.last(1)
		a.fails(fault.ObjectTimeout)
		if a.after < time.Second || a.after > 1050*time.Millisecond {
			t.Errorf("answered after %v", a.after)
		}
		s.done(ok("too late"))
		a.fails(fault.ObjectTimeout)
	})
}

func TestCancelReachesTheOwner(t *testing.T) {
	t.Parallel()
	run(t, func(t *testing.T, w *world) {
		w.lead(2, 3)
		cause := errors.New("gone")
		a, b := w.route(named()), w.route(named())
		w.last(2)
		a.cancel(cause)
		b.cancel(nil)
		for i, want := range []error{cause, context.Canceled} {
			s := w.sent()[i]
			if len(s.canceled) != 1 || !errors.Is(s.canceled[0], want) {
				t.Errorf("call %d: the owner was told %v, want %v", i, s.canceled, want)
			}
		}
		// The owner has the last word, for the call may have run.
		if a.answered() {
			t.Error("answered before the owner")
		}
		w.sent()[0].done(ok("ran"))
		w.sent()[1].done(frame.ErrorResponse(context.Canceled))
		a.says("ran")
		if resp := b.get(); !errors.Is(resp.Err(), context.Canceled) {
			t.Errorf("got %v", resp.Err())
		}
		a.cancel(cause)
	})
}

// The answer may come, and news with it, before the sender has returned.
func TestAnswerMayComeBeforeTheCallReturns(t *testing.T) {
	t.Parallel()
	run(t, func(t *testing.T, w *world) {
		w.lead(2, 3)
		w.onCall = func(s *sent) {
			if s.to == 2 {
				s.done(noOwner(owner{}))
				w.r.Learn(shard, 3, 4)
				return
			}
			s.done(ok("reply"))
		}
		w.route(named()).says("reply")
		w.last(2)
	})
}

func TestCloseAnswersEverything(t *testing.T) {
	t.Parallel()
	run(t, func(t *testing.T, w *world) {
		w.lead(2, 3)
		w.refresh = func(ctx context.Context) error { <-ctx.Done(); return context.Cause(ctx) }
		forwarded := w.route(named())
		w.last(1)
		facts := w.route(&frame.Request{Class: "New", Method: "M"})
		waiting := w.route(&frame.Request{Class: counter.Name, Method: "Get", Name: "elsewhere", Named: true})
		time.Sleep(100 * time.Millisecond)
		if forwarded.answered() || facts.answered() || waiting.answered() {
			t.Fatal("answered before Close")
		}
		w.r.Close()
		if !forwarded.answered() || !facts.answered() || !waiting.answered() {
			t.Fatal("not answered by Close")
		}
		forwarded.fails(fault.OutcomeUnknown)
		facts.fails(fault.NoOwner)
		if s := w.last(1); len(s.canceled) == 0 {
			t.Error("the owner was not told")
		}
		w.sent()[0].done(ok("too late"))

		w.route(&frame.Request{Class: "New", Method: "M"}).fails(fault.NoOwner)
		w.onCall = func(s *sent) { s.done(noOwner(owner{})) }
		a := w.route(named())
		a.fails(fault.NoOwner)
		if a.after != 0 {
			t.Errorf("a call after Close was tried again for %v", a.after)
		}
	})
}

// chaos calls through a Router whose surroundings do anything that they may, and checks that each
// call gets one answer, by its deadline, that says the truth about whether it may have run.
type chaos struct {
	w      *world
	mu     sync.Mutex
	random *rand.Rand
	ran    map[string]int // by body: how often the call may have run
	wg     sync.WaitGroup
}

func (c *chaos) intn(n int) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.random.IntN(n)
}

func (c *chaos) later(most time.Duration, fn func()) {
	d := time.Duration(c.intn(int(most)))
	c.wg.Go(func() {
		time.Sleep(d)
		fn()
	})
}

func (c *chaos) runs(body []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ran[string(body)]++
}

func (c *chaos) remote(s *sent) {
	respond := s.done
	if c.intn(2) == 0 {
		respond = func(resp frame.Response) { c.later(200*time.Millisecond, func() { s.done(resp) }) }
	}
	switch c.intn(8) {
	case 0, 1:
		c.runs(s.req.Body)
		respond(ok("ran"))
	case 2:
		respond(noOwner(owner{}))
	case 3:
		respond(noOwner(owner{placement.NodeID(1 + c.intn(4)), uint64(1 + c.intn(30))}))
	case 4:
		respond(frame.ErrorResponse(fault.New(fault.OwnerChanged, "moved")))
	case 5:
		c.runs(s.req.Body)
		respond(frame.ErrorResponse(&frame.LostError{Sent: true, Cause: errors.New("broken")}))
	case 6:
		respond(frame.ErrorResponse(&frame.LostError{Cause: errors.New("broken")}))
	case 7:
		c.runs(s.req.Body) // It never answers.
	}
}

func (c *chaos) own(call *actor.Call) {
	done := call.Done
	if c.intn(2) == 0 {
		done = func(res actor.Result) { c.later(200*time.Millisecond, func() { call.Done(res) }) }
	}
	switch c.intn(3) {
	case 0:
		done(actor.Result{Err: fault.New(fault.OwnerChanged, "moved")})
	default:
		c.runs(call.Body)
		done(actor.Result{Body: []byte("ran")})
	}
}

func TestEveryCallGetsOneTrueAnswer(t *testing.T) {
	t.Parallel()
	for seed := range uint64(40) {
		runWith(t, func(c *router.Config) { c.CallsMax = 60 }, func(t *testing.T, w *world) {
			c := &chaos{w: w, random: rand.New(rand.NewPCG(seed, 0)), ran: make(map[string]int)}
			w.onCall, w.onLocal = c.remote, c.own
			w.refresh = func(ctx context.Context) error {
				if c.intn(2) == 0 {
					return errors.New("no facts")
				}
				return ctx.Err()
			}
			calls := make(map[string]*answer)
			deadlines := make(map[string]time.Time)
			for i := range 200 {
				body := fmt.Sprint(i)
				req := forwarded(uint8([]int{0, 0, 0, 0, 1, 2, 3}[c.intn(7)])) //nolint:gosec // small
				req.Body = []byte(body)
				req.Deadline = time.Now().Add(time.Duration(1+c.intn(1000)) * time.Millisecond)
				req.Ordered = c.intn(4) == 0
				if c.intn(10) == 0 {
					req.Class = "New"
				}
				a := w.route(req)
				calls[body], deadlines[body] = a, req.Deadline
				switch c.intn(6) {
				case 0:
					c.later(300*time.Millisecond, func() { a.cancel(nil) })
				case 1:
					w.r.Learn(shard, placement.NodeID(1+c.intn(4)), uint64(1+c.intn(30)))
				case 2:
					w.lead(placement.NodeID(1+c.intn(4)), uint64(1+c.intn(30)))
				case 3:
					time.Sleep(time.Duration(c.intn(int(20 * time.Millisecond))))
				}
			}
			if seed%2 == 0 {
				time.Sleep(time.Second)
			}
			w.r.Close()
			c.wg.Wait()
			synctest.Wait()
			for body, a := range calls {
				if len(a.resp) != 1 {
					t.Errorf("seed %d: call %s has %d answers", seed, body, len(a.resp))
					continue
				}
				err, ran := a.resp[0].Err(), c.ran[body]
				if late := a.began.Add(a.after).Sub(deadlines[body]); late > 200*time.Millisecond {
					t.Errorf("seed %d: call %s was answered %v after its deadline: %v", seed, body, late, err)
				}
				switch reason := fault.ReasonOf(err); {
				case ran > 1:
					t.Errorf("seed %d: call %s may have run %d times", seed, body, ran)
				case err == nil && ran == 0:
					t.Errorf("seed %d: call %s did not run, and has a reply", seed, body)
				case ran == 1 && (reason.Retryable() || reason == fault.Overloaded || reason == fault.UnknownClass):
					t.Errorf("seed %d: call %s may have run, and its caller is told %v", seed, body, err)
				}
			}
		})
	}
}
