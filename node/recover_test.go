package node

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-io/holdfast/placement"
	"github.com/holdfast-io/holdfast/replica"
)

// left makes the report of node id, called n and its number, in a cluster of five with four shards.
func left(id placement.NodeID, states ...replica.ShardState) *RecoveryReport {
	r := &RecoveryReport{ClusterID: "c", Node: id, Name: "n" + string(rune('0'+id)), Shards: 4, Replicas: states}
	for other := placement.NodeID(1); other <= 5; other++ {
		r.Members = append(r.Members, RecoveryMember{other, "n" + string(rune('0'+other))})
	}
	return r
}

func voters(shard placement.ShardID, generation, lastTerm, lastIndex uint64, nodes ...placement.NodeID) replica.ShardState {
	return replica.ShardState{
		Shard: shard, Replica: 2, Generation: generation, NextID: 6, Term: 9, LastTerm: lastTerm, LastIndex: lastIndex, Voters: nodes,
	}
}

// Each shard goes on at one node at most, and only when its latest known membership has lost its majority.
func TestPlanRecovery(t *testing.T) {
	t.Parallel()
	behind := voters(0, 3, 4, 50, 1, 4, 5)
	ended := voters(2, 5, 4, 99, 1, 2, 3, 4, 5)
	ended.Problem = "damaged"
	learns := voters(3, 2, 7, 7, 4)
	learns.Learners = []placement.NodeID{3}
	reports := []*RecoveryReport{
		// Shard 0 has moved away from node 1, which has missed it: the others are a majority.
		// Shard 1 has lost two of three. Of shard 2 three of five are lost, and node 1 has the longest log.
		left(1, behind, voters(1, 3, 4, 50, 1, 4, 5), ended),
		left(2, voters(0, 4, 4, 60, 2, 3, 4), voters(2, 5, 4, 70, 1, 2, 3, 4, 5)),
		left(3, voters(0, 4, 4, 60, 2, 3, 4), voters(2, 5, 4, 80, 1, 2, 3, 4, 5), learns),
	}
	p, err := PlanRecovery(reports, []string{"n4", placement.NodeID(5).String()})
	if err != nil {
		t.Fatal(err)
	}
	type goesOn struct {
		shard placement.ShardID
		on    string
		replica.Recovery
	}
	var got []goesOn
	for _, s := range p.Shards {
		got = append(got, goesOn{s.Shard, s.On.Name, s.Recovery})
	}
	// Three of five is a majority: shard 2 goes on by itself.
	want := []goesOn{
		{1, "n1", replica.Recovery{Shard: 1, Replica: 6 + far, Generation: 3 + far, Term: 9 + far}},
		{3, "n3", replica.Recovery{Shard: 3, Replica: 6 + far, Generation: 2 + far, Term: 9 + far}},
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(goesOn{})); diff != "" {
		t.Errorf("two lost (-want +got):\n%s", diff)
	}

	reports[2].Replicas = nil
	p, err = PlanRecovery(reports[:2], []string{"n3", "n4", "n5"})
	if err != nil {
		t.Fatal(err)
	}
	got = nil
	for _, s := range p.Shards {
		got = append(got, goesOn{shard: s.Shard, on: s.On.Name})
	}
	want = []goesOn{{shard: 0, on: "n2"}, {shard: 1, on: "n1"}, {shard: 2, on: "n2"}}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(goesOn{})); diff != "" {
		t.Errorf("three lost (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]placement.ShardID{3}, p.Hopeless); diff != "" {
		t.Errorf("hopeless (-want +got):\n%s", diff)
	}
}

func TestPlanRecoveryPrefersTheLaterTermAndThenVoters(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name     string
		one, two replica.ShardState
		want     string
	}{
		{"the longer log", voters(0, 3, 4, 50, 1, 2, 3, 4, 5), voters(0, 3, 4, 51, 1, 2, 3, 4, 5), "n2"},
		{"the later term", voters(0, 3, 5, 5, 1, 2, 3, 4, 5), voters(0, 3, 4, 51, 1, 2, 3, 4, 5), "n1"},
		{"the smaller id", voters(0, 3, 4, 50, 1, 2, 3, 4, 5), voters(0, 3, 4, 50, 1, 2, 3, 4, 5), "n1"},
		{"a voter", voters(0, 3, 4, 50, 2, 3, 4), voters(0, 3, 4, 50, 2, 3, 4), "n2"},
	} {
		one := tc.one
		if len(one.Voters) == 3 {
			one.Learners = []placement.NodeID{1}
			tc.two.Learners = one.Learners
		}
		p, err := PlanRecovery([]*RecoveryReport{left(1, one), left(2, tc.two)}, []string{"n3", "n4", "n5"})
		if err != nil || len(p.Shards) != 1 || p.Shards[0].On.Name != tc.want {
			t.Errorf("%s: %+v, %v", tc.name, p, err)
		}
	}
}

// A joint configuration needs both its majorities.
func TestPlanRecoveryOfAJointConfiguration(t *testing.T) {
	t.Parallel()
	joint := voters(0, 3, 4, 50, 1, 2, 3)
	joint.Outgoing = []placement.NodeID{1, 4, 5}
	p, err := PlanRecovery([]*RecoveryReport{left(1, joint), left(2), left(3)}, []string{"n4", "n5"})
	if err != nil || len(p.Shards) != 1 {
		t.Errorf("%+v, %v", p, err)
	}
}

func TestPlanRecoveryRefuses(t *testing.T) {
	t.Parallel()
	foreign, noShards := left(2), left(2)
	foreign.ClusterID, noShards.Shards = "d", 0
	removed := left(1, voters(0, 3, 4, 50, 1, 4, 5))
	removed.Removed = []placement.NodeID{2, 3, 4, 5}
	for _, tc := range []struct {
		name    string
		reports []*RecoveryReport
		lost    string
		want    string
	}{
		{"no reports", nil, "n2", "reports of all"},
		{"another cluster's", []*RecoveryReport{left(1), foreign}, "n3", `"d"`},
		{"something else", []*RecoveryReport{left(1), noShards}, "n3", "shards"},
		{"twice", []*RecoveryReport{left(1), left(1)}, "n2", "two reports"},
		{"a stranger", []*RecoveryReport{left(1)}, "n9", `"n9"`},
		{"who reports", []*RecoveryReport{left(1), left(2)}, "n2,n3", `"n2"`},
		{"by its id", []*RecoveryReport{left(1), left(2)}, "0000000000000002", "not lost"},
		{"one is missing", []*RecoveryReport{left(1), left(2)}, "n3,n4", "n5"},
		{"removed, but listed", []*RecoveryReport{removed}, "n4", "n5"},
	} {
		if _, err := PlanRecovery(tc.reports, strings.Split(tc.lost, ",")); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v", tc.name, err)
		}
	}
	if p, err := PlanRecovery([]*RecoveryReport{removed}, []string{"n4", "n5"}); err != nil || len(p.Shards) != 1 {
		t.Errorf("with removed nodes that no shard lists: %+v, %v", p, err)
	}
}
