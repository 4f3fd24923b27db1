package storage

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/objstorage/objstorageprovider"
	"github.com/cockroachdb/pebble/v2/sstable"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// The names of a replacement's files: where its range begins, the boot that wrote it, and a number.
const ingestPrefix, ingestSuffix = "ingest-", ".tmp"

// ingestFileBytes is when a replacement begins its next file.
const ingestFileBytes = 16 << 20

// heldBytesMax is how much of a replacement is held in memory. One that stays within it becomes one batch,
// with one fsync, where files cost half a dozen and a flush of the memory table.
const heldBytesMax = 1 << 20

// leftoverMax is how long the files of a replacement that was suspended are kept.
const leftoverMax = time.Hour

// replacementFiles are the files of replacements, beside the store.
type replacementFiles struct {
	fs   vfs.FS
	dir  string
	boot uint64

	mu     sync.Mutex
	number int
	left   map[string]leftover // by where the range begins
}

// leftover is what a replacement that did not finish has left.
type leftover struct {
	paths []string // in the order of their keys
	since time.Time
}

// load finds what was left when the store was closed, or lost power.
func (f *replacementFiles) load() error {
	f.left = make(map[string]leftover)
	names, err := f.fs.List(f.dir)
	if err != nil {
		return fmt.Errorf("list %s: %w", f.dir, err)
	}
	slices.Sort(names)
	for _, name := range names {
		rest, ok := strings.CutPrefix(name, ingestPrefix)
		if !ok || !strings.HasSuffix(rest, ingestSuffix) {
			continue
		}
		encoded, _, _ := strings.Cut(rest, "-")
		lo, err := hex.DecodeString(encoded)
		if err != nil {
			continue
		}
		l := f.left[string(lo)]
		l.paths, l.since = append(l.paths, f.fs.PathJoin(f.dir, name)), time.Now()
		f.left[string(lo)] = l
	}
	return nil
}

// create makes the next file of a range. Names sort as they were made.
func (f *replacementFiles) create(lo []byte) (string, vfs.File, error) {
	f.mu.Lock()
	f.number++
	path := f.fs.PathJoin(f.dir, fmt.Sprintf("%s%x-%016x-%08x%s", ingestPrefix, lo, f.boot, f.number, ingestSuffix))
	f.mu.Unlock()
	file, err := f.fs.Create(path, vfs.WriteCategoryUnspecified)
	return path, file, err
}

// take returns what was left of a range, for one to go on with, and removes what is too old.
func (f *replacementFiles) take(lo []byte) []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	for key, l := range f.left {
		if time.Since(l.since) > leftoverMax {
			f.remove(l.paths)
			delete(f.left, key)
		}
	}
	l := f.left[string(lo)]
	delete(f.left, string(lo))
	return l.paths
}

// leave keeps files for the next replacement of the range, unless another has left some meanwhile.
func (f *replacementFiles) leave(lo []byte, paths []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, ok := f.left[string(lo)]; ok {
		f.remove(paths)
		return
	}
	f.left[string(lo)] = leftover{paths: paths, since: time.Now()}
}

func (f *replacementFiles) remove(paths []string) {
	for _, path := range paths {
		_ = f.fs.Remove(path)
	}
}

// pebbleReplacement implements Replacement: a batch while it is small, else files beside the store, which
// pebble takes in at once.
type pebbleReplacement struct {
	engine *pebbleEngine
	lo, hi []byte

	held      []heldPair // all that was added, until it is too much
	heldBytes int
	large     bool

	paths []string // of what was added
	w     *sstable.Writer
	bytes int
	last  []byte // added, or held

	parts []Part
	left  []string // the files of parts
}

// heldPair is a pair in memory; one without a key is the end of a Part.
type heldPair struct{ key, value []byte }

// Replace implements Engine.
func (e *pebbleEngine) Replace(lo, hi []byte) Replacement {
	r := &pebbleReplacement{engine: e, lo: lo, hi: hi}
	for _, path := range e.files.take(lo) {
		part, err := e.readPart(path)
		if err != nil || len(r.parts) > 0 && bytes.Compare(r.parts[len(r.parts)-1].Last, part.First) >= 0 {
			e.files.remove([]string{path}) // Cut off while it was written, or of another attempt.
			continue
		}
		r.parts, r.left = append(r.parts, part), append(r.left, path)
	}
	return r
}

// readPart reads a file whole, so that what the disk has damaged is not taken for what was written.
func (e *pebbleEngine) readPart(path string) (part Part, err error) {
	f, err := e.files.fs.Open(path)
	if err != nil {
		return part, err
	}
	readable, err := sstable.NewSimpleReadable(f)
	if err != nil {
		return part, errors.Join(err, f.Close())
	}
	table, err := sstable.NewReader(context.Background(), readable, sstable.ReaderOptions{Merger: merger})
	if err != nil {
		return part, errors.Join(err, readable.Close())
	}
	defer func() { err = errors.Join(err, table.Close()) }()
	it, err := table.NewIter(sstable.NoTransforms, nil, nil, sstable.AssertNoBlobHandles)
	if err != nil {
		return part, err
	}
	defer func() { err = errors.Join(err, it.Close()) }()
	sum := NewPartSum()
	for kv := it.First(); kv != nil; kv = it.Next() {
		value, _, err := kv.Value(nil)
		if err != nil {
			return part, err
		}
		if part.First == nil {
			part.First = bytes.Clone(kv.K.UserKey)
		}
		part.Last = append(part.Last[:0], kv.K.UserKey...)
		sum.Add(kv.K.UserKey, value)
	}
	if part.First == nil && it.Error() == nil {
		return part, fmt.Errorf("%s has no keys: %w", path, ErrCorrupt)
	}
	part.Sum = sum.Sum()
	return part, it.Error()
}

