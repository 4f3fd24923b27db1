package actor

import (
	"context"
	"errors"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
)

// durations is a histogram of what has been observed.
func durations(observed ...time.Duration) (d Durations) {
	for _, t := range observed {
		d.observe(t)
	}
	return d
}

// counted compares what has been counted of the plain class with what should have been.
func (w *plainWorld) counted(t *testing.T, what string, want Tally) {
	t.Helper()
	synctest.Wait()
	stats := w.manager.Stats()
	if len(stats.Classes) != 1 || stats.Classes[0].Class != plainClass {
		t.Fatalf("%s: counted %+v, want the class %s", what, stats.Classes, plainClass)
	}
	if diff := cmp.Diff(want, stats.Classes[0].Tally); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

func TestDurationsFallIntoTheirBuckets(t *testing.T) {
	t.Parallel()
	last := len(DurationBounds)
	for at, want := range map[time.Duration]int{
		-time.Second: 0, 0: 0, DurationBounds[0]: 0, DurationBounds[0] + 1: 1,
		time.Second: 14, time.Second + 1: 15, DurationBounds[last-1]: last - 1, time.Hour: last,
	} {
		d := durations(at)
		if d.Counts[want] != 1 || d.Sum != max(at, 0) {
			t.Errorf("%v: got %+v, want it in bucket %d", at, d, want)
		}
	}
	var sum Durations
	for _, d := range []Durations{durations(time.Second, 0), durations(time.Hour)} {
		sum.add(&d)
	}
	if want := durations(time.Hour, 0, time.Second); sum != want {
		t.Errorf("got %+v, want %+v", sum, want)
	}
}

func TestCallsAreTimed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newPlainWorld(t)
		works := func(d time.Duration) func(context.Context, *State) error {
			return func(_ context.Context, s *State) error {
				time.Sleep(d) //nolint:forbidigo // in a bubble: that is what is measured
				_, err := add(s)
				return err
			}
		}
		w.log.set(func() { w.log.hold = true })
		a, b := w.start(1, works(3*time.Millisecond)), w.start(1, works(20*time.Millisecond))
		time.Sleep(time.Second) //nolint:forbidigo // in a bubble
		w.log.commit()
		if err := errors.Join(<-a, <-b); err != nil {
			t.Fatal(err)
		}
		want := Tally{
			Calls: 2, Activations: 1, Objects: 1,
			MailboxWait: durations(0, 3*time.Millisecond),
			Handler:     durations(3*time.Millisecond, 20*time.Millisecond),
			GateWait:    durations(997*time.Millisecond, 977*time.Millisecond),
			CallTime:    durations(time.Second, time.Second),
			Reads:       2, ReadBytes: 3, // The first finds nothing.
			Writes: 2, WrittenBytes: 4,
		}
		w.counted(t, "two calls", want)

		// One that waits for nothing is not among those that waited at the gate.
		w.log.set(func() { w.log.hold = false })
		if err := w.do(1, func(context.Context, *State) error { return nil }); err != nil {
			t.Fatal(err)
		}
		want.Calls++
		want.MailboxWait.observe(0)
		want.Handler.observe(0)
		want.CallTime.observe(0)
		w.counted(t, "a read", want)

		// A handler that waits there is.
		w.log.set(func() { w.log.hold = true })
		c := w.start(1, func(ctx context.Context, s *State) error {
			if err := s.Storage().Put("n", []byte{1}); err != nil {
				return err
			}
			return s.Confirm(ctx)
		})
		time.Sleep(time.Minute) //nolint:forbidigo // in a bubble
		w.log.commit()
		if err := <-c; err != nil {
			t.Fatal(err)
		}
		want.Calls++
		want.Writes++
		want.WrittenBytes += 2
		want.MailboxWait.observe(0)
		want.Handler.observe(time.Minute)
		want.CallTime.observe(time.Minute)
		want.GateWait.observe(time.Minute)
		w.counted(t, "Confirm", want)

		time.Sleep(time.Minute) //nolint:forbidigo // in a bubble: it is evicted
		want.Objects, want.Evictions = 0, 1
		w.counted(t, "nothing for a minute", want)
	})
}

func TestWhatNeverBeganIsRefused(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newPlainWorld(t)
		release := make(chan struct{})
		a := w.start(1, func(context.Context, *State) error { <-release; panic("on purpose") })
		queued := w.start(1, func(context.Context, *State) error { return nil })
		late := &Call{Object: plainRef(2), Class: plainClass, Method: "Act", Deadline: time.Now(), Done: func(Result) {}}
		w.manager.Deliver(late)
		close(release)
		if <-a == nil || <-queued == nil {
			t.Error("no error after a panic")
		}
		w.counted(t, "a panic", Tally{
			Calls: 3, Refused: 2, Resets: 1, Activations: 1, Objects: 2,
			MailboxWait: durations(0), Handler: durations(0), CallTime: durations(0),
		})
		w.manager.Lost(0, 1)
		w.manager.Deliver(&Call{Object: plainRef(1), Class: plainClass, Method: "Act", Done: func(Result) {}})
		w.counted(t, "another owner", Tally{
			Calls: 4, Refused: 3, Resets: 1, Activations: 1,
			MailboxWait: durations(0), Handler: durations(0), CallTime: durations(0),
		})
		w.manager.Deliver(&Call{Class: "None", Method: "Act", Done: func(Result) {}})
		if all := w.manager.Stats(); all.Calls != 5 || all.Refused != 4 {
			t.Errorf("with one of another class: %d calls, %d refused", all.Calls, all.Refused)
		}
	})
}

