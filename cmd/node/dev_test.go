package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"

	holdfastv1 "github.com/holdfast-io/holdfast/proto/holdfast/v1"
)

// dev is a node of one's own, run by the command line.
type dev struct {
	t                 *testing.T
	grpc, http, admin string
	stderr            *lockedBuffer
	stop              func() (status int, stderr string)
}

// lockedBuffer is what a command writes, for who reads it meanwhile.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

// Write implements io.Writer.
func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

// String implements fmt.Stringer.
func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

func startDev(t *testing.T, dir string, more ...string) *dev {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	out, in := io.Pipe()
	stderr := &lockedBuffer{}
	exited := make(chan int, 1)
	go func() {
		args := []string{
			"dev", "--data-dir", dir, "--shards", "2", "--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--drain-timeout", "5s",
		}
		code := run(ctx, append(args, more...), env{stdout: in, stderr: stderr})
		_ = in.Close()
		exited <- code
	}()
	d := &dev{t: t, stderr: stderr, stop: func() (int, string) { cancel(); return <-exited, stderr.String() }}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		cancel()
		t.Fatalf("exit status %d: %s", <-exited, stderr)
	}
	ready := regexp.MustCompile(`^ready grpc=(127\.0\.0\.1:\d+) http=(127\.0\.0\.1:\d+) admin=(127\.0\.0\.1:\d+)\n$`).FindStringSubmatch(line)
	if ready == nil {
		cancel()
		<-exited
		t.Fatalf("got %q, want the line that says where the node serves", line)
	}
	d.grpc, d.http, d.admin = ready[1], ready[2], ready[3]
	return d
}

// run runs a command against the node, and returns its exit status and what it printed.
func (d *dev) run(args ...string) (status int, stdout, stderr string) {
	d.t.Helper()
	var out, errs bytes.Buffer
	code := run(d.t.Context(), append(args, "--addr", d.grpc), env{stdout: &out, stderr: &errs})
	return code, out.String(), errs.String()
}

