package bundle_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/fxamacker/cbor/v2"
	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-io/holdfast/worker/bundle"
)

// full is a bundle with something in every field that goes together.
func full() *bundle.Bundle {
	return &bundle.Bundle{
		Name: "chat", Code: []byte("export default {}"), SourceMap: []byte("{}"), Exports: []string{"New", "Room", "default"},
		Modules: []string{"cloudflare:workers"}, Classes: []bundle.Class{{Name: "New", SQLite: true}, {Name: "Room"}},
		Bindings: []bundle.Binding{{Name: "ROOMS", Class: "Room"}, {Name: "USERS", Class: "User", Worker: "accounts"}},
		Vars:     []bundle.Var{{Name: "A", Value: json.RawMessage(`"a"`)}, {Name: "B", Value: json.RawMessage(`{"b":[1]}`)}},
		Migrations: []bundle.Migration{
			{Tag: "v1", NewClasses: []string{"Lobby"}, NewSQLiteClasses: []string{"Old"}},
			{Tag: "v2", RenamedClasses: []bundle.Rename{{From: "Lobby", To: "Room"}}, DeletedClasses: []string{"Old"}},
		},
		CompatibilityDate: "2026-10-01", CompatibilityFlags: []string{"nodejs_compat"},
	}
}

func encode(tb testing.TB, b *bundle.Bundle) []byte {
	tb.Helper()
	file, err := b.Encode()
	if err != nil {
		tb.Fatal(err)
	}
	return file
}

func TestDecodeReadsWhatEncodeMade(t *testing.T) {
	t.Parallel()
	declared := full()
	declared.Migrations = nil
	declared.Lifecycle = []bundle.Lifecycle{
		{Class: "Gone", State: bundle.Deleted},
		{Class: "New", State: bundle.Created, SQLite: true},
		{Class: "Old", State: bundle.Renamed, RenamedTo: "New"},
		{Class: "Room", State: bundle.Created},
	}
	for _, want := range []*bundle.Bundle{full(), declared, {Name: "w", Code: []byte("x")}} {
		got, err := bundle.Decode(encode(t, want))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	}
}

// The bytes are stored in clusters: they are those of docs/format/bundle.md for ever.
func TestTheFormatStaysWhatItIs(t *testing.T) {
	t.Parallel()
	small := &bundle.Bundle{
		Name: "w", Code: []byte("x"), Exports: []string{"C"}, Classes: []bundle.Class{{Name: "C", SQLite: true}},
		Bindings: []bundle.Binding{{Name: "CS", Class: "C"}}, Vars: []bundle.Var{{Name: "V", Value: json.RawMessage("1")}},
		Migrations: []bundle.Migration{{Tag: "v1", NewSQLiteClasses: []string{"C"}}},
	}
	file := encode(t, small)
	want := "484642554e444c01" + "a7" + "016177" + "024178" + "04816143" + "0681a201614302f5" + "0781a201624353026143" +
		"0881a2016156024131" + "0981a201627631" + "03816143"
	if got := hex.EncodeToString(file); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	page, err := os.ReadFile("../../docs/format/bundle.md")
	if err != nil {
		t.Fatal(err)
	}
	if spaced := strings.Join(strings.Fields(string(page)), ""); !strings.Contains(spaced, want) {
		t.Error("docs/format/bundle.md does not have these bytes as its example")
	}
	if got, want := bundle.Hash(file), "8e0ceac10ae809992bd08dcbba606555463f0475c263b4233a1874bd3efd630b"; got != want {
		t.Errorf("hash %s, want %s", got, want)
	}
}

