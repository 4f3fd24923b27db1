package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/holdfast-io/holdfast/actor"
	"github.com/holdfast-io/holdfast/fault"
	"github.com/holdfast-io/holdfast/node/system"
	holdfastv1 "github.com/holdfast-io/holdfast/proto/holdfast/v1"
	"github.com/holdfast-io/holdfast/storage/value"
	"github.com/holdfast-io/holdfast/worker/bundle"
)

// fakeLoader loads bundles whose code is a word, which their objects and handlers say. Those whose word
// begins with "bad" can't be loaded.
type fakeLoader struct {
	mu    sync.Mutex
	loads int // that were not closed
}

func (l *fakeLoader) count(by int) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.loads += by
	return l.loads
}

// Load implements Loader.
func (l *fakeLoader) Load(_ context.Context, d Deployment) (*Worker, error) {
	code := string(d.Bundle.Code)
	if strings.HasPrefix(code, "bad") {
		return nil, fmt.Errorf("%s is no word", code)
	}
	l.count(1)
	var closed atomic.Bool
	w := &Worker{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			d.Log(LogEntry{Time: time.Now(), Level: slog.LevelInfo, Text: "asked"})
			_, _ = io.WriteString(w, code)
		}),
		Close: func() {
			if !closed.Swap(true) {
				l.count(-1)
			}
		},
	}
	for _, c := range d.Bundle.Classes {
		w.Classes = append(w.Classes, actor.NewDynamicClass(d.Bundle.Name+"/"+c.Name, func(s *actor.State) actor.Dynamic {
			d.Log(LogEntry{Time: time.Now(), Class: c.Name, Object: s.ID().String(), Level: slog.LevelWarn, Text: "made"})
			return &sayer{s: s, code: code, closed: &closed}
		}))
	}
	return w, nil
}

// sayer is an object of a fake bundle.
type sayer struct {
	s      *actor.State
	code   string
	closed *atomic.Bool
}

// said is what it replies.
type said struct {
	Code  string `cbor:"code" json:"code"`
	Count int    `cbor:"count" json:"count"`
}

// Invoke implements actor.Dynamic.
func (o *sayer) Invoke(context.Context, string, []byte) ([]byte, error) {
	if o.closed.Load() {
		return nil, errors.New("the worker was closed under an object")
	}
	n, _, err := actor.Get[int](o.s.Storage(), "n")
	if err != nil {
		return nil, err
	}
	if err := actor.Put(o.s.Storage(), "n", n+1); err != nil {
		return nil, err
	}
	return value.Encode(said{o.code, n + 1})
}

// Stream implements actor.Dynamic.
func (*sayer) Stream(context.Context, string, *actor.Stream) error { return nil }

// bundleOf is a bundle of the worker "talk".
func bundleOf(t *testing.T, code string, classes ...string) []byte {
	t.Helper()
	b := &bundle.Bundle{Name: "talk", Code: []byte(code), Exports: slices.Sorted(slices.Values(append(classes, "default")))}
	for _, name := range slices.Sorted(slices.Values(classes)) {
		b.Classes = append(b.Classes, bundle.Class{Name: name, SQLite: true})
	}
	file, err := b.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return file
}

// workerNode is a node that runs workers.
type workerNode struct {
	*Node

	loader *fakeLoader
	conn   *grpc.ClientConn
	cfg    Config
}

// startNode starts a node that joins others, or creates a cluster. It ends with the test, if it was not stopped.
func startNode(t *testing.T, cfg Config, seeds ...*workerNode) *workerNode {
	t.Helper()
	const free = "127.0.0.1:0"
	cfg.GRPC, cfg.Peer, cfg.Gossip, cfg.HTTP, cfg.Admin = free, free, free, free, free
	cfg.MinFreeDisk, cfg.Bootstrap = -1, len(seeds) == 0
	cfg.RingJoinAfter, cfg.LeaderStable, cfg.DrainTimeout = 200*time.Millisecond, 300*time.Millisecond, 10*time.Second
	if cfg.Shards == 0 {
		cfg.Shards = 4
	}
	if cfg.DataDir == "" {
		cfg.DataDir = t.TempDir()
	}
	for _, s := range seeds {
		cfg.Join = append(cfg.Join, s.Addresses().Gossip)
	}
	n := &workerNode{cfg: cfg}
	n.loader, _ = cfg.Loader.(*fakeLoader)
	var err error
	if n.Node, err = Start(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.stop(t) })
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := n.WaitReady(ctx); err != nil {
		t.Fatal(err)
	}
	n.conn, err = grpc.NewClient("passthrough:///"+n.Addresses().GRPC, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(16<<20)))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// stop stops the node, once.
