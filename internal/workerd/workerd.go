// Package workerd runs workers on Cloudflare's own runtime, for tests and benchmarks that compare with it. The binary
// comes from npm: "make differential" fetches it.
package workerd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-io/holdfast/worker/bundle"
)

// Process is a workerd that serves a worker. Close it.
type Process struct {
	Addr string // host:port of its HTTP
	PID  int

	cmd *exec.Cmd
}

// startMax is how long a workerd may take to listen.
const startMax = 20 * time.Second

// Start runs a bundle on the binary, in an empty folder, and returns when it listens. Its objects store in
// SQLite on disk when onDisk, and else in memory with the ids that Holdfast's have: workerd makes file names
// of the key that ids are made of. It ends with ctx.
func Start(ctx context.Context, binary, dir string, b *bundle.Bundle, onDisk bool) (*Process, error) {
	address, err := freeAddress(ctx)
	if err != nil {
		return nil, err
	}
	for name, content := range map[string]string{"index.js": string(b.Code), "config.capnp": config(b, address, onDisk)} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			return nil, err
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "objects"), 0o700); err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, binary, "serve", "config.capnp") //nolint:gosec // the caller's own
	cmd.Dir = dir
	var stderr strings.Builder
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &Process{Addr: address, PID: cmd.Process.Pid, cmd: cmd}
	if err := listens(ctx, address); err != nil {
		p.Close()
		return nil, errors.Join(fmt.Errorf("workerd does not listen: %s", stderr.String()), err)
	}
	return p, nil
}

// Close ends the process, and waits for it.
func (p *Process) Close() {
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait()
}

func freeAddress(ctx context.Context) (string, error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

// listens waits until somebody does.
func listens(ctx context.Context, address string) error {
	ctx, cancel := context.WithTimeout(ctx, startMax)
	defer cancel()
	again := time.NewTicker(10 * time.Millisecond)
	defer again.Stop()
	for {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
		if err == nil {
			return conn.Close()
		}
		select {
		case <-ctx.Done():
			return err
		case <-again.C:
		}
	}
}

// config has workerd run a bundle.
func config(b *bundle.Bundle, address string, onDisk bool) string {
	storage, separator := "inMemory = void", "/"
	if onDisk {
		storage, separator = `localDisk = "disk"`, "-"
	}
	var namespaces, bindings []string
	for _, class := range b.Classes {
		namespaces = append(namespaces, fmt.Sprintf("(className = %q, uniqueKey = %q, enableSql = true)", class.Name, b.Name+separator+class.Name))
	}
	for _, binding := range b.Bindings {
		bindings = append(bindings, fmt.Sprintf("(name = %q, durableObjectNamespace = %q)", binding.Name, binding.Class))
	}
	date := b.CompatibilityDate
	if date == "" {
		date = "2026-10-01"
	}
	slices.Sort(namespaces)
	return fmt.Sprintf(`using Workerd = import "/workerd/workerd.capnp";
const config :Workerd.Config = (
	services = [(name = "main", worker = .main), (name = "disk", disk = (path = "objects", writable = true))],
	sockets = [(name = "http", address = %q, http = (), service = "main")],
);
const main :Workerd.Worker = (
	modules = [(name = "index.js", esModule = embed "index.js")],
	compatibilityDate = %q,
	durableObjectNamespaces = [%s],
	durableObjectStorage = (%s),
	bindings = [%s],
);
`, address, date, strings.Join(namespaces, ", "), storage, strings.Join(bindings, ", "))
}
