//go:build cgo

package node

// storeIsOffHeap: pebble takes its cache and memtables from C, where the garbage collector does not count them.
const storeIsOffHeap = true