func (n *workerNode) stop(t *testing.T) {
	t.Helper()
	if n.Node == nil {
		return
	}
	if n.conn != nil {
		_ = n.conn.Close()
	}
	if err := n.Close(context.WithoutCancel(t.Context())); err != nil {
		t.Error(err)
	}
	n.Node = nil
	if n.loader != nil {
		if left := n.loader.count(0); left != 0 {
			t.Errorf("%d workers were not closed", left)
		}
	}
}

func (n *workerNode) admin() holdfastv1.AdminClient { return holdfastv1.NewAdminClient(n.conn) }

// deploy deploys a bundle, in small parts.
func (n *workerNode) deploy(t *testing.T, file []byte) (*holdfastv1.DeployResponse, error) {
	t.Helper()
	stream, err := n.admin().Deploy(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for part := range slices.Chunk(file, 100_000) {
		if err := stream.Send(&holdfastv1.DeployRequest{Part: part}); err != nil {
			break // CloseAndRecv says why.
		}
	}
	return stream.CloseAndRecv()
}

func (n *workerNode) deploys(t *testing.T, file []byte, number uint64) {
	t.Helper()
	resp, err := n.deploy(t, file)
	if err != nil || resp.GetNumber() != number || resp.GetWorker() != "talk" || resp.GetHash() != bundle.Hash(file) {
		t.Fatalf("deployed %v, %v; want number %d", resp, err, number)
	}
}

// say calls an object.
func (n *workerNode) say(t *testing.T, class, name string) (said, error) {
	t.Helper()
	resp, err := holdfastv1.NewObjectsClient(n.conn).Call(t.Context(), &holdfastv1.CallRequest{
		Class: class, Method: "say", Object: &holdfastv1.CallRequest_Name{Name: name},
	})
	var out said
	if err == nil {
		err = json.Unmarshal([]byte(resp.GetJson()), &out)
	}
	return out, err
}

func (n *workerNode) says(t *testing.T, class, name, code string, count int) {
	t.Helper()
	if got, err := n.say(t, class, name); err != nil || got != (said{code, count}) {
		t.Errorf("%s %s says %+v, %v; want %s, %d", class, name, got, err, code, count)
	}
}

// serves asks the worker for what its fetch handler says.
func (n *workerNode) serves(t *testing.T, host, want string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+n.Addresses().HTTP, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Host = host
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	if body, err := io.ReadAll(resp.Body); err != nil || !strings.Contains(string(body), want) {
		t.Errorf("%s is served %q, %v; want %q", host, body, err, want)
	}
}

// runs waits until the nodes run a deployment.
func runs(t *testing.T, number uint64, nodes ...*workerNode) {
	t.Helper()
	for end := time.Now().Add(time.Minute); ; {
		list, err := nodes[0].admin().ListDeployments(t.Context(), &holdfastv1.ListDeploymentsRequest{})
		if err != nil && !fault.ReasonOf(err).Retryable() {
			t.Fatal(err)
		}
		on := 0
		for _, w := range list.GetWorkers() {
			for _, s := range w.GetNodes() {
				if s.GetNumber() == number && slices.ContainsFunc(nodes, func(n *workerNode) bool { return n.cfg.Name == s.GetNode() }) {
					on++
				}
			}
		}
		if on == len(nodes) {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("deployment %d does not run everywhere: %v", number, list)
		}
		<-time.After(20 * time.Millisecond)
	}
}

// settled waits until each of the nodes owns a part of the cluster, and nothing moves.
func settled(t *testing.T, nodes ...*workerNode) {
	t.Helper()
	for end := time.Now().Add(time.Minute); ; {
		st, err := nodes[0].admin().Status(t.Context(), &holdfastv1.StatusRequest{})
		if err != nil {
			t.Fatal(err)
		}
		owners := 0
		for _, n := range st.GetNodes() {
			if n.GetOwns() > 0 {
				owners++
			}
		}
		moving := slices.ContainsFunc(st.GetShards(), func(s *holdfastv1.Shard) bool {
			return s.GetOwner() == "" || s.GetMoving() != "" || len(s.GetVoters()) < 3
		})
		if owners == len(nodes) && !moving {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("the cluster does not settle: %v", st)
		}
		<-time.After(50 * time.Millisecond)
	}
}

// A worker's life on one node: deployed, deployed again, rolled back, undeployed, and back.
func TestDeployments(t *testing.T) {
	t.Parallel()
	n := startNode(t, Config{Name: "n1", Loader: &fakeLoader{}})
	n.serves(t, "localhost", "No worker")
	one, two := bundleOf(t, "one", "Room"), bundleOf(t, "two", "Room", "User")
	n.deploys(t, one, 1)
	runs(t, 1, n)
	n.says(t, "talk/Room", "x", "one", 1)
	n.says(t, "Room", "x", "one", 2)
	n.serves(t, "localhost", "one")
	n.deploys(t, two, 2)
	runs(t, 2, n)
	n.says(t, "Room", "x", "two", 3)
	n.says(t, "User", "y", "two", 1)
	n.serves(t, "talk.example", "two")

	for what, c := range map[string]struct {
		file   []byte
		reason fault.Reason
		text   string
	}{
		"no bundle":       {[]byte("nothing"), fault.InvalidArgument, "not a bundle"},
		"no bytes":        {nil, fault.InvalidArgument, "not a bundle"},
		"can't be loaded": {bundleOf(t, "bad word", "Room", "User"), fault.InvalidArgument, "bad word is no word"},
		"a class is gone": {bundleOf(t, "three", "Room"), fault.InvalidArgument, "no longer exports"},
		"far too many":    {make([]byte, system.BundleBytesMax+1), fault.RequestTooLarge, "at most"},
	} {
		if _, err := n.deploy(t, c.file); fault.ReasonOf(err) != c.reason || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: %v", what, err)
		}
	}
	n.says(t, "Room", "x", "two", 4)

	undeployed, err := n.admin().Undeploy(t.Context(), &holdfastv1.UndeployRequest{Worker: "talk"})
	if err != nil || undeployed.GetNumber() != 3 {
		t.Fatalf("undeployed %v, %v", undeployed, err)
	}
	if _, err := n.say(t, "Room", "x"); fault.ReasonOf(err) != fault.UnknownClass {
		t.Errorf("an object of what was undeployed: %v", err)
	}
	if _, err := n.admin().Undeploy(t.Context(), &holdfastv1.UndeployRequest{Worker: "talk"}); fault.ReasonOf(err) != fault.UnknownWorker {
		t.Errorf("undeployed twice: %v", err)
	}
	n.serves(t, "localhost", "No worker")
	back, err := n.admin().Rollback(t.Context(), &holdfastv1.RollbackRequest{Worker: "talk", Number: 2})
	if err != nil || back.GetNumber() != 4 {
		t.Fatalf("rolled back %v, %v", back, err)
	}
	runs(t, 4, n)
	n.says(t, "Room", "x", "two", 5)

	list, err := n.admin().ListDeployments(t.Context(), &holdfastv1.ListDeploymentsRequest{Worker: "talk"})
	if err != nil {
		t.Fatal(err)
	}
	var history []string
	for _, d := range list.GetHistory() {
		history = append(history, fmt.Sprintf("%d %.4s %d", d.GetNumber(), d.GetHash(), d.GetRollbackOf()))
	}
	hash := func(file []byte) string { return bundle.Hash(file)[:4] }
	if want := []string{"4 " + hash(two) + " 2", "3  0", "2 " + hash(two) + " 0", "1 " + hash(one) + " 0"}; !slices.Equal(history, want) {
		t.Errorf("history %q, want %q", history, want)
	}
	for _, bad := range []*holdfastv1.RollbackRequest{{Worker: "talk", Number: 9}, {Worker: "talk", Number: 3}} {
		if _, err := n.admin().Rollback(t.Context(), bad); fault.ReasonOf(err) != fault.InvalidArgument {
			t.Errorf("rolled back to %d: %v", bad.GetNumber(), err)
		}
	}
	if _, err := n.admin().Rollback(t.Context(), &holdfastv1.RollbackRequest{Worker: "none"}); fault.ReasonOf(err) != fault.UnknownWorker {
		t.Errorf("rolled back what there is not: %v", err)
	}
	// To what does not have a class that is there: refused as it would be when it is deployed.
	if _, err := n.admin().Rollback(t.Context(), &holdfastv1.RollbackRequest{Worker: "talk"}); fault.ReasonOf(err) != fault.InvalidArgument {
		t.Errorf("rolled back to fewer classes: %v", err)
	}
}

