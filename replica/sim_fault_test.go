package replica

import (
	"fmt"
	"slices"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/holdfast-io/holdfast/placement"
	"github.com/holdfast-io/holdfast/storage"
)

// simFault is one thing that can go wrong, or be done to a cluster.
type simFault struct {
	name   string
	weight int
	do     func(s *simulation, n *simNode)
}

// simFaults happen at random, to a node at random, so often in proportion to their weights.
var simFaults = []simFault{
	{"power cut at a disk operation", 20, func(s *simulation, n *simNode) {
		n.crashIn, n.crashBefore = 1+s.rng.IntN(30), s.chance(500)
	}},
	{"crash", 4, func(s *simulation, n *simNode) { s.crash(n) }},
	{"pause", 8, func(s *simulation, n *simNode) { n.pause(s.between(5*time.Millisecond, 3*time.Second)) }},
	{"partition", 8, func(s *simulation, n *simNode) { s.partition(n) }},
	{"one-way partition", 6, func(s *simulation, n *simNode) { s.cutOneWay(n) }},
	{"healing", 14, func(s *simulation, _ *simNode) { s.heal() }},
	{"weather", 8, func(s *simulation, _ *simNode) { s.changeWeather() }},
	{"clock skew", 6, func(s *simulation, n *simNode) {
		s.stats.skews++
		n.tick = simTick * time.Duration(50+s.rng.IntN(120)) / 100
	}},
	{"full disk", 3, func(s *simulation, n *simNode) { s.fill(n) }},
	{"wrong hint", 5, func(s *simulation, n *simNode) {
		if other := s.nodes[s.rng.IntN(len(s.nodes))]; other != n && n.host != nil {
			n.hint(other.id, time.Millisecond)
		}
	}},
	{"hand-over", 5, func(s *simulation, n *simNode) { s.handOver(n) }},
	{"new node", 4, func(s *simulation, _ *simNode) {
		if len(s.nodes) < simNodesMax {
			s.addNode()
		}
	}},
	{"out of the ring", 5, func(s *simulation, n *simNode) { s.leaveRing(n) }},
	{"into the ring", 5, func(s *simulation, n *simNode) { s.joinRing(n) }},
	{"removal", 3, func(s *simulation, n *simNode) { s.remove(n) }},
	{"lost disk", 3, func(s *simulation, n *simNode) { s.wipe(n) }},
	{"end of a class", 2, func(s *simulation, n *simNode) { s.endClass(n) }},
}

// faults happen one after another, until the calm.
func (s *simulation) faults() {
	s.at(s.between(s.faultEvery/10, 2*s.faultEvery), "fault", func() {
		if s.calm {
			return
		}
		s.faults()
		total := 0
		for _, f := range simFaults {
			total += f.weight
		}
		n := s.nodes[s.rng.IntN(len(s.nodes))]
		pick := s.rng.IntN(total)
		for _, f := range simFaults {
			if pick -= f.weight; pick < 0 {
				s.tracef(n, "fault: %s", f.name)
				f.do(s, n)
				return
			}
		}
	})
}

// endClass has the node end a class in the shards that it owns, or believes to.
func (s *simulation) endClass(n *simNode) {
	if n.host == nil {
		return
	}
	for i := range n.owner.shards {
		if owned := &n.owner.shards[i]; owned.term != 0 {
			n.host.EndClass(owned.id, simEndingClass, func(err error) { s.tracef(n, "end of the class in shard %d: %v", i, err) })
		}
	}
	n.turnSoon()
}

// partition parts the nodes in two, the node's side at random.
func (s *simulation) partition(n *simNode) {
	s.stats.partitions++
	side := make(map[placement.NodeID]bool)
	for _, other := range s.nodes {
		side[other.id] = other == n || s.chance(300)
	}
	for _, a := range s.nodes {
		for _, b := range s.nodes {
			a.cut[b.id] = side[a.id] != side[b.id]
		}
	}
	s.hintCut()
}

// cutOneWay loses what the node sends, or is sent.
func (s *simulation) cutOneWay(n *simNode) {
	s.stats.oneWay++
	in := s.chance(500)
	for _, other := range s.nodes {
		switch {
		case other == n || s.chance(300):
		case in:
			other.cut[n.id] = true
		default:
			n.cut[other.id] = true
		}
	}
	s.hintCut()
}

