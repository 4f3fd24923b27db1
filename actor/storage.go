package actor

import (
	"iter"

	"github.com/holdfast-io/holdfast/fault"
	"github.com/holdfast-io/holdfast/storage"
	"github.com/holdfast-io/holdfast/storage/value"
)

// Storage is an object's private, durable, ordered map from keys to values. Writes are seen at once
// by the object, and become durable together when its event ends; nothing that depends on them
// gets out before. The writes of an event that panics never were.
//
// Keys are ordered by their bytes. Values are CBOR items: Get and Put encode and decode them. It is
// for the running event's goroutine, and safe to share with others that the event waits for.
type Storage struct{ o *incarnation }

// Get reads the value of a key into a T; false when there is none. T is whatever CBOR can hold:
// numbers, strings, byte slices, slices, maps, structs, or a pointer to a protobuf message.
func Get[T any](s *Storage, key string) (T, bool, error) {
	var out T
	raw, ok, err := s.Get(key)
	if err != nil || !ok {
		return out, false, err
	}
	if err := value.Decode(raw, &out); err != nil {
		return out, false, err
	}
	return out, true, nil
}

// Put writes v as the value of a key.
func Put[T any](s *Storage, key string, v T) error {
	raw, err := value.Encode(v)
	if err != nil {
		return err
	}
	return s.Put(key, raw)
}

// Get reads the encoded value of a key; false when there is none. The caller must not modify it.
func (s *Storage) Get(key string) ([]byte, bool, error) {
	if err := checkKey(key); err != nil {
		return nil, false, err
	}
	return s.o.get(key)
}

// Put writes an encoded value, one CBOR item, and owns it from then on.
func (s *Storage) Put(key string, encoded []byte) error {
	if err := checkKey(key); err != nil {
		return err
	}
	if len(encoded) > storage.MaxValueBytes {
		return fault.New(fault.ValueTooLarge, "value of key %.64q: at most %d bytes, has %d", key, storage.MaxValueBytes, len(encoded))
	}
	return s.o.write(storage.Op{Op: storage.OpSet, Kind: storage.KindKV, Key: []byte(key), Value: encoded})
}

// Delete removes a key and says whether it was there.
func (s *Storage) Delete(key string) (bool, error) {
	_, ok, err := s.Get(key)
	if err != nil || !ok {
		return false, err
	}
	return true, s.o.write(storage.Op{Op: storage.OpDelete, Kind: storage.KindKV, Key: []byte(key)})
}

// DeleteAll removes every key, the object's alarm, and its dead one if it has one. An object without
// any of them no longer exists.
func (s *Storage) DeleteAll() error {
	if err := s.o.write(storage.Op{Op: storage.OpDeleteRange, Kind: storage.KindKV, Key: []byte{}}); err != nil {
		return err
	}
	return s.o.deleteAlarms()
}

// ListOptions says which keys List returns; the zero value returns all.
type ListOptions struct {
	// Start is the first key returned, StartAfter the last one not returned; at most one of them.
	Start, StartAfter string
	// End is the first key not returned; empty: to the end.
	End string
	// Prefix restricts to keys that begin with it.
	Prefix string
	// Reverse returns the same keys in descending order.
	Reverse bool
	// Limit returns at most so many; 0 returns all, negative is an error.
	Limit int
}

// Entry is a key and its encoded value. The caller must not modify the value.
type Entry struct {
	Key   string
	Value []byte
}

// Decode reads the entry's value into what into points to.
func (e Entry) Decode(into any) error { return value.Decode(e.Value, into) }

// List walks keys in the order of their bytes, as they are when it begins, without holding them in
// memory. An error ends the walk. Writing while walking is allowed and does not change the walk.
func (s *Storage) List(o ListOptions) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		if err := s.list(o, yield); err != nil {
			yield(Entry{}, err)
		}
	}
}

