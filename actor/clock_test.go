package actor

import (
	"testing"
	"time"
)

// TestHybridClockNeverGoesBack: neither when the wall clock does, nor when another owner's was ahead.
func TestHybridClockNeverGoesBack(t *testing.T) {
	wall := time.UnixMilli(1_000_000)
	c := hybridClock{wall: func() time.Time { return wall }}
	last := uint64(0)
	for step, move := range []func(){
		func() {},
		func() {}, // the same time again
		func() { wall = wall.Add(time.Second) },
		func() { wall = wall.Add(-time.Hour) },
		func() { wall = time.UnixMilli(-5) },
		func() { c.observe(last + 1<<40) },
		func() { c.observe(1) },
	} {
		before := last
		move()
		if last = c.now(); last <= before {
			t.Errorf("step %d: %d after %d", step, last, before)
		}
	}
	if ahead := uint64(1<<40) + 1_000_000<<16; last <= ahead {
		t.Errorf("%d is not after what was observed, %d", last, ahead)
	}
}
