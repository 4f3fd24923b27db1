package e2e_test

import (
	"context"
	"flag"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast-io/holdfast/test/e2e/internal/registers"
)

var (
	faultsFor   = flag.Duration("faults", 25*time.Second, "how long TestFaults makes faults; each kind comes at least once")
	faultsOnly  = flag.String("faults-only", "", "the kinds of faults that TestFaults makes, with commas between; empty: all")
	faultsPause = flag.Duration("faults-pause", 2*time.Second, "how long a process is stopped at least by the fault pause, for it to go on as if nothing had been")
	faultsSeed  = flag.Uint64("faults-seed", 0, "the seed of TestFaults; 0 draws one")
)

// ordeal is a cluster under load.
type ordeal struct {
	t       *testing.T
	nodes   []*process
	proxy   *proxy
	load    *registers.Load
	rng     *rand.Rand
	windows int
}

// faultKinds are what can happen. Each returns when it is over and mended.
var faultKinds = map[string]func(*ordeal){
	"kill":      (*ordeal).kill,
	"pause":     (*ordeal).pause,
	"empty":     (*ordeal).empty,
	"rolling":   (*ordeal).rolling,
	"delay":     (*ordeal).delay,
	"drop":      (*ordeal).drop,
	"cut":       (*ordeal).cut,
	"isolation": (*ordeal).isolate,
}

// TestFaults checks that a cluster stays linearizable, object by object, and loses nothing (P1, P2,
// P4) while processes are killed, paused and restarted, disks emptied, and connections between nodes
// made slow, deaf or dead, one after another in an order drawn from a seed.
func TestFaults(t *testing.T) {
	seed := *faultsSeed
	for seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("again with: go test ./test/e2e -run TestFaults -faults=%s -faults-seed=%d", *faultsFor, seed)
	c := newOrdeal(t, seed)
	c.run(*faultsFor)
	c.finish()
}

func newOrdeal(t *testing.T, seed uint64) *ordeal {
	t.Helper()
	nodes := prepareNodes(t, testnode, 3)
	c := &ordeal{t: t, nodes: nodes, proxy: startProxy(t, nodes), rng: rand.New(rand.NewPCG(seed, 0))}
	startNodes(t, nodes)
	var addrs []string
	for _, p := range nodes {
		addrs = append(addrs, p.ports["grpc"])
	}
	stubs, closeStubs, err := registers.Dial(addrs, addrs)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(closeStubs)
	c.load = registers.Start(registers.Config{Seed: seed, Stubs: stubs, Objects: 30, Pace: 30 * time.Millisecond})
	return c
}

// run makes faults until the time is over and each kind has come.
func (c *ordeal) run(limit time.Duration) {
	kinds := slices.Sorted(maps.Keys(faultKinds))
	if *faultsOnly != "" {
		kinds = strings.Split(*faultsOnly, ",")
		for _, kind := range kinds {
			if faultKinds[kind] == nil {
				c.t.Fatalf("-faults-only: there is no fault %q; there are %v", kind, slices.Sorted(maps.Keys(faultKinds)))
			}
		}
	}
	for {
		c.rng.Shuffle(len(kinds), func(i, j int) { kinds[i], kinds[j] = kinds[j], kinds[i] })
		for i, kind := range kinds {
			if c.load.Now() > limit && c.windows >= len(kinds) {
				return
			}
			c.load.Turn()
			if i > 0 || c.windows > 0 {
				c.calm()
			}
			c.load.Begin(kind, nil)
			faultKinds[kind](c)
			c.mend()
			c.load.End()
			c.windows++
			if c.t.Failed() {
				return
			}
		}
	}
}

// calm lets the cluster serve for a moment, so that there is something to compare with.
func (c *ordeal) calm() { c.forSome(400*time.Millisecond, 400*time.Millisecond) }

// forSome is how long a fault lasts.
func (c *ordeal) forSome(least, most time.Duration) {
	<-time.After(least + time.Duration(c.rng.Int64N(int64(most-least)+1)))
}

// mend waits until every caller is answered again.
func (c *ordeal) mend() {
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	if err := c.load.WaitAnswered(ctx); err != nil {
		c.t.Fatal(err)
	}
}

func (c *ordeal) pick() *process { return c.nodes[c.rng.IntN(len(c.nodes))] }

