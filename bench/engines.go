package main

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/holdfast-io/holdfast/worker"
	"github.com/holdfast-io/holdfast/worker/bundle"
	"github.com/holdfast-io/holdfast/worker/web/outbound"
)

// enginesMeasured is how many JavaScript engines a worker is made to start.
const enginesMeasured = 64

// startEngines serves a worker without a node. Each of its engines takes one request, and starts with it.
func startEngines(roleConfig) (*server, error) {
	built, err := bundle.Build(workersProject, bundle.Options{Modules: worker.Modules()})
	if err != nil {
		return nil, err
	}
	fetch := outbound.New(outbound.Config{})
	w, err := worker.New(worker.Config{Bundle: built.Bundle, Fetch: fetch, Engines: enginesMeasured + 2})
	if err != nil {
		fetch.Close()
		return nil, err
	}
	// A request for no object: the worker says itself what is missing.
	get, err := http.NewRequestWithContext(context.Background(), http.MethodGet, "http://worker.example/", http.NoBody)
	if err != nil {
		return nil, err
	}
	answered := func() error {
		got := &statusOnly{header: make(http.Header)}
		if w.ServeHTTP(got, get); got.code != http.StatusOK {
			return fmt.Errorf("the worker answers %d", got.code)
		}
		return nil
	}
	return &server{
		handle: func(r request) (answer, error) {
			latencies := make([]time.Duration, r.Callers)
			for i := range latencies {
				begun := time.Now()
				if err := answered(); err != nil {
					return answer{}, err
				}
				latencies[i] = time.Since(begun)
			}
			return answer{Micros: micros(latencies)}, nil
		},
		close: func() {
			w.Close()
			fetch.Close()
		},
	}, nil
}

// statusOnly is an answer of which only the status is looked at.
type statusOnly struct {
	header http.Header
	code   int
}

func (s *statusOnly) Header() http.Header         { return s.header }
func (s *statusOnly) WriteHeader(code int)        { s.code = code }
func (s *statusOnly) Write(p []byte) (int, error) { return len(p), nil }

// workersEngines measures how long a JavaScript engine takes from nothing to its first answer, and what it adds
// to the process's memory.
func (b *bench) workersEngines() (start, memory figures, err error) {
	n, err := b.spawn(roleConfig{Role: "engines", Name: "engines"})
	if err != nil {
		return start, memory, err
	}
	defer b.stopAll()
	resident := func() (bytes int64) {
		if err == nil {
			bytes, err = memoryOf(n.cmd.Process.Pid, "VmRSS")
		}
		return bytes
	}
	if _, err := n.ask(request{Callers: 1}); err != nil { // It compiles what all of them share.
		return start, memory, err
	}
	before := resident()
	a, asked := n.ask(request{Callers: enginesMeasured})
	if asked != nil {
		return start, memory, asked
	}
	memory.perSecond = float64(resident()-before) / enginesMeasured / 1024
	latencies := durations(a.Micros)
	slices.Sort(latencies)
	start.p50, start.p99 = quantile(latencies, 0.5), quantile(latencies, 0.99)
	return start, memory, err
}

// workerdStart is the same of workerd, whose engine is its process.
func (b *bench) workerdStart(built *bundle.Bundle) (start, memory figures, err error) {
	begun := time.Now()
	c, stop, err := b.workerd(built)
	if c == nil || err != nil {
		return start, memory, err
	}
	defer stop()
	if _, err := c.call(b.ctx, 0, "first", false); err != nil {
		return start, memory, err
	}
	start.p50 = time.Since(begun)
	bytes, err := c.resident()
	memory.perSecond = float64(bytes) / 1024
	return start, memory, err
}
