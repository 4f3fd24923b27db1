// process of Node.js: the module, and the global that libraries look at.

import { host } from "./host.js";
import { queueMicrotask } from "./timers.js";

export const process = {
  argv: ["node"],
  arch: "",
  browser: false,
  cwd: () => "/",
  emitWarning: (warning) => globalThis.console.warn(`${warning?.message ?? warning}`),
  env: {},
  execArgv: [],
  exit() {
    throw new Error("process.exit is not supported in a worker");
  },
  hrtime: Object.assign((before) => {
    const now = host.now();
    const at = [Math.floor(now / 1000), Math.round((now % 1000) * 1e6)];
    if (before === undefined) {
      return at;
    }
    const nanos = at[1] - before[1];
    return nanos < 0 ? [at[0] - before[0] - 1, nanos + 1e9] : [at[0] - before[0], nanos];
  }, { bigint: () => BigInt(Math.round(host.now() * 1e6)) }),
  memoryUsage: () => ({ rss: 0, heapTotal: 0, heapUsed: 0, external: 0, arrayBuffers: 0 }),
  nextTick(f, ...args) {
    queueMicrotask(() => f(...args));
  },
  off() { return process; },
  on() { return process; },
  once() { return process; },
  emit: () => false,
  pid: 1,
  platform: "linux",
  stderr: { write: (text) => (globalThis.console.error(`${text}`), true) },
  stdout: { write: (text) => (globalThis.console.log(`${text}`), true) },
  title: "worker",
  umask: () => 0,
  uptime: () => 0,
  version: "v22.0.0",
  versions: { node: "22.0.0" },
};
