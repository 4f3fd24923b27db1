package storage_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-io/holdfast/placement"
	"github.com/holdfast-io/holdfast/storage"
)

func openMem(t *testing.T, fs vfs.FS) *storage.Store {
	t.Helper()
	s, err := storage.Open("data", storage.Options{FS: fs})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func closeStore(t *testing.T, s *storage.Store) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

func ref(n byte) storage.ObjectRef {
	return storage.ObjectRef{Class: "C", ID: placement.ObjectID{n}}
}

func TestIdentityAndBootSurviveReopening(t *testing.T) {
	fs := vfs.NewMem()
	s := openMem(t, fs)
	want := storage.Identity{ClusterID: "c", Node: 7, StoreUUID: "u", Shards: 16, Replicas: 3, Name: "n"}
	if got := s.Identity(); got != (storage.Identity{}) {
		t.Errorf("identity of a new store: %+v", got)
	}
	if err := s.SetIdentity(want, nil); err != nil {
		t.Fatal(err)
	}
	boot := s.Boot()
	closeStore(t, s)
	s = openMem(t, fs)
	defer closeStore(t, s)
	if diff := cmp.Diff(want, s.Identity()); diff != "" {
		t.Error(diff)
	}
	if s.Boot() <= boot {
		t.Errorf("boot counter went from %d to %d", boot, s.Boot())
	}
}

func TestSecondOpenerIsRefused(t *testing.T) {
	dir := t.TempDir()
	s, err := storage.Open(dir, storage.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer closeStore(t, s)
	if _, err := storage.Open(dir, storage.Options{}); !errors.Is(err, storage.ErrLocked) {
		t.Errorf("second open: %v", err)
	}
}

// A power cut keeps what was synced, and loses the rest whole.
func TestPowerCutKeepsWhatWasSynced(t *testing.T) {
	fs := vfs.NewCrashableMem()
	s := openMem(t, fs)
	for i := range 100 {
		b := s.NewBatch()
		b.Set(storage.LogKey(1, uint64(i)), []byte("entry"))
		b.Set(storage.AppliedKey(1), fmt.Append(nil, i))
		if err := b.Commit(true); err != nil {
			t.Fatal(err)
		}
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
	}
	b := s.NewBatch()
	b.Set(storage.LogKey(1, 1000), []byte("unsynced"))
	if err := b.Commit(false); err != nil {
		t.Fatal(err)
	}
	_ = b.Close()
	after := fs.CrashClone(vfs.CrashCloneCfg{})
	closeStore(t, s)

	s = openMem(t, after)
	defer closeStore(t, s)
	for i := range 100 {
		if _, ok, err := s.Get(storage.LogKey(1, uint64(i))); err != nil || !ok {
			t.Fatalf("entry %d: present %v, %v", i, ok, err)
		}
	}
	if got, _, _ := s.Get(storage.AppliedKey(1)); string(got) != "99" {
		t.Errorf("applied %q moved apart from the entries", got)
	}
	if _, ok, _ := s.Get(storage.LogKey(1, 1000)); ok {
		t.Error("what was not synced is there after the power cut")
	}
}

// Power may fail at any write: unsynced data may be there in part, a batch never.
func TestPowerCutAtRandomKeepsBatchesWhole(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	fs := vfs.NewCrashableMem()
	s := openMem(t, fs)
	synced := 0
	for i := 1; i <= 200; i++ {
		b := s.NewBatch()
		b.Set([]byte{3, 'a'}, fmt.Append(nil, i))
		b.Set([]byte{3, 'b'}, fmt.Append(nil, i))
		sync := rng.IntN(3) == 0
		if err := b.Commit(sync); err != nil {
			t.Fatal(err)
		}
		_ = b.Close()
		if sync {
			synced = i
		}
		if rng.IntN(20) != 0 {
			continue
		}
		clone := fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 50, RNG: rng})
		after := openMem(t, clone)
		a, _, _ := after.Get([]byte{3, 'a'})
		bb, _, _ := after.Get([]byte{3, 'b'})
		var got int
		_, _ = fmt.Sscan(string(a), &got)
		if string(a) != string(bb) || got < synced {
			t.Errorf("after batch %d (synced %d): a=%q b=%q", i, synced, a, bb)
		}
		closeStore(t, after)
	}
	closeStore(t, s)
}

