package storage

import (
	"encoding/binary"
	"errors"

	"github.com/holdfast-io/holdfast/placement"
)

// The first byte of every key. docs/format/storage.md.
const (
	spaceStore     = 0x00 // facts of this store alone
	spaceTombstone = 0x01 // replicas that were here and must not come back
	spaceShard     = 0x02 // everything of one shard
)

// The byte after a shard's prefix.
const (
	tagApplied    = 'A'
	tagDescriptor = 'D'
	tagReplica    = 'I'
	tagLog        = 'L'
	tagState      = 'S'
	tagTruncated  = 'U'
	// tagHardState comes last: an ingest writes it when all else is written.
	tagHardState = 'V'
	// tagAlarm is the index of alarms, next to the state it belongs to.
	tagAlarm = 'T'
)

const shardPrefixBytes = 1 + 4

func appendShard(dst []byte, shard placement.ShardID) []byte {
	return binary.BigEndian.AppendUint32(append(dst, spaceShard), uint32(shard))
}

func shardKey(shard placement.ShardID, tag byte) []byte {
	return append(appendShard(make([]byte, 0, shardPrefixBytes+1), shard), tag)
}

// TombstoneKey holds the smallest replica id of the shard that may ever live here again. It lies
// outside ShardSpan, so that nothing that replaces a shard can lose it.
func TombstoneKey(shard placement.ShardID) []byte {
	return binary.BigEndian.AppendUint32([]byte{spaceTombstone}, uint32(shard))
}

// AppliedKey holds how far the shard's log is applied, written with every change of its state.
func AppliedKey(shard placement.ShardID) []byte { return shardKey(shard, tagApplied) }

// DescriptorKey holds which replicas the shard has.
func DescriptorKey(shard placement.ShardID) []byte { return shardKey(shard, tagDescriptor) }

// HardStateKey holds Raft's term, vote and commit.
func HardStateKey(shard placement.ShardID) []byte { return shardKey(shard, tagHardState) }

// ReplicaKey holds the id of the replica that lives here; a shard without it is not here.
func ReplicaKey(shard placement.ShardID) []byte { return shardKey(shard, tagReplica) }

// TruncatedKey holds the index and term of the last entry that the log no longer has.
func TruncatedKey(shard placement.ShardID) []byte { return shardKey(shard, tagTruncated) }

// LogKey holds the entry of the index.
func LogKey(shard placement.ShardID, index uint64) []byte {
	key := append(appendShard(make([]byte, 0, shardPrefixBytes+1+8), shard), tagLog)
	return binary.BigEndian.AppendUint64(key, index)
}

// LogIndex reads the index back from a LogKey.
func LogIndex(key []byte) (uint64, error) {
	if len(key) != shardPrefixBytes+1+8 {
		return 0, errors.New("storage: not a log key")
	}
	return binary.BigEndian.Uint64(key[shardPrefixBytes+1:]), nil
}

// ShardSpan returns the range [lo, hi) that has everything of the shard but its tombstone.
func ShardSpan(shard placement.ShardID) (lo, hi []byte) {
	return appendShard(nil, shard), appendShard(nil, shard+1)
}

// LogSpan returns the range of the log entries with lo <= index < hi.
func LogSpan(shard placement.ShardID, loIndex, hiIndex uint64) (lo, hi []byte) {
	return LogKey(shard, loIndex), LogKey(shard, hiIndex)
}

// StateSpan returns the range of the shard's object state, with its index of alarms: what a
// snapshot of it copies.
func StateSpan(shard placement.ShardID) (lo, hi []byte) {
	return shardKey(shard, tagState), shardKey(shard, tagAlarm+1)
}

// classSpan returns the range of all objects of a class in the shard.
func classSpan(shard placement.ShardID, class string) (lo, hi []byte) {
	lo = append(append(shardKey(shard, tagState), class...), 0x00)
	hi = append(append(shardKey(shard, tagState), class...), 0x01)
	return lo, hi
}

// ClassEndKey says that the class was deleted: none of its objects in the shard may ever write again. It
// lies outside of classSpan, which goes when the class does, and in StateSpan, so that a snapshot has it.
func ClassEndKey(shard placement.ShardID, class string) []byte {
	return append(append(shardKey(shard, tagState), class...), 0x01)
}

// ObjectSpan returns the range of everything of one object but what lies in the shard's index of
// alarms.
func ObjectSpan(shard placement.ShardID, ref ObjectRef) (lo, hi []byte) {
	lo = appendObject(nil, shard, ref)
	return lo, successor(lo)
}

// appendObject appends the prefix of all keys of the object.
func appendObject(dst []byte, shard placement.ShardID, ref ObjectRef) []byte {
	dst = append(appendShard(dst, shard), tagState)
	dst = append(append(dst, ref.Class...), 0x00)
	return append(dst, ref.ID[:]...)
}

// AppendObjectKey appends the full key of an object's own key.
func AppendObjectKey(dst []byte, shard placement.ShardID, ref ObjectRef, kind KeyKind, key []byte) []byte {
	if kind.indexed() {
		return appendIndexKey(dst, shard, ref, kind, key)
	}
	dst = append(appendObject(dst, shard, ref), byte(kind))
	return append(dst, key...)
}

// successor returns the smallest key that is greater than every key with the prefix. The prefixes
// here begin with a byte below 0xff, so there is one.
func successor(prefix []byte) []byte {
	out := append([]byte(nil), prefix...)
	for i := len(out) - 1; ; i-- {
		out[i]++
		if out[i] != 0 {
			return out[:i+1]
		}
	}
}
