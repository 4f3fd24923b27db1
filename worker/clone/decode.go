package clone

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/big"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/holdfast-io/holdfast/storage/value"
	"github.com/holdfast-io/holdfast/worker/quickjs"
)

// Decode makes a value of what Encode made, or of what Go wrote: maps become objects, byte strings Uint8Arrays, times
// Dates, integers beyond what numbers hold exactly bigints, and a protobuf message {"@type": its name, value: its bytes}.
// The value belongs to the scope of the caller.
func Decode(e *quickjs.Engine, b []byte, o Options) (quickjs.Value, error) {
	if len(b) > o.sizeMax() {
		return quickjs.Value{}, tooLarge(o.sizeMax(), o.sizeMax())
	}
	d := decoder{engine: e, in: b, options: o}
	defer d.freeShared()
	v, err := d.value(0)
	if err == nil && len(d.in) > 0 {
		err = malformed("%d bytes are left over", len(d.in))
	}
	if err != nil {
		return quickjs.Value{}, err
	}
	return v, nil
}

type decoder struct {
	engine  *quickjs.Engine
	in      []byte // what is left
	options Options
	shared  []*quickjs.Ref // what may be referred to, by number; nil while it is being made
	pending int            // 1 + the number that the next value has, or 0
}

func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrMalformed, fmt.Sprintf(format, args...))
}

func (d *decoder) freeShared() {
	for _, ref := range d.shared {
		ref.Free()
	}
}

// share notes v, which has just been made, as what may be referred to, if it was announced so.
func (d *decoder) share(v quickjs.Value) error {
	if d.pending == 0 {
		return v.Err()
	}
	ref, err := v.Keep()
	if err != nil {
		return err
	}
	d.shared[d.pending-1] = ref
	d.pending = 0
	return nil
}

// head reads the first bytes of an item.
func (d *decoder) head() (major byte, n uint64, err error) {
	if len(d.in) == 0 {
		return 0, 0, malformed("they end early")
	}
	first := d.in[0]
	major, n = first>>5, uint64(first&0x1f)
	size := 0
	switch {
	case n < 24:
	case n <= 27:
		size = 1 << (n - 24)
	default:
		return 0, 0, malformed("the byte %#x begins nothing that is in use", first)
	}
	if len(d.in) < 1+size {
		return 0, 0, malformed("they end early")
	}
	b := d.in[1 : 1+size]
	switch size {
	case 1:
		n = uint64(b[0])
	case 2:
		n = uint64(binary.BigEndian.Uint16(b))
	case 4:
		n = uint64(binary.BigEndian.Uint32(b))
	case 8:
		n = binary.BigEndian.Uint64(b)
	}
	d.in = d.in[1+size:]
	return major, n, nil
}

// take reads n bytes.
func (d *decoder) take(n uint64) ([]byte, error) {
	if n > uint64(len(d.in)) {
		return nil, malformed("%d bytes are announced, and %d are there", n, len(d.in))
	}
	b := d.in[:n]
	d.in = d.in[n:]
	return b, nil
}

// expect reads a head with the given major type.
func (d *decoder) expect(want byte, what string) (uint64, error) {
	major, n, err := d.head()
	if err == nil && major != want {
		err = malformed("%s is needed where there is something else", what)
	}
	return n, err
}

// members checks a number of members, each of which takes size bytes at least.
func (d *decoder) members(n, size uint64) (int, error) {
	if n > uint64(len(d.in))/size {
		return 0, malformed("%d members are announced, for which there are not bytes enough", n)
	}
	return int(n), nil
}

func (d *decoder) value(depth int) (quickjs.Value, error) {
	if depth > value.DepthMax {
		return quickjs.Value{}, malformed("they are nested deeper than %d levels", value.DepthMax)
	}
	first := byte(0)
	if len(d.in) > 0 {
		first = d.in[0]
	}
	major, n, err := d.head()
	if err != nil {
		return quickjs.Value{}, err
	}
	if d.pending != 0 && (major == majorUint || major == majorNegint || major == majorText || major == majorOther) {
		return quickjs.Value{}, malformed("a primitive is shared")
	}
	switch major {
	case majorUint:
		if n <= maxSafe {
			return quickjs.IntValue(int64(n)), nil
		}
		return made(d.engine.BigInt(new(big.Int).SetUint64(n)))
	case majorNegint:
		if n < maxSafe {
			return quickjs.IntValue(-1 - int64(n)), nil
		}
		return made(d.engine.BigInt(new(big.Int).Not(new(big.Int).SetUint64(n))))
	case majorBytes:
		b, err := d.take(n)
		if err != nil {
			return quickjs.Value{}, err
		}
		v := d.engine.Bytes(b)
		return v, d.share(v)
	case majorText:
		s, err := d.utf8(n)
		if err != nil {
			return quickjs.Value{}, err
		}
		return made(d.engine.String(s))
	case majorArray:
		return d.array(n, depth)
	case majorMap:
		v := d.engine.Object()
		if err := d.share(v); err != nil {
			return quickjs.Value{}, err
		}
		return v, d.properties(v, n, depth)
	case majorTag:
		return d.tagged(n, depth)
	default:
		return simple(first, n)
	}
}