// A node of one's own: called, looked into, stopped, and started again with what it had (P2).
func TestDev(t *testing.T) { // not parallel: it tunes the process's garbage collector
	dir := filepath.Join(t.TempDir(), "data")
	d := startDev(t, dir)
	for _, tt := range []struct {
		args   []string
		status int
		stdout string // a pattern
		stderr string // another
	}{
		{[]string{"call", "Counter", "x", "Increment", `{"amount":5}`}, 0, `^\{"value":"5"\}\n$`, `^$`},
		{[]string{"call", "Counter", "x", "Get"}, 0, `^\{"value":"5"\}\n$`, `^$`},
		{[]string{"call", "Counter", "", "Increment"}, 0, `^\{"value":"1"\}\n$`, `^$`},
		{[]string{"call", "Other", "x", "Get"}, 1, `^$`, `^holdfast: UNKNOWN_CLASS: .*"Other"`},
		{[]string{"call", "Counter", "x", "Nope"}, 1, `^$`, `^holdfast: UNKNOWN_METHOD: .*Nope`},
		{[]string{"call", "Counter", "x", "Get", "{"}, 1, `^$`, `^holdfast: INVALID_ARGUMENT: `},
		{[]string{"call", "Counter", "--id", "00", "Get"}, 1, `^$`, `^holdfast: INVALID_ID: id: .*64 hex digits`},
		{[]string{"object", "Counter", "x"}, 0, `(?s)^id       [0-9a-f]{64}\nname     "x"\nshard    [01]\nowner    dev\nalarm    -\ncommits  1\n  "value" = 5\n$`, `^$`},
		{[]string{"object", "Counter", "never"}, 1, `^$`, `UNKNOWN_OBJECT: .*does not exist`},
		{[]string{"evict", "Counter", "x"}, 0, `^evicted\n$`, `^$`},
		{[]string{"evict", "Counter", "never"}, 0, `^it was not in memory\n$`, `^$`},
		{[]string{"alarms", "Counter"}, 0, `^$`, `^$`},
		{[]string{"alarms", "Counter", "--dead"}, 0, `^$`, `^$`},
		{[]string{"alarms", "Other"}, 1, `^$`, `UNKNOWN_CLASS: `},
		{[]string{"alarms", "rearm", "Counter", "x"}, 1, `^$`, `UNKNOWN_ALARM: object [0-9a-f]{64} of class Counter has no dead alarm`},
		{[]string{"alarms", "discard", "Counter", "--id", "00"}, 1, `^$`, `INVALID_ID: `},
		{[]string{"alarms", "rearm", "Counter"}, 2, `^$`, `exactly one of NAME and --id`},
		{[]string{"remove", "nobody"}, 1, `^$`, `UNKNOWN_NODE: node "nobody": .*holdfast status`},
		{[]string{"remove", "dev"}, 1, `^$`, `INVALID_ARGUMENT: node "dev": it is the last one alive`},
		{[]string{"status"}, 0, `(?s)NODE .*\ndev .*alive  2 .*\n2 +dev +dev.*warning: 2 shards have one voter`, `^$`},
		{[]string{"objects", "Counter", "--limit", "1"}, 0, `^[0-9a-f]{64} "x?"\n$`, `^$`},
		{[]string{"objects", "Counter", "--prefix", "x"}, 0, `^[0-9a-f]{64} "x"\n$`, `^$`},
		{[]string{"objects", "Counter", "--prefix", "xx"}, 0, `^$`, `^$`},
		{[]string{"objects", "Counter", "--after", "00"}, 1, `^$`, `INVALID_ID: id: .*64 hex digits`},
		{[]string{"objects", "Counter", "--after", strings.Repeat("0", 64)}, 1, `^$`, `INVALID_ID: .*not valid for this namespace, that of class Counter`},
		{[]string{"call", "Counter", "never", "Increment", "--existing"}, 1, `^$`, `UNKNOWN_OBJECT: object Counter "never" does not exist`},
		{[]string{"call", "Counter", "x", "Get", "--existing"}, 0, `^\{"value":"5"\}\n$`, `^$`},
		{[]string{"new-id", "Other"}, 1, `^$`, `UNKNOWN_CLASS: .*"Other"`},
	} {
		status, stdout, stderr := d.run(tt.args...)
		if status != tt.status || !regexp.MustCompile(tt.stdout).MatchString(stdout) || !regexp.MustCompile(tt.stderr).MatchString(stderr) {
			t.Errorf("%q: exit status %d\n%s%s", tt.args, status, stdout, stderr)
		}
	}
	if _, list, _ := d.run("objects", "Counter"); strings.Count(list, "\n") != 2 || !strings.Contains(list, `"x"`) || !strings.Contains(list, `""`) {
		t.Errorf("objects:\n%s", list)
	}
	d.objectsInPages()
	var st struct {
		Nodes  []struct{ Name string }
		Shards []struct{ Owner string }
	}
	_, text, _ := d.run("status", "-o", "json")
	if err := json.Unmarshal([]byte(text), &st); err != nil || len(st.Nodes) != 1 || len(st.Shards) != 2 || st.Shards[0].Owner != "dev" {
		t.Errorf("%v: %s", err, text)
	}
	var out bytes.Buffer
	if code := run(t.Context(), []string{"health", "--admin", d.admin}, env{stdout: &out, stderr: &out}); code != 0 || out.String() != "ready\n" {
		t.Errorf("health: exit status %d, %s", code, &out)
	}
	if status, stderr := d.stop(); status != 0 {
		t.Errorf("stopped with exit status %d: %s", status, stderr)
	}

	d = startDev(t, dir)
	if _, got, _ := d.run("call", "Counter", "x", "Increment"); got != `{"value":"6"}`+"\n" {
		t.Errorf("after a restart: got %s", got)
	}
	if status, stderr := d.stop(); status != 0 {
		t.Errorf("stopped with exit status %d: %s", status, stderr)
	}
}

