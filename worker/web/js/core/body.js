// Body: what Request and Response share.
//
// A body is held in the cheapest form that it came in: text or bytes in memory, a stream of the host's (by
// number), or a ReadableStream. The streams chunk is loaded only when somebody asks for `.body`, or hands in
// a stream; text() of a body in memory never touches a stream.

import { Blob, blobBytes, blobOf } from "./blob.js";
import { fromUTF8, utf8 } from "./encoding.js";
import { FormData, decodeForm, encodeForm } from "./formdata.js";
import { chunk, host, loadedChunk } from "./host.js";
import { bytesOf, idl } from "./idl.js";
import { operation } from "./ops.js";
import { URLSearchParams } from "./url.js";

/** What a body is made of. Exactly one of source, hostStream and stream is set, or source and stream. */
class BodyState {
  source = null; // string or Uint8Array, which nobody changes
  hostStream = 0; // number of a stream of the host that is not read yet
  stream = null; // ReadableStream
  length = undefined; // bytes, if known
  used = false;
  onCancel = undefined; // called when the reader gives up

  get disturbed() {
    return this.used || (this.stream !== null && chunk("streams").isDisturbed(this.stream));
  }

  get unusable() {
    return this.disturbed || (this.stream !== null && this.stream.locked);
  }

  /** The body as a stream, made at the first call. */
  open() {
    if (this.stream === null) {
      const streams = chunk("streams");
      if (this.hostStream !== 0) {
        this.stream = streams.streamOfHost(this.hostStream);
        this.hostStream = 0;
      } else {
        this.stream = streams.streamOfBytes(typeof this.source === "string" ? utf8(this.source) : this.source);
        // new Response(other.body) goes on with the bytes, and not with the stream.
        sources.set(this.stream, this.source);
      }
      if (this.used) {
        streams.exhaust(this.stream);
      }
    }
    return this.stream;
  }

  /** The whole body as a string or bytes, or a promise of that; at most once. */
  consume() {
    if (this.unusable) {
      throw new TypeError("Body has already been used. It can only be used once. Use tee() first if you need to read it twice.");
    }
    this.used = true;
    const { source, hostStream, stream } = this;
    if (source !== null) {
      this.source = "";
      if (stream !== null) {
        chunk("streams").exhaust(stream);
      }
      return source;
    }
    if (hostStream !== 0) {
      return operation((id) => host.readAll(hostStream, id));
    }
    return chunk("streams").readAll(stream);
  }

  /** A second body with the same content. This one goes on in another form when it is a stream. */
  clone() {
    if (this.unusable) {
      throw new TypeError("Body has already been used. It can only be used once. Use tee() first if you need to read it twice.");
    }
    const copy = new BodyState();
    copy.length = this.length;
    if (this.source !== null) {
      copy.source = this.source;
    } else {
      [this.stream, copy.stream] = chunk("streams").teeBytes(this.open());
    }
    return copy;
  }
}

// ReadableStream → what it was made of, as long as nobody has read from it.
const sources = new WeakMap();

/** The body of a message that arrived; null when it has none. */
export function bodyFromHost(bytes, stream, length) {
  if (bytes !== null) {
    return memoryBody(bytes);
  }
  if (stream === 0) {
    return null;
  }
  const state = new BodyState();
  state.hostStream = stream;
  state.length = length < 0 ? undefined : length;
  return state;
}

/** A body of text or bytes that nobody changes any more. */
export function memoryBody(source) {
  const state = new BodyState();
  state.source = source;
  return state;
}

