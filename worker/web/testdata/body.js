const utf8 = (s) => new TextEncoder().encode(s);

test("bodies of every kind, read in every way", async () => {
  const form = new FormData();
  form.append("a", "1");
  for (const [make, type] of [
    [() => "héllo", "text/plain;charset=UTF-8"],
    [() => utf8("héllo"), null],
    [() => utf8("héllo").buffer, null],
    [() => new Blob(["hé", utf8("llo")], { type: "X/y" }), "x/y"],
    [() => new ReadableStream({ start(c) { c.enqueue(utf8("hél")); c.enqueue(utf8("lo")); c.close(); } }), null],
  ]) {
    equal(new Response(make()).headers.get("content-type"), type);
    equal(await new Response(make()).text(), "héllo");
    equal((await new Response(make()).bytes()).length, 6);
    equal((await new Response(make()).arrayBuffer()).byteLength, 6);
    equal(await (await new Response(make()).blob()).text(), "héllo");
    let text = "";
    for await (const chunk of new Response(make()).body) {
      equal(chunk instanceof Uint8Array, true);
      text += new TextDecoder().decode(chunk);
    }
    equal(text, "héllo");
  }
  equal(await new Response(new URLSearchParams({ a: "b c" })).text(), "a=b+c");
  equal(await new Response(12).text(), "12");
  equal((await new Response('{"a":[1]}').json()).a[0], 1);
  await rejects(SyntaxError, new Response("{").json());
});

test("a body is read once", async () => {
  const r = new Response("x");
  equal(r.bodyUsed, false);
  await r.text();
  equal(r.bodyUsed, true);
  await rejects(TypeError, r.text());
  throws(TypeError, () => r.clone());
  const none = new Response();
  equal(none.body, null);
  equal(await none.text(), "");
  equal(await none.text(), "");
  equal(none.bodyUsed, false);
});

test("reading by the stream counts as used, and locks", async () => {
  const r = new Response("xyz");
  const reader = r.body.getReader();
  await rejects(TypeError, r.text());
  await reader.read();
  equal(r.bodyUsed, true);
  reader.releaseLock();
  await rejects(TypeError, r.text());
  const again = new Response("xyz");
  equal(again.body === again.body, true);
  equal(await again.text(), "xyz");
  equal((await again.body.getReader().read()).done, true);
});

test("byte streams can be read into the reader's own buffer", async () => {
  const reader = new Response("abcdef").body.getReader({ mode: "byob" });
  const { value } = await reader.read(new Uint8Array(4));
  equal(new TextDecoder().decode(value), "abcd");
  equal(new TextDecoder().decode((await reader.read(new Uint8Array(4))).value), "ef");
  equal((await reader.read(new Uint8Array(4))).done, true);
});

test("clones are read apart", async () => {
  const r = new Response("x", { status: 201, headers: { a: "b" } });
  const c = r.clone();
  equal(await r.text(), "x");
  equal(await c.text(), "x");
  equal(c.status, 201);
  c.headers.set("a", "c");
  equal(r.headers.get("a"), "b");
  const s = new Response(new ReadableStream({ start(k) { k.enqueue(utf8("s")); k.close(); } }));
  const t = s.clone();
  equal(await t.text(), "s");
  equal(await s.text(), "s");
});

test("a body passed on by its stream", async () => {
  const first = new Response("pass");
  const second = new Response(first.body, first);
  equal(await second.text(), "pass");
  equal(first.bodyUsed, true);
  throws(TypeError, () => new Response(first.body));
});

test("bytes are copied in and out", async () => {
  const bytes = utf8("abc");
  const r = new Response(bytes);
  bytes[0] = 120;
  const c = r.clone();
  const out = await r.bytes();
  equal(new TextDecoder().decode(out), "abc");
  out[0] = 120;
  equal(await c.text(), "abc");
});

test("a byte order mark is taken off text, and what is malformed replaced", async () => {
  equal(await new Response("\ufeffx").text(), "x");
  equal(await new Response(new Uint8Array([0xef, 0xbb, 0xbf, 0x78, 0xff])).text(), "x\ufffd");
  equal(await new Response("\ud800").text(), "\ufffd");
});

