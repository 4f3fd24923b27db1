// Blob and File: bytes in memory.

import { chunk } from "./host.js";
import { fromUTF8, utf8 } from "./encoding.js";
import { bytesOf, concat, idl, need, usv } from "./idl.js";

const typeOf = (type) => {
  type = `${type}`;
  return /[^\x20-\x7e]/.test(type) ? "" : type.toLowerCase();
};

let bytesIn, blobFrom;

export class Blob {
  #bytes;
  #type;

  static {
    bytesIn = (blob) => blob.#bytes;
    blobFrom = (bytes, type) => {
      const blob = new Blob();
      blob.#bytes = bytes;
      blob.#type = type;
      return blob;
    };
  }

  constructor(parts = [], options = {}) {
    if (typeof parts !== "object" || parts === null || typeof parts[Symbol.iterator] !== "function") {
      throw new TypeError("Failed to construct 'Blob': the parts are not a sequence.");
    }
    const chunks = [];
    for (const part of parts) {
      if (typeof part === "object" && part !== null && #bytes in part) {
        chunks.push(part.#bytes);
      } else {
        chunks.push(bytesOf(part)?.slice() ?? utf8(`${part}`));
      }
    }
    this.#bytes = concat(chunks);
    this.#type = typeOf(options?.type ?? "");
  }

  get size() { return this.#bytes.byteLength; }
  get type() { return this.#type; }

  slice(start = 0, end = undefined, type = "") {
    return blobFrom(this.#bytes.subarray(start, end), typeOf(type));
  }

  async text() { return fromUTF8(this.#bytes); }
  async bytes() { return this.#bytes.slice(); }
  async arrayBuffer() { return this.#bytes.slice().buffer; }
  stream() { return chunk("streams").streamOfBytes(this.#bytes); }
}
idl(Blob);

export class File extends Blob {
  #name;
  #lastModified;

  constructor(parts, name, options = {}) {
    need(arguments, 2, "File");
    super(parts, options);
    this.#name = usv(name);
    this.#lastModified = options?.lastModified === undefined ? Date.now() : Math.trunc(Number(options.lastModified)) || 0;
  }

  get name() { return this.#name; }
  get lastModified() { return this.#lastModified; }
}
idl(File);

/** The bytes of a Blob, which nobody may change. */
export const blobBytes = (blob) => bytesIn(blob);

/** A Blob of bytes that nobody changes any more. */
export const blobOf = (bytes, type = "") => blobFrom(bytes, typeOf(type));
