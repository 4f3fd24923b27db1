// What every class of the platform shares: conversions of WebIDL, and how a class is put on globalThis.

/** USVString: any value as a string without lone surrogates. A symbol throws a TypeError. */
export const usv = (v) => `${v}`.toWellFormed();

/** A required number of arguments, checked as WebIDL does. */
export function need(args, n, what) {
  if (args.length < n) {
    throw new TypeError(`Failed to execute '${what}': ${n} argument${n === 1 ? "" : "s"} required, but only ${args.length} present.`);
  }
}

// What the getters of a class are, in order.
const members = Symbol("members");

// Classes that refer to themselves are renamed by the bundler, to _Name.
const plainName = (C) => (C.name[0] === "_" ? C.name.slice(1) : C.name);

/**
 * Gives a class what WebIDL gives an interface: members that enumerate, and a toStringTag; and the way console
 * shows it: what its getters say, without those in hidden, or its pairs. State must be in private fields:
 * routers wrap these objects in a Proxy and bind what they read.
 */
export function idl(C, hidden = []) {
  const name = plainName(C);
  Object.defineProperty(C, "name", { value: name, configurable: true });
  const getters = [];
  for (const target of [C.prototype, C]) {
    for (const key of Object.getOwnPropertyNames(target)) {
      if (key !== "constructor" && key !== "prototype" && key !== "length" && key !== "name") {
        Object.defineProperty(target, key, { enumerable: true });
        if (target === C.prototype && Object.getOwnPropertyDescriptor(target, key).get && !hidden.includes(key)) {
          getters.push(key);
        }
      }
    }
  }
  Object.defineProperty(C.prototype, Symbol.toStringTag, { value: name, configurable: true });
  const shown = [...(C.prototype[members] ?? []).filter((key) => !hidden.includes(key)), ...getters];
  Object.defineProperty(C.prototype, members, { value: shown });
  Object.defineProperty(C.prototype, Symbol.for("nodejs.util.inspect.custom"), {
    value(depth, options, inspect) {
      if (depth < 0 || this === C.prototype) {
        return `[${name}]`;
      }
      const pairs = typeof this.entries === "function";
      const fields = pairs ? Object.fromEntries(this) : Object.fromEntries(this[members].map((key) => [key, this[key]]));
      return `${this.constructor.name} ${inspect(fields, { ...options, depth: options.depth === null ? null : options.depth - 1 })}`;
    },
    writable: true,
    configurable: true,
  });
  return C;
}

/** Puts values on globalThis as built-ins are: writable, configurable, not enumerable. */
export function globals(values) {
  for (const name of Object.keys(values)) {
    Object.defineProperty(globalThis, name, { value: values[name], writable: true, configurable: true, enumerable: false });
  }
}

/** Globals whose first use calls load, which returns them all by name. */
export function lazyGlobals(names, load) {
  for (const name of names) {
    Object.defineProperty(globalThis, name, {
      configurable: true,
      enumerable: false,
      get() {
        const loaded = load();
        for (const other of names) {
          const now = Object.getOwnPropertyDescriptor(globalThis, other);
          // Leave alone what the worker has put there in the meantime.
          if (now?.get?.lazy) {
            globals({ [other]: loaded[other] });
          }
        }
        return loaded[name];
      },
      set(value) {
        globals({ [name]: value });
      },
    });
    Object.getOwnPropertyDescriptor(globalThis, name).get.lazy = true;
  }
}

/** The bytes of a BufferSource, without copying; undefined when v is none. */
export function bytesOf(v) {
  if (ArrayBuffer.isView(v)) {
    return v instanceof Uint8Array ? v : new Uint8Array(v.buffer, v.byteOffset, v.byteLength);
  }
  if (v instanceof ArrayBuffer || v instanceof SharedArrayBuffer) {
    return new Uint8Array(v);
  }
  return undefined;
}

/** One Uint8Array of many. */
export function concat(chunks) {
  if (chunks.length === 1) {
    return chunks[0];
  }
  let length = 0;
  for (const c of chunks) {
    length += c.byteLength;
  }
  const out = new Uint8Array(length);
  let at = 0;
  for (const c of chunks) {
    out.set(c, at);
    at += c.byteLength;
  }
  return out;
}

const IteratorPrototype = Object.getPrototypeOf(Object.getPrototypeOf([][Symbol.iterator]()));

/**
 * The iteration of a class of pairs (Headers, FormData, URLSearchParams): entries, keys, values, forEach
 * and Symbol.iterator. pairs(object) returns the current array of [name, value]; as in WebIDL each step
 * looks at it anew.
 */
export function iterable(C, pairs) {
  const make = (self, pick) => {
    pairs(self); // throws at once on a wrong this
    let at = 0;
    return Object.create(proto, {
      [step]: {
        value: () => {
          const list = pairs(self);
          return at < list.length ? { value: pick(list[at++]), done: false } : { value: undefined, done: true };
        },
      },
    });
  };
  const step = Symbol("next");
  const proto = Object.create(IteratorPrototype, {
    next: {
      value: function next() {
        return this[step]();
      },
      writable: true,
      configurable: true,
      enumerable: true,
    },
    [Symbol.toStringTag]: { value: `${plainName(C)} Iterator`, configurable: true },
  });
  const methods = {
    entries() {
      return make(this, ([k, v]) => [k, v]);
    },
    keys() {
      return make(this, ([k]) => k);
    },
    values() {
      return make(this, ([, v]) => v);
    },
    forEach(callback, thisArg) {
      if (typeof callback !== "function") {
        throw new TypeError(`Failed to execute 'forEach' on '${plainName(C)}': the callback is not a function.`);
      }
      for (let at = 0, list; (list = pairs(this)), at < list.length; at++) {
        callback.call(thisArg, list[at][1], list[at][0], this);
      }
    },
  };
  for (const name of Object.keys(methods)) {
    Object.defineProperty(C.prototype, name, { value: methods[name], writable: true, configurable: true, enumerable: true });
  }
  Object.defineProperty(C.prototype, Symbol.iterator, { value: methods.entries, writable: true, configurable: true });
}
