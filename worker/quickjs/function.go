package quickjs

import (
	"fmt"
	"runtime/debug"
	"sync"
	"unsafe"

	"modernc.org/libc"
	lib "modernc.org/libquickjs"
)

// Func is a function of the host's that JavaScript calls. this and args are valid in the call alone, as the slice itself
// is. What it returns is what the call gives, and an error is thrown, see Error. It must not block: its time is the
// JavaScript's. A panic ends all JavaScript under way, uncatchably, and comes out of the outermost call as a *PanicError.
type Func func(e *Engine, this Value, args Args) (Value, error)

// Args are the arguments of a call.
type Args []Value

// At is argument i, undefined when there are fewer.
func (a Args) At(i int) Value {
	if i < len(a) {
		return a[i]
	}
	return Value{}
}

type hostFunc struct{ f Func }

// The class of host functions: objects that can be called, and say so to Go when they go. Numbers of classes are the
// process's, as C has them.
var funcClass = sync.OnceValue(func() lib.TJSClassID {
	tls := libc.NewTLS()
	defer tls.Close()
	p := tls.Alloc(8)
	defer tls.Free(8)
	*at[lib.TJSClassID](p) = 0
	return lib.XJS_NewClassID(tls, p)
})

func (e *Engine) registerFuncClass() error {
	size := int(unsafe.Sizeof(lib.TJSClassDef{}))
	def := e.tls.Alloc(size)
	defer e.tls.Free(size)
	bad := int32(0)
	_, ok := e.scratch.with(e.tls, "Function", func(name uintptr) lib.TJSValue {
		*at[lib.TJSClassDef](def) = lib.TJSClassDef{Fclass_name: name, Ffinalizer: pointer(onFreeFunc), Fcall: pointer(onCall)}
		bad = lib.XJS_NewClass(e.tls, e.rt, funcClass(), def)
		return rawUndefined
	})
	if !ok || bad != 0 {
		return ErrOutOfMemory
	}
	return nil
}

// Function makes a function that calls f. length is what its property length says.
func (e *Engine) Function(name string, length int, f Func) Value {
	if e.usable() != nil {
		return failed()
	}
	proto := at[lib.TJSContext](e.ctx).Ffunction_proto
	v := lib.XJS_NewObjectProtoClass(e.tls, e.ctx, proto, funcClass())
	if isException(v) {
		return e.made(v)
	}
	// The number is one more, so that none is 0, which is what an object has whose number was not set.
	lib.XJS_SetOpaque(e.tls, v, uintptr(e.funcs.add(&hostFunc{f: f})+1))
	out := e.own(v)
	if out.Define("name", e.String(name), Configurable) != nil || out.Define("length", IntValue(int64(length)), Configurable) != nil {
		return failed()
	}
	return out
}

func onFreeFunc(tls *libc.TLS, _ uintptr, fn lib.TJSValue) {
	if n := int(lib.XJS_GetOpaque(tls, fn, funcClass())); n != 0 {
		engineOf(tls).funcs.remove(n - 1)
	}
}

func onCall(tls *libc.TLS, _ uintptr, fn, this lib.TJSValue, argc int32, argv uintptr, _ int32) lib.TJSValue {
	e := engineOf(tls)
	f := e.funcs.all[int(lib.XJS_GetOpaque(tls, fn, funcClass()))-1].f
	return e.host(func() (Value, error) {
		first := len(e.args)
		for i := range uintptr(argc) {
			e.args = append(e.args, e.borrow(*at[lib.TJSValue](argv + i*uintptr(sizeofValue))))
		}
		args := e.args[first:len(e.args):len(e.args)]
		defer func() { e.args = e.args[:first] }()
		return f(e, e.borrow(this), Args(args))
	})
}

// host runs Go code that C called, in a scope of its own.
func (e *Engine) host(f func() (Value, error)) (out lib.TJSValue) {
	open := len(e.scopes)
	e.openScope()
	e.hosts++
	returned := false
	defer func() {
		e.hosts--
		if returned {
			return
		}
		p := recover()
		if e.lost || p == nil || panicIsEngines() {
			// It goes on, through the frames of the engine, which are not to be used again.
			e.lost = true
			if p != nil {
				panic(p)
			}
			return
		}
		e.panicked = &PanicError{Value: p, Stack: debug.Stack()}
		e.closeScopes(open)
		out = e.throwUncatchable()
	}()
	v, err := f()
	switch {
	case e.ended() != nil:
		// It was stopped in JavaScript that the host called, and must not go on because the host made nothing of that.
		out = e.throwUncatchable()
	case err != nil:
		out = e.throw(err)
	default:
		raw, err := e.raw(v)
		if err != nil {
			out = e.throw(fmt.Errorf("what a host function returned can't be used: %w", err))
		} else {
			out = dup(raw)
		}
	}
	returned = true
	e.closeScopes(open)
	return out
}
