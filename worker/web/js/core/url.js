// URL and URLSearchParams. The host parses and serialises by the URL standard; it answers with one string,
// the components separated by line feeds, which no component can contain.

import { host } from "./host.js";
import { idl, iterable, need, usv } from "./idl.js";

const HREF = 0, PROTOCOL = 1, USERNAME = 2, PASSWORD = 3, HOSTNAME = 4, PORT = 5, PATHNAME = 6, SEARCH = 7, HASH = 8;

const special = new Set(["http:", "https:", "ftp:", "ws:", "wss:"]);

function parse(url, base) {
  base = base === undefined ? undefined : usv(base);
  if (base === "") {
    return undefined;
  }
  return host.parseURL(usv(url), base ?? "")?.split("\n");
}

/** The serialised form of a URL, or undefined when it is none. */
export const hrefOf = (url) => parse(url)?.[HREF];

let setQuery;

export class URL {
  #parts;
  #params = undefined;

  static {
    setQuery = (url, query) => url.#set("search", query === "" ? "" : `?${query}`, false);
  }

  constructor(url, base = undefined) {
    need(arguments, 1, "URL");
    this.#parts = parse(url, base);
    if (this.#parts === undefined) {
      throw Object.assign(new TypeError(`Invalid URL: ${url}`), { code: "ERR_INVALID_URL", input: `${url}` });
    }
  }

  static canParse(url, base = undefined) {
    need(arguments, 1, "canParse");
    return parse(url, base) !== undefined;
  }

  static parse(url, base = undefined) {
    need(arguments, 1, "parse");
    return URL.canParse(url, base) ? new URL(url, base) : null;
  }

  #set(name, value, refresh = true) {
    this.#parts = host.setURL(this.#parts[HREF], name, usv(value)).split("\n");
    if (refresh && this.#params !== undefined) {
      refreshParams(this.#params, this.#parts[SEARCH]);
    }
  }

  get href() { return this.#parts[HREF]; }
  set href(v) {
    const parts = parse(v);
    if (parts === undefined) {
      throw new TypeError(`Invalid URL: ${v}`);
    }
    this.#parts = parts;
    if (this.#params !== undefined) {
      refreshParams(this.#params, parts[SEARCH]);
    }
  }

  get origin() {
    const protocol = this.#parts[PROTOCOL];
    if (special.has(protocol)) {
      return `${protocol}//${this.host}`;
    }
    if (protocol === "blob:") {
      const inner = URL.parse(this.#parts[PATHNAME]);
      return inner !== null && /^https?:$/.test(inner.protocol) ? inner.origin : "null";
    }
    return "null";
  }

  get protocol() { return this.#parts[PROTOCOL]; }
  set protocol(v) { this.#set("protocol", v); }
  get username() { return this.#parts[USERNAME]; }
  set username(v) { this.#set("username", v); }
  get password() { return this.#parts[PASSWORD]; }
  set password(v) { this.#set("password", v); }
  get host() { return this.#parts[PORT] === "" ? this.#parts[HOSTNAME] : `${this.#parts[HOSTNAME]}:${this.#parts[PORT]}`; }
  set host(v) { this.#set("host", v); }
  get hostname() { return this.#parts[HOSTNAME]; }
  set hostname(v) { this.#set("hostname", v); }
  get port() { return this.#parts[PORT]; }
  set port(v) { this.#set("port", v); }
  get pathname() { return this.#parts[PATHNAME]; }
  set pathname(v) { this.#set("pathname", v); }
  get search() { return this.#parts[SEARCH]; }
  set search(v) { this.#set("search", v); }
  get hash() { return this.#parts[HASH]; }
  set hash(v) { this.#set("hash", v); }

  get searchParams() {
    return (this.#params ??= ownedParams(this, this.#parts[SEARCH]));
  }

  toString() { return this.#parts[HREF]; }
  toJSON() { return this.#parts[HREF]; }
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

// The pairs of a query, from its character at start on.
function parseQuery(query, start) {
  const list = [];
  const plain = !/[+%]/.test(query);
  for (let end; start < query.length; start = end + 1) {
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

let refreshParams, ownedParams, pairsOf;

export class URLSearchParams {
  #list = [];
  #url = null;

  static {
    refreshParams = (params, search) => {
      params.#list = parseQuery(search, 1);
    };
    ownedParams = (url, search) => {
      const params = new URLSearchParams();
      params.#list = parseQuery(search, 1);
      params.#url = url;
      return params;
    };
    pairsOf = (params) => params.#list;
  }

  constructor(init = undefined) {
    if (init === undefined) {
      return;
    }
    if (init === null || (typeof init !== "object" && typeof init !== "function")) {
      init = usv(init);
      this.#list = parseQuery(init, init.startsWith("?") ? 1 : 0);
      return;
    }
    const iterator = init[Symbol.iterator];
    if (iterator !== undefined && iterator !== null) {
      for (const pair of init) {
        const [...both] = pair;
        if (both.length !== 2) {
          throw new TypeError("Failed to construct 'URLSearchParams': each pair must have a name and a value.");
        }
        this.#list.push([usv(both[0]), usv(both[1])]);
      }
      return;
    }
    for (const key of Reflect.ownKeys(init)) {
      if (Object.getOwnPropertyDescriptor(init, key)?.enumerable) {
        this.#list.push([usv(key), usv(init[key])]);
      }
    }
  }

  #update() {
    if (this.#url !== null) {
      setQuery(this.#url, this.toString());
    }
  }

  get size() { return this.#list.length; }

  append(name, value) {
    need(arguments, 2, "append");
    this.#list.push([usv(name), usv(value)]);
    this.#update();
  }

  delete(name, value = undefined) {
    need(arguments, 1, "delete");
    name = usv(name);
    value = value === undefined ? undefined : usv(value);
    this.#list = this.#list.filter(([k, v]) => k !== name || (value !== undefined && v !== value));
    this.#update();
  }

  get(name) {
    need(arguments, 1, "get");
    name = usv(name);
    return this.#list.find((pair) => pair[0] === name)?.[1] ?? null;
  }

  getAll(name) {
    need(arguments, 1, "getAll");
    name = usv(name);
    return this.#list.filter(([k]) => k === name).map(([, v]) => v);
  }

  has(name, value = undefined) {
    need(arguments, 1, "has");
    name = usv(name);
    value = value === undefined ? undefined : usv(value);
    return this.#list.some((pair) => pair[0] === name && (value === undefined || pair[1] === value));
  }

  set(name, value) {
    need(arguments, 2, "set");
    name = usv(name);
    value = usv(value);
    const at = this.#list.findIndex(([k]) => k === name);
    if (at < 0) {
      this.#list.push([name, value]);
    } else {
      this.#list[at] = [name, value];
      this.#list = this.#list.filter(([k], i) => i <= at || k !== name);
    }
    this.#update();
  }

  sort() {
    // By UTF-16 code units, as < compares strings; the sort is stable.
    this.#list.sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0));
    this.#update();
  }

  toString() {
    return this.#list.map(([k, v]) => `${encode(k)}=${encode(v)}`).join("&");
  }
}
idl(URL, ["searchParams"]);
idl(URLSearchParams);
iterable(URLSearchParams, (params) => pairsOf(params));
