// Stubs: what a worker calls others by.

import { breaks, missing } from './errors.js';
import { host } from './host.js';

// pathLengthMax bounds a.b.c….
const pathLengthMax = 64;

// handlerOf is the name by which a proxy shows its handler, to this module alone.
export const handlerOf = Symbol('handler');

function extend(path, name) {
	if (path.length >= pathLengthMax) {
		throw new TypeError('The property path of this RPC call is too deep.');
	}
	return [...path, name];
}

// methodOf is a path as Go knows it, of a call.
function methodOf(path) {
	return path.length === 1 ? escape(path[0]) : path.map(escape).join('/');
}

function escape(name) {
	return /[%/?!]/.test(name) ? name.replace(/[%/?!]/g, (c) => '%' + c.charCodeAt(0).toString(16)) : name;
}

// pathOf is what methodOf was made of.
export function pathOf(method) {
	return method.split('/').map((name) => name.replace(/%(..)/g, (_, hex) => String.fromCharCode(parseInt(hex, 16))));
}

const isPromiseMethod = (name) => name === 'then' || name === 'catch' || name === 'finally';

// member is what has come has under a name.
function member(value, name) {
	if (!isStub(value) && !(typeof value === 'object' && value !== null && Object.hasOwn(value, name))) {
		throw Object.assign(missing(name), { remote: true });
	}
	return value[name];
}

// callable is what the proxies of this module are proxies of: nothing but that it can be called.
const callable = () => {};
delete callable.name;
delete callable.length;
Object.preventExtensions(callable);

// A Coming is what will come, can be awaited, and has properties and methods that can be called before it is
// there.
class Coming {
	constructor(promise, path) {
		this.promise = promise;
		this.path = path;
	}

	// value is what is at the path when it has come.
	async value(path = this.path) {
		let value = await this.promise;
		for (const name of path) value = await member(value, name);
		return value;
	}

	get(_target, name) {
		if (isPromiseMethod(name)) {
			const p = this.path.length === 0 ? this.promise : this.value();
			return p[name].bind(p);
		}
		if (name === Symbol.dispose) return () => dispose(this.promise);
		if (name === handlerOf) return this;
		if (typeof name === 'symbol') return undefined;
		return new Proxy(callable, new Coming(this.promise, extend(this.path, name)));
	}

	apply(_target, _this, args) {
		const call = async () => {
			if (this.path.length === 0) return (await this.promise)(...args);
			const holder = await this.value(this.path.slice(0, -1));
			const callee = member(holder, this.path.at(-1));
			if (typeof callee !== 'function') throw Object.assign(new TypeError(`"${this.path.join('.')}" is not a function.`), { remote: true });
			return callee(...args);
		};
		return coming(call());
	}
}

const coming = (promise) => new Proxy(callable, new Coming(promise, []));

function dispose(promise) {
	promise.then((v) => v?.[Symbol.dispose]?.(), () => {});
}

// A Remote is what a stub is a stub of: an object, or what it has at a place.
class Remote {
	constructor(ns, id, name, place) {
		this.ns = ns;
		this.id = id;
		this.name = name;
		this.place = place;
	}

	// object is what another is told of the object that it is a stub of.
	object() {
		return this.place === undefined ? [this.ns, this.id] : undefined;
	}

	// another is one of the same.
	another() {
		return new Remote(this.ns, this.id, this.name, this.place);
	}

	// end has every later call fail.
	end(why) {
		this.broken ??= why;
	}

	// methodAt is the name of a method, or of what is read, at the place.
	methodAt(method) {
		if (this.place === undefined) return method;
		if (method === '') return this.place;
		return method[0] === '?' ? `?${this.place}/${method.slice(1)}` : `${this.place}/${method}`;
	}

	// send makes a call.
	send(method, args) {
		if (this.broken) return Promise.reject(this.broken);
		try {
			return host.call(this.ns, this.id, this.name, this.methodAt(method), args, this);
		} catch (e) {
			return Promise.reject(e);
		}
	}

