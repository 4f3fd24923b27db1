// AbortController and AbortSignal.

import { DOMException } from "./exception.js";
import { Event, EventTarget, handlerAttribute, trusted } from "./events.js";
import { idl } from "./idl.js";
import { setTimeout } from "./timers.js";

const construct = Symbol("construct");
let signalAbort;

export class AbortSignal extends EventTarget {
  #aborted = false;
  #reason = undefined;
  // Signals that follow this one (AbortSignal.any): they are aborted before any event is dispatched.
  #dependents = new Set();

  static {
    signalAbort = (signal, reason = new DOMException("The operation was aborted.", "AbortError")) => {
      if (signal.#aborted) {
        return;
      }
      const aborted = [signal];
      for (const s of aborted) {
        s.#aborted = true;
        s.#reason = reason;
        aborted.push(...[...s.#dependents].filter((d) => !d.#aborted && !aborted.includes(d)));
      }
      for (const s of aborted) {
        s.#dependents.clear();
        s.dispatchEvent(trusted(new Event("abort")));
      }
    };
  }

  constructor(secret) {
    if (secret !== construct) {
      throw new TypeError("Illegal constructor");
    }
    super();
  }

  get aborted() { return this.#aborted; }
  get reason() { return this.#reason; }

  throwIfAborted() {
    if (this.#aborted) {
      throw this.#reason;
    }
  }

  static abort(reason = undefined) {
    const signal = new AbortSignal(construct);
    signalAbort(signal, reason);
    return signal;
  }

  static timeout(delay) {
    if (!(Number(delay) >= 0 && Number(delay) <= Number.MAX_SAFE_INTEGER)) {
      throw new TypeError("Failed to execute 'timeout' on 'AbortSignal': the delay is not a number of milliseconds.");
    }
    const signal = new AbortSignal(construct);
    setTimeout(() => signalAbort(signal, new DOMException("The operation was aborted due to timeout", "TimeoutError")), delay);
    return signal;
  }

  static any(signals) {
    const out = new AbortSignal(construct);
    const sources = [...signals];
    for (const s of sources) {
      if (!(s instanceof AbortSignal)) {
        throw new TypeError("Failed to execute 'any' on 'AbortSignal': an element is not an AbortSignal.");
      }
    }
    const done = sources.find((s) => s.#aborted);
    if (done !== undefined) {
      out.#aborted = true;
      out.#reason = done.#reason;
      return out;
    }
    for (const s of sources) {
      s.#dependents.add(out);
    }
    return out;
  }
}
handlerAttribute(AbortSignal, "abort");

export class AbortController {
  #signal = new AbortSignal(construct);

  get signal() { return this.#signal; }
  abort(reason = undefined) { signalAbort(this.#signal, reason); }
}

idl(AbortSignal);
idl(AbortController);
