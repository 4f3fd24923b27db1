package conformance_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/holdfast-io/holdfast/actor"
	"github.com/holdfast-io/holdfast/node"
	"github.com/holdfast-io/holdfast/placement"
	holdfastv1 "github.com/holdfast-io/holdfast/proto/holdfast/v1"
)

// programClass is the class whose objects do what their calls say.
const programClass = "Program"

// nodeVariable has the config of the node that this process is to be, if it is to be one.
const nodeVariable = "HOLDFAST_CONFORMANCE_NODE"

// processConfig says which node a process is.
type processConfig struct {
	Name, Dir, GRPC, Peer, Gossip string
	Join                          []string
}

// beNode is the node until SIGTERM comes or its parent ends.
func beNode(encoded string) error {
	var cfg processConfig
	if err := json.Unmarshal([]byte(encoded), &cfg); err != nil {
		return err
	}
	const anyPort = "127.0.0.1:0"
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	n, err := node.Start(ctx, node.Config{
		Name: cfg.Name, DataDir: cfg.Dir, Bootstrap: len(cfg.Join) == 0, Join: cfg.Join, Shards: shards,
		GRPC: cfg.GRPC, Peer: cfg.Peer, Gossip: cfg.Gossip, HTTP: anyPort, Admin: anyPort,
		RingJoinAfter: time.Millisecond, LeaderStable: time.Hour, DrainTimeout: 5 * time.Second,
		Classes: []actor.Class{programs()}, Logger: slog.New(slog.NewTextHandler(os.Stderr, nil)),
	})
	if err != nil {
		return err
	}
	if err := n.WaitReady(ctx); err != nil {
		return err
	}
	fmt.Println("ready") //nolint:forbidigo // to its parent
	go func() {
		defer stop()
		lines := bufio.NewScanner(os.Stdin)
		for lines.Scan() {
			var shard placement.ShardID
			var to string
			_, err := fmt.Sscan(lines.Text(), &shard, &to)
			if err == nil {
				moving, cancel := context.WithTimeout(ctx, 5*time.Second)
				err = n.MoveShard(moving, shard, to)
				cancel()
			}
			fmt.Printf("moved: %v\n", err) //nolint:forbidigo // to its parent
		}
	}()
	return n.Run(ctx, io.Discard)
}

// programs is the class whose objects do what their calls say.
func programs() actor.Class {
	desc := &grpc.ServiceDesc{ServiceName: strings.TrimPrefix(serviceOf(programClass), "/")}
	desc.Methods = []grpc.MethodDesc{{MethodName: "Do", Handler: func(srv any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
		req := &wrapperspb.BytesValue{}
		if err := decode(req); err != nil {
			return nil, err
		}
		o, _ := srv.(*performer)
		var e event
		if err := json.Unmarshal(req.GetValue(), &e); err != nil {
			return nil, err
		}
		p := &performance{}
		err := p.event(inObject{ctx, o.state, o.state.Storage()}, e)
		return wrapperspb.Bytes([]byte(p.text())), err
	}}}
	c := actor.NewClass(programClass, desc, func(s *actor.State) any { return &performer{s} })
	c.Alarms = actor.AlarmPolicy{Retries: alarmRetries, RetryDelay: retryDelay}
	return c
}

// performer is an object of a program.
type performer struct{ state *actor.State }

// Alarm implements actor.Alarmer.
func (o *performer) Alarm(ctx context.Context, info actor.AlarmInfo) error {
	return (&performance{}).ring(inObject{ctx, o.state, o.state.Storage()}, info.RetryCount)
}

// process is a node in a process of its own, which is started again on the same ports.
type process struct {
	t    *testing.T
	cfg  processConfig
	log  *os.File
	cmd  *exec.Cmd
	in   io.WriteCloser
	out  *bufio.Reader
	conn *grpc.ClientConn
}

func newProcess(t *testing.T, name string, join ...string) *process {
	t.Helper()
	dir := t.TempDir()
	ports := freePorts(t, 3)
	p := &process{t: t, cfg: processConfig{Name: name, Dir: filepath.Join(dir, "data"), GRPC: ports[0], Peer: ports[1], Gossip: ports[2], Join: join}}
	var err error
	if p.log, err = os.Create(filepath.Join(dir, "log")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.end(syscall.SIGKILL)
		p.look()
		_ = p.log.Close()
	})
	p.start()
	return p
}

// freePorts returns addresses that nobody listens on, below the range from which systems take the ports
// of outgoing connections: a process that is started again finds its own free.
func freePorts(t *testing.T, n int) []string {
	t.Helper()
	var out []string
	for len(out) < n {
		addr := fmt.Sprintf("127.0.0.1:%d", 10_000+rand.IntN(20_000))
		l, err := net.Listen("tcp", addr)
		if err != nil {
			continue
		}
		u, err := net.ListenPacket("udp", addr)
		_ = l.Close()
		if err != nil {
			continue
		}
		_ = u.Close()
		out = append(out, addr)
	}
	return out
}

