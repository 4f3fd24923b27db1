// Operations that the host carries out and answers later. JavaScript starts one under a number; the
// host settles it by that number, in an event of the object that started it.

import { errorOf } from "./exception.js";

const pending = new Map();
let last = 0;

/** Starts an operation: start(id) hands its number to the host. The promise settles when the host says so. */
export function operation(start) {
  const { promise, resolve, reject } = Promise.withResolvers();
  const id = ++last;
  pending.set(id, { resolve, reject });
  try {
    start(id);
  } catch (e) {
    pending.delete(id);
    reject(e);
  }
  return promise;
}

/** Called by the host. What is not pending any more was abandoned, and is ignored. */
export function resolveOperation(id, value) {
  const op = pending.get(id);
  if (op !== undefined) {
    pending.delete(id);
    op.resolve(value);
  }
}

/** Called by the host: name is that of a standard error or of a DOMException. */
export function rejectOperation(id, name, message) {
  const op = pending.get(id);
  if (op !== undefined) {
    pending.delete(id);
    op.reject(errorOf(name, message));
  }
}
