package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/holdfast-io/holdfast/fault"
	"github.com/holdfast-io/holdfast/node/system"
	"github.com/holdfast-io/holdfast/placement"
	holdfastv1 "github.com/holdfast-io/holdfast/proto/holdfast/v1"
	"github.com/holdfast-io/holdfast/storage"
	"github.com/holdfast-io/holdfast/storage/value"
)

const (
	// exportsMax is how many exports may read a node's shards at once: each holds back the disk space of
	// what is deleted meanwhile.
	exportsMax = 16
	// exportIdleMax is when one is given up that nobody reads on.
	exportIdleMax = time.Minute
	// exportPageBytes is about how much is read of one at a time; one more entry may be.
	exportPageBytes = 1 << 20
	// ownerTimeout is how long an owner is looked for.
	ownerTimeout = 30 * time.Second
)

// exports are the walks through objects that this node owned when they began, and that are read from
// elsewhere, page by page. What they return was acknowledged then; it does not matter who owns it now.
type exports struct {
	mu   sync.Mutex
	open map[uint64]*export
}

// export is one walk. Whoever has taken it out of exports.open closes it.
type export struct {
	turn     chan struct{} // holds one: whoever has it may use what follows
	walk     *storage.Walk
	within   bool // an object that has not ended
	lastRead time.Time
}

// exportPage is a page of an export, as the node that has it answers.
type exportPage struct {
	Node   placement.NodeID `cbor:"1,keyasint"`
	Export uint64           `cbor:"2,keyasint"` // to read on
	Last   bool             `cbor:"3,keyasint"`
	Page   []byte           `cbor:"4,keyasint"` // a holdfastv1.ExportObjectsResponse
}

// exportQuery asks for an export of objects of a shard.
type exportQuery struct {
	Shard      placement.ShardID
	Class      string // unique key
	One, After *placement.ObjectID
	// To read on, of another node's.
	Export uint64
}

// begin takes a walk, and owns it from then on.
func (x *exports) begin(walk *storage.Walk) (uint64, *export, error) {
	e := &export{turn: make(chan struct{}, 1), walk: walk, lastRead: time.Now()}
	e.turn <- struct{}{}
	x.mu.Lock()
	defer x.mu.Unlock()
	if len(x.open) >= exportsMax {
		return 0, nil, fault.New(fault.Overloaded, "at most %d exports read a node at once", exportsMax)
	}
	if x.open == nil {
		x.open = make(map[uint64]*export)
	}
	id := rand.Uint64() //nolint:gosec // it only has to be another than the others
	x.open[id] = e
	return id, e, nil
}

// take takes an export out, for good: nil when there is none.
func (x *exports) take(id uint64) *export {
	x.mu.Lock()
	defer x.mu.Unlock()
	e := x.open[id]
	delete(x.open, id)
	return e
}

func (x *exports) find(id uint64) *export {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.open[id]
}

// end closes an export, when nobody reads it any more.
func (x *exports) end(id uint64) error {
	e := x.take(id)
	if e == nil {
		return nil
	}
	<-e.turn // For ever.
	return e.walk.Close()
}

// sweep ends those that nobody reads on.
func (x *exports) sweep(now time.Time) error {
	var idle []uint64
	x.mu.Lock()
	for id, e := range x.open {
		select {
		case <-e.turn:
			if now.Sub(e.lastRead) > exportIdleMax {
				idle = append(idle, id)
			}
			e.turn <- struct{}{}
		default: // It is being read.
		}
	}
	x.mu.Unlock()
	var errs []error
	for _, id := range idle {
		errs = append(errs, x.end(id))
	}
	return errors.Join(errs...)
}

// close ends all. Nobody begins any more.
func (x *exports) close() error {
	x.mu.Lock()
	ids := make([]uint64, 0, len(x.open))
	for id := range x.open {
		ids = append(ids, id)
	}
	x.mu.Unlock()
	var errs []error
	for _, id := range ids {
		errs = append(errs, x.end(id))
	}
	return errors.Join(errs...)
}

