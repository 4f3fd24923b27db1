package router_test

import (
	"context"
	"errors"
	"testing"

	"github.com/holdfast-io/holdfast/fault"
	"github.com/holdfast-io/holdfast/placement"
	"github.com/holdfast-io/holdfast/router"
)

func TestNewUniqueIDIsOfTheClass(t *testing.T) {
	t.Parallel()
	run(t, func(t *testing.T, w *world) {
		seen := make(map[placement.ObjectID]bool)
		for range 100 {
			id, err := w.r.NewUniqueID(t.Context(), counter.Name)
			if err != nil || seen[id] {
				t.Fatalf("got %s (before: %v), %v", id, seen[id], err)
			}
			if err := placement.NewNamespace(counter.UniqueKey).Check(id); err != nil {
				t.Fatalf("%s: %v", id, err)
			}
			seen[id] = true
		}
		if w.asked != 0 {
			t.Errorf("asked %d times for a class that is known", w.asked)
		}
	})
}

func TestNewUniqueIDAsksForAClassThatIsNotKnown(t *testing.T) {
	t.Parallel()
	run(t, func(t *testing.T, w *world) {
		if _, err := w.r.NewUniqueID(t.Context(), "Later"); fault.ReasonOf(err) != fault.UnknownClass {
			t.Errorf("no such class: got %v", err)
		}
		w.refresh = func(context.Context) error { return errors.New("nobody there") }
		if _, err := w.r.NewUniqueID(t.Context(), "Later"); fault.ReasonOf(err) != fault.NoOwner {
			t.Errorf("nobody to ask: got %v", err)
		}
		w.refresh = func(context.Context) error {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.classes["Later"] = router.ClassFacts{Name: "Later", UniqueKey: "later-key"}
			return nil
		}
		id, err := w.r.NewUniqueID(t.Context(), "Later")
		if err != nil {
			t.Fatal(err)
		}
		if err := placement.NewNamespace("later-key").Check(id); err != nil {
			t.Error(err)
		}
	})
}
