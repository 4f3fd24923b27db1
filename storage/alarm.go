package storage

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/fxamacker/cbor/v2"

	"github.com/holdfast-io/holdfast/placement"
)

// Alarm is an object's pending alarm. Times are Unix milliseconds, greater than 0. Encoded as a CBOR
// map with small integer keys.
type Alarm struct {
	// Due is when its handler is to run next: later than Scheduled when that has failed.
	Due int64 `cbor:"1,keyasint"`
	// Scheduled is what the alarm was set for.
	Scheduled int64 `cbor:"2,keyasint"`
	// Retries is how many runs have failed and counted.
	Retries uint32 `cbor:"3,keyasint,omitempty"`
}

// Encode returns the stored form.
func (a Alarm) Encode() ([]byte, error) { return encodeAlarm(a) }

// DecodeAlarm reads what Encode wrote.
func DecodeAlarm(b []byte) (Alarm, error) {
	var a Alarm
	if err := cbor.Unmarshal(b, &a); err != nil {
		return Alarm{}, fmt.Errorf("%w: alarm: %w", ErrCorrupt, err)
	}
	if a.Due <= 0 || a.Scheduled <= 0 {
		return Alarm{}, fmt.Errorf("%w: alarm of %d, due at %d", ErrCorrupt, a.Scheduled, a.Due)
	}
	return a, nil
}

// DeadAlarm is an alarm that was given up after its last retry. It is kept, one for each object, until
// it is armed again or discarded, or a later one takes its place. Times are Unix milliseconds.
type DeadAlarm struct {
	Scheduled int64 `cbor:"1,keyasint"`
	// Died is when its last run failed.
	Died    int64  `cbor:"2,keyasint"`
	Retries uint32 `cbor:"3,keyasint,omitempty"`
	// Error is what its last run failed with, cut to MaxAlarmErrorBytes.
	Error string `cbor:"4,keyasint,omitempty"`
}

// Encode returns the stored form.
func (d DeadAlarm) Encode() ([]byte, error) { return encodeAlarm(d) }

// DecodeDeadAlarm reads what Encode wrote.
func DecodeDeadAlarm(b []byte) (DeadAlarm, error) {
	var d DeadAlarm
	if err := cbor.Unmarshal(b, &d); err != nil {
		return DeadAlarm{}, fmt.Errorf("%w: dead alarm: %w", ErrCorrupt, err)
	}
	return d, nil
}

func encodeAlarm(v any) ([]byte, error) {
	out, err := cbor.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encode alarm: %w", err)
	}
	return out, nil
}

// AlarmDueKey is the own key of an object in KindAlarmDue: the time at which its alarm is due.
func AlarmDueKey(due int64) []byte {
	return binary.BigEndian.AppendUint64(nil, uint64(due)) //nolint:gosec // due is greater than 0
}

const alarmDueBytes = 8

// The byte after the class in a shard's index of alarms: one list each.
const (
	alarmListDue  = 0x01
	alarmListDead = 0x02
)

// appendAlarmList appends the prefix of one list of a class's alarms in the shard.
func appendAlarmList(dst []byte, shard placement.ShardID, class string, list byte) []byte {
	dst = append(appendShard(dst, shard), tagAlarm)
	return append(append(dst, class...), 0x00, list)
}

// appendIndexKey appends the full key of an object's key of a kind that lies in the shard's index
// and not beside the object's others.
func appendIndexKey(dst []byte, shard placement.ShardID, ref ObjectRef, kind KeyKind, key []byte) []byte {
	if kind == KindAlarmDue {
		dst = append(appendAlarmList(dst, shard, ref.Class, alarmListDue), key...)
	} else {
		dst = appendAlarmList(dst, shard, ref.Class, alarmListDead)
	}
	return append(dst, ref.ID[:]...)
}

// AlarmSpan returns the range of the index entries of all alarms of a class in the shard, pending and
// dead: what goes with the class's objects.
func AlarmSpan(shard placement.ShardID, class string) (lo, hi []byte) {
	lo = append(append(shardKey(shard, tagAlarm), class...), 0x00)
	hi = append(append(shardKey(shard, tagAlarm), class...), 0x01)
	return lo, hi
}

