package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/holdfast-io/holdfast/client"
	"github.com/holdfast-io/holdfast/examples/counter"
	"github.com/holdfast-io/holdfast/examples/counter/counterv1"
	"github.com/holdfast-io/holdfast/internal/workerd"
	"github.com/holdfast-io/holdfast/node"
	holdfastv1 "github.com/holdfast-io/holdfast/proto/holdfast/v1"
	"github.com/holdfast-io/holdfast/worker"
	"github.com/holdfast-io/holdfast/worker/bundle"
	"github.com/holdfast-io/holdfast/worker/web/outbound"
)

const (
	// workersProject is the worker that is served: a counter, which answers /increment and / for ?name=.
	workersProject = "worker/testdata/seed"
	// workerdBinaries are where "make differential" puts workerd.
	workerdBinaries = "build/differential/node_modules/@cloudflare/workerd-*/bin/workerd"

	connections   = 64
	activeObjects = 1000
	coldObjects   = 200 // that are called one after the other
)

// startWorker serves a node that runs workers.
func startWorker(cfg roleConfig) (*server, error) {
	fetch := outbound.New(outbound.Config{})
	s, err := serveLoaded(cfg, counter.Class(), &loader{fetch})
	if err != nil {
		fetch.Close()
		return nil, err
	}
	stop := s.close
	s.close = func() {
		stop()
		fetch.Close()
	}
	return s, nil
}

// loader has a node run the workers that are deployed, as cmd/node's does.
type loader struct{ fetch *outbound.Client }

// Load implements node.Loader.
func (l *loader) Load(_ context.Context, d node.Deployment) (*node.Worker, error) {
	w, err := worker.New(worker.Config{Bundle: d.Bundle, Cluster: d.Objects, Fetch: l.fetch, Logger: d.Logger})
	if err != nil {
		return nil, err
	}
	return &node.Worker{Classes: w.Classes(), Handler: w, Close: w.Close}, nil
}

// counters are what serves the counter to the same client: by HTTP, or as a Go class by plain gRPC.
type counters struct {
	name string
	pids []int
	// call increments a counter, or reads it, and returns its count.
	call func(ctx context.Context, caller int, name string, increment bool) (int64, error)
}

// overHTTP is a worker at some addresses, which its callers are spread over.
func (b *bench) overHTTP(name string, pids []int, addresses ...string) *counters {
	callers := make([]httpCaller, connections)
	for i := range callers {
		callers[i].address = addresses[i%len(addresses)]
	}
	context.AfterFunc(b.ctx, func() {
		for i := range callers {
			callers[i].close()
		}
	})
	return &counters{name: name, pids: pids, call: func(ctx context.Context, caller int, name string, increment bool) (int64, error) {
		path := "/?name="
		if increment {
			path = "/increment?name="
		}
		body, err := callers[caller].get(ctx, path+name)
		if err != nil {
			return 0, err
		}
		return strconv.ParseInt(string(body[bytes.LastIndexByte(body, ' ')+1:]), 10, 64)
	}}
}

// httpCaller makes requests over a connection of its own, one after the other. It does no more than that, for
// what a client of more comfort takes of the CPU is missing to a server that can use all of it.
type httpCaller struct {
	address string
	out     []byte
	in      *bufio.Reader

	mu   sync.Mutex // of conn, which close may want while it waits
	conn net.Conn
}

// get returns the body of what is answered with 200.
func (c *httpCaller) get(ctx context.Context, path string) ([]byte, error) {
	if c.in == nil {
		var d net.Dialer
		conn, err := d.DialContext(ctx, "tcp", c.address)
		if err != nil {
			return nil, err
		}
		c.mu.Lock()
		c.conn = conn
		c.mu.Unlock()
		c.in = bufio.NewReader(conn)
	}
	c.out = fmt.Appendf(c.out[:0], "GET %s HTTP/1.1\r\nHost: %s\r\n\r\n", path, c.address)
	if _, err := c.conn.Write(c.out); err != nil {
		return nil, err
	}
	resp, err := http.ReadResponse(c.in, nil)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK || resp.Close {
		return nil, fmt.Errorf("%s: %.200s: %w", resp.Status, body, cmp.Or(err, errNotKept))
	}
	return body, nil
}

var errNotKept = errors.New("not 200 and kept open")

func (c *httpCaller) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conn != nil {
		_ = c.conn.Close()
	}
}

