package node

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"golang.org/x/sync/errgroup"

	"github.com/holdfast-io/holdfast/actor"
	"github.com/holdfast-io/holdfast/fault"
	"github.com/holdfast-io/holdfast/placement"
	holdfastv1 "github.com/holdfast-io/holdfast/proto/holdfast/v1"
	"github.com/holdfast-io/holdfast/router"
	"github.com/holdfast-io/holdfast/storage"
	"github.com/holdfast-io/holdfast/storage/value"
)

const (
	// importPartBytes and importPartEntries are what an object may have to be imported at once: with one
	// more entry it is still one segment.
	importPartBytes   = 8 << 20
	importPartEntries = 9_000
	// Objects of at most importSmallBytes are imported beside each other, so many at a time; their commits
	// share what a commit costs.
	importSmallBytes = 64 << 10
	importSmallMax   = 64
	// importTimeout is how long a part is tried, before the import is broken off.
	importTimeout = time.Minute
)

// importQuery asks the owner of an object to put a part of an import into it.
type importQuery struct {
	Shard placement.ShardID  `cbor:"1,keyasint"`
	Class string             `cbor:"2,keyasint"` // unique key
	ID    placement.ObjectID `cbor:"3,keyasint"`
	Part  []byte             `cbor:"4,keyasint"` // an actor.ImportPart
}

// answerImport takes a part as the owner. An error says that it may be tried again: parts are taken once.
func (n *Node) answerImport(ctx context.Context, body []byte) ([]byte, error) {
	var q importQuery
	if err := value.Decode(body, &q); err != nil {
		return nil, fmt.Errorf("query %s: %w", queryImport, err)
	}
	if int(q.Shard) >= n.id.Shards {
		return nil, fmt.Errorf("query %s: shard %d of %d", queryImport, q.Shard, n.id.Shards)
	}
	class, ok := n.facts.NameOf(q.Class)
	if owner, _, leads := n.host.Leader(q.Shard); !leads || owner != n.id.Node || !ok {
		return nil, errNotOwner
	}
	err := n.manager.Import(ctx, q.Shard, storage.ObjectRef{Class: q.Class, ID: q.ID}, class, q.Part)
	switch reason := fault.ReasonOf(err); reason {
	case fault.Overloaded, fault.OutcomeUnknown, fault.ObjectReset, fault.DiskFull:
		return nil, err
	default:
		return refusal(err)
	}
}

// importer is one stream of objects to import.
type importer struct {
	n       *Node
	ctx     context.Context //nolint:containedctx // the stream's
	class   router.ClassFacts
	ns      placement.Namespace
	from    string // unique key of the class that the objects are from
	replace bool

	send  sync.Mutex // one sends at a time
	reply func(*holdfastv1.ImportObjectsResponse) error
	small *errgroup.Group

	// Of the object under way.
	object  *holdfastv1.ObjectBegin
	id      placement.ObjectID
	part    actor.ImportPart
	bytes   int
	refused error
}

// ImportObjects implements holdfastv1.AdminServer.
func (a *adminServer) ImportObjects(stream holdfastv1.Admin_ImportObjectsServer) error {
	if err := a.n.errTransferLevel(); err != nil {
		return err
	}
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	begin := first.GetBegin()
	if begin == nil {
		return fault.New(fault.InvalidArgument, "begin: must be in the first message")
	}
	class, err := a.n.class(stream.Context(), begin.GetClass())
	if err != nil {
		return err
	}
	if strings.HasPrefix(class.Name, actor.ReservedPrefix) {
		return fault.New(fault.InvalidArgument, "class %s: is the cluster's own", class.Name)
	}
	ctx, cancel := context.WithCancelCause(stream.Context())
	defer cancel(nil)
	im := &importer{
		n: a.n, class: class, ns: placement.NewNamespace(class.UniqueKey), from: begin.GetUniqueKey(), replace: begin.GetReplace(),
		reply: stream.Send,
	}
	im.small, im.ctx = errgroup.WithContext(ctx)
	im.small.SetLimit(importSmallMax)
	for msg := first; err == nil; {
		for _, p := range msg.GetParts() {
			if err = im.take(p); err != nil {
				break
			}
		}
		if err == nil {
			msg, err = stream.Recv()
		}
	}
	if errors.Is(err, io.EOF) {
		err = nil
		if im.object != nil {
			err = fault.New(fault.InvalidArgument, "parts: the last object has no end")
		}
	}
	if err != nil {
		cancel(err)
	}
	if failed := im.small.Wait(); err == nil {
		err = failed
	}
	return err
}

