package actor

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-io/holdfast/fault"
	"github.com/holdfast-io/holdfast/storage"
)

var errBell = errors.New("the bell is cracked")

func failing(context.Context, *bell, AlarmInfo) error { return errBell }

// wantRuns wants the runs since the last look to be these.
func (w *bells) wantRuns(want ...bellRun) {
	w.t.Helper()
	got := w.takeRuns()
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(bellRun{})); diff != "" {
		w.t.Errorf("runs (-want +got):\n%s", diff)
	}
}

func (w *bells) run(n byte, at time.Duration, scheduled time.Duration, retries int) bellRun {
	return bellRun{n, at, AlarmInfo{ScheduledTime: w.began.Add(scheduled), RetryCount: retries, IsRetry: retries > 0}}
}

func TestAlarmRunsWhenItIsDueAndIsOver(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, w *bells) {
		w.set(1, time.Hour)
		if got := w.alarmOf(1); got != time.Hour {
			t.Errorf("the alarm is set for %s", got)
		}
		w.stored(4) // record, fence, alarm, and its place in the index
		after(time.Hour - time.Millisecond)
		w.wantRuns()
		after(time.Millisecond)
		w.wantRuns(w.run(1, time.Hour, time.Hour, 0))
		w.stored(0) // It had nothing but its alarm.
		if got := w.alarmOf(1); got != -1 {
			t.Errorf("there is an alarm afterwards, for %s", got)
		}
		after(24 * time.Hour)
		w.wantRuns()
	})
}

func TestAlarmOfTheLastSetHolds(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, w *bells) {
		w.set(1, time.Minute)
		w.set(1, 3*time.Minute)
		w.set(2, 3*time.Minute)
		w.set(2, time.Minute)
		w.set(3, time.Minute)
		w.must(3, func(b *bell) error { return b.state.DeleteAlarm() })
		w.stored(8)
		after(time.Hour)
		w.wantRuns(w.run(2, time.Minute, time.Minute, 0), w.run(1, 3*time.Minute, 3*time.Minute, 0))
	})
}

// Seven runs, each later than twice as long after the one before, and then no more; between them the
// object's alarm is what it was, and what each has written stays.
func TestFailedAlarmIsRetriedAndDies(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, w *bells) {
		w.handle(func(_ context.Context, b *bell, info AlarmInfo) error {
			if err := Put(b.state.Storage(), fmt.Sprint(info.RetryCount), true); err != nil {
				return err
			}
			return errBell
		})
		w.set(1, time.Second)
		var died time.Duration
		for retry := range 7 {
			var runs []bellRun
			for range 200 {
				if runs = w.takeRuns(); len(runs) > 0 {
					break
				}
				after(time.Second)
			}
			if len(runs) != 1 {
				t.Fatalf("retry %d: %d runs", retry, len(runs))
			}
			if diff := cmp.Diff(w.run(1, runs[0].at, time.Second, retry), runs[0], cmp.AllowUnexported(bellRun{})); diff != "" {
				t.Error(diff)
			}
			if shortest := 2 * time.Second << retry >> 1; retry > 0 {
				if took := runs[0].at - died; took < shortest || took > shortest+shortest/4+time.Millisecond {
					t.Errorf("retry %d came after %s, want %s and up to a quarter more", retry, took, shortest)
				}
			}
			died = runs[0].at
			want := time.Second
			if retry == 6 {
				want = -1
			}
			if got := w.alarmOf(1); got != want {
				t.Errorf("after run %d the alarm is for %s, want %s", retry, got, want)
			}
		}
		after(24 * time.Hour)
		w.wantRuns()
		want := []storage.DeadAlarmListing{{ID: bellRef(bellClass, 1).ID, Alarm: storage.DeadAlarm{
			Scheduled: w.began.Add(time.Second).UnixMilli(), Died: w.began.Add(died).UnixMilli(), Retries: 6, Error: errBell.Error(),
		}}}
		if diff := cmp.Diff(want, w.deadAlarms()); diff != "" {
			t.Errorf("dead alarms (-want +got):\n%s", diff)
		}
		w.stored(2 + 7 + 1)
	})
}

