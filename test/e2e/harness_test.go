// Package e2e starts real nodes as processes on loopback, and does to them what users and machines
// do: calls, kills, restarts, and bad input.
package e2e_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// binary is built once for all tests.
var binary string

func TestMain(m *testing.M) {
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "holdfast-e2e")
	if err != nil {
		panic(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	binary = filepath.Join(dir, "holdfast")
	build := exec.Command("go", "build", "-o", binary, "../../cmd/node")
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		panic(err)
	}
	return m.Run()
}

// process is one node, started and restarted on the same ports.
type process struct {
	t     *testing.T
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

// freePorts returns so many loopback addresses that were free a moment ago.
func freePorts(t *testing.T, n int) []string {
	t.Helper()
	var out []string
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = l.Close() }()
		out = append(out, l.Addr().String())
	}
	return out
}

func newProcess(t *testing.T, name string, args ...string) *process {
	t.Helper()
	dir := t.TempDir()
	p := &process{t: t, name: name, dir: filepath.Join(dir, "data"), ports: make(map[string]string), args: args}
	for i, addr := range freePorts(t, 5) {
		p.ports[[]string{"grpc", "peer", "gossip", "http", "admin"}[i]] = addr
	}
	var err error
	if p.log, err = os.Create(filepath.Join(dir, name+".log")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.kill()
		if t.Failed() {
			p.dumpLog()
		}
		_ = p.log.Close()
	})
	return p
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
	p.cmd = exec.Command(binary, append(args, p.args...)...)
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
	conn, err := grpc.NewClient("passthrough:///"+p.ports["grpc"], grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallSendMsgSize(64<<20)))
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// holdfast runs a command and returns what it printed.
func holdfast(args ...string) (stdout, stderr string, code int) {
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, args...)
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
	deadline := time.After(limit)
	tick := time.NewTicker(100 * time.Millisecond)
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

type clusterStatus struct {
	Nodes []struct {
		Name, ID, State string
		Owns            int
	}
	Shards []struct {
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

// waitSpread waits until every shard has three voters and all the nodes own their part.
func waitSpread(t *testing.T, through *process, nodes int) {
	t.Helper()
	waitFor(t, "three replicas of every shard and owners spread", 90*time.Second, func() (bool, string) {
		s, err := through.status()
		if err != nil {
			return false, err.Error()
		}
		owners := make(map[string]int)
		for _, sh := range s.Shards {
			if len(sh.Voters) != 3 || len(sh.Learners) != 0 || sh.Owner == "" || sh.Moving != "" {
				return false, fmt.Sprintf("%+v", sh)
			}
			owners[sh.Owner]++
		}
		return len(owners) == nodes, fmt.Sprint(owners)
	})
}

// threeNodes starts a cluster of three and waits until it is spread.
func threeNodes(t *testing.T) []*process {
	t.Helper()
	n1 := newProcess(t, "n1", "--bootstrap")
	nodes := []*process{n1}
	n1.start()
	for _, name := range []string{"n2", "n3"} {
		p := newProcess(t, name, "--join", n1.ports["gossip"])
		p.start()
		nodes = append(nodes, p)
	}
	for _, p := range nodes {
		p.waitReady()
	}
	waitSpread(t, n1, 3)
	return nodes
}

// garbage sends what no protocol would to a port.
func garbage(t *testing.T, addr string) {
	t.Helper()
	for _, text := range []string{"\x00\x00\x00\x00", "GET / HTTP/1.1\r\n\r\n", strings.Repeat("\xff", 100000)} {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatalf("dial %s: %v", addr, err)
		}
		_ = c.SetDeadline(time.Now().Add(time.Second))
		_, _ = c.Write([]byte(text))
		_, _ = c.Read(make([]byte, 100))
		_ = c.Close()
	}
}
