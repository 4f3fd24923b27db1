package e2e_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// recovery runs the commands on stopped nodes, and starts them again.
type recovery struct {
	t       *testing.T
	dir     string
	reports []string
}

// collect stores what each of the stopped nodes has.
func collect(t *testing.T, nodes ...*process) *recovery {
	t.Helper()
	r := &recovery{t: t, dir: t.TempDir()}
	for _, p := range nodes {
		out, errs, code := holdfast("recover", "collect", "--data-dir", p.dir)
		ends(t, "collect "+p.name, code, errs, 0)
		r.reports = append(r.reports, r.store(p.name+".json", out))
	}
	return r
}

func (r *recovery) store(name, text string) string {
	file := filepath.Join(r.dir, name)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		r.t.Fatal(err)
	}
	return file
}

// plan returns where the plan is.
func (r *recovery) plan(lost string, says ...string) string {
	r.t.Helper()
	out, errs, code := holdfast(append([]string{"recover", "plan", "--lost", lost}, r.reports...)...)
	ends(r.t, "plan", code, errs, 0, says...)
	return r.store("plan.json", out)
}

func apply(t *testing.T, p *process, plan string, code int, says []string, args ...string) {
	t.Helper()
	out, errs, got := holdfast(append([]string{"recover", "apply", "--data-dir", p.dir, "--plan", plan}, args...)...)
	ends(t, "apply on "+p.name, got, out+errs, code, says...)
}

// TestRecoverOnTheLastNode: of three nodes two are gone for good, disks and all. The third goes on
// from what it has, which is all that was acknowledged; new nodes make three voters again. Nodes that
// were given up are refused, and end, should they come back after all.
func TestRecoverOnTheLastNode(t *testing.T) {
	nodes := threeNodes(t)
	l := newLoad(t, nodes, 200)
	l.run(8)
	l.waitAcked(1000)
	l.finish()
	l.check()
	drain(t, nodes[0], 0, nil, "n2") // A cluster fact, which is kept as any object.

	_, errs, code := holdfast("recover", "collect", "--data-dir", nodes[0].dir)
	ends(t, "collect in use", code, errs, 1, "another process is using the data directory")
	for _, p := range nodes {
		p.kill()
	}
	r := collect(t, nodes[0])
	_, errs, code = holdfast("recover", "plan", "--lost", "n2", r.reports[0])
	ends(t, "a plan that forgets one", code, errs, 1, "n3", "neither lost nor among the reports")
	_, errs, code = holdfast("recover", "plan", "--lost", "n2,n3,n9", r.reports[0])
	ends(t, "a plan with a stranger", code, errs, 1, `"n9"`)
	_, errs, code = holdfast("recover", "collect", "--data-dir", t.TempDir())
	ends(t, "collect nothing", code, errs, 1, "no store")
	plan := r.plan("n2,n3", "given up as lost", "n2 (", "n3 (", "256 shards go on", "a voter", "is gone")
	apply(t, nodes[0], plan, 0, []string{"256 shards would go on here", "Nothing is changed", "--yes"})
	apply(t, nodes[1], plan, 1, []string{"gives up as lost"}, "--yes")
	apply(t, nodes[0], plan, 0, []string{"256 shards go on here", "2 nodes are refused"}, "--yes")
	apply(t, nodes[0], plan, 0, []string{"0 shards go on here"}, "--yes") // A second time.

	nodes[0].start()
	nodes[0].waitReady()
	l.clients = newLoad(t, nodes[:1], 1).clients
	l.check()
	s, err := nodes[0].status()
	if err != nil || s.at("n1").Owns != 256 {
		t.Errorf("status: %+v, %v", s.Nodes, err)
	}
	for _, sh := range s.Shards {
		if strings.Join(sh.Voters, ",") != "n1" {
			t.Fatalf("%+v", sh)
		}
	}

	// Both come back, and are a majority of what they think is the cluster.
	for _, p := range nodes[1:] {
		p.start()
	}
	for _, p := range nodes[1:] {
		if code := p.waitEnd(30 * time.Second); code != 1 || !p.said("given up as lost") || !p.said("delete its data directory") {
			t.Errorf("%s came back, and ended with %d", p.name, code)
		}
	}
	after := newLoad(t, nodes[:1], 50)
	after.run(4)
	after.waitAcked(200)

	// With empty disks they are welcome.
	for _, p := range nodes[1:] {
		if err := os.RemoveAll(p.dir); err != nil {
			t.Fatal(err)
		}
		p.start()
		p.waitReady()
	}
	waitSpread(t, nodes[0], 3)
	after.waitAcked(200)
	after.finish()
	after.check()
	l.check()

	// What n1 alone knew all know now.
	nodes[0].stop()
	for _, p := range nodes[1:] {
		waitFor(t, "the others to go on", 30*time.Second, func() (bool, string) {
			_, err := p.count(t.Context(), l.name(0))
			return err == nil, "a read fails"
		})
	}
}

// TestRecoverOnThreeOfFive: some shards have lost their majority, and others have not. All of what is
// left goes on as one plan says, and all that was acknowledged is there.
func TestRecoverOnThreeOfFive(t *testing.T) {
	nodes := startNodes(t, prepareNodes(t, stock, 5, "--shards", "64"))
	l := newLoad(t, nodes, 200)
	l.run(8)
	l.waitAcked(1000)
	l.finish()
	l.check()
	left := nodes[:3]
	nodes[3].kill()
	nodes[4].kill()
	for _, p := range nodes[3:] {
		if err := os.RemoveAll(p.dir); err != nil {
			t.Fatal(err)
		}
	}
	for _, p := range left {
		p.stop()
	}
	r := collect(t, left...)
	plan := r.plan("n4,n5", "n4 (", "n5 (", "a voter")
	raw, err := os.ReadFile(plan)
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(raw), `"generation": `); n < 2 || n >= 2*64 {
		t.Errorf("%d of 64 shards have lost their majority", n/2)
	}
	for _, p := range left {
		apply(t, p, plan, 0, []string{"2 nodes are refused"}, "--yes")
		p.start()
	}
	for _, p := range left {
		p.waitReady()
	}
	l.clients = newLoad(t, left, 1).clients
	waitSpread(t, nodes[0], 3)
	l.check()
	// Names are free again.
	for _, p := range nodes[3:] {
		p.start()
		p.waitReady()
	}
	waitSpread(t, nodes[0], 5)
	l.check()
}
