package node

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/holdfast-io/holdfast/fault"
	"github.com/holdfast-io/holdfast/placement"
)

// MoveShard hands a shard that this node owns to another node that keeps a voting replica of it, by
// its name or id, as a planned move does, and returns when that one owns it. A move that a handler holds
// up is begun again until ctx ends. It is for tests of classes, whose objects can be moved in this way
// between any two calls: in operation the ring decides, and takes the shard back when its wish has been
// the same for LeaderStable.
func (n *Node) MoveShard(ctx context.Context, shard placement.ShardID, to string) error {
	if int(shard) >= n.id.Shards {
		return fault.New(fault.InvalidArgument, "shard %d: the cluster has %d", shard, n.id.Shards)
	}
	target, err := n.findMember(to)
	if err != nil {
		return err
	}
	owner, _, _ := n.host.Leader(shard)
	if owner != n.id.Node {
		return fmt.Errorf("shard %d is owned by %s, not by this node", shard, n.nameOf(owner))
	}
	t := time.NewTicker(2 * time.Millisecond)
	defer t.Stop()
	for {
		switch owner, _, ok := n.host.Leader(shard); {
		case owner == target.ID:
			return nil
		case ok && owner != n.id.Node:
			return fmt.Errorf("shard %d went to %s instead of %s", shard, n.nameOf(owner), target.Name)
		case ok:
			err = n.host.Transfer(ctx, shard, target.ID)
		default: // It is on its way.
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("move shard %d to %s: %w", shard, target.Name, errors.Join(context.Cause(ctx), err))
		case <-t.C:
		}
	}
}