func TestDecodeRefuses(t *testing.T) {
	t.Parallel()
	good := encode(t, full())
	body := good[8:]
	with := func(change func(m map[int]any)) []byte {
		var m map[int]any
		if err := cbor.Unmarshal(body, &m); err != nil {
			t.Fatal(err)
		}
		change(m)
		mode, err := cbor.CoreDetEncOptions().EncMode()
		if err != nil {
			t.Fatal(err)
		}
		raw, err := mode.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		return append([]byte("HFBUNDL\x01"), raw...)
	}
	if _, err := bundle.Decode(with(func(map[int]any) {})); err != nil {
		t.Fatalf("unchanged: %v", err)
	}
	other := bytes.Clone(good)
	other[7] = 2
	for name, c := range map[string]struct {
		file []byte
		want string
	}{
		"nothing":           {nil, "not a bundle"},
		"something else":    {[]byte("export default {}"), "not a bundle"},
		"a later format":    {other, "version 2, this program knows 1"},
		"cut off":           {good[:len(good)-1], "unexpected EOF"},
		"more behind it":    {append(bytes.Clone(good), 0), "extraneous data"},
		"an unknown field":  {with(func(m map[int]any) { m[13] = 1 }), "unknown field"},
		"a wrong type":      {with(func(m map[int]any) { m[2] = "text" }), "cannot unmarshal"},
		"an empty list":     {with(func(m map[int]any) { m[10] = []any{} }), "not the one that it should have"},
		"a longer integer":  {append(append([]byte("HFBUNDL\x01"), body[0], 0x18), body[1:]...), "not the one that it should have"},
		"no name":           {with(func(m map[int]any) { delete(m, 1) }), "no name for a worker"},
		"a bad name":        {with(func(m map[int]any) { m[1] = "a/b" }), "no name for a worker"},
		"no code":           {with(func(m map[int]any) { delete(m, 2) }), "code: there is none"},
		"too much code":     {with(func(m map[int]any) { m[2] = make([]byte, bundle.CodeBytesMax+1) }), "the limit is 10485760"},
		"exports unsorted":  {with(func(m map[int]any) { m[4] = []string{"Room", "New", "default"} }), "out of order"},
		"class unexported":  {with(func(m map[int]any) { m[4] = []string{"New", "default"} }), `the code does not export "Room"`},
		"class not there":   {with(func(m map[int]any) { delete(m, 6) }), "which the worker does not have"},
		"bad class":         {with(func(m map[int]any) { m[6] = []any{map[int]any{1: "a-b"}} }), "no name for a class"},
		"a var of no JSON":  {with(func(m map[int]any) { m[8] = []any{map[int]any{1: "A", 2: []byte("{")}} }), "is not JSON"},
		"a var and binding": {with(func(m map[int]any) { m[8] = []any{map[int]any{1: "ROOMS", 2: []byte("1")}} }), "two things of the name"},
		"vars too large": {with(func(m map[int]any) {
			m[8] = []any{map[int]any{1: "A", 2: []byte(`"` + strings.Repeat("a", 512<<10) + `"`)}}
		}), "the limit is 524288"},
		"a tag twice":         {with(func(m map[int]any) { m[9] = []any{map[int]any{1: "v1"}, map[int]any{1: "v1"}} }), "two have the tag"},
		"both lifecycles":     {with(func(m map[int]any) { m[10] = []any{map[int]any{1: "A", 2: "deleted"}} }), "declared lifecycle too"},
		"an unknown state":    {with(func(m map[int]any) { delete(m, 9); m[10] = []any{map[int]any{1: "A", 2: "lost"}} }), "is no state"},
		"deleted and there":   {with(func(m map[int]any) { delete(m, 9); m[10] = []any{map[int]any{1: "Room", 2: "deleted"}} }), "and the worker has it"},
		"renamed to nothing":  {with(func(m map[int]any) { delete(m, 9); m[10] = []any{map[int]any{1: "A", 2: "renamed", 4: "B"}} }), "does not have the class"},
		"deleted with SQLite": {with(func(m map[int]any) { delete(m, 9); m[10] = []any{map[int]any{1: "A", 2: "deleted", 3: true}} }), "says more than"},
		"no date":             {with(func(m map[int]any) { m[11] = "today" }), "is not YYYY-MM-DD"},
		"too many flags":      {with(func(m map[int]any) { m[12] = make([]string, 1001) }), "the limit is 1000"},
		"an empty flag":       {with(func(m map[int]any) { m[12] = []string{""} }), "from 1 to 1024"},
		"own worker bound":    {with(func(m map[int]any) { m[7] = []any{map[int]any{1: "X", 2: "Room", 3: "chat"}} }), "no name of another worker"},
		"too long":            {append(bytes.Clone(good), make([]byte, bundle.FileBytesMax)...), "the limit is 32505856"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b, err := bundle.Decode(c.file)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, %v; want an error with %q", b, err, c.want)
			}
		})
	}
	if _, err := bundle.Decode(good[:20]); !errors.Is(err, bundle.ErrFormat) {
		t.Errorf("cut off: %v is not ErrFormat", err)
	}
}

