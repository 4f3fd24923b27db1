package chaos

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	holdfastv1 "github.com/holdfast-io/holdfast/proto/holdfast/v1"
)

//go:embed compose.yml
var composeFile []byte

//go:embed Dockerfile
var dockerfile []byte

// run runs a command to its end and returns what it printed. Its process group is its own: the
// terminal's interrupt is for us, who end the command with its context.
func run(ctx context.Context, env []string, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.WaitDelay = 5 * time.Second
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		said := strings.TrimSpace(errs.String())
		return "", fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, said[max(0, len(said)-2000):])
	}
	return strings.TrimSpace(out.String()), nil
}

// composeCommand is what there is of docker-compose.
func composeCommand(ctx context.Context) ([]string, error) {
	if _, err := run(ctx, nil, "docker", "compose", "version"); err == nil {
		return []string{"docker", "compose"}, nil
	}
	if _, err := run(ctx, nil, "docker-compose", "version"); err == nil {
		return []string{"docker-compose"}, nil
	}
	return nil, errors.New("neither 'docker compose' nor 'docker-compose' is there")
}

// Available says why containers can't be run here, or nil.
func Available(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, 20*time.Second, errors.New("no answer within 20 s"))
	defer cancel()
	if _, err := run(ctx, nil, "docker", "version", "--format", "{{.Server.Version}}"); err != nil {
		return fmt.Errorf("Docker does not answer: %w", err) //nolint:staticcheck // a name
	}
	_, err := composeCommand(ctx)
	return err
}

// member is one node in its container.
type member struct {
	name string
	addr string // of gRPC, from here
	id   string // of the container
	conn *grpc.ClientConn

	restarts int // by Docker, as far as we know
}

// cluster is the nodes of docker-compose.yml under a project name, image and ports of its own.
type cluster struct {
	compose []string // the command, up to the verb
	env     []string
	image   string
	dir     string // what is made for it
	lock    *os.File
	nodes   []*member
	disks   string // the container that has all the disks
}

// ports are the beginnings of port numbers, one of which a cluster takes: the rest is as in
// docker-compose.yml, whose own 17 and 18 are not among them. All lie below the ports of outgoing
// connections.
var ports = []int{27, 25, 23, 21, 19, 29}

// take claims a beginning of port numbers on this machine, and everything that is named after it.
func take() (first int, lock *os.File, err error) {
	for _, first := range ports {
		lock, err := os.OpenFile(filepath.Join(os.TempDir(), fmt.Sprintf("holdfast-chaos-%d.lock", first)), os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			return 0, nil, err
		}
		if syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) == nil { //nolint:gosec // descriptors are small
			return first, lock, nil
		}
		_ = lock.Close()
	}
	return 0, nil, errors.New("too many runs on this machine at once")
}

// newCluster builds the image and starts the nodes. Close the cluster also after an error, if there is
// one: it is what has been begun.
func newCluster(ctx context.Context, nodes int, sayf func(string, ...any)) (*cluster, error) {
	root, err := run(ctx, nil, "go", "list", "-m", "-f", "{{.Dir}}")
	if err != nil {
		return nil, err
	}
	compose, err := composeCommand(ctx)
	if err != nil {
		return nil, err
	}
	first, lock, err := take()
	if err != nil {
		return nil, err
	}
	c := &cluster{lock: lock, image: fmt.Sprintf("holdfast-chaos:%d", first)}
	if c.dir, err = os.MkdirTemp("", "holdfast-chaos"); err != nil {
		return c, err
	}
	override := filepath.Join(c.dir, "compose.yml")
	c.compose = append(compose, "--project-name", fmt.Sprintf("holdfast-chaos-%d", first), "--file", filepath.Join(root, "docker-compose.yml"), "--file", override)
	if nodes == 5 {
		c.compose = append(c.compose, "--profile", "five")
	}
	c.env = []string{"HOLDFAST_IMAGE=" + c.image, fmt.Sprintf("HOLDFAST_PORTS=%d", first), fmt.Sprintf("HOLDFAST_HTTP_PORTS=%d", first+1)}
	for i := range nodes {
		c.nodes = append(c.nodes, &member{name: fmt.Sprintf("n%d", i+1), addr: fmt.Sprintf("127.0.0.1:%d%03d", first, 71+i)})
	}
	for file, content := range map[string][]byte{override: composeFile, filepath.Join(c.dir, "Dockerfile"): dockerfile} {
		if err := os.WriteFile(file, content, 0o600); err != nil {
			return c, err
		}
	}
	sayf("building the image %s", c.image)
	if err := c.build(ctx, root); err != nil {
		return c, err
	}
	// A run that was killed leaves its containers behind.
	if err := c.down(ctx); err != nil {
		return c, err
	}
	sayf("starting %d nodes", nodes)
	return c, c.start(ctx)
}

func (c *cluster) build(ctx context.Context, root string) error {
	arch, err := run(ctx, nil, "docker", "version", "--format", "{{.Server.Arch}}")
	if err != nil {
		return err
	}
	env := []string{"CGO_ENABLED=0", "GOOS=linux", "GOARCH=" + arch}
	for name, pkg := range map[string]string{"holdfast": "testnode", "faults": "faults"} {
		if _, err := run(ctx, env, "go", "build", "-C", root, "-trimpath", "-o", filepath.Join(c.dir, name), "./test/e2e/internal/"+pkg); err != nil {
			return err
		}
	}
	_, err = run(ctx, nil, "docker", "build", "--tag", c.image, c.dir)
	return err
}