func TestDeadAlarmIsArmedAgain(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, w *bells) {
		w.handle(failing)
		w.set(1, time.Second)
		after(time.Hour)
		w.takeRuns()
		rearm := func(n byte, discard bool) error {
			return w.manager.RearmAlarm(t.Context(), 0, bellRef(bellClass, n), bellClass, discard)
		}
		if err := rearm(2, false); fault.ReasonOf(err) != fault.UnknownAlarm {
			t.Errorf("an object without any: %v", err)
		}
		w.set(1, time.Hour)
		if err := rearm(1, false); fault.ReasonOf(err) != fault.AlarmPending {
			t.Errorf("one that waits for another alarm: %v", err)
		}
		w.must(1, func(b *bell) error { return b.state.DeleteAlarm() })
		w.stored(3) // It exists as long as its dead alarm does.
		w.handle(nil)
		now := time.Since(w.began)
		if err := rearm(1, false); err != nil {
			t.Fatal(err)
		}
		w.wantRuns(w.run(1, now, time.Second, 0))
		w.stored(0)

		w.handle(failing)
		w.set(1, time.Second)
		after(time.Hour)
		w.takeRuns()
		w.handle(nil)
		if err := rearm(1, true); err != nil {
			t.Fatal(err)
		}
		after(time.Hour)
		w.wantRuns()
		w.stored(0)
	})
}

func TestHandlerChangesItsAlarm(t *testing.T) {
	t.Parallel()
	sets := func(b *bell) error { return b.state.SetAlarm(time.Now().Add(time.Minute)) }
	for name, tt := range map[string]struct {
		handler func(ctx context.Context, b *bell) error
		next    time.Duration // of the alarm afterwards; -1: none
	}{
		"sets it and is done":           {func(_ context.Context, b *bell) error { return sets(b) }, time.Minute},
		"sets it and fails":             {func(_ context.Context, b *bell) error { return errors.Join(sets(b), errBell) }, time.Minute},
		"deletes it and fails":          {func(_ context.Context, b *bell) error { return errors.Join(b.state.DeleteAlarm(), errBell) }, -1},
		"sets and deletes it and fails": {func(_ context.Context, b *bell) error { return errors.Join(sets(b), b.state.DeleteAlarm(), errBell) }, -1},
		"deletes everything and fails":  {func(_ context.Context, b *bell) error { return errors.Join(b.state.Storage().DeleteAll(), errBell) }, -1},
		"sets it, confirms, and fails":  {func(ctx context.Context, b *bell) error { return errors.Join(sets(b), b.state.Confirm(ctx), errBell) }, time.Minute},
		"deletes it, confirms, and fails": {func(ctx context.Context, b *bell) error {
			return errors.Join(b.state.DeleteAlarm(), b.state.Confirm(ctx), errBell)
		}, -1},
		"writes, confirms, and is done": {func(ctx context.Context, b *bell) error {
			return errors.Join(Put(b.state.Storage(), "k", 1), b.state.Confirm(ctx))
		}, -1},
		"sets it, confirms, and panics": {func(ctx context.Context, b *bell) error { panic(errors.Join(sets(b), b.state.Confirm(ctx))) }, time.Minute},
		"sets it, confirms, and deletes it": {func(ctx context.Context, b *bell) error {
			return errors.Join(sets(b), b.state.Confirm(ctx), b.state.DeleteAlarm())
		}, -1},
		"aborts, and wants no retry":         {func(_ context.Context, b *bell) error { b.state.AbortWithoutRetry(""); return nil }, -1},
		"sets it, aborts, wants no retry":    {func(_ context.Context, b *bell) error { _ = sets(b); b.state.AbortWithoutRetry(""); return nil }, -1},
		"sets it to the same time as before": {func(_ context.Context, b *bell) error { return b.state.SetAlarm(time.Now()) }, -1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inBubble(t, func(t *testing.T, w *bells) {
				ran := false
				w.handle(func(ctx context.Context, b *bell, _ AlarmInfo) error {
					if ran { // The one that it has set.
						return nil
					}
					ran = true
					if at, ok, err := b.state.Alarm(); ok || err != nil {
						t.Errorf("in its handler the alarm is set for %s, %v", at, err)
					}
					return tt.handler(ctx, b)
				})
				w.set(1, time.Second)
				after(time.Second)
				want := []bellRun{w.run(1, time.Second, time.Second, 0)}
				if strings.Contains(name, "same time") {
					want = append(want, want[0])
				}
				w.wantRuns(want...)
				next := tt.next
				if next >= 0 {
					next += time.Second
				}
				if got := w.alarmOf(1); got != next {
					t.Errorf("afterwards the alarm is for %s, want %s", got, next)
				}
				after(time.Hour)
				if next < 0 {
					w.wantRuns()
				} else {
					w.wantRuns(w.run(1, next, next, 0))
				}
			})
		})
	}
}

