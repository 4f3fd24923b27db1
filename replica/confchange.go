package replica

import (
	"fmt"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// Membership changes are rare, so they keep Raft's own encoding.
func decodeConfChange(b []byte) (*raftpb.ConfChangeV2, error) {
	cc := new(raftpb.ConfChangeV2)
	if err := proto.Unmarshal(b, cc); err != nil {
		return nil, fmt.Errorf("membership change: %w", err)
	}
	return cc, nil
}

// confChange builds a change. More than one step, or a step that is not simple, is a joint change
// that Raft leaves by itself.
func confChange(added []replicaAddr, steps ...*raftpb.ConfChangeSingle) *raftpb.ConfChangeV2 {
	cc := &raftpb.ConfChangeV2{Changes: steps, Context: appendAddrs(nil, added)}
	transition := raftpb.ConfChangeTransitionAuto
	if len(steps) > 1 {
		transition = raftpb.ConfChangeTransitionJointImplicit
	}
	cc.Transition = &transition
	return cc
}

func confStep(typ raftpb.ConfChangeType, id uint64) *raftpb.ConfChangeSingle {
	return &raftpb.ConfChangeSingle{Type: &typ, NodeId: &id}
}
