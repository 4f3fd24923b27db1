package web_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/holdfast-io/holdfast/worker/quickjs"
	"github.com/holdfast-io/holdfast/worker/web"
)

func TestFetch(t *testing.T) {
	t.Parallel()
	stop := make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/echo":
			text, _ := io.ReadAll(r.Body)
			w.Header()["x-bytes"] = []string{"caf\xe9"}
			w.Header().Add("Set-Cookie", "a=1")
			w.Header().Add("Set-Cookie", "b=2")
			_, _ = fmt.Fprintf(w, "%s %s %d %q %s", r.Method, r.Header.Get("X-In"), r.ContentLength, r.TransferEncoding, text)
		case "/big":
			_, _ = w.Write(bytes.Repeat([]byte("0123456789"), 100_000))
		case "/moved":
			http.Redirect(w, r, "/echo", http.StatusFound)
		case "/slow":
			_, _ = io.WriteString(w, "begin")
			w.(http.Flusher).Flush()
			fallthrough
		default:
			select {
			case <-r.Context().Done():
			case <-stop:
			}
		}
	}))
	t.Cleanup(s.Close)
	t.Cleanup(func() { close(stop) })
	l := newLoop(t)
	l.enter(func() error { return l.engine.Global().Set("base", l.engine.String(s.URL)) })

	l.want(`fetch(base + "/echo", {headers: {"x-in": "in"}}).then((r) => r.text())`, `GET in 0 [] `)
	l.want(`fetch(base + "/echo", {method: "POST", body: "abc"}).then((r) => r.text())`, `POST  3 [] abc`)
	l.want(`fetch(new Request(base + "/echo", {method: "PUT", body: new Blob(["x"])})).then((r) => r.text())`, `PUT  1 [] x`)
	l.want(`fetch(base + "/echo", {method: "POST", body: new ReadableStream({async pull(c) {
		await scheduler.wait(1); c.enqueue(new TextEncoder().encode("s")); if (this.n = (this.n ?? 0) + 1, this.n === 3) c.close();
	}})}).then((r) => r.text())`, `POST  -1 ["chunked"] sss`)
	l.want(`(async () => { const {readable, writable} = new FixedLengthStream(2); const w = writable.getWriter(); w.write(new Uint8Array([65, 66])); w.close();
		return (await fetch(base + "/echo", {method: "POST", body: readable})).text(); })()`, `POST  2 [] AB`)
	l.want(`fetch(base + "/echo").then((r) => [r.status, r.statusText, r.ok, r.url === base + "/echo", r.redirected, r.headers.get("x-bytes"), r.headers.getSetCookie()])`,
		`[200,"OK",true,true,false,"café",["a=1","b=2"]]`)
	l.want(`fetch(base + "/moved").then((r) => [r.redirected, r.url === base + "/echo"])`, `[true,true]`)
	l.want(`fetch(base + "/moved", {redirect: "manual"}).then((r) => [r.status, r.headers.get("location")])`, `[302,"/echo"]`)
	l.want(`fetch(base + "/moved", {redirect: "error"}).catch((e) => e.name)`, `TypeError`)
	l.want(`fetch(base + "/big").then((r) => r.bytes()).then((b) => b.length)`, `1000000`)
	l.want(`(async () => { let n = 0; for await (const c of (await fetch(base + "/big")).body) n += c.length; return n; })()`, `1000000`)
	l.want(`(async () => { const r = await fetch(base + "/big"); return (await new Response(r.body.pipeThrough(new CompressionStream("gzip")).pipeThrough(new DecompressionStream("gzip"))).bytes()).length; })()`, `1000000`)
	l.want(`fetch(base + "/echo").then((r) => { try { r.headers.set("a", "b"); } catch (e) { return e.message; } })`, `Can't modify immutable headers.`)
	// The body of a response that nobody has read goes out again without a detour.
	l.want(`(async () => (await fetch(new Request(base + "/echo", {method: "POST", body: (await fetch(base + "/echo")).body}))).text())()`,
		`POST  -1 ["chunked"] GET  0 [] `)
	// Aborted: before the head, and in the body.
	l.want(`(async () => { const c = new AbortController(); setTimeout(() => c.abort(), 5); return fetch(base + "/never", {signal: c.signal}).catch((e) => e.name); })()`, `AbortError`)
	l.want(`(async () => { const c = new AbortController(); const r = await fetch(base + "/slow", {signal: c.signal}); const reader = r.body.getReader();
		const first = new TextDecoder().decode((await reader.read()).value); c.abort(); return [first, await reader.read().catch((e) => e.name)]; })()`, `["begin","AbortError"]`)
	l.want(`fetch(base + "/never", {signal: AbortSignal.timeout(5)}).catch((e) => e.name)`, `TimeoutError`)
	// What is refused says by which setting.
	l.want(`fetch("http://169.254.169.254/latest").catch((e) => e.name + " " + /fetch-allow/.test(e.message) + " " + /link-local/.test(e.message))`, `TypeError true true`)
	l.want(`fetch(base.replace("127.0.0.1", "[::1]")).catch((e) => e.name + " " + /loopback/.test(e.message))`, `TypeError true`)
	// An error in the body that is sent ends the request.
	l.want(`fetch(base + "/echo", {method: "POST", body: new ReadableStream({pull() { throw new Error("spoilt"); }})}).catch((e) => e.name + e.message)`, `TypeErrorspoilt`)
	if logs := l.logged(); logs != "" {
		t.Errorf("logged: %s", logs)
	}
}

