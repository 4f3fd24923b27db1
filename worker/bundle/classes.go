package bundle

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/evanw/esbuild/pkg/api"
)

// Bounds of the search for a class that main does not export.
const (
	searchFilesMax = 10_000
	searchBytesMax = 1 << 20 // of one file
)

// wrapper returns the code of an entry that exports what main exports, and the classes that main
// should and does not; empty when main exports them all. It is what makes a project run whose main
// forgot to: Cloudflare's own counter example is one.
func (b *builder) wrapper(exports []string) (string, error) {
	var missing []string
	for _, class := range b.config.classes() {
		if !slices.Contains(exports, class.Name) {
			missing = append(missing, class.Name)
		}
	}
	if len(missing) == 0 {
		return "", nil
	}
	found, broken, err := findExports(b.config.Dir, b.config.Main, missing)
	if err != nil {
		return "", err
	}
	if len(broken) > 0 && slices.ContainsFunc(missing, func(class string) bool { return len(found[class]) == 0 }) {
		return "", &BuildError{Messages: format(broken, api.ErrorMessage)}
	}
	var problems []Problem
	var code strings.Builder
	main := quoteJS("./" + b.config.Main)
	fmt.Fprintf(&code, "export * from %s;\n", main)
	if slices.Contains(exports, "default") {
		fmt.Fprintf(&code, "export { default } from %s;\n", main)
	}
	for _, class := range missing {
		files := found[class]
		if len(files) != 1 {
			problems = append(problems, b.notExported(class, files))
			continue
		}
		fmt.Fprintf(&code, "export { %s } from %s;\n", class, quoteJS("./"+files[0]))
	}
	if len(problems) > 0 {
		sortProblems(problems)
		return "", &ConfigError{Problems: problems}
	}
	return code.String(), nil
}

// checkDeleted refuses to delete a class that the code still has: that is more likely a mistake than
// meant, and deletes data.
func (b *builder) checkDeleted(exports []string) error {
	var problems []Problem
	for _, l := range b.config.Lifecycle {
		if l.State == Deleted && slices.Contains(exports, l.Class) {
			problems = append(problems, b.config.doc.at(child("exports", l.Class), "%s still exports the class that is to be deleted with all its objects: take it out of the code first", b.config.Main))
		}
	}
	if len(problems) > 0 {
		return &ConfigError{Problems: problems}
	}
	return nil
}

func (b *builder) notExported(class string, files []string) Problem {
	main := b.config.Main
	place := b.config.classPlaces[class]
	if len(files) == 0 {
		return b.config.doc.at(place, "%s does not export a class %q, nor does another file of the project: add to %s: export class %s extends DurableObject { … }",
			main, class, main, class)
	}
	lines := make([]string, len(files))
	for i, f := range files {
		lines[i] = exportLine(main, class, f)
	}
	return b.config.doc.at(place, "%s does not export %q, and %s all do: add to %s the one of these lines that is meant: %s",
		main, class, strings.Join(files, ", "), main, strings.Join(lines, " or "))
}

// exportLine is what main must have to export the class from the file.
func exportLine(main, class, file string) string {
	rel, err := filepath.Rel(filepath.FromSlash(path.Dir(main)), filepath.FromSlash(file))
	if err != nil {
		rel = file
	}
	rel = strings.TrimSuffix(filepath.ToSlash(rel), path.Ext(file))
	if !strings.HasPrefix(rel, ".") {
		rel = "./" + rel
	}
	return fmt.Sprintf("export { %s } from %s;", class, quoteJS(rel))
}

var (
	codeFile = regexp.MustCompile(`\.[cm]?[jt]sx?$`)
	// notSource are files that have copies, descriptions or tests of the code.
	notSource = regexp.MustCompile(`\.d\.[cm]?ts$|\.(test|spec)\.[cm]?[jt]sx?$`)
	// notSources are folders of the same.
	notSources = []string{"node_modules", "dist", "build", "out", "coverage", "test", "tests", "__tests__"}
)

// findExports returns, for each name, the files of the project other than main that export it, by
// their slashed paths, sorted; and what is wrong with those that have a name in them and are no valid code.
func findExports(dir, main string, names []string) (found map[string][]string, broken []api.Message, err error) {
	found = make(map[string][]string)
	files := 0
	err = fs.WalkDir(os.DirFS(dir), ".", func(p string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir():
			if p != "." && (strings.HasPrefix(d.Name(), ".") || slices.Contains(notSources, d.Name())) {
				return fs.SkipDir
			}
			return nil
		case !d.Type().IsRegular() || p == main || !codeFile.MatchString(p) || notSource.MatchString(p):
			return nil
		}
		if files++; files > searchFilesMax {
			return fmt.Errorf("%s has more than %d files", dir, searchFilesMax)
		}
		exports, wrong, err := exportsOf(dir, p, names)
		broken = append(broken, wrong...)
		for _, name := range exports {
			found[name] = append(found[name], p)
		}
		return err
	})
	if err != nil {
		return nil, nil, fmt.Errorf("look for classes that %s does not export (%s): %w", main, strings.Join(names, ", "), err)
	}
	return found, broken, nil
}

// exportsOf returns those of the names that a file exports, by its slashed path in dir, or what is wrong with
// it when it has one in it and is no valid code.
func exportsOf(dir, p string, names []string) (exports []string, wrong []api.Message, err error) {
	file := filepath.Join(dir, filepath.FromSlash(p))
	info, err := os.Stat(file)
	if errors.Is(err, fs.ErrNotExist) || err == nil && info.Size() > searchBytesMax {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, err
	}
	raw, err := os.ReadFile(file)
	if err != nil {
		return nil, nil, err
	}
	if !slices.ContainsFunc(names, func(name string) bool { return bytes.Contains(raw, []byte(name)) }) {
		return nil, nil, nil
	}
	result := api.Build(api.BuildOptions{
		EntryPoints: []string{file}, AbsWorkingDir: dir, Outfile: MainModule, Metafile: true,
		Format: api.FormatESModule, LogLevel: api.LogLevelSilent, Target: api.ESNext,
		Loader: loaders,
	})
	if len(result.Errors) > 0 {
		return nil, result.Errors, nil
	}
	var out output
	if err := out.readMeta(result.Metafile, dir); err != nil {
		return nil, nil, err
	}
	return slices.DeleteFunc(out.exports, func(name string) bool { return !slices.Contains(names, name) }), nil, nil
}
