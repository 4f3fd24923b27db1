package conformance_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/holdfast-io/holdfast/actor"
	"github.com/holdfast-io/holdfast/fault"
)

var kv = section{"Storage", []fact{
	{"get(key) returns the value, or none", func(t *testing.T, w *world) {
		o := w.object()
		o.must(put("k", 1))
		w.step(o)
		o.must(func(_ context.Context, th *thing) error {
			wantValue(t, th, "k", 1)
			wantNone(t, th, "other")
			return nil
		})
	}},
	{"get(keys) leaves out what is not there, and takes 128 keys", func(t *testing.T, w *world) {
		o := w.object()
		o.must(func(_ context.Context, th *thing) error {
			return actor.PutMany(th.Storage(), map[string]int{"a": 1, "b": 2})
		})
		w.step(o)
		o.must(func(_ context.Context, th *thing) error {
			got, err := actor.GetMany[int](th.Storage(), "b", "none", "a")
			want(t, "values", got, map[string]int{"a": 1, "b": 2})
			_, most := th.Storage().GetMany(keys(128)...)
			_, over := th.Storage().GetMany(keys(129)...)
			wantFault(t, over, fault.InvalidArgument, "Maximum number of key value pairs is 128. 129 pairs were provided.")
			return errors.Join(err, most)
		})
	}},
	{"put(key, value): a key has at most 2,048 bytes, a value 2 MiB", func(t *testing.T, w *world) {
		o := w.object()
		long, large := strings.Repeat("k", 2048), make([]byte, 2<<20-5) // And the head of a byte string.
		o.must(func(_ context.Context, th *thing) error {
			wantFault(t, actor.Put(th.Storage(), long+"k", 1), fault.InvalidKey, "Keys cannot be larger than 2048 bytes. A key of size 2049 was provided")
			wantFault(t, actor.Put(th.Storage(), "large", append(large, 0)), fault.ValueTooLarge, "Values cannot be larger than 2097152 bytes.")
			return actor.Put(th.Storage(), long, large)
		})
		w.step(o)
		o.must(func(_ context.Context, th *thing) error {
			got, _, err := actor.Get[[]byte](th.Storage(), long)
			want(t, "bytes", len(got), len(large))
			wantNone(t, th, "large")
			return err
		})
	}},
	{"put(entries) is atomic, and takes 128 pairs", func(t *testing.T, w *world) {
		o := w.object()
		entries := make(map[string]int)
		for _, key := range keys(128) {
			entries[key] = 1
		}
		o.must(func(_ context.Context, th *thing) error {
			wantFault(t, actor.PutMany(th.Storage(), map[string]int{"a": 1, strings.Repeat("k", 2049): 1}), fault.InvalidKey, "2048")
			wantNone(t, th, "a")
			over := actor.PutMany(th.Storage(), map[string]int{"129": 1, "k": 1})
			err := actor.PutMany(th.Storage(), entries)
			entries["one more"] = 1
			wantFault(t, actor.PutMany(th.Storage(), entries), fault.InvalidArgument, "128")
			return errors.Join(over, err)
		})
		w.step(o)
		o.must(func(_ context.Context, th *thing) error {
			wantNone(t, th, "a", "one more")
			want(t, "keys", len(list(t, th, actor.ListOptions{})), 128+2)
			return nil
		})
	}},
	{"delete(key) says whether it was there, delete(keys) how many were", func(t *testing.T, w *world) {
		o := w.object()
		o.must(func(_ context.Context, th *thing) error {
			return actor.PutMany(th.Storage(), map[string]int{"a": 1, "b": 2, "c": 3})
		})
		w.step(o)
		o.must(func(_ context.Context, th *thing) error {
			for _, was := range []bool{true, false} {
				got, err := th.Storage().Delete("a")
				want(t, "it was there", got, was)
				if err != nil {
					return err
				}
			}
			n, err := th.Storage().DeleteMany("a", "b", "b", "none")
			want(t, "so many were there", n, 1)
			_, over := th.Storage().DeleteMany(keys(129)...)
			wantFault(t, over, fault.InvalidArgument, "128")
			return err
		})
		w.step(o)
		o.must(func(_ context.Context, th *thing) error {
			want(t, "keys", list(t, th, actor.ListOptions{}), []string{"c"})
			return nil
		})
	}},
	{"list(): start, startAfter, end, prefix, reverse, limit", func(t *testing.T, w *world) {
		o := w.object()
		o.must(func(_ context.Context, th *thing) error {
			for _, key := range []string{"a", "b1", "b2", "b3", "c"} {
				if err := actor.Put(th.Storage(), key, 1); err != nil {
					return err
				}
			}
			return nil
		})
		for _, tt := range []struct {
			o    actor.ListOptions
			want string
		}{
			{actor.ListOptions{}, "a b1 b2 b3 c"},
			{actor.ListOptions{Start: "b2"}, "b2 b3 c"},
			{actor.ListOptions{StartAfter: "b2"}, "b3 c"},
			{actor.ListOptions{End: "b2"}, "a b1"},
			{actor.ListOptions{Prefix: "b"}, "b1 b2 b3"},
			{actor.ListOptions{Prefix: "b", Start: "b2", End: "z"}, "b2 b3"},
			{actor.ListOptions{Prefix: "b", StartAfter: "a", End: "b3"}, "b1 b2"},
			{actor.ListOptions{Reverse: true}, "c b3 b2 b1 a"},
			{actor.ListOptions{Start: "b1", End: "b3", Reverse: true}, "b2 b1"},
			{actor.ListOptions{Limit: 2}, "a b1"},
			{actor.ListOptions{Reverse: true, Limit: 2}, "c b3"},
			{actor.ListOptions{Start: "c", End: "a"}, ""},
			{actor.ListOptions{Start: "b", End: "b"}, ""},
			{actor.ListOptions{Prefix: "d"}, ""},
		} {
			o.must(func(_ context.Context, th *thing) error {
				want(t, fmt.Sprintf("%+v", tt.o), strings.Join(list(t, th, tt.o), " "), tt.want)
				return nil
			})
		}
		w.step(o)
		o.must(func(_ context.Context, th *thing) error {
			for _, err := range th.Storage().List(actor.ListOptions{Limit: -1}) {
				wantFault(t, err, fault.InvalidArgument, "List limit must be positive.")
			}
			for _, err := range th.Storage().List(actor.ListOptions{Start: "a", StartAfter: "a"}) {
				wantFault(t, err, fault.InvalidArgument, "list() cannot be called with both start and startAfter values.")
			}
			want(t, "after a step", strings.Join(list(t, th, actor.ListOptions{}), " "), "a b1 b2 b3 c")
			return nil
		})
	}},
	{"keys are ordered by their bytes; the empty key and NUL are allowed", func(t *testing.T, w *world) {
		o := w.object()
		ordered := []string{"", "\x00", "\x00a", "A", "a", "a\x00", "aa", "é", "\uFFFD", "😀"}
		o.must(func(_ context.Context, th *thing) error {
			for _, key := range slices.Backward(ordered) {
				if err := actor.Put(th.Storage(), key, key); err != nil {
					return err
				}
			}
			want(t, "before the commit", list(t, th, actor.ListOptions{}), ordered)
			return nil
		})
		w.step(o)
		o.must(func(_ context.Context, th *thing) error {
			want(t, "after it", list(t, th, actor.ListOptions{}), ordered)
			for _, key := range ordered {
				got, _, err := actor.Get[string](th.Storage(), key)
				want(t, "the value", got, key)
				if err != nil {
					return err
				}
			}
			return nil
		})
	}},
	{"deleteAll() deletes everything at once, what the event wrote before and the alarm too", func(t *testing.T, w *world) {
		o := w.object()
		o.must(func(_ context.Context, th *thing) error {
			return errors.Join(actor.Put(th.Storage(), "old", 1), th.SetAlarm(time.Now().Add(time.Hour)))
		})
		w.step(o)
		o.must(func(_ context.Context, th *thing) error {
			err := errors.Join(actor.Put(th.Storage(), "new", 1), th.Storage().DeleteAll())
			wantNone(t, th, "old", "new")
			wantNoAlarm(t, th)
			return err
		})
		w.step(o)
		if o.shown() != nil {
			t.Error("the object exists")
		}
		o.must(func(_ context.Context, th *thing) error {
			wantNone(t, th, "old", "new")
			wantNoAlarm(t, th)
			return actor.Put(th.Storage(), "new", 2)
		})
		w.step(o)
		o.must(func(_ context.Context, th *thing) error { wantValue(t, th, "new", 2); return nil })
	}},
	{"deleteAll() is refused within a transaction", func(t *testing.T, w *world) {
		o := w.object()
		o.must(put("k", 1))
		w.step(o)
		o.must(func(_ context.Context, th *thing) error {
			return th.Storage().Transaction(func(tx *actor.Storage) error {
				if err := tx.DeleteAll(); !errors.Is(err, actor.ErrInTransaction) {
					t.Errorf("got %v", err)
				}
				wantValue(t, th, "k", 1)
				return nil
			})
		})
	}},
	{"transaction(): commits, or takes back by an error, which is passed on and resets nothing", func(t *testing.T, w *world) {
		o := w.object()
		o.must(func(_ context.Context, th *thing) error {
			th.memory = append(th.memory, "m")
			if err := th.Storage().Transaction(func(tx *actor.Storage) error { return actor.Put(tx, "a", 1) }); err != nil {
				return err
			}
			for _, end := range []func() error{func() error { return errMine }, func() error { panic(errMine) }} {
				err := caught(func() error {
					return th.Storage().Transaction(func(tx *actor.Storage) error {
						_, _ = tx.Delete("a")
						_ = actor.Put(tx, "b", 1)
						return end()
					})
				})
				if !errors.Is(err, errMine) {
					t.Errorf("the transaction returned %v", err)
				}
				wantValue(t, th, "a", 1)
				wantNone(t, th, "b")
			}
			return nil
		})
		o.must(func(_ context.Context, th *thing) error { want(t, "the memory", th.memory, []string{"m"}); return nil })
		w.step(o)
		o.must(func(_ context.Context, th *thing) error {
			wantValue(t, th, "a", 1)
			wantNone(t, th, "b")
			return nil
		})
	}},
	{"a transaction that is over can't be used", func(t *testing.T, w *world) {
		o := w.object()
		o.must(func(_ context.Context, th *thing) error {
			var escaped *actor.Storage
			for _, end := range []error{nil, errMine} {
				_ = th.Storage().Transaction(func(tx *actor.Storage) error { escaped = tx; return end })
				if err := actor.Put(escaped, "k", 1); !errors.Is(err, actor.ErrTransactionEnded) {
					t.Errorf("put: %v", err)
				}
				if _, _, err := escaped.Get("k"); !errors.Is(err, actor.ErrTransactionEnded) {
					t.Errorf("get: %v", err)
				}
			}
			return nil
		})
		w.step(o)
		o.must(func(_ context.Context, th *thing) error { wantNone(t, th, "k"); return nil })
	}},
	{"transactions nest, and what is written by way of the storage itself belongs to them", func(t *testing.T, w *world) {
		o := w.object()
		o.must(func(_ context.Context, th *thing) error {
			s := th.Storage()
			kept := s.Transaction(func(tx *actor.Storage) error {
				inner := tx.Transaction(func(*actor.Storage) error { return errors.Join(actor.Put(s, "inner", 1), errMine) })
				if !errors.Is(inner, errMine) {
					t.Errorf("the inner one: %v", inner)
				}
				return errors.Join(actor.Put(s, "outer", 1), tx.Transaction(func(tx *actor.Storage) error { return actor.Put(tx, "second", 1) }))
			})
			undone := s.Transaction(func(tx *actor.Storage) error {
				return errors.Join(tx.Transaction(func(*actor.Storage) error { return actor.Put(s, "undone", 1) }), errMine)
			})
			if !errors.Is(undone, errMine) {
				t.Errorf("the outer one: %v", undone)
			}
			return kept
		})
		w.step(o)
		o.must(func(_ context.Context, th *thing) error {
			want(t, "keys", list(t, th, actor.ListOptions{}), []string{"outer", "second"})
			return nil
		})
	}},
	{"a transaction lets no other event in: what would is refused", func(t *testing.T, w *world) {
		o := w.object()
		o.must(func(ctx context.Context, th *thing) error {
			return th.Storage().Transaction(func(tx *actor.Storage) error {
				for what, err := range map[string]error{
					"Yield":   th.Yield(ctx, func(context.Context) error { return nil }),
					"Confirm": th.Confirm(ctx),
					"Sync":    tx.Sync(ctx),
					"Wait":    th.Wait(ctx, func() bool { return true }),
				} {
					if !errors.Is(err, actor.ErrInTransaction) {
						t.Errorf("%s: %v", what, err)
					}
				}
				return nil
			})
		})
	}},
	{"sync() returns when what was written before it is durable, which stays whatever comes", func(t *testing.T, w *world) {
		o := w.object()
		err := o.do(func(ctx context.Context, th *thing) error {
			_ = actor.Put(th.Storage(), "a", 1)
			_ = actor.Put(th.Storage().Unconfirmed(), "b", 2)
			if err := th.Storage().Sync(ctx); err != nil {
				return err
			}
			stored := o.stored()
			want(t, "stored", stored, map[string]string{"a": "1", "b": "2"})
			_ = actor.Put(th.Storage(), "never", 1)
			th.Abort("")
			return nil
		})
		wantFault(t, err, fault.ObjectReset, "")
		w.step(o)
		o.must(func(_ context.Context, th *thing) error {
			want(t, "keys", list(t, th, actor.ListOptions{}), []string{"a", "b"})
			return nil
		})
	}},
	{"allowUnconfirmed writes keep their order with the others, and stay", func(t *testing.T, w *world) {
		o := w.object()
		for i := range 3 {
			o.must(func(_ context.Context, th *thing) error {
				s := th.Storage()
				return errors.Join(actor.Put(s.Unconfirmed(), "k", 0), actor.Put(s, "k", i), actor.Put(s.Unconfirmed(), "u", i))
			})
			w.step(o)
			o.must(func(_ context.Context, th *thing) error {
				wantValue(t, th, "k", i)
				wantValue(t, th, "u", i)
				return nil
			})
		}
	}},
	{"values keep their type and every bit", func(t *testing.T, w *world) {
		type record struct {
			Text  string
			Deep  map[string][]int64
			Bytes []byte
			None  *int
		}
		o := w.object()
		huge, _ := new(big.Int).SetString("123456789012345678901234567890", 10)
		when := time.Date(2026, 2, 24, 1, 2, 3, 456_000_000, time.UTC)
		kept := record{"é\x00", map[string][]int64{"a": {math.MinInt64, math.MaxInt64}, "": nil}, []byte{0, 255}, nil}
		o.must(func(_ context.Context, th *thing) error {
			s := th.Storage()
			return errors.Join(
				actor.Put(s, "true", true), actor.Put(s, "string", "é\x00"), actor.Put(s, "uint", uint64(math.MaxUint64)),
				actor.Put(s, "-0", math.Copysign(0, -1)), actor.Put(s, "NaN", math.NaN()), actor.Put(s, "inf", math.Inf(-1)), actor.Put(s, "pi", math.Pi),
				actor.Put(s, "big", huge), actor.Put(s, "time", when), actor.Put(s, "record", kept), actor.Put(s, "message", wrapperspb.String("m")),
			)
		})
		w.step(o)
		o.must(func(_ context.Context, th *thing) error {
			wantStored(t, th, "true", true)
			wantStored(t, th, "string", "é\x00")
			wantStored(t, th, "uint", uint64(math.MaxUint64))
			wantStored(t, th, "inf", math.Inf(-1))
			wantStored(t, th, "pi", math.Pi)
			wantStored(t, th, "record", kept)
			zero, _, err := actor.Get[float64](th.Storage(), "-0")
			want(t, "the sign of -0", math.Signbit(zero), true)
			nan, _, err2 := actor.Get[float64](th.Storage(), "NaN")
			want(t, "NaN is NaN", math.IsNaN(nan), true)
			number, _, err3 := actor.Get[*big.Int](th.Storage(), "big")
			want(t, "the large number", number.String(), huge.String())
			at, _, err4 := actor.Get[time.Time](th.Storage(), "time")
			want(t, "the time", at.UnixMilli(), when.UnixMilli())
			message, _, err5 := actor.Get[*wrapperspb.StringValue](th.Storage(), "message")
			want(t, "the message", message.GetValue(), "m")
			return errors.Join(err, err2, err3, err4, err5)
		})
	}},
	{"an object that has written more than may be unflushed waits with its next event, and loses nothing", func(t *testing.T, w *world) {
		o := w.objectOf(narrow)
		for i := range 20 {
			o.must(func(_ context.Context, th *thing) error {
				return actor.Put(th.Storage(), fmt.Sprintf("%02d", i), make([]byte, 2*unflushedMax))
			})
		}
		w.step(o)
		o.must(func(_ context.Context, th *thing) error {
			want(t, "keys", len(list(t, th, actor.ListOptions{})), 20)
			return nil
		})
	}},
	{"an object exists while it has data or an alarm, and a call that writes nothing leaves nothing", func(t *testing.T, w *world) {
		o := w.object()
		o.must(nothing)
		want(t, "after a read", o.shown() != nil, false)
		o.must(put("k", 1))
		want(t, "after a write", o.shown() != nil, true)
		w.step(o)
		o.must(func(_ context.Context, th *thing) error { _, err := th.Storage().Delete("k"); return err })
		want(t, "after the last key went", o.shown() != nil, false)
		o.must(func(_ context.Context, th *thing) error { return th.SetAlarm(time.Now().Add(time.Hour)) })
		w.step(o)
		want(t, "with an alarm", o.shown() != nil, true)
	}},
}}

func keys(n int) []string {
	out := make([]string, n)
	for i := range out {
		out[i] = fmt.Sprintf("%03d", i)
	}
	return out
}

func list(t *testing.T, o *thing, options actor.ListOptions) []string {
	t.Helper()
	var out []string
	for entry, err := range o.Storage().List(options) {
		if err != nil {
			t.Error(err)
			break
		}
		out = append(out, entry.Key)
	}
	return out
}

func wantStored[T any](t *testing.T, o *thing, key string, wanted T) {
	t.Helper()
	got, ok, err := actor.Get[T](o.Storage(), key)
	if err != nil || !ok {
		t.Errorf("%q: %v, %v", key, ok, err)
	}
	want(t, key, got, wanted)
}

// caught is what fn returned, or panicked with.
func caught(fn func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err, _ = p.(error)
		}
	}()
	return fn()
}
