package node

import (
	"context"
	"encoding/json"
	"slices"
	"testing"
	"time"

	"github.com/holdfast-io/holdfast/cluster"
	"github.com/holdfast-io/holdfast/placement"
	holdfastv1 "github.com/holdfast-io/holdfast/proto/holdfast/v1"
	"github.com/holdfast-io/holdfast/replica"
)

func TestForgettable(t *testing.T) {
	t.Parallel()
	owned := func(nodes ...placement.NodeID) *replica.ShardStatus {
		return &replica.ShardStatus{Owns: true, Voters: nodes}
	}
	learns := owned(1)
	learns.Learners = []placement.NodeID{9}
	member := func(s cluster.State) []cluster.Member {
		return []cluster.Member{{ID: 1, State: cluster.Alive}, {ID: 2, State: cluster.Dead}, {ID: 9, State: s}}
	}
	for name, tt := range map[string]struct {
		members []cluster.Member
		best    []*replica.ShardStatus
		want    []placement.NodeID
	}{
		"holds nothing":               {member(cluster.Dead), []*replica.ShardStatus{owned(1), owned(1, 2)}, []placement.NodeID{9}},
		"replaced":                    {member(cluster.Replaced), []*replica.ShardStatus{owned(1)}, []placement.NodeID{9}},
		"alive":                       {member(cluster.Alive), []*replica.ShardStatus{owned(1)}, nil},
		"a voter":                     {member(cluster.Dead), []*replica.ShardStatus{owned(1), owned(1, 9)}, nil},
		"a learner":                   {member(cluster.Dead), []*replica.ShardStatus{learns}, nil},
		"a shard without an owner":    {member(cluster.Dead), []*replica.ShardStatus{owned(1), {Voters: []placement.NodeID{1}}}, nil},
		"a shard that nobody answers": {member(cluster.Dead), []*replica.ShardStatus{owned(1), nil}, nil},
	} {
		if got := forgettable(tt.members, map[placement.NodeID]bool{9: true}, tt.best); !slices.Equal(got, tt.want) {
			t.Errorf("%s: got %v, want %v", name, got, tt.want)
		}
	}
	if got := forgettable(member(cluster.Dead), nil, []*replica.ShardStatus{owned(1)}); got != nil {
		t.Errorf("a node that was not removed: got %v", got)
	}
}

// A node that was removed for good is neither shown nor stored any more once it is gone.
func TestARemovedNodeIsForgotten(t *testing.T) {
	t.Parallel()
	a := startAlone(t, func(c *Config) { c.RingJoinAfter = 100 * time.Millisecond })
	b := startAlone(t, func(c *Config) {
		c.Name, c.Bootstrap, c.Join = "n2", false, []string{a.Addresses().Gossip}
		c.RingJoinAfter = 100 * time.Millisecond
	})
	defer func() {
		if err := a.Close(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	}()
	admin := &adminServer{n: a}
	if _, err := admin.RemoveNode(t.Context(), &holdfastv1.RemoveNodeRequest{Node: "n2"}); err != nil {
		t.Fatal(err)
	}
	select {
	case <-b.Done():
	case <-time.After(time.Minute):
		t.Fatal("the removed node does not end")
	}
	if err := b.Close(t.Context()); err != nil {
		t.Error(err)
	}
	end := time.Now().Add(time.Minute)
	for range time.Tick(50 * time.Millisecond) {
		st, err := admin.Status(t.Context(), &holdfastv1.StatusRequest{})
		if err != nil {
			t.Fatal(err)
		}
		raw, _, err := a.store.Meta(membersMetaKey)
		if err != nil {
			t.Fatal(err)
		}
		var stored storedMembers
		if err := json.Unmarshal(raw, &stored); err != nil {
			t.Fatal(err)
		}
		if len(st.GetNodes()) == 1 && len(stored.Members) == 1 {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("status shows %v, stored is %s", st.GetNodes(), raw)
		}
	}
}