// objectsInPages makes objects, some without a name, and lists them a few at a time, in all ways that
// there are to go on: each comes once.
func (d *dev) objectsInPages() {
	d.t.Helper()
	succeed := func(args ...string) string {
		d.t.Helper()
		status, out, stderr := d.run(args...)
		if status != 0 {
			d.t.Fatalf("%q: %s", args, stderr)
		}
		return out
	}
	for i := range 9 {
		succeed("call", "Counter", fmt.Sprintf("page-%d", i), "Increment")
		succeed("call", "Counter", "--id", strings.TrimSpace(succeed("new-id", "Counter")), "Increment")
	}
	for prefix, want := range map[string]int{"": 20, "page-": 9, "page-7": 1, "none": 0} {
		all := succeed("objects", "Counter", "--prefix", prefix)
		if n := strings.Count(all, "\n"); n != want {
			d.t.Errorf("prefix %q: %d objects, want %d\n%s", prefix, n, want, all)
		}
		var after, joined string
		for range all { // Enough, should it never end.
			args := []string{"objects", "Counter", "--prefix", prefix, "--limit", "2"}
			if after != "" {
				args = append(args, "--after", after)
			}
			page := succeed(args...)
			if page == "" {
				break
			}
			joined += page
			lines := strings.Split(strings.TrimSpace(page), "\n")
			after, _, _ = strings.Cut(lines[len(lines)-1], " ")
		}
		if joined != all {
			d.t.Errorf("prefix %q, by ids:\n%sinstead of\n%s", prefix, joined, all)
		}
		if pages := d.pages(prefix); pages != all {
			d.t.Errorf("prefix %q, by tokens:\n%sinstead of\n%s", prefix, pages, all)
		}
	}
}

// pages lists objects two at a time, as the command does.
func (d *dev) pages(prefix string) (lines string) {
	d.t.Helper()
	err := addrFlag{Addr: d.grpc, Timeout: time.Minute}.with(d.t.Context(), func(ctx context.Context, conn *grpc.ClientConn) error {
		req := &holdfastv1.ListObjectsRequest{Class: "Counter", NamePrefix: prefix, PageSize: 2}
		for range 100 { // Enough, should it never end.
			page, err := holdfastv1.NewAdminClient(conn).ListObjects(ctx, req)
			if err != nil {
				return err
			}
			for _, o := range page.GetObjects() {
				lines += o.GetId() + " " + nameText(o.Name) + "\n"
			}
			if req.PageToken = page.GetNextPageToken(); req.PageToken == "" {
				return nil
			}
		}
		return errors.New("it has no last page")
	})
	if err != nil {
		d.t.Fatal(err)
	}
	return lines
}

// A project of wrangler's runs as it stands, keeps its objects' state, and is called like any other class.
func TestDevRunsAProject(t *testing.T) { // not parallel: it tunes the process's garbage collector
	const project = "../../examples/typescript/counter"
	dir := filepath.Join(t.TempDir(), "data")
	ask := func(d *dev, method, path, want string) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, "http://"+d.http+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer http.DefaultClient.CloseIdleConnections()
		defer func() { _ = resp.Body.Close() }()
		body, err := io.ReadAll(resp.Body)
		if err != nil || !strings.Contains(string(body), want) {
			t.Errorf("%s: %d %q, %v, want %q", path, resp.StatusCode, body, err, want)
		}
	}
	stop := func(d *dev) {
		t.Helper()
		if code, stderr := d.stop(); code != 0 {
			t.Errorf("exit status %d: %s", code, stderr)
		}
	}
	d := startDev(t, dir, project)
	ask(d, http.MethodPost, "/visits", `"value":1`)
	ask(d, http.MethodPost, "/visits?by=10", `"value":11`)
	stop(d)
	d = startDev(t, dir, project)
	ask(d, http.MethodGet, "/visits", `"value":11`)
	if code, out, errs := d.run("call", "counter/Counter", "visits", "increment", "[2]"); code != 0 || strings.TrimSpace(out) != "13" {
		t.Errorf("called from the command line: exit status %d: %s%s", code, out, errs)
	}
	stop(d)

	var out, errs bytes.Buffer
	code := run(t.Context(), []string{"dev", "--data-dir", dir, filepath.Join(dir, "none")}, env{stdout: &out, stderr: &errs})
	if code != 1 || !strings.Contains(errs.String(), "none") {
		t.Errorf("a project that is not there: exit status %d: %s", code, errs.String())
	}
}

