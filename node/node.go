// Package node puts a Holdfast node together from its parts, starts them in order and stops them
// in order. It is the package that a program imports to run classes of its own:
//
//	n, err := node.Start(ctx, node.Config{Name: "n1", DataDir: "data", Bootstrap: true, Classes: []actor.Class{counter.Class()}})
//	...
//	err = n.Run(ctx, os.Stdout)
//
// Everything that a node is made of hangs together here and nowhere else; the parts know each other
// only through small interfaces.
package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"

	"github.com/holdfast-io/holdfast/actor"
	"github.com/holdfast-io/holdfast/cluster"
	"github.com/holdfast-io/holdfast/gateway"
	"github.com/holdfast-io/holdfast/node/system"
	"github.com/holdfast-io/holdfast/peer"
	"github.com/holdfast-io/holdfast/peer/frame"
	"github.com/holdfast-io/holdfast/placement"
	"github.com/holdfast-io/holdfast/replica"
	"github.com/holdfast-io/holdfast/router"
	"github.com/holdfast-io/holdfast/storage"
	"github.com/holdfast-io/holdfast/tracing"
)

// ErrRemoved says that the node was removed from the cluster for good, and holds nothing any more.
var ErrRemoved = errors.New("this node was removed from the cluster: delete its data directory, or start it with an empty one to join as a new node")

// StalledError is why a node gave itself up whose disk does not answer. What waits for the disk may
// wait for ever, so Close does not wait for it: end the process.
type StalledError struct{ Err error }

// Error implements error.
func (e *StalledError) Error() string {
	return fmt.Sprintf("%v: the node ends without handing over, and the others take over; look at the disk before starting it again", e.Err)
}

// Unwrap implements errors.
func (e *StalledError) Unwrap() error { return e.Err }

// Node is a running node. Its methods are safe for concurrent use.
type Node struct {
	cfg Config
	log *slog.Logger

	listeners listeners
	store     *storage.Store
	id        storage.Identity
	nonce     string

	gossip     *cluster.Listener
	cluster    *cluster.Cluster
	peers      *peer.Peers
	peerServer *grpc.Server
	host       *replica.Host
	manager    *actor.Manager
	exports    exports
	followers  atomic.Int64 // of logs, through this node
	router     *router.Router
	facts      *factsCache
	gateway    *gateway.Gateway
	admin      *http.Server
	http       *http.Server
	workers    *workers
	deploying  sync.Mutex              // held while a bundle is taken in
	serving    atomic.Pointer[workers] // workers, for those who may look before it is there
	ring       atomic.Pointer[placement.Ring]
	boots      bootBook
	disk       diskWatch
	changed    chan struct{} // capacity 1: gossip or the disk has news

	ready   chan struct{}  // closed when the node serves
	done    chan struct{}  // closed when the node has ended by itself
	stalled chan struct{}  // closed when its disk does not answer
	stops   sync.WaitGroup // what Close did not wait for
	waiting atomic.Pointer[string]
	// gossiping is cluster, for those who may look before it is there.
	gossiping atomic.Pointer[cluster.Cluster]

	mu    sync.Mutex
	cause error // why it ended by itself

	ctx    context.Context //nolint:containedctx // the Node's lifetime, ended by Close
	cancel context.CancelCauseFunc
	wg     sync.WaitGroup
}

var errClosed = errors.New("the node is stopping")

// Start starts a node and returns when it belongs to a cluster; WaitReady waits until it serves.
// When the directory has no cluster and no seed answers, it waits, saying why, until ctx ends.
func Start(ctx context.Context, cfg Config) (*Node, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg = cfg.withDefaults()
	n := &Node{
		cfg: cfg, log: cfg.Logger,
		changed: make(chan struct{}, 1), ready: make(chan struct{}), done: make(chan struct{}), stalled: make(chan struct{}),
	}
	n.ctx, n.cancel = context.WithCancelCause(context.Background())
	n.setWaiting("starting")
	if err := n.start(ctx); err != nil {
		return nil, errors.Join(err, n.Close(ctx))
	}
	return n, nil
}

