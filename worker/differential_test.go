package worker_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/holdfast-io/holdfast/internal/workerd"
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

// startWorkerd runs a bundle on workerd until the test ends, and returns where.
func startWorkerd(t *testing.T, binary string, b *bundle.Bundle, onDisk bool) string {
	t.Helper()
	p, err := workerd.Start(t.Context(), binary, t.TempDir(), b, onDisk)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return "http://" + p.Addr
}
