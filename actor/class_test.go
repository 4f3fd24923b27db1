package actor

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-io/holdfast/fault"
)

// limited is a loop whose class has limits.
func limited(t *testing.T, limit func(c *Class), test func(t *testing.T, l *loop)) {
	t.Helper()
	looped(t, func(t *testing.T, l *loop) {
		limit(l.manager.known(plainClass))
		test(t, l)
	})
}

func TestCallTimeOfAClass(t *testing.T) {
	limited(t, func(c *Class) { c.CallTimeMax = time.Second }, func(t *testing.T, l *loop) {
		begun := time.Now()
		var cause error
		_, a := l.by('A', time.Time{}, func(ctx context.Context, s *State) error {
			if _, err := add(s); err != nil {
				return err
			}
			<-ctx.Done()
			cause = context.Cause(ctx)
			return nil
		})
		_, next := l.by('A', time.Time{}, func(context.Context, *State) error { return nil })
		err := <-a
		if took := time.Since(begun); fault.ReasonOf(err) != fault.ObjectTimeout || took != time.Second || !strings.Contains(err.Error(), "Act took more than 1s") {
			t.Errorf("after %v: %v", took, err)
		}
		wantReason(t, "who waited", <-next, fault.ObjectReset)
		_, b := l.by('A', time.Time{}, func(_ context.Context, s *State) error {
			if n, err := add(s); n != 1 || err != nil {
				t.Errorf("what the call wrote is there: %d, %v", n, err)
			}
			return nil
		})
		if err := <-b; err != nil {
			t.Error(err)
		}
		synctest.Wait()
		wantReason(t, "the handler", cause, fault.ObjectReset)
	})
}

func TestMailboxOfAClass(t *testing.T) {
	limited(t, func(c *Class) { c.MailboxEventsMax = 2 }, func(t *testing.T, l *loop) {
		goOn := make(chan struct{})
		wait := func(context.Context, *State) error { <-goOn; return nil }
		var taken []<-chan error
		_, a := l.by('A', time.Time{}, wait)
		pending(t, "the first", a)
		for range 2 {
			_, b := l.by('A', time.Time{}, wait)
			taken = append(taken, b)
		}
		_, c := l.by('A', time.Time{}, wait)
		if err := <-c; fault.ReasonOf(err) != fault.Overloaded || !strings.Contains(err.Error(), "at most 2 events") {
			t.Errorf("got %v", err)
		}
		close(goOn)
		for _, b := range append(taken, a) {
			if err := <-b; err != nil {
				t.Error(err)
			}
		}
	})
}

func TestUnflushedWritesOfAClass(t *testing.T) {
	limited(t, func(c *Class) { c.UnflushedBytesMax = 100 }, func(t *testing.T, l *loop) {
		l.log.set(func() { l.log.late = true })
		_, a := l.by('A', time.Time{}, func(_ context.Context, s *State) error {
			return Put(s.Storage(), "k", strings.Repeat("v", 200))
		})
		if err := <-a; err != nil {
			t.Fatal(err)
		}
		_, b := l.by('A', time.Time{}, func(context.Context, *State) error { return nil })
		pending(t, "the next event", b)
		l.log.show(1)
		if err := <-b; err != nil {
			t.Error(err)
		}
	})
}

func TestLimitsOfAClassAreChecked(t *testing.T) {
	t.Parallel()
	for want, limit := range map[string]func(c *Class){
		"MailboxEventsMax: from 1 to 1024":     func(c *Class) { c.MailboxEventsMax = MailboxEventsMax + 1 },
		"UnflushedBytesMax: from 1 to 8388608": func(c *Class) { c.UnflushedBytesMax = -1 },
		"CallTimeMax: at least 0":              func(c *Class) { c.CallTimeMax = -1 },
	} {
		c := Class{Name: plainClass, construct: func(*State) any { return nil }}
		limit(&c)
		if _, err := NewManager(Config{Shards: 1, Classes: []Class{c}}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}
