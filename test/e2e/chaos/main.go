// Command chaos runs a cluster of containers under load and faults, prints what came of it as a
// table, and draws its timeline. It needs Docker and docker-compose; 'make chaos' runs it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/holdfast-io/holdfast/test/e2e/internal/chaos"
)

func main() {
	cfg := chaos.Config{Progress: os.Stderr}
	flag.IntVar(&cfg.Nodes, "nodes", 3, "how many nodes: 3 or 5")
	flag.DurationVar(&cfg.For, "for", 10*time.Minute, "how long to make faults")
	flag.Uint64Var(&cfg.Seed, "seed", 0, "of the faults and the calls; 0 draws one")
	flag.StringVar(&cfg.Dir, "dir", filepath.Join("build", "chaos"), "where the table, the timeline and the logs go")
	flag.Func("only", "the kinds of faults to make, with commas between; all if not given", func(s string) error {
		cfg.Only = strings.Split(s, ",")
		return nil
	})
	flag.Parse()
	for cfg.Seed == 0 {
		cfg.Seed = uint64(rand.Uint32()) //nolint:gosec // a seed
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, cfg); err != nil {
		_, _ = fmt.Fprintln(os.Stderr, "chaos:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, cfg chaos.Config) error {
	_, _ = fmt.Fprintf(os.Stderr, "again with: make chaos NODES=%d FOR=%s SEED=%d\n", cfg.Nodes, cfg.For, cfg.Seed)
	report, err := chaos.Run(ctx, cfg)
	if err != nil {
		return err
	}
	_, _ = fmt.Fprintf(os.Stdout, "\n%s\nthe timeline is in %s\n", report, filepath.Join(cfg.Dir, "timeline.svg"))
	if len(report.Failures) > 0 {
		return errors.New("the run failed: see above")
	}
	return nil
}
