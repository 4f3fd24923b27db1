package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"

	"github.com/holdfast-io/holdfast/cluster"
	"github.com/holdfast-io/holdfast/fault"
	"github.com/holdfast-io/holdfast/node/system"
	systemv1 "github.com/holdfast-io/holdfast/proto/holdfast/system/v1"
	holdfastv1 "github.com/holdfast-io/holdfast/proto/holdfast/v1"
	"github.com/holdfast-io/holdfast/worker/bundle"
)

// deployTimeout is how long storing and recording a deployment may take, and deployTries how often it is
// planned again because another came first.
const (
	deployTimeout = 2 * time.Minute
	deployTries   = 3
)

// Deploy implements holdfastv1.AdminServer. A node takes one bundle at a time: each takes up to three times
// its size in memory.
func (a *adminServer) Deploy(stream grpc.ClientStreamingServer[holdfastv1.DeployRequest, holdfastv1.DeployResponse]) error {
	if a.n.facts.Level() < system.LevelDeployments && a.n.gossiping.Load() != nil {
		a.n.refreshFacts() // Raises it, when every node is of a release that knows it by now.
	}
	if level := a.n.facts.Level(); level < system.LevelDeployments {
		return fault.New(fault.InvalidArgument, "the cluster is at feature level %d, and has workers from %d on: upgrade every node first", level, system.LevelDeployments)
	}
	if !a.n.deploying.TryLock() {
		return fault.New(fault.Overloaded, "another deployment comes through this node: wait for it, or deploy through another")
	}
	defer a.n.deploying.Unlock()
	var file []byte
	for {
		part, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if file = append(file, part.GetPart()...); len(file) > system.BundleBytesMax {
			return fault.New(fault.RequestTooLarge, "bundle: at most %d bytes", system.BundleBytesMax)
		}
	}
	ctx, cancel := context.WithTimeout(stream.Context(), deployTimeout)
	defer cancel()
	b, err := bundle.Decode(file)
	if err != nil {
		return fault.New(fault.InvalidArgument, "bundle: %v", err)
	}
	if err := a.n.tryOut(ctx, b); err != nil {
		return err
	}
	hash := bundle.Hash(file)
	if err := a.n.workers.bundles.put(ctx, hash, file); err != nil {
		return err
	}
	resp, err := a.n.deploy(ctx, b, hash, uint64(len(file)), 0)
	if err != nil {
		return err
	}
	return stream.SendAndClose(resp)
}

// tryOut loads a bundle, to refuse one that no node could load.
func (n *Node) tryOut(ctx context.Context, b *bundle.Bundle) error {
	loaded, err := n.workers.load(ctx, b, 0)
	if err != nil {
		return fault.New(fault.InvalidArgument, "bundle: node %s can't load it: %v", n.id.Name, err)
	}
	if loaded.Close != nil {
		loaded.Close()
	}
	return nil
}

// deploy makes a bundle that is stored in the cluster what its worker runs.
func (n *Node) deploy(ctx context.Context, b *bundle.Bundle, hash string, size, rollbackOf uint64) (*holdfastv1.DeployResponse, error) {
	for try := 1; ; try++ {
		if err := n.facts.Refresh(ctx); err != nil {
			return nil, err
		}
		before, err := n.history(ctx, b.Name)
		if err != nil && fault.ReasonOf(err) != fault.UnknownWorker {
			return nil, err
		}
		req, changes, err := n.plan(b)
		if err != nil {
			return nil, err
		}
		req.Worker.Hash, req.Worker.Size, req.RollbackOf = hash, size, rollbackOf
		req.CreatedUnixMs = n.cfg.Now().UnixMilli()
		err = n.facts.ask(ctx, "Deploy", req)
		switch {
		case err == nil:
			n.dropBundle(ctx, before, hash)
			return &holdfastv1.DeployResponse{Worker: b.Name, Number: req.GetPlannedFrom() + 1, Hash: hash, Changes: changes}, nil
		case fault.MetadataOf(err)[system.ConflictKey] == "" || try == deployTries:
			return nil, err
		}
	}
}

