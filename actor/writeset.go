package actor

import (
	"bytes"
	"cmp"
	"slices"

	"github.com/holdfast-io/holdfast/fault"
	"github.com/holdfast-io/holdfast/storage"
)

// layer is what has been written over what lies below it.
type layer struct {
	points []point // each key once, in no order
	// index says where in points a key is, once there are more than scanned.
	index  map[string]int
	ranges []rangeDelete
}

// scanned is how many points are looked through one by one: most events write a key or two, and a
// map would cost them more than all else that they do.
const scanned = 8

type point struct {
	key     []byte
	value   []byte
	deleted bool
	seq     uint64 // the segment that wrote it; 0 in the open segment
}

// rangeDelete covers [start, end); a nil end is the end of all keys.
type rangeDelete struct {
	start, end []byte
	seq        uint64
}

func (r *rangeDelete) covers(key string) bool {
	return key >= string(r.start) && (r.end == nil || key < string(r.end))
}

// write puts one operation on KV keys into the layer, which keeps its key and value. replaced, if it
// is not nil, is called with each point that is replaced or removed.
func (l *layer) write(op *storage.Op, seq uint64, replaced func(point)) {
	switch op.Op {
	case storage.OpSet:
		l.put(point{key: op.Key, value: op.Value, seq: seq}, replaced)
	case storage.OpDelete:
		l.put(point{key: op.Key, deleted: true, seq: seq}, replaced)
	case storage.OpDeleteRange:
		r := rangeDelete{start: op.Key, end: op.End, seq: seq}
		for i, p := range slices.Backward(l.points) { // What takes the place of one has been looked at.
			if !r.covers(string(p.key)) {
				continue
			}
			if replaced != nil {
				replaced(p)
			}
			l.remove(i)
		}
		l.ranges = append(l.ranges, r)
	case storage.OpPatch:
		panic("actor: patches are not written by objects")
	}
}

// find returns where in points the key is, or -1.
func (l *layer) find(key []byte) int {
	if l.index != nil {
		if i, ok := l.index[string(key)]; ok {
			return i
		}
		return -1
	}
	for i := range l.points {
		if bytes.Equal(l.points[i].key, key) {
			return i
		}
	}
	return -1
}

func (l *layer) put(p point, replaced func(point)) {
	if i := l.find(p.key); i >= 0 {
		if replaced != nil {
			replaced(l.points[i])
		}
		l.points[i] = p
		return
	}
	l.points = append(l.points, p)
	switch {
	case l.index != nil:
		l.index[string(p.key)] = len(l.points) - 1
	case len(l.points) > scanned:
		l.index = make(map[string]int, 2*len(l.points))
		for i := range l.points {
			l.index[string(l.points[i].key)] = i
		}
	}
}

// remove takes the point at i out; the last one takes its place.
func (l *layer) remove(i int) {
	last := len(l.points) - 1
	if l.index != nil {
		delete(l.index, string(l.points[i].key))
		if i != last {
			l.index[string(l.points[last].key)] = i
		}
	}
	l.points[i] = l.points[last]
	l.points[last] = point{}
	l.points = l.points[:last]
}

// empty says that nothing was written.
func (l *layer) empty() bool { return len(l.points) == 0 && len(l.ranges) == 0 }

// get returns the layer's word on a key; known is false when it has none.
func (l *layer) get(key string) (value []byte, exists, known bool) {
	if l.empty() {
		return nil, false, false
	}
	if i := l.find([]byte(key)); i >= 0 {
		return l.points[i].value, !l.points[i].deleted, true
	}
	return nil, false, l.covers(key)
}

func (l *layer) covers(key string) bool {
	return slices.ContainsFunc(l.ranges, func(r rangeDelete) bool { return r.covers(key) })
}

// writeSet is what an object has written and the store does not show yet: the open segment over
// the segments in flight. Reads look through it, newest first, down to the store.
type writeSet struct {
	open          layer
	singles       []single     // of the open segment: alarmState has what closed ones wrote
	ops           []storage.Op // of the open segment, in order
	openBytes     int
	openConfirmed int // how many of the operations hold the output gate
	// depth is how many marks are open. While there are any, undo has what each operation since the
	// first has replaced, for rollbackTo.
	depth int
	undo  []undo

	inFlight      layer
	segments      []segmentOps // in flight, in order
	inFlightBytes int

	// clean is what the store shows, of the keys used last, so that small objects read it once.
	clean      []cleanKey
	cleanBytes int
	version    uint64 // changes when the store does
}

// single is what has been written to the one key of a kind that is not KV.
type single struct {
	kind    storage.KeyKind
	value   []byte
	deleted bool
	at      int // which operation of the segment wrote it
}

// cleanKey is a key as the store shows it.
type cleanKey struct {
	key    string
	value  []byte
	exists bool
}

// Bounds of what an object remembers of its store.
const (
	cleanKeysMax  = 8
	cleanBytesMax = 512
)

type segmentOps struct {
	seq   uint64
	ops   []storage.Op
	bytes int
	due   int64 // of the alarm that it sets; 0: none
}

// undo is a point that an operation of the open segment has replaced.
type undo struct {
	op int // its index
	point
}

