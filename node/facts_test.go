package node

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	"github.com/holdfast-io/holdfast/node/system"
	"github.com/holdfast-io/holdfast/placement"
	systemv1 "github.com/holdfast-io/holdfast/proto/holdfast/system/v1"
	"github.com/holdfast-io/holdfast/router"
)

// factsOf are facts at a revision: one class, and one removed node, for each revision so far.
func factsOf(revision uint64) *systemv1.FactsResponse {
	out := &systemv1.FactsResponse{Revision: revision, Facts: &systemv1.Facts{}}
	for i := range revision {
		name := string(rune('A' + i))
		out.Facts.Classes = append(out.GetFacts().GetClasses(), &systemv1.Class{Name: name, Service: name + ".v1", UniqueKey: "key of " + name})
		out.Facts.RemovedNodes = append(out.GetFacts().GetRemovedNodes(), i+1)
	}
	return out
}

func newFacts(t *testing.T, stored []byte, have ...className) *factsCache {
	t.Helper()
	c, err := newFactsCache(stored, nil, have)
	if err != nil {
		t.Fatal(err)
	}
	c.save = func([]byte) error { return nil }
	return c
}

// The class that keeps the facts can be called before any facts are known.
func TestFactsKnowTheSystemClass(t *testing.T) {
	t.Parallel()
	c := newFacts(t, nil)
	want := router.ClassFacts{Name: system.ClassName, UniqueKey: system.ClassName, Service: system.ServiceName, Runs: system.ClassName}
	if got, ok := c.Class(system.ClassName); !ok || got != want {
		t.Errorf("by name: %+v, %v", got, ok)
	}
	if got, ok := c.ByService(system.ServiceName); !ok || got != want {
		t.Errorf("by service: %+v, %v", got, ok)
	}
	if c.Revision() != 0 || len(c.Missing()) != 0 || len(c.Removed()) != 0 {
		t.Errorf("a new node knows revision %d, lacks %v, bars %v", c.Revision(), c.Missing(), c.Removed())
	}
}

// A bare name means a worker's class where no other class has it, and one worker alone.
func TestBareNames(t *testing.T) {
	t.Parallel()
	c := newFacts(t, nil)
	facts := &systemv1.Facts{}
	for _, name := range []string{"a/Counter", "b/Counter", "b/Cart", "c/Chat", "Chat"} {
		facts.Classes = append(facts.Classes, &systemv1.Class{Name: name, UniqueKey: name})
	}
	if err := c.learn(&systemv1.FactsResponse{Revision: 1, Facts: facts}); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"Cart": "b/Cart", "Chat": "Chat", "b/Counter": "b/Counter", "c/Chat": "c/Chat", "Counter": "", "d/Cart": "", "": ""} {
		if got, ok := c.Class(name); ok != (want != "") || got.Name != want {
			t.Errorf("%q means %q, %v", name, got.Name, ok)
		}
	}
	if got := c.Meant("Counter"); !cmp.Equal(got, []string{"a/Counter", "b/Counter"}) {
		t.Errorf("Counter could mean %v", got)
	}
}

// Facts only grow: what is older or as old changes nothing, in whatever order answers come.
func TestRevisionsOnlyGrow(t *testing.T) {
	t.Parallel()
	c := newFacts(t, nil, className{"B", "B.v1"})
	saved := 0
	c.save = func([]byte) error { saved++; return nil }
	for _, tt := range []struct{ learn, want uint64 }{{2, 2}, {1, 2}, {2, 2}, {3, 3}, {0, 3}} {
		if err := c.learn(factsOf(tt.learn)); err != nil {
			t.Fatal(err)
		}
		if got := c.Revision(); got != tt.want {
			t.Errorf("after revision %d came: %d, want %d", tt.learn, got, tt.want)
		}
	}
	if saved != 2 {
		t.Errorf("saved %d times, want once for each revision that was new", saved)
	}
	// An answer of "nothing new" has no facts, and takes none away.
	if err := c.learn(&systemv1.FactsResponse{Revision: 9}); err != nil || c.Revision() != 3 {
		t.Errorf("revision %d, %v", c.Revision(), err)
	}
	if got, ok := c.ByService("B.v1"); !ok || got.Name != "B" || got.UniqueKey != "key of B" {
		t.Errorf("got %+v, %v", got, ok)
	}
	if diff := cmp.Diff([]string{"A", "C"}, c.Missing()); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(map[placement.NodeID]bool{1: true, 2: true, 3: true}, c.Removed()); diff != "" {
		t.Error(diff)
	}
	select {
	case <-c.changed:
	default:
		t.Error("who watches the facts was not told")
	}
}

// Two answers that come at once leave the later on disk, also when the earlier is the last to be
// written.
func TestTheLatestIsStored(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newFacts(t, nil)
		var stored []byte
		slow := make(chan struct{})
		c.save = func(body []byte) error {
			if newFacts(t, body).Revision() == 1 {
				<-slow
			}
			stored = body
			return nil
		}
		var wg sync.WaitGroup
		for revision := uint64(1); revision <= 2; revision++ {
			wg.Go(func() {
				if err := c.learn(factsOf(revision)); err != nil {
					t.Error(err)
				}
			})
			synctest.Wait()
		}
		close(slow)
		wg.Wait()
		if got := newFacts(t, stored).Revision(); got != 2 {
			t.Errorf("revision %d is stored, want 2", got)
		}
	})
}

