package replica_test

import (
	"testing"
	"time"

	"github.com/holdfast-io/holdfast/storage"
)

// slow is told that its segment is committed, and keeps the loop there for a while.
type slow struct {
	*result

	committed chan struct{}
}

func (s *slow) Committed(uint64) {
	close(s.committed)
	time.Sleep(50 * time.Millisecond) //nolint:forbidigo // the loop must be here for longer than it takes to look
}

// P4: what was acknowledged is read by who waits for it to be readable, though it is acknowledged
// before its batch is in the store.
func TestAwaitReadable(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 1, 1)
	n := c.nodes[1]
	waitFor(t, "an owner", func() bool { return n.owner.term(0) != 0 })
	s := &slow{newResult(), make(chan struct{})}
	seg := segment(1, n.owner.term(0), 1, 1, "value")
	n.host.Propose(0, seg, s)
	<-s.committed
	if err := n.host.AwaitReadable(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got, ok, err := n.store.Object(0, seg.Object).Get(storage.KindKV, []byte("k")); err != nil || !ok || string(got) != "value" {
		t.Errorf("got %q, %t, %v", got, ok, err)
	}
}
