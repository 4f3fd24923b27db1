// Package quickjs runs JavaScript in QuickJS translated to Go (modernc.org/libquickjs): no cgo, nothing outside the
// process. It is a thin binding that knows nothing of what the JavaScript is for.
//
// An Engine is one JavaScript heap with one global object. It is not safe for concurrent use: one goroutine at a time,
// any goroutine. All work with it happens in an entry, Engine.Enter, which bounds the time that JavaScript may take,
// survives faults of the engine, and owns the values made in it:
//
//	err := engine.Enter(func() error {
//		v, err := engine.Eval("1 + 1", "sum.js")
//		if err != nil {
//			return err
//		}
//		n, err := v.Int()
//		…
//	})
//
// # Values
//
// A Value belongs to the scope that it was made in (an entry, the call of a host function, or Engine.Scope) and is freed
// with it; there is nothing to free by hand. Used later, or in another engine, it gives an error, and never touches
// memory that is not its own. Value.Keep makes a Ref of what has to live longer. Making a value can fail only because
// the memory of the engine is used up: such a Value gives ErrOutOfMemory wherever it is used. The zero Value is
// undefined.
//
// # What can go wrong
//
// JavaScript that throws gives an *Error. JavaScript that runs too long, or that Interrupt stops, ends at once, without
// its catch and finally blocks, and gives ErrTimeLimit or ErrInterrupted. Memory over the limit and recursion that is
// too deep are exceptions that JavaScript can catch. A fault inside the engine gives ErrLost from then on, and Close is
// all that is left to do. The engine is C translated to Go and no sandbox against bugs of its own: it must only ever
// run bytecode that it compiled itself, which is why Bytecode can't be read from anywhere.
package quickjs

import (
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"modernc.org/libc"
	lib "modernc.org/libquickjs"
)

var (
	// ErrLost says that the engine had a fault, and that its state can't be trusted any more.
	ErrLost = errors.New("the JavaScript engine had a fault and is lost")
	// ErrClosed says that the engine was closed.
	ErrClosed = errors.New("the JavaScript engine is closed")
	// ErrBusy says that a goroutine is in the engine already.
	ErrBusy = errors.New("the JavaScript engine is in use by another goroutine")
	// ErrInterrupted says that Interrupt stopped the JavaScript.
	ErrInterrupted = errors.New("the JavaScript was interrupted")
	// ErrTimeLimit says that the JavaScript of one entry ran for longer than Options.TimeMax.
	ErrTimeLimit = errors.New("the JavaScript ran for too long")
	// ErrOutOfMemory says that the memory limit of the engine was reached.
	ErrOutOfMemory = errors.New("the JavaScript engine is out of memory")
	// ErrStackOverflow says that calls were nested too deeply.
	ErrStackOverflow = errors.New("the JavaScript has too much recursion")
	// ErrScope says that a Value was used outside of the scope that it belongs to.
	ErrScope = errors.New("a JavaScript value was used after the end of its scope or in another engine")
)

// Options are what an Engine is made with. The zero value has no limits but the depth of calls.
type Options struct {
	// MemoryMax is how much memory the engine may use, in bytes. 0: no limit. Below 256 KiB no engine starts.
	MemoryMax int64
	// StackMax is how deep calls may be nested, in frames of the translated engine, of which a call in JavaScript takes
	// one to nine. 0: 5000, which needs some 16 MiB of the goroutine's stack.
	StackMax int
	// TimeMax is how long the JavaScript of one entry may run. A pause of the process counts as one second at most.
	// 0: no limit.
	TimeMax time.Duration
	// Resolve gives the name of the module that base, the name of the importing one, imports as specifier. Nil: the
	// engine's rule, which joins names that begin with a dot to base's directory. An error is thrown in JavaScript.
	Resolve func(base, specifier string) (string, error)
	// Load gives the module of a name that Resolve gave. It is called once per name. Nil: nothing can be imported that
	// was not loaded or defined before. An error is thrown in JavaScript.
	Load func(name string) (*Bytecode, error)
}

