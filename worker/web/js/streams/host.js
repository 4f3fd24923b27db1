// Streams from and to the host, and what bodies need to know of streams.

import { ReadableStream } from "web-streams-polyfill";

import { bytesOf, concat, host, operation, reportError, utf8 } from "holdfast:core";

export const isStream = (v) => v instanceof ReadableStream;

/** Whether somebody has read from a stream, or cancelled it: of the polyfill's own state, pinned by a test. */
export const isDisturbed = (stream) => stream._disturbed === true;

// Bytes handed to a reader at a time.
const pieceBytes = 64 * 1024;

/** A byte stream of bytes in memory. */
export function streamOfBytes(bytes) {
  let at = 0;
  return new ReadableStream({
    type: "bytes",
    pull(controller) {
      if (at < bytes.byteLength) {
        // A copy: the reader may keep or transfer what it gets.
        controller.enqueue(bytes.slice(at, (at += pieceBytes)));
      }
      if (at >= bytes.byteLength) {
        controller.close();
        controller.byobRequest?.respond(0);
      }
    },
  }, { highWaterMark: 0 });
}

/** A byte stream of one of the host's streams. The host is asked for more only when somebody reads. */
export function streamOfHost(id) {
  return new ReadableStream({
    type: "bytes",
    async pull(controller) {
      const bytes = await operation((op) => host.read(id, op));
      if (bytes === null) {
        controller.close();
        controller.byobRequest?.respond(0);
      } else {
        controller.enqueue(bytes);
      }
    },
    cancel() {
      host.cancelRead(id);
    },
  }, { highWaterMark: 0 });
}

/** Makes a stream count as read to its end, for somebody who has its content by another way. */
export function exhaust(stream) {
  stream.cancel().catch(() => {});
}

function chunkBytes(value) {
  const bytes = typeof value === "string" ? utf8(value) : bytesOf(value);
  if (bytes === undefined) {
    throw new TypeError("This ReadableStream did not return bytes: a body is made of Uint8Array chunks.");
  }
  return bytes;
}

/** All the bytes of a stream. */
export async function readAll(stream) {
  const reader = stream.getReader();
  const chunks = [];
  for (;;) {
    const { done, value } = await reader.read();
    if (done) {
      return concat(chunks);
    }
    try {
      chunks.push(chunkBytes(value));
    } catch (e) {
      reader.cancel(e).catch(() => {});
      throw e;
    }
  }
}

/** Two streams of one, which may differ in how fast they are read; chunks are copied for the second. */
export function teeBytes(stream) {
  return stream.tee();
}

/**
 * Sends a stream to the host's stream `to`, each chunk when the host has taken the one before. Never
 * rejects: an error of the stream is passed to the host, and one of the host cancels the stream.
 */
export async function pump(stream, to) {
  let reader;
  try {
    reader = stream.getReader();
    for (;;) {
      const { done, value } = await reader.read();
      if (done) {
        host.closeWrite(to, null);
        return;
      }
      const bytes = chunkBytes(value);
      if (bytes.byteLength > 0) {
        await operation((op) => host.write(to, bytes, op));
      }
    }
  } catch (e) {
    reader?.cancel(e).catch(() => {});
    try {
      host.closeWrite(to, `${e?.message ?? e}`);
    } catch (late) {
      reportError(late);
    }
  }
}
