package actor

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-io/holdfast/fault"
	"github.com/holdfast-io/holdfast/storage"
)

// plain is a writeSet over its store as simply as can be said: a map, and what was written over it.
type plain struct {
	store    map[string]string // what the store shows
	shown    uint64            // up to this segment
	segments [][]storage.Op    // by sequence number, from 1
	open     []storage.Op
	held     []bool // of open: which hold the output gate
}

func apply(m map[string]string, ops []storage.Op) {
	for i := range ops {
		op := &ops[i]
		switch op.Op {
		case storage.OpSet:
			m[string(op.Key)] = string(op.Value)
		case storage.OpDelete:
			delete(m, string(op.Key))
		case storage.OpDeleteRange:
			maps.DeleteFunc(m, func(key, _ string) bool { return within(key, op.Key, op.End) })
		case storage.OpPatch:
			panic("objects write no patches")
		}
	}
}

func within(key string, lo, hi []byte) bool {
	return key >= string(lo) && (hi == nil || key < string(hi))
}

// now is what the object sees.
func (p *plain) now() map[string]string {
	out := maps.Clone(p.store)
	for _, ops := range p.segments[p.shown:] {
		apply(out, ops)
	}
	apply(out, p.open)
	return out
}

// pair plays a writeSet and its model side by side.
type pair struct {
	t        *testing.T
	rng      *rand.Rand
	w        writeSet
	p        plain
	readable uint64
	marks    []mark
	late     []cleanKey // read from the store, and not yet remembered
	lateAt   []uint64   // the version they were read at
	hits     int        // reads that the clean keys answered
}

// Few keys, so that they meet; the empty one and those at the edges of prefixes among them.
var someKeys = []string{"", "\x00", "a", "a\x00", "a\xff", "aa", "ab", "b", "b\xff\xff", "ba", "c", "\xff", "\xff\xff"}

func (q *pair) key() string { return someKeys[q.rng.IntN(len(someKeys))] }

// bounds are mostly a range of keys, sometimes an empty one or one the wrong way round.
func (q *pair) bounds() (lo, hi []byte) {
	lo = []byte(q.key())
	if q.rng.IntN(3) > 0 {
		hi = []byte(q.key())
	}
	return lo, hi
}

func (q *pair) step() string {
	switch n := q.rng.IntN(100); {
	case n < 30:
		value := fmt.Sprintf("%d", q.rng.IntN(1000)) + strings.Repeat("x", []int{0, 0, 10, 200, 600}[q.rng.IntN(5)])
		return q.add(storage.Op{Op: storage.OpSet, Kind: storage.KindKV, Key: []byte(q.key()), Value: []byte(value)})
	case n < 40:
		return q.add(storage.Op{Op: storage.OpDelete, Kind: storage.KindKV, Key: []byte(q.key())})
	case n < 44:
		lo, hi := q.bounds()
		if hi != nil && len(hi) == 0 {
			hi = nil // To storage an empty end is the end of all keys.
		}
		return q.add(storage.Op{Op: storage.OpDeleteRange, Kind: storage.KindKV, Key: lo, End: hi})
	case n < 56:
		return q.close()
	case n < 64:
		return q.show()
	case n < 72:
		return q.read()
	case n < 75:
		q.w.discardOpen()
		q.p.open, q.p.held, q.marks = nil, nil, nil
		return "discardOpen"
	case n < 79:
		q.marks = append(q.marks, q.w.mark())
		return "mark"
	case n < 83:
		return q.endMark()
	case n < 93:
		return q.get()
	default:
		return q.remember()
	}
}

func (q *pair) add(op storage.Op) string {
	confirmed := q.rng.IntN(2) == 0
	if err := q.w.add(op, confirmed); err != nil {
		q.t.Errorf("add: %v", err)
	}
	q.p.open, q.p.held = append(q.p.open, op), append(q.p.held, confirmed)
	return fmt.Sprintf("add %d %q %q %.8q", op.Op, op.Key, op.End, op.Value)
}

