package bundle

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
	"github.com/tailscale/hujson"
)

// Problem is something about a project that its author should know, and where it stands.
type Problem struct {
	File         string // as a reader of the message finds it
	Line, Column int    // from 1; 0 where no place in the file is meant
	Key          string // of the configuration, such as migrations[0].tag; or empty
	Text         string
}

// String is FILE:LINE:COLUMN: KEY: TEXT, less what is empty.
func (p Problem) String() string {
	var b strings.Builder
	b.WriteString(p.File)
	if p.Line > 0 {
		fmt.Fprintf(&b, ":%d:%d", p.Line, p.Column)
	}
	if b.Len() > 0 {
		b.WriteString(": ")
	}
	if p.Key != "" {
		b.WriteString(p.Key + ": ")
	}
	b.WriteString(p.Text)
	return b.String()
}

// ConfigError says everything that is wrong with a configuration.
type ConfigError struct{ Problems []Problem }

func (e *ConfigError) Error() string { return joinProblems(e.Problems) }

func joinProblems(problems []Problem) string {
	lines := make([]string, len(problems))
	for i, p := range problems {
		lines[i] = p.String()
	}
	return strings.Join(lines, "\n")
}

type place struct{ line, column int }

// document is a configuration file as plain values (string, bool, json.Number, nil, []any,
// map[string]any, and TOML's times), with the place of everything in it by its path.
type document struct {
	file   string
	root   map[string]any
	places map[string]place
	twice  []string // paths of keys that stand there more than once; the last one counts
}

// at makes a problem about the path. A path that is not in the file is placed where the nearest
// thing around it is.
func (d *document) at(path, format string, args ...any) Problem {
	p := Problem{File: d.file, Key: path, Text: fmt.Sprintf(format, args...)}
	for near := path; near != ""; near = parent(near) {
		if at, ok := d.places[near]; ok {
			p.Line, p.Column = at.line, at.column
			break
		}
	}
	return p
}

var bareKey = regexp.MustCompile(`^[A-Za-z0-9_$-]+$`)

// child is the path of a key below a path.
func child(path, key string) string {
	if !bareKey.MatchString(key) {
		key = strconv.Quote(key)
	}
	if path == "" {
		return key
	}
	return path + "." + key
}

func item(path string, i int) string { return fmt.Sprintf("%s[%d]", path, i) }

// parent is the path less its last step. It need not be right for a key with dots of its own: such
// keys have places.
func parent(path string) string {
	return path[:max(0, strings.LastIndexAny(path, ".["))]
}

// parseDocument reads a configuration. file is its name, which also says its language.
func parseDocument(file string, raw []byte) (*document, error) {
	d := &document{file: file, places: make(map[string]place)}
	raw = bytes.TrimPrefix(raw, []byte("\xef\xbb\xbf"))
	var err error
	if filepath.Ext(file) == ".toml" {
		err = d.parseTOML(raw)
	} else {
		err = d.parseJSON(raw)
	}
	if err != nil {
		return nil, err
	}
	return d, nil
}

func (d *document) failed(line, column int, text string) error {
	return &ConfigError{Problems: []Problem{{File: d.file, Line: line, Column: column, Text: text}}}
}

func (d *document) parseJSON(raw []byte) error {
	v, err := hujson.Parse(raw)
	if err != nil {
		// hujson says "hujson: line 2, column 8: …".
		text := strings.TrimPrefix(err.Error(), "hujson: ")
		var at place
		if _, scanErr := fmt.Sscanf(text, "line %d, column %d:", &at.line, &at.column); scanErr == nil {
			_, text, _ = strings.Cut(text, ": ")
		}
		return d.failed(at.line, at.column, text)
	}
	value := d.jsonValue("", raw, &v)
	root, ok := value.(map[string]any)
	if !ok {
		return d.failed(1, 1, "the configuration is not an object: { … }")
	}
	d.root = root
	return nil
}

