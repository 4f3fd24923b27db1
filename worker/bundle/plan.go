package bundle

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Applied is what a cluster has of a worker's classes: what its deployments have made of them.
type Applied struct {
	// Tag is that of the last migration that was applied; empty before the first.
	Tag string
	// Classes are there, by their present names, sorted.
	Classes []Class
}

// ChangeKind is what happens to a class.
type ChangeKind int

// The kinds of changes.
const (
	CreateClass ChangeKind = iota + 1
	RenameClass            // it keeps its objects, and its unique key
	DeleteClass            // and all its objects, for good
)

// Change is one step of a deployment's changes to the classes of a worker.
type Change struct {
	Kind  ChangeKind
	Class Class  // as it is before the change
	To    string // the new name, for RenameClass
}

// String says what the change does.
func (c Change) String() string {
	switch c.Kind {
	case CreateClass:
		return "create " + c.Class.Name
	case RenameClass:
		return "rename " + c.Class.Name + " to " + c.To
	case DeleteClass:
		return "delete " + c.Class.Name
	}
	return fmt.Sprintf("change %d of %s", c.Kind, c.Class.Name)
}

// Plan says what deploying the bundle does to the classes of its worker, in order, and what the
// cluster has after that. It is pure. A deployment that can't be is refused with all that is wrong
// with it, as wrangler and Cloudflare refuse it: a history that lacks the tag that was applied
// last, a step about a class that is not there or is there already, a class that is bound and not
// there, and a class that is there and that the code does not export.
//
// In one thing they are more lenient, and so is this: a worker that has no migrations and no
// exports has the classes that it binds, as in wrangler dev. A later history that begins with
// creating them finds them created.
func Plan(applied Applied, b *Bundle) ([]Change, Applied, error) {
	p := &planner{bundle: b, tag: applied.Tag, classes: make(map[string]Class)}
	for _, c := range applied.Classes {
		p.classes[c.Name] = c
	}
	switch {
	case len(b.Lifecycle) > 0:
		p.declare()
	case len(b.Migrations) > 0:
		p.migrate()
	case applied.Tag == "":
		for _, c := range b.Classes {
			if _, ok := p.classes[c.Name]; !ok {
				p.create(c)
			}
		}
	}
	p.checkCode()
	if err := errors.Join(p.errs...); err != nil {
		return nil, applied, err
	}
	after := Applied{Tag: p.tag, Classes: slices.Collect(maps.Values(p.classes))}
	slices.SortFunc(after.Classes, func(a, b Class) int { return strings.Compare(a.Name, b.Name) })
	return p.changes, after, nil
}

type planner struct {
	bundle  *Bundle
	tag     string
	classes map[string]Class // as they are after the changes so far
	changes []Change
	errs    []error
}

func (p *planner) failf(format string, args ...any) {
	p.errs = append(p.errs, fmt.Errorf(format, args...))
}

func (p *planner) create(c Class) {
	p.classes[c.Name] = c
	p.changes = append(p.changes, Change{Kind: CreateClass, Class: c})
}

func (p *planner) rename(from, to string) {
	c := p.classes[from]
	delete(p.classes, from)
	p.classes[to] = Class{Name: to, SQLite: c.SQLite}
	p.changes = append(p.changes, Change{Kind: RenameClass, Class: c, To: to})
}

func (p *planner) remove(name string) {
	p.changes = append(p.changes, Change{Kind: DeleteClass, Class: p.classes[name]})
	delete(p.classes, name)
}

func (p *planner) has(name string) bool {
	_, ok := p.classes[name]
	return ok
}

// migrate takes the steps behind the one that was taken last.
func (p *planner) migrate() {
	steps := p.bundle.Migrations
	first := p.tag == ""
	if !first {
		i := slices.IndexFunc(steps, func(m Migration) bool { return m.Tag == p.tag })
		if i < 0 {
			p.failf("migrations: there is none with the tag %q, which is the last that was applied: put it back, later ones go behind it", p.tag)
			return
		}
		steps = steps[i+1:]
	}
	for _, m := range steps {
		p.step(m, first)
		p.tag = m.Tag
	}
}

// step takes one migration: what it deletes and renames is there before it, so its new classes may
// have their names.
func (p *planner) step(m Migration, first bool) {
	for _, name := range m.DeletedClasses {
		if !p.has(name) {
			p.failf("migration %q: there is no class %q to delete", m.Tag, name)
			continue
		}
		p.remove(name)
	}
	for _, r := range m.RenamedClasses {
		switch {
		case !p.has(r.From):
			p.failf("migration %q: there is no class %q to rename", m.Tag, r.From)
		case p.has(r.To):
			p.failf("migration %q: %q can't be renamed to %q: there is a class of that name", m.Tag, r.From, r.To)
		default:
			p.rename(r.From, r.To)
		}
	}
	for _, name := range m.NewClasses {
		p.stepCreate(m.Tag, Class{Name: name}, first)
	}
	for _, name := range m.NewSQLiteClasses {
		p.stepCreate(m.Tag, Class{Name: name, SQLite: true}, first)
	}
}

func (p *planner) stepCreate(tag string, c Class, first bool) {
	made := slices.ContainsFunc(p.changes, func(done Change) bool { return done.Class.Name == c.Name || done.To == c.Name })
	switch {
	case !p.has(c.Name):
		p.create(c)
	case first && !made: // there since before the worker had migrations
	default:
		p.failf("migration %q: the class %q is there already", tag, c.Name)
	}
}

// declare makes the classes what "exports" says.
func (p *planner) declare() {
	declared := make(map[string]bool)
	for _, l := range p.bundle.Lifecycle {
		declared[l.Class] = true
		if l.State == Deleted && p.has(l.Class) {
			p.remove(l.Class)
		}
	}
	for _, l := range p.bundle.Lifecycle {
		switch {
		case l.State != Renamed || !p.has(l.Class): // done by an earlier deployment
		case p.has(l.RenamedTo):
			p.failf("exports: %q can't be renamed to %q: there is a class of that name", l.Class, l.RenamedTo)
		default:
			p.rename(l.Class, l.RenamedTo)
		}
	}
	for _, l := range p.bundle.Lifecycle {
		if l.State != Created {
			continue
		}
		if c, ok := p.classes[l.Class]; !ok {
			p.create(Class{Name: l.Class, SQLite: l.SQLite})
		} else if c.SQLite != l.SQLite {
			p.failf("exports: the storage of %q can't be changed: it was created with %s", l.Class, storageName(c.SQLite))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(p.classes)) {
		if !declared[name] {
			p.failf(`exports: the class %q is there and is not among them: add it, or delete it and its objects with "state": "deleted"`, name)
		}
	}
}

func storageName(sqlite bool) string {
	if sqlite {
		return "sqlite"
	}
	return "legacy-kv"
}

// checkCode refuses what would leave a binding without a class, or a class without code.
func (p *planner) checkCode() {
	if len(p.errs) > 0 {
		return // they would be blamed for what is wrong above
	}
	for _, b := range p.bundle.Bindings {
		if b.Worker == "" && !p.has(b.Class) {
			p.failf("env.%s is bound to the class %q, which no migration creates: add %s", b.Name, b.Class, migrationFor(b.Class))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(p.classes)) {
		if _, ok := slices.BinarySearch(p.bundle.Exports, name); !ok {
			p.failf("there is a class %q, which the code no longer exports: put it back, or delete it and its objects with a migration's deleted_classes", name)
		}
	}
}