/** What a BodyInit is: [state, content type or null]. */
export function extractBody(init) {
  if (typeof init === "object" && init !== null) {
    const bytes = bytesOf(init);
    if (bytes !== undefined) {
      return [memoryBody(bytes.slice()), null];
    }
    if (init instanceof Blob) {
      return [memoryBody(blobBytes(init)), init.type === "" ? null : init.type];
    }
    if (init instanceof FormData) {
      const form = encodeForm(init);
      return [memoryBody(form.bytes), form.type];
    }
    if (init instanceof URLSearchParams) {
      return [memoryBody(init.toString()), "application/x-www-form-urlencoded;charset=UTF-8"];
    }
    const streams = loadedChunk("streams");
    if (streams !== undefined && streams.isStream(init)) {
      if (init.locked || streams.isDisturbed(init)) {
        throw new TypeError("This ReadableStream is disturbed (has already been read from), and cannot be used as a body.");
      }
      const state = new BodyState();
      state.stream = init;
      state.source = sources.get(init) ?? null;
      state.length = streams.lengthOf(init);
      return [state, null];
    }
    // What can be iterated asynchronously is a body too, as in Node.js and in workerd.
    if (typeof init[Symbol.asyncIterator] === "function") {
      return extractBody(chunk("streams").ReadableStream.from(init));
    }
  }
  return [memoryBody(`${init}`.toWellFormed()), "text/plain;charset=UTF-8"];
}

const raw = (data) => (typeof data === "string" ? utf8(data) : data);
// The bytes in memory may be those of a Blob, or of a clone.
const asBytes = (data) => (typeof data === "string" ? utf8(data) : data.slice());
const asText = (data) => (typeof data !== "string" ? fromUTF8(data) : data.charCodeAt(0) === 0xfeff ? data.slice(1) : data);

const sent = Symbol("sent");

let stateOf, setState, takeText;

export class Body {
  #state = null; // a BodyState; or its text, until somebody asks; or sent, when that has left

  static {
    stateOf = (body) => {
      if (typeof body.#state === "string" || body.#state === sent) {
        const state = memoryBody(body.#state === sent ? "" : body.#state);
        state.used = body.#state === sent;
        body.#state = state;
      }
      return body.#state;
    };
    setState = (body, state) => {
      body.#state = state;
    };
    takeText = (body) => {
      const text = body.#state;
      if (typeof text !== "string") {
        return undefined;
      }
      body.#state = sent;
      return text;
    };
  }

  get body() {
    const state = stateOf(this);
    return state === null ? null : state.open();
  }

  get bodyUsed() {
    const state = stateOf(this);
    return state !== null && state.disturbed;
  }

  text() { return read(this, asText); }
  json() { return read(this, (data) => JSON.parse(asText(data))); }
  bytes() { return read(this, asBytes); }
  arrayBuffer() { return read(this, (data) => asBytes(data).buffer); }
  blob() { return read(this, (data, body) => blobOf(raw(data), body.headers.get("content-type") ?? "")); }
  formData() { return read(this, (data, body) => decodeForm(raw(data), body.headers.get("content-type"))); }
}
idl(Body);

// The result is of a string or bytes. What is in memory goes through one promise only.
function read(body, convert) {
  try {
    const state = stateOf(body);
    const data = state === null ? "" : state.consume();
    return data instanceof Promise ? data.then((d) => convert(d, body)) : Promise.resolve(convert(data, body));
  } catch (e) {
    return Promise.reject(e);
  }
}

/** The state of a Request's or Response's body; null when it has none. */
export const bodyState = (body) => stateOf(body);
/** Sets it, or the text of the body. */
export const setBodyState = (body, state) => setState(body, state);

/** The body as it leaves for the host, if it is a text that nobody has asked for: it counts as used from now on. */
export const textOut = (body) => takeText(body);

/**
 * The body as it leaves for the host: {bytes}, which may be text, when it is in memory, {hostStream} when it is one of the host's
 * own streams that nobody has read from, {stream} otherwise. It counts as used from now on.
 */
export function bodyOut(body) {
  const text = takeText(body);
  if (text !== undefined) {
    return { bytes: text };
  }
  const state = stateOf(body);
  if (state === null) {
    return {};
  }
  if (state.unusable) {
    throw new TypeError("Body has already been used. It can only be used once. Use tee() first if you need to read it twice.");
  }
  const { source, hostStream, stream, length } = state;
  if (source !== null) {
    if (stream !== null) {
      chunk("streams").exhaust(stream);
    }
    state.used = true;
    state.source = "";
    return { bytes: source };
  }
  if (hostStream !== 0) {
    state.used = true;
    return { hostStream, length };
  }
  return { stream, length };
}
