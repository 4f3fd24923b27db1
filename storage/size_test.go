package storage

import (
	"math/rand/v2"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/holdfast-io/holdfast/placement"
)

func TestBytesOfAClass(t *testing.T) {
	t.Parallel()
	s, err := Open("data", Options{FS: vfs.NewMem(), CacheBytes: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}()
	const shards, size = 256, 1 << 20
	rnd := rand.New(rand.NewPCG(1, 2))
	b := s.NewBatch()
	for i := range shards {
		for class, n := range map[string]int{"A": 8 * size / shards, "AB": size / shards} {
			value := make([]byte, n)
			for k := range value {
				value[k] = byte(rnd.Uint32())
			}
			ref := ObjectRef{Class: class, ID: placement.ObjectID{byte(i)}}
			b.Set(AppendObjectKey(nil, placement.ShardID(i), ref, KindKV, []byte("k")), value)
		}
	}
	if err := b.Commit(true); err != nil {
		t.Fatal(err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	e, _ := s.engine.(*pebbleEngine)
	if err := e.Flush(); err != nil {
		t.Fatal(err)
	}
	for class, want := range map[string]uint64{"A": 8 * size, "AB": size, "B": 0} {
		got, err := s.ClassBytes(class, shards)
		if err != nil || got < want*3/4 || got > want*5/4 {
			t.Errorf("class %s: got %d bytes, %v, want about %d", class, got, err, want)
		}
	}
}
