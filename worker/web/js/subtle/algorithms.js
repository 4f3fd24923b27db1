// The algorithms: what parameters they take, what their keys are, and which operation of the host they are.

import { DOMException, bytesOf, host } from "holdfast:core";

import { makeKey, materialOf } from "./key.js";
import { fromBase64, none, run, runAll, textOf, toBase64 } from "./run.js";

const fail = (name, message) => {
  throw new DOMException(message, name);
};

const hashNames = ["SHA-1", "SHA-256", "SHA-384", "SHA-512"];
const hashBits = { "SHA-1": 160, "SHA-256": 256, "SHA-384": 384, "SHA-512": 512 };
const hashBlock = { "SHA-1": 512, "SHA-256": 512, "SHA-384": 1024, "SHA-512": 1024 };

// Readers of parameters, by what they are.
const read = {
  hash: (v) => ({ name: named(v, hashNames, "hash") }),
  bytes: (v, what) => (bytesOf(v) ?? fail2(`${what} is neither an ArrayBuffer nor a view of one.`)).slice(),
  number: (v, what) => {
    const n = Number(v);
    return Number.isSafeInteger(n) && n >= 0 ? n : fail2(`${what} is not a number from 0 on.`);
  },
  curve: (v) => (["P-256", "P-384", "P-521"].includes(v) ? v : fail("NotSupportedError", `Unrecognized or unimplemented EC curve "${v}".`)),
  key: (v) => v,
};

function fail2(message) {
  throw new TypeError(message);
}

const nameIn = (v) => (typeof v === "object" && v !== null ? v.name : v);

function named(v, names, what) {
  const name = `${nameIn(v)}`;
  return names.find((n) => n.toLowerCase() === name.toLowerCase())
    ?? fail("NotSupportedError", `Unrecognized ${what} "${name}".`);
}

// Parameters that an operation reads: name → [reader, required].
const must = (reader) => [reader, true];
const may = (reader) => [reader, false];

const parameters = {
  encrypt: {
    "AES-GCM": { iv: must("bytes"), additionalData: may("bytes"), tagLength: may("number") },
    "AES-CBC": { iv: must("bytes") },
    "AES-CTR": { counter: must("bytes"), length: must("number") },
    "RSA-OAEP": { label: may("bytes") },
  },
  sign: {
    HMAC: {}, ECDSA: { hash: must("hash") }, Ed25519: {}, "RSASSA-PKCS1-v1_5": {}, "RSA-PSS": { saltLength: must("number") },
  },
  deriveBits: {
    PBKDF2: { hash: must("hash"), salt: must("bytes"), iterations: must("number") },
    HKDF: { hash: must("hash"), salt: must("bytes"), info: must("bytes") },
    ECDH: { public: must("key") },
    X25519: { public: must("key") },
  },
  generateKey: {}, importKey: {}, keyLength: {}, digest: {},
};
for (const name of ["AES-GCM", "AES-CBC", "AES-CTR", "AES-KW"]) {
  parameters.generateKey[name] = parameters.keyLength[name] = { length: must("number") };
  parameters.importKey[name] = {};
}
parameters.wrapKey = { ...parameters.encrypt, "AES-KW": {} };
parameters.generateKey.HMAC = parameters.importKey.HMAC = parameters.keyLength.HMAC = { hash: must("hash"), length: may("number") };
for (const name of ["RSASSA-PKCS1-v1_5", "RSA-PSS", "RSA-OAEP"]) {
  parameters.generateKey[name] = { hash: must("hash"), modulusLength: must("number"), publicExponent: must("bytes") };
  parameters.importKey[name] = { hash: must("hash") };
}
for (const name of ["ECDSA", "ECDH"]) {
  parameters.generateKey[name] = parameters.importKey[name] = { namedCurve: must("curve") };
}
for (const name of ["Ed25519", "X25519"]) {
  parameters.generateKey[name] = parameters.importKey[name] = {};
}
for (const name of ["PBKDF2", "HKDF"]) {
  parameters.importKey[name] = parameters.keyLength[name] = {};
}
for (const name of [...hashNames, "MD5"]) {
  parameters.digest[name] = {};
}

