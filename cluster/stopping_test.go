package cluster_test

import (
	"log/slog"
	"testing"

	"github.com/holdfast-io/holdfast/cluster"
)

// Who has said that it stops does not take it back.
func TestStoppingLasts(t *testing.T) {
	t.Parallel()
	l, err := cluster.Listen("127.0.0.1:0", nil, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	c, err := cluster.Start(cluster.Config{
		ClusterID: "c", Self: cluster.Member{ID: 1, Name: "n1"}, Listener: l, AdvertiseIP: "127.0.0.1", Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}()
	for _, step := range []struct {
		do               func()
		noLead, stopping bool
	}{
		{func() { c.SetNoLead(true) }, true, false},
		{func() { c.SetNoLead(false) }, false, false},
		{c.SetStopping, true, true},
		{func() { c.SetNoLead(false) }, true, true},
	} {
		step.do()
		if m, _ := c.Member(1); m.NoLead != step.noLead || m.Stopping != step.stopping {
			t.Errorf("got %+v, want %+v", m, step)
		}
	}
}
