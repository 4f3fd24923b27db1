package storage

import (
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	"github.com/holdfast-io/holdfast/placement"
)

// Batch collects writes that become visible, and durable, together. It is not safe for concurrent
// use. Close it when done, also after Commit.
type Batch struct {
	engine Engine
	b      *pebble.Batch
	// scratch holds the key being built: pebble copies it.
	scratch []byte
}

// NewBatch returns an empty batch.
func (s *Store) NewBatch() *Batch { return &Batch{engine: s.engine, b: s.engine.NewBatch()} }

// Set writes a key. Key and value are copied. A batch in memory takes every write: its errors
// would be a broken invariant.
func (b *Batch) Set(key, value []byte) { must(b.b.Set(key, value, nil)) }

// Delete removes a key.
func (b *Batch) Delete(key []byte) { must(b.b.Delete(key, nil)) }

// DeleteRange removes [lo, hi), as far as written before, in this batch or earlier.
func (b *Batch) DeleteRange(lo, hi []byte) { must(b.b.DeleteRange(lo, hi, nil)) }

// Len returns the bytes that the batch would write.
func (b *Batch) Len() int { return b.b.Len() }

// Empty says that there is nothing to commit.
func (b *Batch) Empty() bool { return b.b.Empty() }

// Commit applies the batch. With sync it returns when the batch, and all committed before it, is
// on disk; without, it is readable but may be lost with the power.
func (b *Batch) Commit(sync bool) error {
	if err := b.engine.Commit(b.b, sync); err != nil {
		return fmt.Errorf("commit batch: %w", err)
	}
	return nil
}

// Begin applies the batch, which is readable when it returns, and begins to write it to disk. Sync
// must follow, once, before anything else is done with the batch.
func (b *Batch) Begin() error {
	if err := b.engine.Begin(b.b); err != nil {
		return fmt.Errorf("commit batch: %w", err)
	}
	return nil
}

// Sync waits until what Begin began, and all that was committed before it, is on disk. It may be
// called from another goroutine.
func (b *Batch) Sync() error {
	if err := b.engine.Sync(b.b); err != nil {
		return fmt.Errorf("sync batch: %w", err)
	}
	return nil
}

// Reset empties the batch for reuse after a Commit.
func (b *Batch) Reset() { b.b.Reset() }

// Close releases the batch.
func (b *Batch) Close() error { return b.b.Close() }

func must(err error) {
	if err != nil {
		panic(fmt.Sprintf("storage: write to a batch in memory: %v", err))
	}
}

// setObject writes one of an object's own keys.
func (b *Batch) setObject(shard placement.ShardID, ref ObjectRef, kind KeyKind, key, value []byte) {
	b.scratch = AppendObjectKey(b.scratch[:0], shard, ref, kind, key)
	b.Set(b.scratch, value)
}

func (b *Batch) deleteObject(shard placement.ShardID, ref ObjectRef, kind KeyKind, key []byte) {
	b.scratch = AppendObjectKey(b.scratch[:0], shard, ref, kind, key)
	b.Delete(b.scratch)
}

// Get returns a copy of the value of a key, and whether it is there.
func (s *Store) Get(key []byte) ([]byte, bool, error) { return get(s.engine, key) }

func get(r EngineReader, key []byte) ([]byte, bool, error) {
	value, closer, err := r.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, readError(err)
	}
	out := append(make([]byte, 0, len(value)), value...)
	if err := closer.Close(); err != nil {
		return nil, false, fmt.Errorf("read: %w", err)
	}
	return out, true, nil
}

// readError tells damage from everything else.
func readError(err error) error {
	if pebble.IsCorruptionError(err) {
		return fmt.Errorf("read: %w: %w", ErrCorrupt, err)
	}
	return fmt.Errorf("read: %w", err)
}

// Iter walks keys in order, both ways, over the store as it was when the Iter was made. It is not
// safe for concurrent use, and must be closed.
type Iter struct{ it Cursor }

// Iter returns an iterator over [lo, hi), positioned nowhere.
func (s *Store) Iter(lo, hi []byte) (*Iter, error) { return iter(s.engine, lo, hi) }

func iter(r EngineReader, lo, hi []byte) (*Iter, error) {
	it, err := r.Iter(lo, hi)
	if err != nil {
		return nil, fmt.Errorf("iterate: %w", err)
	}
	return &Iter{it: it}, nil
}

// First moves to the first key; Last, Next, Prev, SeekGE and SeekLT likewise. Each returns whether
// there is one.
func (i *Iter) First() bool { return i.it.First() }

// Last moves to the last key.
func (i *Iter) Last() bool { return i.it.Last() }

// Next moves forward.
func (i *Iter) Next() bool { return i.it.Next() }

// Prev moves back.
func (i *Iter) Prev() bool { return i.it.Prev() }

// SeekGE moves to the first key at or after key.
func (i *Iter) SeekGE(key []byte) bool { return i.it.SeekGE(key) }

// SeekLT moves to the last key before key.
func (i *Iter) SeekLT(key []byte) bool { return i.it.SeekLT(key) }

// Valid says whether the iterator is at a key.
func (i *Iter) Valid() bool { return i.it.Valid() }

// Key returns the key, valid until the next move.
func (i *Iter) Key() []byte { return i.it.Key() }

// Value returns the value, valid until the next move.
func (i *Iter) Value() []byte { return i.it.Value() }

// Error returns what went wrong, if the walk ended early.
func (i *Iter) Error() error {
	if err := i.it.Error(); err != nil {
		return readError(err)
	}
	return nil
}

// Close releases the iterator. What went wrong is Error's to say.
func (i *Iter) Close() { _ = i.it.Close() }
