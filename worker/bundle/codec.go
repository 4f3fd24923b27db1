package bundle

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/fxamacker/cbor/v2"
)

// Limits of a bundle. What encodes to FileBytesMax still fits into one call.
const (
	// CodeBytesMax bounds the code; as much is the limit of a Worker at Cloudflare.
	CodeBytesMax = 10 << 20
	// FileBytesMax bounds a whole bundle, encoded.
	FileBytesMax = 31 << 20

	sourceMapBytesMax = 20 << 20
	varsBytesMax      = 512 << 10 // of names and values together
	textBytesMax      = 1 << 10   // of each other name, tag or flag
	listItemsMax      = 1_000     // of each list but the exports
	exportsMax        = 10_000
)

// magic begins a bundle; its last byte is the version of the format.
const magic = "HFBUNDL\x01"

// The modes are fixed: equal bundles have equal bytes, and each bundle has one encoding.
var (
	encMode = func() cbor.EncMode {
		m, err := cbor.CoreDetEncOptions().EncMode()
		if err != nil {
			panic(err)
		}
		return m
	}()
	decMode = func() cbor.DecMode {
		m, err := cbor.DecOptions{
			DupMapKey: cbor.DupMapKeyEnforcedAPF, IndefLength: cbor.IndefLengthForbidden, TagsMd: cbor.TagsForbidden,
			MaxNestedLevels: 8, MaxArrayElements: exportsMax, MaxMapPairs: 32, ExtraReturnErrors: cbor.ExtraDecErrorUnknownField,
		}.DecMode()
		if err != nil {
			panic(err)
		}
		return m
	}()
)

// ErrFormat says that bytes are no bundle, or one of a format that this program does not know.
var ErrFormat = errors.New("not a bundle")

// Encode returns the bundle as one file of the format in docs/format/bundle.md.
func (b *Bundle) Encode() ([]byte, error) {
	if err := b.check(); err != nil {
		return nil, fmt.Errorf("encode bundle: %w", err)
	}
	body, err := encMode.Marshal(b)
	if err != nil {
		return nil, fmt.Errorf("encode bundle: %w", err)
	}
	if len(magic)+len(body) > FileBytesMax {
		return nil, fmt.Errorf("encode bundle: it has %d bytes, the limit is %d", len(magic)+len(body), FileBytesMax)
	}
	return append([]byte(magic), body...), nil
}

// Decode reads what Encode made. It takes nothing else: bytes that decode are what Encode makes of
// the bundle they decode to, and that bundle is within all limits. Other bytes give an error that
// is ErrFormat or names what is wrong.
func Decode(file []byte) (*Bundle, error) {
	if len(file) > FileBytesMax {
		return nil, fmt.Errorf("decode bundle: it has %d bytes, the limit is %d", len(file), FileBytesMax)
	}
	last := len(magic) - 1
	if len(file) < len(magic) || string(file[:last]) != magic[:last] {
		return nil, fmt.Errorf("decode bundle: %w", ErrFormat)
	}
	if file[last] != magic[last] {
		return nil, fmt.Errorf("decode bundle: its format has version %d, this program knows %d: %w", file[last], magic[last], ErrFormat)
	}
	body := file[len(magic):]
	b := new(Bundle)
	if err := decMode.Unmarshal(body, b); err != nil {
		return nil, fmt.Errorf("decode bundle: %w: %w", ErrFormat, err)
	}
	if err := b.check(); err != nil {
		return nil, fmt.Errorf("decode bundle: %w", err)
	}
	again, err := encMode.Marshal(b)
	if err != nil || !bytes.Equal(again, body) {
		return nil, fmt.Errorf("decode bundle: its encoding is not the one that it should have: %w", ErrFormat)
	}
	return b, nil
}

// Hash names the content of an encoded bundle: its SHA-256, in hex.
func Hash(file []byte) string {
	sum := sha256.Sum256(file)
	return hex.EncodeToString(sum[:])
}

// check says what is wrong with the bundle, which may come from anywhere.
func (b *Bundle) check() error {
	for _, c := range []func() error{b.checkCode, b.checkClasses, b.checkEnv, b.checkLifecycle} {
		if err := c(); err != nil {
			return err
		}
	}
	if b.CompatibilityDate != "" && !dateForm.MatchString(b.CompatibilityDate) {
		return fmt.Errorf("compatibility date: %q is not YYYY-MM-DD", b.CompatibilityDate)
	}
	return checkList("compatibility flags", b.CompatibilityFlags, listItemsMax, func(f string) string { return f })
}

func (b *Bundle) checkCode() error {
	switch {
	case !workerName.MatchString(b.Name) || len(b.Name) > nameBytesMax:
		return fmt.Errorf("name: %.*q is no name for a worker", nameBytesMax, b.Name)
	case len(b.Code) == 0:
		return errors.New("code: there is none")
	case len(b.Code) > CodeBytesMax:
		return fmt.Errorf("code: %d bytes, the limit is %d", len(b.Code), CodeBytesMax)
	case len(b.SourceMap) > sourceMapBytesMax:
		return fmt.Errorf("source map: %d bytes, the limit is %d", len(b.SourceMap), sourceMapBytesMax)
	}
	if err := checkSorted("exports", b.Exports, exportsMax, func(e string) string { return e }); err != nil {
		return err
	}
	return checkSorted("modules", b.Modules, listItemsMax, func(m string) string { return m })
}

func (b *Bundle) checkClasses() error {
	if err := checkSorted("classes", b.Classes, listItemsMax, func(c Class) string { return c.Name }); err != nil {
		return err
	}
	for _, c := range b.Classes {
		if err := classError("classes", c.Name); err != nil {
			return err
		}
		if _, ok := slices.BinarySearch(b.Exports, c.Name); !ok {
			return fmt.Errorf("classes: the code does not export %q", c.Name)
		}
	}
	return nil
}

