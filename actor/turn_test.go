package actor

import (
	"context"
	"errors"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/holdfast-io/holdfast/fault"
)

// In these tests a bubble's Wait says that everything has come as far as it can.

func wantReason(t *testing.T, what string, err error, want fault.Reason) {
	t.Helper()
	if got := fault.ReasonOf(err); got != want {
		t.Errorf("%s: got %v, want %s", what, err, want)
	}
}

// pending says that a call has no answer yet.
func pending(t *testing.T, what string, done <-chan error) {
	t.Helper()
	synctest.Wait()
	select {
	case err := <-done:
		t.Errorf("%s was answered: %v", what, err)
	default:
	}
}

// add adds one to a number in the object's storage, and returns it.
func add(s *State) (int, error) {
	n, _, err := Get[int](s.Storage(), "n")
	if err != nil {
		return 0, err
	}
	return n + 1, Put(s.Storage(), "n", n+1)
}

func number(t *testing.T, w *plainWorld) int {
	t.Helper()
	var n int
	w.with(func(s *Storage) (err error) {
		n, _, err = Get[int](s, "n")
		return err
	})
	return n
}

func TestYieldLetsOthersInAndTheySeeWhatItWrote(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newPlainWorld(t)
		w.log.set(func() { w.log.hold = true })
		outside, go1 := false, make(chan struct{})
		var turns []string
		a := w.start(1, func(ctx context.Context, s *State) error {
			if _, err := add(s); err != nil {
				return err
			}
			err := s.Yield(ctx, func(context.Context) error {
				outside = true
				if _, err := add(s); !errors.Is(err, ErrNoTurn) {
					t.Errorf("storage without a turn: %v", err)
				}
				<-go1
				return status.Error(codes.Unavailable, "out there")
			})
			if status.Code(err) != codes.Unavailable {
				t.Errorf("Yield does not return what its function did: %v", err)
			}
			turns = append(turns, "a")
			if n, err := add(s); n != 3 || err != nil {
				t.Errorf("after the turn came back: %d, %v", n, err)
			}
			return nil
		})
		synctest.Wait()
		if outside {
			t.Error("acts on the outside before its writes are durable (P2)")
		}
		b := w.start(1, func(_ context.Context, s *State) error {
			turns = append(turns, "b")
			if n, err := add(s); n != 2 || err != nil {
				t.Errorf("meanwhile: %d, %v", n, err)
			}
			return nil
		})
		pending(t, "b, uncommitted,", b)
		w.log.set(func() { w.log.hold = false })
		w.log.commit()
		if err := <-b; err != nil {
			t.Error(err)
		}
		pending(t, "a", a)
		if !outside {
			t.Error("its writes are durable, and it does not act")
		}
		close(go1)
		if err := <-a; err != nil {
			t.Error(err)
		}
		if !slices.Equal(turns, []string{"b", "a"}) {
			t.Errorf("turns: %v", turns)
		}
		if n := number(t, w); n != 3 {
			t.Errorf("three were added, and there are %d", n)
		}
	})
}

func TestYieldActsOnTheOutsideOnlyAsTheOwner(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newPlainWorld(t)
		w.log.set(func() { w.log.sole = false })
		outside := false
		a := w.start(1, func(ctx context.Context, s *State) error {
			return s.Yield(ctx, func(context.Context) error { outside = true; return nil })
		})
		synctest.Wait()
		if outside {
			t.Error("acts before it is confirmed to be the owner (P1)")
		}
		w.log.confirm()
		pending(t, "the event, whose end is not confirmed,", a)
		if !outside {
			t.Error("is confirmed, and does not act")
		}
		w.log.confirm()
		if err := <-a; err != nil {
			t.Error(err)
		}
	})
}

func TestWhoWantsItsTurnBackGoesBeforeWhatHasNotBegun(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newPlainWorld(t)
		var turns []string
		var calls []<-chan error
		back := map[string]chan struct{}{"a": make(chan struct{}), "b": make(chan struct{})}
		for _, name := range []string{"a", "b"} {
			calls = append(calls, w.start(1, func(ctx context.Context, s *State) error {
				defer func() { turns = append(turns, name) }()
				return s.Yield(ctx, func(context.Context) error { <-back[name]; return nil })
			}))
		}
		hold := make(chan struct{})
		for _, name := range []string{"c", "d"} {
			calls = append(calls, w.start(1, func(context.Context, *State) error {
				turns = append(turns, name)
				<-hold
				return nil
			}))
		}
		for _, name := range []string{"b", "a"} {
			synctest.Wait()
			close(back[name])
		}
		synctest.Wait()
		close(hold)
		for _, done := range calls {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
		if got := strings.Join(turns, ""); got != "cbad" {
			t.Errorf("turns: got %s, want cbad", got)
		}
	})
}

