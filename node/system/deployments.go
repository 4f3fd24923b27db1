package system

import (
	"context"
	"encoding/hex"
	"slices"
	"strings"

	"github.com/holdfast-io/holdfast/actor"
	"github.com/holdfast-io/holdfast/fault"
	systemv1 "github.com/holdfast-io/holdfast/proto/holdfast/system/v1"
)

// DeploymentsMax is how many deployments of a worker are kept, to go back to.
const DeploymentsMax = 20

// WorkersMax is how many workers a cluster may have.
const WorkersMax = 1000

// worker is the stored form of what a worker runs.
type worker struct {
	Name    string        `cbor:"name"`
	Number  uint64        `cbor:"number"`
	Hash    string        `cbor:"hash,omitempty"`
	Size    uint64        `cbor:"size,omitempty"`
	Tag     string        `cbor:"tag,omitempty"`
	Classes []workerClass `cbor:"classes,omitempty"`
}

type workerClass struct {
	Name   string `cbor:"name"`
	SQLite bool   `cbor:"sqlite,omitempty"`
}

// deployment is an entry in a worker's history, which has a key of its own.
type deployment struct {
	Number     uint64 `cbor:"number"`
	Hash       string `cbor:"hash,omitempty"`
	Size       uint64 `cbor:"size,omitempty"`
	Created    int64  `cbor:"created"`
	RollbackOf uint64 `cbor:"rollback_of,omitempty"`
}

func historyKey(worker string) string { return "worker/" + worker }

// Deploy implements systemv1.SystemServer. Whoever asks has planned the changes from what the worker had;
// when it has something else by now, it is to plan again.
func (o *object) Deploy(_ context.Context, req *systemv1.DeployRequest) (*systemv1.FactsResponse, error) {
	f, err := o.load()
	if err != nil {
		return nil, err
	}
	if f.FeatureLevel < LevelDeployments {
		return nil, fault.New(fault.InvalidArgument, "deployment: the cluster is at feature level %d, and has workers from %d on: upgrade every node first", f.FeatureLevel, LevelDeployments)
	}
	in := req.GetWorker()
	w := worker{Name: in.GetName(), Hash: in.GetHash(), Size: in.GetSize(), Tag: in.GetTag()}
	for _, c := range in.GetClasses() {
		w.Classes = append(w.Classes, workerClass{Name: c.GetName(), SQLite: c.GetSqlite()})
	}
	if raw, err := hex.DecodeString(w.Hash); err != nil || len(raw) != 32 {
		return nil, fault.New(fault.InvalidArgument, "worker.hash: must be a SHA-256 in hex, is %.80q", w.Hash)
	}
	for _, c := range req.GetChanges() {
		if err := f.changeOf(w.Name, c); err != nil {
			return nil, err
		}
	}
	if err := f.deploy(&w, req.GetPlannedFrom()); err != nil {
		return nil, err
	}
	d := deployment{Number: w.Number, Hash: w.Hash, Size: w.Size, Created: req.GetCreatedUnixMs(), RollbackOf: req.GetRollbackOf()}
	return o.saveAndRecord(f, w.Name, d)
}

// deploy makes w the latest of a worker, whose latest was planned from.
func (f *facts) deploy(w *worker, plannedFrom uint64) error {
	i := slices.IndexFunc(f.Workers, func(known worker) bool { return known.Name == w.Name })
	if i < 0 {
		if w.Name == "" || strings.Contains(w.Name, "/") {
			return fault.New(fault.InvalidArgument, "worker.name: %q is none", w.Name)
		}
		if len(f.Workers) >= WorkersMax {
			return fault.New(fault.Overloaded, "the cluster has %d workers, and that is the most", WorkersMax)
		}
		f.Workers = append(f.Workers, worker{Name: w.Name})
		i = len(f.Workers) - 1
	}
	known := &f.Workers[i]
	if known.Number != plannedFrom {
		return fault.New(fault.InvalidArgument, "planned_from: worker %s has deployment %d, not %d: another came first; deploy again", w.Name, known.Number, plannedFrom).With(ConflictKey, "true")
	}
	w.Number = known.Number + 1
	*known = *w
	return nil
}

// ConflictKey is in the metadata of the refusal of a deployment that was planned from another than the
// latest.
const ConflictKey = "conflict"

// changeOf makes a change that a deployment makes to a class of its worker.
func (f *facts) changeOf(worker string, c *systemv1.ClassChange) error {
	from, to := c.GetFrom(), c.GetTo()
	for _, name := range []string{from, to} {
		if name != "" && !strings.HasPrefix(name, worker+"/") {
			return fault.New(fault.InvalidArgument, "changes: class %q is none of worker %s", name, worker)
		}
	}
	if from == "" && f.class(to) >= 0 {
		return nil // A program had it before it was deployed.
	}
	return f.change(c)
}

// ofWorker refuses to change a class of a worker otherwise than by a deployment, which says what it has.
func (f *facts) ofWorker(c *systemv1.ClassChange) error {
	for _, name := range []string{c.GetFrom(), c.GetTo()} {
		owner, _, _ := strings.Cut(name, "/")
		if slices.ContainsFunc(f.Workers, func(w worker) bool { return w.Name == owner }) {
			return fault.New(fault.InvalidArgument, "class %q: it belongs to a worker: deploy one that has a migration, or exports, which say what becomes of it", name)
		}
	}
	return nil
}

// Undeploy implements systemv1.SystemServer.
func (o *object) Undeploy(_ context.Context, req *systemv1.UndeployRequest) (*systemv1.FactsResponse, error) {
	f, err := o.load()
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(f.Workers, func(known worker) bool { return known.Name == req.GetWorker() })
	if i < 0 || f.Workers[i].Hash == "" {
		return nil, fault.New(fault.UnknownWorker, "worker %q: none of that name is deployed", req.GetWorker())
	}
	w := &f.Workers[i]
	w.Number++
	w.Hash, w.Size = "", 0
	return o.saveAndRecord(f, w.Name, deployment{Number: w.Number, Created: req.GetCreatedUnixMs()})
}

// saveAndRecord is save, and adds to a worker's history.
func (o *object) saveAndRecord(f facts, worker string, d deployment) (*systemv1.FactsResponse, error) {
	history, _, err := actor.Get[[]deployment](o.store, historyKey(worker))
	if err != nil {
		return nil, err
	}
	resp, err := o.save(f, true)
	if err != nil {
		return nil, err
	}
	history = slices.Insert(history, 0, d)
	return resp, actor.Put(o.store, historyKey(worker), history[:min(len(history), DeploymentsMax)])
}

// Deployments implements systemv1.SystemServer.
func (o *object) Deployments(_ context.Context, req *systemv1.DeploymentsRequest) (*systemv1.DeploymentsResponse, error) {
	history, _, err := actor.Get[[]deployment](o.store, historyKey(req.GetWorker()))
	if err != nil {
		return nil, err
	}
	out := &systemv1.DeploymentsResponse{}
	for _, d := range history {
		out.Deployments = append(out.Deployments, &systemv1.Deployment{
			Number: d.Number, Hash: d.Hash, Size: d.Size, CreatedUnixMs: d.Created, RollbackOf: d.RollbackOf,
		})
	}
	return out, nil
}

func (w *worker) proto() *systemv1.Worker {
	out := &systemv1.Worker{Name: w.Name, Number: w.Number, Hash: w.Hash, Size: w.Size, Tag: w.Tag}
	for _, c := range w.Classes {
		out.Classes = append(out.Classes, &systemv1.WorkerClass{Name: c.Name, Sqlite: c.SQLite})
	}
	return out
}
