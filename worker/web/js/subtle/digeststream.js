// crypto.DigestStream of Workers: a WritableStream whose digest is that of all that was written to it.

import { DOMException, bytesOf, chunk, idl, utf8 } from "holdfast:core";

import { normalize } from "./algorithms.js";
import { none, run } from "./run.js";

let made;

/** The class; made at its first use, since it loads the streams. */
export function digestStream() {
  made ??= make(chunk("streams").WritableStream);
  return made;
}

function make(WritableStream) {
  class DigestStream extends WritableStream {
    #digest;
    #bytes = 0n;

    constructor(algorithm) {
      const hash = normalize(algorithm, "digest").name;
      const { promise, resolve, reject } = Promise.withResolvers();
      // Nobody may be waiting for it.
      promise.catch(() => {});
      let state = none;
      let self;
      super({
        write(value) {
          const bytes = typeof value === "string" ? utf8(value) : bytesOf(value);
          if (bytes === undefined) {
            const error = new TypeError("DigestStream is a byte stream but received an object of non-ArrayBuffer/ArrayBufferView/string type on its writable side.");
            reject(error);
            throw error;
          }
          state = run("hash-more", { hash }, state, bytes);
          self.#bytes += BigInt(bytes.byteLength);
        },
        close() {
          resolve(run("hash-end", { hash }, state).buffer);
        },
        abort(reason) {
          reject(reason ?? new DOMException("The stream was aborted.", "AbortError"));
        },
      });
      self = this;
      this.#digest = promise;
    }

    get digest() { return this.#digest; }
    get bytesWritten() { return this.#bytes; }
  }
  return idl(DigestStream, ["digest"]);
}
