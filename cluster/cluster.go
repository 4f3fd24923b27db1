// Package cluster says who is alive and where each node listens, by gossip
// (hashicorp/memberlist). It only ever suggests: a stale view costs a hop or a retry, and nothing
// that must be right rests on it.
//
// It refuses nodes of another cluster, and a second node under the name of a living one, and says
// so on both sides.
package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
	"golang.org/x/sync/errgroup"

	"github.com/holdfast-io/holdfast/placement"
)

// Addresses are where a node listens, as others reach it.
type Addresses struct {
	GRPC   string `json:"g,omitempty"`
	Peer   string `json:"p,omitempty"`
	Gossip string `json:"o,omitempty"`
	HTTP   string `json:"h,omitempty"`
	Admin  string `json:"a,omitempty"`
}

// State is what is known of a member.
type State string

// The states. Stopping is not leaving: a node that stops is dead until it comes back or is removed.
const (
	Alive State = "alive"
	Dead  State = "dead"
	// Replaced says that another node carries the dead member's name now.
	Replaced State = "replaced"
)

// Member is one node, as it describes itself.
type Member struct {
	ID        placement.NodeID `json:"i"`
	Name      string           `json:"n"`
	Addresses Addresses        `json:"d"`
	Version   string           `json:"v,omitempty"`
	Boot      uint64           `json:"b"`
	// NoLead says that the node must not own shards: it lacks a class, or is stopping.
	NoLead bool `json:"l,omitempty"`
	// Stopping says that it is about to stop, and hands over what it owns.
	Stopping bool `json:"s,omitempty"`
	// DiskLow and DiskFull say that its disk has little room, or none for writes.
	DiskLow  bool `json:"w,omitempty"`
	DiskFull bool `json:"f,omitempty"`
	// Level is the highest feature level that it knows; 0 is a release from before this was told.
	Level uint32 `json:"e,omitempty"`
	// State is this node's view, not the member's.
	State State `json:"-"`
}

// Config of a Cluster.
type Config struct {
	ClusterID string
	Self      Member
	// Listener is the gossip port; the Cluster closes it.
	Listener *Listener
	// AdvertiseIP is the IP that other nodes reach the port under.
	AdvertiseIP string
	Key         []byte
	Seeds       []string
	// Known are the members of an earlier boot: a restart needs no seed.
	Known  []Member
	Logger *slog.Logger
	// OnChange is told that Members may have changed. It must not block.
	OnChange func()
	// RejoinEvery is how often dead members and seeds are tried: default 1 s.
	RejoinEvery time.Duration

	// suspicionMult is how many probes long a member that does not answer is only suspect: default 3,
	// more in tests in which nobody must die of a busy machine.
	suspicionMult int
}

// metaBytesMax is memberlist's own limit.
const metaBytesMax = memberlist.MetaMaxSize

// Cluster is this node's view of the others. Methods are safe for concurrent use.
type Cluster struct {
	cfg    Config
	logger *slog.Logger
	list   *memberlist.Memberlist

	mu      sync.Mutex
	self    Member
	members map[placement.NodeID]*Member
	refused map[string]bool
	// lastRefusal is why a node was last refused; kept for as long as this node is alone.
	lastRefusal string

	cancel context.CancelFunc
	wg     sync.WaitGroup
}

// Start joins the gossip. It does not wait for anybody to answer: it goes on trying the seeds and
// the known members for as long as some are not alive.
func Start(cfg Config) (*Cluster, error) {
	if cfg.RejoinEvery == 0 {
		cfg.RejoinEvery = time.Second
	}
	if cfg.suspicionMult == 0 {
		cfg.suspicionMult = 3
	}
	c := &Cluster{cfg: cfg, logger: cfg.Logger, self: cfg.Self, members: make(map[placement.NodeID]*Member), refused: make(map[string]bool)}
	c.self.State = Alive
	c.members[cfg.Self.ID] = &c.self
	for _, m := range cfg.Known {
		if m.ID != cfg.Self.ID {
			m.State = Dead // Until it says otherwise.
			c.members[m.ID] = &m
		}
	}
	longest := c.self
	longest.NoLead, longest.Stopping, longest.DiskLow, longest.DiskFull = true, true, true, true
	if meta, err := json.Marshal(longest); err != nil || len(meta) > metaBytesMax {
		return nil, fmt.Errorf("this node's name and addresses take %d bytes, at most %d can be gossiped: shorten them", len(meta), metaBytesMax)
	}
	cfg.Listener.owner.Store(c)
	mc := memberlist.DefaultLANConfig()
	mc.Name = cfg.Self.ID.String()
	mc.Label = cfg.ClusterID
	mc.Transport = cfg.Listener
	mc.BindPort = cfg.Listener.Port()
	mc.AdvertiseAddr = cfg.AdvertiseIP
	mc.AdvertisePort = cfg.Listener.Port()
	mc.SecretKey = cfg.Key
	// Tuned for noticing within about a second: detection = probe + suspicion.
	mc.ProbeInterval, mc.ProbeTimeout = 200*time.Millisecond, 100*time.Millisecond
	mc.SuspicionMult, mc.SuspicionMaxTimeoutMult = cfg.suspicionMult, 3
	mc.GossipInterval = 50 * time.Millisecond
	mc.PushPullInterval = 5 * time.Second
	// An address that answers nothing holds up a round of joins for so long.
	mc.TCPTimeout = 2 * time.Second
	// A node that comes back on another address is taken back once it was seen dead.
	mc.DeadNodeReclaimTime = time.Millisecond
	mc.LogOutput = nil
	mc.Logger = slog.NewLogLogger(cfg.Logger.Handler(), slog.LevelDebug)
	mc.Delegate = delegate{c}
	mc.Events = events{c}
	mc.Alive = alive{c}
	mc.Merge = merge{c}
	list, err := memberlist.Create(mc)
	if err != nil {
		return nil, fmt.Errorf("start gossip: %w", err)
	}
	c.mu.Lock()
	c.list = list
	c.mu.Unlock()
	ctx, cancel := context.WithCancel(context.Background())
	c.cancel = cancel
	c.wg.Go(func() { c.rejoin(ctx) })
	return c, nil
}

