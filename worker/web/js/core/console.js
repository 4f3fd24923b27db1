// console. Text goes to the host's log; values are shown as Node.js shows them, by the inspect chunk, which is
// loaded when something else than text is printed.

import { chunk, host } from "./host.js";

// A call prints at most this many characters.
const lineMax = 16 * 1024;

const levels = { debug: 0, log: 1, info: 2, warn: 3, error: 4 };

let indent = "";
const counts = new Map();
const timers = new Map();

function format(args) {
  if (args.every((a) => typeof a === "string") && (args.length < 2 || !args[0].includes("%"))) {
    return args.join(" ");
  }
  return chunk("inspect").format(...args);
}

function print(level, text) {
  if (indent !== "") {
    text = indent + text.replaceAll("\n", `\n${indent}`);
  }
  if (text.length > lineMax) {
    text = `${text.slice(0, lineMax)}… (${text.length - lineMax} more characters)`;
  }
  host.log(levels[level], text.toWellFormed());
}

/** A line of the platform's own, for errors that nobody catches. */
export function logError(what, error) {
  print("error", `${what} ${typeof error === "string" ? error : chunk("inspect").inspect(error)}`);
}

const labelOf = (label) => (label === undefined ? "default" : `${label}`);

function elapsed(label, rest, end) {
  const began = timers.get(label);
  if (began === undefined) {
    print("warn", `Timer '${label}' does not exist`);
    return;
  }
  if (end) {
    timers.delete(label);
  }
  print("log", format([`${label}: ${host.now() - began}ms`, ...rest]));
}

export const console = {
  debug(...args) { print("debug", format(args)); },
  log(...args) { print("log", format(args)); },
  info(...args) { print("info", format(args)); },
  warn(...args) { print("warn", format(args)); },
  error(...args) { print("error", format(args)); },
  trace(...args) { print("error", `Trace${args.length > 0 ? `: ${format(args)}` : ""}\n${new Error().stack}`.trimEnd()); },
  assert(condition, ...args) {
    if (!condition) {
      if (typeof args[0] === "string") {
        args[0] = `Assertion failed: ${args[0]}`;
      } else {
        args.unshift("Assertion failed");
      }
      print("error", format(args));
    }
  },
  dir(value, options) { print("log", chunk("inspect").inspect(value, options)); },
  dirxml(...args) { print("log", format(args)); },
  table(data, columns) {
    print("log", typeof data === "object" && data !== null ? chunk("inspect").table(data, columns) : format([data]));
  },
  count(label) {
    label = labelOf(label);
    counts.set(label, (counts.get(label) ?? 0) + 1);
    print("log", `${label}: ${counts.get(label)}`);
  },
  countReset(label) { counts.delete(labelOf(label)); },
  group(...args) {
    if (args.length > 0) {
      print("log", format(args));
    }
    if (indent.length < 64) {
      indent += "  ";
    }
  },
  groupCollapsed(...args) { console.group(...args); },
  groupEnd() { indent = indent.slice(2); },
  time(label) {
    label = labelOf(label);
    if (timers.has(label)) {
      print("warn", `Timer '${label}' already exists`);
    } else if (timers.size < 1000) {
      timers.set(label, host.now());
    }
  },
  timeLog(label, ...rest) { elapsed(labelOf(label), rest, false); },
  timeEnd(label) { elapsed(labelOf(label), [], true); },
  timeStamp() {},
  profile() {},
  profileEnd() {},
};
Object.defineProperty(console, Symbol.toStringTag, { value: "console", configurable: true });
