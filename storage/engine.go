package storage

import (
	"context"
	"fmt"
	"io"
	"strings"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/objstorage/objstorageprovider"
	"github.com/cockroachdb/pebble/v2/sstable"
	"github.com/cockroachdb/pebble/v2/vfs"
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
	// Replace begins to replace everything in [lo, hi).
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
	// Finish replaces the range. After an error nothing has changed.
	Finish() error
	// Abort gives up.
	Abort() error
}

// pebbleEngine implements Engine.
type pebbleEngine struct {
	*pebble.DB

	fs      vfs.FS
	dir     string
	fatal   func(error)   // Options.OnFatal
	boot    uint64        // names ingest files
	ingests atomic.Uint64 // numbers them
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

// The names of a replacement's files.
const ingestPrefix, ingestSuffix = "ingest-", ".tmp"

// ingestFileBytes is when a replacement begins its next file.
const ingestFileBytes = 16 << 20

// pebbleReplacement implements Replacement: files beside the store, which pebble takes in at once.
type pebbleReplacement struct {
	engine *pebbleEngine
	lo, hi []byte
	paths  []string
	w      *sstable.Writer
	bytes  int
}

// Replace implements Engine.
func (e *pebbleEngine) Replace(lo, hi []byte) Replacement {
	return &pebbleReplacement{engine: e, lo: lo, hi: hi}
}

// Add implements Replacement.
func (r *pebbleReplacement) Add(key, value []byte) error {
	if r.w != nil && r.bytes > ingestFileBytes {
		if err := r.closeFile(); err != nil {
			return err
		}
	}
	if r.w == nil {
		if err := r.openFile(); err != nil {
			return err
		}
	}
	r.bytes += len(key) + len(value)
	return r.w.Set(key, value)
}

func (r *pebbleReplacement) openFile() error {
	path := r.engine.fs.PathJoin(r.engine.dir, fmt.Sprintf("%s%d-%d%s", ingestPrefix, r.engine.boot, r.engine.ingests.Add(1), ingestSuffix))
	f, err := r.engine.fs.Create(path, vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	r.paths = append(r.paths, path)
	r.w = sstable.NewWriter(objstorageprovider.NewFileWritable(f), sstable.WriterOptions{TableFormat: r.engine.TableFormat(), MergerName: mergerName})
	r.bytes = 0
	return nil
}

func (r *pebbleReplacement) closeFile() error {
	if r.w == nil {
		return nil
	}
	w := r.w
	r.w = nil
	return w.Close()
}

// Finish implements Replacement.
func (r *pebbleReplacement) Finish() error {
	defer r.remove()
	if err := r.closeFile(); err != nil {
		return err
	}
	_, err := r.engine.IngestAndExcise(context.Background(), r.paths, nil, nil, pebble.KeyRange{Start: r.lo, End: r.hi})
	return err
}

// Abort implements Replacement.
func (r *pebbleReplacement) Abort() error {
	defer r.remove()
	return r.closeFile()
}

// remove deletes the files, which pebble has linked or nobody wants. What a crash leaves is removed
// at the next Open.
func (r *pebbleReplacement) remove() {
	for _, path := range r.paths {
		_ = r.engine.fs.Remove(path)
	}
	r.paths = nil
}

// removeIngests deletes what a replacement that was cut off has left: it is never read.
func (e *pebbleEngine) removeIngests() error {
	names, err := e.fs.List(e.dir)
	if err != nil {
		return fmt.Errorf("list %s: %w", e.dir, err)
	}
	for _, name := range names {
		if strings.HasPrefix(name, ingestPrefix) && strings.HasSuffix(name, ingestSuffix) {
			if err := e.fs.Remove(e.fs.PathJoin(e.dir, name)); err != nil {
				return fmt.Errorf("remove %s: %w", name, err)
			}
		}
	}
	return nil
}
