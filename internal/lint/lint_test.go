package lint_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/holdfast-io/holdfast/"

// root is the repository.
const root = "../.."

// allowed is the map: what each package may import of the others. Beside these every package may
// import placement (ids), fault (errors) and tracing (spans), which import no other; tests may import anything.
var allowed = map[string][]string{
	"placement":           {},
	"fault":               {},
	"tracing":             {},
	"storage":             {},
	"storage/value":       {},
	"storage/storagetest": {"storage"},
	"cluster":             {},
	"peer/frame":          {"proto/holdfast/v1"},
	"peer":                {"peer/frame", "proto/holdfast/v1", "proto/holdfast/peer/v1"},
	"replica":             {"storage"},
	"actor":               {"storage", "storage/value"},
	"router":              {"actor", "peer/frame", "storage"},
	"gateway":             {"actor", "peer/frame", "proto/holdfast/v1"},
	"client":              {"peer/frame", "proto/holdfast/v1"},
	"worker":              {"actor", "fault", "placement", "storage", "storage/value", "worker/bundle", "worker/clone", "worker/quickjs", "worker/web", "worker/web/outbound"},
	"worker/quickjs":      {},
	"worker/clone":        {"worker/quickjs", "storage/value"},
	"node/system":         {"actor", "proto/holdfast/system/v1"},
	"worker/bundle":       {},
	"worker/web":          {"worker/quickjs", "worker/web/outbound", "worker/web/internal/webcrypto"},
	"worker/web/generate": {},
	"worker/web/outbound": {},
	"node":                {"*"},
	"client/objectfile":   {},
	"cmd/node":            {"node", "client", "client/objectfile", "proto/holdfast/v1", "examples/counter", "worker", "worker/bundle", "worker/web/outbound"},
	"examples/all":        {"actor", "node", "examples/*"},
	"bench":               {"*"},
	"test/e2e":            {"*"},
	"test/conformance":    {"*"},
	"internal/lint":       {},
	"internal/logtest":    {},
	"internal/workerd":    {"worker/bundle"},

	"worker/web/internal/webcrypto": {},

	"examples/internal/onenode": {"actor", "node", "client"},

	"test/e2e/chaos":              {"test/e2e/internal/chaos"},
	"test/e2e/internal/chaos":     {"proto/holdfast/v1", "test/e2e/internal/*"},
	"test/e2e/internal/classes":   {"actor", "test/e2e/internal/classes/classesv1"},
	"test/e2e/internal/faults":    {},
	"test/e2e/internal/history":   {},
	"test/e2e/internal/registers": {"client", "test/e2e/internal/classes/classesv1", "test/e2e/internal/history"},
	"test/e2e/internal/testnode":  {"actor", "node", "examples/counter", "test/e2e/internal/classes"},
}

type goFile struct {
	path string
	dir  string
	ast  *ast.File
}

// goFiles parses every file of the repository that is not generated.
func goFiles(t *testing.T) []goFile {
	t.Helper()
	var out []goFile
	fset := token.NewFileSet()
	walk(t, func(p string) {
		if !strings.HasSuffix(p, ".go") || strings.HasSuffix(p, ".pb.go") {
			return
		}
		f, err := parser.ParseFile(fset, filepath.Join(root, p), nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, goFile{path: p, dir: path.Dir(p), ast: f})
	})
	return out
}

