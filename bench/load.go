package main

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// operation is one call of one caller: its number among the callers, and the call's among the
// caller's.
type operation func(ctx context.Context, caller, i int) error

// figures are the result of one measurement.
type figures struct {
	perSecond float64
	p50, p99  time.Duration
	cpu       time.Duration // of all processes, per call
}

const (
	warmUp     = 300 * time.Millisecond
	samplesMax = 20_000
)

// load lets callers call, each again as soon as it has its answer, for a time after a warm-up.
// started is called when the time begins. It returns the calls answered and their latencies.
func load(ctx context.Context, callers int, length time.Duration, op operation, started func()) (count int, latencies []time.Duration, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var counting, over atomic.Bool
	var mu sync.Mutex
	var wg sync.WaitGroup
	for caller := range callers {
		wg.Go(func() {
			var own []time.Duration
			done := 0
			for i := 0; !over.Load(); i++ {
				counted := counting.Load()
				begun := time.Now()
				if err := op(ctx, caller, i); err != nil {
					cancel(err)
					return
				}
				if counted && !over.Load() {
					done++
					own = append(own, time.Since(begun))
				}
			}
			mu.Lock()
			defer mu.Unlock()
			count += done
			latencies = append(latencies, own...)
		})
	}
	wait := func(d time.Duration) {
		t := time.NewTimer(d)
		defer t.Stop()
		select {
		case <-t.C:
		case <-ctx.Done():
		}
	}
	wait(warmUp)
	started()
	counting.Store(true)
	wait(length)
	over.Store(true)
	wg.Wait()
	if err := context.Cause(ctx); err != nil {
		return 0, nil, err
	}
	if count == 0 {
		return 0, nil, errors.New("no call was answered in time")
	}
	return count, latencies, nil
}

// quantile returns the latency that a share q of sorted is below.
func quantile(sorted []time.Duration, q float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(int(q*float64(len(sorted))), len(sorted)-1)]
}

// measure runs a load from this process against servers.
func (b *bench) measure(callers int, servers []*child, op operation) (figures, error) {
	var before time.Duration
	cpu := func() time.Duration {
		total := cpuOf("self")
		for _, s := range servers {
			total += s.cpu()
		}
		return total
	}
	count, latencies, err := load(b.ctx, callers, b.o.length, op, func() { before = cpu() })
	if err != nil {
		return figures{}, err
	}
	used := cpu() - before
	slices.Sort(latencies)
	return figures{
		perSecond: float64(count) / b.o.length.Seconds(),
		p50:       quantile(latencies, 0.5), p99: quantile(latencies, 0.99),
		cpu: used / time.Duration(count),
	}, nil
}

// measureInside lets servers run the load inside themselves, the callers shared among them.
func (b *bench) measureInside(callers int, servers []*child) (figures, error) {
	type result struct {
		a   answer
		err error
	}
	results := make([]result, len(servers))
	before := time.Duration(0)
	for _, s := range servers {
		before += s.cpu()
	}
	var wg sync.WaitGroup
	for i, s := range servers {
		share := callers / len(servers)
		if i < callers%len(servers) {
			share++
		}
		if share == 0 {
			continue
		}
		wg.Go(func() {
			results[i].a, results[i].err = s.ask(request{Do: "load", Callers: share, Length: b.o.length})
		})
	}
	wg.Wait()
	used := -before
	for _, s := range servers {
		used += s.cpu()
	}
	count := 0
	var latencies []time.Duration
	for _, r := range results {
		if r.err != nil {
			return figures{}, r.err
		}
		count += r.a.Count
		latencies = append(latencies, durations(r.a.Micros)...)
	}
	slices.Sort(latencies)
	// The warm-up's CPU time is in used, and its calls are not in count.
	share := b.o.length.Seconds() / (b.o.length + warmUp).Seconds()
	return figures{
		perSecond: float64(count) / b.o.length.Seconds(),
		p50:       quantile(latencies, 0.5), p99: quantile(latencies, 0.99),
		cpu: time.Duration(float64(used) * share / float64(count)),
	}, nil
}

// micros thins latencies out for the way to another process.
func micros(latencies []time.Duration) []int {
	step := max(1, len(latencies)/samplesMax)
	out := make([]int, 0, len(latencies)/step+1)
	for i := 0; i < len(latencies); i += step {
		out = append(out, int(latencies[i].Microseconds()))
	}
	return out
}

// durations are the latencies that came from another process as micros.
func durations(micros []int) []time.Duration {
	out := make([]time.Duration, len(micros))
	for i, us := range micros {
		out[i] = time.Duration(us) * time.Microsecond
	}
	return out
}
