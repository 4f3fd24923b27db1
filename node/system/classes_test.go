package system_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/holdfast-io/holdfast/fault"
	"github.com/holdfast-io/holdfast/node/system"
	systemv1 "github.com/holdfast-io/holdfast/proto/holdfast/system/v1"
	"github.com/holdfast-io/holdfast/storage"
	"github.com/holdfast-io/holdfast/storage/value"
)

func (k *keeper) change(changes ...*systemv1.ClassChange) (*systemv1.FactsResponse, error) {
	k.t.Helper()
	return k.call("ChangeClasses", &systemv1.ChangeClassesRequest{Changes: changes})
}

func class(name, service, key string, former ...string) *systemv1.Class {
	return &systemv1.Class{Name: name, Service: service, UniqueKey: key, FormerNames: former}
}

// A renamed class keeps its unique key, a deleted one's is never given again, and a program that still has a
// class under a former name makes no new one.
func TestChangeClasses(t *testing.T) {
	t.Parallel()
	k := newKeeper(t)
	wants := func(ended []string, classes ...*systemv1.Class) {
		t.Helper()
		got, err := k.call("Facts", &systemv1.FactsRequest{KnownRevision: 1 << 60})
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(classes, got.GetFacts().GetClasses(), protocmp.Transform()) + cmp.Diff(ended, got.GetFacts().GetEndedKeys()); diff != "" {
			t.Errorf("classes and ended keys (-want +got):\n%s", diff)
		}
	}
	do := func(changes ...*systemv1.ClassChange) {
		t.Helper()
		if _, err := k.change(changes...); err != nil {
			t.Fatal(err)
		}
	}
	register := func(name, service string) {
		t.Helper()
		if _, err := k.register(name, service); err != nil {
			t.Fatal(err)
		}
	}
	register("A", "a.v1")
	do(&systemv1.ClassChange{From: "A", To: "B"})
	wants(nil, class("B", "a.v1", "A", "A"))
	register("A", "a.v1") // A node of an earlier program.
	register("B", "a.v1") // And of a later one.
	wants(nil, class("B", "a.v1", "A", "A"))
	register("A", "other.v1") // Another class under a name that is free.
	wants(nil, class("B", "a.v1", "A", "A"), class("A", "other.v1", "A#2"))
	do(&systemv1.ClassChange{From: "A"})
	wants([]string{"A#2"}, class("B", "a.v1", "A", "A"))
	do(&systemv1.ClassChange{From: "B", To: "C"}, &systemv1.ClassChange{From: "C", To: "B"}, &systemv1.ClassChange{To: "w/A"})
	wants([]string{"A#2"}, class("B", "a.v1", "A", "A", "C"), class("w/A", "", "w/A"))
	do(&systemv1.ClassChange{From: "w/A", To: "w/B"}, &systemv1.ClassChange{To: "w/A"}, &systemv1.ClassChange{From: "w/A", To: "w/C"})
	register("w/A", "") // Means the one that had the name last.
	wants([]string{"A#2"}, class("B", "a.v1", "A", "A", "C"), class("w/B", "", "w/A"), class("w/C", "", "w/A#2", "w/A"))
	do(&systemv1.ClassChange{From: "w/C"}, &systemv1.ClassChange{From: "w/B", To: "w/A"})
	wants([]string{"A#2", "w/A#2"}, class("B", "a.v1", "A", "A", "C"), class("w/A", "", "w/A", "w/B"))
	do(&systemv1.ClassChange{From: "B"}, &systemv1.ClassChange{To: "A", Service: "a.v1"})
	wants([]string{"A#2", "w/A#2", "A"}, class("w/A", "", "w/A", "w/B"), class("A", "a.v1", "A#3"))
}

// All of the changes or none: each is checked as it would be after those before it (P3, P7).
func TestChangeClassesRefuses(t *testing.T) {
	t.Parallel()
	k := newKeeper(t)
	if _, err := k.register("Counter", "counter.v1.Counter"); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		changes []*systemv1.ClassChange
		want    fault.Reason
	}{
		"an unknown class":        {[]*systemv1.ClassChange{{From: "None", To: "Some"}}, fault.UnknownClass},
		"a name that is taken":    {[]*systemv1.ClassChange{{To: "New"}, {From: "Counter", To: "New"}}, fault.InvalidArgument},
		"a class that went":       {[]*systemv1.ClassChange{{From: "Counter"}, {From: "Counter", To: "New"}}, fault.UnknownClass},
		"nothing":                 {[]*systemv1.ClassChange{{}}, fault.InvalidArgument},
		"the cluster's own class": {[]*systemv1.ClassChange{{From: "holdfast.System"}}, fault.InvalidArgument},
		"a reserved name":         {[]*systemv1.ClassChange{{From: "Counter", To: "holdfast.Mine"}}, fault.InvalidArgument},
	} {
		if _, err := k.change(tt.changes...); fault.ReasonOf(err) != tt.want {
			t.Errorf("%s: got %v, want %s", name, err, tt.want)
		}
	}
	k.facts(counterFacts(1))
}

// A cluster with nodes that don't know how a class ends is not asked to end one.
func TestChangeClassesNeedsEveryNode(t *testing.T) {
	t.Parallel()
	stored, err := value.Encode(map[string]any{"feature_level": system.LevelClassChanges - 1})
	if err != nil {
		t.Fatal(err)
	}
	k := newKeeperWith(t, func(b *storage.Batch) {
		b.Set(storage.AppendObjectKey(nil, 0, storage.ObjectRef{Class: system.ClassName, ID: system.ID()}, storage.KindKV, []byte("facts")), stored)
	})
	if _, err := k.register("Counter", "counter.v1.Counter"); err != nil {
		t.Fatal(err)
	}
	if _, err := k.change(&systemv1.ClassChange{From: "Counter"}); fault.ReasonOf(err) != fault.InvalidArgument || !strings.Contains(err.Error(), "upgrade every node") {
		t.Errorf("got %v", err)
	}
	if _, err := k.call("RaiseFeatureLevel", &systemv1.RaiseFeatureLevelRequest{Level: system.LevelClassChanges}); err != nil {
		t.Fatal(err)
	}
	if _, err := k.change(&systemv1.ClassChange{From: "Counter"}); err != nil {
		t.Error(err)
	}
}
