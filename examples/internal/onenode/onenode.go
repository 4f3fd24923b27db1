// Package onenode runs a node of one's own for the tests of the examples: a real one, in the test's
// process, with its data in a directory that goes with the test.
package onenode

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-io/holdfast/actor"
	"github.com/holdfast-io/holdfast/client"
	"github.com/holdfast-io/holdfast/node"
)

// Start starts a node with the classes and returns a client of it. Both end with the test.
func Start(t *testing.T, classes ...actor.Class) *client.Client {
	t.Helper()
	c, _ := start(t, t.TempDir(), classes)
	return c
}

// Restart starts a node with the classes, has before use it, stops it, and starts it again on the same
// data.
func Restart(t *testing.T, before func(*client.Client), classes ...actor.Class) *client.Client {
	t.Helper()
	dir := t.TempDir()
	c, stop := start(t, dir, classes)
	before(c)
	stop()
	c, _ = start(t, dir, classes)
	return c
}

// start returns what stops the node and its client; the test's end does so at the latest.
func start(t *testing.T, dir string, classes []actor.Class) (c *client.Client, stop func()) {
	t.Helper()
	const free = "127.0.0.1:0"
	n, err := node.Start(t.Context(), node.Config{
		Name: "test", DataDir: dir, Bootstrap: true, Shards: 2, Classes: classes,
		GRPC: free, Peer: free, Gossip: free, HTTP: free, Admin: free,
		DrainTimeout: 5 * time.Second, MinFreeDisk: -1,
	})
	if err != nil {
		t.Fatal(err)
	}
	stop = sync.OnceFunc(func() {
		if c != nil {
			c.Close()
		}
		if err := n.Close(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	if err := n.WaitReady(t.Context()); err != nil {
		t.Fatal(err)
	}
	if c, err = client.New([]string{n.Addresses().GRPC}); err != nil {
		t.Fatal(err)
	}
	return c, stop
}
