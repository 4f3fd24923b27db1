package storage

import (
	"context"
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/objstorage/objstorageprovider"
	"github.com/cockroachdb/pebble/v2/sstable"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/holdfast-io/holdfast/placement"
)

// Snapshot is the store as it was at one moment. It holds back the disk space of everything
// deleted since: close it soon.
type Snapshot struct{ s *pebble.Snapshot }

// Snapshot returns the store as it is now.
func (s *Store) Snapshot() *Snapshot { return &Snapshot{s: s.db.NewSnapshot()} }

// Get returns a copy of the value that a key had.
func (s *Snapshot) Get(key []byte) ([]byte, bool, error) { return get(s.s, key) }

// Iter walks [lo, hi) as it was.
func (s *Snapshot) Iter(lo, hi []byte) (*Iter, error) { return iter(s.s, lo, hi) }

// Close releases the snapshot.
func (s *Snapshot) Close() error { return s.s.Close() }

// The names of an ingest's files.
const ingestPrefix, ingestSuffix = "ingest-", ".tmp"

// ingestFileBytes is when an ingest begins its next file.
const ingestFileBytes = 16 << 20

// Ingest replaces everything of one shard at once: what was added takes effect whole in Finish, or
// not at all. Not safe for concurrent use.
type Ingest struct {
	store *Store
	shard placement.ShardID
	paths []string
	w     *sstable.Writer
	bytes int
}

// NewIngest begins to replace the shard. End it with Finish or Abort.
func (s *Store) NewIngest(shard placement.ShardID) (*Ingest, error) {
	return &Ingest{store: s, shard: shard}, nil
}

// Add adds a pair. Keys must ascend over the whole ingest and lie in the shard's ShardSpan. Key and
// value are copied.
func (in *Ingest) Add(key, value []byte) error {
	if in.w != nil && in.bytes > ingestFileBytes {
		if err := in.closeFile(); err != nil {
			return err
		}
	}
	if in.w == nil {
		if err := in.openFile(); err != nil {
			return err
		}
	}
	in.bytes += len(key) + len(value)
	if err := in.w.Set(key, value); err != nil {
		return fmt.Errorf("ingest shard %d: %w", in.shard, err)
	}
	return nil
}

func (in *Ingest) openFile() error {
	path := in.store.fs.PathJoin(in.store.dir, fmt.Sprintf("%s%d-%d%s", ingestPrefix, in.store.boot, in.store.ingests.Add(1), ingestSuffix))
	f, err := in.store.fs.Create(path, vfs.WriteCategoryUnspecified)
	if err != nil {
		return fmt.Errorf("ingest shard %d: %w", in.shard, err)
	}
	in.paths = append(in.paths, path)
	in.w = sstable.NewWriter(objstorageprovider.NewFileWritable(f), sstable.WriterOptions{TableFormat: in.store.db.TableFormat(), MergerName: mergerName})
	in.bytes = 0
	return nil
}

func (in *Ingest) closeFile() error {
	w := in.w
	in.w = nil
	if err := w.Close(); err != nil {
		return fmt.Errorf("ingest shard %d: %w", in.shard, err)
	}
	return nil
}

// Finish replaces everything of the shard by what was added and the given hard state, which is
// known only at that moment and therefore has the last key and a file of its own. After an error
// nothing has changed.
func (in *Ingest) Finish(hardState []byte) error {
	defer in.remove()
	if in.w != nil {
		if err := in.closeFile(); err != nil {
			return err
		}
	}
	if err := in.Add(HardStateKey(in.shard), hardState); err != nil {
		return err
	}
	if err := in.closeFile(); err != nil {
		return err
	}
	lo, hi := ShardSpan(in.shard)
	if _, err := in.store.db.IngestAndExcise(context.Background(), in.paths, nil, nil, pebble.KeyRange{Start: lo, End: hi}); err != nil {
		return fmt.Errorf("ingest shard %d: %w", in.shard, err)
	}
	return nil
}

// Abort gives up; nothing has changed.
func (in *Ingest) Abort() error {
	defer in.remove()
	if in.w == nil {
		return nil
	}
	return in.closeFile()
}

// remove deletes the files, which pebble has linked or nobody wants. What a crash leaves is removed
// at the next Open.
func (in *Ingest) remove() {
	for _, path := range in.paths {
		_ = in.store.fs.Remove(path)
	}
	in.paths = nil
}

// DestroyShard deletes everything of the shard and leaves the tombstone, in one synced batch.
func (s *Store) DestroyShard(shard placement.ShardID, tombstone []byte) error {
	b := s.NewBatch()
	lo, hi := ShardSpan(shard)
	b.DeleteRange(lo, hi)
	b.Set(TombstoneKey(shard), tombstone)
	err := b.Commit(true)
	return errors.Join(err, b.Close())
}
