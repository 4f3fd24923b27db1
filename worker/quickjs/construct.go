package quickjs

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"math/big"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
	"unsafe"

	"modernc.org/libc"
	lib "modernc.org/libquickjs"
)

// failed is what a value becomes that can't be made.
func failed() Value { return Value{tag: tagFailed - lib.EJS_TAG_UNDEFINED} }

// String makes a string of s, which is UTF-8 or WTF-8: lone surrogates are encoded like other characters. Bytes that are
// neither become U+FFFD each.
func (e *Engine) String(s string) Value {
	if e.usable() != nil {
		return failed()
	}
	s = wellFormed(s)
	v, ok := e.scratch.with(e.tls, s, func(p uintptr) lib.TJSValue {
		return lib.XJS_NewStringLen(e.tls, e.ctx, p, lib.Tsize_t(len(s)))
	})
	if !ok {
		return failed()
	}
	return e.made(v)
}

// wellFormed replaces what is no WTF-8 in s.
func wellFormed(s string) string {
	if utf8.ValidString(s) {
		return s
	}
	var out strings.Builder
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		switch {
		case r != utf8.RuneError || n > 1:
			out.WriteString(s[i : i+n])
		case i+2 < len(s) && s[i] == 0xed && s[i+1] >= 0xa0 && s[i+1] <= 0xbf && s[i+2]&0xc0 == 0x80:
			n = 3
			out.WriteString(s[i : i+n])
		default:
			out.WriteRune(utf8.RuneError)
		}
		i += n
	}
	return out.String()
}

// Text returns a string: UTF-8, with lone surrogates encoded like other characters (WTF-8), which is not valid UTF-8.
// See strings.ToValidUTF8, and ToText.
func (v Value) Text() (string, error) {
	if v.Kind() != String {
		return "", v.want("a string")
	}
	return v.ToText()
}

// ToText is String(v): also of objects, by their toString.
func (v Value) ToText() (string, error) {
	if v.e == nil && v.Err() == nil {
		return v.plainText(), nil
	}
	e, raw, err := v.use()
	if err != nil {
		return "", err
	}
	const size = 16
	length := e.tls.Alloc(size)
	defer e.tls.Free(size)
	p := lib.XJS_ToCStringLen2(e.tls, e.ctx, length, raw, 0)
	if p == 0 {
		return "", e.exception()
	}
	s := string(bytesAt(p, int(*at[lib.Tsize_t](length))))
	lib.XJS_FreeCString(e.tls, e.ctx, p)
	return s, nil
}

// plainText is the text of a value without an engine.
func (v Value) plainText() string {
	switch v.Kind() {
	case Null:
		return "null"
	case Boolean:
		return strconv.FormatBool(v.Truthy())
	case Number:
		f, _ := v.Float()
		switch {
		case f != f:
			return "NaN"
		case math.IsInf(f, 0):
			return strings.TrimPrefix(strconv.FormatFloat(f, 'g', -1, 64)+"inity", "+")
		default:
			text, _ := json.Marshal(f + 0) // -0 is 0; and this is JavaScript's form of numbers.
			return string(text)
		}
	default:
		return "undefined"
	}
}

// Object makes an empty object.
func (e *Engine) Object() Value {
	if e.usable() != nil {
		return failed()
	}
	return e.made(lib.XJS_NewObject(e.tls, e.ctx))
}

// Array makes an array.
func (e *Engine) Array(elements ...Value) Value {
	if e.usable() != nil {
		return failed()
	}
	out := e.made(lib.XJS_NewArray(e.tls, e.ctx))
	for i, v := range elements {
		if err := out.SetAt(uint32(i), v); err != nil {
			return failed()
		}
	}
	return out
}

// Date makes a Date of milliseconds since 1970; NaN makes an invalid one.
func (e *Engine) Date(ms float64) Value {
	if e.usable() != nil {
		return failed()
	}
	return e.made(lib.XJS_NewDate(e.tls, e.ctx, ms))
}