// Messages go from one engine to another as Go sees them.
func TestMessages(t *testing.T) {
	t.Parallel()
	from, to := newLoop(t), newLoop(t)
	for _, test := range []struct{ message, read, want string }{
		{
			`new Response("héllo", {status: 201, statusText: "Made", headers: [["X-a", "\xe9"], ["set-cookie", "1"], ["set-cookie", "2"]]})`,
			`async (m) => [m.status, m.statusText, m.headers.get("x-a"), m.headers.getSetCookie(), await m.text()]`,
			`[201,"Made","é",["1","2"],"héllo"]`,
		},
		{
			`new Request("https://a.example/x?y", {method: "POST", body: new Uint8Array([1, 2]), headers: {a: "b"}})`,
			`async (m) => [m.method, m.url, m.headers.get("a"), (await m.bytes()).join()]`,
			`["POST","https://a.example/x?y","b","1,2"]`,
		},
		{
			`new Response(new ReadableStream({async pull(c) { await scheduler.wait(1); c.enqueue(new TextEncoder().encode("s")); if (this.n = (this.n ?? 0) + 1, this.n === 3) c.close(); }}))`,
			`async (m) => [await m.text(), m.bodyUsed]`, `["sss",true]`,
		},
		{`new Response(null, {status: 204})`, `async (m) => [m.status, m.body, await m.text()]`, `[204,null,""]`},
		{`new Response("")`, `async (m) => [m.body === null, await m.text()]`, `[false,""]`},
	} {
		var head *web.Head
		var body web.Body
		from.enter(func() error {
			v, err := from.engine.Eval(test.message, "message.js")
			if err != nil {
				return err
			}
			head, body, err = from.web.Take(v)
			return err
		})
		// The body is pulled by one loop out of the other, which has to run meanwhile.
		ended := make(chan struct{})
		go func() {
			for {
				if len(from.timers) > 0 {
					from.fire()
					continue
				}
				select {
				case f := <-from.work:
					from.underWay.Add(-1)
					from.enter(f)
				case <-ended:
					return
				}
			}
		}()
		to.enter(func() error {
			var v quickjs.Value
			var err error
			if head.Method != "" {
				v, err = to.web.Request(head, body)
			} else {
				v, err = to.web.Response(head, body)
			}
			if err != nil {
				return err
			}
			return to.engine.Global().Set("message", v)
		})
		to.want("("+test.read+")(message)", test.want)
		ended <- struct{}{}
	}
}

