// Package placement derives object ids, maps them to shards, and says which nodes should own and
// replicate each shard. It is pure: no I/O, no clock, no randomness of its own; the same members
// give the same answer on every node, in whatever order they are named. Every other package may
// import it, because its identifiers are everybody's.
package placement

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
)

// ObjectID names one object for ever. Namespace derives it; the zero value names none.
type ObjectID [32]byte

// String returns 64 lower-case hex digits.
func (id ObjectID) String() string { return hex.EncodeToString(id[:]) }

// ParseID reads 64 hex digits of either case. It does not check which namespace the id is of:
// Namespace.Check does.
func ParseID(s string) (ObjectID, error) {
	var id ObjectID
	if len(s) != 2*len(id) {
		return ObjectID{}, fmt.Errorf("invalid Durable Object ID: must be 64 hex digits, have %d characters", len(s))
	}
	if _, err := hex.Decode(id[:], []byte(s)); err != nil {
		return ObjectID{}, fmt.Errorf("invalid Durable Object ID: must be 64 hex digits: %w", err)
	}
	return id, nil
}

// ShardID numbers a slice of the id space, from 0.
type ShardID uint32

// Limits on the number of shards of a cluster, which is fixed when the cluster is created.
const (
	DefaultShards = 256
	MaxShards     = 4096
)

// ShardOf returns the shard that holds id, in a cluster of so many shards. It never changes:
// stored data depends on it.
func ShardOf(id ObjectID, shards int) ShardID {
	return ShardID(binary.BigEndian.Uint64(id[:8]) % uint64(shards)) //nolint:gosec // below MaxShards
}

// NodeID identifies one store on one machine. It is drawn at random when a node's store is
// created, so a machine that lost its disk comes back as another node. 0 is no node.
type NodeID uint64

// String returns 16 hex digits.
func (n NodeID) String() string { return fmt.Sprintf("%016x", uint64(n)) }

// ParseNodeID reads what String writes.
func ParseNodeID(s string) (NodeID, error) {
	var raw [8]byte
	if len(s) != 16 {
		return 0, fmt.Errorf("node id: must be 16 hex digits, have %d characters", len(s))
	}
	if _, err := hex.Decode(raw[:], []byte(s)); err != nil {
		return 0, fmt.Errorf("node id: must be 16 hex digits: %w", err)
	}
	return NodeID(binary.BigEndian.Uint64(raw[:])), nil
}
