// Errors that come from elsewhere.

const standard = { Error, TypeError, RangeError, SyntaxError, ReferenceError, EvalError, URIError };

// Those that end a stub: the object that it was a stub of was reset, or went away.
const breaking = new WeakSet();

export const breaks = (e) => breaking.has(e);

// missing is the error of a call of what is not there.
export const missing = (name) => new TypeError(`The RPC receiver does not implement the method "${name}".`);

// notOfType is the error of an argument, counted from 1, that is of another type.
export const notOfType = (method, type, n, want) => new TypeError(`Failed to execute '${method}' on '${type}': parameter ${n} is not of type '${want}'.`);

// makeError makes the error that Go tells of. name is that of a standard class, or of a DOMException when dom.
export function makeError(name, message, dom, props, broken) {
	const e = dom ? new DOMException(message, name) : new (Object.hasOwn(standard, name) ? standard[name] : Error)(message);
	for (const [key, value] of Object.entries(props)) {
		if (!(key in e)) e[key] = value;
	}
	if (broken) breaking.add(e);
	return e;
}

// thrown tells Go what was thrown, which may be anything.
export function thrown(e) {
	if (!(e instanceof Error)) return { name: 'Error', message: String(e) };
	const dom = e instanceof DOMException;
	let name = 'Error';
	if (dom) {
		name = e.name;
	} else {
		for (const [key, Class] of Object.entries(standard)) {
			if (key !== 'Error' && e instanceof Class) name = key;
		}
	}
	const out = { name, message: String(e.message), dom, stack: String(e.stack ?? '') };
	for (const flag of ['retryable', 'overloaded', 'durableObjectReset']) {
		if (e[flag] === true) out[flag] = true;
	}
	return out;
}
