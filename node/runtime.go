package node

import (
	"os"
	"runtime/debug"
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
		debug.SetMemoryLimit(memoryLimit(limit) / 10 * 9)
	}
}
