package storage

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/holdfast-io/holdfast/placement"
)

// ErrCorrupt says that the store is damaged. Such a store is a lost store: the node comes back as
// a new one and its replicas are rebuilt from the others.
var ErrCorrupt = errors.New("the store is damaged")

// ErrLocked says that another process has the directory open.
var ErrLocked = errors.New("another process is using the data directory")

// FormatVersion is what this release writes and reads. A store of a later one is refused.
const FormatVersion = 1

// MemtablesMax is how many memtables there may be: then writes wait for one to be flushed.
const MemtablesMax = 4

// mergerName is in every store from its first day: pebble opens no store under another.
const mergerName = "holdfast.v1"

// merger merges nothing yet. Its name is what must be there from the first day on.
var merger = &pebble.Merger{
	Name: mergerName,
	Merge: func(_, value []byte) (pebble.ValueMerger, error) {
		m := &lastValue{}
		return m, m.MergeNewer(value)
	},
}

// minFreeBytes must be free before Open, and so much more than the write-ahead logs have, which may
// have to be written out as tables then: pebble on a full disk would spin for ever.
const minFreeBytes, replayBytes = 64 << 20, 16 << 20

// Keys of the store's own facts.
var (
	keyFormat   = []byte{spaceStore, 'f'}
	keyIdentity = []byte{spaceStore, 'i'}
	keyBoot     = []byte{spaceStore, 'b'}
	prefixMeta  = []byte{spaceStore, 'm'}
)

// Options of a store. The zero value is usable.
type Options struct {
	// FS is where the store lives; nil is the disk.
	FS vfs.FS
	// Logger hears what pebble does, at debug; nil discards.
	Logger *slog.Logger
	// CacheBytes is the block cache's size: default 64 MiB. Larger where many objects are read
	// from disk.
	CacheBytes int64
	// MemtableBytes is the size of a memtable: default 64 MiB. There are at most MemtablesMax.
	MemtableBytes int64
	// OnFatal is called when the store can no longer promise anything (a failed fsync, a full
	// disk). It must not return; the default exits the process.
	OnFatal func(error)
}

// Identity says whose store this is. It is written once, when the node creates or joins a cluster.
type Identity struct {
	ClusterID string           `json:"cluster_id"` // empty: no cluster yet
	Node      placement.NodeID `json:"node"`
	StoreUUID string           `json:"store_uuid"`
	Shards    int              `json:"shards"`
	Replicas  int              `json:"replicas"`
	Name      string           `json:"name"`
}

// Store is an open store. It is safe for concurrent use.
type Store struct {
	engine   Engine
	boot     uint64
	identity atomic.Pointer[Identity]
}

// Open opens the store in dir, creating it when there is none. It holds a lock on the directory
// until Close. Errors wrap ErrLocked, ErrCorrupt, or say what else is wrong.
func Open(dir string, o Options) (*Store, error) {
	if o.FS == nil {
		o.FS = vfs.Default
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.CacheBytes == 0 {
		o.CacheBytes = 64 << 20
	}
	if o.MemtableBytes == 0 {
		o.MemtableBytes = 64 << 20
	}
	if o.OnFatal == nil {
		o.OnFatal = exitOnFatal
	}
	if err := o.FS.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("data directory %s: %w", dir, err)
	}
	if err := checkFree(o.FS, dir); err != nil {
		return nil, err
	}
	lock, err := pebble.LockDirectory(dir, o.FS)
	if err != nil {
		return nil, fmt.Errorf("%w: %s (stop that process, or pass another --data-dir): %w", ErrLocked, dir, err)
	}
	s, err := openLocked(dir, o, lock)
	if err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	// The store holds its own reference to the lock.
	if err := lock.Close(); err != nil {
		return nil, errors.Join(fmt.Errorf("data directory %s: %w", dir, err), s.Close())
	}
	return s, nil
}

// OpenExisting is Open where there is a store already, and an error where there is none.
func OpenExisting(dir string, o Options) (*Store, error) {
	fs := o.FS
	if fs == nil {
		fs = vfs.Default
	}
	desc, err := pebble.Peek(dir, fs)
	if err != nil {
		return nil, openError(dir, err)
	}
	if !desc.Exists {
		return nil, fmt.Errorf("data directory %s: there is no store in it", dir)
	}
	return Open(dir, o)
}

