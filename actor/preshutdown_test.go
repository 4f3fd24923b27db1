package actor

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"

	"github.com/holdfast-io/holdfast/fault"
)

// listening is a class with a PreShutdown.
type listening struct {
	thing

	told func(ctx context.Context, s *State) error
}

// PreShutdown implements PreShutdowner.
func (l *listening) PreShutdown(ctx context.Context) error { return l.told(ctx, l.state) }

// listens runs a test with objects that are told of their end.
func listens(t *testing.T, told func(ctx context.Context, s *State) error, test func(t *testing.T, l *loop)) {
	t.Helper()
	looped(t, func(t *testing.T, l *loop) {
		class := l.manager.known(plainClass)
		class.construct = func(s *State) any { return &listening{thing: thing{state: s}, told: told} }
		method := class.methods["Act"]
		handler := method.Handler
		method.Handler = func(srv any, ctx context.Context, dec func(any) error, ic grpc.UnaryServerInterceptor) (any, error) {
			th, _ := srv.(*listening)
			return handler(&th.thing, ctx, dec, ic)
		}
		class.methods["Act"] = method
		test(t, l)
	})
}

// pause pauses the shard, and says whether it has drained since.
func (l *loop) pause() (drained func() bool) {
	done := make(chan struct{}, 1)
	l.manager.Pause(0, 1, func() { done <- struct{}{} })
	return func() bool {
		synctest.Wait()
		return len(done) > 0
	}
}

func TestObjectsAreToldBeforeAMove(t *testing.T) {
	var told atomic.Int32
	listens(t, func(_ context.Context, s *State) error {
		told.Add(1)
		_, err := add(s)
		return err
	}, func(t *testing.T, l *loop) {
		goOn := make(chan struct{})
		_, a := l.by('A', time.Time{}, func(context.Context, *State) error { <-goOn; return nil })
		_, b := l.by('B', time.Time{}, func(context.Context, *State) error { return nil })
		pending(t, "A", a)
		if err := <-b; err != nil {
			t.Fatal(err)
		}
		_, next := l.by('A', time.Time{}, func(_ context.Context, s *State) error {
			if n, err := add(s); n != 2 || err != nil {
				t.Errorf("the next event: %d, %v", n, err)
			}
			return nil
		})
		l.log.set(func() { l.log.hold = true })
		drained := l.pause()
		if drained() || told.Load() != 1 {
			t.Errorf("while A has its turn: drained %v, %d were told", drained(), told.Load())
		}
		close(goOn)
		if err := <-a; err != nil {
			t.Error(err)
		}
		if drained() || told.Load() != 2 {
			t.Errorf("while what they wrote is not committed: drained %v, %d were told", drained(), told.Load())
		}
		l.log.set(func() { l.log.hold = false })
		l.log.commit()
		if !drained() {
			t.Error("it has not drained")
		}
		pending(t, "the next event", next)
		l.manager.Resume(0, 1) // The move has come to nothing.
		if err := <-next; err != nil {
			t.Error(err)
		}
		if !l.pause()() || told.Load() != 4 {
			t.Errorf("at the next move: %d were told", told.Load())
		}
		if s := l.manager.Stats(); s.QueuedBytes != 0 || s.Activations != 2 {
			t.Errorf("%+v", s)
		}
	})
}

func TestPreShutdownHasATimeLimit(t *testing.T) {
	var ended error
	listens(t, func(ctx context.Context, _ *State) error {
		<-ctx.Done()
		ended = ctx.Err()
		return ended
	}, func(t *testing.T, l *loop) {
		_, a := l.by('A', time.Time{}, func(context.Context, *State) error { return nil })
		if err := <-a; err != nil {
			t.Fatal(err)
		}
		drained := l.pause()
		if drained() {
			t.Error("it has drained before")
		}
		time.Sleep(PreShutdownTimeMax) //nolint:forbidigo // in a bubble
		if !drained() || !errors.Is(ended, context.DeadlineExceeded) {
			t.Errorf("drained %v, ended by %v", drained(), ended)
		}
	})
}

