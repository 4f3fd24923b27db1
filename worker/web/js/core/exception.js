// DOMException, and errors that come from the host.

import { idl } from "./idl.js";

const codes = {
  IndexSizeError: 1, HierarchyRequestError: 3, WrongDocumentError: 4, InvalidCharacterError: 5,
  NoModificationAllowedError: 7, NotFoundError: 8, NotSupportedError: 9, InUseAttributeError: 10,
  InvalidStateError: 11, SyntaxError: 12, InvalidModificationError: 13, NamespaceError: 14,
  InvalidAccessError: 15, TypeMismatchError: 17, SecurityError: 18, NetworkError: 19, AbortError: 20,
  URLMismatchError: 21, QuotaExceededError: 22, TimeoutError: 23, InvalidNodeTypeError: 24, DataCloneError: 25,
};

export class DOMException extends Error {
  #name;
  #message;

  constructor(message = "", options = undefined) {
    super();
    this.#message = `${message}`;
    if (typeof options === "object" && options !== null) {
      this.#name = options.name === undefined ? "Error" : `${options.name}`;
      if ("cause" in options) {
        Object.defineProperty(this, "cause", { value: options.cause, writable: true, configurable: true });
      }
    } else {
      this.#name = options === undefined ? "Error" : `${options}`;
    }
  }

  get name() {
    return this.#name;
  }

  get message() {
    return this.#message;
  }

  get code() {
    return Object.hasOwn(codes, this.#name) ? codes[this.#name] : 0;
  }
}

idl(DOMException);

for (const name of Object.keys(codes)) {
  const constant = name === "URLMismatchError" ? "URL_MISMATCH_ERR"
    : name.replace(/Error$/, "").replace(/([a-z])([A-Z])/g, "$1_$2").toUpperCase() + "_ERR";
  for (const target of [DOMException, DOMException.prototype]) {
    Object.defineProperty(target, constant, { value: codes[name], enumerable: true });
  }
}

const standard = { Error, TypeError, RangeError, SyntaxError };

/** An error of the given kind: a standard one by its name, else a DOMException. */
export function errorOf(name, message) {
  return Object.hasOwn(standard, name) ? new standard[name](message) : new DOMException(message, name);
}

/**
 * Calls a host function whose errors have a name. The host throws them as "web:NAME:message", the only
 * text that passes the boundary.
 */
export function hostCall(fn, ...args) {
  try {
    return fn(...args);
  } catch (e) {
    const m = /^web:(\w+):([^]*)$/.exec(e?.message);
    throw m ? errorOf(m[1], m[2]) : e;
  }
}
