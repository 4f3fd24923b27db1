// Package chaos runs the cluster of docker-compose.yml in containers under load, does to it what
// happens to machines, disks and networks, one fault after another in an order drawn from a seed, and
// judges what callers saw (P1, P2, P4): no acknowledged write may be missing, every history must be
// linearizable, and without a fault calls must be answered.
//
// The seed repeats the faults and the calls drawn, not the run: that is up to real machines.
package chaos

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-io/holdfast/placement"
	"github.com/holdfast-io/holdfast/test/e2e/internal/classes"
	"github.com/holdfast-io/holdfast/test/e2e/internal/history"
	"github.com/holdfast-io/holdfast/test/e2e/internal/registers"
)

// Config says what to run.
type Config struct {
	// Nodes is 3 or 5.
	Nodes int
	// For is how long faults are made; starting, ending and checking come on top. It is exceeded when
	// fewer than KindsMin kinds of faults have come by then.
	For time.Duration
	// Seed of the faults and the calls.
	Seed uint64
	// Only are the kinds of faults to make; empty: all.
	Only []string
	// Progress gets a line for everything that happens.
	Progress io.Writer
	// Dir is where the nodes' logs, the table and the timeline are written. It is created.
	Dir string
}

const (
	// KindsMin is how many kinds of faults must run.
	KindsMin = 5
	// CalmShareMin is the share of the calls without a fault that must be acknowledged.
	CalmShareMin = 0.9
	// objects in use at a time, with a caller through each node and the Go client, 13 calls a second.
	objects = 30
	pace    = 75 * time.Millisecond
	// mendTimeMax is how long the cluster may take until every caller is answered after a fault.
	mendTimeMax = time.Minute
	// checkTimeMax bounds the search of the histories.
	checkTimeMax = 5 * time.Minute
	// closeTimeMax is how long removing everything may take.
	closeTimeMax = 2 * time.Minute
	// step of the timeline.
	step = 250 * time.Millisecond
)

// chaos is a run.
type chaos struct {
	cfg     Config
	cluster *cluster
	load    *registers.Load
	rng     *rand.Rand
	began   time.Time
	skipped map[string]string // kind to why
	crashes map[string]int    // by kind of fault: nodes that ended by themselves
	struck  string            // the kind of the last fault, or registers.None
}

// Report is what came of a run.
type Report struct {
	registers.Report

	Config  Config
	Verdict history.Verdict
	// Skipped are the kinds of faults that can't be made here, and why.
	Skipped map[string]string
	// Crashes are how often nodes ended by themselves, by kind of fault.
	Crashes map[string]int
	// Every is the longest time from the beginning of one fault to that of the next.
	Every time.Duration
	// Searched is how long the check took.
	Searched time.Duration
	// Failures are what is wrong: none in a run that passes.
	Failures []string
}

// Run runs it: for Config.For, and then what it takes to check. It removes what it made, also when
// ctx ends it. An error means that there is no result; what the result is, Report says.
func Run(ctx context.Context, cfg Config) (report Report, err error) {
	if cfg.Nodes != 3 && cfg.Nodes != 5 {
		return Report{}, fmt.Errorf("nodes: must be 3 or 5, is %d", cfg.Nodes)
	}
	for _, name := range cfg.Only {
		if !slices.ContainsFunc(kinds, func(k kind) bool { return k.name == name }) {
			return Report{}, fmt.Errorf("there is no fault %q", name)
		}
	}
	if err := Available(ctx); err != nil {
		return Report{}, err
	}
	if err := os.MkdirAll(cfg.Dir, 0o750); err != nil {
		return Report{}, err
	}
	c := &chaos{
		cfg: cfg, rng: rand.New(rand.NewPCG(cfg.Seed, 0)), began: time.Now(), //nolint:gosec // to be repeated, not to be secret
		skipped: make(map[string]string), crashes: make(map[string]int), struck: registers.None,
	}
	c.cluster, err = newCluster(ctx, cfg.Nodes, c.sayf)
	if c.cluster != nil {
		defer func() {
			if ctx.Err() != nil {
				err = context.Cause(ctx) // and not what it broke off
			}
			c.sayf("removing the containers")
			closeCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeMax)
			defer cancel()
			err = errors.Join(err, c.cluster.saveLogs(closeCtx, cfg.Dir), c.cluster.close(closeCtx))
		}()
	}
	if err != nil {
		return Report{}, err
	}
	if err := c.probe(ctx); err != nil {
		return Report{}, err
	}
	return c.run(ctx)
}

