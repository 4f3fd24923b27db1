package actor

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-io/holdfast/fault"
)

// endClass deletes a class, as the one who applies does and then tells.
func (w *bells) endClass(class string) {
	w.t.Helper()
	w.log.apply.Lock()
	b := w.store.NewBatch()
	b.EndClass(w.log.fences, 0, class)
	err := errors.Join(b.Commit(true), b.Close())
	w.log.apply.Unlock()
	if err != nil {
		w.t.Fatal(err)
	}
	w.manager.ClassEnded(0, w.term, class)
}

// When its class is deleted, an object ends in the middle of what it does: its caller is told so, what it
// writes from then on is nowhere, and neither a call nor an alarm brings it back.
func TestObjectsEndWithTheirClass(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, w *bells) {
		release := make(chan struct{})
		late := make(chan error, 2)
		put := func(s *State) error { return Put(s.Storage(), "k", 1) }
		w.handle(func(_ context.Context, b *bell, _ AlarmInfo) error {
			<-release
			late <- put(b.state)
			return nil
		})
		w.set(1, time.Second)
		w.set(2, time.Hour)
		w.must(3, func(b *bell) error { return put(b.state) })
		dumb := func(act func(s *State) error) error {
			return <-w.start("Dumb", 1, func(srv any) error {
				d, _ := srv.(*dumb)
				return act(d.state)
			})
		}
		if err := dumb(put); err != nil {
			t.Fatal(err)
		}
		after(time.Second)
		w.wantRuns(w.run(1, time.Second, time.Second, 0))
		running := w.start(bellClass, 4, func(srv any) error {
			b, _ := srv.(*bell)
			<-release
			late <- put(b.state)
			return nil
		})
		synctest.Wait()
		w.endClass(bellClass)
		if err := <-running; fault.ReasonOf(err) != fault.OwnerChanged {
			t.Errorf("the running call: %v", err)
		}
		if n := w.manager.Stats().AlarmsInFlight; n != 0 {
			t.Errorf("%d alarms are in flight", n)
		}
		for _, class := range w.manager.Stats().Classes {
			if class.Class == bellClass && class.Objects != 0 {
				t.Errorf("%d objects of the class count as in memory", class.Objects)
			}
		}
		for n := range byte(5) {
			err := w.act(n, func(*bell) error {
				t.Error("a call has run")
				return nil
			})
			if fault.ReasonOf(err) != fault.UnknownClass {
				t.Errorf("object %d: %v", n, err)
			}
		}
		close(release)
		for range 2 {
			if err := <-late; err == nil {
				t.Error("an object has written after its class was deleted")
			}
		}
		after(24 * time.Hour)
		w.wantRuns()
		w.stored(1 + 3) // the end; record, fence and key of the other class's
		if err := dumb(put); err != nil {
			t.Errorf("an object of another class: %v", err)
		}
		w.lose()
		w.acquire()
		if err := w.act(3, func(*bell) error { return nil }); fault.ReasonOf(err) != fault.UnknownClass {
			t.Errorf("in a later term: %v", err)
		}
	})
}
