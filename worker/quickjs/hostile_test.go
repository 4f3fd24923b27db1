package quickjs_test

import (
	"errors"
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-io/holdfast/worker/quickjs"
)

func TestMemoryLimit(t *testing.T) {
	t.Parallel()
	for name, source := range map[string]string{
		"string":  `let s = "x"; for (;;) s += s`,
		"arrays":  `const a = []; for (;;) a.push(new Array(1000).fill(1))`,
		"objects": `const o = []; for (;;) o.push({a: {}})`,
		"bytes":   `const b = []; for (;;) b.push(new Uint8Array(1 << 20))`,
		"map":     `const m = new Map; for (let i = 0;; i++) m.set(i, {})`,
		"bigint":  `let n = 3n; for (;;) n *= n`,
		"host":    `for (const a = [];;) a.push(bytes())`,
		"json":    `let j = "[1,2,3,4,5,6,7,8]"; for (;;) j = JSON.stringify([JSON.parse(j), JSON.parse(j)])`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if raceEnabled && (name == "json" || name == "bigint") {
				t.Skip("too slow with the race detector")
			}
			e := newEngine(t, quickjs.Options{MemoryMax: 4 << 20, TimeMax: 60 * time.Second})
			enter(t, e, func() error {
				bytes := e.Function("bytes", 0, func(e *quickjs.Engine, _ quickjs.Value, _ quickjs.Args) (quickjs.Value, error) {
					return e.Bytes(make([]byte, 100_000)), nil
				})
				if err := e.Global().Set("bytes", bytes); err != nil {
					return err
				}
				caught := eval(t, e, `(() => { try { (() => { `+source+` })() } catch (e) { return e instanceof Error ? e.name + ": " + e.message : String(e) } })()`)
				if got := show(t, e, caught); got != `"InternalError: out of memory"` && got != `"RangeError: BigInt is too large to allocate"` && got != `"null"` && !strings.Contains(got, "string too long") {
					t.Errorf("caught %s", got)
				}
				_, err := e.Eval("{"+source+"}", "oom.js")
				if name != "bigint" && name != "string" && !errors.Is(err, quickjs.ErrOutOfMemory) {
					t.Errorf("uncaught it gives %v", err)
				}
				return nil
			})
			enter(t, e, func() error {
				if got := show(t, e, eval(t, e, `[1, 2, 3].map((x) => x * 2)`)); got != "[2,4,6]" {
					t.Errorf("after that: %s", got)
				}
				return nil
			})
		})
	}
}

// Whatever the limit, an engine that has too little memory says so, and never takes the process with it.
func TestEveryMemoryLimitIsSurvived(t *testing.T) {
	t.Parallel()
	if raceEnabled {
		t.Skip("the engine is lost at some limits, which the race detector does not let pass")
	}
	step := int64(4 << 10)
	if testing.Short() {
		step *= 16
	}
	for limit := int64(16 << 10); limit < 1<<20; limit += step {
		e, err := quickjs.New(quickjs.Options{MemoryMax: limit, TimeMax: 10 * time.Second})
		if err != nil {
			if !errors.Is(err, quickjs.ErrOutOfMemory) && !errors.Is(err, quickjs.ErrLost) {
				t.Errorf("%d bytes: %v", limit, err)
			}
			continue
		}
		for range 2 {
			err = e.Enter(func() error {
				if err := e.Global().Set("f", e.Function("f", 0, func(e *quickjs.Engine, _ quickjs.Value, args quickjs.Args) (quickjs.Value, error) {
					return e.Array(e.String(strings.Repeat("é", 1000)), e.Bytes(make([]byte, 1000)), args.At(0)), nil
				})); err != nil {
					return err
				}
				if _, err := e.Eval(`
					globalThis.A = class { #x = [1, 2, 3]; get x() { return this.#x } }
					globalThis.keep = globalThis.keep ?? []
					async function go() { for (let i = 0; i < 500; i++) { keep.push(new A, f(new Map([[i, JSON.stringify({i})]])), /a+/.exec("aa"), Symbol()); await null } }
					go()`, "oom.js"); err != nil {
					return err
				}
				_, err := e.RunJobs(10_000)
				return err
			})
			if err != nil && !errors.Is(err, quickjs.ErrOutOfMemory) && !errors.Is(err, quickjs.ErrLost) {
				t.Logf("%d bytes: %v", limit, err)
			}
		}
		if err := e.Close(); err != nil {
			t.Errorf("%d bytes: %v", limit, err)
		}
	}
}

