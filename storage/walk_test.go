package storage_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/holdfast-io/holdfast/placement"
	"github.com/holdfast-io/holdfast/storage"
)

// A walk shows the objects of one class in one shard, each with what it has and nothing of its neighbours,
// as they were when it began.
func TestWalk(t *testing.T) {
	t.Parallel()
	s := openMem(t, vfs.NewMem())
	defer func() { closeStore(t, s) }()
	fences := storage.NewFenceCache(s, 10)
	commits := uint64(0)
	write := func(shard placement.ShardID, class string, id byte, ops ...storage.Op) {
		t.Helper()
		commits++
		object := storage.ObjectRef{Class: class, ID: ref(id).ID}
		fence, err := fences.Load(shard, object)
		if err != nil {
			t.Fatal(err)
		}
		b := s.NewBatch()
		defer func() { _ = b.Close() }()
		applied, why, err := storage.ApplySegment(b, fence, shard, 1, &storage.Segment{
			Object: object, Term: 1, Incarnation: commits, Sequence: 1, CommitSequence: commits, Time: 100 + commits, Ops: ops,
		})
		if err != nil || !applied {
			t.Fatal(why, err)
		}
		if err := b.Commit(true); err != nil {
			t.Fatal(err)
		}
	}
	encoded := func(raw []byte, err error) []byte {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	record := func(name string) storage.Op {
		r := storage.Record{Class: "C"}
		if name != "" {
			r.Name = &name
		}
		return storage.Op{Op: storage.OpSet, Kind: storage.KindRecord, Value: encoded(r.Encode())}
	}
	kv := func(key string) storage.Op {
		return storage.Op{Op: storage.OpSet, Kind: storage.KindKV, Key: []byte(key), Value: []byte("v" + key)}
	}
	alarm := storage.Op{Op: storage.OpSet, Kind: storage.KindAlarm, Value: encoded(storage.Alarm{Due: 9, Scheduled: 7}.Encode())}
	due := storage.Op{Op: storage.OpSet, Kind: storage.KindAlarmDue, Key: storage.AlarmDueKey(9)}
	dead := storage.Op{Op: storage.OpSet, Kind: storage.KindDeadAlarm, Value: encoded(storage.DeadAlarm{Scheduled: 3, Died: 4}.Encode())}
	request := storage.Op{Op: storage.OpSet, Kind: storage.KindRequest, Key: []byte{0, 0}, Value: []byte("request")}
	write(1, "C", 1, record("one"), request, kv(""), kv("a"), kv("b"), alarm, due)
	write(1, "C", 2, record(""), dead)
	write(1, "C", 3, record("three"), kv("c"))
	write(1, "B", 1, record("b"), kv("x"))
	write(1, "CC", 1, record("cc"), kv("x"))
	write(2, "C", 1, record("elsewhere"), kv("x"))

	show := func(w *storage.Walk, read bool) string {
		t.Helper()
		var out strings.Builder
		for w.Next() {
			o := w.Object()
			name := "-"
			if o.Record.Name != nil {
				name = *o.Record.Name
			}
			_, _ = fmt.Fprintf(&out, "%x %s @%d/%d", o.ID[:1], name, o.Fence.CommitSequence, o.Fence.Time)
			if o.Alarm != nil {
				_, _ = fmt.Fprintf(&out, " alarm %d", o.Alarm.Due)
			}
			if o.Dead != nil {
				_, _ = fmt.Fprintf(&out, " dead %d", o.Dead.Died)
			}
			for read && w.NextEntry() {
				key, value := w.Entry()
				_, _ = fmt.Fprintf(&out, " %s=%s", key, value)
			}
			if read && w.NextEntry() {
				t.Error("an entry behind the last")
			}
			out.WriteString("\n")
		}
		if err := w.Err(); err != nil {
			t.Error(err)
		}
		if err := w.Close(); err != nil {
			t.Error(err)
		}
		return out.String()
	}
	must := func(w *storage.Walk, err error) *storage.Walk {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return w
	}
	first := ref(1).ID
	all := must(s.Walk(1, "C", nil))
	again := must(s.Walk(1, "C", nil))
	behind := must(s.Walk(1, "C", &first))
	write(1, "C", 1, kv("late"), storage.Op{Op: storage.OpDelete, Kind: storage.KindAlarm}, storage.Op{Op: storage.OpDelete, Kind: storage.KindKV, Key: []byte("a")})
	write(1, "C", 3, storage.Op{Op: storage.OpDelete, Kind: storage.KindRecord}, storage.Op{Op: storage.OpDeleteRange, Kind: storage.KindKV})
	id := func(n byte) string { object := ref(n); return fmt.Sprintf("%x", object.ID[:1]) }
	one := id(1) + " one @1/101 alarm 9"
	rest := id(2) + " - @2/102 dead 4\n" + id(3) + " three @3/103"
	for _, tt := range []struct {
		what, got, want string
	}{
		{"all", show(all, true), one + " =v a=va b=vb\n" + rest + " c=vc\n"},
		{"without their entries", show(again, false), one + "\n" + rest + "\n"},
		{"behind the first", show(behind, true), rest + " c=vc\n"},
		{"one, as it is now", show(must(s.WalkOne(1, storage.ObjectRef{Class: "C", ID: first})), true), id(1) + " one @7/107 =v b=vb late=vlate\n"},
		{"one that is gone", show(must(s.WalkOne(1, storage.ObjectRef{Class: "C", ID: ref(3).ID})), true), ""},
		{"another class", show(must(s.Walk(1, "D", nil)), true), ""},
	} {
		if tt.got != tt.want {
			t.Errorf("%s: got\n%s\nwant\n%s", tt.what, tt.got, tt.want)
		}
	}
}