// bounds returns the range [lo, hi); a nil hi is the end of all keys.
func (o *ListOptions) bounds() (lo, hi []byte, err error) {
	switch {
	case o.Start != "" && o.StartAfter != "":
		return nil, nil, fault.New(fault.InvalidArgument, "list: at most one of start and start_after")
	case o.Limit < 0:
		return nil, nil, fault.New(fault.InvalidArgument, "list: limit must be positive, is %d", o.Limit)
	}
	lo = []byte(o.Start)
	if o.StartAfter != "" {
		lo = append([]byte(o.StartAfter), 0)
	}
	if o.End != "" {
		hi = []byte(o.End)
	}
	if o.Prefix != "" {
		if o.Prefix > string(lo) {
			lo = []byte(o.Prefix)
		}
		if end := prefixEnd([]byte(o.Prefix)); end != nil && (hi == nil || string(end) < string(hi)) {
			hi = end
		}
	}
	return lo, hi, nil
}

func (s *Storage) list(o ListOptions, yield func(Entry, error) bool) error {
	lo, hi, err := o.bounds()
	if err != nil {
		return err
	}
	if hi != nil && string(lo) >= string(hi) {
		return nil
	}
	over, hidden, err := s.o.overlay(lo, hi)
	if err != nil {
		return err
	}
	it, err := s.o.reader().Iter(storage.KindKV, lo, hi)
	if err != nil {
		return s.o.unreadable(err)
	}
	defer it.Close()
	m := merge{it: it, over: over, hidden: hidden, reverse: o.Reverse}
	m.start()
	for n := 0; o.Limit == 0 || n < o.Limit; n++ {
		entry, ok := m.next()
		if !ok {
			break
		}
		if !yield(entry, nil) {
			return nil
		}
	}
	if err := it.Error(); err != nil {
		return s.o.unreadable(err)
	}
	return nil
}

// merge walks the store and what lies over it as one.
type merge struct {
	it      *storage.ObjectIter
	over    []overlaid // ascending; consumed from the end when reverse
	hidden  []rangeDelete
	reverse bool
	valid   bool
}

func (m *merge) start() {
	if m.reverse {
		m.valid = m.it.Last()
	} else {
		m.valid = m.it.First()
	}
}

func (m *merge) step() {
	if m.reverse {
		m.valid = m.it.Prev()
	} else {
		m.valid = m.it.Next()
	}
}

func (m *merge) peekOver() *overlaid {
	switch {
	case len(m.over) == 0:
		return nil
	case m.reverse:
		return &m.over[len(m.over)-1]
	default:
		return &m.over[0]
	}
}

func (m *merge) popOver() {
	if m.reverse {
		m.over = m.over[:len(m.over)-1]
	} else {
		m.over = m.over[1:]
	}
}

// next returns the next key that exists.
func (m *merge) next() (Entry, bool) {
	for {
		top := m.peekOver()
		if !m.valid && top == nil {
			return Entry{}, false
		}
		if m.valid && (top == nil || m.before(string(m.it.Key()), top.key)) {
			key := string(m.it.Key())
			entry := Entry{Key: key, Value: append([]byte(nil), m.it.Value()...)}
			m.step()
			if m.isHidden(key) {
				continue
			}
			return entry, true
		}
		if m.valid && string(m.it.Key()) == top.key {
			m.step() // It is overwritten.
		}
		entry, deleted := Entry{Key: top.key, Value: top.value}, top.deleted
		m.popOver()
		if !deleted {
			return entry, true
		}
	}
}

func (m *merge) before(a, b string) bool {
	if m.reverse {
		return a > b
	}
	return a < b
}

func (m *merge) isHidden(key string) bool {
	for i := range m.hidden {
		if m.hidden[i].covers(key) {
			return true
		}
	}
	return false
}

func checkKey(key string) error {
	if len(key) > storage.MaxKeyBytes {
		return fault.New(fault.InvalidKey, "key %.64q…: at most %d bytes, has %d", key, storage.MaxKeyBytes, len(key))
	}
	return nil
}
