package e2e_test

import (
	"context"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"text/tabwriter"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/holdfast-io/holdfast/client"
	"github.com/holdfast-io/holdfast/fault"
	"github.com/holdfast-io/holdfast/test/e2e/internal/classes/classesv1"
)

var (
	faultsFor  = flag.Duration("faults", 25*time.Second, "how long TestFaults makes faults; each kind comes at least once")
	faultsOnly = flag.String("faults-only", "", "the kinds of faults that TestFaults makes, with commas between; empty: all")
	faultsSeed = flag.Uint64("faults-seed", 0, "the seed of TestFaults; 0 draws one")
)

const (
	callersPerNode = 4 // plain gRPC, each through one node
	clientCallers  = 4 // the Go client, which goes to the owners
	callTimeout    = 3 * time.Second
	objectsAtATime = 30
	// generationTime is how long callers stay with the same objects: their histories are searched one
	// by one, and must not get too long.
	generationTime = 8 * time.Second
)

// caller makes one call after another and notes what it saw.
type caller struct {
	id   int
	rng  *rand.Rand
	stub func(object string) (context.Context, classesv1.RegisterClient)
	seen map[string]state
}

// chaos is a cluster under load.
type chaos struct {
	t       *testing.T
	nodes   []*process
	proxy   *proxy
	history *history
	callers []*caller
	rng     *rand.Rand

	stop  chan struct{}
	wg    sync.WaitGroup
	acked []atomic.Int64 // by caller

	mu      sync.Mutex
	calls   []call
	windows []window      // closed ones
	ended   time.Duration // when the callers stopped
}

// call is one call for the table.
type call struct {
	object string
	began  time.Duration
	ended  time.Duration
	result string // "" acknowledged, else the reason
}

// window is the time of one fault, until all is well again.
type window struct {
	kind       string
	began, end time.Duration
}

// faultKinds are what can happen. Each returns when it is over and mended.
var faultKinds = map[string]func(*chaos){
	"kill":      (*chaos).kill,
	"pause":     (*chaos).pause,
	"empty":     (*chaos).empty,
	"rolling":   (*chaos).rolling,
	"delay":     (*chaos).delay,
	"drop":      (*chaos).drop,
	"cut":       (*chaos).cut,
	"isolation": (*chaos).isolate,
}

// TestFaults checks that a cluster stays linearizable, object by object, and loses nothing (P1, P2,
// P4) while processes are killed, paused and restarted, disks emptied, and connections between nodes
// made slow, deaf or dead, one after another in an order drawn from a seed.
func TestFaults(t *testing.T) {
	seed := *faultsSeed
	for seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("again with: go test ./test/e2e -run TestFaults -faults=%s -faults-seed=%d", *faultsFor, seed)
	c := newChaos(t, seed)
	c.load()
	c.run(*faultsFor)
	c.finish()
	c.judge()
}

func newChaos(t *testing.T, seed uint64) *chaos {
	t.Helper()
	nodes := prepareNodes(t, testnode, 3)
	c := &chaos{t: t, nodes: nodes, proxy: startProxy(t, nodes), rng: rand.New(rand.NewPCG(seed, 0)), stop: make(chan struct{})}
	startNodes(t, nodes)
	for _, p := range nodes {
		conn, err := grpc.NewClient("passthrough:///"+p.ports["grpc"], grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.Config{BaseDelay: 20 * time.Millisecond, Multiplier: 1.6, MaxDelay: 200 * time.Millisecond}, MinConnectTimeout: time.Second}))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		plain := classesv1.NewRegisterClient(conn)
		for range callersPerNode {
			c.addCaller(seed, func(object string) (context.Context, classesv1.RegisterClient) {
				return metadata.AppendToOutgoingContext(context.Background(), "holdfast-name", object), plain
			})
		}
	}
	quick, err := client.New([]string{nodes[0].ports["grpc"], nodes[1].ports["grpc"], nodes[2].ports["grpc"]})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(quick.Close)
	for range clientCallers {
		c.addCaller(seed, func(object string) (context.Context, classesv1.RegisterClient) {
			return context.Background(), classesv1.NewRegisterClient(quick.Name("Register", object))
		})
	}
	c.acked = make([]atomic.Int64, len(c.callers))
	c.history = &history{began: time.Now()}
	return c
}

func (c *chaos) addCaller(seed uint64, stub func(string) (context.Context, classesv1.RegisterClient)) {
	id := len(c.callers)
	c.callers = append(c.callers, &caller{id: id, rng: rand.New(rand.NewPCG(seed, uint64(id+1))), stub: stub, seen: make(map[string]state)})
}

