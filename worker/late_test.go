package worker_test

import (
	"context"
	"sync/atomic"

	"github.com/holdfast-io/holdfast/actor"
	"github.com/holdfast-io/holdfast/fault"
	"github.com/holdfast-io/holdfast/placement"
	"github.com/holdfast-io/holdfast/worker"
)

// lateCluster is the worker.Cluster of a worker whose classes a node is started with, and so is made before the node.
// Until Set is called there are no classes to call. It is safe for concurrent use.
type lateCluster struct {
	cluster atomic.Pointer[worker.Cluster]
}

// Set says which cluster it is.
func (l *lateCluster) Set(c worker.Cluster) { l.cluster.Store(&c) }

func errNotStarted() error { return fault.New(fault.NoOwner, "the node is starting") }

// Call implements actor.Caller.
func (l *lateCluster) Call(ctx context.Context, c *actor.Outgoing, done func(actor.Result)) func(error) {
	if cluster := l.cluster.Load(); cluster != nil {
		return (*cluster).Call(ctx, c, done)
	}
	done(actor.Result{Err: errNotStarted()})
	return func(error) {}
}

// NewUniqueID implements actor.Caller.
func (l *lateCluster) NewUniqueID(ctx context.Context, class string) (placement.ObjectID, error) {
	if cluster := l.cluster.Load(); cluster != nil {
		return (*cluster).NewUniqueID(ctx, class)
	}
	return placement.ObjectID{}, errNotStarted()
}

// Namespace implements worker.Cluster.
func (l *lateCluster) Namespace(class string) (placement.Namespace, bool) {
	if cluster := l.cluster.Load(); cluster != nil {
		return (*cluster).Namespace(class)
	}
	return placement.Namespace{}, false
}