// Engine is one JavaScript heap with one global object.
type Engine struct {
	options Options
	tls     *libc.TLS
	heap    heap
	rt, ctx uintptr

	busy atomic.Bool                // a goroutine is in Enter or Close
	stop atomic.Pointer[stopReason] // why the JavaScript of this entry has to stop

	interrupts sync.Mutex  // guards the next two, and that stop is set in entries alone
	entered    bool        // the engine's memory is there, and JavaScript may be running
	watch      *time.Timer // calls look

	// The rest belongs to the goroutine that is in the engine.
	lost     bool
	closed   bool
	scopes   []scope // those that are open; their values are freed with them
	serial   uint64  // of the scope made last
	clock    clock
	hosts    int         // calls of host functions under way
	panicked *PanicError // of a host function, on its way out

	args       []Value // of the host functions under way, as a stack
	funcs      table[*hostFunc]
	atoms      map[string]lib.TJSAtom // names of properties, of which the engine holds the atoms
	names      map[lib.TJSAtom]string
	scratch    buffer
	intrinsics intrinsics

	rejections rejections
	compiles   bool                                // it only compiles modules
	modules    map[uintptr]map[string]lib.TJSValue // exports of modules from Go that were not linked yet

	refs refs
}

type stopReason struct{ err error }

// What the C side hands to callbacks is the TLS of the engine.
var engines sync.Map // *libc.TLS -> *Engine

func engineOf(tls *libc.TLS) *Engine {
	e, _ := engines.Load(tls)
	return e.(*Engine) //nolint:forcetypeassert // Nothing else is stored there.
}

// Dates are in UTC on every machine. The translated C library has one time zone for the process.
var useUTC = sync.OnceFunc(func() {
	tls := libc.NewTLS()
	defer tls.Close()
	set := func(s string) uintptr {
		p := libc.Xmalloc(tls, lib.Tsize_t(len(s)+1))
		fill(p, s)
		return p
	}
	name, zone := set("TZ"), set("UTC0")
	libc.Xsetenv(tls, name, zone, 1)
	libc.Xfree(tls, name)
	libc.Xfree(tls, zone)
})

// New makes an engine.
func New(options Options) (*Engine, error) {
	useUTC()
	e := &Engine{options: options, tls: libc.NewTLS(), atoms: make(map[string]lib.TJSAtom), names: make(map[lib.TJSAtom]string), modules: make(map[uintptr]map[string]lib.TJSValue)}
	e.watch = time.AfterFunc(lookEvery, e.look)
	e.watch.Stop()
	engines.Store(e.tls, e)
	if err := e.start(); err != nil {
		return nil, errors.Join(fmt.Errorf("make a JavaScript engine: %w", err), e.Close())
	}
	return e, nil
}

func (e *Engine) start() error {
	return e.guard(func() error {
		if e.rt = e.newRuntime(); e.rt == 0 {
			return ErrOutOfMemory
		}
		if e.options.MemoryMax > 0 {
			lib.XJS_SetMemoryLimit(e.tls, e.rt, lib.Tsize_t(e.options.MemoryMax))
		}
		lib.XJS_SetMaxStackSize(e.tls, e.rt, lib.Tsize_t(max(0, e.options.StackMax)))
		lib.XJS_SetInterruptHandler(e.tls, e.rt, pointer(onInterrupt), 0)
		lib.XJS_SetHostPromiseRejectionTracker(e.tls, e.rt, pointer(onRejection), 0)
		var resolve uintptr
		if e.options.Resolve != nil {
			resolve = pointer(onResolve)
		}
		lib.XJS_SetModuleLoaderFunc(e.tls, e.rt, resolve, pointer(onLoad), 0)
		if e.ctx = lib.XJS_NewContext(e.tls, e.rt); e.ctx == 0 {
			return ErrOutOfMemory
		}
		if err := e.registerFuncClass(); err != nil {
			return err
		}
		return e.findIntrinsics()
	})
}

// Close frees all that belongs to the engine. It must not be called from inside an entry. An engine that is lost is
// closed as well. The error says that values were left over, which is a mistake in this package.
func (e *Engine) Close() error {
	if !e.busy.CompareAndSwap(false, true) {
		return ErrBusy
	}
	defer e.busy.Store(false)
	if e.closed {
		return nil
	}
	e.closed = true
	var err error
	if !e.lost && e.rt != 0 {
		err = e.guard(e.stopRuntime)
		if err == nil && e.heap.blocks != 0 {
			err = fmt.Errorf("close a JavaScript engine: %d blocks of its memory were left over", e.heap.blocks)
		}
	}
	e.scratch.free(e.tls)
	// This gives back what a lost engine had, too.
	err = errors.Join(err, e.heap.Close())
	e.tls.Close()
	engines.Delete(e.tls)
	return err
}

