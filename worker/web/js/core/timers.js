// setTimeout and its kin, queueMicrotask and scheduler. The host keeps the clock: it fires each timer
// once, by number, and repeating ones are started again here.

import { host } from "./host.js";
import { idl } from "./idl.js";
import { reportError } from "./report.js";

const timers = new Map();
let last = 0;
const delayMax = 2 ** 31 - 1;

function start(callback, delay, args, repeat) {
  if (typeof callback !== "function") {
    throw new TypeError(`Failed to execute '${repeat ? "setInterval" : "setTimeout"}': the callback is not a function.`);
  }
  delay = Math.trunc(Number(delay));
  if (!(delay > 0)) {
    delay = 0;
  } else if (delay > delayMax) {
    delay = 1; // as everywhere: a delay beyond 32 bits overflows
  }
  const id = ++last;
  timers.set(id, { callback, args, delay, repeat });
  try {
    host.startTimer(id, delay);
  } catch (e) {
    timers.delete(id);
    throw e;
  }
  return id;
}

function stop(id) {
  id = Number(id);
  if (timers.delete(id)) {
    host.stopTimer(id);
  }
}

/** Called by the host when a timer is due. A timer that was stopped meanwhile is ignored. */
export function fireTimer(id) {
  const timer = timers.get(id);
  if (timer === undefined) {
    return;
  }
  if (timer.repeat) {
    host.startTimer(id, Math.max(timer.delay, 1));
  } else {
    timers.delete(id);
  }
  try {
    timer.callback.apply(globalThis, timer.args);
  } catch (e) {
    reportError(e);
  }
}

export const setTimeout = function setTimeout(callback, delay = 0, ...args) {
  return start(callback, delay, args, false);
};
export const setInterval = function setInterval(callback, delay = 0, ...args) {
  return start(callback, delay, args, true);
};
export const clearTimeout = function clearTimeout(id) {
  stop(id);
};
export const clearInterval = function clearInterval(id) {
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
