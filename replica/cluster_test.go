package replica_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"go.uber.org/goleak"

	"github.com/holdfast-io/holdfast/placement"
	"github.com/holdfast-io/holdfast/replica"
	"github.com/holdfast-io/holdfast/storage"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// network joins Hosts in one process; links can be cut.
type network struct {
	mu    sync.Mutex
	hosts map[placement.NodeID]*replica.Host
	cut   map[[2]placement.NodeID]bool
}

func newNetwork() *network {
	return &network{hosts: make(map[placement.NodeID]*replica.Host), cut: make(map[[2]placement.NodeID]bool)}
}

func (n *network) host(from, to placement.NodeID) *replica.Host {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.cut[[2]placement.NodeID{from, to}] {
		return nil
	}
	return n.hosts[to]
}

func (n *network) set(id placement.NodeID, h *replica.Host) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if h == nil {
		delete(n.hosts, id)
	} else {
		n.hosts[id] = h
	}
}

// isolate cuts or heals every link of a node, both ways.
func (n *network) isolate(id placement.NodeID, cut bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for other := range placement.NodeID(10) {
		n.cut[[2]placement.NodeID{id, other}] = cut
		n.cut[[2]placement.NodeID{other, id}] = cut
	}
}

type link struct {
	net  *network
	from placement.NodeID
}

func (l link) Send(to placement.NodeID, frame []byte) bool {
	h := l.net.host(l.from, to)
	if h == nil {
		return false
	}
	h.Receive(l.from, frame)
	return true
}

func (l link) SendSnapshot(ctx context.Context, to placement.NodeID, header []byte, begin func([]byte) (func() ([]byte, error), error)) error {
	h := l.net.host(l.from, to)
	if h == nil {
		return errors.New("unreachable")
	}
	var next func() ([]byte, error)
	offer := func(parts []byte) (err error) {
		next, err = begin(parts)
		return err
	}
	return h.ReceiveSnapshot(ctx, l.from, header, offer, func() ([]byte, error) { return next() })
}

// owner remembers what a Host says it owns.
type owner struct {
	mu    sync.Mutex
	terms map[placement.ShardID]uint64
	full  map[placement.ShardID]bool
}

func (o *owner) Acquired(shard placement.ShardID, term uint64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.terms[shard] = term
}

func (o *owner) Lost(shard placement.ShardID, _ uint64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.terms, shard)
}

func (o *owner) setFull(shard placement.ShardID, term uint64, full bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.full[shard] = full && o.terms[shard] == term
}

func (o *owner) fullShards() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	sum := 0
	for shard, full := range o.full {
		if full && o.terms[shard] != 0 {
			sum++
		}
	}
	return sum
}

func (o *owner) Pause(_ placement.ShardID, _ uint64, drained func()) { drained() }
func (o *owner) Resume(placement.ShardID, uint64)                    {}

func (o *owner) term(shard placement.ShardID) uint64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.terms[shard]
}

func (o *owner) count() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.terms)
}

type testNode struct {
	id    placement.NodeID
	fs    *vfs.MemFS
	store *storage.Store
	host  *replica.Host
	owner *owner
}

type testCluster struct {
	t      testing.TB
	net    *network
	shards int
	nodes  map[placement.NodeID]*testNode
}

const testTick = 10 * time.Millisecond

func newCluster(tb testing.TB, shards, nodes int) *testCluster {
	tb.Helper()
	c := &testCluster{t: tb, net: newNetwork(), shards: shards, nodes: make(map[placement.NodeID]*testNode)}
	tb.Cleanup(c.close)
	for id := range nodes {
		c.add(placement.NodeID(id + 1))
	}
	c.settle()
	return c
}

func (c *testCluster) add(id placement.NodeID) *testNode {
	c.t.Helper()
	n := &testNode{id: id, fs: vfs.NewCrashableMem()}
	c.nodes[id] = n
	c.start(n, id == 1)
	return n
}

func (c *testCluster) start(n *testNode, bootstrap bool) {
	c.t.Helper()
	var err error
	if n.store, err = storage.Open("data", storage.Options{FS: n.fs}); err != nil {
		c.t.Fatal(err)
	}
	if bootstrap {
		if err := replica.Bootstrap(n.store, storage.Identity{ClusterID: "test", Node: n.id, Shards: c.shards}); err != nil {
			c.t.Fatal(err)
		}
	}
	n.owner = &owner{terms: make(map[placement.ShardID]uint64), full: make(map[placement.ShardID]bool)}
	level := slog.LevelWarn
	if os.Getenv("HOLDFAST_TEST_DEBUG") != "" {
		level = slog.LevelDebug
	}
	n.host, err = replica.New(replica.Config{
		Node: n.id, Shards: c.shards, Store: n.store, Transport: link{c.net, n.id}, Owner: n.owner,
		Tick: testTick, LeaderStable: 3 * testTick, OnFull: n.owner.setFull,
		Logger: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level})).With(slog.Int("node", int(n.id))),
	})
	if err != nil {
		c.t.Fatal(err)
	}
	c.net.set(n.id, n.host)
	n.host.Start()
	c.steer()
}

