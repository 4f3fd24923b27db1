package node

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/holdfast-io/holdfast/node/system"
	"github.com/holdfast-io/holdfast/peer/frame"
	"github.com/holdfast-io/holdfast/placement"
	systemv1 "github.com/holdfast-io/holdfast/proto/holdfast/system/v1"
	"github.com/holdfast-io/holdfast/router"
)

// factsMetaKey is where the last known facts are kept on disk, so that a restarted node knows its
// classes before it has reached the object that keeps them.
const factsMetaKey = "facts"

// factsCache is this node's copy of the cluster facts. It implements router.Facts. An old copy is never
// wrong about anything that matters, only incomplete: package system says why.
//
// It is safe for concurrent use; reading takes no lock.
type factsCache struct {
	call func(ctx context.Context, method string, req, resp proto.Message) error
	save func(body []byte) error
	lost []placement.NodeID // without which shards were recovered here
	have []className        // the classes of this node's program
	// loaded are those of workers that this node runs.
	loaded atomic.Pointer[[]className]

	view    atomic.Pointer[factsView]
	changed chan struct{} // capacity 1: a poke for whoever watches the facts

	mu struct {
		sync.Mutex
		refresh *refreshRound // under way, shared by all who ask meanwhile
	}
}

type factsView struct {
	revision  uint64
	facts     *systemv1.Facts
	byName    map[string]router.ClassFacts
	byService map[string]router.ClassFacts
	workers   map[string]*systemv1.Worker // those that are, or were, deployed
	byBare    map[string][]string         // names of classes of workers, by what follows the worker's
	byKey     map[string]router.ClassFacts
	runs      map[string]string // names of classes, by those under which this node runs them
	removed   map[placement.NodeID]bool
	drained   map[placement.NodeID]bool
	lost      map[placement.NodeID]bool
}

type refreshRound struct {
	done chan struct{}
	err  error
	// abandoned says that it ended with the context of who began it, which is no answer to others.
	abandoned bool
}

// newFactsCache starts from the stored copy, which may be empty.
func newFactsCache(stored []byte, lost []placement.NodeID, have []className) (*factsCache, error) {
	c := &factsCache{changed: make(chan struct{}, 1), lost: lost, have: have}
	resp := &systemv1.FactsResponse{Facts: &systemv1.Facts{}}
	if stored != nil {
		if err := proto.Unmarshal(stored, resp); err != nil {
			return nil, fmt.Errorf("stored cluster facts: %w", err)
		}
	}
	c.view.Store(c.newView(resp))
	return c, nil
}

// newView makes a view of the facts, and of nodes that this node knows to be lost.
func (c *factsCache) newView(resp *systemv1.FactsResponse) *factsView {
	v := &factsView{
		revision:  resp.GetRevision(),
		facts:     resp.GetFacts(),
		byName:    make(map[string]router.ClassFacts),
		byService: make(map[string]router.ClassFacts),
		workers:   make(map[string]*systemv1.Worker),
		byBare:    make(map[string][]string),
		byKey:     make(map[string]router.ClassFacts),
		runs:      make(map[string]string),
		removed:   make(map[placement.NodeID]bool),
		drained:   make(map[placement.NodeID]bool),
		lost:      make(map[placement.NodeID]bool),
	}
	// The class that keeps the facts is known without them.
	v.add(router.ClassFacts{Name: system.ClassName, UniqueKey: system.ClassName, Service: system.ServiceName, Runs: system.ClassName})
	v.add(router.ClassFacts{Name: system.BundleClassName, UniqueKey: system.BundleClassName, Service: system.BundleServiceName, Runs: system.BundleClassName})
	for _, w := range v.facts.GetWorkers() {
		v.workers[w.GetName()] = w
	}
	for _, class := range v.facts.GetClasses() {
		v.add(router.ClassFacts{Name: class.GetName(), UniqueKey: class.GetUniqueKey(), Service: class.GetService(), Runs: c.runs(class)})
	}
	for _, id := range v.facts.GetRemovedNodes() {
		v.removed[placement.NodeID(id)] = true
	}
	for _, id := range v.facts.GetLostNodes() {
		v.lost[placement.NodeID(id)] = true
	}
	for _, id := range c.lost { // Known here, though perhaps not yet there.
		v.removed[id], v.lost[id] = true, true
	}
	for _, id := range v.facts.GetDrainedNodes() {
		v.drained[placement.NodeID(id)] = true
	}
	return v
}

// add makes a class known: by its unique key alone if its worker, as it is deployed, does not have it.
func (v *factsView) add(c router.ClassFacts) {
	v.byKey[c.UniqueKey] = c
	if c.Runs != "" {
		v.runs[c.Runs] = c.Name
	}
	if worker, bare, ok := strings.Cut(c.Name, "/"); ok {
		if w := v.workers[worker]; w != nil && !hasClass(w, bare) {
			return
		}
		v.byBare[bare] = append(v.byBare[bare], c.Name)
	}
	v.byName[c.Name] = c
	if c.Service != "" {
		v.byService[c.Service] = c
	}
}

