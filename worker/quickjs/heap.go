package quickjs

import (
	"unsafe"

	"modernc.org/libc"
	lib "modernc.org/libquickjs"
	"modernc.org/memory"
)

// heap is the memory of one engine. Engines do not share an allocator, so that they do not wait for each other, and so
// that closing one gives all of its memory back, whatever state it is in.
type heap struct {
	memory.Allocator
	blocks  int  // that are in use
	refused bool // since exception looked last, the engine did not get a block for its limit
	ever    bool // that was so at some time
}

// newRuntime makes a JSRuntime on the engine's own heap.
func (e *Engine) newRuntime() uintptr {
	size := int(unsafe.Sizeof(lib.TJSMallocFunctions{}))
	functions := e.tls.Alloc(size)
	defer e.tls.Free(size)
	*at[lib.TJSMallocFunctions](functions) = lib.TJSMallocFunctions{
		Fjs_malloc:             pointer(onMalloc),
		Fjs_free:               pointer(onFree),
		Fjs_realloc:            pointer(onRealloc),
		Fjs_malloc_usable_size: pointer(onUsableSize),
	}
	return lib.XJS_NewRuntime2(e.tls, functions, 0)
}

// What the engine counts on top of each block, for its limit.
const blockOverhead = lib.Tsize_t(lib.MMALLOC_OVERHEAD)

// sizeOf is what a block takes from the engine's limit.
func sizeOf(p uintptr) lib.Tsize_t {
	return lib.Tsize_t(memory.UintptrUsableSize(p)) + blockOverhead
}

// blockMax is above what any block can be.
const blockMax = 1 << 40

func hasRoom(s *lib.TJSMallocState, used, size lib.Tsize_t) bool {
	return size <= min(blockMax, s.Fmalloc_limit) && used <= s.Fmalloc_limit-size
}

func onMalloc(tls *libc.TLS, state uintptr, size lib.Tsize_t) uintptr {
	s := at[lib.TJSMallocState](state)
	h := &engineOf(tls).heap
	if !hasRoom(s, s.Fmalloc_size, size) {
		h.refused, h.ever = true, true
		return 0
	}
	p, err := h.UintptrMalloc(int(size))
	if err != nil {
		return 0
	}
	h.blocks++
	s.Fmalloc_count++
	s.Fmalloc_size += sizeOf(p)
	return p
}

func onFree(tls *libc.TLS, state, p uintptr) {
	if p == 0 {
		return
	}
	s := at[lib.TJSMallocState](state)
	s.Fmalloc_count--
	s.Fmalloc_size -= sizeOf(p)
	h := &engineOf(tls).heap
	h.blocks--
	_ = h.UintptrFree(p) // Only unmapping can fail, and then the memory stays.
}

func onRealloc(tls *libc.TLS, state, p uintptr, size lib.Tsize_t) uintptr {
	switch {
	case p == 0:
		return onMalloc(tls, state, size)
	case size == 0:
		onFree(tls, state, p)
		return 0
	}
	s := at[lib.TJSMallocState](state)
	old := sizeOf(p)
	h := &engineOf(tls).heap
	if !hasRoom(s, s.Fmalloc_size-old, size) {
		h.refused, h.ever = true, true
		return 0
	}
	out, err := h.UintptrRealloc(p, int(size))
	if err != nil {
		return 0
	}
	s.Fmalloc_size += sizeOf(out) - old
	return out
}

func onUsableSize(_ *libc.TLS, p uintptr) lib.Tsize_t {
	return lib.Tsize_t(memory.UintptrUsableSize(p))
}
