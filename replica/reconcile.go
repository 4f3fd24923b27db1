package replica

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"go.etcd.io/raft/v3/tracker"

	"github.com/holdfast-io/holdfast/placement"
)

// Membership is what the node knows of the cluster: what the ring wishes, who is alive, who must
// not lead, who had better not, who was removed for good. The maps are read by the loop: the caller must not change
// them afterwards.
type Membership struct {
	Ring    *placement.Ring
	Live    map[placement.NodeID]bool
	Removed map[placement.NodeID]bool
	NoLead  map[placement.NodeID]bool
	Avoid   map[placement.NodeID]Reluctance
	// Full are the nodes whose disks have no room for more: an owner is told by OnFull.
	Full map[placement.NodeID]bool
	// Spent says that this node's disk has room for nothing but what keeps it going: it takes in no
	// segments, and so drops out of the majorities until it has room again.
	Spent bool
}

// SetMembership steers the groups that this node leads.
func (h *Host) SetMembership(m Membership) {
	h.control(func() { h.membership = m })
}

// tellFull tells whether what is written to the shard finds room: on this node, which is its owner, and
// on a majority of its voters.
func (h *Host) tellFull(g *Group) {
	full := g.ownTerm != 0 && (h.membership.Full[g.self] || !hasRoom(&g.desc, h.membership.Full))
	if full != g.full && h.cfg.OnFull != nil {
		h.cfg.OnFull(g.shard, g.ownTerm, full)
	}
	g.full = full
}

// hasRoom says whether a majority of the voters are on nodes that are not full.
func hasRoom(d *descriptor, full map[placement.NodeID]bool) bool {
	for _, voters := range [][]uint64{d.Conf.Voters, d.Conf.VotersOutgoing} {
		room := 0
		for _, id := range voters {
			if node, ok := d.node(id); ok && !full[node] {
				room++
			}
		}
		if len(voters) > 0 && room <= len(voters)/2 {
			return false
		}
	}
	return true
}

// bringsSegments says that a message has what objects wrote.
func bringsSegments(m *raftpb.Message) bool {
	return slices.ContainsFunc(m.GetEntries(), func(e *raftpb.Entry) bool {
		return e.GetType() == raftpb.EntryNormal && len(e.GetData()) > 0
	})
}

// transfer is a planned hand-over under way.
type transfer struct {
	to       uint64
	node     placement.NodeID
	sent     bool // Raft was told; before, the objects drain
	ticks    int
	handOver bool
}

const (
	drainTicksMax = 5 // 500 ms: a planned move waits no longer for running handlers
	reconcileEach = 2 // ticks
)

// reconcile takes the next step of a group that this node leads towards what is wished.
func (h *Host) reconcile(g *Group) {
	if g.ownTerm == 0 {
		return
	}
	if !g.membershipSettled() && g.log.last.Index == g.changed && len(g.queued) == 0 {
		h.hold(g, proposal{done: func(error) {}})
	}
	if g.transfer != nil {
		h.tickTransfer(g)
		return
	}
	g.stable++
	g.putOff = max(g.putOff-1, 0)
	if h.membership.Ring == nil || h.age%reconcileEach != 0 || h.handOver {
		return
	}
	if wish := h.membership.Ring.Replicas(g.shard, 1); !slices.Equal(wish, g.wish) {
		g.wish, g.stable = wish, 0
	}
	v := h.view(g)
	a := plan(v)
	g.moving = a.String()
	switch a.Kind {
	case actNone:
	case actTransfer:
		if g.putOff == 0 {
			h.beginTransfer(g, a.Node, false)
		}
	case actAddLearner, actRemoveLearner, actChange:
		h.proposeChange(g, a)
	}
}

func (h *Host) view(g *Group) planView {
	v := planView{
		Self:    g.self,
		Joint:   g.desc.joint(),
		Wish:    h.membership.Ring.Replicas(g.shard, h.cfg.Replicas),
		Target:  h.cfg.Replicas,
		Live:    h.membership.Live,
		Removed: h.membership.Removed,
		NoLead:  h.membership.NoLead,
		Avoid:   h.membership.Avoid,
		Stable:  time.Duration(g.stable)*h.cfg.Tick >= h.cfg.LeaderStable,
	}
	commit := g.log.hard.GetCommit()
	progress := make(map[uint64]tracker.Progress)
	g.rn.WithProgress(func(id uint64, _ raft.ProgressType, pr tracker.Progress) { progress[id] = pr })
	for _, r := range g.desc.Replicas {
		pr := progress[r.ID]
		v.Replicas = append(v.Replicas, replicaView{
			ID: r.ID, Node: r.Node, Voter: g.desc.isVoter(r.ID),
			Live:     r.ID == g.id || v.Live[r.Node] && !h.broken[r.Node] && !g.stopped[r.ID],
			Stopped:  g.stopped[r.ID],
			CaughtUp: r.ID == g.id || pr.State == tracker.StateReplicate && caughtUp(pr.Match, commit),
		})
	}
	return v
}

