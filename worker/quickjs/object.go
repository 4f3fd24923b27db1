package quickjs

import (
	"strings"
	"unsafe"

	lib "modernc.org/libquickjs"
)

// How many names of properties an engine remembers, and up to which length.
const (
	atomsMax    = 1024
	atomNameMax = 64
)

// atom is the engine's number of a property's name. done gives it back.
func (e *Engine) atom(name string) (atom lib.TJSAtom, done func(), err error) {
	if atom, ok := e.atoms[name]; ok {
		return atom, func() {}, nil
	}
	_, ok := e.scratch.with(e.tls, wellFormed(name), func(p uintptr) lib.TJSValue {
		atom = lib.XJS_NewAtomLen(e.tls, e.ctx, p, lib.Tsize_t(len(wellFormed(name))))
		return rawUndefined
	})
	if !ok || atom == 0 {
		e.dropException()
		return 0, nil, ErrOutOfMemory
	}
	if len(name) > atomNameMax {
		return atom, func() { lib.XJS_FreeAtom(e.tls, e.ctx, atom) }, nil
	}
	e.rememberAtom(strings.Clone(name), atom)
	return atom, func() {}, nil
}

// rememberAtom takes over the reference to atom.
func (e *Engine) rememberAtom(name string, atom lib.TJSAtom) {
	if len(e.atoms) >= atomsMax {
		e.forgetAtoms()
	}
	if old, ok := e.atoms[name]; ok {
		lib.XJS_FreeAtom(e.tls, e.ctx, old)
	}
	e.atoms[name], e.names[atom] = atom, name
}

func (e *Engine) forgetAtoms() {
	for _, atom := range e.atoms {
		lib.XJS_FreeAtom(e.tls, e.ctx, atom)
	}
	clear(e.atoms)
	clear(e.names)
}

// getOf reads a property, and gives C's exception.
func (e *Engine) getOf(obj lib.TJSValue, name string) lib.TJSValue {
	atom, done, err := e.atom(name)
	if err != nil {
		return lib.XJS_ThrowOutOfMemory(e.tls, e.ctx)
	}
	defer done()
	return lib.XGetProperty(e.tls, e.ctx, obj, atom)
}

// getRaw reads a property, and gives undefined for an exception.
func (e *Engine) getRaw(obj lib.TJSValue, name string) lib.TJSValue {
	v := e.getOf(obj, name)
	if isException(v) {
		e.dropException()
		return rawUndefined
	}
	return v
}

// result owns v, or makes an error of the exception.
func (e *Engine) result(v lib.TJSValue) (Value, error) {
	if isException(v) {
		return Value{}, e.exception()
	}
	if p := e.takePanic(); p != nil {
		e.free(v)
		return Value{}, p
	}
	return e.own(v), nil
}

// done is result for what gives a number.
func (e *Engine) outcome(n int32) (bool, error) {
	if n < 0 {
		return false, e.exception()
	}
	return n != 0, nil
}

// Global is the global object.
func (e *Engine) Global() Value {
	if err := e.usable(); err != nil {
		return failed()
	}
	return e.own(lib.XJS_GetGlobalObject(e.tls, e.ctx))
}

// Get reads the property name of v, as v[name] does: also through getters and proxies.
func (v Value) Get(name string) (Value, error) {
	e, obj, err := v.use()
	if err != nil {
		return Value{}, err
	}
	return e.result(e.getOf(obj, name))
}

// At reads element i of v.
func (v Value) At(i uint32) (Value, error) {
	e, obj, err := v.use()
	if err != nil {
		return Value{}, err
	}
	return e.result(lib.XJS_GetPropertyUint32(e.tls, e.ctx, obj, i))
}

// GetKey reads the property of v that key is: a string, a symbol or a number.
func (v Value) GetKey(key Value) (Value, error) {
	e, obj, atom, err := v.key(key)
	if err != nil {
		return Value{}, err
	}
	defer lib.XJS_FreeAtom(e.tls, e.ctx, atom)
	return e.result(lib.XGetProperty(e.tls, e.ctx, obj, atom))
}

// SetKey is Set for a key that is a string, a symbol or a number.
func (v Value) SetKey(key, to Value) error {
	e, obj, atom, err := v.key(key)
	if err != nil {
		return err
	}
	defer lib.XJS_FreeAtom(e.tls, e.ctx, atom)
	raw, err := e.raw(to)
	if err != nil {
		return err
	}
	_, err = e.outcome(lib.XSetProperty(e.tls, e.ctx, obj, atom, dup(raw)))
	return err
}

