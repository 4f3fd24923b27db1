package e2e_test

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/metadata"

	"github.com/holdfast-io/holdfast/examples/counter/counterv1"
)

// TestFourthAndFifthNode: nodes join and are removed again under load. Shards move to them and away,
// no call fails for longer than its retry, and a removed node says so and ends.
func TestFourthAndFifthNode(t *testing.T) {
	nodes := threeNodes(t)
	l := newLoad(t, nodes, 200)
	l.run(16)
	var guests []*process
	for _, name := range []string{"n4", "n5"} {
		p := newProcess(t, name, "--join", nodes[0].ports["gossip"])
		p.start()
		p.waitReady()
		guests = append(guests, p)
	}
	waitSpread(t, nodes[0], 5)
	through := newLoad(t, guests, 50) // The guests forward and own, as all do.
	through.run(4)
	through.waitAcked(200)
	through.finish()
	for i, p := range guests {
		out, errs, code := holdfast("remove", p.name, "--addr", nodes[0].ports["grpc"])
		ends(t, "remove "+p.name, code, out+errs, 0, "is removed", "0 replicas left")
		if code := p.waitEnd(20 * time.Second); code != 0 {
			t.Errorf("removed, %s ended with %d", p.name, code)
		}
		if !p.said("removed from the cluster") || !p.said("delete its data directory") {
			t.Errorf("%s does not say that it was removed", p.name)
		}
		waitSpread(t, nodes[0], 4-i)
	}
	// A removed node does not come back by starting it again.
	said := guests[0].logged()
	guests[0].start()
	if code := guests[0].waitEnd(30 * time.Second); code != 0 && code != 1 {
		t.Errorf("started again after it was removed, it ended with %d", code)
	}
	if !guests[0].saidSince(said, "removed from the cluster") {
		t.Errorf("started again, %s does not say that it was removed", guests[0].name)
	}
	waitSpread(t, nodes[0], 3)
	if s, err := nodes[0].status(); err != nil || slices.ContainsFunc(s.Nodes, func(n nodeStatus) bool { return n.Owns > 0 && n.State != "alive" }) {
		t.Errorf("nodes: %+v, %v", s.Nodes, err)
	}
	l.finish()
	l.check()
	through.clients = l.clients // Those that it called through are gone.
	through.check()
}

// count reads a counter.
func (p *process) count(ctx context.Context, name string) (int64, error) {
	ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(ctx, "holdfast-name", name), 3*time.Second)
	defer cancel()
	resp, err := counterv1.NewCounterClient(p.conn()).Get(ctx, &counterv1.GetRequest{})
	return resp.GetValue(), err
}

// TestDeadNodeKeepsItsSeat: of three nodes one stays dead past the limit. It is out of the ring, but
// still a voter, and two of three are still needed: status says so. Voters never become fewer
// because nodes are dead.
func TestDeadNodeKeepsItsSeat(t *testing.T) {
	nodes := startNodes(t, prepareNodes(t, stock, 3, "--ring-dead-after", "2s"))
	l := newLoad(t, nodes[:2], 100)
	l.run(8)
	l.waitAcked(500)
	nodes[2].kill()
	for _, p := range nodes[:2] {
		waitFor(t, "n3 to leave the ring", 20*time.Second, func() (bool, string) {
			return p.said(`msg=ring members="[n1 n2]"`) || p.said(`msg=ring members="[n2 n1]"`), "it is there"
		})
	}
	l.waitAcked(500)
	l.finish()
	l.check()
	seated := func() (bool, string) {
		s, err := nodes[0].status()
		if err != nil {
			return false, err.Error()
		}
		for _, sh := range s.Shards {
			slices.Sort(sh.Voters)
			if !slices.Equal(sh.Voters, []string{"n1", "n2", "n3"}) || len(sh.Learners) > 0 || sh.Owner == "" || sh.Owner == "n3" {
				return false, fmt.Sprintf("%+v", sh)
			}
		}
		for _, n := range s.Nodes {
			if n.Name == "n3" && n.State != "dead" {
				return false, fmt.Sprintf("%+v", n)
			}
		}
		warnings := strings.Join(s.Warnings, "\n")
		return strings.Contains(warnings, "n3") && strings.Contains(warnings, "2 of the 3 voters must answer"), warnings
	}
	waitFor(t, "three voters of every shard, one of them dead, and a warning", 20*time.Second, seated)

	// One of three does not go on alone.
	before, err := nodes[0].count(t.Context(), l.name(0))
	if err != nil {
		t.Fatal(err)
	}
	nodes[1].kill()
	waitFor(t, "one of three to refuse", 20*time.Second, func() (bool, string) {
		_, err := nodes[0].count(t.Context(), l.name(0))
		return err != nil, "it answers"
	})
	nodes[1].start()
	nodes[1].waitReady()
	waitFor(t, "two of three to answer again", 20*time.Second, func() (bool, string) {
		now, err := nodes[0].count(t.Context(), l.name(0))
		return err == nil && now == before, fmt.Sprint(now, err)
	})
	nodes[2].start()
	nodes[2].waitReady()
	waitSpread(t, nodes[0], 3)
	l.check()
}

