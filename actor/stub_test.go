package actor

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/holdfast-io/holdfast/fault"
	"github.com/holdfast-io/holdfast/placement"
)

// loop takes the calls of a world's objects to other objects of the same world. Object n is named by
// the rune n.
type loop struct {
	*plainWorld

	mu   sync.Mutex
	acts map[string]act // what a call with an argument has its object do
	made []*Outgoing
	// answer, if it is set, answers instead of the object.
	answer func(out *Outgoing, done func(Result)) (cancel func(error))
}

type act = func(ctx context.Context, s *State) error

func newLoop(t *testing.T) *loop {
	t.Helper()
	l := &loop{plainWorld: newPlainWorld(t), acts: make(map[string]act)}
	l.manager.cfg.Caller = l
	return l
}

// Call implements Caller.
func (l *loop) Call(_ context.Context, out *Outgoing, done func(Result)) func(error) {
	l.mu.Lock()
	l.made = append(l.made, out)
	answer := l.answer
	l.mu.Unlock()
	if answer != nil {
		return answer(out, done)
	}
	var arg wrapperspb.StringValue
	if err := proto.Unmarshal(out.Body, &arg); err != nil {
		done(Result{Err: err})
		return func(error) {}
	}
	l.mu.Lock()
	act := l.acts[arg.GetValue()]
	l.mu.Unlock()
	call := l.callOf([]rune(out.Name)[0], act, done)
	call.Deadline, call.Chain = out.Deadline, out.Chain
	l.manager.Deliver(call)
	return call.Cancel
}

// NewUniqueID implements Caller.
func (*loop) NewUniqueID(_ context.Context, class string) (placement.ObjectID, error) {
	return placement.NewNamespace(class).NewUniqueID(rand.Reader)
}

// callOf is a call of an object by its name.
func (l *loop) callOf(n rune, act act, done func(Result)) *Call {
	call := &Call{Object: plainRef(byte(n)), Class: plainClass, Name: string(n), Named: true, Method: "Act", Done: done}
	l.plainWorld.acts.Store(call, act)
	return call
}

// by has an object, called by its name, do something.
func (l *loop) by(n rune, deadline time.Time, act act) (*Call, <-chan error) {
	done := make(chan error, 1)
	call := l.callOf(n, act, func(r Result) { done <- r.Err })
	call.Deadline = deadline
	l.manager.Deliver(call)
	return call, done
}

func (l *loop) outgoing() []*Outgoing {
	synctest.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.made)
}

// call has an object call another, which does what is known under the name.
func call(ctx context.Context, s *State, n rune, what string) error {
	return s.Object(plainClass, string(n)).Invoke(ctx, "/plain.v1.Plain/Act", wrapperspb.String(what), &emptypb.Empty{})
}

// calls is an act that makes a call.
func calls(n rune, what string) act {
	return func(ctx context.Context, s *State) error { return call(ctx, s, n, what) }
}

func looped(t *testing.T, test func(t *testing.T, l *loop)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, func(t *testing.T) { test(t, newLoop(t)) })
}

// A call is an effect: it leaves when the writes before it are durable (P2), and its object does nothing
// else until it has the answer.
func TestACallWaitsForTheWritesBeforeIt(t *testing.T) {
	looped(t, func(t *testing.T, l *loop) {
		l.log.set(func() { l.log.hold = true })
		inside := false
		l.acts["look"] = func(context.Context, *State) error { inside = true; return nil }
		_, a := l.by('A', time.Time{}, func(ctx context.Context, s *State) error {
			if _, err := add(s); err != nil {
				return err
			}
			if err := call(ctx, s, 'B', "look"); err != nil {
				return err
			}
			n, err := add(s)
			if n != 2 || err != nil {
				t.Errorf("after the call: %d, %v", n, err)
			}
			return errors.New("the write before the call stays")
		})
		_, next := l.by('A', time.Time{}, func(_ context.Context, s *State) error {
			if n, _, err := Get[int](s.Storage(), "n"); n != 2 || err != nil {
				t.Errorf("the next event: %d, %v", n, err)
			}
			return nil
		})
		if made := l.outgoing(); len(made) > 0 {
			t.Error("a call has left before the writes before it are durable (P2)")
		}
		pending(t, "the next event", next)
		l.log.set(func() { l.log.hold = false })
		l.log.commit()
		if err := <-a; status.Code(err) != codes.Unknown || !inside {
			t.Errorf("got %v; the other has run: %v", err, inside)
		}
		if err := <-next; err != nil {
			t.Error(err)
		}
	})
}

