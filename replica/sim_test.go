package replica

import (
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/cryptotest"
	"time"

	"github.com/holdfast-io/holdfast/storage/storagetest"
)

var (
	simSeeds = flag.Uint64("seeds", 150, "how many seeds TestSimulation runs")
	simSeed  = flag.Uint64("seed", 0, "run this one seed only, and print what happens")
	simFirst = flag.Uint64("first", 1, "the first seed")
	simSteps = flag.Int("steps", 4000, "steps of a seed before the calm")
	simBreak = flag.String("break", "", "break the code on purpose: "+strings.Join(simBreaks, ", "))
	simShow  = flag.Bool("progress", false, "print progress")
)

// simBreaks are the ways to break the code.
var simBreaks = []string{
	"drop-fsync", "answer-before-commit", "unconfirmed-read", "conf-change-twice", "snapshot-without-applied-index", "reload-before-settled",
}

// simStats count what the seeds have seen.
type simStats struct {
	seeds, steps                            int
	elections, changes, snapshots, crashes  int
	lost, doubled, late, partitions, oneWay int
	pauses, skews, fullDisks, refusedWrites int
	ringChanges, removals, wipes, handOvers int
	classEnds                               int
	writes, reads, refused                  int
	crashPoints                             map[storagetest.Op]int
}

func newSimStats() *simStats { return &simStats{crashPoints: make(map[storagetest.Op]int)} }

// counts lists what must not be nothing.
func (st *simStats) counts() []simCount {
	out := []simCount{
		{"elections", st.elections},
		{"membership changes", st.changes},
		{"snapshots", st.snapshots},
		{"crashes", st.crashes},
		{"messages lost", st.lost},
		{"doubled", st.doubled},
		{"late", st.late},
		{"partitions", st.partitions},
		{"one-way", st.oneWay},
		{"pauses", st.pauses},
		{"clock skews", st.skews},
		{"full disks", st.fullDisks},
		{"refused writes", st.refusedWrites},
		{"ring changes", st.ringChanges},
		{"removals", st.removals},
		{"lost disks", st.wipes},
		{"hand-overs", st.handOvers},
		{"ends of a class", st.classEnds},
		{"acknowledged writes", st.writes},
		{"reads", st.reads},
		{"refused calls", st.refused},
	}
	for _, op := range []storagetest.Op{storagetest.OpCommit, storagetest.OpBegin, storagetest.OpSync, storagetest.OpAdd, storagetest.OpReplace} {
		out = append(out, simCount{"crash points at " + string(op), st.crashPoints[op]})
	}
	return out
}

type simCount struct {
	name  string
	count int
}

// String implements fmt.Stringer.
func (st *simStats) String() string {
	var b strings.Builder
	_, _ = fmt.Fprintf(&b, "%d seeds, %d steps", st.seeds, st.steps)
	for _, c := range st.counts() {
		_, _ = fmt.Fprintf(&b, ", %s %d", c.name, c.count)
	}
	return b.String()
}

const (
	// calmCalls is how long clients go on calling a mended cluster.
	calmCalls = 4 * time.Second
	// calmMax is how long it may take to come to rest.
	calmMax = 120 * time.Second
)

// simulate runs a seed and returns what it is remembered by, and what it has found.
func simulate(t *testing.T, cfg simConfig, stats *simStats) (uint64, error) {
	t.Helper()
	cryptotest.SetGlobalRandom(t, cfg.seed) // Raft draws its election timeouts from it.
	s := newSimulation(cfg, stats)
	s.client()
	s.at(s.between(0, 3*time.Second), "faults begin", s.faults)
	for s.step < cfg.steps && s.err == nil {
		s.next()
	}
	if s.err == nil {
		s.mend()
	}
	end := s.now + calmMax
	for why := "unknown"; s.err == nil && why != ""; {
		for range 50 {
			if s.err == nil {
				s.next()
			}
		}
		if why = s.unrest(); why != "" && s.now > end {
			s.violatef("the cluster does not come to rest: %s", why)
		}
	}
	stats.seeds++
	return s.digest, s.err
}

// replay is the command that runs a seed again.
func replay(cfg simConfig) string {
	cmd := fmt.Sprintf("go test ./replica -run '^TestSimulation$' -seed=%d -steps=%d", cfg.seed, cfg.steps)
	if cfg.broke != "" {
		cmd += " -break=" + cfg.broke
	}
	return cmd
}

func TestSimulation(t *testing.T) {
	if *simBreak != "" && !slices.Contains(simBreaks, *simBreak) {
		t.Fatalf("there is no break %q", *simBreak)
	}
	stats := newSimStats()
	if *simSeed != 0 {
		cfg := simConfig{seed: *simSeed, steps: *simSteps, broke: *simBreak, trace: os.Stderr}
		if _, err := simulate(t, cfg, stats); err != nil {
			t.Fatalf("seed %d: %v", cfg.seed, err)
		}
		return
	}
	last := *simFirst + *simSeeds - 1
	began := time.Now()
	failed := 0
	for seed := *simFirst; seed <= last; seed++ {
		cfg := simConfig{seed: seed, steps: *simSteps, broke: *simBreak}
		if _, err := simulate(t, cfg, stats); err != nil {
			failure := fmt.Sprintf("seed %d: %v\nreplay it with: %s", seed, err, replay(cfg))
			t.Error(failure)
			if *simShow { // Not only at the end.
				_, _ = fmt.Fprintln(os.Stderr, failure)
			}
			if failed++; failed == 10 {
				t.Fatal("that is enough")
			}
		}
		done := seed - *simFirst + 1
		if done%1000 != 0 && seed != last {
			continue
		}
		if *simShow {
			_, _ = fmt.Fprintf(os.Stderr, "%s, %d of %d seeds done, %d failed; the last %s\n", time.Since(began).Round(time.Second), done, *simSeeds, failed, stats)
		} else {
			t.Log(stats)
		}
		stats.check(t)
		stats = newSimStats()
	}
}

// check demands that enough seeds have seen everything that can happen.
func (st *simStats) check(t *testing.T) {
	t.Helper()
	if st.seeds < 100 || *simBreak != "" {
		return
	}
	for _, c := range st.counts() {
		if c.count == 0 {
			t.Errorf("%d seeds have seen no %s", st.seeds, c.name)
		}
	}
}

// The same seed is the same run, bit for bit.
func TestSimulationIsReproducible(t *testing.T) {
	for seed := range uint64(5) {
		cfg := simConfig{seed: seed + 1000, steps: *simSteps}
		first, _ := simulate(t, cfg, newSimStats())
		cfg.trace = io.Discard
		second, _ := simulate(t, cfg, newSimStats())
		if first != second {
			t.Errorf("seed %d ran as %016x, and then as %016x", cfg.seed, first, second)
		}
	}
}

// The simulation finds what it is meant to find: each break of the code within some seeds.
func TestSimulationFindsBreaks(t *testing.T) {
	const within = 500
	for _, name := range simBreaks {
		t.Run(name, func(t *testing.T) {
			for seed := uint64(1); seed <= within; seed++ {
				cfg := simConfig{seed: seed, steps: *simSteps, broke: name}
				if _, err := simulate(t, cfg, newSimStats()); err != nil {
					first, _, _ := strings.Cut(err.Error(), "\n")
					t.Logf("found by seed %d: %s", seed, first)
					return
				}
			}
			t.Errorf("not found within %d seeds", within)
		})
	}
}
