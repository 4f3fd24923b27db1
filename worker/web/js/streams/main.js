// The streams chunk: the streams standard by web-streams-polyfill, the streams of Workers, and how a stream
// meets the host. Evaluated when a worker first uses a stream.

import * as standard from "web-streams-polyfill";

import { CompressionStream, DecompressionStream } from "./compression.js";
import { FixedLengthStream, IdentityTransformStream, lengthOf } from "./identity.js";
import { TextDecoderStream, TextEncoderStream } from "./text.js";
import { exhaust, isDisturbed, isStream, pump, readAll, streamOfBytes, streamOfHost, teeBytes } from "./host.js";

export const classes = {
  ...standard,
  CompressionStream,
  DecompressionStream,
  FixedLengthStream,
  IdentityTransformStream,
  TextDecoderStream,
  TextEncoderStream,
};

export const { ReadableStream, WritableStream, TransformStream } = standard;
export { exhaust, isDisturbed, isStream, lengthOf, pump, readAll, streamOfBytes, streamOfHost, teeBytes };
