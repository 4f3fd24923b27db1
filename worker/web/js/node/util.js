// node:util.

import { TextDecoder, TextEncoder, chunk } from "holdfast:core";

import { isDeepEqual } from "./equal.js";

// The inspect chunk is large: it is loaded when one of these is called.
const lazily = (name) => (...args) => chunk("inspect")[name](...args);
const inspect = Object.assign(lazily("inspect"), { custom: Symbol.for("nodejs.util.inspect.custom") });

const custom = Symbol.for("nodejs.util.promisify.custom");

function promisify(f) {
  if (typeof f !== "function") {
    throw new TypeError('The "original" argument must be of type function.');
  }
  return f[custom] ?? Object.defineProperties(function (...args) {
    return new Promise((resolve, reject) => {
      f.call(this, ...args, (error, value) => (error ? reject(error) : resolve(value)));
    });
  }, Object.getOwnPropertyDescriptors(f));
}
promisify.custom = custom;

function callbackify(f) {
  return function (...args) {
    const callback = args.pop();
    f.apply(this, args).then((v) => queueMicrotask(() => callback(null, v)), (e) => queueMicrotask(() => callback(e ?? new Error(`${e}`))));
  };
}

function deprecate(f, message) {
  let warned = false;
  return function (...args) {
    if (!warned) {
      warned = true;
      globalThis.console.warn(`DeprecationWarning: ${message}`);
    }
    return Reflect.apply(f, this, args);
  };
}

const tag = (v) => Object.prototype.toString.call(v).slice(8, -1);
const is = (C) => (v) => v instanceof C;
const typedArray = Object.getPrototypeOf(Uint8Array);

const types = {
  isAnyArrayBuffer: (v) => v instanceof ArrayBuffer || v instanceof SharedArrayBuffer,
  isArrayBuffer: is(ArrayBuffer),
  isArrayBufferView: ArrayBuffer.isView,
  isAsyncFunction: (v) => typeof v === "function" && tag(v) === "AsyncFunction",
  isBoxedPrimitive: (v) => [Number, String, Boolean, Symbol, BigInt].some((C) => v instanceof C),
  isDataView: is(DataView),
  isDate: is(Date),
  isGeneratorFunction: (v) => typeof v === "function" && tag(v).endsWith("GeneratorFunction"),
  isGeneratorObject: (v) => tag(v) === "Generator",
  isMap: is(Map),
  isNativeError: is(Error),
  isPromise: is(Promise),
  isProxy: () => false,
  isRegExp: is(RegExp),
  isSet: is(Set),
  isSharedArrayBuffer: is(SharedArrayBuffer),
  isTypedArray: is(typedArray),
  isUint8Array: is(Uint8Array),
  isWeakMap: is(WeakMap),
  isWeakSet: is(WeakSet),
};

export const util = {
  TextDecoder,
  TextEncoder,
  callbackify,
  debuglog: () => Object.assign(() => {}, { enabled: false }),
  deprecate,
  format: lazily("format"),
  formatWithOptions: lazily("formatWithOptions"),
  inherits: (C, parent) => {
    Object.defineProperty(C, "super_", { value: parent, writable: true, configurable: true });
    Object.setPrototypeOf(C.prototype, parent.prototype);
  },
  inspect,
  isArray: Array.isArray,
  isDeepStrictEqual: (a, b) => isDeepEqual(a, b, true),
  promisify,
  stripVTControlCharacters: lazily("stripVTControlCharacters"),
  toUSVString: (s) => `${s}`.toWellFormed(),
  types,
};