/** An algorithm as the standard normalises it for an operation; what does not fit throws. */
export function normalize(algorithm, operation) {
  const known = parameters[operation];
  const name = named(algorithm, Object.keys(known), "or unimplemented algorithm");
  const out = { name };
  for (const [member, [reader, required]] of Object.entries(known[name])) {
    const value = typeof algorithm === "object" ? algorithm[member] : undefined;
    if (value !== undefined) {
      out[member] = read[reader](value, `"${member}"`);
    } else if (required) {
      throw new TypeError(`Missing field "${member}" in "algorithm".`);
    }
  }
  return out;
}

// --- symmetric keys ---

function secretKey(algorithm, extractable, usages, secret) {
  return makeKey("secret", extractable, algorithm, usages, { secret });
}

/** The bytes of a symmetric key that is imported raw or as a JWK of kty oct. */
function secretOf(format, material, alg) {
  if (format === "raw") {
    return material;
  }
  if (format !== "jwk") {
    fail("NotSupportedError", `Unrecognized import format "${format}" for ${alg.name}.`);
  }
  if (material.kty !== "oct" || typeof material.k !== "string") {
    fail("DataError", `A JWK for ${alg.name} has the kty "oct" and a member k.`);
  }
  try {
    return fromBase64(material.k);
  } catch {
    return fail("DataError", "The member k of the JWK is not base64url.");
  }
}

function secretOut(format, key, alg) {
  const { secret } = materialOf(key);
  switch (format) {
    case "raw":
      return secret.slice();
    case "jwk":
      return { kty: "oct", k: toBase64(secret), ...(alg === undefined ? {} : { alg }) };
    default:
      return fail("NotSupportedError", `Unrecognized export format "${format}" for ${key.algorithm.name}.`);
  }
}

function aes(mode, usages, cipher) {
  return {
    usages,
    cipher,
    keyLength: (alg) => checkAES(alg.length),
    generate(alg, extractable, u, some) {
      checkAES(alg.length);
      some(u);
      return secretKey({ name: alg.name, length: alg.length }, extractable, u, host.random(alg.length / 8));
    },
    import(format, material, alg, extractable, u, only) {
      only(u, usages, alg.name);
      const secret = secretOf(format, material, alg);
      const length = secret.byteLength * 8;
      if (![128, 192, 256].includes(length)) {
        fail("DataError", `Imported AES key length must be 128, 192, or 256 bits but provided ${length}.`);
      }
      return secretKey({ name: alg.name, length }, extractable, u, secret);
    },
    export: (format, key) => secretOut(format, key, `A${key.algorithm.length}${mode}`),
  };
}

function checkAES(length) {
  return [128, 192, 256].includes(length) ? length
    : fail("OperationError", `Generated AES key length must be 128, 192, or 256 bits but requested ${length}.`);
}

const cipherUsages = ["encrypt", "decrypt", "wrapKey", "unwrapKey"];

const hmac = {
  usages: ["sign", "verify"],
  keyLength: (alg) => alg.length ?? hashBlock[alg.hash.name],
  generate(alg, extractable, usages, some) {
    some(usages);
    const length = alg.length ?? hashBlock[alg.hash.name];
    if (length === 0 || length % 8 !== 0 || length > 1 << 20) {
      fail("OperationError", "The length of a key of HMAC must be a multiple of 8, and not 0.");
    }
    return secretKey({ name: "HMAC", hash: alg.hash, length }, extractable, usages, host.random(length / 8));
  },
  import(format, material, alg, extractable, usages, only) {
    only(usages, this.usages, "HMAC");
    const secret = secretOf(format, material, alg);
    if (secret.byteLength === 0) {
      fail("DataError", "A key of HMAC must not be empty.");
    }
    return secretKey({ name: "HMAC", hash: alg.hash, length: secret.byteLength * 8 }, extractable, usages, secret);
  },
  export: (format, key) => secretOut(format, key, `HS${hashBits[key.algorithm.hash.name] === 160 ? 1 : hashBits[key.algorithm.hash.name]}`),
  sign: (alg, key, data) => run("hmac", { hash: key.algorithm.hash.name }, materialOf(key).secret, data),
  verify(alg, key, signature, data) {
    const mine = this.sign(alg, key, data);
    return mine.byteLength === signature.byteLength && host.equalBytes(mine, signature);
  },
};

