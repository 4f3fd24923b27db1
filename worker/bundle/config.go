package bundle

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
	"unicode"
)

// Config is a wrangler configuration, with one environment chosen and wrangler's rules of
// inheritance applied.
type Config struct {
	// File is the path of the configuration, Dir the folder that it is in: the project.
	File, Dir string
	Name      string
	// Main is the path of the module that the worker starts with, relative to Dir, with slashes.
	Main               string
	CompatibilityDate  string
	CompatibilityFlags []string
	Bindings           []Binding
	Migrations         []Migration
	Lifecycle          []Lifecycle
	Vars               []Var
	// Warnings are in the order of the file.
	Warnings []Problem

	build buildConfig
	doc   *document
	// classPlaces are where the configuration speaks of a class of this worker that must be there:
	// paths by class.
	classPlaces map[string]string
}

// buildConfig is what of a configuration only bundling needs.
type buildConfig struct {
	rules                     []rule
	define, alias             map[string]string
	tsconfig, jsx, jsxFactory string
	minify                    bool
	keepNames                 bool
}

// configFiles are the names of configurations. Like wrangler's, an earlier one wins.
var configFiles = []string{"wrangler.json", "wrangler.jsonc", "wrangler.toml"}

// configBytesMax bounds a configuration, which people write by hand.
const configBytesMax = 1 << 20

// LoadConfig reads the configuration of the project at the path: a folder, or the configuration's
// file itself. An empty environment is the top level. What is wrong with it is a *ConfigError.
func LoadConfig(path, environment string) (*Config, error) {
	file, err := findConfig(path)
	if err != nil {
		return nil, err
	}
	info, err := os.Stat(file)
	if err != nil {
		return nil, fmt.Errorf("read the configuration: %w", err)
	}
	if info.Size() > configBytesMax {
		return nil, fmt.Errorf("read the configuration: %s has %d bytes, the limit is %d", file, info.Size(), configBytesMax)
	}
	raw, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read the configuration: %w", err)
	}
	return parseConfig(file, raw, environment)
}

func parseConfig(file string, raw []byte, environment string) (*Config, error) {
	doc, err := parseDocument(file, raw)
	if err != nil {
		return nil, err
	}
	dir, err := filepath.Abs(filepath.Dir(file))
	if err != nil {
		return nil, fmt.Errorf("read the configuration: %w", err)
	}
	c := &Config{File: file, Dir: dir, doc: doc, classPlaces: make(map[string]string)}
	r := &reader{doc: doc}
	c.read(r, environment)
	sortProblems(r.errs)
	sortProblems(r.warnings)
	c.Warnings = r.warnings
	if len(r.errs) > 0 {
		return nil, &ConfigError{Problems: r.errs}
	}
	return c, nil
}

func findConfig(path string) (string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return "", fmt.Errorf("find the project: %w", err)
	}
	if !info.IsDir() {
		if ext := filepath.Ext(path); ext != ".toml" && ext != ".json" && ext != ".jsonc" {
			return "", fmt.Errorf("find the project: %s is neither a folder nor a configuration (%s)", path, strings.Join(configFiles, ", "))
		}
		return path, nil
	}
	for _, name := range configFiles {
		file := filepath.Join(path, name)
		switch _, err := os.Stat(file); {
		case err == nil:
			return file, nil
		case !errors.Is(err, fs.ErrNotExist):
			return "", fmt.Errorf("find the project: %w", err)
		}
	}
	return "", fmt.Errorf("find the project: %s has no configuration: write one of %s", path, strings.Join(configFiles, ", "))
}

func (c *Config) read(r *reader, environment string) {
	v, ok := newView(r, environment)
	if !ok {
		return
	}
	c.readName(r, v)
	c.readCompatibility(r, v)
	c.readBindings(r, v)
	c.readLifecycle(r, v)
	c.readVars(r, v)
	c.readBuild(r, v)
	c.readMain(r, v)
	c.checkEnv(r)
	c.checkBound(r)
}

func (c *Config) readName(r *reader, v *view) {
	n, ok := v.get("name")
	if !ok {
		r.failf("", `"name" is missing: the worker's name is part of the names of its classes, name = "my-worker"`)
		return
	}
	c.Name = r.text(n)
	if v.environment != "" && !v.own("name") {
		c.Name += "-" + v.environment
	}
	checkWorkerName(r, n.path, c.Name)
}

func checkWorkerName(r *reader, path, name string) {
	switch {
	case !workerName.MatchString(name):
		r.failf(path, "%q is no name for a worker: lower case letters, digits, dashes and underscores, and no dash first", name)
	case len(name) > nameBytesMax:
		r.failf(path, "%q has %d bytes, the limit is %d", name, len(name), nameBytesMax)
	}
}

