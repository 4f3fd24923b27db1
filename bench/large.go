package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"time"

	"google.golang.org/grpc"

	"github.com/holdfast-io/holdfast/actor"
	"github.com/holdfast-io/holdfast/client"
	"github.com/holdfast-io/holdfast/examples/counter/counterv1"
	"github.com/holdfast-io/holdfast/placement"
	holdfastv1 "github.com/holdfast-io/holdfast/proto/holdfast/v1"
	"github.com/holdfast-io/holdfast/storage"
)

// What the large object has, and what its nodes have.
const (
	largeClass   = "Large"
	largeName    = "large"
	largeKeys    = 1_000_000
	largeEvent   = 15 << 20 // bytes written by one event
	largeMemory  = 1 << 30  // of a node
	largeMinFree = 4 << 30  // of the disk
	largeRate    = 256 << 20
	largeCallMax = time.Hour
)

// large is an object with a million keys of random bytes. It is described by hand: the messages are the
// counter's.
type large struct {
	store *actor.Storage
	rng   *rand.ChaCha8
	next  int64
}

func largeObjects() actor.Class {
	method := func(name string, do func(o *large, amount int64) (int64, error)) grpc.MethodDesc {
		return grpc.MethodDesc{MethodName: name, Handler: func(srv any, _ context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
			req := &counterv1.IncrementRequest{}
			if err := decode(req); err != nil {
				return nil, err
			}
			o, ok := srv.(*large)
			if !ok {
				return nil, fmt.Errorf("%T is not large", srv)
			}
			n, err := do(o, req.GetAmount())
			return &counterv1.IncrementResponse{Value: n}, err
		}}
	}
	return actor.NewClass(largeClass, &grpc.ServiceDesc{ServiceName: "holdfast.bench.Large", Methods: []grpc.MethodDesc{
		method("Fill", (*large).fill), method("Walk", (*large).walk), method("Clear", (*large).clear),
	}}, func(s *actor.State) any { return &large{store: s.Storage(), rng: rand.NewChaCha8([32]byte{})} })
}

// fill writes the next keys, as many as an event may, and returns how many there are; size is how many
// bytes each value has.
func (o *large) fill(size int64) (int64, error) {
	value := make([]byte, size)
	for written := int64(0); o.next < largeKeys && written+size <= largeEvent && written/size < storage.MaxSegmentWrites; written += size {
		_, _ = o.rng.Read(value)
		if err := actor.Put(o.store, fmt.Sprintf("key-%08d", o.next), value); err != nil {
			return 0, err
		}
		o.next++
	}
	return o.next, nil
}

// walk lists every key, and returns how many bytes their values have.
func (o *large) walk(int64) (int64, error) {
	keys, bytes := 0, int64(0)
	for entry, err := range o.store.List(actor.ListOptions{}) {
		if err != nil {
			return 0, err
		}
		keys++
		bytes += int64(len(entry.Value))
	}
	if keys != 0 && keys != largeKeys {
		return 0, fmt.Errorf("%d keys", keys)
	}
	return bytes, nil
}

func (o *large) clear(int64) (int64, error) { return 0, o.store.DeleteAll() }

// largeRun measures one object on some nodes.
type largeRun struct {
	*bench

	nodes []*child
	size  int64 // bytes of a value
}

// call calls the object.
func (l *largeRun) call(method string, amount int64) (int64, error) {
	var addrs []string
	for _, n := range l.nodes {
		addrs = append(addrs, n.ready.GRPC)
	}
	c, err := client.New(addrs)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(l.ctx, largeCallMax) // A call without one has 30 s.
	defer cancel()
	resp := &counterv1.IncrementResponse{}
	err = c.Name(largeClass, largeName).Invoke(ctx, "/holdfast.bench.Large/"+method, &counterv1.IncrementRequest{Amount: &amount}, resp)
	return resp.GetValue(), err
}

