test("structuredClone", () => {
  const value = { a: [1, { b: new Date(5) }], m: new Map([[1, new Set([2])]]), u: undefined };
  const copy = structuredClone(value);
  equal(copy.a[1].b.getTime(), 5);
  equal(copy.a[1] === value.a[1], false);
  equal(copy.m.get(1).has(2), true);
  throws(TypeError, () => structuredClone());
});

test("transfer detaches", () => {
  const buffer = new Uint8Array([1, 2]).buffer;
  const copy = structuredClone({ buffer }, { transfer: [buffer] });
  equal(copy.buffer.byteLength, 2);
  equal(buffer.byteLength, 0);
  throws("DataCloneError", () => structuredClone(1, { transfer: [{}] }));
});

test("the language is complete", async () => {
  equal((await Array.fromAsync((async function* () { yield 1; yield 2; })(), (x) => x * 2)).join(), "2,4");
  equal((await Array.fromAsync([Promise.resolve(1)])).join(), "1");
  equal((await Array.fromAsync({ length: 2, 0: "a", 1: "b" })).join(), "a,b");
  equal(typeof Symbol.dispose, "symbol");
  equal(typeof Symbol.asyncDispose, "symbol");
  const target = {};
  Error.captureStackTrace(target);
  equal(typeof target.stack, "string");
});

test("the rest", () => {
  equal(self === globalThis, true);
  equal(navigator.userAgent, "Cloudflare-Workers");
  equal(Math.abs(performance.now() + performance.timeOrigin - Date.now()) < 5000, true);
  equal(/^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/.test(crypto.randomUUID()), true);
  const a = crypto.getRandomValues(new Uint32Array(8));
  equal(a.some((x) => x !== 0), true);
  throws("QuotaExceededError", () => crypto.getRandomValues(new Uint8Array(65537)));
  throws("TypeMismatchError", () => crypto.getRandomValues(new Float32Array(1)));
});

test("globals of Node.js", () => {
  equal(global === globalThis, true);
  equal(process.platform, "linux");
  equal(Buffer.from("x").toString("hex"), "78");
});

test("what is not there says so", async () => {
  for (const make of [() => new WebSocketPair(), () => new WebSocket("ws://a.example"), () => new HTMLRewriter(), () => caches.default]) {
    throws(/not supported/, make);
  }
  await rejects(/not supported/, caches.open("x"));
});

test("globals do not enumerate, and can be replaced", () => {
  equal(Object.keys(globalThis).filter((k) => ["fetch", "Request", "URL", "ReadableStream"].includes(k)).length, 0);
  const { URLPattern } = globalThis;
  globalThis.URLPattern = 5;
  equal(globalThis.URLPattern, 5);
  globalThis.URLPattern = URLPattern;
});