// load calls so many counters of a set over all connections, and wants every acknowledged increment to be
// counted afterwards.
func (b *bench) workersLoad(c *counters, set string, objects int, increment bool) (figures, error) {
	var acknowledged atomic.Int64
	names := make([]string, objects)
	for i := range names {
		names[i] = fmt.Sprintf("%s-%d", set, i)
	}
	before, err := c.sum(b.ctx, names)
	if err != nil {
		return figures{}, err
	}
	var used time.Duration
	cpu := func() (total time.Duration) {
		for _, pid := range c.pids {
			total += cpuOf(strconv.Itoa(pid))
		}
		return total
	}
	count, latencies, err := load(b.ctx, connections, b.o.length, func(ctx context.Context, caller, i int) error {
		_, err := c.call(ctx, caller, names[pick(caller, i, objects)], increment)
		if err == nil && increment {
			acknowledged.Add(1)
		}
		return err
	}, func() { used = -cpu() })
	if err != nil {
		return figures{}, err
	}
	used += cpu()
	after, err := c.sum(b.ctx, names)
	if err != nil {
		return figures{}, err
	}
	if got, want := after-before, acknowledged.Load(); got != want {
		return figures{}, fmt.Errorf("%s: %d increments were acknowledged, and %d counted", c.name, want, got)
	}
	slices.Sort(latencies)
	return figures{
		perSecond: float64(count) / b.o.length.Seconds(), p50: quantile(latencies, 0.5), p99: quantile(latencies, 0.99),
		cpu: used / time.Duration(count),
	}, nil
}

func (c *counters) sum(ctx context.Context, names []string) (total int64, err error) {
	for _, name := range names {
		n, err := c.call(ctx, 0, name, false)
		if err != nil {
			return 0, err
		}
		total += n
	}
	return total, nil
}

// cold increments counters that nobody has called, over all connections, and returns how many in a second.
func (b *bench) workersCold(c *counters, set string) (figures, error) {
	var next atomic.Int64
	failed := make(chan error, connections)
	begun := time.Now()
	for caller := range connections {
		go func() {
			for {
				i := next.Add(1)
				if i > activeObjects {
					failed <- nil
					return
				}
				if _, err := c.call(b.ctx, caller, fmt.Sprintf("%s-%d", set, i), true); err != nil {
					failed <- err
					return
				}
			}
		}()
	}
	var errs []error
	for range connections {
		errs = append(errs, <-failed)
	}
	return figures{perSecond: activeObjects / time.Since(begun).Seconds()}, errors.Join(errs...)
}

// first reads counters that nobody has called, one after the other, and returns the latencies.
func (b *bench) workersFirst(c *counters, set string) (figures, error) {
	latencies := make([]time.Duration, coldObjects)
	for i := range latencies {
		begun := time.Now()
		if _, err := c.call(b.ctx, 0, fmt.Sprintf("%s-%d", set, i), false); err != nil {
			return figures{}, err
		}
		latencies[i] = time.Since(begun)
	}
	slices.Sort(latencies)
	return figures{p50: quantile(latencies, 0.5), p99: quantile(latencies, 0.99)}, nil
}

// resident returns the memory of the processes, in bytes.
func (c *counters) resident() (total int64, err error) {
	for _, pid := range c.pids {
		bytes, err := memoryOf(pid, "VmRSS")
		if err != nil {
			return 0, err
		}
		total += bytes
	}
	return total, nil
}

// workerNode is the worker on a node alone.
func (b *bench) workerNode(file []byte) (*counters, error) {
	n, err := b.spawn(roleConfig{Role: "worker", Name: "worker", Dir: filepath.Join(b.dir, "worker"), Bootstrap: true})
	if err != nil {
		return nil, err
	}
	return b.deployed("worker, one node", file, n)
}

// workerCluster is the worker on three nodes.
func (b *bench) workerCluster(file []byte) (*counters, error) {
	nodes, err := b.clusterOf(roleConfig{Role: "worker"})
	if err != nil {
		return nil, err
	}
	return b.deployed("worker, three nodes", file, nodes...)
}

// deployed deploys the worker, and waits until every one of the nodes runs it.
func (b *bench) deployed(name string, file []byte, nodes ...*child) (*counters, error) {
	conn, err := dial(nodes[0].ready.GRPC)
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close() }()
	admin := holdfastv1.NewAdminClient(conn)
	var addresses []string
	var pids []int
	for _, n := range nodes {
		addresses, pids = append(addresses, n.ready.HTTP), append(pids, n.cmd.Process.Pid)
	}
	var number uint64
	return b.overHTTP(name, pids, addresses...), b.until(func() (bool, error) {
		if number == 0 { // A cluster that has just begun may not yet know that all its nodes take deployments.
			stream, err := admin.Deploy(b.ctx)
			for part := range slices.Chunk(file, 1<<20) {
				if err == nil {
					err = stream.Send(&holdfastv1.DeployRequest{Part: part})
				}
			}
			if err != nil && !errors.Is(err, io.EOF) {
				return false, err
			}
			resp, err := stream.CloseAndRecv()
			if err != nil {
				return false, nil //nolint:nilerr // as above
			}
			number = resp.GetNumber()
		}
		list, err := admin.ListDeployments(b.ctx, &holdfastv1.ListDeploymentsRequest{})
		if err != nil {
			return false, err
		}
		running := 0
		for _, w := range list.GetWorkers() {
			for _, n := range w.GetNodes() {
				if n.GetNumber() == number {
					running++
				}
			}
		}
		return running == len(nodes), nil
	})
}