// look shows what the node has logged last, if the test has failed or the race detector has spoken.
func (p *process) look() {
	raw, err := os.ReadFile(p.log.Name())
	if err != nil {
		p.t.Error(err)
	}
	if i := strings.Index(string(raw), "WARNING: DATA RACE"); i >= 0 {
		p.t.Errorf("%s: %.8000s", p.cfg.Name, raw[i:])
	}
	if p.t.Failed() {
		lines := strings.Split(string(raw), "\n")
		p.t.Logf("the last of what %s logged:\n%s", p.cfg.Name, strings.Join(lines[max(0, len(lines)-40):], "\n"))
	}
}

// start starts the process, and returns when the node serves.
func (p *process) start() {
	p.t.Helper()
	raw, err := json.Marshal(p.cfg)
	if err != nil {
		p.t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		p.t.Fatal(err)
	}
	p.cmd = exec.Command(self)
	p.cmd.Env = append(os.Environ(), nodeVariable+"="+string(raw))
	p.cmd.Stderr = p.log
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		p.t.Fatal(err)
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		p.t.Fatal(err)
	}
	p.out = bufio.NewReader(out)
	if err := p.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	if line, err := p.out.ReadString('\n'); line != "ready\n" {
		p.t.Fatalf("%s said %q instead of being ready: %v", p.cfg.Name, line, err)
	}
	p.conn, err = grpc.NewClient("passthrough:///"+p.cfg.GRPC, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDisableRetry())
	if err != nil {
		p.t.Fatal(err)
	}
}

// move has the node, which owns a shard, hand it to another. An error is of the move.
func (p *process) move(shard placement.ShardID, to string) error {
	if _, err := fmt.Fprintln(p.in, shard, to); err != nil {
		return err
	}
	line, err := p.out.ReadString('\n')
	if err != nil {
		return err
	}
	if line != "moved: <nil>\n" {
		return fmt.Errorf("%s: move shard %d to %s: %s", p.cfg.Name, shard, to, line)
	}
	return nil
}

// end ends the process, and waits for it.
func (p *process) end(how os.Signal) {
	if p.cmd == nil {
		return
	}
	_ = p.cmd.Process.Signal(how)
	limit := time.AfterFunc(time.Minute, func() { _ = p.cmd.Process.Kill() })
	_ = p.cmd.Wait()
	if !limit.Stop() {
		p.t.Errorf("%s did not end", p.cfg.Name)
	}
	if p.conn != nil {
		_ = p.conn.Close()
	}
	p.cmd = nil
}

func (p *process) runs() bool { return p.cmd != nil }

// processes are a cluster of them.
type processes struct {
	t     *testing.T
	nodes []*process
}

func newProcesses(t *testing.T, count int) *processes {
	t.Helper()
	ps := &processes{t: t}
	var join []string
	for i := range count {
		p := newProcess(t, fmt.Sprintf("n%d", i+1), join...)
		ps.nodes = append(ps.nodes, p)
		join = append(join, p.cfg.Gossip)
	}
	ps.wait("replicas everywhere", ps.whole)
	return ps
}

// wait waits for a condition, for as long as the test may take.
func (ps *processes) wait(what string, cond func() (ok bool, state string)) {
	ps.t.Helper()
	(&world{t: ps.t}).wait(what, cond)
}

// status is the cluster's, as far as a node knows it.
func (p *process) status() (*holdfastv1.StatusResponse, error) {
	ctx, cancel := context.WithTimeout(p.t.Context(), 10*time.Second)
	defer cancel()
	return holdfastv1.NewAdminClient(p.conn).Status(ctx, &holdfastv1.StatusRequest{})
}

// running returns the nodes that run, the one whose turn it is first.
func (ps *processes) running(turn int) []*process {
	var out []*process
	for i := range ps.nodes {
		if p := ps.nodes[(turn+i)%len(ps.nodes)]; p.runs() {
			out = append(out, p)
		}
	}
	return out
}

// whole says whether every node keeps a replica of each shard, and each shard has an owner that runs.
func (ps *processes) whole() (bool, string) {
	for _, p := range ps.nodes {
		s, err := p.status()
		if err != nil {
			return false, err.Error()
		}
		for _, sh := range s.GetShards() {
			if len(sh.GetVoters()) != len(ps.nodes) || sh.GetOwner() == "" || sh.GetMoving() != "" {
				return false, sh.String()
			}
		}
		if len(s.GetShards()) != shards {
			return false, fmt.Sprint(s.GetWarnings())
		}
	}
	return true, ""
}

// owner returns which node that runs owns a shard, and the term of that.
func (ps *processes) owner(shard placement.ShardID) (owner *process, term uint64) {
	ps.t.Helper()
	ps.wait("an owner", func() (bool, string) {
		running := ps.running(0)
		s, err := running[0].status()
		if err != nil || len(s.GetShards()) != shards {
			return false, fmt.Sprint(err)
		}
		sh := s.GetShards()[shard]
		for _, p := range running {
			if sh.GetOwner() == p.cfg.Name {
				owner, term = p, sh.GetTerm()
			}
		}
		return owner != nil, sh.String()
	})
	return owner, term
}

// restore starts the nodes that do not run.
func (ps *processes) restore() {
	ps.t.Helper()
	started := false
	for _, p := range ps.nodes {
		if !p.runs() {
			p.start()
			started = true
		}
	}
	if started {
		ps.wait("every node to be back", ps.whole)
	}
}
