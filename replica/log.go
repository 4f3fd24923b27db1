package replica

import (
	"fmt"
	"math"
	"slices"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/holdfast-io/holdfast/placement"
	"github.com/holdfast-io/holdfast/storage"
)

// entryReader reads log entries that are no longer in memory.
type entryReader interface {
	// ReadEntries returns entries [lo, hi) up to about maxBytes, at least one.
	ReadEntries(shard placement.ShardID, lo, hi, maxBytes uint64) ([]*raftpb.Entry, error)
}

// Bounds of the entries kept in memory: of one replica, of all that a node has, and of one replica that
// nobody waits for. Followers that lag further behind are fed from disk.
const (
	tailBytesMax  = 512 << 10
	tailsBytesMax = 64 << 20
	tailBytesIdle = 4 << 10
)

// groupLog is a replica's log as Raft reads it (raft.Storage): the newest entries in memory, the
// rest on disk. It is changed only when the batch with the change is written.
type groupLog struct {
	shard     placement.ShardID
	disk      entryReader
	hard      raftpb.HardState
	group     *Group // for the descriptor and what a snapshot would have
	trunc     indexTerm
	last      indexTerm
	tail      []*raftpb.Entry // contiguous, ends at last
	tailBytes int
	bytes     uint64 // of the entries since trunc, roughly
}

type indexTerm struct{ Index, Term uint64 }

// InitialState implements raft.Storage.
func (l *groupLog) InitialState() (*raftpb.HardState, *raftpb.ConfState, error) {
	return &raftpb.HardState{Term: new(l.hard.GetTerm()), Vote: new(l.hard.GetVote()), Commit: new(l.hard.GetCommit())}, l.group.desc.Conf.raft(), nil
}

// Entries implements raft.Storage.
func (l *groupLog) Entries(lo, hi, maxSize uint64) ([]*raftpb.Entry, error) {
	if lo <= l.trunc.Index {
		return nil, raft.ErrCompacted
	}
	if hi > l.last.Index+1 {
		return nil, raft.ErrUnavailable
	}
	first := l.tailFirst()
	if lo < first {
		return l.disk.ReadEntries(l.shard, lo, min(hi, first), maxSize)
	}
	entries := l.tail[lo-first : hi-first]
	size := uint64(0)
	for i, e := range entries {
		size += uint64(len(e.GetData())) + 16
		if i > 0 && size > maxSize {
			return entries[:i:i], nil
		}
	}
	return slices.Clip(entries), nil
}

func (l *groupLog) tailFirst() uint64 { return l.last.Index + 1 - uint64(len(l.tail)) }

// Term implements raft.Storage.
func (l *groupLog) Term(i uint64) (uint64, error) {
	switch {
	case i == l.trunc.Index:
		return l.trunc.Term, nil
	case i < l.trunc.Index:
		return 0, raft.ErrCompacted
	case i > l.last.Index:
		return 0, raft.ErrUnavailable
	case i == l.last.Index:
		return l.last.Term, nil
	}
	entries, err := l.Entries(i, i+1, math.MaxUint64)
	if err != nil {
		return 0, err
	}
	return entries[0].GetTerm(), nil
}

// LastIndex implements raft.Storage.
func (l *groupLog) LastIndex() (uint64, error) { return l.last.Index, nil }

// FirstIndex implements raft.Storage.
func (l *groupLog) FirstIndex() (uint64, error) { return l.trunc.Index + 1, nil }

// Snapshot implements raft.Storage. It carries no data: the data is cut from the store, and the
// metadata set anew, when the snapshot is sent. So it is never older than the learner it is for.
func (l *groupLog) Snapshot() (*raftpb.Snapshot, error) {
	if l.group.applied.Index == 0 {
		return nil, raft.ErrSnapshotTemporarilyUnavailable
	}
	return &raftpb.Snapshot{Metadata: &raftpb.SnapshotMetadata{
		Index: new(l.group.applied.Index), Term: new(l.group.applied.Term), ConfState: l.group.desc.Conf.raft(),
	}}, nil
}

