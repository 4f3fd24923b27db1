// The subtle chunk: SubtleCrypto and CryptoKey by the Web Cryptography standard. What is said of names, usages and
// keys is here; the host works on the bytes (internal/webcrypto). Its operations are synchronous: promises are
// settled at once.

import { DOMException, bytesOf, host, idl, need } from "holdfast:core";

import { normalize, registry } from "./algorithms.js";
import { CryptoKey } from "./key.js";
import { run } from "./run.js";

export { CryptoKey };

const construct = Symbol("construct");

/** A copy of a BufferSource, as the standard takes one before it goes on. */
function data(source, what) {
  const bytes = bytesOf(source);
  if (bytes === undefined) {
    throw new TypeError(`${what} is neither an ArrayBuffer nor a view of one.`);
  }
  return bytes.slice();
}

function check(key, name, usage) {
  if (!(key instanceof CryptoKey)) {
    throw new TypeError("The key is not a CryptoKey.");
  }
  if (key.algorithm.name !== name) {
    throw new DOMException(`Requested algorithm "${name}" does not match this CryptoKey ("${key.algorithm.name}").`, "InvalidAccessError");
  }
  if (!key.usages.includes(usage)) {
    throw new DOMException(`Requested key usage "${usage}" does not match any usage listed in this CryptoKey.`, "InvalidAccessError");
  }
}

const all = ["encrypt", "decrypt", "sign", "verify", "deriveKey", "deriveBits", "wrapKey", "unwrapKey"];

function usagesOf(usages) {
  const out = [...usages].map((u) => `${u}`);
  for (const u of out) {
    if (!all.includes(u)) {
      throw new TypeError(`Unknown key usage "${u}".`);
    }
  }
  return all.filter((u) => out.includes(u));
}

function only(usages, allowed, name) {
  for (const u of usages) {
    if (!allowed.includes(u)) {
      throw new DOMException(`Attempt to use the unsupported usage "${u}" with a key of ${name}.`, "SyntaxError");
    }
  }
}

const some = (usages) => {
  if (usages.length === 0) {
    throw new DOMException("A secret or private key needs at least one usage.", "SyntaxError");
  }
};

export class SubtleCrypto {
  constructor(secret) {
    if (secret !== construct) {
      throw new TypeError("Illegal constructor");
    }
  }

  async digest(algorithm, source) {
    need(arguments, 2, "digest");
    const alg = normalize(algorithm, "digest");
    return run("digest", { hash: alg.name }, data(source, "The data")).buffer;
  }

  async encrypt(algorithm, key, source) {
    need(arguments, 3, "encrypt");
    const alg = normalize(algorithm, "encrypt");
    const bytes = data(source, "The data");
    check(key, alg.name, "encrypt");
    return registry[alg.name].cipher(alg, key, bytes, false).buffer;
  }

  async decrypt(algorithm, key, source) {
    need(arguments, 3, "decrypt");
    const alg = normalize(algorithm, "encrypt");
    const bytes = data(source, "The data");
    check(key, alg.name, "decrypt");
    return registry[alg.name].cipher(alg, key, bytes, true).buffer;
  }

  async sign(algorithm, key, source) {
    need(arguments, 3, "sign");
    const alg = normalize(algorithm, "sign");
    const bytes = data(source, "The data");
    check(key, alg.name, "sign");
    return registry[alg.name].sign(alg, key, bytes).buffer;
  }

  async verify(algorithm, key, signature, source) {
    need(arguments, 4, "verify");
    const alg = normalize(algorithm, "sign");
    const sig = data(signature, "The signature");
    const bytes = data(source, "The data");
    check(key, alg.name, "verify");
    return registry[alg.name].verify(alg, key, sig, bytes);
  }

  async generateKey(algorithm, extractable, keyUsages) {
    need(arguments, 3, "generateKey");
    const alg = normalize(algorithm, "generateKey");
    const usages = usagesOf(keyUsages);
    only(usages, registry[alg.name].usages, alg.name);
    return registry[alg.name].generate(alg, Boolean(extractable), usages, some);
  }

  async importKey(format, keyData, algorithm, extractable, keyUsages) {
    need(arguments, 5, "importKey");
    const alg = normalize(algorithm, "importKey");
    const usages = usagesOf(keyUsages);
    let material;
    if (format === "jwk") {
      if (typeof keyData !== "object" || keyData === null || bytesOf(keyData) !== undefined) {
        throw new TypeError("A key of the format jwk is an object.");
      }
      material = keyData;
    } else if (format === "raw" || format === "pkcs8" || format === "spki") {
      material = data(keyData, "The key");
    } else {
      throw new TypeError(`Unknown key format "${format}".`);
    }
    return importKey(format, material, alg, Boolean(extractable), usages);
  }

