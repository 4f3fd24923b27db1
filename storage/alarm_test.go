package storage_test

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-io/holdfast/placement"
	"github.com/holdfast-io/holdfast/storage"
)

// applyOps applies a segment of a new incarnation of an object.
func applyOps(t *testing.T, s *storage.Store, shard placement.ShardID, ref storage.ObjectRef, ops ...storage.Op) {
	t.Helper()
	incarnation := uint64(1)
	raw, ok, err := s.Object(shard, ref).Get(storage.KindFence, nil)
	if ok {
		var fence storage.Fence
		fence, err = storage.DecodeFence(raw)
		incarnation += fence.Incarnation
	}
	if err != nil {
		t.Fatal(err)
	}
	b := s.NewBatch()
	seg := &storage.Segment{Object: ref, Term: 1, Incarnation: incarnation, Sequence: 1, CommitSequence: 1, Ops: ops}
	fence, err := storage.NewFenceCache(s, 1).Load(shard, ref)
	if err != nil {
		t.Fatal(err)
	}
	applied, why, err := storage.ApplySegment(b, fence, shard, 1, seg)
	if err != nil || !applied {
		t.Fatalf("apply: %v, %s", err, why)
	}
	if err := errors.Join(b.Commit(true), b.Close()); err != nil {
		t.Fatal(err)
	}
}

func dueOp(op storage.OpKind, due int64) storage.Op {
	return storage.Op{Op: op, Kind: storage.KindAlarmDue, Key: storage.AlarmDueKey(due)}
}

func TestPendingAlarmsComeInTheOrderOfTheirTimes(t *testing.T) {
	t.Parallel()
	s := openMem(t, vfs.NewMem())
	defer closeStore(t, s)
	at := func(due int64, n byte) storage.AlarmPosition {
		return storage.AlarmPosition{Due: due, ID: placement.ObjectID{n}}
	}
	for _, a := range []storage.AlarmPosition{at(300, 1), at(100, 9), at(200, 5), at(200, 4), at(math.MaxInt64, 7), at(255, 3), at(256, 2)} {
		applyOps(t, s, 3, storage.ObjectRef{Class: "C", ID: a.ID}, dueOp(storage.OpSet, a.Due))
	}
	// Those of others, whose keys lie next to them.
	applyOps(t, s, 3, storage.ObjectRef{Class: "B", ID: placement.ObjectID{1}}, dueOp(storage.OpSet, 1))
	applyOps(t, s, 3, storage.ObjectRef{Class: "C2", ID: placement.ObjectID{1}}, dueOp(storage.OpSet, 1))
	applyOps(t, s, 4, storage.ObjectRef{Class: "C", ID: placement.ObjectID{1}}, dueOp(storage.OpSet, 1))
	applyOps(t, s, 3, storage.ObjectRef{Class: "C", ID: placement.ObjectID{5}}, dueOp(storage.OpDelete, 200))

	for _, tt := range []struct {
		from  storage.AlarmPosition
		until int64
		limit int
		want  []storage.AlarmPosition
	}{
		{at(0, 0), 256, 9, []storage.AlarmPosition{at(100, 9), at(200, 4), at(255, 3), at(256, 2), at(300, 1)}},
		{at(0, 0), 256, 2, []storage.AlarmPosition{at(100, 9), at(200, 4), at(255, 3)}},
		{at(0, 0), 50, 9, []storage.AlarmPosition{at(100, 9)}},
		{at(200, 4), 255, 9, []storage.AlarmPosition{at(200, 4), at(255, 3), at(256, 2)}},
		{at(200, 4).Next(), 250, 9, []storage.AlarmPosition{at(255, 3)}},
		{at(301, 0), math.MaxInt64, 9, []storage.AlarmPosition{at(math.MaxInt64, 7)}},
		{at(math.MaxInt64, 8), math.MaxInt64, 9, nil},
	} {
		got, err := s.PendingAlarms(3, "C", tt.from, tt.until, tt.limit)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("from %v until %d, %d of them (-want +got):\n%s", tt.from, tt.until, tt.limit, diff)
		}
	}
	classes, err := s.AlarmClasses(3)
	if err != nil || !slices.Equal(classes, []string{"B", "C", "C2"}) {
		t.Errorf("classes with alarms: %q, %v", classes, err)
	}

	b := s.NewBatch()
	b.DeleteRange(storage.AlarmSpan(3, "C"))
	if err := errors.Join(b.Commit(true), b.Close()); err != nil {
		t.Fatal(err)
	}
	if classes, err := s.AlarmClasses(3); err != nil || !slices.Equal(classes, []string{"B", "C2"}) {
		t.Errorf("classes with alarms, without C: %q, %v", classes, err)
	}
}

