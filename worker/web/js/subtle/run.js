// One operation of the host on bytes.

import { host, hostCall } from "holdfast:core";

/** All results of an operation. */
export function runAll(op, params, ...inputs) {
  return hostCall(host.subtle, op, JSON.stringify(params), ...inputs);
}

/** The first result, which is bytes of the caller's. */
export const run = (op, params, ...inputs) => runAll(op, params, ...inputs)[0];

export const none = new Uint8Array(0);

const base64url = { alphabet: "base64url", omitPadding: true };

export const toBase64 = (bytes) => bytes.toBase64(base64url);

export function fromBase64(text) {
  return Uint8Array.fromBase64(`${text}`, base64url);
}

export const textOf = (bytes) => host.decodeText("utf-8", bytes, false, false)[0];