func opBytes(op *storage.Op) int { return len(op.Key) + len(op.Value) + len(op.End) + 16 }

// add writes into the open segment. It refuses what would make the segment too large, and leaves
// it as it was.
func (w *writeSet) add(op storage.Op, confirmed bool) error {
	size := opBytes(&op)
	if len(w.ops) >= storage.MaxSegmentWrites {
		return fault.New(fault.WriteSetTooLarge, "writes of one event: at most %d", storage.MaxSegmentWrites)
	}
	if w.openBytes+size > storage.MaxSegmentBytes {
		return fault.New(fault.WriteSetTooLarge, "writes of one event: at most %d bytes, these would be %d", storage.MaxSegmentBytes, w.openBytes+size)
	}
	w.push(op, confirmed)
	return nil
}

// push writes into the open segment, also what would make it too large.
func (w *writeSet) push(op storage.Op, confirmed bool) {
	w.ops = append(w.ops, op)
	w.openBytes += opBytes(&op)
	if confirmed {
		w.openConfirmed++
	}
	last := len(w.ops) - 1
	if op.Kind != storage.KindKV {
		w.setSingle(last)
		return
	}
	var replaced func(point)
	if w.depth > 0 {
		replaced = func(p point) { w.undo = append(w.undo, undo{last, p}) }
	}
	w.open.write(&w.ops[last], 0, replaced)
}

// setSingle notes what an operation writes to the one key of its kind.
func (w *writeSet) setSingle(at int) {
	op := &w.ops[at]
	w.singles = slices.DeleteFunc(w.singles, func(s single) bool { return s.kind == op.Kind })
	w.singles = append(w.singles, single{kind: op.Kind, value: op.Value, deleted: op.Op == storage.OpDelete, at: at})
}

// single returns the open segment's word on the one key of a kind; known is false when it has none.
func (w *writeSet) single(kind storage.KeyKind) (value []byte, exists, known bool) {
	for i := range w.singles {
		if s := &w.singles[i]; s.kind == kind {
			return s.value, !s.deleted, true
		}
	}
	return nil, false, false
}

// singleAt returns which operation wrote it last.
func (w *writeSet) singleAt(kind storage.KeyKind) (at int, ok bool) {
	for i := range w.singles {
		if s := &w.singles[i]; s.kind == kind {
			return s.at, true
		}
	}
	return 0, false
}

// addAll adds all of the operations, or none.
func (w *writeSet) addAll(ops []storage.Op, confirmed bool) error {
	if len(ops) == 1 {
		return w.add(ops[0], confirmed)
	}
	m := w.mark()
	for i := range ops {
		if err := w.add(ops[i], confirmed); err != nil {
			w.rollbackTo(m)
			return err
		}
	}
	w.keep(m)
	return nil
}

// mark is a moment of the open segment. It is open until rollbackTo or keep ends it, or one that was
// made before it.
type mark struct{ depth, ops, bytes, confirmed int }

// mark names this moment of the open segment for rollbackTo.
func (w *writeSet) mark() mark {
	w.depth++
	return mark{w.depth - 1, len(w.ops), w.openBytes, w.openConfirmed}
}

// keep ends a mark, and those made after it, and leaves what was written since.
func (w *writeSet) keep(to mark) {
	if w.depth = to.depth; w.depth == 0 {
		w.undo = nil
	}
}

// rollbackTo takes back everything written in the open segment since the mark, and ends it and
// those made after it. It costs as much as what it takes back did.
func (w *writeSet) rollbackTo(to mark) {
	for i := len(w.ops) - 1; i >= to.ops; i-- {
		op := &w.ops[i]
		if op.Kind != storage.KindKV {
			continue
		}
		if op.Op == storage.OpDeleteRange {
			w.open.ranges = w.open.ranges[:len(w.open.ranges)-1]
		} else if at := w.open.find(op.Key); at >= 0 {
			w.open.remove(at)
		}
		for n := len(w.undo) - 1; n >= 0 && w.undo[n].op == i; n-- {
			w.open.put(w.undo[n].point, nil)
			w.undo = w.undo[:n]
		}
	}
	clear(w.ops[to.ops:])
	w.ops, w.openBytes, w.openConfirmed = w.ops[:to.ops], to.bytes, to.confirmed
	w.keep(to)
	if len(w.singles) > 0 {
		w.singles = nil
		for i := range w.ops {
			if w.ops[i].Kind != storage.KindKV {
				w.setSingle(i)
			}
		}
	}
}

// discardOpen takes back the whole open segment.
func (w *writeSet) discardOpen() {
	w.open, w.singles, w.ops, w.openBytes, w.openConfirmed = layer{}, nil, nil, 0, 0
	w.depth, w.undo = 0, nil
}

// wrote says what the open segment has written, as it was added.
func (w *writeSet) wrote() writes {
	switch {
	case len(w.ops) == 0:
		return noWrites
	case w.openConfirmed == 0:
		return unconfirmedWrites
	}
	return confirmedWrites
}

