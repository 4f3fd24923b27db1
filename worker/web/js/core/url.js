// URL and URLSearchParams. The host parses and serialises by the URL standard; it answers with one string,
// the components separated by line feeds, which no component can contain. Of a URL that is its serialised form
// already, and has neither credentials nor a fragment, it says where the parts end, in ten bits each.

import { host } from "./host.js";
import { idl, iterable, need, usv } from "./idl.js";

const HREF = 0, PROTOCOL = 1, USERNAME = 2, PASSWORD = 3, HOSTNAME = 4, PORT = 5, PATHNAME = 6, SEARCH = 7, HASH = 8;

const special = new Set(["http:", "https:", "ftp:", "ws:", "wss:"]);

// The components, as an array or, of a plain URL, as a number; null when it is no URL. url is a string.
function parse(url, base) {
  if (base === undefined) {
    const parts = host.parseURL(url, "");
    return typeof parts === "string" ? parts.split("\n") : parts;
  }
  base = usv(base);
  return base === "" ? null : (host.parseURL(url, base)?.split("\n") ?? null);
}

// A component of a plain URL.
function plainPart(url, marks, part) {
  switch (part) {
    case HREF:
      return url;
    case PROTOCOL:
      return url[4] === ":" ? "http:" : "https:";
    case HOSTNAME:
      return url.slice(url[4] === ":" ? 7 : 8, marks & 1023);
    case PORT:
      return url.slice((marks & 1023) + 1, (marks >> 10) & 1023);
    case PATHNAME:
      return url.slice((marks >> 10) & 1023, marks >> 20);
    case SEARCH:
      return url.slice(marks >> 20);
    default:
      return "";
  }
}

/** The serialised form of a URL, or undefined when it is none. */
export function hrefOf(url) {
  url = usv(url);
  const parts = parse(url);
  return typeof parts === "number" ? url : parts?.[HREF];
}

// What the members of URL share: private methods would mark every instance.
let partOf, setPart, setQuery;

export class URL {
  #input; // of which, when it is plain, #parts are the marks
  #parts;
  #params;

