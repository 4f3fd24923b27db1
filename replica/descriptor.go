package replica

import (
	"encoding/binary"
	"fmt"
	"slices"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/holdfast-io/holdfast/placement"
)

// descriptor says which replicas a shard has and on which nodes. It is part of the shard's
// replicated state: it changes only with Raft's membership, in the batch that applies the change.
type descriptor struct {
	// Generation counts the changes: a later one that does not name a replica proves that the
	// replica was removed, since ids are never used again.
	Generation uint64
	// NextID is the id of the next replica to be added.
	NextID   uint64
	Replicas []replicaAddr
	Conf     confState
}

type replicaAddr struct {
	ID   uint64
	Node placement.NodeID
}

func (d *descriptor) node(id uint64) (placement.NodeID, bool) {
	for _, r := range d.Replicas {
		if r.ID == id {
			return r.Node, true
		}
	}
	return 0, false
}

func (d *descriptor) contains(id uint64) bool {
	_, ok := d.node(id)
	return ok
}

// nextIDOn returns the smallest id that a replica on a node may have from now on: another one may
// have been added there since the last one was removed.
func (d *descriptor) nextIDOn(node placement.NodeID) uint64 {
	for _, r := range d.Replicas {
		if r.Node == node {
			return r.ID
		}
	}
	return d.NextID
}

// isVoter counts both configurations of a joint one.
func (d *descriptor) isVoter(id uint64) bool {
	return slices.Contains(d.Conf.Voters, id) || slices.Contains(d.Conf.VotersOutgoing, id)
}

func (d *descriptor) joint() bool { return len(d.Conf.VotersOutgoing) > 0 }

// soleVoter says that id alone decides: nobody can be elected without it.
func (d *descriptor) soleVoter(id uint64) bool {
	v := d.Conf.Voters
	return len(v) == 1 && v[0] == id && !d.joint()
}

// change returns the descriptor after a membership change: the added replicas are named, and those
// that neither configuration has any more are forgotten.
func (d *descriptor) change(added []replicaAddr, conf *raftpb.ConfState) descriptor {
	next := descriptor{
		Generation: d.Generation + 1,
		NextID:     d.NextID,
		Replicas:   slices.Clone(d.Replicas),
		Conf:       confOf(conf),
	}
	for _, a := range added {
		if !next.contains(a.ID) {
			next.Replicas = append(next.Replicas, a)
		}
		next.NextID = max(next.NextID, a.ID+1)
	}
	next.Replicas = slices.DeleteFunc(next.Replicas, func(r replicaAddr) bool {
		return !slices.Contains(conf.GetVoters(), r.ID) && !slices.Contains(conf.GetVotersOutgoing(), r.ID) &&
			!slices.Contains(conf.GetLearners(), r.ID) && !slices.Contains(conf.GetLearnersNext(), r.ID)
	})
	return next
}

// confState is Raft's configuration as a plain value.
type confState struct {
	Voters, Learners, VotersOutgoing, LearnersNext []uint64
	AutoLeave                                      bool
}

func confOf(c *raftpb.ConfState) confState {
	return confState{
		Voters:         slices.Clone(c.GetVoters()),
		Learners:       slices.Clone(c.GetLearners()),
		VotersOutgoing: slices.Clone(c.GetVotersOutgoing()),
		LearnersNext:   slices.Clone(c.GetLearnersNext()),
		AutoLeave:      c.GetAutoLeave(),
	}
}

func (c *confState) raft() *raftpb.ConfState {
	return &raftpb.ConfState{
		Voters:         slices.Clone(c.Voters),
		Learners:       slices.Clone(c.Learners),
		VotersOutgoing: slices.Clone(c.VotersOutgoing),
		LearnersNext:   slices.Clone(c.LearnersNext),
		AutoLeave:      new(c.AutoLeave),
	}
}

const descriptorVersion = 1

func (d *descriptor) encode() []byte {
	out := []byte{descriptorVersion}
	out = binary.AppendUvarint(out, d.Generation)
	out = binary.AppendUvarint(out, d.NextID)
	out = appendAddrs(out, d.Replicas)
	for _, list := range [...][]uint64{d.Conf.Voters, d.Conf.Learners, d.Conf.VotersOutgoing, d.Conf.LearnersNext} {
		out = binary.AppendUvarint(out, uint64(len(list)))
		for _, id := range list {
			out = binary.AppendUvarint(out, id)
		}
	}
	autoLeave := byte(0)
	if d.Conf.AutoLeave {
		autoLeave = 1
	}
	return append(out, autoLeave)
}

func decodeDescriptor(b []byte) (descriptor, error) {
	d := decoder{b: b}
	if v := d.byte(); v != descriptorVersion && d.err == nil {
		return descriptor{}, fmt.Errorf("descriptor version %d: %w", v, errMalformed)
	}
	var out descriptor
	out.Generation, out.NextID = d.uvarint(), d.uvarint()
	out.Replicas = d.addrs()
	for _, list := range [...]*[]uint64{&out.Conf.Voters, &out.Conf.Learners, &out.Conf.VotersOutgoing, &out.Conf.LearnersNext} {
		*list = d.list()
	}
	out.Conf.AutoLeave = d.byte() == 1
	if d.err != nil {
		return descriptor{}, fmt.Errorf("descriptor: %w", d.err)
	}
	return out, nil
}

func appendAddrs(dst []byte, addrs []replicaAddr) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(addrs)))
	for _, a := range addrs {
		dst = binary.AppendUvarint(dst, a.ID)
		dst = binary.BigEndian.AppendUint64(dst, uint64(a.Node))
	}
	return dst
}

func (d *decoder) addrs() []replicaAddr {
	n := d.uvarint()
	if n > uint64(len(d.b)) {
		d.err = errMalformed
		return nil
	}
	var out []replicaAddr
	for range n {
		id := d.uvarint()
		raw := d.take(8)
		if d.err != nil {
			return nil
		}
		out = append(out, replicaAddr{ID: id, Node: placement.NodeID(binary.BigEndian.Uint64(raw))})
	}
	return out
}

func (d *decoder) list() []uint64 {
	n := d.uvarint()
	if n > uint64(len(d.b)) {
		d.err = errMalformed
		return nil
	}
	var out []uint64
	for range n {
		out = append(out, d.uvarint())
	}
	return out
}
