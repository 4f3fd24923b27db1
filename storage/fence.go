package storage

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"

	"github.com/holdfast-io/holdfast/placement"
)

// Fence is how far an object's writes have come: the last segment that was applied. It is what
// keeps a superseded owner's segments out (P1) and gaps from opening (P3).
type Fence struct {
	Term           uint64
	Incarnation    uint64
	Sequence       uint64
	CommitSequence uint64
	Time           uint64
}

const fenceBytes = 5 * 8

// Append appends the stored form.
func (f Fence) Append(dst []byte) []byte {
	for _, v := range [...]uint64{f.Term, f.Incarnation, f.Sequence, f.CommitSequence, f.Time} {
		dst = binary.BigEndian.AppendUint64(dst, v)
	}
	return dst
}

// DecodeFence reads what Append wrote.
func DecodeFence(b []byte) (Fence, error) {
	if len(b) != fenceBytes {
		return Fence{}, fmt.Errorf("%w: fence of %d bytes", ErrCorrupt, len(b))
	}
	at := func(i int) uint64 { return binary.BigEndian.Uint64(b[8*i:]) }
	return Fence{Term: at(0), Incarnation: at(1), Sequence: at(2), CommitSequence: at(3), Time: at(4)}, nil
}

// Admits says whether a segment may follow, and if not, why. It is the rule by which every replica
// drops the same segments: within an incarnation there is no gap, and a new incarnation begins at
// its first segment.
func (f Fence) Admits(seg *Segment) (bool, string) {
	switch {
	case seg.Term == f.Term && seg.Incarnation == f.Incarnation:
		if seg.Sequence != f.Sequence+1 {
			return false, fmt.Sprintf("sequence %d does not follow %d", seg.Sequence, f.Sequence)
		}
	case seg.Term < f.Term || seg.Term == f.Term && seg.Incarnation < f.Incarnation:
		return false, fmt.Sprintf("incarnation %d of term %d is over: incarnation %d of term %d has written", seg.Incarnation, seg.Term, f.Incarnation, f.Term)
	case seg.Sequence != 1:
		return false, fmt.Sprintf("incarnation %d of term %d begins at sequence %d", seg.Incarnation, seg.Term, seg.Sequence)
	}
	return true, ""
}

// ErrUnknownOp says that a segment holds an operation that this release does not know. The replica
// must stop there: skipping it would make it differ from the others for ever.
var ErrUnknownOp = errors.New("operation of a later release")

// ApplySegment adds a committed segment to the batch, or drops it, as every replica must alike.
// entryTerm is the term of the log entry that carried it. It returns whether the segment was
// applied and, if not, why. fence is the object's, from the cache that the store's one applier has, and
// is brought up to date.
//
// A segment that deletes the object's record without setting it again ends the object: its fence
// goes too. Its incarnation may go on and write again; without a fence any sequence is admitted,
// for within a term the log keeps the order, and entryTerm keeps out other terms.
func ApplySegment(b *Batch, fence *ObjectFence, shard placement.ShardID, entryTerm uint64, seg *Segment) (applied bool, why string, err error) {
	if seg.Term != entryTerm {
		return false, fmt.Sprintf("proposed for term %d, committed in term %d", seg.Term, entryTerm), nil
	}
	if fence.ended {
		return false, fmt.Sprintf("class %s was deleted", seg.Object.Class), nil
	}
	if fence.exists {
		if ok, why := fence.fence.Admits(seg); !ok {
			return false, why, nil
		}
	}
	for i := range seg.Ops {
		if err := seg.Ops[i].check(); err != nil {
			return false, "", err
		}
	}
	applyFence(b, fence, shard, seg)
	for i := range seg.Ops {
		op := &seg.Ops[i]
		switch op.Op {
		case OpSet:
			b.setObject(shard, seg.Object, op.Kind, op.Key, op.Value)
		case OpDelete:
			b.deleteObject(shard, seg.Object, op.Kind, op.Key)
		case OpDeleteRange:
			lo := AppendObjectKey(nil, shard, seg.Object, op.Kind, op.Key)
			hi := successor(AppendObjectKey(nil, shard, seg.Object, op.Kind, nil))
			if len(op.End) > 0 {
				hi = AppendObjectKey(nil, shard, seg.Object, op.Kind, op.End)
			}
			b.DeleteRange(lo, hi)
		case OpPatch:
		}
	}
	return true, "", nil
}

