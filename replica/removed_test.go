package replica

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/holdfast-io/holdfast/placement"
	"github.com/holdfast-io/holdfast/storage"
)

// sentFrames is a Transport that keeps what is sent.
type sentFrames chan []byte

func (s sentFrames) Send(_ placement.NodeID, frame []byte) bool {
	select {
	case s <- frame:
	default:
	}
	return true
}

func (sentFrames) SendSnapshot(context.Context, placement.NodeID, []byte, func([]byte) (func() ([]byte, error), error)) error {
	return nil
}

// A replica that has applied its own removal votes for who has nothing of what it has behind that: the
// others may not know yet that the removal is committed, and not be able to elect anybody without it.
func TestARemovedReplicaDoesNotOutvoteThoseThatStay(t *testing.T) {
	t.Parallel()
	store, err := storage.Open("store", storage.Options{FS: vfs.NewMem()})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = store.Close() }()
	const self, candidate, term, removal = 1, 2, 5, 20
	desc := descriptor{Generation: 7, NextID: 5, Replicas: []replicaAddr{{ID: 2, Node: 2}, {ID: 3, Node: 3}, {ID: 4, Node: 4}}, Conf: confState{Voters: []uint64{2, 3, 4}}}
	b := store.NewBatch()
	b.Set(storage.ReplicaKey(0), encodeUints(self))
	b.Set(storage.DescriptorKey(0), desc.encode())
	b.Set(storage.AppliedKey(0), encodeUints(removal, term))
	b.Set(storage.TruncatedKey(0), encodeUints(removal, term))
	b.Set(storage.HardStateKey(0), encodeUints(term, self, removal))
	behind := &raftpb.Entry{Term: new(uint64(term)), Index: new(uint64(removal + 1)), Type: raftpb.EntryNormal.Enum(), Data: []byte{payloadEmpty}}
	b.Set(storage.LogKey(0, removal+1), appendLogEntry(nil, behind))
	if err := b.Commit(true); err != nil {
		t.Fatal(err)
	}
	_ = b.Close()

	sent := make(sentFrames, 64)
	h, err := New(Config{Node: 1, Shards: 1, Store: store, Transport: sent})
	if err != nil {
		t.Fatal(err)
	}
	h.Start()
	defer func() { _ = h.Close() }()
	vote := &raftpb.Message{Type: raftpb.MsgVote.Enum(), Term: new(uint64(term + 1)), LogTerm: new(uint64(term)), Index: new(uint64(removal))}
	h.Receive(2, (&packet{kind: kindRaft, to: self, from: candidate, msg: vote}).append(nil))
	limit := time.After(time.Minute)
	for {
		select {
		case frame := <-sent:
			p, _, err := decodePacket(frame)
			if err != nil || p.msg == nil || p.msg.GetType() != raftpb.MsgVoteResp {
				continue
			}
			if p.msg.GetReject() {
				t.Error("the vote was denied")
			}
			return
		case <-limit:
			t.Fatal("no answer")
		}
	}
}

// A replica whose log ends before what it says is committed has lost something: it stops, and the
// node serves the rest.
func TestAReplicaWithoutWhatIsCommittedStops(t *testing.T) {
	t.Parallel()
	store, err := storage.Open("store", storage.Options{FS: vfs.NewMem()})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = store.Close() }()
	if err := Bootstrap(store, storage.Identity{ClusterID: "c", Node: 1, Name: "n", Shards: 2, Replicas: 3}); err != nil {
		t.Fatal(err)
	}
	b := store.NewBatch()
	b.Set(storage.HardStateKey(0), encodeUints(1, 0, 12)) // The log ends at 10.
	if err := errors.Join(b.Commit(true), b.Close()); err != nil {
		t.Fatal(err)
	}
	h, err := New(Config{Node: 1, Shards: 2, Store: store, Transport: make(sentFrames, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = h.Close() }()
	if err := h.groups[0].failed; !errors.Is(err, storage.ErrCorrupt) || !strings.Contains(err.Error(), "committed up to 12") {
		t.Errorf("shard 0: got %v", err)
	}
	if err := h.groups[1].failed; err != nil {
		t.Errorf("shard 1: got %v", err)
	}
}
