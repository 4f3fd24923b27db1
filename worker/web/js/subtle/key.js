// CryptoKey. What it is made of stays in a private field.

import { idl } from "holdfast:core";

const construct = Symbol("construct");
let material;

export class CryptoKey {
  #type;
  #extractable;
  #algorithm;
  #usages;
  #material;

  static {
    material = (key) => key.#material;
  }

  constructor(secret, type, extractable, algorithm, usages, bytes) {
    if (secret !== construct) {
      throw new TypeError("Illegal constructor");
    }
    this.#type = type;
    this.#extractable = extractable;
    this.#algorithm = algorithm;
    this.#usages = usages;
    this.#material = bytes;
  }

  get type() { return this.#type; }
  get extractable() { return this.#extractable; }
  get algorithm() { return this.#algorithm; }
  get usages() { return this.#usages; }
}
idl(CryptoKey);

/**
 * A key. bytes is {secret} of a symmetric one, and {pkcs8, spki} of an asymmetric one, whose pkcs8 is empty when
 * it is public.
 */
export const makeKey = (type, extractable, algorithm, usages, bytes) =>
  new CryptoKey(construct, type, extractable, algorithm, usages, bytes);

export const materialOf = (key) => material(key);