// A panic or an abort drops what the handler wrote, and counts.
func TestPanicAndAbortCount(t *testing.T) {
	t.Parallel()
	for name, die := range map[string]func(b *bell){
		"panic": func(*bell) { panic("the bell falls down") },
		"abort": func(b *bell) { b.state.Abort("the bell goes home") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inBubble(t, func(t *testing.T, w *bells) {
				w.handle(func(_ context.Context, b *bell, info AlarmInfo) error {
					if err := Put(b.state.Storage(), fmt.Sprint("dropped", info.RetryCount), true); err != nil {
						return err
					}
					die(b)
					return nil
				})
				w.set(1, time.Second)
				after(time.Second)
				w.wantRuns(w.run(1, time.Second, time.Second, 0))
				w.stored(4)
				if n := w.manager.Stats().AlarmsInFlight; n != 0 {
					t.Errorf("the run has ended, and %d are in flight", n)
				}
				after(3 * time.Second)
				if runs := w.takeRuns(); len(runs) != 1 || runs[0].info.RetryCount != 1 {
					t.Errorf("the retry: %+v", runs)
				}
				after(time.Hour)
				if runs := w.takeRuns(); len(runs) != 5 {
					t.Errorf("%d further retries", len(runs))
				}
				if dead := w.deadAlarms(); len(dead) != 1 || !strings.Contains(dead[0].Alarm.Error, "the bell") {
					t.Errorf("dead: %+v", dead)
				}
			})
		})
	}
}

// What the class's constructor does comes before the run, and it sees the alarm.
func TestConstructorOfAnAlarm(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, w *bells) {
		class := w.manager.known(bellClass)
		construct, broken := class.construct, 2
		class.construct = func(s *State) any {
			if _, ok, err := s.Alarm(); broken < 2 && (!ok || err != nil) {
				t.Errorf("the constructor sees the alarm: %v, %v", ok, err)
			}
			if broken--; broken == 0 {
				panic("the bell can't be cast")
			}
			return construct(s)
		}
		w.set(1, time.Minute)
		after(20 * time.Second) // It is evicted.
		after(40 * time.Second)
		w.wantRuns()
		after(3 * time.Second)
		if runs := w.takeRuns(); len(runs) != 1 || runs[0].info.RetryCount != 1 {
			t.Errorf("a constructor that panics is a failed run: %+v", runs)
		}
	})
}

// The alarm and how often it has failed stay when the owner changes, and the loss itself does not count.
func TestAlarmOutlivesItsOwner(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, w *bells) {
		w.handle(failing)
		w.set(1, time.Second)
		after(time.Second)
		w.wantRuns(w.run(1, time.Second, time.Second, 0))
		w.lose()
		after(time.Minute)
		w.wantRuns()
		if s := w.manager.Stats(); s.Refused > 0 {
			t.Errorf("%d alarms were delivered by who is not the owner", s.Refused)
		}
		w.handle(func(ctx context.Context, _ *bell, _ AlarmInfo) error {
			<-ctx.Done() // Until its owner is another.
			return nil
		})
		w.acquire()
		w.wantRuns(w.run(1, 61*time.Second, time.Second, 1))
		w.handle(nil)
		w.lose()
		synctest.Wait() // Owners are nodes: only here is the next one the same.
		w.acquire()
		w.wantRuns(w.run(1, 61*time.Second, time.Second, 1))
		w.stored(0)
	})
}