// A call of an object that wrote nothing leaves when this node was found to be its owner (P1), also
// where it has given up its turn.
func TestACallWaitsForAConfirmation(t *testing.T) {
	for name, wrap := range map[string]func(ctx context.Context, s *State, fn func(ctx context.Context) error) error{
		"with the turn": func(ctx context.Context, _ *State, fn func(ctx context.Context) error) error { return fn(ctx) },
		"in a Yield": func(ctx context.Context, s *State, fn func(ctx context.Context) error) error {
			return s.Yield(ctx, fn)
		},
	} {
		t.Run(name, func(t *testing.T) {
			looped(t, func(t *testing.T, l *loop) {
				l.log.set(func() { l.log.sole = false })
				l.acts["nothing"] = func(context.Context, *State) error { return nil }
				asks := make(chan struct{})
				_, a := l.by('A', time.Time{}, func(ctx context.Context, s *State) error {
					return wrap(ctx, s, func(ctx context.Context) error {
						<-asks
						return call(ctx, s, 'B', "nothing")
					})
				})
				synctest.Wait()
				l.log.confirm() // The Yield's.
				close(asks)
				if made := l.outgoing(); len(made) > 0 {
					t.Fatal("a call has left, and who owns the object was not asked since (P1)")
				}
				l.log.confirm()
				if made := l.outgoing(); len(made) != 1 {
					t.Fatalf("%d calls were made", len(made))
				}
				for range 2 { // The other's answer, and its own.
					synctest.Wait()
					l.log.confirm()
				}
				if err := <-a; err != nil {
					t.Error(err)
				}
			})
		})
	}
}

func TestACallOfAnOwnerOfThePastDoesNotLeave(t *testing.T) {
	looped(t, func(t *testing.T, l *loop) {
		l.log.set(func() { l.log.sole = false })
		var got error
		_, a := l.by('A', time.Time{}, func(ctx context.Context, s *State) error {
			got = call(ctx, s, 'B', "")
			return got
		})
		pending(t, "A", a)
		l.manager.Lost(0, 1)
		wantReason(t, "the caller", <-a, fault.OwnerChanged) // Nothing has left, so it may run again.
		l.log.confirm()
		if made := l.outgoing(); len(made) > 0 {
			t.Error("it left")
		}
		wantReason(t, "the handler", got, fault.OwnerChanged)
	})
}

// An event that has called another may have had an effect: it is not run again.
func TestAnEventThatHasCalledHasAnUnknownFate(t *testing.T) {
	looped(t, func(t *testing.T, l *loop) {
		canceled := make(chan error, 1)
		l.answer = func(*Outgoing, func(Result)) func(error) { return func(err error) { canceled <- err } }
		var got error
		_, a := l.by('A', time.Time{}, func(ctx context.Context, s *State) error {
			got = call(ctx, s, 'B', "")
			return got
		})
		pending(t, "A", a)
		l.manager.Lost(0, 1)
		wantReason(t, "the caller", <-a, fault.OutcomeUnknown)
		if err := <-canceled; fault.ReasonOf(err) != fault.OwnerChanged {
			t.Errorf("the call was canceled by %v", err)
		}
		synctest.Wait()
		wantReason(t, "the handler", got, fault.OwnerChanged)
	})
}

