package replica

import (
	"context"
	"slices"

	"github.com/holdfast-io/holdfast/placement"
)

// ShardStatus is one replica's view of its shard.
type ShardStatus struct {
	Shard    placement.ShardID
	Term     uint64
	Owns     bool
	Leader   placement.NodeID // 0: none known
	Voters   []placement.NodeID
	Learners []placement.NodeID
	Moving   string
	Applied  uint64
	Failed   string // why the replica stopped
}

// AwaitReadable returns when the store shows every segment that was told Committed before the call.
// That is said a moment before its batch is in the store, in the same round of the loop.
func (h *Host) AwaitReadable(ctx context.Context) error {
	passed := make(chan struct{})
	if !h.control(func() { close(passed) }) {
		return errClosed
	}
	select {
	case <-passed:
		return nil
	case <-h.ctx.Done():
		return errClosed
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Status returns the view of every replica here. It waits for the loop; nil when the Host is
// closed.
func (h *Host) Status() []ShardStatus {
	out := make(chan []ShardStatus, 1)
	if !h.control(func() { out <- h.status() }) {
		return nil
	}
	select {
	case s := <-out:
		return s
	case <-h.ctx.Done():
		return nil
	}
}

func (h *Host) status() []ShardStatus {
	var out []ShardStatus
	for _, g := range h.groups {
		if g == nil {
			continue
		}
		s := ShardStatus{Shard: g.shard, Term: g.term, Owns: g.ownTerm != 0, Moving: g.moving, Applied: g.applied.Index}
		if g.failed != nil {
			s.Failed = g.failed.Error()
		}
		if g.lead != 0 {
			s.Leader, _ = g.address(g.lead)
		}
		for _, r := range g.desc.Replicas {
			switch {
			case g.desc.isVoter(r.ID):
				s.Voters = append(s.Voters, r.Node)
			default:
				s.Learners = append(s.Learners, r.Node)
			}
		}
		slices.Sort(s.Voters)
		slices.Sort(s.Learners)
		if s.Moving == "" && g.desc.joint() {
			s.Moving = "changing voters"
		}
		out = append(out, s)
	}
	return out
}

// Stats are the Host's counters since it began.
type Stats struct {
	FramesDropped, Batches, Syncs, Proposals, SnapshotsSent, SnapshotsReceived, Elections uint64
}

// Stats returns the counters.
func (h *Host) Stats() Stats {
	c := &h.counters
	return Stats{
		FramesDropped: c.framesDropped.Load(), Batches: c.batches.Load(), Syncs: c.syncs.Load(), Proposals: c.proposals.Load(),
		SnapshotsSent: c.snapshotsSent.Load(), SnapshotsReceived: c.snapshotsGot.Load(), Elections: c.elections.Load(),
	}
}
