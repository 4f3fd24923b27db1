package main

import (
	"context"
	"net/http"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// What a worker logs, and the errors that nobody caught, are printed by whoever follows it, with places in the
// project's files.
func TestLogs(t *testing.T) { // not parallel: it tunes the process's garbage collector
	const code = `import { DurableObject } from "cloudflare:workers";
export class Till extends DurableObject {
  async add() {
    console.warn("till", { open: true });
    return 1;
  }
}
export default {
  async fetch(request, env) {
    console.log("asked for\n" + new URL(request.url).pathname);
    await env.OBJECTS.getByName("x").add();
    throw new Error("no change");
  },
};
`
	project := t.TempDir()
	writeProject(t, project, code, "[[migrations]]\ntag = \"v1\"\nnew_sqlite_classes = [\"Till\"]\n")
	d := startDev(t, filepath.Join(t.TempDir(), "data"), project)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	follow := func(args ...string) (out *lockedBuffer, status <-chan int) {
		out = &lockedBuffer{}
		done := make(chan int, 1)
		go func() {
			done <- run(ctx, append([]string{"logs", "shop", "--addr", d.grpc, "--tail", "100"}, args...), env{stdout: out, stderr: out})
		}()
		return out, done
	}
	text, one := follow()
	errors, two := follow("--level", "error", "--json")
	resp, err := http.Get("http://" + d.http + "/way") //nolint:noctx // it is answered at once
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	http.DefaultClient.CloseIdleConnections()
	prints := func(out *lockedBuffer, pattern string) {
		t.Helper()
		for end := time.Now().Add(20 * time.Second); !regexp.MustCompile(pattern).MatchString(out.String()); <-time.After(5 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("no %q:\n%s", pattern, out)
			}
		}
	}
	const clock = `\d\d:\d\d:\d\d\.\d\d\d dev `
	prints(text, `(?m)^`+clock+`\[shop\] asked for\n    /way$`)
	prints(text, `(?m)^`+clock+`\[Till "x"\] WARN till \{ open: true \}$`)
	prints(text, `(?m)^`+clock+`\[shop\] ERROR (?s:.*)no change(?s:.*)index\.ts:12`)
	prints(errors, `(?m)^\{"node":"dev","time":"[^"]*Z","level":"error","text":"[^\n]*no change[^\n]*"\}$`)
	if strings.Contains(errors.String(), "asked for") {
		t.Errorf("no error:\n%s", errors)
	}
	cancel()
	for _, status := range []<-chan int{one, two} {
		if got := <-status; got != 0 {
			t.Errorf("exit status %d:\n%s", got, text)
		}
	}
	if code, _, stderr := d.run("logs", "nobody"); code != 1 || !strings.Contains(stderr, "UNKNOWN_WORKER") {
		t.Errorf("of no worker: exit status %d: %s", code, stderr)
	}
	if code, stderr := d.stop(); code != 0 {
		t.Errorf("exit status %d: %s", code, stderr)
	}
}