func (q *pair) close() string {
	seq := uint64(len(q.p.segments)) + 1
	if got := q.w.closeSegment(seq, 0); !slices.EqualFunc(q.p.open, got, equalOps) {
		q.t.Errorf("operations to propose (-want +got):\n%s", cmp.Diff(q.p.open, got))
	}
	q.p.segments = append(q.p.segments, q.p.open)
	q.p.open, q.p.held, q.marks = nil, nil, nil
	return fmt.Sprintf("closeSegment %d", seq)
}

func equalOps(a, b storage.Op) bool {
	return a.Op == b.Op && a.Kind == b.Kind && bytes.Equal(a.Key, b.Key) && bytes.Equal(a.End, b.End) && bytes.Equal(a.Value, b.Value)
}

// show has the store show some segments, which the writeSet is told later.
func (q *pair) show() string {
	to := q.p.shown + uint64(q.rng.IntN(4))
	for q.p.shown < min(to, uint64(len(q.p.segments))) {
		apply(q.p.store, q.p.segments[q.p.shown])
		q.p.shown++
	}
	return fmt.Sprintf("the store shows segment %d", q.p.shown)
}

func (q *pair) read() string {
	q.readable += min(uint64(q.rng.IntN(4)), q.p.shown-q.readable)
	q.w.readable(q.readable)
	return fmt.Sprintf("readable %d", q.readable)
}

// endMark ends one of the marks, and those within it, one way or the other.
func (q *pair) endMark() string {
	if len(q.marks) == 0 {
		return ""
	}
	i := q.rng.IntN(len(q.marks))
	m := q.marks[i]
	q.marks = q.marks[:i]
	if q.rng.IntN(3) == 0 {
		q.w.keep(m)
		return fmt.Sprintf("keep %v", m)
	}
	q.w.rollbackTo(m)
	q.p.open, q.p.held = q.p.open[:m.ops:m.ops], q.p.held[:m.ops]
	return fmt.Sprintf("rollbackTo %v", m)
}

// get reads as an object does, from the store where the writeSet does not know; what the store
// said is remembered then or, as when the object's own goroutines race, at some later time.
func (q *pair) get() string {
	key := q.key()
	if _, _, known := q.w.get(key); !known {
		value, exists := q.p.store[key]
		q.late = append(q.late, cleanKey{key, []byte(value), exists})
		q.lateAt = append(q.lateAt, q.w.version)
		if q.rng.IntN(3) > 0 {
			q.remember()
		}
	}
	return fmt.Sprintf("get %q", key)
}

func (q *pair) remember() string {
	if len(q.late) == 0 {
		return ""
	}
	c, version := q.late[0], q.lateAt[0]
	q.late, q.lateAt = q.late[1:], q.lateAt[1:]
	q.w.remember(c.key, c.value, c.exists, version)
	return fmt.Sprintf("remember %q of version %d", c.key, version)
}

func (q *pair) check() {
	q.t.Helper()
	want := q.p.now()
	for _, key := range someKeys {
		wantValue, wantExists := want[key]
		value, exists, known := q.w.get(key)
		if !known {
			var v string
			v, exists = q.p.store[key]
			value = []byte(v)
		} else if slices.ContainsFunc(q.w.clean, func(c cleanKey) bool { return c.key == key }) {
			q.hits++
		}
		if exists != wantExists || exists && string(value) != wantValue {
			q.t.Errorf("get %q: got %.20q, %v (known: %v), want %.20q, %v", key, value, exists, known, wantValue, wantExists)
		}
	}
	lo, hi := q.bounds()
	maps.DeleteFunc(want, func(key, _ string) bool { return !within(key, lo, hi) })
	if got := q.view(lo, hi); !maps.Equal(want, got) {
		q.t.Errorf("view of [%q, %q) (-want +got):\n%s", lo, hi, cmp.Diff(want, got))
	}
	q.checkBytes()
}