// The host of a request says which worker it is for; one that names none is for the main worker, or the only one.
func TestWhichWorkerAnswers(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		running, main, host, want string
	}{
		{"a b", "", "b.localhost:8787", "b"},
		{"a b", "a", "b.localhost", "b"},
		{"a b", "b", "127.0.0.1:8787", "b"},
		{"a b", "", "localhost", "Which worker?"},
		{"a b", "gone", "localhost", "Which worker?"},
		{"a", "", "localhost", "a"},
		{"a", "gone", "gone.localhost", "a"},
		{"", "gone", "localhost", "No worker"},
	} {
		running := make(map[string]*runningWorker)
		for name := range strings.FieldsSeq(tt.running) {
			r := &runningWorker{name: name, Worker: &Worker{
				Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, name) }),
			}}
			r.users.Store(1)
			running[name] = r
		}
		w := &workers{main: tt.main}
		w.handler.Store(&running)
		got := httptest.NewRecorder()
		w.ServeHTTP(got, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+tt.host, http.NoBody))
		if !strings.HasPrefix(got.Body.String(), tt.want) {
			t.Errorf("%+v: %s", tt, got.Body)
		}
	}
}

// A large bundle is stored in chunks, and is on the disk of a node that runs it: it runs after a restart, even
// if the cluster can't be asked.
func TestAWorkerRunsAfterARestart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	n := startNode(t, Config{Name: "n1", DataDir: dir, Loader: &fakeLoader{}})
	large := bundleOf(t, strings.Repeat("x", 5<<20), "Room")
	n.deploys(t, large, 1)
	n.deploys(t, large, 2) // It is there already.
	runs(t, 2, n)
	n.deploys(t, bundleOf(t, "small", "Room"), 3)
	runs(t, 3, n)
	n.says(t, "Room", "x", "small", 1)
	back, err := n.admin().Rollback(t.Context(), &holdfastv1.RollbackRequest{Worker: "talk"})
	if err != nil || back.GetNumber() != 4 {
		t.Fatalf("rolled back %v, %v", back, err)
	}
	runs(t, 4, n)
	n.stop(t)
	n = startNode(t, Config{Name: "n1", DataDir: dir, Loader: &fakeLoader{}})
	if states := n.workers.states(); states["talk"].Number != 4 {
		t.Errorf("ready, and runs %+v", states)
	}
	if got, err := n.say(t, "Room", "x"); err != nil || len(got.Code) != 5<<20 || got.Count != 2 {
		t.Errorf("says %d bytes, %d, %v", len(got.Code), got.Count, err)
	}
	if _, err := n.workers.bundles.cached(t.Context(), bundle.Hash(large), 0); err != nil {
		t.Errorf("what runs is not on the disk: %v", err)
	}
	if _, err := n.workers.bundles.cached(t.Context(), bundle.Hash(bundleOf(t, "small", "Room")), 0); !errors.Is(err, errNotCached) {
		t.Errorf("what does not run is on the disk: %v", err)
	}
}

