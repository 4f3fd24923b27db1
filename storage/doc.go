// Package storage is the engine below everything that Holdfast keeps: one pebble store per node,
// with the Raft logs and the object state of all its shards, so that one fsync serves every shard
// that has something to write.
//
// It promises that a batch is applied whole or not at all, that a batch committed with sync
// survives the loss of power, and that everything of one shard, of one object and of one kind of
// an object's keys is one contiguous range, so that each can be read, copied, replaced or deleted
// as a range. A store that is damaged says so at Open and never answers with less than it was
// given. docs/format/storage.md has the keys byte by byte.
//
// The package knows nothing of Raft's rules or of objects' lives; it holds the one rule that needs
// both, the fence (ApplySegment), because that rule is about what the store already has.
package storage