  static {
    partOf = (url, i) => {
      const parts = url.#parts;
      return typeof parts === "number" ? plainPart(url.#input, parts, i) : parts[i];
    };
    setPart = (url, name, value) => {
      url.#parts = host.setURL(partOf(url, HREF), name, usv(value)).split("\n");
      if (url.#params !== undefined) {
        refreshParams(url.#params, partOf(url, SEARCH));
      }
    };
    setQuery = (url, query) => {
      url.#parts = host.setURL(partOf(url, HREF), "search", query === "" ? "" : `?${query}`).split("\n");
    };
  }

  constructor(url, base = undefined) {
    url = usv(url);
    const parts = parse(url, base);
    if (parts === null) {
      throw Object.assign(new TypeError(`Invalid URL: ${url}`), { code: "ERR_INVALID_URL", input: url });
    }
    this.#input = url;
    this.#parts = parts;
  }

  static canParse(url, base = undefined) {
    need(arguments, 1, "canParse");
    return parse(usv(url), base) !== null;
  }

  static parse(url, base = undefined) {
    need(arguments, 1, "parse");
    return URL.canParse(url, base) ? new URL(url, base) : null;
  }

  get href() { return partOf(this, HREF); }
  set href(v) {
    v = usv(v);
    const parts = parse(v);
    if (parts === null) {
      throw new TypeError(`Invalid URL: ${v}`);
    }
    this.#input = v;
    this.#parts = parts;
    if (this.#params !== undefined) {
      refreshParams(this.#params, partOf(this, SEARCH));
    }
  }

  get origin() {
    const protocol = partOf(this, PROTOCOL);
    if (special.has(protocol)) {
      return `${protocol}//${this.host}`;
    }
    if (protocol === "blob:") {
      const inner = URL.parse(partOf(this, PATHNAME));
      return inner !== null && /^https?:$/.test(inner.protocol) ? inner.origin : "null";
    }
    return "null";
  }

  get protocol() { return partOf(this, PROTOCOL); }
  set protocol(v) { setPart(this, "protocol", v); }
  get username() { return partOf(this, USERNAME); }
  set username(v) { setPart(this, "username", v); }
  get password() { return partOf(this, PASSWORD); }
  set password(v) { setPart(this, "password", v); }
  get host() {
    const port = partOf(this, PORT);
    return port === "" ? partOf(this, HOSTNAME) : `${partOf(this, HOSTNAME)}:${port}`;
  }
  set host(v) { setPart(this, "host", v); }
  get hostname() { return partOf(this, HOSTNAME); }
  set hostname(v) { setPart(this, "hostname", v); }
  get port() { return partOf(this, PORT); }
  set port(v) { setPart(this, "port", v); }
  get pathname() { return partOf(this, PATHNAME); }
  set pathname(v) { setPart(this, "pathname", v); }
  get search() { return partOf(this, SEARCH); }
  set search(v) { setPart(this, "search", v); }
  get hash() { return partOf(this, HASH); }
  set hash(v) { setPart(this, "hash", v); }

  get searchParams() {
    return (this.#params ??= ownedParams(this, partOf(this, SEARCH)));
  }

  toString() { return partOf(this, HREF); }
  toJSON() { return partOf(this, HREF); }
}

const decode = (s) => {
  if (s.includes("+")) {
    s = s.replaceAll("+", " ");
  }
  if (!s.includes("%")) {
    return s;
  }
  try {
    return decodeURIComponent(s);
  } catch {
    return host.percentDecode(s);
  }
};

const encode = (s) =>
  encodeURIComponent(s).replace(/[!'()~]|%20/g, (c) => (c === "%20" ? "+" : `%${c.charCodeAt(0).toString(16).toUpperCase()}`));

// The pairs of a query, which begins behind its question mark.
function parseQuery(query) {
  const list = [];
  const plain = !encoded.test(query);
  for (let start = 0, end; start < query.length; start = end + 1) {
    end = query.indexOf("&", start);
    if (end < 0) {
      end = query.length;
    }
    if (end > start) {
      let at = query.indexOf("=", start);
      if (at < 0 || at > end) {
        at = end;
      }
      const name = query.slice(start, at);
      const value = query.slice(at + 1, end);
      list.push(plain ? [name, value] : [decode(name), decode(value)]);
    }
  }
  return list;
}

// Of a query whose names and values are as they are written, and a name that has nothing in it that separates, the first
// value as parseQuery would find it, or null.
function lookUp(query, name) {
  for (let at = 0; (at = query.indexOf(name, at)) >= 0; at++) {
    if (at === 0 || query[at - 1] === "&") {
      const end = at + name.length;
      const next = query[end];
      if (next === "=") {
        const over = query.indexOf("&", end);
        return over < 0 ? query.slice(end + 1) : query.slice(end + 1, over);
      }
      if (next === undefined || next === "&") {
        return "";
      }
    }
  }
  return null;
}

const encoded = /[+%]/, separates = /[&=]|^$/;
let single; // the last name that was found to be a well-formed string and to have nothing in it that separates

// What others do with URLSearchParams, and they themselves: private methods would mark every instance.
let refreshParams, ownedParams, pairsOf, setPairs;
const owned = {}; // what URL constructs its own with

export class URLSearchParams {
  #pairs; // or the query, as long as they are not needed
  #url;

  static {
    refreshParams = (params, search) => {
      params.#pairs = search.slice(1);
    };
    ownedParams = (url, search) => {
      const params = new URLSearchParams(owned);
      params.#pairs = search.slice(1);
      params.#url = url;
      return params;
    };
    pairsOf = (params) => {
      const pairs = params.#pairs;
      return typeof pairs === "string" ? (params.#pairs = parseQuery(pairs)) : pairs;
    };
    setPairs = (params, pairs) => {
      params.#pairs = pairs;
      if (params.#url !== undefined) {
        setQuery(params.#url, params.toString());
      }
    };
  }

  constructor(init = "") {
    if (init === owned) {
      return;
    }
    if (init === null || (typeof init !== "object" && typeof init !== "function")) {
      init = usv(init);
      this.#pairs = init[0] === "?" ? init.slice(1) : init;
      return;
    }
    const pairs = (this.#pairs = []);
    const iterator = init[Symbol.iterator];
    if (iterator !== undefined && iterator !== null) {
      for (const pair of init) {
        const [...both] = pair;
        if (both.length !== 2) {
          throw new TypeError("Failed to construct 'URLSearchParams': each pair must have a name and a value.");
        }
        pairs.push([usv(both[0]), usv(both[1])]);
      }
      return;
    }
    for (const key of Reflect.ownKeys(init)) {
      if (Object.getOwnPropertyDescriptor(init, key)?.enumerable) {
        pairs.push([usv(key), usv(init[key])]);
      }
    }
  }

  get size() { return pairsOf(this).length; }

  append(name, value) {
    need(arguments, 2, "append");
    const pair = [usv(name), usv(value)];
    const pairs = pairsOf(this);
    pairs.push(pair);
    setPairs(this, pairs);
  }

  delete(name, value = undefined) {
    need(arguments, 1, "delete");
    name = usv(name);
    value = value === undefined ? undefined : usv(value);
    setPairs(this, pairsOf(this).filter(([k, v]) => k !== name || (value !== undefined && v !== value)));
  }

  get(name) {
    need(arguments, 1, "get");
    if (name !== single) {
      name = usv(name);
      if (!separates.test(name)) {
        single = name;
      }
    }
    const pairs = this.#pairs;
    if (name === single && typeof pairs === "string" && !encoded.test(pairs)) {
      return lookUp(pairs, name);
    }
    return pairsOf(this).find((pair) => pair[0] === name)?.[1] ?? null;
  }

  getAll(name) {
    need(arguments, 1, "getAll");
    name = usv(name);
    return pairsOf(this).filter(([k]) => k === name).map(([, v]) => v);
  }

  has(name, value = undefined) {
    need(arguments, 1, "has");
    name = usv(name);
    value = value === undefined ? undefined : usv(value);
    return pairsOf(this).some((pair) => pair[0] === name && (value === undefined || pair[1] === value));
  }

  set(name, value) {
    need(arguments, 2, "set");
    name = usv(name);
    value = usv(value);
    const pairs = pairsOf(this);
    const at = pairs.findIndex(([k]) => k === name);
    if (at < 0) {
      pairs.push([name, value]);
      setPairs(this, pairs);
    } else {
      pairs[at] = [name, value];
      setPairs(this, pairs.filter(([k], i) => i <= at || k !== name));
    }
  }

  sort() {
    // By UTF-16 code units, as < compares strings; the sort is stable.
    setPairs(this, pairsOf(this).sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0)));
  }

  toString() {
    return pairsOf(this).map(([k, v]) => `${encode(k)}=${encode(v)}`).join("&");
  }
}
idl(URL, ["searchParams"]);
idl(URLSearchParams);
iterable(URLSearchParams, pairsOf);