// Neither does what is no fault of the handler: the segment was refused, or another event reset the object.
func TestRefusedAlarmIsRunAgain(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, w *bells) {
		w.set(1, time.Second)
		w.log.setRefuse(true)
		after(time.Second)
		w.wantRuns(w.run(1, time.Second, time.Second, 0))
		w.log.setRefuse(false)
		after(3 * time.Second)
		if runs := w.takeRuns(); len(runs) != 1 || runs[0].info.RetryCount != 0 {
			t.Errorf("the run that was refused is followed by %+v", runs)
		}
		w.stored(0)
	})
}

func TestAlarmBehindAPanicIsRunAgain(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, w *bells) {
		w.set(1, time.Second)
		fall := make(chan struct{})
		fallen := w.start(bellClass, 1, func(any) error {
			<-fall
			panic("the bell falls down")
		})
		after(time.Second)
		close(fall)
		if err := <-fallen; fault.ReasonOf(err) != fault.Panic {
			t.Error(err)
		}
		after(3 * time.Second)
		if runs := w.takeRuns(); len(runs) != 1 || runs[0].info.RetryCount != 0 {
			t.Errorf("runs: %+v", runs)
		}
	})
}

// The next alarm of an object waits until the run of this one is through, also when its handler has set it
// long before it ends.
func TestNeverTwoRunsAtOnce(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, w *bells) {
		left := 3
		w.handle(func(ctx context.Context, b *bell, _ AlarmInfo) error {
			if left--; left > 0 {
				if err := b.state.SetAlarm(time.Now()); err != nil {
					return err
				}
			}
			err := b.state.Confirm(ctx)
			<-time.After(time.Second)
			return err
		})
		w.set(1, time.Second)
		after(10 * time.Second)
		w.wantRuns(w.run(1, time.Second, time.Second, 0), w.run(1, 2*time.Second, time.Second, 0), w.run(1, 3*time.Second, 2*time.Second, 0))
	})
}

func TestRunLimitEndsTheContext(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, w *bells) {
		w.handle(func(ctx context.Context, _ *bell, info AlarmInfo) error {
			if info.IsRetry {
				return nil
			}
			<-ctx.Done()
			return ctx.Err()
		})
		w.set(1, time.Second)
		after(time.Second + 15*time.Minute)
		w.takeRuns()
		after(3 * time.Second)
		if runs := w.takeRuns(); len(runs) != 1 || runs[0].info.RetryCount != 1 {
			t.Errorf("runs: %+v", runs)
		}
	})
}

func TestSetAlarmRefuses(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, w *bells) {
		for _, tt := range []struct {
			at   time.Time
			want string
		}{
			{time.Time{}, "setAlarm() cannot be called with an alarm time <= 0"},
			{time.UnixMilli(0), "setAlarm() cannot be called with an alarm time <= 0"},
			{time.UnixMilli(1).Add(-1), "setAlarm() cannot be called with an alarm time <= 0"},
			{time.UnixMilli(maxAlarmUnixMilli + 1), "alarm time: at most 275760-09-13"},
		} {
			err := w.act(1, func(b *bell) error { return b.state.SetAlarm(tt.at) })
			if fault.ReasonOf(err) != fault.InvalidArgument || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%s: %v, want %q", tt.at, err, tt.want)
			}
		}
		err := <-w.start("Dumb", 1, func(srv any) error {
			d, _ := srv.(*dumb)
			return d.state.SetAlarm(time.Now())
		})
		if fault.ReasonOf(err) != fault.InvalidArgument || !strings.HasSuffix(err.Error(), "must have an alarm() handler in order to call setAlarm()") {
			t.Errorf("a class without a handler: %v", err)
		}
		w.stored(0)
		var outside *State
		w.must(1, func(b *bell) error { outside = b.state; return nil })
		if _, _, err := outside.Alarm(); !errors.Is(err, ErrNoTurn) {
			t.Errorf("out of turn: %v", err)
		}
		if err := outside.SetAlarm(time.Now()); !errors.Is(err, ErrNoTurn) {
			t.Errorf("out of turn: %v", err)
		}
	})
}