func (e *Engine) stopRuntime() error {
	if e.ctx != 0 {
		e.freeRefs()
		e.rejections.clear(e)
		e.forgetAtoms()
		for _, exports := range e.modules {
			for _, v := range exports {
				e.free(v)
			}
		}
		e.intrinsics.free(e)
		lib.XJS_FreeContext(e.tls, e.ctx)
	}
	lib.XJS_FreeRuntime(e.tls, e.rt)
	return nil
}

// Enter runs f with the engine. All work with the engine happens in f, on f's goroutine: Enter must not be called in it
// again. The values made in f are freed at its end. JavaScript in f may run for Options.TimeMax altogether.
func (e *Engine) Enter(f func() error) error {
	if !e.busy.CompareAndSwap(false, true) {
		return ErrBusy
	}
	defer e.busy.Store(false)
	switch {
	case e.closed:
		return ErrClosed
	case e.lost:
		return ErrLost
	}
	e.beginEntry()
	defer e.endEntry()
	e.clock.start(e.options.TimeMax)
	return e.guard(func() error {
		e.freeDead()
		e.openScope()
		// Not deferred: guard closes what is open when f does not return.
		err := f()
		e.closeScope()
		return err
	})
}

// guard runs f, in which the engine may fault, and makes ErrLost of that. Other panics pass.
func (e *Engine) guard(f func() error) (err error) {
	was := debug.SetPanicOnFault(true)
	returned := false
	open := len(e.scopes)
	defer func() {
		debug.SetPanicOnFault(was)
		if returned {
			if e.lost && err == nil {
				err = ErrLost
			}
			return
		}
		p := recover()
		switch {
		case e.lost || p != nil && panicIsEngines():
			e.lost = true
			err = fmt.Errorf("%w: %v", ErrLost, p)
		case p == nil: // runtime.Goexit, in Go code alone.
			e.closeScopes(open)
		default:
			e.closeScopes(open)
			panic(p)
		}
	}()
	err = f()
	returned = true
	return err
}

// panicIsEngines says whether the panic that is being recovered went through code of the engine since Go code of ours or
// of a host function was called last. It is called by what recovers, in a deferred function.
func panicIsEngines() bool {
	pcs := make([]uintptr, 64)
	panicking := false
	for skip := 2; ; skip += len(pcs) {
		n := runtime.Callers(skip, pcs)
		frames := runtime.CallersFrames(pcs[:n])
	frames:
		for {
			frame, more := frames.Next()
			switch {
			case frame.Function == "runtime.gopanic":
				panicking = true
			case !panicking:
			case strings.HasPrefix(frame.Function, "modernc.org/"):
				return true
			case strings.HasSuffix(frame.Function, "quickjs.(*Engine).guard"), strings.HasSuffix(frame.Function, "quickjs.(*Engine).host"):
				return false
			}
			if !more {
				break frames
			}
		}
		if n < len(pcs) {
			return false
		}
	}
}

// Interrupt stops the JavaScript of the entry that is under way, if there is one: it ends as soon as the engine looks,
// and gives reason, or ErrInterrupted when that is nil. It may be called on any goroutine, also after Close.
func (e *Engine) Interrupt(reason error) {
	if reason == nil {
		reason = ErrInterrupted
	}
	e.interrupts.Lock()
	defer e.interrupts.Unlock()
	if e.entered && e.stop.CompareAndSwap(nil, &stopReason{err: reason}) {
		e.watch.Reset(0)
	}
}

// How often look is called: while all is well, and when JavaScript has to end.
const (
	lookEvery  = 250 * time.Millisecond
	lookUrgent = 10 * time.Millisecond
)

func (e *Engine) beginEntry() {
	e.interrupts.Lock()
	defer e.interrupts.Unlock()
	e.entered = true
	if limit := e.options.TimeMax; limit > 0 {
		e.watch.Reset(min(limit, lookEvery))
	}
}

