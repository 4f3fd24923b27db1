package clone

import (
	"encoding/binary"
	"errors"
	"math"
	"math/big"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/holdfast-io/holdfast/storage/value"
	"github.com/holdfast-io/holdfast/worker/quickjs"
)

// Encode returns v as one CBOR item. It reads v's properties, and so runs its getters.
func Encode(e *quickjs.Engine, v quickjs.Value, o Options) ([]byte, error) {
	enc := encoder{engine: e, options: o, max: o.sizeMax()}
	if err := enc.value(v, 0); err != nil {
		return nil, err
	}
	out := enc.finish()
	if len(out) > enc.max {
		return nil, tooLarge(len(out), enc.max)
	}
	return out, nil
}

type encoder struct {
	engine  *quickjs.Engine
	options Options
	max     int
	out     []byte

	// seen are the objects met so far, in the order of their places in out. They stay alive: the caller's scope has them.
	seen  []seen
	index map[uint64]int // of seen, once there are many
	// again are the places in out that stand for an object met before.
	again []reference
	// buffers are the ArrayBuffers met so far, themselves or below views.
	buffers []*buffer
	views   []view
}

// seen is an object that was met.
type seen struct {
	identity uint64
	start    int     // its place in out
	shared   bool    // it was met again
	number   int     // among those that are shared
	buffer   *buffer // that it is
}

type reference struct{ place, object int }

// buffer is an ArrayBuffer that was met.
type buffer struct {
	value  quickjs.Value
	uses   int // by itself and by views
	number int // among what is shared, or -1
}

// view is a stretch of out that has a buffer, or what a view shows of it: it is written anew when the buffer has more
// than one use.
type view struct {
	start, end     int
	class          quickjs.Class // ClassArrayBuffer for the buffer itself
	buffer         *buffer
	offset, length int
}

// met says whether an object was met before, and notes it.
func (enc *encoder) met(v quickjs.Value) bool {
	id := v.Identity()
	i, ok := enc.index[id]
	if enc.index == nil {
		i = slices.IndexFunc(enc.seen, func(s seen) bool { return s.identity == id })
		ok = i >= 0
	}
	if ok {
		enc.seen[i].shared = true
		enc.again = append(enc.again, reference{place: len(enc.out), object: i})
		enc.out = append(enc.out, 0)
		return true
	}
	enc.seen = append(enc.seen, seen{identity: id, start: len(enc.out)})
	switch n := len(enc.seen); {
	case enc.index != nil:
		enc.index[id] = n - 1
	case n > seenFew:
		enc.index = make(map[uint64]int)
		for i, s := range enc.seen {
			enc.index[s.identity] = i
		}
	}
	return false
}

// Up to so many objects are searched one by one.
const seenFew = 12

func (enc *encoder) head(major byte, n uint64) {
	enc.out = appendHead(enc.out, major, n)
}

func appendHead(out []byte, major byte, n uint64) []byte { return value.AppendHead(out, major<<5, n) }

func (enc *encoder) tag(n uint64) { enc.head(majorTag, n) }

// text is a string: one with lone surrogates is no UTF-8.
func (enc *encoder) text(s string) {
	if utf8.ValidString(s) {
		enc.head(majorText, uint64(len(s)))
	} else {
		enc.tag(tagWTF8)
		enc.head(majorBytes, uint64(len(s)))
	}
	enc.out = append(enc.out, s...)
}

func (enc *encoder) bytes(b []byte) {
	enc.head(majorBytes, uint64(len(b)))
	enc.out = append(enc.out, b...)
}

func (enc *encoder) number(f float64) {
	n := int64(f)
	switch {
	case float64(n) == f && n > -1<<53 && n < 1<<53 && (n != 0 || !math.Signbit(f)):
		if n < 0 {
			enc.head(majorNegint, uint64(-1-n))
		} else {
			enc.head(majorUint, uint64(n))
		}
	case f != f:
		enc.out = append(enc.out, byteFloat16, 0x7e, 0x00)
	default:
		enc.out = binary.BigEndian.AppendUint64(append(enc.out, byteFloat64), math.Float64bits(f))
	}
}