// sayf reports progress.
func (c *chaos) sayf(format string, args ...any) {
	_, _ = fmt.Fprintf(c.cfg.Progress, "%6.1fs  %s\n", time.Since(c.began).Seconds(), fmt.Sprintf(format, args...))
}

// probe finds out which faults can be made here.
func (c *chaos) probe(ctx context.Context) error {
	out, err := c.cluster.faults(ctx, c.cluster.nodes[0].id, "probe")
	if err != nil {
		return err
	}
	lacks := make(map[string]string)
	for line := range strings.Lines(out) {
		what, why, _ := strings.Cut(strings.TrimSpace(line), " ")
		lacks[what] = why
	}
	for _, k := range kinds {
		if why := lacks[k.needs]; why != "" {
			c.skipped[k.name] = "the kernel lacks it: " + why
			c.sayf("skipping %s: %s", k.name, c.skipped[k.name])
		}
	}
	return nil
}

func (c *chaos) run(ctx context.Context) (Report, error) {
	var addrs, advertised []string
	for _, n := range c.cluster.nodes {
		addrs, advertised = append(addrs, n.addr), append(advertised, n.name+":7070")
	}
	stubs, closeStubs, err := registers.Dial(addrs, advertised)
	if err != nil {
		return Report{}, err
	}
	defer closeStubs()
	c.load = registers.Start(registers.Config{Seed: c.cfg.Seed, Stubs: stubs, Objects: objects, Pace: pace})
	stopped := false
	defer func() {
		if !stopped {
			c.load.Stop()
		}
	}()
	failure := c.strikes(ctx)
	if ctx.Err() != nil {
		return Report{}, context.Cause(ctx)
	}
	c.sayf("stopping the calls, and reading every object once more")
	c.load.Stop()
	stopped = true
	report := Report{Config: c.cfg, Skipped: c.skipped, Crashes: c.crashes}
	if failure == nil {
		failure = c.cluster.waitWhole(ctx)
	}
	if failure == nil {
		ctx, cancel := context.WithTimeout(ctx, mendTimeMax)
		failure = c.load.ReadBack(ctx)
		cancel()
	}
	if failure != nil {
		report.Failures = append(report.Failures, failure.Error())
	}
	c.sayf("checking the histories")
	began := time.Now()
	verdict, complaints := c.load.Check(checkTimeMax)
	report.Verdict, report.Searched = verdict, time.Since(began)
	report.Failures = append(report.Failures, complaints...)
	report.Report = c.load.Report(step)
	report.judge()
	return report, report.write()
}

// strikes makes faults until the time is over. An error is a failure of the cluster to stand them,
// or ours to make them.
func (c *chaos) strikes(ctx context.Context) error {
	var left []kind
	made := make(map[string]bool)
	possible := slices.DeleteFunc(slices.Clone(kinds), func(k kind) bool {
		return c.skipped[k.name] != "" || len(c.cfg.Only) > 0 && !slices.Contains(c.cfg.Only, k.name)
	})
	for c.load.Now() < c.cfg.For || len(made) < min(KindsMin, len(possible)) {
		if len(left) == 0 {
			left = slices.Clone(possible)
			c.rng.Shuffle(len(left), func(i, j int) { left[i], left[j] = left[j], left[i] })
		}
		k := left[0]
		left, made[k.name] = left[1:], true
		c.load.Turn()
		if err := c.wait(ctx, 1500*time.Millisecond, 3*time.Second); err != nil {
			return err
		}
		if err := c.strike(ctx, k); err != nil {
			return fmt.Errorf("%s: %w", k.name, err)
		}
	}
	c.load.Turn()
	if err := c.wait(ctx, 2*time.Second, 2*time.Second); err != nil {
		return err
	}
	_, err := c.countCrashes(ctx)
	return err
}

// countCrashes counts the nodes that have ended by themselves since it was last called, for the last fault: a
// node may end of it, or Docker tell of that, only when the fault is over.
func (c *chaos) countCrashes(ctx context.Context) (int, error) {
	crashes, err := c.cluster.crashes(ctx)
	if crashes > 0 {
		c.crashes[c.struck] += crashes
	}
	return crashes, err
}

