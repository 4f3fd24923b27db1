package quickjs

import (
	"math"
	"slices"
	"sync"

	lib "modernc.org/libquickjs"
)

// Value is a JavaScript value. It belongs to the scope that it was made in, see the package comment. The zero Value is
// undefined; undefined, null, booleans and numbers belong to no scope and may be kept and used in any engine.
type Value struct {
	bits   uint64
	serial uint64
	e      *Engine
	tag    int32 // what undefined would be is 0
	depth  int32 // of the scope
}

// A Value with this tag could not be made, for lack of memory.
const tagFailed = lib.EJS_TAG_EXCEPTION

// scope is a stretch of time in which values live.
type scope struct {
	serial uint64
	values []lib.TJSValue // to be freed at its end
}

func (e *Engine) openScope() {
	e.serial++
	if n := len(e.scopes); n < cap(e.scopes) {
		e.scopes = e.scopes[:n+1]
		e.scopes[n].serial = e.serial
		return
	}
	e.scopes = append(e.scopes, scope{serial: e.serial})
}

// What a scope keeps room for when it has been closed.
const scopeKept = 256

func (e *Engine) closeScope() {
	n := len(e.scopes) - 1
	s := &e.scopes[n]
	s.serial = 0
	for _, v := range slices.Backward(s.values) {
		e.free(v)
	}
	if cap(s.values) > scopeKept {
		s.values = nil
	} else {
		s.values = s.values[:0]
	}
	e.scopes = e.scopes[:n]
}

// closeScopes closes all scopes but the first open ones.
func (e *Engine) closeScopes(open int) {
	for len(e.scopes) > open {
		e.closeScope()
	}
}

// Scope runs f in a scope of its own, whose values are freed at its end: for loops that make many. What f returns lives
// on in the scope outside.
func (e *Engine) Scope(f func() (Value, error)) (Value, error) {
	if err := e.usable(); err != nil {
		return Value{}, err
	}
	open := len(e.scopes)
	e.openScope()
	done := false
	defer func() {
		if !done && !e.lost && !panicIsEngines() {
			e.closeScopes(open)
		}
	}()
	v, err := f()
	out, failed := e.raw(v)
	if failed == nil {
		dup(out)
	}
	done = true
	e.closeScope()
	if err == nil {
		err = failed
	}
	if err != nil {
		if failed == nil {
			e.free(out)
		}
		return Value{}, err
	}
	return e.own(out), nil
}

// own makes a Value of the innermost scope of v, whose reference it takes over.
func (e *Engine) own(v lib.TJSValue) Value {
	if !counted(v) {
		return Value{bits: bitsOf(v), tag: tagOf(v) - lib.EJS_TAG_UNDEFINED, e: e}
	}
	n := len(e.scopes) - 1
	s := &e.scopes[n]
	s.values = append(s.values, v)
	return Value{bits: bitsOf(v), tag: tagOf(v) - lib.EJS_TAG_UNDEFINED, e: e, serial: s.serial, depth: int32(n)}
}

// borrow makes a Value of v, to which somebody else holds a reference for longer than the innermost scope.
func (e *Engine) borrow(v lib.TJSValue) Value {
	n := len(e.scopes) - 1
	return Value{bits: bitsOf(v), tag: tagOf(v) - lib.EJS_TAG_UNDEFINED, e: e, serial: e.scopes[n].serial, depth: int32(n)}
}

// made is own for what could fail only because there is no memory.
func (e *Engine) made(v lib.TJSValue) Value {
	if isException(v) {
		e.dropException()
		return failed()
	}
	return e.own(v)
}

// raw is v as the engine has it, if v may be used in e now.
func (e *Engine) raw(v Value) (lib.TJSValue, error) {
	tag := v.tag + lib.EJS_TAG_UNDEFINED
	switch {
	case tag == tagFailed:
		return rawUndefined, ErrOutOfMemory
	case tag < 0 && (v.e != e || int(v.depth) >= len(e.scopes) || e.scopes[v.depth].serial != v.serial):
		return rawUndefined, ErrScope
	}
	if err := e.usable(); err != nil {
		return rawUndefined, err
	}
	return rawOf(tag, v.bits), nil
}

// use is raw in the engine that v is of.
func (v Value) use() (*Engine, lib.TJSValue, error) {
	if v.e == nil {
		if v.tag == tagFailed-lib.EJS_TAG_UNDEFINED {
			return nil, rawUndefined, ErrOutOfMemory
		}
		return nil, rawUndefined, typeError("%s has no properties", v.Kind())
	}
	raw, err := v.e.raw(v)
	return v.e, raw, err
}

// Ref holds a value until it is freed, or the engine closed.
type Ref struct {
	e     *Engine // nil for what needs no holding
	value lib.TJSValue
	place int // in refs.held; -1 when it was freed
}

// refs are the Refs of an engine. They may be freed on any goroutine.
type refs struct {
	sync.Mutex
	held table[*Ref]
	dead []lib.TJSValue // of freed Refs: the engine lets go of them at the next entry
}

// hold makes a Ref of v, whose reference it takes over.
func (e *Engine) hold(v lib.TJSValue) *Ref {
	r := &Ref{e: e, value: v}
	e.refs.Lock()
	defer e.refs.Unlock()
	r.place = e.refs.held.add(r)
	return r
}

// Keep holds v beyond its scope, until the Ref is freed.
func (v Value) Keep() (*Ref, error) {
	if err := v.Err(); err != nil {
		return nil, err
	}
	if v.tag+lib.EJS_TAG_UNDEFINED >= 0 {
		return &Ref{value: rawOf(v.tag+lib.EJS_TAG_UNDEFINED, v.bits)}, nil
	}
	e, raw, err := v.use()
	if err != nil {
		return nil, err
	}
	return e.hold(dup(raw)), nil
}