// BigInt makes a bigint.
func (e *Engine) BigInt(n *big.Int) Value {
	if e.usable() != nil {
		return failed()
	}
	if n.IsInt64() {
		return e.made(lib.XJS_NewBigInt64(e.tls, e.ctx, n.Int64()))
	}
	// Hexadecimal is read in linear time, but has no sign: a negative number goes in two's complement.
	bits := n.BitLen() + 1
	if n.Sign() < 0 {
		n = new(big.Int).Add(n, new(big.Int).Lsh(big.NewInt(1), uint(bits)))
	}
	v, err := e.borrow(e.intrinsics.bigint).Call(Value{}, e.String(fmt.Sprintf("%#x", n)))
	if err == nil {
		v, err = e.borrow(e.intrinsics.asIntN).Call(Value{}, IntValue(int64(bits)), v)
	}
	if err != nil {
		return failed()
	}
	return v
}

// BigInt returns a bigint.
func (v Value) BigInt() (*big.Int, error) {
	if v.Kind() != BigInt {
		return nil, v.want("a bigint")
	}
	e, raw, err := v.use()
	if err != nil {
		return nil, err
	}
	if tagOf(raw) == lib.EJS_TAG_SHORT_BIG_INT {
		return big.NewInt(int64(intOf(raw))), nil
	}
	text, err := e.borrow(e.intrinsics.bigintText).Call(v, IntValue(16))
	if err != nil {
		return nil, err
	}
	s, err := text.Text()
	if err != nil {
		return nil, err
	}
	n, ok := new(big.Int).SetString(s, 16)
	if !ok {
		return nil, fmt.Errorf("read a bigint: %q is no number", s)
	}
	return n, nil
}

// ArrayBuffer makes an ArrayBuffer with a copy of b.
func (e *Engine) ArrayBuffer(b []byte) Value {
	if e.usable() != nil {
		return failed()
	}
	// One byte at least: C's empty allocation is none.
	p := lib.Xjs_malloc(e.tls, e.ctx, lib.Tsize_t(max(1, len(b))))
	if p == 0 {
		e.dropException()
		return failed()
	}
	copy(bytesAt(p, len(b)), b)
	v := lib.XJS_NewArrayBuffer(e.tls, e.ctx, p, lib.Tsize_t(len(b)), pointer(onFreeBuffer), 0, 0)
	if isException(v) {
		lib.Xjs_free(e.tls, e.ctx, p)
	}
	return e.made(v)
}

func onFreeBuffer(tls *libc.TLS, rt, _, p uintptr) { lib.Xjs_free_rt(tls, rt, p) }

// Bytes makes a Uint8Array with a copy of b.
func (e *Engine) Bytes(b []byte) Value {
	buffer := e.ArrayBuffer(b)
	view, err := e.View(ClassUint8, buffer, 0, len(b))
	if err != nil {
		return failed()
	}
	return view
}

// View makes a typed array of a class, or a DataView, on length bytes of an ArrayBuffer.
func (e *Engine) View(class Class, buffer Value, offset, length int) (Value, error) {
	if err := e.usable(); err != nil {
		return Value{}, err
	}
	if class == ClassDataView {
		return e.borrow(e.intrinsics.dataView).New(buffer, IntValue(int64(offset)), IntValue(int64(length)))
	}
	if class < ClassUint8Clamped || class > ClassFloat64 {
		return Value{}, typeError("class %d is not one of typed arrays", class)
	}
	args, done, err := e.arguments([]Value{buffer, IntValue(int64(offset)), IntValue(int64(length / class.ElementSize()))})
	if err != nil {
		return Value{}, err
	}
	defer done()
	return e.result(lib.XJS_NewTypedArray(e.tls, e.ctx, 3, args, int32(class-ClassUint8Clamped)))
}

// ElementSize is the size of an element of a typed array, in bytes.
func (c Class) ElementSize() int {
	switch c {
	case ClassInt16, ClassUint16, ClassFloat16:
		return 2
	case ClassInt32, ClassUint32, ClassFloat32:
		return 4
	case ClassBigInt64, ClassBigUint64, ClassFloat64:
		return 8
	default:
		return 1
	}
}

// Bytes returns a copy of the bytes of an ArrayBuffer, a typed array or a DataView.
func (v Value) Bytes() ([]byte, error) {
	b, err := v.Peek()
	return slices.Clone(b), err
}

