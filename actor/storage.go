package actor

import (
	"context"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"

	"github.com/holdfast-io/holdfast/fault"
	"github.com/holdfast-io/holdfast/storage"
	"github.com/holdfast-io/holdfast/storage/value"
)

// Storage is an object's private, durable, ordered map from keys to values. Writes are seen at once
// by the object, and become durable together when its event ends; nothing that depends on them
// gets out before. The writes of an event that panics never were.
//
// Keys are ordered by their bytes; the empty key is one. Values are CBOR items: the functions Get,
// Put, GetMany and PutMany encode and decode them, the methods of these names take them encoded.
// It is for the running event's goroutine, and safe to share with others that the event waits for.
//
// Limits, and the reason of the error of what is over them: a key has at most 2,048 bytes
// (INVALID_KEY), an encoded value 2 MiB (VALUE_TOO_LARGE), a call for many keys 128
// (INVALID_ARGUMENT), and an event writes at most 10,000 times and 16 MiB (WRITE_SET_TOO_LARGE).
// What is refused has written nothing.
type Storage struct {
	o           *incarnation
	unconfirmed bool
	tx          *transaction // that it is for, if it is
}

// Unconfirmed returns the same storage, whose writes (Put and PutMany, Delete and DeleteMany, also
// in a Transaction) hold nothing back: replies and calls of this event, and of those after it, may
// get out before they are durable. They do wait, as always, for this node to be found the owner. A
// write that is lost with its node was then seen by somebody and never was; one that is refused
// resets the object like any other. It is for what is cheap to lose: a cache, a time of last use.
//
// Nothing else about them differs: they are atomic with the event's other writes, which they wait
// for if there are any, keep their order, and Sync waits for them.
func (s *Storage) Unconfirmed() *Storage {
	out := *s
	out.unconfirmed = true
	return &out
}

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

// GetMany reads at most 128 keys; those that are not there are left out.
func GetMany[T any](s *Storage, keys ...string) (map[string]T, error) {
	raw, err := s.GetMany(keys...)
	if err != nil {
		return nil, err
	}
	out := make(map[string]T, len(raw))
	for key, encoded := range raw {
		var v T
		if err := value.Decode(encoded, &v); err != nil {
			return nil, fmt.Errorf("key %.64q: %w", key, err)
		}
		out[key] = v
	}
	return out, nil
}

// Put writes v as the value of a key.
func Put[T any](s *Storage, key string, v T) error {
	raw, err := value.Encode(v)
	if err != nil {
		return err
	}
	return s.put(key, raw)
}

// PutMany writes at most 128 keys, all or none of them.
func PutMany[T any](s *Storage, entries map[string]T) error {
	raw := make(map[string][]byte, len(entries))
	for key, v := range entries {
		encoded, err := value.Encode(v)
		if err != nil {
			return fmt.Errorf("key %.64q: %w", key, err)
		}
		raw[key] = encoded
	}
	return s.putMany(raw)
}

// Get reads the encoded value of a key; false when there is none. The caller must not modify it.
func (s *Storage) Get(key string) ([]byte, bool, error) {
	if err := checkKey(key); err != nil {
		return nil, false, err
	}
	return s.get(key)
}

// GetMany reads the encoded values of at most 128 keys; those that are not there are left out. The
// caller must not modify them.
func (s *Storage) GetMany(keys ...string) (map[string][]byte, error) {
	if err := checkKeys(keys); err != nil {
		return nil, err
	}
	out := make(map[string][]byte, len(keys))
	for _, key := range keys {
		v, ok, err := s.get(key)
		if err != nil {
			return nil, err
		}
		if ok {
			out[key] = v
		}
	}
	return out, nil
}

// Put writes an encoded value, one CBOR item, and owns it from then on.
func (s *Storage) Put(key string, encoded []byte) error {
	if err := checkItem(key, encoded); err != nil {
		return err
	}
	return s.put(key, encoded)
}

// PutMany writes at most 128 encoded values, all or none of them, and owns them from then on.
func (s *Storage) PutMany(entries map[string][]byte) error {
	for key, encoded := range entries {
		if err := checkItem(key, encoded); err != nil {
			return err
		}
	}
	return s.putMany(entries)
}

