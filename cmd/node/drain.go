package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	holdfastv1 "github.com/holdfast-io/holdfast/proto/holdfast/v1"
)

type drainCmd struct {
	addrFlag

	Node string        `arg:"" help:"Name or id of the node, which may be dead."`
	Off  bool          `help:"End it: the node owns its part again." env:"-"`
	Wait time.Duration `help:"How long to wait until the node owns nothing any more, showing how far it is; 0 does not wait." default:"60s" env:"-"`
}

// Run implements the command.
func (c *drainCmd) Run(ctx context.Context, e env) error {
	if c.Wait < 0 {
		return usagef("--wait %s: must not be negative", c.Wait)
	}
	conn, err := c.dial()
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	admin := holdfastv1.NewAdminClient(conn)
	call, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	resp, err := admin.DrainNode(call, &holdfastv1.DrainNodeRequest{Node: c.Node, Off: c.Off})
	if err != nil {
		return c.explain(err)
	}
	if c.Off {
		_, err := fmt.Fprintf(e.stdout, "node %s (%s) is not drained any more; it gets its shards back in a moment\n", c.Node, resp.GetId())
		return err
	}
	_, _ = fmt.Fprintf(e.stdout, "node %s (%s) is to own nothing until 'holdfast drain --off %s'\n", c.Node, resp.GetId(), c.Node)
	if c.Wait == 0 {
		return nil
	}
	return c.waitDrained(ctx, e, admin, resp.GetId())
}

// waitDrained shows progress until the node owns nothing.
func (c *drainCmd) waitDrained(ctx context.Context, e env, admin holdfastv1.AdminClient, id string) error {
	end := time.NewTimer(c.Wait)
	defer end.Stop()
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	last := -1
	for {
		call, cancel := context.WithTimeout(ctx, c.Timeout)
		st, err := admin.Status(call, &holdfastv1.StatusRequest{})
		cancel()
		if err != nil {
			return c.explain(err)
		}
		left := ownedShards(st, id)
		if left != last {
			_, _ = fmt.Fprintf(e.stderr, "%d shards left on %s\n", left, c.Node)
			last = left
		}
		switch {
		case left == 0:
			_, err := fmt.Fprintf(e.stdout, "node %s owns nothing\n", c.Node)
			return err
		case !othersCanOwn(st, id):
			return fmt.Errorf("node %s goes on owning %d shards: no other node that is alive, has room and is not drained could own them; they move when there is one", c.Node, left)
		}
		select {
		case <-ctx.Done():
			return errors.New("interrupted; the draining goes on, see 'holdfast status'")
		case <-end.C:
			return fmt.Errorf("node %s still owns %d shards after %s: handlers there may hold their turn, or no other node with a replica can own them; the draining goes on, see 'holdfast status'", c.Node, left, c.Wait)
		case <-tick.C:
		}
	}
}

// ownedShards counts the shards that a node owns.
func ownedShards(st *holdfastv1.StatusResponse, id string) int {
	for _, n := range st.GetNodes() {
		if n.GetId() == id {
			return int(n.GetOwns())
		}
	}
	return 0
}

// othersCanOwn says whether there is a node that shards could be handed to.
func othersCanOwn(st *holdfastv1.StatusResponse, id string) bool {
	for _, n := range st.GetNodes() {
		if n.GetId() != id && n.GetState() == "alive" && !n.GetDrained() && !n.GetDiskFull() {
			return true
		}
	}
	return false
}
