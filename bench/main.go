// Command bench measures Holdfast against stated references on the same machine in the same run,
// and prints a table:
//
//	go run ./bench
//
// The references are a plain grpc-go unary echo, and commits of 200 bytes synced straight into
// pebble. Every server is a process of its own. A run has rounds; in each, every row is measured
// once, next to its references, and what is printed is the median over the rounds of the row's
// figures and of its ratios. On a machine with other work the ratios and the CPU per call are what
// to trust.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"
)

type options struct {
	rounds     int
	length     time.Duration
	callers    []int
	only       string
	alarms     int
	objects    int
	large      float64
	rows       *regexp.Regexp
	dir        string
	cpuProfile string
	workerd    string
	overload   bool
	verbose    bool
}

func main() {
	if role := os.Getenv(roleVariable); role != "" {
		if err := serveRole(role); err != nil {
			fmt.Fprintf(os.Stderr, "bench %s: %v\n", role, err)
			os.Exit(1)
		}
		return
	}
	var o options
	var callers, rows string
	flag.IntVar(&o.rounds, "rounds", 3, "`times` that everything is measured; medians are printed")
	flag.DurationVar(&o.length, "length", 2*time.Second, "how `long` each row is measured in each round")
	flag.StringVar(&callers, "callers", "1,64,512", "`numbers` of callers, separated by commas")
	flag.StringVar(&o.only, "only", "", "only the `parts` named, separated by commas: one, three, memory, list, alarms, workers; large and spread run only when they are named")
	flag.IntVar(&o.alarms, "alarms", 100_000, "how `many` alarms are due at once, and wait, in the part alarms")
	flag.IntVar(&o.objects, "objects", 100_000, "how `many` objects have data in the part memory")
	flag.Float64Var(&o.large, "large", 1, "`GiB` of the object in the parts large (one node) and spread (three)")
	flag.StringVar(&o.workerd, "workerd", "", "the workerd `binary` to compare with in the part workers (default: that of make differential)")
	flag.StringVar(&rows, "rows", "", "only the rows whose names match a regular `expression`, as in -rows 'echo|read'")
	flag.StringVar(&o.dir, "dir", "", "`directory` for the data, which decides the disk that is measured (default: the system's for temporary files)")
	flag.StringVar(&o.cpuProfile, "cpuprofile", "", "write the CPU profiles of every server and of the callers into this `directory`")
	flag.BoolVar(&o.overload, "overload", false, "measure what is left of the throughput, and what memory is taken, with more callers than can be served, instead of all else; exit status 1 when it is not enough")
	flag.BoolVar(&o.verbose, "v", false, "show what the servers log")
	flag.Parse()
	for s := range strings.SplitSeq(callers, ",") {
		n, err := strconv.Atoi(strings.TrimSpace(s))
		if err != nil || n < 1 || n > 10_000 {
			fmt.Fprintf(os.Stderr, "bench: -callers %q: want numbers from 1 to 10000, separated by commas\n", callers)
			os.Exit(2)
		}
		o.callers = append(o.callers, n)
	}
	var err error
	if o.rows, err = regexp.Compile(rows); err != nil {
		fmt.Fprintln(os.Stderr, "bench: -rows:", err)
		os.Exit(2)
	}
	if o.rounds < 1 || o.length <= 0 || o.alarms < 1 || o.objects < 1 || o.large <= 0 || flag.NArg() > 0 {
		fmt.Fprintln(os.Stderr, "bench: -rounds, -length, -alarms, -objects and -large must be positive, and there are no arguments; see -help")
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err = run(ctx, o)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) error {
	dir, err := os.MkdirTemp(o.dir, "holdfast-bench-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	b := &bench{ctx: ctx, o: o, dir: dir, out: os.Stdout}
	defer b.stopAll()
	if o.cpuProfile != "" {
		stop, err := profile(o.cpuProfile + "/callers.pprof")
		if err != nil {
			return err
		}
		defer stop()
	}
	if o.overload {
		return b.overload()
	}
	for _, part := range []struct {
		name    string
		run     func() error
		ifNamed bool
	}{
		{"one", b.oneNode, false},
		{"three", b.threeNodes, false},
		{"memory", b.memory, false},
		{"list", b.list, false},
		{"alarms", b.runAlarms, false},
		{"workers", b.workers, false},
		{"large", b.large, true},
		{"spread", b.spread, true},
	} {
		if (o.only != "" || part.ifNamed) && !strings.Contains(","+o.only+",", ","+part.name+",") {
			continue
		}
		if err := part.run(); err != nil {
			return fmt.Errorf("part %s: %w", part.name, err)
		}
		b.stopAll()
	}
	return nil
}

// bench is a run.
type bench struct {
	ctx      context.Context //nolint:containedctx // the run's
	o        options
	dir      string
	out      io.Writer
	children []*child
}

func (b *bench) stopAll() {
	for _, c := range b.children {
		c.stop()
	}
	b.children = nil
}

// spawn starts a server in a process of its own; it ends with the run.
func (b *bench) spawn(cfg roleConfig) (*child, error) {
	if b.o.cpuProfile != "" {
		cfg.CPUProfile = fmt.Sprintf("%s/%s.pprof", b.o.cpuProfile, cfg.Name)
	}
	c, err := startChild(b.ctx, cfg, b.o.verbose)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", cfg.Name, err)
	}
	b.children = append(b.children, c)
	return c, nil
}

// sayf tells how far the run is.
func sayf(format string, args ...any) { fmt.Fprintf(os.Stderr, "bench: "+format+"\n", args...) }

// printf prints results.
func (b *bench) printf(format string, args ...any) { _, _ = fmt.Fprintf(b.out, format, args...) }

// mustJSON is for types that always encode.
func mustJSON(v any) []byte {
	raw, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return raw
}
