package node

import (
	"runtime"
	"runtime/debug"
	gometrics "runtime/metrics"
	"sync"
	"testing"
	"time"
)

func TestGCPercent(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name    string
		percent int
		share   float64
		want    int
	}{
		{"idle", gcPercentMin, 0, gcPercentMin},
		{"as it should be", 240, gcShare, 240},
		{"too much", 200, 1.5 * gcShare, 250},
		{"too little", 300, gcShare / 2, 225},
		{"far too much", 300, 1, 350},
		{"nothing to do any more", 400, 0, 238},
		{"no lazier", 400, 1, 400},
	} {
		if got := gcPercent(test.percent, test.share); got != test.want {
			t.Errorf("%s: after %d comes %d, want %d", test.name, test.percent, got, test.want)
		}
	}
}

// The collector becomes lazy while there is much garbage, and diligent again afterwards.
//
//nolint:paralleltest // it is about the whole process
func TestTuneRuntime(t *testing.T) {
	t.Setenv("GOGC", "")
	t.Setenv("GOMEMLIMIT", "off")
	defer debug.SetGCPercent(debug.SetGCPercent(gcPercentMin))
	stop := TuneRuntime(0)
	defer stop()
	percent := func() uint64 {
		sample := []gometrics.Sample{{Name: "/gc/gogc:percent"}}
		gometrics.Read(sample)
		return sample[0].Value.Uint64()
	}
	waste := func() { // On every CPU: on one that idles collecting costs nothing.
		var all sync.WaitGroup
		for range runtime.GOMAXPROCS(0) {
			all.Go(func() {
				live := make([][]byte, 200_000)
				for i := range 5 * len(live) {
					live[i%len(live)] = make([]byte, 32)
				}
			})
		}
		all.Wait()
	}
	waitFor := func(what string, do func(), is func() bool) {
		t.Helper()
		for end := time.Now().Add(30 * time.Second); !is(); do() {
			if time.Now().After(end) {
				t.Fatalf("it is not %s: %d %%", what, percent())
			}
		}
	}
	waitFor("lazy", waste, func() bool { return percent() >= 2*gcPercentMin })
	waitFor("diligent again", runtime.Gosched, func() bool { return percent() < gcPercentMin+gcPercentMin/3 })
}
