package actor

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-io/holdfast/fault"
)

// left is work that a call leaves behind.
type left struct {
	begun, ended bool
	goOn         chan struct{}
	err          error // why its context ended
}

// leave is an act that leaves work behind, which ends when it is told to or its context ends.
func (b *left) leave(ctx context.Context, s *State) error {
	b.goOn = make(chan struct{})
	if _, err := add(s); err != nil {
		return err
	}
	return s.WaitUntil(ctx, func(ctx context.Context) error {
		b.begun = true
		select {
		case <-b.goOn:
		case <-ctx.Done():
			b.err = context.Cause(ctx)
		}
		b.ended = true
		return b.err
	})
}

func TestWorkThatOutlivesItsCall(t *testing.T) {
	looped(t, func(t *testing.T, l *loop) {
		l.log.set(func() { l.log.hold = true })
		var b left
		_, a := l.by('A', time.Time{}, b.leave)
		pending(t, "the call", a)
		if b.begun {
			t.Error("it has begun before the writes before it are durable (P2)")
		}
		l.log.set(func() { l.log.hold = false })
		l.log.commit()
		if err := <-a; err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if !b.begun || b.ended {
			t.Fatalf("begun %v, ended %v", b.begun, b.ended)
		}
		time.Sleep(time.Minute) //nolint:forbidigo // in a bubble: long after the object would be evicted
		if s := l.manager.Stats(); s.Objects != 1 || s.QueuedBytes == 0 {
			t.Errorf("while it works: %+v", s)
		}
		_, other := l.by('A', time.Time{}, func(_ context.Context, s *State) error {
			_, err := add(s)
			return err
		})
		if err := <-other; err != nil {
			t.Error(err)
		}
		close(b.goOn)
		synctest.Wait()
		time.Sleep(time.Minute) //nolint:forbidigo // in a bubble
		if s := l.manager.Stats(); !b.ended || b.err != nil || s.Objects != 0 || s.Activations != 1 || s.QueuedBytes != 0 {
			t.Errorf("afterwards: ended %v, %v, %+v", b.ended, b.err, s)
		}
	})
}

func TestWorkThatOutlivesItsCallEnds(t *testing.T) {
	for name, c := range map[string]struct {
		end  func(l *loop)
		want func(err error) bool
	}{
		"when the object is reset": {func(l *loop) {
			_, b := l.by('A', time.Time{}, func(_ context.Context, s *State) error { s.Abort(""); return nil })
			if err := <-b; err == nil {
				l.t.Error("an abort succeeded")
			}
		}, func(err error) bool { return fault.ReasonOf(err) == fault.ObjectReset }},
		"when it has another owner": {func(l *loop) { l.manager.Lost(0, 1) }, func(err error) bool { return fault.ReasonOf(err) == fault.OwnerChanged }},
		"after 15 minutes": {func(*loop) {
			time.Sleep(BackgroundTimeMax) //nolint:forbidigo // in a bubble
		}, func(err error) bool { return errors.Is(err, context.DeadlineExceeded) }},
		"when the node stops": {func(l *loop) { l.manager.Close() }, func(err error) bool { return err != nil }},
	} {
		t.Run(name, func(t *testing.T) {
			looped(t, func(t *testing.T, l *loop) {
				var b left
				_, a := l.by('A', time.Time{}, b.leave)
				if err := <-a; err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
				if b.ended {
					t.Fatal("it has ended before")
				}
				drained := false
				l.manager.Pause(0, 1, func() { drained = true })
				if l.manager.Resume(0, 1); !drained {
					t.Error("it holds a planned move up")
				}
				c.end(l)
				synctest.Wait()
				if !b.ended || !c.want(b.err) {
					t.Errorf("ended %v, %v", b.ended, b.err)
				}
				if s := l.manager.Stats(); s.QueuedBytes != 0 {
					t.Errorf("%d bytes are counted still", s.QueuedBytes)
				}
			})
		})
	}
}

// Work that was left behind has no turn. It calls its own object as others do.
func TestWorkThatOutlivesItsCallCallsItsObject(t *testing.T) {
	looped(t, func(t *testing.T, l *loop) {
		l.acts["add"] = func(_ context.Context, s *State) error {
			_, err := add(s)
			return err
		}
		var own, storage, nested, more error
		_, a := l.by('A', time.Time{}, func(ctx context.Context, s *State) error {
			return s.Yield(ctx, func(ctx context.Context) error { // From where it has no turn, too.
				return s.WaitUntil(ctx, func(ctx context.Context) error {
					own = call(ctx, s, 'A', "add")
					_, storage = add(s)
					nested = s.Confirm(ctx)
					more = s.WaitUntil(ctx, callsBy(s, 'A', "add"))
					return nil
				})
			})
		})
		if err := <-a; err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if own != nil || more != nil || !errors.Is(storage, ErrNoTurn) || !errors.Is(nested, ErrNoTurn) {
			t.Errorf("a call of its object: %v; its storage: %v; Confirm: %v; WaitUntil: %v", own, storage, nested, more)
		}
		_, b := l.by('A', time.Time{}, func(_ context.Context, s *State) error {
			if n, _, err := Get[int](s.Storage(), "n"); n != 2 || err != nil {
				t.Errorf("%d, %v", n, err)
			}
			return nil
		})
		if err := <-b; err != nil {
			t.Error(err)
		}
	})
}

// callsBy is calls, for who has the State already.
func callsBy(s *State, n rune, what string) func(ctx context.Context) error {
	return func(ctx context.Context) error { return call(ctx, s, n, what) }
}

func TestWorkThatOutlivesItsCallIsLimited(t *testing.T) {
	looped(t, func(t *testing.T, l *loop) {
		goOn := make(chan struct{})
		wait := func(context.Context) error { <-goOn; return nil }
		_, a := l.by('A', time.Time{}, func(ctx context.Context, s *State) error {
			for range BackgroundMax {
				if err := s.WaitUntil(ctx, wait); err != nil {
					return err
				}
			}
			wantReason(t, "one too many", s.WaitUntil(ctx, wait), fault.Overloaded)
			if err := s.WaitUntil(t.Context(), wait); !errors.Is(err, ErrNoTurn) {
				t.Errorf("with a context that is not the handler's: %v", err)
			}
			return nil
		})
		if err := <-a; err != nil {
			t.Fatal(err)
		}
		close(goOn)
		synctest.Wait()
		_, a = l.by('A', time.Time{}, func(ctx context.Context, s *State) error { return s.WaitUntil(ctx, wait) })
		if err := <-a; err != nil {
			t.Errorf("when there is room again: %v", err)
		}
	})
}

func TestWorkThatPanicsResetsItsObject(t *testing.T) {
	looped(t, func(t *testing.T, l *loop) {
		goOn := make(chan struct{})
		_, a := l.by('A', time.Time{}, func(ctx context.Context, s *State) error {
			return s.WaitUntil(ctx, func(context.Context) error { <-goOn; panic("as it was told") })
		})
		if err := <-a; err != nil {
			t.Fatal(err)
		}
		_, b := l.by('A', time.Time{}, yields(func(ctx context.Context, _ *State) error { <-ctx.Done(); return nil }))
		pending(t, "who is in a Yield", b)
		close(goOn)
		wantReason(t, "who is in a Yield", <-b, fault.ObjectReset)
		if s := l.manager.Stats(); s.Resets != 1 {
			t.Errorf("%d resets", s.Resets)
		}
	})
}
