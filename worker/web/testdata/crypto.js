const utf8 = (s) => new TextEncoder().encode(s);
const hex = (b) => new Uint8Array(b).toHex();
const { subtle } = crypto;

test("digest", async () => {
  equal(hex(await subtle.digest("SHA-256", utf8("abc"))), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  equal(hex(await subtle.digest({ name: "sha-1" }, utf8("abc"))), "a9993e364706816aba3e25717850c26c9cd0d89d");
  equal(hex(await subtle.digest("MD5", utf8("abc"))), "900150983cd24fb0d6963f7d28e17f72");
  equal((await subtle.digest("SHA-512", new ArrayBuffer(0))).byteLength, 64);
  await rejects("NotSupportedError", subtle.digest("SHA-3", utf8("x")));
  await rejects(TypeError, subtle.digest("SHA-256", "x"));
});

test("HMAC", async () => {
  const key = await subtle.importKey("raw", utf8("key"), { name: "HMAC", hash: "SHA-256" }, true, ["sign", "verify"]);
  const sig = await subtle.sign("HMAC", key, utf8("The quick brown fox jumps over the lazy dog"));
  equal(hex(sig), "f7bc83f430538424b13298e6aa6fb143ef4d59a14946175997479dbc2d1a3cd8");
  equal(await subtle.verify("HMAC", key, sig, utf8("The quick brown fox jumps over the lazy dog")), true);
  equal(await subtle.verify("HMAC", key, sig, utf8("other")), false);
  const jwk = await subtle.exportKey("jwk", key);
  equal([jwk.kty, jwk.alg, jwk.k, jwk.ext, jwk.key_ops.join("+")].join(), "oct,HS256,a2V5,true,sign+verify");
  const back = await subtle.importKey("jwk", jwk, { name: "HMAC", hash: "SHA-256" }, false, ["sign"]);
  equal(hex(await subtle.sign("HMAC", back, utf8("x"))), hex(await subtle.sign("HMAC", key, utf8("x"))));
  await rejects("InvalidAccessError", subtle.exportKey("raw", back));
  await rejects("InvalidAccessError", subtle.verify("HMAC", back, sig, utf8("x")));
  const made = await subtle.generateKey({ name: "HMAC", hash: "SHA-512" }, true, ["sign"]);
  equal([made.type, made.algorithm.length, made.algorithm.hash.name, made.usages.join()].join(), "secret,1024,SHA-512,sign");
  await rejects("SyntaxError", subtle.generateKey({ name: "HMAC", hash: "SHA-512" }, true, []));
  await rejects("SyntaxError", subtle.generateKey({ name: "HMAC", hash: "SHA-512" }, true, ["encrypt"]));
  await rejects(TypeError, subtle.importKey("raw", utf8("k"), { name: "HMAC" }, true, ["sign"]));
});

test("AES", async () => {
  for (const [name, params] of [
    ["AES-GCM", { iv: new Uint8Array(12), additionalData: utf8("ad") }],
    ["AES-CBC", { iv: new Uint8Array(16) }],
    ["AES-CTR", { counter: new Uint8Array(16), length: 64 }],
  ]) {
    const key = await subtle.generateKey({ name, length: 256 }, true, ["encrypt", "decrypt"]);
    const secret = await subtle.encrypt({ name, ...params }, key, utf8("secret"));
    equal(new TextDecoder().decode(await subtle.decrypt({ name, ...params }, key, secret)), "secret");
    equal((await subtle.exportKey("raw", key)).byteLength, 32);
    equal((await subtle.exportKey("jwk", key)).alg, `A256${name.slice(4)}`);
  }
  const key = await subtle.importKey("raw", new Uint8Array(16), "AES-GCM", false, ["encrypt", "decrypt"]);
  const out = await subtle.encrypt({ name: "AES-GCM", iv: new Uint8Array(12) }, key, new Uint8Array(16));
  equal(hex(out), "0388dace60b6a392f328c2b971b2fe78ab6e47d42cec13bdf53a67b21257bddf");
  const bad = new Uint8Array(out);
  bad[0] ^= 1;
  await rejects("OperationError", subtle.decrypt({ name: "AES-GCM", iv: new Uint8Array(12) }, key, bad));
  await rejects("OperationError", subtle.generateKey({ name: "AES-GCM", length: 100 }, true, ["encrypt"]));
  await rejects("DataError", subtle.importKey("raw", new Uint8Array(5), "AES-GCM", false, ["encrypt"]));
  await rejects("InvalidAccessError", subtle.encrypt({ name: "AES-CBC", iv: new Uint8Array(16) }, key, utf8("x")));
});

test("derivation", async () => {
  const password = await subtle.importKey("raw", utf8("password"), "PBKDF2", false, ["deriveBits", "deriveKey"]);
  const pbkdf2 = { name: "PBKDF2", hash: "SHA-1", salt: utf8("salt"), iterations: 2 };
  equal(hex(await subtle.deriveBits(pbkdf2, password, 160)), "ea6c014dc72d6f8ccd1ed92ace1d41f0d8de8957");
  const key = await subtle.deriveKey(pbkdf2, password, { name: "AES-GCM", length: 128 }, true, ["encrypt"]);
  equal(hex(await subtle.exportKey("raw", key)), "ea6c014dc72d6f8ccd1ed92ace1d41f0");
  await rejects("NotSupportedError", subtle.deriveBits({ ...pbkdf2, iterations: 100001 }, password, 160));
  const ikm = await subtle.importKey("raw", new Uint8Array(22).fill(11), "HKDF", false, ["deriveBits"]);
  const salt = Uint8Array.fromHex("000102030405060708090a0b0c"), info = Uint8Array.fromHex("f0f1f2f3f4f5f6f7f8f9");
  equal(hex(await subtle.deriveBits({ name: "HKDF", hash: "SHA-256", salt, info }, ikm, 336)),
    "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865");
});

test("signatures", async () => {
  const rsa = { modulusLength: 2048, publicExponent: new Uint8Array([1, 0, 1]), hash: "SHA-256" };
  for (const [make, use] of [
    [{ name: "ECDSA", namedCurve: "P-256" }, { name: "ECDSA", hash: "SHA-256" }],
    [{ name: "ECDSA", namedCurve: "P-521" }, { name: "ECDSA", hash: "SHA-512" }],
    ["Ed25519", "Ed25519"],
    [{ name: "RSASSA-PKCS1-v1_5", ...rsa }, "RSASSA-PKCS1-v1_5"],
    [{ name: "RSA-PSS", ...rsa }, { name: "RSA-PSS", saltLength: 32 }],
  ]) {
    const { publicKey, privateKey } = await subtle.generateKey(make, true, ["sign", "verify"]);
    equal([publicKey.type, privateKey.type, publicKey.usages.join(), privateKey.usages.join()].join(), "public,private,verify,sign");
    const sig = await subtle.sign(use, privateKey, utf8("data"));
    equal(await subtle.verify(use, publicKey, sig, utf8("data")), true);
    equal(await subtle.verify(use, publicKey, sig, utf8("date")), false);
    for (const format of ["jwk", "spki"]) {
      const again = await subtle.importKey(format, await subtle.exportKey(format, publicKey), make, true, ["verify"]);
      equal(await subtle.verify(use, again, sig, utf8("data")), true);
      equal(JSON.stringify(again.algorithm), JSON.stringify(publicKey.algorithm));
    }
    for (const format of ["jwk", "pkcs8"]) {
      const again = await subtle.importKey(format, await subtle.exportKey(format, privateKey), make, false, ["sign"]);
      equal(again.type, "private");
      equal(await subtle.verify(use, publicKey, await subtle.sign(use, again, utf8("data")), utf8("data")), true);
    }
    await rejects("InvalidAccessError", subtle.exportKey("spki", privateKey));
  }
});

test("a JWT of RFC 7515, appendix A.3", async () => {
  const jwk = { kty: "EC", crv: "P-256", x: "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU", y: "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0" };
  const key = await subtle.importKey("jwk", jwk, { name: "ECDSA", namedCurve: "P-256" }, false, ["verify"]);
  const [head, body, sig] = ("eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ."
    + "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q").split(".");
  const sigBytes = Uint8Array.fromBase64(sig, { alphabet: "base64url" });
  equal(await subtle.verify({ name: "ECDSA", hash: "SHA-256" }, key, sigBytes, utf8(`${head}.${body}`)), true);
});

test("agreement", async () => {
  for (const alg of [{ name: "ECDH", namedCurve: "P-256" }, { name: "X25519" }]) {
    const a = await subtle.generateKey(alg, true, ["deriveBits", "deriveKey"]);
    const b = await subtle.generateKey(alg, true, ["deriveBits"]);
    const ab = await subtle.deriveBits({ name: alg.name, public: b.publicKey }, a.privateKey, 256);
    const ba = await subtle.deriveBits({ name: alg.name, public: a.publicKey }, b.privateKey, null);
    equal(hex(ab), hex(ba));
    const key = await subtle.deriveKey({ name: alg.name, public: b.publicKey }, a.privateKey, { name: "AES-GCM", length: 256 }, true, ["encrypt"]);
    equal(hex(await subtle.exportKey("raw", key)), hex(ab));
    const raw = await subtle.exportKey("raw", a.publicKey);
    equal((await subtle.importKey("raw", raw, alg, true, [])).type, "public");
    await rejects("InvalidAccessError", subtle.deriveBits({ name: alg.name, public: b.privateKey }, a.privateKey, 256));
  }
});

test("wrapping", async () => {
  const secret = await subtle.generateKey({ name: "AES-GCM", length: 256 }, true, ["encrypt"]);
  const rsa = await subtle.generateKey({ name: "RSA-OAEP", modulusLength: 2048, publicExponent: new Uint8Array([1, 0, 1]), hash: "SHA-256" }, true, ["wrapKey", "unwrapKey"]);
  const kw = await subtle.generateKey({ name: "AES-KW", length: 128 }, true, ["wrapKey", "unwrapKey"]);
  for (const [wrap, unwrap, alg] of [[rsa.publicKey, rsa.privateKey, "RSA-OAEP"], [kw, kw, "AES-KW"]]) {
    const wrapped = await subtle.wrapKey("raw", secret, wrap, alg);
    const back = await subtle.unwrapKey("raw", wrapped, unwrap, alg, "AES-GCM", true, ["encrypt"]);
    equal(hex(await subtle.exportKey("raw", back)), hex(await subtle.exportKey("raw", secret)));
  }
});

test("CryptoKey", async () => {
  throws(TypeError, () => new CryptoKey());
  const key = await subtle.generateKey({ name: "AES-GCM", length: 128 }, false, ["encrypt"]);
  equal(key instanceof CryptoKey, true);
  equal(Object.prototype.toString.call(key), "[object CryptoKey]");
});

test("timingSafeEqual", () => {
  equal(subtle.timingSafeEqual(utf8("ab"), utf8("ab")), true);
  equal(subtle.timingSafeEqual(utf8("ab"), utf8("ac")), false);
  throws(TypeError, () => subtle.timingSafeEqual(utf8("ab"), utf8("a")));
});

test("DigestStream", async () => {
  const s = new crypto.DigestStream("SHA-256");
  const w = s.getWriter();
  await w.write(utf8("a"));
  await w.write("bc");
  await w.close();
  equal(hex(await s.digest), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  equal(s.bytesWritten, 3n);
  const big = new crypto.DigestStream("MD5");
  await new Response("x".repeat(200000)).body.pipeTo(big);
  equal(hex(await big.digest), hex(await subtle.digest("MD5", utf8("x".repeat(200000)))));
});
