package gateway_test

import (
	"testing"

	"github.com/holdfast-io/holdfast/fault"
	"github.com/holdfast-io/holdfast/placement"
	holdfastv1 "github.com/holdfast-io/holdfast/proto/holdfast/v1"
)

func TestNewUniqueID(t *testing.T) {
	t.Parallel()
	objects := holdfastv1.NewObjectsClient(newWorld(t).conn)
	drawn, err := objects.NewUniqueID(t.Context(), &holdfastv1.NewUniqueIDRequest{Class: "Counter"})
	if want := placement.NewNamespace("Counter").IDFromName("drawn").String(); err != nil || drawn.GetId() != want {
		t.Errorf("got %v, %v, want %s", drawn, err, want)
	}
	for _, class := range []string{"", "holdfast.Hidden"} {
		_, err := objects.NewUniqueID(t.Context(), &holdfastv1.NewUniqueIDRequest{Class: class})
		refuses(t, err, fault.UnknownClass, "class")
	}
}
