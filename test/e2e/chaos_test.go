package e2e_test

import (
	"flag"
	"math/rand/v2"
	"os"
	"os/signal"
	"testing"
	"time"

	"github.com/holdfast-io/holdfast/test/e2e/internal/chaos"
)

var (
	chaosFor   = flag.Duration("chaos", time.Minute, "how long TestChaos makes faults")
	chaosNodes = flag.Int("chaos-nodes", 3, "the nodes of TestChaos: 3 or 5")
	chaosSeed  = flag.Uint64("chaos-seed", 0, "the seed of TestChaos; 0 draws one")
)

// TestChaos checks the same as TestFaults in containers, whose machines, disks and networks fail: see
// package chaos. `make chaos` runs it for longer, and draws the timeline.
func TestChaos(t *testing.T) {
	if testing.Short() {
		t.Skip("takes minutes")
	}
	// An interrupted run removes its containers too.
	ctx, stop := signal.NotifyContext(t.Context(), os.Interrupt)
	defer stop()
	if err := chaos.Available(ctx); err != nil {
		t.Skipf("no containers: %v", err)
	}
	seed := *chaosSeed
	for seed == 0 {
		seed = uint64(rand.Uint32())
	}
	t.Logf("again with: go test ./test/e2e -run TestChaos -chaos=%s -chaos-nodes=%d -chaos-seed=%d", *chaosFor, *chaosNodes, seed)
	report, err := chaos.Run(ctx, chaos.Config{Nodes: *chaosNodes, For: *chaosFor, Seed: seed, Progress: t.Output(), Dir: t.ArtifactDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("\n%s", report)
	for _, failure := range report.Failures {
		t.Error(failure)
	}
}