func (enc *encoder) bigint(n *big.Int) {
	if n.Sign() < 0 {
		enc.tag(tagNegBigint)
		n = new(big.Int).Not(n)
	} else {
		enc.tag(tagBigint)
	}
	enc.bytes(n.Bytes())
}

func (enc *encoder) value(v quickjs.Value, depth int) error {
	if len(enc.out) > enc.max {
		return tooLarge(enc.max, enc.max)
	}
	switch v.Kind() {
	case quickjs.Undefined:
		if err := v.Err(); err != nil {
			return err
		}
		enc.out = append(enc.out, byteUndefined)
	case quickjs.Null:
		enc.out = append(enc.out, byteNull)
	case quickjs.Boolean:
		if b, _ := v.Bool(); b {
			enc.out = append(enc.out, byteTrue)
		} else {
			enc.out = append(enc.out, byteFalse)
		}
	case quickjs.Number:
		f, _ := v.Float()
		enc.number(f)
	case quickjs.BigInt:
		n, err := v.BigInt()
		if err != nil {
			return err
		}
		enc.bigint(n)
	case quickjs.String:
		s, err := v.Text()
		if err != nil {
			return err
		}
		enc.text(s)
	case quickjs.Symbol:
		return refuse(describe(v))
	default:
		return enc.object(v, depth)
	}
	return nil
}

// describe names what can't be cloned, as other engines do.
func describe(v quickjs.Value) string {
	if v.Kind() == quickjs.Symbol {
		if text, err := v.Invoke("toString"); err == nil {
			if s, err := text.Text(); err == nil {
				return s
			}
		}
		return "A symbol"
	}
	if v.IsFunction() {
		if s, err := v.ToText(); err == nil {
			return s
		}
		return "A function"
	}
	return "#<" + className(v) + ">"
}

func className(v quickjs.Value) string {
	if v.Class() != quickjs.ClassProxy {
		if class, err := v.Get("constructor"); err == nil && class.IsFunction() {
			if name, err := class.Get("name"); err == nil {
				if s, err := name.Text(); err == nil && s != "" {
					return s
				}
			}
		}
	}
	return "Object"
}

func (enc *encoder) object(v quickjs.Value, depth int) error {
	if err := v.Err(); err != nil {
		return err
	}
	if depth >= DepthMax {
		return &quickjs.Error{Name: "DataCloneError", Message: "The value is nested deeper than " + strconv.Itoa(DepthMax) + " levels, or refers to itself through getters."}
	}
	if enc.met(v) {
		return nil
	}
	self := len(enc.seen) - 1
	class := v.Class()
	switch {
	case class == quickjs.ClassObject || class == quickjs.ClassArguments:
		return enc.maybeReplaced(v, depth)
	case class == quickjs.ClassArray:
		return enc.array(v, depth)
	case class == quickjs.ClassDate:
		return enc.date(v)
	case class == quickjs.ClassRegExp:
		source, flags, err := v.RegExp()
		if err != nil {
			return err
		}
		enc.tag(value.TagRegExp)
		enc.head(majorArray, 2)
		enc.text(source)
		enc.text(flags)
		return nil
	case class == quickjs.ClassMap || class == quickjs.ClassSet:
		return enc.collection(v, class, depth)
	case class == quickjs.ClassError:
		return enc.error(v, depth)
	case class == quickjs.ClassArrayBuffer:
		return enc.arrayBuffer(v, self)
	case class >= quickjs.ClassUint8Clamped && class <= quickjs.ClassFloat64, class == quickjs.ClassDataView:
		return enc.view(v, class)
	case class == quickjs.ClassNumber || class == quickjs.ClassString || class == quickjs.ClassBoolean || class == quickjs.ClassBigInt:
		inner, err := v.Inner()
		if err != nil {
			return err
		}
		enc.tag(value.TagBoxed)
		return enc.value(inner, depth+1)
	default:
		replacement, ok, err := enc.replacement(v)
		switch {
		case err != nil:
			return err
		case !ok:
			return refuse(describe(v))
		default:
			return enc.replaced(replacement, depth)
		}
	}
}

