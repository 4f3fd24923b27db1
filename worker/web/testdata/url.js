test("components", () => {
  const u = new URL("https://user:pa%20ss@Example.COM:8080/a/../b?x=1#h");
  equal([u.href, u.protocol, u.username, u.password, u.host, u.hostname, u.port, u.pathname, u.search, u.hash, u.origin].join(" "),
    "https://user:pa%20ss@example.com:8080/b?x=1#h https: user pa%20ss example.com:8080 example.com 8080 /b ?x=1 #h https://example.com:8080");
  equal(`${u}`, u.href);
  equal(JSON.stringify({ u }), JSON.stringify({ u: u.href }));
  equal(new URL("https://a.example:443/").port, "");
  equal(new URL("../x?q", "https://a.example/b/c/d").href, "https://a.example/b/x?q");
  throws(TypeError, () => new URL("https://a.example", ""));
});

test("what is no URL", () => {
  for (const s of ["", "/x", "http://", "http://a b", "http://a:99999", "http://[::1"]) {
    throws(TypeError, () => new URL(s));
    equal(URL.canParse(s), false);
    equal(URL.parse(s), null);
  }
  equal(URL.canParse("/x", "http://a.example"), true);
  throws(TypeError, () => new URL());
});

test("origins", () => {
  equal(new URL("blob:https://a.example/123").origin, "https://a.example");
  equal(new URL("data:text/plain,x").origin, "null");
  equal(new URL("ws://a.example/").origin, "ws://a.example");
  equal(new URL("mailto:a@b.example").origin, "null");
});

test("setters", () => {
  const u = new URL("http://a.example/x?y#z");
  u.protocol = "https";
  u.host = "b.example:81";
  u.pathname = "p q";
  u.search = "k=v w";
  u.hash = "";
  u.username = "me";
  equal(u.href, "https://me@b.example:81/p%20q?k=v%20w");
  u.port = "nonsense";
  equal(u.port, "81");
  u.port = "";
  equal(u.host, "b.example");
  throws(TypeError, () => { u.href = "nope"; });
  u.href = "ftp://c.example/";
  equal(u.hostname, "c.example");
});

test("searchParams and search follow each other", () => {
  const u = new URL("http://a.example/?a=1&b=2");
  const p = u.searchParams;
  equal(p === u.searchParams, true);
  p.append("c d", "é&");
  equal(u.search, "?a=1&b=2&c+d=%C3%A9%26");
  u.search = "?z=9";
  equal(p.get("z"), "9");
  equal(p.size, 1);
  p.delete("z");
  equal(u.href, "http://a.example/");
  u.href = "http://a.example/?n=1";
  equal(p.get("n"), "1");
});

test("URLSearchParams", () => {
  equal(new URLSearchParams("?a=b+c&d=%zz&e&=f&&%C3%28").toString(), "a=b+c&d=%25zz&e=&=f&%EF%BF%BD%28=");
  const p = new URLSearchParams([["b", "2"], ["a", "1"], ["b", "3"]]);
  equal(p.getAll("b").join(), "2,3");
  equal(p.has("b", "3"), true);
  equal(p.has("b", "4"), false);
  p.sort();
  equal(p.toString(), "a=1&b=2&b=3");
  p.set("b", "9");
  equal(p.toString(), "a=1&b=9");
  p.delete("b", "8");
  equal(p.size, 2);
  equal(new URLSearchParams({ x: "1", y: 2 }).toString(), "x=1&y=2");
  equal(new URLSearchParams(new Map([["m", "~!'()*-._"]])).toString(), "m=%7E%21%27%28%29*-._");
  equal([...p.entries()].flat().join(), "a,1,b,9");
  throws(TypeError, () => new URLSearchParams([["a"]]));
  equal(new URLSearchParams("a=\ud800").get("a"), "\ufffd");
});

test("international hosts and paths", () => {
  equal(new URL("http://münchen.example/ü").href, "http://xn--mnchen-3ya.example/%C3%BC");
  equal(new URL("http://0x7f.1/").hostname, "127.0.0.1");
  equal(new URL("http://[2001:DB8:0:0::1]/").hostname, "[2001:db8::1]");
});

test("URLPattern", () => {
  const p = new URLPattern({ pathname: "/users/:id" });
  equal(p.test("https://a.example/users/5"), true);
  equal(p.exec("https://a.example/users/5").pathname.groups.id, "5");
  equal(p.test("https://a.example/other"), false);
  equal(new URLPattern("/x/*", "https://a.example").test("https://a.example/x/y/z"), true);
});

test("limits", () => {
  for (const bad of [`http://${"@".repeat(5000)}h/`, `http://u:${"a:".repeat(2000)}@h/`, `foo://${"@".repeat(3000)}`, ` h\ntt\np:/\\${"@".repeat(5000)}h`, `http://h/${"x".repeat(300000)}`]) {
    equal(URL.canParse(bad), false);
  }
  equal(new URL(`//${"@".repeat(10)}h/`, "http://a.example").hostname, "h");
  equal(URL.canParse(`//${"@".repeat(5000)}h/`, "http://a.example"), false);
  equal(new URL(`http://h/${"@".repeat(5000)}`).pathname.length, 5001);
  equal(new URL(`data:text,${"@".repeat(5000)}`).protocol, "data:");
  const u = new URL("http://h/");
  u.username = "x".repeat(5000);
  u.hash = "y".repeat(300000);
  equal(u.href, "http://h/");
});
