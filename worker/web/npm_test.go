package web_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/evanw/esbuild/pkg/api"

	"github.com/holdfast-io/holdfast/worker/quickjs"
)

// Libraries run unmodified. They are installed from npm, so this test needs npm and its registry; testdata/npm has their
// exact versions, and one module for each, whose default export is a function that says what happened.
func TestLibrariesFromNPM(t *testing.T) {
	t.Parallel()
	npm, err := exec.LookPath("npm")
	if err != nil {
		t.Skip("npm is not installed: no libraries to run")
	}
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(filepath.Join("testdata", "npm"))); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	install := exec.CommandContext(ctx, npm, "install", "--ignore-scripts", "--no-audit", "--no-fund", "--silent")
	install.Dir = dir
	if out, err := install.CombinedOutput(); err != nil {
		t.Skipf("npm install: %v: no libraries to run\n%s", err, out)
	}
	for name, want := range map[string]string{
		"hono": `/api/item/5?q=x%20y 200 {"id":"5","q":"x y"} https://b.example
/api/item/5 204  GET,HEAD,PUT,POST,DELETE,PATCH,QUERY
/api/form 200 {"a":"1"}
/api/form 200 {"b":"2"}
/api/json 200 n
/cookie 200 before seen=yes; Path=/; HttpOnly
/etag 200 tagged
/etag 304 
/log 200 logged
/secret 401 Unauthorized Basic realm="Secure Area"
/secret 200 in
/html 200 <p>&lt;&amp;&gt;</p>
/stream 200 ab
/sse 200 event: e
data: hi
id: 1

 text/event-stream
/jwt 200 {"sub":"me"}
/redirect 302  /api/item/1
/teapot 418 teapot
/broken 500 caught broken
/none 404 nothing
/zip gzip 5000`,
		"itty": `/hello/you?q=1 200 "hello you 1" *
/echo 200 {"got":{"a":1},"type":"application/json"} *
/error 400 {"status":400,"error":"bad"} *
/throw 500 {"status":500,"error":"thrown"} *
/none 404 {"status":404,"error":"Not Found"} *`,
		"partyserver": `/parties/room/one 200 {"room":"one","method":"POST","body":"hi"}
/parties/room/two 200 {"room":"two","method":"GET","body":""}
/other null`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLoop(t)
			l.module(dir, name)
			l.want("run()", want)
		})
	}
}

// module bundles NAME.js of dir, imports it and makes its default export the global run.
func (l *loop) module(dir, name string) {
	l.t.Helper()
	bundled := api.Build(api.BuildOptions{
		EntryPoints: []string{filepath.Join(dir, name+".js")},
		Bundle:      true,
		Format:      api.FormatESModule,
		Target:      api.ES2023,
		Conditions:  []string{"workerd", "worker", "browser"},
		External:    []string{"cloudflare:*", "node:*"},
	})
	if len(bundled.Errors) > 0 {
		l.t.Fatal(bundled.Errors)
	}
	code, err := quickjs.CompileModule(string(bundled.OutputFiles[0].Contents), name+".js")
	if err != nil {
		l.t.Fatal(err)
	}
	l.enter(func() error {
		classes, err := l.engine.Eval(`({DurableObject: class { constructor(ctx, env) { this.ctx = ctx; this.env = env; } }, WorkerEntrypoint: class {}, RpcTarget: class {}, env: {}})`, "classes.js")
		if err != nil {
			return err
		}
		exports := make(map[string]quickjs.Value)
		for _, key := range []string{"DurableObject", "WorkerEntrypoint", "RpcTarget", "env"} {
			if exports[key], err = classes.Get(key); err != nil {
				return err
			}
		}
		return l.engine.DefineModule("cloudflare:workers", exports)
	})
	l.importRun(code)
}