// steer tells every node what the ring wishes: all the nodes there are.
func (c *testCluster) steer() {
	ids := slices.Sorted(maps.Keys(c.nodes))
	live := make(map[placement.NodeID]bool)
	for _, n := range c.nodes {
		live[n.id] = n.host != nil
	}
	ring := placement.NewRing(ids, c.shards, 3)
	for _, n := range c.nodes {
		if n.host != nil {
			n.host.SetMembership(replica.Membership{Ring: ring, Live: live})
		}
	}
}

// stop ends a node; crash loses what it had not synced.
func (c *testCluster) stop(n *testNode, crash bool) {
	c.t.Helper()
	c.net.set(n.id, nil)
	c.net.isolate(n.id, true) // What it promises after the moment of the crash must not get out.
	fs := n.fs
	if crash {
		fs = n.fs.CrashClone(vfs.CrashCloneCfg{})
	}
	if err := n.host.Close(); err != nil {
		c.t.Error(err)
	}
	if err := n.store.Close(); err != nil {
		c.t.Error(err)
	}
	c.net.isolate(n.id, false)
	n.host, n.store, n.fs = nil, nil, fs
}

func (c *testCluster) close() {
	for _, n := range c.nodes {
		if n.host != nil {
			c.stop(n, false)
		}
	}
}

func waitFor(tb testing.TB, what string, cond func() bool) {
	tb.Helper()
	deadline := time.After(20 * time.Second)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !cond() {
		select {
		case <-deadline:
			tb.Fatalf("waited too long for %s", what)
		case <-tick.C:
		}
	}
}

// settle waits until the ring's wish is fulfilled.
func (c *testCluster) settle() {
	c.t.Helper()
	ids := slices.Sorted(maps.Keys(c.nodes))
	ring := placement.NewRing(ids, c.shards, 3)
	want := min(len(ids), 3)
	var last string
	defer func() {
		if c.t.Failed() {
			c.t.Log(last)
		}
	}()
	waitFor(c.t, "the ring's wish", func() bool {
		for shard := range placement.ShardID(c.shards) {
			first, _ := ring.Owner(shard)
			n := c.nodes[first]
			if n.host == nil || n.owner.term(shard) == 0 {
				last = fmt.Sprintf("shard %d is not owned by %d", shard, first)
				return false
			}
		}
		for _, n := range c.nodes {
			if n.host == nil {
				continue
			}
			for _, s := range n.host.Status() {
				if len(s.Voters)+len(s.Learners) != want || (want == 3 && len(s.Voters) != 3) || (want == 2 && len(s.Voters) != 1) {
					last = fmt.Sprintf("node %d: %+v", n.id, s)
					return false
				}
			}
		}
		return true
	})
}

// result collects what a Settler and Confirmer is told.
type result struct {
	committed, readable chan uint64
	refused             chan bool
	confirmed           chan error
}

func newResult() *result {
	return &result{make(chan uint64, 1000), make(chan uint64, 1000), make(chan bool, 1000), make(chan error, 1000)}
}

func (r *result) Committed(seq uint64)           { r.committed <- seq }
func (r *result) Readable(seq uint64)            { r.readable <- seq }
func (r *result) Refused(_ uint64, unknown bool) { r.refused <- unknown }
func (r *result) Confirmed(_ uint64, err error)  { r.confirmed <- err }

func segment(object byte, term, inc, seq uint64, value string) *storage.Segment {
	return &storage.Segment{
		Object: storage.ObjectRef{Class: "C", ID: placement.ObjectID{object}}, Term: term, Incarnation: inc, Sequence: seq, CommitSequence: seq,
		Ops: []storage.Op{
			{Op: storage.OpSet, Kind: storage.KindRecord, Value: []byte{0xa0}},
			{Op: storage.OpSet, Kind: storage.KindKV, Key: []byte("k"), Value: []byte(value)},
		},
	}
}

