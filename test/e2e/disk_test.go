package e2e_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"

	"github.com/holdfast-io/holdfast/examples/counter/counterv1"
	"github.com/holdfast-io/holdfast/fault"
	"github.com/holdfast-io/holdfast/test/e2e/internal/classes/classesv1"
)

// setFree says how many MiB of a node's disk are free.
func setFree(t *testing.T, p *process, mib int) {
	t.Helper()
	name := filepath.Join(filepath.Dir(p.dir), "free")
	if err := os.WriteFile(name+".new", fmt.Appendf(nil, "%d", mib), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(name+".new", name); err != nil {
		t.Fatal(err)
	}
}

// TestDiskNearlyFull: a node without room gives ownership away and says so; where no node has room
// writes are refused and reads are not; a node without any takes in nothing and lives. All of it ends
// by itself when there is room again, and nothing is lost.
func TestDiskNearlyFull(t *testing.T) {
	nodes := prepareNodes(t, testnode, 3, append([]string{"--min-free-disk", "104857600"}, fewShards...)...)
	for _, p := range nodes {
		p.args = append(p.args, "--free-disk-file", filepath.Join(filepath.Dir(p.dir), "free"))
		setFree(t, p, 1000)
	}
	startNodes(t, nodes)
	l := newLoad(t, nodes, 100)
	l.run(8)
	l.waitAcked(300)

	setFree(t, nodes[0], 90)
	waitOwns(t, nodes[1], "n1", false)
	s, err := nodes[1].status()
	if err != nil || !s.at("n1").DiskFull || !strings.Contains(strings.Join(s.Warnings, "\n"), "n1 has no room") {
		t.Errorf("status: %+v, %v", s, err)
	}
	if code, body, err := nodes[0].get("/readyz"); err != nil || code != 200 || !strings.Contains(body, "90 MiB are free") {
		t.Errorf("/readyz: %d %s %v", code, body, err)
	}
	if _, body, err := nodes[0].get("/metrics"); err != nil || metricOf(body, "holdfast_disk_full") != 1 {
		t.Errorf("holdfast_disk_full is %v, %v", metricOf(body, "holdfast_disk_full"), err)
	}
	l.waitAcked(300)

	// Nothing more is taken in here: the others are a majority.
	setFree(t, nodes[0], 10)
	waitFor(t, "n1 to be all but full", 10*time.Second, func() (bool, string) {
		_, body, err := nodes[0].get("/readyz")
		return strings.Contains(body, "is not taken in"), fmt.Sprint(body, err)
	})
	l.waitAcked(300)
	setFree(t, nodes[0], 1000)
	waitSpread(t, nodes[0], 3)
	l.waitAcked(300)
	l.finish()
	if n := l.unknown.Load(); n != 0 {
		t.Errorf("%d calls of unknown outcome", n)
	}
	l.check()

	// Two of three have no room: an owner with room has nobody to keep what is written.
	setFree(t, nodes[0], 90)
	setFree(t, nodes[1], 90)
	name := l.name(0)
	increment := func(p *process) error {
		ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(context.Background(), "holdfast-name", name), 10*time.Second)
		defer cancel()
		_, err := counterv1.NewCounterClient(p.conn()).Increment(ctx, &counterv1.IncrementRequest{})
		return err
	}
	waitFor(t, "writes to be refused", 20*time.Second, func() (bool, string) {
		err := increment(nodes[2])
		return fault.ReasonOf(err) == fault.DiskFull, fmt.Sprint(err)
	})
	before, err := nodes[2].count(t.Context(), name)
	if err != nil {
		t.Fatalf("a read: %v", err)
	}
	for _, p := range nodes {
		begun := time.Now()
		refused(t, "a write through "+p.name, increment(p), codes.Unavailable, fault.DiskFull, "full", "room")
		if took := time.Since(begun); took > 5*time.Second {
			t.Errorf("refused after %s", took)
		}
	}
	if after, err := nodes[0].count(t.Context(), name); err != nil || after != before {
		t.Errorf("after writes were refused it is %d, %v; before %d", after, err, before)
	}
	for _, p := range nodes[:2] {
		setFree(t, p, 1000)
	}
	waitFor(t, "writes to be taken again", 20*time.Second, func() (bool, string) {
		err := increment(nodes[0])
		return err == nil, fmt.Sprint(err)
	})
	waitSpread(t, nodes[0], 3)
	if after, err := nodes[1].count(t.Context(), name); err != nil || after != before+1 {
		t.Errorf("it is %d, %v, want %d", after, err, before+1)
	}
}

// TestDiskReallyFull: with nothing kept free a disk fills to the last byte. The process ends and says
// why; the others go on; nothing acknowledged is lost; with room it comes back.
func TestDiskReallyFull(t *testing.T) {
	nodes := prepareNodes(t, testnode, 3, append([]string{"--min-free-disk", "-1"}, fewShards...)...)
	full := nodes[1]
	if err := os.MkdirAll(full.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", full.dir, "tmpfs", 0, "size=448m"); err != nil {
		t.Skipf("a small disk can't be mounted here (it takes root on Linux): %v", err)
	}
	t.Cleanup(func() {
		full.kill()
		if err := syscall.Unmount(full.dir, 0); err != nil {
			t.Error(err)
		}
	})
	startNodes(t, nodes)
	others := []*process{nodes[0], nodes[2]}
	l := newLoad(t, others, 100)
	l.run(4)
	l.waitAcked(200)

	var stat syscall.Statfs_t
	if err := syscall.Statfs(full.dir, &stat); err != nil {
		t.Fatal(err)
	}
	ballast := filepath.Join(full.dir, "ballast")
	if err := os.WriteFile(ballast, make([]byte, int64(stat.Bavail)*stat.Bsize-(8<<20)), 0o600); err != nil {
		t.Fatal(err)
	}
	// 1 MiB a call, of which each node keeps a copy.
	box := classesv1.NewBoxClient(others[0].conn())
	var wrote []string
	ended := func() bool { return len(full.done) > 0 }
	for i := 0; i < 200 && !ended(); i++ {
		name := fmt.Sprintf("big-%d", i)
		ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(context.Background(), "holdfast-name", name), 20*time.Second)
		_, err := box.Put(ctx, &classesv1.PutRequest{KeyBytes: 10, ValueBytes: 1 << 20, Count: 1})
		cancel()
		if err == nil {
			wrote = append(wrote, name)
		} else if reason := fault.ReasonOf(err); reason != fault.OutcomeUnknown {
			t.Errorf("%s: %v", name, err)
		}
	}
	if code := full.waitEnd(20 * time.Second); code != 1 {
		t.Errorf("the node with the full disk ended with %d", code)
	}
	if !full.said("the disk is full") || !full.said("make room, and start it again") {
		t.Error("it does not say that its disk is full")
	}
	l.waitAcked(200)

	// On a full disk it does not start, and says so.
	full.start()
	if code := full.waitEnd(20 * time.Second); code != 1 || !full.said("needed to start: make room") {
		t.Errorf("started on a full disk, it ended with %d", code)
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	full.start()
	full.waitReady()
	waitSpread(t, others[0], 3)
	l.waitAcked(200)
	l.finish()
	l.check()
	// Read through the one that was gone, also what it owns now.
	back := classesv1.NewBoxClient(full.conn())
	for _, name := range wrote {
		if resp, err := back.Keys(with(t, "holdfast-name", name), &classesv1.KeysRequest{}); err != nil || resp.GetKeys() != 1 {
			t.Errorf("%s: %v, %v", name, resp, err)
		}
	}
	t.Logf("%d writes of 1 MiB acknowledged", len(wrote))
}