func TestAlarmTimesAreCutAndNeverInThePast(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, w *bells) {
		after(time.Minute)
		w.must(1, func(b *bell) error { return b.state.SetAlarm(time.Now().Add(time.Second + 999*time.Microsecond)) })
		if got := w.alarmOf(1); got != time.Minute+time.Second {
			t.Errorf("the alarm is for %s", got)
		}
		w.must(1, func(b *bell) error { return b.state.SetAlarm(time.UnixMilli(1)) })
		w.wantRuns(w.run(1, time.Minute, time.Minute, 0))
	})
}

// An alarm is one of the event's writes: it goes with them, and comes back with a transaction's.
func TestAlarmIsOneOfTheWrites(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, w *bells) {
		w.set(1, time.Hour)
		err := w.act(1, func(b *bell) error {
			if err := b.state.SetAlarm(time.Now()); err != nil {
				return err
			}
			panic("not now")
		})
		if fault.ReasonOf(err) != fault.Panic {
			t.Error(err)
		}
		w.must(1, func(b *bell) error {
			o := b.state.o
			mark := o.w.mark()
			if err := errors.Join(b.state.DeleteAlarm(), Put(b.state.Storage(), "k", 1)); err != nil {
				return err
			}
			if _, ok, err := b.state.Alarm(); ok || err != nil {
				t.Errorf("deleted, it is there: %v", err)
			}
			o.w.rollbackTo(mark)
			if at, ok, err := b.state.Alarm(); !ok || err != nil || at.Sub(w.began) != time.Hour {
				t.Errorf("rolled back, it is for %s, %v, %v", at, ok, err)
			}
			return nil
		})
		w.stored(4)
		w.must(1, func(b *bell) error {
			return errors.Join(Put(b.state.Storage(), "k", 1), b.state.Storage().DeleteAll())
		})
		w.stored(0) // With everything goes the alarm.
		after(2 * time.Hour)
		w.wantRuns()
	})
}

// A handler that takes back what it did with the alarm has not touched it.
func TestHandlerRollsItsAlarmBack(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, w *bells) {
		w.handle(func(_ context.Context, b *bell, info AlarmInfo) error {
			if info.IsRetry {
				return nil
			}
			mark := b.state.o.w.mark()
			if err := b.state.SetAlarm(time.Now().Add(time.Hour)); err != nil {
				return err
			}
			b.state.o.w.rollbackTo(mark)
			if _, ok, err := b.state.Alarm(); ok || err != nil {
				t.Errorf("there is an alarm again: %v, %v", ok, err)
			}
			return errBell
		})
		w.set(1, time.Second)
		after(time.Minute)
		if runs := w.takeRuns(); len(runs) != 2 || runs[1].info.RetryCount != 1 {
			t.Errorf("runs: %+v", runs)
		}
		w.stored(0)
	})
}

// Alarms due at once by the thousand are handed over within the bound, each once.
func TestManyAlarmsAtOnce(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, w *bells) {
		const many = 200
		w.handle(func(context.Context, *bell, AlarmInfo) error {
			<-time.After(time.Second)
			return nil
		})
		for n := range byte(many) {
			w.set(n, time.Minute)
		}
		w.lose()
		after(time.Hour)
		w.acquire()
		after(2 * time.Second)
		seen := make(map[byte]int)
		for _, r := range w.takeRuns() {
			seen[r.object]++
		}
		for n := range byte(many) {
			if seen[n] != 1 {
				t.Errorf("object %d ran %d times", n, seen[n])
			}
		}
		w.stored(0)
		if n := w.manager.Stats().AlarmsInFlight; n != 0 {
			t.Errorf("%d alarms in flight", n)
		}
	})
}

