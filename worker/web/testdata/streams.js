const collect = async (s) => {
  const out = [];
  for await (const c of s) out.push(c);
  return out;
};
const stream = (...chunks) => new ReadableStream({ start(c) { chunks.forEach((k) => c.enqueue(k)); c.close(); } });
const utf8 = (s) => new TextEncoder().encode(s);
const text = async (s) => new Response(s).text();

test("readable, writable and transform streams", async () => {
  const upper = new TransformStream({ transform(c, k) { k.enqueue(c.toUpperCase()); } });
  equal((await collect(stream("a", "b").pipeThrough(upper))).join(""), "AB");
  const got = [];
  await stream(1, 2).pipeTo(new WritableStream({ write(c) { got.push(c); } }));
  equal(got.join(), "1,2");
  const [x, y] = stream("t").tee();
  equal((await collect(x)).join() + (await collect(y)).join(), "tt");
  equal((await collect(ReadableStream.from([1, 2]))).join(), "1,2");
});

test("text through streams", async () => {
  const parts = stream(new Uint8Array([0xe2]), new Uint8Array([0x82, 0xac, 65]));
  equal((await collect(parts.pipeThrough(new TextDecoderStream()))).join(""), "€A");
  const bytes = await collect(stream("a\ud83d", "\ude00").pipeThrough(new TextEncoderStream()));
  equal(bytes.flatMap((b) => [...b]).join(), "97,240,159,152,128");
  await rejects(TypeError, collect(stream(new Uint8Array([255])).pipeThrough(new TextDecoderStream("utf-8", { fatal: true }))));
});

test("compression, there and back", async () => {
  const long = "holdfast ".repeat(50000);
  for (const format of ["gzip", "deflate", "deflate-raw"]) {
    const small = await new Response(stream(utf8(long)).pipeThrough(new CompressionStream(format))).bytes();
    equal(small.length < 5000, true);
    const pieces = [];
    for (let i = 0; i < small.length; i += 100) pieces.push(small.subarray(i, i + 100));
    equal(await text(stream(...pieces).pipeThrough(new DecompressionStream(format))), long);
  }
  throws(TypeError, () => new CompressionStream("br"));
});

test("what is not compressed well", async () => {
  const small = await new Response(stream(utf8("x")).pipeThrough(new CompressionStream("gzip"))).bytes();
  await rejects(TypeError, text(stream(small.subarray(0, 10)).pipeThrough(new DecompressionStream("gzip"))));
  await rejects(TypeError, text(stream(utf8("nonsense")).pipeThrough(new DecompressionStream("gzip"))));
  await rejects(TypeError, text(stream(small, utf8("more")).pipeThrough(new DecompressionStream("gzip"))));
});

test("many compression streams, one after the other", async () => {
  for (let i = 0; i < 100; i++) {
    await text(stream(utf8("x")).pipeThrough(new CompressionStream("gzip")));
  }
});

test("IdentityTransformStream and FixedLengthStream", async () => {
  equal(await text(stream(utf8("id")).pipeThrough(new IdentityTransformStream())), "id");
  await rejects(TypeError, text(stream("no bytes").pipeThrough(new IdentityTransformStream())));
  equal(await text(stream(utf8("abc")).pipeThrough(new FixedLengthStream(3))), "abc");
  await rejects(TypeError, text(stream(utf8("abcd")).pipeThrough(new FixedLengthStream(3))));
  await rejects(TypeError, text(stream(utf8("ab")).pipeThrough(new FixedLengthStream(3))));
  throws(TypeError, () => new FixedLengthStream(-1));
});
