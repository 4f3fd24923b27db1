package main

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	"github.com/holdfast-io/holdfast/client"
	"github.com/holdfast-io/holdfast/examples/counter/counterv1"
	holdfastv1 "github.com/holdfast-io/holdfast/proto/holdfast/v1"
)

const (
	manyObjects = 10_000
	hotObject   = "hot"
)

// names are made beforehand, so that loads do not measure that.
var names = func() []string {
	out := make([]string, manyObjects)
	for i := range out {
		out[i] = objectName(i)
	}
	return out
}()

// pick spreads callers and their calls over n things.
func pick(caller, i, n int) int { return (caller*7919 + i) % n }

// callEcho is a plain unary call.
func callEcho(conn *grpc.ClientConn) operation {
	stub := counterv1.NewCounterClient(conn)
	return func(ctx context.Context, _, _ int) error {
		_, err := stub.Get(ctx, &counterv1.GetRequest{})
		return err
	}
}

// callPlain is a read by plain gRPC; which says which object.
func callPlain(conn *grpc.ClientConn, which func(caller, i int) string) operation {
	stub := counterv1.NewCounterClient(conn)
	return func(ctx context.Context, caller, i int) error {
		ctx = metadata.AppendToOutgoingContext(ctx, "holdfast-name", which(caller, i))
		_, err := stub.Get(ctx, &counterv1.GetRequest{})
		return err
	}
}

// stubs returns a stub of each object, kept as a program would.
func stubs(c *client.Client) []counterv1.CounterClient {
	out := make([]counterv1.CounterClient, manyObjects)
	for i := range out {
		out[i] = counterv1.NewCounterClient(c.Name("Counter", names[i]))
	}
	return out
}

func readMany(stubs []counterv1.CounterClient) operation {
	return func(ctx context.Context, caller, i int) error {
		_, err := stubs[pick(caller, i, len(stubs))].Get(ctx, &counterv1.GetRequest{})
		return err
	}
}

func incrementMany(stubs []counterv1.CounterClient) operation {
	return func(ctx context.Context, caller, i int) error {
		_, err := stubs[pick(caller, i, len(stubs))].Increment(ctx, &counterv1.IncrementRequest{})
		return err
	}
}

func incrementOne(stub counterv1.CounterClient) operation {
	return func(ctx context.Context, _, _ int) error {
		_, err := stub.Increment(ctx, &counterv1.IncrementRequest{})
		return err
	}
}

// rawPebble commits 200 bytes, synced, from this process.
func (b *bench) rawPebble() (operation, func(), error) {
	db, err := pebble.Open(filepath.Join(b.dir, "raw"), &pebble.Options{Logger: quiet{}})
	if err != nil {
		return nil, nil, err
	}
	value := make([]byte, 184)
	op := func(_ context.Context, caller, i int) error {
		return db.Set(fmt.Appendf(nil, "%016d", pick(caller, i, manyObjects)), value, pebble.Sync)
	}
	return op, func() { _ = db.Close() }, nil
}

// quiet keeps pebble's log off the screen.
type quiet struct{}

func (quiet) Infof(string, ...any)  {}
func (quiet) Errorf(string, ...any) {}
func (quiet) Fatalf(format string, args ...any) {
	fmt.Fprintf(os.Stderr, format+"\n", args...)
	os.Exit(1)
}

func dial(addr string) (*grpc.ClientConn, error) {
	return grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
}

// row names.
const (
	rowEcho    = "plain grpc-go unary echo"
	rowPebble  = "raw pebble synced commits"
	rowRead    = "read, Go client"
	rowPlain   = "read, plain gRPC"
	rowForward = "read, plain gRPC, forwarded"
	rowMany    = "durable increment, 10,000 objects"
	rowHot     = "durable increment, one hot object"
	rowEmpty   = "empty proposals into replica/"
)

// oneNode measures a node alone.
func (b *bench) oneNode() error {
	sayf("one node: starting")
	echo, err := b.spawn(roleConfig{Role: "echo", Name: "echo"})
	if err != nil {
		return err
	}
	n1, err := b.spawn(roleConfig{Role: "node", Name: "one", Dir: filepath.Join(b.dir, "one"), Bootstrap: true})
	if err != nil {
		return err
	}
	raw, closeRaw, err := b.rawPebble()
	if err != nil {
		return err
	}
	defer closeRaw()
	echoConn, err := dial(echo.ready.GRPC)
	if err != nil {
		return err
	}
	defer func() { _ = echoConn.Close() }()
	nodeConn, err := dial(n1.ready.GRPC)
	if err != nil {
		return err
	}
	defer func() { _ = nodeConn.Close() }()
	c, err := client.New([]string{n1.ready.GRPC})
	if err != nil {
		return err
	}
	defer c.Close()
	many := stubs(c)
	node := []*child{n1}
	t := newTable("one node")
	return b.rounds(t, []row{
		{rowEcho, b.outside([]*child{echo}, callEcho(echoConn))},
		{rowPebble, b.outside(nil, raw)},
		{rowRead, b.outside(node, readMany(many))},
		{rowPlain, b.outside(node, callPlain(nodeConn, func(caller, i int) string { return names[pick(caller, i, manyObjects)] }))},
		{rowMany, b.outside(node, incrementMany(many))},
		{rowHot, b.outside(node, incrementOne(counterv1.NewCounterClient(c.Name("Counter", hotObject))))},
	})
}

