// Deep equality as node:assert and node:util have it.

const kindOf = (v) => Object.prototype.toString.call(v);
const enumerableKeys = (v) => [
  ...Object.keys(v),
  ...Object.getOwnPropertySymbols(v).filter((s) => Object.getOwnPropertyDescriptor(v, s).enumerable),
];

/** Whether two values are equal: strictly, or with == for primitives and without looking at prototypes. */
export function isDeepEqual(a, b, strict, seen = new Map()) {
  if (strict ? Object.is(a, b) : a == b || (a !== a && b !== b)) { // eslint-disable-line eqeqeq
    return true;
  }
  if (typeof a !== "object" || typeof b !== "object" || a === null || b === null) {
    return false;
  }
  if (strict && Object.getPrototypeOf(a) !== Object.getPrototypeOf(b)) {
    return false;
  }
  if (kindOf(a) !== kindOf(b) || Array.isArray(a) !== Array.isArray(b)) {
    return false;
  }
  if (seen.has(a)) {
    return seen.get(a) === b;
  }
  seen.set(a, b);
  const same = (x, y) => isDeepEqual(x, y, strict, seen);
  try {
    if (a instanceof Date || a instanceof Number || a instanceof String || a instanceof Boolean) {
      if (!Object.is(a.valueOf(), b.valueOf())) {
        return false;
      }
    } else if (a instanceof RegExp) {
      if (`${a}` !== `${b}` || a.lastIndex !== b.lastIndex) {
        return false;
      }
    } else if (a instanceof Error) {
      if (a.message !== b.message || a.name !== b.name || !same(a.cause, b.cause)) {
        return false;
      }
    } else if (a instanceof ArrayBuffer) {
      return same(new Uint8Array(a), new Uint8Array(b));
    } else if (ArrayBuffer.isView(a) && !(a instanceof DataView)) {
      return a.length === b.length && a.every((v, i) => (strict ? Object.is(v, b[i]) : v === b[i]));
    } else if (a instanceof Set) {
      if (a.size !== b.size || ![...a].every((v) => b.has(v) || [...b].some((w) => typeof w === "object" && same(v, w)))) {
        return false;
      }
    } else if (a instanceof Map) {
      if (a.size !== b.size || ![...a].every(([k, v]) =>
        b.has(k) ? same(v, b.get(k)) : [...b].some(([l, w]) => typeof l === "object" && same(k, l) && same(v, w)))) {
        return false;
      }
    }
    if (Array.isArray(a) && a.length !== b.length) {
      return false;
    }
    const keys = enumerableKeys(a);
    return keys.length === enumerableKeys(b).length && keys.every((k) => Object.hasOwn(b, k) && same(a[k], b[k]));
  } finally {
    seen.delete(a);
  }
}
