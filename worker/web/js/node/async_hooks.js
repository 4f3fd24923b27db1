// node:async_hooks: AsyncLocalStorage and AsyncResource.
//
// The engine has no hook for promises, so the context is carried by what workers wait with: then, queueMicrotask,
// timers and listeners of events wrap their callbacks. A native await takes no such way: a worker that imports this
// module is bundled with its async functions lowered to generators, which use then.

// The current context: storage → value. It is never changed, only replaced.
let current = new Map();

function within(context, f, self, args) {
  const before = current;
  current = context;
  try {
    return Reflect.apply(f, self, args);
  } finally {
    current = before;
  }
}

/** f, to be called later in the context of now. */
function bound(f) {
  const context = current;
  return function (...args) {
    return within(context, f, this, args);
  };
}

let patched = false;

/** Has the callbacks of promises and timers remember their context. Done when the first storage is made. */
function patch() {
  if (patched) {
    return;
  }
  patched = true;
  const { then } = Promise.prototype;
  Object.defineProperty(Promise.prototype, "then", {
    value: function (fulfilled, rejected) {
      return then.call(this, typeof fulfilled === "function" ? bound(fulfilled) : fulfilled, typeof rejected === "function" ? bound(rejected) : rejected);
    },
    writable: true,
    configurable: true,
  });
  for (const name of ["queueMicrotask", "setImmediate", "setTimeout", "setInterval"]) {
    const original = globalThis[name];
    Object.defineProperty(globalThis, name, {
      value: { [name]: (f, ...args) => original(typeof f === "function" ? bound(f) : f, ...args) }[name],
      writable: true,
      configurable: true,
    });
  }
}

export class AsyncLocalStorage {
  #disabled = false;

  constructor() {
    patch();
  }

  static bind(f) { return bound(f); }

  static snapshot() {
    const context = current;
    return (f, ...args) => within(context, f, undefined, args);
  }

  run(store, f, ...args) {
    this.#disabled = false;
    return within(new Map(current).set(this, store), f, undefined, args);
  }

  exit(f, ...args) {
    const context = new Map(current);
    context.delete(this);
    return within(context, f, undefined, args);
  }

  getStore() {
    return this.#disabled ? undefined : current.get(this);
  }

  enterWith(store) {
    this.#disabled = false;
    current = new Map(current).set(this, store);
  }

  disable() {
    this.#disabled = true;
  }
}

export class AsyncResource {
  #context = current;
  #type;

  constructor(type) {
    this.#type = `${type}`;
  }

  get type() { return this.#type; }

  static bind(f, type, self) {
    return new AsyncResource(type ?? "bound").bind(f, self);
  }

  bind(f, self) {
    const context = this.#context;
    return function (...args) {
      return within(context, f, self ?? this, args);
    };
  }

  runInAsyncScope(f, self, ...args) {
    return within(this.#context, f, self, args);
  }

  asyncId() { return 0; }
  triggerAsyncId() { return 0; }
  emitDestroy() { return this; }
}

/** Called by the host at the start of each event: what enterWith left behind must not reach another one. */
export function resetContext() {
  current = new Map();
}
