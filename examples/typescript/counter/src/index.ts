import { DurableObject } from "cloudflare:workers";

interface Env {
  COUNTERS: DurableObjectNamespace<Counter>;
}

/** A number, kept. Each name has an object of its own, and each object does one thing at a time. */
export class Counter extends DurableObject<Env> {
  async value(): Promise<number> {
    return (await this.ctx.storage.get<number>("value")) ?? 0;
  }

  /**
   * Between reading and writing no other call comes in: an object that waits for its storage
   * receives nothing. So no call's increment is lost, without a lock.
   */
  async increment(amount = 1): Promise<number> {
    const value = (await this.value()) + amount;
    await this.ctx.storage.put("value", value);
    return value;
  }
}

export default {
  /** GET /NAME says the value; POST /NAME increments it, by ?by=N if that is there. */
  async fetch(request, env): Promise<Response> {
    const url = new URL(request.url);
    const name = decodeURIComponent(url.pathname.slice(1));
    if (!name) {
      return new Response("which counter? ask for /NAME\n", { status: 404 });
    }
    const counter = env.COUNTERS.getByName(name);
    switch (request.method) {
      case "GET":
        return Response.json({ name, value: await counter.value() });
      case "POST": {
        const by = Number(url.searchParams.get("by") ?? 1);
        if (!Number.isSafeInteger(by)) {
          return new Response("by: must be a whole number\n", { status: 400 });
        }
        return Response.json({ name, value: await counter.increment(by) });
      }
      default:
        return new Response("GET or POST\n", { status: 405, headers: { allow: "GET, POST" } });
    }
  },
} satisfies ExportedHandler<Env>;