func TestOnlyWhoHasTheTurnMayGiveItUp(t *testing.T) {
	t.Parallel()
	w := newPlainWorld(t)
	never := func(context.Context) error {
		t.Error("runs")
		return nil
	}
	err := w.do(1, func(ctx context.Context, s *State) error {
		refused := func(who string, ctx context.Context) {
			for what, err := range map[string]error{
				"Yield": s.Yield(ctx, never), "BlockConcurrency": s.BlockConcurrency(ctx, never), "Confirm": s.Confirm(ctx),
			} {
				if !errors.Is(err, ErrNoTurn) {
					t.Errorf("%s of %s: %v", what, who, err)
				}
			}
		}
		refused("a context that is no handler's", context.Background())
		if err := w.do(2, func(ctx context.Context, _ *State) error {
			refused("another object's handler", ctx)
			return nil
		}); err != nil {
			t.Error(err)
		}
		type key struct{}
		return s.Yield(context.WithValue(ctx, key{}, 1), func(ctx context.Context) error {
			refused("a function that Yield runs", ctx)
			return w.do(1, func(context.Context, *State) error {
				refused("a function that Yield runs, while another event has the turn", ctx)
				return nil
			})
		})
	})
	if err != nil {
		t.Error(err)
	}
}

// strayed has an event of object 1 give up its turn until its context ends, and then find out that it
// goes on in vain.
func strayed(t *testing.T, w *plainWorld, over fault.Reason) (answer <-chan error, returned <-chan struct{}) {
	t.Helper()
	out := make(chan struct{})
	answer = w.start(1, func(ctx context.Context, s *State) error {
		defer close(out)
		err := s.Yield(ctx, func(ctx context.Context) error {
			<-ctx.Done()
			wantReason(t, "why the context ended", context.Cause(ctx), over)
			return nil
		})
		wantReason(t, "Yield", err, over)
		_, err = add(s)
		wantReason(t, "storage", err, over)
		wantReason(t, "Confirm", s.Confirm(ctx), over)
		wantReason(t, "Yield again", s.Yield(ctx, func(context.Context) error { t.Error("yields again"); return nil }), over)
		return nil
	})
	synctest.Wait()
	return answer, out
}

func TestResetEndsThoseThatHaveGivenUpTheirTurn(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(s *State){
		"a panic":  func(*State) { panic("on purpose") },
		"an abort": func(s *State) { s.Abort("on purpose") },
		"an abort that is caught": func(s *State) {
			defer func() { _ = recover() }()
			s.Abort("on purpose")
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newPlainWorld(t)
				a, returned := strayed(t, w, fault.ObjectReset)
				b := w.start(1, func(_ context.Context, s *State) error {
					_, err := add(s)
					end(s)
					_, again := add(s)
					wantReason(t, "storage after the reset", again, fault.ObjectReset)
					return err
				})
				if err := <-b; err == nil {
					t.Error("who reset the object got no error")
				}
				wantReason(t, "the other", <-a, fault.ObjectReset)
				<-returned
				if n := number(t, w); n != 0 {
					t.Errorf("a write of a reset event got out: %d", n)
				}
			})
		})
	}
}

func TestLostOwnershipEndsThoseThatHaveGivenUpTheirTurn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newPlainWorld(t)
		a, returned := strayed(t, w, fault.OwnerChanged)
		w.manager.Lost(0, 1)
		wantReason(t, "an event that may have acted", <-a, fault.OutcomeUnknown)
		<-returned
		w.manager.Acquired(0, 1)
		if n := number(t, w); n != 0 {
			t.Errorf("a write of an owner of the past got out: %d (P1)", n)
		}
	})
}

