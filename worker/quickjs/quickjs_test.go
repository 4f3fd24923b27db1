package quickjs_test

import (
	"errors"
	"math"
	"math/big"
	"os"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/holdfast-io/holdfast/worker/quickjs"
)

func TestMain(m *testing.M) {
	// Which the engines must not take over.
	if err := os.Setenv("TZ", "America/New_York"); err != nil {
		panic(err)
	}
	goleak.VerifyTestMain(m)
}

func TestDatesAreUTC(t *testing.T) {
	t.Parallel()
	for range 4 {
		t.Run("engine", func(t *testing.T) {
			t.Parallel()
			in(t, func(e *quickjs.Engine) {
				got := show(t, e, eval(t, e, `for (let i = 0; i < 1000; i++) new Date(2020, i).getHours(); [new Date(0).getTimezoneOffset(), String(new Date(0)), new Date(2020, 6).getTime()]`))
				if got != `[0,"Thu Jan 01 1970 00:00:00 GMT+0000",1593561600000]` {
					t.Errorf("dates are %s", got)
				}
			})
		})
	}
}

func newEngine(tb testing.TB, options quickjs.Options) *quickjs.Engine {
	tb.Helper()
	e, err := quickjs.New(options)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := e.Close(); err != nil {
			tb.Error(err)
		}
	})
	return e
}

// enter runs f in e and wants no error.
func enter(tb testing.TB, e *quickjs.Engine, f func() error) {
	tb.Helper()
	if err := e.Enter(f); err != nil {
		tb.Fatal(err)
	}
}

// in runs f in a new engine without limits.
func in(tb testing.TB, f func(e *quickjs.Engine)) {
	tb.Helper()
	e := newEngine(tb, quickjs.Options{})
	enter(tb, e, func() error {
		f(e)
		return nil
	})
}

func eval(tb testing.TB, e *quickjs.Engine, source string) quickjs.Value {
	tb.Helper()
	v, err := e.Eval(source, "test.js")
	if err != nil {
		tb.Fatalf("%s: %v", source, err)
	}
	return v
}

