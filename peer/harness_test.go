package peer

import (
	"errors"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/holdfast-io/holdfast/internal/logtest"
	"github.com/holdfast-io/holdfast/peer/frame"
	"github.com/holdfast-io/holdfast/placement"
)

// directory says where nodes listen.
type directory struct {
	mu    sync.Mutex
	addrs map[placement.NodeID]string
}

func (d *directory) set(id placement.NodeID, addr string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.addrs == nil {
		d.addrs = make(map[placement.NodeID]string)
	}
	d.addrs[id] = addr
}

func (d *directory) resolve(id placement.NodeID) (string, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	addr, ok := d.addrs[id]
	return addr, ok
}

// countingListener counts who connects.
type countingListener struct {
	net.Listener

	accepted atomic.Int64
}

// Accept implements net.Listener.
func (l *countingListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err == nil {
		l.accepted.Add(1)
	}
	return c, err
}

// incoming is one call as the handler got it.
type incoming struct {
	from  placement.NodeID
	req   *frame.Request
	reply func(frame.Response)
}

// node is one end: its connections, and the server on loopback that others dial.
type node struct {
	*Peers

	t         *testing.T
	server    *grpc.Server
	listener  *countingListener
	calls     chan incoming
	announced chan placement.ShardID
	connected chan placement.NodeID
	broken    chan placement.NodeID
	logs      *logtest.Logs
	stop      func()
}

// start starts a node that is connected to nobody yet.
func start(t *testing.T, d *directory, id placement.NodeID, change func(*Config)) *node {
	t.Helper()
	n := &node{
		t: t, logs: &logtest.Logs{}, listener: &countingListener{}, calls: make(chan incoming, 100), announced: make(chan placement.ShardID, 100),
		connected: make(chan placement.NodeID, 100), broken: make(chan placement.NodeID, 100),
	}
	cfg := Config{
		Self:        Hello{ClusterID: "c", Node: id, Name: "n" + id.String()[15:], Boot: 3, Nonce: "nonce"},
		Revision:    func() uint64 { return 9 },
		Resolve:     d.resolve,
		Raft:        func(placement.NodeID, []byte) {},
		Calls:       func(from placement.NodeID) frame.Handler { return &handler{n, from} },
		OnConnected: func(id placement.NodeID) { n.connected <- id },
		OnBroken:    func(id placement.NodeID) { n.broken <- id },
		Logger:      slog.New(n.logs),
	}
	if change != nil {
		change(&cfg)
	}
	n.Peers = New(cfg)
	n.server = grpc.NewServer(ServerOptions()...)
	n.Register(n.server)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	n.listener.Listener = l
	d.set(id, l.Addr().String())
	served := make(chan error, 1)
	go func() { served <- n.server.Serve(n.listener) }()
	n.stop = sync.OnceFunc(func() {
		n.server.Stop()
		n.Close()
		if err := <-served; err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			t.Errorf("serve: %v", err)
		}
	})
	t.Cleanup(n.stop)
	return n
}

// pair starts two nodes that are connected both ways.
func pair(t *testing.T, change func(*Config)) (a, b *node) {
	t.Helper()
	d := &directory{}
	a, b = start(t, d, 1, change), start(t, d, 2, change)
	a.SetPeers([]placement.NodeID{1, 2})
	b.SetPeers([]placement.NodeID{1, 2})
	if got := await(t, a.connected, "the first is not connected"); got != 2 {
		t.Errorf("the first is connected to %s", got)
	}
	if got := await(t, b.connected, "the second is not connected"); got != 1 {
		t.Errorf("the second is connected to %s", got)
	}
	return a, b
}

// handler hands what another node sends to the test.
type handler struct {
	n    *node
	from placement.NodeID
}

// Call implements frame.Handler.
func (h *handler) Call(req *frame.Request, reply func(frame.Response)) func(error) {
	h.n.calls <- incoming{h.from, req, reply}
	return nil
}

// Announce implements frame.Handler.
func (h *handler) Announce(shard placement.ShardID, _ placement.NodeID, _ uint64) {
	h.n.announced <- shard
}

// Query implements frame.Handler.
func (h *handler) Query(kind string, body []byte, reply func([]byte, error)) {
	reply([]byte(kind+" of "+string(body)+" for "+h.from.String()), nil)
}

// send sends a call to a node; what comes back arrives on the channel.
func (n *node) send(to placement.NodeID, method string) <-chan frame.Response {
	got := make(chan frame.Response, 1)
	n.Call(to, &frame.Request{Class: "C", Method: method, Named: true}, func(r frame.Response) { got <- r })
	return got
}

// await receives what must come.
func await[T any](t *testing.T, from <-chan T, otherwise string) T {
	t.Helper()
	select {
	case v := <-from:
		return v
	case <-time.After(10 * time.Second):
		t.Fatal(otherwise)
		panic("not reached")
	}
}

// eventually waits for a condition.
func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	limit := time.After(10 * time.Second)
	for !condition() {
		select {
		case <-tick.C:
		case <-limit:
			t.Fatal(what)
		}
	}
}
