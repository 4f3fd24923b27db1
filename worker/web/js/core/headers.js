// Headers.

import { idl, iterable, need } from "./idl.js";

const token = /^[!#$%&'*+\-.^_`|~0-9A-Za-z]+$/;

function nameOf(name) {
  name = `${name}`;
  if (!token.test(name)) {
    throw new TypeError(`Invalid header name: ${JSON.stringify(name)}.`);
  }
  return name;
}

function valueOf(value) {
  value = `${value}`.replace(/^[\t\n\r ]+|[\t\n\r ]+$/g, "");
  // eslint-disable-next-line no-control-regex
  if (/[\0\n\r]|[^\0-\xff]/.test(value)) {
    throw new TypeError(`Invalid header value: ${JSON.stringify(value)}.`);
  }
  return value;
}

let make, sorted, textOf, fillFrom;

export class Headers {
  // Lower-case name → {name as first given, values}.
  #map = new Map();
  #immutable = false;
  #sorted = null;

  static {
    make = (text, immutable) => {
      const headers = new Headers();
      if (text !== "") {
        const list = text.split("\n");
        for (let i = 0; i < list.length; i += 2) {
          headers.#add(list[i], list[i + 1]);
        }
      }
      headers.#immutable = immutable;
      return headers;
    };
    sorted = (headers) => {
      if (headers.#sorted === null) {
        const out = [];
        for (const key of [...headers.#map.keys()].sort()) {
          const { values } = headers.#map.get(key);
          if (key === "set-cookie") {
            values.forEach((v) => out.push([key, v]));
          } else {
            out.push([key, values.join(", ")]);
          }
        }
        headers.#sorted = out;
      }
      return headers.#sorted;
    };
    textOf = (headers) => {
      const out = [];
      for (const { name, values } of headers.#map.values()) {
        for (const value of values) {
          out.push(name, value);
        }
      }
      return out.join("\n");
    };
    fillFrom = (headers, other) => {
      for (const [key, { name, values }] of other.#map) {
        headers.#map.set(key, { name, values: [...values] });
      }
    };
  }

  constructor(init = undefined) {
    if (init === undefined) {
      return;
    }
    if (typeof init !== "object" || init === null) {
      throw new TypeError("Failed to construct 'Headers': the argument is neither an object nor a sequence of pairs.");
    }
    if (#map in init && init[Symbol.iterator] === Headers.prototype[Symbol.iterator]) {
      fillFrom(this, init);
      return;
    }
    if (init[Symbol.iterator] !== undefined && init[Symbol.iterator] !== null) {
      for (const pair of init) {
        const [...both] = pair;
        if (both.length !== 2) {
          throw new TypeError("Failed to construct 'Headers': each pair must have a name and a value.");
        }
        this.append(both[0], both[1]);
      }
      return;
    }
    for (const key of Reflect.ownKeys(init)) {
      if (Object.getOwnPropertyDescriptor(init, key)?.enumerable) {
        this.append(key, init[key]);
      }
    }
  }

  #add(name, value) {
    const key = name.toLowerCase();
    const entry = this.#map.get(key);
    if (entry === undefined) {
      this.#map.set(key, { name, values: [value] });
    } else {
      entry.values.push(value);
    }
    this.#sorted = null;
  }

  #change() {
    if (this.#immutable) {
      throw new TypeError("Can't modify immutable headers.");
    }
    this.#sorted = null;
  }

  append(name, value) {
    need(arguments, 2, "append");
    name = nameOf(name);
    value = valueOf(value);
    this.#change();
    this.#add(name, value);
  }

  delete(name) {
    need(arguments, 1, "delete");
    name = nameOf(name);
    this.#change();
    this.#map.delete(name.toLowerCase());
  }

  get(name) {
    need(arguments, 1, "get");
    return this.#map.get(nameOf(name).toLowerCase())?.values.join(", ") ?? null;
  }

  /** Of Cloudflare, from before getSetCookie: only for Set-Cookie. */
  getAll(name) {
    need(arguments, 1, "getAll");
    if (`${name}`.toLowerCase() !== "set-cookie") {
      throw new TypeError('getAll() can only be used with the header name "Set-Cookie".');
    }
    return this.getSetCookie();
  }

  getSetCookie() {
    return [...(this.#map.get("set-cookie")?.values ?? [])];
  }

  has(name) {
    need(arguments, 1, "has");
    return this.#map.has(nameOf(name).toLowerCase());
  }

  set(name, value) {
    need(arguments, 2, "set");
    name = nameOf(name);
    value = valueOf(value);
    this.#change();
    const key = name.toLowerCase();
    this.#map.set(key, { name: this.#map.get(key)?.name ?? name, values: [value] });
  }
}
iterable(Headers, (headers) => sorted(headers));
idl(Headers);

/**
 * Headers of the text that they are on the wire, which is valid: names as they were first given, and values, with line
 * feeds between them; each character is one byte, and a name may come more than once.
 */
export const headersOf = (text, immutable) => make(text, immutable);

/** The text for the wire. */
export const headerText = (headers) => (typeof headers === "string" ? headers : textOf(headers));