// page reads on, and says whether that was all.
func (e *export) page() (page []byte, last bool, err error) {
	out := &holdfastv1.ExportObjectsResponse{}
	for size := 0; size < exportPageBytes; {
		if !e.within {
			if !e.walk.Next() {
				last = true
				break
			}
			part := beginPart(e.walk.Object())
			e.within = part.GetBegin() != nil
			out.Parts = append(out.Parts, part)
			size += proto.Size(part)
			continue
		}
		if !e.walk.NextEntry() {
			e.within = false
			out.Parts = append(out.Parts, &holdfastv1.ObjectPart{Part: &holdfastv1.ObjectPart_End{End: &holdfastv1.ObjectEnd{}}})
			continue
		}
		key, val := e.walk.Entry()
		out.Parts = append(out.Parts, &holdfastv1.ObjectPart{Part: &holdfastv1.ObjectPart_Entry{Entry: &holdfastv1.Entry{Key: slices.Clone(key), Value: slices.Clone(val)}}})
		size += len(key) + len(val) + 16
	}
	if err := e.walk.Err(); err != nil {
		return nil, false, err
	}
	e.lastRead = time.Now()
	page, err = proto.Marshal(out)
	return page, last, err
}

func beginPart(o *storage.WalkedObject) *holdfastv1.ObjectPart {
	id := slices.Clone(o.ID[:]) // The walk goes on.
	if o.Record.Import != nil {
		return &holdfastv1.ObjectPart{Part: &holdfastv1.ObjectPart_Skipped{Skipped: &holdfastv1.ObjectSkipped{
			Id: id, Name: o.Record.Name, Why: "it is being imported, or its import was cut off: it is not whole",
		}}}
	}
	b := &holdfastv1.ObjectBegin{Id: id, Name: o.Record.Name, CommitSequence: o.Fence.CommitSequence, Time: o.Fence.Time}
	if a := o.Alarm; a != nil {
		b.Alarm = &holdfastv1.ObjectAlarm{DueUnixMs: a.Due, ScheduledUnixMs: a.Scheduled, Retries: a.Retries}
	}
	if d := o.Dead; d != nil {
		b.DeadAlarm = &holdfastv1.ObjectDeadAlarm{ScheduledUnixMs: d.Scheduled, DiedUnixMs: d.Died, Retries: d.Retries, Error: d.Error}
	}
	return &holdfastv1.ObjectPart{Part: &holdfastv1.ObjectPart_Begin{Begin: b}}
}