func (n *Node) start(ctx context.Context) error {
	var err error
	// The store first: it tells a second process on the directory from everything else.
	cache, memtable := storeMemory(memoryLimit(n.cfg.MemoryLimit))
	n.store, err = storage.Open(n.cfg.DataDir, storage.Options{FS: n.cfg.fs, Logger: n.log, CacheBytes: cache, MemtableBytes: memtable})
	if err != nil {
		return err
	}
	if n.listeners, err = listen(n.cfg); err != nil {
		return err
	}
	n.startAdmin()
	if n.gossip, err = cluster.Listen(n.cfg.Gossip, n.cfg.GossipKey, n.log); err != nil {
		return err
	}
	if n.id = n.store.Identity(); n.id.ClusterID == "" {
		n.gossip.SetAnswer(cluster.Answer{Bootstrap: n.cfg.Bootstrap, Name: n.cfg.Name})
		if err := n.enter(ctx); err != nil {
			return err
		}
		n.id = n.store.Identity()
	}
	if err := checkIdentity(n.id, n.cfg); err != nil {
		return err
	}
	n.gossip.SetAnswer(cluster.Answer{ClusterID: n.id.ClusterID, Name: n.cfg.Name, Shards: n.id.Shards, Replicas: n.id.Replicas})
	n.log.Info("node", slog.String("name", n.id.Name), slog.String("id", n.id.Node.String()), slog.String("cluster_id", n.id.ClusterID), slog.Uint64("boot", n.store.Boot()))
	if err := n.build(); err != nil {
		return err
	}
	return n.run()
}

// build makes the parts and gives each what it needs of the others.
func (n *Node) build() error {
	var err error
	if n.nonce, err = randomHex(8); err != nil {
		return err
	}
	n.boots.store = n.store
	stored, _, err := n.store.Meta(factsMetaKey)
	if err != nil {
		return err
	}
	lost, err := loadLost(n.store)
	if err != nil {
		return err
	}
	if n.facts, err = newFactsCache(stored, lost, n.cfg.classNames()); err != nil {
		return err
	}
	n.facts.save = func(body []byte) error { return n.store.SetMeta(factsMetaKey, body) }

	memory := memoryLimit(n.cfg.MemoryLimit)
	classes := append([]actor.Class{system.Class(), system.BundleClass()}, n.cfg.Classes...)
	n.manager, err = actor.NewManager(actor.Config{
		Shards: n.id.Shards, Classes: classes, Logger: n.log, Caller: objectCalls{n}, QueuedBytesMax: memory / 4, Now: n.cfg.Now,
		Alarms: n.store, ClassOf: n.facts.NameOf,
		NoClass: func(class string) error { return n.workers.noClass(class) },
		Behind:  func(string, uint64) { n.behind() },
	})
	if err != nil {
		return err
	}
	n.peers = peer.New(peer.Config{
		Self:     peer.Hello{ClusterID: n.id.ClusterID, Node: n.id.Node, Name: n.id.Name, Boot: n.store.Boot(), Nonce: n.nonce},
		Revision: n.facts.Revision,
		Resolve:  n.resolve,
		Admit:    n.admit,
		Raft:     func(from placement.NodeID, data []byte) { n.host.Receive(from, data) },
		Snapshot: func(ctx context.Context, from placement.NodeID, header []byte, offer func(parts []byte) error, next func() ([]byte, error)) error {
			if n.disk.level() >= diskFull {
				return errNoRoom
			}
			return n.host.ReceiveSnapshot(ctx, from, header, offer, next)
		},
		Calls:       func(from placement.NodeID) frame.Handler { return &peerCalls{n: n, from: from} },
		OnBroken:    n.peerBroken,
		OnConnected: n.peerConnected,
		OnOldCopy:   n.fail,
		Frames:      frameBounds(memory),
		Dial:        n.cfg.DialPeer,
		Logger:      n.log,
	})
	n.host, err = replica.New(replica.Config{
		Node: n.id.Node, Shards: n.id.Shards, Replicas: n.id.Replicas, Store: n.store,
		Transport: raftTransport{n.peers}, Owner: n.manager, Logger: n.log,
		Tick: n.cfg.Tick, LeaderStable: n.cfg.LeaderStable, SnapshotRate: n.cfg.SnapshotRate, OnLeader: n.acquired, OnFull: n.manager.SetFull, OnClassEnded: n.manager.ClassEnded,
		OnStall: func(err error) { n.fail(&StalledError{err}) },
	})
	if err != nil {
		return err
	}
	n.ring.Store(placement.NewRing([]placement.NodeID{n.id.Node}, n.id.Shards, n.id.Replicas))
	n.router = router.New(router.Config{
		Self: n.id.Node, Shards: n.id.Shards, Facts: routerFacts{n.facts, n}, Local: n.manager, Leaders: n.host, Remote: n.peers,
		FactsClass: system.ClassName, BytesMax: memory / 4, Tracer: tracing.New(n.cfg.TracerProvider),
		Wish: func(shard placement.ShardID) (placement.NodeID, bool) { return n.ring.Load().Owner(shard) },
		Addr: func(id placement.NodeID) string { m, _ := n.member(id); return m.Addresses.GRPC },
	})
	n.facts.call = callSystem(n.router)
	n.workers = newWorkers(n)
	n.serving.Store(n.workers)
	n.gateway = gateway.New(gateway.Config{
		Router: n.router, Classes: n.cfg.Classes, Admin: &adminServer{n: n}, Frames: frameBounds(memory),
		ReceivingMax: int(min(max(memory/8>>20, 16), 4096)), // An eighth of it, with a MiB each.
		Logger:       n.log,
	})
	return nil
}

