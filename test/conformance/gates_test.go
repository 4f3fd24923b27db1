package conformance_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/holdfast-io/holdfast/actor"
	"github.com/holdfast-io/holdfast/fault"
)

var gates = section{"Gates and coalescing", []fact{
	{"no event comes between two storage calls of another", func(t *testing.T, w *world) {
		o := w.object()
		said := &log{}
		var answers []<-chan error
		for range 8 {
			answers = append(answers, o.start(func(_ context.Context, th *thing) error {
				for i := range 3 {
					n, _, err := actor.Get[int](th.Storage(), "n")
					if err := errors.Join(err, actor.Put(th.Storage(), "n", n+1)); err != nil {
						return err
					}
					said.sayf("%d", i)
				}
				return nil
			}))
		}
		for _, answer := range answers {
			if err := <-answer; err != nil {
				t.Error(err)
			}
		}
		want(t, "order", strings.Join(said.all(), ""), strings.Repeat("012", 8))
		w.step(o)
		o.must(func(_ context.Context, th *thing) error { wantValue(t, th, "n", 24); return nil })
	}},
	{"two events take turns where they wait for the outside world", func(t *testing.T, w *world) {
		o := w.object()
		said := &log{}
		// Each waits, outside, for the other to have come as far.
		arrived := [2][3]chan struct{}{}
		for i := range arrived {
			for j := range arrived[i] {
				arrived[i][j] = make(chan struct{})
			}
		}
		run := func(me int) <-chan error {
			return o.start(func(ctx context.Context, th *thing) error {
				for i := range 3 {
					said.sayf("%c%d", 'A'+me, i)
					if err := th.Yield(ctx, func(context.Context) error {
						close(arrived[me][i])
						<-arrived[1-me][i]
						return nil
					}); err != nil {
						return err
					}
				}
				return nil
			})
		}
		a := run(0)
		<-arrived[0][0]
		b := run(1)
		if err := errors.Join(<-a, <-b); err != nil {
			t.Error(err)
		}
		for i, line := range said.all() { // Who is first in a round is open, for both come at once.
			if !strings.HasSuffix(line, fmt.Sprint(i/2)) {
				t.Errorf("order: %v", said.all())
				break
			}
		}
		want(t, "steps", said.count(), 6)
	}},
	{"an event that waits in blockConcurrencyWhile() lets nobody in, also over many waits", func(t *testing.T, w *world) {
		o := w.object()
		said := &log{}
		begun, goOn := make(chan struct{}), make(chan struct{})
		first := o.start(func(ctx context.Context, th *thing) error {
			return th.BlockConcurrency(ctx, func(ctx context.Context) error {
				for i := range 3 {
					said.sayf("A%d", i)
					if err := th.Yield(ctx, func(context.Context) error {
						if i == 0 {
							close(begun)
							<-goOn
						}
						return nil
					}); err != nil {
						return err
					}
				}
				return nil
			})
		})
		<-begun
		second := o.arrives(func(context.Context, *thing) error { said.sayf("B"); return nil })
		close(goOn)
		if err := errors.Join(<-first, <-second); err != nil {
			t.Error(err)
		}
		want(t, "order", said.all(), []string{"A0", "A1", "A2", "B"})
	}},
	{"a reply leaves when what it could depend on is durable", func(t *testing.T, w *world) {
		o := w.object()
		for i := range 5 {
			o.must(put("k", i))
			want(t, "stored when the reply was there", o.stored(), map[string]string{"k": fmt.Sprint(i)})
			w.step(o)
			o.must(func(_ context.Context, th *thing) error { wantValue(t, th, "k", i); return nil })
		}
	}},
	{"a call of another object leaves when what was written before it is durable; others run meanwhile, and see it", func(t *testing.T, w *world) {
		o, other := w.object(), w.object()
		for round := 1; round <= 3; round++ {
			o.must(func(ctx context.Context, th *thing) error {
				n, _, err := actor.Get[int](th.Storage(), "n")
				if err := errors.Join(err, actor.Put(th.Storage(), "n", n+1)); err != nil {
					return err
				}
				return th.Yield(ctx, func(ctx context.Context) error {
					return call(other, func(ctx context.Context, th *thing) error {
						want(t, "stored when the call was there", o.stored()["n"], fmt.Sprint(round))
						return call(o, func(_ context.Context, th *thing) error { wantValue(t, th, "n", round); return nil })(ctx, th)
					})(ctx, th)
				})
			})
			w.step(o, other)
		}
	}},
	{"what a stream sends leaves when what was written before it is durable", func(t *testing.T, w *world) {
		o := w.object()
		o.script.stream = func(stream grpc.ServerStream, th *thing) error {
			for i := range 5 {
				if err := errors.Join(actor.Put(th.Storage(), "k", i), stream.SendMsg(wrapperspb.Bytes(fmt.Append(nil, i))), th.Yield(stream.Context(), func(context.Context) error { return nil })); err != nil {
					return err
				}
				if err := stream.RecvMsg(&wrapperspb.BytesValue{}); err != nil {
					return err
				}
			}
			return nil
		}
		ctx, method := o.on(t.Context(), "Stream")
		stream, err := w.conns[w.owner(o)].NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, method)
		if err != nil {
			t.Fatal(err)
		}
		for range 5 {
			got := &wrapperspb.BytesValue{}
			if err := stream.RecvMsg(got); err != nil {
				t.Fatal(err)
			}
			want(t, "stored when the message was there", o.stored()["k"], string(got.GetValue()))
			if err := stream.SendMsg(got); err != nil {
				t.Fatal(err)
			}
		}
	}},
	{"an error waits for the writes before it, which stay", func(t *testing.T, w *world) {
		o := w.object()
		if err := o.do(func(_ context.Context, th *thing) error {
			return errors.Join(actor.Put(th.Storage(), "k", 1), errMine)
		}); err == nil || !strings.Contains(err.Error(), errMine.Error()) {
			t.Errorf("got %v", err)
		}
		want(t, "stored when the error was there", o.stored(), map[string]string{"k": "1"})
		w.step(o)
		o.must(func(_ context.Context, th *thing) error { wantValue(t, th, "k", 1); return nil })
	}},
	{"writes with nothing but storage calls between them are one atomic commit: after an abort there is none", func(t *testing.T, w *world) {
		o := w.object()
		_ = o.do(func(_ context.Context, th *thing) error {
			_ = actor.Put(th.Storage(), "a", 1)
			_, _, _ = th.Storage().Get("a")
			_ = actor.Put(th.Storage(), "b", 1)
			th.Abort("")
			return nil
		})
		w.step(o)
		o.must(func(_ context.Context, th *thing) error { wantNone(t, th, "a", "b"); return nil })
	}},
	{"a wait, a sync() or a call between two writes makes them two commits: after an abort there is the first", func(t *testing.T, w *world) {
		other := w.object()
		for name, waits := range map[string]act{
			"a wait": func(ctx context.Context, th *thing) error {
				return th.Yield(ctx, func(context.Context) error { return nil })
			},
			"a sync":  func(ctx context.Context, th *thing) error { return th.Storage().Sync(ctx) },
			"Confirm": func(ctx context.Context, th *thing) error { return th.Confirm(ctx) },
			"a call":  call(other, nothing),
		} {
			o := w.object()
			err := o.do(func(ctx context.Context, th *thing) error {
				_ = actor.Put(th.Storage(), "a", 1)
				if err := waits(ctx, th); err != nil {
					return err
				}
				_ = actor.Put(th.Storage(), "b", 1)
				th.Abort("")
				return nil
			})
			wantFault(t, err, fault.ObjectReset, "")
			w.step(o)
			o.must(func(_ context.Context, th *thing) error {
				want(t, "keys after "+name, list(t, th, actor.ListOptions{}), []string{"a"})
				return nil
			})
		}
	}},
	{"reads see uncommitted writes, and put() returns before they are durable", func(t *testing.T, w *world) {
		o := w.object()
		o.must(func(_ context.Context, th *thing) error {
			err := actor.Put(th.Storage(), "k", 1)
			wantValue(t, th, "k", 1)
			want(t, "listed", list(t, th, actor.ListOptions{}), []string{"k"})
			want(t, "stored", o.shown() != nil, false)
			return err
		})
		w.step(o)
		o.must(func(_ context.Context, th *thing) error { wantValue(t, th, "k", 1); return nil })
	}},
	{"a transaction is never seen in part", func(t *testing.T, w *world) {
		o := w.object()
		for i := range 3 {
			writes := o.start(func(_ context.Context, th *thing) error {
				return th.Storage().Transaction(func(tx *actor.Storage) error {
					return errors.Join(actor.Put(tx, "a", i), actor.Put(tx, "b", i))
				})
			})
			reads := o.start(func(_ context.Context, th *thing) error {
				got, err := actor.GetMany[int](th.Storage(), "a", "b")
				want(t, "b", got["b"], got["a"])
				return err
			})
			if err := errors.Join(<-writes, <-reads); err != nil {
				t.Error(err)
			}
			w.step(o)
		}
	}},
}}
