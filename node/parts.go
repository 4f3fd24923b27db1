package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/holdfast-io/holdfast/actor"
	"github.com/holdfast-io/holdfast/cluster"
	"github.com/holdfast-io/holdfast/fault"
	"github.com/holdfast-io/holdfast/gateway"
	"github.com/holdfast-io/holdfast/node/system"
	"github.com/holdfast-io/holdfast/peer"
	"github.com/holdfast-io/holdfast/peer/frame"
	"github.com/holdfast-io/holdfast/placement"
	systemv1 "github.com/holdfast-io/holdfast/proto/holdfast/system/v1"
	"github.com/holdfast-io/holdfast/replica"
	"github.com/holdfast-io/holdfast/storage"
)

// hostLog lets objects write through a replica.Host.
type hostLog struct{ *replica.Host }

// Propose implements actor.Log.
func (h hostLog) Propose(shard placement.ShardID, seg *storage.Segment, s actor.Settler) {
	h.Host.Propose(shard, seg, s)
}

// Confirm implements actor.Log.
func (h hostLog) Confirm(shard placement.ShardID, term uint64, c actor.Confirmer, token uint64) {
	h.Host.Confirm(shard, term, c, token)
}

// objectCalls lets objects call others through the node's router, which comes after the objects.
type objectCalls struct{ n *Node }

// Call implements actor.Caller.
func (o objectCalls) Call(ctx context.Context, c *actor.Outgoing, done func(actor.Result)) func(error) {
	if o.n.facts.Level() < system.LevelChains {
		done(actor.Result{Err: fault.New(fault.NoOwner, "the cluster is being upgraded: objects can call others when every node runs the later release")})
		return func(error) {}
	}
	return o.n.router.Call(ctx, c, done)
}

// NewUniqueID implements actor.Caller.
func (o objectCalls) NewUniqueID(ctx context.Context, class string) (placement.ObjectID, error) {
	return o.n.router.NewUniqueID(ctx, class)
}

// raftTransport lets a replica.Host send through peer.Peers.
type raftTransport struct{ *peer.Peers }

// Send implements replica.Transport.
func (t raftTransport) Send(to placement.NodeID, data []byte) bool { return t.SendRaft(to, data) }

// routerFacts are the facts as the router asks for them: what they say is running here when a Refresh
// returns.
type routerFacts struct {
	*factsCache

	n *Node
}

// Refresh implements router.Facts.
func (f routerFacts) Refresh(ctx context.Context) error {
	if err := f.factsCache.Refresh(ctx); err != nil {
		return err
	}
	_ = f.n.workers.catchUp(ctx) // Who is not through may still be asked for something else.
	return nil
}

// listeners are the ports but the gossip's, all opened before anything starts, so that a port that
// is taken stops the node before it has done anything.
type listeners struct{ grpc, peer, http, admin net.Listener }

func listen(cfg Config) (listeners, error) {
	var l listeners
	for _, one := range []struct {
		flag, addr string
		into       *net.Listener
	}{
		{"grpc", cfg.GRPC, &l.grpc}, {"peer", cfg.Peer, &l.peer}, {"http", cfg.HTTP, &l.http}, {"admin", cfg.Admin, &l.admin},
	} {
		ln, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", one.addr)
		if err != nil {
			l.close()
			return listeners{}, fmt.Errorf("--%s: %w", one.flag, err)
		}
		*one.into = ln
		if !isLoopback(hostOf(one.addr)) {
			cfg.Logger.Warn("listening beyond loopback without TLS", slog.String("port", one.flag), slog.String("address", ln.Addr().String()), slog.String("risk", exposed[one.flag]))
		}
	}
	if len(cfg.GossipKey) == 0 && !isLoopback(hostOf(cfg.Gossip)) {
		cfg.Logger.Warn("listening beyond loopback without a gossip key", slog.String("port", "gossip"), slog.String("address", cfg.Gossip), slog.String("risk", exposed["gossip"]))
	}
	return l, nil
}

// exposed says what whoever reaches a port can do, for there is no authentication.
var exposed = map[string]string{
	"grpc":   "whoever reaches it can call every object and remove nodes",
	"peer":   "whoever reaches it can speak as a node, and so read and change everything",
	"http":   "whoever reaches it can call workers",
	"admin":  "whoever reaches it can read metrics",
	"gossip": "whoever reaches it can say which nodes there are and where",
}

