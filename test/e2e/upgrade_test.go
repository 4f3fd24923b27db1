package e2e_test

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// upgradeFrom is the build from which clusters must be upgradable to this one, node by node. It moves
// when a release is made, or when a release can't be upgraded to without one between.
const upgradeFrom = "ba3592918b3d4e793653d6c894d404d9f6068729"

// earlierBuild builds that commit's binary, from the repository's history.
func earlierBuild(t *testing.T) string {
	t.Helper()
	root := filepath.Join("..", "..")
	if out, err := exec.Command("git", "-C", root, "cat-file", "-e", upgradeFrom+"^{commit}").CombinedOutput(); err != nil {
		t.Skipf("no history here to build %.12s from (not a checkout, or a shallow one): %v %s", upgradeFrom, err, out)
	}
	dir := t.TempDir()
	archive := filepath.Join(dir, "source.tar")
	bin := filepath.Join(t.TempDir(), "node")
	for _, cmd := range []*exec.Cmd{
		exec.Command("git", "-C", root, "archive", "--output", archive, upgradeFrom),
		exec.Command("tar", "-xf", archive, "-C", dir),
		exec.Command("go", "build", "-C", dir, "-buildvcs=false", "-o", bin, "./cmd/node"),
	} {
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", cmd.Args, err, out)
		}
	}
	return bin
}

// TestRollingUpgrade: a cluster of the earlier build is upgraded node by node under load. No call of
// the Go client fails, of plain gRPC none that may have run, and nothing is lost. What is new works
// afterwards.
func TestRollingUpgrade(t *testing.T) {
	bin := earlierBuild(t)
	nodes := startNodes(t, prepareNodes(t, bin, 3))
	plain := newLoad(t, nodes, 200)
	plain.run(8)
	smart := runGoLoad(t, nodes, 8)
	plain.waitAcked(500)
	for _, p := range nodes {
		p.bin = stock
		restartInOrder(t, p)
		plain.waitAcked(300)
	}
	smart.finish()
	plain.finish()
	plain.exact()
	for _, p := range nodes {
		for _, word := range []string{"level=ERROR", "msg=refused"} {
			if p.said(word) {
				t.Errorf("%s has said %s", p.name, word)
			}
		}
	}
	drain(t, nodes[0], 0, []string{"n2 owns nothing"}, "n2")
	waitFor(t, "the facts to be everywhere", 10*time.Second, func() (bool, string) {
		s, err := nodes[2].status()
		return err == nil && s.at("n2").Drained, fmt.Sprint(s.Nodes, err)
	})
	plain.check()
}