const maxSafe = 1<<53 - 1

func made(v quickjs.Value) (quickjs.Value, error) { return v, v.Err() }

func (d *decoder) utf8(n uint64) (string, error) {
	b, err := d.take(n)
	if err != nil {
		return "", err
	}
	if !utf8.Valid(b) {
		return "", malformed("a text is no UTF-8")
	}
	return string(b), nil
}

// simple is what stands for itself, and floats.
func simple(first byte, n uint64) (quickjs.Value, error) {
	switch first {
	case byteFalse, byteTrue:
		return quickjs.BoolValue(first == byteTrue), nil
	case byteNull:
		return quickjs.NullValue(), nil
	case byteUndefined:
		return quickjs.Value{}, nil
	case byteFloat16:
		return quickjs.FloatValue(halfFloat(uint16(n))), nil
	case byteFloat32:
		return quickjs.FloatValue(float64(math.Float32frombits(uint32(n)))), nil
	case byteFloat64:
		return quickjs.FloatValue(math.Float64frombits(n)), nil
	default:
		return quickjs.Value{}, malformed("the byte %#x stands for nothing", first)
	}
}

func halfFloat(bits uint16) float64 {
	exponent, fraction := int(bits>>10&0x1f), float64(bits&0x3ff)
	var f float64
	switch exponent {
	case 0:
		f = math.Ldexp(fraction, -24)
	case 0x1f:
		f = math.Inf(1)
		if fraction != 0 {
			f = math.NaN()
		}
	default:
		f = math.Ldexp(fraction+1024, exponent-25)
	}
	if bits&0x8000 != 0 {
		f = -f
	}
	return f
}

// member makes a value in a scope of its own, and has use put it where it belongs.
func (d *decoder) member(depth int, use func(quickjs.Value) error) error {
	_, err := d.engine.Scope(func() (quickjs.Value, error) {
		v, err := d.value(depth + 1)
		if err != nil {
			return quickjs.Value{}, err
		}
		return quickjs.Value{}, use(v)
	})
	return err
}

func (d *decoder) array(n uint64, depth int) (quickjs.Value, error) {
	length, err := d.members(n, 1)
	if err != nil {
		return quickjs.Value{}, err
	}
	v := d.engine.Array()
	if err := d.share(v); err != nil {
		return quickjs.Value{}, err
	}
	for i := range length {
		if err := d.member(depth, func(element quickjs.Value) error { return v.DefineAt(uint32(i), element) }); err != nil {
			return quickjs.Value{}, err
		}
	}
	return v, nil
}

// key reads the name of a property. Go's maps may have numbers for keys.
func (d *decoder) key() (string, error) {
	major, n, err := d.head()
	if err != nil {
		return "", err
	}
	switch {
	case major == majorText:
		return d.utf8(n)
	case major == majorUint:
		return strconv.FormatUint(n, 10), nil
	case major == majorNegint:
		return new(big.Int).Not(new(big.Int).SetUint64(n)).String(), nil
	case major == majorTag && n == tagWTF8:
		return d.wtf8()
	default:
		return "", malformed("the keys of a map are neither text nor integers")
	}
}

func (d *decoder) wtf8() (string, error) {
	n, err := d.expect(majorBytes, "a byte string")
	if err != nil {
		return "", err
	}
	b, err := d.take(n)
	return string(b), err
}

// properties reads n members of a map into v.
func (d *decoder) properties(v quickjs.Value, n uint64, depth int) error {
	count, err := d.members(n, 2)
	if err != nil {
		return err
	}
	for range count {
		key, err := d.key()
		if err != nil {
			return err
		}
		if err := d.member(depth, func(member quickjs.Value) error { return v.Define(key, member, all) }); err != nil {
			return err
		}
	}
	return nil
}