  async exportKey(format, key) {
    need(arguments, 2, "exportKey");
    return exportKey(format, key);
  }

  async deriveBits(algorithm, baseKey, length = null) {
    need(arguments, 2, "deriveBits");
    const alg = normalize(algorithm, "deriveBits");
    check(baseKey, alg.name, "deriveBits");
    return registry[alg.name].derive(alg, baseKey, length === null ? null : Number(length)).buffer;
  }

  async deriveKey(algorithm, baseKey, derivedKeyType, extractable, keyUsages) {
    need(arguments, 5, "deriveKey");
    const alg = normalize(algorithm, "deriveBits");
    const type = normalize(derivedKeyType, "importKey");
    const length = registry[type.name].keyLength?.(normalize(derivedKeyType, "keyLength")) ?? null;
    const usages = usagesOf(keyUsages);
    check(baseKey, alg.name, "deriveKey");
    const bits = registry[alg.name].derive(alg, baseKey, length);
    return importKey("raw", bits, type, Boolean(extractable), usages);
  }

  async wrapKey(format, key, wrappingKey, wrapAlgorithm) {
    need(arguments, 4, "wrapKey");
    const alg = normalize(wrapAlgorithm, "wrapKey");
    check(wrappingKey, alg.name, "wrapKey");
    const exported = exportKey(format, key);
    const bytes = format === "jwk" ? host.encodeUTF8(JSON.stringify(exported)) : new Uint8Array(exported);
    return registry[alg.name].cipher(alg, wrappingKey, bytes, false).buffer;
  }

  async unwrapKey(format, wrappedKey, unwrappingKey, unwrapAlgorithm, unwrappedKeyAlgorithm, extractable, keyUsages) {
    need(arguments, 7, "unwrapKey");
    const alg = normalize(unwrapAlgorithm, "wrapKey");
    const type = normalize(unwrappedKeyAlgorithm, "importKey");
    const usages = usagesOf(keyUsages);
    const wrapped = data(wrappedKey, "The wrapped key");
    check(unwrappingKey, alg.name, "unwrapKey");
    const bytes = registry[alg.name].cipher(alg, unwrappingKey, wrapped, true);
    let material = bytes;
    if (format === "jwk") {
      try {
        material = JSON.parse(host.decodeText("utf-8", bytes, false, false)[0]);
      } catch {
        throw new DOMException("The unwrapped key is no JSON.", "DataError");
      }
    }
    return importKey(format, material, type, Boolean(extractable), usages);
  }

  /** Of Workers: compares without telling by its time where the difference is. */
  timingSafeEqual(a, b) {
    need(arguments, 2, "timingSafeEqual");
    const [x, y] = [bytesOf(a), bytesOf(b)];
    if (x === undefined || y === undefined) {
      throw new TypeError("timingSafeEqual takes two ArrayBuffers or views of them.");
    }
    if (x.byteLength !== y.byteLength) {
      throw new TypeError("Input buffers must have the same byte length.");
    }
    return host.equalBytes(x, y);
  }
}
idl(SubtleCrypto);

function importKey(format, material, alg, extractable, usages) {
  const entry = registry[alg.name];
  if (format === "jwk") {
    if (material.ext === false && extractable) {
      throw new DOMException("The JWK says that it must not be extractable.", "DataError");
    }
    if (material.key_ops !== undefined) {
      for (const u of usages) {
        if (!material.key_ops.includes(u)) {
          throw new DOMException(`The JWK's key_ops do not have "${u}".`, "DataError");
        }
      }
    }
  }
  const key = entry.import(format, material, alg, extractable, usages, only);
  if (key.type !== "public") {
    some(usages);
  }
  return key;
}

function exportKey(format, key) {
  if (!(key instanceof CryptoKey)) {
    throw new TypeError("The key is not a CryptoKey.");
  }
  const entry = registry[key.algorithm.name];
  if (entry.export === undefined) {
    throw new DOMException(`Keys of ${key.algorithm.name} cannot be exported.`, "NotSupportedError");
  }
  if (!key.extractable) {
    throw new DOMException("Attempt to export a non-extractable key.", "InvalidAccessError");
  }
  const out = entry.export(format, key);
  if (format === "jwk") {
    return { ...out, key_ops: [...key.usages], ext: key.extractable };
  }
  return out.buffer;
}

export const subtle = new SubtleCrypto(construct);

export { digestStream } from "./digeststream.js";

