package replica

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/holdfast-io/holdfast/placement"
)

// This file decides how a shard's leader steers its group towards what the ring wishes. It is pure:
// a View in, one Action out. The rules:
//
//   - Voters only grow by themselves: one on one node, one and a learner on two, three from three
//     nodes on. They shrink only when a node is removed for good, never because nodes are dead: a
//     dead replica is replaced on another node, or stays listed.
//   - A replica is added as a learner and promoted when it has caught up; promotions and removals
//     are one joint change.
//   - A replica that has stopped on a node that lives is taken out at once, and then added anew: its
//     state is damaged, and a node has one replica of a shard.
//   - A leader that is to go hands leadership over first.
//   - No change may leave fewer live voters than a quorum.
//   - Leadership moves to the ring's first choice, once that has been the same for a while.
//   - A node that is better not to own (Reluctance) comes last among the ring's choices, and gives
//     leadership away at once to one that is better; where there is none it goes on owning.

// replicaView is one replica as the leader sees it.
type replicaView struct {
	ID       uint64
	Node     placement.NodeID
	Voter    bool
	Live     bool
	CaughtUp bool
	// Stopped says that the replica has said that it can't go on. It is not Live.
	Stopped bool
}

// planView is what the plan decides on.
type planView struct {
	Self     placement.NodeID
	Replicas []replicaView
	// Joint says that a membership change is under way.
	Joint bool
	// Wish is the ring's chain for the shard, first choice first.
	Wish []placement.NodeID
	// Target is how many replicas the cluster wants.
	Target  int
	Live    map[placement.NodeID]bool
	Removed map[placement.NodeID]bool
	NoLead  map[placement.NodeID]bool
	Avoid   map[placement.NodeID]Reluctance
	// Stable says that the ring has wished the same for a while.
	Stable bool
}

// Reluctance says how much better it is that another node owns. Nobody goes without an owner for it:
// among nodes that are all reluctant, the least reluctant one owns.
type Reluctance int

// The reasons, the weaker first.
const (
	Willing Reluctance = iota
	// Drained says that an operator wants the node to own nothing.
	Drained
	// DiskLow says that the node has little room for writes, or none.
	DiskLow
	// noLead is a node that can't own at all.
	noLead
)

func (v *planView) reluctance(node placement.NodeID) Reluctance {
	if v.NoLead[node] {
		return noLead
	}
	return v.Avoid[node]
}

type actionKind int

const (
	actNone actionKind = iota
	actAddLearner
	actChange
	actRemoveLearner
	actTransfer
)

// action is the next step.
type action struct {
	Kind    actionKind
	Node    placement.NodeID   // actAddLearner, actTransfer, actRemoveLearner
	Promote []placement.NodeID // actChange
	Demote  []placement.NodeID // actChange: voters that stay as learners
	Remove  []placement.NodeID // actChange
}

// String says it in words, for status.
func (a action) String() string {
	switch a.Kind {
	case actAddLearner:
		return "adding a replica on " + a.Node.String()
	case actRemoveLearner:
		return "removing the replica on " + a.Node.String()
	case actTransfer:
		return "moving ownership to " + a.Node.String()
	case actChange:
		var parts []string
		for _, part := range []struct {
			word  string
			nodes []placement.NodeID
		}{{"promoting", a.Promote}, {"demoting", a.Demote}, {"removing", a.Remove}} {
			if len(part.nodes) > 0 {
				parts = append(parts, fmt.Sprintf("%s %v", part.word, part.nodes))
			}
		}
		return strings.Join(parts, ", ")
	case actNone:
	}
	return ""
}

// plan returns the next step, or none.
func plan(v planView) action {
	if v.Joint {
		return action{}
	}
	v.Wish = slices.Clone(v.Wish)
	slices.SortStableFunc(v.Wish, func(a, b placement.NodeID) int { return cmp.Compare(v.reluctance(a), v.reluctance(b)) })
	if a := v.takeOutStopped(); a.Kind != actNone {
		return a
	}
	voters := v.targetVoters()
	learners := v.targetLearners(voters)
	if a := v.dropLearner(voters, learners); a.Kind != actNone {
		return a
	}
	if a := v.addLearner(voters, learners); a.Kind != actNone {
		return a
	}
	if a := v.changeVoters(voters, learners); a.Kind != actNone {
		return a
	}
	return v.moveLead()
}

func (v *planView) at(node placement.NodeID) *replicaView {
	i := slices.IndexFunc(v.Replicas, func(r replicaView) bool { return r.Node == node })
	if i < 0 {
		return nil
	}
	return &v.Replicas[i]
}

// odd is the largest odd number up to n: an even number of voters survives no more failures.
func odd(n int) int {
	if n > 0 && n%2 == 0 {
		return n - 1
	}
	return n
}

// targetVoters returns the nodes that should vote: as many as the ring allows, but never fewer
// than there are (less those removed for good); first the ring's choices, then those that are
// there, the living first.
func (v *planView) targetVoters() []placement.NodeID {
	var stay []placement.NodeID
	for _, live := range []bool{true, false} {
		for _, r := range v.Replicas {
			if r.Voter && !v.Removed[r.Node] && r.Live == live {
				stay = append(stay, r.Node)
			}
		}
	}
	want := max(odd(min(len(v.Wish), v.Target)), odd(len(stay)))
	var out []placement.NodeID
	for _, node := range slices.Concat(v.Wish, stay) {
		if len(out) < want && !slices.Contains(out, node) && !v.Removed[node] {
			out = append(out, node)
		}
	}
	return out
}

