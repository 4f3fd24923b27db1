package storage

import (
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/holdfast-io/holdfast/placement"
)

// TestFenceCacheIsBounded loads more fences than the cache may keep. Those in use must stay, and be
// the very same, for segments that are applied together share them.
func TestFenceCacheIsBounded(t *testing.T) {
	s, err := Open("data", Options{FS: vfs.NewMem(), CacheBytes: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	const capacity = 8
	fences := NewFenceCache(s, capacity)
	load := func(n byte) *ObjectFence {
		t.Helper()
		f, err := fences.Load(1, ObjectRef{Class: "C", ID: placement.ObjectID{n}})
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	used := load(0)
	for n := byte(1); n < 100; n++ {
		load(n)
		if again := load(0); again != used {
			t.Fatalf("after %d other objects, one that is used each time was dropped", n)
		}
		fences.Trim()
		if len(fences.recent) > capacity/2 || len(fences.recent)+len(fences.old) > capacity+1 {
			t.Fatalf("after %d objects it keeps %d and %d, its capacity is %d", n+1, len(fences.recent), len(fences.old), capacity)
		}
	}
	fences.Forget(1)
	if load(0) == used {
		t.Error("it remembers a shard that it was to forget")
	}
}
