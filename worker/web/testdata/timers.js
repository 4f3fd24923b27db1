test("timers fire in order, with their arguments", async () => {
  const seen = [];
  await new Promise((done) => {
    setTimeout((a, b) => { seen.push(a + b); done(); }, 20, "la", "st");
    setTimeout(() => seen.push("first"), 1);
    clearTimeout(setTimeout(() => seen.push("never"), 5));
    equal(clearTimeout(), undefined);
  });
  equal(seen.join(), "first,last");
});

test("intervals", async () => {
  let n = 0;
  await new Promise((done) => {
    const id = setInterval(() => { if (++n === 3) { clearInterval(id); done(); } }, 1);
    equal(id.unref(), id);
    equal(typeof +id, "number");
  });
  await scheduler.wait(10);
  equal(n, 3);
});

test("a timer is put off by refresh, and stopped by its number", async () => {
  let n = 0;
  const t = setTimeout(() => n++, 30);
  await scheduler.wait(20);
  t.refresh();
  await scheduler.wait(20);
  equal(n, 0);
  await scheduler.wait(20);
  equal(n, 1);
  equal(t.hasRef(), false);
  const u = setTimeout(() => n++, 1);
  clearTimeout(+u);
  await scheduler.wait(5);
  equal(n, 1);
  await new Promise((done) => setImmediate(done));
});

test("microtasks before timers", async () => {
  const seen = [];
  setTimeout(() => seen.push("timer"), 0);
  queueMicrotask(() => seen.push("micro"));
  Promise.resolve().then(() => seen.push("then"));
  seen.push("sync");
  await scheduler.wait(5);
  equal(seen.join(), "sync,micro,then,timer");
  throws(TypeError, () => queueMicrotask(5));
  throws(TypeError, () => setTimeout("code", 1));
});

test("scheduler.wait can be aborted", async () => {
  const c = new AbortController();
  const p = scheduler.wait(100000, { signal: c.signal });
  c.abort();
  await rejects("AbortError", p);
});

test("errors in callbacks become error events", async () => {
  const seen = [];
  const listen = (e) => { seen.push(e.message); e.preventDefault(); };
  addEventListener("error", listen);
  setTimeout(() => { throw new Error("in a timer"); }, 0);
  queueMicrotask(() => { throw new Error("in a microtask"); });
  reportError(new Error("reported"));
  await scheduler.wait(5);
  removeEventListener("error", listen);
  equal(seen.join(), "Uncaught Error: reported,Uncaught Error: in a microtask,Uncaught Error: in a timer");
});