func TestDeepRecursion(t *testing.T) {
	t.Parallel()
	for name, source := range map[string]string{
		"calls":   `(function f() { f() })()`,
		"methods": `({ f() { this.f() } }).f()`,
		"getter":  `({ get x() { return this.x } }).x`,
		"proxy":   `{ const p = new Proxy({}, { get: (t, k, r) => r[k] }); p.x }`,
		"sort":    `(function f() { [2, 1].sort(f) })()`,
		"replace": `(function f() { "a".replace(/a/, f) })()`,
		"host":    `(function f() { host(f) })()`,
		"json":    `let j = "[".repeat(100000) + "]".repeat(100000); JSON.parse(j)`,
		"regexp":  `new RegExp("(".repeat(100000) + ")".repeat(100000))`,
		"nested":  `eval("[".repeat(100000))`,
		"proxies": `let p = {}; for (let i = 0; i < 20000; i++) p = new Proxy(p, {}); p.x`,
		"values":  `let a = []; for (let i = 0; i < 20000; i++) a = [a]; JSON.stringify(a)`,
		"join":    `let j = []; for (let i = 0; i < 20000; i++) j = [j]; String(j)`,
		"yields":  `function* g(n) { if (n) yield* g(n - 1) } [...g(20000)]`,
		"classes": `let C = class {}; for (let i = 0; i < 10000; i++) C = class extends C {}; new C`,
		"string":  `class X { toString() { return String(this) } } String(new X)`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := newEngine(t, quickjs.Options{})
			enter(t, e, func() error {
				host := e.Function("host", 1, func(_ *quickjs.Engine, _ quickjs.Value, args quickjs.Args) (quickjs.Value, error) {
					return args.At(0).Call(quickjs.Value{})
				})
				if err := e.Global().Set("host", host); err != nil {
					return err
				}
				_, err := e.Eval(source, "deep.js")
				if _, ok := errors.AsType[*quickjs.Error](err); !ok {
					t.Fatalf("it gives %v", err)
				}
				if name != "json" && name != "regexp" && name != "nested" && !errors.Is(err, quickjs.ErrStackOverflow) {
					t.Errorf("it gives %v", err)
				}
				if got := show(t, e, eval(t, e, `try { `+source+` } catch (e) { e instanceof Error }`)); got != "true" {
					t.Errorf("caught %s", got)
				}
				return nil
			})
		})
	}
}

func TestInterrupt(t *testing.T) {
	t.Parallel()
	e := newEngine(t, quickjs.Options{})
	reason := errors.New("enough")
	e.Interrupt(reason) // nothing is under way
	err := e.Enter(func() error {
		started := e.Function("started", 0, func(*quickjs.Engine, quickjs.Value, quickjs.Args) (quickjs.Value, error) {
			done := make(chan struct{})
			go func() { e.Interrupt(reason); close(done) }()
			<-done
			return quickjs.Value{}, nil
		})
		if err := e.Global().Set("started", started); err != nil {
			return err
		}
		eval(t, e, `let reached = 0`)
		_, err := e.Eval(`try { started(); reached = 1; for (;;) {} } catch { reached = 2 } finally { reached = 3 }`, "interrupted.js")
		return err
	})
	if !errors.Is(err, reason) {
		t.Errorf("it gives %v", err)
	}
	enter(t, e, func() error {
		if got := show(t, e, eval(t, e, `reached`)); got != "0" {
			t.Errorf("JavaScript went on to %s", got)
		}
		return nil
	})
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	e.Interrupt(reason)
	if err := e.Enter(func() error { return nil }); !errors.Is(err, quickjs.ErrClosed) {
		t.Errorf("a closed engine gives %v", err)
	}
}

func TestHostPanics(t *testing.T) {
	t.Parallel()
	e := newEngine(t, quickjs.Options{})
	enter(t, e, func() error {
		boom := e.Function("boom", 0, func(_ *quickjs.Engine, _ quickjs.Value, args quickjs.Args) (quickjs.Value, error) {
			return args[len(args)], nil
		})
		again := e.Function("again", 1, func(_ *quickjs.Engine, _ quickjs.Value, args quickjs.Args) (quickjs.Value, error) {
			_, _ = args.At(0).Call(quickjs.Value{})
			return quickjs.Value{}, nil
		})
		if err := errors.Join(e.Global().Set("boom", boom), e.Global().Set("again", again)); err != nil {
			return err
		}
		for _, source := range []string{`boom()`, `try { boom() } catch {}`, `try { again(boom) } catch {}`, `again(() => again(boom)); 1`, `[1].map(boom)`, `try { JSON.stringify({toJSON: boom}) } finally { 1 }`} {
			_, err := e.Eval(source, "boom.js")
			var panicked *quickjs.PanicError
			if !errors.As(err, &panicked) || !strings.Contains(err.Error(), "index out of range") || !strings.Contains(string(panicked.Stack), "TestHostPanics") {
				t.Errorf("%s gives %v", source, err)
			}
			if got := show(t, e, eval(t, e, `1 + 1`)); got != "2" {
				t.Errorf("after that 1 + 1 is %s", got)
			}
		}
		return nil
	})

	// A panic outside of host functions is the caller's.
	func() {
		defer func() {
			if p := recover(); p != "mine" {
				t.Errorf("recovered %v", p)
			}
		}()
		_ = e.Enter(func() error {
			eval(t, e, `({})`) // which is freed all the same
			panic("mine")
		})
	}()
	enter(t, e, func() error { eval(t, e, "1"); return nil })
}