// hintCut tells some nodes that they have lost their connections.
func (s *simulation) hintCut() {
	for _, a := range s.nodes {
		for _, b := range s.nodes {
			if a.host != nil && a.cut[b.id] && s.chance(300) {
				a.hint(b.id, s.between(time.Millisecond, time.Second))
			}
		}
	}
}

func (s *simulation) heal() {
	for _, n := range s.nodes {
		clear(n.cut)
	}
}

// fill makes the disk refuse writes for a while.
func (s *simulation) fill(n *simNode) {
	if n.full || n.wiped {
		return
	}
	s.stats.fullDisks++
	n.full, n.wasFull = true, true
	s.at(s.between(100*time.Millisecond, 3*time.Second), "room", func() { n.full = false })
}

// handOver moves ownership away from the node, as for a planned stop, and stops it.
func (s *simulation) handOver(n *simNode) {
	if n.host == nil || n.pausedUntil > s.now {
		return
	}
	s.stats.handOvers++
	var poll func()
	poll = func() {
		n.on(simTick/2, "hand over", func() {
			n.host.control(func() {
				n.host.handOver = true
				n.host.handOverStep()
			})
			n.turnSoon()
			poll()
		})
	}
	poll()
	n.on(s.between(simTick, 20*simTick), "stop", func() { // May be longer or shorter than it takes.
		s.stop(n)
		s.at(s.between(50*time.Millisecond, 3*time.Second), "restart", func() { s.start(n) })
	})
}

// leaveRing takes the node off the ring, as when it has been dead for long; it may be alive.
func (s *simulation) leaveRing(n *simNode) {
	if i := slices.Index(s.ring, n.id); i >= 0 && len(s.ring) > 1 {
		s.stats.ringChanges++
		s.ring = slices.Delete(slices.Clone(s.ring), i, i+1)
	}
}

func (s *simulation) joinRing(n *simNode) {
	if !slices.Contains(s.ring, n.id) && !s.removed[n.id] && !n.wiped {
		s.stats.ringChanges++
		s.ring = append(slices.Clone(s.ring), n.id)
	}
}

// remove takes the node out for good: its replicas move, if there is anywhere to go.
func (s *simulation) remove(n *simNode) {
	left := 0
	for _, id := range s.ring {
		if other := s.node(id); other != n && !other.wiped {
			left++
		}
	}
	if left < 2 || s.removed[n.id] {
		return
	}
	s.stats.removals++
	s.leaveRing(n)
	s.removed[n.id] = true
}

// wipe loses the node's disk, where every shard's voters bear it. The node never comes back; it is
// replaced by a new one.
func (s *simulation) wipe(n *simNode) {
	if n.wiped || len(s.nodes) >= simNodesMax {
		return
	}
	for i := range s.oracle.shards {
		shard := placement.ShardID(i) //nolint:gosec // small
		if s.mayChange(shard) || !s.bears(shard, n) {
			return
		}
	}
	s.stats.wipes++
	s.crash(n)
	n.wiped = true
	s.addNode()
	s.leaveRing(n)
	s.removed[n.id] = true
}

// bears says whether a shard keeps a majority when the node is lost: one of replicas that know by
// themselves, on disk, that they are one. Just after a change only its leader may know.
func (s *simulation) bears(shard placement.ShardID, lost *simNode) bool {
	desc := &s.oracle.shards[shard].desc
	if desc.Generation == 0 {
		return false
	}
	gone := 0 // Learners count: they may be about to become voters.
	for _, r := range desc.Replicas {
		if r.Node == lost.id || s.node(r.Node).wiped {
			gone++
		}
	}
	for _, voters := range [][]uint64{desc.Conf.Voters, desc.Conf.VotersOutgoing} {
		know := 0
		for _, id := range voters {
			if node, ok := desc.node(id); ok && node != lost.id && s.node(node).knows(shard, desc) {
				know++
			}
		}
		if len(voters) > 0 && (gone > (len(voters)-1)/2 || know < len(voters)/2+1) {
			return false
		}
	}
	return true
}

// knows says whether the node would still know a shard's membership after a power cut.
func (n *simNode) knows(shard placement.ShardID, desc *descriptor) bool {
	raw, ok := n.disk.Durable(storage.DescriptorKey(shard))
	if !ok || n.wiped {
		return false
	}
	got, err := decodeDescriptor(raw)
	return err == nil && got.Generation == desc.Generation
}

