// Package storagetest has a model of a disk with pebble on it, and the tests that pebble and the
// model both pass: so what holds on the model holds on the disk.
package storagetest

import (
	"bytes"
	"fmt"
	"io"
	"slices"

	"github.com/cockroachdb/pebble/v2"

	"github.com/holdfast-io/holdfast/storage"
)

// Op is a write that a Disk is about to make, or has made.
type Op string

// The operations. Crashing before or after any of them is what a node must survive.
const (
	OpCommit  Op = "commit"  // of a batch that is not synced
	OpBegin   Op = "begin"   // a batch can be read, and is not durable
	OpSync    Op = "sync"    // it becomes durable, with all before it
	OpAdd     Op = "add"     // to a replacement
	OpReplace Op = "replace" // a replacement takes effect
)

// Disk is a model of a disk with pebble's contract: keys are ordered and batches whole; a power cut
// keeps everything that was synced and some prefix of the batches that were not; a replacement takes
// effect at once and is durable then; snapshots and iterators see one moment. It is not safe for
// concurrent use.
type Disk struct {
	// Before and After, if set, hear of every write. Before may refuse it (a full disk); both may
	// panic (a crash).
	Before func(Op) error
	After  func(Op)

	visible, durable *tree
	unsynced         []unsynced
	opens            int
}

// unsynced is a batch that a power cut may lose, and the store behind it.
type unsynced struct {
	repr  []byte
	state *tree
}

// Unsynced returns how many batches a power cut could lose.
func (d *Disk) Unsynced() int { return len(d.unsynced) }

// Crash is a power cut: of the batches that were not synced the first keep remain. Stores that were
// open must not be used any more.
func (d *Disk) Crash(keep int) {
	if keep > 0 {
		d.durable = d.unsynced[keep-1].state
	}
	d.visible, d.unsynced = d.durable, nil
	d.opens++
}

// Durable returns the value that a power cut now would leave of a key, in the worst case.
func (d *Disk) Durable(key []byte) ([]byte, bool) { return find(d.durable, key) }

// Visible returns the value of a key.
func (d *Disk) Visible(key []byte) ([]byte, bool) { return find(d.visible, key) }

// Walk visits the visible pairs in [lo, hi) until fn returns false.
func (d *Disk) Walk(lo, hi []byte, fn func(key, value []byte) bool) {
	walk(d.visible, lo, hi, fn)
}

func walk(t *tree, lo, hi []byte, fn func(key, value []byte) bool) bool {
	if t == nil {
		return true
	}
	low, high := bytes.Compare(t.key, lo) >= 0, bytes.Compare(t.key, hi) < 0
	if low && !walk(t.left, lo, hi, fn) || low && high && !fn(t.key, t.value) {
		return false
	}
	return !high || walk(t.right, lo, hi, fn)
}

func find(t *tree, key []byte) ([]byte, bool) {
	n, ok := t.get(key)
	if !ok {
		return nil, false
	}
	return n.value, true
}

// Open opens the store on the disk.
func (d *Disk) Open() (*storage.Store, error) {
	d.opens++
	return storage.OpenOn(&engine{disk: d, number: d.opens})
}

func (d *Disk) before(op Op) error {
	if d.Before == nil {
		return nil
	}
	return d.Before(op)
}

func (d *Disk) after(op Op) {
	if d.After != nil {
		d.After(op)
	}
}

// apply makes a batch visible.
func (d *Disk) apply(b *pebble.Batch) {
	repr := slices.Clone(b.Repr())
	d.visible = applied(d.visible, repr)
	d.unsynced = append(d.unsynced, unsynced{repr, d.visible})
}

// sync makes everything durable.
func (d *Disk) sync() { d.durable, d.unsynced = d.visible, nil }

// each visits the operations of an encoded batch.
func each(repr []byte, visit func(kind pebble.InternalKeyKind, key, value []byte)) {
	var b pebble.Batch
	if err := b.SetRepr(repr); err != nil {
		panic(fmt.Sprintf("storagetest: batch: %v", err))
	}
	for r := b.Reader(); ; {
		kind, key, value, ok, err := r.Next()
		if err != nil {
			panic(fmt.Sprintf("storagetest: batch: %v", err))
		}
		if !ok {
			return
		}
		visit(kind, key, value)
	}
}

// applied returns the tree with a batch applied. Keys and values share memory with the batch.
func applied(t *tree, repr []byte) *tree {
	each(repr, func(kind pebble.InternalKeyKind, key, value []byte) {
		switch kind {
		case pebble.InternalKeyKindSet:
			t = t.set(key, value)
		case pebble.InternalKeyKindDelete:
			t = t.without(key)
		case pebble.InternalKeyKindRangeDelete:
			t = t.withoutRange(key, value)
		default:
			panic(fmt.Sprintf("storagetest: the model knows no operation %s", kind))
		}
	})
	return t
}

// touches says whether a batch has anything to do with [lo, hi).
func touches(repr, lo, hi []byte) bool {
	found := false
	each(repr, func(kind pebble.InternalKeyKind, key, value []byte) {
		if kind == pebble.InternalKeyKindRangeDelete {
			found = found || bytes.Compare(key, hi) < 0 && bytes.Compare(value, lo) > 0
			return
		}
		found = found || bytes.Compare(key, lo) >= 0 && bytes.Compare(key, hi) < 0
	})
	return found
}

