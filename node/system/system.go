// Package system is the reserved class holdfast.System, whose one object "cluster" keeps the facts
// about the cluster as a whole: the classes with their unique keys, the nodes removed for good, the
// nodes drained, what workers run, and the feature level. The reserved class holdfast.Bundle keeps the
// bundles of workers. Both are ordinary classes on the ordinary core, so what they keep is replicated,
// fenced and linearizable as everything else is.
//
// Every change raises the revision by one. Facts are only ever added to, but for the drained nodes,
// which are a wish and no promise, and for the classes. A class that is renamed or deleted leaves its
// unique key with another name, or among the ended ones: what an earlier revision says of it finds the
// same objects, or is refused where they are stored.
package system

import (
	"context"
	"slices"

	"github.com/holdfast-io/holdfast/actor"
	"github.com/holdfast-io/holdfast/fault"
	"github.com/holdfast-io/holdfast/placement"
	systemv1 "github.com/holdfast-io/holdfast/proto/holdfast/system/v1"
)

// Names of the class and of its one object. The unique key of the class is its name.
const (
	ClassName  = "holdfast.System"
	ObjectName = "cluster"
	// ServiceName is the gRPC service that the class implements.
	ServiceName = "holdfast.system.v1.System"
)

// FeatureLevel is the highest that this release knows, and what a cluster created by it starts with. An
// older cluster is raised to it when every node knows it. What a level adds is written or sent only
// in a cluster that has been raised to it.
const FeatureLevel = LevelDeployments

// What the levels add.
const (
	// LevelChains has calls in frames say which events wait for them: objects may call others.
	LevelChains = 2
	// LevelClassChanges has entries of the log that end a class.
	LevelClassChanges = 3
	// LevelDeployments has workers, whose bundles objects of another class keep.
	LevelDeployments = 4
)

// The one key that the object stores.
const factsKey = "facts"

// facts is the stored form.
type facts struct {
	Revision     uint64   `cbor:"revision"`
	FeatureLevel uint32   `cbor:"feature_level"`
	Classes      []class  `cbor:"classes"`
	Removed      []uint64 `cbor:"removed"`
	Drained      []uint64 `cbor:"drained,omitempty"`
	Lost         []uint64 `cbor:"lost,omitempty"`
	EndedKeys    []string `cbor:"ended_keys,omitempty"`
	Workers      []worker `cbor:"workers,omitempty"`
}

type class struct {
	Name        string   `cbor:"name"`
	Service     string   `cbor:"service"`
	UniqueKey   string   `cbor:"unique_key"`
	FormerNames []string `cbor:"former_names,omitempty"`
}

// Class returns the class, to be registered on every node.
func Class() actor.Class {
	return actor.NewClass(ClassName, &systemv1.System_ServiceDesc, func(s *actor.State) systemv1.SystemServer {
		return &object{store: s.Storage()}
	})
}

// object implements systemv1.SystemServer, one event at a time.
type object struct {
	systemv1.UnimplementedSystemServer

	store *actor.Storage
}

// Facts implements systemv1.SystemServer.
func (o *object) Facts(_ context.Context, req *systemv1.FactsRequest) (*systemv1.FactsResponse, error) {
	f, err := o.load()
	if err != nil {
		return nil, err
	}
	if req.GetKnownRevision() == f.Revision {
		return &systemv1.FactsResponse{Revision: f.Revision}, nil
	}
	return f.response(), nil
}

// RegisterClasses implements systemv1.SystemServer. A class that is known under another service is
// refused: two programs would fight over one namespace.
func (o *object) RegisterClasses(_ context.Context, req *systemv1.RegisterClassesRequest) (*systemv1.FactsResponse, error) {
	f, err := o.load()
	if err != nil {
		return nil, err
	}
	changed := false
	for _, c := range req.GetClasses() {
		if f.runs(c.GetName(), c.GetService()) {
			continue
		}
		i := f.class(c.GetName())
		if i >= 0 {
			if known := f.Classes[i]; known.Service != c.GetService() {
				return nil, fault.New(fault.InvalidArgument, "classes: %s is registered with service %q in this cluster, not %q; register it under another name", c.GetName(), known.Service, c.GetService())
			}
			continue
		}
		if j := slices.IndexFunc(f.Classes, func(known class) bool { return known.Service != "" && known.Service == c.GetService() }); j >= 0 {
			return nil, fault.New(fault.InvalidArgument, "classes: service %s belongs to class %s in this cluster; a service names one class", c.GetService(), f.Classes[j].Name)
		}
		f.create(c.GetName(), c.GetService())
		changed = true
	}
	return o.save(f, changed)
}

