// fetch, and messages on their way between JavaScript and the host.
//
// The head of a message is JSON: {method, url, headers, redirect, length} of a request, {status, statusText,
// headers, url, redirected, length} of a response; headers are a flat list [name, value, …] of byte strings
// (each character is one byte). The body goes beside it: bytes when they are all there, else a stream.

import { bodyOut, bodyState } from "./body.js";
import { chunk, host } from "./host.js";
import { headerList } from "./headers.js";
import { operation } from "./ops.js";
import { Request, requestFromHost, signalOf } from "./request.js";
import { Response, responseFromHost } from "./response.js";
import { AbortController } from "./abort.js";
import { DOMException } from "./exception.js";

export function fetch(input, init = undefined) {
  let request, signal, out, head;
  try {
    request = new Request(input, init);
    if (!/^https?:/.test(request.url)) {
      throw new TypeError(`Fetch API cannot load: ${request.url}`);
    }
    signal = signalOf(request);
    signal?.throwIfAborted();
    [head, out] = requestOut(request);
  } catch (e) {
    return Promise.reject(e);
  }
  let id;
  const answer = operation((op) => {
    id = op;
    const to = host.fetch(op, head, out.bytes ?? null, out.hostStream ?? 0, out.stream !== undefined);
    if (out.stream !== undefined) {
      // What goes wrong with the body ends the fetch in the host, and so rejects the answer.
      chunk("streams").pump(out.stream, to);
    }
  });
  const response = answer.then(([json, bytes, stream]) => responseFromHost(JSON.parse(json), bytes, stream));
  if (signal === undefined) {
    return response;
  }
  const { promise: aborted, reject } = Promise.withResolvers();
  const abort = () => {
    // Ends the body too, if that is what is under way.
    host.abortFetch(id);
    reject(signal.reason);
  };
  signal.addEventListener("abort", abort, { once: true });
  const settled = () => signal.removeEventListener("abort", abort);
  return Promise.race([aborted, response]).then((r) => {
    if (bodyState(r)?.hostStream === undefined || bodyState(r).hostStream === 0) {
      settled();
    }
    return r;
  }, (e) => {
    settled();
    throw e;
  });
}

/** [head, body] of a Request that leaves; the body counts as used. */
function requestOut(request) {
  const body = bodyOut(request);
  const head = JSON.stringify({
    method: request.method,
    url: request.url,
    headers: headerList(request.headers),
    redirect: request.redirect,
    length: body.length,
  });
  return [head, body];
}

/** Called by the host: makes a Request of what arrived. */
export function takeRequest(head, bytes, stream) {
  let controller;
  const made = () => (controller ??= new AbortController());
  const request = requestFromHost(JSON.parse(head), bytes, stream, () => made().signal);
  return { request, abort: () => made().abort(new DOMException("The client disconnected.", "AbortError")) };
}

/** Called by the host: makes a Response of what arrived. */
export function takeResponse(head, bytes, stream) {
  return responseFromHost(JSON.parse(head), bytes, stream);
}

/**
 * Called by the host: takes a Request or Response apart, to [head, bytes or null, number of one of the
 * host's own streams or 0, ReadableStream or null]. The host passes the last to pump.
 */
export function giveMessage(message) {
  if (message instanceof Request) {
    const [head, body] = requestOut(message);
    return [head, body.bytes ?? null, body.hostStream ?? 0, body.stream ?? null];
  }
  if (!(message instanceof Response)) {
    throw new TypeError("Incorrect type for Promise: the Promise did not resolve to 'Response'.");
  }
  if (message.status === 0) {
    throw new TypeError("A Response of Response.error() cannot be sent.");
  }
  const body = bodyOut(message);
  const head = JSON.stringify({
    status: message.status,
    statusText: message.statusText,
    headers: headerList(message.headers),
    url: message.url,
    redirected: message.redirected,
    encodeBody: message.encodeBody,
    length: body.length,
  });
  return [head, body.bytes ?? null, body.hostStream ?? 0, body.stream ?? null];
}