func (e *Engine) endEntry() {
	e.interrupts.Lock()
	defer e.interrupts.Unlock()
	e.entered = false
	e.stop.Store(nil)
	e.watch.Stop()
}

// look has the engine call onInterrupt at the next occasion, instead of after many: those may be far from one another,
// when each is a search through millions of elements. The engine counts down at the same time, and may overwrite it.
func (e *Engine) look() {
	e.interrupts.Lock()
	defer e.interrupts.Unlock()
	if !e.entered {
		return
	}
	atomic.StoreInt32(&at[lib.TJSContext](e.ctx).Finterrupt_counter, 0)
	switch limit := e.options.TimeMax; {
	case e.stop.Load() != nil:
		e.watch.Reset(lookUrgent)
	case limit > 0:
		e.watch.Reset(min(limit, lookEvery))
	}
}

// stopped is why the JavaScript has to end, or nil.
func (e *Engine) stopped() error {
	if stop := e.stop.Load(); stop != nil {
		return stop.err
	}
	if e.clock.over() {
		e.stop.CompareAndSwap(nil, &stopReason{err: ErrTimeLimit})
		return e.stop.Load().err
	}
	return nil
}

// onInterrupt is called by the engine every so often while JavaScript runs.
func onInterrupt(tls *libc.TLS, _, _ uintptr) int32 {
	if engineOf(tls).stopped() != nil {
		return 1
	}
	return 0
}

// A clock measures how long the JavaScript of an entry runs. It looks at the clock of the machine now and then, and
// lets no pause between two looks count for more than pauseMax: the process may have been stopped meanwhile.
type clock struct {
	limited bool
	left    time.Duration
	seen    time.Time
}

const pauseMax = time.Second

func (c *clock) start(limit time.Duration) {
	*c = clock{limited: limit > 0, left: limit}
	if c.limited {
		c.seen = time.Now()
	}
}

func (c *clock) over() bool {
	if !c.limited {
		return false
	}
	now := time.Now()
	c.left -= min(now.Sub(c.seen), pauseMax)
	c.seen = now
	return c.left <= 0
}

// Spent is how long the JavaScript of the entry that is under way has run, as far as it counts for Options.TimeMax;
// without a limit it is 0.
func (e *Engine) Spent() time.Duration {
	if !e.clock.limited {
		return 0
	}
	e.clock.over()
	return e.options.TimeMax - e.clock.left
}

// Memory is what an engine has taken, in bytes and numbers.
type Memory struct {
	Used    int64 // that counts for Options.MemoryMax
	Objects int64
	Strings int64
	Buffers int64 // bytes of ArrayBuffers
}

// Memory counts what the engine has taken, which takes as long as collecting garbage does; see MemoryUsed.
func (e *Engine) Memory() Memory {
	if e.usable() != nil {
		return Memory{}
	}
	size := int(unsafe.Sizeof(lib.TJSMemoryUsage{}))
	p := e.tls.Alloc(size)
	defer e.tls.Free(size)
	lib.XJS_ComputeMemoryUsage(e.tls, e.rt, p)
	usage := at[lib.TJSMemoryUsage](p)
	return Memory{Used: usage.Fmalloc_size, Objects: usage.Fobj_count, Strings: usage.Fstr_count, Buffers: usage.Fbinary_object_size}
}

// MemoryUsed is Memory.Used, without the counting.
func (e *Engine) MemoryUsed() int64 {
	if e.usable() != nil {
		return 0
	}
	return int64(at[lib.TJSRuntime](e.rt).Fmalloc_ctx.Fmalloc_state.Fmalloc_size)
}

// Exhausted says whether the engine has ever come up against Options.MemoryMax. It works on, but the engine's handling of
// that is not free of faults: such an engine should be replaced at the next occasion.
func (e *Engine) Exhausted() bool { return e.heap.ever }

// GC frees the garbage that has references to itself. The engine does so by itself when its memory has grown by half.
func (e *Engine) GC() {
	if e.usable() == nil {
		lib.XJS_RunGC(e.tls, e.rt)
	}
}

// usable says whether the engine may be worked with.
func (e *Engine) usable() error {
	switch {
	case e.lost:
		return ErrLost
	case len(e.scopes) == 0:
		return ErrScope
	default:
		return nil
	}
}
