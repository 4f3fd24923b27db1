package node

import (
	"errors"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/holdfast-io/holdfast/cluster"
	"github.com/holdfast-io/holdfast/storage"
)

// Creating and joining, row by row: any cluster that answers is joined, and one is created only
// when every seed has said that it knows none and would not create one either. An emptied disk
// never makes a second cluster.
func TestDecide(t *testing.T) {
	t.Parallel()
	silent := func(seed string) seedReply {
		return seedReply{Seed: seed, Err: errors.New("seed " + seed + ": connection refused")}
	}
	empty := func(seed string) seedReply {
		return seedReply{Seed: seed, Answer: cluster.Answer{Name: seed}}
	}
	founder := func(seed string) seedReply {
		return seedReply{Seed: seed, Answer: cluster.Answer{Name: seed, Bootstrap: true}}
	}
	member := func(seed string) seedReply {
		return seedReply{Seed: seed, Answer: cluster.Answer{Name: seed, ClusterID: "c", Shards: 16, Replicas: 3}}
	}
	for _, tt := range []struct {
		name      string
		bootstrap bool
		replies   []seedReply
		want      verdict
		why       string // what an operator is told, in part
	}{
		{"bootstrap, no seeds", true, nil, verdictCreate, ""},
		{"bootstrap, every seed knows none", true, []seedReply{empty("b"), empty("c")}, verdictCreate, ""},
		{"bootstrap, the seed has a cluster", true, []seedReply{member("b")}, verdictJoin, ""},
		{"bootstrap, one has a cluster, one is silent", true, []seedReply{silent("b"), member("c")}, verdictJoin, ""},
		{"bootstrap, one has a cluster, one would create", true, []seedReply{founder("b"), member("c")}, verdictJoin, ""},
		{"bootstrap, the seed is silent", true, []seedReply{silent("b")}, verdictWait, "seed b: connection refused"},
		{"bootstrap, one of the seeds is silent", true, []seedReply{empty("b"), silent("c")}, verdictWait, "before every seed has said that it knows none: seed c"},
		{"bootstrap, a seed would create too", true, []seedReply{empty("b"), founder("c")}, verdictWait, "seed c (c) was given --bootstrap too; give it to one node only"},
		{"the seed has a cluster", false, []seedReply{member("b")}, verdictJoin, ""},
		{"one has a cluster, one is silent", false, []seedReply{silent("b"), member("c")}, verdictJoin, ""},
		{"the seed is silent", false, []seedReply{silent("b")}, verdictWait, "no seed has a cluster yet; seed b: connection refused"},
		{"every seed knows none", false, []seedReply{empty("b"), empty("c")}, verdictWait, "start one node with --bootstrap"},
		{"the seed is about to create", false, []seedReply{founder("b")}, verdictWait, "no seed has a cluster yet"},
		{"the only seed was the node itself", false, nil, verdictWait, "start one node with --bootstrap"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, answer, why := decide(tt.bootstrap, tt.replies)
			if got != tt.want || !strings.Contains(why, tt.why) || (why == "") != (got != verdictWait) {
				t.Errorf("got verdict %d, %q; want %d, %q", got, why, tt.want, tt.why)
			}
			if (answer.ClusterID == "c") != (got == verdictJoin) {
				t.Errorf("verdict %d came with %+v", got, answer)
			}
		})
	}
}

// A node with nothing to go by says what to pass (P7).
func TestEnterSaysWhatToPass(t *testing.T) {
	t.Parallel()
	n := &Node{cfg: Config{Name: "n", DataDir: "data"}}
	err := n.enter(t.Context())
	if err == nil || !strings.Contains(err.Error(), "--bootstrap") || !strings.Contains(err.Error(), "--join HOST:PORT") {
		t.Errorf("got %v", err)
	}
}