func TestPanicBehindAYieldRunsTheHandlersDeferredCodeInItsTurn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newPlainWorld(t)
		unguarded, throw, hold := 0, make(chan struct{}), make(chan struct{}) // unguarded is what the race detector looks at.
		a := w.start(1, func(ctx context.Context, s *State) error {
			defer func() { unguarded++ }()
			return s.Yield(ctx, func(context.Context) error { <-throw; panic("out there") })
		})
		b := w.start(1, func(context.Context, *State) error {
			unguarded++
			<-hold
			unguarded++
			return nil
		})
		synctest.Wait()
		close(throw)
		pending(t, "the event that panicked, without its turn,", a)
		close(hold)
		wantReason(t, "the event that panicked", <-a, fault.Panic)
		if err := <-b; err != nil {
			t.Error(err)
		}
		if err := w.do(1, func(context.Context, *State) error { unguarded++; return nil }); err != nil {
			t.Error(err)
		}
		if unguarded != 4 {
			t.Errorf("counted to %d", unguarded)
		}
	})
}

// The handlers that have not returned when their incarnation ends are still kept apart: what the class
// has in memory is theirs. The race detector looks.
func TestHandlersThatAreOverDoNotRunBesideEachOther(t *testing.T) {
	t.Parallel()
	w := newPlainWorld(t)
	unguarded, n := 0, 30
	var calls []<-chan error
	returned := make(chan struct{}, n)
	in := make(chan struct{}, n)
	for range n {
		calls = append(calls, w.start(1, func(ctx context.Context, s *State) error {
			defer func() { returned <- struct{}{} }()
			err := s.Yield(ctx, func(ctx context.Context) error {
				in <- struct{}{}
				<-ctx.Done()
				return nil
			})
			was := unguarded
			runtime.Gosched()
			unguarded = was + 1
			return err
		}))
	}
	for range n {
		<-in
	}
	wantReason(t, "who resets", w.do(1, func(_ context.Context, s *State) error { s.Abort(""); return nil }), fault.ObjectReset)
	for _, done := range calls {
		wantReason(t, "the others", <-done, fault.ObjectReset)
	}
	for range n {
		<-returned
	}
	if unguarded != n {
		t.Errorf("counted to %d of %d", unguarded, n)
	}
}

func TestAnObjectWithAnEventOutsideIsNotEvictedAndMoves(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newPlainWorld(t)
		back := make(chan struct{})
		a := w.start(1, func(ctx context.Context, s *State) error {
			err := s.Yield(ctx, func(context.Context) error { <-back; return nil })
			return errors.Join(err, Put(s.Storage(), "n", 7))
		})
		<-time.After(time.Hour) // Fake.
		if got := w.manager.Stats().Objects; got != 1 {
			t.Errorf("objects in memory: %d, want the one with an event", got)
		}
		drained := make(chan struct{})
		w.manager.Pause(0, 1, func() { close(drained) })
		<-drained
		close(back)
		pending(t, "an event that wants its turn back in a pause", a)
		w.manager.Resume(0, 1)
		if err := <-a; err != nil {
			t.Error(err)
		}
		<-time.After(time.Hour)
		if got := w.manager.Stats().Objects; got != 0 {
			t.Errorf("objects in memory: %d", got)
		}
	})
}

func TestBlockConcurrencyKeepsOthersOutAcrossYields(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newPlainWorld(t)
		var turns []string
		a := w.start(1, func(ctx context.Context, s *State) error {
			err := s.BlockConcurrency(ctx, func(ctx context.Context) error {
				return s.BlockConcurrency(ctx, func(ctx context.Context) error {
					return s.Yield(ctx, func(context.Context) error { <-time.After(BlockTimeMax - 1); return nil })
				})
			})
			turns = append(turns, "a")
			if err == nil {
				err = s.Yield(ctx, func(context.Context) error { <-time.After(BlockTimeMax); return nil })
			}
			turns = append(turns, "a")
			return err
		})
		b := w.start(1, func(context.Context, *State) error { turns = append(turns, "b"); return nil })
		for _, done := range []<-chan error{a, b} {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
		if got := strings.Join(turns, ""); got != "aba" {
			t.Errorf("turns: got %s, want aba", got)
		}
	})
}

