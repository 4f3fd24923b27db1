import { notOfType } from './errors.js';
import { host, text } from './host.js';
import { makeStub } from './stub.js';

// nameBytesMax is how long a name may be that an object is told.
const nameBytesMax = 1024;

const make = Symbol('make');

// named is the descriptor of a name: one for all, for it is read at once.
const named = { value: undefined, enumerable: true };

// DurableObjectId is where an object is: 32 bytes, and the name that they were made of.
export class DurableObjectId {
	#hex;

	constructor(token, hex, name) {
		if (token !== make) throw new TypeError('Illegal constructor');
		this.#hex = hex;
		if (name !== undefined) {
			named.value = name;
			Object.defineProperty(this, 'name', named);
		}
	}

	toString() {
		return this.#hex;
	}

	equals(other) {
		if (!DurableObjectId.isId(other)) throw notOfType('equals', 'DurableObjectId', 1, 'DurableObjectId');
		return other.#hex === this.#hex;
	}

	get jurisdiction() {
		return undefined;
	}

	static isId(v) {
		return typeof v === 'object' && v !== null && #hex in v;
	}
}

export function makeId(hex, name) {
	return new DurableObjectId(make, hex, name);
}

// toldName is the name as the object itself knows it.
export function toldName(name) {
	return name === undefined || utf8Length(name) > nameBytesMax ? undefined : name;
}

function utf8Length(s) {
	return s.length > nameBytesMax ? s.length : new TextEncoder().encode(s).length;
}

function noJurisdiction(options) {
	if (options?.jurisdiction !== undefined && options.jurisdiction !== null) {
		throw new Error('Jurisdiction restrictions are not implemented in Holdfast.');
	}
}

// DurableObjectNamespace is a class as its callers see it.
export class DurableObjectNamespace {
	#ns; // the full name of the class

	constructor(token, ns) {
		if (token !== make) throw new TypeError('Illegal constructor');
		this.#ns = ns;
	}

	idFromName(name) {
		if (arguments.length === 0) {
			throw notOfType('idFromName', 'DurableObjectNamespace', 1, 'string');
		}
		name = text(name);
		return makeId(host.idFromName(this.#ns, name), name);
	}

	newUniqueId(options) {
		noJurisdiction(options);
		return makeId(host.newUniqueId(this.#ns));
	}

	idFromString(hex) {
		if (arguments.length === 0) throw notOfType('idFromString', 'DurableObjectNamespace', 1, 'string');
		hex = text(hex);
		if (!/^[0-9a-fA-F]{64}$/.test(hex)) {
			throw new TypeError('Invalid Durable Object ID: must be 64 hex digits');
		}
		hex = hex.toLowerCase();
		if (!host.idIsOf(this.#ns, hex)) {
			throw new TypeError('Durable Object ID is not valid for this namespace.');
		}
		return makeId(hex);
	}

	get(id, options) {
		if (!DurableObjectId.isId(id)) {
			throw notOfType('get', 'DurableObjectNamespace', 1, 'DurableObjectId');
		}
		if (options?.routingMode !== undefined && options.routingMode !== 'primary-only') {
			throw new RangeError(`unknown routingMode: ${options.routingMode}`);
		}
		return makeStub(this.#ns, id);
	}

	getByName(name, options) {
		return this.get(this.idFromName(name), options);
	}

	jurisdiction(jurisdiction) {
		noJurisdiction({ jurisdiction });
		return this;
	}
}

export function makeNamespace(ns) {
	return new DurableObjectNamespace(make, ns);
}