// plan says what deploying a bundle is to change, from what this node knows.
func (n *Node) plan(b *bundle.Bundle) (req *systemv1.DeployRequest, inWords []string, err error) {
	known := n.facts.Worker(b.Name)
	applied := bundle.Applied{Tag: known.GetTag()}
	for _, c := range known.GetClasses() {
		applied.Classes = append(applied.Classes, bundle.Class{Name: c.GetName(), SQLite: c.GetSqlite()})
	}
	changes, after, err := bundle.Plan(applied, b)
	if err != nil {
		return nil, nil, fault.New(fault.InvalidArgument, "worker %s: %v", b.Name, err)
	}
	req = &systemv1.DeployRequest{Worker: &systemv1.Worker{Name: b.Name, Tag: after.Tag}, PlannedFrom: known.GetNumber()}
	for _, c := range after.Classes {
		req.Worker.Classes = append(req.Worker.Classes, &systemv1.WorkerClass{Name: c.Name, Sqlite: c.SQLite})
	}
	full := func(class string) string { return b.Name + "/" + class }
	for _, c := range changes {
		inWords = append(inWords, c.String())
		switch c.Kind {
		case bundle.CreateClass:
			req.Changes = append(req.Changes, &systemv1.ClassChange{To: full(c.Class.Name)})
		case bundle.RenameClass:
			req.Changes = append(req.Changes, &systemv1.ClassChange{From: full(c.Class.Name), To: full(c.To)})
		case bundle.DeleteClass:
			req.Changes = append(req.Changes, &systemv1.ClassChange{From: full(c.Class.Name)})
		}
	}
	return req, inWords, nil
}

// history returns what a worker has run, the latest first.
func (n *Node) history(ctx context.Context, worker string) ([]*systemv1.Deployment, error) {
	resp := &systemv1.DeploymentsResponse{}
	if err := n.facts.call(ctx, "Deployments", &systemv1.DeploymentsRequest{Worker: worker}, resp); err != nil {
		return nil, err
	}
	if len(resp.GetDeployments()) == 0 {
		return nil, fault.New(fault.UnknownWorker, "worker %q: none of that name was ever deployed", worker)
	}
	return resp.GetDeployments(), nil
}

// dropBundle deletes the bundle that has just left a worker's history, which was this before. What it fails
// to delete stays, and harms nobody.
func (n *Node) dropBundle(ctx context.Context, before []*systemv1.Deployment, now string) {
	if len(before) < system.DeploymentsMax {
		return
	}
	oldest := before[len(before)-1].GetHash()
	inUse := slices.ContainsFunc(before[:len(before)-1], func(d *systemv1.Deployment) bool { return d.GetHash() == oldest })
	if oldest == "" || oldest == now || inUse {
		return
	}
	if err := n.workers.bundles.ask(ctx, oldest, "Drop", &systemv1.DropBundleRequest{}, &systemv1.DropBundleResponse{}); err != nil {
		n.log.Warn("an old bundle is not deleted", slog.Any("error", err))
	}
}

// Rollback implements holdfastv1.AdminServer.
func (a *adminServer) Rollback(ctx context.Context, req *holdfastv1.RollbackRequest) (*holdfastv1.DeployResponse, error) {
	n := a.n
	history, err := n.history(ctx, req.GetWorker())
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(history, func(d *systemv1.Deployment) bool {
		if req.GetNumber() != 0 {
			return d.GetNumber() == req.GetNumber()
		}
		return d.GetHash() != "" && d.GetHash() != history[0].GetHash()
	})
	switch {
	case i < 0 && req.GetNumber() == 0:
		return nil, fault.New(fault.InvalidArgument, "worker %s has run nothing else: there is nothing to go back to", req.GetWorker())
	case i < 0:
		return nil, fault.New(fault.InvalidArgument, "number: worker %s has no deployment %d among the last %d", req.GetWorker(), req.GetNumber(), system.DeploymentsMax)
	case history[i].GetHash() == "":
		return nil, fault.New(fault.InvalidArgument, "number: by deployment %d worker %s was undeployed: do that", history[i].GetNumber(), req.GetWorker())
	}
	target := history[i]
	file, err := n.workers.bundles.load(ctx, target.GetHash(), target.GetSize())
	if err != nil {
		return nil, err
	}
	b, err := bundle.Decode(file)
	if err != nil {
		return nil, err
	}
	if err := n.tryOut(ctx, b); err != nil {
		return nil, err
	}
	return n.deploy(ctx, b, target.GetHash(), target.GetSize(), target.GetNumber())
}

