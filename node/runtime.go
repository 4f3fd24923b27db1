package node

import (
	"context"
	"os"
	"runtime/debug"
	gometrics "runtime/metrics"
	"time"

	"github.com/holdfast-io/holdfast/storage"
)

// How lazy the garbage collector is: a heap is let grow by three quarters of what is live, for what a node keeps is
// small and should be; or by up to four times that, for what calls allocate is not. Between them, as lazy as it
// must be to take gcShare of the machine's CPU time.
const (
	gcPercentMin = 75
	gcPercentMax = 400
	gcShare      = 0.025
	gcEach       = 500 * time.Millisecond
)

// TuneRuntime sets the process's garbage collector up for a node, for programs that do nothing else, until
// stop, which waits: lazier the more there is to do, and diligent when limit bytes (0: what the machine,
// or its container, has) are near. GOGC and GOMEMLIMIT in the environment win.
func TuneRuntime(limit int64) (stop func()) {
	if os.Getenv("GOMEMLIMIT") == "" {
		limit = memoryLimit(limit)
		goLimit := limit / 20 * 17
		if storeIsOffHeap {
			cache, memtable := storeMemory(limit)
			goLimit -= cache + storage.MemtablesMax*memtable
		}
		debug.SetMemoryLimit(goLimit)
	}
	if os.Getenv("GOGC") != "" {
		return func() {}
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		tuneGC(ctx)
	}()
	return func() {
		cancel()
		<-done
	}
}

// tuneGC keeps the garbage collector's percentage where gcPercent wants it.
func tuneGC(ctx context.Context) {
	percent := gcPercentMin
	debug.SetGCPercent(percent)
	each := time.NewTicker(gcEach)
	defer each.Stop()
	spent, had := gcTimes()
	for {
		select {
		case <-ctx.Done():
			return
		case <-each.C:
		}
		nowSpent, nowHad := gcTimes()
		if nowHad <= had {
			continue
		}
		next := gcPercent(percent, (nowSpent-spent)/(nowHad-had))
		spent, had = nowSpent, nowHad
		if 10*max(next-percent, percent-next) >= percent { // Not for a little: it stops the world for a moment.
			debug.SetGCPercent(next)
			percent = next
		}
	}
}

// gcPercent returns the percentage that follows one at which the garbage collector took that share of the
// CPU time there was. It goes half the way, for what a moment takes says little: the work is the less the
// higher the percentage is.
func gcPercent(percent int, share float64) int {
	wanted := min(max(float64(percent)*share/gcShare, gcPercentMin), gcPercentMax)
	return int((float64(percent)+wanted)/2 + 0.5)
}

// gcTimes returns for how many seconds the garbage collector has run on CPUs that had other things to do,
// and for how many there were CPUs.
func gcTimes() (spent, had float64) {
	samples := []gometrics.Sample{
		{Name: "/cpu/classes/total:cpu-seconds"},
		{Name: "/cpu/classes/gc/mark/dedicated:cpu-seconds"},
		{Name: "/cpu/classes/gc/mark/assist:cpu-seconds"},
		{Name: "/cpu/classes/gc/pause:cpu-seconds"},
	}
	gometrics.Read(samples)
	for _, s := range samples[1:] {
		spent += s.Value.Float64()
	}
	return spent, samples[0].Value.Float64()
}

// storeMemory returns how large the store's block cache and each of its memtables are, of a node with so
// much memory: with 2 GiB as large as they become.
func storeMemory(limit int64) (cache, memtable int64) {
	const most = 64 << 20
	return min(limit/16, most), min(limit/32, most)
}
