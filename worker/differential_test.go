package worker_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-io/holdfast/worker/bundle"
)

// workerdVariable names the workerd to compare with: "make differential" installs one.
const workerdVariable = "HOLDFAST_WORKERD"

// differences are the cases in which Holdfast answers otherwise on purpose, or does not do yet what workerd does. Each has
// its reason here, and what its users should know is in docs/workers-api.md. A case that is here and answered alike fails.
var differences = map[string]string{
	"values: store generator":         "the text of what can't be cloned",
	"values: clone generator":         "the text of what can't be cloned",
	"values: send generator":          "the text of what can't be cloned",
	"values: send weakMap":            "the text of what can't be cloned",
	"values: send noProto":            "an object without a prototype is sent as a plain one",
	"storage: put lone surrogate key": "one half of a surrogate pair is one U+FFFD",
	"storage: kv put undefined":       "refused, as storage.put(key, undefined) is",
	"objects: id keys":                "jurisdictions are not there",
	"objects: stub class":             "the class of stubs is Fetcher",
	"objects: throws object":          "what is thrown and is no Error comes as an Error of its text",
	"objects: throws props":           "an error that crosses keeps class and message only",
	"objects: throws named":           "an error that crosses keeps class and message only",
	"objects: throws aggregate":       "an error that crosses keeps class and message only",
	"objects: gates concurrent":       "no storage await lets another event in, as with SQLite",
	"objects: fetch empty":            "the status text is the one that the object gave",
	"objects: fetch redirect":         "redirects by objects are not followed",
	"targets: pipelined array":        "elements of an array that has not come can be read",
}

// TestDifferential runs programs of testdata/differential on Holdfast and on workerd, and compares what they answer.
func TestDifferential(t *testing.T) {
	peer := os.Getenv(workerdVariable)
	if peer == "" {
		t.Skipf("%s does not name a workerd: run make differential", workerdVariable)
	}
	for _, program := range []string{"values", "storage", "objects", "targets"} {
		t.Run(program, func(t *testing.T) {
			w := projectWorld(t, differentialProject(t, program))
			ours := httptest.NewServer(w.worker)
			defer ours.Close()
			theirs := startWorkerd(t, peer, w.bundles[0], program != "objects")
			var names []string
			_, _, list := fetched(t, ours.URL+"/list")
			if err := json.Unmarshal([]byte(list), &names); err != nil {
				t.Fatalf("%q: %v", list, err)
			}
			for _, name := range names {
				path := "/run?" + url.PathEscape(name)
				_, _, got := fetched(t, ours.URL+path)
				_, _, want := fetched(t, theirs+path)
				why, listed := differences[program+": "+name]
				switch {
				case got != want && !listed:
					t.Errorf("%s:\n  got  %.300s\n  want %.300s", name, got, want)
				case got == want && listed:
					t.Errorf("%s is answered alike, and listed as a difference: %s", name, why)
				}
			}
			t.Logf("%d cases", len(names))
		})
	}
}

// TestDifferentialSeed compares a counter that is written for Durable Objects, to the byte.
func TestDifferentialSeed(t *testing.T) {
	peer := os.Getenv(workerdVariable)
	if peer == "" {
		t.Skipf("%s does not name a workerd: run make differential", workerdVariable)
	}
	w := projectWorld(t, "testdata/seed")
	ours := httptest.NewServer(w.worker)
	defer ours.Close()
	theirs := startWorkerd(t, peer, w.bundles[0], false)
	for _, path := range []string{
		"/increment?name=A", "/increment?name=A", "/increment?name=A", "/decrement?name=A", "/?name=A", "/?name=B", "/", "/unknown?name=A", "/unknown",
	} {
		status, header, got := fetched(t, ours.URL+path)
		wantStatus, wantHeader, want := fetched(t, theirs+path)
		if status != wantStatus || got != want || header != wantHeader {
			t.Errorf("%s: got %d %s %q, want %d %s %q", path, status, header, got, wantStatus, wantHeader, want)
		}
	}
}

// fetched makes a request, and returns status, headers but the date, and body.
func fetched(t *testing.T, target string) (status int, header, body string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Error(err)
	}
	resp.Header.Del("Date")
	return resp.StatusCode, fmt.Sprint(resp.Header), string(data)
}

// differentialProject makes a project of one program, with all its classes bound.
func differentialProject(t *testing.T, program string) string {
	t.Helper()
	source, err := os.ReadFile(filepath.Join("testdata/differential", program+".ts"))
	if err != nil {
		t.Fatal(err)
	}
	harness, err := os.ReadFile("testdata/differential/harness.ts")
	if err != nil {
		t.Fatal(err)
	}
	dir := writeProject(t, program, string(source))
	if err := os.WriteFile(filepath.Join(dir, "harness.ts"), harness, 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

// startWorkerd runs a bundle on workerd until the test ends, and returns where. Its objects store in SQLite when sqlite,
// and else they have the ids that Holdfast's have: workerd has no SQLite in memory, and makes file names of the key that
// ids are made of.
func startWorkerd(t *testing.T, workerd string, b *bundle.Bundle, sqlite bool) string {
	t.Helper()
	dir := t.TempDir()
	var free net.ListenConfig
	l, err := free.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{"index.js": string(b.Code), "config.capnp": workerdConfig(b, address, sqlite)} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "objects"), 0o700); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), workerd, "serve", "config.capnp") //nolint:gosec // the tester's own
	cmd.Dir = dir
	var stderr strings.Builder
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	eventually(t, "workerd listens", func() bool {
		conn, err := net.Dial("tcp", address) //nolint:noctx // of this machine
		if err == nil {
			_ = conn.Close()
		}
		return err == nil
	})
	return "http://" + address
}

// workerdConfig has workerd run a bundle.
func workerdConfig(b *bundle.Bundle, address string, sqlite bool) string {
	storage, separator := "inMemory = void", "/"
	if sqlite {
		storage, separator = `localDisk = "disk"`, "-"
	}
	var namespaces, bindings []string
	for _, class := range b.Classes {
		namespaces = append(namespaces, fmt.Sprintf("(className = %q, uniqueKey = %q, enableSql = true)", class.Name, b.Name+separator+class.Name))
	}
	for _, binding := range b.Bindings {
		bindings = append(bindings, fmt.Sprintf("(name = %q, durableObjectNamespace = %q)", binding.Name, binding.Class))
	}
	date := b.CompatibilityDate
	if date == "" {
		date = "2026-10-01"
	}
	slices.Sort(namespaces)
	return fmt.Sprintf(`using Workerd = import "/workerd/workerd.capnp";
const config :Workerd.Config = (
	services = [(name = "main", worker = .main), (name = "disk", disk = (path = "objects", writable = true))],
	sockets = [(name = "http", address = %q, http = (), service = "main")],
);
const main :Workerd.Worker = (
	modules = [(name = "index.js", esModule = embed "index.js")],
	compatibilityDate = %q,
	durableObjectNamespaces = [%s],
	durableObjectStorage = (%s),
	bindings = [%s],
);
`, address, date, strings.Join(namespaces, ", "), storage, strings.Join(bindings, ", "))
}