func openLocked(dir string, o Options, lock *pebble.Lock) (*Store, error) {
	desc, err := pebble.Peek(dir, o.FS)
	if err != nil {
		return nil, openError(dir, err)
	}
	if !desc.Exists {
		// The first write-ahead log of a new store lacks the sync offsets by which damage in its
		// middle is told from a torn tail. Opening once and closing makes the next one have them.
		first, err := pebble.Open(dir, pebbleOptions(o, lock))
		if err != nil {
			return nil, openError(dir, err)
		}
		if err := first.Close(); err != nil {
			return nil, fmt.Errorf("create store in %s: %w", dir, err)
		}
	}
	db, err := pebble.Open(dir, pebbleOptions(o, lock))
	if err != nil {
		return nil, openError(dir, err)
	}
	engine := &pebbleEngine{DB: db, files: replacementFiles{fs: o.FS, dir: dir}, fatal: o.OnFatal}
	s, err := openOn(engine)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open store in %s: %w", dir, err), db.Close())
	}
	engine.files.boot = s.boot
	if err := engine.files.load(); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// OpenOn opens the store that an engine has, creating it in an empty one. The Store closes the
// engine.
func OpenOn(e Engine) (*Store, error) {
	s, err := openOn(e)
	if err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	return s, nil
}

func openOn(e Engine) (*Store, error) {
	s := &Store{engine: e}
	return s, s.start()
}

// start checks the format, raises the boot counter and reads the identity.
func (s *Store) start() error {
	raw, ok, err := s.Get(keyFormat)
	switch {
	case err != nil:
		return err
	case !ok:
		// Everything that is written comes after the format: a store without it was made a moment ago, by
		// this process or by one that ended before it could write anything.
		if err := s.checkEmpty(); err != nil {
			return err
		}
		raw = binary.BigEndian.AppendUint32(nil, FormatVersion)
		if err := s.set(keyFormat, raw); err != nil {
			return fmt.Errorf("write the format version: %w", err)
		}
	case len(raw) != 4:
		return fmt.Errorf("%w: its format version has %d bytes", ErrCorrupt, len(raw))
	}
	if v := binary.BigEndian.Uint32(raw); v != FormatVersion {
		return fmt.Errorf("the store has format %d, this release reads format %d: run the release that wrote it, or upgrade", v, FormatVersion)
	}
	raw, ok, err = s.Get(keyBoot)
	if err != nil {
		return err
	}
	switch {
	case ok && len(raw) == 8:
		s.boot = binary.BigEndian.Uint64(raw)
	case ok:
		return fmt.Errorf("%w: its boot counter has %d bytes", ErrCorrupt, len(raw))
	}
	s.boot++
	if err := s.set(keyBoot, binary.BigEndian.AppendUint64(nil, s.boot)); err != nil {
		return fmt.Errorf("raise the boot counter: %w", err)
	}
	var id Identity
	raw, ok, err = s.Get(keyIdentity)
	if err != nil {
		return err
	}
	if ok {
		if err := json.Unmarshal(raw, &id); err != nil {
			return fmt.Errorf("%w: identity: %w", ErrCorrupt, err)
		}
	}
	s.identity.Store(&id)
	return nil
}

// checkEmpty says that nothing was ever written.
func (s *Store) checkEmpty() error {
	it, err := s.Iter(nil, nil)
	if err != nil {
		return err
	}
	defer it.Close()
	if it.First() {
		return fmt.Errorf("%w: it has data and no format version", ErrCorrupt)
	}
	return it.Error()
}

// set writes one key, synced.
func (s *Store) set(key, value []byte) error {
	b := s.NewBatch()
	b.Set(key, value)
	return errors.Join(b.Commit(true), b.Close())
}

func pebbleOptions(o Options, lock *pebble.Lock) *pebble.Options {
	opts := &pebble.Options{
		FS:                          o.FS,
		Lock:                        lock,
		CacheSize:                   o.CacheBytes,
		FormatMajorVersion:          pebble.FormatNewest,
		MemTableSize:                uint64(o.MemtableBytes), //nolint:gosec // a size
		MemTableStopWritesThreshold: MemtablesMax,
		L0CompactionThreshold:       2,
		L0StopWritesThreshold:       20,
		LBaseMaxBytes:               64 << 20,
		MaxOpenFiles:                1000,
		Logger:                      pebbleLogger{logger: o.Logger, fatal: o.OnFatal},
		Merger:                      merger,
	}
	for i := range opts.Levels {
		opts.Levels[i].FilterPolicy = bloom.FilterPolicy(10)
	}
	return opts
}

// openError tells damage from everything else.
func openError(dir string, err error) error {
	if pebble.IsCorruptionError(err) {
		return fmt.Errorf("open store in %s: %w: move the directory away and start the node anew: it joins as a new node and gets its replicas from the others: %w", dir, ErrCorrupt, err)
	}
	return fmt.Errorf("open store in %s: %w", dir, err)
}

