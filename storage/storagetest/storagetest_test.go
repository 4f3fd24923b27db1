package storagetest_test

import (
	"math/rand/v2"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"go.uber.org/goleak"

	"github.com/holdfast-io/holdfast/storage"
	"github.com/holdfast-io/holdfast/storage/storagetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// pebbleMachine has the real store on a disk in memory.
type pebbleMachine struct {
	t     *testing.T
	fs    *vfs.MemFS
	store *storage.Store
}

func (m *pebbleMachine) Open() (*storage.Store, error) {
	var err error
	m.store, err = storage.Open("data", storage.Options{FS: m.fs})
	return m.store, err
}

func (m *pebbleMachine) Crash(rng *rand.Rand) {
	after := m.fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: rng.IntN(101), RNG: rng})
	if err := m.store.Close(); err != nil {
		m.t.Error(err)
	}
	m.fs = after
}

func TestPebble(t *testing.T) {
	storagetest.Run(t, func(t *testing.T) storagetest.Machine {
		t.Helper()
		return &pebbleMachine{t: t, fs: vfs.NewCrashableMem()}
	})
}

type modelMachine struct{ storagetest.Disk }

func (m *modelMachine) Crash(rng *rand.Rand) { m.Disk.Crash(rng.IntN(m.Unsynced() + 1)) }

func TestModel(t *testing.T) {
	storagetest.Run(t, func(*testing.T) storagetest.Machine { return &modelMachine{} })
}
