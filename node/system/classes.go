package system

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/holdfast-io/holdfast/actor"
	"github.com/holdfast-io/holdfast/fault"
	systemv1 "github.com/holdfast-io/holdfast/proto/holdfast/system/v1"
)

// ChangeClasses implements systemv1.SystemServer. Nothing is written unless every change can be made, each
// after those before it.
func (o *object) ChangeClasses(_ context.Context, req *systemv1.ChangeClassesRequest) (*systemv1.FactsResponse, error) {
	f, err := o.load()
	if err != nil {
		return nil, err
	}
	if f.FeatureLevel < LevelClassChanges {
		return nil, fault.New(fault.InvalidArgument, "changes: the cluster is at feature level %d, and classes can be changed from %d on: upgrade every node first", f.FeatureLevel, LevelClassChanges)
	}
	for _, c := range req.GetChanges() {
		if err := f.ofWorker(c); err != nil {
			return nil, err
		}
		if err := f.change(c); err != nil {
			return nil, err
		}
	}
	return o.save(f, len(req.GetChanges()) > 0)
}

func (f *facts) change(c *systemv1.ClassChange) error {
	from, to := c.GetFrom(), c.GetTo()
	for _, name := range []string{from, to} {
		if strings.HasPrefix(name, actor.ReservedPrefix) {
			return fault.New(fault.InvalidArgument, "class %q: names that begin with %q are reserved for the cluster itself", name, actor.ReservedPrefix)
		}
	}
	i := f.class(from)
	switch {
	case from == "" && to == "":
		return fault.New(fault.InvalidArgument, "changes: each names a class to change, or to create")
	case from != "" && i < 0:
		return fault.New(fault.UnknownClass, "class %q: there is none in this cluster", from)
	case to != "" && f.class(to) >= 0:
		return fault.New(fault.InvalidArgument, "class %q: there is one in this cluster already: delete it first, or take another name", to)
	case from == "":
		f.create(to, c.GetService())
	case to == "":
		f.EndedKeys = append(f.EndedKeys, f.Classes[i].UniqueKey)
		f.Classes = slices.Delete(f.Classes, i, i+1)
	default:
		renamed := &f.Classes[i]
		f.takeName(from, renamed.Service)
		f.takeName(to, renamed.Service)
		renamed.FormerNames = append(renamed.FormerNames, from)
		renamed.Name = to
	}
	return nil
}

// class returns which class has a name; -1 when none has.
func (f *facts) class(name string) int {
	return slices.IndexFunc(f.Classes, func(c class) bool { return c.Name == name })
}

// runs says whether a program that has a class under a name and a service has one of the cluster's that
// had the name before.
func (f *facts) runs(name, service string) bool {
	return slices.ContainsFunc(f.Classes, func(c class) bool {
		return c.Service == service && slices.Contains(c.FormerNames, name)
	})
}

// takeName sees to it that no class with the service had the name before: a program that has a class under
// the two means the one that had it last.
func (f *facts) takeName(name, service string) {
	for i := range f.Classes {
		if c := &f.Classes[i]; c.Service == service {
			c.FormerNames = slices.DeleteFunc(c.FormerNames, func(former string) bool { return former == name })
		}
	}
}

// create adds a class, under a unique key that no class has or had: what was stored under another is
// never found again.
func (f *facts) create(name, service string) {
	f.takeName(name, service)
	key := name
	for n := 2; slices.Contains(f.EndedKeys, key) || slices.ContainsFunc(f.Classes, func(c class) bool { return c.UniqueKey == key }); n++ {
		key = fmt.Sprintf("%s#%d", name, n)
	}
	f.Classes = append(f.Classes, class{Name: name, Service: service, UniqueKey: key})
}
