package web_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/holdfast-io/holdfast/worker/quickjs"
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

// A worker that breaks what the platform leans on harms itself alone.
func TestBrokenGlobals(t *testing.T) {
	t.Parallel()
	for _, sabotage := range []string{
		`String.prototype.toWellFormed = () => ({})`, `String.prototype.toWellFormed = () => 5`, `Array.prototype.join = () => null`,
		`JSON.stringify = () => "x"`, `Object.defineProperty = () => { throw new Error("no") }`, `Promise.prototype.then = 1`,
	} {
		l := newLoop(t)
		err := l.engine.Enter(func() error {
			if _, err := l.engine.Eval(sabotage+`; for (const f of [() => new URL("https://a.example"), () => new TextEncoder().encode("x"), () => console.log({}),
				() => fetch("https://a.example", {method: "POST", body: "x"}), () => crypto.subtle.digest("SHA-1", new Uint8Array(1)), () => setTimeout(() => {}, 1),
				() => new Response(new ReadableStream()).body]) { try { f(); } catch {} }`, "sabotage.js"); err != nil {
				return err
			}
			_, err := l.engine.RunJobs(1000)
			return err
		})
		if err != nil {
			t.Errorf("%s: %v", sabotage, err)
		}
	}
}

// Node's modules are imported as ES modules, by their default export and by names.
func TestNodeModulesAreImported(t *testing.T) {
	t.Parallel()
	l := newLoop(t)
	l.enter(func() error {
		for _, name := range web.NodeModules() {
			exports, err := l.web.NodeModule(name)
			if err != nil {
				return err
			}
			if err := l.engine.DefineModule(name, exports); err != nil {
				return err
			}
		}
		if _, err := l.web.NodeModule("node:fs"); err == nil {
			t.Error("there is a module node:fs")
		}
		return nil
	})
	code, err := quickjs.CompileModule(`
		import EventEmitter, { EventEmitter as named, once } from "node:events";
		import assert, { strictEqual } from "node:assert";
		import { Buffer } from "node:buffer";
		import * as path from "node:path";
		import { AsyncLocalStorage } from "node:async_hooks";
		import { inspect, types } from "node:util";
		import { isDate } from "node:util/types";
		import process, { env } from "node:process";
		import { setTimeout as wait } from "node:timers/promises";
		export default async () => {
			assert(EventEmitter === named && typeof once === "function" && types.isDate === isDate && env === process.env);
			strictEqual(Buffer.from("a") instanceof globalThis.Buffer, true);
			return [path.join("a", "b"), inspect({a: 1}), new AsyncLocalStorage().run(1, () => 2), await wait(1, "w")];
		};`, "imports.js")
	if err != nil {
		t.Fatal(err)
	}
	l.importRun(code)
	l.want("run()", `["a/b","{ a: 1 }",2,"w"]`)
}

// importRun imports a module and makes its default export the global run.
func (l *loop) importRun(code *quickjs.Bytecode) {
	l.t.Helper()
	l.enter(func() error {
		namespace, _, err := l.engine.Import(code)
		if err != nil {
			return err
		}
		run, err := namespace.Get("default")
		if err != nil {
			return err
		}
		return l.engine.Global().Set("run", run)
	})
}