// A request's signal aborts when the client goes; what is no Response is refused.
func TestClientGoesAndWrongTypes(t *testing.T) {
	t.Parallel()
	l := newLoop(t)
	l.enter(func() error {
		request, err := l.web.Request(&web.Head{Method: "GET", URL: "https://a.example/", Length: -1}, web.Body{})
		if err != nil {
			return err
		}
		if err := l.engine.Global().Set("request", request); err != nil {
			return err
		}
		return l.web.Abort(request)
	})
	l.want(`[new Request(request, {method: "PUT"}).signal.aborted, request.clone().signal.aborted, new Request(request, {signal: null}).signal.aborted]`, `[true,true,false]`)
	l.want(`[request.signal.aborted, request.signal.reason.name]`, `[true,"AbortError"]`)
	l.want(`(() => { try { request.headers.set("a", "b"); } catch (e) { return e.name; } })()`, `TypeError`)
	l.enter(func() error {
		_, _, err := l.web.Take(l.engine.String("no response"))
		if err == nil || !strings.Contains(err.Error(), "did not resolve to 'Response'") {
			t.Errorf("got %v", err)
		}
		return nil
	})
}

func TestConsole(t *testing.T) {
	t.Parallel()
	l := newLoop(t)
	for expression, want := range map[string]string{
		`console.log("a", "b")`:                                    "1 a b",
		`console.log("%s is %d", "x", 5, {a: 1})`:                  "1 x is 5 { a: 1 }",
		`console.warn([1, "x", null])`:                             "3 [ 1, 'x', null ]",
		`console.debug()`:                                          "0 ",
		`console.info(new Map([[1, new Set([2])]]))`:               "2 Map(1) { 1 => Set(1) { 2 } }",
		`console.error(new Headers({a: "b"}))`:                     "4 Headers { a: 'b' }",
		`console.log(new URL("https://a.example/x").searchParams)`: "1 URLSearchParams {}",
		`console.assert(1 === 2, "why")`:                           "4 Assertion failed: why",
		`console.group("g"), console.log("in\nside"), console.groupEnd(), console.log("out")`:             "1 g\n1   in\n  side\n1 out",
		`console.count(), console.count("x"), console.count()`:                                            "1 default: 1\n1 x: 1\n1 default: 2",
		`console.table([{a: 1}, {a: 2}])`:                                                                 "1 ┌─────────┬───┐\n│ (index) │ a │\n├─────────┼───┤\n│ 0       │ 1 │\n│ 1       │ 2 │\n└─────────┴───┘",
		`console.log(new TypeError("bad").message, new DOMException("m", "AbortError") instanceof Error)`: "1 bad true",
	} {
		if _, err := l.run(expression); err != nil {
			t.Errorf("%s: %v", expression, err)
		}
		if got := l.logged(); got != want {
			t.Errorf("%s: got %q, want %q", expression, got, want)
		}
	}
	// An error is shown with its name and message, where it was made, and its cause.
	if _, err := l.run(`(function f() { console.log(new TypeError("bad", {cause: new Error("why")})); })()`); err != nil {
		t.Error(err)
	}
	if got := l.logged(); !strings.HasPrefix(got, "1 TypeError: bad\n    at f (expression.js:1:") || !strings.Contains(got, "[cause]: Error: why\n") {
		t.Errorf("an error: %q", got)
	}
	if _, err := l.run(`console.log("x".repeat(100000))`); err != nil {
		t.Error(err)
	}
	if got := l.logged(); len(got) > 17_000 || !strings.HasSuffix(got, "… (83616 more characters)") {
		t.Errorf("a long line has %d bytes and ends in %q", len(got), got[len(got)-30:])
	}
}

func TestErrorsThatNobodyCatches(t *testing.T) {
	t.Parallel()
	l := newLoop(t)
	for expression, want := range map[string]string{
		`void Promise.reject(new Error("lost"))`:                                    "4 Uncaught (in promise) Error: lost\n",
		`void setTimeout(() => { throw new Error("late"); }, 0), scheduler.wait(5)`: "4 Uncaught Error: late\n",
		`reportError("text")`: "4 Uncaught text",
	} {
		if _, err := l.run(expression); err != nil {
			t.Errorf("%s: %v", expression, err)
		}
		if got := l.logged(); !strings.HasPrefix(got, want) {
			t.Errorf("%s: logged %q, want %q", expression, got, want)
		}
	}
	l.want(`new Promise((done) => { addEventListener("unhandledrejection", (e) => { e.preventDefault(); done(e.reason.message); }); Promise.reject(new Error("seen")); })`, "seen")
	if got := l.logged(); got != "" {
		t.Errorf("logged %q although a listener prevented it", got)
	}
}
