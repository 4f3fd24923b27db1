package conformance_test

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/holdfast-io/holdfast/actor"
	"github.com/holdfast-io/holdfast/fault"
	"github.com/holdfast-io/holdfast/storage"
)

var limits = section{"Limits", []fact{
	{"the limits are those of Durable Objects, or wider", func(t *testing.T, _ *world) {
		for what, limit := range map[string]struct{ got, least int }{
			"bytes of a key":               {storage.MaxKeyBytes, 2048},
			"bytes of a value":             {storage.MaxValueBytes, 2 << 20},
			"keys of one call":             {storage.MaxCallKeys, 128},
			"bytes of a reply":             {actor.ReplyBytesMax, 32 << 20},
			"depth of blockConcurrency":    {actor.BlockDepthMax, 64},
			"seconds of blockConcurrency":  {int(actor.BlockTimeMax.Seconds()), 30},
			"minutes of waitUntil":         {int(actor.BackgroundTimeMax.Minutes()), 15},
			"minutes of an alarm":          {int(actor.DefaultAlarmRunLimit.Minutes()), 15},
			"seconds of a call, by itself": {int(actor.OutgoingTimeMax.Seconds()), 30},
		} {
			if limit.got < limit.least {
				t.Errorf("%s: %d, want at least %d", what, limit.got, limit.least)
			}
		}
	}},
	{"an event writes at most 10,000 times and 16 MiB: what is over it is refused, and what was before stays", func(t *testing.T, w *world) {
		o := w.object()
		o.must(func(_ context.Context, th *thing) error {
			for i := range storage.MaxSegmentWrites {
				if i == storage.MaxSegmentWrites-1 { // Of several at once nothing is written.
					wantFault(t, actor.PutMany(th.Storage(), map[string]int{"over1": 1, "over2": 2}), fault.WriteSetTooLarge, "")
				}
				if err := actor.Put(th.Storage(), "k", i); err != nil {
					return fmt.Errorf("write %d: %w", i, err)
				}
			}
			wantFault(t, actor.Put(th.Storage(), "k", -1), fault.WriteSetTooLarge, "")
			return nil
		})
		w.step(o)
		large := make([]byte, 1<<20)
		o.must(func(_ context.Context, th *thing) error {
			wantValue(t, th, "k", storage.MaxSegmentWrites-1)
			want(t, "keys", len(list(t, th, actor.ListOptions{})), 1)
			for i := range 15 {
				if err := actor.Put(th.Storage(), fmt.Sprint("large", i), large); err != nil {
					return err
				}
			}
			wantFault(t, actor.Put(th.Storage(), "over", large), fault.WriteSetTooLarge, "")
			return nil
		})
		w.step(o)
		o.must(func(_ context.Context, th *thing) error {
			want(t, "keys", len(list(t, th, actor.ListOptions{Prefix: "large"})), 15)
			return nil
		})
	}},
	{"a reply has at most 32 MiB", func(t *testing.T, w *world) {
		o := w.object()
		err := o.do(func(_ context.Context, th *thing) error {
			th.reply = make([]byte, actor.ReplyBytesMax)
			return actor.Put(th.Storage(), "k", 1)
		})
		if status.Code(err) != codes.Internal || !strings.Contains(err.Error(), strconv.Itoa(actor.ReplyBytesMax)) {
			t.Errorf("got %v", err)
		}
		w.step(o)
		o.must(func(_ context.Context, th *thing) error { // It has run.
			th.reply = nil
			wantValue(t, th, "k", 1)
			return nil
		})
	}},
	{"an object may have 64 functions of waitUntil() at a time", func(t *testing.T, w *world) {
		o := w.object()
		end := make(chan struct{})
		var over error
		o.must(func(ctx context.Context, th *thing) error {
			for range actor.BackgroundMax {
				if err := th.WaitUntil(ctx, func(context.Context) error { <-end; return nil }); err != nil {
					return err
				}
			}
			over = th.WaitUntil(ctx, func(context.Context) error { return nil })
			return nil
		})
		close(end)
		wantFault(t, over, fault.Overloaded, "64")
	}},
	{"calls of objects go 64 deep", func(t *testing.T, w *world) {
		chain := make([]*object, actor.ChainMax+1)
		for i := range chain {
			chain[i] = w.object()
		}
		deepest := 0
		var deeper func(i int) act
		deeper = func(i int) act {
			return func(ctx context.Context, th *thing) error {
				deepest = i
				return call(chain[i], deeper(i+1))(ctx, th)
			}
		}
		err := chain[0].do(deeper(1))
		wantFault(t, err, fault.CallCycle, "")
		want(t, "objects in the chain", deepest, actor.ChainMax)
	}},
	{"a handler that fails because of a limit says which", func(t *testing.T, w *world) {
		o := w.object()
		err := o.do(func(_ context.Context, th *thing) error {
			return errors.Join(actor.Put(th.Storage(), strings.Repeat("k", 3000), 1))
		})
		wantFault(t, err, fault.InvalidKey, "A key of size 3000 was provided")
	}},
}}
