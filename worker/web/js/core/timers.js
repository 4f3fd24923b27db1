// setTimeout and its kin, queueMicrotask and scheduler. The host keeps the clock: it fires each timer
// once, by number, and repeating ones are started again here.

import { host } from "./host.js";
import { idl } from "./idl.js";
import { reportError } from "./report.js";

// Timers by what setTimeout returned, as a number, and by the number that the host has for them now.
const timers = new Map();
const armed = new Map();
let lastTimer = 0;
let lastArmed = 0;
const delayMax = 2 ** 31 - 1;

/** What setTimeout returns, with Node.js's methods. Nothing here keeps a process up: ref and unref do nothing. */
class Timeout {
  #id;

  constructor(id) {
    this.#id = id;
  }

  ref() { return this; }
  unref() { return this; }
  hasRef() { return timers.has(this.#id); }
  refresh() {
    const timer = timers.get(this.#id);
    if (timer !== undefined) {
      disarm(timer);
      arm(timer);
    }
    return this;
  }
  close() {
    stop(this.#id);
    return this;
  }
  [Symbol.toPrimitive]() { return this.#id; }
  [Symbol.dispose]() { stop(this.#id); }
}
idl(Timeout);

function arm(timer) {
  const number = ++lastArmed;
  host.startTimer(number, timer.delay);
  timer.number = number;
  armed.set(number, timer);
}

function disarm(timer) {
  if (armed.delete(timer.number)) {
    host.stopTimer(timer.number);
  }
}

function start(callback, delay, args, repeat) {
  if (typeof callback !== "function") {
    throw new TypeError(`Failed to execute '${repeat ? "setInterval" : "setTimeout"}': the callback is not a function.`);
  }
  delay = Math.trunc(Number(delay));
  if (!(delay > 0)) {
    delay = repeat ? 1 : 0;
  } else if (delay > delayMax) {
    delay = 1; // as everywhere: a delay beyond 32 bits overflows
  }
  const id = ++lastTimer;
  const timer = { id, callback, args, delay, repeat, number: 0 };
  arm(timer);
  timers.set(id, timer);
  return id;
}

function stop(id) {
  const timer = timers.get(Number(id));
  if (timer !== undefined) {
    timers.delete(timer.id);
    disarm(timer);
  }
}

/** Called by the host when a timer is due. A timer that was stopped meanwhile is ignored. */
export function fireTimer(number) {
  const timer = armed.get(number);
  if (timer === undefined) {
    return;
  }
  armed.delete(number);
  if (timer.repeat) {
    arm(timer);
  } else {
    timers.delete(timer.id);
  }
  try {
    timer.callback.apply(globalThis, timer.args);
  } catch (e) {
    reportError(e);
  }
}

/** Called by the host when a timer will never be due, because what started it has ended. */
export function dropTimer(number) {
  const timer = armed.get(number);
  if (timer !== undefined) {
    armed.delete(number);
    timers.delete(timer.id);
  }
}

export const setTimeout = function setTimeout(callback, delay = 0, ...args) {
  return new Timeout(start(callback, delay, args, false));
};
export const setInterval = function setInterval(callback, delay = 0, ...args) {
  return new Timeout(start(callback, delay, args, true));
};
export const clearTimeout = function clearTimeout(id) {
  stop(id);
};
export const clearInterval = function clearInterval(id) {
  stop(id);
};

/** Of Node.js: as soon as what is due has run. */
export const setImmediate = function setImmediate(callback, ...args) {
  return new Timeout(start(callback, 0, args, false));
};
export const clearImmediate = function clearImmediate(id) {
  stop(id);
};

const resolved = Promise.resolve();

export function queueMicrotask(callback) {
  if (typeof callback !== "function") {
    throw new TypeError("Failed to execute 'queueMicrotask': the callback is not a function.");
  }
  resolved.then(() => {
    try {
      callback();
    } catch (e) {
      reportError(e);
    }
  });
}

export class Scheduler {
  /** Resolves after delay milliseconds; rejects when the signal aborts first. */
  wait(delay, options = {}) {
    const signal = options?.signal;
    if (signal?.aborted) {
      return Promise.reject(signal.reason);
    }
    return new Promise((resolve, reject) => {
      const abort = () => {
        stop(id);
        reject(signal.reason);
      };
      const id = start(() => {
        signal?.removeEventListener("abort", abort);
        resolve();
      }, delay, [], false);
      signal?.addEventListener("abort", abort, { once: true });
    });
  }
}
idl(Scheduler);