test("streams must be of bytes", async () => {
  const bad = () => new ReadableStream({ start(c) { c.enqueue(5); c.close(); } });
  await rejects(TypeError, new Response(bad()).text());
  const failing = new ReadableStream({ pull() { throw new RangeError("boom"); } });
  await rejects(RangeError, new Response(failing).text());
});

test("async iterables are bodies", async () => {
  async function* gen() { yield utf8("a"); yield utf8("b"); }
  equal(await new Response(gen()).text(), "ab");
});

test("Response", async () => {
  const r = new Response(null, { status: 404, statusText: "No" });
  equal([r.status, r.statusText, r.ok, r.type, r.url, r.redirected].join(), "404,No,false,default,,false");
  throws(RangeError, () => new Response("", { status: 199 }));
  throws(RangeError, () => new Response("", { status: 600 }));
  throws(RangeError, () => new Response("", { status: "x" }));
  for (const status of [204, 205, 304]) {
    equal(new Response(null, { status }).status, status);
    throws(TypeError, () => new Response("x", { status }));
  }
  throws(TypeError, () => new Response("", { statusText: "a\nb" }));
  const j = Response.json({ a: 1 }, { status: 201, headers: { x: "y" } });
  equal([j.status, j.headers.get("content-type"), j.headers.get("x"), await j.text()].join(), '201,application/json,y,{"a":1}');
  equal(Response.json(1, { headers: { "content-type": "a/b" } }).headers.get("content-type"), "a/b");
  throws(TypeError, () => Response.json(undefined));
  equal(Response.error().type, "error");
  equal(Response.error().status, 0);
  equal(Object.prototype.toString.call(r), "[object Response]");
});

test("Request", async () => {
  const r = new Request("https://a.example/x#y", { method: "post", body: "b", headers: { c: "d" } });
  equal([r.method, r.url, r.headers.get("c"), r.headers.get("content-type"), r.redirect].join(), "POST,https://a.example/x#y,d,text/plain;charset=UTF-8,follow");
  equal(r.signal instanceof AbortSignal, true);
  equal(r.signal.aborted, false);
  const copy = new Request(r, { headers: { e: "f" } });
  equal(copy.headers.get("c"), null);
  equal(r.bodyUsed, true);
  equal(await copy.text(), "b");
  throws(TypeError, () => new Request(r));
  equal(new Request("https://a.example", { method: "patch" }).method, "PATCH");
  equal(new Request("https://a.example", { method: "Custom" }).method, "Custom");
  throws(TypeError, () => new Request("/x"));
  throws(TypeError, () => new Request("https://a.example", { method: "a b" }));
  throws(TypeError, () => new Request("https://a.example", { method: "TRACE" }));
  throws(TypeError, () => new Request("https://a.example", { body: "x" }));
  throws(TypeError, () => new Request("https://a.example", { redirect: "x" }));
  throws(TypeError, () => new Request("https://a.example", 5));
  const base = new Request("https://a.example/", { method: "PUT", body: "moved" });
  const moved = new Request("https://b.example/", base);
  equal([moved.method, moved.url, await moved.text()].join(), "PUT,https://b.example/,moved");
  const c = new Request("https://a.example/", { method: "PUT", body: "c" });
  const d = c.clone();
  equal((await c.text()) + (await d.text()), "cc");
  const ac = new AbortController();
  const s = new Request("https://a.example/", { signal: ac.signal });
  ac.abort();
  equal(s.signal.aborted, true);
});

test("a router may wrap a Request in a Proxy and bind what it reads", async () => {
  const r = new Request("https://a.example/x", { method: "POST", body: "{}" });
  const proxy = new Proxy(r, { get: (o, p) => (typeof o[p] === "function" ? o[p].bind(o) : o[p]) });
  equal(proxy.url, "https://a.example/x");
  equal(JSON.stringify(await proxy.json()), "{}");
});

test("fetch refuses what it cannot send", async () => {
  await rejects(TypeError, fetch("/x"));
  await rejects(TypeError, fetch("file:///etc/passwd"));
  await rejects("AbortError", fetch("https://a.example/", { signal: AbortSignal.abort() }));
});