// show is a value as JavaScript's JSON or String, for comparisons.
func show(tb testing.TB, e *quickjs.Engine, v quickjs.Value) string {
	tb.Helper()
	f := eval(tb, e, `(v) => { if (typeof v === "string") return JSON.stringify(v); if (typeof v === "object" && v !== null) return JSON.stringify(v); return Object.is(v, -0) ? "-0" : typeof v === "bigint" ? v + "n" : String(v) }`)
	out, err := f.Call(quickjs.Value{}, v)
	if err != nil {
		tb.Fatal(err)
	}
	s, err := out.Text()
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

func TestValuesGoThroughBothWays(t *testing.T) {
	t.Parallel()
	in(t, func(e *quickjs.Engine) {
		id := eval(t, e, `(v) => v`)
		through := func(v quickjs.Value) quickjs.Value {
			out, err := id.Call(quickjs.Value{}, v)
			if err != nil {
				t.Fatal(err)
			}
			return out
		}
		for _, f := range []float64{0, math.Copysign(0, -1), 1, -1, 0.5, 1 << 31, -(1 << 31), 1<<31 - 1, 1 << 53, math.MaxFloat64, math.Inf(1), math.Inf(-1), math.NaN()} {
			got, err := through(quickjs.FloatValue(f)).Float()
			if err != nil || math.Float64bits(got) != math.Float64bits(f) && f == f || got == got != (f == f) {
				t.Errorf("%v came back as %v, %v", f, got, err)
			}
		}
		for _, s := range []string{"", "a", "a\x00b", "é", "€uro", "😀", "\xed\xa0\x80", "x\xed\xbf\xbfy", strings.Repeat("ü", 100_000)} {
			got, err := through(e.String(s)).Text()
			if err != nil || got != s {
				t.Errorf("%.20q came back as %.20q, %v", s, got, err)
			}
		}
		if got, _ := through(e.String("a\xffb\xc3")).Text(); got != "a\ufffdb\ufffd" {
			t.Errorf("bytes that are no UTF-8 came back as %q", got)
		}
		for _, s := range []string{
			"0", "-1", "9223372036854775807", "-9223372036854775808", "9223372036854775808", "-9223372036854775809",
			"123456789012345678901234567890", "-123456789012345678901234567890",
		} {
			n, _ := new(big.Int).SetString(s, 10)
			v := through(e.BigInt(n))
			got, err := v.BigInt()
			if err != nil || got.Cmp(n) != 0 || show(t, e, v) != s+"n" {
				t.Errorf("%sn came back as %v and is %s, %v", s, got, show(t, e, v), err)
			}
		}
		for _, b := range []bool{true, false} {
			if got, err := through(quickjs.BoolValue(b)).Bool(); got != b || err != nil {
				t.Errorf("%v came back as %v, %v", b, got, err)
			}
		}
		for want, v := range map[string]quickjs.Value{
			"undefined": {}, "null": quickjs.NullValue(), "true": quickjs.BoolValue(true), "5": quickjs.IntValue(5), "0": quickjs.FloatValue(math.Copysign(0, -1)),
			"NaN": quickjs.FloatValue(math.NaN()), "-Infinity": quickjs.FloatValue(math.Inf(-1)), "Infinity": quickjs.FloatValue(math.Inf(1)),
			"1e+21": quickjs.FloatValue(1e21), "0.000001": quickjs.FloatValue(1e-6), "1e-7": quickjs.FloatValue(1e-7),
		} {
			alone, err := v.ToText()
			there, err2 := through(v).ToText()
			if alone != want || there != want || err != nil || err2 != nil {
				t.Errorf("%s as text is %s and %s, %v, %v", want, alone, there, err, err2)
			}
		}
		if v := through(quickjs.NullValue()); v.Kind() != quickjs.Null {
			t.Errorf("null came back as %v", v.Kind())
		}
		if v := through(quickjs.Value{}); !v.IsUndefined() {
			t.Errorf("undefined came back as %v", v.Kind())
		}
	})
}

func TestBytesGoThroughBothWays(t *testing.T) {
	t.Parallel()
	in(t, func(e *quickjs.Engine) {
		want := []byte{0, 1, 254, 255}
		for name, v := range map[string]quickjs.Value{
			"Go's":     e.Bytes(want),
			"buffer":   e.ArrayBuffer(want),
			"array":    eval(t, e, `new Uint8Array([0, 1, 254, 255])`),
			"part":     eval(t, e, `new Uint8Array([9, 0, 1, 254, 255, 9]).subarray(1, 5)`),
			"words":    eval(t, e, `new Uint16Array([256, 65534])`),
			"view":     eval(t, e, `new DataView(new Uint8Array([9, 0, 1, 254, 255, 9]).buffer, 1, 4)`),
			"tracking": eval(t, e, `{const b = new ArrayBuffer(2, {maxByteLength: 8}); const a = new Uint8Array(b); b.resize(4); a.set([0, 1, 254, 255]); a}`),
		} {
			got, err := v.Bytes()
			if err != nil || string(got) != string(want) {
				t.Errorf("%s: %v, %v", name, got, err)
			}
		}
		if got := show(t, e, e.Bytes(nil)); got != "{}" {
			t.Errorf("no bytes are %s", got)
		}
		for _, none := range []string{`[1]`, `({})`, `"x"`, `1`} {
			if _, err := eval(t, e, none).Bytes(); err == nil {
				t.Errorf("%s has bytes", none)
			}
		}
		detached := eval(t, e, `{const b = new ArrayBuffer(8); b.transfer(); b}`)
		if _, err := detached.Bytes(); err == nil {
			t.Error("a detached buffer has bytes")
		}
	})
}

func TestHostFunctions(t *testing.T) {
	t.Parallel()
	in(t, func(e *quickjs.Engine) {
		add := e.Function("add", 2, func(_ *quickjs.Engine, _ quickjs.Value, args quickjs.Args) (quickjs.Value, error) {
			a, err := args.At(0).Int()
			if err != nil {
				return quickjs.Value{}, err
			}
			b, err := args.At(1).Int()
			return quickjs.IntValue(a + b), err
		})
		if err := e.Global().Set("add", add); err != nil {
			t.Fatal(err)
		}
		for source, want := range map[string]string{
			`add(1, 2)`: `3`,
			`[typeof add, add.name, add.length, add instanceof Function, add.call(null, 2, 3), add.bind(null, 1)(1)]`: `["function","add",2,true,5,2]`,
			`try { add("x") } catch (e) { e instanceof TypeError && e.message }`:                                      `"a number is needed here, and this is a string"`,
			`try { add(1.5, 1) } catch (e) { e instanceof RangeError && e.message }`:                                  `"an integer is needed here, and this is 1.5"`,
			`try { new add() } catch (e) { e.name }`:                                                                  `"TypeError"`,
		} {
			if got := show(t, e, eval(t, e, source)); got != want {
				t.Errorf("%s is %s and not %s", source, got, want)
			}
		}
	})
}

func TestErrors(t *testing.T) {
	t.Parallel()
	in(t, func(e *quickjs.Engine) {
		_, err := e.Eval("function f() {\n  throw Object.assign(new RangeError('bad', {cause: new TypeError('why')}), {code: 'E1', n: 3, x: {}})\n}\nf()", "bad.js")
		var thrown *quickjs.Error
		if !errors.As(err, &thrown) {
			t.Fatal(err)
		}
		var cause *quickjs.Error
		if thrown.Name != "RangeError" || thrown.Message != "bad" || !strings.Contains(thrown.Stack, "at f (bad.js:2:") || !errors.As(thrown.Cause, &cause) || cause.Name != "TypeError" {
			t.Errorf("%#v", thrown)
		}
		if len(thrown.Props) != 2 || thrown.Props["code"] != "E1" || thrown.Props["n"] != 3.0 {
			t.Errorf("props %v", thrown.Props)
		}
		if _, err := e.Eval("throw 5", "five.js"); err.Error() != "5" {
			t.Errorf("throw 5 gives %v", err)
		}
		if _, err := e.Eval("1 +", "syntax.js"); !errors.As(err, &thrown) || thrown.Name != "SyntaxError" || !strings.Contains(thrown.Stack, "syntax.js:1") {
			t.Errorf("a syntax error gives %#v", err)
		}

		// From Go to JavaScript and through it, it stays the same.
		fail := e.Function("fail", 0, func(*quickjs.Engine, quickjs.Value, quickjs.Args) (quickjs.Value, error) {
			err := quickjs.NewError("RangeError", "from %s", "Go")
			err.Props = map[string]any{"code": "E2"}
			return quickjs.Value{}, err
		})
		again := e.Function("again", 1, func(_ *quickjs.Engine, _ quickjs.Value, args quickjs.Args) (quickjs.Value, error) {
			return args.At(0).Call(quickjs.Value{})
		})
		if err := errors.Join(e.Global().Set("fail", fail), e.Global().Set("again", again)); err != nil {
			t.Fatal(err)
		}
		for source, want := range map[string]string{
			`try { fail() } catch (e) { [e instanceof RangeError, e.message, e.code, Object.keys(e), typeof e.stack] }`: `[true,"from Go","E2",["code"],"string"]`,
			`const x = {}; try { again(() => { throw x }) } catch (e) { e === x }`:                                      `true`,
			`const y = new Error; try { again(() => { throw y }) } catch (e) { e === y }`:                               `true`,
		} {
			if got := show(t, e, eval(t, e, source)); got != want {
				t.Errorf("%s is %s and not %s", source, got, want)
			}
		}
	})
}

func TestPromisesAndJobs(t *testing.T) {
	t.Parallel()
	in(t, func(e *quickjs.Engine) {
		promise, resolver, err := e.NewPromise()
		if err != nil {
			t.Fatal(err)
		}
		if err := e.Global().Set("p", promise); err != nil {
			t.Fatal(err)
		}
		out := eval(t, e, `(async () => { const v = await p; return v + 1 })()`)
		if state, _ := out.Promise(); state != quickjs.Pending {
			t.Fatalf("before: %v", state)
		}
		if err := resolver.Resolve(quickjs.IntValue(41)); err != nil {
			t.Fatal(err)
		}
		if more, err := e.RunJobs(1000); more || err != nil {
			t.Fatal(more, err)
		}
		state, result := out.Promise()
		if n, err := result.Int(); state != quickjs.Fulfilled || n != 42 || err != nil {
			t.Errorf("after: %v, %v, %v", state, n, err)
		}

		eval(t, e, `let i = 0; (async () => { for (;;) { i++; await null } })()`)
		if more, err := e.RunJobs(100); !more || err != nil {
			t.Error("an endless chain of jobs ended", err)
		}

		eval(t, e, `Promise.reject(new Error("lost")); Promise.reject(1).catch(() => {}); const late = Promise.reject(2); late.catch(() => {})`)
		rejections := e.TakeRejections()
		if len(rejections) != 1 || e.Caught(rejections[0].Reason).Message != "lost" {
			t.Errorf("unhandled: %v", rejections)
		}
	})
}

func TestModules(t *testing.T) {
	t.Parallel()
	main, err := quickjs.CompileModule(`import { base } from "virtual:host"; import { twice } from "./lib.js"; export const n = twice(base); await null; export default (await import("./lib.js")).twice(n)`, "dir/main.js")
	if err != nil {
		t.Fatal(err)
	}
	e := newEngine(t, quickjs.Options{Load: func(name string) (*quickjs.Bytecode, error) {
		if name != "dir/lib.js" {
			return nil, errors.New("unknown module " + name)
		}
		return quickjs.CompileModule(`export function twice(x) { return 2 * x }`, name)
	}})
	enter(t, e, func() error {
		if err := e.DefineModule("virtual:host", map[string]quickjs.Value{"base": quickjs.IntValue(10), "other": e.Object()}); err != nil {
			return err
		}
		ns, done, err := e.Import(main)
		if err != nil {
			return err
		}
		for more := true; more; {
			if more, err = e.RunJobs(100); err != nil {
				return err
			}
		}
		if state, reason := done.Promise(); state != quickjs.Fulfilled {
			t.Fatalf("%v: %v", state, e.Caught(reason))
		}
		if got := show(t, e, ns); got != `{"default":40,"n":20}` {
			t.Errorf("exports %s", got)
		}

		missing, err := quickjs.CompileModule(`import "./missing.js"`, "dir/bad.js")
		if err != nil {
			return err
		}
		if _, _, err := e.Import(missing); err == nil || !strings.Contains(err.Error(), "unknown module dir/missing.js") {
			t.Errorf("a missing module gives %v", err)
		}
		return nil
	})
	if _, err := quickjs.CompileModule(`export {`, "bad.js"); err == nil {
		t.Error("bad syntax compiles")
	}
}

func TestEndlessLoopsAreStopped(t *testing.T) {
	t.Parallel()
	for name, source := range map[string]string{
		"loop":         `for (;;) {}`,
		"catch":        `for (;;) { try { for (;;) {} } catch (e) {} finally { for (;;) {} } }`,
		"regexp":       `/^(a+)+$/.test("a".repeat(40) + "b")`,
		"through host": `for (;;) { try { host(() => { for (;;) {} }) } catch (e) {} }`,
		"jobs":         `(async () => { for (;;) await null })()`,
		"getter":       `({ get x() { for (;;) {} } }).x`,
		"sort":         `Array.from({length: 1e6}, () => 1).sort(() => { for (;;) {} })`,
		"slow steps":   `const a = new Array(4e6).fill(0); for (;;) a.indexOf(1)`,
		"constructor":  `new Proxy({}, { get() { for (;;) {} } }).a`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := newEngine(t, quickjs.Options{TimeMax: 50 * time.Millisecond})
			run := func(source string) error {
				return e.Enter(func() error {
					host := e.Function("host", 1, func(_ *quickjs.Engine, _ quickjs.Value, args quickjs.Args) (quickjs.Value, error) {
						_, _ = args.At(0).Call(quickjs.Value{})
						return quickjs.Value{}, nil
					})
					if err := e.Global().Set("host", host); err != nil {
						return err
					}
					if _, err := e.Eval(source, "endless.js"); err != nil {
						return err
					}
					for {
						if more, err := e.RunJobs(1000); !more || err != nil {
							return err
						}
					}
				})
			}
			start := time.Now()
			if err := run(source); !errors.Is(err, quickjs.ErrTimeLimit) {
				t.Fatalf("it gives %v", err)
			}
			// Generous to slow machines: where the engine looks at the clock too seldom, it is minutes.
			if took := time.Since(start); took > 30*time.Second {
				t.Errorf("it was stopped after %v", took)
			}
			if err := e.Enter(func() error { _, err := e.Eval("1", "after.js"); return err }); err != nil {
				t.Errorf("after that: %v", err)
			}
		})
	}
}
