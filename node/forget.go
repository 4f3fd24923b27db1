package node

import (
	"context"
	"log/slog"
	"slices"
	"time"

	"github.com/holdfast-io/holdfast/cluster"
	"github.com/holdfast-io/holdfast/placement"
	"github.com/holdfast-io/holdfast/replica"
)

// forgetTimeout bounds one look at what removed nodes still hold.
const forgetTimeout = 1500 * time.Millisecond

// forgetRemoved drops the nodes that were removed for good, are gone, and hold nothing any more, from
// what this node knows and stores of the others. It asks everybody only while there is such a node.
func (n *Node) forgetRemoved() {
	members, removed := n.cluster.Members(), n.facts.Removed()
	if !slices.ContainsFunc(members, func(m cluster.Member) bool { return isGone(&m, removed) }) {
		return
	}
	ctx, cancel := context.WithTimeout(n.ctx, forgetTimeout)
	defer cancel()
	views, missing := n.views(ctx, members)
	if len(missing) > 0 {
		return // Who does not answer may know of a replica there.
	}
	for _, id := range forgettable(members, removed, bestViews(views, n.id.Shards)) {
		n.log.Info("a removed node is forgotten", slog.String("name", n.nameOf(id)), slog.String("id", id.String()))
		n.cluster.Forget(id)
	}
	n.poke()
}

func isGone(m *cluster.Member, removed map[placement.NodeID]bool) bool {
	return removed[m.ID] && m.State != cluster.Alive
}

// forgettable returns the nodes that are gone for good and that no owner of a shard lists. While a
// shard has no owner nobody can say.
func forgettable(members []cluster.Member, removed map[placement.NodeID]bool, best []*replica.ShardStatus) []placement.NodeID {
	holds := make(map[placement.NodeID]bool)
	for _, v := range best {
		if v == nil || !v.Owns {
			return nil
		}
		for _, id := range slices.Concat(v.Voters, v.Learners) {
			holds[id] = true
		}
	}
	var out []placement.NodeID
	for i := range members {
		if m := &members[i]; isGone(m, removed) && !holds[m.ID] {
			out = append(out, m.ID)
		}
	}
	return out
}