// closeSegment moves the open segment in flight and returns its operations. due is of the alarm that
// it sets, if it does.
func (w *writeSet) closeSegment(seq uint64, due int64) []storage.Op {
	ops := w.ops
	if w.inFlight.empty() {
		w.inFlight = w.open
		for i := range w.inFlight.points {
			w.inFlight.points[i].seq = seq
		}
		for i := range w.inFlight.ranges {
			w.inFlight.ranges[i].seq = seq
		}
	} else {
		for i := range ops {
			if ops[i].Kind == storage.KindKV {
				w.inFlight.write(&ops[i], seq, nil)
			}
		}
	}
	w.segments = append(w.segments, segmentOps{seq: seq, ops: ops, bytes: w.openBytes, due: due})
	w.inFlightBytes += w.openBytes
	w.discardOpen()
	return ops
}

// charge adds to what the segment closed last counts as.
func (w *writeSet) charge(bytes int) {
	w.segments[len(w.segments)-1].bytes += bytes
	w.inFlightBytes += bytes
}

// readable forgets the segments up to seq, which the store shows now. It returns the time of the
// alarm that the last of them to set one has set, or 0.
func (w *writeSet) readable(seq uint64) (due int64) {
	n := 0
	for ; n < len(w.segments) && w.segments[n].seq <= seq; n++ {
		s := &w.segments[n]
		if s.due != 0 {
			due = s.due
		}
		w.inFlightBytes -= s.bytes
		w.version++
		for i := range s.ops {
			op := &s.ops[i]
			if op.Kind != storage.KindKV {
				continue
			}
			if i := w.inFlight.find(op.Key); i >= 0 && w.inFlight.points[i].seq <= seq {
				w.inFlight.remove(i)
			}
			switch op.Op {
			case storage.OpSet:
				w.remember(string(op.Key), op.Value, true, w.version)
			case storage.OpDelete:
				w.remember(string(op.Key), nil, false, w.version)
			case storage.OpDeleteRange, storage.OpPatch:
				w.clean, w.cleanBytes = nil, 0
			}
		}
	}
	if n == len(w.segments) {
		w.segments, w.inFlight = nil, layer{}
		return due
	}
	w.segments = slices.Delete(w.segments, 0, n)
	w.inFlight.ranges = slices.DeleteFunc(w.inFlight.ranges, func(r rangeDelete) bool { return r.seq <= seq })
	return due
}

// get looks through both layers, and at what is remembered of the store.
func (w *writeSet) get(key string) (value []byte, exists, known bool) {
	if value, exists, known = w.open.get(key); known {
		return value, exists, true
	}
	if value, exists, known = w.inFlight.get(key); known {
		return value, exists, true
	}
	for i := range w.clean {
		if c := &w.clean[i]; c.key == key {
			return c.value, c.exists, true
		}
	}
	return nil, false, false
}

// remember notes what the store showed of a key at a version; the key that was noted first goes
// when there are too many.
func (w *writeSet) remember(key string, value []byte, exists bool, version uint64) {
	if version != w.version {
		return // The store has changed since.
	}
	if i := slices.IndexFunc(w.clean, func(c cleanKey) bool { return c.key == key }); i >= 0 {
		w.forget(i)
	}
	size := len(key) + len(value)
	if size > cleanBytesMax {
		return
	}
	for len(w.clean) >= cleanKeysMax || w.cleanBytes+size > cleanBytesMax {
		w.forget(0)
	}
	w.clean = append(w.clean, cleanKey{key, value, exists})
	w.cleanBytes += size
}

func (w *writeSet) forget(i int) {
	w.cleanBytes -= len(w.clean[i].key) + len(w.clean[i].value)
	w.clean = slices.Delete(w.clean, i, i+1)
}

// overlaid is one key that the layers have a word on.
type overlaid struct {
	key     string
	value   []byte
	deleted bool
}

// view returns the layers' keys in [lo, hi), ascending; a nil hi is the end of all keys. The
// deleted ranges come beside it. What it returns does not change when the object writes on.
func (w *writeSet) view(lo, hi []byte) ([]overlaid, []rangeDelete) {
	var out []overlaid
	in := func(key string) bool { return key >= string(lo) && (hi == nil || key < string(hi)) }
	for i := range w.open.points {
		p := &w.open.points[i]
		if key := string(p.key); in(key) {
			out = append(out, overlaid{key, p.value, p.deleted})
		}
	}
	for i := range w.inFlight.points {
		p := &w.inFlight.points[i]
		key := string(p.key)
		if _, _, known := w.open.get(key); !known && in(key) {
			out = append(out, overlaid{key, p.value, p.deleted})
		}
	}
	slices.SortFunc(out, func(a, b overlaid) int { return cmp.Compare(a.key, b.key) })
	return out, slices.Concat(w.open.ranges, w.inFlight.ranges)
}

func (w *writeSet) bytes() int { return w.openBytes + w.inFlightBytes }

// prefixEnd returns the smallest key greater than all with the prefix; nil when there is none.
func prefixEnd(prefix []byte) []byte {
	end := bytes.Clone(prefix)
	for i := len(end) - 1; i >= 0; i-- {
		end[i]++
		if end[i] != 0 {
			return end[:i+1]
		}
	}
	return nil
}
