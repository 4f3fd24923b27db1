package storage

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/holdfast-io/holdfast/placement"
)

// Walk goes through objects of a class in one shard, and through what they have, as all that was at the
// moment when it was made. It holds back the disk space of everything deleted since: close it soon. Not
// safe for concurrent use.
//
//	for w.Next() {
//		for w.NextEntry() { … }
//	}
//	err := w.Err()
type Walk struct {
	snapshot *Snapshot
	it       *Iter
	shard    placement.ShardID
	class    string
	span     int // bytes of the class's prefix

	object WalkedObject
	begun  bool
	prefix []byte // of the object's entries; nil before the first
	first  bool   // the next entry is the first
	err    error
}

// WalkedObject is an object without its entries.
type WalkedObject struct {
	ObjectListing

	Fence Fence
	Alarm *Alarm     // nil: it has none
	Dead  *DeadAlarm // nil: it has none
}

// Walk begins before the first of the objects of a class (by its unique key) that lies behind the given
// id, or before the first of all.
func (s *Store) Walk(shard placement.ShardID, class string, after *placement.ObjectID) (*Walk, error) {
	lo, hi := classSpan(shard, class)
	span := len(lo)
	if after != nil {
		_, lo = ObjectSpan(shard, ObjectRef{Class: class, ID: *after})
	}
	return s.walk(shard, class, span, lo, hi)
}

// WalkOne is a Walk of one object, if it exists.
func (s *Store) WalkOne(shard placement.ShardID, ref ObjectRef) (*Walk, error) {
	lo, _ := classSpan(shard, ref.Class)
	span := len(lo)
	lo, hi := ObjectSpan(shard, ref)
	return s.walk(shard, ref.Class, span, lo, hi)
}

func (s *Store) walk(shard placement.ShardID, class string, span int, lo, hi []byte) (*Walk, error) {
	w := &Walk{snapshot: s.Snapshot(), shard: shard, class: class, span: span}
	it, err := w.snapshot.Iter(lo, hi)
	if err != nil {
		return nil, errors.Join(err, w.snapshot.Close())
	}
	w.it = it
	return w, nil
}

// Next moves to the next object and says whether there is one.
func (w *Walk) Next() bool {
	for {
		if w.err != nil || !w.step() {
			return false
		}
		key := w.it.Key()
		idBytes := len(w.object.ID)
		if len(key) <= w.span+idBytes {
			w.err = fmt.Errorf("%w: key %x of class %s is too short", ErrCorrupt, key, w.class)
			return false
		}
		w.object = WalkedObject{ObjectListing: ObjectListing{ID: placement.ObjectID(key[w.span : w.span+idBytes])}}
		if KeyKind(key[w.span+idBytes]) != KindRecord {
			continue
		}
		if w.err = w.read(); w.err != nil {
			w.err = fmt.Errorf("object %s: %w", w.object.ID, w.err)
			return false
		}
		w.prefix, w.first = AppendObjectKey(w.prefix[:0], w.shard, w.ref(), KindKV, nil), true
		return true
	}
}

func (w *Walk) ref() ObjectRef { return ObjectRef{Class: w.class, ID: w.object.ID} }

// step moves behind the object.
func (w *Walk) step() bool {
	if !w.begun {
		w.begun = true
		return w.it.First()
	}
	_, end := ObjectSpan(w.shard, w.ref())
	return w.it.SeekGE(end)
}

// read reads what the object has beside its entries.
func (w *Walk) read() (err error) {
	o := &w.object
	if o.Record, err = DecodeRecord(w.it.Value()); err != nil {
		return fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	fence, err := walked(w, KindFence, DecodeFence)
	if err != nil {
		return err
	}
	if fence != nil {
		o.Fence = *fence
	}
	if o.Alarm, err = walked(w, KindAlarm, DecodeAlarm); err != nil {
		return err
	}
	o.Dead, err = walked(w, KindDeadAlarm, DecodeDeadAlarm)
	return err
}

// walked reads the one value of a kind that the object has; nil when there is none.
func walked[T any](w *Walk, kind KeyKind, decode func([]byte) (T, error)) (*T, error) {
	raw, ok, err := w.snapshot.Get(AppendObjectKey(nil, w.shard, w.ref(), kind, nil))
	if err != nil || !ok {
		return nil, err
	}
	v, err := decode(raw)
	return &v, err
}

// Object returns the object that the walk is at.
func (w *Walk) Object() *WalkedObject { return &w.object }

// NextEntry moves to the object's next key, in their order, and says whether there is one.
func (w *Walk) NextEntry() bool {
	if w.err != nil || w.prefix == nil {
		return false
	}
	next := w.it.Next
	if w.first {
		w.first = false
		next = func() bool { return w.it.SeekGE(w.prefix) }
	}
	ok := next()
	return ok && bytes.HasPrefix(w.it.Key(), w.prefix)
}

// Entry returns the object's own key and the value, valid until the walk moves.
func (w *Walk) Entry() (key, value []byte) { return w.it.Key()[len(w.prefix):], w.it.Value() }

// Err returns what went wrong, if the walk ended early.
func (w *Walk) Err() error {
	if w.err != nil {
		return w.err
	}
	return w.it.Error()
}

// Close releases the walk.
func (w *Walk) Close() error {
	w.it.Close()
	return w.snapshot.Close()
}