// What changes in a project runs at once, with what objects have stored; what can't run leaves what does.
func TestDevRunsWhatChanges(t *testing.T) { // not parallel: it tunes the process's garbage collector
	const (
		v1 = "[[migrations]]\ntag = \"v1\"\nnew_sqlite_classes = [\"Till\"]\n"
		v2 = v1 + "[[migrations]]\ntag = \"v2\"\nrenamed_classes = [{ from = \"Till\", to = \"Register\" }]\n"
	)
	project := t.TempDir()
	data := filepath.Join(project, "data") // What the node writes there is no change.
	writeProject(t, project, tally("Till", "1"), v1)
	d := startDev(t, data, project)
	adds := func(class, want string) {
		t.Helper()
		if code, out, errs := d.run("call", class, "x", "add"); code != 0 || out != want+"\n" {
			t.Errorf("exit status %d: %s%s, want %s", code, out, errs, want)
		}
	}
	prints := func(pattern string) {
		t.Helper()
		for end := time.Now().Add(20 * time.Second); !regexp.MustCompile(pattern).MatchString(d.stderr.String()); <-time.After(5 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("no %q:\n%s", pattern, d.stderr)
			}
		}
	}
	adds("Till", "1")

	writeProject(t, project, tally("Till", "10")+"}", v1)
	prints("The version before this one runs on")
	adds("Till", "2")
	writeProject(t, project, tally("Till", "10")+"throw new Error('not today');\n", v1)
	prints("not today")
	adds("Till", "3")
	writeProject(t, project, tally("Register", "100"), v2)
	prints(`(?s)rename Till to Register\n.*\nrunning on dev\n`)
	adds("Register", "103")
	number := strings.Count(d.history(), "\n")
	if code, stderr := d.stop(); code != 0 {
		t.Errorf("exit status %d: %s", code, stderr)
	}

	d = startDev(t, data, project)
	if again := strings.Count(d.history(), "\n"); again != number {
		t.Errorf("%d deployments of what had not changed, after %d", again, number)
	}
	adds("Register", "203")
	config := filepath.Join(project, "wrangler.toml")
	text, err := os.ReadFile(config)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(config, bytes.Replace(text, []byte("shop"), []byte("store"), 1), 0o600); err != nil {
		t.Fatal(err)
	}
	prints("named store, and was shop: start dev again")
	if code, stderr := d.stop(); code != 0 {
		t.Errorf("exit status %d: %s", code, stderr)
	}
}

// A worker calls the Go classes of its cluster, with values as JSON has them.
func TestWorkersCallGoClasses(t *testing.T) { // not parallel: it tunes the process's garbage collector
	project := t.TempDir()
	for name, text := range map[string]string{
		"wrangler.toml": "name = \"till\"\nmain = \"index.ts\"\ncompatibility_date = \"2026-04-01\"\n[[durable_objects.bindings]]\nname = \"COUNTER\"\nclass_name = \"Counter\"\nscript_name = \"holdfast:go\"\n",
		"index.ts":      "export default { async fetch(_request, env) { return Response.json(await env.COUNTER.getByName(\"x\").Increment({ amount: 5 })); } };\n",
	} {
		if err := os.WriteFile(filepath.Join(project, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	d := startDev(t, filepath.Join(t.TempDir(), "data"), project)
	if code, out, errs := d.run("call", "Counter", "x", "Increment"); code != 0 || out != `{"value":"1"}`+"\n" {
		t.Errorf("exit status %d: %s%s", code, out, errs)
	}
	resp, err := http.Get("http://" + d.http) //nolint:noctx // it is answered at once
	if err != nil {
		t.Fatal(err)
	}
	defer http.DefaultClient.CloseIdleConnections()
	defer func() { _ = resp.Body.Close() }()
	if body, err := io.ReadAll(resp.Body); err != nil || string(body) != `{"value":"6"}` {
		t.Errorf("served %q, %v", body, err)
	}
	if code, stderr := d.stop(); code != 0 {
		t.Errorf("exit status %d: %s", code, stderr)
	}
}

// history lists what the worker "shop" has run, with a line of headings.
func (d *dev) history() string {
	d.t.Helper()
	code, out, errs := d.run("deployments", "shop")
	if code != 0 {
		d.t.Fatalf("exit status %d: %s", code, errs)
	}
	return out
}
