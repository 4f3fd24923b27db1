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

// Stands for the signal of a Request that came over the wire until somebody asks for it: it aborts when the client has gone.
const clientSignal = Symbol("the client's");

const clientOf = (of) => of.client ?? of;

// What others do with a Request: a private method would mark every instance.
let signalIn, abortIn, headersIn, copyHeaders;

export class Request extends Body {
  // method, url, redirect; headers, which are their text until somebody asks, when they came from the host, and immutable, which
  // they are then; signal, or clientSignal, and the controller of what was that, or the #of of the Request whose it is, which
  // came over the wire; rest: cf, integrity, keepalive, cache, where there are any.
  #of;

  static {
    signalIn = (request) => {
      const signal = request.#of.signal === clientSignal ? clientOf(request.#of).signal : request.#of.signal;
      return signal === clientSignal ? undefined : signal;
    };
    abortIn = (request) => {
      request.signal;
      request.#of.controller.abort(new DOMException("The client disconnected.", "AbortError"));
    };
    headersIn = (request) => headerText(request.#of.headers);
    copyHeaders = (of) => (typeof of.headers === "string" ? of.headers : new Headers(of.headers));
  }

  constructor(input, init = undefined) {
    super();
    if (input === fromHost) {
      this.#of = init;
      return;
    }
    need(arguments, 1, "Request");
    if (init === null || (init !== undefined && typeof init !== "object")) {
      throw new TypeError("Failed to construct 'Request': the second argument is not an object.");
    }
    const from = typeof input === "object" && input !== null && #of in input ? input.#of : undefined;
    const url = from === undefined ? hrefOf(input) : from.url;
    if (url === undefined) {
      throw new TypeError(`Invalid URL: ${input}`);
    }
    // A Request may also be the init, as in new Request(url, request).
    const method = init?.method !== undefined ? methodOf(init.method) : (from?.method ?? "GET");
    const given = init?.headers ?? undefined;
    const headers = given === undefined && from !== undefined ? copyHeaders(from) : new Headers(given);
    const redirect = init?.redirect ?? from?.redirect ?? "follow";
    if (!["follow", "manual", "error"].includes(redirect)) {
      throw new TypeError(`Invalid redirect value, must be one of "follow" or "manual" or "error" (${JSON.stringify(redirect)} is not).`);
    }
    let rest = from?.rest;
    if (init !== undefined) {
      const { cf, integrity, keepalive, cache } = init;
      if (cf !== undefined || integrity !== undefined || keepalive !== undefined || cache !== undefined) {
        rest = {
          cf: cf ?? rest?.cf, integrity: integrity ?? rest?.integrity, keepalive: keepalive ?? rest?.keepalive, cache: cache ?? rest?.cache,
        };
      }
    }
    let signal, client;
    if (init?.signal === undefined) {
      signal = from?.signal;
      client = signal === clientSignal ? clientOf(from) : undefined;
    } else if (init.signal !== null) {
      if (!(init.signal instanceof AbortSignal)) {
        throw new TypeError("Failed to construct 'Request': the signal is not an AbortSignal.");
      }
      signal = init.signal;
    }
    this.#of = { method, url, redirect, headers, immutable: false, signal, client, rest };

    const body = init?.body;
    if (body !== undefined && body !== null) {
      if (method === "GET" || method === "HEAD") {
        throw new TypeError("Request with a GET or HEAD method cannot have a body.");
      }
      const [state, type] = extractBody(body);
      setBodyState(this, state);
      if (type !== null && !this.headers.has("content-type")) {
        this.headers.set("content-type", type);
      }
    } else if (from !== undefined && body !== null) {
      const state = bodyState(input);
      if (state !== null) {
        if (method === "GET" || method === "HEAD") {
          throw new TypeError("Request with a GET or HEAD method cannot have a body.");
        }
        setBodyState(this, takeBody(state));
      }
    }
  }

  get method() { return this.#of.method; }
  get url() { return this.#of.url; }
  get headers() {
    const of = this.#of;
    if (typeof of.headers === "string") {
      of.headers = headersOf(of.headers, of.immutable);
    }
    return of.headers;
  }
  get redirect() { return this.#of.redirect; }
  get signal() {
    const of = this.#of;
    if (of.signal === undefined) {
      of.signal = new AbortController().signal;
    } else if (of.signal === clientSignal) {
      const client = clientOf(of);
      if (client.signal === clientSignal) {
        client.controller = new AbortController();
        client.signal = client.controller.signal;
      }
      of.signal = client.signal;
    }
    return of.signal;
  }
  get cf() { return this.#of.rest?.cf; }
  get integrity() { return `${this.#of.rest?.integrity ?? ""}`; }
  get keepalive() { return Boolean(this.#of.rest?.keepalive); }
  get cache() { return this.#of.rest?.cache; }

  clone() {
    const of = this.#of;
    const state = bodyState(this);
    const copy = new Request(fromHost, { ...of, headers: copyHeaders(of), immutable: false, client: clientOf(of), controller: undefined });
    setBodyState(copy, state === null ? null : state.clone());
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

/** The text of a Request's headers for the wire. */
export const requestHeaders = (request) => headersIn(request);

/** Called by the host: makes a Request of what arrived. Its length is negative when it is not known. */
export function takeRequest(method, url, redirect, headers, length, bytes, stream) {
  const request = new Request(fromHost, {
    method, url, redirect: redirect || "manual", headers, immutable: true, signal: clientSignal, client: undefined, controller: undefined, rest: undefined,
  });
  if (bytes !== null || stream !== 0) {
    setBodyState(request, bodyFromHost(bytes, stream, length));
  }
  return request;
}

/** Called by the host: aborts the signal of a Request that takeRequest has made. */
export const abortRequest = (request) => abortIn(request);
