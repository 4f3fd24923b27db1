package e2e_test

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast-io/holdfast/test/e2e/internal/classes/classesv1"
)

var rebuildMiB = flag.Int("rebuild-mib", 0, "how many mebibytes of objects TestRebuild writes before a node of five is lost for good; 16 without, and 1024 is what it was made for")

// TestRebuild: a cluster of five loses one node for good. By itself it brings every shard back to three
// replicas on the others, while calls go on, and nothing is lost. It says how long that took and what was
// left of the throughput; with its flag it does so with much to copy.
func TestRebuild(t *testing.T) {
	mib := *rebuildMiB
	if mib == 0 {
		mib = 16
	}
	nodes := startNodes(t, prepareNodes(t, testnode, 5, "--ring-dead-after", "5s"))
	waitSpread(t, nodes[0], 5)
	waitVoters(t, nodes[0], []string{"n1", "n2", "n3", "n4", "n5"})
	fill(t, nodes, mib)

	survivors, lost := nodes[:4], nodes[4]
	l := newLoad(t, survivors, 300)
	l.run(16)
	l.waitAcked(1000)
	rate := func() func() float64 {
		began, acked := time.Now(), l.acked.Load()
		return func() float64 { return float64(l.acked.Load()-acked) / time.Since(began).Seconds() }
	}
	calm := rate()
	l.waitAcked(int64(mib) * 50) // The more there is to copy, the longer.
	before := calm()
	fault, said := time.Now(), survivors[0].logged()
	lost.kill()
	waitFor(t, "the lost node to leave the ring", 30*time.Second, func() (bool, string) {
		return survivors[0].saidSince(said, "msg=ring members="), "it is there"
	})
	during := rate()
	waitVoters(t, survivors[0], []string{"n1", "n2", "n3", "n4"})
	t.Logf("%d MiB of objects: every shard has three replicas again %s after the loss, %s of them for the node to be given up; meanwhile %.0f%% of the throughput (%.0f of %.0f calls a second)",
		mib, time.Since(fault).Round(100*time.Millisecond), 5*time.Second, 100*during()/before, during(), before)
	l.waitAcked(500)
	l.finish()
	l.check()
}

// waitVoters waits until every shard has three voters among the nodes, and nothing moves.
func waitVoters(t *testing.T, through *process, names []string) {
	t.Helper()
	waitFor(t, "three voters of every shard", 10*time.Minute, func() (bool, string) {
		s, err := through.status()
		if err != nil {
			return false, err.Error()
		}
		missing := 0
		for _, shard := range s.Shards {
			strange := slices.ContainsFunc(shard.Voters, func(v string) bool { return !slices.Contains(names, v) })
			if len(shard.Voters) != 3 || strange || len(shard.Learners) > 0 || shard.Owner == "" {
				missing++
			}
		}
		return missing == 0, fmt.Sprintf("%d of %d shards are not there", missing, len(s.Shards))
	})
}

// fill writes so much, in objects of a mebibyte.
func fill(t *testing.T, nodes []*process, mib int) {
	t.Helper()
	const entry = 32 << 10
	text := make([]byte, entry/2)
	rng := rand.NewChaCha8([32]byte{})
	_, _ = rng.Read(text)
	random := fmt.Sprintf("%x", text) // Nothing that could be compressed to nothing.
	var next atomic.Int64
	var wg sync.WaitGroup
	began := time.Now()
	for i := range 8 {
		feed := classesv1.NewFeedClient(nodes[i%len(nodes)].conn())
		wg.Go(func() {
			for n := next.Add(1); int(n) <= mib && !t.Failed(); n = next.Add(1) {
				ctx := named(t, fmt.Sprintf("mass-%d", n))
				for range 1 << 20 / entry {
					if _, err := feed.Post(ctx, &classesv1.PostRequest{Text: random}); err != nil {
						t.Errorf("object %d: %v", n, err)
						return
					}
				}
			}
		})
	}
	wg.Wait()
	if t.Failed() {
		t.FailNow()
	}
	t.Logf("%d MiB written in %s", mib, time.Since(began).Round(time.Second))
}