const all = quickjs.Writable | quickjs.Enumerable | quickjs.Configurable

func (d *decoder) tagged(tag uint64, depth int) (quickjs.Value, error) {
	switch tag {
	case tagShareable:
		if d.pending != 0 {
			return quickjs.Value{}, malformed("a value is shared twice")
		}
		d.shared = append(d.shared, nil)
		d.pending = len(d.shared)
		v, err := d.value(depth + 1)
		if err == nil && d.pending != 0 {
			err = malformed("a primitive is shared")
		}
		return v, err
	case tagShared:
		return d.reference()
	case tagTime, tagBigint, tagNegBigint, tagWTF8:
		if d.pending != 0 && tag != tagTime {
			return quickjs.Value{}, malformed("a primitive is shared")
		}
		return d.standard(tag)
	case value.TagDate:
		ms, err := d.primitive(depth, quickjs.Number)
		if err != nil {
			return quickjs.Value{}, err
		}
		f, err := ms.Float()
		if err != nil {
			return quickjs.Value{}, err
		}
		v := d.engine.Date(f)
		return v, d.share(v)
	case value.TagRegExp:
		return d.regexp()
	case value.TagMap, value.TagSet:
		return d.collection(tag, depth)
	case value.TagError:
		return d.error(depth)
	case value.TagView:
		return d.view(depth)
	case value.TagSparse:
		return d.sparse(depth)
	case value.TagArrayBuffer:
		b, err := d.byteString()
		if err != nil {
			return quickjs.Value{}, err
		}
		v := d.engine.ArrayBuffer(b)
		return v, d.share(v)
	case value.TagBoxed:
		return d.boxed(depth)
	case value.TagProto:
		return d.protobuf()
	case value.TagReplaced:
		return d.revived(depth)
	case value.TagDataView:
		return d.typedArray(quickjs.ClassDataView)
	}
	if class, ok := viewClasses[tag]; ok {
		return d.typedArray(class)
	}
	return quickjs.Value{}, malformed("the tag %d is unknown", tag)
}

func (d *decoder) reference() (quickjs.Value, error) {
	if d.pending != 0 {
		return quickjs.Value{}, malformed("a reference is shared")
	}
	n, err := d.expect(majorUint, "a number")
	switch {
	case err != nil:
		return quickjs.Value{}, err
	case n >= uint64(len(d.shared)) || d.shared[n] == nil:
		return quickjs.Value{}, malformed("there is no value %d to refer to", n)
	default:
		return d.shared[n].Value(), nil
	}
}

func (d *decoder) byteString() ([]byte, error) {
	n, err := d.expect(majorBytes, "a byte string")
	if err != nil {
		return nil, err
	}
	return d.take(n)
}

func (d *decoder) textString() (string, error) {
	major, n, err := d.head()
	switch {
	case err != nil:
		return "", err
	case major == majorText:
		return d.utf8(n)
	case major == majorTag && n == tagWTF8:
		return d.wtf8()
	default:
		return "", malformed("a text is needed where there is something else")
	}
}

// standard reads what the tags of others announce.
func (d *decoder) standard(tag uint64) (quickjs.Value, error) {
	switch tag {
	case tagTime:
		s, err := d.textString()
		if err != nil {
			return quickjs.Value{}, err
		}
		t, err := time.Parse(time.RFC3339Nano, s)
		if err != nil {
			return quickjs.Value{}, malformed("%q is no time", s)
		}
		v := d.engine.Date(float64(t.UnixMilli()))
		return v, d.share(v)
	case tagWTF8:
		s, err := d.wtf8()
		if err != nil {
			return quickjs.Value{}, err
		}
		return made(d.engine.String(s))
	default:
		b, err := d.byteString()
		if err != nil {
			return quickjs.Value{}, err
		}
		n := new(big.Int).SetBytes(b)
		if tag == tagNegBigint {
			n.Not(n)
		}
		return made(d.engine.BigInt(n))
	}
}

// primitive reads a value that is one, of a kind.
func (d *decoder) primitive(depth int, kinds ...quickjs.Kind) (quickjs.Value, error) {
	pending := d.pending
	d.pending = 0
	v, err := d.value(depth + 1)
	if err == nil && !slices.Contains(kinds, v.Kind()) {
		err = malformed("a primitive is needed where there is %s", v.Kind())
	}
	d.pending = pending
	return v, err
}

