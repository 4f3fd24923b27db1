// DOMException, and errors that come from the host.

import { idl } from "./idl.js";

// name → [code, constant]
const codes = {
  IndexSizeError: [1, "INDEX_SIZE_ERR"], HierarchyRequestError: [3, "HIERARCHY_REQUEST_ERR"],
  WrongDocumentError: [4, "WRONG_DOCUMENT_ERR"], InvalidCharacterError: [5, "INVALID_CHARACTER_ERR"],
  NoModificationAllowedError: [7, "NO_MODIFICATION_ALLOWED_ERR"], NotFoundError: [8, "NOT_FOUND_ERR"],
  NotSupportedError: [9, "NOT_SUPPORTED_ERR"], InUseAttributeError: [10, "INUSE_ATTRIBUTE_ERR"],
  InvalidStateError: [11, "INVALID_STATE_ERR"], SyntaxError: [12, "SYNTAX_ERR"],
  InvalidModificationError: [13, "INVALID_MODIFICATION_ERR"], NamespaceError: [14, "NAMESPACE_ERR"],
  InvalidAccessError: [15, "INVALID_ACCESS_ERR"], TypeMismatchError: [17, "TYPE_MISMATCH_ERR"],
  SecurityError: [18, "SECURITY_ERR"], NetworkError: [19, "NETWORK_ERR"], AbortError: [20, "ABORT_ERR"],
  URLMismatchError: [21, "URL_MISMATCH_ERR"], QuotaExceededError: [22, "QUOTA_EXCEEDED_ERR"], TimeoutError: [23, "TIMEOUT_ERR"],
  InvalidNodeTypeError: [24, "INVALID_NODE_TYPE_ERR"], DataCloneError: [25, "DATA_CLONE_ERR"],
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
    return Object.hasOwn(codes, this.#name) ? codes[this.#name][0] : 0;
  }
}

idl(DOMException);

for (const [code, constant] of Object.values(codes)) {
  for (const target of [DOMException, DOMException.prototype]) {
    Object.defineProperty(target, constant, { value: code, enumerable: true });
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