// mayChange says whether a log has a change of membership that may yet be committed.
func (s *simulation) mayChange(shard placement.ShardID) bool {
	found := false
	lo, hi := storage.LogSpan(shard, s.oracle.shards[shard].head()+1, noLimit)
	for _, n := range s.nodes {
		n.disk.Walk(lo, hi, func(_, value []byte) bool {
			e, err := decodeLogEntry(0, value)
			found = found || err != nil || e.GetType() == raftpb.EntryConfChangeV2
			return true
		})
	}
	return found
}

// mend ends all faults, so that the cluster must come to rest as it should.
func (s *simulation) mend() {
	s.tracef(nil, "calm")
	s.calm, s.calmSince = true, s.now
	s.heal()
	s.weather = simWeather{}
	for _, n := range s.nodes {
		n.crashIn, n.full, n.tick = 0, false, simTick
		s.joinRing(n)
		s.start(n)
	}
}

// unrest says why the cluster has not come to rest, or nothing.
func (s *simulation) unrest() string {
	if s.now < s.calmSince+calmCalls+time.Second {
		return "clients are calling"
	}
	if s.calmWrites == 0 {
		return "no write was acknowledged; " + s.plans(0)
	}
	if n := len(s.oracle.orphans); n > 0 {
		return fmt.Sprintf("P2: %d calls were answered with what is nowhere committed, call %d the first", n, s.oracle.orphans[0].call.id)
	}
	for i := range s.oracle.shards {
		if why := s.shardUnrest(placement.ShardID(i)); why != "" { //nolint:gosec // small
			return fmt.Sprintf("shard %d: %s; %s", i, why, s.plans(i))
		}
	}
	return ""
}

// plans says what the owners of a shard are about, for who looks into it.
func (s *simulation) plans(shard int) string {
	out := fmt.Sprintf("the ring wishes %v, removed are %v", simRing(s.ring, s.shards).Replicas(placement.ShardID(shard), 3), s.removed) //nolint:gosec // small
	for _, n := range s.nodes {
		if n.host == nil || n.host.groups[shard] == nil {
			continue
		}
		g := n.host.groups[shard]
		out += fmt.Sprintf("\n  node %d: replica %d leads %v owns %d moving %q transfer %v applied %d", n.id, g.id, g.leader, g.ownTerm, g.moving, g.transfer, g.applied.Index)
		if g.ownTerm != 0 {
			for _, o := range n.owner.shards[shard].objects {
				out += fmt.Sprintf("\n    object %d: alive %v seq %d committed %d readable %d refused %d mailbox %d waiters %+v", o.number, o.alive, o.seq, o.committed, o.readable, o.refused, len(o.mailbox), o.waiters)
			}
			v := n.host.view(g)
			out += fmt.Sprintf("\n    stable %d, plans %+v in view of %+v", g.stable, plan(v), v)
		}
	}
	return out
}

func (s *simulation) shardUnrest(shard placement.ShardID) string {
	sh := &s.oracle.shards[shard]
	owners := 0
	for _, n := range s.nodes {
		if n.host != nil && n.owner.shards[shard].term != 0 {
			owners++
		}
	}
	if owners != 1 {
		return fmt.Sprintf("%d owners", owners)
	}
	if sh.desc.joint() {
		return "in the middle of a membership change"
	}
	for _, r := range sh.desc.Replicas {
		n := s.node(r.Node)
		switch {
		case s.removed[r.Node]:
			return fmt.Sprintf("node %d was removed and still has a replica", r.Node)
		case n.host == nil:
			return fmt.Sprintf("node %d does not run", r.Node)
		case n.checked[shard].replica != r.ID:
			return fmt.Sprintf("node %d does not have replica %d", r.Node, r.ID)
		case n.checked[shard].applied != sh.head():
			return fmt.Sprintf("node %d has applied %d of %d", r.Node, n.checked[shard].applied, sh.head())
		}
	}
	for _, node := range simRing(s.ring, s.shards).Replicas(shard, 3) {
		if !slices.ContainsFunc(sh.desc.Replicas, func(r replicaAddr) bool { return r.Node == node }) {
			return fmt.Sprintf("node %d has no replica, which the ring wishes", node)
		}
	}
	for _, n := range s.nodes {
		if n.host != nil && n.host.groups[shard] != nil && !slices.ContainsFunc(sh.desc.Replicas, func(r replicaAddr) bool { return r.Node == n.id }) {
			return fmt.Sprintf("node %d has a replica that was removed", n.id)
		}
	}
	return ""
}