func (enc *encoder) replacement(v quickjs.Value) (quickjs.Value, bool, error) {
	if enc.options.Replace == nil {
		return quickjs.Value{}, false, nil
	}
	return enc.options.Replace(v)
}

func (enc *encoder) replaced(replacement quickjs.Value, depth int) error {
	enc.tag(value.TagReplaced)
	return enc.value(replacement, depth+1)
}

func (enc *encoder) maybeReplaced(v quickjs.Value, depth int) error {
	if !v.IsPlain() {
		replacement, ok, err := enc.replacement(v)
		if err != nil {
			return err
		}
		if ok {
			return enc.replaced(replacement, depth)
		}
	}
	return enc.plain(v, depth)
}

// plain encodes the own enumerable properties of an object.
func (enc *encoder) plain(v quickjs.Value, depth int) error {
	if ok, err := enc.protobuf(v); ok || err != nil {
		return err
	}
	return v.Each(func(n int) error {
		enc.head(majorMap, uint64(n))
		return nil
	}, func(key string, member quickjs.Value) error {
		enc.text(key)
		return enc.value(member, depth+1)
	})
}

// protobuf encodes what a protobuf message is to JavaScript as a message again.
func (enc *encoder) protobuf(v quickjs.Value) (bool, error) {
	if ok, err := v.HasOwn(protoType); !ok {
		return false, err
	}
	keys, err := v.Keys()
	if err != nil || len(keys) != 2 || !slices.Contains(keys, protoType) || !slices.Contains(keys, protoValue) {
		return false, err
	}
	name, err := v.Get(protoType)
	if err != nil || name.Kind() != quickjs.String {
		return false, err
	}
	body, err := v.Get(protoValue)
	if err != nil || body.Class() != quickjs.ClassUint8 {
		return false, err
	}
	text, err := name.Text()
	if err != nil || !utf8.ValidString(text) {
		return false, err
	}
	b, err := body.Peek()
	if err != nil {
		return false, err
	}
	enc.tag(value.TagProto)
	enc.head(majorArray, 2)
	enc.text(text)
	enc.bytes(b)
	return true, nil
}

// array encodes an array: one with holes or properties as its length and a map of what is there.
func (enc *encoder) array(v quickjs.Value, depth int) error {
	length, dense, err := v.Elements()
	if err != nil {
		return err
	}
	if dense {
		enc.head(majorArray, uint64(length))
		return v.EachElement(length, func(element quickjs.Value) error { return enc.value(element, depth+1) })
	}
	enc.tag(value.TagSparse)
	enc.head(majorArray, 2)
	enc.head(majorUint, uint64(length))
	return v.Each(func(n int) error {
		enc.head(majorMap, uint64(n))
		return nil
	}, func(key string, member quickjs.Value) error {
		if i, ok := arrayIndex(key); ok {
			enc.head(majorUint, i)
		} else {
			enc.text(key)
		}
		return enc.value(member, depth+1)
	})
}

// arrayIndex says whether a property's name is that of an element.
func arrayIndex(key string) (uint64, bool) {
	i, err := strconv.ParseUint(key, 10, 32)
	return i, err == nil && i < math.MaxUint32 && strconv.FormatUint(i, 10) == key
}

// date encodes a Date as Go does a time.Time, and such as a time.Time can't be by its milliseconds.
func (enc *encoder) date(v quickjs.Value) error {
	inner, err := v.Inner()
	if err != nil {
		return err
	}
	ms, err := inner.Float()
	if err != nil {
		return err
	}
	if ms == ms && ms == math.Trunc(ms) {
		if t := time.UnixMilli(int64(ms)).UTC(); t.Year() >= 0 && t.Year() <= 9999 {
			enc.tag(tagTime)
			enc.text(t.Format(time.RFC3339Nano))
			return nil
		}
	}
	enc.tag(value.TagDate)
	enc.number(ms)
	return nil
}