func TestStorageIsCounted(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newPlainWorld(t)
		used := func(act func(s *Storage) error) Tally {
			before := w.manager.Stats().Tally
			w.with(act)
			synctest.Wait()
			after := w.manager.Stats().Tally
			return Tally{
				Reads: after.Reads - before.Reads, ReadBytes: after.ReadBytes - before.ReadBytes,
				Writes: after.Writes - before.Writes, WrittenBytes: after.WrittenBytes - before.WrittenBytes,
				Deletes: after.Deletes - before.Deletes,
			}
		}
		for _, tt := range []struct {
			what string
			act  func(s *Storage) error
			want Tally
		}{
			{"two puts", func(s *Storage) error {
				return errors.Join(s.Put("a", []byte{1}), s.Put("bb", []byte{0x43, 1, 2, 3}))
			}, Tally{Writes: 2, WrittenBytes: 2 + 6}},
			{"what is rolled back", func(s *Storage) error {
				err := s.Transaction(func(tx *Storage) error { return errors.Join(tx.Put("c", []byte{1}), io.EOF) })
				if !errors.Is(err, io.EOF) {
					return err
				}
				return nil
			}, Tally{}},
			{"gets", func(s *Storage) error {
				_, err := s.GetMany("a", "bb", "none")
				return err
			}, Tally{Reads: 3, ReadBytes: 2 + 6 + 4}},
			{"a list", func(s *Storage) error {
				for _, err := range s.List(ListOptions{Limit: 1}) {
					if err != nil {
						return err
					}
				}
				return nil
			}, Tally{Reads: 1, ReadBytes: 2}},
			{"a delete", func(s *Storage) error {
				_, err := s.Delete("a")
				return err
			}, Tally{Deletes: 1, Reads: 2, ReadBytes: 2 + 6}}, // It asks whether it was there, and whether anything is left.
			{"everything", (*Storage).DeleteAll, Tally{Deletes: 1}},
		} {
			if diff := cmp.Diff(tt.want, used(tt.act)); diff != "" {
				t.Errorf("%s (-want +got):\n%s", tt.what, diff)
			}
		}
	})
}

func TestStreamsAreCounted(t *testing.T) {
	t.Parallel()
	streaming(t, func(t *testing.T, w *plainWorld) {
		c := w.stream(1, func(stream grpc.ServerStream, _ *State) error {
			for {
				text, err := hear(stream)
				if err != nil {
					return nil //nolint:nilerr // that is how the stream ends
				}
				if err := errors.Join(say(stream, text), say(stream, text)); err != nil {
					return err
				}
			}
		})
		c.say("a", "b", "c")
		c.hears(t, "a", "a", "b", "b", "c", "c")
		want := Tally{Activations: 1, Objects: 1, Streams: 1, MessagesReceived: 3, MessagesSent: 6}
		w.counted(t, "while it lasts", want)
		c.pipe.Up.Close()
		if err := <-c.done; err != nil {
			t.Fatal(err)
		}
		want.Streams, want.Calls, want.MailboxWait = 0, 1, durations(0)
		w.counted(t, "at its end", want)
	})
}

func TestAlarmsAreCounted(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, w *bells) {
		w.handle(func(context.Context, *bell, AlarmInfo) error {
			time.Sleep(time.Second) //nolint:forbidigo // in a bubble: that is what is measured
			return errors.New("on purpose")
		})
		w.set(1, time.Minute)
		time.Sleep(time.Hour) //nolint:forbidigo // in a bubble
		synctest.Wait()
		got := w.manager.Stats()
		runs := uint64(DefaultAlarmRetries + 1)
		if got.AlarmRuns != runs || got.AlarmFailures != runs || got.AlarmRetries != runs-1 || got.AlarmDeaths != 1 || got.AlarmsInFlight != 0 {
			t.Errorf("got %+v", got.Tally)
		}
		if got.AlarmTime.Sum != time.Duration(runs)*time.Second || got.AlarmDelay.Sum > 100*time.Millisecond {
			t.Errorf("took %v, and began %v late", got.AlarmTime.Sum, got.AlarmDelay.Sum)
		}
		if want := got.Calls; want != uint64(w.calls.Load()) {
			t.Errorf("alarms count as calls: %d, with %d made", want, w.calls.Load())
		}
	})
}

func TestCallsOfOthersAreCounted(t *testing.T) {
	looped(t, func(t *testing.T, l *loop) {
		l.acts["look"] = func(context.Context, *State) error { return nil }
		if _, a := l.by('A', time.Time{}, calls('B', "look")); <-a != nil {
			t.Fatal("the call failed")
		}
		if got := l.manager.Stats(); got.CallsMade != 1 || got.Calls != 2 || got.Objects != 2 {
			t.Errorf("got %+v", got.Tally)
		}
	})
}

// What counting a call costs that reads: the times that are taken of it, and the counters.
func BenchmarkCountCall(b *testing.B) {
	m := &Manager{began: time.Now()}
	o := &object{shard: &shard{manager: m}, class: &Class{tally: new(classTally)}}
	call := &Call{}
	answers := []answer{{call: call}}
	use := storageUse{reads: 1, readBytes: 20}
	for b.Loop() {
		call.ev.times = eventTimes{m.now(), m.now(), m.now()}
		o.countAnswers(answers, use)
	}
}
