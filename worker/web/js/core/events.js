// Event, EventTarget and the events that workers meet.

import { DOMException } from "./exception.js";
import { reportError } from "./report.js";
import { idl, need } from "./idl.js";

// What dispatch sets on an event, out of reach of its users.
let internals;

export class Event {
  #type;
  #bubbles;
  #cancelable;
  #composed;
  #timeStamp = Date.now();
  #prevented = false;
  #flags = { target: null, current: null, phase: 0, stop: false, stopNow: false, dispatching: false, passive: false, trusted: false };

  static {
    internals = (event) => event.#flags;
  }

  constructor(type, init = {}) {
    need(arguments, 1, "Event");
    this.#type = `${type}`;
    this.#bubbles = Boolean(init?.bubbles);
    this.#cancelable = Boolean(init?.cancelable);
    this.#composed = Boolean(init?.composed);
  }

  get type() { return this.#type; }
  get target() { return this.#flags.target; }
  get srcElement() { return this.#flags.target; }
  get currentTarget() { return this.#flags.current; }
  get eventPhase() { return this.#flags.phase; }
  get bubbles() { return this.#bubbles; }
  get cancelable() { return this.#cancelable; }
  get composed() { return this.#composed; }
  get defaultPrevented() { return this.#prevented; }
  get returnValue() { return !this.#prevented; }
  get isTrusted() { return this.#flags.trusted; }
  get timeStamp() { return this.#timeStamp; }
  get cancelBubble() { return this.#flags.stop; }
  set cancelBubble(v) { if (v) this.#flags.stop = true; }
  composedPath() { return this.#flags.current === null ? [] : [this.#flags.current]; }
  stopPropagation() { this.#flags.stop = true; }
  stopImmediatePropagation() { this.#flags.stop = this.#flags.stopNow = true; }
  preventDefault() { if (this.#cancelable && !this.#flags.passive) this.#prevented = true; }
}
for (const [i, phase] of ["NONE", "CAPTURING_PHASE", "AT_TARGET", "BUBBLING_PHASE"].entries()) {
  Object.defineProperty(Event, phase, { value: i, enumerable: true });
  Object.defineProperty(Event.prototype, phase, { value: i, enumerable: true });
}

export class EventTarget {
  // type → [{callback, capture, once, passive, removed}]
  #listeners = new Map();

  addEventListener(type, callback, options = {}) {
    need(arguments, 2, "addEventListener");
    const o = typeof options === "object" && options !== null ? options : { capture: Boolean(options) };
    if (callback === null || callback === undefined) {
      return;
    }
    if (typeof callback !== "function" && typeof callback !== "object") {
      throw new TypeError("Failed to execute 'addEventListener': the listener is not a function or an object.");
    }
    if (o.signal?.aborted) {
      return;
    }
    type = `${type}`;
    const capture = Boolean(o.capture);
    let list = this.#listeners.get(type);
    if (list === undefined) {
      this.#listeners.set(type, (list = []));
    }
    if (list.some((l) => l.callback === callback && l.capture === capture)) {
      return;
    }
    list.push({ callback, capture, once: Boolean(o.once), passive: Boolean(o.passive), removed: false });
    o.signal?.addEventListener("abort", () => this.removeEventListener(type, callback, capture), { once: true });
  }

  removeEventListener(type, callback, options = {}) {
    const capture = Boolean(typeof options === "object" && options !== null ? options.capture : options);
    const list = this.#listeners.get(`${type}`);
    const at = list?.findIndex((l) => l.callback === callback && l.capture === capture) ?? -1;
    if (at >= 0) {
      list[at].removed = true;
      list.splice(at, 1);
    }
  }

  dispatchEvent(event) {
    if (!(event instanceof Event)) {
      throw new TypeError("Failed to execute 'dispatchEvent': the argument is not an Event.");
    }
    const flags = internals(event);
    if (flags.dispatching) {
      throw new DOMException("The event is already being dispatched.", "InvalidStateError");
    }
    const target = this === globalTarget ? globalThis : this;
    flags.dispatching = true;
    flags.target = flags.current = target;
    flags.phase = Event.AT_TARGET;
    const list = this.#listeners.get(event.type);
    if (list !== undefined && !flags.stop) {
      for (const l of [...list]) {
        if (l.removed) {
          continue;
        }
        if (l.once) {
          this.removeEventListener(event.type, l.callback, l.capture);
        }
        flags.passive = l.passive;
        try {
          if (typeof l.callback === "function") {
            l.callback.call(target, event);
          } else {
            l.callback.handleEvent(event);
          }
        } catch (e) {
          reportError(e);
        }
        flags.passive = false;
        if (flags.stopNow) {
          break;
        }
      }
    }
    flags.dispatching = false;
    flags.current = null;
    flags.phase = Event.NONE;
    flags.stop = flags.stopNow = false;
    return !event.defaultPrevented;
  }
}

/** Marks an event as the platform's own. */
export function trusted(event) {
  internals(event).trusted = true;
  return event;
}

/** An attribute on… of a class: its listener takes its place in the order when it is first set. */
export function handlerAttribute(C, type) {
  const handlers = new WeakMap();
  Object.defineProperty(C.prototype, `on${type}`, {
    configurable: true,
    enumerable: true,
    get() {
      return handlers.get(this)?.handler ?? null;
    },
    set(handler) {
      handler = typeof handler === "function" || (typeof handler === "object" && handler !== null) ? handler : null;
      const known = handlers.get(this);
      if (known !== undefined) {
        known.handler = handler;
        return;
      }
      const entry = { handler };
      handlers.set(this, entry);
      this.addEventListener(type, (event) => typeof entry.handler === "function" && entry.handler.call(this, event));
    },
  });
}

export class CustomEvent extends Event {
  #detail;
  constructor(type, init = {}) {
    super(type, init);
    this.#detail = init?.detail ?? null;
  }
  get detail() { return this.#detail; }
}

export class MessageEvent extends Event {
  #init;
  constructor(type, init = {}) {
    super(type, init);
    this.#init = { ...init };
  }
  get data() { return this.#init.data ?? null; }
  get origin() { return this.#init.origin ?? null; }
  get lastEventId() { return this.#init.lastEventId ?? ""; }
  get source() { return this.#init.source ?? null; }
  get ports() { return this.#init.ports ?? []; }
}

export class ErrorEvent extends Event {
  #init;
  constructor(type, init = {}) {
    super(type, init);
    this.#init = { ...init };
  }
  get message() { return `${this.#init.message ?? ""}`; }
  get filename() { return `${this.#init.filename ?? ""}`; }
  get lineno() { return this.#init.lineno ?? 0; }
  get colno() { return this.#init.colno ?? 0; }
  get error() { return this.#init.error; }
}

export class CloseEvent extends Event {
  #init;
  constructor(type, init = {}) {
    super(type, init);
    this.#init = { ...init };
  }
  get code() { return this.#init.code ?? 0; }
  get reason() { return `${this.#init.reason ?? ""}`; }
  get wasClean() { return Boolean(this.#init.wasClean); }
}

export class PromiseRejectionEvent extends Event {
  #init;
  constructor(type, init = {}) {
    super(type, init);
    this.#init = { ...init };
  }
  get promise() { return this.#init.promise; }
  get reason() { return this.#init.reason; }
}

[Event, EventTarget, CustomEvent, MessageEvent, ErrorEvent, CloseEvent, PromiseRejectionEvent].forEach((C) => idl(C));

/** What addEventListener on globalThis reaches. */
export const globalTarget = new EventTarget();
