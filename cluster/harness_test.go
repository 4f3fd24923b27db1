package cluster

import (
	"log/slog"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-io/holdfast/internal/logtest"
	"github.com/holdfast-io/holdfast/placement"
)

// node is one real member of a gossip on loopback.
type node struct {
	*Cluster

	t        *testing.T
	listener *Listener
	logs     *logtest.Logs
	stop     func()
}

// nodeConfig of a node; what is empty gets a default.
type nodeConfig struct {
	id      placement.NodeID
	name    string // default: n and the id
	cluster string // default: c
	boot    uint64
	port    int
	key     []byte
	seeds   []string
	known   []Member
	patient bool // takes nobody for dead for some seconds
}

func start(t *testing.T, cfg nodeConfig) *node {
	t.Helper()
	if cfg.name == "" {
		cfg.name = "n" + strconv.FormatUint(uint64(cfg.id), 10)
	}
	if cfg.cluster == "" {
		cfg.cluster = "c"
	}
	n := &node{t: t, logs: &logtest.Logs{}}
	logger := slog.New(n.logs)
	var err error
	if n.listener, err = Listen("127.0.0.1:"+strconv.Itoa(cfg.port), cfg.key, logger); err != nil {
		t.Fatal(err)
	}
	suspicion := 0
	if cfg.patient {
		suspicion = 40
	}
	n.listener.SetAnswer(Answer{ClusterID: cfg.cluster, Name: cfg.name})
	n.Cluster, err = Start(Config{
		ClusterID: cfg.cluster,
		Self:      Member{ID: cfg.id, Name: cfg.name, Boot: cfg.boot, Addresses: Addresses{Gossip: n.addr(), GRPC: "grpc-of-" + cfg.name}},
		Listener:  n.listener, AdvertiseIP: "127.0.0.1", Key: cfg.key, Seeds: cfg.seeds, Known: cfg.known, Logger: logger,
		RejoinEvery: 20 * time.Millisecond, suspicionMult: suspicion,
	})
	if err != nil {
		t.Fatal(err)
	}
	n.stop = sync.OnceFunc(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(n.stop)
	return n
}

func (n *node) addr() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(n.listener.Port())) }

// sees waits until the node's view of the others is so, such as "n1:alive n2:dead", by id.
func (n *node) sees(want string) {
	n.t.Helper()
	eventually(n.t, func() (bool, string) { got := n.view(); return got == want, got + ", want " + want })
}

func (n *node) view() string {
	var words []string
	for _, m := range n.Members() {
		words = append(words, m.Name+":"+string(m.State))
	}
	return strings.Join(words, " ")
}

// says waits until the node has logged a line with all the parts.
func (n *node) says(parts ...string) {
	n.t.Helper()
	eventually(n.t, func() (bool, string) {
		return n.logs.Count(parts...) > 0, "no line with " + strings.Join(parts, " … ") + " in\n" + n.logs.String()
	})
}

// eventually waits for a condition; what says how it stands, when it does not come.
func eventually(t *testing.T, condition func() (ok bool, what string)) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	limit := time.After(time.Minute)
	for {
		ok, what := condition()
		if ok {
			return
		}
		select {
		case <-tick.C:
		case <-limit:
			t.Fatal(what)
		}
	}
}
