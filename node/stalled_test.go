package node

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	"github.com/holdfast-io/holdfast/actor"
	example "github.com/holdfast-io/holdfast/examples/counter"
	"github.com/holdfast-io/holdfast/examples/counter/counterv1"
	"github.com/holdfast-io/holdfast/fault"
)

// hangingFS is a disk that may stop to answer: no sync ends then, until it is let go.
type hangingFS struct {
	vfs.FS

	mu   sync.RWMutex
	hung chan struct{} // nil: it answers
}

func (fs *hangingFS) hang() {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	fs.hung = make(chan struct{})
}

func (fs *hangingFS) letGo() {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if fs.hung != nil {
		close(fs.hung)
		fs.hung = nil
	}
}

func (fs *hangingFS) wait() {
	fs.mu.RLock()
	hung := fs.hung
	fs.mu.RUnlock()
	if hung != nil {
		<-hung
	}
}

func (fs *hangingFS) Create(name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := fs.FS.Create(name, category)
	return &hangingFile{f, fs}, err
}

func (fs *hangingFS) ReuseForWrite(from, to string, category vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := fs.FS.ReuseForWrite(from, to, category)
	return &hangingFile{f, fs}, err
}

type hangingFile struct {
	vfs.File

	fs *hangingFS
}

func (f *hangingFile) Sync() error {
	f.fs.wait()
	return f.File.Sync()
}

func (f *hangingFile) SyncData() error {
	f.fs.wait()
	return f.File.SyncData()
}

func (f *hangingFile) SyncTo(length int64) (bool, error) {
	f.fs.wait()
	return f.File.SyncTo(length)
}

// startAlone starts a node of its own, on loopback, and waits until it serves.
func startAlone(t *testing.T, change func(*Config)) *Node {
	t.Helper()
	cfg := Config{
		Name: "n1", DataDir: "data", Bootstrap: true, Shards: 4, Classes: []actor.Class{example.Class()},
		GRPC: "127.0.0.1:0", Peer: "127.0.0.1:0", Gossip: "127.0.0.1:0", HTTP: "127.0.0.1:0", Admin: "127.0.0.1:0",
		fs: vfs.NewMem(),
	}
	change(&cfg)
	n, err := Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := n.WaitReady(ctx); err != nil {
		t.Fatal(err)
	}
	return n
}

// A node whose disk hangs is as good as dead: it says so, tells who waits that the outcome is not
// known, and does not wait for the disk.
func TestANodeWithAHungDiskEnds(t *testing.T) {
	t.Parallel()
	for name, stopping := range map[string]bool{"by itself": false, "while it stops": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			fs := &hangingFS{FS: vfs.NewMem()}
			n := startAlone(t, func(c *Config) { c.fs = fs })
			defer func() { // What Close left behind.
				fs.letGo()
				n.stops.Wait()
			}()
			conn, err := grpc.NewClient("passthrough:///"+n.Addresses().GRPC, grpc.WithTransportCredentials(insecure.NewCredentials()))
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = conn.Close() }()
			c := counterv1.NewCounterClient(conn)
			ctx := metadata.AppendToOutgoingContext(t.Context(), "holdfast-name", "x")
			if _, err := c.Increment(ctx, &counterv1.IncrementRequest{}); err != nil {
				t.Fatal(err)
			}

			fs.hang()
			waiting := make(chan error, 1)
			go func() {
				_, err := c.Increment(ctx, &counterv1.IncrementRequest{})
				waiting <- err
			}()
			closed := make(chan error, 1)
			if stopping {
				go func() { closed <- n.Close(t.Context()) }()
			}
			select {
			case <-n.Done():
			case <-time.After(30 * time.Second):
				t.Fatal("the node goes on")
			}
			began := time.Now()
			if !stopping {
				closed <- n.Close(t.Context())
			}
			err = <-closed
			if d := time.Since(began); d > 2*time.Second {
				t.Errorf("Close took %v", d)
			}
			if stalled, ok := errors.AsType[*StalledError](err); !ok || !strings.Contains(stalled.Error(), "the disk has not finished a write") {
				t.Errorf("Close: got %v", err)
			}
			if err := <-waiting; fault.ReasonOf(err) != fault.OutcomeUnknown {
				t.Errorf("the call that waited: got %v", err)
			}
		})
	}
}
