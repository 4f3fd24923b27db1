package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/holdfast-io/holdfast/node"
	holdfastv1 "github.com/holdfast-io/holdfast/proto/holdfast/v1"
	"github.com/holdfast-io/holdfast/worker"
	"github.com/holdfast-io/holdfast/worker/bundle"
	"github.com/holdfast-io/holdfast/worker/web/outbound"
)

// loopback is what workers under development may fetch from: they call what else runs on the machine.
var loopback = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}

// devWait is how long the node may take to go over to a version of the project.
const devWait = 30 * time.Second

// devWorker runs a wrangler project on one node: it deploys it there, and again whenever its files change.
func (c *devCmd) devWorker(ctx context.Context, e env, cfg node.Config) error {
	watcher, err := bundle.Watch(c.Path, bundle.Options{Dev: true, Modules: worker.Modules()}, c.DataDir)
	if err != nil {
		return err
	}
	defer func() { _ = watcher.Close() }()
	first := <-watcher.Updates()
	if first.Err != nil {
		return first.Err
	}
	cfg.Worker = first.Result.Name
	project := &devProject{env: e, name: first.Result.Name}
	following, end := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer end()
	l := &loader{fetch: outbound.New(c.config(loopback...)), showErrors: true, logs: printedLogs{e}}
	return serve(ctx, e, c.listenFlags, l, cfg, func(n *node.Node) error {
		if err := n.WaitReady(following); err != nil {
			return nil //nolint:nilerr // It has ended: who runs it says why.
		}
		project.addr = addrFlag{Addr: n.Addresses().GRPC, Timeout: devWait}
		if err := project.deploy(following, first.Result); err != nil {
			return err
		}
		wg.Go(func() { project.follow(following, watcher.Updates()) })
		return nil
	})
}

// devProject is a project under development, whose node runs what it was when it last was as it must be.
type devProject struct {
	env  env
	name string   // the worker's
	addr addrFlag // of the node
}

// follow deploys what the project becomes until ctx ends, and says what is wrong with what it can't deploy.
func (p *devProject) follow(ctx context.Context, updates <-chan bundle.Update) {
	for {
		var u bundle.Update
		select {
		case <-ctx.Done():
			return
		case u = <-updates:
		}
		err := u.Err
		if err == nil {
			err = p.deploy(ctx, u.Result)
		}
		if err != nil && ctx.Err() == nil {
			_, _ = fmt.Fprintf(p.env.stderr, "%v\nThe version before this one runs on.\n", err)
		}
	}
}

// deploy has the node run a version of the project, if it does not, and returns when it does.
func (p *devProject) deploy(ctx context.Context, built *bundle.Result) error {
	for _, warning := range built.Warnings {
		_, _ = fmt.Fprintf(p.env.stderr, "warning: %s\n", warning)
	}
	if built.Name != p.name {
		return fmt.Errorf("the worker is now named %s, and was %s: start dev again", built.Name, p.name)
	}
	file, err := built.Encode()
	if err != nil {
		return err
	}
	conn, err := p.addr.dial()
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	admin := holdfastv1.NewAdminClient(conn)
	call, cancel := context.WithTimeout(ctx, p.addr.Timeout)
	defer cancel()
	list, err := admin.ListDeployments(call, &holdfastv1.ListDeploymentsRequest{})
	if err != nil {
		return p.addr.explain(err)
	}
	if slices.ContainsFunc(list.GetWorkers(), func(w *holdfastv1.Worker) bool {
		return w.GetName() == p.name && w.GetHash() == bundle.Hash(file) && runsOn(w)
	}) {
		return nil
	}
	resp, err := upload(call, env{stderr: io.Discard}, admin, file)
	if err != nil {
		return p.addr.explain(err)
	}
	wait := waitFlag{Wait: devWait}
	return wait.deployed(ctx, env{stdout: p.env.stderr, stderr: p.env.stderr}, p.addr, admin, resp)
}

// runsOn says whether every node that is alive runs a worker as it is deployed.
func runsOn(w *holdfastv1.Worker) bool {
	_, done := rollout(&holdfastv1.ListDeploymentsResponse{Workers: []*holdfastv1.Worker{w}}, w.GetNumber())
	return done
}

// printedLogs prints what the worker logs, as somebody who writes it wants to read it.
type printedLogs struct{ e env }

// Log implements worker.LogSink.
func (p printedLogs) Log(entry *worker.LogEntry) {
	who := whoLogs(entry.Worker, entry.Class, entry.Object, entry.Name)
	level := ""
	if entry.Level >= slog.LevelWarn {
		level = " " + entry.Level.String()
	}
	_, _ = fmt.Fprintf(p.e.stderr, "%s [%s]%s %s\n", entry.Time.Format(logTime), who, level, entry.Text)
}
