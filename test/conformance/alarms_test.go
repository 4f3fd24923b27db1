package conformance_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/holdfast-io/holdfast/actor"
	"github.com/holdfast-io/holdfast/fault"
	holdfastv1 "github.com/holdfast-io/holdfast/proto/holdfast/v1"
)

// soon is a time that is to come while an event runs, and not much later.
func soon() time.Time { return time.Now().Add(20 * time.Millisecond) }

func far() time.Time { return time.Now().Add(24 * time.Hour).Truncate(time.Millisecond) }

var alarms = section{"Alarms", []fact{
	{"an object has one alarm: setAlarm() replaces it", func(t *testing.T, w *world) {
		o := w.object()
		at := far()
		for i := range 3 {
			o.must(func(_ context.Context, th *thing) error {
				return th.SetAlarm(at.Add(time.Duration(i)*time.Second + 999*time.Microsecond))
			})
			w.step(o)
			o.must(func(_ context.Context, th *thing) error {
				wantAlarm(t, th, at.Add(time.Duration(i)*time.Second)) // Cut to milliseconds.
				return nil
			})
		}
		want(t, "alarms listed", slices.Equal(pending(t, o), []string{o.id.String()}), true)
	}},
	{"setAlarm() refuses times up to 0, and takes one that has passed as now", func(t *testing.T, w *world) {
		o := w.object()
		rings := rung(o)
		o.must(func(_ context.Context, th *thing) error {
			for _, at := range []time.Time{time.UnixMilli(0), time.UnixMilli(-1), {}} {
				wantFault(t, th.SetAlarm(at), fault.InvalidArgument, "setAlarm() cannot be called with an alarm time <= 0")
			}
			return nil
		})
		w.step(o)
		before := time.Now().Truncate(time.Millisecond)
		o.must(func(_ context.Context, th *thing) error { return th.SetAlarm(time.UnixMilli(1)) })
		rings.wait(1)
		if at := rings.first().ScheduledTime; at.Before(before) {
			t.Errorf("it was set for %s, and not for %s or later", at, before)
		}
	}},
	{"a class without alarm() can't set one, but its constructor is not asked", func(t *testing.T, w *world) {
		o := w.objectOf(mute)
		o.must(put("k", 1))
		w.step(o)
		o.must(func(_ context.Context, th *thing) error {
			wantFault(t, th.SetAlarm(far()), fault.InvalidArgument, "Your Durable Object class must have an alarm() handler in order to call setAlarm()")
			return nil
		})
		constructs := w.objectOf(mute)
		constructs.script.construct = func(s *actor.State) {
			if err := s.SetAlarm(far()); err != nil {
				t.Error(err)
			}
		}
		constructs.must(nothing)
	}},
	{"an alarm runs when it is due, on whichever owner, and is gone then", func(t *testing.T, w *world) {
		o := w.object()
		rings := rung(o)
		var at time.Time
		o.must(func(_ context.Context, th *thing) error {
			at = soon().Truncate(time.Millisecond)
			return th.SetAlarm(at)
		})
		w.step(o)
		rings.wait(1)
		want(t, "the alarm", rings.first(), actor.AlarmInfo{ScheduledTime: at})
		if rings.at[0].Before(at) {
			t.Errorf("it ran at %s, before its time %s", rings.at[0], at)
		}
		w.step(o)
		o.must(func(_ context.Context, th *thing) error { wantNoAlarm(t, th); return nil })
		w.step(o)
		want(t, "runs", rings.count(), 1)
	}},
	{"getAlarm() is null while the handler runs, unless it sets one", func(t *testing.T, w *world) {
		o := w.object()
		done, next := make(chan struct{}), far()
		o.script.alarm = func(_ context.Context, th *thing, _ actor.AlarmInfo) error {
			defer close(done)
			wantNoAlarm(t, th)
			err := th.SetAlarm(next)
			wantAlarm(t, th, next)
			return err
		}
		o.must(func(_ context.Context, th *thing) error { return th.SetAlarm(soon()) })
		w.step(o)
		<-done
		w.step(o)
		o.must(func(_ context.Context, th *thing) error { wantAlarm(t, th, next); return nil })
	}},
	{"between retries getAlarm() is the original time", func(t *testing.T, w *world) {
		o := w.object() // Whose retries are seconds away.
		failed := make(chan struct{}, 8)
		o.script.alarm = func(context.Context, *thing, actor.AlarmInfo) error { failed <- struct{}{}; return errMine }
		var at time.Time
		o.must(func(_ context.Context, th *thing) error {
			at = soon().Truncate(time.Millisecond)
			return th.SetAlarm(at)
		})
		<-failed
		o.must(func(_ context.Context, th *thing) error { wantAlarm(t, th, at); return nil })
		w.step(o)
		o.must(func(_ context.Context, th *thing) error {
			wantAlarm(t, th, at)
			return th.DeleteAlarm()
		})
	}},
	{"deleteAlarm() deletes it, and it does not run", func(t *testing.T, w *world) {
		o, witness := w.object(), w.object()
		rings, others := rung(o), rung(witness)
		var due time.Time
		o.must(func(_ context.Context, th *thing) error {
			due = soon()
			return th.SetAlarm(due)
		})
		ran := 0
		o.must(func(_ context.Context, th *thing) error { // Where it was late, the alarm has run before.
			ran = rings.count()
			return th.DeleteAlarm()
		})
		w.step(o)
		witness.must(func(_ context.Context, th *thing) error { return th.SetAlarm(due.Add(time.Millisecond)) })
		others.wait(1)
		o.must(func(_ context.Context, th *thing) error { wantNoAlarm(t, th); return nil })
		want(t, "runs after it was deleted", rings.count(), ran)
	}},
	{"deleteAlarm() in the handler also deletes one that it has set, and keeps it from being retried", func(t *testing.T, w *world) {
		o := w.objectOf(retries)
		rings := rung(o)
		rings.then = func(_ context.Context, th *thing, _ actor.AlarmInfo) error {
			return errors.Join(th.SetAlarm(soon()), th.DeleteAlarm(), errMine)
		}
		o.must(func(_ context.Context, th *thing) error { return th.SetAlarm(time.Now()) })
		rings.wait(1)
		w.step(o)
		o.must(func(_ context.Context, th *thing) error { wantNoAlarm(t, th); return nil })
		want(t, "runs", rings.count(), 1)
	}},
	{"setAlarm() and deleteAlarm() are part of the transaction and of the event, and are undone with them", func(t *testing.T, w *world) {
		o := w.object()
		at := far()
		o.must(func(_ context.Context, th *thing) error { return th.SetAlarm(at) })
		for name, change := range map[string]func(th *thing) error{
			"set":    func(th *thing) error { return th.SetAlarm(time.Now()) },
			"delete": func(th *thing) error { return th.DeleteAlarm() },
		} {
			o.must(func(_ context.Context, th *thing) error {
				err := th.Storage().Transaction(func(*actor.Storage) error { return errors.Join(change(th), errMine) })
				if !errors.Is(err, errMine) {
					t.Errorf("%s: %v", name, err)
				}
				wantAlarm(t, th, at)
				return nil
			})
			w.step(o)
			_ = o.do(func(_ context.Context, th *thing) error { _ = change(th); th.Abort(""); return nil })
			o.must(func(_ context.Context, th *thing) error { wantAlarm(t, th, at); return nil })
		}
		w.step(o)
		o.must(func(_ context.Context, th *thing) error { wantAlarm(t, th, at); return nil })
	}},
	{"one alarm() runs at a time, and requests run beside it where it waits", func(t *testing.T, w *world) {
		o := w.object()
		said := &log{}
		yields, goOn := make(chan struct{}), make(chan struct{})
		o.script.alarm = func(ctx context.Context, th *thing, _ actor.AlarmInfo) error {
			said.sayf("alarm begins")
			defer said.sayf("alarm ends")
			if said.count() > 1 {
				return nil
			}
			return th.Yield(ctx, func(context.Context) error { close(yields); <-goOn; return nil })
		}
		o.must(func(_ context.Context, th *thing) error { return th.SetAlarm(time.Now()) })
		<-yields
		o.must(func(_ context.Context, th *thing) error {
			said.sayf("request")
			return th.SetAlarm(time.Now()) // Queued behind the one that runs.
		})
		o.must(func(_ context.Context, th *thing) error { return th.SetAlarm(time.Now()) }) // Replaces it.
		close(goOn)
		w.wait("the second alarm", func() (bool, string) { return said.count() >= 5, fmt.Sprint(said.all()) })
		w.step(o)
		o.must(func(_ context.Context, th *thing) error { wantNoAlarm(t, th); return nil })
		want(t, "order", said.all(), []string{"alarm begins", "request", "alarm ends", "alarm begins", "alarm ends"})
	}},
	{"an alarm runs at least once: one that is cut off by a move runs again, which does not count as a retry", func(t *testing.T, w *world) {
		o := w.object()
		rings := rung(o)
		yields, goOn := make(chan struct{}), make(chan struct{})
		rings.then = func(ctx context.Context, th *thing, _ actor.AlarmInfo) error {
			if rings.count() > 1 {
				return actor.Put(th.Storage(), "done", 1)
			}
			return th.Yield(ctx, func(context.Context) error { close(yields); <-goOn; return nil })
		}
		o.must(func(_ context.Context, th *thing) error { return th.SetAlarm(time.Now()) })
		<-yields
		if w.between != moved { // By a reset there, which does count.
			_ = o.do(func(_ context.Context, th *thing) error { th.Abort(""); return nil })
			close(goOn)
			o.must(func(_ context.Context, th *thing) error {
				if _, ok, err := th.Alarm(); !ok || err != nil {
					t.Errorf("the alarm is gone: %v", err)
				}
				return th.DeleteAlarm()
			})
			return
		}
		w.step(o)
		close(goOn)
		rings.wait(2)
		want(t, "retries counted", rings.infos()[1].RetryCount, 0)
		w.step(o)
		o.must(func(_ context.Context, th *thing) error {
			wantValue(t, th, "done", 1)
			wantNoAlarm(t, th)
			return nil
		})
	}},
	{"a failed alarm is retried 6 times, after 2 s and twice as long each time, and then given up", func(t *testing.T, w *world) {
		want(t, "retries", actor.DefaultAlarmRetries, 6)
		want(t, "the first delay, in seconds", actor.DefaultAlarmRetryDelay.Seconds(), 2)
		o := w.objectOf(retries)
		rings := rung(o)
		rings.then = func(context.Context, *thing, actor.AlarmInfo) error { return errMine }
		o.must(func(_ context.Context, th *thing) error { return th.SetAlarm(time.Now()) })
		rings.wait(4)
		w.step(o)
		rings.wait(7)
		w.wait("it to be given up", func() (bool, string) {
			resp, err := w.admin().ListDeadAlarms(t.Context(), &holdfastv1.ListAlarmsRequest{Class: o.class})
			return err == nil && len(resp.GetAlarms()) == 1, fmt.Sprint(resp, err)
		})
		o.must(func(_ context.Context, th *thing) error { wantNoAlarm(t, th); return nil })
		first := rings.first()
		counted := 0
		for i, info := range rings.infos() {
			want(t, "the scheduled time", info.ScheduledTime, first.ScheduledTime)
			want(t, "it is a retry", info.IsRetry, info.RetryCount > 0)
			if info.RetryCount > counted {
				counted++
				if waited := rings.at[i].Sub(rings.at[i-1]); waited < retryDelay<<(counted-1)-time.Millisecond {
					t.Errorf("retry %d came after %s", counted, waited)
				}
			}
			want(t, "retries so far", info.RetryCount, counted) // A run that a move cut off is not counted.
		}
		want(t, "retries", counted, 6)
		o.must(func(_ context.Context, th *thing) error { return th.Storage().DeleteAll() }) // The dead one too.
	}},
	{"a handler that sets an alarm and fails has that alarm, and no retry", func(t *testing.T, w *world) {
		o := w.objectOf(retries)
		rings := rung(o)
		next := far()
		rings.then = func(_ context.Context, th *thing, _ actor.AlarmInfo) error {
			return errors.Join(th.SetAlarm(next), errMine)
		}
		o.must(func(_ context.Context, th *thing) error { return th.SetAlarm(time.Now()) })
		rings.wait(1)
		w.step(o)
		o.must(func(_ context.Context, th *thing) error {
			wantAlarm(t, th, next)
			return nil
		})
		rings.set(func() { rings.then = nil })
		o.must(func(_ context.Context, th *thing) error { return th.SetAlarm(time.Now()) })
		rings.wait(2)
		want(t, "retries counted", rings.infos()[1].RetryCount, 0)
	}},
	{"what a handler wrote before it failed stays, and the object is not reset", func(t *testing.T, w *world) {
		o := w.object()
		rings := rung(o)
		rings.then = func(_ context.Context, th *thing, _ actor.AlarmInfo) error {
			th.memory = append(th.memory, "m")
			return errors.Join(actor.Put(th.Storage(), "k", 1), errMine)
		}
		o.must(func(_ context.Context, th *thing) error { return th.SetAlarm(time.Now()) })
		rings.wait(1)
		o.must(func(_ context.Context, th *thing) error { want(t, "the memory", th.memory, []string{"m"}); return nil })
		w.step(o)
		o.must(func(_ context.Context, th *thing) error {
			wantValue(t, th, "k", 1)
			return th.DeleteAlarm()
		})
	}},
	{"abort() in the handler: the alarm is retried, or with retryAlarm: false given up", func(t *testing.T, w *world) {
		o := w.objectOf(retries)
		rings := rung(o)
		rings.then = func(_ context.Context, th *thing, _ actor.AlarmInfo) error {
			_ = actor.Put(th.Storage(), "never", 1)
			if rings.count() < 3 {
				th.Abort("try again")
			}
			th.AbortWithoutRetry("give up")
			return nil
		}
		o.must(func(_ context.Context, th *thing) error { return th.SetAlarm(time.Now()) })
		rings.wait(2)
		w.step(o)
		rings.wait(3)
		w.wait("it to be given up", func() (bool, string) {
			gone := false
			err := o.do(func(_ context.Context, th *thing) error {
				_, ok, err := th.Alarm()
				wantNone(t, th, "never")
				gone = !ok
				return err
			})
			return gone && err == nil, fmt.Sprint(err)
		})
		want(t, "it had been retried", rings.infos()[1].RetryCount, 1)
	}},
	{"a handler has a limit of time, 15 minutes by default, beyond which it counts as failed", func(t *testing.T, w *world) {
		want(t, "minutes", actor.DefaultAlarmRunLimit.Minutes(), 15)
		o := w.objectOf(retries)
		rings := rung(o)
		rings.then = func(ctx context.Context, _ *thing, info actor.AlarmInfo) error {
			if info.IsRetry {
				return nil
			}
			<-ctx.Done()
			return context.Cause(ctx)
		}
		o.must(func(_ context.Context, th *thing) error { return th.SetAlarm(time.Now()) })
		w.wait("the retry", func() (bool, string) {
			infos := rings.infos()
			return len(infos) > 1 && infos[len(infos)-1].IsRetry, fmt.Sprint(infos)
		})
		w.step(o)
		o.must(func(_ context.Context, th *thing) error { wantNoAlarm(t, th); return nil })
	}},
}}