// Value is what r holds, as a value of the innermost scope. Of a freed Ref it gives a Value that can't be used.
func (r *Ref) Value() Value {
	switch {
	case r.e == nil:
		return unscoped(r.value)
	case r.e.usable() != nil || r.freed():
		v := unscoped(r.value)
		v.e = r.e
		return v
	default:
		return r.e.own(dup(r.value))
	}
}

func (r *Ref) freed() bool {
	r.e.refs.Lock()
	defer r.e.refs.Unlock()
	return r.place < 0
}

// Free lets the value go. It may be called on any goroutine, inside and outside of entries, and more than once.
func (r *Ref) Free() {
	if r == nil || r.e == nil {
		return
	}
	refs := &r.e.refs
	refs.Lock()
	defer refs.Unlock()
	if r.place >= 0 {
		refs.held.remove(r.place)
		r.place = -1
		refs.dead = append(refs.dead, r.value)
	}
}

// freeDead lets go of what freed Refs held.
func (e *Engine) freeDead() {
	e.refs.Lock()
	dead := e.refs.dead
	e.refs.dead = nil
	e.refs.Unlock()
	for _, v := range dead {
		e.free(v)
	}
}

// freeRefs frees all Refs.
func (e *Engine) freeRefs() {
	e.refs.Lock()
	all := slices.Clone(e.refs.held.all)
	e.refs.Unlock()
	for _, r := range all {
		r.Free()
	}
	e.freeDead()
}

// Kind is what typeof tells apart, and null.
type Kind int

// The kinds of values.
const (
	Undefined Kind = iota
	Null
	Boolean
	Number
	BigInt
	String
	Symbol
	Object // functions too
)

func (k Kind) String() string {
	return [...]string{"undefined", "null", "a boolean", "a number", "a bigint", "a string", "a symbol", "an object"}[k]
}

// Kind returns what kind of value v is.
func (v Value) Kind() Kind {
	switch v.tag + lib.EJS_TAG_UNDEFINED {
	case lib.EJS_TAG_NULL:
		return Null
	case lib.EJS_TAG_BOOL:
		return Boolean
	case lib.EJS_TAG_INT, lib.EJS_TAG_FLOAT64:
		return Number
	case lib.EJS_TAG_SHORT_BIG_INT, lib.EJS_TAG_BIG_INT:
		return BigInt
	case lib.EJS_TAG_STRING, lib.EJS_TAG_STRING_ROPE:
		return String
	case lib.EJS_TAG_SYMBOL:
		return Symbol
	case lib.EJS_TAG_OBJECT:
		return Object
	default:
		return Undefined
	}
}

// IsUndefined says whether v is undefined.
func (v Value) IsUndefined() bool { return v.tag == 0 }

// IsNullish says whether v is undefined or null.
func (v Value) IsNullish() bool { return v.tag == 0 || v.Kind() == Null }

// Err is why v can't be used, or nil.
func (v Value) Err() error {
	if v.e == nil && v.tag != tagFailed-lib.EJS_TAG_UNDEFINED {
		return nil
	}
	_, _, err := v.use()
	return err
}

// NullValue is null.
func NullValue() Value { return Value{tag: lib.EJS_TAG_NULL - lib.EJS_TAG_UNDEFINED} }

// BoolValue is true or false.
func BoolValue(b bool) Value { return unscoped(rawBool(b)) }

// IntValue is a number. Those beyond 2^53 are rounded, as all numbers are.
func IntValue(n int64) Value { return FloatValue(float64(n)) }

// FloatValue is a number.
func FloatValue(f float64) Value { return unscoped(rawNumber(f)) }

func unscoped(v lib.TJSValue) Value {
	return Value{bits: bitsOf(v), tag: tagOf(v) - lib.EJS_TAG_UNDEFINED}
}

// want is the error for v where something else is wanted.
func (v Value) want(what string) error {
	if err := v.Err(); err != nil {
		return err
	}
	return typeError("%s is needed here, and this is %s", what, v.Kind())
}

// Bool returns a boolean. Of anything else it gives a TypeError, as the methods below do; see Truthy.
func (v Value) Bool() (bool, error) {
	if v.Kind() != Boolean {
		return false, v.want("a boolean")
	}
	return uint32(v.bits) != 0, nil
}

// Float returns a number.
func (v Value) Float() (float64, error) {
	switch v.tag + lib.EJS_TAG_UNDEFINED {
	case lib.EJS_TAG_INT:
		return float64(int32(uint32(v.bits))), nil
	case lib.EJS_TAG_FLOAT64:
		return math.Float64frombits(v.bits), nil
	default:
		return 0, v.want("a number")
	}
}

// Int returns a number that is an integer and not beyond 2^53-1.
func (v Value) Int() (int64, error) {
	f, err := v.Float()
	if err != nil {
		return 0, err
	}
	if n := int64(f); float64(n) == f && n <= maxSafe && n >= -maxSafe {
		return n, nil
	}
	return 0, rangeError("an integer is needed here, and this is %v", f)
}

const maxSafe = 1<<53 - 1

// Truthy is what Boolean(v) is.
func (v Value) Truthy() bool {
	switch v.Kind() {
	case Undefined, Null:
		return false
	case Boolean:
		b, _ := v.Bool()
		return b
	case Number:
		f, _ := v.Float()
		return f != 0 && !math.IsNaN(f)
	default:
		e, raw, err := v.use()
		return err == nil && lib.XJS_ToBool(e.tls, e.ctx, dup(raw)) == 1
	}
}
