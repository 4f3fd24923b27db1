// Request.

import { AbortController, AbortSignal } from "./abort.js";
import { Body, bodyFromHost, bodyState, extractBody, memoryBody, setBodyState } from "./body.js";
import { DOMException } from "./exception.js";
import { Headers, headerText, headersOf } from "./headers.js";
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

/** The signal of a Request that came over the wire, made when somebody asks for it: it aborts when the client has gone. */
class ClientSignal {
  controller = undefined;

  get signal() {
    return (this.controller ??= new AbortController()).signal;
  }

  abort() {
    this.signal;
    this.controller.abort(new DOMException("The client disconnected.", "AbortError"));
  }
}

let signalIn, abortIn, headersIn;

export class Request extends Body {
  #method;
  #url;
  #headers; // their text until somebody asks, when they came from the host
  #immutable = false; // headers, when somebody asks
  #signal; // or a ClientSignal
  #redirect;
  #rest = undefined; // cf, integrity, keepalive, cache, where there are any

  static {
    signalIn = (request) => (request.#signal instanceof ClientSignal ? request.#signal.controller?.signal : request.#signal);
    abortIn = (request) => request.#signal.abort();
    headersIn = (request) => headerText(request.#headers);
  }

  constructor(input, init = undefined) {
    super();
    if (input === fromHost) {
      this.#method = init.method;
      this.#url = init.url;
      this.#headers = init.headers;
      this.#immutable = init.immutable;
      this.#redirect = init.redirect;
      this.#signal = init.signal;
      this.#rest = init.rest;
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
    const headers = init?.headers ?? undefined;
    this.#headers = headers === undefined && from !== undefined ? from.#copyHeaders() : new Headers(headers);
    this.#redirect = init?.redirect ?? from?.#redirect ?? "follow";
    if (!["follow", "manual", "error"].includes(this.#redirect)) {
      throw new TypeError(`Invalid redirect value, must be one of "follow" or "manual" or "error" (${JSON.stringify(this.#redirect)} is not).`);
    }
    this.#rest = from?.#rest;
    if (init !== undefined) {
      const { cf, integrity, keepalive, cache } = init;
      if (cf !== undefined || integrity !== undefined || keepalive !== undefined || cache !== undefined) {
        const rest = this.#rest;
        this.#rest = {
          cf: cf ?? rest?.cf, integrity: integrity ?? rest?.integrity, keepalive: keepalive ?? rest?.keepalive, cache: cache ?? rest?.cache,
        };
      }
    }
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
      if (type !== null && !this.headers.has("content-type")) {
        this.headers.set("content-type", type);
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
    if (typeof this.#headers === "string") {
      this.#headers = headersOf(this.#headers, this.#immutable);
    }
    return this.#headers;
  }
  get redirect() { return this.#redirect; }
  get signal() {
    if (this.#signal instanceof ClientSignal) {
      return this.#signal.signal;
    }
    return (this.#signal ??= new AbortController().signal);
  }
  get cf() { return this.#rest?.cf; }
  get integrity() { return `${this.#rest?.integrity ?? ""}`; }
  get keepalive() { return Boolean(this.#rest?.keepalive); }
  get cache() { return this.#rest?.cache; }

  #copyHeaders() { return typeof this.#headers === "string" ? this.#headers : new Headers(this.#headers); }

  clone() {
    const state = bodyState(this);
    return new Request(fromHost, {
      method: this.#method,
      url: this.#url,
      headers: this.#copyHeaders(),
      immutable: false,
      redirect: this.#redirect,
      rest: this.#rest,
      signal: this.#signal,
      body: state === null ? null : state.clone(),
    });
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

/** The text of a Request's headers for the wire. */
export const requestHeaders = (request) => headersIn(request);

/** Called by the host: makes a Request of what arrived. Its length is negative when it is not known. */
export function takeRequest(method, url, redirect, headers, length, bytes, stream) {
  return new Request(fromHost, {
    method, url, redirect: redirect || "manual", headers, immutable: true, rest: undefined, signal: new ClientSignal(),
    body: bodyFromHost(bytes, stream, length),
  });
}

/** Called by the host: aborts the signal of a Request that takeRequest has made. */
export const abortRequest = (request) => abortIn(request);