// RemoveNode implements systemv1.SystemServer.
func (o *object) RemoveNode(_ context.Context, req *systemv1.RemoveNodeRequest) (*systemv1.FactsResponse, error) {
	if req.GetNode() == 0 {
		return nil, fault.New(fault.InvalidArgument, "node: must not be 0")
	}
	f, err := o.load()
	if err != nil {
		return nil, err
	}
	removes := !slices.Contains(f.Removed, req.GetNode())
	if removes {
		f.Removed = append(f.Removed, req.GetNode())
		f.drain(req.GetNode(), false)
	}
	loses := req.GetLost() && !slices.Contains(f.Lost, req.GetNode())
	if loses {
		f.Lost = append(f.Lost, req.GetNode())
	}
	return o.save(f, removes || loses)
}

// RaiseFeatureLevel implements systemv1.SystemServer. A level below the one in force changes nothing.
func (o *object) RaiseFeatureLevel(_ context.Context, req *systemv1.RaiseFeatureLevelRequest) (*systemv1.FactsResponse, error) {
	if req.GetLevel() > FeatureLevel {
		return nil, fault.New(fault.InvalidArgument, "level: this release knows up to %d, not %d", FeatureLevel, req.GetLevel())
	}
	f, err := o.load()
	if err != nil {
		return nil, err
	}
	raises := req.GetLevel() > f.FeatureLevel
	f.FeatureLevel = max(f.FeatureLevel, req.GetLevel())
	return o.save(f, raises)
}

// DrainNode implements systemv1.SystemServer.
func (o *object) DrainNode(_ context.Context, req *systemv1.DrainNodeRequest) (*systemv1.FactsResponse, error) {
	if req.GetNode() == 0 {
		return nil, fault.New(fault.InvalidArgument, "node: must not be 0")
	}
	f, err := o.load()
	if err != nil {
		return nil, err
	}
	if !req.GetOff() && slices.Contains(f.Removed, req.GetNode()) {
		return nil, fault.New(fault.InvalidArgument, "node: %s was removed for good; there is nothing to drain", placement.NodeID(req.GetNode()))
	}
	return o.save(f, f.drain(req.GetNode(), !req.GetOff()))
}

// drain puts a node on the list or takes it off, and says whether that changed anything.
func (f *facts) drain(node uint64, on bool) bool {
	switch i := slices.Index(f.Drained, node); {
	case on && i < 0:
		f.Drained = append(f.Drained, node)
	case !on && i >= 0:
		f.Drained = slices.Delete(f.Drained, i, i+1)
	default:
		return false
	}
	return true
}

func (o *object) load() (facts, error) {
	f, ok, err := actor.Get[facts](o.store, factsKey)
	if err != nil {
		return facts{}, err
	}
	if !ok {
		f.FeatureLevel = FeatureLevel
	}
	return f, nil
}

// save writes the facts under the next revision, when they changed.
func (o *object) save(f facts, changed bool) (*systemv1.FactsResponse, error) {
	if changed {
		f.Revision++
		if err := actor.Put(o.store, factsKey, f); err != nil {
			return nil, err
		}
	}
	return f.response(), nil
}

func (f *facts) response() *systemv1.FactsResponse {
	out := &systemv1.Facts{FeatureLevel: f.FeatureLevel, RemovedNodes: f.Removed, DrainedNodes: f.Drained, LostNodes: f.Lost, EndedKeys: f.EndedKeys}
	for _, c := range f.Classes {
		out.Classes = append(out.Classes, &systemv1.Class{Name: c.Name, Service: c.Service, UniqueKey: c.UniqueKey, FormerNames: c.FormerNames})
	}
	for i := range f.Workers {
		out.Workers = append(out.Workers, f.Workers[i].proto())
	}
	return &systemv1.FactsResponse{Revision: f.Revision, Facts: out}
}

// ID is the object's id.
func ID() placement.ObjectID { return placement.NewNamespace(ClassName).IDFromName(ObjectName) }
