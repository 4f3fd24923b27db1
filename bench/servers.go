package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"runtime"
	"time"

	"google.golang.org/grpc"

	"github.com/holdfast-io/holdfast/actor"
	"github.com/holdfast-io/holdfast/examples/counter"
	"github.com/holdfast-io/holdfast/examples/counter/counterv1"
	"github.com/holdfast-io/holdfast/node"
	"github.com/holdfast-io/holdfast/peer"
	"github.com/holdfast-io/holdfast/peer/frame"
	"github.com/holdfast-io/holdfast/placement"
	"github.com/holdfast-io/holdfast/replica"
	"github.com/holdfast-io/holdfast/storage"
)

// anyPort lets the system choose.
const anyPort = "127.0.0.1:0"

func listen(addr string) (net.Listener, error) {
	return (&net.ListenConfig{}).Listen(context.Background(), "tcp", addr)
}

func logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
}

// echo answers with a constant, as a counter's Get does.
type echo struct {
	counterv1.UnimplementedCounterServer
}

func (echo) Get(context.Context, *counterv1.GetRequest) (*counterv1.GetResponse, error) {
	return &counterv1.GetResponse{Value: 12345}, nil
}

// startEcho serves plain grpc-go.
func startEcho(roleConfig) (*server, error) {
	l, err := listen(anyPort)
	if err != nil {
		return nil, err
	}
	s := grpc.NewServer()
	counterv1.RegisterCounterServer(s, echo{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Serve(l)
	}()
	return &server{
		ready: ready{GRPC: l.Addr().String()},
		close: func() {
			s.Stop()
			<-done
		},
	}, nil
}

// startNode serves a node with counters.
func startNode(cfg roleConfig) (*server, error) { return serveNode(cfg, counter.Class()) }

// startLister serves a node with objects to be listed.
func startLister(cfg roleConfig) (*server, error) { return serveNode(cfg, listedObjects()) }

// startLarge serves a node with objects that are large.
func startLarge(cfg roleConfig) (*server, error) { return serveNode(cfg, largeObjects()) }

func serveNode(cfg roleConfig, class actor.Class) (*server, error) {
	return serveLoaded(cfg, class, nil)
}

// serveLoaded serves a node with a class, and with workers if there is a loader for them.
func serveLoaded(cfg roleConfig, class actor.Class, l node.Loader) (*server, error) {
	untune := node.TuneRuntime(cfg.MemoryLimit)
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	alarms := &alarms{}
	n, err := node.Start(ctx, node.Config{
		Name: cfg.Name, DataDir: cfg.Dir, Bootstrap: cfg.Bootstrap, Join: cfg.Join,
		GRPC: anyPort, Peer: anyPort, Gossip: anyPort, HTTP: anyPort, Admin: anyPort,
		RingJoinAfter: 100 * time.Millisecond, LeaderStable: 200 * time.Millisecond,
		MemoryLimit: cfg.MemoryLimit, SnapshotRate: cfg.SnapshotRate, MinFreeDisk: cfg.MinFreeDisk, Classes: []actor.Class{class, alarms.class()}, Loader: l, Logger: logger(),
	})
	if err != nil {
		untune()
		return nil, err
	}
	if err := n.WaitReady(ctx); err != nil {
		_ = n.Close(ctx)
		untune()
		return nil, err
	}
	a := n.Addresses()
	return &server{
		ready: ready{GRPC: a.GRPC, Gossip: a.Gossip, Admin: a.Admin, HTTP: a.HTTP},
		handle: func(r request) (answer, error) {
			if r.Do == "alarms" {
				return alarms.take(), nil
			}
			return heap(), nil
		},
		close: func() {
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			defer cancel()
			_ = n.Close(ctx)
			untune()
		},
	}, nil
}

// heap returns what is in use after a collection.
func heap() answer {
	runtime.GC()
	runtime.GC() // The first moves what pools hold to their victims.
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return answer{HeapBytes: m.HeapAlloc, Goroutines: runtime.NumGoroutine()}
}

// replicaShards is the number of groups, as in a cluster by default.
const replicaShards = placement.DefaultShards

// startReplica serves shards without objects: storage, replica and peer alone, on addresses that
// are known beforehand. It proposes nothing into the shards that it leads, again and again.
func startReplica(cfg roleConfig) (*server, error) {
	node.TuneRuntime(0)
	store, err := storage.Open(cfg.Dir, storage.Options{Logger: logger()})
	if err != nil {
		return nil, err
	}
	self := placement.NodeID(cfg.Self)
	if self == 1 {
		if err := replica.Bootstrap(store, storage.Identity{ClusterID: "bench", Node: self, Shards: replicaShards}); err != nil {
			return nil, err
		}
	}
	var ids []placement.NodeID
	live := make(map[placement.NodeID]bool)
	for id := range cfg.Addrs {
		ids = append(ids, placement.NodeID(id))
		live[placement.NodeID(id)] = true
	}
	var host *replica.Host
	peers := peer.New(peer.Config{
		Self:     peer.Hello{ClusterID: "bench", Node: self, Name: cfg.Name, Boot: store.Boot(), Nonce: cfg.Name},
		Revision: func() uint64 { return 0 },
		Resolve:  func(id placement.NodeID) (string, bool) { a, ok := cfg.Addrs[uint64(id)]; return a, ok },
		Admit:    func(peer.Hello) error { return nil },
		Raft:     func(from placement.NodeID, data []byte) { host.Receive(from, data) },
		Snapshot: func(ctx context.Context, from placement.NodeID, header []byte, offer func([]byte) error, next func() ([]byte, error)) error {
			return host.ReceiveSnapshot(ctx, from, header, offer, next)
		},
		Calls:  func(placement.NodeID) frame.Handler { return nil },
		Logger: logger(),
	})
	host, err = replica.New(replica.Config{
		Node: self, Shards: replicaShards, Replicas: 3, Store: store, Transport: transport{peers},
		Owner: noObjects{}, Logger: logger(), LeaderStable: 200 * time.Millisecond,
	})
	if err != nil {
		return nil, err
	}
	// Every address is written down before any server starts: retry a port that lingers.
	var l net.Listener
	for end := time.Now().Add(5 * time.Second); ; {
		if l, err = listen(cfg.Addrs[cfg.Self]); err == nil || time.Now().After(end) {
			break
		}
	}
	if err != nil {
		return nil, err
	}
	gs := grpc.NewServer(peer.ServerOptions()...)
	peers.Register(gs)
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = gs.Serve(l)
	}()
	host.Start()
	var others []placement.NodeID
	for _, id := range ids {
		if id != self {
			others = append(others, id)
		}
	}
	peers.SetPeers(others)
	host.SetMembership(replica.Membership{Ring: placement.NewRing(ids, replicaShards, 3), Live: live})
	return &server{
		ready: ready{},
		handle: func(r request) (answer, error) {
			var led []placement.ShardID
			for shard := range placement.ShardID(replicaShards) {
				if node, _, ok := host.Leader(shard); ok && node == self {
					led = append(led, shard)
				}
			}
			if r.Do == "leads" {
				full := 0
				for _, s := range host.Status() {
					if s.Leader == self && len(s.Voters) == 3 {
						full++
					}
				}
				return answer{Leads: full}, nil
			}
			if len(led) == 0 {
				return answer{}, errors.New("leads no shard")
			}
			count, latencies, err := load(context.Background(), r.Callers, r.Length, func(_ context.Context, caller, i int) error {
				done := make(chan error, 1)
				host.ProposeEmpty(led[(caller*31+i)%len(led)], func(err error) { done <- err })
				return <-done
			}, func() {})
			return answer{Count: count, Micros: micros(latencies)}, err
		},
		close: func() {
			gs.Stop()
			<-served
			_ = host.Close()
			peers.Close()
			_ = store.Close()
		},
	}, nil
}

// transport carries Raft's frames over peers.
type transport struct{ *peer.Peers }

func (t transport) Send(to placement.NodeID, data []byte) bool { return t.SendRaft(to, data) }

// noObjects owns shards and does nothing with them.
type noObjects struct{}

func (noObjects) Acquired(placement.ShardID, uint64)                  {}
func (noObjects) Lost(placement.ShardID, uint64)                      {}
func (noObjects) Pause(_ placement.ShardID, _ uint64, drained func()) { drained() }
func (noObjects) Resume(placement.ShardID, uint64)                    {}

// freeAddrs returns addresses that nothing listens on at the moment.
func freeAddrs(n int) (map[uint64]string, error) {
	out := make(map[uint64]string, n)
	for i := range n {
		l, err := listen(anyPort)
		if err != nil {
			return nil, err
		}
		defer func() { _ = l.Close() }()
		out[uint64(i+1)] = l.Addr().String() //nolint:gosec // small
	}
	return out, nil
}

func objectName(i int) string { return fmt.Sprintf("object-%d", i) }