// applyFence writes the fence that a segment leaves: none, if it ends the object. It goes before
// the object's other keys, as it does in their order: the store takes what is in order faster.
func applyFence(b *Batch, entry *ObjectFence, shard placement.ShardID, seg *Segment) {
	ends := false
	for i := range seg.Ops {
		if op := &seg.Ops[i]; op.Kind == KindRecord {
			ends = op.Op == OpDelete
		}
	}
	if ends {
		b.deleteObject(shard, seg.Object, KindFence, nil)
		entry.fence, entry.exists = Fence{}, false
		return
	}
	next := Fence{Term: seg.Term, Incarnation: seg.Incarnation, Sequence: seg.Sequence, CommitSequence: seg.CommitSequence, Time: seg.Time}
	var stored [fenceBytes]byte
	b.setObject(shard, seg.Object, KindFence, nil, next.Append(stored[:0]))
	entry.fence, entry.exists = next, true
}

// FenceCache keeps the fences of the objects written last, so that apply need not read what it has
// just written, and so that a segment sees the fence of an earlier one in the same batch. It is
// brought down to its capacity by Trim. Not safe for concurrent use: it belongs to the one
// goroutine that applies.
//
// What was used since the last Trim that found it too large is recent; old is what was used in the
// time before that, and not since. A list in the order of use would cost every write more than the
// cache saves.
type FenceCache struct {
	store       *Store
	capacity    int
	recent, old map[fenceKey]*ObjectFence
	ended       map[classKey]bool // what is known of classes
}

type fenceKey struct {
	shard placement.ShardID
	ref   ObjectRef
}

// ObjectFence is the fence of one object as apply has left it, if the object has one.
type ObjectFence struct {
	fence  Fence
	exists bool
	ended  bool // with its class, for good
}

// NewFenceCache returns a cache over the store for so many objects.
func NewFenceCache(s *Store, capacity int) *FenceCache {
	return &FenceCache{store: s, capacity: capacity, recent: make(map[fenceKey]*ObjectFence), ended: make(map[classKey]bool)}
}

// Forget drops what is cached of a shard, whose state was replaced.
func (c *FenceCache) Forget(shard placement.ShardID) {
	of := func(key fenceKey, _ *ObjectFence) bool { return key.shard == shard }
	maps.DeleteFunc(c.recent, of)
	maps.DeleteFunc(c.old, of)
	maps.DeleteFunc(c.ended, func(key classKey, _ bool) bool { return key.shard == shard })
}

// Load returns an object's fence, reading it first if it must. It is for ApplySegment, and good until
// the next Trim or Forget.
func (c *FenceCache) Load(shard placement.ShardID, ref ObjectRef) (*ObjectFence, error) {
	key := fenceKey{shard: shard, ref: ref}
	if f := c.recent[key]; f != nil {
		return f, nil
	}
	f := c.old[key]
	if f == nil {
		ended, err := c.classEnded(shard, ref.Class)
		if err != nil {
			return nil, err
		}
		raw, exists, err := c.store.Object(shard, ref).Get(KindFence, nil)
		if err != nil {
			return nil, err
		}
		f = &ObjectFence{exists: exists, ended: ended}
		if exists {
			if f.fence, err = DecodeFence(raw); err != nil {
				return nil, fmt.Errorf("object %s of class %s: %w", ref.ID, ref.Class, err)
			}
		}
	}
	c.recent[key] = f
	return f, nil
}

// Trim drops what was not used lately, if there are more than half the capacity that were. Call it
// when the batch that the fences came from is readable, and not before.
func (c *FenceCache) Trim() {
	if len(c.recent) > c.capacity/2 {
		c.old, c.recent = c.recent, make(map[fenceKey]*ObjectFence, c.capacity/2)
	}
}
