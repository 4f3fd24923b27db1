package bundle_test

import (
	"errors"
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"

	"github.com/holdfast-io/holdfast/worker/bundle"
)

// Whatever is in the file, it is read, or refused with a place in it.
func FuzzConfig(f *testing.F) {
	files, err := filepath.Glob("testdata/projects/*.txtar")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range files {
		archive, err := txtar.ParseFile(file)
		if err != nil {
			f.Fatal(err)
		}
		for _, part := range archive.Files {
			if filepath.Ext(part.Name) == ".toml" || filepath.Ext(part.Name) == ".jsonc" {
				f.Add(filepath.Ext(part.Name) == ".toml", part.Data, "test")
			}
		}
	}
	f.Fuzz(func(t *testing.T, toml bool, raw []byte, environment string) {
		name := "wrangler.jsonc"
		if toml {
			name = "wrangler.toml"
		}
		c, err := bundle.ParseConfig(filepath.Join("testdata/counter", name), raw, environment)
		if _, ok := errors.AsType[*bundle.ConfigError](err); err != nil && !ok {
			t.Errorf("not a ConfigError: %v", err)
		}
		if err == nil && (c.Name == "" || c.Main == "") {
			t.Errorf("no name or main: %+v", c)
		}
	})
}
