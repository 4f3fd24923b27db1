package e2e_test

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// A class gets another name under load and loses nothing. Deleted, it is gone from every node, also when a
// node dies meanwhile, and what is registered under its name later begins with nothing.
func TestRenameAndDeleteAClass(t *testing.T) {
	const objects = 300
	nodes := threeNodes(t)
	l := newLoad(t, nodes, objects)
	l.run(8)
	l.waitAcked(objects * 5)
	run := func(p *process, args ...string) (stdout string, ok bool) {
		out, errs, code := holdfast(append(args, "--addr", p.ports["grpc"])...)
		return out + errs, code == 0
	}
	must := func(p *process, args ...string) string {
		t.Helper()
		out, ok := run(p, args...)
		if !ok {
			t.Fatalf("%v: %s", args, out)
		}
		return out
	}
	// A node may learn of a change a little later.
	refused := func(p *process, want string, args ...string) {
		t.Helper()
		waitFor(t, fmt.Sprintf("%v through %s to be refused with %s", args, p.name, want), 10*time.Second, func() (bool, string) {
			out, ok := run(p, args...)
			return !ok && strings.Contains(out, want), out
		})
	}
	refused(nodes[0], "UNKNOWN_CLASS", "class", "rename", "Nothing", "Something")
	refused(nodes[0], "reserved", "class", "rename", "Counter", "holdfast.Counter")
	must(nodes[0], "class", "rename", "Counter", "Tally")
	l.waitAcked(objects * 2) // By the gRPC service, which has the same name as before.
	l.finish()
	l.check()
	for _, p := range nodes {
		want := must(p, "call", "Tally", l.name(7), "Get")
		got, err := p.count(t.Context(), l.name(7))
		if err != nil || strings.TrimSpace(want) != fmt.Sprintf(`{"value":"%d"}`, got) {
			t.Errorf("through %s: %s by its new name, %d by its service, %v", p.name, want, got, err)
		}
		refused(p, "UNKNOWN_CLASS", "call", "Counter", l.name(7), "Get")
	}
	if list := must(nodes[1], "class", "list"); !strings.Contains(list, "Tally") || strings.Contains(list, "\nCounter ") {
		t.Errorf("classes: %s", list)
	}

	// With a node that dies just when it is deleted.
	refused(nodes[0], "has 300 objects", "class", "delete", "Tally")
	nodes[2].kill()
	must(nodes[0], "class", "delete", "Tally", "--yes", "--wait", "60s")
	for _, p := range nodes[:2] {
		refused(p, "UNKNOWN_CLASS", "call", "Tally", l.name(7), "Get")
		refused(p, "UNKNOWN_CLASS", "objects", "Tally")
	}
	nodes[2].start() // It registers its program's class again.
	nodes[2].waitReady()
	waitSpread(t, nodes[0], 3)
	for _, p := range nodes {
		waitFor(t, "the class to be there again", 20*time.Second, func() (bool, string) {
			out, ok := run(p, "call", "Counter", l.name(7), "Get")
			return ok && strings.TrimSpace(out) == `{"value":"0"}`, out
		})
	}
	if list := must(nodes[1], "class", "list"); !strings.Contains(list, "Counter#2") {
		t.Errorf("classes: %s", list)
	}
	if out := must(nodes[2], "call", "Counter", l.name(7), "Increment"); strings.TrimSpace(out) != `{"value":"1"}` {
		t.Errorf("the first increment of a new object: %s", out)
	}
	if out := must(nodes[0], "objects", "Counter"); strings.Count(out, "\n") != 1 {
		t.Errorf("objects of the new class: %s", out)
	}
}