// append takes entries that the current batch writes; they may overwrite a suffix. Slices handed
// to Raft before are no longer in use: the one goroutine that drives the group has sent them.
func (l *groupLog) append(entries []*raftpb.Entry) {
	from := entries[0].GetIndex()
	if first := l.tailFirst(); from >= first {
		for _, e := range l.tail[from-first:] {
			l.tailBytes -= entryBytes(e)
		}
		l.tail = l.tail[:from-first]
	} else {
		l.tail, l.tailBytes = nil, 0
	}
	l.tail = append(l.tail, entries...)
	for _, e := range entries {
		l.tailBytes += entryBytes(e)
		l.bytes += uint64(entryBytes(e)) //nolint:gosec // not negative
	}
	newest := entries[len(entries)-1]
	l.last = indexTerm{newest.GetIndex(), newest.GetTerm()}
	if l.tailBytes > 2*tailBytesMax {
		l.trimTail(tailBytesMax)
	}
}

// entryBytes is what an entry costs in memory, roughly.
func entryBytes(e *raftpb.Entry) int { return len(e.GetData()) + 128 }

// trimTail forgets the oldest entries in memory down to a bound. It is called seldom enough that copying
// the rest costs little an entry.
func (l *groupLog) trimTail(bytesMax int) {
	drop := 0
	for ; l.tailBytes > bytesMax && drop < len(l.tail); drop++ {
		l.tailBytes -= entryBytes(l.tail[drop])
	}
	l.tail = slices.Clone(l.tail[drop:])
}

// trimTails trims the logs when all of them together have too much in memory: to a quarter of what they
// may have, so that it is seldom.
func trimTails(groups []*Group) {
	count, bytes := 0, 0
	for _, g := range groups {
		if g != nil {
			count++
			bytes += g.log.tailBytes
		}
	}
	if bytes <= tailsBytesMax {
		return
	}
	for _, g := range groups {
		if g != nil {
			g.log.trimTail(tailsBytesMax / 4 / count)
		}
	}
}

// trimApplied forgets the entries in memory that are applied here and, of an owner, on every active follower:
// with each tick, so that what a node keeps is what is under way and not what its bounds allow.
func (g *Group) trimApplied() {
	if g.log.tailBytes <= tailBytesIdle {
		return
	}
	from := g.applied.Index
	if g.leader {
		from = min(from, g.slowest())
	}
	g.log.trimBefore(from)
}

// trimBefore forgets the entries in memory before an index. The entry there stays: Raft asks for the term of
// the one before those it sends.
func (l *groupLog) trimBefore(index uint64) {
	first := l.tailFirst()
	if index <= first {
		return
	}
	drop := min(index-first, uint64(len(l.tail)))
	for _, e := range l.tail[:drop] {
		l.tailBytes -= entryBytes(e)
	}
	l.tail = slices.Clone(l.tail[drop:])
}

// reset is the log after a snapshot: empty, behind it.
func (l *groupLog) reset(at indexTerm) {
	l.trunc, l.last, l.tail, l.tailBytes, l.bytes = at, at, nil, 0, 0
}

// truncateTo forgets entries up to the index.
func (l *groupLog) truncateTo(at indexTerm) {
	l.trimBefore(at.Index + 1)
	kept := l.last.Index - at.Index
	if whole := l.last.Index - l.trunc.Index; whole > 0 {
		l.bytes = l.bytes * kept / whole
	}
	l.trunc = at
}

// diskLog implements entryReader on a store.
type diskLog struct{ store *storage.Store }

// ReadEntries implements entryReader.
func (d diskLog) ReadEntries(shard placement.ShardID, lo, hi, maxBytes uint64) ([]*raftpb.Entry, error) {
	from, to := storage.LogSpan(shard, lo, hi)
	it, err := d.store.Iter(from, to)
	if err != nil {
		return nil, err
	}
	defer it.Close()
	var out []*raftpb.Entry
	size := uint64(0)
	for ok := it.First(); ok; ok = it.Next() {
		index, err := storage.LogIndex(it.Key())
		if err != nil {
			return nil, err
		}
		if index != lo+uint64(len(out)) {
			return nil, fmt.Errorf("shard %d: log entry %d is missing: %w", shard, lo+uint64(len(out)), storage.ErrCorrupt)
		}
		size += uint64(len(it.Value())) + 16
		if len(out) > 0 && size > maxBytes {
			break
		}
		e, err := decodeLogEntry(index, it.Value())
		if err != nil {
			return nil, err
		}
		out = append(out, e)
	}
	if err := it.Error(); err != nil {
		return nil, err
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("shard %d: log entries %d to %d are missing: %w", shard, lo, hi, storage.ErrCorrupt)
	}
	return out, nil
}
