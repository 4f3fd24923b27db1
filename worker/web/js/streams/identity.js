// IdentityTransformStream and FixedLengthStream of Workers: bytes in, the same bytes out.

import { TransformStream } from "web-streams-polyfill";

import { bytesOf, idl } from "holdfast:core";

export class IdentityTransformStream extends TransformStream {
  constructor(queuing = undefined, sink = undefined) {
    super({
      transform(value, controller) {
        const bytes = bytesOf(value);
        if (bytes === undefined) {
          throw new TypeError(`This TransformStream is being used as a byte stream, but received ${
            typeof value === "string" ? "a string" : "an object of non-ArrayBuffer/ArrayBufferView type"
          } on its writable side. If you wish to write a string, you'll probably want to explicitly UTF-8-encode it with TextEncoder.`);
        }
        sink?.write(bytes);
        controller.enqueue(bytes);
      },
      flush() {
        sink?.close();
      },
    }, queuing);
  }
}
idl(IdentityTransformStream);

const lengths = new WeakMap();

export class FixedLengthStream extends IdentityTransformStream {
  constructor(expectedLength, queuing = undefined) {
    const length = Number(expectedLength);
    if (!Number.isSafeInteger(length) || length < 0) {
      throw new TypeError("FixedLengthStream requires a non-negative integer expected length.");
    }
    let left = length;
    super(queuing, {
      write(bytes) {
        left -= bytes.byteLength;
        if (left < 0) {
          throw new TypeError("Attempt to write too many bytes through a FixedLengthStream.");
        }
      },
      close() {
        if (left > 0) {
          throw new TypeError("FixedLengthStream did not see all expected bytes before close().");
        }
      },
    });
    lengths.set(this.readable, length);
  }
}
idl(FixedLengthStream);

/** The length that the stream was announced to have; undefined if none. */
export const lengthOf = (readable) => lengths.get(readable);
