package bundle

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/evanw/esbuild/pkg/api"
)

// Options say how a project is bundled. The zero value bundles it for a deployment.
type Options struct {
	// Environment is the one of the configuration's [env.…] to take; empty for the top level.
	Environment string
	// Dev bundles for development: process.env.NODE_ENV is "development" instead of "production",
	// and .dev.vars are read.
	Dev bool
	// Modules are the modules that the runtime has, by their whole names. Nil for DefaultModules.
	Modules []string
}

// Result is a bundle, and what there is to say about it.
type Result struct {
	*Bundle
	// Warnings are for the author of the project; they change nothing.
	Warnings []Problem

	inputs []string // the files that it was made from, for Watch
}

// BuildError says why the code of a project can't be bundled, in esbuild's words and with its
// frames of code.
type BuildError struct{ Messages []string }

func (e *BuildError) Error() string { return strings.TrimSpace(strings.Join(e.Messages, "\n")) }

// MainModule is the name under which a runtime loads Code, and so the one that stacks have.
const MainModule = "worker.js"

// fileBytesMax bounds a file that is taken in as text or data.
const fileBytesMax = CodeBytesMax

// Build bundles the project at the path: a folder with a configuration, or the configuration. A
// project that is at fault gives a *ConfigError or a *BuildError.
func Build(path string, o Options) (*Result, error) {
	c, err := LoadConfig(path, o.Environment)
	if err != nil {
		return nil, err
	}
	b := &builder{config: c, dev: o.Dev, modules: slices.Sorted(slices.Values(o.Modules))}
	if o.Modules == nil {
		b.modules = DefaultModules()
	}
	vars, warnings, err := c.vars(o)
	if err != nil {
		return nil, err
	}
	out, err := b.bundle()
	if err != nil {
		return nil, err
	}
	result := &Result{
		Bundle: &Bundle{
			Name: c.Name, Code: out.code, SourceMap: out.sourceMap, Exports: out.exports, Modules: out.modules,
			Classes: c.classes(), Bindings: c.Bindings, Vars: vars, Migrations: c.Migrations, Lifecycle: c.Lifecycle,
			CompatibilityDate: c.CompatibilityDate, CompatibilityFlags: c.CompatibilityFlags,
		},
		Warnings: slices.Concat(c.Warnings, warnings, out.warnings),
		inputs:   out.inputs,
	}
	if len(result.SourceMap) > sourceMapBytesMax {
		result.SourceMap = nil
		result.Warnings = append(result.Warnings, Problem{File: c.File, Text: fmt.Sprintf(
			"the source map has more than %d MiB and is left out: stacks will name places in the bundle", sourceMapBytesMax>>20)})
	}
	if err := result.check(); err != nil {
		return nil, fmt.Errorf("bundle %s: %w", c.File, err)
	}
	return result, nil
}

type builder struct {
	config  *Config
	dev     bool
	modules []string
}

// output is what esbuild made.
type output struct {
	code, sourceMap []byte
	exports         []string
	modules         []string
	inputs          []string
	warnings        []Problem
	largest         []string // inputs by what of them is in the code, the largest first
}

// entry is what a pass of esbuild starts with.
type entry struct {
	code  string // of a module that wraps main; empty for main itself
	lower bool   // lower async functions
}

// loaders are esbuild's but for JSX in any JavaScript, as in wrangler, and no style sheets.
var loaders = map[string]api.Loader{".js": api.LoaderJSX, ".mjs": api.LoaderJSX, ".cjs": api.LoaderJSX, ".css": api.LoaderNone}

// bundle runs esbuild, mostly once. What main exports and imports is known only then: a second pass
// re-exports classes that main does not, and lowers async functions where that is needed.
func (b *builder) bundle() (*output, error) {
	out, err := b.pass(entry{})
	if err != nil {
		return nil, err
	}
	if err := b.checkDeleted(out.exports); err != nil {
		return nil, err
	}
	var again entry
	if again.code, err = b.wrapper(out.exports); err != nil {
		return nil, err
	}
	again.lower = slices.Contains(out.modules, asyncHooks)
	if again != (entry{}) {
		if out, err = b.pass(again); err != nil {
			return nil, err
		}
	}
	if !again.lower && slices.Contains(out.modules, asyncHooks) { // a re-exported class imports it
		again.lower = true
		if out, err = b.pass(again); err != nil {
			return nil, err
		}
	}
	if len(out.exports) == 0 {
		return nil, &ConfigError{Problems: []Problem{b.config.doc.at("main",
			"%s exports nothing: a worker is a module, export default { async fetch(request, env, ctx) { … } }", b.config.Main)}}
	}
	if len(out.code) > CodeBytesMax {
		return nil, &BuildError{Messages: []string{fmt.Sprintf("the code has %.1f MiB, the limit is %d MiB; most of it is from %s",
			float64(len(out.code))/(1<<20), CodeBytesMax>>20, strings.Join(out.largest[:min(3, len(out.largest))], ", "))}}
	}
	return out, nil
}

