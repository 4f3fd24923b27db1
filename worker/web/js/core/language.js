// What the language has in V8, and the engine lacks.

function define(target, name, value) {
  if (!Object.hasOwn(target, name)) {
    Object.defineProperty(target, name, { value, writable: true, configurable: true, enumerable: false });
  }
}

export function installLanguage() {
  for (const name of ["dispose", "asyncDispose"]) {
    if (!Object.hasOwn(Symbol, name)) {
      Object.defineProperty(Symbol, name, { value: Symbol(`Symbol.${name}`) });
    }
  }
  const iterator = Object.getPrototypeOf(Object.getPrototypeOf([][Symbol.iterator]()));
  define(iterator, Symbol.dispose, function () {
    this.return?.();
  });
  const asyncIterator = Object.getPrototypeOf(Object.getPrototypeOf(async function* () {}).prototype);
  define(asyncIterator, Symbol.asyncDispose, async function () {
    await this.return?.();
  });

  // V8 writes the name and message of the error before its frames; so do libraries that print err.stack expect.
  define(Error, "captureStackTrace", function captureStackTrace(target) {
    Object.defineProperty(target, "stack", { value: new Error().stack, writable: true, configurable: true });
  });

  define(Array, "fromAsync", async function fromAsync(items, map = undefined, thisArg = undefined) {
    const out = typeof this === "function" ? new this() : [];
    let at = 0;
    const add = async (value) => {
      const mapped = map === undefined ? value : await map.call(thisArg, value, at);
      Object.defineProperty(out, at++, { value: mapped, writable: true, configurable: true, enumerable: true });
    };
    if (items[Symbol.asyncIterator] !== undefined || items[Symbol.iterator] !== undefined) {
      for await (const value of items) {
        await add(value);
      }
    } else {
      const { length } = items;
      while (at < length) {
        await add(await items[at]);
      }
    }
    out.length = at;
    return out;
  });
}
