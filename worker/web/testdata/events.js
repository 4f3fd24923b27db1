test("EventTarget", () => {
  const t = new EventTarget();
  const seen = [];
  const f = (e) => seen.push(`f${e.type}${e.target === t}${e.currentTarget === t}`);
  t.addEventListener("x", f);
  t.addEventListener("x", f);
  t.addEventListener("x", { handleEvent(e) { seen.push(`o${this !== t}${e.eventPhase}`); } });
  t.addEventListener("x", () => seen.push("once"), { once: true });
  equal(t.dispatchEvent(new Event("x")), true);
  t.removeEventListener("x", f);
  t.dispatchEvent(new Event("x"));
  equal(seen.join(), "fxtruetrue,otrue2,once,otrue2");
  throws(TypeError, () => t.dispatchEvent({}));
  throws(TypeError, () => t.addEventListener("x", 5));
});

test("cancelling and stopping", () => {
  const t = new EventTarget();
  t.addEventListener("x", (e) => e.preventDefault());
  t.addEventListener("x", (e) => e.stopImmediatePropagation());
  t.addEventListener("x", () => { throw new Error("not reached"); });
  equal(t.dispatchEvent(new Event("x", { cancelable: true })), false);
  equal(t.dispatchEvent(new Event("x")), true);
  const p = new EventTarget();
  p.addEventListener("x", (e) => e.preventDefault(), { passive: true });
  equal(p.dispatchEvent(new Event("x", { cancelable: true })), true);
});

test("a signal takes a listener away", () => {
  const t = new EventTarget(), c = new AbortController();
  let n = 0;
  t.addEventListener("x", () => n++, { signal: c.signal });
  t.dispatchEvent(new Event("x"));
  c.abort();
  t.dispatchEvent(new Event("x"));
  equal(n, 1);
});

test("kinds of events", () => {
  equal(new CustomEvent("x", { detail: 5 }).detail, 5);
  equal(new MessageEvent("x", { data: "d" }).data, "d");
  equal(new ErrorEvent("x", { message: "m", error: 1 }).message, "m");
  equal(new CloseEvent("x", { code: 1000, wasClean: true }).code, 1000);
  throws(TypeError, () => new Event());
});

test("DOMException", () => {
  const e = new DOMException("m", "AbortError");
  equal([e.name, e.message, e.code, e instanceof Error, `${e}`, DOMException.ABORT_ERR].join(), "AbortError,m,20,true,AbortError: m,20");
  equal(new DOMException("m").name, "Error");
  equal(new DOMException("m", { name: "DataCloneError", cause: 1 }).cause, 1);
  equal(Object.prototype.toString.call(e), "[object DOMException]");
});

test("AbortController and AbortSignal", () => {
  const c = new AbortController();
  let n = 0;
  c.signal.onabort = () => n++;
  c.signal.addEventListener("abort", () => n++);
  c.signal.throwIfAborted();
  c.abort();
  c.abort();
  equal(n, 2);
  equal(c.signal.reason.name, "AbortError");
  throws("AbortError", () => c.signal.throwIfAborted());
  equal(AbortSignal.abort(5).reason, 5);
  throws(TypeError, () => new AbortSignal());
});

test("AbortSignal.any follows, also through another", () => {
  const a = new AbortController(), b = new AbortController();
  const any = AbortSignal.any([a.signal, b.signal]), outer = AbortSignal.any([any]);
  b.abort("why");
  equal([any.aborted, any.reason, outer.aborted, outer.reason].join(), "true,why,true,why");
  equal(AbortSignal.any([AbortSignal.abort(1)]).reason, 1);
  throws(TypeError, () => AbortSignal.any([{}]));
});

test("AbortSignal.timeout", async () => {
  const s = AbortSignal.timeout(1);
  await new Promise((done) => s.addEventListener("abort", done));
  equal(s.reason.name, "TimeoutError");
});
