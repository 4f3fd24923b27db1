package clone_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"math"
	"math/big"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/holdfast-io/holdfast/storage/value"
	"github.com/holdfast-io/holdfast/worker/clone"
	"github.com/holdfast-io/holdfast/worker/quickjs"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// in runs f in an engine of its own, in which same(a, b) compares two values with all that they refer to, and
// random(seed) makes one.
func in(tb testing.TB, f func(e *quickjs.Engine)) {
	tb.Helper()
	e, err := quickjs.New(quickjs.Options{MemoryMax: 256 << 20})
	if err != nil {
		tb.Fatal(err)
	}
	err = e.Enter(func() error {
		if _, err := e.Eval(helpers, "helpers.js"); err != nil {
			return err
		}
		f(e)
		return nil
	})
	if err = errors.Join(err, e.Close()); err != nil {
		tb.Fatal(err)
	}
}

const helpers = `
function same(a, b, seen = new Map()) {
	if (typeof a !== typeof b) return false
	if (typeof a !== "object" || a === null || b === null) return Object.is(a, b)
	if (seen.has(a)) return seen.get(a) === b
	seen.set(a, b)
	const tag = Object.prototype.toString.call(a)
	if (tag !== Object.prototype.toString.call(b) || Object.getPrototypeOf(a) !== Object.getPrototypeOf(b)) return false
	if (a instanceof Date) return Object.is(a.getTime(), b.getTime())
	if (a instanceof RegExp) return String(a) === String(b)
	if (a instanceof Map) { return same([...a].flat(), [...b].flat(), seen) }
	if (a instanceof Set) { return same([...a], [...b], seen) }
	if (a instanceof ArrayBuffer) { return a.byteLength === b.byteLength && same([...new Uint8Array(a)].join(), [...new Uint8Array(b)].join(), seen) }
	if (ArrayBuffer.isView(a)) {
		const bytes = (v) => [...new Uint8Array(v.buffer, v.byteOffset, v.byteLength)].join()
		if (a.byteLength !== b.byteLength || bytes(a) !== bytes(b)) return false
		return a.buffer.byteLength !== b.buffer.byteLength || same(a.buffer, b.buffer, seen)
	}
	if (a instanceof Number || a instanceof String || a instanceof Boolean || a instanceof BigInt) return Object.is(a.valueOf(), b.valueOf())
	if (a instanceof Error && (a.name !== b.name || a.message !== b.message || a.stack !== b.stack || !same(a.cause, b.cause, seen))) return false
	const keys = Object.keys(a)
	if (keys.join("\u0000") !== Object.keys(b).join("\u0000")) return false
	if (Array.isArray(a) && a.length !== b.length) return false
	return keys.every((k) => same(a[k], b[k], seen))
}

function random(seed) {
	let state = seed * 2654435761 >>> 0
	const next = (n) => { state ^= state << 13; state ^= state >>> 17; state ^= state << 5; state >>>= 0; return state % n }
	const known = []
	const keep = (v) => { known.push(v); return v }
	const text = () => ["", "a", "é", "\u0000", "😀", "\ud800", "x\udfff", "length", "__proto__", "0", "constructor", "@type", "value"][next(13)]
	const make = (depth) => {
		if (known.length && next(6) === 0) return known[next(known.length)]
		switch (next(depth > 5 ? 9 : 24)) {
		case 0: return undefined
		case 1: return null
		case 2: return next(2) === 0
		case 3: return [0, -0, NaN, Infinity, -Infinity, 1.5, 2 ** 53, -(2 ** 53), 2 ** 53 - 1, 23, 24, 255, 256, 65536, 2 ** 32, 5e-324, 1e300][next(17)]
		case 4: return next(2 ** 32) - 2 ** 31
		case 5: return BigInt(next(1000)) - 500n
		case 6: return (BigInt(next(2 ** 32)) << BigInt(next(200))) * (next(2) ? 1n : -1n)
		case 7: case 8: return text()
		case 9: return keep(new Date([0, 1.7e12 + next(1e6), NaN, 8.64e15, -8.64e15, -62167219200000, -62167219200001, 253402300799999, 253402300800000][next(9)]))
		case 10: return keep([/a+/gi, /[/]\n/, new RegExp("\\ud800", "v"), new RegExp("")][next(4)])
		case 11: { const m = keep(new Map); for (let i = next(4); i > 0; i--) m.set(make(depth + 1), make(depth + 1)); return m }
		case 12: { const s = keep(new Set); for (let i = next(4); i > 0; i--) s.add(make(depth + 1)); return s }
		case 13: return keep(Uint8Array.from({length: next(40)}, () => next(256)).buffer)
		case 14: case 15: {
			const buffers = known.filter((v) => v instanceof ArrayBuffer)
			const buffer = buffers.length && next(2) ? buffers[next(buffers.length)] : keep(new ArrayBuffer(16 * next(3)))
			const types = [Int8Array, Uint8Array, Uint8ClampedArray, Int16Array, Uint16Array, Int32Array, Uint32Array, Float16Array, Float32Array, Float64Array, BigInt64Array, BigUint64Array, DataView]
			const type = types[next(types.length)], size = type.BYTES_PER_ELEMENT ?? 1
			const offset = size * next(Math.floor(buffer.byteLength / size) + 1)
			return keep(new type(buffer, offset, next(Math.floor((buffer.byteLength - offset) / size) + 1)))
		}
		case 16: { const c = [Error, EvalError, RangeError, ReferenceError, SyntaxError, TypeError, URIError][next(7)]; const e = keep(new c(text())); if (next(2)) Object.defineProperty(e, "cause", {value: make(depth + 1), configurable: true, writable: true}); return e }
		case 17: return keep(Object([1, "x", true, 5n, "\ud800", -0][next(6)]))
		case 18: { const a = keep([]); for (let i = next(5); i > 0; i--) a.push(make(depth + 1)); return a }
		case 19: { const a = keep([]); for (let i = next(4); i > 0; i--) a[next(20)] = make(depth + 1); if (next(2)) a.length += next(10); if (next(3) === 0) a["x" + text()] = make(depth + 1); return a }
		default: { const o = keep({}); for (let i = next(5); i > 0; i--) Object.defineProperty(o, text(), {value: make(depth + 1), enumerable: true, configurable: true, writable: true}); return o }
		}
	}
	return make(0)
}
`

