package bundle

import (
	"encoding/base64"
	"path/filepath"

	"github.com/bmatcuk/doublestar/v4"
	"github.com/evanw/esbuild/pkg/api"
)

// rule says what importing a file that is no code gives.
type rule struct {
	kind  string
	globs []string
}

// The kinds of modules that rules are about. Those of code are esbuild's business.
const (
	textModule = "Text"
	dataModule = "Data"
	wasmModule = "CompiledWasm"
)

// defaultRules are wrangler's.
var defaultRules = []rule{
	{textModule, []string{"**/*.txt", "**/*.html", "**/*.sql"}},
	{dataModule, []string{"**/*.bin"}},
	{wasmModule, []string{"**/*.wasm"}},
}

// readRules reads the rules of a project. As in wrangler, a rule ends the list of its kind, the
// default with it, unless it says fallthrough.
func readRules(r *reader, v *view) []rule {
	var out []rule
	ended := make(map[string]bool)
	if n, ok := v.get("rules"); ok {
		for _, i := range r.items(n) {
			f := r.object(i, "type", "globs", "fallthrough")
			add := rule{kind: r.required(i.path, f, "type"), globs: r.texts(f["globs"])}
			for j, glob := range add.globs {
				if !doublestar.ValidatePattern(glob) {
					r.failf(item(f["globs"].path, j), "%q is no pattern", glob)
				}
			}
			switch add.kind {
			case "ESModule", "CommonJS", "":
				continue // esbuild sees for itself
			case textModule, dataModule, wasmModule:
			default:
				r.failf(f["type"].path, "%q is no type of module: there are ESModule, CommonJS, Text, Data and CompiledWasm", add.kind)
				continue
			}
			if ended[add.kind] {
				r.warnf(i.path, `an earlier rule of the type %s ends their list: add "fallthrough": true to that one`, add.kind)
				continue
			}
			n, ok := f["fallthrough"]
			ended[add.kind] = !ok || !r.flag(n)
			out = append(out, add)
		}
	}
	for _, d := range defaultRules {
		if !ended[d.kind] {
			out = append(out, d)
		}
	}
	return out
}

// kindOfFile returns the kind of module that a file is by the rules, or "".
func kindOfFile(rules []rule, dir, file string) string {
	name := file
	if rel, err := filepath.Rel(dir, file); err == nil {
		name = rel
	}
	name = filepath.ToSlash(name)
	for _, r := range rules {
		for _, glob := range r.globs {
			if doublestar.MatchUnvalidated(glob, name) {
				return r.kind
			}
		}
	}
	return ""
}

// loadFile loads what the rules are about, and leaves the rest to esbuild.
func (b *builder) loadFile(args api.OnLoadArgs) (api.OnLoadResult, error) {
	kind := kindOfFile(b.config.build.rules, b.config.Dir, args.Path)
	switch kind {
	case "":
		return api.OnLoadResult{}, nil
	case wasmModule:
		return api.OnLoadResult{Errors: []api.Message{{Text: "WebAssembly does not run here: the engine has none. Use a build of the package in JavaScript"}}}, nil
	}
	raw, err := readLimited(args.Path)
	if err != nil {
		return api.OnLoadResult{}, err
	}
	if kind == textModule {
		text := string(raw)
		return api.OnLoadResult{Contents: &text, Loader: api.LoaderText}, nil
	}
	code := `export default Uint8Array.fromBase64("` + base64.StdEncoding.EncodeToString(raw) + `").buffer;`
	return api.OnLoadResult{Contents: &code, Loader: api.LoaderJS}, nil
}