// A torn tail of the write-ahead log costs only what was not synced; damage before it is an error.
func TestDamagedLogIsRefused(t *testing.T) {
	dir := t.TempDir()
	s, err := storage.Open(dir, storage.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 1000 {
		if err := s.SetMeta(fmt.Sprint(i), []byte(strings.Repeat("x", 100))); err != nil {
			t.Fatal(err)
		}
	}
	// Copy the directory as a power cut would leave it.
	clone := t.TempDir()
	if err := os.CopyFS(clone, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	closeStore(t, s)
	logs, err := filepath.Glob(filepath.Join(clone, "*.log"))
	if err != nil || len(logs) == 0 {
		t.Fatalf("write-ahead logs: %v, %v", logs, err)
	}
	raw, err := os.ReadFile(logs[len(logs)-1])
	if err != nil {
		t.Fatal(err)
	}
	for i := len(raw) / 4; i < len(raw)/4+64; i++ {
		raw[i] ^= 0xff
	}
	if err := os.WriteFile(logs[len(logs)-1], raw, 0o600); err != nil {
		t.Fatal(err)
	}
	s, err = storage.Open(clone, storage.Options{})
	if err == nil {
		closeStore(t, s)
	}
	if !errors.Is(err, storage.ErrCorrupt) {
		t.Errorf("open of a damaged store: %v", err)
	}
}

func TestTornTailLosesOnlyTheTail(t *testing.T) {
	dir := t.TempDir()
	s, err := storage.Open(dir, storage.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 100 {
		if err := s.SetMeta(fmt.Sprint(i), []byte("value")); err != nil {
			t.Fatal(err)
		}
	}
	clone := t.TempDir()
	if err := os.CopyFS(clone, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	closeStore(t, s)
	logs, _ := filepath.Glob(filepath.Join(clone, "*.log"))
	tail := logs[len(logs)-1]
	f, err := os.OpenFile(tail, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	// Half a record, as a write cut short leaves it.
	if _, err := f.Write([]byte{1, 2, 3, 4, 5, 6, 7}); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	s, err = storage.Open(clone, storage.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer closeStore(t, s)
	for i := range 100 {
		if _, ok, err := s.Meta(fmt.Sprint(i)); !ok || err != nil {
			t.Fatalf("synced key %d: present %v, %v", i, ok, err)
		}
	}
}

func TestSpansAreContiguous(t *testing.T) {
	lo, hi := storage.ShardSpan(7)
	inside := [][]byte{
		storage.AppliedKey(7), storage.DescriptorKey(7), storage.HardStateKey(7), storage.ReplicaKey(7),
		storage.TruncatedKey(7), storage.LogKey(7, 0), storage.LogKey(7, ^uint64(0)),
		storage.AppendObjectKey(nil, 7, ref(1), storage.KindKV, []byte("k")),
	}
	for _, key := range inside {
		if string(key) < string(lo) || string(key) >= string(hi) {
			t.Errorf("%x is not in [%x, %x)", key, lo, hi)
		}
	}
	outside := [][]byte{storage.TombstoneKey(7), storage.AppliedKey(6), storage.AppliedKey(8)}
	for _, key := range outside {
		if string(key) >= string(lo) && string(key) < string(hi) {
			t.Errorf("%x is in [%x, %x)", key, lo, hi)
		}
	}
}

func TestFenceAdmits(t *testing.T) {
	fence := storage.Fence{Term: 3, Incarnation: 2, Sequence: 5}
	for _, tc := range []struct {
		term, incarnation, sequence uint64
		want                        bool
	}{
		{3, 2, 6, true},
		{3, 2, 5, false}, // twice
		{3, 2, 7, false}, // a gap
		{3, 3, 1, true},
		{3, 3, 2, false}, // does not begin at its first
		{3, 1, 9, false}, // over
		{4, 1, 1, true},
		{2, 9, 1, false}, // superseded
	} {
		seg := storage.Segment{Term: tc.term, Incarnation: tc.incarnation, Sequence: tc.sequence}
		if got, why := fence.Admits(&seg); got != tc.want {
			t.Errorf("%+v: admitted %v (%s), want %v", tc, got, why, tc.want)
		}
	}
}

func TestApplySegment(t *testing.T) {
	s := openMem(t, vfs.NewMem())
	defer closeStore(t, s)
	fences := storage.NewFenceCache(s, 4)
	record, err := storage.Record{Class: "C"}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	apply := func(entryTerm uint64, seg storage.Segment) bool {
		t.Helper()
		b := s.NewBatch()
		defer func() { _ = b.Close() }()
		fence, err := fences.Load(1, seg.Object)
		if err != nil {
			t.Fatal(err)
		}
		applied, _, err := storage.ApplySegment(b, fence, 1, entryTerm, &seg)
		if err != nil {
			t.Fatal(err)
		}
		if err := b.Commit(false); err != nil {
			t.Fatal(err)
		}
		return applied
	}
	seg := func(term, inc, sequence uint64, ops ...storage.Op) storage.Segment {
		return storage.Segment{Object: ref(1), Term: term, Incarnation: inc, Sequence: sequence, CommitSequence: sequence, Ops: ops}
	}
	set := func(kind storage.KeyKind, k, v string) storage.Op {
		return storage.Op{Op: storage.OpSet, Kind: kind, Key: []byte(k), Value: []byte(v)}
	}
	if !apply(5, seg(5, 1, 1, set(storage.KindRecord, "", string(record)), set(storage.KindKV, "a", "1"), set(storage.KindKV, "b", "2"))) {
		t.Error("the first segment was dropped")
	}
	if apply(6, seg(5, 1, 2, set(storage.KindKV, "a", "stale"))) {
		t.Error("a segment of an earlier term was applied")
	}
	if apply(5, seg(5, 1, 3)) {
		t.Error("a gap was applied")
	}
	if !apply(5, seg(5, 1, 2, storage.Op{Op: storage.OpDeleteRange, Kind: storage.KindKV, Key: []byte("a"), End: []byte("b")})) {
		t.Error("the second segment was dropped")
	}
	if _, ok, _ := s.Object(1, ref(1)).Get(storage.KindKV, []byte("a")); ok {
		t.Error("a survived its range's deletion")
	}
	if v, ok, _ := s.Object(1, ref(1)).Get(storage.KindKV, []byte("b")); !ok || string(v) != "2" {
		t.Errorf("b = %q, %v", v, ok)
	}
	if list, _ := s.ListObjects(1, "C", nil, 10); len(list) != 1 || list[0].ID != ref(1).ID {
		t.Errorf("objects: %v", list)
	}
	end := seg(5, 1, 3, storage.Op{Op: storage.OpDeleteRange, Kind: storage.KindKV}, storage.Op{Op: storage.OpDelete, Kind: storage.KindRecord})
	if !apply(5, end) {
		t.Error("the last segment was dropped")
	}
	lo, hi := storage.ObjectSpan(1, ref(1))
	it, err := s.Iter(lo, hi)
	if err != nil {
		t.Fatal(err)
	}
	if it.First() {
		t.Errorf("an object that ended left %x", it.Key())
	}
	it.Close()
}

func TestIngestReplacesOneShard(t *testing.T) {
	s := openMem(t, vfs.NewMem())
	defer closeStore(t, s)
	b := s.NewBatch()
	for shard := placement.ShardID(1); shard <= 3; shard++ {
		b.Set(storage.ReplicaKey(shard), []byte("old"))
		b.Set(storage.LogKey(shard, 9), []byte("old"))
		b.Set(storage.AppendObjectKey(nil, shard, ref(1), storage.KindKV, []byte("k")), []byte("old"))
	}
	if err := b.Commit(true); err != nil {
		t.Fatal(err)
	}
	_ = b.Close()
	in := s.NewIngest(2)
	if err := in.Add(storage.ReplicaKey(2), []byte("new")); err != nil {
		t.Fatal(err)
	}
	for i := range byte(10) {
		if err := in.Add(storage.AppendObjectKey(nil, 2, ref(i), storage.KindKV, []byte("k")), []byte("new")); err != nil {
			t.Fatal(err)
		}
	}
	if err := in.Finish([]byte("new")); err != nil {
		t.Fatal(err)
	}
	if _, ok, _ := s.Get(storage.LogKey(2, 9)); ok {
		t.Error("the old log survived")
	}
	if v, _, _ := s.Get(storage.ReplicaKey(2)); string(v) != "new" {
		t.Errorf("replica = %q", v)
	}
	if v, _, _ := s.Object(2, ref(5)).Get(storage.KindKV, []byte("k")); string(v) != "new" {
		t.Errorf("state = %q", v)
	}
	for _, shard := range []placement.ShardID{1, 3} {
		if v, _, _ := s.Object(shard, ref(1)).Get(storage.KindKV, []byte("k")); string(v) != "old" {
			t.Errorf("neighbour %d = %q", shard, v)
		}
	}
	if err := s.DestroyShard(1, []byte("2")); err != nil {
		t.Fatal(err)
	}
	if got, _ := s.Shards(); !cmp.Equal(got, []placement.ShardID{2, 3}) {
		t.Errorf("shards = %v", got)
	}
}

func FuzzDecodeSegment(f *testing.F) {
	seg := storage.Segment{Object: ref(3), Term: 1, Incarnation: 2, Sequence: 3, CommitSequence: 4, Time: 5, Ops: []storage.Op{
		{Op: storage.OpSet, Kind: storage.KindKV, Key: []byte("k"), Value: []byte("v")},
		{Op: storage.OpDelete, Kind: storage.KindKV, Key: []byte("k")},
		{Op: storage.OpDeleteRange, Kind: storage.KindKV, Key: []byte("a"), End: []byte("b")},
	}}
	f.Add(seg.AppendTo(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		got, rest, err := storage.DecodeSegment(b)
		if err != nil {
			return
		}
		again, _, err := storage.DecodeSegment(append(got.AppendTo(nil), rest...))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(got, again); diff != "" {
			t.Fatal(diff)
		}
	})
}

func BenchmarkApplySegment(b *testing.B) {
	s, err := storage.Open("data", storage.Options{FS: vfs.NewMem()})
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	fences := storage.NewFenceCache(s, 1<<16)
	seg := storage.Segment{Object: ref(1), Term: 1, Incarnation: 1, Ops: []storage.Op{{Op: storage.OpSet, Kind: storage.KindKV, Key: []byte("value"), Value: []byte{1}}}}
	batch := s.NewBatch()
	for b.Loop() {
		seg.Sequence++
		seg.CommitSequence++
		fence, err := fences.Load(1, seg.Object)
		if err != nil {
			b.Fatal(err)
		}
		if ok, why, err := storage.ApplySegment(batch, fence, 1, 1, &seg); !ok || err != nil {
			b.Fatal(why, err)
		}
		if batch.Len() > 1<<20 {
			batch.Reset()
		}
	}
	_ = batch.Close()
}