func eval(tb testing.TB, e *quickjs.Engine, source string) quickjs.Value {
	tb.Helper()
	v, err := e.Eval(source, "test.js")
	if err != nil {
		tb.Fatalf("%s: %v", source, err)
	}
	return v
}

func encode(tb testing.TB, e *quickjs.Engine, v quickjs.Value, o clone.Options) []byte {
	tb.Helper()
	b, err := clone.Encode(e, v, o)
	if err != nil {
		tb.Fatal(err)
	}
	if err := value.Check(b); err != nil {
		tb.Fatalf("%x: %v", b, err)
	}
	return b
}

func decode(tb testing.TB, e *quickjs.Engine, b []byte, o clone.Options) quickjs.Value {
	tb.Helper()
	v, err := clone.Decode(e, b, o)
	if err != nil {
		tb.Fatalf("%s: %v", value.Diagnose(b), err)
	}
	return v
}

func same(tb testing.TB, e *quickjs.Engine, a, b quickjs.Value) bool {
	tb.Helper()
	got, err := eval(tb, e, "same").Call(quickjs.Value{}, a, b)
	if err != nil {
		tb.Fatal(err)
	}
	return got.Truthy()
}

func TestEncoding(t *testing.T) {
	t.Parallel()
	in(t, func(e *quickjs.Engine) {
		for _, tc := range []struct{ source, want string }{
			{`undefined`, "f7"},
			{`null`, "f6"},
			{`true`, "f5"},
			{`0`, "00"},
			{`-0`, "fb8000000000000000"},
			{`-1`, "20"},
			{`2**53-1`, "1b001fffffffffffff"},
			{`2**53`, "fb4340000000000000"},
			{`1.5`, "fb3ff8000000000000"},
			{`NaN`, "f97e00"},
			{`5n`, "c24105"},
			{`0n`, "c240"},
			{`-1n`, "c340"},
			{`"ä"`, "62c3a4"},
			{`"\ud800"`, "d9011143eda080"},
			{`new Date(0)`, "c074" + hex.EncodeToString([]byte("1970-01-01T00:00:00Z"))},
			{`new Date(1700000000123)`, "c07818" + hex.EncodeToString([]byte("2023-11-14T22:13:20.123Z"))},
			{`new Date(NaN)`, "d99e9af97e00"},
			{`/a/g`, "d99e9b8261616167"},
			{`new Map([[1, 2]])`, "d99e9c820102"},
			{`new Set([1])`, "d99e9d8101"},
			{`({b: 1, a: [undefined]})`, "a26162016161" + "81f7"},
			{`[1, , 3]`, "d99ea08203a200010203"},
			{`Object.assign([1], {x: 2})`, "d99ea08201a20001617802"},
			{`new Uint8Array([1, 2])`, "420102"},
			{`new Uint8Array([1, 2]).buffer`, "d99ea2420102"},
			{`new Uint16Array([1])`, "d845420100"},
			{`new DataView(new ArrayBuffer(1))`, "d99ea34100"},
			{`Object(1)`, "d99ea401"},
			{`const o = {}; o.o = o; o`, "d81ca1616fd81d00"},
			{`const x = {}; [x, x]`, "82d81ca0d81d00"},
			{`const bytes = new Uint8Array(2); [bytes, bytes.buffer]`, "82d99e9f841840d81cd99ea2420000" + "0002d81d00"},
			{`({"@type": "a.B", value: new Uint8Array([1])})`, "d99e988263612e424101"},
			{`Object.create({inherited: 1}, {own: {value: 1, enumerable: true}, hidden: {value: 2}})`, "a1636f776e01"},
			{`class P { #p = 1; q = 2; get r() { return 3 } }; new P`, "a1617102"},
		} {
			if got := hex.EncodeToString(encode(t, e, eval(t, e, "{"+tc.source+"}"), clone.Options{})); got != tc.want && !strings.HasPrefix(tc.source, "(") {
				t.Errorf("%s is %s and not %s", tc.source, got, tc.want)
			} else if strings.HasPrefix(tc.source, "(") {
				if got := hex.EncodeToString(encode(t, e, eval(t, e, tc.source), clone.Options{})); got != tc.want {
					t.Errorf("%s is %s and not %s", tc.source, got, tc.want)
				}
			}
		}
	})
}

