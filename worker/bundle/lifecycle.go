package bundle

import (
	"maps"
	"slices"
	"strings"
)

// readLifecycle reads migrations, or exports.
func (c *Config) readLifecycle(r *reader, v *view) {
	migrations, hasMigrations := v.get("migrations")
	exports, hasExports := v.get("exports")
	if hasMigrations && hasExports {
		r.failf(exports.path, `stands beside "migrations": a worker has one or the other`)
		return
	}
	if hasMigrations {
		c.readMigrations(r, migrations)
	}
	if hasExports {
		c.readExports(r, exports)
	}
}

func (c *Config) readMigrations(r *reader, n node) {
	tags := make(map[string]bool)
	for _, m := range r.items(n) {
		f := r.object(m, "tag", "new_classes", "new_sqlite_classes", "renamed_classes", "deleted_classes", "transferred_classes")
		out := Migration{
			Tag:              r.required(m.path, f, "tag"),
			NewClasses:       classNames(r, f["new_classes"]),
			NewSQLiteClasses: classNames(r, f["new_sqlite_classes"]),
			DeletedClasses:   classNames(r, f["deleted_classes"]),
		}
		if tags[out.Tag] && out.Tag != "" {
			r.failf(f["tag"].path, "%q is the tag of an earlier migration too: each needs one of its own", out.Tag)
		}
		tags[out.Tag] = true
		if t, ok := f["transferred_classes"]; ok && len(r.items(t)) > 0 {
			r.failf(t.path, "classes can't be transferred between workers here")
		}
		if renamed, ok := f["renamed_classes"]; ok {
			for _, i := range r.items(renamed) {
				f := r.object(i, "from", "to")
				rename := Rename{From: r.required(i.path, f, "from"), To: r.required(i.path, f, "to")}
				checkClassName(r, f["from"].path, rename.From)
				checkClassName(r, f["to"].path, rename.To)
				out.RenamedClasses = append(out.RenamedClasses, rename)
			}
		}
		c.Migrations = append(c.Migrations, out)
		c.noteClasses(m.path, out)
	}
}

// noteClasses notes where the configuration makes and unmakes classes.
func (c *Config) noteClasses(path string, m Migration) {
	for class := range liveClasses([]Migration{m}) {
		if _, ok := c.classPlaces[class]; !ok {
			c.classPlaces[class] = path
		}
	}
}

func classNames(r *reader, n node) []string {
	names := r.texts(n)
	for i, name := range names {
		checkClassName(r, item(n.path, i), name)
	}
	return names
}

func (c *Config) readExports(r *reader, n node) {
	fields := r.fields(n)
	for _, class := range slices.Sorted(maps.Keys(fields)) {
		e := fields[class]
		f := r.object(e, "type", "state", "storage", "renamed_to", "transferred_to", "transfer_from", "container")
		if kind := r.required(e.path, f, "type"); kind != "durable-object" {
			r.warnf(e.path, "exports of the type %q are not supported, ignored", kind)
			continue
		}
		checkClassName(r, e.path, class)
		out := Lifecycle{Class: class, State: Created}
		if s, ok := f["state"]; ok {
			out.State = State(r.text(s))
		}
		if t, ok := f["container"]; ok {
			r.warnf(t.path, "%s", unsupported["containers"])
		}
		c.checkExport(r, e.path, f, &out)
		c.Lifecycle = append(c.Lifecycle, out)
	}
	for _, l := range c.Lifecycle {
		if l.State == Renamed && !slices.ContainsFunc(c.Lifecycle, func(o Lifecycle) bool { return o.Class == l.RenamedTo && o.State == Created }) {
			r.failf(child(n.path, l.Class), "is renamed to %q, which must be an export of its own: { \"type\": \"durable-object\", \"storage\": \"sqlite\" }", l.RenamedTo)
		}
	}
}