// write proposes until it is acknowledged, through whoever owns the shard.
func (c *testCluster) write(shard placement.ShardID, object byte, inc uint64, value string) {
	c.t.Helper()
	waitFor(c.t, "an acknowledged write", func() bool {
		for _, n := range c.nodes {
			if n.host == nil {
				continue
			}
			term := n.owner.term(shard)
			if term == 0 {
				continue
			}
			r := newResult()
			n.host.Propose(shard, segment(object, term, inc, 1, value), r)
			select {
			case <-r.readable:
				return true
			case <-r.refused:
				inc++
				return false
			case <-time.After(5 * time.Second):
				return false
			}
		}
		return false
	})
}

func (n *testNode) read(shard placement.ShardID, object byte) string {
	v, _, _ := n.store.Object(shard, storage.ObjectRef{Class: "C", ID: placement.ObjectID{object}}).Get(storage.KindKV, []byte("k"))
	return string(v)
}

func TestOneNodeWritesConfirmsAndRestarts(t *testing.T) {
	c := newCluster(t, 4, 1)
	n := c.nodes[1]
	term := n.owner.term(2)
	r := newResult()
	for seq := uint64(1); seq <= 10; seq++ {
		n.host.Propose(2, segment(7, term, 1, seq, fmt.Sprint(seq)), r)
	}
	for seq := uint64(1); seq <= 10; seq++ {
		if got := <-r.committed; got != seq {
			t.Fatalf("committed %d, want %d", got, seq)
		}
	}
	waitFor(t, "the last write to be readable", func() bool { return <-r.readable == 10 })
	if !n.host.ConfirmNow(2, term) {
		t.Error("the only voter could not confirm at once")
	}
	n.host.Confirm(2, term, r, 1)
	if err := <-r.confirmed; err != nil {
		t.Error(err)
	}
	n.host.Confirm(2, term+1, r, 1)
	if err := <-r.confirmed; !errors.Is(err, replica.ErrNotLeader) {
		t.Errorf("confirmed another term: %v", err)
	}
	// A segment of another term is refused, and so is everything behind a refused one.
	n.host.Propose(2, segment(7, term-1, 1, 11, "x"), r)
	if unknown := <-r.refused; unknown {
		t.Error("a segment that was never proposed is said to be unknown")
	}
	c.stop(n, true)
	c.start(n, false)
	c.settle()
	if got := n.read(2, 7); got != "10" {
		t.Errorf("after the crash: %q", got)
	}
}

func TestGrowsFromOneToThree(t *testing.T) {
	c := newCluster(t, 8, 1)
	c.write(3, 1, 1, "before")
	c.add(2)
	c.settle()
	c.add(3)
	c.settle()
	c.write(3, 2, 1, "after")
	for _, n := range c.nodes {
		waitFor(t, "the replica to catch up", func() bool { return n.read(3, 1) == "before" && n.read(3, 2) == "after" })
	}
}

func TestAnotherTakesOverFromADeadOwner(t *testing.T) {
	c := newCluster(t, 8, 3)
	for shard := range placement.ShardID(8) {
		c.write(shard, 1, 1, "acked")
	}
	dead := c.nodes[2]
	c.stop(dead, true)
	c.nodes[1].host.PeerBroken(2)
	c.nodes[3].host.PeerBroken(2)
	for shard := range placement.ShardID(8) {
		c.write(shard, 2, 1, "after")
	}
	for _, id := range []placement.NodeID{1, 3} {
		for shard := range placement.ShardID(8) {
			waitFor(t, "the acknowledged write", func() bool { return c.nodes[id].read(shard, 1) == "acked" })
		}
	}
	c.start(dead, false)
	c.nodes[1].host.PeerConnected(2)
	c.nodes[3].host.PeerConnected(2)
	c.settle()
	for shard := range placement.ShardID(8) {
		waitFor(t, "the returned node to catch up", func() bool { return dead.read(shard, 2) == "after" })
	}
}

// An owner that is cut off confirms no read once another owns the shard.
func TestNoStaleReadFromACutOffOwner(t *testing.T) {
	c := newCluster(t, 4, 3)
	var old *testNode
	for _, n := range c.nodes {
		if n.owner.term(0) != 0 {
			old = n
		}
	}
	term := old.owner.term(0)
	c.net.isolate(old.id, true)
	r := newResult()
	old.host.Confirm(0, term, r, 1)
	select {
	case err := <-r.confirmed:
		if err == nil {
			t.Error("a cut-off owner confirmed a read")
		}
	case <-time.After(20 * time.Second):
		t.Error("no answer")
	}
	c.net.isolate(old.id, false)
	c.settle()
}