function derivation(op, params, inputs) {
  return {
    usages: ["deriveKey", "deriveBits"],
    generate: (alg) => fail("NotSupportedError", `Keys of ${alg.name} are imported, not generated.`),
    keyLength: () => null,
    import(format, material, alg, extractable, usages, only) {
      only(usages, this.usages, alg.name);
      if (format !== "raw") {
        fail("NotSupportedError", `Unrecognized import format "${format}" for ${alg.name}.`);
      }
      if (extractable) {
        fail("SyntaxError", `A key of ${alg.name} cannot be extractable.`);
      }
      return secretKey({ name: alg.name }, false, usages, material);
    },
    derive(alg, key, length) {
      if (length === null || length % 8 !== 0) {
        fail("OperationError", `${alg.name} needs a length that is a multiple of 8 bits.`);
      }
      return run(op, { hash: alg.hash.name, bits: length, ...params(alg) }, materialOf(key).secret, ...inputs(alg));
    },
  };
}

// --- asymmetric keys ---

/** The key of an algorithm from what the host says of it. */
function asymmetricKey(algorithm, extractable, usages, pkcs8, spki) {
  const isPrivate = pkcs8.byteLength > 0;
  return makeKey(isPrivate ? "private" : "public", extractable, algorithm, usages, { pkcs8, spki });
}

/**
 * An asymmetric algorithm: kind(alg) is the host's word for its keys, describe(alg, info) what key.algorithm says,
 * and uses which usages each half of a pair has.
 */
function asymmetric(kind, describe, uses, more) {
  return {
    usages: [...uses.private, ...uses.public],
    generate(alg, extractable, usages, some) {
      const exponent = alg.publicExponent === undefined ? 0 : alg.publicExponent.reduce((n, b) => n * 256 + b, 0);
      const privateUsages = usages.filter((u) => uses.private.includes(u));
      some(privateUsages);
      const [pkcs8, spki] = runAll("generate", { kind: kind(alg), bits: alg.modulusLength ?? 0, exponent });
      const algorithm = describe(alg, { modulusLength: alg.modulusLength, exponent });
      return {
        publicKey: makeKey("public", true, algorithm, usages.filter((u) => uses.public.includes(u)), { pkcs8: none, spki }),
        privateKey: makeKey("private", extractable, algorithm, privateUsages, { pkcs8, spki }),
      };
    },
    import(format, material, alg, extractable, usages, only) {
      if (format === "jwk" && material.alg !== undefined && this.jwkAlg !== undefined && material.alg !== this.jwkAlg(alg)) {
        fail("DataError", `The JWK's alg is "${material.alg}", which does not fit ${alg.name}.`);
      }
      const bytes = format === "jwk" ? host.encodeUTF8(JSON.stringify(material).toWellFormed()) : material;
      const [pkcs8, spki, info] = runAll("import", { kind: kind(alg), format }, bytes);
      only(usages, pkcs8.byteLength > 0 ? uses.private : uses.public, alg.name);
      return asymmetricKey(describe(alg, JSON.parse(textOf(info))), extractable, usages, pkcs8, spki);
    },
    export(format, key) {
      const { pkcs8, spki } = materialOf(key);
      const fits = { pkcs8: key.type === "private", spki: key.type === "public", raw: key.type === "public", jwk: true };
      if (!Object.hasOwn(fits, format)) {
        throw new TypeError(`Unknown key format "${format}".`);
      }
      if (!fits[format]) {
        fail("InvalidAccessError", `A ${key.type} key cannot be exported as ${format}.`);
      }
      const out = run("export", { format }, pkcs8, spki);
      if (format !== "jwk") {
        return out;
      }
      const alg = this.jwkAlg?.(key.algorithm);
      return { ...JSON.parse(textOf(out)), ...(alg === undefined ? {} : { alg }) };
    },
    ...more,
  };
}

const signing = { private: ["sign"], public: ["verify"] };
const agreeing = { private: ["deriveKey", "deriveBits"], public: [] };

function signer(scheme, params) {
  return {
    sign: (alg, key, data) =>
      key.type === "private" ? run("sign", { scheme, ...params(alg, key) }, materialOf(key).pkcs8, data)
        : fail("InvalidAccessError", "Signing takes a private key."),
    verify: (alg, key, signature, data) =>
      key.type === "public" ? run("verify", { scheme, ...params(alg, key) }, materialOf(key).spki, signature, data)[0] === 1
        : fail("InvalidAccessError", "Verifying takes a public key."),
  };
}