// replace puts pairs in the place of everything in [lo, hi). Pebble makes durable first what
// overlaps, and all that was written before it; what it then takes in is durable before batches
// that do not overlap are.
func (d *Disk) replace(lo, hi []byte, pairs []pair) {
	synced := 0
	for i, u := range d.unsynced {
		if touches(u.repr, lo, hi) {
			synced = i + 1
			d.durable = u.state
		}
	}
	d.unsynced = d.unsynced[synced:]
	d.durable = replaced(d.durable, lo, hi, pairs)
	state := d.durable
	for i := range d.unsynced {
		state = applied(state, d.unsynced[i].repr)
		d.unsynced[i].state = state
	}
	d.visible = state
}

func replaced(t *tree, lo, hi []byte, pairs []pair) *tree {
	t = t.withoutRange(lo, hi)
	for _, p := range pairs {
		t = t.set(p.key, p.value)
	}
	return t
}

// view implements storage.EngineReader on one moment.
type view struct{ root *tree }

// Get implements storage.EngineReader.
func (v view) Get(key []byte) ([]byte, io.Closer, error) {
	value, ok := find(v.root, key)
	if !ok {
		return nil, nil, pebble.ErrNotFound
	}
	return value, nothing{}, nil
}

// Iter implements storage.EngineReader.
func (v view) Iter(lo, hi []byte) (storage.Cursor, error) {
	return &cursor{root: v.root, lo: slices.Clone(lo), hi: slices.Clone(hi)}, nil
}

// Close implements storage.EngineSnapshot.
func (view) Close() error { return nil }

type nothing struct{}

// Close implements io.Closer.
func (nothing) Close() error { return nil }

// engine implements storage.Engine: one opening of a Disk.
type engine struct {
	disk   *Disk
	number int
}

// use panics when the power was cut since the store was opened: such a store is of the past.
func (e *engine) use() *Disk {
	if e.number != e.disk.opens {
		panic("storagetest: a store is used after its disk lost power")
	}
	return e.disk
}

// Get implements storage.EngineReader.
func (e *engine) Get(key []byte) ([]byte, io.Closer, error) { return view{e.use().visible}.Get(key) }

// Iter implements storage.EngineReader.
func (e *engine) Iter(lo, hi []byte) (storage.Cursor, error) {
	return view{e.use().visible}.Iter(lo, hi)
}

// NewBatch implements storage.Engine.
func (*engine) NewBatch() *pebble.Batch { return new(pebble.Batch) }

// Commit implements storage.Engine.
func (e *engine) Commit(b *pebble.Batch, sync bool) error {
	if b.Empty() {
		return nil // And nothing is synced.
	}
	if sync {
		if err := e.Begin(b); err != nil {
			return err
		}
		return e.Sync(b)
	}
	d := e.use()
	if err := d.before(OpCommit); err != nil {
		return err
	}
	d.apply(b)
	d.after(OpCommit)
	return nil
}

// Begin implements storage.Engine.
func (e *engine) Begin(b *pebble.Batch) error {
	d := e.use()
	if err := d.before(OpBegin); err != nil {
		return err
	}
	d.apply(b)
	d.after(OpBegin)
	return nil
}

// Sync implements storage.Engine.
func (e *engine) Sync(*pebble.Batch) error {
	d := e.use()
	if err := d.before(OpSync); err != nil {
		return err
	}
	d.sync()
	d.after(OpSync)
	return nil
}

// Snapshot implements storage.Engine.
func (e *engine) Snapshot() storage.EngineSnapshot { return view{e.use().visible} }

// Replace implements storage.Engine.
func (e *engine) Replace(lo, hi []byte) storage.Replacement {
	return &replacement{engine: e, lo: slices.Clone(lo), hi: slices.Clone(hi)}
}

// Close implements storage.Engine.
func (e *engine) Close() error {
	e.use().sync()
	return nil
}

type pair struct{ key, value []byte }

// replacement implements storage.Replacement.
type replacement struct {
	engine *engine
	lo, hi []byte
	pairs  []pair
}

// Add implements storage.Replacement.
func (r *replacement) Add(key, value []byte) error {
	d := r.engine.use()
	if err := d.before(OpAdd); err != nil {
		return err
	}
	if n := len(r.pairs); n > 0 && bytes.Compare(r.pairs[n-1].key, key) >= 0 {
		return fmt.Errorf("key %x is not after %x", key, r.pairs[n-1].key)
	}
	if bytes.Compare(key, r.lo) < 0 || bytes.Compare(key, r.hi) >= 0 {
		return fmt.Errorf("key %x is not in what is replaced", key)
	}
	r.pairs = append(r.pairs, pair{slices.Clone(key), slices.Clone(value)})
	d.after(OpAdd)
	return nil
}

// Cut implements storage.Replacement.
func (*replacement) Cut() error { return nil }

// Parts implements storage.Replacement. This disk leaves none.
func (*replacement) Parts() []storage.Part { return nil }

// Keep implements storage.Replacement.
func (*replacement) Keep(part int) error { return fmt.Errorf("there is no part %d", part) }

// Suspend implements storage.Replacement.
func (r *replacement) Suspend() error { return r.Abort() }

// Finish implements storage.Replacement.
func (r *replacement) Finish() error {
	d := r.engine.use()
	if err := d.before(OpReplace); err != nil {
		return err
	}
	d.replace(r.lo, r.hi, r.pairs)
	d.after(OpReplace)
	return nil
}

// Abort implements storage.Replacement.
func (r *replacement) Abort() error {
	r.engine.use()
	return nil
}
