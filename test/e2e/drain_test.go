package e2e_test

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// at returns what status says of a node.
func (s clusterStatus) at(name string) nodeStatus {
	for _, n := range s.Nodes {
		if n.Name == name {
			return n
		}
	}
	return nodeStatus{}
}

// waitOwns waits until a node owns nothing, or something, with three voters of every shard and an owner.
func waitOwns(t *testing.T, through *process, name string, owns bool) {
	t.Helper()
	waitFor(t, fmt.Sprintf("%s to own: %t", name, owns), 60*time.Second, func() (bool, string) {
		s, err := through.status()
		if err != nil {
			return false, err.Error()
		}
		for _, sh := range s.Shards {
			if len(sh.Voters) != 3 || sh.Owner == "" || sh.Moving != "" {
				return false, fmt.Sprintf("%+v", sh)
			}
		}
		return s.at(name).Owns > 0 == owns, fmt.Sprintf("%+v", s.Nodes)
	})
}

func drain(t *testing.T, through *process, code int, want []string, args ...string) {
	t.Helper()
	out, errs, got := holdfast(append([]string{"drain", "--addr", through.ports["grpc"]}, args...)...)
	ends(t, "drain "+strings.Join(args, " "), got, out+errs, code, want...)
}

// TestDrain: a drained node keeps its replicas and owns nothing, through restarts of all, until the
// draining is ended. No call fails of it.
func TestDrain(t *testing.T) {
	nodes := threeNodes(t)
	l := newLoad(t, nodes, 200)
	l.run(8)
	l.waitAcked(500)
	drain(t, nodes[0], 0, []string{"n2 owns nothing", "0 shards left on n2"}, "n2")
	s, err := nodes[1].status()
	if n := s.at("n2"); err != nil || !n.Drained || n.Owns != 0 || n.State != "alive" {
		t.Errorf("status of the drained node: %+v, %v", n, err)
	}
	if !strings.Contains(strings.Join(s.Warnings, "\n"), "holdfast drain --off n2") {
		t.Errorf("status does not warn: %q", s.Warnings)
	}
	if code, body, err := nodes[1].get("/readyz"); err != nil || code != 200 || !strings.Contains(body, "drained") {
		t.Errorf("/readyz of the drained node: %d %s %v", code, body, err)
	}
	l.waitAcked(500)
	drain(t, nodes[2], 0, []string{"owns nothing"}, s.at("n2").ID) // By its id, and a second time.
	l.finish()
	l.check()
	if n := l.unknown.Load(); n != 0 {
		t.Errorf("%d calls of unknown outcome", n)
	}
	for _, p := range nodes {
		p.stop()
	}
	for _, p := range nodes {
		p.start()
	}
	for _, p := range nodes {
		p.waitReady()
	}
	waitOwns(t, nodes[1], "n2", false)

	drain(t, nodes[1], 0, []string{"not drained any more"}, "n2", "--off")
	waitSpread(t, nodes[0], 3)
	if code, body, err := nodes[1].get("/readyz"); err != nil || code != 200 || strings.Contains(body, "drained") {
		t.Errorf("/readyz afterwards: %d %s %v", code, body, err)
	}

	// A dead node can be drained too: it finds nothing to own when it comes back.
	nodes[2].kill()
	waitFor(t, "n3 to be seen dead", 20*time.Second, func() (bool, string) {
		s, err := nodes[0].status()
		return err == nil && s.at("n3").State == "dead", fmt.Sprintf("%+v, %v", s.Nodes, err)
	})
	drain(t, nodes[0], 0, []string{"n3 owns nothing"}, "n3")
	nodes[2].start()
	nodes[2].waitReady()
	waitOwns(t, nodes[0], "n3", false)

	// Where only drained nodes are left, they own: availability comes before the wish.
	drain(t, nodes[0], 0, []string{"n1 owns nothing"}, "n1")
	nodes[1].kill()
	var owner string
	waitFor(t, "the drained nodes to own everything", 20*time.Second, func() (bool, string) {
		s, err := nodes[0].status()
		if owner = "n1"; err == nil && s.at("n1").Owns == 0 {
			owner = "n3" // It has taken them all.
		}
		return err == nil && s.at("n1").Owns+s.at("n3").Owns == len(s.Shards), fmt.Sprintf("%+v, %v", s.Nodes, err)
	})
	drain(t, nodes[0], 1, []string{"goes on owning"}, owner)
	l.clients = newLoad(t, []*process{nodes[0], nodes[2]}, 1).clients
	l.check()
}

// TestDrainOfFew: a lone node goes on owning and says so; of two, the other takes over the only vote.
func TestDrainOfFew(t *testing.T) {
	nodes := prepareNodes(t, stock, 2)
	nodes[0].args = append(nodes[0].args, "--shards", "8")
	nodes[1].start() // It is asked whether it has a cluster; alone it has none.
	nodes[0].start()
	nodes[0].waitReady()
	nodes[1].waitReady()
	owners := func(want ...int) {
		t.Helper()
		waitFor(t, fmt.Sprintf("%v to be owned", want), 60*time.Second, func() (bool, string) {
			s, err := nodes[0].status()
			return err == nil && s.at("n1").Owns == want[0] && s.at("n2").Owns == want[1], fmt.Sprintf("%+v, %v", s, err)
		})
	}
	waitFor(t, "both to own", 60*time.Second, func() (bool, string) {
		s, err := nodes[0].status()
		return err == nil && s.at("n1").Owns > 0 && s.at("n2").Owns > 0, fmt.Sprintf("%+v, %v", s.Nodes, err)
	})
	if out, errs, code := holdfast("call", "--addr", nodes[0].ports["grpc"], "Counter", "a", "Increment"); code != 0 {
		t.Fatal(out, errs)
	}
	drain(t, nodes[1], 0, []string{"n1 owns nothing"}, "n1")
	owners(0, 8)
	drain(t, nodes[1], 1, []string{"n2 goes on owning 8 shards"}, "n2")
	owners(0, 8)
	drain(t, nodes[1], 0, nil, "n1", "--off")
	owners(8, 0)
	out, errs, code := holdfast("call", "--addr", nodes[1].ports["grpc"], "Counter", "a", "Get")
	ends(t, "get", code, out+errs, 0, `"1"`)
}
