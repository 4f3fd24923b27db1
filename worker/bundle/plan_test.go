package bundle_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-io/holdfast/worker/bundle"
)

// applied reads "TAG: A B+", where + says SQLite.
func applied(s string) bundle.Applied {
	tag, names, _ := strings.Cut(s, ":")
	a := bundle.Applied{Tag: tag}
	for name := range strings.FieldsSeq(names) {
		bare, sqlite := strings.CutSuffix(name, "+")
		a.Classes = append(a.Classes, bundle.Class{Name: bare, SQLite: sqlite})
	}
	return a
}

func TestPlan(t *testing.T) {
	t.Parallel()
	type migrations = []bundle.Migration
	type lifecycle = []bundle.Lifecycle
	history := migrations{
		{Tag: "v1", NewClasses: []string{"A"}, NewSQLiteClasses: []string{"Old"}},
		{Tag: "v2", RenamedClasses: []bundle.Rename{{From: "A", To: "B"}}},
		{Tag: "v3", DeletedClasses: []string{"Old"}, NewSQLiteClasses: []string{"C"}},
	}
	for name, c := range map[string]struct {
		applied    string
		migrations migrations
		lifecycle  lifecycle
		bound      string
		exports    string
		want       string // changes, and what is applied after them; or errors
	}{
		"a new worker takes all steps": {
			":", history, nil, "B C", "B C",
			"create A, create Old, rename A to B, delete Old, create C; v3: B C+",
		},
		"the next deployment takes the next step": {"v2: B Old+", history, nil, "B C", "B C", "delete Old, create C; v3: B C+"},
		"nothing is done twice":                   {"v3: B C+", history, nil, "B C", "B C", "; v3: B C+"},
		"no migrations: what is bound":            {":", nil, nil, "A", "A", "create A; : A+"},
		"and again":                               {": A+", nil, nil, "A", "A", "; : A+"},
		"migrations taken out":                    {"v1: A", nil, nil, "A", "A", "; v1: A"},
		"migrations taken out, and a new class": {
			"v1: A", nil, nil, "A B", "A B",
			`env.B is bound to the class "B", which no migration creates: add [[migrations]] with a tag of its own and new_sqlite_classes = ["B"]`,
		},
		"migrations after none": {
			": A+",
			migrations{{Tag: "v1", NewClasses: []string{"A"}, NewSQLiteClasses: []string{"B"}}},
			nil, "A", "A B",
			"create B; v1: A+ B+",
		},
		"the applied tag is gone": {
			"v0: A", history, nil, "B", "B C",
			`migrations: there is none with the tag "v0", which is the last that was applied: put it back, later ones go behind it`,
		},
		"created twice in one history": {
			":",
			migrations{{Tag: "v1", NewClasses: []string{"A"}}, {Tag: "v2", NewSQLiteClasses: []string{"A"}}},
			nil, "A", "A",
			`migration "v2": the class "A" is there already`,
		},
		"created and there": {
			"v1: A",
			migrations{{Tag: "v1"}, {Tag: "v2", NewClasses: []string{"A"}}},
			nil, "A", "A",
			`migration "v2": the class "A" is there already`,
		},
		"created under the name of a rename": {
			":",
			migrations{{Tag: "v1", NewClasses: []string{"A"}}, {Tag: "v2", RenamedClasses: []bundle.Rename{{"A", "B"}}, NewClasses: []string{"B"}}},
			nil, "", "B",
			`migration "v2": the class "B" is there already`,
		},
		"steps about nothing": {
			":",
			migrations{{Tag: "v1", DeletedClasses: []string{"X"}, RenamedClasses: []bundle.Rename{{"Y", "Z"}}}},
			nil, "", "",
			`migration "v1": there is no class "X" to delete` + "\n" + `migration "v1": there is no class "Y" to rename`,
		},
		"renamed to what is there": {
			"v1: A B",
			migrations{{Tag: "v1"}, {Tag: "v2", RenamedClasses: []bundle.Rename{{"A", "B"}}}},
			nil, "", "A B",
			`migration "v2": "A" can't be renamed to "B": there is a class of that name`,
		},
		"a name is free at once": {
			"v1: A B",
			migrations{{Tag: "v1"}, {Tag: "v2", DeletedClasses: []string{"B"}, RenamedClasses: []bundle.Rename{{"A", "B"}}, NewSQLiteClasses: []string{"A"}}},
			nil, "", "A B",
			"delete B, rename A to B, create A; v2: A+ B",
		},
		"bound and never created": {
			":",
			migrations{{Tag: "v1", NewClasses: []string{"A"}}},
			nil, "A B", "A B",
			`env.B is bound to the class "B", which no migration creates: add [[migrations]] with a tag of its own and new_sqlite_classes = ["B"]`,
		},
		"there and no longer in the code": {
			"v1: A B",
			migrations{{Tag: "v1"}},
			nil, "", "A",
			`there is a class "B", which the code no longer exports: put it back, or delete it and its objects with a migration's deleted_classes`,
		},
		"exports: a new worker": {
			":", nil,
			lifecycle{{Class: "A", State: bundle.Created}, {Class: "B", State: bundle.Created, SQLite: true}, {Class: "Gone", State: bundle.Deleted}},
			"A", "A B",
			"create A, create B; : A B+",
		},
		"exports: rename, delete, create": {
			"v3: A Gone+", nil,
			lifecycle{
				{Class: "A", State: bundle.Renamed, RenamedTo: "B"},
				{Class: "B", State: bundle.Created},
				{Class: "C", State: bundle.Created, SQLite: true},
				{Class: "Gone", State: bundle.Deleted},
			},
			"B", "A B C",
			"delete Gone, rename A to B, create C; v3: B C+",
		},
		"exports: what is done stays done": {
			": B", nil,
			lifecycle{{Class: "A", State: bundle.Renamed, RenamedTo: "B"}, {Class: "B", State: bundle.Created}, {Class: "Gone", State: bundle.Deleted}},
			"B", "B",
			"; : B",
		},
		"exports: renamed to what is there": {
			": A B", nil,
			lifecycle{{Class: "A", State: bundle.Renamed, RenamedTo: "B"}, {Class: "B", State: bundle.Created}},
			"B", "B",
			`exports: "A" can't be renamed to "B": there is a class of that name`,
		},
		"exports: another storage": {
			": A", nil,
			lifecycle{{Class: "A", State: bundle.Created, SQLite: true}},
			"A", "A",
			`exports: the storage of "A" can't be changed: it was created with legacy-kv`,
		},
		"exports: one is missing": {
			": A B", nil,
			lifecycle{{Class: "A", State: bundle.Created}},
			"A", "A B",
			`exports: the class "B" is there and is not among them: add it, or delete it and its objects with "state": "deleted"`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := &bundle.Bundle{Name: "w", Migrations: c.migrations, Lifecycle: c.lifecycle, Exports: strings.Fields(c.exports)}
			for class := range strings.FieldsSeq(c.bound) {
				b.Classes = append(b.Classes, bundle.Class{Name: class, SQLite: true})
				b.Bindings = append(b.Bindings, bundle.Binding{Name: class, Class: class}, bundle.Binding{Name: "X" + class, Class: "X", Worker: "other"})
			}
			before := applied(c.applied)
			kept := slices.Clone(before.Classes)
			changes, after, err := bundle.Plan(before, b)
			var got string
			if err != nil {
				got = err.Error()
			} else {
				steps := make([]string, len(changes))
				for i, change := range changes {
					steps[i] = change.String()
				}
				got = fmt.Sprintf("%s; %s:", strings.Join(steps, ", "), after.Tag)
				for _, class := range after.Classes {
					got += " " + class.Name
					if class.SQLite {
						got += "+"
					}
				}
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
			if !slices.Equal(kept, before.Classes) {
				t.Error("Plan changed what it was given")
			}
		})
	}
}
