package main

import (
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// writeProject writes a wrangler project of the worker "shop", with the code of a counter.
func writeProject(t *testing.T, dir, code, migrations string) {
	t.Helper()
	class := regexp.MustCompile(`class (\w+)`).FindStringSubmatch(code)[1]
	config := "name = \"shop\"\nmain = \"index.ts\"\ncompatibility_date = \"2026-04-01\"\n" +
		"[[durable_objects.bindings]]\nname = \"OBJECTS\"\nclass_name = \"" + class + "\"\n" + migrations
	for name, text := range map[string]string{"wrangler.toml": config, "index.ts": code} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// tally is the code of a class that adds up.
func tally(class, by string) string {
	return `import { DurableObject } from "cloudflare:workers";
export class ` + class + ` extends DurableObject {
  async add(n = ` + by + `): Promise<number> {
    const sum = ((await this.ctx.storage.get<number>("sum")) ?? 0) + n;
    await this.ctx.storage.put("sum", sum);
    return sum;
  }
}
export default {
  async fetch(request, env) { return new Response("` + class + ` " + await env.OBJECTS.getByName("x").add(0)); },
};
`
}

// A project is deployed as it stands, and again with other code and other names; what its objects have stored
// stays, until a migration deletes it.
func TestDeployAProject(t *testing.T) { // not parallel: it tunes the process's garbage collector
	d := startDev(t, filepath.Join(t.TempDir(), "data"))
	dir, file := t.TempDir(), filepath.Join(t.TempDir(), "worker.bundle")
	const (
		v1 = "[[migrations]]\ntag = \"v1\"\nnew_sqlite_classes = [\"Till\"]\n"
		v2 = v1 + "[[migrations]]\ntag = \"v2\"\nrenamed_classes = [{ from = \"Till\", to = \"Register\" }]\n"
		v3 = v2 + "[[migrations]]\ntag = \"v3\"\ndeleted_classes = [\"Register\"]\nnew_sqlite_classes = [\"Till\"]\n"
	)
	serves := func(want string) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+d.http, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer http.DefaultClient.CloseIdleConnections()
		defer func() { _ = resp.Body.Close() }()
		if body, err := io.ReadAll(resp.Body); err != nil || string(body) != want {
			t.Errorf("served %d %q, %v; want %q", resp.StatusCode, body, err, want)
		}
	}
	does := func(status int, stdout, stderr string, args ...string) {
		t.Helper()
		code, out, errs := d.run(args...)
		if code != status || !regexp.MustCompile(stdout).MatchString(out) || !regexp.MustCompile(stderr).MatchString(errs) {
			t.Errorf("%q: exit status %d\n%s%s", args, code, out, errs)
		}
	}
	writeProject(t, dir, tally("Till", "1"), v1)
	does(0, `^worker shop: deployment 1\n  create Till\n$`, `\d+ of \d+ bytes sent\n(?s:.*)running on dev\n$`, "deploy", dir)
	does(0, `^5\n$`, `^$`, "call", "Till", "x", "add", "5")
	does(0, `^6\n$`, `^$`, "call", "shop/Till", "x", "add")
	serves("Till 6")

	writeProject(t, dir, tally("Register", "10"), v2)
	does(0, `^worker shop: deployment 2\n  rename Till to Register\n$`, `running on dev\n$`, "deploy", dir)
	does(0, `^16\n$`, `^$`, "call", "Register", "x", "add")
	does(1, `^$`, `UNKNOWN_CLASS`, "call", "Till", "x", "add")
	serves("Register 16")
	does(0, `"x"`, `^$`, "objects", "Register")
	does(1, `^$`, `belongs to a worker`, "class", "rename", "shop/Register", "shop/Other")
	does(1, `^$`, `INVALID_ARGUMENT: worker shop: migrations: there is none with the tag "v2"`, "rollback", "shop")

	writeProject(t, dir, strings.Replace(tally("Register", "10"), "async add", "async ad d", 1), v2)
	does(1, `^$`, `index\.ts`, "deploy", dir)
	writeProject(t, dir, tally("Register", "100")+"throw new Error('not today');\n", v2)
	does(1, `^$`, `INVALID_ARGUMENT: bundle: node dev can't load it: (?s:.*)not today`, "deploy", dir)
	writeProject(t, dir, tally("Register", "100"), v2)
	does(0, `^$`, ``, "deploy", "--bundle", file, dir)
	does(0, `^worker shop: deployment 3\n$`, `running on dev\n$`, "deploy", file)
	does(0, `^116\n$`, `^$`, "call", "Register", "x", "add")
	does(0, `^worker shop: deployment 4\n$`, `running on dev\n$`, "rollback", "shop")
	does(0, `^126\n$`, `^$`, "call", "Register", "x", "add")
	does(0, `^WORKER .*\nshop +4 +[0-9a-f]{12} +Register +running on dev\n$`, `^$`, "deployments")
	does(0, `(?s)^DEPLOYMENT .*\n4 .* rolled back to 2 *\n3 .*\n2 .*\n1 .*\n$`, `^$`, "deployments", "shop")

	does(0, `^worker shop is deployed no more`, `^$`, "undeploy", "shop")
	does(1, `^$`, `UNKNOWN_CLASS`, "call", "Register", "x", "add")
	does(1, `^$`, `UNKNOWN_WORKER`, "rollback", "nobody")
	writeProject(t, dir, tally("Till", "1"), v3)
	does(0, `^worker shop: deployment 6\n  delete Register\n  create Till\n$`, `running on dev\n$`, "deploy", dir)
	does(0, `^1\n$`, `^$`, "call", "Till", "x", "add")
	does(1, `^$`, `there is no such file or folder`, "deploy", filepath.Join(dir, "none"))
	if code, stderr := d.stop(); code != 0 {
		t.Errorf("exit status %d: %s", code, stderr)
	}
}
