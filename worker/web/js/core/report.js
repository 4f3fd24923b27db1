// Errors that nobody catches: an "error" or "unhandledrejection" event on globalThis, and a line in the
// log unless a listener prevents it.

// Set by console.js and main.js, which import this module: the imports of these modules go in a circle.
let sink = () => {};
let dispatch = () => true;

export function onUncaught(log, dispatchEvent) {
  sink = log;
  dispatch = dispatchEvent;
}

let reporting = false;

export function reportError(error) {
  if (reporting) {
    sink("Uncaught (in an error handler)", error);
    return;
  }
  reporting = true;
  try {
    if (dispatch("error", error)) {
      sink("Uncaught", error);
    }
  } finally {
    reporting = false;
  }
}

/** Called by the host when a promise was rejected and nobody handles it. */
export function unhandledRejection(promise, reason) {
  if (dispatch("unhandledrejection", reason, promise)) {
    sink("Uncaught (in promise)", reason);
  }
}
