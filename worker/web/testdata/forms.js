test("Blob", async () => {
  const b = new Blob(["ab", new Blob(["cd"]), new Uint8Array([101]), 5], { type: "Text/Plain" });
  equal([b.size, b.type, await b.text()].join(), "6,text/plain,abcde5");
  const s = b.slice(1, -1, "x/y");
  equal([s.size, s.type, await s.text()].join(), "4,x/y,bcde");
  equal((await b.bytes())[0], 97);
  equal((await b.arrayBuffer()).byteLength, 6);
  let text = "";
  for await (const c of b.stream()) text += new TextDecoder().decode(c);
  equal(text, "abcde5");
  equal(new Blob([], { type: "é" }).type, "");
  throws(TypeError, () => new Blob("x"));
});

test("File", async () => {
  const f = new File(["x"], "n.txt", { type: "a/b", lastModified: 5 });
  equal([f.name, f.lastModified, f.type, await f.text(), f instanceof Blob].join(), "n.txt,5,a/b,x,true");
  throws(TypeError, () => new File([]));
});

test("FormData", () => {
  const f = new FormData();
  f.append("a", "1");
  f.append("a", 2);
  f.append("b", new Blob(["x"], { type: "q/r" }));
  f.append("c", new File(["y"], "old"), "new");
  equal(f.getAll("a").join(), "1,2");
  equal(f.get("b").name, "blob");
  equal(f.get("c").name, "new");
  equal([...f.keys()].join(), "a,a,b,c");
  f.set("a", "3");
  equal([...f].length, 3);
  f.delete("b");
  equal(f.has("b"), false);
  equal(f.get("b"), null);
  throws(TypeError, () => f.append("a"));
  throws(TypeError, () => f.append("a", "b", "c"));
});

test("a form as multipart, there and back", async () => {
  const f = new FormData();
  f.append('na"me', "line\nbreak é");
  f.append("file", new File([new Uint8Array([0, 255, 13, 10])], "f.bin", { type: "a/b" }));
  f.append("empty", "");
  const r = new Response(f);
  equal(/^multipart\/form-data; boundary=/.test(r.headers.get("content-type")), true);
  const g = await r.formData();
  equal(g.get('na"me') ?? g.get("na%22me"), "line\r\nbreak é");
  const file = g.get("file");
  equal([file.name, file.type, (await file.bytes()).join()].join(), "f.bin,a/b,0,255,13,10");
  equal(g.get("empty"), "");
});

test("forms from elsewhere", async () => {
  const body = '--xx\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n--xx\r\ncontent-disposition: form-data; name="f"; filename="g"\r\n\r\ndata\r\n--xx--\r\n';
  const f = await new Response(body, { headers: { "content-type": 'Multipart/Form-Data; Boundary="xx"' } }).formData();
  equal(f.get("a"), "1");
  equal([f.get("f").name, f.get("f").type, await f.get("f").text()].join(), "g,text/plain,data");
  const u = await new Response("a=b+c&d=%C3%A9", { headers: { "content-type": "application/x-www-form-urlencoded; charset=utf-8" } }).formData();
  equal(u.get("a") + u.get("d"), "b cé");
});

test("what is no form", async () => {
  await rejects(TypeError, new Response("x").formData());
  await rejects(TypeError, new Response("x", { headers: { "content-type": "multipart/form-data" } }).formData());
  await rejects(TypeError, new Response("--x\r\nbad", { headers: { "content-type": "multipart/form-data; boundary=x" } }).formData());
});
