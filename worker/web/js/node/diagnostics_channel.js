// node:diagnostics_channel.

const channels = new Map();

class Channel {
  #name;
  #subscribers = [];

  constructor(name) {
    this.#name = name;
  }

  get name() { return this.#name; }
  get hasSubscribers() { return this.#subscribers.length > 0; }

  subscribe(f) {
    this.#subscribers.push(f);
  }

  unsubscribe(f) {
    const at = this.#subscribers.indexOf(f);
    if (at < 0) {
      return false;
    }
    this.#subscribers.splice(at, 1);
    return true;
  }

  publish(message) {
    for (const f of [...this.#subscribers]) {
      try {
        f(message, this.#name);
      } catch (e) {
        globalThis.reportError(e);
      }
    }
  }

  runStores(message, f, self, ...args) {
    this.publish(message);
    return Reflect.apply(f, self, args);
  }
}

function channel(name) {
  let known = channels.get(name);
  if (known === undefined) {
    channels.set(name, (known = new Channel(name)));
  }
  return known;
}

function tracingChannel(name) {
  const of = (event) => (typeof name === "string" ? channel(`tracing:${name}:${event}`) : name[event]);
  const all = Object.fromEntries(["start", "end", "asyncStart", "asyncEnd", "error"].map((event) => [event, of(event)]));
  return {
    ...all,
    get hasSubscribers() { return Object.values(all).some((c) => c.hasSubscribers); },
    subscribe: (handlers) => Object.keys(handlers).forEach((event) => all[event].subscribe(handlers[event])),
    unsubscribe: (handlers) => Object.keys(handlers).every((event) => all[event].unsubscribe(handlers[event])),
    traceSync(f, context = {}, self = undefined, ...args) {
      all.start.publish(context);
      try {
        return (context.result = Reflect.apply(f, self, args));
      } catch (e) {
        context.error = e;
        all.error.publish(context);
        throw e;
      } finally {
        all.end.publish(context);
      }
    },
    tracePromise(f, context = {}, self = undefined, ...args) {
      all.start.publish(context);
      const done = (key, value) => {
        context[key] = value;
        if (key === "error") {
          all.error.publish(context);
        }
        all.asyncStart.publish(context);
        all.asyncEnd.publish(context);
      };
      try {
        return Promise.resolve(Reflect.apply(f, self, args)).then((v) => (done("result", v), v), (e) => {
          done("error", e);
          throw e;
        });
      } finally {
        all.end.publish(context);
      }
    },
  };
}

export const diagnosticsChannel = {
  Channel,
  channel,
  hasSubscribers: (name) => channels.get(name)?.hasSubscribers ?? false,
  subscribe: (name, f) => channel(name).subscribe(f),
  tracingChannel,
  unsubscribe: (name, f) => channel(name).unsubscribe(f),
};
