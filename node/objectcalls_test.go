package node

import (
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/holdfast-io/holdfast/actor"
	"github.com/holdfast-io/holdfast/fault"
	"github.com/holdfast-io/holdfast/node/system"
	systemv1 "github.com/holdfast-io/holdfast/proto/holdfast/system/v1"
)

// A node of an earlier release would take a call's chain for its body: none is sent before all know it.
func TestObjectsDoNotCallWhileTheClusterIsUpgraded(t *testing.T) {
	t.Parallel()
	stored, err := proto.Marshal(&systemv1.FactsResponse{Revision: 1, Facts: &systemv1.Facts{FeatureLevel: system.LevelChains - 1}})
	if err != nil {
		t.Fatal(err)
	}
	calls := objectCalls{&Node{facts: newFacts(t, stored)}}
	var got []error
	calls.Call(t.Context(), &actor.Outgoing{Class: "Counter"}, func(r actor.Result) { got = append(got, r.Err) })
	if len(got) != 1 || fault.ReasonOf(got[0]) != fault.NoOwner {
		t.Errorf("got %v", got)
	}
}
