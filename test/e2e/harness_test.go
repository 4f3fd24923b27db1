// Package e2e starts real nodes as processes on loopback, and does to them what users and machines
// do: calls, kills, restarts, and bad input.
package e2e_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// The binaries are built once for all tests: the stock one, and one with the classes of the tests.
var stock, testnode string

var nodeRace = flag.Bool("node-race", false, "build the nodes with the race detector too; a race fails the test")

func TestMain(m *testing.M) {
	flag.Parse()
	code := run(m)
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "holdfast-e2e")
	if err != nil {
		panic(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	stock, testnode = filepath.Join(dir, "node"), filepath.Join(dir, "testnode")
	args := []string{"build", "-o", dir + "/"}
	if *nodeRace {
		args = append(args, "-race")
	}
	build := exec.Command("go", append(args, "../../cmd/node", "./internal/testnode")...)
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		panic(err)
	}
	return m.Run()
}

// process is one node, started and restarted on the same ports.
type process struct {
	t     *testing.T
	bin   string
	name  string
	dir   string
	ports map[string]string // flag to address
	args  []string
	cmd   *exec.Cmd
	log   *os.File
	ready chan struct{} // closed when the ready line is printed
	done  chan error
	ended error // how it did, once it has
}

// givenPorts are those that freePorts has returned: a test may give one up for a while.
var givenPorts sync.Map

// freePorts returns so many loopback addresses that nobody listens on. They lie below the range from
// which systems take the ports of outgoing connections: a process that is restarted finds its own
// free again.
func freePorts(t *testing.T, n int) []string {
	t.Helper()
	var out []string
	for tries := 0; len(out) < n; tries++ {
		if tries > 1000 {
			t.Fatal("no free ports")
		}
		addr := fmt.Sprintf("127.0.0.1:%d", 10_000+rand.IntN(20_000))
		if _, given := givenPorts.LoadOrStore(addr, true); given {
			continue
		}
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

func newProcess(t *testing.T, name string, args ...string) *process {
	t.Helper()
	dir := t.TempDir()
	p := &process{t: t, bin: stock, name: name, dir: filepath.Join(dir, "data"), ports: make(map[string]string), args: args}
	for i, addr := range freePorts(t, 5) {
		p.ports[[]string{"grpc", "peer", "gossip", "http", "admin"}[i]] = addr
	}
	var err error
	if p.log, err = os.Create(filepath.Join(dir, name+".log")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.kill()
		if race := p.race(); race != "" {
			t.Errorf("%s: %s", name, race)
		}
		if t.Failed() {
			p.dumpLog()
		}
		_ = p.log.Close()
	})
	return p
}

// race returns what the race detector has said.
func (p *process) race() string {
	raw, err := os.ReadFile(p.log.Name())
	if err != nil {
		return ""
	}
	i := strings.Index(string(raw), "WARNING: DATA RACE")
	if i < 0 {
		return ""
	}
	return string(raw[i:min(len(raw), i+8000)])
}

func (p *process) dumpLog() {
	raw, err := os.ReadFile(p.log.Name())
	if err != nil {
		return
	}
	lines := strings.Split(string(raw), "\n")
	p.t.Logf("log of %s:\n%s", p.name, strings.Join(lines[max(0, len(lines)-30):], "\n"))
}

// start starts the process without waiting for it to be ready.
func (p *process) start() {
	p.t.Helper()
	args := []string{"serve", "--name", p.name, "--data-dir", p.dir, "--ring-join-after", "500ms", "--leader-stable", "1s"}
	for flag, addr := range p.ports {
		args = append(args, "--"+flag, addr)
	}
	p.cmd = exec.Command(p.bin, append(args, p.args...)...)
	p.cmd.Stderr = p.log
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		p.t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	p.ready, p.done = make(chan struct{}), make(chan error, 1)
	cmd, ready, done := p.cmd, p.ready, p.done
	go func() {
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			if strings.HasPrefix(lines.Text(), "ready ") {
				close(ready)
			}
		}
		done <- cmd.Wait()
	}()
}

func (p *process) waitReady() {
	p.t.Helper()
	select {
	case <-p.ready:
	case err := <-p.done:
		p.done <- err
		p.dumpLog()
		p.t.Fatalf("%s ended before it was ready: %v", p.name, err)
	case <-time.After(60 * time.Second):
		p.dumpLog()
		p.t.Fatalf("%s is not ready after 60 s", p.name)
	}
}

// kill ends the process at once, and waits for it.
func (p *process) kill() { p.signal(syscall.SIGKILL) }

// stop ends it in order.
func (p *process) stop() { p.signal(syscall.SIGTERM) }

func (p *process) signal(sig syscall.Signal) {
	if p.cmd == nil {
		return
	}
	_ = p.cmd.Process.Signal(sig)
	select {
	case p.ended = <-p.done:
	case <-time.After(60 * time.Second):
		p.t.Errorf("%s does not end", p.name)
		_ = p.cmd.Process.Kill()
		p.ended = <-p.done
	}
	p.cmd = nil
}

func (p *process) conn() *grpc.ClientConn {
	p.t.Helper()
	return dial(p.t, p.ports["grpc"])
}

func dial(t *testing.T, addr string) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallSendMsgSize(64<<20)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// holdfast runs a command and returns what it printed.
func holdfast(args ...string) (stdout, stderr string, code int) {
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, stock, args...)
	var out, errs strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return out.String(), errs.String(), exit.ExitCode()
	}
	if err != nil {
		return out.String(), err.Error(), -1
	}
	return out.String(), errs.String(), 0
}

func waitFor(t *testing.T, what string, limit time.Duration, cond func() (bool, string)) {
	t.Helper()
	waitForEvery(t, 100*time.Millisecond, what, limit, cond)
}

