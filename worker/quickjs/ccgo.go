package quickjs

import (
	"math"
	"unsafe"

	"modernc.org/libc"
	lib "modernc.org/libquickjs"
)

// What C has in macros, for the 64-bit layout of values: 64 bits that depend on the tag, and the tag. A value with a
// negative tag is a pointer to something that counts its references.

const sizeofValue = int(unsafe.Sizeof(lib.TJSValue{}))

var (
	rawUndefined = lib.TJSValue{Ftag: lib.EJS_TAG_UNDEFINED}
	rawNull      = lib.TJSValue{Ftag: lib.EJS_TAG_NULL}
	rawException = lib.TJSValue{Ftag: lib.EJS_TAG_EXCEPTION}
)

func tagOf(v lib.TJSValue) int32       { return int32(v.Ftag) }
func counted(v lib.TJSValue) bool      { return v.Ftag < 0 }
func isException(v lib.TJSValue) bool  { return v.Ftag == lib.EJS_TAG_EXCEPTION }
func bitsOf(v lib.TJSValue) uint64     { return *(*uint64)(unsafe.Pointer(&v.Fu)) }
func pointerOf(v lib.TJSValue) uintptr { return uintptr(bitsOf(v)) }
func intOf(v lib.TJSValue) int32       { return int32(uint32(bitsOf(v))) }
func rawInt(n int32) lib.TJSValue      { return rawOf(lib.EJS_TAG_INT, uint64(uint32(n))) }
func rawFloat(f float64) lib.TJSValue  { return rawOf(lib.EJS_TAG_FLOAT64, math.Float64bits(f)) }
func rawOf(tag int32, bits uint64) lib.TJSValue {
	v := lib.TJSValue{Ftag: int64(tag)}
	*(*uint64)(unsafe.Pointer(&v.Fu)) = bits
	return v
}

func rawBool(b bool) lib.TJSValue {
	if b {
		return rawOf(lib.EJS_TAG_BOOL, 1)
	}
	return rawOf(lib.EJS_TAG_BOOL, 0)
}

func rawNumber(f float64) lib.TJSValue {
	if n := int32(f); float64(n) == f && (n != 0 || !math.Signbit(f)) {
		return rawInt(n)
	}
	return rawFloat(f)
}

// pointer is what C holds of a function: f is a declared function, which never moves.
func pointer(f any) uintptr {
	return (*[2]uintptr)(unsafe.Pointer(&f))[1]
}

// at gives access to memory of C's.
func at[T any](p uintptr) *T {
	return (*T)(unsafe.Add(nil, p))
}

// bytesAt is n bytes of C's at p.
func bytesAt(p uintptr, n int) []byte {
	if n == 0 {
		return nil
	}
	return unsafe.Slice(at[byte](p), n)
}

// dup counts one more reference to v.
func dup(v lib.TJSValue) lib.TJSValue {
	if counted(v) {
		*at[int32](pointerOf(v) - 4)++
	}
	return v
}

func (e *Engine) free(v lib.TJSValue) {
	if counted(v) {
		lib.XFreeValue(e.tls, e.ctx, v)
	}
}

// buffer is memory of C's in which strings are handed over.
type buffer struct{ p uintptr }

// What the buffer keeps for the next string, in bytes.
const bufferMax = 64 << 10

// with calls f with a copy of s and a zero behind it, for the time of the call.
func (b *buffer) with(tls *libc.TLS, s string, f func(p uintptr) lib.TJSValue) (lib.TJSValue, bool) {
	if len(s) < bufferMax {
		if b.p == 0 {
			if b.p = libc.Xmalloc(tls, bufferMax); b.p == 0 {
				return rawException, false
			}
		}
		fill(b.p, s)
		return f(b.p), true
	}
	p := libc.Xmalloc(tls, lib.Tsize_t(len(s)+1))
	if p == 0 {
		return rawException, false
	}
	defer libc.Xfree(tls, p)
	fill(p, s)
	return f(p), true
}

func fill(p uintptr, s string) {
	copy(bytesAt(p, len(s)), s)
	*at[byte](p + uintptr(len(s))) = 0
}

func (b *buffer) free(tls *libc.TLS) {
	if b.p != 0 {
		libc.Xfree(tls, b.p)
		b.p = 0
	}
}

// arguments puts raw values where C finds them, for the time of a call; done gives the place back.
func (e *Engine) arguments(args []Value) (p uintptr, done func(), err error) {
	n := max(1, len(args)) * sizeofValue
	p = e.tls.Alloc(n)
	for i, a := range args {
		v, err := e.raw(a)
		if err != nil {
			e.tls.Free(n)
			return 0, nil, err
		}
		*at[lib.TJSValue](p + uintptr(i*sizeofValue)) = v
	}
	return p, func() { e.tls.Free(n) }, nil
}

// A table gives things of Go's numbers, by which C knows them.
type table[T any] struct {
	all  []T
	gaps []int
}

func (t *table[T]) add(v T) int {
	if n := len(t.gaps); n > 0 {
		i := t.gaps[n-1]
		t.gaps = t.gaps[:n-1]
		t.all[i] = v
		return i
	}
	t.all = append(t.all, v)
	return len(t.all) - 1
}

func (t *table[T]) remove(i int) {
	var none T
	t.all[i] = none
	t.gaps = append(t.gaps, i)
}
