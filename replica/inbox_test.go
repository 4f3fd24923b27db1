package replica

import (
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/holdfast-io/holdfast/storage"
)

// Frames that wait for the loop are bounded by their bytes too; what is over the bound is dropped, and
// when the loop has taken them there is room again.
func TestFramesThatComeInAreBoundedByTheirBytes(t *testing.T) {
	store, err := storage.Open("data", storage.Options{FS: vfs.NewMem()})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = store.Close() }()
	h, err := New(Config{Node: 1, Shards: 1, Store: store})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = h.Close() }()
	frame := make([]byte, frameBytesMax)
	for range 2 {
		const fit = inboxBytesMax / frameBytesMax
		for range fit + 2 {
			h.Receive(2, frame)
		}
		in := h.swap()
		if len(in.frames) != fit {
			t.Errorf("%d frames of %d bytes wait, want %d", len(in.frames), frameBytesMax, fit)
		}
		if dropped := h.counters.framesDropped.Swap(0); dropped != 2 {
			t.Errorf("%d were dropped", dropped)
		}
		h.recycle(in)
	}
}
