// Parts of Workers that are not there: using one says so, and says what to do instead.

import { globals } from "./idl.js";

const missing = {
  WebSocketPair: "WebSocketPair is not supported yet: answer with a streamed Response (server-sent events) instead.",
  WebSocket: "WebSocket is not supported yet: use fetch.",
  EventSource: "EventSource is not supported: use fetch, and read the body as a stream.",
  HTMLRewriter: "HTMLRewriter is not supported: use a parser from npm.",
};

class CacheStorage {
  get default() {
    throw new Error("The Cache API (caches.default) is not supported: there is no cache in front of workers here. Keep values in an object's storage.");
  }
  async open() {
    throw new Error("The Cache API (caches.open) is not supported: there is no cache in front of workers here. Keep values in an object's storage.");
  }
}

export function notSupported() {
  for (const [name, message] of Object.entries(missing)) {
    globals({
      [name]: class {
        static {
          Object.defineProperty(this, "name", { value: name });
        }
        constructor() {
          throw new Error(message);
        }
      },
    });
  }
  globals({ caches: new CacheStorage() });
}