// rings are the runs of an object's alarm.
type rings struct {
	w    *world
	log  log
	seen []actor.AlarmInfo
	at   []time.Time
	then func(context.Context, *thing, actor.AlarmInfo) error
}

// rung notes the runs of an object's alarm.
func rung(o *object) *rings {
	r := &rings{w: o.w}
	o.script.alarm = func(ctx context.Context, th *thing, info actor.AlarmInfo) error {
		var then func(context.Context, *thing, actor.AlarmInfo) error
		r.set(func() {
			r.seen, r.at, then = append(r.seen, info), append(r.at, time.Now()), r.then
		})
		if then == nil {
			return nil
		}
		return then(ctx, th, info)
	}
	return r
}

func (r *rings) set(fn func()) {
	r.log.mu.Lock()
	defer r.log.mu.Unlock()
	fn()
}

func (r *rings) infos() (out []actor.AlarmInfo) {
	r.set(func() { out = slices.Clone(r.seen) })
	return out
}

func (r *rings) count() int { return len(r.infos()) }

func (r *rings) first() actor.AlarmInfo { return r.infos()[0] }

// wait waits until the alarm has begun so often.
func (r *rings) wait(n int) {
	r.w.t.Helper()
	r.w.wait("the alarm", func() (bool, string) { return r.count() >= n, fmt.Sprint(r.infos()) })
}

func wantAlarm(t *testing.T, o *thing, at time.Time) {
	t.Helper()
	if got, ok, err := o.Alarm(); !got.Equal(at) || !ok || err != nil {
		t.Errorf("the alarm: got %s, %v, %v, want %s", got, ok, err, at)
	}
}

func wantNoAlarm(t *testing.T, o *thing) {
	t.Helper()
	if got, ok, err := o.Alarm(); ok || err != nil {
		t.Errorf("the alarm: got %s, %v, want none", got, err)
	}
}

// pending are the objects of a class that have an alarm as far as the cluster lists them, of those that
// are this one.
func pending(t *testing.T, o *object) []string {
	t.Helper()
	var out []string
	req := &holdfastv1.ListAlarmsRequest{Class: o.class}
	for {
		resp, err := o.w.admin().ListAlarms(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range resp.GetAlarms() {
			if a.GetId() == o.id.String() {
				out = append(out, a.GetId())
			}
		}
		if req.PageToken = resp.GetNextPageToken(); req.PageToken == "" {
			return out
		}
	}
}