func checkFree(fs vfs.FS, dir string) error {
	usage, err := fs.GetDiskUsage(dir)
	if errors.Is(err, vfs.ErrUnsupported) { // A filesystem in memory.
		return nil
	}
	if err != nil {
		return fmt.Errorf("free space of %s: %w", dir, err)
	}
	logs, err := logBytes(fs, dir)
	if err != nil {
		return fmt.Errorf("data directory %s: %w", dir, err)
	}
	if need := max(minFreeBytes, logs+replayBytes); usage.AvailBytes < need {
		return fmt.Errorf("data directory %s: %d bytes free, at least %d needed to start: make room; nothing that was acknowledged is lost", dir, usage.AvailBytes, need)
	}
	return nil
}

// logBytes is what the write-ahead logs in a directory have.
func logBytes(fs vfs.FS, dir string) (uint64, error) {
	names, err := fs.List(dir)
	if err != nil {
		return 0, err
	}
	var sum uint64
	for _, name := range names {
		if !strings.HasSuffix(name, ".log") {
			continue
		}
		info, err := fs.Stat(fs.PathJoin(dir, name))
		if errors.Is(err, os.ErrNotExist) {
			continue // Another process may be at work here; the lock tells.
		}
		if err != nil {
			return 0, err
		}
		sum += uint64(info.Size()) //nolint:gosec // not negative
	}
	return sum, nil
}

func exitOnFatal(err error) {
	_, _ = fmt.Fprintln(os.Stderr, "holdfast:", fatalText(err))
	os.Exit(1)
}

// fatalText says what became of a store that failed, and what to do.
func fatalText(err error) string {
	if errors.Is(err, syscall.ENOSPC) || strings.Contains(err.Error(), syscall.ENOSPC.Error()) { // Not all of pebble's errors wrap it.
		return fmt.Sprintf("the disk is full, and the node ends; what was acknowledged is on the disk: make room, and start it again: %v", err)
	}
	return fmt.Sprintf("the store failed, and what it promised may not be kept: %v", err)
}

// Close closes the store and reports what was left open: iterators and snapshots hold back the
// disk space of everything deleted since.
func (s *Store) Close() error {
	if err := s.engine.Close(); err != nil {
		return fmt.Errorf("close store: %w", err)
	}
	return nil
}

// Identity returns whose store this is.
func (s *Store) Identity() Identity { return *s.identity.Load() }

// SetIdentity writes down whose store this is, synced, and with it what the store begins with, if
// anything: both or neither. The caller still closes begin.
func (s *Store) SetIdentity(id Identity, begin *Batch) error {
	raw, err := json.Marshal(id)
	if err != nil {
		return fmt.Errorf("encode identity: %w", err)
	}
	if begin == nil {
		begin = s.NewBatch()
		defer func() { _ = begin.Close() }()
	}
	begin.Set(keyIdentity, raw)
	if err := begin.Commit(true); err != nil {
		return fmt.Errorf("write identity: %w", err)
	}
	s.identity.Store(&id)
	return nil
}

// Boot counts the opens of this store, from 1. It was synced before Open returned, so no two
// processes ever ran on this store with the same count: an old copy of the disk shows by it.
func (s *Store) Boot() uint64 { return s.boot }

// Meta reads a small fact of this node alone.
func (s *Store) Meta(key string) ([]byte, bool, error) {
	return s.Get(append(prefixMeta[:2:2], key...))
}

// SetMeta adds such a fact to a batch.
func (b *Batch) SetMeta(key string, value []byte) { b.Set(append(prefixMeta[:2:2], key...), value) }

// SetMeta writes one, synced.
func (s *Store) SetMeta(key string, value []byte) error {
	if err := s.set(append(prefixMeta[:2:2], key...), value); err != nil {
		return fmt.Errorf("write %s: %w", key, err)
	}
	return nil
}

// DeleteMeta deletes one, synced, if it is there.
func (s *Store) DeleteMeta(key string) error {
	b := s.NewBatch()
	b.Delete(append(prefixMeta[:2:2], key...))
	if err := errors.Join(b.Commit(true), b.Close()); err != nil {
		return fmt.Errorf("delete %s: %w", key, err)
	}
	return nil
}

// Shards returns the shards that have a replica here, ascending.
func (s *Store) Shards() ([]placement.ShardID, error) {
	it, err := s.Iter([]byte{spaceShard}, []byte{spaceShard + 1})
	if err != nil {
		return nil, err
	}
	defer it.Close()
	var shards []placement.ShardID
	for ok := it.First(); ok; {
		shard := placement.ShardID(binary.BigEndian.Uint32(it.Key()[1:]))
		if it.SeekGE(ReplicaKey(shard)) && string(it.Key()) == string(ReplicaKey(shard)) {
			shards = append(shards, shard)
		}
		_, end := ShardSpan(shard)
		ok = it.SeekGE(end)
	}
	return shards, it.Error()
}

