// Ids, stubs, calls, errors and gates.
import { DurableObject } from 'cloudflare:workers';
import { insideOf, outcome, program } from './harness';

const two = (method: string, kind?: string) => async (t: any) => {
	await Promise.all([t[method]('A', kind), t[method]('B', kind)]);
	return t.traced();
};
const failing = (what: string) => (t: any) => t.fails(what);

const inside: any = {
	'ctx members': (_s: any, o: any) => ['id', 'storage', 'blockConcurrencyWhile', 'waitUntil', 'abort', 'exports', 'props'].map((k) => typeof o.ctx[k]),
	'own name': (_s: any, o: any) => o.ctx.id.name, 'waitUntil returns': (_s: any, o: any) => o.ctx.waitUntil(Promise.resolve(1)), 'props': (_s: any, o: any) => o.ctx.props,
	'block value': (_s: any, o: any) => o.ctx.blockConcurrencyWhile(async () => 5), 'block plain value': (_s: any, o: any) => o.ctx.blockConcurrencyWhile(() => 5), 'block nested': (_s: any, o: any) => o.ctx.blockConcurrencyWhile(() => o.ctx.blockConcurrencyWhile(async () => 6)),
	'block no function': (_s: any, o: any) => o.ctx.blockConcurrencyWhile(5), 'sync memory': (_s: any, o: any) => (o.kept = 1),
};
const outside: any = {
	'id text': (t: any, env: any) => env.T.idFromName('a').toString(), 'id name': (t: any, env: any) => env.T.idFromName('a').name, 'id empty name': (t: any, env: any) => [env.T.idFromName('').toString(), env.T.idFromName('').name],
	'id of number': (t: any, env: any) => env.T.idFromName(5).equals(env.T.idFromName('5')), 'id of undefined': (t: any, env: any) => env.T.idFromName(undefined).equals(env.T.idFromName('undefined')), 'id of nothing': (t: any, env: any) => env.T.idFromName(),
	'id twice': (t: any, env: any) => env.T.idFromName('a').equals(env.T.idFromName('a')), 'id other': (t: any, env: any) => env.T.idFromName('a').equals(env.T.idFromName('b')), 'id identity': (t: any, env: any) => env.T.idFromName('a') === env.T.idFromName('a'),
	'id from text': (t: any, env: any) => env.T.idFromString(env.T.idFromName('a').toString()).toString(), 'id from upper case': (t: any, env: any) => env.T.idFromString(env.T.idFromName('a').toString().toUpperCase()).toString(), 'id from text name': (t: any, env: any) => env.T.idFromString(env.T.idFromName('a').toString()).name,
	'id from short': (t: any, env: any) => env.T.idFromString('ab'), 'id from no hex': (t: any, env: any) => env.T.idFromString('z'.repeat(64)), 'id from zeros': (t: any, env: any) => env.T.idFromString('0'.repeat(64)), 'id from other class': (t: any, env: any) => env.T.idFromString(env.PLAIN.idFromName('a').toString()), 'id from nothing': (t: any, env: any) => env.T.idFromString(),
	'id equals text': (t: any, env: any) => env.T.idFromName('a').equals('a'), 'id equals nothing': (t: any, env: any) => env.T.idFromName('a').equals(), 'id equals null': (t: any, env: any) => env.T.idFromName('a').equals(null),
	'unique length': (t: any, env: any) => env.T.newUniqueId().toString().length, 'unique differ': (t: any, env: any) => env.T.newUniqueId().equals(env.T.newUniqueId()), 'unique name': (t: any, env: any) => env.T.newUniqueId().name, 'unique back': (t: any, env: any) => { const id = env.T.newUniqueId(); return env.T.idFromString(id.toString()).equals(id); },
	'unique own name': (t: any, env: any) => env.T.get(env.T.newUniqueId()).myName(), 'by text own name': (t: any, env: any) => env.T.get(env.T.idFromString(env.T.idFromName('a').toString())).myName(), 'long name': (t: any, env: any) => env.T.getByName('x'.repeat(1025)).myName(), 'name of 1024': async (t: any, env: any) => (await env.T.getByName('x'.repeat(1024)).myName()).length, 'empty own name': (t: any, env: any) => env.T.getByName('').myName(),
	'id class': (t: any, env: any) => env.T.idFromName('a').constructor.name, 'id keys': (t: any, env: any) => Object.keys(env.T.idFromName('a')), 'namespace class': (t: any, env: any) => env.T.constructor.name, 'stub class': (t: any) => t.constructor.name, 'stub keys': (t: any) => Object.keys(t),
	'stub id': (t: any, env: any, name: string) => t.id.equals(env.T.idFromName(name)), 'stub name': (t: any) => t.name, 'stub property': (t: any) => { t.own = 1; return t.own; }, 'stub then': (t: any) => typeof t.then, 'stub typeof': (t: any) => [typeof t, typeof t.x, typeof t.fetch],
	'get text': (t: any, env: any) => env.T.get('a'), 'get nothing': (t: any, env: any) => env.T.get(), 'get null': (t: any, env: any) => env.T.get(null), 'get routing': (t: any, env: any) => env.T.get(env.T.idFromName('a'), { routingMode: 'x' }), 'get routing known': (t: any, env: any) => typeof env.T.get(env.T.idFromName('a'), { routingMode: 'primary-only' }), 'get hint': (t: any, env: any) => env.T.get(env.T.idFromName('h'), { locationHint: 'nowhere' }).add(1, 2),
	'call': (t: any) => t.add(1, 2), 'call nothing': (t: any) => t.nothing(), 'call missing': (t: any) => t.missing(), 'call field': (t: any) => t.field(), 'call ctx': (t: any) => t.ctx(), 'call reserved': (t: any) => t.alarm(), 'call constructor': (t: any) => t.constructor2(), 'call property': (t: any) => t.prop(), 'call private name': (t: any) => t['#x'](), 'call toString': (t: any) => t.toString2(),
	'call odd name': (t: any) => t['a/b%?'](), 'call many arguments': (t: any) => t.count(...Array(100).fill(0)), 'call undefined argument': (t: any) => t.count(undefined, undefined), 'call static': (t: any) => t.stat(), 'call inherited': (t: any) => t.inherited(), 'call async': (t: any) => t.later(), 'call thenable': (t: any) => t.thenable(),
	'read property': (t: any) => t.prop, 'read path': (t: any) => t.prop.deep.value, 'read missing': (t: any) => t.none, 'read missing path': (t: any) => t.prop.no, 'read field': (t: any) => t.field, 'read past missing': (t: any) => t.prop.no.no, 'read ctx': (t: any) => t.ctx.storage, 'read throws': (t: any) => t.throwing, 'pipelined': (t: any) => t.deep().a.b, 'pipelined missing': (t: any) => t.deep().no, 'pipelined of what throws': (t: any) => t.fails('range').a.b,
	'throws Error': failing('error'), 'throws RangeError': failing('range'), 'throws TypeError': failing('type'), 'throws SyntaxError': failing('syntax'), 'throws own': failing('own'), 'throws number': failing('number'), 'throws text': failing('text'), 'throws undefined': failing('undefined'), 'throws null': failing('null'), 'throws object': failing('object'), 'throws DOMException': failing('dom'), 'throws empty': failing('empty'), 'throws props': async (t: any) => { try { await t.fails('props'); } catch (e: any) { return [e.code, e.name]; } }, 'throws named': failing('named'), 'throws late': failing('late'), 'throws aggregate': failing('aggregate'),
	'after a throw': async (t: any) => [await outcome(() => t.fails('range')), await t.add(1, 1)], 'memory after a throw': async (t: any) => { await t.inc(); await outcome(() => t.fails('range')); return t.inc(); },
	'order': async (t: any) => { const all = []; for (let i = 0; i < 20; i++) all.push(t.push(i)); return (await Promise.all(all)).at(-1); },
	'gates storage': two('steps', 'storage'), 'gates microtasks': two('steps', 'microtasks'), 'gates concurrent': two('steps', 'concurrent'), 'gates list': two('steps', 'list'), 'gates blocked': two('blocked'), 'gates transaction': two('inTransaction'),
	'increments': async (t: any) => { await Promise.all(Array.from({ length: 50 }, () => t.increment())); return t.increment(); },
	'abort': (t: any) => t.aborts('why'), 'abort default': (t: any) => t.aborts(), 'abort error': (t: any) => t.abortsError(), 'stub after abort': async (t: any) => [await outcome(() => t.aborts('why')), await outcome(() => t.add(1, 1))], 'new stub after abort': async (t: any, env: any, name: string) => [await outcome(() => t.aborts('why')), await env.T.getByName(name).add(1, 1)], 'memory after abort': async (t: any, env: any, name: string) => { await t.inc(); await outcome(() => t.aborts('x')); return env.T.getByName(name).inc(); },
	'block throws': async (t: any, env: any, name: string) => [await outcome(() => t.blockThrows()), await outcome(() => t.add(1, 1)), await env.T.getByName(name).add(1, 1)],
	'constructor throws': (t: any, env: any) => env.FAILS.getByName('a').x(), 'constructor throws twice': async (t: any, env: any) => [await outcome(() => env.FAILS.getByName('b').x()), await outcome(() => env.FAILS.getByName('b').x())],
	'fetch none': (t: any) => t.fetch('http://x/'), 'fetch relative': (t: any) => t.fetch('/x'), 'plain call': (t: any, env: any) => env.PLAIN.getByName('a').hello(), 'plain fetch': async (t: any, env: any) => (await env.PLAIN.getByName('a').fetch('http://x/a?b')).text(), 'fetch status': async (t: any, env: any) => (await env.PLAIN.getByName('a').fetch('http://x/status')).status, 'fetch header': async (t: any, env: any) => (await env.PLAIN.getByName('a').fetch('http://x/status')).headers.get('x-a'), 'fetch body': async (t: any, env: any) => (await env.PLAIN.getByName('a').fetch('http://x/', { method: 'POST', body: 'text' })).text(), 'fetch throws': (t: any, env: any) => env.PLAIN.getByName('a').fetch('http://x/throw'), 'fetch no response': (t: any, env: any) => env.PLAIN.getByName('a').fetch('http://x/none'), 'fetch empty': async (t: any, env: any) => { const r = await env.PLAIN.getByName('a').fetch('http://x/empty'); return [r.status, r.body, r.statusText]; }, 'fetch redirect': async (t: any, env: any) => (await env.PLAIN.getByName('a').fetch('http://x/redirect')).status, 'fetch method': async (t: any, env: any) => (await env.PLAIN.getByName('a').fetch('http://x/method', { method: 'PUT' })).text(),
};

