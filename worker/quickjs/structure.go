package quickjs

import (
	"unsafe"

	lib "modernc.org/libquickjs"
)

// What follows looks into objects without running JavaScript, so that scripts can't tell, and makes such as scripts make
// with the classes that every engine has.

// IsPlain says whether v is an object as {} makes it, or one without a prototype.
func (v Value) IsPlain() bool {
	if v.Class() != ClassObject {
		return false
	}
	proto := at[lib.TJSShape](v.object().Fshape).Fproto
	return proto == 0 || proto == pointerOf(v.e.classProto(ClassObject))
}

// object is the object that v is: it was checked that it is one.
func (v Value) object() *lib.TJSObject { return at[lib.TJSObject](uintptr(v.bits)) }

// inside is the first word of what is particular to the class of the object.
func (v Value) inside() uintptr { return *(*uintptr)(unsafe.Pointer(&v.object().Fu)) }

func (e *Engine) classProto(class Class) lib.TJSValue {
	return *at[lib.TJSValue](at[lib.TJSContext](e.ctx).Fclass_proto + uintptr(class)*uintptr(sizeofValue))
}

// Elements returns the length of v, an array, and whether each of its elements is there and it has no properties else.
func (v Value) Elements() (length int, dense bool, err error) {
	if !v.IsArray() {
		return 0, false, v.want("an array")
	}
	if length, err = v.Len(); err != nil {
		return 0, false, err
	}
	obj := v.object()
	shape := at[lib.TJSShape](obj.Fshape)
	// Of arrays with holes the engine counts no elements; the one property is the length.
	dense = int((*fastArray)(unsafe.Pointer(&obj.Fu)).count) == length && shape.Fprop_count-shape.Fdeleted_prop_count == 1
	return length, dense, nil
}

// Each calls count with the number of v's own enumerable properties whose name is a string, and then f with each, in the
// order of Object.keys. It reads them, which may run getters; what is gone by then is undefined. A value that is no
// object is valid in f alone.
func (v Value) Each(count func(n int) error, f func(key string, value Value) error) error {
	return v.ownKeys(lib.MJS_GPN_STRING_MASK|lib.MJS_GPN_ENUM_ONLY, count, func(e *Engine, atom lib.TJSAtom) error {
		key, err := e.atomText(atom)
		if err != nil {
			return err
		}
		obj, err := e.raw(v)
		if err != nil {
			return err
		}
		return e.visit(lib.XGetProperty(e.tls, e.ctx, obj, atom), func(value Value) error { return f(key, value) })
	})
}

// EachElement calls f with the first n elements of v, as Each does.
func (v Value) EachElement(n int, f func(value Value) error) error {
	for i := range n {
		e, obj, err := v.use()
		if err != nil {
			return err
		}
		if err := e.visit(lib.XJS_GetPropertyUint32(e.tls, e.ctx, obj, uint32(i)), f); err != nil {
			return err
		}
	}
	return nil
}

// visit calls f with v. An object lives as long as the innermost scope, and anything else for the call.
func (e *Engine) visit(v lib.TJSValue, f func(Value) error) error {
	switch {
	case isException(v):
		return e.exception()
	case !counted(v) || tagOf(v) == lib.EJS_TAG_OBJECT:
		return f(e.own(v))
	}
	e.openScope()
	err := f(e.own(v))
	e.closeScope()
	return err
}

// atomText is the name that an atom stands for.
func (e *Engine) atomText(atom lib.TJSAtom) (string, error) {
	if name, ok := e.names[atom]; ok {
		return name, nil
	}
	const size = 16
	length := e.tls.Alloc(size)
	defer e.tls.Free(size)
	p := lib.XJS_AtomToCStringLen(e.tls, e.ctx, length, atom)
	if p == 0 {
		return "", e.exception()
	}
	name := string(bytesAt(p, int(*at[lib.Tsize_t](length))))
	lib.XJS_FreeCString(e.tls, e.ctx, p)
	if len(name) <= atomNameMax {
		e.rememberAtom(name, lib.XJS_DupAtom(e.tls, e.ctx, atom))
	}
	return name, nil
}

// Entries returns what is in v, a Map (key, value, key, value, …) or a Set.
func (v Value) Entries() ([]Value, error) {
	class := v.Class()
	if class != ClassMap && class != ClassSet {
		return nil, v.want("a Map or a Set")
	}
	if _, _, err := v.use(); err != nil {
		return nil, err
	}
	state := at[lib.TJSMapState](v.inside())
	head := v.inside() + unsafe.Offsetof(state.Frecords)
	var out []Value
	for link := state.Frecords.Fnext; link != head; link = at[lib.Tlist_head](link).Fnext {
		record := at[lib.TJSMapRecord](link - unsafe.Offsetof(lib.TJSMapRecord{}.Flink))
		if record.F__ccgo4 != 0 {
			continue // it was deleted while something iterates
		}
		out = append(out, v.e.own(dup(record.Fkey)))
		if class == ClassMap {
			out = append(out, v.e.own(dup(record.Fvalue)))
		}
	}
	return out, nil
}