func TestRandomValuesComeBack(t *testing.T) {
	t.Parallel()
	seeds := 3000
	if testing.Short() {
		seeds = 300
	}
	in(t, func(e *quickjs.Engine) {
		random := eval(t, e, "random")
		for seed := range seeds {
			_, err := e.Scope(func() (quickjs.Value, error) {
				v, err := random.Call(quickjs.Value{}, quickjs.IntValue(int64(seed+1)))
				if err != nil {
					return quickjs.Value{}, err
				}
				b := encode(t, e, v, clone.Options{})
				got := decode(t, e, b, clone.Options{})
				if !same(t, e, v, got) {
					t.Errorf("seed %d is another value: %s", seed, value.Diagnose(b))
				}
				if again := encode(t, e, got, clone.Options{}); !bytes.Equal(b, again) {
					t.Errorf("seed %d is encoded otherwise after that:\n%x\n%x", seed, b, again)
				}
				return quickjs.Value{}, nil
			})
			if err != nil {
				t.Fatal(err)
			}
		}
	})
}

func TestWhatIsNoValueIsRefused(t *testing.T) {
	t.Parallel()
	in(t, func(e *quickjs.Engine) {
		for source, want := range map[string]string{
			`() => 1`:                  "() => 1 could not be cloned.",
			`({f() {}})`:               "f() {} could not be cloned.",
			`Symbol("x")`:              "Symbol(x) could not be cloned.",
			`Object(Symbol("x"))`:      "#<Symbol> could not be cloned.",
			`[new Proxy({}, {})]`:      "#<Object> could not be cloned.",
			`Promise.resolve()`:        "#<Promise> could not be cloned.",
			`new WeakMap`:              "#<WeakMap> could not be cloned.",
			`new SharedArrayBuffer(1)`: "#<SharedArrayBuffer> could not be cloned.",
			`{const b = new ArrayBuffer(1); b.transfer(); b}`:                          "An ArrayBuffer is detached and could not be cloned.",
			`let deep = 1; for (let i = 0; i < 2000; i++) deep = [deep]; deep`:         "The value is nested deeper than 1024 levels, or refers to itself through getters.",
			`({get me() { return Object.create(this, {}) }, __proto__: {get x() {}}})`: "",
		} {
			v := eval(t, e, source)
			_, err := clone.Encode(e, v, clone.Options{})
			var thrown *quickjs.Error
			if want == "" {
				continue
			}
			if !errors.As(err, &thrown) || thrown.Name != "DataCloneError" || thrown.Message != want {
				t.Errorf("%s gives %v", source, err)
			}
		}
		_, err := clone.Encode(e, eval(t, e, `({get x() { throw new RangeError("mine") }})`), clone.Options{})
		var thrown *quickjs.Error
		if !errors.As(err, &thrown) || thrown.Message != "mine" {
			t.Errorf("a getter that throws gives %v", err)
		}
		for _, source := range []string{`"x".repeat(3 << 20)`, `new Uint8Array(3 << 20)`, `new Array(3 << 20).fill(1)`, `Array.from({length: 10}, () => "x".repeat(300000))`} {
			if _, err := clone.Encode(e, eval(t, e, source), clone.Options{}); !errors.Is(err, clone.ErrTooLarge) {
				t.Errorf("%s gives %v", source, err)
			}
		}
		if _, err := clone.Encode(e, eval(t, e, `"x".repeat(3 << 20)`), clone.Options{SizeMax: clone.MessageMax}); err != nil {
			t.Error(err)
		}
	})
}

