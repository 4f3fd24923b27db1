// crypto: randomness here, the rest in the subtle chunk.

import { DOMException } from "./exception.js";
import { chunk, host } from "./host.js";
import { bytesOf, idl, need } from "./idl.js";

// What getRandomValues gives at a time, by the standard.
const randomMax = 65536;

export class Crypto {
  getRandomValues(array) {
    need(arguments, 1, "getRandomValues");
    if (!ArrayBuffer.isView(array) || array instanceof DataView || /^Float/.test(array[Symbol.toStringTag])) {
      throw new DOMException("The data argument must be an integer-type TypedArray.", "TypeMismatchError");
    }
    if (array.byteLength > randomMax) {
      throw new DOMException(
        `getRandomValues() only accepts buffers of size <= ${randomMax / 1024}K but provided ${array.byteLength} bytes.`,
        "QuotaExceededError",
      );
    }
    bytesOf(array).set(host.random(array.byteLength));
    return array;
  }

  randomUUID() { return host.randomUUID(); }
  get subtle() { return chunk("subtle").subtle; }
  get DigestStream() { return chunk("subtle").digestStream(); }
}
idl(Crypto, ["subtle", "DigestStream"]);

export const crypto = new Crypto();