func (c *Config) checkExport(r *reader, path string, f map[string]node, l *Lifecycle) {
	only := func(state, field string) {
		if n, ok := f[field]; ok && string(l.State) != state {
			r.failf(n.path, "belongs to the state %q, and this is %q", state, l.State)
		}
	}
	only(string(Renamed), "renamed_to")
	only(string(Created), "storage")
	switch l.State {
	case Created:
		switch storage := r.required(path, f, "storage"); storage {
		case "sqlite":
			l.SQLite = true
		case "legacy-kv", "":
		default:
			r.failf(f["storage"].path, `must be "sqlite" or "legacy-kv", and is %q`, storage)
		}
		if _, ok := c.classPlaces[l.Class]; !ok {
			c.classPlaces[l.Class] = path
		}
	case Renamed:
		l.RenamedTo = r.required(path, f, "renamed_to")
		checkClassName(r, f["renamed_to"].path, l.RenamedTo)
	case Deleted:
	case "transferred", "expecting-transfer":
		r.failf(f["state"].path, "classes can't be transferred between workers here")
	default:
		r.failf(f["state"].path, "%q is no state: there are %q, %q and %q", l.State, Created, Deleted, Renamed)
	}
}

// liveClasses are the classes that a history leaves, and whether each has SQLite storage. A history
// whose beginning has been dropped is taken as it is: whether its steps are possible is Plan's
// question.
func liveClasses(history []Migration) map[string]bool {
	live := make(map[string]bool)
	for _, m := range history {
		for _, class := range m.DeletedClasses {
			delete(live, class)
		}
		for _, rename := range m.RenamedClasses {
			live[rename.To] = live[rename.From]
			delete(live, rename.From)
		}
		for _, class := range m.NewClasses {
			live[class] = false
		}
		for _, class := range m.NewSQLiteClasses {
			live[class] = true
		}
	}
	return live
}

// declared are the classes that the configuration says there are, and whether each has SQLite
// storage.
func (c *Config) declared() map[string]bool {
	live := liveClasses(c.Migrations)
	for _, l := range c.Lifecycle {
		if l.State == Created {
			live[l.Class] = l.SQLite
		}
	}
	return live
}

// classes are the Durable Object classes that the worker has, sorted: those that are declared, and
// those that are bound.
func (c *Config) classes() []Class {
	live := c.declared()
	for _, b := range c.Bindings {
		if _, ok := live[b.Class]; b.Worker == "" && !ok {
			live[b.Class] = true
		}
	}
	out := make([]Class, 0, len(live))
	for name, sqlite := range live {
		out = append(out, Class{Name: name, SQLite: sqlite})
	}
	slices.SortFunc(out, func(a, b Class) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// checkBound refuses bindings to classes that the configuration has deleted, has renamed, or, where
// it declares classes at all, does not declare.
func (c *Config) checkBound(r *reader) {
	live := c.declared()
	for _, b := range c.Bindings {
		if _, ok := live[b.Class]; ok || b.Worker != "" || b.Class == "" {
			continue
		}
		path := c.classPlaces[b.Class]
		switch {
		case c.ends(b.Class):
			r.failf(path, "class %q is deleted or renamed by this configuration: nothing can be bound to it", b.Class)
		case len(c.Lifecycle) > 0:
			r.failf(path, "class %q is not among the exports: add it to \"exports\", { \"type\": \"durable-object\", \"storage\": \"sqlite\" }", b.Class)
		case len(c.Migrations) == 0:
			r.warnf(path, "class %q is in no migration: it is created all the same. Better say so: %s", b.Class, migrationFor(b.Class))
		}
	}
}

// migrationFor is what to write to create a class, in TOML.
func migrationFor(class string) string {
	return `[[migrations]] with a tag of its own and new_sqlite_classes = ["` + class + `"]`
}

// ends says whether the configuration deletes the class or takes its name away.
func (c *Config) ends(class string) bool {
	for _, m := range c.Migrations {
		if slices.Contains(m.DeletedClasses, class) || slices.ContainsFunc(m.RenamedClasses, func(r Rename) bool { return r.From == class }) {
			return true
		}
	}
	return slices.ContainsFunc(c.Lifecycle, func(l Lifecycle) bool { return l.Class == class && l.State != Created })
}
