// TextEncoderStream and TextDecoderStream.

import { TransformStream } from "web-streams-polyfill";

import { TextDecoder, idl, utf8 } from "holdfast:core";

/** A class with readable and writable of a TransformStream that it owns. */
class Pair {
  #stream;
  constructor(transformer) {
    this.#stream = new TransformStream(transformer);
  }
  get readable() { return this.#stream.readable; }
  get writable() { return this.#stream.writable; }
}
idl(Pair);

export class TextEncoderStream extends Pair {
  constructor() {
    let high = ""; // a high surrogate whose other half comes with the next chunk
    super({
      transform(value, controller) {
        let text = high + `${value}`;
        high = "";
        if (/[\ud800-\udbff]$/.test(text)) {
          high = text.slice(-1);
          text = text.slice(0, -1);
        }
        if (text !== "") {
          controller.enqueue(utf8(text));
        }
      },
      flush(controller) {
        if (high !== "") {
          controller.enqueue(utf8(high));
        }
      },
    });
  }

  get encoding() { return "utf-8"; }
}
idl(TextEncoderStream);

export class TextDecoderStream extends Pair {
  #decoder;

  constructor(label = "utf-8", options = {}) {
    const decoder = new TextDecoder(label, options);
    super({
      transform(value, controller) {
        const text = decoder.decode(value, { stream: true });
        if (text !== "") {
          controller.enqueue(text);
        }
      },
      flush(controller) {
        const text = decoder.decode();
        if (text !== "") {
          controller.enqueue(text);
        }
      },
    });
    this.#decoder = decoder;
  }

  get encoding() { return this.#decoder.encoding; }
  get fatal() { return this.#decoder.fatal; }
  get ignoreBOM() { return this.#decoder.ignoreBOM; }
}
idl(TextDecoderStream);

export { Pair };
