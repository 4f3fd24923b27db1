// The Durable Object side of a worker, inside its engine. What is here makes the module
// cloudflare:workers, builds env, and holds the instances; it decides nothing about turns, gates or
// storage, which are Go's.

import { DurableObject, EmailMessage, RpcTarget, WorkerEntrypoint, WorkflowEntrypoint } from './classes.js';
import { makeError, thrown } from './errors.js';
import { host, setHost } from './host.js';
import { makeId, makeNamespace, toldName } from './ids.js';
import { invoke, invokeAt, read, settled } from './receive.js';
import { defer, DurableObjectState, ExecutionContext } from './state.js';
import { RpcStub } from './stub.js';
import { begin, drop, end, invokePlace, isPlace, readPlace, replace, revive, storable } from './targets.js';

const env = {};
const exports = {};
const instances = new Map(); // by their objects' numbers
let worker; // the bundle's module

// handle has a worker's default export handle something.
function handle(name, arg) {
	const main = worker.default;
	const ctx = new ExecutionContext(exports);
	if (typeof main === 'function' && main.prototype instanceof WorkerEntrypoint) {
		const instance = new main(ctx, env);
		if (typeof instance[name] === 'function') return settled(instance[name](arg));
	} else if (typeof main?.[name] === 'function') {
		return settled(main[name](arg, env, ctx));
	}
	throw noHandler(name);
}

const noHandler = (name) => new Error(`Handler does not export a ${name}() function.`);

const has = (Class, method) => typeof Class?.prototype?.[method] === 'function';

// What Go calls.
export const runtime = {
	// start is called once, before the bundle's module is loaded: with what Go gives, and with what the worker is
	// bound to: namespaces and its own classes by the classes' full names, and variables.
	start(given, namespaces, vars, classes) {
		setHost(given);
		for (const [name, ns] of Object.entries(namespaces)) env[name] = makeNamespace(ns);
		Object.assign(env, vars);
		for (const [name, ns] of Object.entries(classes)) exports[name] = makeNamespace(ns);
		return {
			DurableObject, EmailMessage, WorkerEntrypoint, RpcTarget, RpcStub, WorkflowEntrypoint, env, exports, waitUntil: defer,
		};
	},

	// load is told the bundle's module, and says of some of its classes what they have.
	load(module, classes) {
		worker = module;
		return classes.map((name) => {
			if (typeof worker[name] !== 'function') throw new TypeError(`The worker does not export the class "${name}".`);
			return { alarm: has(worker[name], 'alarm'), preShutdown: has(worker[name], 'preShutdown') };
		});
	},

	construct(o, className, hex, name) {
		const Class = worker[className];
		const limits = {};
		const state = new DurableObjectState(o, makeId(hex, toldName(name)), exports, limits);
		instances.set(o, new Class(state, env));
		limits.noAlarm = !has(Class, 'alarm');
	},

	drop(o) {
		drop(o);
		instances.delete(o);
	},

	// call calls the method of a name. The stubs that came with its arguments end with ended, of the same number.
	call(o, name, args, number) {
		begin(o, number);
		return invoke(instances.get(o), DurableObject, name, args);
	},

	// callAt calls what is elsewhere.
	callAt(o, method, args, number) {
		begin(o, number);
		return isPlace(method) ? invokePlace(o, method, args) : invokeAt(instances.get(o), DurableObject, method, args);
	},

	ended: end,

	read: (o, method) => (isPlace(method) ? readPlace(o, method) : read(instances.get(o), DurableObject, method)),

	replace,
	revive,
	storable,

	fetch(o, request) {
		const instance = instances.get(o);
		if (typeof instance.fetch !== 'function') throw noHandler('fetch');
		return settled(instance.fetch(request));
	},

	async alarm(o, retryCount, scheduledTime) {
		await instances.get(o).alarm({ retryCount, isRetry: retryCount > 0, scheduledTime });
	},

	async preShutdown(o, reason) {
		await instances.get(o).preShutdown({ reason });
	},

	// serve answers an HTTP request that came to the worker itself.
	serve: (request) => handle('fetch', request),

	// failed tells a stub how a call of it failed.
	failed: (remote, e) => remote.failed(e),

	// watch has Go told when a promise is settled.
	watch(promise, number) {
		const tell = () => host.settled(number);
		promise.then(tell, tell);
	},

	makeError,
	thrown,
};
