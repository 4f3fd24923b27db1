package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/holdfast-io/holdfast/client"
	"github.com/holdfast-io/holdfast/examples/counter/counterv1"
)

// Of the overloaded cluster.
const (
	// overloadMemory is the memory limit of each node.
	overloadMemory = 512 << 20
	// goodputMin is the share of the peak that has to be left with four times the callers.
	goodputMin = 0.8
	// connsEach is how many connections plain gRPC callers share to each node.
	connsEach = 8
	// backoffMin and backoffMax bound how long a caller waits who was told OVERLOADED.
	backoffMin = 5 * time.Millisecond
	backoffMax = 200 * time.Millisecond
	// callTimeout is the deadline of each call. What is answered later is no goodput.
	callTimeout = 10 * time.Second
)

// overload finds the number of callers with which the cluster answers most, and looks at what is left
// with four times as many; then at what large requests from many callers do to its memory.
func (b *bench) overload() error {
	sayf("overload: starting three nodes of %d MiB each, and the callers", overloadMemory>>20)
	nodes, err := b.clusterOf(roleConfig{Role: "node", MemoryLimit: overloadMemory})
	if err != nil {
		return err
	}
	addrs := make(map[uint64]string)
	for i, n := range nodes {
		addrs[uint64(i)] = n.ready.GRPC //nolint:gosec // small
	}
	callers, err := b.spawn(roleConfig{Role: "callers", Name: "callers", Addrs: addrs})
	if err != nil {
		return err
	}
	b.printf("\n## overload: three nodes of %d MiB, callers in a process of their own, durable increments of 10,000 objects\n\n", overloadMemory>>20)
	b.printf("%-12s %8s %9s %10s %10s %9s %9s %9s %12s\n", "", "callers", "request", "goodput/s", "refused/s", "failed/s", "p50", "p99", "peak memory")
	var failed error
	press := func(r request) (float64, error) {
		r.Do, r.Length = "press", b.o.length
		a, err := callers.ask(r)
		if err != nil {
			return 0, err
		}
		seconds := r.Length.Seconds()
		good := float64(a.Count) / seconds
		slices.Sort(a.Micros)
		at := func(q float64) string {
			if len(a.Micros) == 0 {
				return "-"
			}
			return short(float64(a.Micros[min(int(q*float64(len(a.Micros))), len(a.Micros)-1)]) * 1e3)
		}
		peak := 0
		for _, n := range nodes {
			kib := n.peakKiB()
			if kib == 0 {
				return 0, fmt.Errorf("a node is gone with %d callers", r.Callers)
			}
			peak = max(peak, kib)
		}
		b.printf("%-12s %8d %9s %10.0f %10.0f %9.1f %9s %9s %8d MiB\n", r.Kind, r.Callers, size(r.Bytes), good,
			float64(a.Refused)/seconds, float64(a.Failed)/seconds, at(0.5), at(0.99), peak>>10)
		if a.Error != "" || a.Sample != "" {
			b.printf("             failed, for one: %s\n", a.Sample)
		}
		if peak<<10 > overloadMemory {
			failed = errors.Join(failed, fmt.Errorf("%s, %d callers: a node has taken %d MiB of %d", r.Kind, r.Callers, peak>>10, overloadMemory>>20))
		}
		return good, nil
	}
	for _, kind := range []string{kindStream, kindPlain} {
		if !b.o.rows.MatchString(kind + ", small") {
			continue
		}
		best, at := 0.0, 0
		for n, falling := 64, 0; n <= 8192 && falling < 2; n *= 2 {
			good, err := press(request{Kind: kind, Callers: n})
			if err != nil {
				return err
			}
			falling++
			if good > best {
				best, at, falling = good, n, 0
			}
		}
		// One after the other, so that what else the machine does weighs on both.
		var ratios []float64
		for range b.o.rounds {
			most, err := press(request{Kind: kind, Callers: at})
			if err != nil {
				return err
			}
			good, err := press(request{Kind: kind, Callers: 4 * at})
			if err != nil {
				return err
			}
			ratios = append(ratios, good/most)
		}
		slices.Sort(ratios)
		left := ratios[len(ratios)/2]
		b.printf("%s: most with %d callers; with %d %.0f %% of it (median of %d rounds)\n\n", kind, at, 4*at, 100*left, b.o.rounds)
		if left < goodputMin {
			failed = errors.Join(failed, fmt.Errorf("%s: goodput with %d callers is %.0f %% of the peak, want %.0f %%", kind, 4*at, 100*left, 100*goodputMin))
		}
	}
	for _, r := range []request{
		{Kind: kindStream, Callers: 4000, Bytes: 64 << 10},
		{Kind: kindStream, Callers: 500, Bytes: 1 << 20},
		{Kind: kindPlain, Callers: 4000, Bytes: 64 << 10},
		{Kind: kindPlain, Callers: 500, Bytes: 1 << 20},
		{Kind: kindStream, Callers: 20_000},
		{Kind: kindPlain, Callers: 20_000},
	} {
		if !b.o.rows.MatchString(r.Kind + ", " + size(r.Bytes)) {
			continue
		}
		if _, err := press(r); err != nil {
			return err
		}
	}
	return failed
}

