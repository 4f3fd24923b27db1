// Values: what comes back of what is stored, and of what is sent.
import { insideOf, program, show } from './harness';

class Point { x = 1; get y() { return 2; } }
class MyError extends RangeError { extra = 1; }
const cyclic: any = { a: 1 };
cyclic.self = cyclic;
const shared = { s: 1 };

const values: Record<string, () => any> = {
	undefinedField: () => ({ a: undefined, b: 1 }), null: () => null, true: () => true, false: () => false, zero: () => 0,
	negativeZero: () => -0, nan: () => NaN, infinity: () => [Infinity, -Infinity], int: () => 42, negative: () => -1,
	int32: () => [2 ** 31 - 1, -(2 ** 31), 2 ** 31, 2 ** 32], large: () => [2 ** 53, 2 ** 53 + 2, 1e300], fraction: () => [0.1, 1 / 3, 5e-324],
	big: () => [0n, 1n, -1n, 2n ** 64n, -(2n ** 65n), 2n ** 1000n], empty: () => '', ascii: () => 'text', latin: () => 'é\xff', wide: () => '\u0100漢字',
	emoji: () => '😀', nul: () => 'a\0b', longText: () => 'x'.repeat(10_000), array: () => [1, 'a', null], nested: () => [[[[]]], {}],
	holes: () => [1, , 3], sparse: () => { const a = []; a[100] = 1; return a.length + show(a).length; }, longArray: () => Array.from({ length: 1000 }, (_, i) => i),
	object: () => ({ a: 1, b: { c: [2] } }), numericKeys: () => ({ b: 1, 2: 'two', 1: 'one', a: 0 }), emptyKey: () => ({ '': 1 }), proto: () => JSON.parse('{"__proto__":1}'),
	date: () => new Date(1234567890123), invalidDate: () => new Date(NaN), oldDate: () => new Date(-1), regexp: () => /a(b)+\/c/gi, regexpU: () => /\p{L}/u,
	map: () => new Map<any, any>([[1, 'a'], ['k', new Map()], [{}, null]]), set: () => new Set([1, 'a', NaN, null, undefined]), emptyMap: () => new Map(),
	buffer: () => new Uint8Array([1, 2, 3]).buffer, emptyBuffer: () => new ArrayBuffer(0), u8: () => new Uint8Array([0, 255]), i8: () => new Int8Array([-1]),
	u8c: () => new Uint8ClampedArray([300]), i16: () => new Int16Array([-2]), u16: () => new Uint16Array([65535]), i32: () => new Int32Array([-3]), u32: () => new Uint32Array([4e9]),
	f32: () => new Float32Array([1.5]), f64: () => new Float64Array([NaN, 1e300]), i64: () => new BigInt64Array([-1n]), u64: () => new BigUint64Array([2n ** 63n]),
	view: () => new DataView(new ArrayBuffer(2)), part: () => new Uint8Array(new Uint8Array([1, 2, 3, 4]).buffer, 1, 2),
	error: () => new Error('m'), typeError: () => new TypeError('m'), rangeError: () => new RangeError('m'), syntaxError: () => new SyntaxError('m'),
	referenceError: () => new ReferenceError('m'), evalError: () => new EvalError('m'), uriError: () => new URIError('m'), emptyError: () => new Error(),
	cause: () => new Error('m', { cause: 'why' }).cause, boxedNumber: () => new Number(1), boxedString: () => new String('s'), boxedBoolean: () => new Boolean(false), boxedBig: () => typeof Object(1n),
	twice: () => [shared, shared], function: () => () => 1, symbol: () => Symbol('s'), symbolKey: () => ({ [Symbol('s')]: 1, a: 1 }),
	getter: () => ({ get a() { return 1; } }), hidden: () => Object.defineProperty({}, 'a', { value: 1 }), noProto: () => Object.assign(Object.create(null), { a: 1 }),
	functionField: () => ({ f() {} }), promise: () => [Promise.resolve(1)], weakMap: () => new WeakMap(), generator: () => (function* () {})(),
	loneSurrogate: () => 'a\ud800b', throwingGetter: () => ({ get a() { throw new RangeError('got'); } }), deep: () => { let o: any = 1; for (let i = 0; i < 200; i++) o = [o]; return show(o); },
};

const inside: any = {};
const outside: any = {};
for (const [name, make] of Object.entries(values)) {
	inside['store ' + name] = async (s: any) => {
		await s.put('v', make());
		return s.get('v');
	};
	inside['clone ' + name] = () => structuredClone(make());
	if (!['function', 'functionField', 'promise'].includes(name)) outside['send ' + name] = async (t: any) => t.echo(make());
}
Object.assign(inside, {
	'store instance': async (s: any) => (await s.put('v', new Point()), s.get('v')),
	'store own error': async (s: any) => (await s.put('v', new MyError('mine')), s.get('v')),
	'store cyclic': async (s: any) => { await s.put('v', cyclic); const v = await s.get('v'); return v.self === v; },
	'store shared': async (s: any) => { await s.put('v', [shared, shared]); const v = await s.get('v'); return v[0] === v[1]; },
	'stored is a copy': async (s: any) => { const v = [1]; await s.put('v', v); v.push(2); const got = await s.get('v'); got.push(3); return [v, got, await s.get('v')]; },
});
Object.assign(outside, {
	'send instance': (t: any) => t.echo(new Point()),
	'send own error': (t: any) => t.echo(new MyError('mine')),
	'send shared': async (t: any) => { const v = await t.echo([shared, shared]); return v[0] === v[1]; },
	'send cyclic': async (t: any) => { const v = await t.echo(cyclic); return v.self === v; },
});

export class T extends insideOf(inside) {
	async echo(v: any) { return v; }
}
export default program(inside, outside);
