package worker_test

import (
	"fmt"
	"regexp"
	"testing"
	"time"
)

const gateTests = caller + `
export class T extends DurableObject {
	trace = [];
	async pause(kind, step) {
		switch (kind) {
			case 'storage': await this.ctx.storage.get('x'); await this.ctx.storage.put('x', 1); return;
			case 'concurrent': return this.ctx.storage.get('x', { allowConcurrency: true });
			case 'microtasks': for (let i = 0; i < 10; i++) await null; return;
			case 'timer': return scheduler.wait(1);
			case 'timers': // until the other has come as far
				while (this.trace.filter((s) => s.endsWith(step)).length < 2) await scheduler.wait(1);
				return;
			case 'call': return this.env.OTHER.getByName(this.ctx.id.name).meet();
		}
	}
	async steps(who, kind) {
		for (let i = 0; i < 3; i++) {
			this.trace.push(who + i);
			await this.pause(kind, i);
		}
	}
	async blocked(who) {
		await this.ctx.blockConcurrencyWhile(() => this.steps(who, 'timer'));
	}
	async inTransaction(who) {
		await this.ctx.storage.transaction(() => this.steps(who, 'timer'));
	}
	async lateBlock(who) {
		await scheduler.wait(1);
		await this.ctx.blockConcurrencyWhile(() => this.steps(who, 'timer'));
	}
	get log() { return this.trace.join(' '); }
}
export class Other extends DurableObject {
	// meet answers the first when the second has come.
	async meet() {
		const first = this.waiting;
		if (first) {
			this.waiting = undefined;
			first();
			return;
		}
		await new Promise((resolve) => (this.waiting = resolve));
	}
}
export class Driver extends DurableObject {
	async race(method, kind) {
		const stub = this.env.T.getByName(method + kind);
		await Promise.all([stub[method]('A', kind), stub[method]('B', kind)]);
		return await stub.log;
	}
}
`

// durable-objects.md 1.11.
func TestGates(t *testing.T) {
	t.Parallel()
	w := newWorld(t, gateTests)
	const apart = "A0 A1 A2 B0 B1 B2"
	for _, tc := range []struct{ method, kind, want string }{
		{"steps", "storage", apart},
		{"steps", "concurrent", apart},
		{"steps", "microtasks", apart},
		{"blocked", "", apart},
		{"inTransaction", "", apart},
		{"lateBlock", "", apart},
	} {
		if got := w.ok("DRIVER", "d", "race", tc.method, tc.kind); got != tc.want {
			t.Errorf("%s %s: got %v, want %s", tc.method, tc.kind, got, tc.want)
		}
	}
	// Each waits for the other one, in timers or in calls, which go on in an order of their own.
	mixed := regexp.MustCompile(`^A0 B0 (A1 B1|B1 A1) (A2 B2|B2 A2)$`)
	for _, kind := range []string{"timers", "call"} {
		if got := fmt.Sprint(w.ok("DRIVER", "d", "race", "steps", kind)); !mixed.MatchString(got) {
			t.Errorf("steps %s: got %v", kind, got)
		}
	}
}

const abortTests = caller + `
export class T extends DurableObject {
	async between(what) {
		await this.ctx.storage.put('a', 1);
		switch (what) {
			case 'storage': await this.ctx.storage.get('a'); break;
			case 'timer': await scheduler.wait(1); break;
			case 'immediate': await new Promise((r) => setTimeout(r, 0)); break;
			case 'sync': await this.ctx.storage.sync(); break;
			case 'transaction': await this.ctx.storage.transaction(async (tx) => { await tx.put('t', 1); }); break;
			case 'digest': await crypto.subtle.digest('SHA-256', new Uint8Array(1)); break;
			case 'call': await this.env.OTHER.getByName('o').get(); break;
		}
		await this.ctx.storage.put('b', 1);
		try {
			this.ctx.abort('on purpose');
		} catch (e) {
			await this.ctx.storage.put('caught', 1);
		} finally {
			this.ctx.storage.kv.put('finally', 1);
		}
	}
	async stored() { return [...(await this.ctx.storage.list()).keys()].join(' '); }
}
export class Other extends DurableObject {
	async get() { return 0; }
}
export class Driver extends DurableObject {
	async abort(what) {
		const stub = this.env.T.getByName(what);
		const errors = [];
		const text = (e) => [e.name, e.message, e.durableObjectReset, e.remote, e.durableObjectId === stub.id.toString()].join();
		try { await stub.between(what); } catch (e) { errors.push(text(e)); }
		// A stub whose object was reset is of no use, another one is.
		try { await stub.stored(); } catch (e) { errors.push(text(e)); }
		equal(errors, ['Error,on purpose,true,,true', 'Error,on purpose,true,,true']);
		return await this.env.T.getByName(what).stored();
	}
}
`