func TestBlockConcurrencyIsNestedNoDeeperThanItsBound(t *testing.T) {
	t.Parallel()
	w := newPlainWorld(t)
	depth := 0
	err := w.do(1, func(ctx context.Context, s *State) error {
		var deeper func(ctx context.Context) error
		deeper = func(ctx context.Context) error {
			depth++
			if err := s.BlockConcurrency(ctx, deeper); err != nil && !strings.Contains(err.Error(), "at most 64 deep") {
				t.Error(err)
			}
			return nil
		}
		return s.BlockConcurrency(ctx, deeper)
	})
	if err != nil || depth != BlockDepthMax {
		t.Errorf("got %d deep, %v", depth, err)
	}
}

func TestBlockConcurrencyThatFailsResetsTheObject(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		fail func(ctx context.Context, s *State) error
		want fault.Reason
		text string
	}{
		"an error":                {func(context.Context, *State) error { return errors.New("no luck") }, fault.ObjectReset, "no luck"},
		"a panic":                 {func(context.Context, *State) error { panic("no luck") }, fault.Panic, "no luck"},
		"an abort":                {func(_ context.Context, s *State) error { s.Abort("no luck"); return nil }, fault.ObjectReset, "no luck"},
		"too long with the turn":  {func(ctx context.Context, _ *State) error { <-ctx.Done(); return nil }, fault.ObjectTimeout, "30s"},
		"too long, and not heard": {func(context.Context, *State) error { <-time.After(time.Hour); return nil }, fault.ObjectTimeout, "30s"},
		"too long without": {func(ctx context.Context, s *State) error {
			return s.Yield(ctx, func(ctx context.Context) error { <-ctx.Done(); return nil })
		}, fault.ObjectTimeout, "30s"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newPlainWorld(t)
				queued, returned := make(chan struct{}), make(chan struct{})
				a := w.start(1, func(ctx context.Context, s *State) error {
					defer close(returned)
					defer func() { _ = recover() }() // It can't be caught.
					<-queued
					if _, err := add(s); err != nil {
						return err
					}
					return s.BlockConcurrency(ctx, func(ctx context.Context) error { return test.fail(ctx, s) })
				})
				b := w.start(1, func(context.Context, *State) error { t.Error("runs"); return nil })
				close(queued)
				err := <-a
				wantReason(t, "the event", err, test.want)
				if !strings.Contains(err.Error(), test.text) {
					t.Errorf("%v does not say why: %s", err, test.text)
				}
				wantReason(t, "one behind it", <-b, fault.ObjectReset)
				want := 0
				if name == "too long without" {
					want = 1 // The Yield has made a segment of it.
				}
				if n := number(t, w); n != want {
					t.Errorf("there are %d, want %d", n, want)
				}
				<-returned
			})
		})
	}
}

// preparing is a class with an Init.
type preparing struct {
	state *State
	init  func(ctx context.Context, s *State) error
	thing
}

func (p *preparing) Init(ctx context.Context) error { return p.init(ctx, p.state) }

func newPreparingWorld(t *testing.T, init func(ctx context.Context, s *State) error) *plainWorld {
	t.Helper()
	w := newPlainWorld(t)
	class := w.manager.known(plainClass)
	act := class.methods["Act"]
	handler := act.Handler
	act.Handler = func(srv any, ctx context.Context, dec func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
		p, _ := srv.(*preparing)
		return handler(&p.thing, ctx, dec, nil)
	}
	class.methods["Act"] = act
	class.construct = func(s *State) any { return &preparing{state: s, init: init, thing: thing{state: s}} }
	return w
}

func TestInitComesBeforeTheFirstEventOfEachIncarnation(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		inits := 0
		w := newPreparingWorld(t, func(ctx context.Context, s *State) error {
			inits++
			if _, err := add(s); err != nil {
				return err
			}
			return s.Yield(ctx, func(context.Context) error { <-time.After(time.Second); return nil })
		})
		a := w.start(1, func(_ context.Context, s *State) error { _, err := add(s); return err })
		b := w.start(1, func(_ context.Context, s *State) error { _, err := add(s); return err })
		for _, done := range []<-chan error{a, b} {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
		if n := number(t, w); n != 3 || inits != 1 {
			t.Errorf("after %d Inits and two events there are %d", inits, n)
		}
		wantReason(t, "an abort", w.do(1, func(_ context.Context, s *State) error { s.Abort(""); return nil }), fault.ObjectReset)
		if n := number(t, w); n != 4 || inits != 2 {
			t.Errorf("after %d Inits there are %d", inits, n)
		}
	})
}

