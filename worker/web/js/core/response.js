// Response.

import { Body, bodyFromHost, bodyState, extractBody, setBodyState, textOut } from "./body.js";
import { Headers, headerText, headersOf } from "./headers.js";
import { idl, need } from "./idl.js";
import { hrefOf } from "./url.js";

const fromHost = Symbol("from the host");
const plainText = "content-type\ntext/plain;charset=UTF-8";
const jsonType = "content-type\napplication/json";
const nullBody = new Set([101, 204, 205, 304]);
const redirects = new Set([301, 302, 303, 307, 308]);

// What others do with a Response, and its constructor: a private method would mark every instance.
let headersIn, initialize, plainIn;

export class Response extends Body {
  #status = 200;
  #headers = ""; // their text until somebody asks, when they are not the worker's
  #immutable = false; // headers, when somebody asks
  #rest = undefined; // statusText, type, url, redirected, cf, webSocket, encodeBody, where they are not as usual

  static {
    headersIn = (response) => headerText(response.#headers);
    plainIn = (response) => {
      if (response.#rest !== undefined || typeof response.#headers !== "string") {
        return undefined;
      }
      const text = textOut(response);
      return text === undefined ? undefined : [response.#status, response.#headers, text];
    };
    initialize = (response, init) => {
      if (init === null || typeof init !== "object") {
        if (init !== null) {
          throw new TypeError("Failed to construct 'Response': the second argument is not an object.");
        }
        return;
      }
      let { status, statusText, headers, cf, encodeBody } = init;
      let webSocket;
      if (status !== undefined) {
        status = Math.trunc(Number(status));
        webSocket = init.webSocket ?? undefined;
        if (!(status >= 200 && status <= 599) && !(status === 101 && webSocket !== undefined)) {
          throw new RangeError("Responses may only be constructed with status codes in the range 200 to 599, inclusive.");
        }
        response.#status = status;
      }
      if (statusText !== undefined) {
        statusText = `${statusText}`;
        if (/[^\t\x20-\x7e\x80-\xff]/.test(statusText)) {
          throw new TypeError("Failed to construct 'Response': statusText contains characters that a reason phrase cannot have.");
        }
      }
      if (headers !== undefined && headers !== null) {
        response.#headers = new Headers(headers);
      }
      if (encodeBody !== undefined && encodeBody !== "automatic" && encodeBody !== "manual") {
        throw new TypeError(`encodeBody: unexpected value: ${encodeBody}`);
      }
      if (statusText !== undefined || webSocket !== undefined || cf !== undefined || encodeBody !== undefined) {
        response.#rest = { statusText, webSocket, cf, encodeBody };
      }
    };
  }

  constructor(body = null, init = undefined) {
    super();
    if (body === fromHost) {
      this.#status = init.status;
      this.#headers = init.headers;
      this.#immutable = true;
      this.#rest = init;
      setBodyState(this, init.body);
      return;
    }
    if (init !== undefined) {
      initialize(this, init);
    }
    if (body !== null && body !== undefined) {
      if (nullBody.has(this.#status)) {
        throw new TypeError("Response with null body status (101, 204, 205, or 304) cannot have a body.");
      }
      if (typeof body === "string" && this.#headers === "") {
        setBodyState(this, body.toWellFormed());
        this.#headers = plainText;
        return;
      }
      const [state, type] = extractBody(body);
      setBodyState(this, state);
      if (type !== null && !this.headers.has("content-type")) {
        this.headers.set("content-type", type);
      }
    }
  }

  static error() {
    return new Response(fromHost, { status: 0, headers: "", type: "error", body: null });
  }

  static json(data, init = undefined) {
    need(arguments, 1, "json");
    const text = JSON.stringify(data);
    if (text === undefined) {
      throw new TypeError("The value cannot be serialised as JSON.");
    }
    if ((init?.headers ?? undefined) === undefined) {
      const response = new Response(text, init);
      response.#headers = jsonType;
      return response;
    }
    const headers = new Headers(init.headers);
    if (!headers.has("content-type")) {
      headers.set("content-type", "application/json");
    }
    return new Response(text, { ...init, status: init.status, headers });
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
    return new Response(fromHost, { status: Number(status), headers: `location\n${href}`, body: null });
  }

  get status() { return this.#status; }
  get statusText() { return this.#rest?.statusText ?? ""; }
  get ok() { return this.#status >= 200 && this.#status <= 299; }
  get headers() {
    if (typeof this.#headers === "string") {
      this.#headers = headersOf(this.#headers, this.#immutable);
    }
    return this.#headers;
  }
  get type() { return this.#rest?.type ?? "default"; }
  get url() { return this.#rest?.url ?? ""; }
  get redirected() { return this.#rest?.redirected ?? false; }
  get cf() { return this.#rest?.cf; }
  get webSocket() { return this.#rest?.webSocket ?? null; }
  get encodeBody() { return this.#rest?.encodeBody ?? "automatic"; }

  clone() {
    if (this.webSocket !== null) {
      throw new TypeError("Cannot clone a response to a WebSocket handshake.");
    }
    const state = bodyState(this);
    const copy = new Response(fromHost, {
      ...this.#rest,
      status: this.#status,
      headers: typeof this.#headers === "string" ? this.#headers : new Headers(this.#headers),
      body: state === null ? null : state.clone(),
    });
    copy.#immutable = false;
    return copy;
  }
}
idl(Response, ["body", "webSocket", "encodeBody", "cf"]);

/** [status, headers, body] of a Response as it leaves for the host, if it is one of the usual ones: all texts, and nothing else. */
export const plainOut = (response) => plainIn(response);

/** The text of a Response's headers for the wire. */
export const responseHeaders = (response) => headersIn(response);

/** Called by the host: makes a Response of what arrived. Its length is negative when it is not known. */
export function takeResponse(status, statusText, url, redirected, headers, length, bytes, stream) {
  return new Response(fromHost, { status, statusText, url, redirected, headers, body: bodyFromHost(bytes, stream, length) });
}