const agreement = {
  derive(alg, key, length) {
    const other = alg.public;
    if (other?.type !== "public" || key.type !== "private" || other.algorithm.name !== key.algorithm.name || other.algorithm.namedCurve !== key.algorithm.namedCurve) {
      fail("InvalidAccessError", `${alg.name} takes a private key, and in "public" a public key of the same algorithm and curve.`);
    }
    const secret = run("agree", {}, materialOf(key).pkcs8, materialOf(other).spki);
    if (length === null) {
      return secret;
    }
    if (length > secret.byteLength * 8) {
      fail("OperationError", `Derived key length (${length} bits) is too long: the secret has ${secret.byteLength * 8}.`);
    }
    const out = secret.slice(0, Math.ceil(length / 8));
    if (length % 8 !== 0) {
      out[out.length - 1] &= 0xff << (8 - (length % 8));
    }
    return out;
  },
};

const rsaAlgorithm = (alg, info) => ({
  name: alg.name,
  modulusLength: info.modulusLength,
  publicExponent: new Uint8Array([1, 2, 3].map((i) => (info.exponent >> (24 - 8 * i)) & 0xff)),
  hash: alg.hash,
});
const curveAlgorithm = (alg) => ({ name: alg.name, namedCurve: alg.namedCurve });
const plainAlgorithm = (alg) => ({ name: alg.name });
const bitsOf = (alg) => hashBits[alg.hash.name];

export const registry = {
  "AES-GCM": aes("GCM", cipherUsages, (alg, key, data, decrypt) =>
    run("aes", { mode: "GCM", bits: alg.tagLength ?? 128, decrypt }, materialOf(key).secret, alg.iv, alg.additionalData ?? none, data)),
  "AES-CBC": aes("CBC", cipherUsages, (alg, key, data, decrypt) =>
    run("aes", { mode: "CBC", decrypt }, materialOf(key).secret, alg.iv, none, data)),
  "AES-CTR": aes("CTR", cipherUsages, (alg, key, data, decrypt) =>
    run("aes", { mode: "CTR", bits: alg.length, decrypt }, materialOf(key).secret, alg.counter, none, data)),
  "AES-KW": aes("KW", ["wrapKey", "unwrapKey"], (alg, key, data, decrypt) => run("aes-kw", { decrypt }, materialOf(key).secret, data)),
  HMAC: hmac,
  PBKDF2: derivation("pbkdf2", (alg) => ({ iterations: alg.iterations }), (alg) => [alg.salt]),
  HKDF: derivation("hkdf", () => ({}), (alg) => [alg.salt, alg.info]),
  ECDSA: asymmetric((alg) => alg.namedCurve, curveAlgorithm, signing, signer("ECDSA", (alg) => ({ hash: alg.hash.name }))),
  ECDH: asymmetric((alg) => alg.namedCurve, curveAlgorithm, agreeing, agreement),
  Ed25519: asymmetric(() => "Ed25519", plainAlgorithm, signing, signer("Ed25519", () => ({}))),
  X25519: asymmetric(() => "X25519", plainAlgorithm, agreeing, agreement),
  "RSASSA-PKCS1-v1_5": asymmetric(() => "RSA", rsaAlgorithm, signing, {
    ...signer("RSASSA-PKCS1-v1_5", (alg, key) => ({ hash: key.algorithm.hash.name })),
    jwkAlg: (alg) => `RS${bitsOf(alg) === 160 ? 1 : bitsOf(alg)}`,
  }),
  "RSA-PSS": asymmetric(() => "RSA", rsaAlgorithm, signing, {
    ...signer("RSA-PSS", (alg, key) => ({ hash: key.algorithm.hash.name, saltLength: alg.saltLength })),
    jwkAlg: (alg) => `PS${bitsOf(alg) === 160 ? 1 : bitsOf(alg)}`,
  }),
  "RSA-OAEP": asymmetric(() => "RSA", rsaAlgorithm, { private: ["decrypt", "unwrapKey"], public: ["encrypt", "wrapKey"] }, {
    cipher(alg, key, data, decrypt) {
      if (key.type !== (decrypt ? "private" : "public")) {
        fail("InvalidAccessError", "RSA-OAEP encrypts with the public key, and decrypts with the private one.");
      }
      const { pkcs8, spki } = materialOf(key);
      return run("rsa-oaep", { hash: key.algorithm.hash.name, decrypt }, decrypt ? pkcs8 : spki, alg.label ?? none, data);
    },
    jwkAlg: (alg) => `RSA-OAEP${bitsOf(alg) === 160 ? "" : `-${bitsOf(alg)}`}`,
  }),
};