func (c *ordeal) restart(p *process) {
	p.start()
	p.waitReady()
}

func (c *ordeal) kill() {
	p := c.pick()
	p.kill()
	c.forSome(0, time.Second)
	c.restart(p)
}

// pause stops a process for longer than an election takes, and lets it go on as if nothing had been,
// with many reads waiting at its door: it must not answer them from what it remembers.
func (c *ordeal) pause() {
	i := c.rng.IntN(len(c.nodes))
	p := c.nodes[i]
	if err := p.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		c.t.Fatal(err)
	}
	c.forSome(*faultsPause, *faultsPause+time.Second)
	// Stub i goes through node i.
	wait := c.load.ReadThrough(i, 4)
	c.forSome(50*time.Millisecond, 50*time.Millisecond) // For the requests to be on their way.
	if err := p.cmd.Process.Signal(syscall.SIGCONT); err != nil {
		c.t.Fatal(err)
	}
	wait()
}

// empty takes a node's disk away, when the others have all there is, and waits until the node has it
// again: two lost disks of three are more than is promised.
func (c *ordeal) empty() {
	p := c.pick()
	waitSpread(c.t, c.nodes[0], len(c.nodes))
	p.kill()
	if err := os.RemoveAll(p.dir); err != nil {
		c.t.Fatal(err)
	}
	c.restart(p)
	waitSpread(c.t, c.nodes[0], len(c.nodes))
}

// rolling restarts all nodes in order, as for an upgrade.
func (c *ordeal) rolling() {
	for _, p := range c.nodes {
		began := time.Now()
		p.stop()
		if p.ended != nil {
			c.t.Errorf("%s ended with %v", p.name, p.ended)
		}
		if took := time.Since(began); took > 5*time.Second {
			c.t.Logf("%s took %s to stop", p.name, took)
			p.dumpLog()
		}
		c.restart(p)
		c.mend()
	}
}

// ways draws one way between two nodes, and half the time the way back too.
func (c *ordeal) ways() []way {
	i := c.rng.IntN(len(c.nodes))
	from, to := c.nodes[i].name, c.nodes[(i+1+c.rng.IntN(len(c.nodes)-1))%len(c.nodes)].name
	if c.rng.IntN(2) == 0 {
		return []way{{from, to}}
	}
	return []way{{from, to}, {to, from}}
}

func (c *ordeal) trouble(t trouble, ways ...way) {
	c.proxy.set(t, ways...)
	c.forSome(1500*time.Millisecond, 2500*time.Millisecond)
	c.proxy.set(trouble{}, ways...)
}

func (c *ordeal) delay() {
	c.trouble(trouble{delay: time.Duration(20+c.rng.IntN(300)) * time.Millisecond}, c.ways()...)
}

func (c *ordeal) drop() { c.trouble(trouble{drop: true}, c.ways()...) }

func (c *ordeal) cut() { c.trouble(trouble{cut: true}, c.ways()...) }

// isolate takes a node away from the others; its callers still reach it.
func (c *ordeal) isolate() {
	p := c.pick()
	var ways []way
	for _, other := range c.nodes {
		if other != p {
			ways = append(ways, way{p.name, other.name}, way{other.name, p.name})
		}
	}
	c.trouble(trouble{drop: true}, ways...)
}

// checkTimeMax bounds the search of all histories.
const checkTimeMax = time.Minute

// finish stops the callers, waits until the cluster is whole, reads every object once more, checks
// the history and prints the table.
func (c *ordeal) finish() {
	c.load.Stop()
	waitSpread(c.t, c.nodes[0], len(c.nodes))
	for _, p := range c.nodes {
		p.alive()
	}
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	if err := c.load.ReadBack(ctx); err != nil {
		c.t.Error(err)
	}
	began := time.Now()
	verdict, complaints := c.load.Check(checkTimeMax)
	for _, complaint := range complaints {
		c.t.Error(complaint)
	}
	report := c.load.Report(time.Second)
	c.t.Logf("\n%s\n%d objects, searched in %s; lost writes %d; linearizable: %s", report, verdict.Objects, time.Since(began).Round(time.Millisecond), verdict.LostWrites(), verdict.Linearizable())
	if share := report.CalmShare(); share < 0.9 {
		c.t.Errorf("without a fault only %.0f%% of the calls were acknowledged", 100*share)
	}
}
