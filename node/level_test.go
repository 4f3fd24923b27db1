package node

import (
	"testing"

	"github.com/holdfast-io/holdfast/cluster"
	"github.com/holdfast-io/holdfast/node/system"
	"github.com/holdfast-io/holdfast/placement"
)

// A level is in force only when every node that is there, or may come back, knows it.
func TestKnownLevel(t *testing.T) {
	t.Parallel()
	const ours = system.FeatureLevel
	removed := map[placement.NodeID]bool{9: true}
	for name, tt := range map[string]struct {
		members []cluster.Member
		want    uint32
	}{
		"alone":                    {[]cluster.Member{{ID: 1, Level: ours, State: cluster.Alive}}, ours},
		"beside a later release":   {[]cluster.Member{{ID: 1, Level: ours, State: cluster.Alive}, {ID: 2, Level: ours + 1, State: cluster.Alive}}, ours},
		"beside the first release": {[]cluster.Member{{ID: 1, Level: ours, State: cluster.Alive}, {ID: 2, State: cluster.Alive}}, 1},
		"one is dead":              {[]cluster.Member{{ID: 1, Level: ours, State: cluster.Alive}, {ID: 2, State: cluster.Dead}}, 1},
		"one was replaced":         {[]cluster.Member{{ID: 1, Level: ours, State: cluster.Alive}, {ID: 2, State: cluster.Replaced}}, ours},
		"one was removed for good": {[]cluster.Member{{ID: 1, Level: ours, State: cluster.Alive}, {ID: 9, State: cluster.Dead}}, ours},
	} {
		if got := knownLevel(tt.members, removed); got != tt.want {
			t.Errorf("%s: %d, want %d", name, got, tt.want)
		}
	}
}
