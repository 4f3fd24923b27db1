package web_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/holdfast-io/holdfast/worker/web"
)

// script evaluates a file of testdata.
func (l *loop) script(name string) {
	l.t.Helper()
	source, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		l.t.Fatal(err)
	}
	l.enter(func() error {
		_, err := l.engine.Eval("{"+string(source)+"}", name)
		return err
	})
}

// Each file of testdata is a list of tests in JavaScript, see lib.js.
func TestScripts(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/*.js")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		name := filepath.Base(file)
		if name == "lib.js" {
			continue
		}
		t.Run(strings.TrimSuffix(name, ".js"), func(t *testing.T) {
			t.Parallel()
			l := newLoop(t)
			l.script("lib.js")
			if name == "node.js" {
				l.nodeModules()
			}
			l.script(name)
			if n, err := l.run("countTests()"); err != nil || n == "0" {
				t.Fatalf("%s tests, %v", n, err)
			}
			if failures, err := l.run("runTests()"); err != nil || failures != "" {
				t.Errorf("%v\n%s", err, failures)
			}
			if logs := l.logged(); logs != "" {
				t.Errorf("logged:\n%s", logs)
			}
		})
	}
}

// nodeModules puts all modules of Node.js into the global node.
func (l *loop) nodeModules() {
	l.t.Helper()
	l.enter(func() error {
		all := l.engine.Object()
		for _, name := range web.NodeModules() {
			exports, err := l.web.NodeModule(name)
			if err != nil {
				return err
			}
			if err := all.Set(strings.TrimPrefix(name, "node:"), exports["default"]); err != nil {
				return err
			}
		}
		return l.engine.Global().Set("node", all)
	})
}
