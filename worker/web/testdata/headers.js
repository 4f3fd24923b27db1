test("names are case-insensitive, values are trimmed and combined", () => {
  const h = new Headers([["Accept", " a "], ["accept", "b"]]);
  equal(h.get("ACCEPT"), "a, b");
  equal(h.has("accept"), true);
  h.set("Accept", "c");
  equal(h.get("accept"), "c");
  h.delete("accept");
  equal(h.get("accept"), null);
});

test("iteration is sorted, by lower-case names, with each Set-Cookie by itself", () => {
  const h = new Headers({ Zeta: "1", alpha: "2", "Set-Cookie": "x=1" });
  h.append("set-cookie", "y=2");
  equal(JSON.stringify([...h]), '[["alpha","2"],["set-cookie","x=1"],["set-cookie","y=2"],["zeta","1"]]');
  equal([...h.keys()].join(), "alpha,set-cookie,set-cookie,zeta");
  equal([...h.values()].join(), "2,x=1,y=2,1");
  equal(h.getSetCookie().join("|"), "x=1|y=2");
  const seen = [];
  h.forEach(function (v, k, all) { seen.push(k + v + (all === h) + this.t); }, { t: 1 });
  equal(seen[0], "alpha2true1");
});

test("iteration looks at the headers anew at each step", () => {
  const h = new Headers({ a: "1", b: "2" });
  const seen = [];
  for (const [k] of h) {
    seen.push(k);
    if (k === "a") h.append("c", "3");
  }
  equal(seen.join(), "a,b,c");
});

test("what is no header is refused", () => {
  const h = new Headers();
  throws(TypeError, () => h.append("a b", "c"));
  throws(TypeError, () => h.append("", "c"));
  throws(TypeError, () => h.append("a", "b\nc"));
  throws(TypeError, () => h.append("a", "\u0100"));
  throws(TypeError, () => h.append("a"));
  throws(TypeError, () => new Headers("a"));
  throws(TypeError, () => new Headers(null));
  throws(TypeError, () => new Headers([["a"]]));
  throws(TypeError, () => h.get("é"));
});

test("made of headers, records and anything that iterates", () => {
  const h = new Headers({ a: "1" });
  h.append("set-cookie", "x");
  h.append("set-cookie", "y");
  const copy = new Headers(h);
  h.set("a", "2");
  equal(copy.get("a"), "1");
  equal(copy.getSetCookie().length, 2);
  equal(new Headers(new Map([["q", 1]])).get("q"), "1");
});

test("a response from Response.redirect is immutable", () => {
  const r = Response.redirect("https://a.example/x", 301);
  equal(r.status, 301);
  equal(r.headers.get("location"), "https://a.example/x");
  throws(TypeError, () => r.headers.set("a", "b"));
  throws(RangeError, () => Response.redirect("https://a.example/x", 200));
  throws(TypeError, () => Response.redirect("/relative"));
});