func (d *decoder) regexp() (quickjs.Value, error) {
	n, err := d.expect(majorArray, "an array")
	if err != nil {
		return quickjs.Value{}, err
	}
	if n != 2 {
		return quickjs.Value{}, malformed("a regular expression has %d parts", n)
	}
	source, err := d.textString()
	if err != nil {
		return quickjs.Value{}, err
	}
	flags, err := d.textString()
	if err != nil {
		return quickjs.Value{}, err
	}
	v, err := d.engine.RegExp(source, flags)
	if err != nil {
		return quickjs.Value{}, bad("a regular expression", err)
	}
	return v, d.share(v)
}

// bad is the error for what the engine refused to make. What ends the engine's work stays what it is.
func bad(what string, err error) error {
	var thrown *quickjs.Error
	if errors.As(err, &thrown) && !errors.Is(err, quickjs.ErrOutOfMemory) && !errors.Is(err, quickjs.ErrStackOverflow) {
		return malformed("%s: %v", what, err)
	}
	return err
}

func (d *decoder) collection(tag uint64, depth int) (quickjs.Value, error) {
	n, err := d.expect(majorArray, "an array")
	if err != nil {
		return quickjs.Value{}, err
	}
	count, err := d.members(n, 1)
	if err != nil {
		return quickjs.Value{}, err
	}
	if tag == value.TagSet {
		v := d.engine.Set()
		if err := d.share(v); err != nil {
			return quickjs.Value{}, err
		}
		for range count {
			if err := d.member(depth, v.PutElement); err != nil {
				return quickjs.Value{}, err
			}
		}
		return v, nil
	}
	if count%2 != 0 {
		return quickjs.Value{}, malformed("a Map has a key without a value")
	}
	v := d.engine.Map()
	if err := d.share(v); err != nil {
		return quickjs.Value{}, err
	}
	for range count / 2 {
		err := d.member(depth, func(key quickjs.Value) error {
			return d.member(depth, func(member quickjs.Value) error { return v.PutEntry(key, member) })
		})
		if err != nil {
			return quickjs.Value{}, err
		}
	}
	return v, nil
}

// error reads an error. It has to be there before its members are read, which may refer to it, and its class is one of
// them: it comes first.
func (d *decoder) error(depth int) (quickjs.Value, error) {
	n, err := d.expect(majorMap, "a map")
	if err != nil {
		return quickjs.Value{}, err
	}
	count, err := d.members(n, 2)
	if err != nil {
		return quickjs.Value{}, err
	}
	if count == 0 {
		return quickjs.Value{}, malformed("an error has no name")
	}
	if key, err := d.textString(); err != nil || key != keyName {
		return quickjs.Value{}, malformed("an error does not begin with its name")
	}
	name, err := d.textString()
	if err != nil {
		return quickjs.Value{}, err
	}
	if !slices.Contains(errorNames, name) {
		return quickjs.Value{}, malformed("%q is no class of errors", name)
	}
	v := d.engine.NewError(name)
	if err := d.share(v); err != nil {
		return quickjs.Value{}, err
	}
	for range count - 1 {
		key, err := d.textString()
		if err != nil {
			return quickjs.Value{}, err
		}
		switch key {
		case keyMessage, keyStack, keyCause:
			err = d.member(depth, func(member quickjs.Value) error {
				return v.Define(key, member, quickjs.Writable|quickjs.Configurable)
			})
		case keyProps:
			var props uint64
			if props, err = d.expect(majorMap, "a map"); err == nil {
				err = d.properties(v, props, depth)
			}
		default:
			err = malformed("an error has no %q", key)
		}
		if err != nil {
			return quickjs.Value{}, err
		}
	}
	return v, nil
}

func (d *decoder) typedArray(class quickjs.Class) (quickjs.Value, error) {
	b, err := d.byteString()
	if err != nil {
		return quickjs.Value{}, err
	}
	if len(b)%class.ElementSize() != 0 {
		return quickjs.Value{}, malformed("%d bytes are no whole elements of %d", len(b), class.ElementSize())
	}
	v, err := d.engine.View(class, d.engine.ArrayBuffer(b), 0, len(b))
	if err != nil {
		return quickjs.Value{}, err
	}
	return v, d.share(v)
}