// Reading a lane from an earlier place on finds those in flight again.
func TestWhatIsInFlightIsNotHandedOverAgain(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, w *bells) {
		w.handle(func(context.Context, *bell, AlarmInfo) error {
			<-time.After(time.Second)
			return nil
		})
		for n := range byte(10) {
			w.set(n, time.Second)
		}
		after(time.Second)
		c := w.manager.alarms
		c.note(0, w.manager.known(bellClass), bellRef(bellClass, 100), 1)
		synctest.Wait()
		c.mu.Lock()
		if flying, counted := len(c.mu.flying), c.mu.ofType[w.manager.known(bellClass)]; flying != 10 || counted != 10 {
			t.Errorf("%d are in flight, and %d were handed over", flying, counted)
		}
		c.mu.Unlock()
		after(time.Second)
		if runs := w.takeRuns(); len(runs) != 10 {
			t.Errorf("%d runs", len(runs))
		}
	})
}

// A handler that gives up its turn is still the one run of its alarm; what others do to the alarm
// meanwhile stands.
func TestHandlerYields(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, w *bells) {
		w.handle(func(ctx context.Context, b *bell, info AlarmInfo) error {
			if info.ScheduledTime.Sub(w.began) != time.Second {
				return nil
			}
			return b.state.Yield(ctx, func(context.Context) error {
				<-time.After(10 * time.Second)
				return errBell
			})
		})
		w.set(1, time.Second)
		w.set(2, time.Second)
		w.set(3, time.Second)
		after(2 * time.Second)
		if got := w.alarmOf(1); got != -1 {
			t.Errorf("while its handler runs the alarm is for %s", got)
		}
		w.set(1, 0) // Due at once, and behind the one that runs.
		if got := w.alarmOf(1); got != 2*time.Second {
			t.Errorf("set again, the alarm is for %s", got)
		}
		w.must(2, func(b *bell) error { return errors.Join(b.state.SetAlarm(time.Now()), b.state.DeleteAlarm()) })
		after(5 * time.Second)
		if runs := w.takeRuns(); len(runs) != 3 {
			t.Errorf("begun beside each other: %v", runs)
		}
		after(4 * time.Second)
		w.wantRuns(w.run(1, 11*time.Second, 2*time.Second, 0))
		if got := w.alarmOf(2); got != -1 {
			t.Errorf("deleted beside its run, the alarm is for %s", got)
		}
		if got := w.alarmOf(3); got != time.Second {
			t.Errorf("it failed, and the alarm is for %s", got)
		}
	})
}

// When another event resets the object, the run in a Yield is cut off: that does not count, and the alarm is
// not run again before its handler has returned.
func TestHandlerIsResetInItsYield(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, w *bells) {
		w.handle(func(ctx context.Context, b *bell, _ AlarmInfo) error {
			return b.state.Yield(ctx, func(context.Context) error {
				<-time.After(10 * time.Second) // It does not heed its context.
				return nil
			})
		})
		w.set(1, time.Second)
		after(2 * time.Second)
		if err := w.act(1, func(*bell) error { panic("the bell falls down") }); fault.ReasonOf(err) != fault.Panic {
			t.Error(err)
		}
		after(8 * time.Second)
		w.wantRuns(w.run(1, time.Second, time.Second, 0))
		w.handle(nil)
		after(10 * time.Second)
		if runs := w.takeRuns(); len(runs) != 1 || runs[0].at < 11*time.Second || runs[0].info.RetryCount != 0 {
			t.Errorf("runs: %+v", runs)
		}
		w.stored(0)
	})
}

