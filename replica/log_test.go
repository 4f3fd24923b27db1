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