class Base extends insideOf(inside) {
	inherited() { return 'base'; }
}
export class T extends Base {
	declare ctx: any;
	field = 1;
	n = 0;
	seen: any[] = [];
	static stat() { return 1; }
	get prop() { return { deep: { value: 3 } }; }
	get throwing() { throw new RangeError('getter'); }
	myName() { return this.ctx.id.name; }
	add(a: number, b: number) { return a + b; }
	nothing() {}
	count(...args: any[]) { return args.length; }
	async later() { await scheduler.wait(1); return 'later'; }
	thenable() { return { then: (f: any) => f(9) }; }
	alarm() {}
	deep() { return { a: { b: 5 } }; }
	inc() { return ++this.n; }
	push(i: number) { this.seen.push(i); return this.seen; }
	async fails(what: string) {
		switch (what) {
			case 'error': throw new Error('m');
			case 'range': throw new RangeError('m');
			case 'type': throw new TypeError('m');
			case 'syntax': throw new SyntaxError('m');
			case 'own': { class MyError extends Error {} throw new MyError('mine'); }
			case 'number': throw 5;
			case 'text': throw 'text';
			case 'undefined': throw undefined;
			case 'null': throw null;
			case 'object': throw { a: 1 };
			case 'dom': throw new DOMException('m', 'AbortError');
			case 'empty': throw new Error();
			case 'props': throw Object.assign(new Error('m'), { code: 7 });
			case 'named': { const e = new Error('m'); e.name = 'Named'; throw e; }
			case 'late': await scheduler.wait(1); throw new RangeError('late');
			case 'aggregate': throw new AggregateError([new Error('a')], 'm');
		}
	}
	traced() { return this.seen.join(' '); }
	async steps(who: string, kind: string) {
		for (let i = 0; i < 3; i++) {
			this.seen.push(who + i);
			switch (kind) {
				case 'storage': await this.ctx.storage.get('x'); await this.ctx.storage.put('x', 1); break;
				case 'concurrent': await this.ctx.storage.get('x', { allowConcurrency: true }); break;
				case 'list': await this.ctx.storage.list(); break;
				case 'microtasks': for (let j = 0; j < 10; j++) await null; break;
				case 'timer': await scheduler.wait(1); break;
			}
		}
	}
	blocked(who: string) { return this.ctx.blockConcurrencyWhile(() => this.steps(who, 'timer')); }
	inTransaction(who: string) { return this.ctx.storage.transaction(() => this.steps(who, 'timer')); }
	async increment() {
		const n = ((await this.ctx.storage.get('n')) ?? 0) + 1;
		await this.ctx.storage.put('n', n);
		return n;
	}
	aborts(why?: string) { this.ctx.abort(why); }
	abortsError() { this.ctx.abort(new RangeError('as an error')); }
	async blockThrows() { await this.ctx.blockConcurrencyWhile(async () => { throw new TypeError('broken'); }); }
}
export class Plain {
	async fetch(request: Request) {
		const url = new URL(request.url);
		switch (url.pathname) {
			case '/status': return new Response('x', { status: 418, headers: { 'x-a': 'b' } });
			case '/throw': throw new RangeError('in fetch');
			case '/none': return undefined as any;
			case '/empty': return new Response(null, { status: 204 });
			case '/redirect': return Response.redirect('http://x/status', 302);
			case '/method': return new Response(request.method);
		}
		return new Response(url.pathname + url.search + (await request.text()));
	}
	hello() {}
}
export class Fails extends DurableObject {
	constructor(ctx: any, env: any) { super(ctx, env); throw new RangeError('not yet'); }
	x() { return 1; }
}
export default program(inside, outside);