func (enc *encoder) collection(v quickjs.Value, class quickjs.Class, depth int) error {
	entries, err := v.Entries()
	if err != nil {
		return err
	}
	if class == quickjs.ClassMap {
		enc.tag(value.TagMap)
	} else {
		enc.tag(value.TagSet)
	}
	enc.head(majorArray, uint64(len(entries)))
	for _, entry := range entries {
		if err := enc.value(entry, depth+1); err != nil {
			return err
		}
	}
	return nil
}

// error encodes an error: a map of those of its members that it has.
func (enc *encoder) error(v quickjs.Value, depth int) error {
	type member struct {
		key   string
		value quickjs.Value
	}
	name, err := v.Get(keyName)
	if err != nil {
		return err
	}
	if s, err := name.ToText(); err != nil || !slices.Contains(errorNames, s) {
		name = enc.engine.String(errorNames[0])
	}
	members := []member{{keyName, name}}
	for _, key := range []string{keyMessage, keyStack, keyCause} {
		has, err := v.HasOwn(key)
		if err != nil {
			return err
		}
		if !has {
			continue
		}
		prop, err := v.Get(key)
		if err != nil {
			return err
		}
		if key != keyCause && prop.Kind() != quickjs.String {
			text, err := prop.ToText()
			if err != nil {
				return err
			}
			prop = enc.engine.String(text)
		}
		members = append(members, member{key, prop})
	}
	var props []string
	if enc.options.ErrorProps {
		if props, err = v.Keys(); err != nil {
			return err
		}
		props = slices.DeleteFunc(props, func(key string) bool { return key == keyMessage || key == keyStack || key == keyCause })
	}
	n := len(members)
	if len(props) > 0 {
		n++
	}
	enc.tag(value.TagError)
	enc.head(majorMap, uint64(n))
	for _, m := range members {
		enc.text(m.key)
		if err := enc.lenient(m.value, depth+1); err != nil {
			return err
		}
	}
	if len(props) == 0 {
		return nil
	}
	enc.text(keyProps)
	enc.head(majorMap, uint64(len(props)))
	for _, key := range props {
		prop, err := v.Get(key)
		if err != nil {
			return err
		}
		enc.text(key)
		if err := enc.lenient(prop, depth+1); err != nil {
			return err
		}
	}
	return nil
}

// lenient encodes what belongs to an error: what of it can't be cloned is left out, so that errors always get through.
func (enc *encoder) lenient(v quickjs.Value, depth int) error {
	out, objects, again, views, buffers := len(enc.out), len(enc.seen), len(enc.again), len(enc.views), len(enc.buffers)
	err := enc.value(v, depth)
	if _, ok := errors.AsType[*quickjs.Error](err); !ok {
		return err
	}
	for _, s := range enc.seen[objects:] {
		delete(enc.index, s.identity)
	}
	for _, view := range enc.views[views:] {
		view.buffer.uses--
	}
	enc.out, enc.seen, enc.again, enc.views, enc.buffers = enc.out[:out], enc.seen[:objects], enc.again[:again], enc.views[:views], enc.buffers[:buffers]
	enc.out = append(enc.out, byteUndefined)
	return nil
}

// bufferOf notes a use of a buffer.
func (enc *encoder) bufferOf(v quickjs.Value) *buffer {
	i := slices.IndexFunc(enc.buffers, func(b *buffer) bool { return b.value.Identity() == v.Identity() })
	if i < 0 {
		i = len(enc.buffers)
		enc.buffers = append(enc.buffers, &buffer{value: v, number: -1})
	}
	enc.buffers[i].uses++
	return enc.buffers[i]
}

func (enc *encoder) arrayBuffer(v quickjs.Value, self int) error {
	b, err := v.Peek()
	if err != nil {
		return refuse("An ArrayBuffer is detached and")
	}
	if len(enc.out)+len(b) > enc.max {
		return tooLarge(len(b), enc.max)
	}
	start := len(enc.out)
	enc.tag(value.TagArrayBuffer)
	enc.bytes(b)
	enc.seen[self].buffer = enc.bufferOf(v)
	enc.views = append(enc.views, view{start: start, end: len(enc.out), class: quickjs.ClassArrayBuffer, buffer: enc.seen[self].buffer})
	return nil
}

