package node

import (
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"google.golang.org/protobuf/proto"

	"github.com/holdfast-io/holdfast/fault"
	"github.com/holdfast-io/holdfast/placement"
	holdfastv1 "github.com/holdfast-io/holdfast/proto/holdfast/v1"
	"github.com/holdfast-io/holdfast/storage"
)

// Exports are bounded, and those that nobody reads on are given up: each holds disk space back. A store
// does not close while one is open, so a leak fails the test.
func TestExportsAreGivenUp(t *testing.T) {
	t.Parallel()
	store, err := storage.Open("data", storage.Options{FS: vfs.NewMem(), CacheBytes: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	x := &exports{}
	walk := func() *storage.Walk {
		t.Helper()
		w, err := store.Walk(0, "C", nil)
		if err != nil {
			t.Fatal(err)
		}
		return w
	}
	var ids []uint64
	for range exportsMax {
		id, _, err := x.begin(walk())
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, id)
	}
	refused := walk()
	if _, _, err := x.begin(refused); fault.ReasonOf(err) != fault.Overloaded {
		t.Errorf("one too many: %v", err)
	}
	if err := refused.Close(); err != nil {
		t.Error(err)
	}
	reading := x.find(ids[0])
	<-reading.turn
	if err := x.sweep(time.Now().Add(exportIdleMax + time.Second)); err != nil {
		t.Error(err)
	}
	for i, id := range ids {
		if open := x.find(id) != nil; open != (i == 0) {
			t.Errorf("export %d is open: %t", i, open)
		}
	}
	reading.turn <- struct{}{}
	if err := x.sweep(time.Now().Add(exportIdleMax / 2)); err != nil || x.find(ids[0]) == nil {
		t.Errorf("one that is in use was given up, %v", err)
	}
	if err := x.end(ids[0]); err != nil {
		t.Error(err)
	}
	if err := x.end(ids[0]); err != nil {
		t.Error(err)
	}
	if _, _, err := x.begin(walk()); err != nil {
		t.Error(err)
	}
	if err := x.close(); err != nil {
		t.Error(err)
	}
	if err := store.Close(); err != nil {
		t.Error(err)
	}
}

// Pages are bounded by bytes and not by objects, and follow each other without a gap.
func TestExportPages(t *testing.T) {
	t.Parallel()
	store, err := storage.Open("data", storage.Options{FS: vfs.NewMem(), CacheBytes: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = store.Close() }()
	const objects, keys, valueBytes = 3, 50, 100 << 10
	record, err := storage.Record{Class: "C"}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	b := store.NewBatch()
	for n := range byte(objects) {
		ref := storage.ObjectRef{Class: "C", ID: placement.ObjectID{n}}
		b.Set(storage.AppendObjectKey(nil, 0, ref, storage.KindRecord, nil), record)
		for k := range byte(keys) {
			b.Set(storage.AppendObjectKey(nil, 0, ref, storage.KindKV, []byte{k}), make([]byte, valueBytes))
		}
	}
	if err := b.Commit(true); err != nil {
		t.Fatal(err)
	}
	_ = b.Close()
	walk, err := store.Walk(0, "C", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = walk.Close() }()
	e := &export{walk: walk}
	begun, ended, next, pages := 0, 0, 0, 0
	for last := false; !last; pages++ {
		var raw []byte
		if raw, last, err = e.page(); err != nil {
			t.Fatal(err)
		}
		if len(raw) > exportPageBytes+valueBytes+1<<10 {
			t.Errorf("page %d has %d bytes", pages, len(raw))
		}
		page := &holdfastv1.ExportObjectsResponse{}
		if err := proto.Unmarshal(raw, page); err != nil {
			t.Fatal(err)
		}
		for _, p := range page.GetParts() {
			switch {
			case p.GetBegin() != nil:
				if id := p.GetBegin().GetId(); int(id[0]) != begun {
					t.Errorf("object %d is %x", begun, id)
				}
				begun, next = begun+1, 0
			case p.GetEntry() != nil:
				if key := p.GetEntry().GetKey(); int(key[0]) != next {
					t.Errorf("object %d: key %d where %d belongs", begun, key[0], next)
				}
				next++
			default:
				if next != keys {
					t.Errorf("object %d has %d keys", begun, next)
				}
				ended++
			}
		}
	}
	if begun != objects || ended != objects || pages < objects*keys*valueBytes/(2*exportPageBytes) {
		t.Errorf("%d objects began and %d ended, on %d pages", begun, ended, pages)
	}
}
