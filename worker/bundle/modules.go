package bundle

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/evanw/esbuild/pkg/api"
)

// asyncHooks is the module whose AsyncLocalStorage needs async functions lowered: the engine does
// not tell when a native one goes on.
const asyncHooks = "node:async_hooks"

// DefaultModules are the modules that a bundle may import when Options name none.
func DefaultModules() []string { return []string{"cloudflare:workers", "cloudflare:email"} }

// nodeModules are Node's modules that are also imported without "node:" before them.
const nodeModules = `assert|async_hooks|buffer|child_process|cluster|console|constants|crypto|dgram|diagnostics_channel|dns|domain|events|` +
	`fs|http|http2|https|inspector|module|net|os|path|perf_hooks|process|punycode|querystring|readline|repl|stream|string_decoder|` +
	`sys|timers|tls|trace_events|tty|url|util|v8|vm|wasi|worker_threads|zlib`

// The namespaces of paths that stand for no file.
const (
	// requireSpace has, for each module of the runtime that is taken with require(), one in CommonJS
	// that imports it.
	requireSpace = "holdfast-require"
	// entryFile is what the entry that Holdfast writes is called.
	entryFile = "holdfast-entry.js"
)

func (b *builder) plugin() api.Plugin {
	return api.Plugin{Name: "holdfast", Setup: func(build api.PluginBuild) {
		build.OnResolve(api.OnResolveOptions{Filter: `^(node|cloudflare|workerd):`}, func(args api.OnResolveArgs) (api.OnResolveResult, error) {
			return b.resolveModule(args, args.Path)
		})
		build.OnResolve(api.OnResolveOptions{Filter: `^(` + nodeModules + `)(/[a-z]+)?$`}, func(args api.OnResolveArgs) (api.OnResolveResult, error) {
			return b.resolveBare(build, args)
		})
		build.OnLoad(api.OnLoadOptions{Filter: `.*`, Namespace: requireSpace}, func(args api.OnLoadArgs) (api.OnLoadResult, error) {
			code := "import * as all from " + quoteJS(args.Path) + `; module.exports = "default" in all ? all.default : all;`
			return api.OnLoadResult{Contents: &code, Loader: api.LoaderJS}, nil
		})
		build.OnLoad(api.OnLoadOptions{Filter: `.*`, Namespace: "file"}, b.loadFile)
	}}
}

// resolveModule leaves a module of the runtime outside of the bundle. One that the runtime does not
// have is an error where it is certain to be used, and a warning where the code may get by: a
// require() or import() of it fails when it runs.
func (b *builder) resolveModule(args api.OnResolveArgs, name string) (api.OnResolveResult, error) {
	if slices.Contains(b.modules, name) {
		if args.Kind == api.ResolveJSRequireCall {
			return api.OnResolveResult{Path: name, Namespace: requireSpace}, nil
		}
		return api.OnResolveResult{Path: name, External: true}, nil
	}
	text := fmt.Sprintf("there is no module %s here: there are %s", strconv.Quote(name), strings.Join(b.modules, ", "))
	if args.Kind == api.ResolveJSRequireCall || args.Kind == api.ResolveJSDynamicImport {
		return api.OnResolveResult{Path: name, External: true, Warnings: []api.Message{{Text: text}}}, nil
	}
	return api.OnResolveResult{Errors: []api.Message{{Text: text}}}, nil
}

type resolving struct{}

// resolveBare prefers a package of the project to Node's module of that name.
func (b *builder) resolveBare(build api.PluginBuild, args api.OnResolveArgs) (api.OnResolveResult, error) {
	if _, again := args.PluginData.(resolving); again {
		return api.OnResolveResult{}, nil
	}
	found := build.Resolve(args.Path, api.ResolveOptions{
		Importer: args.Importer, Namespace: args.Namespace, ResolveDir: args.ResolveDir, Kind: args.Kind, PluginData: resolving{},
	})
	if len(found.Errors) > 0 || found.External {
		return b.resolveModule(args, "node:"+args.Path)
	}
	effects := api.SideEffectsTrue
	if !found.SideEffects {
		effects = api.SideEffectsFalse
	}
	return api.OnResolveResult{Path: found.Path, Namespace: found.Namespace, Suffix: found.Suffix, SideEffects: effects}, nil
}

// quoteJS writes a string as JavaScript does.
func quoteJS(s string) string {
	raw, err := json.Marshal(s)
	if err != nil {
		panic(err) // a string is always JSON
	}
	return string(raw)
}