// load lets the callers call.
func (c *chaos) load() {
	for _, one := range c.callers {
		c.wg.Go(func() {
			pace := time.NewTicker(4 * time.Millisecond)
			defer pace.Stop()
			for {
				select {
				case <-c.stop:
					return
				case <-pace.C:
				}
				generation := int(c.history.now() / generationTime)
				c.call(one, fmt.Sprintf("%d-%d", generation, one.rng.IntN(objectsAtATime)))
			}
		})
	}
}

// call makes a call, which is a write more often than not.
func (c *chaos) call(one *caller, object string) {
	op := operation{object: object, client: one.id}
	switch one.rng.IntN(5) {
	case 0, 1:
		op.kind = get
	case 2:
		op.kind, op.amount = add, 1+one.rng.Int64N(1<<40)
	default:
		op.kind, op.amount, op.expected = compareAndSet, one.rng.Int64(), one.seen[object].value
	}
	c.do(one, op)
}

// do makes a call and notes what came of it.
func (c *chaos) do(one *caller, op operation) bool {
	ctx, stub := one.stub(op.object)
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	op.call = c.history.now()
	var err error
	switch op.kind {
	case over: // Nobody calls that.
	case get:
		var s *classesv1.State
		s, err = stub.Get(ctx, &classesv1.GetRequest{})
		op.state = state{s.GetValue(), s.GetVersion()}
	case add:
		var s *classesv1.State
		s, err = stub.Add(ctx, &classesv1.AddRequest{Amount: op.amount})
		op.state, op.did = state{s.GetValue(), s.GetVersion()}, true
	case compareAndSet:
		var r *classesv1.CompareAndSetResponse
		r, err = stub.CompareAndSet(ctx, &classesv1.CompareAndSetRequest{Expected: op.expected, Value: op.amount})
		op.state, op.did = state{r.GetState().GetValue(), r.GetState().GetVersion()}, r.GetSwapped()
	}
	op.end = c.history.now()
	result, ran := outcome(err)
	if op.known = err == nil; op.known {
		one.seen[op.object] = op.state
		if one.id < len(c.acked) {
			c.acked[one.id].Add(1)
		}
	}
	if ran {
		c.history.add(op)
	}
	c.mu.Lock()
	c.calls = append(c.calls, call{op.object, op.call, op.end, result})
	c.mu.Unlock()
	return op.known
}

// outcome says why a call failed, and whether it may have run. That it did not is believed where the
// error says so: when it did all the same, the history does not add up.
func outcome(err error) (result string, mayHaveRun bool) {
	if err == nil {
		return "", true
	}
	switch reason := fault.ReasonOf(err); reason {
	case fault.NoOwner, fault.OwnerChanged, fault.Overloaded, fault.ObjectReset:
		return string(reason), false
	case "":
	default:
		return string(reason), true
	}
	s := status.Convert(err)
	// The two ways in which gRPC says that there was no connection to send the call on.
	if s.Code() == codes.Unavailable && (strings.Contains(s.Message(), "while dialing") || strings.Contains(s.Message(), "reading server preface")) {
		return "not connected", false
	}
	return s.Code().String(), true
}

// run makes faults until the time is over and each kind has come.
func (c *chaos) run(limit time.Duration) {
	kinds := slices.Sorted(maps.Keys(faultKinds))
	if *faultsOnly != "" {
		kinds = strings.Split(*faultsOnly, ",")
		for _, kind := range kinds {
			if faultKinds[kind] == nil {
				c.t.Fatalf("-faults-only: there is no fault %q; there are %v", kind, slices.Sorted(maps.Keys(faultKinds)))
			}
		}
	}
	for {
		c.rng.Shuffle(len(kinds), func(i, j int) { kinds[i], kinds[j] = kinds[j], kinds[i] })
		for i, kind := range kinds {
			if c.history.now() > limit && len(c.windows) >= len(kinds) {
				return
			}
			if i > 0 || len(c.windows) > 0 {
				c.calm()
			}
			w := window{kind: kind, began: c.history.now()}
			faultKinds[kind](c)
			c.mend()
			w.end = c.history.now()
			c.mu.Lock()
			c.windows = append(c.windows, w)
			c.mu.Unlock()
			if c.t.Failed() {
				return
			}
		}
	}
}

// calm lets the cluster serve for a moment, so that there is something to compare with.
func (c *chaos) calm() { c.forSome(400*time.Millisecond, 400*time.Millisecond) }