// targetLearners are the ring's choices that do not vote.
func (v *planView) targetLearners(voters []placement.NodeID) []placement.NodeID {
	var out []placement.NodeID
	for _, node := range v.Wish[:min(len(v.Wish), v.Target)] {
		if !slices.Contains(voters, node) && !v.Removed[node] {
			out = append(out, node)
		}
	}
	return out
}

// takeOutStopped removes a replica that has stopped, if the others can go on without it.
func (v *planView) takeOutStopped() action {
	voters, live := 0, 0
	for _, r := range v.Replicas {
		if r.Voter {
			voters++
		}
		if r.Voter && r.Live {
			live++
		}
	}
	for _, r := range v.Replicas {
		switch {
		case !r.Stopped || !v.Live[r.Node]:
		case !r.Voter:
			return action{Kind: actRemoveLearner, Node: r.Node}
		case live > voters/2:
			return action{Kind: actChange, Remove: []placement.NodeID{r.Node}}
		}
	}
	return action{}
}

// dropLearner removes a learner that nobody wants there.
func (v *planView) dropLearner(voters, learners []placement.NodeID) action {
	for _, r := range v.Replicas {
		if !r.Voter && !slices.Contains(voters, r.Node) && !slices.Contains(learners, r.Node) {
			return action{Kind: actRemoveLearner, Node: r.Node}
		}
	}
	return action{}
}

// addLearner adds a replica where one is wanted and could live, and has room.
func (v *planView) addLearner(voters, learners []placement.NodeID) action {
	for _, node := range slices.Concat(voters, learners) {
		if v.at(node) == nil && v.Live[node] && v.Avoid[node] != DiskLow {
			return action{Kind: actAddLearner, Node: node}
		}
	}
	return action{}
}

// changeVoters brings the voters to the target, once everyone who is to be promoted is ready.
func (v *planView) changeVoters(target, learners []placement.NodeID) action {
	change := action{Kind: actChange}
	live := 0
	for _, node := range target {
		r := v.at(node)
		if r == nil {
			return action{} // It could not be added yet.
		}
		if !r.Voter {
			if !r.Live || !r.CaughtUp {
				return action{}
			}
			change.Promote = append(change.Promote, node)
		}
		if r.Live {
			live++
		}
	}
	for _, r := range v.Replicas {
		if !r.Voter || slices.Contains(target, r.Node) {
			continue
		}
		if slices.Contains(learners, r.Node) {
			change.Demote = append(change.Demote, r.Node)
		} else {
			change.Remove = append(change.Remove, r.Node)
		}
	}
	if len(change.Promote)+len(change.Demote)+len(change.Remove) == 0 || live < len(target)/2+1 {
		return action{}
	}
	if slices.Contains(target, v.Self) {
		return change
	}
	// The leader itself is to go: hand over to a voter that stays; where none does, promote first.
	if heir, ok := v.heir(target, noLead); ok {
		return action{Kind: actTransfer, Node: heir}
	}
	if len(change.Promote) > 0 {
		// One is enough to hand over to. More could make a larger odd number of voters, which stays.
		return action{Kind: actChange, Promote: change.Promote[:1]}
	}
	return action{}
}

// heir returns the least reluctant of the nodes that could lead, the first of those that are equally
// so; it must be less reluctant than the bound.
func (v *planView) heir(among []placement.NodeID, below Reluctance) (placement.NodeID, bool) {
	var best placement.NodeID
	found := false
	for _, node := range among {
		r := v.at(node)
		if node == v.Self || r == nil || !r.Voter || !r.Live || !r.CaughtUp || v.reluctance(node) >= below {
			continue
		}
		best, below, found = node, v.reluctance(node), true
	}
	return best, found
}

// moveLead moves ownership to the ring's first choice, or away from a node that had better not own.
func (v *planView) moveLead() action {
	if own := v.reluctance(v.Self); own > Willing {
		nodes := slices.Clone(v.Wish)
		for _, r := range v.Replicas {
			nodes = append(nodes, r.Node)
		}
		if heir, ok := v.heir(nodes, own); ok {
			return action{Kind: actTransfer, Node: heir}
		}
	}
	if !v.Stable || len(v.Wish) == 0 || v.Wish[0] == v.Self || v.reluctance(v.Wish[0]) > v.reluctance(v.Self) {
		return action{}
	}
	if heir, ok := v.heir(v.Wish[:1], noLead); ok {
		return action{Kind: actTransfer, Node: heir}
	}
	// The ring wishes a node that does not vote and never will while there are two of them: the
	// move goes through both voting.
	return v.swapSole()
}

// swapSole moves the only vote of a shard to the ring's first choice, by way of both voting:
// {a} to {a, b}, ownership to b, then {b} with a as its learner.
func (v *planView) swapSole() action {
	first := v.at(v.Wish[0])
	if first == nil || first.Voter || !first.Live || !first.CaughtUp || v.NoLead[first.Node] {
		return action{}
	}
	for _, r := range v.Replicas {
		if r.Voter && r.Node != v.Self {
			return action{}
		}
	}
	return action{Kind: actChange, Promote: []placement.NodeID{first.Node}}
}
