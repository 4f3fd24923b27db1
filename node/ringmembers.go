package node

import (
	"slices"
	"time"

	"github.com/holdfast-io/holdfast/placement"
)

// ringMembers decides which nodes the ring places objects on. Gossip flaps; the ring must not, for
// each change of it moves data. So a node joins the ring only when it has been alive for a while,
// and leaves it only when it has been dead for long, was replaced by another under its name, or
// was removed for good. Stopping is not leaving.
//
// It is pure: time enters as data.
type ringMembers struct {
	joinAfter time.Duration
	deadAfter time.Duration
	nodes     map[placement.NodeID]*ringNode
}

type ringNode struct {
	inRing bool
	alive  bool
	since  time.Duration // when alive last changed
}

// sighting is what gossip says of one node at one moment.
type sighting struct {
	Node     placement.NodeID
	Alive    bool
	Replaced bool // another node carries its name now
}

// newRingMembers starts with the members that were in the ring when this node last ran: they stay
// until they have been seen dead for deadAfter.
func newRingMembers(joinAfter, deadAfter time.Duration, stored []placement.NodeID, now time.Duration) *ringMembers {
	m := &ringMembers{joinAfter: joinAfter, deadAfter: deadAfter, nodes: make(map[placement.NodeID]*ringNode)}
	for _, id := range stored {
		m.nodes[id] = &ringNode{inRing: true, since: now}
	}
	return m
}

// Observe takes one view of gossip, and the nodes removed for good, and returns the ring's
// members, sorted. Nodes that gossip no longer mentions count as dead.
func (m *ringMembers) Observe(now time.Duration, seen []sighting, removed map[placement.NodeID]bool) []placement.NodeID {
	mentioned := make(map[placement.NodeID]sighting, len(seen))
	for _, s := range seen {
		mentioned[s.Node] = s
		if m.nodes[s.Node] == nil {
			m.nodes[s.Node] = &ringNode{alive: s.Alive, since: now}
		}
	}
	var members []placement.NodeID
	for id, n := range m.nodes {
		s := mentioned[id]
		if s.Alive != n.alive {
			n.alive, n.since = s.Alive, now
		}
		steady := now - n.since
		switch {
		case removed[id] || s.Replaced:
			n.inRing = false
		case n.alive && steady >= m.joinAfter:
			n.inRing = true
		case !n.alive && steady >= m.deadAfter:
			n.inRing = false
		}
		if n.inRing {
			members = append(members, id)
		} else if !n.alive && !s.Replaced && steady >= m.deadAfter {
			delete(m.nodes, id)
		}
	}
	slices.Sort(members)
	return members
}

// admit puts a node into the ring at once, if none was stored: this node itself, at its first start.
func (m *ringMembers) admit(id placement.NodeID) {
	if len(m.nodes) == 0 {
		m.nodes[id] = &ringNode{inRing: true, alive: true}
	}
}
