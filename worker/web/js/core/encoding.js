// TextEncoder, TextDecoder, atob and btoa, over the host's codecs.

import { DOMException, hostCall } from "./exception.js";
import { host } from "./host.js";
import { bytesOf, concat, idl, need, usv } from "./idl.js";

/** A string as UTF-8; lone surrogates become U+FFFD. */
export const utf8 = (s) => host.encodeUTF8(s.toWellFormed());

/** "UTF-8 decode" of the standard: a byte order mark is taken off, what is malformed becomes U+FFFD. */
export const fromUTF8 = (bytes) => (bytes.byteLength === 0 ? "" : host.decodeText("utf-8", stripBOM(bytes), false, false)[0]);

const stripBOM = (b) => (b.length >= 3 && b[0] === 0xef && b[1] === 0xbb && b[2] === 0xbf ? b.subarray(3) : b);

export class TextEncoder {
  get encoding() { return "utf-8"; }

  encode(input = "") {
    return utf8(`${input}`);
  }

  encodeInto(source, destination) {
    need(arguments, 2, "encodeInto");
    if (!(destination instanceof Uint8Array)) {
      throw new TypeError("Failed to execute 'encodeInto' on 'TextEncoder': the destination is not a Uint8Array.");
    }
    source = usv(source);
    let bytes = utf8(source);
    if (bytes.length <= destination.length) {
      destination.set(bytes);
      return { read: source.length, written: bytes.length };
    }
    // Cut before the character that no longer fits, and count what is left in UTF-16 units.
    let end = destination.length;
    while (end > 0 && (bytes[end] & 0xc0) === 0x80) {
      end--;
    }
    bytes = bytes.subarray(0, end);
    destination.set(bytes);
    return { read: end === 0 ? 0 : host.decodeText("utf-8", bytes, false, false)[0].length, written: end };
  }
}
idl(TextEncoder);

export class TextDecoder {
  #encoding;
  #fatal;
  #ignoreBOM;
  // Bytes of an unfinished character, between calls with {stream: true}; null when no stream is open.
  #rest = null;
  #bomSeen = false;

  constructor(label = "utf-8", options = {}) {
    this.#encoding = host.encodingOf(`${label}`);
    if (this.#encoding === "") {
      throw new RangeError(`Failed to construct 'TextDecoder': the encoding label '${label}' is invalid.`);
    }
    this.#fatal = Boolean(options?.fatal);
    this.#ignoreBOM = Boolean(options?.ignoreBOM);
  }

  get encoding() { return this.#encoding; }
  get fatal() { return this.#fatal; }
  get ignoreBOM() { return this.#ignoreBOM; }

  decode(input = undefined, options = {}) {
    let bytes = input === undefined ? new Uint8Array(0) : bytesOf(input);
    if (bytes === undefined) {
      throw new TypeError("Failed to execute 'decode' on 'TextDecoder': the input is neither an ArrayBuffer nor a view of one.");
    }
    const stream = Boolean(options?.stream);
    if (this.#rest === null) {
      this.#bomSeen = false;
    } else if (this.#rest.length > 0) {
      bytes = concat([this.#rest, bytes]);
    }
    this.#rest = null;
    if (bytes.length === 0 && !stream) {
      return "";
    }
    // The host says how many bytes it left: those of a character that is not complete yet.
    let [text, left] = hostCall(host.decodeText, this.#encoding, bytes, this.#fatal, stream);
    if (stream) {
      this.#rest = bytes.slice(bytes.length - left);
    }
    if (!this.#bomSeen && text.length > 0) {
      this.#bomSeen = true;
      if (!this.#ignoreBOM && text.charCodeAt(0) === 0xfeff && /^utf-/.test(this.#encoding)) {
        text = text.slice(1);
      }
    }
    return text;
  }
}
idl(TextDecoder);

export function atob(data) {
  need(arguments, 1, "atob");
  const out = host.atob(`${data}`);
  if (out === null) {
    throw new DOMException("Failed to execute 'atob': the string is not correctly encoded.", "InvalidCharacterError");
  }
  return out;
}

export function btoa(data) {
  need(arguments, 1, "btoa");
  const out = host.btoa(`${data}`);
  if (out === null) {
    throw new DOMException("Failed to execute 'btoa': the string contains characters outside of the Latin1 range.", "InvalidCharacterError");
  }
  return out;
}
