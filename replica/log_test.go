package replica

import (
	"testing"

	raftpb "go.etcd.io/raft/v3/raftpb"
)

// P6: the logs of many replicas together stay within a bound, and each is whole at its end.
func TestTailsAreBounded(t *testing.T) {
	t.Parallel()
	const replicas, entries = 512, 64
	groups := make([]*Group, replicas+1) // One shard has no replica here.
	data := make([]byte, 4<<10)
	bytes := func() (n int) {
		for _, g := range groups[1:] {
			n += g.log.tailBytes
		}
		return n
	}
	for i := range groups[1:] {
		groups[i+1] = &Group{}
		l := &groups[i+1].log
		for at := range uint64(entries) {
			l.append([]*raftpb.Entry{{Index: new(at + 1), Term: new(uint64(1)), Data: data}})
		}
		trimTails(groups[:i+2])
		if got := l.tailFirst(); got > entries {
			t.Fatalf("replica %d has nothing of its newest entries in memory", i)
		}
	}
	if bytes() > tailsBytesMax {
		t.Errorf("%d bytes of entries in memory, more than %d", bytes(), tailsBytesMax)
	}
	for i, g := range groups[1:] {
		if l := &g.log; l.last.Index != entries || l.tailFirst()+uint64(len(l.tail)) != entries+1 {
			t.Fatalf("replica %d: %d entries in memory from %d on, the last is %d", i, len(l.tail), l.tailFirst(), l.last.Index)
		}
	}
}

// Of what is applied nothing stays in memory but the entry before what comes next; what is not applied stays
// whole.
func TestTailsForgetWhatIsApplied(t *testing.T) {
	t.Parallel()
	const entries, applied = 64, 50
	g := &Group{}
	for at := range uint64(entries) {
		g.log.append([]*raftpb.Entry{{Index: new(at + 1), Term: new(uint64(1)), Data: make([]byte, 1<<10)}})
	}
	for _, at := range []uint64{0, applied, applied} {
		g.applied.Index = at
		g.trimApplied()
		if got, want := g.log.tailFirst(), max(at, 1); got != want {
			t.Fatalf("applied to %d: the entries in memory begin with %d, want %d", at, got, want)
		}
		got, err := g.log.Entries(g.log.tailFirst(), entries+1, 1<<20)
		if err != nil || len(got) != entries+1-int(g.log.tailFirst()) || got[len(got)-1].GetIndex() != entries {
			t.Fatalf("applied to %d: %d entries (%v)", at, len(got), err)
		}
	}
	g.applied.Index = entries
	g.trimApplied()
	if g.log.tailBytes > tailBytesIdle || g.log.tailFirst() != entries {
		t.Errorf("with all applied %d bytes from %d on are in memory", g.log.tailBytes, g.log.tailFirst())
	}
}
