package system_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/holdfast-io/holdfast/actor"
	"github.com/holdfast-io/holdfast/fault"
	"github.com/holdfast-io/holdfast/node/system"
	"github.com/holdfast-io/holdfast/placement"
	systemv1 "github.com/holdfast-io/holdfast/proto/holdfast/system/v1"
	"github.com/holdfast-io/holdfast/storage"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// disk is an actor.Log without replication: what is proposed is applied at once.
type disk struct {
	store  *storage.Store
	fences *storage.FenceCache
}

func (d *disk) Propose(shard placement.ShardID, seg *storage.Segment, s actor.Settler) {
	b := d.store.NewBatch()
	applied := false
	fence, err := d.fences.Load(shard, seg.Object)
	if err == nil {
		applied, _, err = storage.ApplySegment(b, fence, shard, seg.Term, seg)
	}
	if err == nil && applied {
		err = b.Commit(true)
	}
	if b.Close() != nil || err != nil || !applied {
		s.Refused(seg.Sequence, false)
		return
	}
	s.Committed(seg.Sequence)
	s.Readable(seg.Sequence)
}

func (*disk) Confirm(_ placement.ShardID, _ uint64, c actor.Confirmer, token uint64) {
	c.Confirmed(token, nil)
}

func (*disk) ConfirmNow(placement.ShardID, uint64) bool { return true }

func (d *disk) Reader(shard placement.ShardID, ref storage.ObjectRef) storage.ObjectReader {
	return d.store.Object(shard, ref)
}

// keeper is the object that keeps the facts, on a disk of its own.
type keeper struct {
	t       *testing.T
	manager *actor.Manager
	term    uint64
}

func newKeeper(t *testing.T) *keeper {
	t.Helper()
	return newKeeperWith(t, func(*storage.Batch) {})
}

