package replica

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/go-cmp/cmp"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/holdfast-io/holdfast/placement"
	"github.com/holdfast-io/holdfast/storage"
)

// acquisitions is an Owner that says when a shard is owned.
type acquisitions chan uint64

func (a acquisitions) Acquired(_ placement.ShardID, term uint64) {
	select {
	case a <- term:
	default: // Called from the loop, which must not wait.
	}
}
func (acquisitions) Pause(_ placement.ShardID, _ uint64, drained func()) { drained() }
func (acquisitions) Resume(placement.ShardID, uint64)                    {}
func (acquisitions) Lost(placement.ShardID, uint64)                      {}

type nobody struct{}

func (nobody) Send(placement.NodeID, []byte) bool { return false }
func (nobody) SendSnapshot(context.Context, placement.NodeID, []byte, func([]byte) (func() ([]byte, error), error)) error {
	return errors.New("nobody is there")
}

// One of three is left, with a log of which the end is not applied: what was written in it is kept,
// and a change of membership in it, which named the lost, does not take effect.
func TestRecoverFromTheWholeLog(t *testing.T) {
	t.Parallel()
	store, err := storage.Open("data", storage.Options{FS: vfs.NewMem(), CacheBytes: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	id := storage.Identity{ClusterID: "test", Node: 1, Shards: 1, Replicas: 3}
	if err := Bootstrap(store, id); err != nil {
		t.Fatal(err)
	}
	commit := func(fill func(b *storage.Batch)) {
		t.Helper()
		b := store.NewBatch()
		fill(b)
		if err := errors.Join(b.Commit(true), b.Close()); err != nil {
			t.Fatal(err)
		}
	}
	change, err := proto.Marshal(confChange([]replicaAddr{{ID: 9, Node: 4}}, confStep(raftpb.ConfChangeAddLearnerNode, 9)))
	if err != nil {
		t.Fatal(err)
	}
	seg := storage.Segment{
		Object: storage.ObjectRef{Class: "C", ID: placement.ObjectID{7}}, Term: 5, Incarnation: 1, Sequence: 1, CommitSequence: 1,
		Ops: []storage.Op{{Op: storage.OpSet, Kind: storage.KindKV, Key: []byte("k"), Value: []byte("v")}},
	}
	desc := descriptor{
		Generation: 3, NextID: 4, Replicas: []replicaAddr{{1, 1}, {2, 2}, {3, 3}}, Conf: confState{Voters: []uint64{1, 2, 3}},
	}
	commit(func(b *storage.Batch) {
		b.Set(storage.DescriptorKey(0), desc.encode())
		b.Set(storage.HardStateKey(0), encodeUints(6, 2, 10))
		b.Set(storage.LogKey(0, 11), appendLogEntry(nil, newEntry(raftpb.EntryConfChangeV2, 5, 11, change)))
		b.Set(storage.LogKey(0, 12), appendLogEntry(nil, newEntry(raftpb.EntryNormal, 5, 12, seg.AppendTo([]byte{payloadSegments}))))
	})
	want := []ShardState{{
		Replica: 1, Generation: 3, NextID: 4, Voters: []placement.NodeID{1, 2, 3}, Term: 6, LastTerm: 5, LastIndex: 12, Applied: 10,
	}}
	got, err := States(store)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("before (-want +got):\n%s", diff)
	}

	b := store.NewBatch()
	for _, r := range []Recovery{{0, 1, 103, 106}, {0, 104, 3, 106}, {0, 104, 103, 6}, {1, 104, 103, 106}} {
		if err := Recover(store, b, r); err == nil {
			t.Errorf("%+v was taken", r)
		}
	}
	if !b.Empty() {
		t.Error("what was refused has written something")
	}
	_ = b.Close()
	commit(func(b *storage.Batch) {
		if err := Recover(store, b, Recovery{Shard: 0, Replica: 104, Generation: 103, Term: 106}); err != nil {
			t.Fatal(err)
		}
	})
	acquired := make(acquisitions, 1)
	h, err := New(Config{Node: 1, Shards: 1, Store: store, Transport: nobody{}, Owner: acquired, Tick: 10 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	h.Start()
	select {
	case term := <-acquired:
		if term < 107 {
			t.Errorf("it is owned in term %d", term)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("it is not owned")
	}
	status := h.Status()
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	if len(status) != 1 || !status[0].Owns || !cmp.Equal(status[0].Voters, []placement.NodeID{1}) || len(status[0].Learners) != 0 {
		t.Errorf("status: %+v", status)
	}
	if v, ok, err := store.Object(0, seg.Object).Get(storage.KindKV, []byte("k")); err != nil || !ok || string(v) != "v" {
		t.Errorf("what was at the end of the log: %q, %t, %v", v, ok, err)
	}
}
