package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// wants runs a command and wants its exit status and what it prints to match patterns.
func (d *dev) wants(status int, stdout, stderr string, args ...string) {
	d.t.Helper()
	code, out, errs := d.run(args...)
	if code != status || !regexp.MustCompile(stdout).MatchString(out) || !regexp.MustCompile(stderr).MatchString(errs) {
		d.t.Errorf("%s: exit status %d, stdout %q, stderr %q; want %d, %q, %q", strings.Join(args, " "), code, out, errs, status, stdout, stderr)
	}
}

// Objects are exported, and imported where they came from, into another class, and in place of others.
func TestExportAndImport(t *testing.T) { // not parallel: it tunes the process's garbage collector
	dir := t.TempDir()
	d := startDev(t, filepath.Join(dir, "data"))
	defer func() {
		if code, stderr := d.stop(); code != 0 {
			t.Errorf("exit status %d: %s", code, stderr)
		}
	}()
	file := filepath.Join(dir, "counters")
	for n := range 5 {
		d.wants(0, `^\{"value":"7"\}\n$`, `^$`, "call", "Counter", fmt.Sprint("c", n), "Increment", `{"amount":7}`)
	}
	_, id, _ := d.run("new-id", "Counter")
	id = strings.TrimSpace(id)
	d.wants(0, `"1"`, `^$`, "call", "Counter", "--id", id, "Increment")

	d.wants(0, `^exported 6 objects with 6 keys, \d+ B, to .*counters\n$`, `^$`, "export", "Counter", "-o", file)
	d.wants(1, `^$`, `exists already`, "export", "Counter", "-o", file)
	d.wants(1, `^$`, `UNKNOWN_OBJECT`, "export", "Counter", "nobody", "-o", file+"1")
	d.wants(1, `^$`, `UNKNOWN_CLASS`, "export", "Other", "-o", file+"1")
	d.wants(2, `^$`, `want exactly one`, "export", "Counter", "c1", "--id", id, "-o", file+"1")
	d.wants(0, `^exported 1 objects with 1 keys`, `^$`, "export", "Counter", "c1", "-o", file+"1")
	if left, _ := filepath.Glob(file + "*.partial"); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	if code, out, errs := d.run("import", file, "--check"); code != 0 || !strings.HasPrefix(out, "6 objects of class Counter with 6 keys") {
		t.Errorf("check: %d, %s, %s", code, out, errs)
	}

	// They are there: none is touched, unless it is to be.
	d.wants(0, `"8"`, `^$`, "call", "Counter", "c1", "Increment")
	d.wants(1, `^imported 0 of 6 `, `OBJECT_EXISTS: object Counter "c\d" exists(.|\n)*6 objects were not imported`, "import", file)
	d.wants(0, `"8"`, `^$`, "call", "Counter", "c1", "Get")
	d.wants(0, `^imported 1 of 1 objects into class Counter\n$`, `^$`, "import", file+"1", "--replace")
	d.wants(0, `"7"`, `^$`, "call", "Counter", "c1", "Get") // The object in memory was reset.

	// Deleted, the class has other ids afterwards: only what has a name can come back.
	d.wants(0, `with 6 objects`, ``, "class", "delete", "Counter", "--yes", "Counter")
	d.wants(1, `^$`, `UNKNOWN_CLASS`, "import", file)
	d.wants(1, `^$`, `reserved|own`, "import", file, "--as", "holdfast.System")
	if code, stderr := d.stop(); code != 0 {
		t.Errorf("exit status %d: %s", code, stderr)
	}
	d = startDev(t, filepath.Join(dir, "data")) // It registers the class again, as soon as it can ask.
	for range 100 {
		if code, _, _ := d.run("call", "Counter", "c1", "Get"); code == 0 {
			break
		}
	}
	d.wants(1, `^imported 5 of 6 `, `INVALID_ID: object `+id+` has no name(.|\n)*1 objects were not imported`, "import", file)
	for n := range 5 {
		d.wants(0, `"7"`, `^$`, "call", "Counter", fmt.Sprint("c", n), "Get")
	}
}

// A file that is damaged is refused before anything of it is imported, with the place; one whose export was
// cut off is written on.
func TestDamagedAndPartialFiles(t *testing.T) { // not parallel: it tunes the process's garbage collector
	dir := t.TempDir()
	d := startDev(t, filepath.Join(dir, "data"))
	defer func() { _, _ = d.stop() }()
	for n := range 10 {
		d.wants(0, `"1"`, `^$`, "call", "Counter", fmt.Sprint("c", n), "Increment")
	}
	file := filepath.Join(dir, "counters")
	d.wants(0, `^exported 10 `, `^$`, "export", "Counter", "-o", file)
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	write := func(path string, raw []byte) {
		t.Helper()
		if err := os.WriteFile(path, raw, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	damaged := bytes.Clone(whole)
	damaged[len(damaged)-200] ^= 1
	write(file+".damaged", damaged)
	d.wants(1, `^$`, `the file is damaged at byte \d+ \(item \d+`, "import", file+".damaged", "--replace")
	write(file+".short", whole[:len(whole)-1])
	d.wants(1, `^$`, `damaged at byte \d+ .*cut off`, "import", file+".short", "--replace")
	write(file+".other", []byte("what is this?"))
	d.wants(1, `^$`, `no file of exported objects`, "import", file+".other")
	d.wants(1, `^$`, `no such file`, "import", file+".none")

	// What was cut off in its seventh object is written on behind the sixth, though objects have changed.
	write(file+"2.partial", whole[:len(whole)*2/3])
	d.wants(1, `^$`, `--resume goes on with it`, "export", "Counter", "-o", file+"2")
	d.wants(1, `^$`, `it is of another export`, "export", "Counter", "c1", "-o", file+"2", "--resume")
	d.wants(0, `^exported 10 objects`, `^$`, "export", "Counter", "-o", file+"2", "--resume")
	again, err := os.ReadFile(file + "2")
	if err != nil || !bytes.Equal(again, whole) {
		t.Errorf("written on it is another file of %d bytes, was %d, %v", len(again), len(whole), err)
	}
	d.wants(1, `^$`, `no such file`, "export", "Counter", "-o", file+"3", "--resume")
}
