// FormData, and its multipart form. The host parses; writing is a matter of joining.

import { Blob, File, blobBytes } from "./blob.js";
import { fromUTF8, utf8 } from "./encoding.js";
import { hostCall } from "./exception.js";
import { host } from "./host.js";
import { concat, idl, iterable, need, usv } from "./idl.js";
import { URLSearchParams } from "./url.js";

function entry(name, value, filename, given) {
  if (value instanceof Blob) {
    if (!(value instanceof File) || given) {
      const lastModified = value instanceof File ? value.lastModified : undefined;
      value = new File([value], given ? filename : "blob", { type: value.type, lastModified });
    }
  } else {
    if (given) {
      throw new TypeError("Failed to execute on 'FormData': a file name was given, but the value is not a Blob.");
    }
    value = usv(value);
  }
  return [usv(name), value];
}

let pairsOf;

export class FormData {
  #list = [];

  static {
    pairsOf = (form) => form.#list;
  }

  constructor(form = undefined) {
    if (form !== undefined) {
      throw new TypeError("Failed to construct 'FormData': there are no forms here.");
    }
  }

  append(name, value, filename = undefined) {
    need(arguments, 2, "append");
    this.#list.push(entry(name, value, filename, arguments.length > 2 && filename !== undefined));
  }

  set(name, value, filename = undefined) {
    need(arguments, 2, "set");
    const pair = entry(name, value, filename, arguments.length > 2 && filename !== undefined);
    const at = this.#list.findIndex(([k]) => k === pair[0]);
    if (at < 0) {
      this.#list.push(pair);
    } else {
      this.#list[at] = pair;
      this.#list = this.#list.filter(([k], i) => i <= at || k !== pair[0]);
    }
  }

  delete(name) {
    need(arguments, 1, "delete");
    name = usv(name);
    this.#list = this.#list.filter(([k]) => k !== name);
  }

  get(name) {
    need(arguments, 1, "get");
    name = usv(name);
    return this.#list.find(([k]) => k === name)?.[1] ?? null;
  }

  getAll(name) {
    need(arguments, 1, "getAll");
    name = usv(name);
    return this.#list.filter(([k]) => k === name).map(([, v]) => v);
  }

  has(name) {
    need(arguments, 1, "has");
    name = usv(name);
    return this.#list.some(([k]) => k === name);
  }
}
iterable(FormData, (form) => pairsOf(form));
idl(FormData);

const crlf = (s) => s.replace(/\r\n?|\n/g, "\r\n");
const quoted = (s) => crlf(s).replace(/[\r\n"]/g, (c) => ({ "\r": "%0D", "\n": "%0A", '"': "%22" })[c]);

/** A form as multipart/form-data: its bytes and its content type. */
export function encodeForm(form) {
  const boundary = `----holdfast${host.randomUUID().replaceAll("-", "")}`;
  const chunks = [];
  for (const [name, value] of pairsOf(form)) {
    const head = `--${boundary}\r\nContent-Disposition: form-data; name="${quoted(name)}"`;
    if (typeof value === "string") {
      chunks.push(utf8(`${head}\r\n\r\n${crlf(value)}\r\n`));
    } else {
      const type = value.type === "" ? "application/octet-stream" : value.type;
      chunks.push(utf8(`${head}; filename="${quoted(value.name)}"\r\nContent-Type: ${type}\r\n\r\n`), blobBytes(value), utf8("\r\n"));
    }
  }
  chunks.push(utf8(`--${boundary}--\r\n`));
  return { bytes: concat(chunks), type: `multipart/form-data; boundary=${boundary}` };
}

/** The form in bytes of a content type. A TypeError says what does not fit. */
export function decodeForm(bytes, contentType) {
  const form = new FormData();
  const essence = (contentType ?? "").split(";")[0].trim().toLowerCase();
  if (essence === "application/x-www-form-urlencoded") {
    for (const [name, value] of new URLSearchParams(fromUTF8(bytes))) {
      form.append(name, value);
    }
    return form;
  }
  if (essence !== "multipart/form-data") {
    throw new TypeError(
      `Unrecognized Content-Type header value: ${JSON.stringify(contentType ?? "")}. FormData can only parse multipart/form-data and application/x-www-form-urlencoded.`,
    );
  }
  // [JSON of [{name, filename?, type, size}], the contents, one after the other]
  const [index, contents] = hostCall(host.parseMultipart, bytes, contentType);
  let at = 0;
  for (const part of JSON.parse(index)) {
    const content = contents.subarray(at, (at += part.size));
    form.append(part.name, part.filename === undefined ? fromUTF8(content) : new File([content], part.filename, { type: part.type }));
  }
  return form;
}
