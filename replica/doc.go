// Package replica keeps each shard as a Raft group (go.etcd.io/raft/v3) on package storage: log,
// apply, confirmed reads, snapshots, and membership changes towards what the ring wishes.
//
// It promises: a segment that a Settler is told of as committed is fsynced by a majority of the
// shard's voters and will be applied by every replica, in order, whole (P2, P3); a segment that is
// refused for certain is applied nowhere, ever; a read that is confirmed was, at some moment after
// it was asked about, a read on the only owner (P1, P4). No promise rests on clocks: there are no
// leases.
//
// Group is one replica as a state machine without I/O, goroutine, lock or clock: calls in, a Ready
// out, which says what to write, then send, then report. Host is what acts: one goroutine that
// drives all the groups of a node, writes what they want in one batch with one fsync, and carries
// their messages in shared frames.
package replica