// A restarted node knows its classes from its disk; a copy that can't be read is said to be one.
func TestFactsSurviveARestart(t *testing.T) {
	t.Parallel()
	c := newFacts(t, nil)
	var stored []byte
	c.save = func(body []byte) error { stored = body; return nil }
	if err := c.learn(factsOf(2)); err != nil {
		t.Fatal(err)
	}
	again := newFacts(t, stored)
	if got, ok := again.Class("B"); !ok || got.UniqueKey != "key of B" || again.Revision() != 2 || !again.Removed()[2] {
		t.Errorf("got %+v, %v at revision %d", got, ok, again.Revision())
	}
	_, err := newFactsCache([]byte{0xff}, nil, nil)
	wantError(t, err, "stored cluster facts")
}

// asking answers Facts when it is let, and counts.
type asking struct {
	mu    sync.Mutex
	calls int
	known []uint64
	let   chan error
}

func (a *asking) call(ctx context.Context, method string, req, resp proto.Message) error {
	if method != "Facts" {
		return errors.New("unexpected method " + method)
	}
	a.mu.Lock()
	a.calls++
	r, _ := req.(*systemv1.FactsRequest)
	a.known = append(a.known, r.GetKnownRevision())
	a.mu.Unlock()
	select {
	case err := <-a.let:
		proto.Merge(resp, factsOf(3))
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// However many ask at once, the object that keeps the facts is asked twice at most (P6): those who
// come while it is asked share a round that began after they came, and so hear of all that was
// committed before (P4).
func TestConcurrentRefreshesShareTheNextRound(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newFacts(t, nil)
		a := &asking{let: make(chan error)}
		c.call = a.call
		var wg sync.WaitGroup
		done := 0
		for range 10 {
			wg.Go(func() {
				if err := c.Refresh(t.Context()); err != nil || c.Revision() != 3 {
					t.Errorf("revision %d, %v", c.Revision(), err)
				}
				a.mu.Lock()
				defer a.mu.Unlock()
				done++
			})
		}
		synctest.Wait()
		a.let <- nil
		synctest.Wait()
		if done != 1 {
			t.Errorf("%d have their answer after the first round, want who began it", done)
		}
		a.let <- nil
		wg.Wait()
		if diff := cmp.Diff([]uint64{0, 3}, a.known); diff != "" {
			t.Errorf("known revisions asked with (-want +got):\n%s", diff)
		}
		wg.Go(func() {
			if err := c.Refresh(t.Context()); err == nil {
				t.Error("the error of the round was swallowed")
			}
		})
		synctest.Wait()
		a.let <- errors.New("nobody answers")
		wg.Wait()
	})
}

// Who waits with others gives up by its own deadline, and not by that of who happened to ask first.
func TestRefreshEndsByItsOwnDeadline(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newFacts(t, nil)
		a := &asking{let: make(chan error)}
		c.call = a.call
		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		shorter, cancel := context.WithTimeout(t.Context(), time.Second/2)
		defer cancel()
		var wg sync.WaitGroup
		refresh := func(ctx context.Context, want error) {
			wg.Go(func() {
				if err := c.Refresh(ctx); !errors.Is(err, want) {
					t.Errorf("got %v, want %v", err, want)
				}
			})
			synctest.Wait()
		}
		refresh(short, context.DeadlineExceeded)
		refresh(shorter, context.DeadlineExceeded)
		refresh(t.Context(), nil)
		time.AfterFunc(2*time.Second, func() { a.let <- nil })
		wg.Wait()
	})
}

// A class that has another name now is run by a program that has it under its former one, and only by that.
func TestRenamedClassesAreRunUnderTheirFormerNames(t *testing.T) {
	t.Parallel()
	c := newFacts(t, nil, className{"Old", "s.v1"}, className{"Other", "o.v1"})
	for _, have := range []className{{"Old", "s.v1"}, {"Other", "o.v1"}} {
		if c.Knows(have.Name, have.Service) {
			t.Errorf("%v is known before the cluster is", have)
		}
	}
	if err := c.learn(&systemv1.FactsResponse{Revision: 1, Facts: &systemv1.Facts{
		EndedKeys: []string{"Gone"},
		Classes: []*systemv1.Class{
			{Name: "New", Service: "s.v1", UniqueKey: "Old", FormerNames: []string{"Older", "Old"}},
			{Name: "Other", Service: "another.v1", UniqueKey: "Other"},
			{Name: "Third", Service: "third.v1", UniqueKey: "Third", FormerNames: []string{"Old"}},
		},
	}}); err != nil {
		t.Fatal(err)
	}
	want := router.ClassFacts{Name: "New", Service: "s.v1", UniqueKey: "Old", Runs: "Old"}
	if got, ok := c.Class("New"); !ok || got != want {
		t.Errorf("got %+v, %v, want %+v", got, ok, want)
	}
	if got, ok := c.ByService("s.v1"); !ok || got != want {
		t.Errorf("by service: got %+v, %v, want %+v", got, ok, want)
	}
	if _, ok := c.Class("Old"); ok {
		t.Error("the former name is still that of a class")
	}
	if name, ok := c.NameOf("Old"); !ok || name != "Old" {
		t.Errorf("alarms of the class run under %q, %v", name, ok)
	}
	if !c.Knows("Old", "s.v1") || c.Knows("Old", "third") || c.Knows("Other", "o.v1") {
		t.Error("a program's classes are known under the same service, and no other")
	}
	if diff := cmp.Diff([]string{"Other", "Third"}, c.Missing()) + cmp.Diff([]string{"Gone"}, c.Ended()); diff != "" {
		t.Error(diff)
	}
}