func (l *listeners) close() {
	for _, ln := range []net.Listener{l.grpc, l.peer, l.http, l.admin} {
		if ln != nil {
			_ = ln.Close()
		}
	}
}

func hostOf(addr string) string {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return addr
	}
	return host
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// startAdmin serves health and metrics from the first moment on: a node that waits says why.
func (n *Node) startAdmin() {
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), &nodeCollector{n}, &classCollector{n: n})
	n.admin = &http.Server{
		Handler:           gateway.NewAdminHandler(gateway.AdminConfig{Ready: n.readiness, Gatherer: registry}),
		ReadHeaderTimeout: 5 * time.Second,
	}
	n.http = &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			serving := n.serving.Load()
			if serving == nil {
				http.Error(w, "The node is starting.", http.StatusServiceUnavailable)
				return
			}
			serving.ServeHTTP(w, req)
		}),
		ReadHeaderTimeout: 5 * time.Second,
	}
	n.wg.Go(func() { n.serve("admin", func() error { return n.admin.Serve(n.listeners.admin) }) })
	n.wg.Go(func() { n.serve("http", func() error { return n.http.Serve(n.listeners.http) }) })
}

// self describes this node to the others, and returns the IP that gossip advertises.
func (n *Node) self() (cluster.Member, string, error) {
	host, ip, err := advertise(n.cfg)
	if err != nil {
		return cluster.Member{}, "", err
	}
	at := func(l net.Listener) string {
		listenHost, port, err := net.SplitHostPort(l.Addr().String())
		if err != nil {
			return l.Addr().String()
		}
		if parsed := net.ParseIP(listenHost); parsed == nil || parsed.IsUnspecified() {
			listenHost = host
		}
		return net.JoinHostPort(listenHost, port)
	}
	return cluster.Member{
		ID: n.id.Node, Name: n.id.Name, Version: n.cfg.Version, Boot: n.store.Boot(), Level: system.FeatureLevel,
		Addresses: cluster.Addresses{
			GRPC: at(n.listeners.grpc), Peer: at(n.listeners.peer), HTTP: at(n.listeners.http), Admin: at(n.listeners.admin),
			Gossip: net.JoinHostPort(host, strconv.Itoa(n.gossip.Port())),
		},
	}, ip, nil
}

// advertise returns the host that others reach this node by, and its IP.
func advertise(cfg Config) (host, ip string, err error) {
	host = cfg.Advertise
	if host == "" {
		host = hostOf(cfg.Gossip)
		if parsed := net.ParseIP(host); host == "" || parsed != nil && parsed.IsUnspecified() {
			if host, err = privateIP(); err != nil {
				return "", "", err
			}
		}
	}
	if parsed := net.ParseIP(host); parsed != nil {
		return host, host, nil
	}
	ips, err := net.DefaultResolver.LookupIP(context.Background(), "ip4", host)
	if err != nil || len(ips) == 0 {
		return "", "", fmt.Errorf("--advertise %q: no address for that name: %w", host, err)
	}
	return host, ips[0].String(), nil
}

// privateIP returns the machine's first address that is not loopback, or loopback when there is
// no other.
func privateIP() (string, error) {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return "", fmt.Errorf("find this machine's address (pass --advertise): %w", err)
	}
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok && n.IP.To4() != nil && !n.IP.IsLoopback() && !n.IP.IsLinkLocalUnicast() {
			return n.IP.String(), nil
		}
	}
	return "127.0.0.1", nil
}

// memoryLimit returns what the node reckons with.
func memoryLimit(configured int64) int64 {
	if configured > 0 {
		return configured
	}
	if limit := debug.SetMemoryLimit(-1); limit < 1<<50 {
		return limit
	}
	// A container's own limit (cgroup v2), else the machine's memory.
	if raw, err := os.ReadFile("/sys/fs/cgroup/memory.max"); err == nil {
		if limit, err := strconv.ParseInt(strings.TrimSpace(string(raw)), 10, 64); err == nil && limit > 0 {
			return limit
		}
	}
	if raw, err := os.ReadFile("/proc/meminfo"); err == nil {
		for line := range strings.Lines(string(raw)) {
			var kib int64
			if _, err := fmt.Sscanf(line, "MemTotal: %d kB", &kib); err == nil {
				return kib << 10
			}
		}
	}
	return 1 << 30
}