func TestAFaultLosesTheEngine(t *testing.T) {
	t.Parallel()
	e := newEngine(t, quickjs.Options{})
	var kept quickjs.Value
	err := e.Enter(func() error {
		kept = e.Object()
		quickjs.Corrupt(kept)
		_, err := kept.Get("x")
		return err
	})
	if !errors.Is(err, quickjs.ErrLost) {
		t.Fatalf("a fault gives %v", err)
	}
	if err := e.Enter(func() error { t.Error("entered"); return nil }); !errors.Is(err, quickjs.ErrLost) {
		t.Errorf("after it, entering gives %v", err)
	}

	// Also below JavaScript and a host function.
	e = newEngine(t, quickjs.Options{})
	err = e.Enter(func() error {
		host := e.Function("host", 0, func(e *quickjs.Engine, _ quickjs.Value, _ quickjs.Args) (quickjs.Value, error) {
			o := e.Object()
			quickjs.Corrupt(o)
			_, _ = o.Get("x")
			t.Error("went on")
			return quickjs.Value{}, nil
		})
		if err := e.Global().Set("host", host); err != nil {
			return err
		}
		_, err := e.Eval(`try { host() } catch {}`, "fault.js")
		return err
	})
	if !errors.Is(err, quickjs.ErrLost) {
		t.Errorf("a fault below a host function gives %v", err)
	}

	// A goroutine that ends inside of the engine leaves it lost.
	e = newEngine(t, quickjs.Options{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = e.Enter(func() error {
			host := e.Function("host", 0, func(*quickjs.Engine, quickjs.Value, quickjs.Args) (quickjs.Value, error) {
				runtime.Goexit()
				return quickjs.Value{}, nil
			})
			if err := e.Global().Set("host", host); err != nil {
				return err
			}
			_, err := e.Eval(`host()`, "exit.js")
			return err
		})
	}()
	<-done
	if err := e.Enter(func() error { return nil }); !errors.Is(err, quickjs.ErrLost) {
		t.Errorf("after Goexit: %v", err)
	}
}

func TestValuesEndWithTheirScope(t *testing.T) {
	t.Parallel()
	e, other := newEngine(t, quickjs.Options{}), newEngine(t, quickjs.Options{})
	var old quickjs.Value
	var ref *quickjs.Ref
	enter(t, e, func() error {
		old = e.Object()
		var inner quickjs.Value
		outer, err := e.Scope(func() (quickjs.Value, error) {
			inner = e.String("inner")
			return e.String("outer"), nil
		})
		if err != nil {
			return err
		}
		if s, err := outer.Text(); s != "outer" || err != nil {
			t.Errorf("what a scope returns is %q, %v", s, err)
		}
		if _, err := inner.Text(); !errors.Is(err, quickjs.ErrScope) {
			t.Errorf("a value of an inner scope gives %v", err)
		}
		ref, err = outer.Keep()
		return err
	})
	enter(t, e, func() error {
		if _, err := old.Get("x"); !errors.Is(err, quickjs.ErrScope) {
			t.Errorf("a value of an entry before gives %v", err)
		}
		if err := e.Global().Set("x", old); !errors.Is(err, quickjs.ErrScope) {
			t.Errorf("setting it gives %v", err)
		}
		if s, err := ref.Value().Text(); s != "outer" || err != nil {
			t.Errorf("what was kept is %q, %v", s, err)
		}
		return other.Enter(func() error {
			if err := other.Global().Set("x", e.Object()); !errors.Is(err, quickjs.ErrScope) {
				t.Errorf("a value of another engine gives %v", err)
			}
			return nil
		})
	})
	if _, err := old.Get("x"); !errors.Is(err, quickjs.ErrScope) {
		t.Errorf("outside of entries it gives %v", err)
	}
	if v := e.Object(); v.Err() == nil {
		t.Error("an object can be made outside of entries")
	}
	ref.Free()
	ref.Free()
	enter(t, e, func() error {
		if _, err := ref.Value().Text(); !errors.Is(err, quickjs.ErrScope) {
			t.Errorf("a freed reference gives %v", err)
		}
		return nil
	})
}

func TestOneGoroutineAtATime(t *testing.T) {
	t.Parallel()
	e := newEngine(t, quickjs.Options{})
	enter(t, e, func() error {
		if err := e.Enter(func() error { return nil }); !errors.Is(err, quickjs.ErrBusy) {
			t.Errorf("entering twice gives %v", err)
		}
		if err := e.Close(); !errors.Is(err, quickjs.ErrBusy) {
			t.Errorf("closing from inside gives %v", err)
		}
		return nil
	})
	// Any goroutine, one after another.
	for range 10 {
		done := make(chan error)
		go func() {
			done <- e.Enter(func() error { _, err := e.Eval("globalThis.n = (globalThis.n ?? 0) + 1", "n.js"); return err })
		}()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
}

// resident is how much memory the process has, in bytes.
func resident(tb testing.TB) int64 {
	tb.Helper()
	raw, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		tb.Skip("this system does not say how much memory a process has")
	}
	pages, err := strconv.ParseInt(strings.Fields(string(raw))[1], 10, 64)
	if err != nil {
		tb.Fatal(err)
	}
	return pages * int64(os.Getpagesize())
}

// Not parallel: it looks at the memory of the process.
func TestEnginesGiveTheirMemoryBack(t *testing.T) {
	rounds := 1000
	if raceEnabled {
		t.Skip("the race detector keeps memory of its own")
	}
	if testing.Short() {
		rounds = 100
	}
	cycle := func() {
		e, err := quickjs.New(quickjs.Options{MemoryMax: 64 << 20})
		if err != nil {
			t.Fatal(err)
		}
		enter(t, e, func() error {
			f := e.Function("f", 0, func(e *quickjs.Engine, _ quickjs.Value, _ quickjs.Args) (quickjs.Value, error) {
				return e.Object(), nil
			})
			if err := e.Global().Set("f", f); err != nil {
				return err
			}
			if _, _, err := e.NewPromise(); err != nil {
				return err
			}
			if _, err := e.Object().Keep(); err != nil {
				return err
			}
			_, err := e.Eval(`globalThis.a = {f}; a.a = a; Promise.reject({}); new Array(1000).fill(f()); async function x() { await new Promise(() => {}) } x()`, "cycle.js")
			return err
		})
		if err := e.Close(); err != nil {
			t.Fatal(err)
		}
	}
	for range 50 {
		cycle()
	}
	runtime.GC()
	before := resident(t)
	for range rounds {
		cycle()
	}
	runtime.GC()
	if grown := resident(t) - before; grown > 8<<20 {
		t.Errorf("after %d engines the process has %d KiB more", rounds, grown>>10)
	}
}

func TestCallsLeakNothing(t *testing.T) {
	t.Parallel()
	e := newEngine(t, quickjs.Options{})
	round := func() {
		enter(t, e, func() error {
			f := e.Function("f", 0, func(_ *quickjs.Engine, _ quickjs.Value, args quickjs.Args) (quickjs.Value, error) {
				_, _ = args.At(0).Get("x")
				return args.At(0), quickjs.NewError("TypeError", "no")
			})
			if err := e.Global().Set("f", f); err != nil {
				return err
			}
			v := eval(t, e, `(() => { try { f({x: {}}) } catch (e) { return [e, new Uint8Array(10), 2n ** 100n] } })()`)
			if _, err := v.Keys(); err != nil {
				return err
			}
			promise, resolver, err := e.NewPromise()
			if err != nil {
				return err
			}
			if err := e.Global().Set("p", promise); err != nil {
				return err
			}
			eval(t, e, `p.then((x) => { throw x })`)
			if err := resolver.Resolve(e.String("x")); err != nil {
				return err
			}
			if _, err := e.RunJobs(100); err != nil {
				return err
			}
			e.TakeRejections()
			ref, err := v.Keep()
			if err != nil {
				return err
			}
			ref.Free()
			return nil
		})
	}
	used := func() (n int64) {
		round()
		enter(t, e, func() error { e.GC(); n = e.Memory().Used; return nil })
		return n
	}
	used()
	before := used()
	for range 200 {
		round()
	}
	if after := used(); after > before+1024 {
		t.Errorf("200 rounds took %d bytes", after-before)
	}
}
