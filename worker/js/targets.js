// What crosses as a stub: functions, instances of RpcTarget and stubs themselves. An object that sends one keeps it in a
// table, and whoever gets it calls the object, with the place in the table instead of a method's name. Tables end with their
// objects' instances: a token that no other instance has says whose place is meant.

import { RpcTarget } from './classes.js';
import { host } from './host.js';
import { missing } from './errors.js';
import { follow, next } from './receive.js';
import { handlerOf, makeObject, makeTarget, pathOf, Target } from './stub.js';

// exportsMax is how many values of one object others may have stubs of.
const exportsMax = 1000;

const tables = new Map(); // by objects' numbers

// Table has what others have stubs of.
class Table {
	token = crypto.randomUUID();
	last = 0;
	places = new Map(); // number → { value, stubs }
	numbers = new Map(); // value → number

	add(value) {
		let number = this.numbers.get(value);
		if (number === undefined) {
			if (this.places.size >= exportsMax) {
				throw new Error(`Too many stubs: others may have stubs of at most ${exportsMax} functions and RpcTargets of one Durable Object at a time. Dispose of those that are not needed any more.`);
			}
			number = ++this.last;
			this.places.set(number, { value, stubs: 0 });
			this.numbers.set(value, number);
		}
		this.places.get(number).stubs++;
		return number;
	}

	// release takes one stub back. With the last of a target its own Symbol.dispose is called.
	release(number) {
		const place = this.places.get(number);
		if (!place || --place.stubs > 0) return;
		this.places.delete(number);
		this.numbers.delete(place.value);
		if (place.value instanceof RpcTarget || place.value[handlerOf] !== undefined) place.value[Symbol.dispose]?.();
	}
}

// replace says what stands for a value that an object sends, or undefined when nothing can. o is 0 when
// the worker's own handler sends it.
export function replace(value, o, ns, id) {
	const handler = value[handlerOf];
	const object = handler?.object?.();
	if (object) return ['object', ...object];
	if (typeof value !== 'function' && !(value instanceof RpcTarget)) return undefined;
	if (o === 0) {
		throw new DOMException("Functions and RpcTargets can be sent by Durable Objects only in Holdfast: nothing can call a worker's own handler back.", 'DataCloneError');
	}
	let table = tables.get(o);
	if (!table) {
		table = new Table();
		tables.set(o, table);
		host.keep(o, true);
	}
	// A stub that is passed on is one of its own: the one that it was made of may be disposed of.
	return ['target', ns, id, table.token, table.add(handler instanceof Target ? value.dup() : value)];
}

// storable refuses to store what would have to be a stub.
export function storable(value) {
	if (value instanceof RpcTarget) throw new DOMException('Remote RPC references can only be serialized for RPC.', 'DataCloneError');
	if (value[handlerOf] !== undefined) throw new DOMException('RpcStub cannot be serialized in this context.', 'DataCloneError');
}

let given = []; // stubs that came with the arguments which are being read

// revive makes a stub of what stands for a value. Stubs that come with arguments are the call's.
export function revive(what, argument) {
	const [kind, ns, id, token, number] = Array.isArray(what) ? what : [];
	if (kind === 'object' && typeof ns === 'string' && /^[0-9a-f]{64}$/.test(id)) return makeObject(ns, id);
	if (kind !== 'target' || typeof ns !== 'string' || !/^[0-9a-f]{64}$/.test(id) || !/^[0-9a-f-]{36}$/.test(token) || !Number.isSafeInteger(number)) {
		throw new TypeError('The value is no stub.');
	}
	const place = `!${token}.${number}`;
	const stub = makeTarget(ns, id, place, host.imported(ns, id, place + '!'));
	if (argument) given.push(stub);
	return stub;
}

const calls = new Map(); // the stubs that came with the arguments of calls, by the objects' and the calls' numbers

// begin has the stubs that came with a call's arguments end with it.
export function begin(o, call) {
	if (given.length === 0) return;
	calls.set(`${o} ${call}`, given);
	given = [];
}

export function end(o, call) {
	const key = `${o} ${call}`;
	for (const stub of calls.get(key) ?? []) stub[Symbol.dispose]();
	calls.delete(key);
}

export const isPlace = (method) => method.startsWith('!');

const ended = () => Object.assign(new Error('The RPC stub is broken: the Durable Object that it came from is not in memory any more, or the stub was disposed of.'), { durableObjectReset: true });

// placeOf finds what a call of a place in an object's table is of.
function placeOf(o, method) {
	const [, token, number, release, path] = /^!([^.]*)\.(\d+)(!)?(?:\/([^]*))?$/.exec(method) ?? [];
	const table = tables.get(o);
	if (table?.token !== token) throw ended();
	if (release) {
		table.release(Number(number));
		if (table.places.size === 0) {
			tables.delete(o);
			host.keep(o, false);
		}
		return {};
	}
	const place = table.places.get(Number(number));
	if (!place) throw ended();
	return { value: place.value, path: path === undefined ? [] : pathOf(path) };
}

// invokePlace calls what an object has at a place.
export async function invokePlace(o, method, args) {
	const { value, path } = placeOf(o, method);
	if (!path) return undefined;
	const holder = await follow(value, path.slice(0, -1));
	const callee = path.length === 0 ? value : next(holder, path.at(-1)); // Of a stub, which must not be read.
	if (typeof callee !== 'function') {
		if (path.length === 0) throw new TypeError('The receiver is not a function.');
		throw missing(path.at(-1));
	}
	return Reflect.apply(callee, path.length === 0 ? undefined : holder, args);
}

// readPlace reads what is at a path of what an object has at a place.
export async function readPlace(o, method) {
	const { value, path } = placeOf(o, method);
	return follow(value, path);
}

// drop ends an object's table.
export function drop(o) {
	tables.delete(o);
}
