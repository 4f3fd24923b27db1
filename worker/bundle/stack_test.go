package bundle_test

import (
	"bytes"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/holdfast-io/holdfast/worker/bundle"
)

func TestStacksNameTheProjectsFiles(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write(t, filepath.Join(dir, "wrangler.toml"), `name = "w"`)
	write(t, filepath.Join(dir, "src/index.ts"), `import { deep } from "./deep";

interface Unused { a: string }

export default { fetch() { return deep() } }
`)
	write(t, filepath.Join(dir, "src/deep.ts"), `type T = number;

export function deep(): T {
  throw new Error("x");
}
`)
	r, err := bundle.Build(dir, bundle.Options{})
	if err != nil {
		t.Fatal(err)
	}
	m, err := bundle.NewMapper(r.SourceMap)
	if err != nil {
		t.Fatal(err)
	}
	at := func(text string) string {
		before, _, ok := bytes.Cut(r.Code, []byte(text))
		if !ok {
			t.Fatalf("no %q in %s", text, r.Code)
		}
		line := bytes.Count(before, []byte("\n")) + 1
		return fmt.Sprintf("%s:%d:%d", bundle.MainModule, line, len(before)-bytes.LastIndexByte(before, '\n'))
	}
	throws, calls := at("new Error"), at("deep();")
	stack := "Error: x\n    at deep (" + throws + ")\n    at fetch (" + calls + ")\n    at " + calls + "\n    at map (native)\n    at call (runtime.js:1:2)\n    at lost (worker.js:999:1)\n"
	want := "Error: x\n    at deep (src/deep.ts:4:9)\n    at fetch (src/index.ts:5:35)\n    at src/index.ts:5:35\n    at map (native)\n    at call (runtime.js:1:2)\n    at lost (worker.js:999:1)\n"
	if got := m.MapStack(stack); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	// The blank before it belongs to what is before it.
	throwing := strings.Replace(at(" new Error"), "worker.js", "at worker.js", 1)
	if got, want := m.MapStack(throwing), "at src/deep.ts:4:3"; got != want {
		t.Errorf("%s gives %s, want %s", throwing, got, want)
	}
	if bytes.Contains(r.SourceMap, []byte("type T = number")) {
		t.Error("the source map has the text of the files")
	}
	if got := m.MapStack("at " + throws[:strings.LastIndex(throws, ":")]); !strings.HasPrefix(got, "at src/deep.ts:") {
		t.Errorf("without a column: %s", got)
	}
}

func TestAStackWithoutAMapStaysAsItIs(t *testing.T) {
	t.Parallel()
	m, err := bundle.NewMapper(nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := m.MapStack("at f (worker.js:1:1)"); got != "at f (worker.js:1:1)" {
		t.Error(got)
	}
}

// Source maps come with deployments: no map may end a node.
func FuzzMapper(f *testing.F) {
	f.Add([]byte(`{"version":3,"sources":["a.ts"],"mappings":"AAAA"}`), "at f (worker.js:1:1)")
	f.Add([]byte(`{"version":3,"sources":[],"mappings":"AAAA"}`), "worker.js:1")
	f.Add([]byte(`{"version":3,"sections":[{}]}`), "worker.js:999999999:999999999")
	f.Fuzz(func(t *testing.T, sourceMap []byte, stack string) {
		m, err := bundle.NewMapper(sourceMap)
		if err != nil {
			return
		}
		_ = m.MapStack(stack)
	})
}