func TestErrorsKeepWhatTheyHave(t *testing.T) {
	t.Parallel()
	in(t, func(e *quickjs.Engine) {
		v := eval(t, e, `class Mine extends RangeError { name = "Mine"; code = 5; f = () => 1; nested = {deep: {f() {}}, ok: 1} }; new Mine("m", {cause: () => 1})`)
		got := decode(t, e, encode(t, e, v, clone.Options{ErrorProps: true}), clone.Options{})
		check := eval(t, e, `(e, v) => [e instanceof Error, e.name, e.message, e.code, e.f, e.nested, "cause" in e, e.stack === v.stack, Object.keys(e).join()].join("|")`)
		s, err := check.Call(quickjs.Value{}, got, v)
		if err != nil {
			t.Fatal(err)
		}
		if text, _ := s.Text(); text != "true|Mine|m|5|||true|true|name,code,f,nested" {
			t.Errorf("it came back as %s", text)
		}
	})
}

// What is left out of an error is not referred to.
func TestErrorsLeaveOutWhatCanNotBeCloned(t *testing.T) {
	t.Parallel()
	in(t, func(e *quickjs.Engine) {
		v := eval(t, e, `const shared = {x: new ArrayBuffer(4)}; ({pad: Array.from({length: 20}, () => ({})), error: Object.assign(new Error("m"), {bad: [shared, new Uint8Array(shared.x), () => 1]}), shared, again: shared, bytes: new Uint8Array(shared.x)})`)
		got := decode(t, e, encode(t, e, v, clone.Options{ErrorProps: true}), clone.Options{})
		s, err := eval(t, e, `(v) => [v.error.message, v.error.bad, v.shared === v.again, v.shared.x === v.bytes.buffer, v.pad.length].join("|")`).Call(quickjs.Value{}, got)
		if err != nil {
			t.Fatal(err)
		}
		if text, _ := s.Text(); text != "m||true|true|20" {
			t.Errorf("it came back as %s", text)
		}
	})
}

func TestMalformedBytesAreRefused(t *testing.T) {
	t.Parallel()
	in(t, func(e *quickjs.Engine) {
		for in, why := range map[string]string{
			"":                                      "end early",
			"18":                                    "end early",
			"6261":                                  "announced",
			"61ff":                                  "UTF-8",
			"0000":                                  "left over",
			"9f01ff":                                "in use",
			"f8ff":                                  "stands for nothing",
			"9bffffffffffffffff":                    "announced",
			"bb7fffffffffffffff":                    "announced",
			"d845420100" + "00":                     "left over",
			"d84543010203":                          "whole elements",
			"d81d00":                                "refer to",
			"d81c01":                                "primitive is shared",
			"d81cd81ca0":                            "shared twice",
			"82d81d00d81ca0":                        "refer to",
			"d81cd99ea0820081" + "d81d00":           "map",
			"d99e9c8101":                            "without a value",
			"d99e9b82616140":                        "text",
			"d99e9b82612861" + "67":                 "regular expression",
			"d99e9ea0":                              "no name",
			"d99e9ea1646e616d656161":                "no class of errors",
			"d99ea4a0":                              "primitive",
			"d99ea08200a20000":                      "announced",
			"d99ea08201a10100":                      "has a",
			"d99e9f841840d81cd99ea2420000" + "0003": "view",
			"c06161":                                "no time",
			"d99fff00":                              "unknown",
			"d99ea500":                              "no value can have",
		} {
			b, err := hex.DecodeString(in)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := clone.Decode(e, b, clone.Options{}); !errors.Is(err, clone.ErrMalformed) || !strings.Contains(err.Error(), why) {
				t.Errorf("%s gives %v and not %q", in, err, why)
			}
		}
	})
}