// Metrics is what operators watch of a store.
type Metrics struct {
	DiskBytes       uint64
	WALBytes        uint64
	FlushBytes      uint64
	CompactedBytes  uint64
	Compactions     int64
	ReadAmp         int
	MemtableBytes   uint64
	CacheBytes      int64
	FreeDiskBytes   uint64
	SyncLatencyMean time.Duration
}

// Metrics returns a snapshot of the store's counters. They are pebble's: other engines have none.
func (s *Store) Metrics() Metrics {
	e, ok := s.engine.(*pebbleEngine)
	if !ok {
		return Metrics{}
	}
	m := e.Metrics()
	total := m.Total()
	out := Metrics{
		DiskBytes:      m.DiskSpaceUsage(),
		WALBytes:       m.WAL.BytesWritten,
		FlushBytes:     total.TableBytesFlushed,
		CompactedBytes: total.TableBytesCompacted,
		Compactions:    m.Compact.Count,
		ReadAmp:        m.ReadAmp(),
		MemtableBytes:  m.MemTable.Size,
		CacheBytes:     m.BlockCache.Size,
	}
	if free, err := s.FreeDisk(); err == nil {
		out.FreeDiskBytes = free
	}
	return out
}

// ClassBytes estimates the disk space that the objects of a class, by its unique key, take in the first so
// many shards: to a block or so of each shard, and without what is not yet in tables. Engines other than
// pebble know nothing of it.
func (s *Store) ClassBytes(class string, shards int) (uint64, error) {
	e, ok := s.engine.(*pebbleEngine)
	if !ok {
		return 0, nil
	}
	it, err := s.engine.Iter(nil, nil)
	if err != nil {
		return 0, err
	}
	defer func() { _ = it.Close() }()
	var total uint64
	for shard := range shards {
		lo, hi := classSpan(placement.ShardID(shard), class) //nolint:gosec // below MaxShards
		if !it.SeekGE(lo) || bytes.Compare(it.Key(), hi) >= 0 {
			continue // Pebble would count the block where it could be.
		}
		n, err := e.EstimateDiskUsage(lo, hi)
		if err != nil {
			return 0, fmt.Errorf("estimate the size of class %q: %w", class, err)
		}
		total += n
	}
	return total, it.Error()
}

// ErrNoDisk says that a store is on no disk that could be full.
var ErrNoDisk = errors.New("the store is not on a disk")

// FreeDisk returns how many bytes of the store's filesystem are free for this process. It asks the
// filesystem, so it may take as long as that does.
func (s *Store) FreeDisk() (uint64, error) {
	e, ok := s.engine.(*pebbleEngine)
	if !ok {
		return 0, ErrNoDisk
	}
	usage, err := e.files.fs.GetDiskUsage(e.files.dir)
	if errors.Is(err, vfs.ErrUnsupported) {
		return 0, ErrNoDisk
	}
	if err != nil {
		return 0, fmt.Errorf("free space of %s: %w", e.files.dir, err)
	}
	return usage.AvailBytes, nil
}

// lastValue is the merger that the name stands for until something merges: the newest wins.
type lastValue struct{ value []byte }

// MergeNewer implements pebble.ValueMerger.
func (m *lastValue) MergeNewer(value []byte) error {
	m.value = append(m.value[:0], value...)
	return nil
}

// MergeOlder implements pebble.ValueMerger.
func (*lastValue) MergeOlder([]byte) error { return nil }

// Finish implements pebble.ValueMerger.
func (m *lastValue) Finish(bool) ([]byte, io.Closer, error) { return m.value, nil, nil }

// pebbleLogger implements pebble.Logger.
type pebbleLogger struct {
	logger *slog.Logger
	fatal  func(error)
}

// Infof implements pebble.Logger.
func (l pebbleLogger) Infof(format string, args ...any) {
	l.logger.Debug("pebble", slog.String("text", fmt.Sprintf(format, args...)))
}

// Errorf implements pebble.Logger.
func (l pebbleLogger) Errorf(format string, args ...any) {
	l.logger.Error("pebble", slog.String("text", fmt.Sprintf(format, args...)))
}

// Fatalf implements pebble.Logger. Pebble counts on it not to return.
func (l pebbleLogger) Fatalf(format string, args ...any) {
	l.fatal(fmt.Errorf(format, args...))
}