// Members returns everyone who is or was a member, this node included, by id.
func (c *Cluster) Members() []Member {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := make([]Member, 0, len(c.members))
	for _, m := range c.members {
		out = append(out, *m)
	}
	slices.SortFunc(out, func(a, b Member) int {
		if a.ID < b.ID {
			return -1
		}
		return 1
	})
	return out
}

// Member returns one.
func (c *Cluster) Member(id placement.NodeID) (Member, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	m, ok := c.members[id]
	if !ok {
		return Member{}, false
	}
	return *m, true
}

// Alone returns why this node sees no other that is alive, as far as that is because one was refused,
// or "".
func (c *Cluster) Alone() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, m := range c.members {
		if m.ID != c.cfg.Self.ID && m.State == Alive {
			return ""
		}
	}
	return c.lastRefusal
}

// Forget drops a member that was removed for good.
func (c *Cluster) Forget(id placement.NodeID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if m := c.members[id]; m != nil && m.State != Alive {
		delete(c.members, id)
	}
}

// SetNoLead changes what this node says of itself.
func (c *Cluster) SetNoLead(noLead bool) {
	c.describe(func(m *Member) { m.NoLead = noLead || m.Stopping })
}

// SetStopping says that this node is about to stop: nothing must be handed to it any more.
func (c *Cluster) SetStopping() {
	c.describe(func(m *Member) { m.NoLead, m.Stopping = true, true })
}

// SetDisk says how much room this node's disk has.
func (c *Cluster) SetDisk(low, full bool) {
	c.describe(func(m *Member) { m.DiskLow, m.DiskFull = low, full })
}

// describe changes what this node says of itself, and tells the others.
func (c *Cluster) describe(change func(*Member)) {
	c.mu.Lock()
	old := c.self
	change(&c.self)
	same := c.self == old
	c.mu.Unlock()
	if !same {
		if err := c.list.UpdateNode(time.Second); err != nil {
			c.logger.Debug("gossip an update", slog.Any("error", err))
		}
	}
}

// Close stops gossiping without leaving: the others notice that this node is gone, and keep its
// place for it.
func (c *Cluster) Close() error {
	c.cancel()
	c.wg.Wait()
	if err := c.list.Shutdown(); err != nil {
		return fmt.Errorf("stop gossip: %w", err)
	}
	return nil
}

// rejoin tries the seeds and every member that is not alive, again and again: gossip that was cut
// in two does not heal by itself.
func (c *Cluster) rejoin(ctx context.Context) {
	t := time.NewTicker(c.cfg.RejoinEvery)
	defer t.Stop()
	for {
		var round errgroup.Group
		round.SetLimit(joinsMax)
		for _, addr := range c.missing() {
			round.Go(func() error { c.join(ctx, addr); return nil })
		}
		_ = round.Wait()
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
	}
}

// joinsMax is how many addresses are tried at a time: those that answer nothing must not keep others
// waiting.
const joinsMax = 16

func (c *Cluster) join(ctx context.Context, addr string) {
	if ctx.Err() != nil {
		return
	}
	if _, err := c.list.Join([]string{addr}); err != nil {
		c.logger.Debug("join", slog.String("address", addr), slog.Any("error", err))
		c.explain(ctx, addr)
	}
}

// explainTimeout bounds the question to a node that can't be joined.
const explainTimeout = 500 * time.Millisecond

// explain says why a node that is there can't be joined: for an operator a refusal by memberlist
// looks like nobody's answer.
func (c *Cluster) explain(ctx context.Context, addr string) {
	ctx, cancel := context.WithTimeout(ctx, explainTimeout)
	defer cancel()
	answer, err := Ask(ctx, addr, c.cfg.Key)
	switch {
	case errors.Is(err, errKey):
		_ = c.refuse(err)
	case err == nil && answer.ClusterID != "" && answer.ClusterID != c.cfg.ClusterID:
		_ = c.refuse(fmt.Errorf("node %s at %s is of cluster %q, this one of cluster %q: correct --join, or start with an empty data directory to join that cluster",
			answer.Name, addr, answer.ClusterID, c.cfg.ClusterID))
	}
}

