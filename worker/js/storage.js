import { notOfType } from './errors.js';
import { host, text } from './host.js';

const pairsMax = 128;

function checkPairs(n) {
	if (n > pairsMax) {
		throw new RangeError(`Maximum number of key value pairs is ${pairsMax}. ${n} pairs were provided.`);
	}
}

function checkValue(v) {
	if (v === undefined) {
		throw new TypeError('put() called with undefined value.');
	}
}

function checkClosure(method, closure) {
	if (typeof closure !== 'function') throw notOfType(method, 'DurableObjectStorage', 1, 'function');
}

// listOptions checks what list() was asked for.
function listOptions(o = {}) {
	if (o === null) o = {};
	const out = { reverse: Boolean(o.reverse) };
	for (const name of ['start', 'startAfter', 'end', 'prefix']) {
		if (o[name] !== undefined && o[name] !== null) out[name] = text(o[name]);
	}
	if (o.limit !== undefined && o.limit !== null) {
		out.limit = Math.trunc(Number(o.limit));
		if (!(out.limit > 0)) throw new TypeError('List limit must be positive.');
	}
	if (out.start !== undefined && out.startAfter !== undefined) {
		throw new TypeError('list() cannot be called with both start and startAfter values.');
	}
	return out;
}

// dateMax is the last time that a Date has.
const dateMax = 8.64e15;

function alarmTime(t) {
	if (t instanceof Date) t = t.getTime();
	if (typeof t !== 'number') throw notOfType('setAlarm', 'DurableObjectStorage', 1, 'date');
	if (!(Math.abs(t) <= dateMax)) throw new TypeError('The value cannot be converted because it is not a valid Date.');
	if (t <= 0) {
		throw new TypeError('setAlarm() cannot be called with an alarm time <= 0');
	}
	return Math.max(Math.floor(t), Date.now());
}

// operations are those which an object's storage and a transaction have in common. check is called
// first, with the name of the method.
//
// Go answers at once, so what they return is settled before anything else of the object can run: no
// storage await lets another event in.
class Operations {
	#o;
	#check;

	constructor(o, check) {
		this.#o = o;
		this.#check = check;
	}