// run starts the parts: what others may reach first is ready before it can be reached.
func (n *Node) run() error {
	n.workers.begin(n.ctx)
	n.manager.Start(hostLog{n.host})
	n.router.Start()
	n.host.Start()
	n.peerServer = grpc.NewServer(peer.ServerOptions()...)
	n.peers.Register(n.peerServer)
	n.wg.Go(func() { n.serve("peer", func() error { return n.peerServer.Serve(n.listeners.peer) }) })
	n.wg.Go(func() { n.serve("grpc", func() error { return n.gateway.Serve(n.listeners.grpc) }) })

	known, err := loadMembers(n.store)
	if err != nil {
		return err
	}
	self, ip, err := n.self()
	if err != nil {
		return err
	}
	n.cluster, err = cluster.Start(cluster.Config{
		ClusterID: n.id.ClusterID, Self: self, Listener: n.gossip, AdvertiseIP: ip, Key: n.cfg.GossipKey,
		Seeds: n.cfg.Join, Known: known.Members, Logger: n.log, OnChange: n.poke,
	})
	if err != nil {
		return err
	}
	n.gossiping.Store(n.cluster)
	n.lookAtDisk()
	n.wg.Go(n.watchDisk)
	n.wg.Go(func() { n.watch(known.Ring) })
	n.wg.Go(func() { n.workers.run(n.ctx) })
	n.wg.Go(n.join)
	return nil
}

// serve runs a server; one that ends by itself ends the node.
func (n *Node) serve(what string, fn func() error) {
	if err := fn(); err != nil && n.ctx.Err() == nil && !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, grpc.ErrServerStopped) {
		n.fail(fmt.Errorf("serve %s: %w", what, err))
	}
}

// join registers this node's classes, once, and says that it serves when the cluster knows them. What is
// deleted later stays so, until a node that has it starts again.
func (n *Node) join() {
	n.setWaiting("waiting for the cluster facts: no majority of the nodes that keep them answers yet")
	t := time.NewTicker(200 * time.Millisecond)
	defer t.Stop()
	var last string
	told := false // the cluster, and not only known from last time: a class may have been deleted since
	for {
		if !n.registered() {
			err := n.register()
			if told = err == nil; err != nil {
				if text := err.Error(); text != last {
					n.log.Debug("register classes", slog.Any("error", err))
					last = text
				}
				n.setWaiting("waiting for the cluster facts: " + err.Error())
			}
		}
		if n.registered() {
			break
		}
		select {
		case <-n.ctx.Done():
			return
		case <-t.C:
		}
	}
	if !n.loadWorkers() {
		return
	}
	n.setWaiting("")
	n.gateway.SetServing(true)
	close(n.ready)
	n.log.Info("ready")
	for !told {
		select {
		case <-n.ctx.Done():
			return
		case <-t.C:
			told = n.register() == nil
		}
	}
}