// view is what a walk makes of the writeSet's view and the store.
func (q *pair) view(lo, hi []byte) map[string]string {
	over, hidden := q.w.view(lo, hi)
	got := maps.Clone(q.p.store)
	maps.DeleteFunc(got, func(key, _ string) bool {
		return !within(key, lo, hi) || slices.ContainsFunc(hidden, func(r rangeDelete) bool { return r.covers(key) })
	})
	for i, o := range over {
		if !within(o.key, lo, hi) || i > 0 && over[i-1].key >= o.key {
			q.t.Errorf("view of [%q, %q): key %q is out of range or order", lo, hi, o.key)
		}
		if o.deleted {
			delete(got, o.key)
		} else {
			got[o.key] = string(o.value)
		}
	}
	return got
}

func (q *pair) checkBytes() {
	want := 0
	for _, ops := range append(slices.Clone(q.p.segments[q.readable:]), q.p.open) {
		for i := range ops {
			want += len(ops[i].Key) + len(ops[i].Value) + len(ops[i].End) + 16
		}
	}
	if got := q.w.bytes(); got != want {
		q.t.Errorf("holds %d bytes, want %d", got, want)
	}
	held := 0
	for _, confirmed := range q.p.held {
		if confirmed {
			held++
		}
	}
	if held != q.w.openConfirmed {
		q.t.Errorf("%d writes hold the gate, and it counts %d", held, q.w.openConfirmed)
	}
	if len(q.marks) == 0 && (q.w.depth != 0 || q.w.undo != nil) {
		q.t.Errorf("without a mark it is at depth %d, and keeps %d points to return to", q.w.depth, len(q.w.undo))
	}
	clean := 0
	for _, c := range q.w.clean {
		clean += len(c.key) + len(c.value)
	}
	if clean != q.w.cleanBytes || clean > cleanBytesMax || len(q.w.clean) > cleanKeysMax {
		q.t.Errorf("remembers %d keys of %d bytes, and counts %d", len(q.w.clean), clean, q.w.cleanBytes)
	}
}

func TestWriteSetReadsAsAPlainMap(t *testing.T) {
	t.Parallel()
	hits := 0
	for seed := range uint64(200) {
		q := &pair{t: t, rng: rand.New(rand.NewPCG(seed, 0)), p: plain{store: make(map[string]string)}}
		for i := range q.rng.IntN(2) * len(someKeys) {
			q.p.store[someKeys[i]] = "stored before"
		}
		var done []string
		for range 300 {
			done = append(done, q.step())
			q.check()
			if t.Failed() {
				t.Fatalf("seed %d, after:\n%s", seed, strings.Join(done, "\n"))
			}
		}
		hits += q.hits
	}
	if hits == 0 {
		t.Error("no read was answered from memory")
	}
}

func set(key, value string) storage.Op {
	return storage.Op{Op: storage.OpSet, Kind: storage.KindKV, Key: []byte(key), Value: []byte(value)}
}

// A walk goes on over what it saw when it began.
func TestViewDoesNotChangeWithLaterWrites(t *testing.T) {
	t.Parallel()
	var w writeSet
	add := func(ops ...storage.Op) {
		for _, op := range ops {
			if err := w.add(op, true); err != nil {
				t.Fatal(err)
			}
		}
	}
	add(storage.Op{Op: storage.OpDeleteRange, Key: []byte("x"), End: []byte("y")}, set("a", "1"))
	w.closeSegment(1, 0)
	add(storage.Op{Op: storage.OpDeleteRange, Key: []byte("p"), End: []byte("q")}, set("b", "1"))
	over, hidden := w.view(nil, nil)
	copied := func() string { return fmt.Sprint(over, hidden) }
	before := copied()
	add(set("a", "2"), set("b", "2"), set("c", "2"), storage.Op{Op: storage.OpDeleteRange, Key: []byte{}})
	w.closeSegment(2, 0)
	add(storage.Op{Op: storage.OpDeleteRange, Key: []byte("r"), End: []byte("s")})
	w.readable(2)
	if diff := cmp.Diff(before, copied()); diff != "" {
		t.Error(diff)
	}
}

