package storage

import (
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/fxamacker/cbor/v2"

	"github.com/holdfast-io/holdfast/placement"
)

// Record is what is known of an object that exists: it is written with the object's first write
// and deleted with its last key. Encoded as a CBOR map with small integer keys.
type Record struct {
	// Name is nil when the object was only ever called by id.
	Name        *string `cbor:"1,keyasint,omitempty"`
	Class       string  `cbor:"2,keyasint"`
	CodeVersion uint64  `cbor:"3,keyasint,omitempty"`
	// Import is there while the object has only a part of what it is to have: its class must not see it.
	Import *ImportMark `cbor:"5,keyasint,omitempty"`
}

// ImportMark says how far an import of an object in several parts has come.
type ImportMark struct {
	ID    [16]byte `cbor:"1,keyasint"` // of the import: no other has it
	Parts uint64   `cbor:"2,keyasint"` // that are there
}

// Encode returns the stored form.
func (r Record) Encode() ([]byte, error) {
	out, err := cbor.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("encode object record: %w", err)
	}
	return out, nil
}

// DecodeRecord reads what Encode wrote.
func DecodeRecord(b []byte) (Record, error) {
	var r Record
	if err := cbor.Unmarshal(b, &r); err != nil {
		return Record{}, fmt.Errorf("decode object record: %w", err)
	}
	return r, nil
}

// ObjectReader reads the applied state of one object. It is a value, safe for concurrent use.
type ObjectReader struct {
	store *Store
	shard placement.ShardID
	ref   ObjectRef
}

// Object returns a reader of the object's applied state.
func (s *Store) Object(shard placement.ShardID, ref ObjectRef) ObjectReader {
	return ObjectReader{store: s, shard: shard, ref: ref}
}

// keyBuffers saves an allocation for each read.
var keyBuffers = sync.Pool{New: func() any { b := make([]byte, 0, 256); return &b }}

// Get returns a copy of the value of one of the object's keys.
func (r ObjectReader) Get(kind KeyKind, key []byte) ([]byte, bool, error) {
	buf, _ := keyBuffers.Get().(*[]byte)
	*buf = AppendObjectKey((*buf)[:0], r.shard, r.ref, kind, key)
	value, ok, err := r.store.Get(*buf)
	keyBuffers.Put(buf)
	return value, ok, err
}

// Record reads what is known of the object; nil when it does not exist.
func (r ObjectReader) Record() (*Record, error) { return readOne(r, KindRecord, DecodeRecord) }

// Fence reads how far the object's writes have come; nil when it does not exist.
func (r ObjectReader) Fence() (*Fence, error) { return readOne(r, KindFence, DecodeFence) }

// Alarm reads the object's pending alarm; nil when it has none.
func (r ObjectReader) Alarm() (*Alarm, error) { return readOne(r, KindAlarm, DecodeAlarm) }

// DeadAlarm reads the object's alarm that was given up; nil when it has none.
func (r ObjectReader) DeadAlarm() (*DeadAlarm, error) {
	return readOne(r, KindDeadAlarm, DecodeDeadAlarm)
}

// readOne reads the one value of a kind; nil when there is none.
func readOne[T any](r ObjectReader, kind KeyKind, decode func([]byte) (T, error)) (*T, error) {
	raw, ok, err := r.Get(kind, nil)
	if err != nil || !ok {
		return nil, err
	}
	v, err := decode(raw)
	if err != nil {
		return nil, err
	}
	return &v, nil
}

// Iter walks the object's keys of one kind in [lo, hi); a nil hi is the end of the kind.
func (r ObjectReader) Iter(kind KeyKind, lo, hi []byte) (*ObjectIter, error) {
	prefix := slices.Clip(AppendObjectKey(nil, r.shard, r.ref, kind, nil))
	from := append(prefix, lo...) // A copy: the prefix has no room.
	to := successor(prefix)
	if hi != nil {
		to = append(prefix, hi...)
	}
	it, err := r.store.Iter(from, to)
	if err != nil {
		return nil, err
	}
	return &ObjectIter{Iter: it, prefix: prefix}, nil
}

// ObjectIter is an Iter whose keys are the object's own.
type ObjectIter struct {
	*Iter

	prefix []byte // of every key; its capacity is its length
}

// Key returns the object's own key, valid until the next move.
func (i *ObjectIter) Key() []byte { return i.Iter.Key()[len(i.prefix):] }

// SeekGE moves to the first of the object's own keys at or after key.
func (i *ObjectIter) SeekGE(key []byte) bool { return i.Iter.SeekGE(append(i.prefix, key...)) }

// SeekLT moves to the last of the object's own keys before key.
func (i *ObjectIter) SeekLT(key []byte) bool { return i.Iter.SeekLT(append(i.prefix, key...)) }

// ObjectListing is one object that exists.
type ObjectListing struct {
	ID     placement.ObjectID
	Record Record
}

// ListObjects returns up to limit objects of a class (by its unique key) in one shard, in the
// order of their ids, those after the given id. It seeks from object to object: an object with a
// million keys costs as much as one with a single key.
func (s *Store) ListObjects(shard placement.ShardID, class string, after *placement.ObjectID, limit int) ([]ObjectListing, error) {
	if limit <= 0 {
		return nil, nil
	}
	var out []ObjectListing
	err := s.eachObject(shard, class, after, func(o *ObjectListing) bool {
		out = append(out, *o)
		return len(out) < limit
	})
	return out, err
}

// FindObjects is ListObjects of those objects whose names begin with prefix. It looks at so many objects
// at most. last is the one that it looked at last, unless there are no more behind it.
func (s *Store) FindObjects(shard placement.ShardID, class string, after *placement.ObjectID, prefix string, limit, looks int) (out []ObjectListing, last *placement.ObjectID, err error) {
	more := false
	err = s.eachObject(shard, class, after, func(o *ObjectListing) bool {
		if looks <= 0 || len(out) >= limit {
			more = true
			return false
		}
		if o.Record.Name != nil && strings.HasPrefix(*o.Record.Name, prefix) {
			out = append(out, *o)
		}
		looks--
		last = &o.ID
		return true
	})
	if !more {
		last = nil
	}
	return out, last, err
}

// eachObject calls fn with the objects of a class in one shard, those after the given id, until fn
// returns false.
func (s *Store) eachObject(shard placement.ShardID, class string, after *placement.ObjectID, fn func(*ObjectListing) bool) error {
	lo, hi := classSpan(shard, class)
	prefixBytes := len(lo)
	it, err := s.Iter(lo, hi)
	if err != nil {
		return err
	}
	defer it.Close()
	at := lo
	if after != nil {
		_, at = ObjectSpan(shard, ObjectRef{Class: class, ID: *after})
	}
	for ok := it.SeekGE(at); ok; {
		key := it.Key()
		if len(key) <= prefixBytes+len(placement.ObjectID{}) {
			return fmt.Errorf("%w: key %x of class %s is too short", ErrCorrupt, key, class)
		}
		ref := ObjectRef{Class: class, ID: placement.ObjectID(key[prefixBytes : prefixBytes+len(placement.ObjectID{})])}
		if KeyKind(key[prefixBytes+len(ref.ID)]) == KindRecord {
			record, err := DecodeRecord(it.Value())
			if err != nil {
				return fmt.Errorf("object %s: %w", ref.ID, err)
			}
			if !fn(&ObjectListing{ID: ref.ID, Record: record}) {
				return nil
			}
		}
		_, end := ObjectSpan(shard, ref)
		ok = it.SeekGE(end)
	}
	return it.Error()
}
