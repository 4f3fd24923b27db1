package node

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/holdfast-io/holdfast/cluster"
	"github.com/holdfast-io/holdfast/placement"
	"github.com/holdfast-io/holdfast/replica"
	"github.com/holdfast-io/holdfast/storage"
)

// askInterval is how often a node without a cluster asks its seeds again.
const askInterval = 500 * time.Millisecond

// verdict is what a node without a cluster does next.
type verdict int

const (
	verdictWait verdict = iota
	verdictJoin
	verdictCreate
)

// seedReply is one seed's answer, or why there is none.
type seedReply struct {
	Seed   string
	Answer cluster.Answer
	Err    error
}

// decide says what to do with the seeds' answers, and why, in words. It is what keeps an emptied
// disk from making a second cluster: any cluster that answers is joined; a cluster is created only
// with bootstrap, and then only when every seed is there to say that it knows none and would not
// create one either.
func decide(bootstrap bool, replies []seedReply) (verdict, cluster.Answer, string) {
	for _, r := range replies {
		if r.Err == nil && r.Answer.ClusterID != "" {
			return verdictJoin, r.Answer, ""
		}
	}
	if !bootstrap {
		for _, r := range replies {
			if r.Err != nil {
				return verdictWait, cluster.Answer{}, fmt.Sprintf("no seed has a cluster yet; %v", r.Err)
			}
		}
		return verdictWait, cluster.Answer{}, "no seed has a cluster yet; start one node with --bootstrap"
	}
	for _, r := range replies {
		switch {
		case r.Err != nil:
			return verdictWait, cluster.Answer{}, fmt.Sprintf("will not create a cluster before every seed has said that it knows none: %v", r.Err)
		case r.Answer.Bootstrap:
			return verdictWait, cluster.Answer{}, fmt.Sprintf("seed %s (%s) was given --bootstrap too; give it to one node only", r.Seed, r.Answer.Name)
		}
	}
	return verdictCreate, cluster.Answer{}, ""
}

// enter gives an empty store its identity, by joining the cluster of a seed or creating one. It
// blocks until then, saying why it waits.
func (n *Node) enter(ctx context.Context) error {
	if !n.cfg.Bootstrap && len(n.cfg.Join) == 0 {
		return fmt.Errorf("%s has no cluster yet: pass --bootstrap to create one, or --join HOST:PORT with the gossip address of a node to join", n.cfg.DataDir)
	}
	tick := time.NewTicker(askInterval)
	defer tick.Stop()
	last := ""
	for {
		v, answer, why := decide(n.cfg.Bootstrap, askAll(ctx, n.cfg.Join, n.cfg.GossipKey, n.gossip.ID()))
		switch v {
		case verdictJoin:
			n.log.Info("joining cluster", slog.String("cluster_id", answer.ClusterID), slog.String("through", answer.Name))
			return n.adopt(answer)
		case verdictCreate:
			return n.create()
		case verdictWait:
			if why != last {
				n.log.Warn("waiting for a cluster", slog.String("reason", why))
				n.setWaiting("waiting for a cluster: " + why)
				last = why
			}
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
	}
}

// askAll asks every seed at once. A seed that turns out to be this node itself, as in a list shared
// by all nodes, says nothing about others and is left out. It is known by its listener: another node
// may have been given the same name by mistake.
func askAll(ctx context.Context, seeds []string, key []byte, self string) []seedReply {
	replies := make([]seedReply, len(seeds))
	done := make(chan struct{})
	for i, seed := range seeds {
		go func() {
			defer func() { done <- struct{}{} }()
			answer, err := cluster.Ask(ctx, seed, key)
			replies[i] = seedReply{Seed: seed, Answer: answer, Err: err}
		}()
	}
	for range seeds {
		<-done
	}
	return slices.DeleteFunc(replies, func(r seedReply) bool {
		return r.Err == nil && r.Answer.Listener == self
	})
}

// create makes a new cluster on this node alone.
func (n *Node) create() error {
	id, err := randomHex(16)
	if err != nil {
		return err
	}
	n.log.Info("creating cluster", slog.String("cluster_id", id), slog.Int("shards", n.cfg.Shards), slog.Int("replicas", n.cfg.Replicas))
	identity, err := n.identity(id, n.cfg.Shards, n.cfg.Replicas)
	if err != nil {
		return err
	}
	if err := replica.Bootstrap(n.store, identity); err != nil {
		return fmt.Errorf("create %d shards: %w", n.cfg.Shards, err)
	}
	return nil
}

// adopt makes this node one of the cluster that answered.
func (n *Node) adopt(a cluster.Answer) error {
	identity, err := n.identity(a.ClusterID, a.Shards, a.Replicas)
	if err != nil {
		return err
	}
	if err := n.store.SetIdentity(identity, nil); err != nil {
		return fmt.Errorf("write the node's identity: %w", err)
	}
	return nil
}

// identity draws a new identity for this node in a cluster.
func (n *Node) identity(clusterID string, shards, replicas int) (storage.Identity, error) {
	self, err := newNodeID()
	if err != nil {
		return storage.Identity{}, err
	}
	uuid, err := randomHex(16)
	return storage.Identity{
		ClusterID: clusterID, Node: self, StoreUUID: uuid, Shards: shards, Replicas: replicas, Name: n.cfg.Name,
	}, err
}

// checkIdentity compares a store that has a cluster with what the command line says.
func checkIdentity(id storage.Identity, cfg Config) error {
	if id.Name != cfg.Name {
		return fmt.Errorf("%s belongs to node %q, not %q: pass --name %s, or another --data-dir", cfg.DataDir, id.Name, cfg.Name, id.Name)
	}
	if id.ClusterID == "" || id.Node == 0 || id.Shards == 0 {
		return errors.New("the stored identity is incomplete: the directory is damaged; move it away and join again")
	}
	return nil
}

func newNodeID() (placement.NodeID, error) {
	var raw [8]byte
	for {
		if _, err := rand.Read(raw[:]); err != nil {
			return 0, fmt.Errorf("draw node id: %w", err)
		}
		if id := placement.NodeID(binary.BigEndian.Uint64(raw[:])); id != 0 {
			return id, nil
		}
	}
}

func randomHex(size int) (string, error) {
	raw := make([]byte, size)
	if _, err := rand.Read(raw); err != nil {
		return "", fmt.Errorf("draw random id: %w", err)
	}
	return hex.EncodeToString(raw), nil
}
