package node

import (
	"errors"
	"log/slog"
	"strings"
	"testing"
)

// A disk that fills passes through every state, and comes back through every one with room to spare.
func TestDiskStates(t *testing.T) {
	t.Parallel()
	const keep = 1000
	state := diskRoomy
	for _, step := range []struct {
		free uint64
		want diskState
	}{
		{5000, diskRoomy},
		{1500, diskRoomy},
		{1499, diskLow},
		{1500, diskLow},
		{1999, diskLow},
		{2000, diskRoomy},
		{1400, diskLow},
		{1000, diskLow},
		{999, diskFull},
		{1000, diskFull},
		{1249, diskFull},
		{1250, diskLow},
		{900, diskFull},
		{500, diskFull},
		{499, diskSpent},
		{749, diskSpent},
		{750, diskFull},
		{0, diskSpent},
		{1100, diskFull},
		{0, diskSpent},
		{2000, diskRoomy},
		{0, diskSpent},
	} {
		if state = nextDiskState(state, step.free, keep); state != step.want {
			t.Fatalf("with %d free it %s, want: %s", step.free, state, step.want)
		}
	}
	if got := nextDiskState(diskSpent, 0, 0); got != diskRoomy {
		t.Errorf("with nothing to be kept free it %s", got)
	}
}

// What the disk is found to be is told; a disk that can't be asked stays what it was.
func TestDiskIsWatched(t *testing.T) {
	t.Parallel()
	var free uint64
	var broken error
	n := &Node{cfg: Config{
		Name: "n1", MinFreeDisk: 100 << 20, FreeDisk: func() (uint64, error) { return free, broken },
	}.withDefaults(), log: slog.New(slog.DiscardHandler), ctx: t.Context(), changed: make(chan struct{}, 1)}
	look := func(mib uint64, err error, want diskState, says string, pokes bool) {
		t.Helper()
		free, broken = mib<<20, err
		n.lookAtDisk()
		if got := n.disk.level(); got != want {
			t.Errorf("%d MiB: it %s, want: %s", mib, got, want)
		}
		if why := n.disk.reason(); (why == "") != (says == "") || !strings.Contains(why, says) {
			t.Errorf("%d MiB: it says %q, want %q", mib, why, says)
		}
		if got := len(n.changed) > 0; got != pokes {
			t.Errorf("%d MiB: told: %t, want %t", mib, got, pokes)
		}
		select {
		case <-n.changed:
		default:
		}
	}
	look(1000, nil, diskRoomy, "", false)
	look(120, nil, diskLow, "120 MiB are free, 100 MiB", true)
	look(90, nil, diskFull, "writes are refused", true)
	look(0, errors.New("no answer"), diskFull, "90 MiB are free", false)
	look(80, nil, diskFull, "80 MiB are free", false)
	look(10, nil, diskSpent, "is not taken in", true)
	look(300, nil, diskRoomy, "", true)
	n.cfg.MinFreeDisk = -1
	look(0, nil, diskRoomy, "", false)
}