func (s *Storage) put(key string, encoded []byte) error {
	if err := checkPair(key, encoded); err != nil {
		return err
	}
	return s.write(setOp(key, encoded))
}

func (s *Storage) putMany(entries map[string][]byte) error {
	keys := slices.Sorted(maps.Keys(entries))
	if err := checkKeys(keys); err != nil {
		return err
	}
	ops := make([]storage.Op, len(keys))
	for i, key := range keys {
		if err := checkPair(key, entries[key]); err != nil {
			return err
		}
		ops[i] = setOp(key, entries[key])
	}
	return s.write(ops...)
}

func setOp(key string, encoded []byte) storage.Op {
	return storage.Op{Op: storage.OpSet, Kind: storage.KindKV, Key: []byte(key), Value: encoded}
}

// Delete removes a key and says whether it was there.
func (s *Storage) Delete(key string) (bool, error) {
	n, err := s.DeleteMany(key)
	return n == 1, err
}

// DeleteMany removes at most 128 keys, all or none of them, and says how many of them were there.
func (s *Storage) DeleteMany(keys ...string) (int, error) {
	if err := checkKeys(keys); err != nil {
		return 0, err
	}
	ops := make([]storage.Op, 0, len(keys))
	for i, key := range keys {
		if slices.Contains(keys[:i], key) {
			continue
		}
		_, ok, err := s.get(key)
		if err != nil {
			return 0, err
		}
		if ok {
			ops = append(ops, storage.Op{Op: storage.OpDelete, Kind: storage.KindKV, Key: []byte(key)})
		}
	}
	return len(ops), s.write(ops...)
}

// DeleteAll removes every key, as one write however many they are, and the object's alarm, also one
// that was given up. An object that has nothing no longer exists. It is refused inside a transaction, and is never
// unconfirmed.
func (s *Storage) DeleteAll() error {
	s.o.mu.Lock()
	err := s.o.notInTransaction("DeleteAll")
	s.o.mu.Unlock()
	if err != nil {
		return err
	}
	all := *s
	all.unconfirmed = false
	if err := all.write(storage.Op{Op: storage.OpDeleteRange, Kind: storage.KindKV, Key: []byte{}}); err != nil {
		return err
	}
	return s.o.deleteAlarms()
}

// Sync waits until everything that the object has written is durable, unconfirmed writes too. What
// was written before it stays when the handler fails afterwards. It is State.Confirm under the name
// that Durable Objects have for it, and is refused inside a transaction.
func (s *Storage) Sync(ctx context.Context) error { return s.o.confirm(ctx, "Sync") }

// usable says whether the storage may be used now. The caller holds the lock.
func (s *Storage) usable() error {
	if s.tx != nil && s.tx.ended != nil {
		return s.tx.ended
	}
	return s.o.turn()
}

// get reads a key through what is not yet in the store.
func (s *Storage) get(key string) ([]byte, bool, error) {
	o := s.o
	o.mu.Lock()
	if err := s.usable(); err != nil {
		o.mu.Unlock()
		return nil, false, err
	}
	v, exists, known := o.w.get(key)
	version := o.w.version
	if known {
		o.use.read(len(key), v)
	}
	o.mu.Unlock()
	if known {
		return v, exists, nil
	}
	v, exists, err := o.reader().Get(storage.KindKV, []byte(key))
	if err != nil {
		return nil, false, o.unreadable(err)
	}
	o.mu.Lock()
	o.use.read(len(key), v)
	if o.over == nil {
		o.w.remember(key, v, exists, version)
	}
	o.mu.Unlock()
	return v, exists, nil
}

// write adds all of the operations to the open segment, or none.
func (s *Storage) write(ops ...storage.Op) error {
	o := s.o
	defer o.change()()
	if err := s.usable(); err != nil {
		return err
	}
	err := o.w.addAll(ops, !s.unconfirmed)
	o.charge()
	return err
}

