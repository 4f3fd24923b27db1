package quickjs

import (
	"errors"
	"fmt"
	"unsafe"

	lib "modernc.org/libquickjs"
)

// Error is an exception of JavaScript. What a host function returns is thrown: an Error that came from JavaScript as
// the same value, if its scope is still open, and any other as a new error of the class called Name, with Message, Cause
// and Props.
type Error struct {
	// Name is the name of an error: "TypeError". It is empty when what was thrown was no error.
	Name string
	// Message is the message of an error, and anything else as a string.
	Message string
	// Stack has a line for each call: "    at f (file.js:3:14)".
	Stack string
	// Cause is what the cause of the error was, as an *Error, or nil.
	Cause error
	// Props are the error's own enumerable properties that are strings, numbers or booleans.
	Props map[string]any
	// Value is what was thrown. It belongs to the scope in which the Error was made.
	Value Value
}

func (err *Error) Error() string {
	switch {
	case err.Name == "":
		return err.Message
	case err.Message == "":
		return err.Name
	default:
		return err.Name + ": " + err.Message
	}
}

func (err *Error) Unwrap() error { return err.Cause }

// Is says that the exceptions by which the engine reports its limits are ErrOutOfMemory and ErrStackOverflow.
func (err *Error) Is(target error) bool {
	return err.Name == "InternalError" &&
		(target == ErrOutOfMemory && err.Message == "out of memory" || target == ErrStackOverflow && err.Message == "stack overflow") //nolint:errorlint // Sentinels.
}

// NewError is an Error for a host function to return. Name is that of a class: "TypeError". One that JavaScript does not
// have makes an Error with that name.
func NewError(name, format string, args ...any) *Error {
	return &Error{Name: name, Message: fmt.Sprintf(format, args...)}
}

func typeError(format string, args ...any) error  { return NewError("TypeError", format, args...) }
func rangeError(format string, args ...any) error { return NewError("RangeError", format, args...) }

// Thrown is an error by which a host function throws v, whatever it is.
func Thrown(v Value) error { return &Error{Message: "thrown", Value: v} }

// PanicError is the panic of a host function. JavaScript can't catch it.
type PanicError struct {
	Value any
	Stack []byte
}

func (err *PanicError) Error() string { return fmt.Sprintf("a host function panicked: %v", err.Value) }

// The standard errors, which hosts make also when scripts have changed the global ones.
var errorNames = [...]string{"Error", "TypeError", "RangeError", "SyntaxError", "ReferenceError", "EvalError", "URIError", "InternalError"}

// intrinsics are what the engine has from the start, before scripts change it.
type intrinsics struct {
	errors                         map[string]lib.TJSValue
	bigint, bigintText, asIntN     lib.TJSValue
	dataView, object               lib.TJSValue
	newMap, mapSet, newSet, setAdd lib.TJSValue
	regexp, regexpSource           lib.TJSValue
}

func (in *intrinsics) all() []*lib.TJSValue {
	return []*lib.TJSValue{
		&in.bigint, &in.bigintText, &in.asIntN, &in.dataView, &in.object, &in.newMap, &in.mapSet, &in.newSet, &in.setAdd,
		&in.regexp, &in.regexpSource,
	}
}

func (e *Engine) findIntrinsics() error {
	global := lib.XJS_GetGlobalObject(e.tls, e.ctx)
	defer e.free(global)
	in := &e.intrinsics
	in.errors = make(map[string]lib.TJSValue, len(errorNames))
	for _, name := range errorNames {
		in.errors[name] = e.getRaw(global, name)
	}
	in.bigint = e.getRaw(global, "BigInt")
	in.asIntN = e.getRaw(in.bigint, "asIntN")
	in.bigintText = e.getRaw(e.classProto(ClassBigInt), "toString")
	in.dataView = e.getRaw(global, "DataView")
	in.object = e.getRaw(global, "Object")
	in.newMap = e.getRaw(global, "Map")
	in.mapSet = e.getRaw(e.classProto(ClassMap), "set")
	in.newSet = e.getRaw(global, "Set")
	in.setAdd = e.getRaw(e.classProto(ClassSet), "add")
	in.regexp = e.getRaw(global, "RegExp")
	in.regexpSource = e.getter(e.classProto(ClassRegExp), "source")
	for _, v := range in.all() {
		if !counted(*v) {
			return ErrOutOfMemory
		}
	}
	return nil
}