// proposeChange proposes a membership change. Raft refuses a second one while one is under way.
func (h *Host) proposeChange(g *Group, a action) {
	var steps []*raftpb.ConfChangeSingle
	var added []replicaAddr
	id := func(node placement.NodeID) uint64 {
		for _, r := range g.desc.Replicas {
			if r.Node == node {
				return r.ID
			}
		}
		return 0
	}
	switch a.Kind {
	case actAddLearner:
		added = []replicaAddr{{ID: g.desc.NextID, Node: a.Node}}
		steps = append(steps, confStep(raftpb.ConfChangeAddLearnerNode, g.desc.NextID))
	case actRemoveLearner:
		steps = append(steps, confStep(raftpb.ConfChangeRemoveNode, id(a.Node)))
	case actChange:
		for _, node := range a.Promote {
			steps = append(steps, confStep(raftpb.ConfChangeAddNode, id(node)))
		}
		for _, node := range a.Demote {
			steps = append(steps, confStep(raftpb.ConfChangeAddLearnerNode, id(node)))
		}
		for _, node := range a.Remove {
			steps = append(steps, confStep(raftpb.ConfChangeRemoveNode, id(node)))
		}
	case actNone, actTransfer:
		return
	}
	g.settling = settlingTicks
	h.guard(g, func() {
		if err := g.rn.ProposeConfChange(confChange(added, steps...)); err != nil {
			h.logger.Debug("membership change not proposed", slog.Int("shard", int(g.shard)), slog.Any("error", err))
		}
	})
	h.mark(g)
}

// beginTransfer begins a planned hand-over: first the objects drain, so that callers see latency
// and no errors, then Raft moves leadership.
func (h *Host) beginTransfer(g *Group, node placement.NodeID, handOver bool) {
	i := slices.IndexFunc(g.desc.Replicas, func(r replicaAddr) bool { return r.Node == node })
	if i < 0 {
		return
	}
	t := &transfer{to: g.desc.Replicas[i].ID, node: node, handOver: handOver}
	g.transfer = t
	g.moving = action{Kind: actTransfer, Node: node}.String()
	h.cfg.Owner.Pause(g.shard, g.ownTerm, func() {
		h.control(func() {
			if g.transfer == t && !t.sent && g.failed == nil {
				t.sent, t.ticks = true, 0
				h.guard(g, func() { g.rn.TransferLeader(t.to) })
				h.mark(g)
			}
		})
	})
}