// A list of seeds that all nodes share names the asking node too: that one is no seed. One that only
// has its name, by mistake, is: two nodes would create a cluster each otherwise.
func TestAskAllLeavesOutTheNodeItself(t *testing.T) {
	t.Parallel()
	self, twin, other := listenGossip(t), listenGossip(t), listenGossip(t)
	self.SetAnswer(cluster.Answer{Name: "n1", Bootstrap: true})
	twin.SetAnswer(cluster.Answer{Name: "n1", Bootstrap: true})
	other.SetAnswer(cluster.Answer{Name: "n2"})
	seeds := []string{gossipAddr(self), gossipAddr(twin), gossipAddr(other), "127.0.0.1:1"}
	replies := askAll(t.Context(), seeds, nil, self.ID())
	if len(replies) != 3 || replies[0].Answer.Listener != twin.ID() || replies[1].Answer.Name != "n2" || replies[2].Err == nil {
		t.Errorf("got %+v", replies)
	}
	for _, tt := range []struct {
		seeds []string
		want  verdict
	}{{seeds[:1], verdictCreate}, {seeds[:2], verdictWait}} {
		if got, _, why := decide(true, askAll(t.Context(), tt.seeds, nil, self.ID())); got != tt.want {
			t.Errorf("seeds %v: got verdict %d, want %d: %s", tt.seeds, got, tt.want, why)
		}
	}
}

func listenGossip(t *testing.T) *cluster.Listener {
	t.Helper()
	l, err := cluster.Listen("127.0.0.1:0", nil, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Shutdown(); err != nil {
			t.Error(err)
		}
	})
	return l
}

func gossipAddr(l *cluster.Listener) string {
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(l.Port()))
}

// A created cluster is there after a restart, with the shards that were asked for.
func TestCreateIsDurable(t *testing.T) {
	t.Parallel()
	fs := vfs.NewMem()
	n := &Node{cfg: Config{Name: "n1", Shards: 4, Replicas: 3}.withDefaults(), store: openStore(t, fs)}
	n.log = n.cfg.Logger
	if err := n.create(); err != nil {
		t.Fatal(err)
	}
	want := n.store.Identity()
	if want.ClusterID == "" || want.Node == 0 || want.Name != "n1" || want.Shards != 4 || want.Replicas != 3 {
		t.Errorf("got %+v", want)
	}
	closeStore(t, n.store)
	s := openStore(t, fs)
	defer closeStore(t, s)
	shards, err := s.Shards()
	if err != nil || s.Identity() != want || len(shards) != 4 {
		t.Errorf("after a restart: %+v with shards %v, %v", s.Identity(), shards, err)
	}
}

func openStore(t *testing.T, fs vfs.FS) *storage.Store {
	t.Helper()
	s, err := storage.Open("data", storage.Options{FS: fs, CacheBytes: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func closeStore(t *testing.T, s *storage.Store) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// A directory says whose it is: a wrong name, or a damaged identity, is refused with what to do (P7).
func TestCheckIdentity(t *testing.T) {
	t.Parallel()
	whole := storage.Identity{ClusterID: "c", Node: 7, Shards: 16, Name: "n1"}
	for _, tt := range []struct {
		name   string
		change func(*storage.Identity)
		want   []string // in the error; none: no error
	}{
		{"whole", func(*storage.Identity) {}, nil},
		{"another name", func(id *storage.Identity) { id.Name = "n2" }, []string{"dir", `"n2"`, `"n1"`, "--name n2", "--data-dir"}},
		{"no cluster", func(id *storage.Identity) { id.ClusterID = "" }, []string{"incomplete", "join again"}},
		{"no node", func(id *storage.Identity) { id.Node = 0 }, []string{"incomplete"}},
		{"no shards", func(id *storage.Identity) { id.Shards = 0 }, []string{"incomplete"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			id := whole
			tt.change(&id)
			wantError(t, checkIdentity(id, Config{Name: "n1", DataDir: "dir"}), tt.want...)
		})
	}
}

// wantError wants an error that says all of that, or none.
func wantError(t *testing.T, err error, parts ...string) {
	t.Helper()
	if (err == nil) != (len(parts) == 0) {
		t.Errorf("got error %v, want one with %q", err, parts)
	}
	for _, part := range parts {
		if err != nil && !strings.Contains(err.Error(), part) {
			t.Errorf("got error %q, want %q in it", err, part)
		}
	}
}
