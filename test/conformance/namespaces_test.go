package conformance_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/holdfast-io/holdfast/actor"
	"github.com/holdfast-io/holdfast/fault"
	"github.com/holdfast-io/holdfast/placement"
	holdfastv1 "github.com/holdfast-io/holdfast/proto/holdfast/v1"
)

var namespaces = section{"Namespaces and ids", []fact{
	{"an id is derived from the class's key and the name", func(t *testing.T, w *world) {
		o := w.named(golden, "foo")
		for range 2 {
			o.must(func(_ context.Context, o *thing) error {
				want(t, "the id", o.ID().String(), "74725953383541014171c58fa21c0985643e35f9f5a8d9bd27d047be73499797")
				return nil
			})
			w.step(o)
		}
	}},
	{"an id is 64 hex digits, in lower case when written, in either when read", func(t *testing.T, w *world) {
		o := w.object()
		o.must(put("k", 1))
		w.step(o)
		ctx, method := w.byID(subject, o.id).on(t.Context(), "Act")
		md, _ := metadata.FromOutgoingContext(ctx)
		md.Set("holdfast-id", strings.ToUpper(o.id.String()))
		token := o.script.add(func(_ context.Context, th *thing) error {
			wantValue(t, th, "k", 1)
			want(t, "the id", th.ID().String(), o.id.String())
			return nil
		})
		if err := w.conns[0].Invoke(metadata.NewOutgoingContext(t.Context(), md), method, wrapperspb.Bytes([]byte(token)), &wrapperspb.BytesValue{}); err != nil {
			t.Error(err)
		}
	}},
	{"idFromName() is deterministic, and the empty name is one", func(t *testing.T, w *world) {
		for _, name := range []string{"", "a", strings.Repeat("long ", 10_000)} {
			o := w.named(subject, name)
			o.must(put("k", 1))
			w.step(o)
			w.named(subject, name).must(func(_ context.Context, th *thing) error {
				wantValue(t, th, "k", 1)
				want(t, "the id", th.ID(), placement.NewNamespace(subject).IDFromName(name))
				return nil
			})
		}
	}},
	{"newUniqueId() draws ids that nobody else has, of objects without a name", func(t *testing.T, w *world) {
		seen := make(map[placement.ObjectID]bool)
		for range 20 {
			id := uniqueID(t, w, subject)
			if seen[id] {
				t.Errorf("id %s came twice", id)
			}
			seen[id] = true
			o := w.byID(subject, id)
			o.must(put("k", 1))
			w.step(o)
			o.must(func(_ context.Context, th *thing) error {
				wantValue(t, th, "k", 1)
				want(t, "the id", th.ID(), id)
				wantName(t, th.State, "")
				return nil
			})
			if len(seen) == 3 {
				break
			}
		}
	}},
	{"idFromString() takes ids of the namespace only", func(t *testing.T, w *world) {
		for id, says := range map[string]string{
			"12":                    "invalid Durable Object ID: must be 64 hex digits",
			strings.Repeat("g", 64): "invalid Durable Object ID: must be 64 hex digits",
			strings.Repeat("0", 64): "the Durable Object ID is not valid for this namespace",
			placement.NewNamespace(mute).IDFromName("a").String(): "the Durable Object ID is not valid for this namespace",
		} {
			ctx := metadata.AppendToOutgoingContext(t.Context(), "holdfast-id", id)
			err := w.conns[0].Invoke(ctx, serviceOf(subject)+"/Act", wrapperspb.Bytes(nil), &wrapperspb.BytesValue{})
			wantFault(t, err, fault.InvalidID, says)
		}
	}},
	{"get() returns a stub at once, and the object comes to be with its first call", func(t *testing.T, w *world) {
		caller, callee := w.object(), w.object()
		caller.must(func(ctx context.Context, o *thing) error {
			stub := o.Object(callee.class, callee.name)
			want(t, "constructed by a stub", callee.constructed(), 0)
			callee.script.set(func(s *script) { s.acts["1"] = nothing })
			return stub.Invoke(ctx, serviceOf(callee.class)+"/Act", wrapperspb.String("1"), &wrapperspb.BytesValue{})
		})
		want(t, "constructed by a call", callee.constructed(), 1)
		if callee.shown() != nil {
			t.Error("it exists, though it has written nothing")
		}
	}},
	{"getByName(name) is get(idFromName(name))", func(t *testing.T, w *world) {
		o := w.object()
		o.must(put("k", 1))
		w.step(o)
		w.byID(o.class, o.id).must(func(_ context.Context, th *thing) error {
			wantValue(t, th, "k", 1)
			return nil
		})
	}},
	{"getExisting() fails for an object that does not exist", func(t *testing.T, w *world) {
		o := w.object()
		existing := *o
		existing.existing = true
		wantFault(t, existing.do(nothing), fault.UnknownObject, "does not exist")
		want(t, "constructed", o.constructed(), 0)
		o.must(put("k", 1))
		w.step(o)
		existing.must(nothing)
		o.must(func(_ context.Context, th *thing) error { return th.Storage().DeleteAll() })
		w.step(o)
		wantFault(t, existing.do(nothing), fault.UnknownObject, "does not exist")
	}},
	{"an object knows its name, in its constructor, its methods and its alarm", func(t *testing.T, w *world) {
		o := w.object()
		said := &log{}
		o.script.construct = func(s *actor.State) {
			name, ok := s.Name()
			said.sayf("constructor %q %v", name, ok)
		}
		o.script.alarm = func(_ context.Context, th *thing, _ actor.AlarmInfo) error {
			name, ok := th.Name()
			said.sayf("alarm %q %v", name, ok)
			return nil
		}
		o.must(func(_ context.Context, th *thing) error {
			wantName(t, th.State, o.name)
			return th.SetAlarm(time.Now())
		})
		w.wait("the alarm", func() (bool, string) { return said.count() >= 2, "" })
		w.step(o)
		o.must(nothing)
		for _, line := range said.all() {
			if !strings.HasSuffix(line, " true") || !strings.Contains(line, "object ") {
				t.Errorf("the name was not known: %s", line)
			}
		}
	}},
	{"the same name in another class is another object", func(t *testing.T, w *world) {
		o := w.object()
		o.must(put("k", 1))
		w.step(o)
		w.named(mute, o.name).must(func(_ context.Context, th *thing) error {
			wantNone(t, th, "k")
			return nil
		})
	}},
	{"an object reaches every class, its own too, without a binding (ctx.exports)", func(t *testing.T, w *world) {
		o := w.object()
		for _, class := range []string{subject, mute} {
			other := w.objectOf(class)
			o.must(call(other, put("k", 1)))
			w.step(o, other)
			o.must(call(other, func(_ context.Context, th *thing) error {
				wantValue(t, th, "k", 1)
				return nil
			}))
		}
	}},
}}