// missing returns gossip addresses that nobody alive has.
func (c *Cluster) missing() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	alive := make(map[string]bool)
	for _, m := range c.members {
		if m.State == Alive {
			alive[m.Addresses.Gossip] = true
		}
	}
	var out []string
	add := func(addr string) {
		if addr != "" && !alive[addr] && !slices.Contains(out, addr) {
			out = append(out, addr)
		}
	}
	for _, m := range c.members {
		if m.State == Dead {
			add(m.Addresses.Gossip)
		}
	}
	if len(alive) == 1 { // Nobody but this node.
		for _, seed := range c.cfg.Seeds {
			host, port, err := splitHostPort(seed)
			if err == nil {
				add(net.JoinHostPort(host, strconv.Itoa(port)))
			}
		}
	}
	return out
}

// take notes what a node says of itself.
func (c *Cluster) take(n *memberlist.Node, state State) {
	var m Member
	if err := json.Unmarshal(n.Meta, &m); err != nil {
		c.logger.Warn("a member's description can't be read", slog.String("member", n.Name), slog.Any("error", err))
		return
	}
	m.State = state
	c.mu.Lock()
	if m.ID != c.cfg.Self.ID {
		c.members[m.ID] = &m
		if state == Alive {
			// A new node under the name of a dead one takes its place.
			for _, other := range c.members {
				if other.ID != m.ID && other.Name == m.Name && other.State == Dead {
					other.State = Replaced
				}
			}
		}
	}
	c.mu.Unlock()
	if c.cfg.OnChange != nil {
		c.cfg.OnChange()
	}
}

// admit refuses a node that must not be here.
func (c *Cluster) admit(n *memberlist.Node) error {
	var m Member
	if err := json.Unmarshal(n.Meta, &m); err != nil {
		return c.refuse(fmt.Errorf("member %s at %s: its description can't be read: %w", n.Name, n.Address(), err))
	}
	if m.ID.String() != n.Name {
		return c.refuse(fmt.Errorf("member %s at %s says it is %s", n.Name, n.Address(), m.ID))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, other := range c.members {
		if other.Name == m.Name && other.ID != m.ID && other.State == Alive {
			return c.refuseLocked(fmt.Errorf("node %s at %s has the name %q of the living node %s at %s: give every node a name of its own",
				m.ID, n.Address(), m.Name, other.ID, other.Addresses.Gossip))
		}
	}
	return nil
}

func (c *Cluster) refuse(err error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.refuseLocked(err)
}

// refuseLocked logs a refusal the first time.
func (c *Cluster) refuseLocked(err error) error {
	c.lastRefusal = err.Error()
	if !c.refused[err.Error()] && len(c.refused) < 1000 {
		c.refused[err.Error()] = true
		c.logger.Warn("refused a node", slog.Any("error", err))
	}
	return err
}

// delegate implements memberlist.Delegate: what this node says of itself.
type delegate struct{ c *Cluster }

// NodeMeta implements memberlist.Delegate.
func (d delegate) NodeMeta(limit int) []byte {
	d.c.mu.Lock()
	defer d.c.mu.Unlock()
	meta, err := json.Marshal(d.c.self)
	if err != nil || len(meta) > limit {
		return nil
	}
	return meta
}

// NotifyMsg implements memberlist.Delegate.
func (delegate) NotifyMsg([]byte) {}

// GetBroadcasts implements memberlist.Delegate.
func (delegate) GetBroadcasts(int, int) [][]byte { return nil }

// LocalState implements memberlist.Delegate.
func (delegate) LocalState(bool) []byte { return nil }

// MergeRemoteState implements memberlist.Delegate.
func (delegate) MergeRemoteState([]byte, bool) {}

// events implements memberlist.EventDelegate.
type events struct{ c *Cluster }

// NotifyJoin implements memberlist.EventDelegate.
func (e events) NotifyJoin(n *memberlist.Node) { e.c.take(n, Alive) }

// NotifyLeave implements memberlist.EventDelegate.
func (e events) NotifyLeave(n *memberlist.Node) { e.c.take(n, Dead) }

// NotifyUpdate implements memberlist.EventDelegate.
func (e events) NotifyUpdate(n *memberlist.Node) { e.c.take(n, Alive) }

// alive implements memberlist.AliveDelegate.
type alive struct{ c *Cluster }

// NotifyAlive implements memberlist.AliveDelegate.
func (a alive) NotifyAlive(n *memberlist.Node) error {
	if n.Name == a.c.cfg.Self.ID.String() {
		return nil
	}
	return a.c.admit(n)
}

// merge implements memberlist.MergeDelegate.
type merge struct{ c *Cluster }

// NotifyMerge implements memberlist.MergeDelegate.
func (m merge) NotifyMerge(peers []*memberlist.Node) error {
	var errs []error
	for _, n := range peers {
		if n.State == memberlist.StateAlive && !strings.EqualFold(n.Name, m.c.cfg.Self.ID.String()) {
			errs = append(errs, m.c.admit(n))
		}
	}
	return errors.Join(errs...)
}