// forSome is how long a fault lasts.
func (c *chaos) forSome(least, most time.Duration) {
	<-time.After(least + time.Duration(c.rng.Int64N(int64(most-least)+1)))
}

// mend waits until every caller is answered again.
func (c *chaos) mend() {
	before := make([]int64, len(c.acked))
	for i := range c.acked {
		before[i] = c.acked[i].Load()
	}
	waitFor(c.t, "every caller to be answered", 60*time.Second, func() (bool, string) {
		for i := range c.acked {
			if c.acked[i].Load() < before[i]+3 {
				return false, fmt.Sprintf("caller %d is not", i)
			}
		}
		return true, ""
	})
}

func (c *chaos) pick() *process { return c.nodes[c.rng.IntN(len(c.nodes))] }

func (c *chaos) restart(p *process) {
	p.start()
	p.waitReady()
}

func (c *chaos) kill() {
	p := c.pick()
	p.kill()
	c.forSome(0, time.Second)
	c.restart(p)
}

// pause stops a process for longer than an election takes, and lets it go on as if nothing had been,
// with many reads waiting at its door: it must not answer them from what it remembers.
func (c *chaos) pause() {
	i := c.rng.IntN(len(c.nodes))
	p := c.nodes[i]
	if err := p.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		c.t.Fatal(err)
	}
	c.forSome(2*time.Second, 3*time.Second)
	var asked, answered sync.WaitGroup
	generation := int(c.history.now() / generationTime)
	for n := range 4 * objectsAtATime {
		one := &caller{id: 1000 + n, stub: c.callers[i*callersPerNode].stub, seen: make(map[string]state)}
		asked.Add(1)
		answered.Go(func() {
			asked.Done()
			c.do(one, operation{object: fmt.Sprintf("%d-%d", generation, n%objectsAtATime), client: one.id, kind: get})
		})
	}
	asked.Wait()
	c.forSome(50*time.Millisecond, 50*time.Millisecond) // For the requests to be on their way.
	if err := p.cmd.Process.Signal(syscall.SIGCONT); err != nil {
		c.t.Fatal(err)
	}
	answered.Wait()
}

// empty takes a node's disk away, when the others have all there is, and waits until the node has it
// again: two lost disks of three are more than is promised.
func (c *chaos) empty() {
	p := c.pick()
	waitSpread(c.t, c.nodes[0], len(c.nodes))
	p.kill()
	if err := os.RemoveAll(p.dir); err != nil {
		c.t.Fatal(err)
	}
	c.restart(p)
	waitSpread(c.t, c.nodes[0], len(c.nodes))
}

// rolling restarts all nodes in order, as for an upgrade.
func (c *chaos) rolling() {
	for _, p := range c.nodes {
		began := time.Now()
		p.stop()
		if p.ended != nil {
			c.t.Errorf("%s ended with %v", p.name, p.ended)
		}
		if took := time.Since(began); took > 5*time.Second {
			c.t.Logf("%s took %s to stop", p.name, took)
			p.dumpLog()
		}
		c.restart(p)
		c.mend()
	}
}

// ways draws one way between two nodes, and half the time the way back too.
func (c *chaos) ways() []way {
	i := c.rng.IntN(len(c.nodes))
	from, to := c.nodes[i].name, c.nodes[(i+1+c.rng.IntN(len(c.nodes)-1))%len(c.nodes)].name
	if c.rng.IntN(2) == 0 {
		return []way{{from, to}}
	}
	return []way{{from, to}, {to, from}}
}

func (c *chaos) trouble(t trouble, ways ...way) {
	c.proxy.set(t, ways...)
	c.forSome(1500*time.Millisecond, 2500*time.Millisecond)
	c.proxy.set(trouble{}, ways...)
}

func (c *chaos) delay() {
	c.trouble(trouble{delay: time.Duration(20+c.rng.IntN(300)) * time.Millisecond}, c.ways()...)
}

func (c *chaos) drop() { c.trouble(trouble{drop: true}, c.ways()...) }

func (c *chaos) cut() { c.trouble(trouble{cut: true}, c.ways()...) }

// isolate takes a node away from the others; its callers still reach it.
func (c *chaos) isolate() {
	p := c.pick()
	var ways []way
	for _, other := range c.nodes {
		if other != p {
			ways = append(ways, way{p.name, other.name}, way{other.name, p.name})
		}
	}
	c.trouble(trouble{drop: true}, ways...)
}

