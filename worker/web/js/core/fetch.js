// fetch, and messages on their way between JavaScript and the host.
//
// The head of a message that leaves is a text, whose lines are those of headOf, and then names and values of headers; each
// character is one byte. The body goes beside it: bytes when they are all there, else a stream.

import { bodyOut, bodyState } from "./body.js";
import { chunk, host } from "./host.js";
import { operation } from "./ops.js";
import { Request, requestHeaders, signalOf } from "./request.js";
import { plainOut, Response, responseHeaders, takeResponse } from "./response.js";

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
  const response = answer.then((message) => takeResponse(...message));
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

function headOf(method, url, redirect, status, statusText, redirected, encodeBody, length, headers) {
  const head = `${method}\n${url}\n${redirect}\n${status}\n${statusText}\n${redirected ? 1 : ""}\n${encodeBody}\n${length ?? ""}`;
  return headers === "" ? head : `${head}\n${headers}`;
}

/** [head, body] of a Request that leaves; the body counts as used. */
function requestOut(request) {
  const body = bodyOut(request);
  return [headOf(request.method, request.url, request.redirect, "", "", false, "", body.length, requestHeaders(request)), body];
}

/**
 * Called by the host: takes a Request or Response apart, to [head, bytes, text or null, number of one of the
 * host's own streams or 0, ReadableStream or null]. The host passes the last to pump. Of most Responses it is
 * [status, headers, text].
 */
export function giveMessage(message) {
  if (message instanceof Request) {
    const [head, body] = requestOut(message);
    return [head, body.bytes ?? null, body.hostStream ?? 0, body.stream ?? null];
  }
  if (!(message instanceof Response)) {
    throw new TypeError("Incorrect type for Promise: the Promise did not resolve to 'Response'.");
  }
  const plain = plainOut(message);
  if (plain !== undefined) {
    return plain;
  }
  if (message.status === 0) {
    throw new TypeError("A Response of Response.error() cannot be sent.");
  }
  const body = bodyOut(message);
  const { status, statusText, url, redirected, encodeBody } = message;
  const head = headOf("", url, "", status, statusText, redirected, encodeBody, body.length, responseHeaders(message));
  return [head, body.bytes ?? null, body.hostStream ?? 0, body.stream ?? null];
}
