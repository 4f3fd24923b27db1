package replica

import (
	"fmt"
	"slices"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/holdfast-io/holdfast/placement"
	"github.com/holdfast-io/holdfast/storage"
)

// This file is for shards that have lost a majority of their voters for good: what a stopped node's
// store has of them, and how one replica is made the only voter of a group that goes on from it.
// Everything about which replica that may be is decided elsewhere, by who knows what all survivors
// have: two that went on would be two shards.

// ShardState is what a store has of one shard.
type ShardState struct {
	Shard placement.ShardID `json:"shard"`
	// Replica is the replica's id; Generation and NextID are its descriptor's. A replica that has had no
	// snapshot yet has Generation 0, and no data.
	Replica    uint64 `json:"replica"`
	Generation uint64 `json:"generation"`
	NextID     uint64 `json:"next_id"`
	// The configuration that it knows. Outgoing is the other half of a joint one.
	Voters   []placement.NodeID `json:"voters"`
	Outgoing []placement.NodeID `json:"outgoing,omitempty"`
	Learners []placement.NodeID `json:"learners,omitempty"`
	// Term is Raft's; the log ends with LastTerm and LastIndex, of which Applied is applied.
	Term      uint64 `json:"term"`
	LastTerm  uint64 `json:"last_term"`
	LastIndex uint64 `json:"last_index"`
	Applied   uint64 `json:"applied"`
	// Problem is why the replica can't go on, or empty.
	Problem string `json:"problem,omitempty"`
}

// States returns what a store has, by shard. Nothing else may use the store.
func States(store *storage.Store) ([]ShardState, error) {
	h, err := openOffline(store)
	if err != nil {
		return nil, err
	}
	defer func() { _ = h.Close() }() // It has begun nothing.
	var out []ShardState
	for _, g := range h.groups {
		if g == nil {
			continue
		}
		s := ShardState{
			Shard: g.shard, Replica: g.id, Generation: g.desc.Generation, NextID: g.desc.NextID, Term: g.term,
			LastTerm: g.log.last.Term, LastIndex: g.log.last.Index, Applied: g.applied.Index,
			Voters: g.desc.nodes(g.desc.Conf.Voters), Outgoing: g.desc.nodes(g.desc.Conf.VotersOutgoing),
			Learners: g.desc.nodes(slices.Concat(g.desc.Conf.Learners, g.desc.Conf.LearnersNext)),
		}
		if g.failed != nil {
			s.Problem = g.failed.Error()
		}
		out = append(out, s)
	}
	return out, nil
}

// openOffline loads the replicas of a store and starts nothing.
func openOffline(store *storage.Store) (*Host, error) {
	id := store.Identity()
	return New(Config{Node: id.Node, Shards: id.Shards, Replicas: id.Replicas, Store: store})
}

func (d *descriptor) nodes(ids []uint64) []placement.NodeID {
	var out []placement.NodeID
	for _, id := range ids {
		if node, ok := d.node(id); ok {
			out = append(out, node)
		}
	}
	return out
}

// Recovery is what a shard goes on as: the replica with the new id is its only voter. The numbers must
// be above all that any member of the shard can ever have used.
type Recovery struct {
	Shard      placement.ShardID `json:"shard"`
	Replica    uint64            `json:"replica"`
	Generation uint64            `json:"generation"`
	Term       uint64            `json:"term"`
}

// Recover adds to a batch what makes replicas of this store the only voters of their shards, each from all
// that is in its log: an entry that is not known to be committed may have been acknowledged. Changes
// of membership in it that are not applied become empty. Nothing else may use the store.
func Recover(store *storage.Store, b *storage.Batch, rs ...Recovery) error {
	if len(rs) == 0 {
		return nil
	}
	h, err := openOffline(store)
	if err != nil {
		return err
	}
	defer func() { _ = h.Close() }()
	for _, r := range rs {
		if err := h.recover(b, r); err != nil {
			return err
		}
	}
	return nil
}

func (h *Host) recover(b *storage.Batch, r Recovery) error {
	g := h.group(r.Shard)
	switch {
	case g == nil || g.applied.Index == 0:
		return fmt.Errorf("shard %d: this store has no replica that could go on", r.Shard)
	case g.id >= r.Replica || g.desc.Generation >= r.Generation || g.term >= r.Term:
		return fmt.Errorf("shard %d: replica %d, generation %d and term %d must be above %d, %d and %d", r.Shard, r.Replica, r.Generation, r.Term, g.id, g.desc.Generation, g.term)
	}
	last := g.log.last.Index
	for next := g.applied.Index + 1; next <= last; {
		entries, err := h.disk.ReadEntries(r.Shard, next, last+1, 4<<20)
		if err != nil {
			return err
		}
		for _, e := range entries {
			if e.GetType() != raftpb.EntryNormal {
				empty := newEntry(raftpb.EntryNormal, e.GetTerm(), e.GetIndex(), nil)
				b.Set(storage.LogKey(r.Shard, e.GetIndex()), appendLogEntry(nil, empty))
			}
			next = e.GetIndex() + 1
		}
	}
	desc := descriptor{
		Generation: r.Generation, NextID: r.Replica + 1,
		Replicas: []replicaAddr{{ID: r.Replica, Node: h.cfg.Node}}, Conf: confState{Voters: []uint64{r.Replica}},
	}
	b.Set(storage.ReplicaKey(r.Shard), encodeUints(r.Replica))
	b.Set(storage.DescriptorKey(r.Shard), desc.encode())
	b.Set(storage.HardStateKey(r.Shard), encodeUints(r.Term, 0, last))
	return nil
}