func (v Value) key(key Value) (*Engine, lib.TJSValue, lib.TJSAtom, error) {
	e, obj, err := v.use()
	if err != nil {
		return nil, obj, 0, err
	}
	raw, err := e.raw(key)
	if err != nil {
		return nil, obj, 0, err
	}
	atom := lib.XJS_ValueToAtom(e.tls, e.ctx, raw)
	if atom == 0 {
		return nil, obj, 0, e.exception()
	}
	return e, obj, atom, nil
}

// Set sets the property name of v, as v[name] = to does in strict code.
func (v Value) Set(name string, to Value) error {
	e, obj, err := v.use()
	if err != nil {
		return err
	}
	raw, err := e.raw(to)
	if err != nil {
		return err
	}
	atom, done, err := e.atom(name)
	if err != nil {
		return err
	}
	defer done()
	_, err = e.outcome(lib.XSetProperty(e.tls, e.ctx, obj, atom, dup(raw)))
	return err
}

// SetAt sets element i of v.
func (v Value) SetAt(i uint32, to Value) error {
	e, obj, err := v.use()
	if err != nil {
		return err
	}
	raw, err := e.raw(to)
	if err != nil {
		return err
	}
	_, err = e.outcome(lib.XJS_SetPropertyUint32(e.tls, e.ctx, obj, i, dup(raw)))
	return err
}

// Attributes of a property.
type Attributes int32

// What a property may be.
const (
	Writable     Attributes = lib.MJS_PROP_WRITABLE
	Enumerable   Attributes = lib.MJS_PROP_ENUMERABLE
	Configurable Attributes = lib.MJS_PROP_CONFIGURABLE
)

// Define makes a property of v's own, as Object.defineProperty does, past setters.
func (v Value) Define(name string, to Value, attributes Attributes) error {
	e, obj, err := v.use()
	if err != nil {
		return err
	}
	raw, err := e.raw(to)
	if err != nil {
		return err
	}
	atom, done, err := e.atom(name)
	if err != nil {
		return err
	}
	defer done()
	_, err = e.outcome(lib.XJS_DefinePropertyValue(e.tls, e.ctx, obj, atom, dup(raw), int32(attributes)|lib.MJS_PROP_THROW))
	return err
}

// DefineAt makes element i of v's own, past setters.
func (v Value) DefineAt(i uint32, to Value) error {
	e, obj, err := v.use()
	if err != nil {
		return err
	}
	raw, err := e.raw(to)
	if err != nil {
		return err
	}
	_, err = e.outcome(lib.XJS_DefinePropertyValueUint32(e.tls, e.ctx, obj, i, dup(raw), lib.MJS_PROP_C_W_E|lib.MJS_PROP_THROW))
	return err
}

// Has says whether v has the property, itself or by its prototypes.
func (v Value) Has(name string) (bool, error) {
	e, obj, err := v.use()
	if err != nil {
		return false, err
	}
	atom, done, err := e.atom(name)
	if err != nil {
		return false, err
	}
	defer done()
	return e.outcome(lib.XJS_HasProperty(e.tls, e.ctx, obj, atom))
}

// HasOwn says whether v itself has the property.
func (v Value) HasOwn(name string) (bool, error) {
	e, obj, err := v.use()
	if err != nil {
		return false, err
	}
	if v.Kind() != Object {
		return false, v.want("an object")
	}
	atom, done, err := e.atom(name)
	if err != nil {
		return false, err
	}
	defer done()
	return e.outcome(lib.XJS_GetOwnProperty(e.tls, e.ctx, 0, obj, atom))
}

// Delete deletes a property of v's own.
func (v Value) Delete(name string) error {
	e, obj, err := v.use()
	if err != nil {
		return err
	}
	atom, done, err := e.atom(name)
	if err != nil {
		return err
	}
	defer done()
	_, err = e.outcome(lib.XJS_DeleteProperty(e.tls, e.ctx, obj, atom, lib.MJS_PROP_THROW))
	return err
}

// Keys are the names of v's own enumerable properties, in the order of Object.keys.
func (v Value) Keys() ([]string, error) {
	return v.namesOf(lib.MJS_GPN_STRING_MASK | lib.MJS_GPN_ENUM_ONLY)
}

