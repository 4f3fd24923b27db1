// The host object: the functions that Go registers for the platform (see host.go), and the loader of the
// chunks that are only evaluated at their first use.

/* global __host */

/** The functions of the host. `__host` is the parameter of the function that the bundle is wrapped into. */
export const host = __host;

const loaded = new Map();

/**
 * The exports of a chunk, evaluated at first use. A chunk is a function of (host, core): core is what the
 * core hands to chunks, set once by main.js.
 */
export function chunk(name) {
  let exports = loaded.get(name);
  if (exports === undefined) {
    exports = host.loadChunk(name)(host, chunk.core);
    loaded.set(name, exports);
  }
  return exports;
}
chunk.core = undefined;

/** The exports of a chunk if it has been loaded. */
export const loadedChunk = (name) => loaded.get(name);
