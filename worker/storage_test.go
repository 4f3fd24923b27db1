package worker_test

import "testing"

// The tests are methods of an object, which throw when something is not as it is to be.
const storageTests = caller + `
export class T extends DurableObject {
	async values() {
		const s = this.ctx.storage;
		equal(await s.get('no'), undefined);
		await s.put('a', 1);
		equal(await s.get('a'), 1);
		for (const v of [0, -0, NaN, 1e300, 'x\u{1F600}', true, null, [1, , 3], { a: { b: [1n] } }, 10n ** 30n]) {
			await s.put('v', v);
			const got = await s.get('v');
			if (typeof v !== 'object') { if (!Object.is(got, v)) throw new Error('not ' + String(v)); }
			else equal(Object.keys(got ?? {}), Object.keys(v ?? {}));
		}
		await s.put('v', new Map([['k', new Set([1, 2])]]));
		equal([...(await s.get('v')).get('k')], [1, 2]);
		await s.put('v', new Date(5));
		equal((await s.get('v')).getTime(), 5);
		await s.put('v', /a+/gi);
		equal(String(await s.get('v')), '/a+/gi');
		await s.put('v', new Uint8Array([1, 2, 255]));
		equal([...(await s.get('v'))], [1, 2, 255]);
		await s.put('v', { u: undefined });
		equal('u' in (await s.get('v')), true);
		await s.put('v', new RangeError('x'));
		equal((await s.get('v')) instanceof RangeError, true);
		class Point { constructor() { this.x = 1; } get y() { return 2; } }
		await s.put('v', new Point());
		equal(await s.get('v'), { x: 1 });
		const v = { n: 1 };
		await s.put('v', v);
		v.n = 2;
		equal(await s.get('v'), { n: 1 }, 'it is a copy');
		await throws(() => s.put('v', () => 1), DOMException, '() => 1 could not be cloned.');
		await throws(() => s.put('v', undefined), TypeError, 'put() called with undefined value.');
	}

	async many() {
		const s = this.ctx.storage;
		await s.put({ b: 2, a: 1, no: undefined });
		equal([...(await s.get(['b', 'zz', 'a']))], [['a', 1], ['b', 2]]);
		equal(await s.get('no'), undefined);
		equal(await s.delete('a'), true);
		equal(await s.delete('a'), false);
		await s.put({ a: 1, c: 3 });
		equal(await s.delete(['a', 'b', 'zz']), 2);
		const keys = Array.from({ length: 129 }, (_, i) => 'k' + i);
		await throws(() => s.get(keys), RangeError, 'Maximum number of key value pairs is 128. 129 pairs were provided.');
		await throws(() => s.delete(keys), RangeError, 'Maximum number of key value pairs is 128. 129 pairs were provided.');
		await throws(() => s.put(Object.fromEntries(keys.map((k) => [k, 1]))), RangeError, 'Maximum number of key value pairs is 128. 129 pairs were provided.');
		await s.put(Object.fromEntries(keys.slice(1).map((k) => [k, 1])));
		equal((await s.list()).size, 129);
	}

	async limits() {
		const s = this.ctx.storage;
		await s.put('k'.repeat(2048), 1);
		await throws(() => s.put('k'.repeat(2049), 1), RangeError, 'Keys cannot be larger than 2048 bytes. A key of size 2049 was provided.');
		await throws(() => s.get('é'.repeat(1025)), RangeError, 'Keys cannot be larger than 2048 bytes. A key of size 2050 was provided.');
		await s.put('v', 'x'.repeat(2 << 20 - 100));
		await throws(() => s.put('v', 'x'.repeat(2 << 20)), RangeError, 'Values cannot be larger than 2097152 bytes.');
	}

	async list() {
		const s = this.ctx.storage;
		const all = ['', '\0', 'a', 'aa', 'ab', 'b', 'ba', 'c', 'é', '\uFFFD', '\u{1F600}'];
		for (const k of [...all].reverse()) await s.put(k, k);
		const keys = async (o) => [...(await s.list(o)).keys()];
		equal(await keys(), all, 'by bytes');
		equal(await keys({ reverse: true }), [...all].reverse());
		equal(await keys({ prefix: 'a' }), ['a', 'aa', 'ab']);
		equal(await keys({ start: 'ab', end: 'c' }), ['ab', 'b', 'ba']);
		equal(await keys({ startAfter: 'ab', end: 'c' }), ['b', 'ba']);
		equal(await keys({ start: 'ab', end: 'c', reverse: true }), ['ba', 'b', 'ab']);
		equal(await keys({ start: 'ab', end: 'c', reverse: true, limit: 2 }), ['ba', 'b']);
		equal(await keys({ prefix: 'a', start: 'aa' }), ['aa', 'ab']);
		equal(await keys({ start: 'c', end: 'a' }), []);
		equal(await keys({ end: '' }), []);
		equal(await keys({ startAfter: '', limit: 2 }), ['\0', 'a']);
		equal(await keys({ limit: 1.9 }), ['']);
		await throws(() => s.list({ limit: 0 }), TypeError, 'List limit must be positive.');
		await throws(() => s.list({ start: 'a', startAfter: 'b' }), TypeError, 'list() cannot be called with both start and startAfter values.');
		await s.put('\uD800', 1);
		equal((await s.list({ prefix: '\uFFFD' })).size, 1, 'a lone surrogate is U+FFFD');
	}

	async kv() {
		const { kv } = this.ctx.storage;
		equal(kv.get('a'), undefined);
		kv.put('a', { n: 1 });
		equal(kv.get('a'), { n: 1 });
		equal(await this.ctx.storage.get('a'), { n: 1 }, 'the same data');
		for (let i = 0; i < 250; i++) kv.put('k' + String(i).padStart(3, '0'), i);
		equal([...kv.list({ prefix: 'k' })].length, 250);
		equal([...kv.list({ prefix: 'k', reverse: true, limit: 201 })].at(-1), ['k049', 49]);
		equal(kv.delete('a'), true);
		equal(kv.delete('a'), false);
		const first = kv.list()[Symbol.iterator]();
		first.next();
		kv.list();
		await throws(() => first.next(), Error, 'kv.list() iterator was invalidated because a new call to kv.list() was started. Only one kv.list() iterator can exist at a time.');
		await throws(() => kv.put('a', undefined), TypeError, 'put() called with undefined value.');
	}

	async deleteAll() {
		const s = this.ctx.storage;
		await s.put({ a: 1, b: 2 });
		await s.deleteAll();
		equal((await s.list()).size, 0);
		await s.put('a', 1);
		await throws(() => s.transaction((tx) => tx.deleteAll()), Error, 'Cannot call deleteAll() within a transaction');
		await throws(() => s.transaction(() => s.deleteAll()), Error, 'Cannot call deleteAll() within a transaction');
		equal(await s.get('a'), 1);
	}

	async transactions() {
		const s = this.ctx.storage;
		equal(await s.transaction(async (tx) => {
			await tx.put('a', 1);
			equal(await tx.get('a'), 1);
			return 'result';
		}), 'result');
		equal(await s.get('a'), 1);
		await throws(() => s.transaction(async (tx) => {
			await tx.put('a', 2);
			await s.put('b', 2);
			throw new RangeError('oh');
		}), RangeError, 'oh');
		equal([await s.get('a'), await s.get('b')], [1, undefined]);
		let kept;
		await s.transaction(async (tx) => {
			kept = tx;
			await tx.put('a', 3);
			tx.rollback();
			await throws(() => tx.get('a'), Error, 'Cannot get() on rolled back transaction');
			await s.put('c', 3);
		});
		equal([await s.get('a'), await s.get('c')], [1, 3]);
		await s.transaction(async (tx) => { kept = tx; });
		await throws(() => kept.get('a'), Error, 'Cannot call get() on transaction that has already committed: did you move ` + "`txn`" + ` outside of the closure?');
		// Nested.
		await s.transaction(async (tx) => {
			await tx.put('a', 4);
			await throws(() => s.transaction(async (inner) => {
				await inner.put('a', 5);
				await inner.put('d', 5);
				throw new Error('inner');
			}), Error, 'inner');
			equal([await s.get('a'), await s.get('d')], [4, undefined]);
		});
		equal(await s.get('a'), 4);
		// With a wait in it, and others beside it.
		const [x, y] = await Promise.all([
			s.transaction(async (tx) => { await tx.put('x', 1); await scheduler.wait(5); await tx.put('x', (await tx.get('x')) + 1); return tx.get('x'); }),
			s.transaction(async (tx) => { await tx.put('x', 10); throw new Error('y'); }).catch((e) => e.message),
		]);
		equal([x, y, await s.get('x')], [2, 'y', 2]);
		// Synchronous.
		equal(s.transactionSync(() => { s.kv.put('s', 1); return 7; }), 7);
		await throws(() => s.transactionSync(() => { s.kv.put('s', 2); throw new Error('sync'); }), Error, 'sync');
		equal(s.kv.get('s'), 1);
		await throws(() => s.transaction(() => s.sync()), Error, 'Cannot call sync() within a transaction');
		await throws(() => s.transaction(() => fetch('http://127.0.0.1/')), TypeError, 'x').catch((e) => equal(/within a transaction/.test(e.message), true, e.message));
	}

	async sync() {
		await this.ctx.storage.put('a', 1);
		equal(await this.ctx.storage.sync(), undefined);
		this.ctx.storage.put('b', 1, { allowUnconfirmed: true });
		await this.ctx.storage.sync();
	}

	async others() {
		await throws(() => this.ctx.storage.sql, Error, 'SQL storage (ctx.storage.sql) is not implemented in Holdfast yet.');
		await throws(() => this.ctx.storage.getCurrentBookmark(), Error, 'Point-in-time recovery is not implemented in Holdfast.');
		equal(typeof this.ctx.id.toString(), 'string');
		equal(this.ctx.id.name, 'others');
	}
}
`

func TestStorage(t *testing.T) {
	t.Parallel()
	w := newWorld(t, storageTests)
	for _, method := range []string{"values", "many", "limits", "list", "kv", "deleteAll", "transactions", "sync", "others"} {
		t.Run(method, func(t *testing.T) {
			w.ok("T", method, method)
		})
	}
	if text := w.logs.String(); text != "" {
		t.Log(text)
	}
}