func (b *builder) options(e entry) api.BuildOptions {
	c := b.config
	mode := "production"
	if b.dev {
		mode = "development"
	}
	define := map[string]string{"process.env.NODE_ENV": strconv.Quote(mode)}
	maps.Copy(define, c.build.define)
	o := api.BuildOptions{
		AbsWorkingDir: c.Dir,
		Bundle:        true,
		Format:        api.FormatESModule,
		Platform:      api.PlatformBrowser,
		// The engine has ES2023 and more; what is younger is lowered.
		Target:         api.ES2024,
		Conditions:     []string{"workerd", "worker", "browser"},
		Loader:         loaders,
		Define:         define,
		Alias:          c.build.alias,
		Tsconfig:       c.build.tsconfig,
		JSXFactory:     c.build.jsxFactory,
		JSXFragment:    c.build.jsx,
		KeepNames:      c.build.keepNames,
		Outfile:        MainModule,
		Metafile:       true,
		Sourcemap:      api.SourceMapExternal,
		SourcesContent: api.SourcesContentExclude,
		LegalComments:  api.LegalCommentsNone,
		LogLevel:       api.LogLevelSilent,
		Plugins:        []api.Plugin{b.plugin()},
	}
	o.MinifyWhitespace, o.MinifyIdentifiers, o.MinifySyntax = c.build.minify, c.build.minify, c.build.minify
	if e.lower {
		o.Supported = map[string]bool{"async-await": false, "async-generator": false, "for-await": false}
	}
	if e.code == "" {
		o.EntryPoints = []string{"./" + c.Main}
	} else {
		o.Stdin = &api.StdinOptions{Contents: e.code, ResolveDir: c.Dir, Sourcefile: entryFile, Loader: api.LoaderJS}
	}
	return o
}

func (b *builder) pass(e entry) (*output, error) {
	result := api.Build(b.options(e))
	if len(result.Errors) > 0 {
		for i := range result.Errors {
			if e.lower && strings.HasPrefix(result.Errors[i].Text, "Top-level await") {
				result.Errors[i].Text = "there can be no top-level await where " + asyncHooks + " is imported: async functions are lowered for it"
			}
		}
		return nil, &BuildError{Messages: format(result.Errors, api.ErrorMessage)}
	}
	out := &output{}
	for _, m := range result.Warnings {
		p := Problem{Text: m.Text}
		if at := m.Location; at != nil {
			p.File, p.Line, p.Column = at.File, at.Line, at.Column+1
		}
		out.warnings = append(out.warnings, p)
	}
	for _, f := range result.OutputFiles {
		if filepath.Base(f.Path) == MainModule {
			out.code = f.Contents
		} else {
			out.sourceMap = f.Contents
		}
	}
	if err := out.readMeta(result.Metafile, b.config.Dir); err != nil {
		return nil, err
	}
	out.modules = slices.DeleteFunc(out.modules, func(m string) bool { return !slices.Contains(b.modules, m) })
	return out, nil
}

// format is esbuild's own, with the lines of code that a message is about.
func format(messages []api.Message, kind api.MessageKind) []string {
	return api.FormatMessages(messages, api.FormatMessagesOptions{Kind: kind})
}

// meta is what is used of esbuild's metafile.
type meta struct {
	Inputs  map[string]json.RawMessage
	Outputs map[string]struct {
		Exports []string
		Imports []struct {
			Path     string
			Kind     string
			External bool
		}
		Inputs map[string]struct{ BytesInOutput int }
	}
}

func (o *output) readMeta(metafile, dir string) error {
	var m meta
	if err := json.Unmarshal([]byte(metafile), &m); err != nil {
		return fmt.Errorf("read esbuild's metafile: %w", err)
	}
	main, ok := m.Outputs[MainModule]
	if !ok {
		return errors.New("read esbuild's metafile: it has no " + MainModule)
	}
	o.exports = slices.Sorted(slices.Values(main.Exports))
	for _, i := range main.Imports {
		if i.External && i.Kind != "require-call" && !slices.Contains(o.modules, i.Path) {
			o.modules = append(o.modules, i.Path)
		}
	}
	slices.Sort(o.modules)
	for path := range m.Inputs {
		if !strings.Contains(path, ":") && path != entryFile {
			o.inputs = append(o.inputs, filepath.Join(dir, filepath.FromSlash(path)))
		}
	}
	slices.Sort(o.inputs)
	o.largest = slices.SortedFunc(maps.Keys(main.Inputs), func(a, b string) int {
		return main.Inputs[b].BytesInOutput - main.Inputs[a].BytesInOutput
	})
	return nil
}

// readBuild reads what only bundling needs.
func (c *Config) readBuild(r *reader, v *view) {
	get := func(key string) string {
		n, _ := v.get(key)
		return r.text(n)
	}
	c.build = buildConfig{
		rules: readRules(r, v), define: stringMap(r, v, "define"), alias: stringMap(r, v, "alias"),
		tsconfig: get("tsconfig"), jsxFactory: get("jsx_factory"), jsx: get("jsx_fragment"),
	}
	if n, ok := v.get("minify"); ok {
		c.build.minify = r.flag(n)
	}
	// Without minifying, only what has the same name in two modules is renamed, and keeping its name
	// would cost a call for every function that is made.
	c.build.keepNames = c.build.minify
	if n, ok := v.get("keep_names"); ok {
		c.build.keepNames = r.flag(n)
	}
	v.warnOfMissing(r, "define")
}

func stringMap(r *reader, v *view, key string) map[string]string {
	n, ok := v.get(key)
	if !ok {
		return nil
	}
	out := make(map[string]string)
	for name, f := range r.fields(n) {
		out[name] = r.text(f)
	}
	return out
}

// readLimited reads a file of a project.
func readLimited(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", filepath.Base(path), err)
	}
	defer func() { _ = f.Close() }()
	raw, err := io.ReadAll(io.LimitReader(f, fileBytesMax+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", filepath.Base(path), err)
	}
	if len(raw) > fileBytesMax {
		return nil, fmt.Errorf("%s has more than %d MiB, the limit of a bundle", filepath.Base(path), fileBytesMax>>20)
	}
	return raw, nil
}