// view reads a view on a buffer that others use as well.
func (d *decoder) view(depth int) (quickjs.Value, error) {
	n, err := d.expect(majorArray, "an array")
	if err != nil {
		return quickjs.Value{}, err
	}
	if n != 4 {
		return quickjs.Value{}, malformed("a view has %d parts", n)
	}
	number, err := d.expect(majorUint, "a number")
	if err != nil {
		return quickjs.Value{}, err
	}
	class, ok := viewClasses[number]
	if number == 0 {
		class, ok = quickjs.ClassDataView, true
	}
	if !ok {
		return quickjs.Value{}, malformed("there are no views %d", number)
	}
	pending := d.pending
	d.pending = 0
	buffer, err := d.value(depth + 1)
	if err != nil {
		return quickjs.Value{}, err
	}
	d.pending = pending
	if buffer.Class() != quickjs.ClassArrayBuffer {
		return quickjs.Value{}, malformed("a view is on something else than an ArrayBuffer")
	}
	offset, err := d.expect(majorUint, "a number")
	if err != nil {
		return quickjs.Value{}, err
	}
	length, err := d.expect(majorUint, "a number")
	if err != nil {
		return quickjs.Value{}, err
	}
	if limit := uint64(d.options.sizeMax()); offset > limit || length > limit || length%uint64(class.ElementSize()) != 0 {
		return quickjs.Value{}, malformed("a view goes from %d for %d bytes", offset, length)
	}
	v, err := d.engine.View(class, buffer, int(offset), int(length))
	if err != nil {
		return quickjs.Value{}, bad("a view", err)
	}
	return v, d.share(v)
}

// sparse reads an array with holes or properties.
func (d *decoder) sparse(depth int) (quickjs.Value, error) {
	n, err := d.expect(majorArray, "an array")
	if err != nil {
		return quickjs.Value{}, err
	}
	if n != 2 {
		return quickjs.Value{}, malformed("an array with holes has %d parts", n)
	}
	length, err := d.expect(majorUint, "a number")
	if err != nil {
		return quickjs.Value{}, err
	}
	if length > math.MaxUint32 {
		return quickjs.Value{}, malformed("an array has %d elements", length)
	}
	v := d.engine.Array()
	if err := d.share(v); err != nil {
		return quickjs.Value{}, err
	}
	if err := v.Set("length", quickjs.IntValue(int64(length))); err != nil {
		return quickjs.Value{}, err
	}
	if n, err = d.expect(majorMap, "a map"); err != nil {
		return quickjs.Value{}, err
	}
	count, err := d.members(n, 2)
	if err != nil {
		return quickjs.Value{}, err
	}
	for range count {
		key, err := d.key()
		if err != nil {
			return quickjs.Value{}, err
		}
		if i, ok := arrayIndex(key); key == "length" || ok && i >= length {
			return quickjs.Value{}, malformed("an array of %d elements has a %q", length, key)
		}
		if err := d.member(depth, func(member quickjs.Value) error { return v.Define(key, member, all) }); err != nil {
			return quickjs.Value{}, err
		}
	}
	return v, nil
}

func (d *decoder) boxed(depth int) (quickjs.Value, error) {
	inner, err := d.primitive(depth, quickjs.Number, quickjs.String, quickjs.Boolean, quickjs.BigInt)
	if err != nil {
		return quickjs.Value{}, err
	}
	v, err := d.engine.Box(inner)
	if err != nil {
		return quickjs.Value{}, err
	}
	return v, d.share(v)
}

// protobuf reads a message of Go's, which stays one when it is written again.
func (d *decoder) protobuf() (quickjs.Value, error) {
	n, err := d.expect(majorArray, "an array")
	if err != nil {
		return quickjs.Value{}, err
	}
	if n != 2 {
		return quickjs.Value{}, malformed("a protobuf message has %d parts", n)
	}
	v := d.engine.Object()
	if err := d.share(v); err != nil {
		return quickjs.Value{}, err
	}
	name, err := d.textString()
	if err != nil {
		return quickjs.Value{}, err
	}
	body, err := d.byteString()
	if err != nil {
		return quickjs.Value{}, err
	}
	return v, errors.Join(v.Define(protoType, d.engine.String(name), all), v.Define(protoValue, d.engine.Bytes(body), all))
}

func (d *decoder) revived(depth int) (quickjs.Value, error) {
	if d.options.Revive == nil {
		return quickjs.Value{}, malformed("something is in them that no value can have")
	}
	pending := d.pending
	d.pending = 0
	replacement, err := d.value(depth + 1)
	if err != nil {
		return quickjs.Value{}, err
	}
	v, err := d.options.Revive(replacement)
	if err != nil {
		return quickjs.Value{}, err
	}
	d.pending = pending
	return v, d.share(v)
}