// checkClassName refuses what can't be the name of an export that a class has in JavaScript.
func checkClassName(r *reader, path, name string) {
	switch {
	case name == "":
	case name == "default" || !isIdentifier(name):
		r.failf(path, "%q is no name for a class: it must be a JavaScript identifier that the worker exports", name)
	case len(name) > nameBytesMax:
		r.failf(path, "%q has %d bytes, the limit is %d", name, len(name), nameBytesMax)
	}
}

func isIdentifier(s string) bool {
	for i, c := range s {
		starts := c == '_' || c == '$' || unicode.IsLetter(c)
		if !starts && (i == 0 || !unicode.IsDigit(c)) {
			return false
		}
	}
	return s != ""
}

func (c *Config) readCompatibility(r *reader, v *view) {
	if n, ok := v.get("compatibility_date"); ok {
		c.CompatibilityDate = r.text(n)
		_, err := time.Parse(time.DateOnly, c.CompatibilityDate)
		if c.CompatibilityDate != "" && (err != nil || !dateForm.MatchString(c.CompatibilityDate)) {
			r.failf(n.path, "%q is no date: write YYYY-MM-DD", c.CompatibilityDate)
		}
	}
	if n, ok := v.get("compatibility_flags"); ok {
		c.CompatibilityFlags = r.texts(n)
	}
}

// GoWorker is the script_name of bindings to the Go classes of the cluster.
const GoWorker = "holdfast:go"

func (c *Config) readBindings(r *reader, v *view) {
	n, ok := v.get("durable_objects")
	if !ok {
		return
	}
	fields := r.object(n, "bindings")
	list, ok := fields["bindings"]
	if !ok {
		return
	}
	for _, b := range r.items(list) {
		f := r.object(b, "name", "class_name", "script_name", "environment")
		out := Binding{Name: r.required(b.path, f, "name"), Class: r.required(b.path, f, "class_name"), Worker: r.text(f["script_name"])}
		checkClassName(r, f["class_name"].path, out.Class)
		if env, ok := f["environment"]; ok {
			switch out.Worker {
			case "":
				r.failf(env.path, `needs "script_name" beside it: it says which environment of another worker is meant`)
			case GoWorker:
				r.failf(env.path, "the Go classes of a cluster have no environments")
			default:
				out.Worker += "-" + r.text(env)
			}
		}
		if out.Worker == c.Name {
			out.Worker = ""
		}
		switch out.Worker {
		case "":
			c.classPlaces[out.Class] = child(b.path, "class_name")
		case GoWorker:
		default:
			checkWorkerName(r, f["script_name"].path, out.Worker)
		}
		c.Bindings = append(c.Bindings, out)
	}
}

func (c *Config) readVars(r *reader, v *view) {
	if n, ok := v.get("vars"); ok {
		for name, field := range r.fields(n) {
			c.Vars = append(c.Vars, Var{Name: name, Value: r.json(field)})
		}
	}
	slices.SortFunc(c.Vars, func(a, b Var) int { return strings.Compare(a.Name, b.Name) })
	v.warnOfMissing(r, "vars")
}

// checkEnv refuses two things of one name in env.
func (c *Config) checkEnv(r *reader) {
	seen := make(map[string]bool)
	for _, v := range c.Vars {
		seen[v.Name] = true
	}
	for _, b := range c.Bindings {
		if seen[b.Name] {
			r.failf("durable_objects", "two things are bound to env.%s: each needs a name of its own", b.Name)
		}
		seen[b.Name] = true
	}
}

// mains are where a worker may start when the configuration does not say where.
var mains = func() []string {
	var out []string
	for _, base := range []string{"index", "src/index", "worker", "src/worker"} {
		for _, ext := range []string{".ts", ".mts", ".tsx", ".js", ".mjs", ".jsx"} {
			out = append(out, base+ext)
		}
	}
	return out
}()

func (c *Config) readMain(r *reader, v *view) {
	isFile := func(name string) bool {
		info, err := os.Stat(filepath.Join(c.Dir, filepath.FromSlash(name)))
		return err == nil && info.Mode().IsRegular()
	}
	if n, ok := v.get("main"); ok {
		c.Main = filepath.ToSlash(filepath.Clean(filepath.FromSlash(r.text(n))))
		switch {
		case n.value == "":
			r.failf(n.path, "must not be empty")
		case filepath.IsAbs(c.Main):
			r.failf(n.path, "must be relative to the configuration, and %q is absolute", c.Main)
		case !isFile(c.Main):
			r.failf(n.path, "there is no file %s beside the configuration", c.Main)
		}
		return
	}
	i := slices.IndexFunc(mains, isFile)
	if i < 0 {
		r.failf("", `"main" is missing, and there is none of index, src/index, worker and src/worker (.ts, .mts, .tsx, .js, .mjs, .jsx) beside the configuration: say which module the worker starts with, main = "src/app.ts"`)
		return
	}
	c.Main = mains[i]
}