// finish stops the callers, waits until the cluster is whole, and reads every object once more.
func (c *chaos) finish() {
	close(c.stop)
	c.wg.Wait()
	c.ended = c.history.now()
	waitSpread(c.t, c.nodes[0], len(c.nodes))
	for _, p := range c.nodes {
		p.alive()
	}
	for i, object := range slices.Sorted(maps.Keys(c.history.byObject())) {
		one := c.callers[i%len(c.callers)]
		waitFor(c.t, "a last answer of "+object, 30*time.Second, func() (bool, string) {
			return c.do(one, operation{object: object, client: one.id, kind: get}), "none"
		})
	}
}

// judge checks the history and prints the table.
func (c *chaos) judge() {
	began := time.Now()
	wrong, undecided := c.history.check(c.t)
	checked := time.Since(began)
	objects := c.history.byObject()
	missing := 0
	for object, ops := range objects {
		if n := lost(ops); n > 0 {
			missing += n
			c.t.Errorf("%s has lost %d acknowledged writes", object, n)
		}
	}
	for i, object := range wrong {
		if i == 3 {
			break
		}
		file, err := visualize(object, objects[object])
		c.t.Errorf("the history of %s is not linearizable: see %s %v", object, file, errOrNothing(err))
	}
	if undecided > 0 {
		c.t.Errorf("the histories of %d objects could not be decided within %s each", undecided, checkTimeMax)
	}
	linearizable := "yes"
	if len(wrong) > 0 || undecided > 0 {
		linearizable = fmt.Sprintf("no: %d objects are not, %d undecided", len(wrong), undecided)
	}
	c.t.Logf("%s\n%d objects, searched in %s; lost writes %d; linearizable %s", c.table(), len(objects), checked.Round(time.Millisecond), missing, linearizable)
}

func errOrNothing(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// row is a line of the table: a kind of fault, or the time without one.
type row struct {
	times, calls, acked int
	failed              map[string]int
	pause               time.Duration // the longest of one object
	lasted              time.Duration // the longest, until every caller was answered again
}

// table says what happened under each kind of fault. A call belongs to the first fault that it saw.
func (c *chaos) table() string {
	const none = "(none)"
	rows := map[string]*row{none: {failed: make(map[string]int)}}
	for _, w := range c.windows {
		if rows[w.kind] == nil {
			rows[w.kind] = &row{failed: make(map[string]int)}
		}
		rows[w.kind].times++
		rows[w.kind].lasted = max(rows[w.kind].lasted, w.end-w.began)
	}
	kindOf := func(one call) string {
		for _, w := range c.windows {
			if one.ended > w.began && one.began < w.end {
				return w.kind
			}
		}
		return none
	}
	answers := make(map[string][]time.Duration)
	for _, one := range c.calls {
		r := rows[kindOf(one)]
		r.calls++
		if one.result != "" {
			r.failed[one.result]++
			continue
		}
		r.acked++
		if one.began > c.ended {
			continue // The last reads come when nobody else calls.
		}
		answers[one.object] = append(answers[one.object], one.ended)
	}
	for _, w := range c.windows {
		rows[w.kind].pause = max(rows[w.kind].pause, longestPause(answers, w))
	}
	var b strings.Builder
	tw := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintf(tw, "\nFAULT\tTIMES\tLASTED\tCALLS\tACKED\tLONGEST PAUSE\tFAILED\n")
	for _, kind := range slices.Sorted(maps.Keys(rows)) {
		r := rows[kind]
		var failed []string
		for _, reason := range slices.Sorted(maps.Keys(r.failed)) {
			failed = append(failed, fmt.Sprintf("%s %d", reason, r.failed[reason]))
		}
		_, _ = fmt.Fprintf(tw, "%s\t%d\t%s\t%d\t%d\t%s\t%s\n", kind, r.times, r.lasted.Round(time.Millisecond), r.calls, r.acked, r.pause.Round(time.Millisecond), strings.Join(failed, ", "))
	}
	_ = tw.Flush() // Into memory.
	if r := rows[none]; r.acked*10 < r.calls*9 {
		c.t.Errorf("without a fault only %d of %d calls were acknowledged", r.acked, r.calls)
	}
	return b.String()
}

// longestPause is the longest time that an object gave no answer, begun while a fault was on and
// ended by an answer: of the objects in use then.
func longestPause(answers map[string][]time.Duration, w window) time.Duration {
	longest := time.Duration(0)
	for _, at := range answers {
		slices.Sort(at)
		for i := 1; i < len(at); i++ {
			from := max(at[i-1], w.began)
			if at[i] > w.began && at[i-1] < w.end && at[i]-at[i-1] < generationTime {
				longest = max(longest, at[i]-from)
			}
		}
	}
	return longest
}
