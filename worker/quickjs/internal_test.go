package quickjs

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestPausesCountForLittle(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var c clock
		c.start(2500 * time.Millisecond)
		for i, over := range []bool{false, false, true} {
			time.Sleep(time.Hour) //nolint:forbidigo // Time is virtual here.
			if c.over() != over {
				t.Errorf("after %d pauses it is over: %v", i+1, !over)
			}
		}
		c.start(2500 * time.Millisecond)
		for i := range 25 {
			if c.over() {
				t.Errorf("it is over after %d ms", i*100)
			}
			time.Sleep(100 * time.Millisecond) //nolint:forbidigo // Time is virtual here.
		}
		if !c.over() {
			t.Error("it is not over in time")
		}
		c.start(0)
		time.Sleep(time.Hour) //nolint:forbidigo // Time is virtual here.
		if c.over() {
			t.Error("a clock without a limit is over")
		}
	})
}