// Transfer begins a planned hand-over of a shard that this node owns to another node whose replica
// votes, whatever the ring wishes; when the wish has been stable for LeaderStable, it is taken back. It
// returns when the hand-over is under way: Leader says when it is through. One that a handler holds up
// is given up, as any is.
func (h *Host) Transfer(ctx context.Context, shard placement.ShardID, to placement.NodeID) error {
	begun := make(chan error, 1)
	if !h.control(func() { begun <- h.transferTo(shard, to) }) {
		return errClosed
	}
	select {
	case err := <-begun:
		return err
	case <-h.ctx.Done():
		return errClosed
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (h *Host) transferTo(shard placement.ShardID, to placement.NodeID) error {
	g := h.group(shard)
	switch {
	case g == nil || g.failed != nil || g.ownTerm == 0:
		return ErrNotLeader
	case g.transfer != nil && g.transfer.node == to:
		return nil
	case g.transfer != nil:
		return fmt.Errorf("shard %d is being handed over to node %s", shard, g.transfer.node)
	}
	v := h.viewWithoutRing(g)
	if _, ok := v.heir([]placement.NodeID{to}, noLead); !ok {
		return fmt.Errorf("node %s can't take shard %d over: it must have a replica that votes, lives and has caught up, and not be the owner", to, shard)
	}
	h.beginTransfer(g, to, false)
	return nil
}

// tickTransfer gives a hand-over up that takes too long. A node that is stopping waits for its
// handlers as long as its caller lets it.
func (h *Host) tickTransfer(g *Group) {
	t := g.transfer
	t.ticks++
	limit := drainTicksMax
	switch {
	case t.sent:
		limit = h.cfg.ElectionTicks + 1 // Raft gives up by itself after an election timeout.
	case t.handOver:
		return
	}
	if t.ticks <= limit {
		return
	}
	if !t.sent {
		// The shard's other objects have waited with the one that holds its turn: they come first now.
		g.putOff = int(h.cfg.LeaderStable / h.cfg.Tick)
	}
	g.transfer = nil
	g.moving = ""
	g.stable = 0
	h.cfg.Owner.Resume(g.shard, g.ownTerm)
}

// HandOver moves ownership of everything away from this node, for a planned stop, and returns when
// it owns nothing that another could own, or when the context ends. Objects that hold their turn
// are waited for.
func (h *Host) HandOver(ctx context.Context) error {
	done := make(chan struct{})
	var poll func()
	finished := false
	poll = func() {
		h.handOver = true
		if !finished && !h.handOverStep() {
			finished = true
			close(done)
		}
	}
	t := time.NewTicker(h.cfg.Tick / 2)
	defer t.Stop()
	for {
		if !h.control(poll) {
			return errClosed
		}
		select {
		case <-done:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-t.C:
		}
	}
}

// handOverStep begins whatever transfers are not under way, and says whether any is left.
func (h *Host) handOverStep() bool {
	left := false
	for _, g := range h.groups {
		if g == nil || g.failed != nil || g.ownTerm == 0 {
			continue
		}
		v := h.viewWithoutRing(g)
		heir, ok := v.heir(h.preference(g), noLead)
		if !ok {
			continue // Nobody could take it.
		}
		left = true
		if g.transfer == nil {
			h.beginTransfer(g, heir, true)
		}
	}
	return left
}

func (h *Host) viewWithoutRing(g *Group) planView {
	if h.membership.Ring == nil {
		h.membership.Ring = placement.NewRing(nil, h.cfg.Shards, h.cfg.Replicas)
	}
	return h.view(g)
}

// preference lists the nodes of a shard's replicas, the ring's choices first.
func (h *Host) preference(g *Group) []placement.NodeID {
	var out []placement.NodeID
	if h.membership.Ring != nil {
		out = slices.Clone(h.membership.Ring.Replicas(g.shard, h.cfg.Replicas))
	}
	for _, r := range g.desc.Replicas {
		if !slices.Contains(out, r.Node) {
			out = append(out, r.Node)
		}
	}
	return out
}

// The pre-campaigns that follow a broken connection: the heir's first, the others' staggered
// behind it, so that votes are not split.
const (
	hintDelay   = 20 * time.Millisecond
	hintStagger = 40 * time.Millisecond
)

// PeerBroken says that the connections to a node broke and that it does not answer: a hint that it
// is dead. Groups that it leads forget it and elect another at once, instead of after the election
// timeout. It is only ever a hint: the election still takes a majority's votes, and a pre-vote
// comes first, so a wrong guess costs one round of messages. It is sound because no read rests on
// a lease.
//
// Until PeerConnected, no group is handed to the node: gossip takes longer to find it dead.
func (h *Host) PeerBroken(node placement.NodeID) {
	h.control(func() {
		h.broken[node] = true
		ranks := make(map[int][]*Group)
		for _, g := range h.groups {
			if g == nil || g.failed != nil || g.leader || g.lead == 0 || !g.desc.isVoter(g.id) {
				continue
			}
			if leader, ok := g.address(g.lead); !ok || leader != node {
				continue
			}
			h.guard(g, func() { _ = g.rn.ForgetLeader() })
			h.mark(g)
			rank := h.rank(g, node)
			ranks[rank] = append(ranks[rank], g)
		}
		for _, rank := range slices.Sorted(maps.Keys(ranks)) {
			groups := ranks[rank]
			h.shell.after(hintDelay+time.Duration(rank)*hintStagger, func() { h.campaign(groups) })
		}
	})
}

// PeerConnected says that a node can be reached again.
func (h *Host) PeerConnected(node placement.NodeID) {
	h.control(func() { delete(h.broken, node) })
}

// rank is this node's place among those that could follow a dead leader.
func (h *Host) rank(g *Group, dead placement.NodeID) int {
	rank := 0
	for _, node := range h.preference(g) {
		if node == g.self {
			return rank
		}
		i := slices.IndexFunc(g.desc.Replicas, func(r replicaAddr) bool { return r.Node == node })
		if node != dead && i >= 0 && g.desc.isVoter(g.desc.Replicas[i].ID) {
			rank++
		}
	}
	return rank
}

// campaign pre-campaigns for groups that still have no leader.
func (h *Host) campaign(groups []*Group) {
	for _, g := range groups {
		if h.groups[g.shard] != g || g.failed != nil || g.leader || g.lead != 0 {
			continue
		}
		h.guard(g, func() { _ = g.rn.Campaign() })
		h.mark(g)
	}
}
