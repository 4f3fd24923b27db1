import { Hono } from "hono";
import { basicAuth } from "hono/basic-auth";
import { getCookie, setCookie } from "hono/cookie";
import { cors } from "hono/cors";
import { etag } from "hono/etag";
import { HTTPException } from "hono/http-exception";
import { sign, verify } from "hono/jwt";
import { logger } from "hono/logger";
import { stream, streamSSE } from "hono/streaming";
import { compress } from "hono/compress";
import { html } from "hono/html";

const app = new Hono();
app.use("/api/*", cors({ origin: "https://b.example" }));
app.use("/etag", etag());
app.use("/log", logger((line) => console.log(line.replace(/\d+ms/, "Nms"))));
app.use("/secret", basicAuth({ username: "u", password: "p" }));
app.use("/zip", compress());
app.get("/api/item/:id", (c) => c.json({ id: c.req.param("id"), q: c.req.query("q") }));
app.post("/api/form", async (c) => c.json(await c.req.parseBody()));
app.post("/api/json", async (c) => c.text((await c.req.json()).name));
app.get("/cookie", (c) => {
  setCookie(c, "seen", "yes", { httpOnly: true });
  return c.text(getCookie(c, "seen") ?? "no");
});
app.get("/etag", (c) => c.text("tagged"));
app.get("/log", (c) => c.text("logged"));
app.get("/secret", (c) => c.text("in"));
app.get("/zip", (c) => c.text("z".repeat(5000)));
app.get("/html", (c) => c.html(html`<p>${"<&>"}</p>`));
app.get("/stream", (c) => stream(c, async (s) => {
  for (const x of ["a", "b"]) {
    await s.write(x);
    await s.sleep(1);
  }
}));
app.get("/sse", (c) => streamSSE(c, async (s) => {
  await s.writeSSE({ data: "hi", event: "e", id: "1" });
}));
app.get("/jwt", async (c) => c.json(await verify(await sign({ sub: "me" }, "secret", "HS256"), "secret", "HS256")));
app.get("/redirect", (c) => c.redirect("/api/item/1"));
app.get("/teapot", () => {
  throw new HTTPException(418, { message: "teapot" });
});
app.get("/broken", () => {
  throw new Error("broken");
});
app.onError((e, c) => (e instanceof HTTPException ? e.getResponse() : c.text(`caught ${e.message}`, 500)));
app.notFound((c) => c.text("nothing", 404));

const ask = async (path, init) => {
  const r = await app.fetch(new Request(`https://a.example${path}`, init), {}, { waitUntil() {} });
  return [r.status, await r.text(), r];
};

export default async function run() {
  const out = [];
  const say = async (path, init, header) => {
    const [status, text, r] = await ask(path, init);
    out.push(`${path} ${status} ${text.length > 100 ? text.length : text}${header ? ` ${r.headers.get(header)}` : ""}`);
    return r;
  };
  await say("/api/item/5?q=x%20y", { headers: { origin: "https://b.example" } }, "access-control-allow-origin");
  await say("/api/item/5", { method: "OPTIONS", headers: { origin: "https://b.example" } }, "access-control-allow-methods");
  await say("/api/form", { method: "POST", body: new URLSearchParams({ a: "1" }) });
  const form = new FormData();
  form.append("b", "2");
  await say("/api/form", { method: "POST", body: form });
  await say("/api/json", { method: "POST", body: '{"name":"n"}' });
  await say("/cookie", { headers: { cookie: "seen=before" } }, "set-cookie");
  const tagged = await say("/etag");
  await say("/etag", { headers: { "if-none-match": tagged.headers.get("etag") } });
  await say("/log");
  await say("/secret", {}, "www-authenticate");
  await say("/secret", { headers: { authorization: `Basic ${btoa("u:p")}` } });
  await say("/html");
  await say("/stream");
  await say("/sse", {}, "content-type");
  await say("/jwt");
  await say("/redirect", {}, "location");
  await say("/teapot");
  await say("/broken");
  await say("/none");
  const zipped = await app.fetch(new Request("https://a.example/zip", { headers: { "accept-encoding": "gzip" } }));
  out.push(`/zip ${zipped.headers.get("content-encoding")} ${(await new Response(zipped.body.pipeThrough(new DecompressionStream("gzip"))).text()).length}`);
  return out.join("\n");
}
