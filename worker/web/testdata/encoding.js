test("TextEncoder", () => {
  const e = new TextEncoder();
  equal(e.encode("aé€😀").join(), "97,195,169,226,130,172,240,159,152,128");
  equal(e.encode("\ud800x").join(), "239,191,189,120");
  equal(e.encode().length, 0);
  const into = new Uint8Array(5);
  equal(JSON.stringify(e.encodeInto("a€😀", into)), '{"read":2,"written":4}');
  equal(into.join(), "97,226,130,172,0");
  equal(JSON.stringify(e.encodeInto("😀", new Uint8Array(3))), '{"read":0,"written":0}');
  equal(JSON.stringify(e.encodeInto("😀b", new Uint8Array(9))), '{"read":3,"written":5}');
});

test("TextDecoder of UTF-8", () => {
  const d = new TextDecoder();
  equal(d.encoding, "utf-8");
  equal(d.decode(new Uint8Array([97, 195, 169])), "aé");
  equal(d.decode(new Uint8Array([0xe2, 0x82, 0x41])), "\ufffdA");
  equal(d.decode(new Uint8Array([0xff, 0xc3])), "\ufffd\ufffd");
  equal(d.decode(new Uint8Array([0xef, 0xbb, 0xbf, 65])), "A");
  equal(new TextDecoder("utf8", { ignoreBOM: true }).decode(new Uint8Array([0xef, 0xbb, 0xbf, 65])), "\ufeffA");
  equal(d.decode(), "");
  const view = new DataView(new Uint8Array([1, 66, 67]).buffer, 1, 1);
  equal(d.decode(view), "B");
  throws(TypeError, () => new TextDecoder("utf-8", { fatal: true }).decode(new Uint8Array([255])));
  equal(new TextDecoder("utf-8", { fatal: true }).decode(new Uint8Array([0xef, 0xbf, 0xbd])), "\ufffd");
  throws(TypeError, () => d.decode("x"));
});

test("TextDecoder in pieces", () => {
  const d = new TextDecoder();
  let out = "";
  for (const b of [0xef, 0xbb, 0xbf, 0xf0, 0x9f, 0x98, 0x80, 0xe2, 0x82]) {
    out += d.decode(new Uint8Array([b]), { stream: true });
  }
  equal(out, "😀");
  equal(d.decode(), "\ufffd");
  equal(d.decode(new Uint8Array([0xef, 0xbb, 0xbf, 65])), "A");
  const f = new TextDecoder("utf-8", { fatal: true });
  equal(f.decode(new Uint8Array([0xe2, 0x82]), { stream: true }), "");
  throws(TypeError, () => f.decode());
});

test("other encodings", () => {
  equal(new TextDecoder("latin1").encoding, "windows-1252");
  equal(new TextDecoder("latin1").decode(new Uint8Array([0x80, 0xe9])), "€é");
  equal(new TextDecoder("utf-16le").decode(new Uint8Array([65, 0, 0x3d, 0xd8, 0, 0xde])), "A😀");
  equal(new TextDecoder("UTF-16BE").decode(new Uint8Array([0xfe, 0xff, 0, 65])), "A");
  equal(new TextDecoder("shift_jis").decode(new Uint8Array([0x82, 0xa0])), "あ");
  equal(new TextDecoder("gbk").decode(new Uint8Array([0xc4, 0xe3])), "你");
  const d = new TextDecoder("utf-16le");
  equal(d.decode(new Uint8Array([65]), { stream: true }), "");
  equal(d.decode(new Uint8Array([0, 66]), { stream: true }) + d.decode(new Uint8Array([0])), "AB");
  throws(TypeError, () => new TextDecoder("utf-16le", { fatal: true }).decode(new Uint8Array([0, 0xd8])));
  throws(RangeError, () => new TextDecoder("nonsense"));
});

test("atob and btoa", () => {
  equal(btoa("é\0\xff"), "6QD/");
  equal(atob(" 6QD/ \n"), "é\0\xff");
  equal(atob("YQ"), "a");
  equal(atob("YQ=="), "a");
  equal(btoa(""), "");
  for (const bad of ["a", "=", "YQ=", "Y!=="]) throws("InvalidCharacterError", () => atob(bad));
  throws("InvalidCharacterError", () => btoa("€"));
});