// getter is the function that computes a property of obj's own.
func (e *Engine) getter(obj lib.TJSValue, name string) lib.TJSValue {
	atom, done, err := e.atom(name)
	if err != nil {
		return rawUndefined
	}
	defer done()
	size := int(unsafe.Sizeof(lib.TJSPropertyDescriptor{}))
	p := e.tls.Alloc(size)
	defer e.tls.Free(size)
	desc := at[lib.TJSPropertyDescriptor](p)
	*desc = lib.TJSPropertyDescriptor{Fvalue: rawUndefined, Fgetter: rawUndefined, Fsetter: rawUndefined}
	if lib.XJS_GetOwnProperty(e.tls, e.ctx, p, obj, atom) < 0 {
		e.dropException()
		return rawUndefined
	}
	e.free(desc.Fvalue)
	e.free(desc.Fsetter)
	return desc.Fgetter
}

func (in *intrinsics) free(e *Engine) {
	for _, class := range in.errors {
		e.free(class)
	}
	for _, v := range in.all() {
		e.free(*v)
		*v = rawUndefined
	}
}

// exception takes the exception that is pending and makes an error of it.
func (e *Engine) exception() error {
	v := lib.XJS_GetException(e.tls, e.ctx)
	if err := e.ended(); err != nil {
		e.free(v)
		lib.XJS_SetUncatchableException(e.tls, e.ctx, 0)
		if e.hosts == 0 {
			e.panicked = nil
		}
		return err
	}
	refused := e.heap.refused
	e.heap.refused = false
	if tag := tagOf(v); tag == lib.EJS_TAG_UNINITIALIZED || tag == lib.EJS_TAG_NULL && refused {
		// There was no memory even for an exception.
		return ErrOutOfMemory
	}
	return e.Caught(e.own(v))
}

// takePanic returns the panic of a host function that no exception has come of: what can't be caught ends an
// async function as any exception does, and all that is left of it is the promise that is rejected.
func (e *Engine) takePanic() *PanicError {
	p := e.panicked
	if p != nil && e.hosts == 0 {
		e.panicked = nil
		return p
	}
	return nil
}

// ended is why all JavaScript under way has to end, or nil.
func (e *Engine) ended() error {
	if e.panicked != nil {
		return e.panicked
	}
	return e.stopped()
}

func (e *Engine) dropException() {
	e.free(lib.XJS_GetException(e.tls, e.ctx))
	lib.XJS_SetUncatchableException(e.tls, e.ctx, 0)
}

// What is read of an error, at most.
const (
	causesMax = 8
	propsMax  = 64
)

// Caught makes a Go error of what was thrown in JavaScript: of the reason of a rejected promise, say.
func (e *Engine) Caught(v Value) *Error { return e.caught(v, causesMax) }

func (e *Engine) caught(v Value, causes int) *Error {
	out := &Error{Value: v}
	raw, err := e.raw(v)
	if err != nil {
		out.Message = err.Error()
		return out
	}
	if !v.IsError() && !e.looksLikeError(v) {
		out.Message = e.describe(v)
		return out
	}
	out.Name = e.textOf(raw, lib.EJS_ATOM_name)
	if out.Name == "" {
		out.Name = "Error"
	}
	out.Message = e.textOf(raw, lib.EJS_ATOM_message)
	out.Stack = e.textOf(raw, lib.EJS_ATOM_stack)
	if cause, ok := e.quietly(lib.XGetProperty(e.tls, e.ctx, raw, lib.EJS_ATOM_cause)); ok && !cause.IsUndefined() && causes > 0 {
		out.Cause = e.caught(cause, causes-1)
	}
	out.Props = e.propsOf(v)
	return out
}

// looksLikeError is true for a DOMException and its like, which are no errors to the engine.
func (e *Engine) looksLikeError(v Value) bool {
	raw, err := e.raw(v)
	if err != nil || v.Kind() != Object {
		return false
	}
	class, ok := e.quietly(e.getOf(raw, "stack"))
	return ok && class.Kind() == String
}