// Peek is Bytes without the copy: what it returns is the memory of the engine's, and must not be used after anything
// else was done with the engine.
func (v Value) Peek() ([]byte, error) {
	class := v.Class()
	if class == ClassNone {
		return nil, v.want("an ArrayBuffer, a typed array or a DataView")
	}
	_, raw, err := v.use()
	if err != nil {
		return nil, err
	}
	obj := at[lib.TJSObject](pointerOf(raw))
	switch {
	case class == ClassArrayBuffer || class == ClassShared:
		buffer, err := peekBuffer(obj)
		return buffer, err
	case class >= ClassUint8Clamped && class <= ClassFloat64:
		array := (*fastArray)(unsafe.Pointer(&obj.Fu))
		return bytesAt(array.data, int(array.count)*class.ElementSize()), nil
	case class == ClassDataView:
		return peekDataView(obj)
	default:
		return nil, v.want("an ArrayBuffer, a typed array or a DataView")
	}
}

// fastArray is what the engine keeps of a typed array whose buffer is there and large enough; else the count is 0.
type fastArray struct {
	_     uintptr
	data  uintptr
	count uint32
}

func peekBuffer(obj *lib.TJSObject) ([]byte, error) {
	buffer := at[lib.TJSArrayBuffer](*(*uintptr)(unsafe.Pointer(&obj.Fu)))
	if buffer.Fdetached != 0 {
		return nil, typeError("the ArrayBuffer is detached")
	}
	return bytesAt(buffer.Fdata, int(buffer.Fbyte_length)), nil
}

func peekDataView(obj *lib.TJSObject) ([]byte, error) {
	view := at[lib.TJSTypedArray](*(*uintptr)(unsafe.Pointer(&obj.Fu)))
	buffer, err := peekBuffer(at[lib.TJSObject](view.Fbuffer))
	if err != nil {
		return nil, err
	}
	start, end := int(view.Foffset), int(view.Foffset)+int(view.Flength)
	if view.Ftrack_rab != 0 {
		end = len(buffer)
	}
	if start > end || end > len(buffer) {
		return nil, typeError("the DataView is out of the bounds of its ArrayBuffer")
	}
	return buffer[start:end], nil
}

// From makes a value of a Go value: nil (null), booleans, integers, floats, strings, []byte (a Uint8Array), *big.Int
// (a bigint), error (an Error), []any, map[string]any, and Value as it is.
func (e *Engine) From(v any) (Value, error) {
	switch v := v.(type) {
	case nil:
		return NullValue(), nil
	case Value:
		return v, v.Err()
	case bool:
		return BoolValue(v), nil
	case int:
		return IntValue(int64(v)), nil
	case int32:
		return IntValue(int64(v)), nil
	case int64:
		return IntValue(v), nil
	case uint32:
		return IntValue(int64(v)), nil
	case float64:
		return FloatValue(v), nil
	case string:
		return made(e.String(v))
	case []byte:
		return made(e.Bytes(v))
	case *big.Int:
		return made(e.BigInt(v))
	case error:
		return made(e.Exception(v))
	case []any:
		out := e.Array()
		for i, element := range v {
			in, err := e.From(element)
			if err != nil {
				return Value{}, err
			}
			if err := out.SetAt(uint32(i), in); err != nil {
				return Value{}, err
			}
		}
		return made(out)
	case []string:
		out := e.Array()
		for i, s := range v {
			if err := out.SetAt(uint32(i), e.String(s)); err != nil {
				return Value{}, err
			}
		}
		return made(out)
	case map[string]any:
		out := e.Object()
		for _, key := range slices.Sorted(maps.Keys(v)) {
			in, err := e.From(v[key])
			if err != nil {
				return Value{}, err
			}
			if err := out.Define(key, in, Writable|Enumerable|Configurable); err != nil {
				return Value{}, err
			}
		}
		return made(out)
	default:
		return Value{}, fmt.Errorf("make a JavaScript value: %T is not one of the types that it can be made of", v)
	}
}

func made(v Value) (Value, error) { return v, v.Err() }
