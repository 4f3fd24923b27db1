package worker_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

const fetchTests = `
import { DurableObject } from "cloudflare:workers";
export default {
	async fetch(request, env, ctx) {
		const url = new URL(request.url);
		switch (url.pathname) {
			case '/echo': return env.T.getByName('t').fetch(request);
			case '/self': {
				const headers = new Headers({ 'x-method': request.method, 'x-header': request.headers.get('x-a') ?? '' });
				headers.append('set-cookie', 'a=1');
				headers.append('set-cookie', 'b=2');
				return new Response(request.body, { status: 201, headers });
			}
			case '/stream': {
				const { readable, writable } = new TransformStream();
				const writer = writable.getWriter();
				const encoder = new TextEncoder();
				(async () => {
					for (let i = 0; i < 5; i++) { await scheduler.wait(2); await writer.write(encoder.encode(i + ';')); }
					await writer.close();
				})();
				return new Response(readable);
			}
			case '/pulled': {
				let n = 0;
				return new Response(new ReadableStream({ pull(c) { n++ < 5 ? c.enqueue(new TextEncoder().encode(n + ';')) : c.close(); } }));
			}
			case '/out': return fetch(url.searchParams.get('to'));
			case '/throw': throw new TypeError('no');
			case '/hang': return new Promise(() => {});
			case '/nothing': return undefined;
			case '/later': ctx.waitUntil((async () => { await scheduler.wait(20); await env.T.getByName('later').fetch('http://x/mark'); })()); return new Response('soon');
			case '/marks': return env.T.getByName('later').fetch('http://x/marks');
			case '/vars': return Response.json([env.TEXT, env.JSON]);
		}
		return new Response('not found', { status: 404 });
	},
};
export class T extends DurableObject {
	async fetch(request) {
		const url = new URL(request.url);
		if (url.pathname === '/mark') { await this.ctx.storage.put('mark', 1); return new Response(null, { status: 204 }); }
		if (url.pathname === '/marks') return new Response(String((await this.ctx.storage.get('mark')) ?? 0));
		const body = await request.text();
		await this.ctx.storage.put('length', body.length);
		return new Response(request.method + ' ' + url.pathname + url.search + ' ' + request.headers.get('x-a') + ' ' + body, {
			status: 418, statusText: 'Short', headers: { 'x-b': 'ö' },
		});
	}
}
`

func TestFetch(t *testing.T) {
	t.Parallel()
	w := newWorld(t, fetchTests)
	server := httptest.NewServer(w.worker)
	defer server.Close()
	do := func(method, path, body string, header ...string) (*http.Response, string) {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), method, server.URL+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		for i := 0; i+1 < len(header); i += 2 {
			r.Header.Set(header[i], header[i+1])
		}
		resp, err := server.Client().Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = resp.Body.Close() }()
		data, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Error(err)
		}
		return resp, string(data)
	}

	resp, body := do("POST", "/echo?q=1", "hello", "X-A", "head")
	if resp.StatusCode != http.StatusTeapot || body != "POST /echo?q=1 head hello" || resp.Header.Get("X-B") != "\xf6" {
		t.Errorf("of an object: got %d %q %q", resp.StatusCode, body, resp.Header)
	}
	large := strings.Repeat("0123456789", 1<<20)
	if resp, body := do("PUT", "/echo", large, "X-A", "head"); resp.StatusCode != http.StatusTeapot || body != "PUT /echo head "+large {
		t.Errorf("a large body: got %d, %d bytes: %.200q", resp.StatusCode, len(body), body)
	}
	resp, body = do("POST", "/self", "text")
	if resp.StatusCode != http.StatusCreated || body != "text" || resp.Header.Get("X-Method") != "POST" || fmt.Sprint(resp.Header["Set-Cookie"]) != "[a=1 b=2]" {
		t.Errorf("of the worker: got %d %q %q", resp.StatusCode, body, resp.Header)
	}
	if _, body := do("POST", "/self", large); body != large {
		t.Errorf("a stream through the worker: got %d bytes", len(body))
	}
	if _, body := do("GET", "/stream", ""); body != "0;1;2;3;4;" {
		t.Errorf("a stream of the worker's: got %q", body)
	}

	if _, body := do("GET", "/pulled", ""); body != "1;2;3;4;5;" {
		t.Errorf("a stream that is there when the worker answers: got %q", body)
	}

	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = fmt.Fprint(w, "other "+r.URL.Path) }))
	defer other.Close()
	if _, body := do("GET", "/out?to="+other.URL+"/x", ""); body != "other /x" {
		t.Errorf("of another server: got %q", body)
	}
	if resp, body := do("GET", "/throw", ""); resp.StatusCode != http.StatusInternalServerError || !strings.Contains(body, "TypeError: no") || !strings.Contains(body, "index.ts:29") {
		t.Errorf("an error: got %d %q", resp.StatusCode, body)
	}
	if resp, body := do("GET", "/hang", ""); resp.StatusCode != http.StatusInternalServerError || !strings.Contains(body, "had hung") {
		t.Errorf("what hangs: got %d %q", resp.StatusCode, body)
	}
	if resp, body := do("GET", "/nothing", ""); resp.StatusCode != http.StatusInternalServerError || !strings.Contains(body, "did not resolve to 'Response'") {
		t.Errorf("no response: got %d %q", resp.StatusCode, body)
	}
	if resp, body := do("GET", "/none", ""); resp.StatusCode != http.StatusNotFound || body != "not found" {
		t.Errorf("got %d %q", resp.StatusCode, body)
	}
	if _, body := do("GET", "/later", ""); body != "soon" {
		t.Errorf("got %q", body)
	}
	eventually(t, "what waitUntil was given goes on", func() bool { _, body := do("GET", "/marks", ""); return body == "1" })

	if resp, _ := do("GET", "/"+strings.Repeat("x", 17<<10), ""); resp.StatusCode != http.StatusRequestURITooLong {
		t.Errorf("a long URL: got %d", resp.StatusCode)
	}
	if resp, _ := do("GET", "/", "", "X-Long", strings.Repeat("x", 33<<10)); resp.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("long headers: got %d", resp.StatusCode)
	}
}