// propsOf reads the own enumerable properties of an error.
func (e *Engine) propsOf(v Value) map[string]any {
	keys, err := v.Keys()
	if err != nil {
		return nil
	}
	var out map[string]any
	for _, key := range keys[:min(len(keys), propsMax)] {
		prop, err := v.Get(key)
		if err != nil || key == "stack" || key == "message" || key == "cause" || key == "name" {
			continue
		}
		var plain any
		switch prop.Kind() {
		case String:
			plain, err = prop.Text()
		case Number:
			plain, err = prop.Float()
		case Boolean:
			plain, err = prop.Bool()
		default:
			continue
		}
		if err != nil {
			continue
		}
		if out == nil {
			out = make(map[string]any)
		}
		out[key] = plain
	}
	return out
}

// quietly owns v, and forgets an exception.
func (e *Engine) quietly(v lib.TJSValue) (Value, bool) {
	if isException(v) {
		e.dropException()
		return Value{}, false
	}
	return e.own(v), true
}

// textOf is a property of obj if it is a string, and otherwise nothing.
func (e *Engine) textOf(obj lib.TJSValue, atom lib.TJSAtom) string {
	v, ok := e.quietly(lib.XGetProperty(e.tls, e.ctx, obj, atom))
	if !ok || v.Kind() != String {
		return ""
	}
	s, _ := v.Text()
	return s
}

func (e *Engine) describe(v Value) string {
	s, err := v.ToText()
	if err != nil {
		return v.Kind().String()
	}
	return s
}

// throw makes err the pending exception.
func (e *Engine) throw(err error) lib.TJSValue {
	var thrown *Error
	switch {
	case errors.As(err, &thrown) && (thrown.Name == "" || thrown.Value.e == e):
		if v, bad := e.raw(thrown.Value); bad == nil {
			return lib.XJS_Throw(e.tls, e.ctx, dup(v))
		}
	case errors.Is(err, ErrOutOfMemory):
		return lib.XJS_ThrowOutOfMemory(e.tls, e.ctx)
	}
	v, bad := e.raw(e.Exception(err))
	if bad != nil {
		return lib.XJS_ThrowOutOfMemory(e.tls, e.ctx)
	}
	return lib.XJS_Throw(e.tls, e.ctx, dup(v))
}

// throwUncatchable ends all JavaScript that is under way.
func (e *Engine) throwUncatchable() lib.TJSValue {
	lib.XJS_Throw(e.tls, e.ctx, rawNull)
	lib.XJS_SetUncatchableException(e.tls, e.ctx, 1)
	return rawException
}

// NewError makes an error of one of the standard classes, or of Error, without a message. Its stack is that of now.
func (e *Engine) NewError(name string) Value {
	class, ok := e.intrinsics.errors[name]
	if !ok {
		class = e.intrinsics.errors["Error"]
	}
	return e.build(class)
}

// Exception makes of a Go error the value that a host function would throw for it. What came from JavaScript stays what
// it was there.
func (e *Engine) Exception(err error) Value {
	var from *Error
	if !errors.As(err, &from) {
		from = &Error{Name: "Error", Message: err.Error()}
	} else if _, bad := e.raw(from.Value); bad == nil && (from.Value.e == e || from.Name == "") {
		return from.Value
	}
	class, standard := e.intrinsics.errors[from.Name]
	if !standard {
		class = e.intrinsics.errors["Error"]
	}
	args, done, bad := e.arguments([]Value{e.String(from.Message)})
	if bad != nil {
		return failed()
	}
	made := lib.XJS_CallConstructor(e.tls, e.ctx, class, 1, args)
	done()
	out := e.made(made)
	if out.Err() != nil {
		return out
	}
	if !standard && from.Name != "" {
		bad = errors.Join(bad, out.Define("name", e.String(from.Name), Writable|Configurable))
	}
	if from.Cause != nil {
		bad = errors.Join(bad, out.Define("cause", e.Exception(from.Cause), Writable|Configurable))
	}
	for key, plain := range from.Props {
		if v, err := e.From(plain); err == nil {
			bad = errors.Join(bad, out.Define(key, v, Writable|Enumerable|Configurable))
		}
	}
	if bad != nil {
		return failed()
	}
	return out
}
