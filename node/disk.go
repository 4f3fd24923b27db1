package node

import (
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/holdfast-io/holdfast/storage"
)

// diskState is how much room the disk of the data directory has, measured by what is to be kept free.
type diskState int

const (
	diskRoomy diskState = iota
	// diskLow: ownership goes to nodes with more room.
	diskLow
	// diskFull: writes are refused, and so are snapshots.
	diskFull
	// diskSpent: not even what other owners write is taken in; this node drops out of the majorities
	// until it has room again, instead of ending by a write that fails.
	diskSpent
)

// String implements fmt.Stringer.
func (s diskState) String() string {
	return [...]string{"has room", "has little room", "is nearly full", "is all but full"}[s]
}

// diskMark is where a state begins and where it ends, in percent of what is to be kept free. A state
// ends well above where it began, so that a disk at the edge does not move ownership to and fro.
type diskMark struct{ begins, ends uint64 }

var diskMarks = [...]diskMark{diskLow: {150, 200}, diskFull: {100, 125}, diskSpent: {50, 75}}

// nextDiskState returns the state that follows now that so many bytes are free.
func nextDiskState(now diskState, free, keep uint64) diskState {
	for s := diskSpent; s > diskRoomy; s-- {
		mark := diskMarks[s].begins
		if now >= s {
			mark = diskMarks[s].ends
		}
		if free < keep/100*mark {
			return s
		}
	}
	return diskRoomy
}

// diskWatch is what is known of the disk. Its methods are safe for concurrent use.
type diskWatch struct {
	view atomic.Pointer[diskView]
}

type diskView struct {
	state      diskState
	free, keep uint64
}

func (w *diskWatch) level() diskState {
	if v := w.view.Load(); v != nil {
		return v.state
	}
	return diskRoomy
}

// reason says why the node refuses writes, or had better not own, or "".
func (w *diskWatch) reason() string {
	v := w.view.Load()
	if v == nil {
		return ""
	}
	switch what := fmt.Sprintf("the disk %s: %d MiB are free, %d MiB are to be kept free (--min-free-disk)", v.state, v.free>>20, v.keep>>20); v.state {
	case diskLow:
		return what + "; ownership goes to nodes with more room"
	case diskFull:
		return what + "; writes are refused with DISK_FULL"
	case diskSpent:
		return what + "; writes are refused with DISK_FULL, and what other nodes write is not taken in"
	case diskRoomy:
	}
	return ""
}

// errNoRoom refuses a snapshot.
var errNoRoom = errors.New("the disk of this node is nearly full")

// diskEvery is how often the disk is looked at. What is kept free must last for so long.
const diskEvery = 500 * time.Millisecond

// watchDisk follows how much room the disk has.
func (n *Node) watchDisk() {
	t := time.NewTicker(diskEvery)
	defer t.Stop()
	for {
		select {
		case <-n.ctx.Done():
			return
		case <-t.C:
			n.lookAtDisk()
		}
	}
}

// lookAtDisk looks once. A disk that can't be asked is as it was.
func (n *Node) lookAtDisk() {
	if n.cfg.MinFreeDisk < 0 {
		return
	}
	ask := n.cfg.FreeDisk
	if ask == nil {
		ask = n.store.FreeDisk
	}
	free, err := ask()
	if err != nil {
		if !errors.Is(err, storage.ErrNoDisk) {
			n.log.Warn("free disk space", slog.Any("error", err))
		}
		return
	}
	keep := uint64(n.cfg.MinFreeDisk) //nolint:gosec // not negative
	was := n.disk.level()
	state := nextDiskState(was, free, keep)
	n.disk.view.Store(&diskView{state, free, keep})
	if state == was {
		return
	}
	level := slog.LevelWarn
	if state == diskRoomy {
		level = slog.LevelInfo
	}
	n.log.Log(n.ctx, level, "room on the disk", slog.String("it", state.String()), slog.Uint64("free_bytes", free), slog.Uint64("min_free_bytes", keep))
	n.poke()
}