// What the handler does to end the incarnation counts, whatever it is.
func TestBlockedHandlerCounts(t *testing.T) {
	t.Parallel()
	for name, handler := range map[string]func(ctx context.Context, b *bell) error{
		"fails in a section": func(ctx context.Context, b *bell) error {
			return b.state.BlockConcurrency(ctx, func(context.Context) error { return errBell })
		},
		"takes too long in one": func(ctx context.Context, b *bell) error {
			return b.state.BlockConcurrency(ctx, func(ctx context.Context) error {
				<-ctx.Done()
				return ctx.Err()
			})
		},
		"takes too long in one, in a Yield": func(ctx context.Context, b *bell) error {
			return b.state.BlockConcurrency(ctx, func(ctx context.Context) error {
				return b.state.Yield(ctx, func(ctx context.Context) error {
					<-ctx.Done()
					return ctx.Err()
				})
			})
		},
		"panics in a Yield": func(ctx context.Context, b *bell) error {
			return b.state.Yield(ctx, func(context.Context) error { panic("the bell falls down") })
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inBubble(t, func(t *testing.T, w *bells) {
				w.handle(func(ctx context.Context, b *bell, info AlarmInfo) error {
					if info.IsRetry {
						return nil
					}
					return handler(ctx, b)
				})
				w.set(1, time.Second)
				after(time.Minute)
				if runs := w.takeRuns(); len(runs) != 2 || runs[1].info.RetryCount != 1 {
					t.Errorf("runs: %+v", runs)
				}
				w.stored(0)
			})
		})
	}
}

// Disks without room put alarms off; they do not count.
func TestAlarmOnFullDisk(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, w *bells) {
		w.handle(func(context.Context, *bell, AlarmInfo) error { panic("the bell falls down") })
		w.set(1, time.Second)
		w.manager.SetFull(0, w.term, true)
		after(time.Minute)
		runs := w.takeRuns()
		if len(runs) < 2 || runs[len(runs)-1].info.RetryCount != 0 {
			t.Errorf("runs: %+v", runs)
		}
		w.handle(nil)
		w.manager.SetFull(0, w.term, false)
		after(time.Hour)
		if runs := w.takeRuns(); len(runs) != 1 {
			t.Errorf("runs: %+v", runs)
		}
		w.stored(0)
	})
}

// A clock that is wrong changes when an alarm runs, and never whether.
func TestAlarmsByWrongClocks(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, w *bells) {
		w.skew.Store(int64(-time.Hour))
		w.set(1, time.Minute)
		after(59 * time.Minute)
		w.wantRuns()
		after(2 * time.Minute)
		w.wantRuns(w.run(1, 61*time.Minute, time.Minute, 0))

		w.set(2, 10*time.Minute)
		w.set(3, 90*time.Minute)
		w.skew.Store(int64(time.Hour)) // While it sleeps, the clock is set forward.
		after(time.Second)
		w.wantRuns(w.run(2, 61*time.Minute+time.Second, 71*time.Minute, 0))
		w.skew.Store(0) // And back.
		w.set(4, time.Minute)
		after(2 * time.Minute)
		w.wantRuns(w.run(4, 62*time.Minute+time.Second, 62*time.Minute+time.Second, 0))
		w.lose()
		w.skew.Store(int64(time.Hour)) // Another owner's is ahead.
		w.acquire()
		synctest.Wait()
		after(28*time.Minute + time.Second)
		w.wantRuns(w.run(3, 91*time.Minute, 151*time.Minute, 0))
		w.stored(0)
	})
}

// What becomes of an alarm is no part of a transaction that its handler has left open.
func TestAlarmEndsBesideATransactionThatIsLeftOpen(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, w *bells) {
		begun, ended, outcome := make(chan struct{}), make(chan struct{}), make(chan error, 1)
		w.handle(func(_ context.Context, b *bell, _ AlarmInfo) error {
			go func() {
				outcome <- b.state.Storage().Transaction(func(tx *Storage) error {
					err := Put(tx, "half", 1)
					close(begun)
					<-ended
					return err
				})
			}()
			<-begun
			return nil
		})
		w.set(1, time.Minute)
		after(time.Minute)
		w.wantRuns(w.run(1, time.Minute, time.Minute, 0))
		close(ended)
		if err := <-outcome; !errors.Is(err, ErrTransactionEnded) {
			t.Errorf("the transaction ended with %v", err)
		}
		w.stored(0)
	})
}