func TestEncodeRefusesWhatDecodeWould(t *testing.T) {
	t.Parallel()
	b := full()
	b.Name = "No Name"
	if _, err := b.Encode(); err == nil || !strings.Contains(err.Error(), "no name for a worker") {
		t.Error(err)
	}
}

// What decodes is what Encode makes of it: no two files are the same bundle.
func FuzzDecode(f *testing.F) {
	f.Add(encode(f, full()))
	f.Add(encode(f, &bundle.Bundle{Name: "w", Code: []byte("x")}))
	f.Add([]byte("HFBUNDL\x01\xa0"))
	f.Fuzz(func(t *testing.T, file []byte) {
		b, err := bundle.Decode(file)
		if err != nil {
			return
		}
		again, err := b.Encode()
		if err != nil || !bytes.Equal(again, file) {
			t.Errorf("%x decodes, and encodes to %x, %v", file, again, err)
		}
	})
}

func TestTheSameFilesGiveTheSameBytesAnywhere(t *testing.T) {
	t.Parallel()
	var first []byte
	for range 3 {
		dir := filepath.Join(t.TempDir(), "deeper")
		if err := os.CopyFS(dir, os.DirFS("testdata/counter")); err != nil {
			t.Fatal(err)
		}
		r, err := bundle.Build(dir, bundle.Options{})
		if err != nil {
			t.Fatal(err)
		}
		file := encode(t, r.Bundle)
		if first == nil {
			first = file
		}
		if !bytes.Equal(file, first) {
			t.Errorf("other bytes:\n%q\n%q", file, first)
		}
	}
	if bytes.Contains(first, []byte(os.TempDir())) {
		t.Error("the bundle says where it was made")
	}
}

func TestTheSeedBundlesAsItIs(t *testing.T) {
	t.Parallel()
	const seed = "../../../shared/seed"
	if _, err := os.Stat(seed); err != nil {
		t.Skip("the seed is not beside this clone; testdata/counter is like it")
	}
	r, err := bundle.Build(seed, bundle.Options{})
	if err != nil {
		t.Fatal(err)
	}
	want := "name my-counter\nexports Counter default\nmodules cloudflare:workers\nclass Counter sqlite=false\nenv.COUNTERS = /Counter\n" +
		"migration v1 new=[Counter] sqlite=[] renamed=[] deleted=[]\n"
	if diff := cmp.Diff(want, describe(r, nil)); diff != "" {
		t.Error(diff)
	}
}

func TestTheExamplesBundleWithoutAWarning(t *testing.T) {
	t.Parallel()
	examples, err := filepath.Glob("../../examples/typescript/*/wrangler.*")
	if err != nil || len(examples) != 4 {
		t.Fatalf("%d examples, %v", len(examples), err)
	}
	for _, config := range examples {
		r, err := bundle.Build(config, bundle.Options{})
		if err != nil {
			t.Error(err)
			continue
		}
		if name := filepath.Base(filepath.Dir(config)); r.Name != name || len(r.Classes) != 1 || len(r.Warnings) != 0 {
			t.Errorf("%s: %s", name, describe(r, nil))
		}
	}
}

func TestCodeOverTheLimitIsRefused(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write(t, filepath.Join(dir, "wrangler.toml"), `name = "w"`)
	write(t, filepath.Join(dir, "index.js"), `import a from "./a.txt"; import b from "./b.txt"; export default { a, b }`)
	write(t, filepath.Join(dir, "a.txt"), strings.Repeat("a", 6<<20))
	write(t, filepath.Join(dir, "b.txt"), strings.Repeat("b", 5<<20))
	_, err := bundle.Build(dir, bundle.Options{})
	want := "the code has 11.0 MiB, the limit is 10 MiB; most of it is from a.txt, b.txt, index.js"
	if err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}