// phase does something, and prints how long it took and what memory the nodes had at most meanwhile.
func (l *largeRun) phase(name string, do func() error) error {
	sayf("large: %s", name)
	for _, n := range l.nodes {
		if _, err := n.peak(); err != nil {
			return err
		}
	}
	begun := time.Now()
	if err := do(); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	took := time.Since(begun)
	var peaks []string
	for _, n := range l.nodes {
		peak, err := n.peak()
		if err != nil {
			return err
		}
		peaks = append(peaks, fmt.Sprintf("%d MiB", peak>>20))
	}
	l.printf("%-28s %10s  resident at most %s\n", name, took.Round(100*time.Millisecond), strings.Join(peaks, ", "))
	return nil
}

func (l *largeRun) fill() error {
	for written := int64(0); written < largeKeys; {
		var err error
		if written, err = l.call("Fill", l.size); err != nil {
			return err
		}
	}
	return nil
}

// walk wants every key to be there, or none.
func (l *largeRun) walk(keys int64) error {
	bytes, err := l.call("Walk", 0)
	if err == nil && (bytes < keys*l.size || keys == 0 && bytes > 0) {
		err = fmt.Errorf("%d bytes", bytes)
	}
	return err
}

func (l *largeRun) clear() error {
	if _, err := l.call("Clear", 0); err != nil {
		return err
	}
	return l.walk(0)
}

// start starts a node.
func (l *largeRun) start(name string, join ...string) error {
	n, err := l.spawn(roleConfig{
		Role: "large", Name: name, Dir: filepath.Join(l.dir, "large-"+name), Bootstrap: len(join) == 0, Join: join,
		MemoryLimit: largeMemory, MinFreeDisk: largeMinFree, SnapshotRate: largeRate,
	})
	if err == nil {
		l.nodes = append(l.nodes, n)
	}
	return err
}

// begin starts the first node and fills the object.
func (b *bench) begin(where string) (*largeRun, error) {
	l := &largeRun{bench: b, size: int64(b.o.large * (1 << 30) / largeKeys)}
	b.printf("\n## one object of %g GiB, %d keys of %d random bytes, %s of %d MiB\n\n", b.o.large, largeKeys, l.size, where, largeMemory>>20)
	if err := l.start("n1"); err != nil {
		return nil, err
	}
	return l, l.phase("written", l.fill)
}

// large measures an object with a million keys on one node.
func (b *bench) large() error {
	l, err := b.begin("on a node")
	if err != nil {
		return err
	}
	if err := l.phase("listed", func() error { return l.walk(largeKeys) }); err != nil {
		return err
	}
	return l.phase("deleted by DeleteAll", l.clear)
}

// spread measures the same object when its shard goes to two more nodes, of which one becomes its owner.
func (b *bench) spread() error {
	l, err := b.begin("on nodes")
	if err != nil {
		return err
	}
	seed := l.nodes[0].ready.Gossip
	if err := errors.Join(l.start("n2", seed), l.start("n3", seed)); err != nil {
		return err
	}
	if err := l.phase("copied to two nodes", func() error { return l.untilShard(3) }); err != nil {
		return err
	}
	l.nodes[0].stop()
	l.nodes = l.nodes[1:]
	if err := l.phase("listed by another owner", func() error { return l.walk(largeKeys) }); err != nil {
		return err
	}
	return l.phase("deleted by DeleteAll", l.clear)
}

// untilShard waits until the object's shard has so many voters, and is at rest.
func (l *largeRun) untilShard(voters int) error {
	conn, err := dial(l.nodes[0].ready.GRPC)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	id := placement.NewNamespace(largeClass).IDFromName(largeName)
	return l.within(largeCallMax, func() (bool, error) {
		st, err := holdfastv1.NewAdminClient(conn).Status(l.ctx, &holdfastv1.StatusRequest{})
		if err != nil {
			return false, err
		}
		sh := st.GetShards()[placement.ShardOf(id, len(st.GetShards()))]
		return len(sh.GetVoters()) == voters && sh.GetMoving() == "" && sh.GetOwner() != "", nil
	})
}