// goClass is the same counter as a Go class, called by the Go client: no JavaScript, no HTTP.
func (b *bench) goClass() (*counters, error) {
	n, err := b.spawn(roleConfig{Role: "node", Name: "go", Dir: filepath.Join(b.dir, "go"), Bootstrap: true})
	if err != nil {
		return nil, err
	}
	c, err := client.New([]string{n.ready.GRPC})
	if err != nil {
		return nil, err
	}
	context.AfterFunc(b.ctx, c.Close)
	return &counters{name: "Go class, Go client", pids: []int{n.cmd.Process.Pid}, call: func(ctx context.Context, _ int, name string, increment bool) (int64, error) {
		stub := counterv1.NewCounterClient(c.Name("Counter", name))
		if increment {
			resp, err := stub.Increment(ctx, &counterv1.IncrementRequest{})
			return resp.GetValue(), err
		}
		resp, err := stub.Get(ctx, &counterv1.GetRequest{})
		return resp.GetValue(), err
	}}, nil
}

// workerd is the worker on workerd, or nil where there is none.
func (b *bench) workerd(built *bundle.Bundle) (*counters, func(), error) {
	binary := b.o.workerd
	if found, _ := filepath.Glob(workerdBinaries); binary == "" && len(found) > 0 {
		binary = found[0]
	}
	if binary == "" {
		b.printf("workerd: SKIPPED, there is no %s; make differential fetches it, and -workerd names another\n", workerdBinaries)
		return nil, func() {}, nil
	}
	dir, err := os.MkdirTemp(b.dir, "workerd-")
	if err != nil {
		return nil, nil, err
	}
	binary, err = filepath.Abs(binary)
	if err != nil {
		return nil, nil, err
	}
	p, err := workerd.Start(b.ctx, binary, dir, built, true)
	if err != nil {
		return nil, nil, err
	}
	return b.overHTTP("workerd", []int{p.PID}, p.Addr), p.Close, nil
}

// workers measures a worker by HTTP on one node and on three against workerd, which stores on disk, and
// against the same counter as a Go class.
func (b *bench) workers() error {
	built, err := bundle.Build(workersProject, bundle.Options{Modules: worker.Modules()})
	if err != nil {
		return err
	}
	file, err := built.Encode()
	if err != nil {
		return err
	}
	results := make(map[cell][]figures)
	for round := range b.o.rounds {
		if err := b.workersRound(round, built.Bundle, file, results); err != nil {
			return err
		}
		b.stopAll()
	}
	b.printWorkers(results)
	return nil
}