func (c *cluster) start(ctx context.Context) error {
	if _, err := c.runCompose(ctx, "up", "-d"); err != nil {
		return err
	}
	var err error
	if c.disks, err = c.runCompose(ctx, "ps", "-q", "disks"); err != nil {
		return err
	}
	for _, n := range c.nodes {
		if n.id, err = c.runCompose(ctx, "ps", "-q", n.name); err != nil {
			return err
		}
		if n.conn, err = grpc.NewClient("passthrough:///"+n.addr, grpc.WithTransportCredentials(insecure.NewCredentials())); err != nil {
			return err
		}
	}
	return c.waitWhole(ctx)
}

func (c *cluster) runCompose(ctx context.Context, args ...string) (string, error) {
	return run(ctx, c.env, c.compose[0], append(c.compose[1:len(c.compose):len(c.compose)], args...)...)
}

func (c *cluster) down(ctx context.Context) error {
	_, err := c.runCompose(ctx, "down", "--volumes", "--remove-orphans", "--timeout", "1")
	return err
}

// close removes everything, whatever state it is in.
func (c *cluster) close(ctx context.Context) error {
	var errs []error
	for _, n := range c.nodes {
		if n.conn != nil {
			_ = n.conn.Close()
		}
		if n.id != "" {
			_, _ = run(ctx, nil, "docker", "unpause", n.id) // Else it can't be stopped; most are not paused.
		}
	}
	if c.compose != nil {
		errs = append(errs, c.down(ctx))
		_, _ = run(ctx, nil, "docker", "image", "rm", c.image) // Perhaps it was never built.
	}
	errs = append(errs, os.RemoveAll(c.dir), c.lock.Close())
	return errors.Join(errs...)
}

// saveLogs writes what the nodes have logged into a directory.
func (c *cluster) saveLogs(ctx context.Context, dir string) error {
	for _, n := range c.nodes {
		if n.id == "" {
			continue // It was not begun.
		}
		f, err := os.Create(filepath.Join(dir, n.name+".log"))
		if err != nil {
			return err
		}
		cmd := exec.CommandContext(ctx, "docker", "logs", n.id)
		cmd.Stdout, cmd.Stderr = f, f
		if err := errors.Join(cmd.Run(), f.Close()); err != nil {
			return err
		}
	}
	return nil
}

// faults runs the command of that name in a container.
func (c *cluster) faults(ctx context.Context, container string, args ...string) (string, error) {
	return run(ctx, nil, "docker", append([]string{"exec", container, "/faults"}, args...)...)
}

// each does something to several nodes at once.
func each(nodes []*member, do func(*member) error) error {
	errs := make([]error, len(nodes))
	var wg sync.WaitGroup
	for i, n := range nodes {
		wg.Go(func() { errs[i] = do(n) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// status asks one node after another.
func (c *cluster) status(ctx context.Context) (*holdfastv1.StatusResponse, error) {
	var errs []error
	for _, n := range c.nodes {
		ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
		s, err := holdfastv1.NewAdminClient(n.conn).Status(ctx, &holdfastv1.StatusRequest{}, grpc.WaitForReady(true))
		cancel()
		if err == nil {
			return s, nil
		}
		errs = append(errs, fmt.Errorf("status of %s: %w", n.name, err))
	}
	return nil, errors.Join(errs...)
}

// whole says whether every shard has three voters on living nodes, and every node owns some.
func (c *cluster) whole(s *holdfastv1.StatusResponse) error {
	owners := make(map[string]bool)
	for _, n := range s.GetNodes() {
		if n.GetState() != "alive" {
			return fmt.Errorf("%s is %s", n.GetName(), n.GetState())
		}
	}
	for _, sh := range s.GetShards() {
		if len(sh.GetVoters()) != 3 || len(sh.GetLearners()) > 0 || sh.GetOwner() == "" || sh.GetMoving() != "" {
			return fmt.Errorf("shard %d: owner %q, voters %v, learners %v, %s", sh.GetId(), sh.GetOwner(), sh.GetVoters(), sh.GetLearners(), sh.GetMoving())
		}
		owners[sh.GetOwner()] = true
	}
	if len(owners) != len(c.nodes) {
		return fmt.Errorf("%d of %d nodes own shards", len(owners), len(c.nodes))
	}
	return nil
}

// waitWhole waits until the cluster is whole.
func (c *cluster) waitWhole(ctx context.Context) error {
	const limit = 2 * time.Minute
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		s, err := c.status(ctx)
		if err == nil {
			err = c.whole(s)
		}
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the cluster is not whole after %s: %w", limit, err)
		case <-tick.C:
		}
	}
}

// crashes returns how often nodes have ended by themselves since it was last asked, and Docker has
// started them again.
func (c *cluster) crashes(ctx context.Context) (int, error) {
	n := 0
	for _, m := range c.nodes {
		out, err := run(ctx, nil, "docker", "inspect", "--format", "{{.RestartCount}}", m.id)
		if err != nil {
			return 0, err
		}
		count, err := strconv.Atoi(out)
		if err != nil {
			return 0, err
		}
		n += max(0, count-m.restarts) // A start by hand counts from 0 again.
		m.restarts = count
	}
	return n, nil
}
