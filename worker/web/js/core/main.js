// The core of the platform: what is there from the start. Heavy parts are chunks of their own, evaluated when
// a worker first touches them. The bundle is a function of the host's functions, and returns what the host
// calls.

import { AbortController, AbortSignal } from "./abort.js";
import { Blob, File, blobBytes, blobOf } from "./blob.js";
import { Body } from "./body.js";
import { console, logError } from "./console.js";
import { Crypto, crypto } from "./crypto.js";
import { TextDecoder, TextEncoder, atob, btoa, fromUTF8, utf8 } from "./encoding.js";
import * as events from "./events.js";
import { DOMException, errorOf, hostCall } from "./exception.js";
import { fetch, giveMessage } from "./fetch.js";
import { FormData } from "./formdata.js";
import { Headers } from "./headers.js";
import { chunk, host, loadedChunk } from "./host.js";
import { bytesOf, concat, globals, idl, lazyGlobals, need, usv } from "./idl.js";
import { operation, rejectOperation, resolveOperation } from "./ops.js";
import { installLanguage } from "./language.js";
import { process } from "./process.js";
import { onUncaught, reportError, unhandledRejection } from "./report.js";
import { Request, abortRequest, takeRequest } from "./request.js";
import { Response, takeResponse } from "./response.js";
import {
  Scheduler, clearImmediate, clearInterval, clearTimeout, dropTimer, fireTimer, queueMicrotask, setImmediate, setInterval, setTimeout,
} from "./timers.js";
import { URL, URLSearchParams } from "./url.js";
import { structuredClone } from "./clone.js";
import { notSupported } from "./unsupported.js";

const { CloseEvent, CustomEvent, ErrorEvent, Event, EventTarget, MessageEvent, PromiseRejectionEvent, globalTarget, trusted } = events;

installLanguage();

class Performance extends EventTarget {
  get timeOrigin() { return 0; }
  now() { return host.now(); }
  toJSON() { return { timeOrigin: 0 }; }
}
idl(Performance);

class Navigator {
  get userAgent() { return "Cloudflare-Workers"; }
  get language() { return "en"; }
  get hardwareConcurrency() { return 1; }
}
idl(Navigator);

globals({
  AbortController, AbortSignal, Blob, Body, CloseEvent, Crypto, CustomEvent, DOMException, ErrorEvent, Event, EventTarget, File,
  FormData, Headers, MessageEvent, Navigator, Performance, PromiseRejectionEvent, Request, Response, Scheduler, TextDecoder,
  TextEncoder, URL, URLSearchParams,
  atob, btoa, clearImmediate, clearInterval, clearTimeout, fetch, queueMicrotask, reportError, setImmediate, setInterval,
  setTimeout, structuredClone,
  console, crypto, process,
  navigator: new Navigator(),
  performance: new Performance(),
  scheduler: new Scheduler(),
  global: globalThis,
  self: globalThis,
  addEventListener: (...args) => globalTarget.addEventListener(...args),
  removeEventListener: (...args) => globalTarget.removeEventListener(...args),
  dispatchEvent: (event) => globalTarget.dispatchEvent(event),
});

lazyGlobals([
  "ByteLengthQueuingStrategy", "CompressionStream", "CountQueuingStrategy", "DecompressionStream", "FixedLengthStream",
  "IdentityTransformStream", "ReadableByteStreamController", "ReadableStream", "ReadableStreamBYOBReader",
  "ReadableStreamBYOBRequest", "ReadableStreamDefaultController", "ReadableStreamDefaultReader", "TextDecoderStream",
  "TextEncoderStream", "TransformStream", "TransformStreamDefaultController", "WritableStream",
  "WritableStreamDefaultController", "WritableStreamDefaultWriter",
], () => chunk("streams").classes);
lazyGlobals(["URLPattern"], () => chunk("urlpattern"));
lazyGlobals(["Buffer"], () => chunk("node").modules.buffer);
lazyGlobals(["CryptoKey", "SubtleCrypto"], () => chunk("subtle"));
notSupported();

onUncaught(logError, (type, reason, promise) => {
  const init = { cancelable: true };
  if (type === "error") {
    Object.assign(init, { error: reason, message: `Uncaught ${reason}` });
    return globalTarget.dispatchEvent(trusted(new ErrorEvent(type, init)));
  }
  Object.assign(init, { promise, reason });
  return globalTarget.dispatchEvent(trusted(new PromiseRejectionEvent(type, init)));
});

// What chunks import as "holdfast:core".
chunk.core = {
  AbortSignal, Blob, DOMException, EventTarget, File, TextDecoder, TextEncoder, atob, blobBytes, blobOf, btoa, bytesOf, chunk, concat, console, errorOf,
  fromUTF8, globals, host, hostCall, idl, need, operation, process, reportError, usv, utf8,
};

/** Called by the host at the start of an event: AsyncLocalStorage, if it is there, forgets the one before. */
function newEvent() {
  loadedChunk("node")?.resetContext();
}

/** Called by the host: a module of Node.js by its name; undefined if there is none. */
function nodeModule(name) {
  const { modules } = chunk("node");
  return Object.hasOwn(modules, name) ? modules[name] : undefined;
}

/** What the host calls. Go knows these by name (platform.go). */
export const platform = {
  abortRequest,
  dropTimer,
  fireTimer(id) {
    newEvent();
    fireTimer(id);
  },
  giveMessage,
  newEvent,
  nodeModule,
  pump: (stream, to) => chunk("streams").pump(stream, to),
  rejectOperation,
  resolveOperation,
  takeRequest,
  takeResponse,
  unhandledRejection,
};
