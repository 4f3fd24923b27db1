package bundle

import (
	"encoding/json"
	"math"
	"slices"
	"time"

	"github.com/pelletier/go-toml/v2"
)

// node is a value of a document and its path.
type node struct {
	path  string
	value any
}

// reader takes values out of a document, and keeps what is wrong with them: all of it is told at
// once. What can't be read is its type's zero value.
type reader struct {
	doc      *document
	errs     []Problem
	warnings []Problem
}

func (r *reader) failf(path, format string, args ...any) {
	r.errs = append(r.errs, r.doc.at(path, format, args...))
}

func (r *reader) warnf(path, format string, args ...any) {
	r.warnings = append(r.warnings, r.doc.at(path, format, args...))
}

func (r *reader) wrongType(n node, want string) {
	switch n.value.(type) {
	case time.Time, toml.LocalDate, toml.LocalDateTime, toml.LocalTime:
		r.failf(n.path, "must be %s, and is a TOML date: put it in quotes", want)
	default:
		r.failf(n.path, "must be %s, and is %s", want, kindOf(n.value))
	}
}

func kindOf(v any) string {
	switch v.(type) {
	case nil:
		return "null"
	case string:
		return "a string"
	case bool:
		return "a boolean"
	case []any:
		return "an array"
	case map[string]any:
		return "an object"
	}
	return "a number"
}

// fields returns what an object has, by name.
func (r *reader) fields(n node) map[string]node {
	m, ok := n.value.(map[string]any)
	if !ok {
		r.wrongType(n, "an object")
		return nil
	}
	out := make(map[string]node, len(m))
	for key, v := range m {
		out[key] = node{path: child(n.path, key), value: v}
	}
	return out
}

// object returns what an object has, and warns of what is not among the names.
func (r *reader) object(n node, names ...string) map[string]node {
	fields := r.fields(n)
	for name, field := range fields {
		if !slices.Contains(names, name) {
			r.warnf(field.path, "unknown, ignored")
		}
	}
	return fields
}

func (r *reader) items(n node) []node {
	list, ok := n.value.([]any)
	if !ok {
		r.wrongType(n, "an array")
		return nil
	}
	out := make([]node, len(list))
	for i, v := range list {
		out[i] = node{path: item(n.path, i), value: v}
	}
	return out
}

// text returns a string; the one of a field that is missing is empty.
func (r *reader) text(n node) string {
	if n.path == "" {
		return ""
	}
	s, ok := n.value.(string)
	if !ok {
		r.wrongType(n, "a string")
	}
	return s
}

// required returns the string of a field that the object at the path must have.
func (r *reader) required(path string, fields map[string]node, name string) string {
	n, ok := fields[name]
	if !ok {
		r.failf(path, "%q is missing", name)
		return ""
	}
	s := r.text(n)
	if s == "" && n.value == "" {
		r.failf(n.path, "must not be empty")
	}
	return s
}

func (r *reader) flag(n node) bool {
	b, ok := n.value.(bool)
	if !ok {
		r.wrongType(n, "true or false")
	}
	return b
}

func (r *reader) texts(n node) []string {
	if n.path == "" {
		return nil
	}
	items := r.items(n)
	out := make([]string, 0, len(items))
	for _, i := range items {
		out = append(out, r.text(i))
	}
	return out
}

// json returns a value as JSON text.
func (r *reader) json(n node) json.RawMessage {
	if !r.jsonable(n) {
		return nil
	}
	raw, err := json.Marshal(n.value)
	if err != nil {
		r.failf(n.path, "can't be written as JSON: %v", err)
		return nil
	}
	return raw
}

// jsonable refuses what TOML has and JSON has not.
func (r *reader) jsonable(n node) bool {
	switch v := n.value.(type) {
	case time.Time, toml.LocalDate, toml.LocalDateTime, toml.LocalTime:
		r.failf(n.path, "is a TOML date, which a worker can't be given: put it in quotes")
		return false
	case float64:
		if math.IsInf(v, 0) || math.IsNaN(v) {
			r.failf(n.path, "is %v, which JSON has no number for", v)
			return false
		}
	case []any:
		for _, i := range r.items(n) {
			if !r.jsonable(i) {
				return false
			}
		}
	case map[string]any:
		for _, f := range r.fields(n) {
			if !r.jsonable(f) {
				return false
			}
		}
	}
	return true
}