// Add implements Replacement.
func (r *pebbleReplacement) Add(key, value []byte) error {
	if r.last != nil && bytes.Compare(r.last, key) >= 0 {
		return fmt.Errorf("key %x is not after %x", key, r.last)
	}
	if bytes.Compare(key, r.lo) < 0 || bytes.Compare(key, r.hi) >= 0 {
		return fmt.Errorf("key %x is not in what is replaced", key)
	}
	r.last = append(r.last[:0], key...)
	if r.large {
		return r.write(key, value)
	}
	r.held = append(r.held, heldPair{bytes.Clone(key), bytes.Clone(value)})
	if r.heldBytes += len(key) + len(value); r.heldBytes <= heldBytesMax {
		return nil
	}
	return r.spill()
}

// spill writes what is held to files, and all that follows.
func (r *pebbleReplacement) spill() error {
	held := r.held
	r.held, r.large = nil, true
	for _, p := range held {
		if p.key == nil {
			if err := r.Cut(); err != nil {
				return err
			}
		} else if err := r.write(p.key, p.value); err != nil {
			return err
		}
	}
	return nil
}

// write adds a pair to the files.
func (r *pebbleReplacement) write(key, value []byte) error {
	if r.w != nil && r.bytes > ingestFileBytes {
		if err := r.Cut(); err != nil {
			return err
		}
	}
	if r.w == nil {
		path, f, err := r.engine.files.create(r.lo)
		if err != nil {
			return err
		}
		r.paths = append(r.paths, path)
		r.w = sstable.NewWriter(objstorageprovider.NewFileWritable(f), sstable.WriterOptions{TableFormat: r.engine.TableFormat(), MergerName: mergerName})
		r.bytes = 0
	}
	r.bytes += len(key) + len(value)
	return r.w.Set(key, value)
}

// Cut implements Replacement.
func (r *pebbleReplacement) Cut() error {
	if !r.large {
		r.held = append(r.held, heldPair{})
		return nil
	}
	if r.w == nil {
		return nil
	}
	w := r.w
	r.w = nil
	return w.Close() // Which syncs the file.
}

// Parts implements Replacement.
func (r *pebbleReplacement) Parts() []Part { return r.parts }

// Keep implements Replacement.
func (r *pebbleReplacement) Keep(part int) error {
	if part < 0 || part >= len(r.parts) || r.left[part] == "" {
		return fmt.Errorf("part %d: there are %d, and each can be kept once", part, len(r.parts))
	}
	p := &r.parts[part]
	if r.last != nil && bytes.Compare(r.last, p.First) >= 0 {
		return fmt.Errorf("part %d begins at key %x, which is not after %x", part, p.First, r.last)
	}
	if !r.large {
		if err := r.spill(); err != nil {
			return err
		}
	}
	if err := r.Cut(); err != nil {
		return err
	}
	r.paths = append(r.paths, r.left[part])
	r.left[part] = ""
	r.last = append(r.last[:0], p.Last...)
	return nil
}

// Finish implements Replacement.
func (r *pebbleReplacement) Finish() error {
	defer r.remove()
	if !r.large {
		return r.finishHeld()
	}
	if err := r.Cut(); err != nil {
		return err
	}
	_, err := r.engine.IngestAndExcise(context.Background(), r.paths, nil, nil, pebble.KeyRange{Start: r.lo, End: r.hi})
	return err
}

// finishHeld replaces the range by what is held.
func (r *pebbleReplacement) finishHeld() error {
	b := r.engine.NewBatch()
	err := b.DeleteRange(r.lo, r.hi, nil)
	for _, p := range r.held {
		if err == nil && p.key != nil {
			err = b.Set(p.key, p.value, nil)
		}
	}
	if err == nil {
		err = r.engine.Commit(b, true)
	}
	return errors.Join(err, b.Close())
}

// Suspend implements Replacement. What the attempt did not come to yet is kept as well; what is held is
// too little to keep.
func (r *pebbleReplacement) Suspend() error {
	if !r.large {
		r.last = nil
	}
	if err := r.Cut(); err != nil {
		r.remove()
		return err
	}
	paths := r.paths
	for i, path := range r.left {
		if path == "" {
			continue
		}
		if bytes.Compare(r.parts[i].First, r.last) > 0 {
			paths = append(paths, path)
		} else {
			r.engine.files.remove([]string{path})
		}
	}
	r.engine.files.leave(r.lo, paths)
	r.paths, r.left = nil, nil
	return nil
}

// Abort implements Replacement.
func (r *pebbleReplacement) Abort() error {
	defer r.remove()
	return r.Cut()
}

// remove deletes the files, which pebble has linked or nobody wants.
func (r *pebbleReplacement) remove() {
	r.engine.files.remove(r.paths)
	r.engine.files.remove(slices.DeleteFunc(r.left, func(path string) bool { return path == "" }))
	r.paths, r.left = nil, nil
}
