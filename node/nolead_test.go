package node

import (
	"strings"
	"testing"

	"github.com/holdfast-io/holdfast/cluster"
)

// A node that stops, or did, lacks no class.
func TestWarningOfANodeThatMustNotLead(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		member cluster.Member
		want   string
	}{
		"at rest":              {cluster.Member{State: cluster.Alive}, ""},
		"without a class":      {cluster.Member{State: cluster.Alive, NoLead: true}, "n1 lacks classes"},
		"stopping":             {cluster.Member{State: cluster.Alive, NoLead: true, Stopping: true}, "n1 is stopping"},
		"stopped":              {cluster.Member{State: cluster.Dead, NoLead: true, Stopping: true}, ""},
		"dead without a class": {cluster.Member{State: cluster.Dead, NoLead: true}, ""},
		"replaced":             {cluster.Member{State: cluster.Replaced, NoLead: true}, ""},
	} {
		tt.member.Name = "n1"
		got := noLeadWarning(&tt.member)
		if (got == "") != (tt.want == "") || !strings.Contains(got, tt.want) {
			t.Errorf("%s: got %q, want %q", name, got, tt.want)
		}
	}
}