func TestAReplicaThatIsFarBehindGetsASnapshot(t *testing.T) {
	c := newCluster(t, 1, 3)
	behind := c.nodes[3]
	if behind.owner.term(0) != 0 {
		behind = c.nodes[2]
	}
	c.stop(behind, false)
	r := newResult()
	const writes = 9000
	for done, inc := 0, uint64(5); done < writes; inc++ {
		var own *testNode
		waitFor(t, "an owner", func() bool {
			for _, n := range c.nodes {
				if n.host != nil && n.owner.term(0) != 0 {
					own = n
				}
			}
			return own != nil
		})
		term, refused := own.owner.term(0), false
		for seq := uint64(1); done < writes && !refused; seq++ {
			own.host.Propose(0, segment(9, term, inc, seq, fmt.Sprint(done+1)), r)
			select {
			case <-r.committed:
				done++
			case <-r.refused: // The ownership has moved.
				refused = true
			}
			for len(r.readable) > 0 {
				<-r.readable
			}
		}
	}
	c.start(behind, false)
	waitFor(t, "the snapshot", func() bool { return behind.read(0, 9) == fmt.Sprint(writes) })
	if behind.host.Stats().SnapshotsReceived == 0 {
		t.Error("it caught up without a snapshot")
	}
	c.settle()
}

func TestMovesToNewNodesAndBack(t *testing.T) {
	c := newCluster(t, 16, 3)
	for shard := range placement.ShardID(16) {
		c.write(shard, 1, 1, "v")
	}
	c.add(4)
	c.add(5)
	c.settle()
	for shard := range placement.ShardID(16) {
		c.write(shard, 2, 1, "w")
	}
	// Remove 4 and 5 for good.
	removed := map[placement.NodeID]bool{4: true, 5: true}
	live := map[placement.NodeID]bool{1: true, 2: true, 3: true, 4: true, 5: true}
	ring := placement.NewRing([]placement.NodeID{1, 2, 3}, 16, 3)
	for _, n := range c.nodes {
		n.host.SetMembership(replica.Membership{Ring: ring, Live: live, Removed: removed})
	}
	waitFor(t, "the removed nodes to be empty", func() bool {
		return len(c.nodes[4].host.Status()) == 0 && len(c.nodes[5].host.Status()) == 0
	})
	c.stop(c.nodes[4], false)
	c.stop(c.nodes[5], false)
	delete(c.nodes, 4)
	delete(c.nodes, 5)
	c.steer()
	c.settle()
	for shard := range placement.ShardID(16) {
		for _, n := range c.nodes {
			waitFor(t, "both writes", func() bool { return n.read(shard, 1) == "v" && n.read(shard, 2) == "w" })
		}
	}
}