func TestACallThatWouldWaitForItselfIsRefusedAtOnce(t *testing.T) {
	for name, c := range map[string]struct {
		a    act // of object A
		runs bool
		list string
	}{
		"of itself":           {calls('A', "end"), false, `Plain "A" → Plain "A"`},
		"over another":        {calls('B', "call A"), false, `Plain "A" → Plain "B" → Plain "A"`},
		"over two others":     {calls('C', "call B"), false, `Plain "A" → Plain "C" → Plain "B" → Plain "A"`},
		"in a Yield":          {yields(calls('B', "call A")), true, ""},
		"to who is no waiter": {calls('C', "call D"), true, ""},
		"in a Yield of a critical section": {func(ctx context.Context, s *State) error {
			var refused error
			err := s.BlockConcurrency(ctx, func(ctx context.Context) error {
				refused = yields(calls('B', "call A"))(ctx, s)
				return nil
			})
			return errors.Join(err, refused)
		}, false, `Plain "A" → Plain "B" → Plain "A"`},
		"to who holds its turn, behind one that does not": {yields(calls('B', "call A to call B")), false, `Plain "A" → Plain "B" → Plain "A" → Plain "B"`},
	} {
		t.Run(name, func(t *testing.T) {
			looped(t, func(t *testing.T, l *loop) {
				ran := false
				l.acts["end"] = func(context.Context, *State) error { ran = true; return nil }
				l.acts["call A"] = calls('A', "end")
				l.acts["call B"] = calls('B', "call A")
				l.acts["call D"] = calls('D', "end")
				l.acts["call A to call B"] = calls('A', "call B")
				begun := time.Now()
				_, a := l.by('A', time.Time{}, c.a)
				err := <-a
				if ran != c.runs || time.Since(begun) > 0 {
					t.Errorf("ran: %v, after %v", ran, time.Since(begun))
				}
				if c.runs {
					if err != nil {
						t.Error(err)
					}
					return
				}
				if e := fault.ReasonOf(err); e != fault.CallCycle || !strings.HasSuffix(err.Error(), "call chain: "+c.list) {
					t.Errorf("got %v, want CALL_CYCLE that lists %s", err, c.list)
				}
				if _, again := l.by('A', time.Time{}, l.acts["end"]); <-again != nil {
					t.Error("the object is not as before")
				}
			})
		})
	}
}

// yields is an act in a Yield.
func yields(act act) act {
	return func(ctx context.Context, s *State) error {
		return s.Yield(ctx, func(ctx context.Context) error { return act(ctx, s) })
	}
}

// Chains that wait for each other can't be told from slow ones. They end, and say what waits for what,
// in time for their callers to hear it.
func TestChainsThatWaitForEachOtherEndByTheirDeadlines(t *testing.T) {
	looped(t, func(t *testing.T, l *loop) {
		both := make(chan struct{})
		l.acts["nothing"] = func(context.Context, *State) error { return nil }
		cross := func(n rune) act {
			return func(ctx context.Context, s *State) error {
				<-both
				return call(ctx, s, n, "nothing")
			}
		}
		l.acts["call B"] = cross('B')
		begun := time.Now()
		_, c := l.by('C', begun.Add(10*time.Second), calls('A', "call B"))
		_, b := l.by('B', begun.Add(8*time.Second), cross('A'))
		synctest.Wait()
		close(both)
		err := <-b
		if !strings.HasSuffix(err.Error(), `call chain: Plain "B" → Plain "A"`) || time.Since(begun) >= 8*time.Second {
			t.Errorf("after %v: %v", time.Since(begun), err)
		}
		wantReason(t, "B", err, fault.ObjectTimeout)
		if err := <-c; err != nil { // B's end has let A's call in.
			t.Error(err)
		}

		both = make(chan struct{})
		begun = time.Now()
		_, c = l.by('C', begun.Add(8*time.Second), calls('A', "call B"))
		_, b = l.by('B', begun.Add(10*time.Second), cross('A'))
		synctest.Wait()
		close(both)
		err = <-c
		if !strings.HasSuffix(err.Error(), `call chain: Plain "C" → Plain "A" → Plain "B"`) || time.Since(begun) >= 8*time.Second {
			t.Errorf("after %v: %v", time.Since(begun), err)
		}
		wantReason(t, "C", err, fault.ObjectTimeout)
		if err := <-b; err != nil {
			t.Error(err)
		}
	})
}

func TestChainsAreLimited(t *testing.T) {
	looped(t, func(t *testing.T, l *loop) {
		const first = 'A'
		deepest := rune(0)
		l.acts["next"] = func(ctx context.Context, s *State) error {
			name, _ := s.Name()
			deepest = []rune(name)[0]
			return call(ctx, s, deepest+1, "next")
		}
		_, a := l.by(first, time.Time{}, l.acts["next"])
		err := <-a
		wantReason(t, "a chain without an end", err, fault.CallCycle)
		if n := deepest - first + 1; n != ChainMax {
			t.Errorf("%d objects were in the chain", n)
		}
		if !strings.Contains(err.Error(), "at most 64 objects") || !strings.Contains(err.Error(), `Plain "A" → Plain "B" → `) || !strings.HasSuffix(err.Error(), fmt.Sprintf(` → Plain %q`, string(rune(first+ChainMax)))) {
			t.Errorf("got %v", err)
		}
	})
}