// overlay returns what lies over the store in [lo, hi).
func (s *Storage) overlay(lo, hi []byte) ([]overlaid, []rangeDelete, error) {
	o := s.o
	o.mu.Lock()
	defer o.mu.Unlock()
	if err := s.usable(); err != nil {
		return nil, nil, err
	}
	over, hidden := o.w.view(lo, hi)
	return over, hidden, nil
}

// ListOptions says which keys List returns; the zero value returns all.
type ListOptions struct {
	// Start is the first key returned, StartAfter the last one not returned; at most one of them.
	// They, and End, mean the same when Reverse is set.
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

// Entry is a key and its encoded value. The value is the walk's: it must not be modified, and it is
// another's when the walk goes on. Decode it, or copy it, to keep it.
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
		return nil, nil, fault.New(fault.InvalidArgument, "list() cannot be called with both start and startAfter values.")
	case o.Limit < 0:
		return nil, nil, fault.New(fault.InvalidArgument, "List limit must be positive. A limit of %d was provided.", o.Limit)
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
	over, hidden, err := s.overlay(lo, hi)
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
	var use storageUse
	defer func() { s.o.countReads(use) }()
	for n := 0; o.Limit == 0 || n < o.Limit; n++ {
		entry, ok := m.next()
		if !ok {
			break
		}
		use.read(len(entry.Key), entry.Value)
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
	value   []byte // a copy of the store's, which is its own only until it moves
}

func (m *merge) start() {
	if m.reverse {
		m.valid = m.it.Last()
	} else {
		m.valid = m.it.First()
	}
	m.skipHidden()
}

func (m *merge) step() {
	if m.reverse {
		m.valid = m.it.Prev()
	} else {
		m.valid = m.it.Next()
	}
	m.skipHidden()
}

// skipHidden moves the store's side past what is deleted, range by range: a range of a million keys
// costs as much as one of a single key.
func (m *merge) skipHidden() {
	for m.valid && len(m.hidden) > 0 {
		key := string(m.it.Key())
		i := slices.IndexFunc(m.hidden, func(r rangeDelete) bool { return r.covers(key) })
		if i < 0 {
			return
		}
		switch r := &m.hidden[i]; {
		case m.reverse:
			m.valid = m.it.SeekLT(r.start)
		case r.end == nil:
			m.valid = false
		default:
			m.valid = m.it.SeekGE(r.end)
		}
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
		if m.valid {
			order := -1
			if top != nil {
				if order = strings.Compare(string(m.it.Key()), top.key); m.reverse {
					order = -order
				}
			}
			if order < 0 {
				m.value = append(m.value[:0], m.it.Value()...)
				entry := Entry{Key: string(m.it.Key()), Value: m.value}
				m.step()
				return entry, true
			}
			if order == 0 {
				m.step() // It is overwritten.
			}
		}
		entry, deleted := Entry{Key: top.key, Value: top.value}, top.deleted
		m.popOver()
		if !deleted {
			return entry, true
		}
	}
}

func checkKey(key string) error {
	if len(key) > storage.MaxKeyBytes {
		return fault.New(fault.InvalidKey, "Keys cannot be larger than %d bytes. A key of size %d was provided: %.64q…", storage.MaxKeyBytes, len(key), key)
	}
	return nil
}

func checkKeys(keys []string) error {
	if len(keys) > storage.MaxCallKeys {
		return fault.New(fault.InvalidArgument, "Maximum number of key value pairs is %d. %d pairs were provided.", storage.MaxCallKeys, len(keys))
	}
	for _, key := range keys {
		if err := checkKey(key); err != nil {
			return err
		}
	}
	return nil
}

func checkPair(key string, encoded []byte) error {
	if err := checkKey(key); err != nil {
		return err
	}
	if len(encoded) > storage.MaxValueBytes {
		return fault.New(fault.ValueTooLarge, "Values cannot be larger than %d bytes. A value of size %d was provided for key %.64q.", storage.MaxValueBytes, len(encoded), key)
	}
	return nil
}

// checkItem holds encoded values that others made to what everybody who reads them expects.
func checkItem(key string, encoded []byte) error {
	if err := value.Check(encoded); err != nil {
		return fault.New(fault.InvalidArgument, "value of key %.64q: not one CBOR item: %v", key, err)
	}
	return nil
}