func TestReplacements(t *testing.T) {
	t.Parallel()
	in(t, func(e *quickjs.Engine) {
		var functions []*quickjs.Ref
		options := clone.Options{
			Replace: func(v quickjs.Value) (quickjs.Value, bool, error) {
				switch {
				case v.IsFunction():
					ref, err := v.Keep()
					if err != nil {
						return quickjs.Value{}, false, err
					}
					functions = append(functions, ref)
					return e.Array(e.String("function"), quickjs.IntValue(int64(len(functions)-1))), true, nil
				case v.Class() == quickjs.ClassObject:
					name, err := v.Get("secret")
					if err != nil || name.IsUndefined() {
						return quickjs.Value{}, false, err
					}
					return quickjs.Value{}, false, quickjs.NewError("DataCloneError", "no secrets")
				default:
					return quickjs.Value{}, false, nil
				}
			},
			Revive: func(v quickjs.Value) (quickjs.Value, error) {
				n, err := v.At(1)
				if err != nil {
					return quickjs.Value{}, err
				}
				i, err := n.Int()
				if err != nil {
					return quickjs.Value{}, err
				}
				return functions[i].Value(), nil
			},
		}
		v := eval(t, e, `const f = () => 7; ({f, g: f, o: new (class A { x = 1 })})`)
		b := encode(t, e, v, options)
		if _, err := clone.Decode(e, b, clone.Options{}); !errors.Is(err, clone.ErrMalformed) {
			t.Errorf("without Revive: %v", err)
		}
		got := decode(t, e, b, options)
		s, err := eval(t, e, `(v) => JSON.stringify([v.f(), v.f === v.g, v.o])`).Call(quickjs.Value{}, got)
		if err != nil {
			t.Fatal(err)
		}
		if text, _ := s.Text(); text != `[7,true,{"x":1}]` {
			t.Errorf("it came back as %s", text)
		}
		if _, err := clone.Encode(e, eval(t, e, `new (class { secret = 1 })`), options); err == nil || !strings.Contains(err.Error(), "no secrets") {
			t.Errorf("a refusal gives %v", err)
		}
		if _, err := clone.Encode(e, eval(t, e, `Promise.resolve()`), options); err == nil {
			t.Error("a promise was cloned")
		}
	})
}

func TestGoReadsWhatJavaScriptWrites(t *testing.T) {
	t.Parallel()
	in(t, func(e *quickjs.Engine) {
		b := encode(t, e, eval(t, e, `({n: 1, f: 1.5, s: "ä", t: true, z: null, u: undefined, a: [1, "x", {}], b: new Uint8Array([1, 2]), d: new Date(1700000000123), big: 2n ** 70n, small: -5n})`), clone.Options{})
		var got any
		if err := value.Decode(b, &got); err != nil {
			t.Fatal(err)
		}
		big70 := new(big.Int).Lsh(big.NewInt(1), 70)
		want := map[string]any{
			"n": uint64(1), "f": 1.5, "s": "ä", "t": true, "z": nil, "u": nil, "a": []any{uint64(1), "x", map[string]any{}},
			"b": []byte{1, 2}, "d": time.UnixMilli(1700000000123).UTC(), "big": *big70, "small": *big.NewInt(-5),
		}
		if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b big.Int) bool { return a.Cmp(&b) == 0 })); diff != "" {
			t.Errorf("any (-want +got):\n%s", diff)
		}
		var typed struct {
			N   int       `cbor:"n"`
			F   float64   `cbor:"f"`
			S   string    `cbor:"s"`
			B   []byte    `cbor:"b"`
			D   time.Time `cbor:"d"`
			Big *big.Int  `cbor:"big"`
		}
		if err := value.Decode(b, &typed); err != nil {
			t.Fatal(err)
		}
		if typed.N != 1 || typed.F != 1.5 || typed.S != "ä" || !bytes.Equal(typed.B, []byte{1, 2}) || !typed.D.Equal(time.UnixMilli(1700000000123)) || typed.Big.Cmp(big70) != 0 {
			t.Errorf("typed: %+v", typed)
		}
	})
}

