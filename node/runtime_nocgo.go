//go:build !cgo

package node

// storeIsOffHeap: pebble takes its cache and memtables from Go's heap.
const storeIsOffHeap = false