// known says that the cluster has ever been asked.
func (v *factsView) known() bool { return v.facts.GetFeatureLevel() > 0 }

// Class implements router.Facts. A bare name means the class of a worker where no other class has it, and
// one worker has.
func (c *factsCache) Class(name string) (router.ClassFacts, bool) {
	v := c.view.Load()
	f, ok := v.byName[name]
	if meant := v.byBare[name]; !ok && len(meant) == 1 {
		f, ok = v.byName[meant[0]]
	}
	return f, ok
}

// Meant implements router.Facts.
func (c *factsCache) Meant(name string) []string {
	return slices.Sorted(slices.Values(c.view.Load().byBare[name]))
}

// ByKey implements router.Facts.
func (c *factsCache) ByKey(uniqueKey string) (router.ClassFacts, bool) {
	f, ok := c.view.Load().byKey[uniqueKey]
	return f, ok
}

// ByService implements router.Facts.
func (c *factsCache) ByService(service string) (router.ClassFacts, bool) {
	f, ok := c.view.Load().byService[service]
	return f, ok
}

// className is a class as a program has it.
type className struct{ Name, Service string }

// SetLoaded says which classes of workers this node runs.
func (c *factsCache) SetLoaded(names []string) {
	loaded := make([]className, 0, len(names))
	for _, name := range names {
		loaded = append(loaded, className{Name: name})
	}
	c.loaded.Store(&loaded)
	for {
		old := c.view.Load()
		if c.view.CompareAndSwap(old, c.newView(&systemv1.FactsResponse{Revision: old.revision, Facts: old.facts})) {
			return
		}
	}
}

// runs returns the name under which this node's program, or a worker, has a class: that which it has now, or one that
// it had before, with the same service. It is empty when the program does not have it.
func (c *factsCache) runs(class *systemv1.Class) string {
	have := c.have
	if loaded := c.loaded.Load(); loaded != nil {
		have = slices.Concat(have, *loaded)
	}
	if slices.ContainsFunc(have, func(h className) bool { return h.Name == class.GetName() && h.Service == class.GetService() }) {
		return class.GetName()
	}
	for _, h := range have {
		if h.Service == class.GetService() && slices.Contains(class.GetFormerNames(), h.Name) {
			return h.Name
		}
	}
	return ""
}

// Knows says whether the cluster knows a class of this node's program, perhaps under a later name.
func (c *factsCache) Knows(name, service string) bool {
	v := c.view.Load()
	if f, ok := v.byName[name]; ok && f.Service == service {
		return true
	}
	return slices.ContainsFunc(v.facts.GetClasses(), func(class *systemv1.Class) bool {
		return class.GetService() == service && slices.Contains(class.GetFormerNames(), name)
	})
}

// Ended returns the unique keys of the classes that were deleted. The caller must not modify it.
func (c *factsCache) Ended() []string { return c.view.Load().facts.GetEndedKeys() }

// NameOf returns the name under which this node runs the class with a unique key.
func (c *factsCache) NameOf(uniqueKey string) (string, bool) {
	f, ok := c.ByKey(uniqueKey)
	return cmp.Or(f.Runs, f.Name), ok
}

// Revision implements router.Facts.
func (c *factsCache) Revision() uint64 { return c.view.Load().revision }

// Worker returns what a worker runs, or ran last; nil: none of the name was ever deployed.
func (c *factsCache) Worker(name string) *systemv1.Worker { return c.view.Load().workers[name] }

// Removed returns the nodes barred for good. The caller must not modify it.
func (c *factsCache) Removed() map[placement.NodeID]bool { return c.view.Load().removed }

// Drained returns the nodes that are to own nothing. The caller must not modify it.
func (c *factsCache) Drained() map[placement.NodeID]bool { return c.view.Load().drained }

// Level returns the feature level in force.
func (c *factsCache) Level() uint32 { return c.view.Load().facts.GetFeatureLevel() }

// Lost returns the nodes without which shards were recovered. The caller must not modify it.
func (c *factsCache) Lost() map[placement.NodeID]bool { return c.view.Load().lost }

// TellLost makes the nodes that this one knows to be lost known to all.
func (c *factsCache) TellLost(ctx context.Context) error {
	for _, id := range c.lost {
		if slices.Contains(c.view.Load().facts.GetLostNodes(), uint64(id)) {
			continue
		}
		if err := c.ask(ctx, "RemoveNode", &systemv1.RemoveNodeRequest{Node: uint64(id), Lost: true}); err != nil {
			return err
		}
	}
	return nil
}

