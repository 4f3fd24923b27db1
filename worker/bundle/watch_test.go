package bundle_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-io/holdfast/worker/bundle"
)

// next waits for an update.
func next(t *testing.T, w *bundle.Watcher) bundle.Update {
	t.Helper()
	select {
	case u, ok := <-w.Updates():
		if !ok {
			t.Fatal("the updates have ended")
		}
		return u
	case <-time.After(20 * time.Second):
		t.Fatal("no update")
	}
	panic("unreachable")
}

func nextCode(t *testing.T, w *bundle.Watcher, want string) {
	t.Helper()
	u := next(t, w)
	if u.Err != nil {
		t.Fatal(u.Err)
	}
	if !strings.Contains(string(u.Result.Code), want) {
		t.Errorf("the code lacks %q:\n%s", want, u.Result.Code)
	}
}

func nextError(t *testing.T, w *bundle.Watcher, want string) {
	t.Helper()
	if u := next(t, w); u.Err == nil || !strings.Contains(u.Err.Error(), want) {
		t.Errorf("got %v, want an error with %q", u.Err, want)
	}
}

func TestWatchTellsOfEveryState(t *testing.T) {
	t.Parallel()
	parent := t.TempDir()
	dir := filepath.Join(parent, "project")
	in := func(name string) string { return filepath.Join(dir, name) }
	// Files come to be whole, so that no state in between is seen.
	write := func(t *testing.T, path, text string) {
		t.Helper()
		whole := filepath.Join(parent, "whole")
		write(t, whole, text)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(whole, path); err != nil {
			t.Fatal(err)
		}
	}
	write(t, in("wrangler.toml"), `name = "w"`)
	write(t, in("index.ts"), `export default { a: "one" }`)
	write(t, filepath.Join(parent, "shared/shared.ts"), `export const shared = "shared one"`)
	w, err := bundle.Watch(dir, bundle.Options{Dev: true})
	if err != nil {
		t.Fatal(err)
	}
	nextCode(t, w, "one")

	write(t, in("index.ts"), `export default { a: "two" }`)
	nextCode(t, w, "two")

	// What changes nothing is not told: the next update is of what does.
	write(t, in("notes.txt"), "unrelated")
	write(t, in("index.ts"), `export default { a: "two" } // a comment is none`)
	write(t, in(".dev.vars"), "SECRET=1")
	if u := next(t, w); u.Err != nil || len(u.Result.Vars) != 1 {
		t.Errorf("after .dev.vars: %+v", u)
	}

	write(t, in("index.ts"), `import { late } from "./deep/late"; export default { late }`)
	nextError(t, w, "./deep/late")
	write(t, in("deep/late.ts"), `import { shared } from "../../shared/shared"; export const late = "late " + shared`)
	nextCode(t, w, "shared one")
	write(t, filepath.Join(parent, "shared/shared.ts"), `export const shared = "shared two"`)
	nextCode(t, w, "shared two")
	write(t, in("deep/late.ts"), `export const late = "later"`)
	nextCode(t, w, "later")

	write(t, in("wrangler.toml"), `name = "w2"`)
	if u := next(t, w); u.Err != nil || u.Result.Name != "w2" {
		t.Errorf("after the configuration: %+v", u)
	}
	if err := os.Remove(in("wrangler.toml")); err != nil {
		t.Fatal(err)
	}
	nextError(t, w, "has no configuration")

	if err := w.Close(); err != nil {
		t.Error(err)
	}
	if u, ok := <-w.Updates(); ok {
		t.Errorf("an update after the end: %+v", u)
	}
}

// A reader that is late sees the project as it is, and not as it was.
func TestAnUpdateReplacesOneThatNobodyTook(t *testing.T) {
	t.Parallel()
	tell, updates := bundle.Teller()
	tell(bundle.Update{Err: errors.New("first")})
	tell(bundle.Update{Err: errors.New("second")})
	if u := <-updates; u.Err.Error() != "second" {
		t.Error(u.Err)
	}
	tell(bundle.Update{Err: errors.New("second")})
	select {
	case u := <-updates:
		t.Errorf("told again: %v", u.Err)
	default:
	}
}

func TestWatchLeavesFoldersOut(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write(t, filepath.Join(dir, "wrangler.toml"), `name = "w"
main = "src/index.ts"`)
	write(t, filepath.Join(dir, "src/index.ts"), `export default {}`)
	for _, left := range []string{"data/deep/file", "node_modules/a/file", ".git/file"} {
		write(t, filepath.Join(dir, left), "")
	}
	w, err := bundle.Watch(dir, bundle.Options{}, filepath.Join(dir, "data"))
	if err != nil {
		t.Fatal(err)
	}
	next(t, w)
	got := w.Watched()
	slices.Sort(got)
	if want := []string{dir, filepath.Join(dir, "src")}; !slices.Equal(got, want) {
		t.Errorf("watched: %q, want %q", got, want)
	}
	if err := w.Close(); err != nil {
		t.Error(err)
	}
}

func TestWatchNeedsAProject(t *testing.T) {
	t.Parallel()
	if _, err := bundle.Watch(t.TempDir(), bundle.Options{}); err == nil {
		t.Error("an empty folder is watched")
	}
}
