// Request.

import { AbortController, AbortSignal } from "./abort.js";
import { Body, bodyState, extractBody, hostBody, memoryBody, setBodyState } from "./body.js";
import { Headers, headersOf } from "./headers.js";
import { idl, need } from "./idl.js";
import { hrefOf } from "./url.js";

const fromHost = Symbol("from the host");
// PATCH too, where the fetch standard leaves it as it is: as Workers do.
const upper = /^(?:delete|get|head|options|post|put|patch)$/i;

function methodOf(method) {
  method = `${method}`;
  if (!/^[!#$%&'*+\-.^_`|~0-9A-Za-z]+$/.test(method) || /^(?:connect|trace|track)$/i.test(method)) {
    throw new TypeError(`Invalid HTTP method string: ${method}`);
  }
  return upper.test(method) ? method.toUpperCase() : method;
}

let signalIn;

export class Request extends Body {
  #method;
  #url;
  #headers; // a flat list until somebody asks, when they came from the host
  #signal; // or a function that makes it
  #redirect;
  #cf;
  #rest; // integrity, keepalive, cache

  static {
    signalIn = (request) => (typeof request.#signal === "function" ? undefined : request.#signal);
  }

  constructor(input, init = undefined) {
    super();
    if (input === fromHost) {
      this.#method = init.method;
      this.#url = init.url;
      this.#headers = init.headers;
      this.#redirect = init.redirect ?? "manual";
      this.#cf = init.cf;
      this.#signal = init.signal;
      this.#rest = {};
      setBodyState(this, init.body);
      return;
    }
    need(arguments, 1, "Request");
    if (init === null || (init !== undefined && typeof init !== "object")) {
      throw new TypeError("Failed to construct 'Request': the second argument is not an object.");
    }
    const from = typeof input === "object" && input !== null && #method in input ? input : undefined;
    if (from !== undefined) {
      this.#url = from.#url;
    } else {
      this.#url = hrefOf(input);
      if (this.#url === undefined) {
        throw new TypeError(`Invalid URL: ${input}`);
      }
    }
    // A Request may also be the init, as in new Request(url, request).
    this.#method = init?.method !== undefined ? methodOf(init.method) : (from?.#method ?? "GET");
    this.#headers = new Headers(init?.headers ?? from?.headers);
    this.#redirect = init?.redirect ?? from?.#redirect ?? "follow";
    if (!["follow", "manual", "error"].includes(this.#redirect)) {
      throw new TypeError(`Invalid redirect value, must be one of "follow" or "manual" or "error" (${JSON.stringify(this.#redirect)} is not).`);
    }
    this.#cf = init?.cf ?? from?.#cf;
    this.#rest = {
      integrity: init?.integrity ?? from?.#rest.integrity,
      keepalive: init?.keepalive ?? from?.#rest.keepalive,
      cache: init?.cache ?? from?.#rest.cache,
    };
    if (init?.signal === undefined) {
      this.#signal = from?.#signal;
    } else if (init.signal !== null) {
      if (!(init.signal instanceof AbortSignal)) {
        throw new TypeError("Failed to construct 'Request': the signal is not an AbortSignal.");
      }
      this.#signal = init.signal;
    }

    const body = init?.body;
    if (body !== undefined && body !== null) {
      if (this.#method === "GET" || this.#method === "HEAD") {
        throw new TypeError("Request with a GET or HEAD method cannot have a body.");
      }
      const [state, type] = extractBody(body);
      setBodyState(this, state);
      if (type !== null && !this.#headers.has("content-type")) {
        this.#headers.set("content-type", type);
      }
    } else if (from !== undefined && body !== null) {
      const state = bodyState(from);
      if (state !== null) {
        if (this.#method === "GET" || this.#method === "HEAD") {
          throw new TypeError("Request with a GET or HEAD method cannot have a body.");
        }
        setBodyState(this, takeBody(state));
      }
    }
  }

  get method() { return this.#method; }
  get url() { return this.#url; }
  get headers() {
    if (Array.isArray(this.#headers)) {
      this.#headers = headersOf(this.#headers, true);
    }
    return this.#headers;
  }
  get redirect() { return this.#redirect; }
  get signal() {
    if (typeof this.#signal === "function") {
      this.#signal = this.#signal();
    }
    return (this.#signal ??= new AbortController().signal);
  }
  get cf() { return this.#cf; }
  get integrity() { return `${this.#rest.integrity ?? ""}`; }
  get keepalive() { return Boolean(this.#rest.keepalive); }
  get cache() { return this.#rest.cache; }

  clone() {
    const state = bodyState(this);
    const copy = new Request(fromHost, {
      method: this.#method,
      url: this.#url,
      headers: new Headers(this.headers),
      redirect: this.#redirect,
      cf: this.#cf,
      signal: this.#signal,
      body: state === null ? null : state.clone(),
    });
    copy.#rest = this.#rest;
    return copy;
  }
}
idl(Request, ["body", "signal", "cf", "integrity", "keepalive", "cache"]);

/** The signal of a Request that was given one, or asked for it; undefined otherwise. */
export const signalOf = (request) => signalIn(request);

/** A body that goes from one Request to another; the first one counts as used. */
function takeBody(state) {
  if (state.unusable) {
    throw new TypeError("Body has already been used. It can only be used once. Use tee() first if you need to read it twice.");
  }
  const taken = memoryBody(null);
  taken.source = state.source;
  taken.hostStream = state.hostStream;
  taken.length = state.length;
  if (state.source === null) {
    taken.stream = state.stream;
  }
  state.source = "";
  state.stream = null;
  state.hostStream = 0;
  state.used = true;
  return taken;
}

/** A Request that came over the wire; see fetch.js for its head. signal is a function that makes its signal. */
export function requestFromHost(head, bytes, stream, signal) {
  return new Request(fromHost, {
    method: head.method,
    url: head.url,
    headers: head.headers,
    redirect: head.redirect,
    cf: head.cf,
    signal,
    body: bytes !== undefined && bytes !== null ? memoryBody(bytes) : stream ? hostBody(stream, head.length) : null,
  });
}