// On three nodes, deployments under load cost no call; afterwards everything runs the new one, and so does a
// node that comes later.
func TestDeployedUnderLoad(t *testing.T) {
	t.Parallel()
	// Of 16 shards no node gets more than 7, so each of three gets some; of 4 two nodes may have all.
	const shards = 16
	n1 := startNode(t, Config{Name: "n1", Shards: shards, Loader: &fakeLoader{}})
	n2 := startNode(t, Config{Name: "n2", Shards: shards, Loader: &fakeLoader{}}, n1)
	n3 := startNode(t, Config{Name: "n3", Shards: shards, Loader: &fakeLoader{}}, n1)
	nodes := []*workerNode{n1, n2, n3}
	settled(t, nodes...)
	n1.deploys(t, bundleOf(t, "v1", "Room"), 1)
	runs(t, 1, nodes...)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	var calls atomic.Int64
	for w := range 6 {
		wg.Go(func() {
			last := 0
			for {
				select {
				case <-stop:
					return
				default:
				}
				got, err := nodes[w%3].say(t, "Room", fmt.Sprint("room", w))
				if err != nil || got.Count != last+1 {
					t.Errorf("after %d: %+v, %v", last, got, err)
					return
				}
				last = got.Count
				calls.Add(1)
			}
		})
	}
	for v := uint64(2); v <= 4; v++ {
		nodes[v%3].deploys(t, bundleOf(t, fmt.Sprint("v", v), "Room"), v)
		runs(t, v, nodes...)
	}
	if _, err := n2.admin().Rollback(t.Context(), &holdfastv1.RollbackRequest{Worker: "talk", Number: 2}); err != nil {
		t.Error(err)
	}
	runs(t, 5, nodes...)
	close(stop)
	wg.Wait()
	if calls.Load() < 50 {
		t.Errorf("only %d calls", calls.Load())
	}
	n4 := startNode(t, Config{Name: "n4", Shards: shards, Loader: &fakeLoader{}}, n1)
	for w := range 6 {
		for _, n := range []*workerNode{n1, n2, n3, n4} {
			if got, err := n.say(t, "Room", fmt.Sprint("room", w)); err != nil || got.Code != "v2" {
				t.Errorf("room %d at %s: %+v, %v", w, n.cfg.Name, got, err)
			}
		}
	}
	if states := n4.workers.states(); states["talk"].Number != 5 {
		t.Errorf("the node that came later is ready, and runs %+v", states)
	}
}

