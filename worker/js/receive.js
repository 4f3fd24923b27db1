// The receiving side of RPC: what of a worker's instances others reach.

import { RpcTarget } from './classes.js';
import { missing } from './errors.js';
import { isStub, pathOf } from './stub.js';

const reserved = new Set([
	'alarm', 'connect', 'constructor', 'dup', 'email', 'fetch', 'queue', 'scheduled', 'tail', 'tailStream', 'test', 'trace',
	'webSocketClose', 'webSocketError', 'webSocketMessage',
]);

// ofClass returns what a class gives its instances under a name, and nothing that an instance has itself.
function ofClass(instance, name, base) {
	for (let p = Object.getPrototypeOf(instance); p && p !== base.prototype && p !== Object.prototype; p = Object.getPrototypeOf(p)) {
		if (Object.hasOwn(p, name)) return Reflect.get(p, name, instance);
	}
	throw missing(name);
}

// first follows the first name of a path, from an instance that extends base.
function first(instance, name, base) {
	if (reserved.has(name)) {
		throw new TypeError(`'${name}' is a reserved method and cannot be called over RPC.`);
	}
	return ofClass(instance, name, base);
}

// next follows a further one, from what the worker has there.
export function next(holder, name) {
	if (holder instanceof RpcTarget) return ofClass(holder, name, RpcTarget);
	if (isStub(holder)) return holder[name];
	if ((typeof holder === 'object' && holder !== null || typeof holder === 'function') && Object.hasOwn(holder, name)) return holder[name];
	throw missing(name);
}

// follow follows a path from what the worker has there.
export async function follow(value, path) {
	for (const name of path) value = await next(value, name);
	return value;
}

// noRpc says why an instance can't be called.
function noRpc(base) {
	const kind = base.name === 'DurableObject' ? 'Durable Object' : 'Worker';
	return new TypeError(
		`The receiving ${kind} does not support RPC, because its class was not declared with \`extends ${base.name}\`. In order to enable RPC, make sure your class extends the special class \`${base.name}\`, which can be imported from the module "cloudflare:workers".`,
	);
}

function check(instance, base) {
	if (!(instance instanceof base)) throw noRpc(base);
}

// settled makes a promise of what is to be waited for, and leaves all else as it is.
export const settled = (v) => ((typeof v === 'object' || typeof v === 'function') && v !== null && typeof v.then === 'function' ? Promise.resolve(v) : v);

// invoke calls the method of an instance that has a name.
export function invoke(instance, base, name, args) {
	check(instance, base);
	return settled(apply(first(instance, name, base), instance, name, args));
}

// invokeAt calls the method at a path of an instance.
export async function invokeAt(instance, base, method, args) {
	check(instance, base);
	const path = pathOf(method);
	let holder = instance;
	let value = first(instance, path[0], base);
	for (const name of path.slice(1)) {
		holder = await value;
		value = next(holder, name);
	}
	return apply(value, holder, path.at(-1), args);
}

function apply(value, holder, name, args) {
	if (typeof value !== 'function') {
		throw new TypeError(`"${name}" is not a function.`);
	}
	return Reflect.apply(value, holder, args);
}

// read reads what is at a path of an instance.
export async function read(instance, base, method) {
	check(instance, base);
	const [name, ...rest] = pathOf(method);
	return follow(await first(instance, name, base), rest);
}