// answerExport begins an export as the owner of its shard, or reads one on that this node has, or ends it.
func (n *Node) answerExport(ctx context.Context, kind string, body []byte) ([]byte, error) {
	var q exportQuery
	if err := json.Unmarshal(body, &q); err != nil {
		return nil, fmt.Errorf("query %s: %w", kind, err)
	}
	switch {
	case kind == queryExportEnd:
		return nil, n.exports.end(q.Export)
	case kind == queryExport && int(q.Shard) >= n.id.Shards:
		return nil, fmt.Errorf("query %s: shard %d of %d", kind, q.Shard, n.id.Shards)
	}
	id := q.Export
	e := n.exports.find(id)
	if kind == queryExport {
		var err error
		if id, e, err = n.beginExport(ctx, &q); err != nil {
			return nil, err
		}
	}
	if e == nil {
		return nil, errors.New("there is no such export: it was given up after a minute in which nobody read it")
	}
	select {
	case <-e.turn:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	page, last, err := e.page()
	e.turn <- struct{}{}
	if last || err != nil {
		err = errors.Join(err, n.exports.end(id))
	}
	if err != nil {
		return nil, err
	}
	return value.Encode(exportPage{Node: n.id.Node, Export: id, Last: last, Page: page})
}

// beginExport makes a walk of what the owner of a shard has acknowledged.
func (n *Node) beginExport(ctx context.Context, q *exportQuery) (id uint64, e *export, err error) {
	var walk *storage.Walk
	err = asOwner(ctx, n.host, n.id.Node, q.Shard, func() (err error) {
		if q.One != nil {
			walk, err = n.store.WalkOne(q.Shard, storage.ObjectRef{Class: q.Class, ID: *q.One})
		} else {
			walk, err = n.store.Walk(q.Shard, q.Class, q.After)
		}
		return err
	})
	if err == nil {
		id, e, err = n.exports.begin(walk)
	}
	if err != nil && walk != nil {
		err = errors.Join(err, walk.Close())
	}
	return id, e, err
}

// sweepExports ends exports that nobody reads on.
func (n *Node) sweepExports() {
	if err := n.exports.sweep(time.Now()); err != nil {
		n.log.Error("end an export", slog.Any("error", err))
	}
}

// errTransferLevel refuses exports and imports while nodes of earlier releases are there.
func (n *Node) errTransferLevel() error {
	if level := n.facts.Level(); level < system.LevelClassChanges {
		return fault.New(fault.InvalidArgument, "the cluster is at feature level %d, and objects can be exported and imported from %d on: upgrade every node first", level, system.LevelClassChanges)
	}
	return nil
}

// ExportObjects implements holdfastv1.AdminServer.
func (a *adminServer) ExportObjects(req *holdfastv1.ExportObjectsRequest, stream holdfastv1.Admin_ExportObjectsServer) error {
	n, ctx := a.n, stream.Context()
	if err := n.errTransferLevel(); err != nil {
		return err
	}
	f, err := n.class(ctx, req.GetClass())
	if err != nil {
		return err
	}
	q := exportQuery{Class: f.UniqueKey}
	to := n.id.Shards
	if req.GetObject() != nil {
		_, named := req.GetObject().(*holdfastv1.ExportObjectsRequest_Name)
		_, id, err := n.object(ctx, f.Name, req.GetName(), req.GetId(), named)
		if err != nil {
			return err
		}
		q.One, q.Shard = &id, placement.ShardOf(id, n.id.Shards)
		to = int(q.Shard) + 1
	}
	if req.GetAfter() != "" {
		if q.One != nil {
			return fault.New(fault.InvalidArgument, "after: not with one object")
		}
		_, id, err := n.object(ctx, f.Name, "", req.GetAfter(), false)
		if err != nil {
			return err
		}
		q.After, q.Shard = &id, placement.ShardOf(id, n.id.Shards)
	}
	header := &holdfastv1.ExportHeader{Class: f.Name, UniqueKey: f.UniqueKey, ClusterId: n.id.ClusterID}
	if err := stream.Send(&holdfastv1.ExportObjectsResponse{Header: header}); err != nil {
		return err
	}
	found := false
	for ; int(q.Shard) < to; q.Shard, q.After = q.Shard+1, nil {
		err := n.exportShard(ctx, &q, func(page *holdfastv1.ExportObjectsResponse) error {
			found = found || len(page.GetParts()) > 0
			return stream.Send(page)
		})
		if err != nil {
			return err
		}
	}
	if q.One != nil && !found {
		return fault.New(fault.UnknownObject, "object %s of class %s does not exist: it has no stored data", q.One, f.Name)
	}
	return nil
}

// exportShard sends the objects of one shard.
func (n *Node) exportShard(ctx context.Context, q *exportQuery, send func(*holdfastv1.ExportObjectsResponse) error) error {
	body, err := json.Marshal(q)
	if err != nil {
		return err
	}
	found, cancel := context.WithTimeout(ctx, ownerTimeout)
	raw, err := n.askOwner(found, q.Shard, queryExport, body)
	cancel()
	for err == nil {
		var p exportPage
		if err = value.Decode(raw, &p); err != nil {
			break
		}
		page := &holdfastv1.ExportObjectsResponse{}
		if err = proto.Unmarshal(p.Page, page); err != nil {
			break
		}
		err = nil
		if len(page.GetParts()) > 0 {
			err = send(page)
		}
		if p.Last && err == nil {
			return nil
		}
		body, _ = json.Marshal(exportQuery{Export: p.Export}) //nolint:errchkjson // numbers
		if err != nil {
			n.endExport(ctx, p.Node, body)
			return err
		}
		raw, err = n.askNode(ctx, p.Node, queryExportNext, body)
	}
	// Of a node that is lost while it reads, OUTCOME_UNKNOWN: reading has none.
	if reason := fault.ReasonOf(err); reason != "" && reason != fault.OutcomeUnknown || ctx.Err() != nil {
		return err
	}
	return fault.New(fault.NoOwner, "the export of shard %d was cut off: %v; go on behind the last object that came whole", q.Shard, err)
}

// endExport tells a node that nobody reads an export on. If it can't be told, it finds out.
func (n *Node) endExport(ctx context.Context, node placement.NodeID, body []byte) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	_, _ = n.askNode(ctx, node, queryExportEnd, body)
}
