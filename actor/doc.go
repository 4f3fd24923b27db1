// Package actor runs objects on their owner: it gives each object its mailbox, its turn, its view
// of its storage and its gates, loads it on its first event and evicts it when idle.
//
// It promises, for what it lets out: one event of an object runs at a time, and sees everything
// that the events before it wrote (P4); a reply, an error, or a call of another object leaves only
// when every write that it could depend on is fsynced by a majority, and when this node was the owner
// after the event ran, or made the call (P1, P2); the writes of one segment commit together or not at all, in order, without a gap
// (P3); every queue has a bound, and what is over it is refused before it ran (P6).
//
// What an object sends on streams passes the same gate, in order.
//
// machine.go states the rules of an object's life as a state machine without I/O, goroutine, lock
// or clock: events in, effects out. Manager and object are the shell around it.
package actor
