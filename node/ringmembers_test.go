package node

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-io/holdfast/placement"
)

type ids = []placement.NodeID

// view is what gossip and the cluster facts say at one moment, and the ring that follows.
type view struct {
	at                       time.Duration
	alive, replaced, removed ids // who is in neither of the first two is dead, or not mentioned
	dead                     ids
	want                     ids
}

// Gossip flaps; the ring must not, for each change of it moves data.
func TestRingMembers(t *testing.T) {
	t.Parallel()
	const s, m = time.Second, time.Minute
	for _, tt := range []struct {
		name   string
		stored ids
		views  []view
	}{
		{"a node joins once it was alive for five seconds", ids{1}, []view{
			{at: 0, alive: ids{1, 2}, want: ids{1}},
			{at: 4 * s, alive: ids{1, 2}, want: ids{1}},
			{at: 5 * s, alive: ids{1, 2}, want: ids{1, 2}},
		}},
		{"a flapping node does not join", ids{1}, []view{
			{at: 0, alive: ids{1, 2}, want: ids{1}},
			{at: 4 * s, alive: ids{1}, dead: ids{2}, want: ids{1}},
			{at: 5 * s, alive: ids{1, 2}, want: ids{1}},
			{at: 9 * s, alive: ids{1, 2}, want: ids{1}},
			{at: 10 * s, alive: ids{1, 2}, want: ids{1, 2}},
		}},
		{"a dead member leaves after five minutes", ids{1, 2}, []view{
			{at: 0, alive: ids{1, 2}, want: ids{1, 2}},
			{at: s, alive: ids{1}, dead: ids{2}, want: ids{1, 2}},
			{at: 5 * m, alive: ids{1}, dead: ids{2}, want: ids{1, 2}},
			{at: 5*m + s, alive: ids{1}, dead: ids{2}, want: ids{1}},
			{at: 6 * m, alive: ids{1}, dead: ids{2}, want: ids{1}},
		}},
		{"a flapping member stays", ids{1, 2}, []view{
			{at: s, alive: ids{1}, dead: ids{2}, want: ids{1, 2}},
			{at: 4 * m, alive: ids{1, 2}, want: ids{1, 2}},
			{at: 4*m + s, alive: ids{1}, dead: ids{2}, want: ids{1, 2}},
			{at: 8 * m, alive: ids{1}, dead: ids{2}, want: ids{1, 2}},
			{at: 8*m + s, alive: ids{1, 2}, want: ids{1, 2}},
		}},
		{"a member that left comes back like a new one", ids{1, 2}, []view{
			{at: 0, alive: ids{1}, dead: ids{2}, want: ids{1, 2}},
			{at: 5 * m, alive: ids{1}, dead: ids{2}, want: ids{1}},
			{at: 6 * m, alive: ids{1, 2}, want: ids{1}},
			{at: 6*m + 5*s, alive: ids{1, 2}, want: ids{1, 2}},
		}},
		{"a member that gossip no longer mentions is dead", ids{1, 2}, []view{
			{at: 0, alive: ids{1, 2}, want: ids{1, 2}},
			{at: s, alive: ids{1}, want: ids{1, 2}},
			{at: 5*m + s, alive: ids{1}, want: ids{1}},
		}},
		{"a replaced member leaves at once, and its successor waits its time", ids{1, 2}, []view{
			{at: 0, alive: ids{1}, dead: ids{2}, want: ids{1, 2}},
			{at: s, alive: ids{1, 3}, replaced: ids{2}, want: ids{1}},
			{at: 6 * s, alive: ids{1, 3}, replaced: ids{2}, want: ids{1, 3}},
			{at: 10 * m, alive: ids{1, 3}, replaced: ids{2}, want: ids{1, 3}},
		}},
		{"a removed member leaves at once, alive as it is, and for good", ids{1, 2}, []view{
			{at: 0, alive: ids{1, 2}, want: ids{1, 2}},
			{at: s, alive: ids{1, 2}, removed: ids{2}, want: ids{1}},
			{at: 10 * m, alive: ids{1, 2}, removed: ids{2}, want: ids{1}},
		}},
		{"a removed node does not join", ids{1}, []view{
			{at: 0, alive: ids{1, 2}, removed: ids{2}, want: ids{1}},
			{at: 10 * s, alive: ids{1, 2}, removed: ids{2}, want: ids{1}},
		}},
		{"after a restart the stored members stay until they were seen dead for long", ids{3, 1, 2}, []view{
			{at: 0, alive: ids{1}, want: ids{1, 2, 3}},
			{at: 4 * s, alive: ids{1, 2}, want: ids{1, 2, 3}},
			{at: 5*m - s, alive: ids{1, 2}, want: ids{1, 2, 3}},
			{at: 5 * m, alive: ids{1, 2}, want: ids{1, 2}},
		}},
		{"the whole cluster restarts: nobody leaves", ids{1, 2, 3}, []view{
			{at: 0, alive: ids{1}, dead: ids{2, 3}, want: ids{1, 2, 3}},
			{at: 2 * s, alive: ids{1, 2, 3}, want: ids{1, 2, 3}},
			{at: 10 * s, alive: ids{1, 2, 3}, want: ids{1, 2, 3}},
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			const begin = time.Hour // Only what passes counts.
			members := newRingMembers(5*s, 5*m, tt.stored, begin)
			for _, v := range tt.views {
				got := members.Observe(begin+v.at, v.seen(), setOf(v.removed))
				if diff := cmp.Diff(v.want, got); diff != "" {
					t.Fatalf("at %s (-want +got):\n%s", v.at, diff)
				}
			}
		})
	}
}

func (v view) seen() []sighting {
	var seen []sighting
	for _, id := range v.alive {
		seen = append(seen, sighting{Node: id, Alive: true})
	}
	for _, id := range v.dead {
		seen = append(seen, sighting{Node: id})
	}
	for _, id := range v.replaced {
		seen = append(seen, sighting{Node: id, Replaced: true})
	}
	return seen
}

func setOf(list ids) map[placement.NodeID]bool {
	set := make(map[placement.NodeID]bool)
	for _, id := range list {
		set[id] = true
	}
	return set
}

// The founder is in its own ring from the first moment on; a node that restarts is where it was.
func TestAdmitIsForTheFirst(t *testing.T) {
	t.Parallel()
	founder := newRingMembers(time.Second, time.Minute, nil, 0)
	founder.admit(1)
	if diff := cmp.Diff(ids{1}, founder.Observe(0, view{alive: ids{1}}.seen(), nil)); diff != "" {
		t.Error(diff)
	}
	barred := newRingMembers(time.Second, time.Minute, ids{2, 3}, 0)
	barred.admit(1)
	if diff := cmp.Diff(ids{2, 3}, barred.Observe(0, view{alive: ids{1, 2, 3}}.seen(), nil)); diff != "" {
		t.Error(diff)
	}
}

// What is forgotten does not pile up (P6).
func TestRingMembersForget(t *testing.T) {
	t.Parallel()
	members := newRingMembers(time.Second, time.Minute, nil, 0)
	for i := range placement.NodeID(100) {
		at := time.Duration(i) * time.Second
		members.Observe(at, view{alive: ids{1000, i}}.seen(), nil)
	}
	for at := range 3 { // The last of them is seen dead first, and then for long.
		members.Observe(time.Duration(10+at)*time.Minute, view{alive: ids{1000}}.seen(), nil)
	}
	if n := len(members.nodes); n != 1 {
		t.Errorf("%d nodes are remembered, want the one that lives", n)
	}
}
