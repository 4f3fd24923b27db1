// Modules of Node.js, which the harness put into `node`: {name: module}.
const { assert, buffer, events, path, util } = node;
const { Buffer } = buffer;

test("buffer", () => {
  equal(Buffer.from("héllo").toString("base64"), "aMOpbGxv");
  equal(Buffer.from("aMOpbGxv", "base64").toString(), "héllo");
  equal(Buffer.from("é").toString("hex"), "c3a9");
  equal(Buffer.from("c3a9", "hex").toString("utf8"), "é");
  equal(Buffer.concat([Buffer.from("a"), Buffer.from("b")]).toString(), "ab");
  equal(Buffer.alloc(3, 1).join(), "1,1,1");
  equal(Buffer.byteLength("é"), 2);
  equal(Buffer.from("abc").equals(Buffer.from("abc")), true);
  equal(Buffer.from("abcdef").toString("utf8", 1, 3), "bc");
  equal(Buffer.from([1, 2]) instanceof Uint8Array, true);
  equal(Buffer.isBuffer(Buffer.alloc(1)), true);
  const b = Buffer.alloc(8);
  b.writeUInt32BE(0xdeadbeef, 2);
  equal(b.readUInt32BE(2), 0xdeadbeef);
  equal(b.subarray(2, 4).toString("hex"), "dead");
});

test("events", async () => {
  const e = new events.EventEmitter();
  const seen = [];
  e.on("x", (v) => seen.push(v));
  e.once("x", (v) => seen.push(v * 10));
  e.emit("x", 1);
  e.emit("x", 2);
  equal(seen.join(), "1,10,2");
  setTimeout(() => e.emit("later", 5), 1);
  equal((await events.once(e, "later"))[0], 5);
  throws(/boom/, () => e.emit("error", new Error("boom")));
});

test("path", () => {
  equal(path.join("/a", "../b", "c.txt"), "/b/c.txt");
  equal(path.extname("x.tar.gz"), ".gz");
  equal(path.posix.basename("/a/b"), "b");
});

test("util", async () => {
  equal(util.format("%s=%j", "a", { b: 1 }), 'a={"b":1}');
  equal(util.inspect({ a: { b: { c: {} } } }, { depth: 0 }), "{ a: [Object] }");
  equal(await util.promisify((x, cb) => cb(null, x + 1))(1), 2);
  await rejects(/no/, util.promisify((cb) => cb(new Error("no")))());
  equal(util.isDeepStrictEqual({ a: [1, new Map([[1, { b: 2 }]])] }, { a: [1, new Map([[1, { b: 2 }]])] }), true);
  equal(util.isDeepStrictEqual({ a: 1 }, { a: "1" }), false);
  equal(util.isDeepStrictEqual(new Set([{ a: 1 }]), new Set([{ a: 2 }])), false);
  equal(util.types.isDate(new Date()), true);
});

test("assert", async () => {
  assert(true);
  assert.strictEqual(1, 1);
  assert.deepStrictEqual({ a: [1] }, { a: [1] });
  assert.deepEqual({ a: 1 }, { a: "1" });
  assert.throws(() => { throw new TypeError("bad"); }, TypeError);
  assert.throws(() => { throw new TypeError("bad"); }, { message: "bad" });
  await assert.rejects(Promise.reject(new Error("x")), /x/);
  for (const bad of [
    () => assert(0), () => assert.equal(1, 2), () => assert.deepStrictEqual({ a: 1 }, { a: "1" }), () => assert.throws(() => {}),
    () => assert.throws(() => { throw new Error("x"); }, /y/), () => assert.strict.equal(1, "1"), () => assert.fail("why"),
  ]) throws("AssertionError", bad);
});

test("diagnostics_channel", () => {
  const c = node.diagnostics_channel.channel("c");
  const seen = [];
  c.subscribe((m, name) => seen.push(name + m));
  c.publish(1);
  equal(seen.join(), "c1");
  equal(node.diagnostics_channel.hasSubscribers("c"), true);
});

test("crypto", () => {
  const c = node.crypto;
  equal(c.createHash("sha256").update("a").update(Buffer.from("bc")).digest("hex"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  equal(c.createHash("md5").update("abc").digest("base64"), "kAFQmDzST7DWlj99KOF/cg==");
  equal(c.createHmac("sha256", "key").update("The quick brown fox jumps over the lazy dog").digest().toString("hex"),
    "f7bc83f430538424b13298e6aa6fb143ef4d59a14946175997479dbc2d1a3cd8");
  equal(c.randomBytes(8).length, 8);
  equal(c.randomUUID().length, 36);
  for (let i = 0; i < 50; i++) equal([3, 4].includes(c.randomInt(3, 5)), true);
  equal(c.timingSafeEqual(Buffer.from("a"), Buffer.from("a")), true);
  throws(RangeError, () => c.timingSafeEqual(Buffer.from("a"), Buffer.from("ab")));
  throws(/not supported/, () => c.createHash("whirlpool"));
});

test("querystring and string_decoder", () => {
  equal(JSON.stringify(node.querystring.parse("a=1&b=2&a=3")), '{"a":["1","3"],"b":"2"}');
  equal(node.querystring.stringify({ a: [1, 2], b: "x y" }), "a=1&a=2&b=x%20y");
  const d = new node.string_decoder.StringDecoder("utf8");
  equal(d.write(Buffer.from([0xe2, 0x82])) + d.write(Buffer.from([0xac])) + d.end(), "€");
});

test("timers, os, process and url", async () => {
  equal(await node["timers/promises"].setTimeout(1, "v"), "v");
  equal(node.os.EOL, "\n");
  await new Promise((done) => node.process.nextTick(done));
  equal(node.url.fileURLToPath("file:///a%20b"), "/a b");
});

// As a bundle has it: async functions are lowered to generators over then.
const lowered = (gen) => (...args) => new Promise((resolve, reject) => {
  const it = gen(...args);
  const step = (method, value) => {
    let r;
    try { r = it[method](value); } catch (e) { reject(e); return; }
    r.done ? resolve(r.value) : Promise.resolve(r.value).then((v) => step("next", v), (e) => step("throw", e));
  };
  step("next");
});

test("AsyncLocalStorage", async () => {
  const als = new node.async_hooks.AsyncLocalStorage();
  const seen = [];
  const work = lowered(function* (name) {
    seen.push(name + als.getStore());
    yield new Promise((r) => setTimeout(r, name === "a" ? 6 : 2));
    seen.push(name + als.getStore());
    yield new Response("x").text();
    seen.push(name + als.getStore());
  });
  const all = Promise.all([als.run(1, work, "a"), als.run(2, work, "b")]);
  equal(als.getStore(), undefined);
  await all;
  equal(seen.join(), "a1,b2,b2,b2,a1,a1");
  als.run(3, () => {
    equal(als.exit(() => als.getStore()), undefined);
    const bound = node.async_hooks.AsyncLocalStorage.bind(() => als.getStore());
    als.run(4, () => equal(bound(), 3));
    equal(new node.async_hooks.AsyncResource("x").runInAsyncScope(() => als.getStore()), 3);
  });
  await als.run(5, () => new Promise((done) => queueMicrotask(() => { equal(als.getStore(), 5); done(); })));
});
