// CompressionStream and DecompressionStream. The host compresses; a coder there is known by a number, and is
// freed when it has ended, failed or been collected here.

import { bytesOf, host, hostCall, idl } from "holdfast:core";

import { Pair } from "./text.js";

const collected = new FinalizationRegistry((id) => host.freeCoder(id));

function coder(format, decompress) {
  format = `${format}`;
  if (!["gzip", "deflate", "deflate-raw"].includes(format)) {
    throw new TypeError("The compression format must be either 'deflate', 'deflate-raw' or 'gzip'.");
  }
  const id = hostCall(host.newCoder, format, decompress);
  const token = {};
  const end = () => {
    collected.unregister(token);
    host.freeCoder(id);
  };
  const run = (bytes, last, controller) => {
    try {
      // The host hands out what there is in pieces, so that a small input cannot fill the memory at once.
      for (let out = hostCall(host.code, id, bytes, last); out !== null; out = hostCall(host.code, id, null, last)) {
        controller.enqueue(out);
      }
    } catch (e) {
      end();
      throw e;
    }
  };
  const transformer = {
    transform(value, controller) {
      const bytes = bytesOf(value);
      if (bytes === undefined) {
        throw new TypeError("The chunk is neither an ArrayBuffer nor a view of one.");
      }
      run(bytes, false, controller);
    },
    flush(controller) {
      run(new Uint8Array(0), true, controller);
      end();
    },
    cancel: end,
  };
  collected.register(transformer, id, token);
  return transformer;
}

export class CompressionStream extends Pair {
  constructor(format) {
    super(coder(format, false));
  }
}
idl(CompressionStream);

export class DecompressionStream extends Pair {
  constructor(format) {
    super(coder(format, true));
  }
}
idl(DecompressionStream);