// loadWorkers waits until this node runs what is deployed, or has tried. It returns false when the node ends.
func (n *Node) loadWorkers() bool {
	for {
		ctx, cancel := context.WithTimeout(n.ctx, time.Second)
		err := n.workers.catchUp(ctx)
		cancel()
		switch {
		case n.ctx.Err() != nil:
			return false
		case err == nil:
			return true
		}
		all, _ := n.workers.pending()
		n.setWaiting("waiting for workers: " + strings.Join(all, "; "))
	}
}

// behind has this node look for a later deployment than it has heard of.
func (n *Node) behind() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.ctx.Err() == nil {
		n.wg.Go(n.refreshFacts)
	}
}

// fail ends the node by itself.
func (n *Node) fail(err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	_, stalls := errors.AsType[*StalledError](err)
	stalls = stalls && !n.hasStalled()
	if n.cause != nil && !stalls {
		return
	}
	n.log.Error("the node can't go on", slog.Any("error", err))
	if n.cause == nil {
		close(n.done)
	}
	if stalls {
		close(n.stalled)
	}
	n.cause = err // A stall matters more than whatever came before.
}

func (n *Node) hasStalled() bool {
	select {
	case <-n.stalled:
		return true
	default:
		return false
	}
}

// Done is closed when the node ends by itself; Close says why.
func (n *Node) Done() <-chan struct{} { return n.done }