// threeNodes measures a cluster, and its shards without objects.
func (b *bench) threeNodes() error {
	sayf("three nodes: starting")
	echo, err := b.spawn(roleConfig{Role: "echo", Name: "echo"})
	if err != nil {
		return err
	}
	nodes, err := b.cluster()
	if err != nil {
		return err
	}
	replicas, err := b.replicas()
	if err != nil {
		return err
	}
	raw, closeRaw, err := b.rawPebble()
	if err != nil {
		return err
	}
	defer closeRaw()
	echoConn, err := dial(echo.ready.GRPC)
	if err != nil {
		return err
	}
	defer func() { _ = echoConn.Close() }()
	nodeConn, err := dial(nodes[0].ready.GRPC)
	if err != nil {
		return err
	}
	defer func() { _ = nodeConn.Close() }()
	c, err := client.New([]string{nodes[0].ready.GRPC, nodes[1].ready.GRPC, nodes[2].ready.GRPC})
	if err != nil {
		return err
	}
	defer c.Close()
	elsewhere, err := b.ownedElsewhere(nodeConn, "n1")
	if err != nil {
		return err
	}
	many := stubs(c)
	for _, s := range many { // Where each lives is learned from its first answer.
		if _, err := s.Get(b.ctx, &counterv1.GetRequest{}); err != nil {
			return err
		}
	}
	t := newTable("three nodes")
	return b.rounds(t, []row{
		{rowEcho, b.outside([]*child{echo}, callEcho(echoConn))},
		{rowPebble, b.outside(nil, raw)},
		{rowRead, b.outside(nodes, readMany(many))},
		{rowForward, b.outside(nodes, callPlain(nodeConn, func(caller, i int) string { return elsewhere[pick(caller, i, len(elsewhere))] }))},
		{rowMany, b.outside(nodes, incrementMany(many))},
		{rowHot, b.outside(nodes, incrementOne(counterv1.NewCounterClient(c.Name("Counter", hotObject))))},
		{rowEmpty, func(callers int) (figures, error) { return b.measureInside(callers, replicas) }},
	})
}

// cluster starts three nodes and waits until every shard has three replicas and its owner.
func (b *bench) cluster() ([]*child, error) { return b.clusterOf(roleConfig{Role: "node"}) }

// clusterOf starts three nodes of a role, and of so much memory.
func (b *bench) clusterOf(as roleConfig) ([]*child, error) {
	var nodes []*child
	for i, name := range []string{"n1", "n2", "n3"} {
		as.Name, as.Dir, as.Bootstrap = name, filepath.Join(b.dir, as.Role+"-"+name), i == 0
		if i > 0 {
			as.Join = []string{nodes[0].ready.Gossip}
		}
		n, err := b.spawn(as)
		if err != nil {
			return nil, err
		}
		nodes = append(nodes, n)
	}
	conn, err := dial(nodes[0].ready.GRPC)
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close() }()
	sayf("three nodes: waiting for three replicas of every shard")
	return nodes, b.until(func() (bool, error) {
		st, err := holdfastv1.NewAdminClient(conn).Status(b.ctx, &holdfastv1.StatusRequest{})
		if err != nil {
			return false, err
		}
		owns := make(map[string]int)
		for _, s := range st.GetShards() {
			if len(s.GetVoters()) != 3 || s.GetOwner() == "" || s.GetMoving() != "" {
				return false, nil
			}
			owns[s.GetOwner()]++
		}
		// The ring may give a node as few as a sixth.
		return slices.Min(append(slices.Collect(maps.Values(owns)), 1<<20)) > len(st.GetShards())/8 && len(owns) == 3, nil
	})
}

// replicas starts three servers of shards without objects.
func (b *bench) replicas() ([]*child, error) {
	addrs, err := freeAddrs(3)
	if err != nil {
		return nil, err
	}
	var out []*child
	for id := range uint64(3) {
		name := "r" + strconv.FormatUint(id+1, 10)
		c, err := b.spawn(roleConfig{Role: "replica", Name: name, Dir: filepath.Join(b.dir, name), Self: id + 1, Addrs: addrs})
		if err != nil {
			return nil, err
		}
		out = append(out, c)
	}
	return out, b.until(func() (bool, error) {
		total := 0
		for _, c := range out {
			a, err := c.ask(request{Do: "leads"})
			if err != nil || a.Leads < replicaShards/5 {
				return false, err
			}
			total += a.Leads
		}
		return total == replicaShards, nil
	})
}

// until polls a condition.
func (b *bench) until(ok func() (bool, error)) error { return b.within(startTimeout, ok) }

// within is until for what may take so long.
func (b *bench) within(limit time.Duration, ok func() (bool, error)) error {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(limit); ; {
		done, err := ok()
		if done || err != nil {
			return err
		}
		if time.Now().After(end) {
			return fmt.Errorf("not after %v", limit)
		}
		select {
		case <-tick.C:
		case <-b.ctx.Done():
			return b.ctx.Err()
		}
	}
}

