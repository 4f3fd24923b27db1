// The worker of a counter. It says nothing of the class Counter, which is in counter.ts beside it:
// projects like this run on Cloudflare's pages about Durable Objects, and must run here.
export default {
  async fetch(request, env) {
    const url = new URL(request.url);
    const name = url.searchParams.get("name");
    if (!name) {
      return new Response("which counter? add ?name=", { status: 400 });
    }
    const counter = env.COUNTERS.get(env.COUNTERS.idFromName(name));
    if (url.pathname === "/increment") {
      return new Response(`${name}: ${await counter.increment()}`);
    }
    return new Response(`${name}: ${await counter.value()}`);
  },
};