func TestInitThatFailsIsTriedAgainByTheNextCall(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		fail := true
		w := newPreparingWorld(t, func(_ context.Context, s *State) error {
			if _, err := add(s); err != nil {
				return err
			}
			if !fail {
				return nil
			}
			<-time.After(time.Second)
			return errors.New("no luck")
		})
		never := func(context.Context, *State) error { t.Error("runs"); return nil }
		for _, done := range []<-chan error{w.start(1, never), w.start(1, never)} {
			err := <-done
			wantReason(t, "an event", err, fault.ObjectReset)
			if !strings.Contains(err.Error(), "Init failed: no luck") {
				t.Errorf("does not say why: %v", err)
			}
		}
		fail = false
		if n := number(t, w); n != 1 {
			t.Errorf("there are %d, want what one Init wrote", n)
		}
	})
}

func TestInitDoesNotDependOnTheCallThatCameFirst(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newPreparingWorld(t, func(ctx context.Context, _ *State) error {
			select {
			case <-ctx.Done():
				return context.Cause(ctx)
			case <-time.After(10 * time.Second):
				return nil
			}
		})
		done := make(chan error, 1)
		call := &Call{Object: plainRef(1), Class: plainClass, Method: "Act", Deadline: time.Now().Add(time.Second), Done: func(r Result) { done <- r.Err }}
		w.acts.Store(call, func(ctx context.Context, _ *State) error { return ctx.Err() })
		w.manager.Deliver(call)
		second := w.start(1, func(context.Context, *State) error { return nil })
		if err := <-done; err == nil {
			t.Error("the first, late, call got no error")
		}
		if err := <-second; err != nil {
			t.Errorf("the second: %v", err)
		}
	})
}

func TestInitEndsWithItsIncarnation(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ended := false
		w := newPreparingWorld(t, func(ctx context.Context, _ *State) error {
			<-ctx.Done()
			ended = true
			return nil
		})
		a := w.start(1, func(context.Context, *State) error { t.Error("runs"); return nil })
		synctest.Wait()
		w.manager.Lost(0, 1)
		wantReason(t, "who waits for an Init that is lost", <-a, fault.OwnerChanged)
		synctest.Wait()
		if !ended {
			t.Error("Init goes on")
		}
		w.manager.Acquired(0, 1)
		b := w.start(1, func(context.Context, *State) error { t.Error("runs"); return nil })
		wantReason(t, "who waits for an Init that takes too long", <-b, fault.ObjectTimeout)
	})
}

// The duplicate of a call that has given up its turn is answered with that one, whatever becomes of it.
func TestADuplicateWaitsForTheCallThatRuns(t *testing.T) {
	t.Parallel()
	for _, reset := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) { duplicate(t, reset) })
	}
}

func duplicate(t *testing.T, reset bool) {
	w := newPlainWorld(t)
	outside, back := make(chan struct{}), make(chan struct{})
	first := w.request(1, "id", "", func(ctx context.Context, s *State) error {
		if _, err := add(s); err != nil {
			return err
		}
		return s.Yield(ctx, func(context.Context) error {
			close(outside)
			<-back
			return errors.New("as it happens")
		})
	})
	<-outside
	never := func(context.Context, *State) error {
		t.Error("the duplicate runs")
		return nil
	}
	second := w.request(1, "id", "", never)
	wantReason(t, "other arguments", <-w.request(1, "id", "other", never), fault.InvalidArgument)
	pending(t, "the duplicate", second)
	if reset {
		wantReason(t, "the reset", w.do(1, func(_ context.Context, s *State) error {
			s.Abort("test")
			return nil
		}), fault.ObjectReset)
	}
	close(back)
	if a, b := <-first, <-second; a == nil || b == nil || a.Error() != b.Error() {
		t.Errorf("the call got %v, its duplicate %v", a, b)
	}
	if got := number(t, w); got != 1 {
		t.Errorf("counted %d", got)
	}
	want := "as it happens"
	if reset {
		want = "was cut off"
	}
	if err := <-w.request(1, "id", "", never); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("a later duplicate got %v, want %q", err, want)
	}
}