func TestAbortKeepsWhatWasWrittenBeforeAWait(t *testing.T) {
	t.Parallel()
	w := newWorld(t, abortTests)
	for what, want := range map[string]string{"storage": "", "nothing": "", "timer": "a", "immediate": "a", "sync": "a", "call": "a", "transaction": "a t"} {
		if got := w.ok("DRIVER", "d", "abort", what); got != want {
			t.Errorf("%s: got %q, want %q", what, got, want)
		}
	}
}

const rpcTests = caller + `
class Point { constructor() { this.x = 1; } }
export class T extends DurableObject {
	field = 1;
	#secret = 2;
	get prop() { return { deep: { value: 3, f: 4 } }; }
	async echo(...args) { return args; }
	nothing() {}
	throwsRange() { throw new RangeError('out'); }
	throwsFive() { throw 5; }
	throwsOwn() { class MyError extends Error {}; throw new MyError('mine'); }
	throwsClone() { structuredClone(() => 1); }
	point() { return new Point(); }
	fn() { return () => 1; }
	async slow() { await scheduler.wait(5); return { a: { b: 5 } }; }
	count() { return (this.n = (this.n ?? 0) + 1); }
	order(i) { (this.seen ??= []).push(i); return this.seen; }
	alarm() {}
	big(n) { return 'x'.repeat(n); }
	thenable() { return { then: (f) => f(9) }; }
}
export class Old {
	constructor(ctx, env) { this.ctx = ctx; }
	fetch() { return new Response('old'); }
	hello() { return 1; }
}
export class Driver extends DurableObject {
	async all() {
		const t = this.env.T.getByName('t');
		equal(Object.keys(t), ['name', 'id']);
		equal(t.name, 't');
		t.own = 1;
		equal(t.own, 1);
		equal(await t.echo(1, 'x', { a: [undefined] }), [1, 'x', { a: [undefined] }]);
		equal(await t.nothing(), undefined);
		equal(await t.prop, { deep: { value: 3, f: 4 } });
		equal(await t.prop.deep.value, 3, 'a path that is read');
		equal(await t.slow().a.b, 5, 'pipelined');
		equal(await t.thenable(), 9);
		const e = async (f) => { try { await f(); } catch (e) { return [e.constructor.name, e.name, e.message, e.remote, e.durableObjectId === t.id.toString(), e.durableObjectReset].join(); } };
		equal(await e(() => t.throwsRange()), 'RangeError,RangeError,out,true,true,');
		equal(await e(() => t.throwsFive()), 'Error,Error,5,true,true,');
		equal(await e(() => t.throwsOwn()), 'Error,Error,mine,true,true,');
		equal(await e(() => t.throwsClone()), 'DOMException,DataCloneError,() => 1 could not be cloned.,true,true,');
		equal(await e(() => t.point()), 'DOMException,DataCloneError,Could not serialize object of type "Point". This type does not support serialization.,true,true,');
		equal(await e(() => t.echo(new Point())), 'DOMException,DataCloneError,Could not serialize object of type "Point". This type does not support serialization.,,false,');
		equal(await t.count(), 1);
		await throws(() => t.missing(), TypeError, 'The RPC receiver does not implement the method "missing".');
		await throws(() => t.field, TypeError, 'The RPC receiver does not implement the method "field".');
		await throws(() => t.ctx.storage, TypeError, 'The RPC receiver does not implement the method "ctx".');
		await throws(() => t.alarm(), TypeError, "'alarm' is a reserved method and cannot be called over RPC.");
		await throws(() => t.prop(), TypeError, '"prop" is not a function.');
		await throws(() => t.prop.deep.no, TypeError, 'The RPC receiver does not implement the method "no".');
		await throws(() => { let p = t; for (let i = 0; i < 66; i++) p = p.x; return p; }, TypeError, 'The property path of this RPC call is too deep.');
		equal(await t['a/b%?'].catch((e) => e.message), 'The RPC receiver does not implement the method "a/b%?".');
		const sent = [];
		for (let i = 0; i < 50; i++) sent.push(t.order(i));
		equal((await sent.at(-1)).join(), Array.from({ length: 50 }, (_, i) => i).join(), 'in order');
		await Promise.all(sent);
		const o = this.env.OLD.getByName('o');
		equal(await (await o.fetch('http://x/')).text(), 'old');
		await throws(() => o.hello(), TypeError, 'The receiving Durable Object does not support RPC, because its class was not declared with ` + "`extends DurableObject`" + `. In order to enable RPC, make sure your class extends the special class ` + "`DurableObject`" + `, which can be imported from the module "cloudflare:workers".');
		await throws(() => t.fetch('http://x/'), Error, 'Handler does not export a fetch() function.');
		await throws(() => t.fetch('/x'), TypeError, 'Invalid URL: /x');
		equal(await t.count(), 2, 'the same instance');
		// Nobody listens to what fails.
		t.throwsRange().catch(() => {});
	}
	async sizes() {
		const t = this.env.T.getByName('sizes');
		equal((await t.big(20 << 20)).length, 20 << 20);
		await throws(() => t.big(33 << 20), Error, 'Serialized RPC arguments or return values are limited to 32MiB, but the size of this value was: 34603013 bytes.');
		await throws(() => t.echo('x'.repeat(33 << 20)), Error, 'Serialized RPC arguments or return values are limited to 32MiB, but the size of this value was: 34603014 bytes.');
		equal(await t.count(), 1, 'the same instance');
	}
	async ids() {
		const ns = this.env.T;
		const id = ns.idFromName('x');
		equal(id.name, 'x');
		equal(id.toString().length, 64);
		equal(ns.idFromName('x').equals(id), true);
		const again = ns.idFromString(id.toString().toUpperCase());
		equal(again.equals(id), true);
		equal('name' in again, false);
		await throws(() => ns.idFromString('x'), TypeError, 'Invalid Durable Object ID: must be 64 hex digits');
		await throws(() => ns.idFromString(this.env.OLD.idFromName('x').toString()), TypeError, 'Durable Object ID is not valid for this namespace.');
		const unique = ns.newUniqueId();
		equal(unique.equals(ns.newUniqueId()), false);
		equal(await ns.get(unique).echo(1), [1]);
		await throws(() => ns.get('x'), TypeError, "Failed to execute 'get' on 'DurableObjectNamespace': parameter 1 is not of type 'DurableObjectId'.");
		await throws(() => ns.get(id, { routingMode: 'x' }), RangeError, 'unknown routingMode: x');
		equal(ns.get(id, { routingMode: 'primary-only', locationHint: 'weur' }).id.equals(id), true);
		await throws(() => ns.newUniqueId({ jurisdiction: 'eu' }), Error, 'Jurisdiction restrictions are not implemented in Holdfast.');
		equal(ns.jurisdiction(undefined) === ns, true);
		equal(this.ctx.exports.T.idFromName('x').equals(id), true, 'ctx.exports');
	}
}
`