func TestJavaScriptReadsWhatGoWrites(t *testing.T) {
	t.Parallel()
	type record struct {
		Name string         `cbor:"name"`
		Raw  []byte         `cbor:"raw"`
		At   time.Time      `cbor:"at"`
		Next *record        `cbor:"next"`
		Ints map[int]string `cbor:"ints"`
	}
	in(t, func(e *quickjs.Engine) {
		for _, tc := range []struct {
			v    any
			want string
		}{
			{int64(-5), `-5`},
			{uint64(math.MaxUint64), `18446744073709551615n`},
			{int64(math.MinInt64), `-9223372036854775808n`},
			{1 << 53, `9007199254740992n`},
			{1<<53 - 1, `9007199254740991`},
			{float32(0.5), `0.5`},
			{math.Inf(-1), `-Infinity`},
			{[]byte{1, 2}, `new Uint8Array([1, 2])`},
			{[]any{nil, true, "x"}, `[null, true, "x"]`},
			{map[string]any{"a": []int{1}}, `({a: [1]})`},
			{*new(big.Int).Lsh(big.NewInt(1), 70), `2n ** 70n`},
			{time.UnixMilli(1700000000123), `new Date(1700000000123)`},
			{record{Name: "n", Raw: []byte{7}, At: time.UnixMilli(5).UTC(), Ints: map[int]string{-1: "x"}}, `({name: "n", raw: new Uint8Array([7]), at: new Date(5), next: null, ints: {"-1": "x"}})`},
		} {
			b, err := value.Encode(tc.v)
			if err != nil {
				t.Fatal(err)
			}
			if got := decode(t, e, b, clone.Options{}); !same(t, e, got, eval(t, e, tc.want)) {
				s, _ := got.ToText()
				t.Errorf("%v came back as %s", tc.v, s)
			}
		}
		if _, err := clone.Decode(e, []byte{0xa1, 0x40, 0x01}, clone.Options{}); !errors.Is(err, clone.ErrMalformed) {
			t.Errorf("a map with bytes for keys gives %v", err)
		}
	})
}

func TestDeepValuesComeBack(t *testing.T) {
	t.Parallel()
	in(t, func(e *quickjs.Engine) {
		v := eval(t, e, `let list = null; for (let i = 0; i < 1000; i++) list = {next: list, i, self: new Map([[i, i]])}; list`)
		b := encode(t, e, v, clone.Options{})
		if again := encode(t, e, decode(t, e, b, clone.Options{}), clone.Options{}); !bytes.Equal(b, again) {
			t.Error("it came back otherwise")
		}
		var got any
		if err := value.Decode(b, &got); err != nil {
			t.Errorf("Go: %v", err)
		}
		// The same from outside, as deep as it gets.
		bomb := append(bytes.Repeat([]byte{0x81}, 1<<20), 0)
		if _, err := clone.Decode(e, bomb, clone.Options{}); !errors.Is(err, clone.ErrMalformed) {
			t.Errorf("a million arrays in one another give %v", err)
		}
	})
}

func TestScriptsCanNotDisturb(t *testing.T) {
	t.Parallel()
	in(t, func(e *quickjs.Engine) {
		v := eval(t, e, `({m: new Map([[1, new Set([2])]]), r: /x/g, d: new Date(5), a: [1, , 2], b: new Uint8Array(2), i: 2n ** 80n, e: new TypeError("x")})`)
		want := encode(t, e, v, clone.Options{})
		eval(t, e, `
			for (const c of [Map, Set, RegExp, Date, Array, Uint8Array, BigInt, Object, TypeError, Error, ArrayBuffer]) {
				for (const p of Object.getOwnPropertyNames(c.prototype)) { if (p !== "constructor" && p !== "name" && p !== "message") try { Object.defineProperty(c.prototype, p, {get() { throw new Error("disturbed " + p) }, set() { throw new Error("disturbed " + p) }, configurable: true}) } catch {} }
			}
			for (const c of ["Map", "Set", "RegExp", "Date", "Array", "Uint8Array", "BigInt", "TypeError"]) globalThis[c] = () => { throw new Error("disturbed " + c) }
			Object.defineProperty(Object.prototype, "x", {set() { throw new Error("disturbed x") }})
			Object.defineProperty(Object.prototype, "0", {set() { throw new Error("disturbed 0") }})`)
		got := encode(t, e, v, clone.Options{})
		if !bytes.Equal(got, want) {
			t.Errorf("now it is\n%s and not\n%s", value.Diagnose(got), value.Diagnose(want))
		}
		again := decode(t, e, got, clone.Options{})
		if b := encode(t, e, again, clone.Options{}); !bytes.Equal(b, want) {
			t.Errorf("it came back as\n%s and not\n%s", value.Diagnose(b), value.Diagnose(want))
		}
	})
}

