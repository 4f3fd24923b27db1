package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"runtime/pprof"
	"strconv"
	"strings"
	"sync"
	"time"
)

// A server is this binary again, told by its environment what to be. It prints one line of JSON
// when it is ready, answers each line of its standard input with one line of its standard output,
// and ends when its input does.
const (
	roleVariable   = "HOLDFAST_BENCH_ROLE"
	configVariable = "HOLDFAST_BENCH_CONFIG"
	startTimeout   = 60 * time.Second
)

// roleConfig is what a server is told.
type roleConfig struct {
	Role string
	Name string
	Dir  string
	// Node.
	Bootstrap   bool
	Join        []string
	MemoryLimit int64
	// SnapshotRate in bytes a second; 0: the default.
	SnapshotRate int
	// MinFreeDisk in bytes; 0: the default.
	MinFreeDisk int64
	// Replicas; Addrs also of callers.
	Self  uint64
	Addrs map[uint64]string

	CPUProfile string
}

// ready is a server's first line.
type ready struct {
	GRPC, Gossip, Admin, HTTP string
}

// request is a line to a server, and answer its answer.
type request struct {
	Do      string
	Callers int
	Length  time.Duration
	// Of callers: how they call, and how large their requests are.
	Kind  string
	Bytes int
}

type answer struct {
	Error  string
	Count  int
	Micros []int // a sample of latencies
	// Of callers: calls that were refused and that failed, and why one did.
	Refused, Failed int
	Sample          string

	Leads int // shards led, of the three-replica server

	FirstMicro, LastMicro int64 // Unix microseconds between which alarms ran

	HeapBytes  uint64
	Goroutines int
	Objects    int
}

type child struct {
	cmd   *exec.Cmd
	in    io.WriteCloser
	out   *bufio.Scanner
	ready ready
	stop  func()
	mu    sync.Mutex
}

func startChild(ctx context.Context, cfg roleConfig, verbose bool) (*child, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, self) //nolint:gosec // this very binary
	cmd.Env = append(os.Environ(), roleVariable+"="+cfg.Role, configVariable+"="+string(mustJSON(cfg)))
	var log tail
	cmd.Stderr = &log
	if verbose {
		cmd.Stderr = os.Stderr
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	c := &child{cmd: cmd, in: in, out: bufio.NewScanner(out)}
	c.out.Buffer(nil, 1<<24)
	c.stop = sync.OnceFunc(func() {
		_ = in.Close()
		kill := time.AfterFunc(10*time.Second, func() { _ = cmd.Process.Kill() })
		_ = cmd.Wait()
		kill.Stop()
	})
	kill := time.AfterFunc(startTimeout, func() { _ = cmd.Process.Kill() })
	defer kill.Stop()
	if !c.out.Scan() {
		c.stop()
		return nil, fmt.Errorf("it ended before it was ready: %s", log.String())
	}
	if err := json.Unmarshal(c.out.Bytes(), &c.ready); err != nil {
		c.stop()
		return nil, err
	}
	return c, nil
}

// ask sends a request and waits for the answer.
func (c *child) ask(r request) (answer, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var a answer
	if _, err := c.in.Write(append(mustJSON(r), '\n')); err != nil {
		return a, err
	}
	if !c.out.Scan() {
		return a, errors.New("the server ended")
	}
	if err := json.Unmarshal(c.out.Bytes(), &a); err != nil {
		return a, err
	}
	if a.Error != "" {
		return a, errors.New(a.Error)
	}
	return a, nil
}

// cpu returns the CPU time that the process has used.
func (c *child) cpu() time.Duration { return cpuOf(strconv.Itoa(c.cmd.Process.Pid)) }

// cpuOf reads /proc/PID/stat: user and system time in hundredths of a second, fields 14 and 15.
func cpuOf(pid string) time.Duration {
	raw, err := os.ReadFile("/proc/" + pid + "/stat")
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(raw), ") ")
	fields := strings.Fields(rest)
	if len(fields) < 13 {
		return 0
	}
	user, _ := strconv.Atoi(fields[11])
	system, _ := strconv.Atoi(fields[12])
	return time.Duration(user+system) * 10 * time.Millisecond
}

// peak returns the most memory, in bytes, that the process has had resident since it was last asked.
func (c *child) peak() (int64, error) {
	most, err := memoryOf(c.cmd.Process.Pid, "VmHWM")
	if err != nil {
		return 0, err
	}
	const resetPeak = "5"
	return most, os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", c.cmd.Process.Pid), []byte(resetPeak), 0)
}

// memoryOf reads a line of /proc/PID/status, in bytes.
func memoryOf(pid int, line string) (int64, error) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(raw), line+":")
	fields := strings.Fields(rest)
	if len(fields) == 0 {
		return 0, fmt.Errorf("no %s of process %d", line, pid)
	}
	kib, err := strconv.ParseInt(fields[0], 10, 64)
	return kib << 10, err
}

// tail keeps the end of what is written.
type tail struct {
	mu  sync.Mutex
	buf []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, p...)
	if len(t.buf) > 4096 {
		t.buf = t.buf[len(t.buf)-4096:]
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.buf)
}

// serveRole is the main function of a server.
func serveRole(role string) error {
	var cfg roleConfig
	if err := json.Unmarshal([]byte(os.Getenv(configVariable)), &cfg); err != nil {
		return err
	}
	if cfg.CPUProfile != "" {
		stop, err := profile(cfg.CPUProfile)
		if err != nil {
			return err
		}
		defer stop()
	}
	runtime.MemProfileRate = 0 // As in a program that has no profiles, such as cmd/node, where the linker sees to it.
	start, ok := map[string]func(roleConfig) (*server, error){
		"echo": startEcho, "node": startNode, "lister": startLister, "large": startLarge, "replica": startReplica, "callers": startCallers, "worker": startWorker, "engines": startEngines,
	}[role]
	if !ok {
		return fmt.Errorf("no such role: %q", role)
	}
	s, err := start(cfg)
	if err != nil {
		return err
	}
	defer s.close()
	out := json.NewEncoder(os.Stdout)
	if err := out.Encode(s.ready); err != nil {
		return err
	}
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		var r request
		if err := json.Unmarshal(in.Bytes(), &r); err != nil {
			return err
		}
		a, err := s.handle(r)
		if err != nil {
			a.Error = err.Error()
		}
		if err := out.Encode(a); err != nil {
			return err
		}
	}
	return nil
}

// profile writes this process's CPU profile until stop is called.
func profile(path string) (stop func(), err error) {
	f, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	if err := pprof.StartCPUProfile(f); err != nil {
		_ = f.Close()
		return nil, err
	}
	return func() {
		pprof.StopCPUProfile()
		_ = f.Close()
	}, nil
}

// server is what a role starts.
type server struct {
	ready  ready
	handle func(request) (answer, error)
	close  func()
}