// HasClass says whether the worker has a Durable Object class of the name.
func (b *Bundle) HasClass(name string) bool {
	_, ok := slices.BinarySearchFunc(b.Classes, name, func(c Class, name string) int { return strings.Compare(c.Name, name) })
	return ok
}

func classError(field, name string) error {
	if !isIdentifier(name) || name == "default" || len(name) > nameBytesMax {
		return fmt.Errorf("%s: %.*q is no name for a class", field, nameBytesMax, name)
	}
	return nil
}

func (b *Bundle) checkEnv() error {
	if err := checkList("bindings", b.Bindings, listItemsMax, func(b Binding) string { return b.Name }); err != nil {
		return err
	}
	if err := checkSorted("vars", b.Vars, listItemsMax, func(v Var) string { return v.Name }); err != nil {
		return err
	}
	seen := make(map[string]bool)
	size := 0
	for _, v := range b.Vars {
		if !json.Valid(v.Value) {
			return fmt.Errorf("vars: the value of %q is not JSON", v.Name)
		}
		size += len(v.Name) + len(v.Value)
		seen[v.Name] = true
	}
	if size > varsBytesMax {
		return fmt.Errorf("vars: %d bytes together, the limit is %d", size, varsBytesMax)
	}
	for _, d := range b.Bindings {
		if err := classError("bindings", d.Class); err != nil {
			return err
		}
		switch {
		case seen[d.Name]:
			return fmt.Errorf("bindings: env has two things of the name %q", d.Name)
		case d.Worker == "" && !b.HasClass(d.Class):
			return fmt.Errorf("bindings: %q is bound to the class %q, which the worker does not have", d.Name, d.Class)
		case d.Worker != "" && d.Worker != GoWorker && (!workerName.MatchString(d.Worker) || len(d.Worker) > nameBytesMax || d.Worker == b.Name):
			return fmt.Errorf("bindings: %q: %.*q is no name of another worker", d.Name, nameBytesMax, d.Worker)
		}
		seen[d.Name] = true
	}
	return nil
}

func (b *Bundle) checkLifecycle() error {
	if len(b.Migrations) > 0 && len(b.Lifecycle) > 0 {
		return errors.New("migrations: there is a declared lifecycle too")
	}
	if err := checkList("migrations", b.Migrations, listItemsMax, func(m Migration) string { return m.Tag }); err != nil {
		return err
	}
	tags := make(map[string]bool)
	for _, m := range b.Migrations {
		if tags[m.Tag] {
			return fmt.Errorf("migrations: two have the tag %q", m.Tag)
		}
		tags[m.Tag] = true
		names := slices.Concat(m.NewClasses, m.NewSQLiteClasses, m.DeletedClasses)
		for _, r := range m.RenamedClasses {
			names = append(names, r.From, r.To)
		}
		if len(names) > listItemsMax {
			return fmt.Errorf("migrations: %q names %d classes, the limit is %d", m.Tag, len(names), listItemsMax)
		}
		for _, name := range names {
			if err := classError("migrations", name); err != nil {
				return err
			}
		}
	}
	if err := checkSorted("lifecycle", b.Lifecycle, listItemsMax, func(l Lifecycle) string { return l.Class }); err != nil {
		return err
	}
	for _, l := range b.Lifecycle {
		if err := classError("lifecycle", l.Class); err != nil {
			return err
		}
		if err := l.check(b); err != nil {
			return err
		}
	}
	return nil
}

func (l Lifecycle) check(b *Bundle) error {
	switch l.State {
	case Created, Deleted, Renamed:
	default:
		return fmt.Errorf("lifecycle: %.*q is no state", nameBytesMax, l.State)
	}
	switch {
	case l.State != Renamed && l.RenamedTo != "" || l.State != Created && l.SQLite:
		return fmt.Errorf("lifecycle: %q says more than its state %q needs", l.Class, l.State)
	case l.State == Created && !b.HasClass(l.Class), l.State == Renamed && !b.HasClass(l.RenamedTo):
		return fmt.Errorf("lifecycle: the worker does not have the class that %q is to be", l.Class)
	case l.State != Created && b.HasClass(l.Class):
		return fmt.Errorf("lifecycle: %q is %s, and the worker has it", l.Class, l.State)
	}
	return nil
}

// checkList checks the names of what is in a list: how many, and how long.
func checkList[T any](field string, list []T, itemsMax int, name func(T) string) error {
	if len(list) > itemsMax {
		return fmt.Errorf("%s: %d, the limit is %d", field, len(list), itemsMax)
	}
	for _, item := range list {
		if n := len(name(item)); n == 0 || n > textBytesMax {
			return fmt.Errorf("%s: a name has %d bytes, from 1 to %d are allowed", field, n, textBytesMax)
		}
	}
	return nil
}

// checkSorted checks a list whose order is that of its names, each of which is there once.
func checkSorted[T any](field string, list []T, itemsMax int, name func(T) string) error {
	if err := checkList(field, list, itemsMax, name); err != nil {
		return err
	}
	for i := 1; i < len(list); i++ {
		if name(list[i-1]) >= name(list[i]) {
			return fmt.Errorf("%s: %q is out of order, or there twice", field, name(list[i]))
		}
	}
	return nil
}

var (
	workerName = regexp.MustCompile(`^[a-z0-9_][a-z0-9_-]*$`)
	dateForm   = regexp.MustCompile(`^[0-9]{4}-[0-9]{2}-[0-9]{2}$`)
)

// nameBytesMax bounds the names of workers and classes, which are part of every key of an object.
const nameBytesMax = 100