// walk visits every file that belongs to the repository, by its slashed path.
func walk(t *testing.T, visit func(path string)) {
	t.Helper()
	err := fs.WalkDir(os.DirFS(root), ".", func(p string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && p != "." && (strings.HasPrefix(d.Name(), ".") && d.Name() != ".ci" || d.Name() == "node_modules" || p == "build" || p == "tools"):
			return fs.SkipDir
		case d.Type().IsRegular():
			visit(p)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestEveryPackageSaysWhatItIsFor(t *testing.T) {
	t.Parallel()
	has := make(map[string]bool)
	for _, f := range goFiles(t) {
		if strings.HasSuffix(f.path, "_test.go") {
			continue
		}
		has[f.dir] = has[f.dir] || f.ast.Doc != nil
	}
	for dir, ok := range has {
		if !ok {
			t.Errorf("%s: no package comment", dir)
		}
	}
}

func TestImportsFollowTheMap(t *testing.T) {
	t.Parallel()
	for _, f := range goFiles(t) {
		if strings.HasSuffix(f.path, "_test.go") {
			continue
		}
		may, known := allowed[f.dir]
		if !known && strings.HasPrefix(f.dir, "examples/") {
			may, known = []string{"actor", "node", f.dir + "/*"}, true
		}
		if !known {
			t.Errorf("%s: the package is not in the map: add it to docs/ARCHITECTURE.md, and here", f.dir)
			continue
		}
		for _, spec := range f.ast.Imports {
			imported, ours := strings.CutPrefix(strings.Trim(spec.Path.Value, `"`), module)
			if !ours || imported == "placement" || imported == "fault" || imported == "tracing" || slices.Contains(may, "*") || slices.Contains(may, imported) {
				continue
			}
			if slices.ContainsFunc(may, func(pattern string) bool {
				prefix, isPrefix := strings.CutSuffix(pattern, "*")
				return isPrefix && strings.HasPrefix(imported, prefix)
			}) {
				continue
			}
			t.Errorf("%s imports %s, which the map does not allow", f.path, imported)
		}
	}
}

var (
	mentioned = regexp.MustCompile(`\bdocs/[A-Za-z0-9_/.-]+\.md`)
	linked    = regexp.MustCompile(`\]\(([^)#\s]+)(#[^)]*)?\)`)
)

func TestPagesThatAreReferredToExist(t *testing.T) {
	t.Parallel()
	exists := func(p string) bool {
		_, err := os.Stat(filepath.Join(root, p))
		return err == nil
	}
	walk(t, func(p string) {
		if !strings.HasSuffix(p, ".go") && !strings.HasSuffix(p, ".md") && !strings.HasSuffix(p, ".proto") {
			return
		}
		raw, err := os.ReadFile(filepath.Join(root, p))
		if err != nil {
			t.Fatal(err)
		}
		for _, page := range mentioned.FindAllString(string(raw), -1) {
			if !exists(page) {
				t.Errorf("%s mentions %s, which does not exist", p, page)
			}
		}
		if !strings.HasSuffix(p, ".md") {
			return
		}
		for _, m := range linked.FindAllStringSubmatch(string(raw), -1) {
			if target := m[1]; !strings.Contains(target, "://") && !exists(path.Join(path.Dir(p), target)) {
				t.Errorf("%s links to %s, which does not exist", p, target)
			}
		}
	})
}

var required = regexp.MustCompile(`(?m)^\t([a-z0-9.]+\.[a-z]+/\S+) v\S+$`)

func TestDirectDependenciesHaveAReason(t *testing.T) {
	t.Parallel()
	mod, err := os.ReadFile(filepath.Join(root, "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile(filepath.Join(root, "docs/dependencies.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range required.FindAllStringSubmatch(string(mod), -1) {
		if !strings.Contains(string(page), "`"+m[1]+"`") {
			t.Errorf("docs/dependencies.md does not say why %s is there", m[1])
		}
	}
}

// The promises of docs/ARCHITECTURE.md are cited as P1 to P7.
var promise = regexp.MustCompile(`\(P([0-9]+)\)`)

func TestPromisesThatAreCitedExist(t *testing.T) {
	t.Parallel()
	for _, f := range goFiles(t) {
		for _, group := range f.ast.Comments {
			for _, m := range promise.FindAllStringSubmatch(group.Text(), -1) {
				if n := m[1]; len(n) != 1 || n < "1" || n > "7" {
					t.Errorf("%s cites P%s; there are P1 to P7", f.path, n)
				}
			}
		}
	}
}
