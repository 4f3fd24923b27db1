package main

import (
	"context"

	"github.com/holdfast-io/holdfast/node"
	"github.com/holdfast-io/holdfast/worker"
	"github.com/holdfast-io/holdfast/worker/web/outbound"
)

// loader has a node run the workers that are deployed. It implements node.Loader.
type loader struct {
	fetch *outbound.Client
	// showErrors is as in worker.Config, and so is logs; nil: the node's log takes what workers log.
	showErrors bool
	logs       worker.LogSink
}

// Load implements node.Loader.
func (l *loader) Load(_ context.Context, d node.Deployment) (*node.Worker, error) {
	logs := l.logs
	if logs == nil {
		logs = worker.LogTo(d.Logger)
	}
	w, err := worker.New(worker.Config{
		Bundle: d.Bundle, Cluster: d.Objects, Fetch: l.fetch, ShowErrors: l.showErrors, Logs: followedLogs{logs, d.Log}, Logger: d.Logger,
	})
	if err != nil {
		return nil, err
	}
	return &node.Worker{Classes: w.Classes(), Handler: w, Close: w.Close}, nil
}

// followedLogs has what workers log go to those who follow it too.
type followedLogs struct {
	worker.LogSink

	follow func(node.LogEntry)
}

// Log implements worker.LogSink.
func (f followedLogs) Log(e *worker.LogEntry) {
	f.LogSink.Log(e)
	f.follow(node.LogEntry{Time: e.Time, Class: e.Class, Object: e.Object, Name: e.Name, Level: e.Level, Text: e.Text})
}
