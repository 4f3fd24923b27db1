// Storage: reads, writes, ranges, transactions, alarms and their errors.
import { insideOf, outcome, program } from './harness';

const fill = async (s: any) => s.put({ a: 1, b: 2, ba: 3, bb: 4, c: 5, 'é': 6, '\uFFFD': 7, '😀': 8 });
const listed = (options?: any) => async (s: any) => (await fill(s), s.list(options));
const keys = async (s: any) => [...(await s.list()).keys()];
const tx = (fn: any) => async (s: any) => {
	await s.put('before', 0);
	const got = await outcome(() => s.transaction((t: any) => fn(t, s)));
	return [got, await s.list()];
};
const txSync = (fn: any) => async (s: any) => {
	await s.put('before', 0);
	const got = await outcome(() => s.transactionSync(() => fn(s.kv, s)));
	return [got, await s.list()];
};
let escaped: any;

const inside: any = {
	'get absent': (s: any) => s.get('a'), 'get many none': (s: any) => s.get([]), 'get many absent': (s: any) => s.get(['a', 'b']),
	'get many order': async (s: any) => (await fill(s), s.get(['c', 'a', 'zz', 'b', '😀', 'é', '\uFFFD'])), 'get many twice': async (s: any) => (await fill(s), s.get(['a', 'a'])),
	'get number key': async (s: any) => (await s.put('1', 'x'), s.get(1)), 'get undefined key': (s: any) => s.get(undefined), 'get no key': (s: any) => s.get(), 'get null key': (s: any) => s.get(null),
	'get object key': (s: any) => s.get({}), 'put undefined': (s: any) => s.put('a', undefined), 'put no value': (s: any) => s.put('a'), 'put returns': (s: any) => s.put('a', 1),
	'put many returns': (s: any) => s.put({ a: 1 }), 'put many undefined': async (s: any) => (await s.put({ a: 1, b: undefined }), s.list()), 'put many empty': (s: any) => s.put({}),
	'put nothing': (s: any) => s.put(), 'put empty key': async (s: any) => (await s.put('', 1), [await s.get(''), await keys(s)]), 'put nul key': async (s: any) => (await s.put('a\0b', 1), keys(s)),
	'put lone surrogate key': async (s: any) => (await s.put('a\ud800', 1), keys(s)), 'put over': async (s: any) => (await s.put('a', 1), await s.put('a', 'x'), s.get('a')),
	'put null': async (s: any) => (await s.put('a', null), s.get('a')), 'put unconfirmed': async (s: any) => (await s.put('a', 1, { allowUnconfirmed: true }), s.get('a')),
	'put function leaves': async (s: any) => { await s.put('a', 1); const e = await outcome(() => s.put('a', () => 1)); return [e, await s.get('a')]; },
	'put many with a function': async (s: any) => [await outcome(() => s.put({ a: 1, b: () => 1 })), await s.list()],
	'delete absent': (s: any) => s.delete('a'), 'delete present': async (s: any) => (await s.put('a', 1), s.delete('a')), 'delete many': async (s: any) => (await fill(s), [await s.delete(['a', 'b', 'zz']), await keys(s)]),
	'delete none': (s: any) => s.delete([]), 'delete twice': async (s: any) => (await s.put('a', 1), s.delete(['a', 'a'])), 'delete no key': (s: any) => s.delete(),
	'list empty': (s: any) => s.list(), 'list all': listed(), 'list undefined': listed(undefined), 'list start': listed({ start: 'b' }), 'list start between': listed({ start: 'az' }), 'list startAfter': listed({ startAfter: 'b' }),
	'list end': listed({ end: 'ba' }), 'list start end': listed({ start: 'b', end: 'c' }), 'list end before start': listed({ start: 'c', end: 'a' }), 'list empty range': listed({ start: 'b', end: 'b' }),
	'list prefix': listed({ prefix: 'b' }), 'list prefix none': listed({ prefix: 'x' }), 'list prefix empty': listed({ prefix: '' }), 'list prefix start': listed({ prefix: 'b', start: 'ba' }), 'list prefix end': listed({ prefix: 'b', end: 'bb' }),
	'list prefix outside': listed({ prefix: 'b', start: 'c' }), 'list reverse': listed({ reverse: true }), 'list reverse limit': listed({ reverse: true, limit: 2 }), 'list reverse start end': listed({ start: 'b', end: 'c', reverse: true }),
	'list reverse startAfter': listed({ startAfter: 'b', reverse: true }), 'list reverse prefix': listed({ prefix: 'b', reverse: true }), 'list limit': listed({ limit: 3 }), 'list limit large': listed({ limit: 1e9 }),
	'list limit zero': listed({ limit: 0 }), 'list limit negative': listed({ limit: -1 }), 'list limit fraction': listed({ limit: 2.7 }), 'list limit text': listed({ limit: '2' }), 'list both starts': listed({ start: 'a', startAfter: 'b' }),
	'list empty end': listed({ end: '' }), 'list empty startAfter': listed({ startAfter: '' }), 'list null': (s: any) => s.list(null), 'list deleted': async (s: any) => (await fill(s), await s.delete('b'), keys(s)),
	'deleteAll': async (s: any) => (await fill(s), [await s.deleteAll(), await s.list()]), 'deleteAll then put': async (s: any) => (await fill(s), s.deleteAll(), await s.put('n', 1), s.list()), 'sync': (s: any) => s.sync(),
	'kv get absent': (s: any) => s.kv.get('a'), 'kv put get': (s: any) => (s.kv.put('a', [1]), s.kv.get('a')), 'kv put returns': (s: any) => s.kv.put('a', 1), 'kv put undefined': (s: any) => s.kv.put('a', undefined),
	'kv delete': (s: any) => (s.kv.put('a', 1), [s.kv.delete('a'), s.kv.delete('a')]), 'kv and async': async (s: any) => (s.kv.put('a', 1), s.get('a')), 'kv list': async (s: any) => (await fill(s), [...s.kv.list()]),
	'kv list options': async (s: any) => (await fill(s), [...s.kv.list({ prefix: 'b', reverse: true, limit: 2 })]), 'kv list limit': (s: any) => [...s.kv.list({ limit: 0 })],
	'kv list twice': async (s: any) => { await fill(s); const one = s.kv.list()[Symbol.iterator](); one.next(); s.kv.list(); return one.next(); },
	'kv put function': (s: any) => s.kv.put('a', () => 1),
	'tx commits': tx(async (t: any) => { await t.put('a', 1); return 'done'; }), 'tx returns': tx(() => 5), 'tx throws': tx(async (t: any) => { await t.put('a', 1); throw new RangeError('no'); }),
	'tx throws at once': tx((t: any) => { t.put('a', 1); throw 5; }), 'tx rollback': tx(async (t: any) => { await t.put('a', 1); t.rollback(); return 'back'; }), 'tx rollback twice': tx((t: any) => { t.rollback(); t.rollback(); }),
	'tx get after rollback': tx(async (t: any) => { t.rollback(); return t.get('a'); }), 'tx put after rollback': tx(async (t: any) => { t.rollback(); return t.put('a', 1); }), 'tx list after rollback': tx(async (t: any) => { t.rollback(); return t.list(); }),
	'tx delete after rollback': tx(async (t: any) => { t.rollback(); return t.delete('a'); }), 'tx sees its own': tx(async (t: any) => { await t.put('a', 1); return [await t.get('a'), await t.list()]; }),
	'tx storage put': tx(async (_t: any, s: any) => { await s.put('a', 1); }), 'tx storage put rolled back': tx(async (t: any, s: any) => { await s.put('a', 1); t.rollback(); }), 'tx delete': tx((t: any) => t.delete('before')),
	'tx deleteAll': tx((t: any) => t.deleteAll()), 'tx storage deleteAll': tx((_t: any, s: any) => s.deleteAll()), 'tx nested': tx((_t: any, s: any) => s.transaction((u: any) => u.put('a', 1))),
	'tx nested rolled back': tx(async (t: any, s: any) => { await t.put('o', 1); await s.transaction((u: any) => { u.put('a', 1); u.rollback(); }); }), 'tx nested throws': tx(async (t: any, s: any) => { await t.put('o', 1); return outcome(() => s.transaction((u: any) => { u.put('a', 1); throw new Error('in'); })); }),
	'tx escaped get': async (s: any) => { await s.transaction((t: any) => { escaped = t; }); return escaped.get('a'); }, 'tx escaped put': async (s: any) => { await s.transaction((t: any) => { escaped = t; }); return escaped.put('a', 1); },
	'tx escaped rollback': async (s: any) => { await s.transaction((t: any) => { escaped = t; }); return escaped.rollback(); }, 'tx no closure': (s: any) => outcome(() => s.transaction()), 'tx waits': tx(async (t: any) => { await t.put('a', 1); await scheduler.wait(1); await t.put('b', 1); throw new Error('late'); }),
	'txSync commits': txSync((kv: any) => (kv.put('a', 1), 'done')), 'txSync throws': txSync((kv: any) => { kv.put('a', 1); throw new TypeError('no'); }), 'txSync nested': txSync((kv: any, s: any) => s.transactionSync(() => kv.put('a', 1))),
	'txSync nested throws': txSync((kv: any, s: any) => { kv.put('o', 1); try { s.transactionSync(() => { kv.put('a', 1); throw new Error('in'); }); } catch (e: any) { return e.message; } }), 'txSync no closure': (s: any) => s.transactionSync(),
	'alarm none': (s: any) => s.getAlarm(), 'alarm set': async (s: any) => (await s.setAlarm(4e12), s.getAlarm()), 'alarm date': async (s: any) => (await s.setAlarm(new Date(4e12)), s.getAlarm()), 'alarm fraction': async (s: any) => (await s.setAlarm(4e12 + 0.7), s.getAlarm()),
	'alarm deleted': async (s: any) => (await s.setAlarm(4e12), [await s.deleteAlarm(), await s.getAlarm()]), 'alarm again': async (s: any) => (await s.setAlarm(4e12), await s.setAlarm(5e12), s.getAlarm()), 'alarm text': (s: any) => s.setAlarm('tomorrow'),
	'alarm zero': (s: any) => s.setAlarm(0), 'alarm negative': (s: any) => s.setAlarm(-5), 'alarm nothing': (s: any) => s.setAlarm(), 'alarm nan': (s: any) => s.setAlarm(NaN), 'alarm null': (s: any) => s.setAlarm(null), 'alarm invalid date': (s: any) => s.setAlarm(new Date(NaN)),
	'alarm tx': async (s: any) => { await s.transaction((t: any) => { t.setAlarm(4e12); t.rollback(); }); return s.getAlarm(); }, 'alarm tx kept': async (s: any) => { await s.transaction((t: any) => t.setAlarm(4e12)); return s.getAlarm(); },
	'alarm deleteAll': async (s: any) => (await s.setAlarm(4e12), await s.deleteAll(), s.getAlarm()), 'alarm infinity': (s: any) => s.setAlarm(Infinity),
};
const outside: any = {
	'alarm runs': async (t: any) => { await t.arm(); for (let i = 0; i < 200; i++) { const got = await t.rang(); if (got) return got; await scheduler.wait(5); } },
	'abort loses what is not committed': async (t: any, env: any, name: string) => [await outcome(() => t.dies(false)), await env.T.getByName(name).stored()],
	'abort keeps what was synced': async (t: any, env: any, name: string) => [await outcome(() => t.dies(true)), await env.T.getByName(name).stored()],
};

export class T extends insideOf(inside) {
	declare ctx: any;
	rang_: any;
	async arm() { await this.ctx.storage.setAlarm(Date.now() + 5); }
	async rang() { return this.rang_; }
	async alarm(info: any) { this.rang_ = [info?.retryCount, info?.isRetry, await this.ctx.storage.getAlarm()]; }
	async stored() { return this.ctx.storage.list(); }
	async dies(sync: boolean) {
		await this.ctx.storage.put('a', 1);
		if (sync) await this.ctx.storage.sync();
		await this.ctx.storage.put('b', 1);
		this.ctx.abort('on purpose');
	}
}
export default program(inside, outside);