const refusedTests = caller + `
export class T extends DurableObject {
	async fetch(request) { return new Response(String((await request.text()).length)); }
}
let made = 0;
export class Sender extends DurableObject {
	constructor(ctx, env) { super(ctx, env); this.number = ++made; }
	async instance() { return this.number; }
	send(body) { return this.env.T.getByName('t').fetch('http://x/', { method: 'POST', body }); }
	streamed() {
		let n = 0;
		return new ReadableStream({ pull: (c) => n++ < 3 ? c.enqueue(new Uint8Array(10)) : c.close() });
	}
	async inTransaction(kind) {
		return this.ctx.storage.transaction(() => this.send(kind === 'stream' ? this.streamed() : 'text').then((r) => r.text(), (e) => e.message));
	}
	async large() { return this.send(new Uint8Array(33 << 20)).then((r) => r.text(), (e) => e.message); }
	async outside() {
		const sent = await (await this.send(this.streamed())).text();
		for (let i = 0; i < 5; i++) await scheduler.wait(1);
		return sent;
	}
}
`

// A request that can't leave rejects its promise once, and leaves nothing behind that is waited for.
func TestFetchThatCanNotLeave(t *testing.T) {
	t.Parallel()
	w := newWorld(t, refusedTests, func(w *world) { w.idle = 50 * time.Millisecond })
	const refused = "Fetches and calls of others can't be made within a transaction, which may be rolled back: make them before or after ctx.storage.transaction()."
	for _, kind := range []string{"text", "stream"} {
		if got := w.ok("SENDER", kind, "inTransaction", kind); got != refused {
			t.Errorf("%s within a transaction: got %v", kind, got)
		}
		if got := w.ok("SENDER", kind, "outside"); got != "30" {
			t.Errorf("%s: afterwards: got %v", kind, got)
		}
	}
	if got := fmt.Sprint(w.ok("SENDER", "large", "large")); !strings.Contains(got, "is limited to 32MiB") {
		t.Errorf("a body that is too large: got %v", got)
	}
	for _, name := range []string{"text", "stream", "large"} {
		first := w.ok("SENDER", name, "instance")
		eventually(t, name+" is evicted", func() bool {
			time.Sleep(100 * time.Millisecond) //nolint:forbidigo // the object must not be called for so long
			return w.ok("SENDER", name, "instance") != first
		})
	}
}
