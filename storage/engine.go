package storage

import (
	"io"

	"github.com/cockroachdb/pebble/v2"
)

// Engine is what a Store needs of the ordered store under it. Pebble is one; a model of it in
// memory, which loses power at will, is another. Package storagetest has both the model and what
// every engine is held to.
//
// Batches are pebble's own, also on the model: they are on the path of every write.
type Engine interface {
	EngineReader

	// NewBatch returns an empty batch.
	NewBatch() *pebble.Batch
	// Commit applies a batch whole. With sync it returns when the batch and all before it is
	// durable; without, a loss of power keeps some prefix of what was not synced. An empty batch
	// syncs nothing.
	Commit(b *pebble.Batch, sync bool) error
	// Begin is the first half of a synced Commit: the batch can be read when it returns.
	Begin(b *pebble.Batch) error
	// Sync is the second half; it may be called from another goroutine.
	Sync(b *pebble.Batch) error
	// Snapshot returns the engine as it is now.
	Snapshot() EngineSnapshot
	// Replace begins to replace everything in [lo, hi), where an earlier Replacement of the range left
	// off, if it was suspended.
	Replace(lo, hi []byte) Replacement
	// Close ends it.
	Close() error
}

// EngineReader reads keys.
type EngineReader interface {
	// Get returns the value, valid until the closer is closed, or pebble.ErrNotFound.
	Get(key []byte) ([]byte, io.Closer, error)
	// Iter walks the keys in [lo, hi) as they are now; a nil bound is none.
	Iter(lo, hi []byte) (Cursor, error)
}

// EngineSnapshot is an engine as it was at one moment.
type EngineSnapshot interface {
	EngineReader
	io.Closer
}

// Cursor walks keys in order; Iter says how.
type Cursor interface {
	First() bool
	Last() bool
	Next() bool
	Prev() bool
	SeekGE(key []byte) bool
	SeekLT(key []byte) bool
	Valid() bool
	Key() []byte
	Value() []byte
	Error() error
	io.Closer
}

// Replacement collects what a range is to have instead of what it has. It takes effect whole, and
// durably, in Finish, or not at all.
type Replacement interface {
	// Add adds a pair. Keys ascend; key and value are copied.
	Add(key, value []byte) error
	// Cut ends a Part: the next pair begins another.
	Cut() error
	// Parts returns what an earlier Replacement of the range, that was suspended or cut off by a
	// crash, has left, in the order of its keys. None may be there.
	Parts() []Part
	// Keep adds the pairs of a Part, by its place in Parts, in place of as many Adds.
	Keep(part int) error
	// Finish replaces the range. After an error nothing has changed.
	Finish() error
	// Suspend gives up, and leaves what it has written for the next Replacement of the range.
	Suspend() error
	// Abort gives up for good.
	Abort() error
}

// pebbleEngine implements Engine.
type pebbleEngine struct {
	*pebble.DB

	files replacementFiles
	fatal func(error) // Options.OnFatal
}

// NewBatch implements Engine.
func (e *pebbleEngine) NewBatch() *pebble.Batch { return e.DB.NewBatch() }

// Commit implements Engine.
func (e *pebbleEngine) Commit(b *pebble.Batch, sync bool) error {
	opts := pebble.NoSync
	if sync {
		opts = pebble.Sync
	}
	return e.check(b.Commit(opts))
}

// check gives the store up when a write failed: what pebble has taken in and could not write it would
// hold against every later write.
func (e *pebbleEngine) check(err error) error {
	if err != nil {
		e.fatal(err)
	}
	return err
}

// Begin implements Engine.
func (e *pebbleEngine) Begin(b *pebble.Batch) error {
	return e.check(e.ApplyNoSyncWait(b, pebble.Sync))
}

// Sync implements Engine.
func (e *pebbleEngine) Sync(b *pebble.Batch) error { return e.check(b.SyncWait()) }

// Iter implements EngineReader.
func (e *pebbleEngine) Iter(lo, hi []byte) (Cursor, error) { return pebbleIter(e.DB, lo, hi) }

// Snapshot implements Engine.
func (e *pebbleEngine) Snapshot() EngineSnapshot { return pebbleSnapshot{e.NewSnapshot()} }

type pebbleSnapshot struct{ *pebble.Snapshot }

// Iter implements EngineReader.
func (s pebbleSnapshot) Iter(lo, hi []byte) (Cursor, error) { return pebbleIter(s.Snapshot, lo, hi) }

func pebbleIter(r pebble.Reader, lo, hi []byte) (Cursor, error) {
	it, err := r.NewIter(&pebble.IterOptions{LowerBound: lo, UpperBound: hi})
	if err != nil {
		return nil, err
	}
	return it, nil
}