func TestCallsHaveDeadlines(t *testing.T) {
	looped(t, func(t *testing.T, l *loop) {
		var canceled error
		l.answer = func(*Outgoing, func(Result)) func(error) { return func(err error) { canceled = err } }
		for _, c := range []struct{ has, want time.Duration }{
			{0, OutgoingTimeMax}, {time.Hour, time.Hour - 100*time.Millisecond}, {time.Second, 950 * time.Millisecond},
		} {
			begun := time.Now()
			deadline := begun.Add(c.has)
			if c.has == 0 {
				deadline = time.Time{}
			}
			l.made, canceled = nil, nil
			_, a := l.by('A', deadline, calls('B', "never"))
			err := <-a
			wantReason(t, "A", err, fault.ObjectTimeout)
			if took := time.Since(begun); took != c.want || !errors.Is(canceled, context.DeadlineExceeded) {
				t.Errorf("%v: ended after %v, canceled by %v", c.has, took, canceled)
			}
			if made := l.outgoing(); len(made) != 1 || !made[0].Deadline.Equal(begun.Add(c.want)) {
				t.Errorf("%v: made %v", c.has, made)
			}
		}
	})
}

func TestACallEndsWithItsCaller(t *testing.T) {
	looped(t, func(t *testing.T, l *loop) {
		var canceled error
		l.answer = func(*Outgoing, func(Result)) func(error) { return func(err error) { canceled = err } }
		c, a := l.by('A', time.Time{}, calls('B', "never"))
		pending(t, "A", a)
		c.Cancel(nil)
		if err := <-a; status.Code(err) != codes.Canceled || !errors.Is(canceled, errCanceled) {
			t.Errorf("got %v; the call was canceled by %v", err, canceled)
		}
	})
}

// Whoever is reset while it waits is told so, whatever the call's answer is.
func TestACallOfAnObjectThatIsReset(t *testing.T) {
	looped(t, func(t *testing.T, l *loop) {
		l.answer = func(*Outgoing, func(Result)) func(error) { return func(error) {} }
		var got error
		_, a := l.by('A', time.Time{}, func(ctx context.Context, s *State) error {
			got = yields(calls('B', "never"))(ctx, s)
			return got
		})
		pending(t, "A", a)
		_, b := l.by('A', time.Time{}, func(_ context.Context, s *State) error {
			s.Abort("for a test")
			return nil
		})
		wantReason(t, "who aborts", <-b, fault.ObjectReset)
		wantReason(t, "the caller", <-a, fault.ObjectReset)
		synctest.Wait()
		wantReason(t, "the handler", got, fault.ObjectReset)
	})
}

// Several goroutines of one handler may call at once, and each call is behind all that was written
// before it.
func TestCallsOfGoroutines(t *testing.T) {
	looped(t, func(t *testing.T, l *loop) {
		l.acts["add"] = func(_ context.Context, s *State) error {
			_, err := add(s)
			return err
		}
		const each = 20
		_, a := l.by('A', time.Time{}, func(ctx context.Context, s *State) error {
			var wg sync.WaitGroup
			for i := range each {
				if err := Put(s.Storage(), fmt.Sprint(i), i); err != nil {
					return err
				}
				wg.Go(func() {
					if err := call(ctx, s, 'B', "add"); err != nil {
						t.Error(err)
					}
				})
			}
			wg.Wait()
			return nil
		})
		if err := <-a; err != nil {
			t.Fatal(err)
		}
		_, b := l.by('B', time.Time{}, func(_ context.Context, s *State) error {
			if n, _, err := Get[int](s.Storage(), "n"); n != each || err != nil {
				t.Errorf("%d, %v", n, err)
			}
			return nil
		})
		if err := <-b; err != nil {
			t.Error(err)
		}
		if ok := l.manager.Evict(0, plainRef('A')); !ok {
			t.Error("it is not in memory")
		}
		_, a = l.by('A', time.Time{}, func(_ context.Context, s *State) error {
			if n, _, err := Get[int](s.Storage(), fmt.Sprint(each-1)); n != each-1 || err != nil {
				t.Errorf("%d, %v", n, err)
			}
			return nil
		})
		if err := <-a; err != nil {
			t.Error(err)
		}
	})
}