// take takes the next part of what was exported.
func (im *importer) take(p *holdfastv1.ObjectPart) error {
	within := im.object != nil
	switch p := p.GetPart().(type) {
	case *holdfastv1.ObjectPart_Begin:
		if within {
			return fault.New(fault.InvalidArgument, "parts: an object begins within another")
		}
		return im.begin(p.Begin)
	case *holdfastv1.ObjectPart_Entry:
		if !within {
			return fault.New(fault.InvalidArgument, "parts: an entry of no object")
		}
		return im.entry(p.Entry)
	case *holdfastv1.ObjectPart_End:
		if !within {
			return fault.New(fault.InvalidArgument, "parts: the end of no object")
		}
		return im.end()
	default:
		return fault.New(fault.InvalidArgument, "parts: neither the beginning of an object nor an entry nor an end")
	}
}

func (im *importer) begin(o *holdfastv1.ObjectBegin) error {
	if len(o.GetId()) != len(im.id) {
		return fault.New(fault.InvalidArgument, "id: %d bytes, has %d", len(im.id), len(o.GetId()))
	}
	im.object, im.bytes, im.refused = o, 0, nil
	im.part = actor.ImportPart{Replace: im.replace, Name: o.Name}
	if _, err := rand.Read(im.part.Import[:]); err != nil {
		return err
	}
	im.id, im.refused = im.idOf(o)
	return nil
}

// idOf is the id of an object in the class that it is imported into.
func (im *importer) idOf(o *holdfastv1.ObjectBegin) (placement.ObjectID, error) {
	id := placement.ObjectID(o.GetId())
	switch {
	case o.Name == nil && (im.from != im.class.UniqueKey || im.ns.Check(id) != nil):
		return id, fault.New(fault.InvalidID, "object %s has no name, and its id is of the namespace %q: it can't be in class %s, whose ids are of %q", id, im.from, im.class.Name, im.class.UniqueKey)
	case o.Name == nil:
		return id, nil
	case len(o.GetName()) > storage.MaxNameBytes || !utf8.ValidString(o.GetName()):
		return id, fault.New(fault.InvalidArgument, "name of object %s: must be UTF-8 of at most %d bytes", id, storage.MaxNameBytes)
	}
	return im.ns.IDFromName(o.GetName()), nil
}

func (im *importer) entry(e *holdfastv1.Entry) error {
	if im.refused != nil {
		return nil //nolint:nilerr // end tells it
	}
	im.part.Entries = append(im.part.Entries, actor.ImportEntry{Key: e.GetKey(), Value: e.GetValue()})
	im.bytes += len(e.GetKey()) + len(e.GetValue()) + 64
	if im.bytes < importPartBytes && len(im.part.Entries) < importPartEntries {
		return nil
	}
	// It is larger than what can be imported at once.
	err := im.put(im.id, &im.part)
	if reason := fault.ReasonOf(err); err != nil && (reason == "" || reason == fault.NoOwner) {
		return err
	}
	im.refused = err
	im.part.Part++
	im.part.Entries, im.bytes = nil, 0
	return nil
}

func (im *importer) end() error {
	o, id, part, why := im.object, im.id, im.part, im.refused
	im.object = nil
	part.Last = true
	if a := o.GetAlarm(); a != nil {
		part.Alarm = &storage.Alarm{Due: a.GetDueUnixMs(), Scheduled: a.GetScheduledUnixMs(), Retries: a.GetRetries()}
	}
	if d := o.GetDeadAlarm(); d != nil {
		part.Dead = &storage.DeadAlarm{Scheduled: d.GetScheduledUnixMs(), Died: d.GetDiedUnixMs(), Retries: d.GetRetries(), Error: d.GetError()}
	}
	finish := func() error {
		if why == nil {
			why = im.put(id, &part)
		}
		return im.tell(o, why)
	}
	if part.Part > 0 || im.bytes > importSmallBytes || why != nil {
		return finish()
	}
	im.small.Go(finish)
	return context.Cause(im.ctx)
}

// tell answers what became of an object. It returns an error when the import can't go on.
func (im *importer) tell(o *holdfastv1.ObjectBegin, err error) error {
	out := &holdfastv1.ImportedObject{Id: o.GetId()}
	if err != nil {
		reason := fault.ReasonOf(err)
		if reason == "" || reason == fault.NoOwner {
			return err
		}
		out.Reason, out.Message = string(reason), fault.StatusOf(err).Message()
	}
	im.send.Lock()
	defer im.send.Unlock()
	return im.reply(&holdfastv1.ImportObjectsResponse{Objects: []*holdfastv1.ImportedObject{out}})
}

// put has the owner of an object take a part of it.
func (im *importer) put(id placement.ObjectID, part *actor.ImportPart) error {
	encoded, err := value.Encode(part)
	if err != nil {
		return err
	}
	q := importQuery{Shard: placement.ShardOf(id, im.n.id.Shards), Class: im.class.UniqueKey, ID: id, Part: encoded}
	body, err := value.Encode(q)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(im.ctx, importTimeout)
	defer cancel()
	raw, err := im.n.askOwner(ctx, q.Shard, queryImport, body)
	if err != nil {
		return err
	}
	var answer refused
	if err := json.Unmarshal(raw, &answer); err != nil {
		return err
	}
	return answer.err()
}