// TestEmptiedDirectory: the node that created the cluster loses its disk. It comes back into the
// same cluster, under a new id, and nothing is lost.
func TestEmptiedDirectory(t *testing.T) {
	nodes := threeNodes(t)
	before, err := nodes[1].status()
	if err != nil {
		t.Fatal(err)
	}
	l := newLoad(t, nodes[1:], 100)
	l.run(8)
	l.waitAcked(500)
	nodes[0].kill()
	if err := os.RemoveAll(nodes[0].dir); err != nil {
		t.Fatal(err)
	}
	l.waitAcked(100)
	nodes[0].start()
	nodes[0].waitReady()
	waitSpread(t, nodes[1], 3)
	l.waitAcked(500)
	l.finish()
	after, err := nodes[0].status()
	if err != nil {
		t.Fatal(err)
	}
	if after.ClusterID != before.ClusterID {
		t.Errorf("cluster %s, was %s", after.ClusterID, before.ClusterID)
	}
	if id := after.id("n1"); id == "" || id == before.id("n1") {
		t.Errorf("n1 has the id %q, had %q", id, before.id("n1"))
	}
	l.check()
	// What the new node holds counts: another may go.
	nodes[2].kill()
	waitFor(t, "the others to answer", 20*time.Second, func() (bool, string) {
		_, err := nodes[0].count(t.Context(), l.name(0))
		return err == nil, fmt.Sprint(err)
	})
	l.clients = l.clients[:1]
	l.check()
}

// TestOldCopyOfADisk: a directory restored from a cold copy of before its last boot would vote as if
// it had never acknowledged what came since. It is refused with the reason, and the cluster goes on;
// emptied, the node comes back as a new one.
func TestOldCopyOfADisk(t *testing.T) {
	nodes := threeNodes(t)
	victim := nodes[2]
	l := newLoad(t, nodes[:2], 100)
	l.run(8)
	l.waitAcked(500)
	victim.stop()
	backup := victim.dir + "-copy"
	if err := os.CopyFS(backup, os.DirFS(victim.dir)); err != nil {
		t.Fatal(err)
	}
	victim.start()
	victim.waitReady()
	waitSpread(t, nodes[0], 3)
	l.waitAcked(500)
	victim.kill()
	if err := os.RemoveAll(victim.dir); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(backup, victim.dir); err != nil {
		t.Fatal(err)
	}
	victim.start()
	if code := victim.waitEnd(30 * time.Second); code != 1 {
		t.Errorf("on an old copy of its disk, it ended with %d", code)
	}
	for _, p := range nodes {
		if !p.said("old copy of its disk") || !p.said("empty data directory") {
			t.Errorf("%s does not say that %s runs on an old copy of its disk", p.name, victim.name)
		}
	}
	l.waitAcked(500)
	if err := os.RemoveAll(victim.dir); err != nil {
		t.Fatal(err)
	}
	victim.start()
	victim.waitReady()
	waitSpread(t, nodes[0], 3)
	l.finish()
	l.check()
}
