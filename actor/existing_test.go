package actor

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/holdfast-io/holdfast/fault"
	"github.com/holdfast-io/holdfast/peer/frame"
)

// existing has object 1 do something if it exists.
func (w *plainWorld) existing(act func(ctx context.Context, s *State) error) <-chan error {
	done := make(chan error, 1)
	call := &Call{Object: plainRef(1), Class: plainClass, Method: "Act", Existing: true, Done: func(r Result) { done <- r.Err }}
	w.acts.Store(call, act)
	w.manager.Deliver(call)
	return done
}

func TestACallOfWhatMustExistMakesNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newPlainWorld(t)
		ran := 0
		count := func(context.Context, *State) error { ran++; return nil }
		adds := func(_ context.Context, s *State) error { _, err := add(s); return err }
		refused := func(when string) {
			t.Helper()
			if err := <-w.existing(count); fault.ReasonOf(err) != fault.UnknownObject || ran > 0 {
				t.Errorf("%s: got %v, ran %d times", when, err, ran)
			}
			if list, err := w.store.ListObjects(0, plainClass, nil, 10); err != nil || len(list) > 0 {
				t.Errorf("%s: stored %v, %v", when, list, err)
			}
		}
		taken := func(when string) {
			t.Helper()
			if err := <-w.existing(count); err != nil || ran != 1 {
				t.Errorf("%s: got %v, ran %d times", when, err, ran)
			}
			ran = 0
		}
		refused("never called")
		if err := w.do(1, func(context.Context, *State) error { return nil }); err != nil {
			t.Fatal(err)
		}
		refused("in memory, without data")
		if err := w.do(1, adds); err != nil {
			t.Fatal(err)
		}
		taken("with data")
		time.Sleep(time.Minute) //nolint:forbidigo // in a bubble: it is evicted
		taken("loaded again")
		if err := w.do(1, func(_ context.Context, s *State) error { return s.Storage().DeleteAll() }); err != nil {
			t.Fatal(err)
		}
		refused("deleted")
		time.Sleep(time.Minute) //nolint:forbidigo // in a bubble: it is evicted
		refused("deleted and loaded again")
	})
}

// What is in flight exists: the call is decided in the object's turn, behind the write, and answered when
// the write is durable.
func TestACallOfWhatMustExistSeesWhatIsInFlight(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newPlainWorld(t)
		w.log.set(func() { w.log.hold = true })
		wrote := w.start(1, func(_ context.Context, s *State) error { _, err := add(s); return err })
		found := w.existing(func(context.Context, *State) error { return nil })
		synctest.Wait()
		select {
		case err := <-found:
			t.Errorf("answered before the write was durable: %v", err)
		default:
		}
		w.log.commit()
		if err := errors.Join(<-wrote, <-found); err != nil {
			t.Error(err)
		}
	})
}

func TestAStreamOfWhatMustExistDoesNotBegin(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newPlainWorld(t)
		c := &caller{pipe: testPipe{new(frame.Pipe)}, done: make(chan error, 1)}
		w.manager.Deliver(&Call{
			Object: plainRef(1), Class: plainClass, Method: "Stream", Existing: true, Pipe: c.pipe, Done: func(r Result) { c.done <- r.Err },
		})
		if err := <-c.done; fault.ReasonOf(err) != fault.UnknownObject || c.pipe.Begun() {
			t.Errorf("got %v, begun: %v", err, c.pipe.Begun())
		}
	})
}

func TestAnObjectCallsWhatMustExist(t *testing.T) {
	looped(t, func(t *testing.T, l *loop) {
		l.acts["none"] = func(context.Context, *State) error { return nil }
		_, done := l.by('A', time.Time{}, func(ctx context.Context, s *State) error {
			b := s.Object(plainClass, "B")
			_ = b.Existing().Invoke(ctx, "/plain.v1.Plain/Act", wrapperspb.String("none"), &emptypb.Empty{})
			return b.Invoke(ctx, "/plain.v1.Plain/Act", wrapperspb.String("none"), &emptypb.Empty{})
		})
		if err := <-done; err != nil {
			t.Error(err)
		}
		if made := l.outgoing(); len(made) != 2 || !made[0].Existing || made[1].Existing {
			t.Errorf("made %+v", made)
		}
	})
}