func TestRPC(t *testing.T) {
	t.Parallel()
	w := newWorld(t, rpcTests)
	w.ok("DRIVER", "d", "all")
	w.ok("DRIVER", "d", "ids")
	if !raceDetector { // It would take longer than a call may.
		w.ok("DRIVER", "d", "sizes")
	}
	if t.Failed() {
		t.Log(w.logs)
	}
}

const lifeTests = caller + `
let constructed = 0;
export class T extends DurableObject {
	constructor(ctx, env) {
		super(ctx, env);
		this.number = ++constructed;
		ctx.blockConcurrencyWhile(async () => {
			await scheduler.wait(2);
			this.first = (await ctx.storage.get('n')) ?? 0;
		});
		ctx.blockConcurrencyWhile(async () => { this.second = this.first + 1; });
	}
	async get() { return [this.first, this.second, this.ctx.id.name ?? null]; }
	async set(n) { await this.ctx.storage.put('n', n); return this.number; }
	async number_() { return this.number; }
	async later(ms) {
		setTimeout(async () => { await this.ctx.storage.put('later', 1); await scheduler.wait(5); await this.ctx.storage.put('later', 2); }, ms);
		this.ctx.waitUntil(scheduler.wait(ms));
	}
	async later_() { return (await this.ctx.storage.get('later')) ?? 0; }
	async breaks() {
		try {
			await this.ctx.blockConcurrencyWhile(async () => { await scheduler.wait(1); throw new TypeError('broken'); });
		} catch (e) { return 'caught'; }
		return 'went on';
	}
	async value() { return await this.ctx.blockConcurrencyWhile(async () => { await scheduler.wait(1); return 5; }); }
	async deep(n = 0) { return await this.ctx.blockConcurrencyWhile(async () => n < 30 ? this.deep(n + 1) : n); }
	async tooDeep(n = 0) { return await this.ctx.blockConcurrencyWhile(async () => this.tooDeep(n + 1)); }
	async memory() { this.kept = 1; throw new Error('plain'); }
	async kept_() { return this.kept ?? 0; }
}
let fails = 2;
export class Fails extends DurableObject {
	constructor(ctx, env) {
		super(ctx, env);
		ctx.storage.kv.put('tried', 1);
		if (fails-- > 0) throw new RangeError('not yet');
	}
	async get() { return this.ctx.storage.kv.get('tried') ?? 0; }
}
`