func (d *document) jsonValue(path string, raw []byte, v *hujson.Value) any {
	switch t := v.Value.(type) {
	case *hujson.Object:
		out := make(map[string]any, len(t.Members))
		for i := range t.Members {
			m := &t.Members[i]
			name, _ := m.Name.Value.(hujson.Literal)
			key := name.String()
			below := child(path, key)
			if _, ok := out[key]; ok {
				d.twice = append(d.twice, below)
			}
			d.places[below] = placeOf(raw, m.Name.StartOffset)
			out[key] = d.jsonValue(below, raw, &m.Value)
		}
		return out
	case *hujson.Array:
		out := make([]any, len(t.Elements))
		for i := range t.Elements {
			below := item(path, i)
			d.places[below] = placeOf(raw, t.Elements[i].StartOffset)
			out[i] = d.jsonValue(below, raw, &t.Elements[i])
		}
		return out
	case hujson.Literal:
		switch t.Kind() {
		case '"':
			return t.String()
		case 't', 'f':
			return t.Bool()
		case 'n':
			return nil
		}
		return json.Number(string(t))
	}
	panic(fmt.Sprintf("hujson: a value of type %T", v.Value))
}

func placeOf(raw []byte, offset int) place {
	before := raw[:offset]
	return place{line: bytes.Count(before, []byte("\n")) + 1, column: offset - bytes.LastIndexByte(before, '\n')}
}

func (d *document) parseTOML(raw []byte) error {
	if err := toml.Unmarshal(raw, &d.root); err != nil {
		if at, ok := errors.AsType[*toml.DecodeError](err); ok {
			line, column := at.Position()
			return d.failed(line, column, strings.TrimPrefix(at.Error(), "toml: "))
		}
		return d.failed(0, 0, err.Error())
	}
	d.tomlPlaces(raw)
	return nil
}

// tomlPlaces finds where each key of a file that has been read stands. The package that keeps
// positions is go-toml's parser, which knows nothing of what a table header means: which table a
// [[…]] adds to is counted here.
func (d *document) tomlPlaces(raw []byte) {
	var p unstable.Parser
	p.Reset(raw)
	count := make(map[string]int) // of tables so far in an array of tables, by its path
	table := ""
	for p.NextExpression() {
		e := p.Expression()
		switch e.Kind {
		case unstable.Table, unstable.ArrayTable:
			table = d.tomlKey(&p, "", e.Key(), count)
			if e.Kind == unstable.ArrayTable {
				first := d.places[table]
				count[table]++
				table = item(table, count[table]-1)
				d.places[table] = first
			}
		case unstable.KeyValue:
			d.tomlKeyValue(&p, table, e)
		default: // comments
		}
	}
}

// tomlKey notes the place of each step of a dotted key, and returns the path of the last.
func (d *document) tomlKey(p *unstable.Parser, table string, key unstable.Iterator, count map[string]int) string {
	path := table
	for key.Next() {
		n := key.Node()
		if c := count[path]; c > 0 {
			path = item(path, c-1)
		}
		path = child(path, string(n.Data))
		start := p.Shape(n.Raw).Start
		d.places[path] = place{line: start.Line, column: start.Column}
	}
	return path
}

func (d *document) tomlKeyValue(p *unstable.Parser, table string, e *unstable.Node) {
	d.tomlValue(p, d.tomlKey(p, table, e.Key(), nil), e.Value())
}

func (d *document) tomlValue(p *unstable.Parser, path string, v *unstable.Node) {
	switch v.Kind {
	case unstable.InlineTable:
		for children := v.Children(); children.Next(); {
			d.tomlKeyValue(p, path, children.Node())
		}
	case unstable.Array:
		i := 0
		for children := v.Children(); children.Next(); {
			n := children.Node()
			if n.Kind == unstable.Comment {
				continue
			}
			below := item(path, i)
			if n.Raw.Length > 0 {
				start := p.Shape(n.Raw).Start
				d.places[below] = place{line: start.Line, column: start.Column}
			}
			d.tomlValue(p, below, n)
			i++
		}
	default:
	}
}

// sortProblems puts what stands earlier in the file first.
func sortProblems(problems []Problem) {
	slices.SortStableFunc(problems, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
}