// OwnNames are the names of all of v's own properties that are strings, enumerable or not.
func (v Value) OwnNames() ([]string, error) {
	return v.namesOf(lib.MJS_GPN_STRING_MASK)
}

func (v Value) namesOf(flags int32) (out []string, err error) {
	err = v.ownKeys(flags, func(n int) error {
		out = make([]string, 0, n)
		return nil
	}, func(e *Engine, atom lib.TJSAtom) error {
		name, err := e.atomText(atom)
		out = append(out, name)
		return err
	})
	return out, err
}

// ownKeys calls count with the number of v's own properties, and visit with each of their names.
func (v Value) ownKeys(flags int32, count func(n int) error, visit func(e *Engine, atom lib.TJSAtom) error) error {
	e, obj, err := v.use()
	if err != nil {
		return err
	}
	const size = 16
	out := e.tls.Alloc(size)
	bad := lib.XJS_GetOwnPropertyNames(e.tls, e.ctx, out, out+8, obj, flags) < 0
	tab, n := *at[uintptr](out), *at[uint32](out + 8)
	e.tls.Free(size)
	if bad {
		return e.exception()
	}
	defer func() {
		if !e.lost {
			lib.XJS_FreePropertyEnum(e.tls, e.ctx, tab, n)
		}
	}()
	if err := count(int(n)); err != nil {
		return err
	}
	for i := range uintptr(n) {
		if err := visit(e, at[lib.TJSPropertyEnum](tab+i*unsafe.Sizeof(lib.TJSPropertyEnum{})).Fatom); err != nil {
			return err
		}
	}
	return nil
}

// Prototype is v's prototype, or null.
func (v Value) Prototype() (Value, error) {
	e, obj, err := v.use()
	if err != nil {
		return Value{}, err
	}
	return e.result(lib.XJS_GetPrototype(e.tls, e.ctx, obj))
}

// SetPrototype sets v's prototype: an object or null.
func (v Value) SetPrototype(proto Value) error {
	e, obj, err := v.use()
	if err != nil {
		return err
	}
	raw, err := e.raw(proto)
	if err != nil {
		return err
	}
	_, err = e.outcome(lib.XJS_SetPrototype(e.tls, e.ctx, obj, raw))
	return err
}

// Call calls v, a function.
func (v Value) Call(this Value, args ...Value) (Value, error) {
	e, fn, err := v.use()
	if err != nil {
		return Value{}, err
	}
	self, err := e.raw(this)
	if err != nil {
		return Value{}, err
	}
	argv, done, err := e.arguments(args)
	if err != nil {
		return Value{}, err
	}
	out := lib.XJS_Call(e.tls, e.ctx, fn, self, int32(len(args)), argv)
	done()
	return e.result(out)
}

// Invoke calls the method name of v.
func (v Value) Invoke(name string, args ...Value) (Value, error) {
	fn, err := v.Get(name)
	if err != nil {
		return Value{}, err
	}
	return fn.Call(v, args...)
}

// New makes an object with v, a constructor.
func (v Value) New(args ...Value) (Value, error) {
	e, fn, err := v.use()
	if err != nil {
		return Value{}, err
	}
	argv, done, err := e.arguments(args)
	if err != nil {
		return Value{}, err
	}
	out := lib.XJS_CallConstructor(e.tls, e.ctx, fn, int32(len(args)), argv)
	done()
	return e.result(out)
}

// InstanceOf is v instanceof class.
func (v Value) InstanceOf(class Value) (bool, error) {
	e, fn, err := class.use()
	if err != nil {
		return false, err
	}
	raw, err := e.raw(v)
	if err != nil {
		return false, err
	}
	return e.outcome(lib.XJS_IsInstanceOf(e.tls, e.ctx, raw, fn))
}

// Same says whether v and w are the same value, as Object.is does.
func (v Value) Same(w Value) bool {
	e := v.e
	if e == nil {
		e = w.e
	}
	if e == nil {
		return v == w
	}
	a, errA := e.raw(v)
	b, errB := e.raw(w)
	return errA == nil && errB == nil && lib.XJS_SameValue(e.tls, e.ctx, a, b) != 0
}

// Identity is a number that v, an object, shares with no other object that is alive: for maps of objects that are being
// walked through. It is 0 for what is no object.
func (v Value) Identity() uint64 {
	if v.Kind() != Object {
		return 0
	}
	return v.bits
}