	async get(keys, _options) {
		if (arguments.length === 0) throw notOfType('get', 'DurableObjectStorage', 1, 'string or Array');
		this.#check('get');
		if (!Array.isArray(keys)) return host.get(this.#o, text(keys));
		checkPairs(keys.length);
		return new Map(host.getMany(this.#o, keys.map(text)));
	}

	async put(key, value, options) {
		if (arguments.length === 0) throw notOfType('put', 'DurableObjectStorage', 1, 'string or object');
		this.#check('put');
		if (typeof key !== 'object' || key === null) {
			checkValue(value);
			host.put(this.#o, text(key), value, Boolean(options?.allowUnconfirmed));
			return;
		}
		const entries = Object.entries(key).filter(([, v]) => v !== undefined);
		checkPairs(entries.length);
		host.putMany(this.#o, entries.map(([k]) => text(k)), entries.map(([, v]) => v), Boolean(value?.allowUnconfirmed));
	}

	async delete(keys, options) {
		if (arguments.length === 0) throw notOfType('delete', 'DurableObjectStorage', 1, 'string or Array');
		this.#check('delete');
		const unconfirmed = Boolean(options?.allowUnconfirmed);
		if (!Array.isArray(keys)) return host.deleteMany(this.#o, [text(keys)], unconfirmed) === 1;
		checkPairs(keys.length);
		return host.deleteMany(this.#o, keys.map(text), unconfirmed);
	}

	async list(options) {
		this.#check('list');
		return new Map(host.list(this.#o, listOptions(options)));
	}

	async getAlarm(_options) {
		this.#check('getAlarm');
		return host.getAlarm(this.#o);
	}

	async setAlarm(time, _options) {
		this.#check('setAlarm');
		host.setAlarm(this.#o, alarmTime(time));
	}

	async deleteAlarm(_options) {
		this.#check('deleteAlarm');
		host.deleteAlarm(this.#o);
	}
}

// DurableObjectTransaction is what a transaction's closure gets.
export class DurableObjectTransaction extends Operations {
	#state;

	constructor(o, state) {
		super(o, (method) => {
			if (state.rolledBack) throw new Error(`Cannot ${method}() on rolled back transaction`);
			if (state.over) {
				throw new Error(`Cannot call ${method}() on transaction that has already committed: did you move \`txn\` outside of the closure?`);
			}
		});
		this.#state = state;
	}

	rollback() {
		if (this.#state.rolledBack) return;
		if (this.#state.over) {
			throw new Error('Cannot call rollback() on transaction that has already committed: did you move `txn` outside of the closure?');
		}
		this.#state.rolledBack = true;
		this.#state.undo();
	}

	async deleteAll() {
		throw new Error('Cannot call deleteAll() within a transaction');
	}
}

// pageLength is how many keys kv.list() reads ahead.
const pageLength = 100;

// SyncKvStorage is ctx.storage.kv.
class SyncKvStorage {
	#o;
	#lists = 0;

	constructor(o) {
		this.#o = o;
	}

	get(key) {
		return host.get(this.#o, text(key));
	}

	put(key, value) {
		checkValue(value);
		host.put(this.#o, text(key), value, false);
	}

	delete(key) {
		return host.deleteMany(this.#o, [text(key)], false) === 1;
	}

	list(options) {
		const o = listOptions(options);
		return this.#walk(o, ++this.#lists);
	}

	*#walk(o, number) {
		let left = o.limit ?? Infinity;
		while (left > 0) {
			const want = Math.min(left, pageLength);
			const page = host.list(this.#o, { ...o, limit: want });
			for (const entry of page) {
				if (number !== this.#lists) {
					throw new Error('kv.list() iterator was invalidated because a new call to kv.list() was started. Only one kv.list() iterator can exist at a time.');
				}
				yield entry;
			}
			if (page.length < want) return;
			left -= page.length;
			const last = page.at(-1)[0];
			if (o.reverse) {
				o.end = last;
			} else {
				delete o.start;
				o.startAfter = last;
			}
		}
	}
}

// DurableObjectStorage is ctx.storage.
export class DurableObjectStorage extends Operations {
	#o;
	#kv;
	#block;
	#open = []; // the transactions that are going on, the innermost last

	// limits says what the object's class can't do.
	constructor(o, block, limits) {
		super(o, (method) => {
			if (method === 'setAlarm' && limits.noAlarm) {
				throw new TypeError('Your Durable Object class must have an alarm() handler in order to call setAlarm()');
			}
		});
		this.#o = o;
		this.#block = block;
	}

	get kv() {
		return (this.#kv ??= new SyncKvStorage(this.#o));
	}

	get sql() {
		throw new Error('SQL storage (ctx.storage.sql) is not implemented in Holdfast yet.');
	}

	async deleteAll(_options) {
		if (this.#open.length > 0) throw new Error('Cannot call deleteAll() within a transaction');
		host.deleteAll(this.#o);
	}

	sync() {
		return host.sync(this.#o);
	}

	// transaction keeps other events out until the closure is done. Transactions end from the inside
	// out: one that is done while another, begun after it, is not, waits for that.
	async transaction(closure) {
		checkClosure('transaction', closure);
		return this.#block(async () => {
			const tx = this.#begin(false);
			let result;
			let failure;
			try {
				result = await closure(new DurableObjectTransaction(this.#o, tx));
			} catch (e) {
				failure = { e };
			}
			while (this.#open.at(-1) !== tx) await this.#open.at(-1).done;
			this.#end(tx, failure === undefined);
			if (failure) throw failure.e;
			return result;
		});
	}

	transactionSync(closure) {
		checkClosure('transactionSync', closure);
		const tx = this.#begin(true);
		let done = false;
		try {
			const result = closure();
			done = true;
			return result;
		} finally {
			this.#end(tx, done);
		}
	}

	#begin(sync) {
		const tx = { over: false, rolledBack: false, number: host.begin(this.#o, sync) };
		tx.undo = () => host.end(this.#o, tx.number, false);
		tx.done = new Promise((resolve) => (tx.finish = resolve));
		this.#open.push(tx);
		return tx;
	}

	#end(tx, commit) {
		this.#open.splice(this.#open.indexOf(tx), 1);
		tx.over = true;
		tx.finish();
		if (!tx.rolledBack) host.end(this.#o, tx.number, commit);
	}

	getCurrentBookmark() {
		throw new Error('Point-in-time recovery is not implemented in Holdfast.');
	}

	getBookmarkForTime() {
		throw new Error('Point-in-time recovery is not implemented in Holdfast.');
	}

	onNextSessionRestoreBookmark() {
		throw new Error('Point-in-time recovery is not implemented in Holdfast.');
	}
}
