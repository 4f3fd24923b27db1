package quickjs

import (
	"errors"
	"fmt"
	"slices"

	"modernc.org/libc"
	lib "modernc.org/libquickjs"
)

// Bytecode is a compiled script or module, for any engine of this process. It is safe for concurrent use.
type Bytecode struct {
	name   string
	module bool
	code   []byte
}

// Name is the name of the file that it was compiled from.
func (b *Bytecode) Name() string { return b.name }

// Size is the size of the bytecode, in bytes.
func (b *Bytecode) Size() int { return len(b.code) }

// CompileScript compiles a script. filename is what stacks show.
func CompileScript(source, filename string) (*Bytecode, error) {
	return compile(source, filename, lib.MJS_EVAL_TYPE_GLOBAL)
}

// CompileModule compiles an ES module. name is what stacks show, what its imports are resolved against, and what it is
// imported by.
func CompileModule(source, name string) (*Bytecode, error) {
	return compile(source, name, lib.MJS_EVAL_TYPE_MODULE)
}

func compile(source, name string, kind int32) (out *Bytecode, err error) {
	e, err := New(Options{})
	if err != nil {
		return nil, fmt.Errorf("compile %s: %w", name, err)
	}
	defer func() { err = errors.Join(err, e.Close()) }()
	e.compiles = true
	err = e.Enter(func() error {
		fn, err := e.eval(source, name, kind|lib.MJS_EVAL_FLAG_COMPILE_ONLY)
		if err != nil {
			return err
		}
		defer e.free(fn)
		size := e.tls.Alloc(8)
		defer e.tls.Free(8)
		p := lib.XJS_WriteObject(e.tls, e.ctx, size, fn, lib.MJS_WRITE_OBJ_BYTECODE)
		if p == 0 {
			return e.exception()
		}
		defer lib.Xjs_free(e.tls, e.ctx, p)
		out = &Bytecode{name: name, module: kind == lib.MJS_EVAL_TYPE_MODULE, code: slices.Clone(bytesAt(p, int(*at[lib.Tsize_t](size))))}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("compile %s: %w", name, err)
	}
	return out, nil
}

// eval is C's JS_Eval, without its exception.
func (e *Engine) eval(source, name string, flags int32) (out lib.TJSValue, err error) {
	var file buffer
	defer file.free(e.tls)
	_, ok := file.with(e.tls, wellFormed(name), func(file uintptr) lib.TJSValue {
		source := wellFormed(source)
		var ok bool
		out, ok = e.scratch.with(e.tls, source, func(p uintptr) lib.TJSValue {
			return lib.XJS_Eval(e.tls, e.ctx, p, lib.Tsize_t(len(source)), file, flags)
		})
		if !ok {
			err = ErrOutOfMemory
		}
		return rawUndefined
	})
	if !ok {
		err = ErrOutOfMemory
	}
	if err == nil && isException(out) {
		err = e.exception()
	}
	return out, err
}

// Eval runs a script in the global scope and returns the value of its last expression. filename is what stacks show.
func (e *Engine) Eval(source, filename string) (Value, error) {
	if err := e.usable(); err != nil {
		return Value{}, err
	}
	// The scratch buffer may be needed again while the script runs.
	fn, err := e.eval(source, filename, lib.MJS_EVAL_TYPE_GLOBAL|lib.MJS_EVAL_FLAG_COMPILE_ONLY)
	if err != nil {
		return Value{}, err
	}
	return e.result(lib.XJS_EvalFunction(e.tls, e.ctx, fn))
}

// Run runs a compiled script in the global scope and returns the value of its last expression.
func (e *Engine) Run(b *Bytecode) (Value, error) {
	if b.module {
		return Value{}, fmt.Errorf("run %s: it is a module: use Import", b.name)
	}
	fn, err := e.read(b)
	if err != nil {
		return Value{}, err
	}
	return e.result(lib.XJS_EvalFunction(e.tls, e.ctx, fn))
}

// read makes a function or module of bytecode.
func (e *Engine) read(b *Bytecode) (lib.TJSValue, error) {
	if err := e.usable(); err != nil {
		return rawUndefined, err
	}
	p := libc.Xmalloc(e.tls, lib.Tsize_t(max(1, len(b.code))))
	if p == 0 {
		return rawUndefined, ErrOutOfMemory
	}
	defer libc.Xfree(e.tls, p)
	copy(bytesAt(p, len(b.code)), b.code)
	v := lib.XJS_ReadObject(e.tls, e.ctx, p, lib.Tsize_t(len(b.code)), lib.MJS_READ_OBJ_BYTECODE)
	if isException(v) {
		return v, e.exception()
	}
	return v, nil
}

// Import links a compiled module, loads what it imports, and runs it. namespace is its module namespace object, by which
// exports are read; done is a promise of its end, which comes after jobs have run when the module, or one that it
// imports, has a top-level await. A module that throws rejects done. One name should be imported once.
func (e *Engine) Import(b *Bytecode) (namespace, done Value, err error) {
	if !b.module {
		return Value{}, Value{}, fmt.Errorf("import %s: it is a script: use Run", b.name)
	}
	mod, err := e.read(b)
	if err != nil {
		return Value{}, Value{}, err
	}
	if lib.XJS_ResolveModule(e.tls, e.ctx, mod) < 0 {
		e.free(mod)
		return Value{}, Value{}, e.exception()
	}
	def := pointerOf(mod)
	// EvalFunction takes mod, but the engine keeps the module.
	done, err = e.result(lib.XJS_EvalFunction(e.tls, e.ctx, mod))
	if err != nil {
		return Value{}, Value{}, err
	}
	namespace, err = e.result(lib.XJS_GetModuleNamespace(e.tls, e.ctx, def))
	return namespace, done, err
}

// DefineModule defines a module whose exports are values of the host's, to be imported by name.
func (e *Engine) DefineModule(name string, exports map[string]Value) error {
	if err := e.usable(); err != nil {
		return err
	}
	raws := make(map[string]lib.TJSValue, len(exports))
	for export, v := range exports {
		raw, err := e.raw(v)
		if err != nil {
			return err
		}
		raws[export] = raw
	}
	var def uintptr
	bad := int32(0)
	e.scratch.with(e.tls, wellFormed(name), func(p uintptr) lib.TJSValue {
		def = lib.XJS_NewCModule(e.tls, e.ctx, p, pointer(onLink))
		return rawUndefined
	})
	if def == 0 {
		e.dropException()
		return ErrOutOfMemory
	}
	for export, raw := range raws {
		e.scratch.with(e.tls, wellFormed(export), func(p uintptr) lib.TJSValue {
			bad |= lib.XJS_AddModuleExport(e.tls, e.ctx, def, p)
			return rawUndefined
		})
		raws[export] = dup(raw)
	}
	e.modules[def] = raws
	if bad != 0 {
		e.dropException()
		return ErrOutOfMemory
	}
	return nil
}

// onLink gives a module of the host's its exports, when it is imported first.
func onLink(tls *libc.TLS, ctx, def uintptr) int32 {
	e := engineOf(tls)
	bad := int32(0)
	for export, v := range e.modules[def] {
		e.scratch.with(tls, wellFormed(export), func(p uintptr) lib.TJSValue {
			bad |= lib.XJS_SetModuleExport(tls, ctx, def, p, v)
			return rawUndefined
		})
	}
	delete(e.modules, def)
	return bad
}

// onResolve gives C the name of a module in memory that it frees, or 0 and an exception.
func onResolve(tls *libc.TLS, ctx, base, name, _ uintptr) (out uintptr) {
	e := engineOf(tls)
	from, specifier := text(base), text(name)
	v := e.host(func() (Value, error) {
		resolved, err := e.options.Resolve(from, specifier)
		if err != nil {
			return Value{}, err
		}
		e.scratch.with(tls, wellFormed(resolved), func(p uintptr) lib.TJSValue {
			out = lib.Xjs_strdup(tls, ctx, p)
			return rawUndefined
		})
		if out == 0 {
			return Value{}, ErrOutOfMemory
		}
		return Value{}, nil
	})
	if isException(v) {
		return 0
	}
	return out
}

// onLoad gives C a module, or 0 and an exception.
func onLoad(tls *libc.TLS, _, name, _ uintptr) (def uintptr) {
	e := engineOf(tls)
	wanted := text(name)
	v := e.host(func() (Value, error) {
		if e.compiles {
			// The engine wants what a module imports already when it compiles it, and looks into that only later.
			def = lib.XJS_NewCModule(tls, e.ctx, name, pointer(onLink))
			return Value{}, nil
		}
		if e.options.Load == nil {
			return Value{}, typeError("there is no module %q", wanted)
		}
		b, err := e.options.Load(wanted)
		switch {
		case err != nil:
			return Value{}, err
		case !b.module:
			return Value{}, typeError("%q is no module", wanted)
		case b.name != wanted:
			return Value{}, typeError("the module %q was compiled as %q", wanted, b.name)
		}
		mod, err := e.read(b)
		if err != nil {
			return Value{}, err
		}
		// The engine keeps it by its name.
		def = pointerOf(mod)
		e.free(mod)
		return Value{}, nil
	})
	if isException(v) {
		return 0
	}
	return def
}

// text is a string of C's.
func text(p uintptr) string {
	n := 0
	for *at[byte](p + uintptr(n)) != 0 {
		n++
	}
	return string(bytesAt(p, n))
}