// Who is not told does not hold up a move: an object without an incarnation, one in a critical section,
// one whose incarnation ends before.
func TestObjectsThatAreNotTold(t *testing.T) {
	for name, first := range map[string]act{
		"reset": func(_ context.Context, s *State) error { s.Abort(""); return nil },
		"in a critical section": func(ctx context.Context, s *State) error {
			return s.BlockConcurrency(ctx, func(ctx context.Context) error {
				return s.Yield(ctx, func(ctx context.Context) error { <-ctx.Done(); return nil })
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			told := 0
			listens(t, func(context.Context, *State) error { told++; return nil }, func(t *testing.T, l *loop) {
				c, a := l.by('A', time.Time{}, first)
				synctest.Wait()
				if !l.pause()() || told != 0 {
					t.Errorf("%d were told", told)
				}
				l.manager.Resume(0, 1)
				c.Cancel(nil)
				if err := <-a; name == "reset" && err == nil {
					t.Error("an abort succeeded")
				}
			})
		})
	}
	t.Run("reset while it waits", func(t *testing.T) {
		told := 0
		listens(t, func(context.Context, *State) error { told++; return nil }, func(t *testing.T, l *loop) {
			goOn := make(chan struct{})
			_, a := l.by('A', time.Time{}, func(_ context.Context, s *State) error { <-goOn; s.Abort(""); return nil })
			synctest.Wait()
			drained := l.pause()
			close(goOn)
			wantReason(t, "A", <-a, fault.ObjectReset)
			if !drained() || told != 0 {
				t.Errorf("drained %v, %d were told", drained(), told)
			}
		})
	})
	t.Run("into a critical section while it waits", func(t *testing.T) {
		told := 0
		listens(t, func(context.Context, *State) error { told++; return nil }, func(t *testing.T, l *loop) {
			goOn := make(chan struct{})
			c, a := l.by('A', time.Time{}, func(ctx context.Context, s *State) error {
				<-goOn
				return s.BlockConcurrency(ctx, func(ctx context.Context) error {
					return s.Yield(ctx, func(ctx context.Context) error { <-ctx.Done(); return nil })
				})
			})
			synctest.Wait()
			drained := l.pause()
			close(goOn)
			if !drained() || told != 0 {
				t.Errorf("drained %v, %d were told", drained(), told)
			}
			l.manager.Resume(0, 1)
			c.Cancel(nil)
			if err := <-a; err != nil {
				t.Error(err)
			}
		})
	})
}

func TestAPreShutdownThatPanicsResetsItsObject(t *testing.T) {
	listens(t, func(context.Context, *State) error { panic("as it was told") }, func(t *testing.T, l *loop) {
		_, a := l.by('A', time.Time{}, func(context.Context, *State) error { return nil })
		if err := <-a; err != nil {
			t.Fatal(err)
		}
		if !l.pause()() {
			t.Error("it has not drained")
		}
		if s := l.manager.Stats(); s.Resets != 1 {
			t.Errorf("%d resets", s.Resets)
		}
	})
}

// A node that stops tells the objects of what it owns still, and their last words are kept.
func TestObjectsAreToldWhenTheNodeStops(t *testing.T) {
	listens(t, func(_ context.Context, s *State) error {
		_, err := add(s)
		return err
	}, func(t *testing.T, l *loop) {
		_, a := l.by('A', time.Time{}, func(context.Context, *State) error { return nil })
		if err := <-a; err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		l.manager.Drain(ctx)
		if ctx.Err() != nil {
			t.Error("it has not drained")
		}
		l.manager.Lost(0, 1)
		l.manager.Acquired(0, 2)
		_, a = l.by('A', time.Time{}, func(_ context.Context, s *State) error {
			if n, _, err := Get[int](s.Storage(), "n"); n != 1 || err != nil {
				t.Errorf("%d, %v", n, err)
			}
			return nil
		})
		if err := <-a; err != nil {
			t.Error(err)
		}
	})
}