func TestWriteSetTooLargeIsRefusedAndLeftAsItWas(t *testing.T) {
	t.Parallel()
	t.Run("writes", func(t *testing.T) {
		t.Parallel()
		var w writeSet
		for i := range storage.MaxSegmentWrites - 1 {
			if err := w.add(set(fmt.Sprint(i%7), "v"), true); err != nil {
				t.Fatalf("write %d: %v", i+1, err)
			}
		}
		checkFullAfterOneMore(t, &w, set("last", "v"))
	})
	t.Run("bytes", func(t *testing.T) {
		t.Parallel()
		var w writeSet
		value := strings.Repeat("v", storage.MaxValueBytes)
		for i := range storage.MaxSegmentBytes/storage.MaxValueBytes - 1 {
			if err := w.add(set("k", value), true); err != nil {
				t.Fatalf("write %d: %v", i+1, err)
			}
		}
		room := storage.MaxSegmentBytes - w.openBytes
		checkFullAfterOneMore(t, &w, set("last", value[:room-len("last")-16]))
	})
}

// checkFullAfterOneMore adds what fits exactly, and then what does not.
func checkFullAfterOneMore(t *testing.T, w *writeSet, last storage.Op) {
	t.Helper()
	mark := w.mark()
	if err := w.add(last, true); err != nil {
		t.Fatalf("the last that fits: %v", err)
	}
	ops, size := len(w.ops), w.bytes()
	over := set("over", "v")
	if err := w.add(over, true); fault.ReasonOf(err) != fault.WriteSetTooLarge {
		t.Errorf("over the limit: %v", err)
	}
	if _, _, known := w.get("over"); known || len(w.ops) != ops || w.bytes() != size {
		t.Errorf("a refused write left its trace: known %v, %d writes of %d bytes, want %d of %d", known, len(w.ops), w.bytes(), ops, size)
	}
	w.rollbackTo(mark)
	if err := w.add(last, true); err != nil {
		t.Errorf("what was rolled back made no room: %v", err)
	}
	w.closeSegment(1, 0)
	if err := w.add(over, true); err != nil {
		t.Errorf("the next segment has no room: %v", err)
	}
}

func TestCleanKeysAreFewAndSmall(t *testing.T) {
	t.Parallel()
	var w writeSet
	known := func(key string) bool {
		_, _, known := w.get(key)
		return known
	}
	for i := range cleanKeysMax + 1 {
		w.remember(fmt.Sprint(i), nil, false, w.version)
	}
	if known("0") || !known("1") || !known(fmt.Sprint(cleanKeysMax)) {
		t.Errorf("keeps %v, want all but the one that was noted first", w.clean)
	}
	large := bytes.Repeat([]byte("v"), cleanBytesMax-1)
	w.remember("k", large, true, w.version)
	if len(w.clean) != 1 || !known("k") {
		t.Errorf("keeps %d keys beside one that takes all the room", len(w.clean)-1)
	}
	w.remember("k", append(large, 'v'), true, w.version)
	if known("k") {
		t.Error("keeps what is too large, or its value of before")
	}
	w.remember("k", nil, true, w.version+1)
	if known("k") {
		t.Error("remembers what another version of the store showed")
	}
}

func TestPrefixEnd(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ prefix, want string }{
		{"a", "b"}, {"ab", "ac"}, {"a\xff", "b"}, {"a\xff\xff", "b"}, {"\x00", "\x01"}, {"\xfe\xff", "\xff"},
	} {
		prefix := []byte(tc.prefix)
		if got := string(prefixEnd(prefix)); got != tc.want {
			t.Errorf("%q: got %q, want %q", tc.prefix, got, tc.want)
		}
		if string(prefix) != tc.prefix {
			t.Errorf("%q was changed to %q", tc.prefix, prefix)
		}
	}
	for _, prefix := range []string{"", "\xff", "\xff\xff"} {
		if got := prefixEnd([]byte(prefix)); got != nil {
			t.Errorf("%q: got %q, want no end", prefix, got)
		}
	}
}
