package replica

import (
	"time"

	"github.com/holdfast-io/holdfast/placement"
	"github.com/holdfast-io/holdfast/storage"
)

// shell is what goes on beside the loop and comes back to it. Around a Host in a process it is
// goroutines; the simulation, which drives the loop's rounds itself, has its scheduler in their
// place.
type shell interface {
	// after runs fn on the loop later, unless the Host is closed first.
	after(d time.Duration, fn func())
	// stream sends a snapshot and closes it, and then runs done on the loop.
	stream(snap *storage.Snapshot, to placement.NodeID, header snapshotHeader, done func(error))
}

// alarm wakes the loop later.
type alarm interface {
	Reset(d time.Duration) bool
	Stop() bool
}

// goroutines implements shell.
type goroutines struct{ h *Host }

func (s goroutines) after(d time.Duration, fn func()) {
	s.h.wg.Go(func() {
		t := time.NewTimer(d)
		defer t.Stop()
		select {
		case <-t.C:
			s.h.control(fn)
		case <-s.h.ctx.Done():
		}
	})
}

func (s goroutines) stream(snap *storage.Snapshot, to placement.NodeID, header snapshotHeader, done func(error)) {
	s.h.wg.Go(func() {
		err := s.h.streamSnapshot(snap, to, header)
		s.h.control(func() { done(err) })
	})
}

// hooks are what only tests change: how early the log is truncated, and ways to break the code on
// purpose, which show that the simulation would find such a fault.
type hooks struct {
	keepEntries uint64

	dropFsync              bool // acknowledge what is not on disk
	answerBeforeCommit     bool // open the output gate when a segment is proposed
	unconfirmedRead        bool // answer a read without asking anybody
	confChangeTwice        bool // write a membership change apart from the applied index
	snapshotWithoutApplied bool // name the index that is applied, not the one that the data has
}