func uniqueID(t *testing.T, w *world, class string) placement.ObjectID {
	t.Helper()
	resp, err := holdfastv1.NewObjectsClient(w.conns[0]).NewUniqueID(t.Context(), &holdfastv1.NewUniqueIDRequest{Class: class})
	if err != nil {
		t.Fatal(err)
	}
	id, err := placement.NewNamespace(class).ParseID(resp.GetId())
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// What objects do in many tests.

func nothing(context.Context, *thing) error { return nil }

func put(key string, v any) act {
	return func(_ context.Context, o *thing) error { return actor.Put(o.Storage(), key, v) }
}

// call has one object call another, to have it do something.
func call(other *object, do act) act {
	return func(ctx context.Context, o *thing) error {
		token := other.script.add(do)
		defer other.script.remove(token)
		return o.Object(other.class, other.name).Invoke(ctx, serviceOf(other.class)+"/Act", wrapperspb.Bytes([]byte(token)), &wrapperspb.BytesValue{})
	}
}

// What tests want.

func wantName(t *testing.T, s *actor.State, name string) {
	t.Helper()
	if got, ok := s.Name(); got != name || ok != (name != "") {
		t.Errorf("the name: got %q, %v, want %q", got, ok, name)
	}
}

func wantValue(t *testing.T, o *thing, key string, wanted int) {
	t.Helper()
	got, ok, err := actor.Get[int](o.Storage(), key)
	if err != nil || !ok || got != wanted {
		t.Errorf("%q: got %d, %v, %v, want %d", key, got, ok, err, wanted)
	}
}

func wantNone(t *testing.T, o *thing, keys ...string) {
	t.Helper()
	for _, key := range keys {
		if raw, ok, err := o.Storage().Get(key); ok || err != nil {
			t.Errorf("%q: got %x, %v, want none", key, raw, err)
		}
	}
}

// wantFault wants a fault of the reason, with the text in it.
func wantFault(t *testing.T, err error, reason fault.Reason, says string) {
	t.Helper()
	if fault.ReasonOf(err) != reason || !strings.Contains(err.Error(), says) {
		t.Errorf("got %v, want %s with %q", err, reason, says)
	}
}

var errMine = errors.New("the handler's own")