// frameBounds returns what may wait on one connection in a node of so much memory: enough for the
// largest body, and no more than is of use.
func frameBounds(memory int64) frame.Options {
	return frame.Options{
		QueueBytesMax:   int(min(max(memory/16, frame.BodyBytesMax), 64<<20)),
		UnreadBytesMax:  int(min(max(memory/16, frame.BodyBytesMax), 64<<20)),
		PartialBytesMax: int(min(max(memory/8, frame.BodyBytesMax), 128<<20)),
	}
}

// storedMembers is what a node remembers of the others: a restart needs no seed.
type storedMembers struct {
	Members []cluster.Member   `json:"members"`
	Ring    []placement.NodeID `json:"ring"`
}

const membersMetaKey = "members"

func loadMembers(store *storage.Store) (storedMembers, error) {
	var out storedMembers
	raw, ok, err := store.Meta(membersMetaKey)
	if err != nil || !ok {
		return out, err
	}
	if err := json.Unmarshal(raw, &out); err != nil {
		return out, fmt.Errorf("stored members: %w", err)
	}
	return out, nil
}

// watch follows gossip and the cluster facts, and tells the parts what follows from them.
func (n *Node) watch(ring []placement.NodeID) {
	start := time.Now()
	members := newRingMembers(n.cfg.RingJoinAfter, n.cfg.RingDeadAfter, ring, 0)
	// At its first start a node is in its own ring from the first moment on: who creates a cluster is
	// alone in it, and who joins one wishes for nothing that counts before it owns something.
	members.admit(n.id.Node)
	t := time.NewTicker(100 * time.Millisecond)
	defer t.Stop()
	refresh := time.NewTicker(2 * time.Second)
	defer refresh.Stop()
	var stored string
	ends := newClassEnds()
	for {
		stored = n.observe(members, time.Since(start), stored)
		n.endClasses(ends)
		n.sweepExports()
		select {
		case <-n.ctx.Done():
			return
		case <-t.C:
		case <-n.changed:
		case <-n.facts.changed:
			n.workers.poke()
		case <-refresh.C:
			n.wg.Go(n.refreshFacts)
			n.wg.Go(n.forgetRemoved)
		}
	}
}

// refreshFacts learns of what other nodes registered or removed, when nothing else has told.
func (n *Node) refreshFacts() {
	ctx, cancel := context.WithTimeout(n.ctx, systemCallTimeout)
	defer cancel()
	if err := n.facts.Refresh(ctx); err != nil {
		n.log.Debug("refresh cluster facts", slog.Any("error", err))
		return
	}
	if err := n.facts.TellLost(ctx); err != nil {
		n.log.Debug("tell which nodes are lost", slog.Any("error", err))
	}
	if level := knownLevel(n.cluster.Members(), n.facts.Removed()); level > n.facts.Level() && n.facts.Revision() > 0 {
		if err := n.facts.ask(ctx, "RaiseFeatureLevel", &systemv1.RaiseFeatureLevelRequest{Level: level}); err != nil {
			n.log.Debug("raise the feature level", slog.Any("error", err))
		}
	}
}