// clear deletes what servers that have ended have stored.
func (b *bench) clear() error {
	entries, err := os.ReadDir(b.dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := os.RemoveAll(filepath.Join(b.dir, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

// Rows of the part workers.
const (
	rowFirst     = "a new object, one after the other"
	rowCold      = "1,000 new objects, incremented"
	rowOneWrite  = "/increment, one object"
	rowOneRead   = "/, one object"
	rowManyWrite = "/increment, 1,000 objects"
	rowManyRead  = "/, 1,000 objects"
	rowResident  = "resident memory, MiB"
	rowObject    = "resident memory of an object, KiB"
	rowEngine    = "an engine until its first answer"
	rowEngineKiB = "resident memory of an engine, KiB"
)

var workersRows = []string{rowEngine, rowEngineKiB, rowFirst, rowCold, rowOneWrite, rowOneRead, rowManyWrite, rowManyRead, rowResident, rowObject}

// workersRound measures everything once. The servers run one after the other: each has the machine for itself.
func (b *bench) workersRound(round int, built *bundle.Bundle, file []byte, results map[cell][]figures) error {
	take := func(server int, row string, f figures) {
		sayf("workers, round %d of %d: %-20s %-36s %8.0f  p50 %s", round+1, b.o.rounds, workersNames[server], row, f.perSecond, f.p50)
		results[cell{row, server}] = append(results[cell{row, server}], f)
	}
	if b.o.rows.MatchString(rowEngine) || b.o.rows.MatchString(rowEngineKiB) {
		for server, measure := range []func() (start, memory figures, err error){
			func() (start, memory figures, err error) { return b.workerdStart(built) },
			b.workersEngines,
		} {
			start, memory, err := measure()
			if err != nil {
				return fmt.Errorf("%s: %w", rowEngine, err)
			}
			if start.p50 > 0 {
				take(server, rowEngine, start)
				take(server, rowEngineKiB, memory)
			}
		}
		if err := b.clear(); err != nil {
			return err
		}
	}
	reference := func() (*counters, func(), error) { return b.workerd(built) }
	own := func(start func() (*counters, error)) func() (*counters, func(), error) {
		return func() (*counters, func(), error) {
			c, err := start()
			return c, b.stopAll, err
		}
	}
	for i, start := range []func() (*counters, func(), error){
		reference,
		own(func() (*counters, error) { return b.workerNode(file) }),
		own(func() (*counters, error) { return b.workerCluster(file) }),
		own(b.goClass),
	} {
		c, stop, err := start()
		if err != nil {
			return err
		}
		if c == nil {
			continue
		}
		err = b.workersRows(c, fmt.Sprintf("r%d", round), func(row string, f figures) { take(i, row, f) })
		stop()
		if err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
		if err := b.clear(); err != nil {
			return err
		}
	}
	return nil
}

// workersRows measures every row of one server.
func (b *bench) workersRows(c *counters, set string, take func(row string, f figures)) error {
	for _, row := range []struct {
		name    string
		measure func() (figures, error)
	}{
		{rowFirst, func() (figures, error) { return b.workersFirst(c, set+"-first") }},
		{rowCold, func() (figures, error) { return b.workersCold(c, set+"-cold") }},
		{rowOneWrite, func() (figures, error) { return b.workersLoad(c, set+"-one", 1, true) }},
		{rowOneRead, func() (figures, error) { return b.workersLoad(c, set+"-one", 1, false) }},
		{rowManyWrite, func() (figures, error) { return b.workersLoad(c, set+"-many", activeObjects, true) }},
		{rowManyRead, func() (figures, error) { return b.workersLoad(c, set+"-many", activeObjects, false) }},
		{rowResident, func() (figures, error) {
			bytes, err := c.resident()
			return figures{perSecond: float64(bytes >> 20)}, err
		}},
		{rowObject, func() (figures, error) {
			before, err := c.resident()
			if err != nil {
				return figures{}, err
			}
			if _, err := b.workersCold(c, set+"-kept"); err != nil {
				return figures{}, err
			}
			after, err := c.resident()
			return figures{perSecond: float64(after-before) / activeObjects / 1024}, err
		}},
	} {
		if !b.o.rows.MatchString(row.name) {
			continue
		}
		f, err := row.measure()
		if err != nil {
			return fmt.Errorf("%s: %w", row.name, err)
		}
		take(row.name, f)
	}
	return nil
}

// workersNames are those of the servers, in the order in which they are measured.
var workersNames = []string{"workerd", "worker, one node", "worker, three nodes", "Go class, Go client"}

// printWorkers prints the medians, and their ratios to workerd's of the same round.
func (b *bench) printWorkers(results map[cell][]figures) {
	b.printf("\n## a counter as a worker by HTTP, %d connections; workerd stores on disk, on one node, and its engine is its process\n\n%-36s %-22s %10s %9s %9s %9s %9s\n",
		connections, "", "", "per second", "p50", "p99", "CPU/call", "× workerd")
	perSecond := func(f figures) float64 { return f.perSecond }
	for _, row := range workersRows {
		for i, name := range workersNames {
			all := results[cell{row, i}]
			if len(all) == 0 {
				continue
			}
			rate := ""
			if n := median(all, perSecond); n > 0 {
				rate = fmt.Sprintf("%.0f", n)
			}
			b.printf("%-36s %-22s %10s %9s %9s %9s %9s\n", row, name, rate,
				measured(all, func(f figures) time.Duration { return f.p50 }), measured(all, func(f figures) time.Duration { return f.p99 }),
				measured(all, func(f figures) time.Duration { return f.cpu }), ratioTo(all, results[cell{row, 0}], i))
		}
	}
}

// measured is the median of a time, or nothing where it was not measured.
func measured(all []figures, of func(figures) time.Duration) string {
	d := median(all, func(f figures) float64 { return float64(of(f)) })
	if d == 0 {
		return ""
	}
	return short(d)
}

// ratioTo is the median of the rounds' ratios; of latencies where there is no rate.
func ratioTo(all, reference []figures, i int) string {
	if i == 0 || len(reference) != len(all) {
		return ""
	}
	ratios := make([]figures, len(all))
	for r := range all {
		ratios[r].perSecond = all[r].perSecond / reference[r].perSecond
		if reference[r].perSecond == 0 {
			ratios[r].perSecond = float64(all[r].p50) / float64(reference[r].p50)
		}
	}
	return fmt.Sprintf("%.2f", median(ratios, func(f figures) float64 { return f.perSecond }))
}
