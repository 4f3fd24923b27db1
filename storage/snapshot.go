package storage

import (
	"errors"
	"fmt"

	"github.com/holdfast-io/holdfast/placement"
)

// Snapshot is the store as it was at one moment. It holds back the disk space of everything
// deleted since: close it soon.
type Snapshot struct{ s EngineSnapshot }

// Snapshot returns the store as it is now.
func (s *Store) Snapshot() *Snapshot { return &Snapshot{s: s.engine.Snapshot()} }

// Get returns a copy of the value that a key had.
func (s *Snapshot) Get(key []byte) ([]byte, bool, error) { return get(s.s, key) }

// Iter walks [lo, hi) as it was.
func (s *Snapshot) Iter(lo, hi []byte) (*Iter, error) { return iter(s.s, lo, hi) }

// Close releases the snapshot.
func (s *Snapshot) Close() error { return s.s.Close() }

// Ingest replaces everything of one shard at once: what was added takes effect whole in Finish, or
// not at all. Not safe for concurrent use.
type Ingest struct {
	shard placement.ShardID
	r     Replacement
	parts []Part // of the objects' state
	first int    // the place of their first among the Replacement's
}

// NewIngest begins to replace the shard, where an earlier Ingest of it was suspended. It reads all
// that one has left. End it with Finish, Suspend or Abort.
func (s *Store) NewIngest(shard placement.ShardID) *Ingest {
	in := &Ingest{shard: shard, r: s.engine.Replace(ShardSpan(shard))}
	lo, hi := StateSpan(shard)
	for i, p := range in.r.Parts() {
		if string(p.First) < string(lo) || string(p.Last) >= string(hi) {
			continue // Raft's own, which is never the same twice.
		}
		if len(in.parts) == 0 {
			in.first = i
		}
		in.parts = append(in.parts, p)
	}
	return in
}

// Parts returns the runs of the objects' state that are here already, in the order of their keys.
func (in *Ingest) Parts() []Part { return in.parts }

// Keep adds all pairs of a Part, by its place in Parts.
func (in *Ingest) Keep(part int) error { return in.wrap(in.r.Keep(in.first + part)) }

// Cut ends a Part: what is added next is in another.
func (in *Ingest) Cut() error { return in.wrap(in.r.Cut()) }

// Add adds a pair. Keys must ascend over the whole ingest and lie in the shard's ShardSpan. Key and
// value are copied.
func (in *Ingest) Add(key, value []byte) error { return in.wrap(in.r.Add(key, value)) }

// Finish replaces everything of the shard by what was added and the given hard state, which is
// known only at that moment and therefore has the last key. After an error nothing has changed.
func (in *Ingest) Finish(hardState []byte) error {
	if err := in.Add(HardStateKey(in.shard), hardState); err != nil {
		return errors.Join(err, in.Abort())
	}
	return in.wrap(in.r.Finish())
}

// Suspend gives up, but keeps what was added for the next Ingest of the shard, for an hour, also over
// a restart. Nothing has changed.
func (in *Ingest) Suspend() error { return in.wrap(in.r.Suspend()) }

// Abort gives up for good; nothing has changed.
func (in *Ingest) Abort() error { return in.wrap(in.r.Abort()) }

func (in *Ingest) wrap(err error) error {
	if err != nil {
		return fmt.Errorf("ingest shard %d: %w", in.shard, err)
	}
	return nil
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
