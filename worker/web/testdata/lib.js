// What the test files use. Each is a script of calls of test(); the harness then calls runTests().

const tests = [];

globalThis.test = (name, f) => tests.push([name, f]);

const shown = (v) => (typeof v === "string" ? JSON.stringify(v) : String(v)).slice(0, 500);

globalThis.equal = (got, want) => {
  if (!Object.is(got, want)) {
    throw new Error(`got ${shown(got)}, want ${shown(want)}`);
  }
};

// kind is a class, the name of a DOMException, or a pattern of the message.
const fits = (e, kind) => {
  const ok = typeof kind === "string" ? e?.name === kind : kind instanceof RegExp ? kind.test(e?.message) : e instanceof kind;
  if (!ok) {
    throw new Error(`got the error ${e?.name}: ${e?.message}, want ${kind.name ?? kind}`);
  }
};

globalThis.throws = (kind, f) => {
  try {
    f();
  } catch (e) {
    fits(e, kind);
    return;
  }
  throw new Error(`nothing thrown by ${f}, want ${kind.name ?? kind}`);
};

globalThis.rejects = async (kind, promise) => {
  try {
    await promise;
  } catch (e) {
    fits(e, kind);
    return;
  }
  throw new Error(`not rejected, want ${kind.name ?? kind}`);
};

// Text with a line for each test that failed.
globalThis.runTests = async () => {
  let out = "";
  for (const [name, f] of tests) {
    try {
      await f();
    } catch (e) {
      out += `${name}: ${e?.name}: ${e?.message}\n${e?.stack}\n`;
    }
  }
  return out;
};
globalThis.countTests = () => tests.length;