// AlarmPosition is the place of a pending alarm in the order in which a class's alarms are due.
type AlarmPosition struct {
	Due int64
	ID  placement.ObjectID
}

// Compare orders positions.
func (p AlarmPosition) Compare(q AlarmPosition) int {
	switch {
	case p.Due < q.Due:
		return -1
	case p.Due > q.Due:
		return 1
	}
	return bytes.Compare(p.ID[:], q.ID[:])
}

// Next returns the position that follows at once.
func (p AlarmPosition) Next() AlarmPosition {
	for i := len(p.ID) - 1; i >= 0; i-- {
		p.ID[i]++
		if p.ID[i] != 0 {
			return p
		}
	}
	p.Due++
	return p
}

// AlarmClasses returns the unique keys of the classes that have alarms, pending or dead, in the shard.
// It seeks from class to class.
func (s *Store) AlarmClasses(shard placement.ShardID) ([]string, error) {
	lo := shardKey(shard, tagAlarm)
	it, err := s.Iter(lo, shardKey(shard, tagAlarm+1))
	if err != nil {
		return nil, err
	}
	defer it.Close()
	var out []string
	for ok := it.First(); ok; {
		class, _, found := bytes.Cut(it.Key()[len(lo):], []byte{0x00})
		if !found {
			return nil, fmt.Errorf("%w: alarm key %x has no class", ErrCorrupt, it.Key())
		}
		out = append(out, string(class))
		_, end := AlarmSpan(shard, string(class))
		ok = it.SeekGE(end)
	}
	return out, it.Error()
}

// PendingAlarms returns the pending alarms of a class in one shard, in the order of their times, those
// at or after from: the ones that are due at until, at most limit, and one more that follows if there
// is one.
func (s *Store) PendingAlarms(shard placement.ShardID, class string, from AlarmPosition, until int64, limit int) ([]AlarmPosition, error) {
	prefix := appendAlarmList(nil, shard, class, alarmListDue)
	lo := appendIndexKey(nil, shard, ObjectRef{Class: class, ID: from.ID}, KindAlarmDue, AlarmDueKey(from.Due))
	it, err := s.Iter(lo, successor(prefix))
	if err != nil {
		return nil, err
	}
	defer it.Close()
	var out []AlarmPosition
	for ok := it.First(); ok; ok = it.Next() {
		key := it.Key()[len(prefix):]
		if len(key) != alarmDueBytes+len(placement.ObjectID{}) {
			return nil, fmt.Errorf("%w: alarm key %x of class %s has the wrong length", ErrCorrupt, it.Key(), class)
		}
		at := AlarmPosition{Due: int64(binary.BigEndian.Uint64(key)), ID: placement.ObjectID(key[alarmDueBytes:])} //nolint:gosec // written from an int64
		out = append(out, at)
		if len(out) > limit || at.Due > until {
			break
		}
	}
	return out, it.Error()
}

// DeadAlarmListing is one dead alarm.
type DeadAlarmListing struct {
	ID    placement.ObjectID
	Alarm DeadAlarm
}

// DeadAlarms returns up to limit dead alarms of a class in one shard, in the order of their objects'
// ids, those after the given id.
func (s *Store) DeadAlarms(shard placement.ShardID, class string, after *placement.ObjectID, limit int) ([]DeadAlarmListing, error) {
	prefix := appendAlarmList(nil, shard, class, alarmListDead)
	lo := prefix
	if after != nil {
		lo = append(append(slices.Clone(prefix), after[:]...), 0x00)
	}
	it, err := s.Iter(lo, successor(prefix))
	if err != nil {
		return nil, err
	}
	defer it.Close()
	var out []DeadAlarmListing
	for ok := it.First(); ok && len(out) < limit; ok = it.Next() {
		key := it.Key()[len(prefix):]
		if len(key) != len(placement.ObjectID{}) {
			return nil, fmt.Errorf("%w: dead alarm key %x of class %s has the wrong length", ErrCorrupt, it.Key(), class)
		}
		one := DeadAlarmListing{ID: placement.ObjectID(key)}
		if one.Alarm, err = DecodeDeadAlarm(it.Value()); err != nil {
			return nil, fmt.Errorf("object %s: %w", one.ID, err)
		}
		out = append(out, one)
	}
	return out, it.Error()
}
