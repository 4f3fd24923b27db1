// Response.

import { Body, bodyState, extractBody, hostBody, memoryBody, setBodyState } from "./body.js";
import { Headers, headersOf } from "./headers.js";
import { idl, need } from "./idl.js";
import { hrefOf } from "./url.js";

const fromHost = Symbol("from the host");
const nullBody = new Set([101, 204, 205, 304]);
const redirects = new Set([301, 302, 303, 307, 308]);

export class Response extends Body {
  #status = 200;
  #statusText = "";
  #headers; // a flat list until somebody asks, when they came from the host
  #type = "default";
  #url = "";
  #redirected = false;
  #cf;
  #webSocket = null;
  #encodeBody = "automatic";

  constructor(body = null, init = {}) {
    super();
    if (body === fromHost) {
      this.#status = init.status;
      this.#statusText = init.statusText;
      this.#headers = init.headers;
      this.#type = init.type ?? "default";
      this.#url = init.url ?? "";
      this.#redirected = Boolean(init.redirected);
      this.#cf = init.cf;
      this.#webSocket = init.webSocket ?? null;
      setBodyState(this, init.body);
      return;
    }
    if (init === null || typeof init !== "object") {
      if (init !== null && init !== undefined) {
        throw new TypeError("Failed to construct 'Response': the second argument is not an object.");
      }
      init = {};
    }
    if (init.status !== undefined) {
      const status = Math.trunc(Number(init.status));
      this.#webSocket = init.webSocket ?? null;
      if (!(status >= 200 && status <= 599) && !(status === 101 && this.#webSocket !== null)) {
        throw new RangeError("Responses may only be constructed with status codes in the range 200 to 599, inclusive.");
      }
      this.#status = status;
    }
    if (init.statusText !== undefined) {
      this.#statusText = `${init.statusText}`;
      if (/[^\t\x20-\x7e\x80-\xff]/.test(this.#statusText)) {
        throw new TypeError("Failed to construct 'Response': statusText contains characters that a reason phrase cannot have.");
      }
    }
    this.#headers = new Headers(init.headers ?? undefined);
    this.#cf = init.cf;
    if (init.encodeBody !== undefined) {
      if (init.encodeBody !== "automatic" && init.encodeBody !== "manual") {
        throw new TypeError(`encodeBody: unexpected value: ${init.encodeBody}`);
      }
      this.#encodeBody = init.encodeBody;
    }
    if (body !== null && body !== undefined) {
      if (nullBody.has(this.#status)) {
        throw new TypeError("Response with null body status (101, 204, 205, or 304) cannot have a body.");
      }
      const [state, type] = extractBody(body);
      setBodyState(this, state);
      if (type !== null && !this.#headers.has("content-type")) {
        this.#headers.set("content-type", type);
      }
    }
  }

  static error() {
    return new Response(fromHost, { status: 0, statusText: "", headers: headersOf([], true), type: "error", body: null });
  }

  static json(data, init = {}) {
    need(arguments, 1, "json");
    const text = JSON.stringify(data);
    if (text === undefined) {
      throw new TypeError("The value cannot be serialised as JSON.");
    }
    const headers = new Headers(init?.headers ?? undefined);
    if (!headers.has("content-type")) {
      headers.set("content-type", "application/json");
    }
    return new Response(text, { ...init, status: init?.status, headers });
  }

  static redirect(url, status = 302) {
    need(arguments, 1, "redirect");
    const href = hrefOf(url);
    if (href === undefined) {
      throw new TypeError(`Unable to parse URL: ${url}`);
    }
    if (!redirects.has(Number(status))) {
      throw new RangeError(`${status} is not a redirect status code.`);
    }
    return new Response(fromHost, { status: Number(status), statusText: "", headers: headersOf(["location", href], true), body: null });
  }

  get status() { return this.#status; }
  get statusText() { return this.#statusText; }
  get ok() { return this.#status >= 200 && this.#status <= 299; }
  get headers() {
    if (Array.isArray(this.#headers)) {
      this.#headers = headersOf(this.#headers, true);
    }
    return this.#headers;
  }
  get type() { return this.#type; }
  get url() { return this.#url; }
  get redirected() { return this.#redirected; }
  get cf() { return this.#cf; }
  get webSocket() { return this.#webSocket; }
  get encodeBody() { return this.#encodeBody; }

  clone() {
    if (this.#webSocket !== null) {
      throw new TypeError("Cannot clone a response to a WebSocket handshake.");
    }
    const state = bodyState(this);
    return new Response(fromHost, {
      status: this.#status,
      statusText: this.#statusText,
      headers: new Headers(this.headers),
      type: this.#type,
      url: this.#url,
      redirected: this.#redirected,
      cf: this.#cf,
      body: state === null ? null : state.clone(),
    });
  }
}
idl(Response, ["body", "webSocket", "encodeBody", "cf"]);

/** A Response that came over the wire. */
export function responseFromHost(head, bytes, stream) {
  return new Response(fromHost, {
    status: head.status,
    statusText: head.statusText ?? "",
    headers: head.headers,
    url: head.url,
    redirected: head.redirected,
    cf: head.cf,
    body: bytes !== undefined && bytes !== null ? memoryBody(bytes) : stream ? hostBody(stream, head.length) : null,
  });
}
