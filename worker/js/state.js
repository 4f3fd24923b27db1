import { notOfType } from './errors.js';
import { host } from './host.js';
import { DurableObjectStorage } from './storage.js';

const notYet = (what) => () => {
	throw new Error(`${what} is not implemented in Holdfast yet.`);
};

// defer keeps what goes on after the event in memory, for a while, and reports how it fails.
export function defer(promise) {
	host.hold();
	Promise.resolve(promise).catch(reportError).then(() => host.release());
}

// Sections are what of an object keeps all its other events out: blockConcurrencyWhile and transactions, each
// within the one before. Which code is within one can't be told for certain: what is called before
// anything of the section has been able to go on, and not by it, is not, and waits; all else is.
class Sections {
	#o;
	#open = [];

	constructor(o) {
		this.#o = o;
	}

	// run runs fn in a section.
	run(fn) {
		const outer = this.#open.at(-1);
		if (outer?.fresh && !outer.inside) {
			const next = outer.last.then(() => this.run(fn));
			outer.last = next.catch(() => {});
			return next;
		}
		const number = host.block(this.#o); // Throws when it is nested too deep.
		const section = { number, fresh: true, inside: true };
		this.#open.push(section);
		// Before anything that fn waits for.
		Promise.resolve().then(() => (section.fresh = false));
		const p = (async () => fn())();
		section.inside = false;
		const end = () => {
			this.#open.splice(this.#open.indexOf(section), 1);
			host.unblock(this.#o, section.number);
		};
		const done = p.then((v) => (end(), v), (e) => {
			end();
			throw e;
		});
		section.last = done.catch(() => {});
		return done;
	}
}

// DurableObjectState is an object's ctx.
export class DurableObjectState {
	#o;
	#id;
	#storage;
	#exports;
	#sections;

	constructor(o, id, exports, limits) {
		this.#o = o;
		this.#id = id;
		this.#exports = exports;
		this.#sections = new Sections(o);
		this.#storage = new DurableObjectStorage(o, (fn) => this.#sections.run(fn), limits);
	}

	get id() {
		return this.#id;
	}

	get storage() {
		return this.#storage;
	}

	get props() {
		return {};
	}

	get exports() {
		return this.#exports;
	}

	waitUntil(promise) {
		defer(promise);
	}

	// A callback that fails leaves an object that can't be trusted: it is reset, and whoever called never
	// learns more.
	blockConcurrencyWhile(callback) {
		if (typeof callback !== 'function') {
			throw notOfType('blockConcurrencyWhile', 'DurableObjectState', 1, 'function');
		}
		return this.#sections.run(async () => {
			try {
				return await callback();
			} catch (e) {
				host.broken(this.#o, e); // Does not return.
			}
		});
	}

	abort(reason, options) {
		const message = reason === undefined ? 'Application called abort() to reset Durable Object.' : String(reason);
		host.abort(this.#o, message, options?.retryAlarm !== false); // Does not return.
	}

	acceptWebSocket() {
		notYet('acceptWebSocket()')();
	}

	getWebSockets() {
		return [];
	}

	getTags() {
		notYet('getTags()')();
	}

	setWebSocketAutoResponse() {
		notYet('setWebSocketAutoResponse()')();
	}

	getWebSocketAutoResponse() {
		return null;
	}

	getWebSocketAutoResponseTimestamp() {
		return null;
	}

	setHibernatableWebSocketEventTimeout() {
		notYet('setHibernatableWebSocketEventTimeout()')();
	}

	getHibernatableWebSocketEventTimeout() {
		return null;
	}

	get facets() {
		return notYet('ctx.facets')();
	}

	get container() {
		return undefined;
	}
}

// ExecutionContext is the ctx of a worker's own handlers.
export class ExecutionContext {
	#exports;

	constructor(exports) {
		this.#exports = exports;
	}

	get props() {
		return {};
	}

	get exports() {
		return this.#exports;
	}

	waitUntil(promise) {
		defer(promise);
	}

	passThroughOnException() {}
}
