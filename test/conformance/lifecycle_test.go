package conformance_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/holdfast-io/holdfast/actor"
	"github.com/holdfast-io/holdfast/fault"
)

var lifecycle = section{"Lifecycle", []fact{
	{"the constructor runs with the first event, and again after an eviction, a move or a reset", func(t *testing.T, w *world) {
		o := w.object()
		lives := 0
		for range 3 {
			o.must(nothing)
			o.must(nothing)
			if lives == 0 || w.between != stays {
				lives++
			}
			want(t, "constructed", o.constructed(), lives)
			w.step(o)
		}
		before := o.constructed()
		_ = o.do(func(_ context.Context, th *thing) error { th.Abort(""); return nil })
		o.must(nothing)
		if w.between == stays && o.constructed() != before+1 {
			t.Errorf("constructed %d times after a reset, and %d before", o.constructed(), before)
		}
	}},
	{"what is in memory goes with an eviction or a move, what is stored stays", func(t *testing.T, w *world) {
		o := w.object()
		o.must(func(_ context.Context, th *thing) error {
			th.memory = append(th.memory, "m")
			return actor.Put(th.Storage(), "k", 1)
		})
		w.step(o)
		o.must(func(_ context.Context, th *thing) error {
			want(t, "in memory", len(th.memory) > 0, w.between == stays)
			wantValue(t, th, "k", 1)
			return nil
		})
	}},
	{"when the constructor fails, so does every event, and the next call tries again", func(t *testing.T, w *world) {
		o := w.object()
		fails := true
		o.script.init = func(context.Context, *thing) error {
			if fails {
				return errMine
			}
			return nil
		}
		for range 2 {
			wantFault(t, o.do(put("never", 1)), fault.ObjectReset, errMine.Error())
			w.step(o)
		}
		o.script.construct = func(*actor.State) { panic("in the constructor") }
		wantFault(t, o.do(put("never", 1)), fault.Panic, "in the constructor")
		o.script.construct = nil
		fails = false
		o.must(func(_ context.Context, th *thing) error { wantNone(t, th, "never"); return nil })
	}},
	{"the constructor may read and write the storage before any event sees it", func(t *testing.T, w *world) {
		o := w.object()
		o.script.init = func(_ context.Context, th *thing) error {
			n, _, err := actor.Get[int](th.Storage(), "lives")
			return errors.Join(err, actor.Put(th.Storage(), "lives", n+1))
		}
		for range 3 {
			o.must(func(_ context.Context, th *thing) error { wantValue(t, th, "lives", th.life); return nil })
			w.step(o)
		}
	}},
	{"blockConcurrencyWhile() lets no other event in, also while it waits, and returns", func(t *testing.T, w *world) {
		o := w.object()
		said := &log{}
		inside := make(chan struct{})
		other := make(chan (<-chan error), 1)
		first := o.start(func(ctx context.Context, th *thing) error {
			return th.BlockConcurrency(ctx, func(ctx context.Context) error {
				return th.Yield(ctx, func(context.Context) error {
					close(inside)
					arrived := <-other
					for i := range 3 {
						said.sayf("first %d", i)
					}
					select {
					case err := <-arrived:
						return fmt.Errorf("the other event ran within the section: %w", err)
					default:
						return nil
					}
				})
			})
		})
		<-inside
		other <- o.arrives(func(context.Context, *thing) error { said.sayf("second"); return nil })
		if err := <-first; err != nil {
			t.Error(err)
		}
		o.must(nothing)
		want(t, "order", said.all(), []string{"first 0", "first 1", "first 2", "second"})
	}},
	{"a failure in blockConcurrencyWhile() resets the object, and the caller can't catch it", func(t *testing.T, w *world) {
		for name, fails := range map[string]func() error{
			"an error": func() error { return errMine },
			"a panic":  func() error { panic(errMine) },
		} {
			o := w.object()
			o.must(func(_ context.Context, th *thing) error { th.memory = append(th.memory, "m"); return nil })
			err := o.do(func(ctx context.Context, th *thing) error {
				_ = actor.Put(th.Storage(), "never", 1)
				_ = th.BlockConcurrency(ctx, func(context.Context) error { return fails() })
				t.Errorf("%s: the section returned", name)
				return nil
			})
			if reason := fault.ReasonOf(err); reason != fault.ObjectReset && reason != fault.Panic || !strings.Contains(err.Error(), errMine.Error()) {
				t.Errorf("%s: got %v", name, err)
			}
			o.must(func(_ context.Context, th *thing) error {
				want(t, "the memory after "+name, len(th.memory), 0)
				wantNone(t, th, "never")
				return nil
			})
			w.step(o)
			o.must(func(_ context.Context, th *thing) error { wantNone(t, th, "never"); return nil })
		}
	}},
	{"blockConcurrencyWhile() nests 64 deep", func(t *testing.T, w *world) {
		o := w.object()
		deepest := 0
		var nest func(ctx context.Context, th *thing, depth int) error
		nest = func(ctx context.Context, th *thing, depth int) error {
			err := th.BlockConcurrency(ctx, func(ctx context.Context) error {
				deepest = depth
				return nest(ctx, th, depth+1)
			})
			if depth <= 64 {
				return err
			}
			if err == nil || !strings.Contains(err.Error(), "at most 64 deep") {
				t.Errorf("the 65th: %v", err)
			}
			return nil
		}
		o.must(func(ctx context.Context, th *thing) error { return nest(ctx, th, 1) })
		want(t, "depth", deepest, 64)
		want(t, "its limit of time, in seconds", actor.BlockTimeMax.Seconds(), 30)
	}},
	{"an idle object is evicted, after 10 s by default", func(t *testing.T, w *world) {
		want(t, "seconds", actor.DefaultIdleTimeout.Seconds(), 10)
		o := w.objectOf(brief)
		o.must(put("k", 1))
		life := 1
		w.wait("its eviction", func() (bool, string) {
			leaveAlone()
			o.must(func(_ context.Context, th *thing) error { wantValue(t, th, "k", 1); return nil })
			return o.constructed() > life, ""
		})
	}},
	{"what is under way keeps an object: a call, a stream, waitUntil()", func(t *testing.T, w *world) {
		for name, busy := range map[string]func(o *object, begun chan<- struct{}, end <-chan struct{}) <-chan error{
			"a call": func(o *object, begun chan<- struct{}, end <-chan struct{}) <-chan error {
				return o.start(func(context.Context, *thing) error { close(begun); <-end; return nil })
			},
			"a call in a Yield": func(o *object, begun chan<- struct{}, end <-chan struct{}) <-chan error {
				return o.start(func(ctx context.Context, th *thing) error {
					return th.Yield(ctx, func(context.Context) error { close(begun); <-end; return nil })
				})
			},
			"waitUntil()": func(o *object, begun chan<- struct{}, end <-chan struct{}) <-chan error {
				return o.start(func(ctx context.Context, th *thing) error {
					return th.WaitUntil(ctx, func(context.Context) error { close(begun); <-end; return nil })
				})
			},
			"a stream": func(o *object, begun chan<- struct{}, end <-chan struct{}) <-chan error {
				o.script.stream = func(stream grpc.ServerStream, th *thing) error {
					close(begun)
					return th.Yield(stream.Context(), func(context.Context) error { <-end; return nil })
				}
				done := make(chan error, 1)
				ctx, method := o.on(w.t.Context(), "Stream")
				go func() {
					stream, err := w.conns[0].NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, method)
					if err == nil {
						err = stream.CloseSend()
					}
					if err == nil {
						<-end
					}
					done <- err
				}()
				return done
			},
		} {
			o, witness := w.objectOf(brief), w.objectOf(brief)
			begun, end := make(chan struct{}), make(chan struct{})
			answer := busy(o, begun, end)
			<-begun
			w.wait("the eviction of another", func() (bool, string) {
				leaveAlone()
				witness.must(nothing)
				return witness.constructed() > 2, ""
			})
			want(t, "lives of an object with "+name, o.constructed(), 1)
			close(end)
			if err := <-answer; err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}},
	{"an instance that has another owner can't use its storage any more, and its caller is told", func(t *testing.T, w *world) {
		if w.between != moved {
			t.Skip("on one node there is no other owner")
		}
		o := w.object()
		yields, goOn, after := make(chan struct{}), make(chan struct{}), make(chan error, 2)
		answer := o.start(func(ctx context.Context, th *thing) error {
			_ = actor.Put(th.Storage(), "before", 1)
			after <- th.Yield(ctx, func(context.Context) error { close(yields); <-goOn; return nil })
			after <- actor.Put(th.Storage(), "after", 1)
			return nil
		})
		<-yields
		w.step(o)
		wantFault(t, <-answer, fault.OutcomeUnknown, "")
		o.must(func(_ context.Context, th *thing) error { wantValue(t, th, "before", 1); return nil })
		close(goOn)
		for range 2 {
			if err := <-after; err == nil {
				t.Error("the instance of the past was let go on")
			}
		}
		o.must(func(_ context.Context, th *thing) error { wantNone(t, th, "after"); return nil })
	}},
	{"preShutdown() is told of a planned move, and what it writes is there for the next constructor", func(t *testing.T, w *world) {
		o := w.object()
		o.script.shutdown = func(_ context.Context, th *thing) error {
			return actor.Put(th.Storage(), "saved", len(th.memory))
		}
		o.script.init = func(_ context.Context, th *thing) error {
			n, _, err := actor.Get[int](th.Storage(), "saved")
			th.memory = make([]string, n)
			return err
		}
		for i := range 4 {
			o.must(func(_ context.Context, th *thing) error {
				if w.between != evicted { // Of an eviction nobody is told.
					want(t, "what was in memory", len(th.memory), i)
				}
				th.memory = append(th.memory, "m")
				return nil
			})
			w.step(o)
		}
	}},
	{"abort() discards what the event has written, and resets the object with its reason", func(t *testing.T, w *world) {
		o := w.object()
		for reason, says := range map[string]string{"had enough": "had enough", "": "the object aborted itself"} {
			o.must(func(_ context.Context, th *thing) error { th.memory = append(th.memory, "m"); return nil })
			held, free := make(chan struct{}), make(chan struct{})
			first := o.start(func(_ context.Context, th *thing) error {
				_ = actor.Put(th.Storage(), "never", 1)
				close(held)
				<-free
				th.Abort(reason)
				t.Error("Abort returned")
				return nil
			})
			<-held
			waiting := o.arrives(nothing)
			close(free)
			wantFault(t, <-first, fault.ObjectReset, says)
			wantFault(t, <-waiting, fault.ObjectReset, says)
			o.must(func(_ context.Context, th *thing) error {
				wantNone(t, th, "never")
				want(t, "the memory after a reset", len(th.memory), 0)
				return nil
			})
			w.step(o)
		}
	}},
	{"an error of a handler or of waitUntil() does not reset the object; a panic does, in Go", func(t *testing.T, w *world) {
		o := w.object()
		failed := make(chan struct{})
		_ = o.do(func(ctx context.Context, th *thing) error {
			th.memory = append(th.memory, "m")
			if err := th.WaitUntil(ctx, func(context.Context) error { defer close(failed); return errMine }); err != nil {
				t.Error(err)
			}
			return errMine
		})
		<-failed
		o.must(func(_ context.Context, th *thing) error { want(t, "the memory", len(th.memory), 1); return nil })
		wantFault(t, o.do(func(_ context.Context, th *thing) error {
			_ = actor.Put(th.Storage(), "never", 1)
			panic("at the handler")
		}), fault.Panic, "at the handler")
		o.must(func(_ context.Context, th *thing) error { want(t, "the memory", len(th.memory), 0); return nil })
		w.step(o)
		o.must(func(_ context.Context, th *thing) error { wantNone(t, th, "never"); return nil })
	}},
	{"a call that takes longer than the class allows resets the object", func(t *testing.T, w *world) {
		o := w.objectOf(hasty)
		err := o.do(func(ctx context.Context, th *thing) error {
			_ = actor.Put(th.Storage(), "never", 1)
			<-ctx.Done()
			return nil
		})
		wantFault(t, err, fault.ObjectTimeout, "took more than "+callMax.String())
		w.step(o)
		w.wait("a call that is in time", func() (bool, string) {
			err := o.do(func(_ context.Context, th *thing) error { wantNone(t, th, "never"); return nil })
			return err == nil, fmt.Sprint(err)
		})
	}},
}}

// leaveAlone lets time go by in which nobody calls: to be left alone is what an object is evicted for.
func leaveAlone() { <-time.After(4 * briefLife) }