// A node that can't run what is deployed owns nothing, and says why.
func TestANodeWithoutARuntime(t *testing.T) {
	t.Parallel()
	n1 := startNode(t, Config{Name: "n1", Loader: &fakeLoader{}})
	n2 := startNode(t, Config{Name: "n2", Loader: &fakeLoader{}}, n1)
	n3 := startNode(t, Config{Name: "n3"}, n1)
	n1.deploys(t, bundleOf(t, "v1", "Room"), 1)
	runs(t, 1, n1, n2)
	if _, err := n3.deploy(t, bundleOf(t, "v2", "Room")); fault.ReasonOf(err) != fault.InvalidArgument || !strings.Contains(err.Error(), "no runtime") {
		t.Errorf("deployed through a node without a runtime: %v", err)
	}
	for end := time.Now().Add(time.Minute); ; {
		st, err := n1.admin().Status(t.Context(), &holdfastv1.StatusRequest{})
		if err != nil {
			t.Fatal(err)
		}
		_, reasons := n3.readiness()
		owns := int32(-1)
		for _, s := range st.GetNodes() {
			if s.GetName() == "n3" {
				owns = s.GetOwns()
			}
		}
		warned := slices.ContainsFunc(st.GetWarnings(), func(w string) bool { return strings.Contains(w, "n3") && strings.Contains(w, "worker") })
		if owns == 0 && warned && len(reasons) == 1 && strings.Contains(reasons[0], "no runtime") {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("n3 owns %d, says %q; warnings %q", owns, reasons, st.GetWarnings())
		}
		<-time.After(50 * time.Millisecond)
	}
	for i := range 10 {
		n3.says(t, "Room", fmt.Sprint(i), "v1", 1)
	}
	list, err := n1.admin().ListDeployments(t.Context(), &holdfastv1.ListDeploymentsRequest{Worker: "talk"})
	if err != nil || len(list.GetWorkers()) != 1 || len(list.GetWorkers()[0].GetNodes()) != 3 {
		t.Fatalf("listed %v, %v", list, err)
	}
	if s := list.GetWorkers()[0].GetNodes()[2]; s.GetNode() != "n3" || s.GetNumber() != 0 || !strings.Contains(s.GetError(), "no runtime") {
		t.Errorf("n3 runs %v", s)
	}
}
