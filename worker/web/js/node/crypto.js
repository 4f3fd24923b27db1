// node:crypto: hashes, HMACs and randomness. The rest is in crypto.subtle.

import { bytesOf, concat, host, hostCall, utf8 } from "holdfast:core";

const names = { md5: "MD5", sha1: "SHA-1", sha256: "SHA-256", sha384: "SHA-384", sha512: "SHA-512" };

function hashName(algorithm) {
  const name = names[`${algorithm}`.toLowerCase().replace("-", "")];
  if (name === undefined) {
    throw Object.assign(new Error(`Digest method not supported: ${algorithm}`), { code: "ERR_CRYPTO_INVALID_DIGEST" });
  }
  return name;
}

// Buffer is made by main.js, which imports this module.
let Buffer;
export function setBuffer(B) {
  Buffer = B;
}

function dataOf(data, encoding) {
  if (typeof data === "string") {
    return encoding === undefined || /^utf-?8$/i.test(encoding) ? utf8(data) : Buffer.from(data, encoding);
  }
  const bytes = bytesOf(data);
  if (bytes === undefined) {
    throw new TypeError('The "data" argument must be of type string or an instance of Buffer, TypedArray, or DataView.');
  }
  return bytes.slice();
}

/** What createHash and createHmac return. finish makes the digest of all the data. */
class Digest {
  #chunks = [];
  #finish;

  constructor(finish) {
    this.#finish = finish;
  }

  update(data, encoding) {
    if (this.#finish === undefined) {
      throw Object.assign(new Error("Digest already called"), { code: "ERR_CRYPTO_HASH_FINALIZED" });
    }
    this.#chunks.push(dataOf(data, encoding));
    return this;
  }

  digest(encoding) {
    if (this.#finish === undefined) {
      throw Object.assign(new Error("Digest already called"), { code: "ERR_CRYPTO_HASH_FINALIZED" });
    }
    const out = this.#finish(concat(this.#chunks));
    this.#finish = undefined;
    const buffer = Buffer.from(out.buffer);
    return encoding === undefined || encoding === "buffer" ? buffer : buffer.toString(encoding);
  }
}

const run = (op, hash, ...inputs) => hostCall(host.subtle, op, JSON.stringify({ hash }), ...inputs)[0];

function createHash(algorithm) {
  const hash = hashName(algorithm);
  return new Digest((data) => run("digest", hash, data));
}

function createHmac(algorithm, key) {
  const hash = hashName(algorithm);
  const secret = dataOf(key);
  return new Digest((data) => run("hmac", hash, secret, data));
}

function randomBytes(size, callback) {
  const out = Buffer.from(host.random(size).buffer);
  if (callback === undefined) {
    return out;
  }
  queueMicrotask(() => callback(null, out));
}

function randomInt(min, max) {
  [min, max] = max === undefined ? [0, min] : [min, max];
  const range = max - min;
  if (!Number.isSafeInteger(min) || !Number.isSafeInteger(max) || range <= 0 || range > 2 ** 48 - 1) {
    throw new RangeError("randomInt takes safe integers, the first below the second, and at most 2^48-1 apart.");
  }
  // Numbers beyond the last multiple of the range would favour some.
  const limit = 2 ** 48 - (2 ** 48 % range);
  for (;;) {
    const n = host.random(6).reduce((sum, b) => sum * 256 + b, 0);
    if (n < limit) {
      return min + (n % range);
    }
  }
}

export const nodeCrypto = {
  createHash,
  createHmac,
  getHashes: () => Object.keys(names),
  getRandomValues: (array) => globalThis.crypto.getRandomValues(array),
  hash: (algorithm, data, encoding = "hex") => createHash(algorithm).update(data).digest(encoding),
  randomBytes,
  randomInt,
  randomUUID: () => host.randomUUID(),
  get subtle() { return globalThis.crypto.subtle; },
  timingSafeEqual(a, b) {
    const [x, y] = [bytesOf(a), bytesOf(b)];
    if (x?.byteLength !== y?.byteLength) {
      throw Object.assign(new RangeError("Input buffers must have the same byte length"), { code: "ERR_CRYPTO_TIMING_SAFE_EQUAL_LENGTH" });
    }
    return host.equalBytes(x, y);
  },
  webcrypto: globalThis.crypto,
};
