package storage

import (
	"fmt"

	"github.com/holdfast-io/holdfast/placement"
	"github.com/holdfast-io/holdfast/tracing"
)

// ObjectRef names one object within the cluster: its class's unique key and its id.
type ObjectRef struct {
	Class string // unique key of the namespace; printable, no NUL, at most 255 bytes
	ID    placement.ObjectID
}

// KeyKind is the byte after the object id that says what a key is. The numbers are on disks.
type KeyKind byte

// Kinds of an object's keys. Pages and undo records are reserved for SQL storage and
// point-in-time restore.
const (
	KindRecord    KeyKind = 0x01 // one Record; the object exists while it is there
	KindFence     KeyKind = 0x02 // one Fence; written by apply, never by an object
	KindRequest   KeyKind = 0x03 // one Request a slot
	KindKV        KeyKind = 0x10
	KindAlarm     KeyKind = 0x20 // one Alarm, if one is pending
	KindAlarmDue  KeyKind = 0x21 // AlarmDueKey of that Alarm; no value. In the shard's index
	KindDeadAlarm KeyKind = 0x22 // one DeadAlarm. In the shard's index
	KindPage      KeyKind = 0x30 // reserved
	KindUndo      KeyKind = 0x40 // reserved
)

// indexed says that the keys of the kind lie in the shard's index, where they can be listed without
// looking at other keys of objects.
func (k KeyKind) indexed() bool { return k == KindAlarmDue || k == KindDeadAlarm }

// check says whether this release may apply the operation.
func (op *Op) check() error {
	if op.Op < OpSet || op.Op > OpDeleteRange {
		return fmt.Errorf("%w: operation %d", ErrUnknownOp, op.Op)
	}
	switch op.Kind {
	case KindKV:
		return nil
	case KindRecord, KindAlarm, KindDeadAlarm:
		if op.Op != OpDeleteRange && len(op.Key) == 0 {
			return nil
		}
	case KindRequest:
		all := op.Op == OpDeleteRange && len(op.Key) == 0 && len(op.End) == 0
		if all || op.Op != OpDeleteRange && len(op.Key) == requestKeyBytes {
			return nil
		}
	case KindAlarmDue:
		if op.Op != OpDeleteRange && len(op.Key) == alarmDueBytes {
			return nil
		}
	case KindFence, KindPage, KindUndo:
	}
	return fmt.Errorf("%w: operation %d on a key of kind %#x with %d bytes", ErrUnknownOp, op.Op, byte(op.Kind), len(op.Key))
}

// OpKind is the type of one operation in a proposal. The numbers are in logs.
type OpKind byte

// Operations. A replica that meets one it does not know stops; it never skips.
const (
	OpSet         OpKind = 1 // Key = Value
	OpDelete      OpKind = 2 // Key is gone
	OpDeleteRange OpKind = 3 // every key in [Key, End) is gone; empty End: to the end of the kind
	OpPatch       OpKind = 4 // reserved
)

// Op is one write of an object. Key and End are the object's own keys, without any prefix.
type Op struct {
	Op    OpKind
	Kind  KeyKind
	Key   []byte
	End   []byte
	Value []byte
}

// Segment is what one segment of an event wrote, as it is proposed: it becomes durable whole or
// not at all (P3). Ops is in the order of the writes. Immutable once proposed.
type Segment struct {
	Object ObjectRef
	// Term in which the proposer loaded the object. Apply drops the segment when the log entry's
	// term differs (P1).
	Term uint64
	// Incarnation counts the lives of objects on one owner in one term, from 1.
	Incarnation uint64
	// Sequence counts the segments of one incarnation, from 1. Apply drops the segment when there
	// is a gap (P3).
	Sequence uint64
	// CommitSequence counts the segments of the object over all its incarnations, from 1.
	CommitSequence uint64
	// Time is the owner's hybrid logical time: Unix milliseconds << 16 | counter.
	Time uint64
	Ops  []Op
	// Span is of the segment's commit, of whoever proposes it; nil: it is not traced. It is not stored.
	Span *tracing.Span
}