// waitForEvery looks less often, where looking costs what is being measured.
func waitForEvery(t *testing.T, every time.Duration, what string, limit time.Duration, cond func() (bool, string)) {
	t.Helper()
	deadline := time.After(limit)
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		ok, state := cond()
		if ok {
			return
		}
		select {
		case <-deadline:
			t.Fatalf("waited %s for %s: %s", limit, what, state)
		case <-tick.C:
		}
	}
}

type nodeStatus struct {
	Name, ID, State string
	Owns            int
	Drained         bool
	DiskFull        bool `json:"disk_full"`
}

type clusterStatus struct {
	ClusterID string `json:"cluster_id"`
	Nodes     []nodeStatus
	Warnings  []string
	Shards    []struct {
		ID               int
		Owner            string
		Voters, Learners []string
		Moving           string
	}
}

func (p *process) status() (clusterStatus, error) {
	var s clusterStatus
	out, errs, code := holdfast("status", "-o", "json", "--addr", p.ports["grpc"])
	if code != 0 {
		return s, fmt.Errorf("status: exit %d: %s", code, errs)
	}
	return s, json.Unmarshal([]byte(out), &s)
}

// id returns a node's id by its name.
func (s clusterStatus) id(name string) string {
	for _, n := range s.Nodes {
		if n.Name == name && n.State == "alive" {
			return n.ID
		}
	}
	return ""
}

// spread says whether every shard has three voters on living nodes, and so many nodes own shards.
func (s clusterStatus) spread(nodes int) (bool, string) {
	for _, n := range s.Nodes {
		if n.State != "alive" && n.State != "removed" {
			return false, fmt.Sprintf("%+v", n)
		}
	}
	owners := make(map[string]int)
	for _, sh := range s.Shards {
		if len(sh.Voters) != 3 || len(sh.Learners) != 0 || sh.Owner == "" || sh.Moving != "" {
			return false, fmt.Sprintf("%+v", sh)
		}
		owners[sh.Owner]++
	}
	return len(owners) == nodes, fmt.Sprint(owners)
}

// waitSpread waits until every shard has three voters and all the nodes own their part.
func waitSpread(t *testing.T, through *process, nodes int) {
	t.Helper()
	waitFor(t, "three replicas of every shard and owners spread", 90*time.Second, func() (bool, string) {
		s, err := through.status()
		if err != nil {
			return false, err.Error()
		}
		return s.spread(nodes)
	})
}

// threeNodes starts a cluster of three and waits until it is spread.
func threeNodes(t *testing.T) []*process {
	t.Helper()
	return startNodes(t, prepareNodes(t, stock, 3))
}

// prepareNodes returns nodes that are to be a cluster: each has the others as its seeds, and the
// first creates it, so that no emptied directory makes a second one.
func prepareNodes(t *testing.T, bin string, count int, args ...string) []*process {
	t.Helper()
	var nodes []*process
	for i := range count {
		p := newProcess(t, fmt.Sprintf("n%d", i+1), args...)
		p.bin = bin
		nodes = append(nodes, p)
	}
	nodes[0].args = append(nodes[0].args, "--bootstrap")
	for _, p := range nodes {
		var seeds []string
		for _, other := range nodes {
			if other != p {
				seeds = append(seeds, other.ports["gossip"])
			}
		}
		p.args = append(p.args, "--join", strings.Join(seeds, ","))
	}
	return nodes
}

func startNodes(t *testing.T, nodes []*process) []*process {
	t.Helper()
	for _, p := range nodes {
		p.start()
	}
	for _, p := range nodes {
		p.waitReady()
	}
	waitSpread(t, nodes[0], len(nodes))
	return nodes
}

// alive fails the test when the process has ended by itself.
func (p *process) alive() {
	p.t.Helper()
	select {
	case err := <-p.done:
		p.done <- err
		p.dumpLog()
		p.t.Errorf("%s has ended: %v", p.name, err)
	default:
	}
}

// waitEnd waits until the process ends by itself, and returns its exit status.
func (p *process) waitEnd(limit time.Duration) int {
	p.t.Helper()
	select {
	case p.ended = <-p.done:
	case <-time.After(limit):
		p.t.Fatalf("%s has not ended after %s", p.name, limit)
	}
	code := p.cmd.ProcessState.ExitCode()
	p.cmd = nil
	return code
}

// said says whether the process has logged the text, since it was first started.
func (p *process) said(text string) bool { return p.saidSince(0, text) }

func (p *process) saidSince(offset int64, text string) bool {
	raw, err := os.ReadFile(p.log.Name())
	return err == nil && strings.Contains(string(raw[min(offset, int64(len(raw))):]), text)
}

// logged is how much the process has logged.
func (p *process) logged() int64 {
	info, err := os.Stat(p.log.Name())
	if err != nil {
		p.t.Fatal(err)
	}
	return info.Size()
}

// waitSaid waits until the process has logged the text.
func (p *process) waitSaid(text string) {
	p.t.Helper()
	waitFor(p.t, fmt.Sprintf("%s to say %q", p.name, text), 20*time.Second, func() (bool, string) { return p.said(text), "it did not" })
}

// get asks the admin port.
func (p *process) get(path string) (code int, body string, err error) {
	client := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get("http://" + p.ports["admin"] + path)
	if err != nil {
		return 0, "", err
	}
	defer func() { _ = resp.Body.Close() }()
	raw, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(raw), err
}

// metricOf returns a metric's value on a page of them, or -1.
func metricOf(page, name string) float64 {
	for line := range strings.Lines(page) {
		if text, ok := strings.CutPrefix(line, name+" "); ok {
			value, err := strconv.ParseFloat(strings.TrimSpace(text), 64)
			if err == nil {
				return value
			}
		}
	}
	return -1
}
