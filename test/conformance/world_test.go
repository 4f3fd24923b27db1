package conformance_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/holdfast-io/holdfast/actor"
	"github.com/holdfast-io/holdfast/node"
	"github.com/holdfast-io/holdfast/placement"
	holdfastv1 "github.com/holdfast-io/holdfast/proto/holdfast/v1"
)

// The program of the tests is that of their nodes too. A probe that memberlist has under way when it is shut down
// ends some seconds later, by itself.
func TestMain(m *testing.M) {
	if cfg, ok := os.LookupEnv(nodeVariable); ok {
		if err := beNode(cfg); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/hashicorp/memberlist.(*Memberlist).probeNode"))
}

// between is what happens to an object between the steps of a test.
type between string

const (
	stays   between = "stays in memory"
	evicted between = "is evicted between steps"
	moved   between = "has another owner at each step"
)

const shards = 4

// world is a cluster, in this process. Its objects do what the tests give them to do as functions.
type world struct {
	t       *testing.T // the test that runs
	between between
	nodes   []*node.Node
	conns   []*grpc.ClientConn
	scripts sync.Map // of *script by placement.ObjectID
	objects int      // that were named
}

// newWorld starts a cluster. Its ticks are long, and no node is thought dead because a dial takes its
// time: under load no election is to begin by itself, so that owners change when the tests want it and
// not else.
func newWorld(t *testing.T, between between, count int) *world {
	t.Helper()
	w := &world{t: t, between: between}
	var said bytes.Buffer
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("what the nodes logged:\n%s", said.String())
		}
	})
	log := slog.New(slog.NewTextHandler(&said, nil))
	dir := t.TempDir()
	var join []string
	for i := range count {
		const anyPort = "127.0.0.1:0"
		name := fmt.Sprintf("n%d", i+1)
		n, err := node.Start(t.Context(), node.Config{
			Name: name, DataDir: filepath.Join(dir, name), Bootstrap: i == 0, Join: join, Shards: shards,
			GRPC: anyPort, Peer: anyPort, Gossip: anyPort, HTTP: anyPort, Admin: anyPort,
			RingJoinAfter: time.Millisecond, LeaderStable: time.Hour, Tick: time.Second, DrainTimeout: time.Second,
			DialPeer: dialPeer, Classes: w.classes(i), Logger: log.With(slog.String("node", name)),
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := n.Close(context.Background()); err != nil {
				t.Errorf("close %s: %v", name, err)
			}
		})
		w.nodes = append(w.nodes, n)
		join = append(join, n.Addresses().Gossip)
		conn, err := grpc.NewClient("passthrough:///"+n.Addresses().GRPC, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDisableRetry(),
			grpc.WithDefaultCallOptions(grpc.MaxCallSendMsgSize(64<<20), grpc.MaxCallRecvMsgSize(64<<20)))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		w.conns = append(w.conns, conn)
	}
	for _, n := range w.nodes {
		if err := n.WaitReady(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	w.wait("replicas everywhere", func() (bool, string) {
		s := w.status()
		for _, sh := range s.GetShards() {
			if len(sh.GetVoters()) != count || sh.GetOwner() == "" || sh.GetMoving() != "" {
				return false, sh.String()
			}
		}
		return len(s.GetShards()) == shards, fmt.Sprint(s.GetWarnings())
	})
	return w
}

// dialPeer does not end with its context, for on loopback it is through, or refused, at once, and what
// takes its time is the machine.
func dialPeer(_ context.Context, addr string) (net.Conn, error) { return net.Dial("tcp", addr) }

// wait waits for a condition, for as long as the test may take.
func (w *world) wait(what string, cond func() (ok bool, state string)) {
	w.t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	limit := time.After(time.Minute)
	for {
		ok, state := cond()
		if ok {
			return
		}
		select {
		case <-tick.C:
		case <-limit:
			w.t.Fatalf("waited a minute for %s: %s", what, state)
		}
	}
}

func (w *world) admin() holdfastv1.AdminClient { return holdfastv1.NewAdminClient(w.conns[0]) }

func (w *world) status() *holdfastv1.StatusResponse {
	w.t.Helper()
	s, err := w.admin().Status(w.t.Context(), &holdfastv1.StatusRequest{})
	if err != nil {
		w.t.Fatal(err)
	}
	return s
}

// owner returns which node owns an object.
func (w *world) owner(o *object) int {
	w.t.Helper()
	owner := ""
	w.wait("an owner", func() (bool, string) {
		owner = w.status().GetShards()[o.shard()].GetOwner()
		return owner != "", ""
	})
	n, err := strconv.Atoi(owner[1:])
	if err != nil {
		w.t.Fatal(err)
	}
	return n - 1
}

// move gives an object another owner.
func (w *world) move(o *object) {
	w.t.Helper()
	from := w.owner(o)
	to := fmt.Sprintf("n%d", (from+1)%len(w.nodes)+1)
	ctx, cancel := context.WithTimeout(w.t.Context(), time.Minute)
	defer cancel()
	if err := w.nodes[from].MoveShard(ctx, o.shard(), to); err != nil {
		w.t.Fatalf("move %s: %v", o.name, err)
	}
	w.wait("its new owner to begin", func() (bool, string) {
		return w.status().GetShards()[o.shard()].GetOwner() == to, "still to come"
	})
}

// evict drops an object from memory.
func (w *world) evict(o *object) {
	w.t.Helper()
	w.wait("its eviction", func() (bool, string) {
		resp, err := w.admin().EvictObject(w.t.Context(), &holdfastv1.EvictObjectRequest{Class: o.class, Object: &holdfastv1.EvictObjectRequest_Id{Id: o.id.String()}})
		if err != nil {
			w.t.Fatal(err)
		}
		return !resp.GetEvicted(), "still in memory"
	})
}

// step is between two steps of a test: what is to come does not know the memory of what was.
func (w *world) step(objects ...*object) {
	w.t.Helper()
	for _, o := range objects {
		switch w.between {
		case moved:
			w.move(o)
		case evicted:
			w.evict(o)
		case stays:
		}
	}
}

// metric reads one of a node's, the sum over its labels.
func (w *world) metric(n int, name string) float64 {
	w.t.Helper()
	resp, err := http.Get("http://" + w.nodes[n].Addresses().Admin + "/metrics")
	if err != nil {
		w.t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	sum, found := 0.0, false
	for line := range strings.Lines(string(raw)) {
		rest, ok := strings.CutPrefix(line, name)
		if !ok || rest[0] != '{' && rest[0] != ' ' {
			continue
		}
		v, err := strconv.ParseFloat(strings.TrimSpace(rest[strings.LastIndexByte(rest, ' '):]), 64)
		if err != nil {
			w.t.Fatal(err)
		}
		sum, found = sum+v, true
	}
	if !found {
		w.t.Fatalf("there is no metric %s", name)
	}
	return sum
}

// object is an object as its callers see it.
type object struct {
	w      *world
	class  string
	name   string
	named  bool
	id     placement.ObjectID
	script *script
	// existing says that calls want it to exist.
	existing bool
}

// object returns a new object of the class Subject.
func (w *world) object() *object { return w.objectOf(subject) }

func (w *world) objectOf(class string) *object {
	w.objects++
	return w.named(class, fmt.Sprintf("object %d: é\x00", w.objects))
}

// named returns the object of a name.
func (w *world) named(class, name string) *object {
	o := w.byID(class, placement.NewNamespace(class).IDFromName(name))
	o.name, o.named = name, true
	return o
}

// byID returns an object that is called by its id.
func (w *world) byID(class string, id placement.ObjectID) *object {
	s, _ := w.scripts.LoadOrStore(id, &script{acts: make(map[string]act)})
	sc, _ := s.(*script)
	return &object{w: w, class: class, name: id.String(), id: id, script: sc}
}

func (o *object) shard() placement.ShardID { return placement.ShardOf(o.id, shards) }

// act is what an object is to do in one event. Where Holdfast runs an event again, it does it again.
type act func(ctx context.Context, o *thing) error

// on are the context and the method of a call.
func (o *object) on(ctx context.Context, method string) (context.Context, string) {
	if o.named {
		ctx = metadata.AppendToOutgoingContext(ctx, "holdfast-name-bin", o.name)
	} else {
		ctx = metadata.AppendToOutgoingContext(ctx, "holdfast-id", o.id.String())
	}
	if o.existing {
		ctx = metadata.AppendToOutgoingContext(ctx, "holdfast-existing", "true")
	}
	return ctx, serviceOf(o.class) + "/" + method
}

// start has the object do something, as a call through its owner.
func (o *object) start(do act) <-chan error { return o.through(o.w.owner(o), do) }

// through is start by way of any node.
func (o *object) through(n int, do act) <-chan error {
	token := o.script.add(do)
	done := make(chan error, 1)
	ctx, method := o.on(o.w.t.Context(), "Act")
	go func() {
		err := o.w.conns[n].Invoke(ctx, method, wrapperspb.Bytes([]byte(token)), &wrapperspb.BytesValue{})
		o.script.remove(token)
		done <- err
	}()
	return done
}

// arrives is start that returns when the call waits for an object that does something else.
func (o *object) arrives(do act) <-chan error {
	o.w.t.Helper()
	owner := o.w.owner(o)
	const queued = "holdfast_queued_bytes"
	before := o.w.metric(owner, queued)
	answer := o.through(owner, do)
	o.w.wait("the call to arrive", func() (bool, string) { return o.w.metric(owner, queued) > before, "" })
	return answer
}

// do has the object do something, and waits for the answer.
func (o *object) do(do act) error { return <-o.start(do) }

// must is do of what does not fail.
func (o *object) must(do act) {
	o.w.t.Helper()
	if err := o.do(do); err != nil {
		o.w.t.Fatalf("%s: %v", o.name, err)
	}
}

// stored returns what the owner has stored of the object, as its keys and CBOR's diagnostic notation.
func (o *object) stored() map[string]string {
	o.w.t.Helper()
	out := make(map[string]string)
	for _, e := range o.shown().GetEntries() {
		out[string(e.GetKey())] = e.GetDiagnostic()
	}
	return out
}

// shown is nil of an object that does not exist.
func (o *object) shown() *holdfastv1.ShowObjectResponse {
	o.w.t.Helper()
	resp, err := o.w.admin().ShowObject(o.w.t.Context(), &holdfastv1.ShowObjectRequest{Class: o.class, Object: &holdfastv1.ShowObjectRequest_Id{Id: o.id.String()}})
	if err != nil && strings.Contains(err.Error(), "does not exist") {
		return nil
	}
	if err != nil {
		o.w.t.Error(err) // The object itself may have asked.
	}
	return resp
}

// script is what an object does: it stays the same wherever the object lives.
type script struct {
	mu        sync.Mutex
	acts      map[string]act
	added     int
	lives     int // incarnations
	construct func(s *actor.State)
	init      func(ctx context.Context, o *thing) error
	alarm     func(ctx context.Context, o *thing, info actor.AlarmInfo) error
	shutdown  func(ctx context.Context, o *thing) error
	stream    func(stream grpc.ServerStream, o *thing) error
}

func (s *script) set(fn func(s *script)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	fn(s)
}

func (s *script) add(do act) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.added++
	token := strconv.Itoa(s.added)
	s.acts[token] = do
	return token
}

func (s *script) remove(token string) { s.set(func(s *script) { delete(s.acts, token) }) }

// constructed says how often the object was.
func (o *object) constructed() (n int) {
	o.script.set(func(s *script) { n = s.lives })
	return n
}

// thing is an object as it is in memory.
type thing struct {
	*actor.State

	script *script
	node   int
	life   int
	// memory is what the tests keep in memory only.
	memory []string
	// reply is what its calls return.
	reply []byte
}

func (o *thing) hook(get func(s *script)) { o.script.set(get) }

// Init implements actor.Initializer.
func (o *thing) Init(ctx context.Context) error {
	var fn func(context.Context, *thing) error
	o.hook(func(s *script) { fn = s.init })
	if fn == nil {
		return nil
	}
	return fn(ctx, o)
}

// PreShutdown implements actor.PreShutdowner.
func (o *thing) PreShutdown(ctx context.Context) error {
	var fn func(context.Context, *thing) error
	o.hook(func(s *script) { fn = s.shutdown })
	if fn == nil {
		return nil
	}
	return fn(ctx, o)
}

func (o *thing) act(ctx context.Context, token string) error {
	var fn act
	o.hook(func(s *script) { fn = s.acts[token] })
	if fn == nil {
		return errors.New("the test has forgotten the call: " + token)
	}
	return fn(ctx, o)
}

func (o *thing) self() *thing { return o }

// ringer is a thing with an alarm.
type ringer struct{ thing }

// Alarm implements actor.Alarmer.
func (o *ringer) Alarm(ctx context.Context, info actor.AlarmInfo) error {
	var fn func(context.Context, *thing, actor.AlarmInfo) error
	o.hook(func(s *script) { fn = s.alarm })
	if fn == nil {
		return nil
	}
	return fn(ctx, &o.thing, info)
}

type anything interface{ self() *thing }

// The classes of the tests.
const (
	subject = "Subject"
	mute    = "Mute"   // has no alarm
	brief   = "Brief"  // is evicted when it is idle for a moment
	narrow  = "Narrow" // has room for few calls and few unflushed bytes
	hasty   = "Hasty"  // is given little time
	golden  = "ka"     // whose ids are known
	retries = "Sturdy" // fails its alarms in quick succession
)

func serviceOf(class string) string { return "/holdfast.conformance." + class }

const (
	briefLife    = 20 * time.Millisecond
	mailboxMax   = 4
	unflushedMax = 1 << 10
	callMax      = 20 * time.Millisecond
	retryDelay   = 4 * time.Millisecond
	runLimit     = 50 * time.Millisecond
)

func (w *world) classes(node int) []actor.Class {
	var out []actor.Class
	for _, name := range []string{subject, mute, brief, narrow, hasty, golden, retries} {
		desc := &grpc.ServiceDesc{ServiceName: strings.TrimPrefix(serviceOf(name), "/")}
		desc.Methods = []grpc.MethodDesc{{MethodName: "Act", Handler: func(srv any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
			req := &wrapperspb.BytesValue{}
			if err := decode(req); err != nil {
				return nil, err
			}
			o, _ := srv.(anything)
			err := o.self().act(ctx, string(req.GetValue()))
			return wrapperspb.Bytes(o.self().reply), err
		}}}
		desc.Streams = []grpc.StreamDesc{{StreamName: "Stream", ServerStreams: true, ClientStreams: true, Handler: func(srv any, stream grpc.ServerStream) error {
			o, _ := srv.(anything)
			var fn func(grpc.ServerStream, *thing) error
			o.self().hook(func(s *script) { fn = s.stream })
			return fn(stream, o.self())
		}}}
		construct := func(s *actor.State) thing {
			sc := w.scriptOf(s.ID())
			var fn func(*actor.State)
			th := thing{State: s, script: sc, node: node}
			sc.set(func(sc *script) {
				sc.lives++
				th.life, fn = sc.lives, sc.construct
			})
			if fn != nil {
				fn(s)
			}
			return th
		}
		c := actor.NewClass(name, desc, func(s *actor.State) anything { return &ringer{construct(s)} })
		if name == mute {
			c = actor.NewClass(name, desc, func(s *actor.State) anything { th := construct(s); return &th })
		}
		c.IdleTimeout = time.Hour
		switch name {
		case brief:
			c.IdleTimeout = briefLife
		case narrow:
			c.MailboxEventsMax, c.UnflushedBytesMax = mailboxMax, unflushedMax
		case hasty:
			c.CallTimeMax = callMax
		case retries:
			c.Alarms = actor.AlarmPolicy{RetryDelay: retryDelay, RunLimit: runLimit}
		}
		out = append(out, c)
	}
	return out
}

func (w *world) scriptOf(id placement.ObjectID) *script {
	s, _ := w.scripts.LoadOrStore(id, &script{acts: make(map[string]act)})
	sc, _ := s.(*script)
	return sc
}

// fact is one of the documentation's, in words.
type fact struct {
	says string
	test func(t *testing.T, w *world)
}

// section is what the documentation says under one heading.
type section struct {
	heading string
	facts   []fact
}

var sections = []section{namespaces, stubs, lifecycle, kv, alarms, gates, limits, management}

// TestConformance runs every fact in every world.
func TestConformance(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		between between
		nodes   int
	}{{stays, 1}, {evicted, 1}, {moved, 3}} {
		t.Run(string(tt.between), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, tt.between, tt.nodes)
			for _, s := range sections {
				t.Run(s.heading, func(t *testing.T) {
					for _, f := range s.facts {
						t.Run(f.says, func(t *testing.T) {
							outer := w.t
							w.t = t
							defer func() { w.t = outer }()
							f.test(t, w)
						})
					}
				})
			}
		})
	}
}

// want compares.
func want[T any](t *testing.T, what string, got, wanted T) {
	t.Helper()
	if diff := cmp.Diff(wanted, got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

// log is what happened, in order. It is safe for concurrent use.
type log struct {
	mu   sync.Mutex
	said []string
}

func (l *log) sayf(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.said = append(l.said, fmt.Sprintf(format, args...))
}

func (l *log) all() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.said)
}

func (l *log) count() int { return len(l.all()) }