func (n *Node) observe(members *ringMembers, now time.Duration, stored string) string {
	removed := n.facts.Removed()
	live := make(map[placement.NodeID]bool)
	noLead := make(map[placement.NodeID]bool)
	avoid := make(map[placement.NodeID]replica.Reluctance)
	for id := range n.facts.Drained() {
		avoid[id] = replica.Drained
	}
	full := make(map[placement.NodeID]bool)
	disk := n.disk.level()
	if disk >= diskLow {
		avoid[n.id.Node], full[n.id.Node] = replica.DiskLow, disk >= diskFull
	}
	var seen []sighting
	var connect []placement.NodeID
	list := n.cluster.Members()
	for _, m := range list {
		seen = append(seen, sighting{Node: m.ID, Alive: m.State == cluster.Alive, Replaced: m.State == cluster.Replaced})
		live[m.ID] = m.State == cluster.Alive
		if m.NoLead {
			noLead[m.ID] = true
		}
		if m.State == cluster.Alive && m.ID != n.id.Node && m.DiskLow {
			avoid[m.ID], full[m.ID] = replica.DiskLow, m.DiskFull
		}
		if m.State != cluster.Replaced && !n.facts.Lost()[m.ID] && (!removed[m.ID] || m.State == cluster.Alive) {
			connect = append(connect, m.ID)
		}
	}
	_, late := n.workers.pending()
	lacks := len(n.missingClasses()) > 0 || len(late) > 0
	if lacks {
		noLead[n.id.Node] = true
	}
	n.cluster.SetNoLead(lacks)
	n.cluster.SetDisk(disk >= diskLow, disk >= diskFull)
	ring := members.Observe(now, seen, removed)
	if old := n.ring.Load(); !equalNodes(old.Members(), ring) {
		n.log.Info("ring", slog.Any("members", n.names(ring)))
		n.ring.Store(placement.NewRing(ring, n.id.Shards, n.id.Replicas))
	}
	if level := n.facts.Level(); level > system.FeatureLevel {
		n.fail(fmt.Errorf("the cluster is at feature level %d, and this release knows up to %d: run a later release; a node can't go back", level, system.FeatureLevel))
	}
	n.peers.SetPeers(connect)
	n.host.SetMembership(replica.Membership{Ring: n.ring.Load(), Live: live, Removed: removed, NoLead: noLead, Avoid: avoid, Full: full, Spent: disk >= diskSpent})
	if removed[n.id.Node] && len(n.host.Status()) == 0 {
		n.fail(ErrRemoved)
	}
	raw, err := json.Marshal(storedMembers{Members: list, Ring: ring})
	if err == nil && string(raw) != stored {
		if err := n.store.SetMeta(membersMetaKey, raw); err != nil {
			n.log.Error("store the known members", slog.Any("error", err))
		}
	}
	return string(raw)
}

// knownLevel returns the highest feature level that every node knows, also those that are dead and may
// come back.
func knownLevel(members []cluster.Member, removed map[placement.NodeID]bool) uint32 {
	level := uint32(system.FeatureLevel)
	for i := range members {
		if m := &members[i]; !removed[m.ID] && m.State != cluster.Replaced {
			level = min(level, max(m.Level, 1))
		}
	}
	return level
}

func equalNodes(a, b []placement.NodeID) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

func (n *Node) names(ids []placement.NodeID) []string {
	out := make([]string, 0, len(ids))
	for _, id := range ids {
		out = append(out, n.nameOf(id))
	}
	return out
}

func (n *Node) nameOf(id placement.NodeID) string {
	if m, ok := n.member(id); ok {
		return m.Name
	}
	return id.String()
}

func (n *Node) member(id placement.NodeID) (cluster.Member, bool) {
	if n.cluster == nil {
		return cluster.Member{}, false
	}
	return n.cluster.Member(id)
}

// resolve implements peer.Config.Resolve.
func (n *Node) resolve(id placement.NodeID) (string, bool) {
	m, ok := n.member(id)
	return m.Addresses.Peer, ok && m.Addresses.Peer != ""
}

func (n *Node) peerBroken(id placement.NodeID) {
	n.log.Info("a node does not answer", slog.String("peer", n.nameOf(id)))
	n.host.PeerBroken(id)
}

// peerConnected tells a node that has just come what this one owns.
func (n *Node) peerConnected(id placement.NodeID) {
	n.host.PeerConnected(id)
	for i := range n.id.Shards {
		shard := placement.ShardID(i) //nolint:gosec // below MaxShards
		if node, term, ok := n.host.Leader(shard); ok && node == n.id.Node {
			n.peers.Announce(shard, node, term)
		}
	}
}

// acquired spreads the news that this node owns a shard.
func (n *Node) acquired(shard placement.ShardID, term uint64) {
	n.router.Learn(shard, n.id.Node, term)
	n.peers.Announce(shard, n.id.Node, term)
}

// classNames are the classes of the program.
func (c *Config) classNames() []className {
	var out []className
	for i := range c.Classes {
		out = append(out, className{c.Classes[i].Name, c.Classes[i].ServiceName()})
	}
	return out
}

// missingClasses are the cluster's classes that this node can't run.
func (n *Node) missingClasses() []string {
	if n.facts == nil {
		return nil
	}
	return n.facts.Missing()
}

// registered says whether the cluster knows all the classes of this node, as far as it knows.
func (n *Node) registered() bool {
	if !n.facts.view.Load().known() {
		return false
	}
	for i := range n.cfg.Classes {
		c := &n.cfg.Classes[i]
		if !n.facts.Knows(c.Name, c.ServiceName()) {
			return false
		}
	}
	return true
}

