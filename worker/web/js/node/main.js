// The node chunk: the modules of Node.js that workers lean on (nodejs_compat). The host makes an ES module of each,
// whose exports are these.

import { Buffer as PolyfilledBuffer, INSPECT_MAX_BYTES, SlowBuffer, kMaxLength } from "buffer";
import EventEmitter from "events";
import path from "path-browserify";

import { Blob, File, atob, btoa, host, process } from "holdfast:core";

import { assert } from "./assert.js";
import { AsyncLocalStorage, AsyncResource, resetContext } from "./async_hooks.js";
import { nodeCrypto, setBuffer } from "./crypto.js";
import { diagnosticsChannel } from "./diagnostics_channel.js";
import { util } from "./util.js";

const Buffer = fastBuffer(PolyfilledBuffer);
setBuffer(Buffer);

/** Has UTF-8 and base64 done by the host: byte by byte they are slow here. */
function fastBuffer(B) {
  const { from } = B;
  B.from = function (value, encoding, length) {
    if (typeof value === "string" && /^(?:utf-?8)?$/i.test(encoding ?? "")) {
      const bytes = host.encodeUTF8(value.toWellFormed());
      return from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    }
    return from(value, encoding, length);
  };
  const { toString } = B.prototype;
  B.prototype.toString = function (encoding, start, end) {
    if (/^(?:utf-?8)?$/i.test(encoding ?? "")) {
      const part = start === undefined && end === undefined ? this : this.subarray(Math.max(start ?? 0, 0), end);
      return host.decodeText("utf-8", new Uint8Array(part.buffer, part.byteOffset, part.byteLength), false, false)[0];
    }
    if (encoding === "hex" && start === undefined && end === undefined) {
      return new Uint8Array(this.buffer, this.byteOffset, this.byteLength).toHex();
    }
    if (encoding === "base64" && start === undefined && end === undefined) {
      return new Uint8Array(this.buffer, this.byteOffset, this.byteLength).toBase64();
    }
    return toString.call(this, encoding, start, end);
  };
  B.isBuffer = (v) => v instanceof B || v?._isBuffer === true;
  return B;
}

EventEmitter.captureRejectionSymbol ??= Symbol.for("nodejs.rejection");
EventEmitter.errorMonitor ??= Symbol("events.errorMonitor");

const timers = {
  setTimeout: (...args) => globalThis.setTimeout(...args),
  clearTimeout: (id) => globalThis.clearTimeout(id),
  setInterval: (...args) => globalThis.setInterval(...args),
  clearInterval: (id) => globalThis.clearInterval(id),
  setImmediate: (...args) => globalThis.setImmediate(...args),
  clearImmediate: (id) => globalThis.clearImmediate(id),
};

const os = {
  EOL: "\n", arch: () => "", availableParallelism: () => 1, cpus: () => [], devNull: "/dev/null", endianness: () => "LE",
  freemem: () => 0, homedir: () => "/", hostname: () => "localhost", loadavg: () => [0, 0, 0], networkInterfaces: () => ({}),
  platform: () => "linux", release: () => "", tmpdir: () => "/tmp", totalmem: () => 0, type: () => "Linux", uptime: () => 0,
  userInfo: () => ({ uid: -1, gid: -1, username: "worker", homedir: "/", shell: null }), version: () => "",
};

export { resetContext };

const querystring = {
  escape: encodeURIComponent,
  unescape: decodeURIComponent,
  parse(text) {
    const out = Object.create(null);
    for (const [key, value] of new globalThis.URLSearchParams(`${text}`)) {
      out[key] = key in out ? [out[key], value].flat() : value;
    }
    return out;
  },
  stringify: (object) =>
    Object.entries(object ?? {}).flatMap(([key, value]) =>
      [value].flat().map((v) => `${encodeURIComponent(key)}=${encodeURIComponent(v ?? "")}`)).join("&"),
};

class StringDecoder {
  #decoder;
  #encoding;

  constructor(encoding = "utf8") {
    this.#encoding = encoding;
    // Others than these have no characters of several bytes.
    if (/^(?:utf-?8|utf-?16le|ucs-?2)$/i.test(encoding)) {
      this.#decoder = new globalThis.TextDecoder(/8$/.test(encoding) ? "utf-8" : "utf-16le", { ignoreBOM: true });
    }
  }

  get encoding() { return this.#encoding; }
  write(bytes) { return this.#decoder?.decode(bytes, { stream: true }) ?? Buffer.from(bytes).toString(this.#encoding); }
  end(bytes) { return (bytes === undefined ? "" : this.write(bytes)) + (this.#decoder?.decode() ?? ""); }
}

/** The default export of each module; its properties are the named exports. */
export const modules = {
  assert,
  "assert/strict": assert.strict,
  async_hooks: { AsyncLocalStorage, AsyncResource },
  buffer: { Blob, Buffer, File, INSPECT_MAX_BYTES, SlowBuffer, atob, btoa, constants: { MAX_LENGTH: kMaxLength }, kMaxLength },
  crypto: nodeCrypto,
  diagnostics_channel: diagnosticsChannel,
  events: Object.assign(EventEmitter, { default: EventEmitter }),
  os,
  path: { ...path, posix: path },
  "path/posix": { ...path, posix: path },
  perf_hooks: { performance: globalThis.performance },
  process,
  querystring,
  string_decoder: { StringDecoder },
  timers,
  "timers/promises": {
    setTimeout: (delay, value, options) => globalThis.scheduler.wait(delay ?? 0, options).then(() => value),
    setImmediate: (value, options) => globalThis.scheduler.wait(0, options).then(() => value),
    scheduler: { wait: (delay, options) => globalThis.scheduler.wait(delay, options) },
  },
  url: {
    URL: globalThis.URL,
    URLSearchParams: globalThis.URLSearchParams,
    domainToASCII: (domain) => globalThis.URL.parse(`http://${domain}`)?.hostname ?? "",
    fileURLToPath: (url) => decodeURIComponent(new globalThis.URL(url).pathname),
    format: (url) => `${url instanceof globalThis.URL ? url : new globalThis.URL(url)}`,
    pathToFileURL: (name) => new globalThis.URL(`file://${encodeURI(name)}`),
  },
  util,
  "util/types": util.types,
};