func TestCallsThatAreNotMade(t *testing.T) {
	looped(t, func(t *testing.T, l *loop) {
		var kept context.Context
		var state *State
		_, a := l.by('A', time.Time{}, func(ctx context.Context, s *State) error {
			kept, state = ctx, s //nolint:fatcontext // to be used when it must not be
			if err := call(t.Context(), s, 'B', ""); !errors.Is(err, ErrNoTurn) {
				t.Errorf("with a context that is not the handler's: %v", err)
			}
			if err := s.Storage().Transaction(func(*Storage) error {
				if err := s.WaitUntil(ctx, func(context.Context) error { t.Error("it began"); return nil }); !errors.Is(err, ErrInTransaction) {
					t.Errorf("WaitUntil in a transaction: %v", err)
				}
				return call(ctx, s, 'B', "")
			}); !errors.Is(err, ErrInTransaction) {
				t.Errorf("in a transaction: %v", err)
			}
			wantReason(t, "a reserved class", s.Object("holdfast.System", "cluster").Invoke(ctx, "/s/M", &emptypb.Empty{}, &emptypb.Empty{}), fault.UnknownClass)
			wantReason(t, "no class", s.ObjectByID("", placement.ObjectID{}).Invoke(ctx, "/s/M", &emptypb.Empty{}, &emptypb.Empty{}), fault.UnknownClass)
			if err := s.Object(plainClass, "B").Invoke(ctx, "/s/M", 1, &emptypb.Empty{}); status.Code(err) != codes.Internal {
				t.Errorf("arguments that are no message: %v", err)
			}
			return nil
		})
		if err := <-a; err != nil {
			t.Error(err)
		}
		_, again := l.by('A', time.Time{}, func(context.Context, *State) error {
			if err := call(kept, state, 'B', ""); !errors.Is(err, ErrNoTurn) {
				t.Errorf("for an event that has returned: %v", err)
			}
			return nil
		})
		if err := <-again; err != nil {
			t.Error(err)
		}
		if made := l.outgoing(); len(made) > 0 {
			t.Errorf("made: %v", made)
		}
	})
}

// What another refused did not run there; the event that passes its error on did.
func TestARefusalThatIsPassedOnIsNone(t *testing.T) {
	for _, reason := range []fault.Reason{fault.NoOwner, fault.OwnerChanged, fault.DiskFull, fault.Overloaded} {
		t.Run(string(reason), func(t *testing.T) {
			looped(t, func(t *testing.T, l *loop) {
				l.answer = func(_ *Outgoing, done func(Result)) func(error) {
					done(Result{Err: fault.New(reason, "not here")})
					return func(error) {}
				}
				_, a := l.by('A', time.Time{}, func(ctx context.Context, s *State) error {
					err := call(ctx, s, 'B', "")
					wantReason(t, "the handler", err, reason)
					return err
				})
				wantReason(t, "its caller", <-a, "")
			})
		})
	}
}

func TestLabels(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("é", 100_000)
	for _, c := range []struct{ got, want string }{
		{label("Counter", "a\x00é", true, placement.ObjectID{}), `Counter "a\x00é"`},
		{label("Counter", "", false, placement.ObjectID{31: 1}), "Counter " + placement.ObjectID{31: 1}.String()},
		{label("Counter", long, true, placement.ObjectID{}), `Counter "` + strings.Repeat("é", 58) + "…"},
		{label(long, "a", true, placement.ObjectID{}), strings.Repeat("é", 62) + "…"},
	} {
		if c.got != c.want || len(c.got) > labelBytesMax {
			t.Errorf("got %s (%d bytes), want %s", c.got, len(c.got), c.want)
		}
	}
}

func TestAnObjectDrawsIDs(t *testing.T) {
	looped(t, func(t *testing.T, l *loop) {
		_, done := l.by('A', time.Time{}, func(ctx context.Context, s *State) error {
			id, err := s.NewUniqueID(ctx, plainClass)
			if err != nil {
				return err
			}
			for _, class := range []string{"", ReservedPrefix + "System"} {
				if _, err := s.NewUniqueID(ctx, class); fault.ReasonOf(err) != fault.UnknownClass {
					t.Errorf("class %q: got %v", class, err)
				}
			}
			return placement.NewNamespace(plainClass).Check(id)
		})
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