	// failed is told how a call failed: a stub whose object was reset or went away is of no use any more.
	failed(e) {
		if (breaks(e)) this.broken ??= e;
	}

	async fetch(input, init) {
		const request = new Request(input, init);
		if (this.broken) throw this.broken;
		try {
			return await host.fetch(this.ns, this.id, this.name, request);
		} catch (e) {
			this.failed(e);
			throw e;
		}
	}
}

// A Property is that of a stub: it can be called, and awaited for its value.
class Property {
	constructor(remote, path) {
		this.remote = remote;
		this.path = path;
	}

	get(_target, name) {
		if (isPromiseMethod(name)) {
			const p = this.remote.send('?' + methodOf(this.path), []);
			return p[name].bind(p);
		}
		if (name === handlerOf) return this;
		if (typeof name === 'symbol') return undefined;
		return new Proxy(callable, new Property(this.remote, extend(this.path, name)));
	}

	apply(_target, _this, args) {
		return coming(this.remote.send(methodOf(this.path), args));
	}
}

// Target is a stub of a function or an RpcTarget of an object's. What it holds it lets go of once.
export class Target {
	constructor(remote, held) {
		this.remote = remote;
		this.held = held; // shared by those that were made of each other
		this.held.stubs++;
	}

	get(_target, name) {
		if (name === handlerOf) return this;
		if (name === Symbol.dispose) return () => this.dispose();
		if (name === 'dup') return () => targetOf(this.remote.another(), this.held);
		if (typeof name === 'symbol' || isPromiseMethod(name)) return undefined;
		return new Proxy(callable, new Property(this.remote, [name]));
	}

	apply(_target, _this, args) {
		return coming(this.remote.send('', args));
	}

	dispose() {
		if (this.over) return;
		this.over = true;
		this.remote.end(new Error('RPC stub used after being disposed.'));
		if (--this.held.stubs === 0) host.released(this.held.number);
	}
}

const targetOf = (remote, held) => new Proxy(callable, new Target(remote, held));

// makeTarget returns the stub of what an object has at a place; number is what Go holds it by.
export const makeTarget = (ns, id, place, number) => targetOf(new Remote(ns, id, undefined, place), { number, stubs: 0 });

// Fetcher is what stubs are instances of.
export class Fetcher {
	#remote;

	constructor(remote) {
		if (!(remote instanceof Remote)) throw new TypeError('Illegal constructor');
		this.#remote = remote;
	}

	fetch(input, init) {
		return this.#remote.fetch(input, init);
	}

	connect() {
		throw new Error('connect() is not implemented in Holdfast.');
	}

	[Symbol.dispose]() {}

	get [handlerOf]() {
		return this.#remote;
	}

	static remoteOf(v) {
		return typeof v === 'object' && v !== null && #remote in v ? v.#remote : undefined;
	}
}

// Every name that a Fetcher does not have is a property of the other side.
const wildcard = {
	get(target, name) {
		if (typeof name === 'symbol' || name === 'then' || name in target) {
			const v = target[name];
			return typeof v === 'function' && !Object.hasOwn(target, name) ? v.bind(target) : v;
		}
		return new Proxy(callable, new Property(Fetcher.remoteOf(target), [name]));
	},
};

// makeStub returns the stub of an object.
export function makeStub(ns, id) {
	const f = new Fetcher(new Remote(ns, id.toString(), id.name));
	f.name = id.name;
	f.id = id;
	return new Proxy(f, wildcard);
}

// makeObject returns the stub of an object that was sent: it does not know what it is of.
export const makeObject = (ns, id) => new Proxy(new Fetcher(new Remote(ns, id)), wildcard);

// isStub says that the properties of a value are another's.
export const isStub = (v) => (typeof v === 'object' || typeof v === 'function') && v !== null && v[handlerOf] !== undefined;

// RpcStub is there so that bundles load that import it.
export class RpcStub {
	constructor() {
		throw new Error('new RpcStub() is not implemented in Holdfast yet.');
	}
}
