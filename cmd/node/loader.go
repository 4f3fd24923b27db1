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
	// showErrors and logs are as in worker.Config.
	showErrors bool
	logs       worker.LogSink
}

// Load implements node.Loader.
func (l *loader) Load(_ context.Context, d node.Deployment) (*node.Worker, error) {
	w, err := worker.New(worker.Config{
		Bundle: d.Bundle, Cluster: d.Objects, Fetch: l.fetch, ShowErrors: l.showErrors, Logs: l.logs, Logger: d.Logger,
	})
	if err != nil {
		return nil, err
	}
	return &node.Worker{Classes: w.Classes(), Handler: w, Close: w.Close}, nil
}
