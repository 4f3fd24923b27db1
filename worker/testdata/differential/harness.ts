// What all programs of the differential tests have in common: tables of cases, and a text of whatever a case returns or
// throws, which two runtimes are compared by.

import { DurableObject } from 'cloudflare:workers';

// show makes a text of any value. Two values that code can tell apart have different texts, but for durableObjectId, which
// workerd leaves out of some errors.
export function show(v: any, depth = 0): string {
	if (depth > 8) return '…';
	const in_ = (x: any) => show(x, depth + 1);
	switch (typeof v) {
		case 'string': return JSON.stringify(v);
		case 'number': return Object.is(v, -0) ? '-0' : String(v);
		case 'bigint': return v + 'n';
		case 'function': return 'function';
		case 'object': break;
		default: return String(v);
	}
	if (v === null) return 'null';
	if (v instanceof Error) {
		const flags = ['remote', 'retryable', 'overloaded', 'durableObjectReset'].filter((f) => (v as any)[f] !== undefined).map((f) => f + '=' + (v as any)[f]);
		return [v.constructor.name + '(' + v.name + ': ' + v.message + ')', ...flags].join(' ');
	}
	if (v instanceof Date) return 'Date(' + v.getTime() + ')';
	if (v instanceof RegExp) return 'RegExp(' + v + ')';
	if (v instanceof Map) return 'Map{' + [...v].map(([k, x]) => in_(k) + '=>' + in_(x)).join(',') + '}';
	if (v instanceof Set) return 'Set{' + [...v].map(in_).join(',') + '}';
	if (v instanceof ArrayBuffer) return 'ArrayBuffer[' + [...new Uint8Array(v)] + ']';
	if (ArrayBuffer.isView(v)) return v.constructor.name + '[' + [...new Uint8Array(v.buffer, v.byteOffset, v.byteLength)] + ']';
	if (Array.isArray(v)) return '[' + Array.from(v, (x, i) => (i in v ? in_(x) : 'hole')).join(',') + ']';
	const boxed = v instanceof Number || v instanceof String || v instanceof Boolean;
	if (boxed) return v.constructor.name + '(' + in_(v.valueOf()) + ')';
	const name = Object.getPrototypeOf(v)?.constructor?.name ?? 'null';
	return (name === 'Object' ? '' : name) + '{' + Object.keys(v).map((k) => k + ':' + in_(v[k])).join(',') + '}';
}

// outcome is the text of what fn returns or throws.
export async function outcome(fn: () => any): Promise<string> {
	try {
		return show(await fn());
	} catch (e) {
		return 'throws ' + show(e);
	}
}

type Inside = Record<string, (storage: any, object: any) => any>;
type Outside = Record<string, (stub: any, env: any, name: string) => any>;

// insideOf makes the methods by which a class runs cases within its objects.
export function insideOf(cases: Inside) {
	return class extends DurableObject {
		run(name: string) {
			return outcome(() => cases[name]((this as any).ctx.storage, this));
		}
	};
}

// program answers /list with the names of all cases and /run?NAME with what one comes to. Each case has an object T of
// its own.
export function program(inside: Inside, outside: Outside = {}) {
	return {
		async fetch(request: Request, env: any) {
			const url = new URL(request.url);
			if (url.pathname === '/list') return Response.json([...Object.keys(inside), ...Object.keys(outside)]);
			const name = decodeURIComponent(url.search.slice(1));
			const stub = env.T.getByName(name);
			return new Response(await (name in inside ? stub.run(name) : outcome(() => outside[name](stub, env, name))));
		},
	};
}