// newKeeperWith is newKeeper on a store that something lies in.
func newKeeperWith(t *testing.T, lies func(b *storage.Batch)) *keeper {
	t.Helper()
	store, err := storage.Open("data", storage.Options{FS: vfs.NewMem(), CacheBytes: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	b := store.NewBatch()
	lies(b)
	if err := errors.Join(b.Commit(true), b.Close()); err != nil {
		t.Fatal(err)
	}
	manager, err := actor.NewManager(actor.Config{Shards: 1, Classes: []actor.Class{system.Class()}})
	if err != nil {
		t.Fatal(err)
	}
	manager.Start(&disk{store, storage.NewFenceCache(store, 10)})
	manager.Acquired(0, 1)
	t.Cleanup(func() {
		manager.Close()
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	return &keeper{t: t, manager: manager, term: 1}
}

func (k *keeper) call(method string, req proto.Message) (*systemv1.FactsResponse, error) {
	k.t.Helper()
	body, err := proto.Marshal(req)
	if err != nil {
		k.t.Fatal(err)
	}
	done := make(chan actor.Result, 1)
	k.manager.Deliver(&actor.Call{
		Object: storage.ObjectRef{Class: system.ClassName, ID: system.ID()}, Class: system.ClassName,
		Name: system.ObjectName, Named: true, Method: method, Body: body, Done: func(r actor.Result) { done <- r },
	})
	ctx, cancel := context.WithTimeout(k.t.Context(), 10*time.Second)
	defer cancel()
	select {
	case r := <-done:
		resp := &systemv1.FactsResponse{}
		if r.Err == nil {
			err = proto.Unmarshal(r.Body, resp)
		}
		if err != nil {
			k.t.Fatal(err)
		}
		return resp, r.Err
	case <-ctx.Done():
		k.t.Fatalf("%s was not answered", method)
		return nil, nil
	}
}

func (k *keeper) register(name, service string) (*systemv1.FactsResponse, error) {
	k.t.Helper()
	return k.call("RegisterClasses", &systemv1.RegisterClassesRequest{Classes: []*systemv1.Class{{Name: name, Service: service}}})
}

// facts wants the facts as they stand to be so.
func (k *keeper) facts(want *systemv1.FactsResponse) {
	k.t.Helper()
	// As another incarnation sees them: what was answered is on disk (P2).
	k.manager.Lost(0, k.term)
	k.term++
	k.manager.Acquired(0, k.term)
	got, err := k.call("Facts", &systemv1.FactsRequest{KnownRevision: 1 << 60})
	if err != nil {
		k.t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		k.t.Errorf("facts (-want +got):\n%s", diff)
	}
}

func counterFacts(revision uint64, removed ...uint64) *systemv1.FactsResponse {
	return &systemv1.FactsResponse{Revision: revision, Facts: &systemv1.Facts{
		FeatureLevel: system.FeatureLevel, RemovedNodes: removed,
		Classes: []*systemv1.Class{{Name: "Counter", Service: "counter.v1.Counter", UniqueKey: "Counter"}},
	}}
}

func TestANewClusterKnowsItsFeatureLevel(t *testing.T) {
	t.Parallel()
	newKeeper(t).facts(&systemv1.FactsResponse{Facts: &systemv1.Facts{FeatureLevel: system.FeatureLevel}})
}

// Every change raises the revision, and nothing else does: who holds a revision knows what it said.
func TestRegisterRaisesTheRevisionOnce(t *testing.T) {
	t.Parallel()
	k := newKeeper(t)
	for range 3 { // Every node registers, and again at each start.
		got, err := k.register("Counter", "counter.v1.Counter")
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(counterFacts(1), got, protocmp.Transform()); diff != "" {
			t.Errorf("answer (-want +got):\n%s", diff)
		}
	}
	k.facts(counterFacts(1))
	known, err := k.call("Facts", &systemv1.FactsRequest{KnownRevision: 1})
	if err != nil || known.GetFacts() != nil || known.GetRevision() != 1 {
		t.Errorf("who knows revision 1 is told %v, %v", known, err)
	}
}

// Two programs must not fight over one namespace: the refusal says with whom, and changes nothing (P7).
func TestRegisterRefusesWhatIsTaken(t *testing.T) {
	t.Parallel()
	k := newKeeper(t)
	if _, err := k.register("Counter", "counter.v1.Counter"); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ name, service, want string }{
		{"Counter", "counter.v2.Counter", `INVALID_ARGUMENT: classes: Counter is registered with service "counter.v1.Counter" in this cluster, not "counter.v2.Counter"; register it under another name`},
		{"Tally", "counter.v1.Counter", `INVALID_ARGUMENT: classes: service counter.v1.Counter belongs to class Counter in this cluster; a service names one class`},
	} {
		if _, err := k.register(tt.name, tt.service); err == nil || err.Error() != tt.want {
			t.Errorf("%s with %s: got %v, want %s", tt.name, tt.service, err, tt.want)
		}
	}
	// All of a request or nothing (P3): the class before the refused one is not registered either.
	_, err := k.call("RegisterClasses", &systemv1.RegisterClassesRequest{Classes: []*systemv1.Class{
		{Name: "New", Service: "new.v1.New"}, {Name: "Counter", Service: "other"},
	}})
	if fault.ReasonOf(err) != fault.InvalidArgument {
		t.Errorf("got %v", err)
	}
	k.facts(counterFacts(1))
}

// A node is removed for good, and once.
func TestRemoveNode(t *testing.T) {
	t.Parallel()
	k := newKeeper(t)
	if _, err := k.register("Counter", "counter.v1.Counter"); err != nil {
		t.Fatal(err)
	}
	for _, node := range []uint64{7, 7, 9} {
		if _, err := k.call("RemoveNode", &systemv1.RemoveNodeRequest{Node: node}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := k.call("RemoveNode", &systemv1.RemoveNodeRequest{}); fault.ReasonOf(err) != fault.InvalidArgument {
		t.Errorf("node 0: got %v", err)
	}
	k.facts(counterFacts(3, 7, 9))
}

// Damaged implements actor.Log.
func (d *disk) Damaged(placement.ShardID, error) {}

// Draining is a wish that can be taken back; each change of it is a revision.
func TestDrainNode(t *testing.T) {
	t.Parallel()
	k := newKeeper(t)
	want := func(revision uint64, removed []uint64, drained ...uint64) {
		t.Helper()
		k.facts(&systemv1.FactsResponse{Revision: revision, Facts: &systemv1.Facts{
			FeatureLevel: system.FeatureLevel, RemovedNodes: removed, DrainedNodes: drained,
		}})
	}
	drain := func(node uint64, off bool) error {
		t.Helper()
		_, err := k.call("DrainNode", &systemv1.DrainNodeRequest{Node: node, Off: off})
		return err
	}
	for _, step := range []struct {
		node uint64
		off  bool
	}{{7, false}, {7, false}, {9, false}, {8, true}} {
		if err := drain(step.node, step.off); err != nil {
			t.Fatal(err)
		}
	}
	want(2, nil, 7, 9)
	if err := drain(7, true); err != nil {
		t.Fatal(err)
	}
	want(3, nil, 9)
	if _, err := k.call("RemoveNode", &systemv1.RemoveNodeRequest{Node: 9}); err != nil {
		t.Fatal(err)
	}
	want(4, []uint64{9})
	for _, node := range []uint64{0, 9} {
		if err := drain(node, false); fault.ReasonOf(err) != fault.InvalidArgument {
			t.Errorf("node %d: got %v", node, err)
		}
	}
	want(4, []uint64{9})
}

// A lost node is a removed one, also when it was removed before.
func TestRemoveNodeThatIsLost(t *testing.T) {
	t.Parallel()
	k := newKeeper(t)
	for _, req := range []*systemv1.RemoveNodeRequest{{Node: 7, Lost: true}, {Node: 7, Lost: true}, {Node: 9}, {Node: 9, Lost: true}, {Node: 7}} {
		if _, err := k.call("RemoveNode", req); err != nil {
			t.Fatal(err)
		}
	}
	k.facts(&systemv1.FactsResponse{Revision: 3, Facts: &systemv1.Facts{
		FeatureLevel: system.FeatureLevel, RemovedNodes: []uint64{7, 9}, LostNodes: []uint64{7, 9},
	}})
}

// The feature level only rises, and no further than this release knows.
func TestRaiseFeatureLevel(t *testing.T) {
	t.Parallel()
	k := newKeeper(t)
	for _, level := range []uint32{0, system.FeatureLevel} {
		if _, err := k.call("RaiseFeatureLevel", &systemv1.RaiseFeatureLevelRequest{Level: level}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := k.call("RaiseFeatureLevel", &systemv1.RaiseFeatureLevelRequest{Level: system.FeatureLevel + 1}); fault.ReasonOf(err) != fault.InvalidArgument {
		t.Errorf("a level that is not known: %v", err)
	}
	k.facts(&systemv1.FactsResponse{Facts: &systemv1.Facts{FeatureLevel: system.FeatureLevel}})
}

// Without room what writes is refused, as certainly not done, and what reads is not.
func TestAFullDiskRefusesWrites(t *testing.T) {
	t.Parallel()
	k := newKeeper(t)
	if _, err := k.register("Counter", "counter.v1.Counter"); err != nil {
		t.Fatal(err)
	}
	k.manager.SetFull(0, k.term+1, true) // Of another term: old news, or not yet.
	if _, err := k.call("RemoveNode", &systemv1.RemoveNodeRequest{Node: 7}); err != nil {
		t.Error(err)
	}
	k.manager.SetFull(0, k.term, true)
	if _, err := k.call("RemoveNode", &systemv1.RemoveNodeRequest{Node: 9}); fault.ReasonOf(err) != fault.DiskFull {
		t.Errorf("a write: %v", err)
	}
	known, err := k.call("Facts", &systemv1.FactsRequest{})
	if err != nil || known.GetRevision() != 2 {
		t.Errorf("a read: %v, %v", known, err)
	}
	k.manager.SetFull(0, k.term, false)
	if _, err := k.call("RemoveNode", &systemv1.RemoveNodeRequest{Node: 8}); err != nil {
		t.Error(err)
	}
	k.facts(counterFacts(3, 7, 8))
}