// Class is what an object is, whatever its prototype.
type Class uint32

// The classes of objects.
const (
	ClassNone         Class = 0 // no object
	ClassObject       Class = lib.EJS_CLASS_OBJECT
	ClassArray        Class = lib.EJS_CLASS_ARRAY
	ClassError        Class = lib.EJS_CLASS_ERROR
	ClassNumber       Class = lib.EJS_CLASS_NUMBER // boxed, as are the next two, symbols and bigints
	ClassString       Class = lib.EJS_CLASS_STRING
	ClassBoolean      Class = lib.EJS_CLASS_BOOLEAN
	ClassSymbol       Class = lib.EJS_CLASS_SYMBOL
	ClassArguments    Class = lib.EJS_CLASS_ARGUMENTS
	ClassDate         Class = lib.EJS_CLASS_DATE
	ClassNamespace    Class = lib.EJS_CLASS_MODULE_NS
	ClassRegExp       Class = lib.EJS_CLASS_REGEXP
	ClassArrayBuffer  Class = lib.EJS_CLASS_ARRAY_BUFFER
	ClassShared       Class = lib.EJS_CLASS_SHARED_ARRAY_BUFFER
	ClassUint8Clamped Class = lib.EJS_CLASS_UINT8C_ARRAY
	ClassInt8         Class = lib.EJS_CLASS_INT8_ARRAY
	ClassUint8        Class = lib.EJS_CLASS_UINT8_ARRAY
	ClassInt16        Class = lib.EJS_CLASS_INT16_ARRAY
	ClassUint16       Class = lib.EJS_CLASS_UINT16_ARRAY
	ClassInt32        Class = lib.EJS_CLASS_INT32_ARRAY
	ClassUint32       Class = lib.EJS_CLASS_UINT32_ARRAY
	ClassBigInt64     Class = lib.EJS_CLASS_BIG_INT64_ARRAY
	ClassBigUint64    Class = lib.EJS_CLASS_BIG_UINT64_ARRAY
	ClassFloat16      Class = lib.EJS_CLASS_FLOAT16_ARRAY
	ClassFloat32      Class = lib.EJS_CLASS_FLOAT32_ARRAY
	ClassFloat64      Class = lib.EJS_CLASS_FLOAT64_ARRAY
	ClassDataView     Class = lib.EJS_CLASS_DATAVIEW
	ClassBigInt       Class = lib.EJS_CLASS_BIG_INT
	ClassMap          Class = lib.EJS_CLASS_MAP
	ClassSet          Class = lib.EJS_CLASS_SET
	ClassProxy        Class = lib.EJS_CLASS_PROXY
	ClassPromise      Class = lib.EJS_CLASS_PROMISE
)

// Class returns what v is; for classes that are not listed the engine's number.
func (v Value) Class() Class {
	if v.Kind() != Object {
		return ClassNone
	}
	_, obj, err := v.use()
	if err != nil {
		return ClassNone
	}
	switch class := Class(at[lib.TJSObject](pointerOf(obj)).Fclass_id); class {
	case lib.EJS_CLASS_MAPPED_ARGUMENTS:
		return ClassArguments
	default:
		return class
	}
}

// IsFunction says whether v can be called.
func (v Value) IsFunction() bool {
	if v.Kind() != Object {
		return false
	}
	e, raw, err := v.use()
	return err == nil && lib.XJS_IsFunction(e.tls, e.ctx, raw) != 0
}

// IsConstructor says whether v can be called with new.
func (v Value) IsConstructor() bool {
	if v.Kind() != Object {
		return false
	}
	e, raw, err := v.use()
	return err == nil && lib.XJS_IsConstructor(e.tls, e.ctx, raw) != 0
}

// IsArray says whether v is an array. A proxy for one is none.
func (v Value) IsArray() bool { return v.Class() == ClassArray }

// IsError says whether v was made by the constructor of an error.
func (v Value) IsError() bool { return v.Class() == ClassError }

// IsPromise says whether v is a promise, of Promise or a class that extends it.
func (v Value) IsPromise() bool { return v.Class() == ClassPromise }

// Len is the property length of v, an array.
func (v Value) Len() (int, error) {
	length, err := v.Get("length")
	if err != nil {
		return 0, err
	}
	n, err := length.Int()
	return int(n), err
}