func FuzzDecode(f *testing.F) {
	for _, seed := range []string{
		"f7", "00", "c24105", "82d81ca0d81d00", "d81ca1616fd81d00", "d99e9f841840d81cd99ea24200000002", "d99ea08203a200010203", "d99e9b8261616167",
		"d99e9ca0", "d99e9c820102", "d99e9d8101", "d99e9ea1646e616d65654572726f72", "d9011143eda080", "c074" + hex.EncodeToString([]byte("1970-01-01T00:00:00Z")),
		"d99e9af97e00", "d99ea401", "d99e988263612e424101", "d99ea5a0", "d856480000000000000000", "1bffffffffffffffff", "9bffffffffffffffff", "fb7ff0000000000000",
	} {
		b, err := hex.DecodeString(seed)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	e, err := quickjs.New(quickjs.Options{MemoryMax: 64 << 20, TimeMax: 10 * time.Second})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() {
		if err := e.Close(); err != nil {
			f.Error(err)
		}
	})
	options := clone.Options{
		Revive: func(v quickjs.Value) (quickjs.Value, error) { return v, nil },
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		err := e.Enter(func() error {
			v, err := clone.Decode(e, b, options)
			if err != nil {
				if errors.Is(err, clone.ErrMalformed) || errors.Is(err, quickjs.ErrOutOfMemory) {
					return nil
				}
				return err
			}
			if err := value.Check(b); err != nil {
				t.Errorf("JavaScript reads what Go does not: %v", err)
			}
			first, err := clone.Encode(e, v, clone.Options{ErrorProps: true})
			if err != nil {
				return err
			}
			v, err = clone.Decode(e, first, clone.Options{})
			if err != nil {
				return err
			}
			second, err := clone.Encode(e, v, clone.Options{ErrorProps: true})
			if err != nil {
				return err
			}
			if !reflect.DeepEqual(first, second) {
				t.Errorf("%x\nis first %x\n and then %x", b, first, second)
			}
			return nil
		})
		if err != nil {
			t.Fatalf("%x: %v", b, err)
		}
	})
}

// A small object of storage.
const small = `({id: "user-12345", name: "Ada", count: 42, active: true, tags: ["a", "b"], at: new Date(1700000000123)})`

func BenchmarkEncodeSmall(b *testing.B) {
	in(b, func(e *quickjs.Engine) {
		v := eval(b, e, small)
		b.ReportAllocs()
		for b.Loop() {
			_, err := e.Scope(func() (quickjs.Value, error) {
				_, err := clone.Encode(e, v, clone.Options{})
				return quickjs.Value{}, err
			})
			if err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkDecodeSmall(b *testing.B) {
	in(b, func(e *quickjs.Engine) {
		data := encode(b, e, eval(b, e, small), clone.Options{})
		b.ReportAllocs()
		for b.Loop() {
			_, err := e.Scope(func() (quickjs.Value, error) {
				_, err := clone.Decode(e, data, clone.Options{})
				return quickjs.Value{}, err
			})
			if err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkNumbers(b *testing.B) {
	in(b, func(e *quickjs.Engine) {
		v := eval(b, e, `Array.from({length: 10000}, (_, i) => i)`)
		for b.Loop() {
			_, err := e.Scope(func() (quickjs.Value, error) {
				data, err := clone.Encode(e, v, clone.Options{})
				if err != nil {
					return quickjs.Value{}, err
				}
				_, err = clone.Decode(e, data, clone.Options{})
				return quickjs.Value{}, err
			})
			if err != nil {
				b.Fatal(err)
			}
		}
	})
}
