package bundle

import (
	"fmt"
	"regexp"
	"strconv"

	"github.com/go-sourcemap/sourcemap"
)

// Mapper finds the places in a project's files that places in its bundle come from. It is safe for
// concurrent use. It takes about 24 bytes of memory for each byte or two of the map: keep one for a
// bundle.
type Mapper struct{ consumer *sourcemap.Consumer }

// NewMapper reads a bundle's source map. A bundle without one has a Mapper that changes nothing.
func NewMapper(sourceMap []byte) (m *Mapper, err error) {
	if len(sourceMap) == 0 {
		return &Mapper{}, nil
	}
	// A map may come from anybody who can deploy, and the package panics at some that are wrong.
	defer func() {
		if r := recover(); r != nil {
			m, err = nil, fmt.Errorf("read source map: %v", r)
		}
	}()
	consumer, err := sourcemap.Parse("", sourceMap)
	if err != nil {
		return nil, fmt.Errorf("read source map: %w", err)
	}
	return &Mapper{consumer: consumer}, nil
}

// inBundle is a place in the bundle as the lines of a stack have it: at f (worker.js:12:34).
var inBundle = regexp.MustCompile(`(^|[\s(])` + regexp.QuoteMeta(MainModule) + `:([0-9]{1,9})(?::([0-9]{1,9}))?`)

// MapStack returns the stack with places in the project's files, such as src/room.ts:6:10, instead
// of places in MainModule. What it can't map stays as it is.
func (m *Mapper) MapStack(stack string) string {
	if m.consumer == nil {
		return stack
	}
	return inBundle.ReplaceAllStringFunc(stack, func(found string) string {
		parts := inBundle.FindStringSubmatch(found)
		line, _ := strconv.Atoi(parts[2])
		column, _ := strconv.Atoi(parts[3]) // 0 where there is none
		file, at, ok := m.lookUp(line, max(column, 1))
		if !ok {
			return found
		}
		return fmt.Sprintf("%s%s:%d:%d", parts[1], file, at.line, at.column)
	})
}

// lookUp maps a place. Both count columns from 1, and source maps from 0.
func (m *Mapper) lookUp(line, column int) (file string, at place, ok bool) {
	defer func() {
		if recover() != nil { // the map names a file that it does not list
			ok = false
		}
	}()
	file, _, sourceLine, sourceColumn, ok := m.consumer.Source(line, column-1)
	return file, place{line: sourceLine, column: sourceColumn + 1}, ok && file != ""
}