// WaitReady waits until the node serves.
func (n *Node) WaitReady(ctx context.Context) error {
	select {
	case <-n.ready:
		return nil
	case <-n.done:
		n.mu.Lock()
		defer n.mu.Unlock()
		return n.cause
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Run is what a program does with a node that it has started: it writes the line "ready …" to out when
// the node serves, waits until ctx ends or the node does by itself, and closes it, in the node's own
// time. It returns what Close does.
func (n *Node) Run(ctx context.Context, out io.Writer) error {
	if err := n.WaitReady(ctx); err == nil {
		a := n.Addresses()
		_, _ = fmt.Fprintf(out, "ready grpc=%s http=%s admin=%s\n", a.GRPC, a.HTTP, a.Admin)
	}
	select {
	case <-ctx.Done():
	case <-n.Done():
	}
	return n.Close(context.WithoutCancel(ctx))
}

// Addresses are where the node listens.
func (n *Node) Addresses() cluster.Addresses {
	return cluster.Addresses{
		GRPC: n.listeners.grpc.Addr().String(), Peer: n.listeners.peer.Addr().String(), HTTP: n.listeners.http.Addr().String(),
		Admin: n.listeners.admin.Addr().String(), Gossip: net.JoinHostPort(hostOf(n.cfg.Gossip), strconv.Itoa(n.gossip.Port())),
	}
}

// Close stops the node, from the outside in, and returns why it ended if it did so by itself.
// It may be called once.
// Stopping is not leaving: the node keeps its place, and finds it again when it starts.
//
// When the disk does not answer nothing is handed over, and Close returns a StalledError within a
// moment. When a handler goes on although its context has ended, Close gives up on it a moment after
// DrainTimeout. What either leaves behind ends with the process.
func (n *Node) Close(ctx context.Context) error {
	result := make(chan error, 1)
	n.stops.Go(func() { result <- n.stop(ctx) })
	stubborn := time.NewTimer(n.cfg.DrainTimeout + stubbornGrace)
	defer stubborn.Stop()
	select {
	case err := <-result:
		return err
	case <-stubborn.C:
		return errStubborn
	case <-n.stalled:
	}
	t := time.NewTimer(stalledGrace)
	defer t.Stop()
	select {
	case err := <-result:
		return err
	case <-t.C:
		n.mu.Lock()
		defer n.mu.Unlock()
		return n.cause
	}
}

// stubbornGrace is for what follows the handlers when a node stops.
const stubbornGrace = 5 * time.Second

var errStubborn = errors.New("the node is not through with stopping: a handler goes on although its context has ended, or the disk is slow; nothing acknowledged is lost, end the process")

// stalledGrace is for what needs no disk: answers that say that the outcome is unknown.
const stalledGrace = time.Second

func (n *Node) stop(ctx context.Context) error {
	var errs []error
	add := func(err error) {
		if err != nil {
			errs = append(errs, err)
		}
	}
	drain, cancel := context.WithTimeout(ctx, n.cfg.DrainTimeout)
	defer cancel()
	n.stops.Go(func() {
		select {
		case <-n.stalled:
			cancel() // There is nothing to wait for.
		case <-drain.Done():
		}
	})
	// Load balancers look elsewhere first, while calls are still taken.
	if n.gateway != nil {
		n.gateway.SetServing(false)
	}
	// Ownership moves while this node can still forward to the new owners: callers see latency.
	if n.cluster != nil && !n.hasStalled() {
		n.cluster.SetStopping() // Nobody hands anything back meanwhile.
		if err := n.host.HandOver(drain); err != nil {
			n.log.Warn("ownership was not handed over in time", slog.Any("error", err))
		}
	}
	n.cancel(errClosed)
	// Nobody new comes in; who is in gets an answer.
	if n.http != nil {
		if err := n.http.Shutdown(drain); err != nil {
			n.log.Warn("HTTP requests were cut off", slog.Any("error", err))
		}
	}
	if n.gateway != nil {
		n.gateway.Stop(drain)
	}
	if n.peers != nil {
		n.peers.Drain(drain)
	}
	// Objects that nobody else could take over are told as well.
	if n.manager != nil {
		told, cancel := context.WithTimeout(drain, 2*actor.PreShutdownTimeMax)
		n.manager.Drain(told)
		cancel()
	}
	if n.router != nil {
		n.router.Close()
	}
	// What still runs is reset, and its effects dropped.
	if n.manager != nil {
		n.manager.Close()
	}
	if n.workers != nil {
		n.workers.close()
	}
	// The other nodes notice by the broken streams.
	if n.peerServer != nil {
		n.peerServer.Stop()
	}
	if n.peers != nil {
		n.peers.Close()
	}
	switch {
	case n.cluster != nil:
		add(n.cluster.Close())
	case n.gossip != nil:
		add(n.gossip.Shutdown())
	}
	// The replicas after everything that could still want something of them.
	if n.host != nil {
		add(n.host.Close())
	}
	for _, s := range []*http.Server{n.admin, n.http} {
		if s != nil {
			add(s.Close())
		}
	}
	n.listeners.close()
	n.wg.Wait()
	add(n.exports.close())
	if n.store != nil {
		add(n.store.Close())
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.cause != nil && !errors.Is(n.cause, ErrRemoved) {
		errs = append([]error{n.cause}, errs...)
	}
	return errors.Join(errs...)
}

func (n *Node) setWaiting(why string) { n.waiting.Store(&why) }

// readiness says whether the node serves, and what is wrong or weaker than it could be.
func (n *Node) readiness() (bool, []string) {
	var reasons []string
	if why := *n.waiting.Load(); why != "" {
		reasons = append(reasons, why)
		if c := n.gossiping.Load(); c != nil && c.Alone() != "" {
			reasons = append(reasons, c.Alone())
		}
		return false, reasons
	}
	if missing := n.missingClasses(); len(missing) > 0 {
		reasons = append(reasons, fmt.Sprintf("this node lacks the classes %v of the cluster and so owns nothing: start it with a binary that has them", missing))
	}
	_, late := n.workers.pending()
	for _, why := range late {
		reasons = append(reasons, why+"; this node owns nothing until then")
	}
	if n.facts.Drained()[n.id.Node] {
		reasons = append(reasons, fmt.Sprintf("this node is drained, and owns only what no other node can own: 'holdfast drain --off %s' ends that", n.id.Name))
	}
	if why := n.disk.reason(); why != "" {
		reasons = append(reasons, why)
	}
	return true, reasons
}

func (n *Node) poke() {
	select {
	case n.changed <- struct{}{}:
	default:
	}
}
