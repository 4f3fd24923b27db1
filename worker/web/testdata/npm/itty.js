import { AutoRouter, cors, error, json, withParams } from "itty-router";

const { preflight, corsify } = cors();
const router = AutoRouter({ before: [preflight, withParams], finally: [corsify] });
router
  .get("/hello/:name", ({ name, query }) => `hello ${name} ${query.q ?? ""}`)
  .post("/echo", async (request) => json({ got: await request.json(), type: request.headers.get("content-type") }))
  .get("/error", () => error(400, "bad"))
  .get("/throw", () => {
    throw new Error("thrown");
  });

export default async function run() {
  const out = [];
  for (const [path, init] of [
    ["/hello/you?q=1"], ["/echo", { method: "POST", body: '{"a":1}', headers: { "content-type": "application/json" } }], ["/error"], ["/throw"], ["/none"],
  ]) {
    const r = await router.fetch(new Request(`https://a.example${path}`, init));
    out.push(`${path} ${r.status} ${await r.text()} ${r.headers.get("access-control-allow-origin")}`);
  }
  return out.join("\n");
}