// Missing returns the names of classes that the cluster knows and this node's program lacks. Those of workers
// that are, or were, deployed are not among them.
func (c *factsCache) Missing() []string {
	var missing []string
	v := c.view.Load()
	for _, class := range v.facts.GetClasses() {
		worker, _, _ := strings.Cut(class.GetName(), "/")
		if v.workers[worker] == nil && c.runs(class) == "" {
			missing = append(missing, class.GetName())
		}
	}
	return missing
}

// Refresh implements router.Facts: it asks the object that keeps the facts. All who come while a
// round is under way share the next one: that round itself may have read the facts before what they
// were told of was committed.
func (c *factsCache) Refresh(ctx context.Context) error {
	var early *refreshRound
	for first := true; ; first = false {
		c.mu.Lock()
		round := c.mu.refresh
		if round == nil {
			return c.beginRefreshLocked(ctx)
		}
		c.mu.Unlock()
		if first {
			early = round
		}
		select {
		case <-round.done:
			if round != early && !round.abandoned {
				return round.err
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// beginRefreshLocked is a round of its own. It releases the lock.
func (c *factsCache) beginRefreshLocked(ctx context.Context) error {
	round := &refreshRound{done: make(chan struct{})}
	c.mu.refresh = round
	c.mu.Unlock()

	round.err = c.ask(ctx, "Facts", &systemv1.FactsRequest{KnownRevision: c.Revision()})
	round.abandoned = round.err != nil && ctx.Err() != nil
	c.mu.Lock()
	c.mu.refresh = nil
	c.mu.Unlock()
	close(round.done)
	return round.err
}

// ask calls the System object and takes in what it answers.
func (c *factsCache) ask(ctx context.Context, method string, req proto.Message) error {
	resp := &systemv1.FactsResponse{}
	if err := c.call(ctx, method, req, resp); err != nil {
		return fmt.Errorf("cluster facts: %w", err)
	}
	return c.learn(resp)
}

// learn takes in a later revision and stores it.
func (c *factsCache) learn(resp *systemv1.FactsResponse) error {
	if resp.GetFacts() == nil {
		return nil
	}
	for {
		old := c.view.Load()
		first := resp.GetRevision() == old.revision && resp.GetFacts().GetFeatureLevel() > 0 && !old.known() // Of a cluster without any.
		if resp.GetRevision() <= old.revision && !first {
			return nil
		}
		if c.view.CompareAndSwap(old, c.newView(resp)) { // With what is loaded now, or SetLoaded does it again.
			break
		}
	}
	select {
	case c.changed <- struct{}{}:
	default: // A poke is already waiting.
	}
	return c.store()
}

// store writes down what is known, and again when more became known meanwhile: whoever is last to
// write has written the latest.
func (c *factsCache) store() error {
	for {
		v := c.view.Load()
		body, err := proto.Marshal(&systemv1.FactsResponse{Revision: v.revision, Facts: v.facts})
		if err != nil {
			return fmt.Errorf("encode cluster facts: %w", err)
		}
		if err := c.save(body); err != nil {
			return err
		}
		if c.view.Load() == v {
			return nil
		}
	}
}

// callSystem calls a method of the System object through the router, as any caller would.
func callSystem(r *router.Router) func(ctx context.Context, method string, req, resp proto.Message) error {
	call := callReserved(r)
	return func(ctx context.Context, method string, req, resp proto.Message) error {
		return call(ctx, system.ClassName, system.ObjectName, method, req, resp)
	}
}

// callReserved calls a method of an object of a class that only the cluster itself calls.
func callReserved(r *router.Router) func(ctx context.Context, class, name, method string, req, resp proto.Message) error {
	return func(ctx context.Context, class, name, method string, req, resp proto.Message) error {
		body, err := proto.Marshal(req)
		if err != nil {
			return fmt.Errorf("encode %s: %w", method, err)
		}
		deadline, ok := ctx.Deadline()
		if !ok {
			deadline = time.Now().Add(systemCallTimeout)
		}
		answered := make(chan frame.Response, 1)
		cancel := r.Route(&frame.Request{
			Class: class, Name: name, Named: true, Method: method, Body: body, Deadline: deadline,
		}, func(resp frame.Response) { answered <- resp })
		select {
		case out := <-answered:
			if err := out.Err(); err != nil {
				return err
			}
			if err := proto.Unmarshal(out.Body, resp); err != nil {
				return fmt.Errorf("decode answer to %s: %w", method, err)
			}
			return nil
		case <-ctx.Done():
			cancel(context.Cause(ctx))
			return context.Cause(ctx)
		}
	}
}

// systemCallTimeout ends a call to the System object that nobody gave a deadline.
const systemCallTimeout = 5 * time.Second
