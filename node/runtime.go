package node

import (
	"os"
	"runtime/debug"

	"github.com/holdfast-io/holdfast/storage"
)

// gcPercent lets a node's heap grow to five times what is live before it is collected: what is live
// is small beside what calls allocate.
const gcPercent = 400

// TuneRuntime sets the process's garbage collector up for a node, for programs that do nothing
// else: lazy as long as there is memory, and diligent when limit bytes (0: what the machine, or
// its container, has) are near. GOGC and GOMEMLIMIT in the environment win.
func TuneRuntime(limit int64) {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	if os.Getenv("GOMEMLIMIT") == "" {
		limit = memoryLimit(limit)
		goLimit := limit / 20 * 17
		if storeIsOffHeap {
			cache, memtable := storeMemory(limit)
			goLimit -= cache + storage.MemtablesMax*memtable
		}
		debug.SetMemoryLimit(goLimit)
	}
}

// storeMemory returns how large the store's block cache and each of its memtables are, of a node with so
// much memory: with 2 GiB as large as they become.
func storeMemory(limit int64) (cache, memtable int64) {
	const most = 64 << 20
	return min(limit/16, most), min(limit/32, most)
}
