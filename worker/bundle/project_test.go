package bundle_test

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"
	"go.uber.org/goleak"

	"github.com/holdfast-io/holdfast/worker/bundle"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var rewrite = flag.Bool("rewrite", false, "write what the tests see into testdata")

// Each file in testdata/projects is a project and, in "want", what becomes of it: what the bundle
// has, or what is wrong. The words before the first file are options. What stands in "code" and in
// "no code" must be in the bundle's code, or must not.
func TestProjects(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/projects/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no projects: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			t.Parallel()
			archive, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			dir := unpack(t, archive)
			result, err := bundle.Build(dir, optionsOf(t, string(archive.Comment)))
			got := strings.NewReplacer(dir+"/", "", dir, "PROJECT").Replace(describe(result, err))
			if *rewrite {
				setFile(archive, "want", got)
				if err := os.WriteFile(file, txtar.Format(archive), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if diff := cmp.Diff(fileOf(archive, "want"), got); diff != "" {
				t.Errorf("want -, got +:\n%s", diff)
			}
			if err != nil {
				return
			}
			for _, line := range linesOf(archive, "code") {
				if !strings.Contains(string(result.Code), line) {
					t.Errorf("the code lacks %q:\n%s", line, result.Code)
				}
			}
			for _, line := range linesOf(archive, "no code") {
				if strings.Contains(string(result.Code), line) {
					t.Errorf("the code has %q:\n%s", line, result.Code)
				}
			}
		})
	}
}

// unpack lays a project out in a folder of its own.
func unpack(t *testing.T, archive *txtar.Archive) string {
	t.Helper()
	dir := t.TempDir()
	for _, f := range archive.Files {
		if f.Name != "want" && f.Name != "code" && f.Name != "no code" {
			write(t, filepath.Join(dir, f.Name), string(f.Data))
		}
	}
	return dir
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func fileOf(archive *txtar.Archive, name string) string {
	for _, f := range archive.Files {
		if f.Name == name {
			return string(f.Data)
		}
	}
	return ""
}

func linesOf(archive *txtar.Archive, name string) []string {
	return strings.FieldsFunc(fileOf(archive, name), func(c rune) bool { return c == '\n' })
}

func setFile(archive *txtar.Archive, name, text string) {
	archive.Files = slices.DeleteFunc(archive.Files, func(f txtar.File) bool { return f.Name == name })
	archive.Files = append(archive.Files, txtar.File{Name: name, Data: []byte(text)})
}

func optionsOf(t *testing.T, comment string) bundle.Options {
	t.Helper()
	var o bundle.Options
	for line := range strings.SplitSeq(comment, "\n") {
		key, value, _ := strings.Cut(line, "=")
		switch key {
		case "env":
			o.Environment = value
		case "dev":
			o.Dev = true
		case "modules":
			o.Modules = strings.Fields(value)
		}
	}
	return o
}

// describe writes down everything that a test compares.
func describe(r *bundle.Result, err error) string {
	var b strings.Builder
	if err != nil {
		kind := "error"
		var config *bundle.ConfigError
		var build *bundle.BuildError
		switch {
		case errors.As(err, &config):
			kind = "config error"
		case errors.As(err, &build):
			kind = "build error"
		}
		return kind + "\n" + strings.TrimSpace(err.Error()) + "\n"
	}
	fmt.Fprintf(&b, "name %s\n", r.Name)
	fmt.Fprintf(&b, "exports %s\n", strings.Join(r.Exports, " "))
	if len(r.Modules) > 0 {
		fmt.Fprintf(&b, "modules %s\n", strings.Join(r.Modules, " "))
	}
	if r.CompatibilityDate != "" || r.CompatibilityFlags != nil {
		fmt.Fprintf(&b, "compatibility %s %v\n", r.CompatibilityDate, r.CompatibilityFlags)
	}
	for _, c := range r.Classes {
		fmt.Fprintf(&b, "class %s sqlite=%v\n", c.Name, c.SQLite)
	}
	for _, d := range r.Bindings {
		fmt.Fprintf(&b, "env.%s = %s/%s\n", d.Name, d.Worker, d.Class)
	}
	for _, v := range r.Vars {
		fmt.Fprintf(&b, "env.%s = %s\n", v.Name, v.Value)
	}
	for _, m := range r.Migrations {
		fmt.Fprintf(&b, "migration %s new=%v sqlite=%v renamed=%v deleted=%v\n", m.Tag, m.NewClasses, m.NewSQLiteClasses, m.RenamedClasses, m.DeletedClasses)
	}
	for _, l := range r.Lifecycle {
		fmt.Fprintf(&b, "lifecycle %s %s sqlite=%v %s\n", l.Class, l.State, l.SQLite, l.RenamedTo)
	}
	for _, w := range r.Warnings {
		fmt.Fprintf(&b, "warning %s\n", w)
	}
	return b.String()
}