// strike makes one fault, ends it, and waits until all is well.
func (c *chaos) strike(ctx context.Context, k kind) error {
	if _, err := c.countCrashes(ctx); err != nil {
		return err
	}
	c.struck = k.name
	s, err := c.cluster.status(ctx)
	if err != nil {
		return err
	}
	var hit []*member
	c.load.Begin(k.name, func(object string) bool {
		shard := s.GetShards()[placement.ShardOf(placement.NewNamespace(classes.Register().Name).IDFromName(object), len(s.GetShards()))]
		return slices.Contains(names(hit), shard.GetOwner())
	})
	began := c.load.Now()
	on, err := k.inject(c, ctx)
	if err != nil {
		return err
	}
	hit = on.hit
	if err := c.wait(ctx, 1500*time.Millisecond, 4*time.Second); err != nil {
		return err
	}
	more, err := on.end(ctx)
	if err != nil {
		return err
	}
	ended := c.load.Now()
	mendCtx, cancel := context.WithTimeout(ctx, mendTimeMax)
	defer cancel()
	if err := c.load.WaitAnswered(mendCtx); err != nil {
		return err
	}
	c.load.End()
	crashes, err := c.countCrashes(ctx)
	if err != nil {
		return err
	}
	if crashes > 0 {
		more = strings.TrimSpace(fmt.Sprintf("%s (started again %d times)", more, crashes))
	}
	acked, failed := c.load.Counts()
	detail := strings.Join(slices.DeleteFunc([]string{on.detail, more}, func(s string) bool { return s == "" }), ", ")
	c.sayf("%-9s %-5s %-34s %.1f s, all answered %.1f s later; %d calls acknowledged, %d failed so far", k.name, strings.Join(names(hit), "+"), detail,
		(ended - began).Seconds(), (c.load.Now() - ended).Seconds(), acked, failed)
	return nil
}

// wait lets some time pass.
func (c *chaos) wait(ctx context.Context, least, most time.Duration) error {
	t := time.NewTimer(least + time.Duration(c.rng.Int64N(int64(most-least)+1)))
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// judge fills in what is wrong.
func (r *Report) judge() {
	made := 0
	for _, row := range r.Rows {
		if row.Kind != registers.None {
			made++
		}
	}
	if made < KindsMin && len(r.Config.Only) == 0 {
		r.Failures = append(r.Failures, fmt.Sprintf("only %d kinds of faults ran, and %d must", made, KindsMin))
	}
	if share := r.CalmShare(); share < CalmShareMin {
		r.Failures = append(r.Failures, fmt.Sprintf("without a fault only %.1f%% of the calls were acknowledged, and %.0f%% must be", 100*share, 100*CalmShareMin))
	}
	last := time.Duration(0)
	for _, w := range r.Windows {
		r.Every = max(r.Every, w.Began-last)
		last = w.Began
	}
	for _, kind := range slices.Sorted(maps.Keys(r.Crashes)) {
		if kind != fullDisk {
			r.Failures = append(r.Failures, fmt.Sprintf("nodes ended by themselves %d times under %s", r.Crashes[kind], kind))
		}
	}
}

// String is the table and the verdict.
func (r Report) String() string {
	var b strings.Builder
	b.WriteString(r.Report.String())
	for _, k := range kinds {
		if why := r.Skipped[k.name]; why != "" {
			_, _ = fmt.Fprintf(&b, "%s  skipped: %s\n", k.name, why)
		}
	}
	_, _ = fmt.Fprintf(&b, "\n%d nodes, %s, seed %d; %d faults, one every %.1f s, %.1f s at the longest\n", r.Config.Nodes, r.Lasted.Round(time.Second), r.Config.Seed,
		r.Total.Times, r.Lasted.Seconds()/float64(max(1, r.Total.Times)), r.Every.Seconds())
	_, _ = fmt.Fprintf(&b, "without a fault %.2f%% of the calls were acknowledged\n", 100*r.CalmShare())
	for _, kind := range slices.Sorted(maps.Keys(r.Crashes)) {
		_, _ = fmt.Fprintf(&b, "nodes that ended by themselves under %s: %d\n", kind, r.Crashes[kind])
	}
	_, _ = fmt.Fprintf(&b, "lost writes: %d\nlinearizable: %s (%d objects, searched in %s)\n", r.Verdict.LostWrites(), r.Verdict.Linearizable(), r.Verdict.Objects, r.Searched.Round(time.Millisecond))
	for _, failure := range r.Failures {
		_, _ = fmt.Fprintf(&b, "FAILED: %s\n", failure)
	}
	return b.String()
}