// Map makes an empty Map.
func (e *Engine) Map() Value { return e.build(e.intrinsics.newMap) }

// Set makes an empty Set.
func (e *Engine) Set() Value { return e.build(e.intrinsics.newSet) }

// PutEntry adds to v, a Map.
func (v Value) PutEntry(key, value Value) error {
	e, _, err := v.use()
	if err != nil {
		return err
	}
	_, err = e.borrow(e.intrinsics.mapSet).Call(v, key, value)
	return err
}

// PutElement adds to v, a Set.
func (v Value) PutElement(element Value) error {
	e, _, err := v.use()
	if err != nil {
		return err
	}
	_, err = e.borrow(e.intrinsics.setAdd).Call(v, element)
	return err
}

func (e *Engine) build(class lib.TJSValue, args ...Value) Value {
	if e.usable() != nil {
		return failed()
	}
	v, err := e.borrow(class).New(args...)
	if err != nil {
		return failed()
	}
	return v
}

// Inner returns the primitive that v holds: a boxed number, string, boolean, symbol or bigint, or the milliseconds of a
// Date.
func (v Value) Inner() (Value, error) {
	switch v.Class() {
	case ClassNumber, ClassString, ClassBoolean, ClassSymbol, ClassBigInt, ClassDate:
		e, _, err := v.use()
		if err != nil {
			return Value{}, err
		}
		return e.own(dup(*(*lib.TJSValue)(unsafe.Pointer(&v.object().Fu)))), nil
	default:
		return Value{}, v.want("a Date or a boxed primitive")
	}
}

// Box makes the object of a primitive, as Object(v) does.
func (e *Engine) Box(v Value) (Value, error) {
	if err := e.usable(); err != nil {
		return Value{}, err
	}
	return e.borrow(e.intrinsics.object).Call(Value{}, v)
}

// RegExp makes a regular expression. Bad ones give a SyntaxError.
func (e *Engine) RegExp(source, flags string) (Value, error) {
	if err := e.usable(); err != nil {
		return Value{}, err
	}
	return e.borrow(e.intrinsics.regexp).New(e.String(source), e.String(flags))
}

// RegExp returns the source and the flags of v, a regular expression.
func (v Value) RegExp() (source, flags string, err error) {
	if v.Class() != ClassRegExp {
		return "", "", v.want("a regular expression")
	}
	e, _, err := v.use()
	if err != nil {
		return "", "", err
	}
	text, err := e.borrow(e.intrinsics.regexpSource).Call(v)
	if err != nil {
		return "", "", err
	}
	if source, err = text.Text(); err != nil {
		return "", "", err
	}
	code := (*lib.TJSRegExp)(unsafe.Pointer(&v.object().Fu)).Fbytecode + unsafe.Sizeof(lib.TJSString{})
	var letters []byte
	set := lib.Xlre_get_flags(e.tls, code)
	for i, flag := range []int32{
		lib.MLRE_FLAG_INDICES, lib.MLRE_FLAG_GLOBAL, lib.MLRE_FLAG_IGNORECASE, lib.MLRE_FLAG_MULTILINE, lib.MLRE_FLAG_DOTALL,
		lib.MLRE_FLAG_UNICODE, lib.MLRE_FLAG_UNICODE_SETS, lib.MLRE_FLAG_STICKY,
	} {
		if set&flag != 0 {
			letters = append(letters, "dgimsuvy"[i])
		}
	}
	return source, string(letters), nil
}

// Buffer returns the ArrayBuffer of v, a typed array or a DataView, and the bytes of it that v shows.
func (v Value) Buffer() (buffer Value, offset, length int, err error) {
	b, err := v.Peek()
	if err != nil {
		return Value{}, 0, 0, err
	}
	class := v.Class()
	if class != ClassDataView && (class < ClassUint8Clamped || class > ClassFloat64) {
		return Value{}, 0, 0, v.want("a typed array or a DataView")
	}
	view := at[lib.TJSTypedArray](v.inside())
	return v.e.own(dup(rawOf(lib.EJS_TAG_OBJECT, uint64(view.Fbuffer)))), int(view.Foffset), len(b), nil
}