// register registers the program's classes. Those that were deleted are there again, as new ones.
func (n *Node) register() error {
	known := n.facts.view.Load()
	req := &systemv1.RegisterClassesRequest{}
	for i := range n.cfg.Classes {
		c := &n.cfg.Classes[i]
		req.Classes = append(req.Classes, &systemv1.Class{Name: c.Name, Service: c.ServiceName()})
	}
	ctx, cancel := context.WithTimeout(n.ctx, systemCallTimeout)
	defer cancel()
	if err := n.facts.ask(ctx, "RegisterClasses", req); err != nil {
		return err
	}
	now := n.facts.view.Load()
	for key, f := range now.byKey {
		if _, before := known.byKey[key]; !before && key != f.Name && f.Runs != "" && len(now.facts.GetEndedKeys()) > 0 {
			n.log.Warn("a class that was deleted is registered again, as a new one without objects", slog.String("class", f.Name), slog.String("unique_key", key))
		}
	}
	return nil
}

// bootBook remembers the highest boot counter seen of each node, on disk: a node that comes with a
// lower one, or with the same from another process, runs on an old copy of its disk, and nothing
// that it says can be trusted.
type bootBook struct {
	store *storage.Store

	mu   sync.Mutex
	seen map[placement.NodeID]bootSeen
}

type bootSeen struct {
	Boot  uint64 `json:"boot"`
	Nonce string `json:"nonce"`
}

// oldCopyError is why a node on an old copy of its disk is refused.
type oldCopyError struct {
	hello peer.Hello
	seen  uint64
}

// Error implements error.
func (e *oldCopyError) Error() string {
	return fmt.Sprintf("node %s (%s) runs on an old copy of its disk: boot %d after boot %d was seen; start it with an empty data directory, and it joins as a new node",
		e.hello.Name, e.hello.Node, e.hello.Boot, e.seen)
}

// Is says that it is peer.ErrOldCopy.
func (*oldCopyError) Is(target error) bool { return target == peer.ErrOldCopy }

// lostNodeError is why a node is refused without which shards were recovered. It ends by it as one on
// an old copy of its disk does: what it has is a past that the cluster has left.
type lostNodeError struct{ hello peer.Hello }

// Error implements error.
func (e *lostNodeError) Error() string {
	return fmt.Sprintf("node %s (%s) was given up as lost, and its shards were recovered without it: delete its data directory, and start it again to join as a new node", e.hello.Name, e.hello.Node)
}

// Is says that it is peer.ErrOldCopy.
func (*lostNodeError) Is(target error) bool { return target == peer.ErrOldCopy }

func (b *bootBook) admit(h peer.Hello) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.seen == nil {
		b.seen = make(map[placement.NodeID]bootSeen)
	}
	key := "boot/" + h.Node.String()
	last, ok := b.seen[h.Node]
	if !ok {
		raw, stored, err := b.store.Meta(key)
		if err != nil {
			return err
		}
		if stored {
			if err := json.Unmarshal(raw, &last); err != nil {
				return fmt.Errorf("stored boot of %s: %w", h.Node, err)
			}
		}
	}
	switch {
	case h.Boot < last.Boot, h.Boot == last.Boot && h.Nonce != last.Nonce:
		return &oldCopyError{h, last.Boot}
	case h.Boot == last.Boot:
		return nil
	}
	next := bootSeen{h.Boot, h.Nonce}
	raw, err := json.Marshal(next)
	if err != nil {
		return err
	}
	if err := b.store.SetMeta(key, raw); err != nil {
		return err
	}
	b.seen[h.Node] = next
	return nil
}

// admit implements peer.Config.Admit.
func (n *Node) admit(h peer.Hello) error {
	if h.Node == n.id.Node {
		return errors.New("a node does not talk to itself; is its data directory a copy of another's?")
	}
	if n.facts.Lost()[h.Node] {
		return &lostNodeError{h}
	}
	if err := n.boots.admit(h); err != nil {
		return err
	}
	if h.Revision > n.facts.Revision() {
		n.mu.Lock()
		if n.ctx.Err() == nil {
			n.wg.Go(n.refreshFacts)
		}
		n.mu.Unlock()
	}
	return nil
}

// shardID numbers a shard in a loop over all of them.
func shardID(i int) placement.ShardID {
	return placement.ShardID(i) //nolint:gosec // below MaxShards
}
