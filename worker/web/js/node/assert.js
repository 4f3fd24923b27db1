// node:assert.

import { chunk } from "holdfast:core";

import { isDeepEqual } from "./equal.js";

const inspect = (v) => chunk("inspect").inspect(v);

export class AssertionError extends Error {
  constructor({ message, actual, expected, operator } = {}) {
    super(message ?? `${inspect(actual)} ${operator} ${inspect(expected)}`);
    Object.assign(this, { generatedMessage: message === undefined, code: "ERR_ASSERTION", actual, expected, operator });
  }
  get name() { return "AssertionError"; }
}

function fail(actual, expected, message, operator) {
  if (message instanceof Error) {
    throw message;
  }
  throw new AssertionError({ actual, expected, message, operator });
}

function comparison(operator, holds) {
  return (actual, expected, message) => {
    if (!holds(actual, expected)) {
      fail(actual, expected, message, operator);
    }
  };
}

/** Whether an error is what throws and rejects were told to expect. */
function matches(error, expected, message) {
  if (expected === undefined || typeof expected === "string") {
    return;
  }
  let ok;
  if (expected instanceof RegExp) {
    ok = expected.test(`${error}`);
  } else if (typeof expected === "function") {
    ok = expected.prototype !== undefined && error instanceof expected;
    if (!ok && !(expected.prototype instanceof Error) && expected !== Error) {
      ok = expected(error) === true;
    }
  } else {
    ok = Object.keys(expected).every((k) =>
      expected[k] instanceof RegExp && typeof error?.[k] === "string" ? expected[k].test(error[k]) : isDeepEqual(error?.[k], expected[k], true));
  }
  if (!ok) {
    fail(error, expected, message, "throws");
  }
}

const textOf = (expected, message) => message ?? (typeof expected === "string" ? expected : undefined);

export function assert(value, message) {
  if (!value) {
    fail(value, true, message ?? "The expression evaluated to a falsy value", "==");
  }
}

Object.assign(assert, {
  AssertionError,
  ok: (value, message) => assert(value, message),
  fail: (message = "Failed") => fail(undefined, undefined, message, "fail"),
  equal: comparison("==", (a, b) => a == b || (a !== a && b !== b)), // eslint-disable-line eqeqeq
  notEqual: comparison("!=", (a, b) => a != b && (a === a || b === b)), // eslint-disable-line eqeqeq
  strictEqual: comparison("strictEqual", Object.is),
  notStrictEqual: comparison("notStrictEqual", (a, b) => !Object.is(a, b)),
  deepEqual: comparison("deepEqual", (a, b) => isDeepEqual(a, b, false)),
  notDeepEqual: comparison("notDeepEqual", (a, b) => !isDeepEqual(a, b, false)),
  deepStrictEqual: comparison("deepStrictEqual", (a, b) => isDeepEqual(a, b, true)),
  notDeepStrictEqual: comparison("notDeepStrictEqual", (a, b) => !isDeepEqual(a, b, true)),
  match: comparison("match", (text, pattern) => pattern.test(text)),
  doesNotMatch: comparison("doesNotMatch", (text, pattern) => !pattern.test(text)),
  ifError(value) {
    if (value !== null && value !== undefined) {
      throw value instanceof Error ? value : new AssertionError({ actual: value, expected: null, operator: "ifError" });
    }
  },
  throws(f, expected, message) {
    try {
      f();
    } catch (e) {
      matches(e, expected, message);
      return;
    }
    fail(undefined, expected, textOf(expected, message) ?? "Missing expected exception.", "throws");
  },
  doesNotThrow(f, expected, message) {
    try {
      f();
    } catch (e) {
      fail(e, expected, textOf(expected, message) ?? `Got unwanted exception.\n${e?.message}`, "doesNotThrow");
    }
  },
  async rejects(promise, expected, message) {
    try {
      await (typeof promise === "function" ? promise() : promise);
    } catch (e) {
      matches(e, expected, message);
      return;
    }
    fail(undefined, expected, textOf(expected, message) ?? "Missing expected rejection.", "rejects");
  },
  async doesNotReject(promise, expected, message) {
    try {
      await (typeof promise === "function" ? promise() : promise);
    } catch (e) {
      fail(e, expected, textOf(expected, message) ?? `Got unwanted rejection.\n${e?.message}`, "doesNotReject");
    }
  },
});

assert.strict = Object.assign((value, message) => assert(value, message), assert, {
  equal: assert.strictEqual,
  notEqual: assert.notStrictEqual,
  deepEqual: assert.deepStrictEqual,
  notDeepEqual: assert.notDeepStrictEqual,
});
assert.strict.strict = assert.strict;
