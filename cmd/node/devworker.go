package main

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"

	"github.com/holdfast-io/holdfast/node"
	"github.com/holdfast-io/holdfast/worker"
	"github.com/holdfast-io/holdfast/worker/bundle"
	"github.com/holdfast-io/holdfast/worker/web/outbound"
)

// loopback is what workers under development may fetch from: they call what else runs on the machine.
var loopback = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}

// devWorker runs a wrangler project on one node, and serves it on the node's HTTP address.
func (c *devCmd) devWorker(ctx context.Context, e env, cfg node.Config) error {
	built, err := bundle.Build(c.Path, bundle.Options{Dev: true, Modules: worker.Modules()})
	if err != nil {
		return err
	}
	for _, warning := range built.Warnings {
		_, _ = fmt.Fprintf(e.stderr, "warning: %s\n", warning)
	}
	fetch := outbound.New(c.config(loopback...))
	defer fetch.Close()
	var cluster worker.LateCluster
	w, err := worker.New(worker.Config{
		Bundle: built.Bundle, Cluster: &cluster, Fetch: fetch, ShowErrors: true, Logs: printedLogs{e}, Logger: newLogger(e, c.listenFlags),
	})
	if err != nil {
		return err
	}
	defer w.Close()
	cfg.Classes, cfg.Workers = w.Classes(), w
	return serve(ctx, e, c.listenFlags, cfg, func(n *node.Node) { cluster.Set(n.Calls()) })
}

// printedLogs prints what the worker logs, as somebody who writes it wants to read it.
type printedLogs struct{ e env }

// Log implements worker.LogSink.
func (p printedLogs) Log(entry *worker.LogEntry) {
	who := entry.Worker
	if entry.Class != "" {
		who = entry.Class + " " + entry.Object
		if entry.Name != "" {
			who = fmt.Sprintf("%s %q", entry.Class, entry.Name)
		}
	}
	level := ""
	if entry.Level >= slog.LevelWarn {
		level = " " + entry.Level.String()
	}
	_, _ = fmt.Fprintf(p.e.stderr, "%s [%s]%s %s\n", entry.Time.Format("15:04:05.000"), who, level, entry.Text)
}
