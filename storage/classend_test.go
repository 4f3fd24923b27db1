package storage_test

import (
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/holdfast-io/holdfast/placement"
	"github.com/holdfast-io/holdfast/storage"
)

// The end of a class takes everything of its objects in the shard, and whatever was proposed before or is
// after comes too late, also when the one who applies had its fences at hand.
func TestEndClass(t *testing.T) {
	t.Parallel()
	s := openMem(t, vfs.NewMem())
	defer func() { closeStore(t, s) }()
	fences := storage.NewFenceCache(s, 10)
	b := s.NewBatch()
	defer func() { _ = b.Close() }()
	commit := func() {
		t.Helper()
		if err := b.Commit(true); err != nil {
			t.Fatal(err)
		}
		b.Reset()
		fences.Trim()
	}
	write := func(shard placement.ShardID, class string, id byte, fence *storage.ObjectFence, seq uint64) bool {
		t.Helper()
		object := storage.ObjectRef{Class: class, ID: ref(id).ID}
		if fence == nil {
			var err error
			if fence, err = fences.Load(shard, object); err != nil {
				t.Fatal(err)
			}
		}
		record, err := storage.Record{Class: class}.Encode()
		if err != nil {
			t.Fatal(err)
		}
		applied, _, err := storage.ApplySegment(b, fence, shard, 1, &storage.Segment{
			Object: object, Term: 1, Incarnation: 1, Sequence: seq, Ops: []storage.Op{
				{Op: storage.OpSet, Kind: storage.KindRecord, Value: record},
				{Op: storage.OpSet, Kind: storage.KindKV, Key: []byte("k"), Value: []byte("v")},
				{Op: storage.OpSet, Kind: storage.KindAlarmDue, Key: storage.AlarmDueKey(5)},
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		return applied
	}
	count := func(shard placement.ShardID, class string) int {
		t.Helper()
		list, err := s.ListObjects(shard, class, nil, 100)
		if err != nil {
			t.Fatal(err)
		}
		alarms, err := s.PendingAlarms(shard, class, storage.AlarmPosition{}, 100, 100)
		if err != nil {
			t.Fatal(err)
		}
		if len(list) != len(alarms) {
			t.Errorf("%d objects of %s in shard %d, %d alarms", len(list), class, shard, len(alarms))
		}
		return len(list)
	}
	classes := []string{"B", "Bb", "A"} // B's range must not reach into its neighbours'.
	for _, class := range classes {
		for id := range byte(3) {
			write(1, class, id, nil, 1)
			write(2, class, id, nil, 1)
		}
	}
	commit()
	held, err := fences.Load(1, storage.ObjectRef{Class: "B", ID: ref(0).ID})
	if err != nil {
		t.Fatal(err)
	}
	b.EndClass(fences, 1, "B")
	if write(1, "B", 0, held, 2) || write(1, "B", 1, nil, 2) || write(1, "B", 9, nil, 1) {
		t.Error("a segment behind the end was applied")
	}
	commit()
	for range 2 {
		for _, class := range classes {
			want := 3
			if class == "B" {
				want = 0
			}
			if got := count(1, class); got != want {
				t.Errorf("%d objects of %s, want %d", got, class, want)
			}
			if got := count(2, class); got != 3 {
				t.Errorf("%d objects of %s in another shard, want 3", got, class)
			}
		}
		for shard, want := range map[placement.ShardID]bool{1: true, 2: false} {
			if ended, err := s.ClassEnded(shard, "B"); err != nil || ended != want {
				t.Errorf("B has ended in shard %d: %v, %v", shard, ended, err)
			}
		}
		if !write(1, "Bb", 0, nil, 2) || !write(2, "B", 0, nil, 2) {
			t.Error("others can't write any more")
		}
		fences = storage.NewFenceCache(s, 10) // After a restart.
		if write(1, "B", 0, nil, 1) {
			t.Error("a segment was applied after a restart")
		}
		b.Reset()
	}
	// It goes with a snapshot.
	lo, hi := storage.StateSpan(1)
	if key := string(storage.ClassEndKey(1, "B")); key < string(lo) || key >= string(hi) {
		t.Error("the end is not part of what a snapshot copies")
	}
}