func TestNextPositionFollowsAtOnce(t *testing.T) {
	t.Parallel()
	last := storage.AlarmPosition{Due: 7}
	for i := range last.ID {
		last.ID[i] = 0xff
	}
	if got, want := last.Next(), (storage.AlarmPosition{Due: 8}); got != want {
		t.Errorf("got %v, want %v", got, want)
	}
	if got, want := (storage.AlarmPosition{Due: 7}).Next(), (storage.AlarmPosition{Due: 7, ID: placement.ObjectID{31: 1}}); got != want {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestDeadAlarmsAreListed(t *testing.T) {
	t.Parallel()
	s := openMem(t, vfs.NewMem())
	defer closeStore(t, s)
	var want []storage.DeadAlarmListing
	for n := range byte(5) {
		d := storage.DeadAlarm{Scheduled: 1, Died: 2, Retries: uint32(n), Error: fmt.Sprint("e", n)}
		raw, err := d.Encode()
		if err != nil {
			t.Fatal(err)
		}
		applyOps(t, s, 3, ref(n), storage.Op{Op: storage.OpSet, Kind: storage.KindDeadAlarm, Value: raw}, dueOp(storage.OpSet, 9))
		want = append(want, storage.DeadAlarmListing{ID: ref(n).ID, Alarm: d})
		got, ok, err := s.Object(3, ref(n)).Get(storage.KindDeadAlarm, nil)
		if err != nil || !ok || string(got) != string(raw) {
			t.Errorf("by its object: %x, %v, %v", got, ok, err)
		}
	}
	first, err := s.DeadAlarms(3, "C", nil, 2)
	if err != nil {
		t.Fatal(err)
	}
	rest, err := s.DeadAlarms(3, "C", &first[1].ID, 10)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, append(first, rest...)); diff != "" {
		t.Errorf("dead alarms (-want +got):\n%s", diff)
	}
}

// What a snapshot copies and an ingest replaces has the alarms (P5).
func TestAlarmsAreOfTheShardsState(t *testing.T) {
	t.Parallel()
	s := openMem(t, vfs.NewMem())
	defer closeStore(t, s)
	applyOps(t, s, 3, ref(1), dueOp(storage.OpSet, 9), storage.Op{Op: storage.OpSet, Kind: storage.KindAlarm}, storage.Op{Op: storage.OpSet, Kind: storage.KindDeadAlarm})
	it, err := s.Iter(storage.StateSpan(3))
	if err != nil {
		t.Fatal(err)
	}
	defer it.Close()
	keys := 0
	for ok := it.First(); ok; ok = it.Next() {
		keys++
	}
	if keys != 4 { // and the fence
		t.Errorf("%d keys of the shard's state", keys)
	}
	objects, err := s.ListObjects(3, "C", nil, 10)
	if err != nil || len(objects) != 0 {
		t.Errorf("the index was taken for objects: %v, %v", objects, err)
	}
}

// A replica that applied what it does not know would differ from the others for ever.
func TestApplyStopsAtKeysItDoesNotKnow(t *testing.T) {
	t.Parallel()
	s := openMem(t, vfs.NewMem())
	defer closeStore(t, s)
	for _, op := range []storage.Op{
		{Op: storage.OpSet, Kind: 0},
		{Op: storage.OpSet, Kind: storage.KindFence},
		{Op: storage.OpSet, Kind: storage.KindPage},
		{Op: storage.OpSet, Kind: storage.KindUndo},
		{Op: storage.OpSet, Kind: 0xff},
		{Op: storage.OpSet, Kind: storage.KindRecord, Key: []byte("k")},
		{Op: storage.OpSet, Kind: storage.KindAlarm, Key: []byte("k")},
		{Op: storage.OpSet, Kind: storage.KindDeadAlarm, Key: []byte("k")},
		{Op: storage.OpSet, Kind: storage.KindAlarmDue},
		{Op: storage.OpSet, Kind: storage.KindAlarmDue, Key: make([]byte, 9)},
		{Op: storage.OpDeleteRange, Kind: storage.KindAlarmDue, Key: make([]byte, 8)},
		{Op: storage.OpDeleteRange, Kind: storage.KindRecord},
		{Op: storage.OpPatch, Kind: storage.KindKV},
		{Op: storage.OpSet, Kind: storage.KindRequest},
		{Op: storage.OpDeleteRange, Kind: storage.KindRequest, Key: make([]byte, 2)},
	} {
		b := s.NewBatch()
		seg := &storage.Segment{Object: ref(1), Term: 1, Incarnation: 1, Sequence: 1, Ops: []storage.Op{{Op: storage.OpSet, Kind: storage.KindKV}, op}}
		if _, _, err := storage.ApplySegment(b, &storage.ObjectFence{}, 3, 1, seg); !errors.Is(err, storage.ErrUnknownOp) || !b.Empty() {
			t.Errorf("operation %d on kind %#x with %d bytes: %v", op.Op, byte(op.Kind), len(op.Key), err)
		}
		_ = b.Close()
	}
}