func TestLife(t *testing.T) {
	t.Parallel()
	w := newWorld(t, lifeTests, func(w *world) { w.idle = 100 * time.Millisecond })
	if got := fmt.Sprint(w.ok("T", "a", "get")); got != "[0 1 a]" {
		t.Errorf("constructed: got %v", got)
	}
	first := w.ok("T", "a", "set", 5)
	if again := w.ok("T", "a", "number_"); again != first {
		t.Errorf("the instance is another one: %v, %v", first, again)
	}
	eventually(t, "the object is evicted", func() bool { return w.ok("T", "x", "number_") != nil })
	eventually(t, "the instance is another", func() bool {
		time.Sleep(300 * time.Millisecond) //nolint:forbidigo // the object must not be called for so long
		return w.ok("T", "a", "number_") != first
	})
	if got := fmt.Sprint(w.ok("T", "a", "get")); got != "[5 6 a]" {
		t.Errorf("constructed anew: got %v", got)
	}

	w.ok("T", "b", "later", 20)
	eventually(t, "what was begun goes on", func() bool { return w.ok("T", "b", "later_") == 2.0 })

	a := w.call("T", "c", "breaks")
	if a.Error == nil || a.Error.Name != "TypeError" || a.Error.Message != "broken" || !a.Error.DurableObjectReset {
		t.Errorf("a section that fails: got %+v, %v", a.Error, a.Value)
	}
	if got := w.ok("T", "c", "value"); got != 5.0 {
		t.Errorf("a section's value: got %v", got)
	}
	if got := w.ok("T", "c", "deep"); got != 30.0 {
		t.Errorf("sections in sections: got %v", got)
	}
	if a := w.call("T", "c", "tooDeep"); a.Error == nil {
		t.Errorf("too deep: got %v", a.Value)
	}
	if a := w.call("T", "d", "memory"); a.Error == nil || a.Error.DurableObjectReset {
		t.Errorf("a plain error: got %+v", a.Error)
	}
	if got := w.ok("T", "d", "kept_"); got != 1.0 {
		t.Errorf("after a plain error the object was reset")
	}

	for range 2 {
		a := w.call("FAILS", "a", "get")
		if a.Error == nil || a.Error.Name != "RangeError" || a.Error.Message != "not yet" || !a.Error.DurableObjectReset {
			t.Errorf("a constructor that fails: got %+v, %v", a.Error, a.Value)
		}
	}
	if got := w.ok("FAILS", "a", "get"); got != 1.0 {
		t.Errorf("after a constructor that failed: got %v", got)
	}
}

// eventually waits until the condition holds.
func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !cond(); time.Sleep(5 * time.Millisecond) { //nolint:forbidigo // between two looks
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within 20 s", what)
		}
	}
}