// view encodes what a view shows of its buffer, as if that were all of it.
func (enc *encoder) view(v quickjs.Value, class quickjs.Class) error {
	owner, offset, length, err := v.Buffer()
	if err != nil {
		return refuse("A view on an ArrayBuffer that is detached or too short")
	}
	if owner.Class() != quickjs.ClassArrayBuffer {
		return refuse("#<SharedArrayBuffer>")
	}
	b, err := v.Peek()
	if err != nil {
		return err
	}
	if len(enc.out)+len(b) > enc.max {
		return tooLarge(len(b), enc.max)
	}
	start := len(enc.out)
	switch class {
	case quickjs.ClassUint8:
	case quickjs.ClassDataView:
		enc.tag(value.TagDataView)
	default:
		enc.tag(viewTags[class])
	}
	enc.bytes(b)
	enc.views = append(enc.views, view{start: start, end: len(enc.out), class: class, buffer: enc.bufferOf(owner), offset: offset, length: length})
	return nil
}

// finish puts in what became known only later: which objects are referred to again, and which buffers have several uses.
func (enc *encoder) finish() []byte {
	if len(enc.again) == 0 && !slices.ContainsFunc(enc.buffers, func(b *buffer) bool { return b.uses > 1 }) {
		return enc.out
	}
	in, out := enc.out, make([]byte, 0, len(enc.out)+64)
	done, number := 0, 0
	upTo := func(place int) {
		out = append(out, in[done:place]...)
		done = place
	}
	share := func() int {
		out = appendHead(out, majorTag, tagShareable)
		number++
		return number - 1
	}
	refer := func(to int) {
		out = appendHead(appendHead(out, majorTag, tagShared), majorUint, uint64(to))
	}
	objects, again, views := enc.seen, enc.again, enc.views
	for len(objects) > 0 || len(again) > 0 || len(views) > 0 {
		// What comes first in out; an object comes before what it is written as.
		next := math.MaxInt
		if len(objects) > 0 {
			next = objects[0].start
		}
		if len(views) > 0 {
			next = min(next, views[0].start)
		}
		if len(again) > 0 {
			next = min(next, again[0].place)
		}
		switch {
		case len(objects) > 0 && objects[0].start == next:
			object := &objects[0]
			objects = objects[1:]
			if object.shared && (object.buffer == nil || object.buffer.uses == 1) {
				upTo(next)
				object.number = share()
			}
		case len(again) > 0 && again[0].place == next:
			object := enc.seen[again[0].object]
			again = again[1:]
			upTo(next)
			done++ // the byte that stands there
			if object.buffer != nil && object.buffer.uses > 1 {
				refer(object.buffer.number)
			} else {
				refer(object.number)
			}
		default:
			v := views[0]
			views = views[1:]
			if v.buffer.uses == 1 {
				continue
			}
			upTo(next)
			done = v.end
			if v.class != quickjs.ClassArrayBuffer {
				out = appendHead(appendHead(appendHead(out, majorTag, value.TagView), majorArray, 4), majorUint, viewNumber(v.class))
			}
			if v.buffer.number >= 0 {
				refer(v.buffer.number)
			} else {
				v.buffer.number = share()
				b, _ := v.buffer.value.Peek() // It was there before, and nothing has run since.
				out = appendHead(appendHead(out, majorTag, value.TagArrayBuffer), majorBytes, uint64(len(b)))
				out = append(out, b...)
			}
			if v.class != quickjs.ClassArrayBuffer {
				out = appendHead(appendHead(out, majorUint, uint64(v.offset)), majorUint, uint64(v.length))
			}
		}
	}
	upTo(len(in))
	return out
}

// viewNumber is the number of a class of views: its tag, or 0 for DataView.
func viewNumber(class quickjs.Class) uint64 { return viewTags[class] }
