package quickjs_test

import (
	"runtime"
	"strings"
	"testing"

	"github.com/holdfast-io/holdfast/worker/quickjs"
)

// What the seed of a counter does per call, without storage: an async method that awaits.
const counter = `class Counter { n = 0; async increment(by) { await null; this.n += by; return this.n } } globalThis.counter = new Counter`

func BenchmarkEnter(b *testing.B) {
	e := newEngine(b, quickjs.Options{})
	for b.Loop() {
		enter(b, e, func() error { return nil })
	}
}

func BenchmarkCallFunction(b *testing.B) {
	in(b, func(e *quickjs.Engine) {
		f := eval(b, e, `(a, b) => a`)
		for b.Loop() {
			if _, err := f.Call(quickjs.Value{}, quickjs.IntValue(1), quickjs.IntValue(2)); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkCallHost(b *testing.B) {
	in(b, func(e *quickjs.Engine) {
		f := e.Function("f", 1, func(_ *quickjs.Engine, _ quickjs.Value, args quickjs.Args) (quickjs.Value, error) {
			return args.At(0), nil
		})
		loop, err := eval(b, e, `(f, n) => { for (let i = 0; i < n; i++) f(i) }`).Keep()
		if err != nil {
			b.Fatal(err)
		}
		b.ResetTimer()
		if _, err := loop.Value().Call(quickjs.Value{}, f, quickjs.IntValue(int64(b.N))); err != nil {
			b.Fatal(err)
		}
	})
}

func BenchmarkAsyncCall(b *testing.B) {
	e := newEngine(b, quickjs.Options{})
	var counterRef *quickjs.Ref
	enter(b, e, func() (err error) {
		eval(b, e, counter)
		counterRef, err = eval(b, e, `globalThis.counter`).Keep()
		return err
	})
	for b.Loop() {
		enter(b, e, func() error {
			promise, err := counterRef.Value().Invoke("increment", quickjs.IntValue(1))
			if err != nil {
				return err
			}
			if _, err := e.RunJobs(1000); err != nil {
				return err
			}
			if state, v := promise.Promise(); state != quickjs.Fulfilled {
				b.Fatal(state, v)
			}
			return nil
		})
	}
}

func BenchmarkString(b *testing.B) {
	in(b, func(e *quickjs.Engine) {
		s := strings.Repeat("x", 20)
		for b.Loop() {
			_, err := e.Scope(func() (quickjs.Value, error) {
				_, err := e.String(s).Text()
				return quickjs.Value{}, err
			})
			if err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkMegabyteIn(b *testing.B) {
	in(b, func(e *quickjs.Engine) {
		data := make([]byte, 1<<20)
		for b.Loop() {
			_, err := e.Scope(func() (quickjs.Value, error) { return quickjs.Value{}, e.Bytes(data).Err() })
			if err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkMegabyteOut(b *testing.B) {
	in(b, func(e *quickjs.Engine) {
		v := e.Bytes(make([]byte, 1<<20))
		for b.Loop() {
			if _, err := v.Bytes(); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkEngineFromBytecode(b *testing.B) {
	code, err := quickjs.CompileScript(strings.Repeat(counter+"\n;", 1), "counter.js")
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		e, err := quickjs.New(quickjs.Options{})
		if err != nil {
			b.Fatal(err)
		}
		enter(b, e, func() error { _, err := e.Run(code); return err })
		if err := e.Close(); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkResidentPerEngine(b *testing.B) {
	runtime.GC()
	before := resident(b)
	const n = 100
	var all []*quickjs.Engine
	for range n {
		e, err := quickjs.New(quickjs.Options{})
		if err != nil {
			b.Fatal(err)
		}
		enter(b, e, func() error { _, err := e.Eval(counter, "counter.js"); return err })
		all = append(all, e)
	}
	b.ReportMetric(float64(resident(b)-before)/n/1024, "KiB/engine")
	for _, e := range all {
		if err := e.Close(); err != nil {
			b.Fatal(err)
		}
	}
}
