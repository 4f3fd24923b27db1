package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/alecthomas/kong"
	"gopkg.in/yaml.v3"
)

// configFile implements kong.Resolver: flags from a YAML file, by command, as in
// "serve: {name: n1}". The environment wins over it.
type configFile struct{ root map[string]any }

// loadConfig reads such a file.
func loadConfig(r io.Reader) (kong.Resolver, error) {
	f := &configFile{}
	if err := yaml.NewDecoder(r).Decode(&f.root); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("--config: %w", err)
	}
	return f, nil
}

// Validate implements kong.Resolver: a key that no command has would silently do nothing.
func (f *configFile) Validate(app *kong.Application) error {
	return errors.Join(checkKeys(app.Node, f.root, nil)...)
}

func checkKeys(n *kong.Node, keys map[string]any, path []string) []error {
	var errs []error
	for key, value := range keys {
		at := append(slices.Clone(path), key)
		refuse := func(format string, args ...any) {
			errs = append(errs, fmt.Errorf("--config: %s: "+format, append([]any{strings.Join(at, ".")}, args...)...))
		}
		child := slices.IndexFunc(n.Children, func(c *kong.Node) bool { return c.Name == key })
		isFlag := slices.ContainsFunc(n.Flags, func(flag *kong.Flag) bool { return flag.Name == key })
		switch below, isMap := value.(map[string]any); {
		case child >= 0 && isMap:
			errs = append(errs, checkKeys(n.Children[child], below, at)...)
		case child >= 0 && value != nil:
			refuse("must hold the command's flags")
		case child >= 0, isFlag && len(path) > 0:
		case len(path) == 0:
			refuse("there is no such command; a flag goes below its command, as in \"serve: {%s: …}\"", key)
		default:
			refuse("there is no such flag; 'holdfast %s --help' lists them", strings.Join(path, " "))
		}
	}
	slices.SortFunc(errs, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	return errs
}

// Resolve implements kong.Resolver.
func (f *configFile) Resolve(_ *kong.Context, parent *kong.Path, flag *kong.Flag) (any, error) {
	for _, name := range flag.Envs {
		if _, ok := os.LookupEnv(name); ok { // Kong by itself has it the other way round.
			return nil, nil
		}
	}
	var path []string
	for n := parent.Node(); n != nil && n.Type != kong.ApplicationNode; n = n.Parent {
		path = append(path, n.Name)
	}
	at := f.root
	for _, name := range slices.Backward(path) {
		at, _ = at[name].(map[string]any)
	}
	return at[flag.Name], nil
}
