// Functions, RpcTargets and stubs that cross, and calls of what has not come yet.
import { RpcTarget } from 'cloudflare:workers';
import { insideOf, outcome, program } from './harness';

class Cell extends RpcTarget {
	field = 1;
	#n: number;
	constructor(n: number, readonly log: any[] = []) { super(); this.#n = n; }
	get value() { return this.#n; }
	get deep() { return { a: { b: this.#n } }; }
	add(by: number) { return (this.#n += by); }
	async later() { await scheduler.wait(1); return this.#n; }
	child() { return new Cell(this.#n * 10, this.log); }
	fails() { throw new RangeError('cell'); }
	count(...args: any[]) { return args.length; }
	[Symbol.dispose]() { this.log.push('disposed'); }
}

const peer = (o: any, name = 'peer') => o.env.T.getByName(name);

const inside: any = {
	'callback': async (_s: any, o: any) => peer(o).calls((n: number) => n + 1, 4),
	'callback of a target': async (_s: any, o: any) => peer(o).adds(new Cell(5), 2),
	'callback twice': async (_s: any, o: any) => { const seen: any[] = []; const r = await peer(o).each([1, 2, 3], (n: number) => { seen.push(n); return n * 2; }); return [seen, r]; },
	'callback throws': async (_s: any, o: any) => peer(o).calls(() => { throw new RangeError('back'); }, 1),
	'callback in an object': async (_s: any, o: any) => peer(o).inObject({ f: (n: number) => n * 3, n: 2 }),
	'callback changes its own': async (_s: any, o: any) => { o.sum = 0; await peer(o).each([1, 2, 3], (n: number) => { o.sum += n; }); return o.sum; },
	'callback kept': async (_s: any, o: any) => { await peer(o, 'kept').keeps((n: number) => n + 1); return outcome(() => peer(o, 'kept').callsKept(1)); },
	'callback dup': async (_s: any, o: any) => { await peer(o, 'dup').dups((n: number) => n + 1); return outcome(() => peer(o, 'dup').callsKept(1)); },
	'target in an object': async (_s: any, o: any) => { const c = await peer(o).cell(3); return [await c.add(4), await c.value]; },
	'target passed on': async (_s: any, o: any) => { const c = await peer(o).cell(3); return peer(o, 'other').adds(c, 2); },
	'store function': async (s: any) => s.put('f', () => 1),
	'store target': async (s: any) => s.put('f', new Cell(1)),
	'store stub': async (s: any, o: any) => s.put('f', await peer(o).cell(1)),
};
const outside: any = {
	'function': async (t: any) => { const f = await t.adder(2); return f(3); },
	'function pipelined': (t: any) => t.adder(2)(3),
	'function typeof': async (t: any) => typeof (await t.adder(2)),
	'function twice': async (t: any) => { const f = await t.counter(); return [await f(), await f(), await f()]; },
	'function throws': async (t: any) => (await t.thrower())(),
	'function in an object': async (t: any) => { const { f, n } = await t.pair(); return [n, await f(n)]; },
	'functions in an array': async (t: any) => Promise.all((await t.list()).map((f: any) => f(1))),
	'function property': async (t: any) => (await t.adder(2)).name,
	'function of a function': async (t: any) => (await (await t.curried())(1))(2),
	'target': async (t: any) => { const c = await t.cell(1); return [await c.add(2), await c.add(3)]; },
	'target pipelined': (t: any) => t.cell(1).add(2),
	'target pipelined twice': (t: any) => t.cell(1).child().child().add(1),
	'target getter': async (t: any) => (await t.cell(7)).value,
	'target getter pipelined': (t: any) => t.cell(7).value,
	'target path': async (t: any) => (await t.cell(7)).deep.a.b,
	'target field': async (t: any) => (await t.cell(7)).field,
	'target missing': async (t: any) => (await t.cell(7)).missing(),
	'target missing property': async (t: any) => (await t.cell(7)).none,
	'target constructor': async (t: any) => (await t.cell(7)).constructor2(),
	'target private': async (t: any) => (await t.cell(7))['#n'],
	'target late': async (t: any) => (await t.cell(7)).later(),
	'target throws': async (t: any) => (await t.cell(7)).fails(),
	'target after a throw': async (t: any) => { const c = await t.cell(7); return [await outcome(() => c.fails()), await c.add(1)]; },
	'target many arguments': async (t: any) => (await t.cell(7)).count(...Array(20).fill(0)),
	'target child': async (t: any) => { const c = await t.cell(1); const d = await c.child(); return [await d.add(1), await c.add(1)]; },
	'target same twice': async (t: any) => { const [a, b] = await t.same(); return [await a.add(1), await b.add(1)]; },
	'target kept': async (t: any) => { const a = await t.own(), b = await t.own(); await a.add(1); return b.value; },
	'target typeof': async (t: any) => typeof (await t.cell(1)),
	'target then': async (t: any) => typeof (await t.cell(1)).then,
	'target disposed': async (t: any) => { const c = await t.cell(1); c[Symbol.dispose](); return outcome(() => c.add(1)); },
	'target dup': async (t: any) => { const c = await t.cell(1), d = c.dup(); c[Symbol.dispose](); return [await outcome(() => c.add(1)), await d.add(1)]; },
	'target disposer': async (t: any) => { { const c = await t.logged(); await c.add(1); c[Symbol.dispose](); } for (let i = 0; i < 200 && (await t.log()).length === 0; i++) await scheduler.wait(5); return t.log(); },
	'target after abort': async (t: any) => { const c = await t.cell(1); await outcome(() => t.aborts()); return (await outcome(() => c.add(1))).replace(/: [^]*/, ''); },
	'target order': async (t: any) => { const c = await t.cell(0); return Promise.all(Array.from({ length: 20 }, (_, i) => c.add(i))); },
	'property as a value': async (t: any) => { const f = t.add; return f(1, 2); },
	'pipelined property of a value': (t: any) => t.plain().a.b, 'pipelined missing call': (t: any) => t.plain().a.none(), 'pipelined call of a value': (t: any) => t.plain().a.b(),
	'pipelined of what throws': (t: any) => t.throws().x.y(), 'pipelined null': (t: any) => t.nothing().x, 'pipelined array': (t: any) => t.list2()[1],
	'stub sent': async (t: any, env: any) => t.callsOther(env.T.getByName('sent'), 5),
	'stub returned': async (t: any) => (await t.other('returned')).plain(),
	'stub returned pipelined': (t: any) => t.other('returned').plain().a.b,
	'stub returned keys': async (t: any) => { const o = await t.other('returned'); return [typeof o, o.constructor.name === undefined]; },
	'instance of no target': (t: any) => t.instance(),
};

export class T extends insideOf(inside) {
	declare ctx: any;
	declare env: any;
	kept: any;
	mine = new Cell(100);
	lines: any[] = [];
	add(a: number, b: number) { return a + b; }
	adder(n: number) { return (m: number) => n + m; }
	counter() { let n = 0; return () => ++n; }
	thrower() { return () => { throw new RangeError('f'); }; }
	pair() { return { f: (n: number) => n + 1, n: 5 }; }
	list() { return [(n: number) => n, (n: number) => n + 1]; }
	list2() { return [1, 2, 3]; }
	curried() { return (a: number) => (b: number) => a + b; }
	cell(n: number) { return new Cell(n); }
	same() { const c = new Cell(0); return [c, c]; }
	own() { return this.mine; }
	logged() { return new Cell(1, this.lines); }
	log() { return this.lines; }
	plain() { return { a: { b: 5 } }; }
	nothing() { return null; }
	throws() { throw new RangeError('m'); }
	aborts() { this.ctx.abort('why'); }
	other(name: string) { return this.env.T.getByName(name); }
	instance() { return new (class Point { x = 1; })(); }
	async callsOther(stub: any, n: number) { return stub.add(n, 1); }
	async calls(f: any, n: number) { return f(n); }
	async adds(c: any, n: number) { return [await c.add(n), await c.value]; }
	async each(list: any[], f: any) { const out = []; for (const v of list) out.push(await f(v)); return out; }
	async inObject(v: any) { return v.f(v.n); }
	async keeps(f: any) { this.kept = f; }
	async dups(f: any) { this.kept = f.dup(); }
	async callsKept(n: number) { return this.kept(n); }
}
export default program(inside, outside);