func size(bytes int) string {
	switch {
	case bytes >= 1<<20:
		return strconv.Itoa(bytes>>20) + " MiB"
	case bytes > 0:
		return strconv.Itoa(bytes>>10) + " KiB"
	}
	return "small"
}

// peakKiB returns the most memory that the process has had resident, 0 when it is gone.
func (c *child) peakKiB() int {
	raw, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(c.cmd.Process.Pid), "status"))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(raw)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kib, _ := strconv.Atoi(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")))
			return kib
		}
	}
	return 0
}

// The ways of calling.
const (
	kindStream = "Go client"
	kindPlain  = "plain gRPC"
)

// startCallers is the process of the callers.
func startCallers(cfg roleConfig) (*server, error) {
	addrs := slices.Sorted(maps.Values(cfg.Addrs))
	c, err := client.New(addrs)
	if err != nil {
		return nil, err
	}
	many := stubs(c)
	var conns []*grpc.ClientConn
	closeAll := func() {
		c.Close()
		for _, conn := range conns {
			_ = conn.Close()
		}
	}
	for range connsEach {
		for _, addr := range addrs {
			conn, err := dial(addr)
			if err != nil {
				closeAll()
				return nil, err
			}
			conns = append(conns, conn)
		}
	}
	handle := func(r request) (answer, error) {
		in := &counterv1.IncrementRequest{}
		if r.Bytes > 0 { // A field that the counter does not know.
			in.ProtoReflect().SetUnknown(protowire.AppendBytes(protowire.AppendTag(nil, 1000, protowire.BytesType), make([]byte, r.Bytes)))
		}
		op := func(ctx context.Context, caller, i int) error {
			_, err := many[pick(caller, i, len(many))].Increment(ctx, in)
			return err
		}
		if r.Kind == kindPlain {
			op = func(ctx context.Context, caller, i int) error {
				ctx = metadata.AppendToOutgoingContext(ctx, "holdfast-name", names[pick(caller, i, manyObjects)])
				_, err := counterv1.NewCounterClient(conns[caller%len(conns)]).Increment(ctx, in)
				return err
			}
		}
		return press(r.Callers, r.Length, op), nil
	}
	return &server{handle: handle, close: closeAll}, nil
}

// press lets callers call, each again as soon as it has its answer, or a little later when it was told
// OVERLOADED, for a time after a warm-up.
func press(callers int, length time.Duration, op operation) answer {
	var counting, over atomic.Bool
	var count, refused, failed atomic.Int64
	var mu sync.Mutex
	var out answer
	var latencies []time.Duration
	var wg sync.WaitGroup
	ended := make(chan struct{})
	for caller := range callers {
		wg.Go(func() {
			var own []time.Duration
			wait := backoffMin
			for i := 0; !over.Load(); i++ {
				begun := time.Now()
				ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
				err := op(ctx, caller, i)
				cancel()
				counted := counting.Load() && !over.Load()
				switch {
				case err == nil:
					wait = backoffMin
					if counted {
						count.Add(1)
						own = append(own, time.Since(begun))
					}
					continue
				case status.Code(err) == codes.ResourceExhausted:
					if counted {
						refused.Add(1)
					}
				case counted:
					failed.Add(1)
					mu.Lock()
					out.Sample = err.Error()
					mu.Unlock()
				}
				t := time.NewTimer(wait/2 + rand.N(wait)) //nolint:gosec // jitter
				select {
				case <-t.C:
				case <-ended:
				}
				t.Stop()
				wait = min(2*wait, backoffMax)
			}
			mu.Lock()
			defer mu.Unlock()
			latencies = append(latencies, own...)
		})
	}
	pause := func(d time.Duration) { <-time.After(d) }
	pause(max(warmUp, length/2))
	counting.Store(true)
	pause(length)
	over.Store(true)
	close(ended)
	wg.Wait()
	out.Count, out.Refused, out.Failed, out.Micros = int(count.Load()), int(refused.Load()), int(failed.Load()), micros(latencies)
	return out
}
