package e2e_test

import (
	"context"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast-io/holdfast/node/system"
	"github.com/holdfast-io/holdfast/placement"
	holdfastv1 "github.com/holdfast-io/holdfast/proto/holdfast/v1"
	"github.com/holdfast-io/holdfast/test/e2e/internal/classes/classesv1"
)

// commands runs commands through nodes.
type commands struct{ t *testing.T }

func (commands) run(p *process, args ...string) (out string, ok bool) {
	out, errs, code := holdfast(append(args, "--addr", p.ports["grpc"])...)
	return out + errs, code == 0
}

func (c commands) must(p *process, args ...string) string {
	c.t.Helper()
	out, ok := c.run(p, args...)
	if !ok {
		c.t.Fatalf("%v: %s", args, out)
	}
	return out
}

// refused waits until a command is refused: nodes learn of changes a little later than who made them.
func (c commands) refused(p *process, want string, args ...string) {
	c.t.Helper()
	waitFor(c.t, fmt.Sprintf("%v through %s to be refused with %s", args, p.name, want), 10*time.Second, func() (bool, string) {
		out, ok := c.run(p, args...)
		return !ok && strings.Contains(out, want), out
	})
}

// A class gets another name under load and loses nothing: its objects answer on, and its alarms ring.
// Deleted, it is gone for good, though one node is paused and the one that was asked is killed in the
// middle of it; what is registered under its name later begins with nothing.
func TestRenameAndDeleteAClass(t *testing.T) {
	nodes := startNodes(t, prepareNodes(t, testnode, 3))
	c := commands{t}
	l := newLoad(t, nodes, 300)
	l.run(8)
	l.waitAcked(1500)
	b := &bellTower{t: t, nodes: nodes}
	early, later := bellNames("early", 10), bellNames("later", 10)
	for _, name := range early {
		b.set(name, &classesv1.SetBellRequest{AfterMs: 6000})
	}
	for _, name := range later {
		b.set(name, &classesv1.SetBellRequest{AfterMs: time.Hour.Milliseconds()})
	}
	c.refused(nodes[0], "UNKNOWN_CLASS", "class", "rename", "Nothing", "Something")
	c.refused(nodes[0], "reserved", "class", "rename", "Counter", "holdfast.Counter")
	c.refused(nodes[0], "Bell", "class", "rename", "Counter", "Bell")
	c.must(nodes[0], "class", "rename", "Counter", "Tally")
	c.must(nodes[1], "class", "rename", "Bell", "Chime")
	l.waitAcked(600) // By the gRPC service, which has the same name as before.
	nodes[2].stop()  // And with a program that has them under their former names.
	nodes[2].start()
	nodes[2].waitReady()
	waitSpread(t, nodes[0], 3)
	l.waitAcked(600)
	l.finish()
	l.check()
	b.waitRings(early, 1, 30*time.Second)
	for _, p := range nodes {
		want := c.must(p, "call", "Tally", l.name(7), "Get")
		got, err := p.count(t.Context(), l.name(7))
		if err != nil || strings.TrimSpace(want) != fmt.Sprintf(`{"value":"%d"}`, got) {
			t.Errorf("through %s: %s by its new name, %d by its service, %v", p.name, want, got, err)
		}
		c.refused(p, "UNKNOWN_CLASS", "call", "Counter", l.name(7), "Get")
	}
	if list := c.must(nodes[1], "class", "list"); !strings.Contains(list, "\nTally ") || strings.Contains(list, "\nCounter ") {
		t.Errorf("classes: %s", list)
	}
	if out := c.must(nodes[1], "alarms", "Chime"); strings.Count(out, "\n") != len(later) {
		t.Errorf("pending alarms: %s", out)
	}
	if _, metrics, err := nodes[1].get("/metrics"); err != nil || !strings.Contains(metrics, `class="Tally"`) || strings.Contains(metrics, `class="Counter"`) {
		t.Errorf("metrics name the class by its former name, or not at all: %v", err)
	}

	c.refused(nodes[0], "has 300 objects", "class", "delete", "Tally")
	waitSpread(t, nodes[0], 3)
	asked, left := deleteAndKill(t, nodes, "Tally")
	for class, want := range map[string]int{"Tally": 0, "Counter": 0, "Chime": 20} {
		waitFor(t, fmt.Sprintf("%d objects of %s", want, class), 30*time.Second, func() (bool, string) {
			out, ok := c.run(left, "objects", class)
			return ok == (want > 0) && (!ok || strings.Count(out, "\n") == want), out
		})
	}
	waitFor(t, "nothing to be left", 30*time.Second, func() (bool, string) { return leftOf(left, "Counter") })
	asked.start() // It registers its program's class again.
	asked.waitReady()
	waitSpread(t, left, 3)
	asked.waitSaid("registered again")
	for _, p := range nodes {
		waitFor(t, "the class to be there again, without objects", 20*time.Second, func() (bool, string) {
			out, ok := c.run(p, "call", "Counter", l.name(7), "Get")
			return ok && strings.TrimSpace(out) == `{"value":"0"}`, out
		})
	}
	if list := c.must(left, "class", "list"); !strings.Contains(list, "Counter#2") {
		t.Errorf("classes: %s", list)
	}
	if out := c.must(nodes[2], "call", "Counter", l.name(7), "Increment"); strings.TrimSpace(out) != `{"value":"1"}` {
		t.Errorf("the first increment of a new object: %s", out)
	}
	if out := c.must(nodes[0], "objects", "Counter"); strings.Count(out, "\n") != 1 {
		t.Errorf("objects of the new class: %s", out)
	}

	if out := c.must(nodes[0], "class", "delete", "Chime", "--yes", "Chime"); !strings.Contains(out, "with 20 objects") {
		t.Errorf("the deletion of a class said %s", out)
	}
	if ok, out := leftOf(nodes[0], "Bell"); !ok {
		t.Errorf("left: %s", out)
	}
}

// deleteAndKill deletes a class through a node that is killed as soon as that is recorded, while another
// one, which owns a third of the shards, is paused: so it is not done. It returns the node that was
// killed, and the one that was neither.
func deleteAndKill(t *testing.T, nodes []*process, class string) (asked, left *process) {
	t.Helper()
	s, err := nodes[0].status()
	if err != nil {
		t.Fatal(err)
	}
	keeper := s.Shards[placement.ShardOf(system.ID(), len(s.Shards))].Owner
	var paused *process
	for _, p := range nodes {
		switch {
		case p.name == keeper: // Which is to answer.
			left = p
		case paused == nil:
			paused = p
		default:
			asked = p
		}
	}
	if err := paused.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if _, err := holdfastv1.NewAdminClient(asked.conn()).DeleteClass(t.Context(), &holdfastv1.DeleteClassRequest{Class: class}); err != nil {
		t.Error(err)
	}
	asked.kill()
	t.Logf("%s after %s was paused, %s was killed", time.Since(began), paused.name, asked.name)
	if err := paused.cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	return asked, left
}

// leftOf says whether nothing is left of a deleted class, by its unique key.
func leftOf(p *process, key string) (none bool, what string) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	admin := holdfastv1.NewAdminClient(p.conn())
	objects, err := admin.ListObjects(ctx, &holdfastv1.ListObjectsRequest{UniqueKey: key})
	return err == nil && len(objects.GetObjects()) == 0 && objects.GetNextPageToken() == "", fmt.Sprint(objects, err)
}