// A replica whose state is damaged says so, is taken out, and is made anew from the others.
func TestADamagedReplicaIsMadeAnew(t *testing.T) {
	for name, damage := range map[string]func(b *storage.Batch){
		"descriptor": func(b *storage.Batch) { b.Set(storage.DescriptorKey(0), []byte("?")) },
		"commit beyond the log": func(b *storage.Batch) {
			b.Set(storage.HardStateKey(0), []byte("\x00\x00\x00\x00\x00\x00\x00\x09\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff\xff"))
		},
		"fence": func(b *storage.Batch) {
			b.Set(storage.AppendObjectKey(nil, 0, storage.ObjectRef{Class: "C", ID: placement.ObjectID{1}}, storage.KindFence, nil), []byte("?"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCluster(t, 1, 3)
			c.write(0, 1, 1, "before")
			n := c.nodes[3]
			if n.owner.term(0) != 0 {
				n = c.nodes[2]
			}
			waitFor(t, "the replica to apply", func() bool { return n.read(0, 1) == "before" })
			replicaID := func() string {
				raw, _, _ := n.store.Get(storage.ReplicaKey(0))
				return string(raw)
			}
			before := replicaID()
			c.stop(n, false)
			store, err := storage.Open("data", storage.Options{FS: n.fs})
			if err != nil {
				t.Fatal(err)
			}
			b := store.NewBatch()
			damage(b)
			if err := errors.Join(b.Commit(true), b.Close(), store.Close()); err != nil {
				t.Fatal(err)
			}
			c.start(n, false)
			c.write(0, 1, 2, "after")
			waitFor(t, "another replica in its place", func() bool { return replicaID() != before && n.read(0, 1) == "after" })
			c.settle()
		})
	}
}

// A node whose disk is spent takes in nothing that objects wrote, and has it when there is room again.
func TestASpentDiskTakesNothingIn(t *testing.T) {
	c := newCluster(t, 4, 3)
	ring := placement.NewRing([]placement.NodeID{1, 2, 3}, 4, 3)
	live := map[placement.NodeID]bool{1: true, 2: true, 3: true}
	full := map[placement.NodeID]bool{3: true}
	for id, n := range c.nodes {
		n.host.SetMembership(replica.Membership{
			Ring: ring, Live: live, Avoid: map[placement.NodeID]replica.Reluctance{3: replica.DiskLow}, Full: full, Spent: id == 3,
		})
	}
	waitFor(t, "the others to own", func() bool {
		return c.nodes[3].owner.count() == 0 && c.nodes[1].owner.count()+c.nodes[2].owner.count() == 4
	})
	for shard := range placement.ShardID(4) {
		c.write(shard, 1, 1, "v")
	}
	for shard := range placement.ShardID(4) {
		if got := c.nodes[3].read(shard, 1); got != "" {
			t.Errorf("shard %d: the spent node has %q", shard, got)
		}
	}
	if c.nodes[3].host.Stats().FramesDropped == 0 {
		t.Error("it has dropped nothing")
	}
	c.steer()
	waitFor(t, "the node to catch up", func() bool {
		for shard := range placement.ShardID(4) {
			if c.nodes[3].read(shard, 1) != "v" {
				return false
			}
		}
		return true
	})
	c.settle()
}

// Owners are told when a majority of the voters has no room, and when it has again.
func TestOwnersAreToldOfFullDisks(t *testing.T) {
	c := newCluster(t, 4, 3)
	set := func(full ...placement.NodeID) {
		m := replica.Membership{
			Ring: placement.NewRing([]placement.NodeID{1, 2, 3}, 4, 3), Live: map[placement.NodeID]bool{1: true, 2: true, 3: true},
			Full: make(map[placement.NodeID]bool),
		}
		for _, node := range full {
			m.Full[node] = true
		}
		for _, n := range c.nodes {
			n.host.SetMembership(m)
		}
	}
	told := func(want int) {
		t.Helper()
		waitFor(t, fmt.Sprintf("%d shards without room", want), func() bool {
			sum := 0
			for _, n := range c.nodes {
				sum += n.owner.fullShards()
			}
			return sum == want
		})
	}
	own := func(node placement.NodeID) int { return c.nodes[node].owner.count() }
	set(1)
	told(own(1)) // It is the owner's own disk alone that counts, for the others are a majority.
	set(1, 2)
	told(4)
	set()
	told(0)
}

func TestHandOverLeavesNothingOwned(t *testing.T) {
	c := newCluster(t, 8, 3)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := c.nodes[1].host.HandOver(ctx); err != nil {
		t.Fatal(err)
	}
	if n := c.nodes[1].owner.count(); n != 0 {
		t.Errorf("still owns %d shards", n)
	}
}

// A shard goes to the node that is named, if that can own it.
func TestTransferMovesOneShard(t *testing.T) {
	c := newCluster(t, 4, 4)
	const shard = 2
	m := replica.Membership{Live: map[placement.NodeID]bool{1: true, 2: true, 3: true, 4: true}}
	var from, outside placement.NodeID
	for id, n := range c.nodes {
		n.host.SetMembership(m) // Nobody wishes for anything else.
		switch held := slices.ContainsFunc(n.host.Status(), func(s replica.ShardStatus) bool { return s.Shard == shard }); {
		case n.owner.term(shard) != 0:
			from = id
		case !held:
			outside = id
		}
	}
	owned := c.nodes[from].owner.count()
	for id, n := range c.nodes {
		if err := n.host.Transfer(t.Context(), shard, outside); err == nil {
			t.Errorf("node %d hands the shard to %d, which has no replica", id, outside)
		}
		if err := n.host.Transfer(t.Context(), shard, from); err == nil {
			t.Errorf("node %d hands the shard to its owner", id)
		}
	}
	for id := range c.nodes {
		if id == from || id == outside {
			continue
		}
		if err := c.nodes[from].host.Transfer(t.Context(), shard, id); err != nil {
			t.Fatal(err)
		}
		waitFor(t, "the heir to own the shard", func() bool { return c.nodes[id].owner.term(shard) != 0 })
		if got := c.nodes[from].owner.count(); got != owned-1 {
			t.Errorf("node %d owned %d shards, and owns %d", from, owned, got)
		}
		return
	}
}

var _ = io.EOF
