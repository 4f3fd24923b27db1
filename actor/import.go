package actor

import (
	"context"
	"encoding/hex"

	"github.com/holdfast-io/holdfast/fault"
	"github.com/holdfast-io/holdfast/placement"
	"github.com/holdfast-io/holdfast/storage"
	"github.com/holdfast-io/holdfast/storage/value"
)

// ImportPart is a part of what an object is to have in place of all that it has. An object that fits one
// part comes to have it at once; of several, each must follow the one before, and until the last is there
// the object is refused to everybody else: nobody sees half of it. A part that is sent again has no
// second effect.
type ImportPart struct {
	// Import names what all parts belong to: no other import of any object has it.
	Import [16]byte `cbor:"1,keyasint"`
	// Part counts them from 0.
	Part uint64 `cbor:"2,keyasint"`
	Last bool   `cbor:"3,keyasint"`
	// Replace allows the first part to take the place of an object that exists. One whose import was
	// not finished may be replaced in any case.
	Replace bool `cbor:"4,keyasint"`
	// Name is the object's, if it has one.
	Name *string `cbor:"5,keyasint,omitempty"`
	// Entries are keys with encoded values.
	Entries []ImportEntry `cbor:"6,keyasint,omitempty"`
	// Alarm and Dead are of the last part.
	Alarm *storage.Alarm     `cbor:"7,keyasint,omitempty"`
	Dead  *storage.DeadAlarm `cbor:"8,keyasint,omitempty"`
}

// ImportEntry is one key.
type ImportEntry struct {
	_ struct{} `cbor:",toarray"`

	Key   []byte
	Value []byte
}

// importRequest is how the id of the request begins that the last part of an import is: what an object
// remembers of those keeps a part that is sent again from having a second effect.
const importRequest = "holdfast-import-"

// Import puts a part of an import, encoded by package value, into an object that this node owns, as an
// event of the object, so that it comes in turn. class is the name of the object's class. It returns when
// the part is durable.
func (m *Manager) Import(ctx context.Context, shard placement.ShardID, ref storage.ObjectRef, class string, encoded []byte) error {
	p := &ImportPart{}
	if err := value.Decode(encoded, p); err != nil {
		return fault.New(fault.InvalidArgument, "part of an import: %v", err)
	}
	done := make(chan error, 1)
	call := &Call{Shard: shard, Object: ref, Class: class, Method: "Import", Body: encoded, imported: p, Done: func(r Result) { done <- r.Err }}
	if p.Last {
		call.RequestID = importRequest + hex.EncodeToString(p.Import[:])
	}
	if p.Name != nil {
		call.Named, call.Name = true, *p.Name
	}
	m.Deliver(call)
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		call.Cancel(context.Cause(ctx))
		return context.Cause(ctx)
	}
}

// handleImport writes a part. What it returns an error for it has not written.
func (i *incarnation) handleImport(p *ImportPart) error {
	mark := i.mark
	own := mark != nil && mark.ID == p.Import
	switch {
	case own && p.Part < mark.Parts:
		return nil // It came before, and the answer was lost.
	case p.Part > 0 && (!own || p.Part > mark.Parts):
		return fault.New(fault.ImportUnfinished, "object %s of class %s: another import of it was begun or came to its end meanwhile; this one is over", i.ref.ID, i.class.Name)
	case p.Part == 0 && i.exists && mark == nil && !p.Replace:
		return fault.New(fault.ObjectExists, "object %s exists; it was left as it is: import with --replace to put what is imported in its place", label(i.class.Name, i.nameText(), i.state.name != nil, i.ref.ID))
	case p.Part == 0 && p.Last && len(p.Entries) == 0 && p.Alarm == nil && p.Dead == nil:
		return fault.New(fault.InvalidArgument, "object %s: has neither a key nor an alarm, so there is nothing to import", i.ref.ID)
	}
	ops, err := i.importOps(p)
	if err != nil {
		return err
	}
	if err := i.state.storage.write(ops...); err != nil {
		return err
	}
	if i.mark = nil; !p.Last {
		i.mark = &storage.ImportMark{ID: p.Import, Parts: p.Part + 1}
	}
	i.marks = true
	return nil
}

func (i *incarnation) nameText() string {
	if i.state.name == nil {
		return ""
	}
	return *i.state.name
}

// importOps are what a part does to the object but for its record.
func (i *incarnation) importOps(p *ImportPart) ([]storage.Op, error) {
	ops := make([]storage.Op, 0, len(p.Entries)+5)
	if p.Part == 0 && i.exists {
		ops = append(ops,
			storage.Op{Op: storage.OpDeleteRange, Kind: storage.KindKV},
			storage.Op{Op: storage.OpDelete, Kind: storage.KindAlarm},
			storage.Op{Op: storage.OpDelete, Kind: storage.KindDeadAlarm},
		)
	}
	for _, e := range p.Entries {
		if err := checkPair(string(e.Key), e.Value); err != nil {
			return nil, err
		}
		if err := checkItem(string(e.Key), e.Value); err != nil {
			return nil, err
		}
		ops = append(ops, storage.Op{Op: storage.OpSet, Kind: storage.KindKV, Key: e.Key, Value: e.Value})
	}
	if p.Alarm != nil {
		raw, err := p.Alarm.Encode()
		if err != nil {
			return nil, err
		}
		if _, err := storage.DecodeAlarm(raw); err != nil || p.Alarm.Due > maxAlarmUnixMilli {
			return nil, fault.New(fault.InvalidArgument, "alarm for %d, due at %d: must be Unix milliseconds from 1 to %d", p.Alarm.Scheduled, p.Alarm.Due, maxAlarmUnixMilli)
		}
		ops = append(ops, storage.Op{Op: storage.OpSet, Kind: storage.KindAlarm, Value: raw})
	}
	if p.Dead != nil {
		if len(p.Dead.Error) > storage.MaxAlarmErrorBytes {
			return nil, fault.New(fault.InvalidArgument, "error of a dead alarm: at most %d bytes, has %d", storage.MaxAlarmErrorBytes, len(p.Dead.Error))
		}
		raw, err := p.Dead.Encode()
		if err != nil {
			return nil, err
		}
		ops = append(ops, storage.Op{Op: storage.OpSet, Kind: storage.KindDeadAlarm, Value: raw})
	}
	return ops, nil
}

// importedOps is recordOps of a part of an import.
func (i *incarnation) importedOps() ([]storage.Op, writes, error) {
	i.marks = false
	i.exists, i.nameless = true, i.state.name == nil
	raw, err := storage.Record{Name: i.state.name, Class: i.class.Name, CodeVersion: i.ran, Import: i.mark}.Encode()
	if err != nil {
		return nil, noWrites, err
	}
	return []storage.Op{{Op: storage.OpSet, Kind: storage.KindRecord, Value: raw}}, confirmedWrites, nil
}

// errUnfinished refuses an object that an import has left without a part of what it is to have.
func (i *incarnation) errUnfinished() error {
	return fault.New(fault.ImportUnfinished, "object %s is being imported, or its import was cut off: import it to the end, or again", label(i.class.Name, i.nameText(), i.state.name != nil, i.ref.ID))
}

// supplanted ends an incarnation whose object was replaced: what its instance remembers is of the past.
func (i *incarnation) supplanted() {
	i.die(death{
		begun:  fault.New(fault.ObjectReset, "the object was reset: an import has replaced all that it had while this event had given up its turn"),
		queued: errOwnerChanged(),
	})
}