// ownedElsewhere returns names of objects that another node than the one named owns.
func (b *bench) ownedElsewhere(conn *grpc.ClientConn, node string) ([]string, error) {
	st, err := holdfastv1.NewAdminClient(conn).Status(b.ctx, &holdfastv1.StatusRequest{})
	if err != nil {
		return nil, err
	}
	owner := make(map[uint32]string)
	for _, s := range st.GetShards() {
		owner[s.GetId()] = s.GetOwner()
	}
	var out []string
	for _, name := range names {
		if owner[shardOf(name, len(st.GetShards()))] != node {
			out = append(out, name)
		}
	}
	return out, nil
}

// memory measures what objects cost in memory, and how fast they come back to it.
func (b *bench) memory() error {
	objects := b.o.objects
	sayf("memory: starting")
	n, err := b.spawn(roleConfig{Role: "node", Name: "memory", Dir: filepath.Join(b.dir, "memory"), Bootstrap: true})
	if err != nil {
		return err
	}
	c, err := client.New([]string{n.ready.GRPC})
	if err != nil {
		return err
	}
	defer c.Close()
	each := func(do func(counterv1.CounterClient) error) (time.Duration, error) {
		begun := time.Now()
		const callers = 256
		count, err := b.forEach(callers, objects, func(i int) error {
			return do(counterv1.NewCounterClient(c.Name("Counter", objectName(i))))
		})
		if err == nil && count != objects {
			err = fmt.Errorf("%d calls instead of %d", count, objects)
		}
		return time.Since(begun), err
	}
	read := func(s counterv1.CounterClient) error {
		_, err := s.Get(b.ctx, &counterv1.GetRequest{})
		return err
	}
	evicted := func() error {
		return b.until(func() (bool, error) {
			objects, err := b.objectsInMemory(n)
			return objects <= 1, err // The cluster facts' own.
		})
	}
	before, err := n.ask(request{})
	if err != nil {
		return err
	}
	if _, err := each(func(s counterv1.CounterClient) error {
		_, err := s.Increment(b.ctx, &counterv1.IncrementRequest{})
		return err
	}); err != nil {
		return err
	}
	sayf("memory: waiting until all %d objects are evicted", objects)
	if err := evicted(); err != nil {
		return err
	}
	empty, err := n.ask(request{})
	if err != nil {
		return err
	}
	took, err := each(read)
	if err != nil {
		return err
	}
	full, err := n.ask(request{})
	if err != nil {
		return err
	}
	inMemory, err := b.objectsInMemory(n)
	if err != nil {
		return err
	}
	sayf("memory: waiting for the second eviction")
	if err := evicted(); err != nil {
		return err
	}
	after, err := n.ask(request{})
	if err != nil {
		return err
	}
	per := func(bytes, without uint64) float64 { return (float64(bytes) - float64(without)) / float64(objects) }
	mib := func(bytes uint64) float64 { return float64(bytes) / (1 << 20) }
	b.printf("\n## memory, %d objects that have data\n\n", objects)
	b.printf("activations per second               %10.0f  (each a first read from disk, Go client, 256 callers)\n", float64(objects)/took.Seconds())
	b.printf("heap per idle object in memory       %10.0f bytes  (%d in memory)\n", per(full.HeapBytes, empty.HeapBytes), inMemory)
	b.printf("goroutines with the objects          %10d, without %d\n", full.Goroutines, after.Goroutines)
	b.printf("heap per evicted object              %10.0f bytes\n", per(after.HeapBytes, before.HeapBytes))
	b.printf("heap with the evicted objects        %10.1f MiB, %.1f MiB before there were any\n", mib(after.HeapBytes), mib(before.HeapBytes))
	return nil
}

// forEach calls do with 0 … n-1 from so many callers.
func (b *bench) forEach(callers, n int, do func(i int) error) (int, error) {
	type result struct {
		done int
		err  error
	}
	results := make(chan result)
	for caller := range callers {
		go func() {
			var r result
			for i := caller; i < n && r.err == nil; i += callers {
				if r.err = do(i); r.err == nil {
					r.done++
				}
			}
			results <- r
		}()
	}
	total, err := 0, error(nil)
	for range callers {
		r := <-results
		total += r.done
		if r.err != nil {
			err = r.err
		}
	}
	return total, err
}

// objectsInMemory reads the node's metric of counters.
func (b *bench) objectsInMemory(n *child) (int, error) {
	req, err := http.NewRequestWithContext(b.ctx, http.MethodGet, "http://"+n.ready.Admin+"/metrics", http.NoBody)
	if err != nil {
		return 0, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	defer func() { _ = resp.Body.Close() }()
	const metric = `holdfast_objects{class="Counter"}`
	for line := range strings.Lines(readAll(resp.Body)) {
		if value, ok := strings.CutPrefix(line, metric+" "); ok {
			f, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
			return int(f), err
		}
	}
	return 0, fmt.Errorf("no metric %s at %s", metric, n.ready.Admin)
}