// Undeploy implements holdfastv1.AdminServer.
func (a *adminServer) Undeploy(ctx context.Context, req *holdfastv1.UndeployRequest) (*holdfastv1.UndeployResponse, error) {
	n := a.n
	if err := n.facts.ask(ctx, "Undeploy", &systemv1.UndeployRequest{Worker: req.GetWorker(), CreatedUnixMs: n.cfg.Now().UnixMilli()}); err != nil {
		return nil, err
	}
	return &holdfastv1.UndeployResponse{Number: n.facts.Worker(req.GetWorker()).GetNumber()}, nil
}

// ListDeployments implements holdfastv1.AdminServer.
func (a *adminServer) ListDeployments(ctx context.Context, req *holdfastv1.ListDeploymentsRequest) (*holdfastv1.ListDeploymentsResponse, error) {
	n := a.n
	out := &holdfastv1.ListDeploymentsResponse{}
	if err := n.facts.Refresh(ctx); err != nil {
		return nil, err
	}
	if req.GetWorker() != "" {
		history, err := n.history(ctx, req.GetWorker())
		if err != nil {
			return nil, err
		}
		for _, d := range history {
			out.History = append(out.History, &holdfastv1.Deployment{
				Number: d.GetNumber(), Hash: d.GetHash(), Size: d.GetSize(), CreatedUnixMs: d.GetCreatedUnixMs(), RollbackOf: d.GetRollbackOf(),
			})
		}
	}
	states := n.workerStates(ctx)
	for _, w := range n.facts.view.Load().facts.GetWorkers() {
		if req.GetWorker() != "" && w.GetName() != req.GetWorker() {
			continue
		}
		one := &holdfastv1.Worker{Name: w.GetName(), Number: w.GetNumber(), Hash: w.GetHash(), Size: w.GetSize()}
		for _, c := range w.GetClasses() {
			one.Classes = append(one.Classes, c.GetName())
		}
		for _, s := range states {
			state := s.of[w.GetName()]
			if s.err != nil {
				state.Error = s.err.Error()
			}
			one.Nodes = append(one.Nodes, &holdfastv1.WorkerOnNode{Node: s.node, Number: state.Number, Error: state.Error})
		}
		out.Workers = append(out.Workers, one)
	}
	return out, nil
}

// nodeWorkers is what a node says of workers.
type nodeWorkers struct {
	node string
	of   map[string]workerState
	err  error
}

// workerStates asks every node that is alive what it runs.
func (n *Node) workerStates(ctx context.Context) []nodeWorkers {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	var mu sync.Mutex
	var wg sync.WaitGroup
	var out []nodeWorkers
	for _, m := range n.cluster.Members() {
		if m.State != cluster.Alive {
			continue
		}
		wg.Go(func() {
			s := nodeWorkers{node: m.Name}
			if m.ID == n.id.Node {
				s.of = n.workers.states()
			} else if raw, err := n.peers.Query(ctx, m.ID, queryWorkers, nil); err != nil {
				s.err = fmt.Errorf("it does not answer: %w", err)
			} else {
				s.err = json.Unmarshal(raw, &s.of)
			}
			mu.Lock()
			defer mu.Unlock()
			out = append(out, s)
		})
	}
	wg.Wait()
	slices.SortFunc(out, func(a, b nodeWorkers) int { return strings.Compare(a.node, b.node) })
	return out
}
