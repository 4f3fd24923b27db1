package replica

import (
	"encoding/binary"
	"fmt"
	"time"

	"github.com/holdfast-io/holdfast/placement"
	"github.com/holdfast-io/holdfast/storage"
)

// Objects of the simulation live by the rules of package actor: events run at once, one after
// another; answers wait at the gate; an incarnation that has ended is followed by another only when
// each of its segments is settled and each of its answers is out. What they hold is the id of the last write, and each write names
// the one before it: so the chain of writes shows whatever is lost, doubled or out of order.

type simCallKind int

const (
	simRead simCallKind = iota
	simWrite
	simDelete // deletes everything the object has, so that it ends
	simReset  // the incarnation ends in the middle of its work
	simEvict  // the object is forgotten if it is idle
)

// simCall is one call of a client.
type simCall struct {
	kind   simCallKind
	shard  placement.ShardID
	object int
	id     uint64 // of the write
	floor  int    // how far the object had certainly come when the call was made
}

// simOwner implements Owner: it runs objects, as actor.Manager does.
type simOwner struct {
	node   *simNode
	host   *Host
	shards []simOwned
}

// simOwned is one shard.
type simOwned struct {
	id           placement.ShardID
	term         uint64 // 0: not owned
	incarnations uint64
	objects      []*simObject
	paused       bool
	drained      func()
}

func newSimOwner(n *simNode) *simOwner {
	return &simOwner{node: n, shards: make([]simOwned, n.sim.shards)}
}

// Acquired implements Owner.
func (o *simOwner) Acquired(shard placement.ShardID, term uint64) {
	s := o.node.sim
	s.tracef(o.node, "owns shard %d in term %d", shard, term)
	s.stats.elections++
	s.oracle.owns(o.node.id, shard, term)
	owned := simOwned{id: shard, term: term}
	for i := range s.objects {
		owned.objects = append(owned.objects, o.newObject(shard, i))
	}
	o.shards[shard] = owned
}

func (o *simOwner) newObject(shard placement.ShardID, number int) *simObject {
	return &simObject{owner: o, shard: &o.shards[shard], number: number, ref: simRef(shard, number)}
}

// simEndingClass is the class of every other object, and is deleted some time.
const simEndingClass = "E"

func simRef(shard placement.ShardID, object int) storage.ObjectRef {
	return storage.ObjectRef{Class: []string{"C", simEndingClass}[object%2], ID: placement.ObjectID{byte(shard), byte(object)}}
}

// classEnded is what the Host tells.
func (o *simOwner) classEnded(shard placement.ShardID, term uint64, class string) {
	owned := &o.shards[shard]
	if owned.term != term {
		return
	}
	for i, object := range owned.objects {
		if object.ref.Class == class {
			owned.objects[i] = o.newObject(shard, i)
			object.lose()
		}
	}
	owned.checkDrained()
}

// Pause implements Owner.
func (o *simOwner) Pause(shard placement.ShardID, term uint64, drained func()) {
	if owned := &o.shards[shard]; owned.term == term {
		owned.paused, owned.drained = true, drained
		owned.checkDrained()
	}
}

// Resume implements Owner.
func (o *simOwner) Resume(shard placement.ShardID, term uint64) {
	owned := &o.shards[shard]
	if owned.term != term {
		return
	}
	owned.paused, owned.drained = false, nil
	for _, object := range owned.objects {
		object.pump()
	}
}

// Lost implements Owner.
func (o *simOwner) Lost(shard placement.ShardID, term uint64) {
	owned := &o.shards[shard]
	if owned.term != term {
		return
	}
	o.node.sim.tracef(o.node, "has lost shard %d in term %d", shard, term)
	objects := owned.objects
	*owned = simOwned{id: shard}
	for _, object := range objects {
		object.lose()
	}
}

// die is the end of the process: nobody is answered.
func (o *simOwner) die() {
	for i := range o.shards {
		for _, object := range o.shards[i].objects {
			object.lost, object.waiters, object.mailbox = true, nil, nil
		}
	}
}

func (owned *simOwned) checkDrained() {
	if owned.drained == nil {
		return
	}
	for _, object := range owned.objects {
		if object.busy() {
			return
		}
	}
	drained := owned.drained
	owned.drained = nil
	drained()
}

// simObject is one object on its owner: actor's rules.
type simObject struct {
	owner  *simOwner
	shard  *simOwned
	number int
	ref    storage.ObjectRef

	mailbox                           []simCall
	alive                             bool
	incarnation                       uint64
	seq, committed, readable, refused uint64
	commitSeq                         uint64
	last                              uint64 // write
	exists                            bool

	waiters          []simWaiter
	token, confirmed uint64
	lost             bool
}

// simWaiter is an event at the output gate.
type simWaiter struct {
	call   simCall
	result uint64 // the last write that it has seen, or its own
	seq    uint64
	token  uint64
}

func (o *simObject) settled() bool { return o.readable+o.refused == o.seq }
func (o *simObject) busy() bool    { return len(o.waiters) > 0 || !o.settled() }

// deliver takes a call; one that finds no owner is answered as not executed.
func (o *simOwner) deliver(c simCall) {
	owned := &o.shards[c.shard]
	if owned.term == 0 {
		o.node.sim.oracle.deny(c)
		return
	}
	object := owned.objects[c.object]
	object.mailbox = append(object.mailbox, c)
	object.pump()
}

// pump runs what can run.
func (o *simObject) pump() {
	for len(o.mailbox) > 0 && !o.lost && !o.shard.paused {
		if !o.alive && o.busy() && o.owner.node.sim.broke != "reload-before-settled" {
			return
		}
		c := o.mailbox[0]
		o.mailbox = o.mailbox[1:]
		o.run(c)
	}
	o.shard.checkDrained()
}

func (o *simObject) run(c simCall) {
	switch c.kind {
	case simReset:
		o.end()
		return
	case simEvict:
		if !o.busy() {
			o.alive = false
		}
		return
	default:
	}
	if !o.alive && !o.load() {
		o.owner.node.sim.oracle.deny(c)
		return
	}
	switch c.kind {
	case simWrite:
		o.propose(c, o.writeOps(c))
	case simDelete:
		if !o.exists {
			o.read(c)
			return
		}
		o.propose(c, o.deleteOps(c))
	default:
		o.read(c)
	}
}

// load begins an incarnation with what the store shows, unless the class was deleted.
func (o *simObject) load() bool {
	s := o.owner.node.sim
	r := o.owner.host.Reader(o.shard.id, o.ref)
	ended, err := r.ClassEnded()
	if err != nil {
		s.violatef("load: %v", err)
	}
	if ended {
		return false
	}
	get := func(kind storage.KeyKind, key string) []byte {
		raw, _, err := r.Get(kind, []byte(key))
		if err != nil {
			s.violatef("load: %v", err)
		}
		return raw
	}
	o.shard.incarnations++
	o.alive, o.incarnation = true, o.shard.incarnations
	o.seq, o.committed, o.readable, o.refused = 0, 0, 0, 0
	o.last, o.commitSeq, o.exists = 0, 0, false
	if raw := get(storage.KindKV, simValueKey); raw != nil {
		o.last, _ = decodeSimValue(raw)
	}
	if raw := get(storage.KindFence, ""); raw != nil {
		fence, err := storage.DecodeFence(raw)
		if err != nil {
			s.violatef("load: %v", err)
		}
		o.commitSeq, o.exists = fence.CommitSequence, true
	}
	return true
}

// simValueKey holds the id of the last write and of the one before it.
const simValueKey = "n"

func encodeSimValue(id, before uint64) []byte {
	return binary.AppendUvarint(binary.AppendUvarint(nil, id), before)
}

func decodeSimValue(b []byte) (id, before uint64) {
	id, n := binary.Uvarint(b)
	before, _ = binary.Uvarint(b[n:])
	return id, before
}

func (o *simObject) writeOps(c simCall) []storage.Op {
	ops := []storage.Op{
		{Op: storage.OpSet, Kind: storage.KindKV, Key: []byte(simValueKey), Value: encodeSimValue(c.id, o.last)},
		{Op: storage.OpSet, Kind: storage.KindKV, Key: fmt.Append(nil, "w", c.id%5), Value: fmt.Append(nil, c.id)},
	}
	if c.id%7 == 0 {
		ops = append(ops, storage.Op{Op: storage.OpDeleteRange, Kind: storage.KindKV, Key: []byte("w1"), End: []byte("w4")})
	}
	if c.id%11 == 0 {
		ops = append(ops, storage.Op{Op: storage.OpDelete, Kind: storage.KindKV, Key: []byte("w0")})
	}
	if !o.exists {
		ops = append(ops, storage.Op{Op: storage.OpSet, Kind: storage.KindRecord, Value: []byte{0xa0}})
	}
	o.last, o.exists = c.id, true
	return ops
}

func (o *simObject) deleteOps(c simCall) []storage.Op {
	ops := []storage.Op{
		{Op: storage.OpSet, Kind: storage.KindKV, Key: []byte(simValueKey), Value: encodeSimValue(c.id, o.last)},
		{Op: storage.OpDeleteRange, Kind: storage.KindKV},
		{Op: storage.OpDelete, Kind: storage.KindRecord},
	}
	o.last, o.exists = 0, false
	return ops
}

func (o *simObject) propose(c simCall, ops []storage.Op) {
	o.seq++
	o.commitSeq++
	o.waiters = append(o.waiters, simWaiter{call: c, result: c.id, seq: o.seq})
	o.owner.host.Propose(o.shard.id, &storage.Segment{
		Object: o.ref, Term: o.shard.term, Incarnation: o.incarnation, Sequence: o.seq,
		CommitSequence: o.commitSeq, Time: uint64(o.owner.node.sim.now), Ops: ops, //nolint:gosec // not negative
	}, o)
}

func (o *simObject) read(c simCall) {
	if o.committed == o.seq && len(o.waiters) == 0 && o.owner.host.ConfirmNow(o.shard.id, o.shard.term) {
		o.owner.node.sim.oracle.answered(c, o.last)
		return
	}
	o.token++
	o.waiters = append(o.waiters, simWaiter{call: c, result: o.last, seq: o.seq, token: o.token})
	o.owner.host.Confirm(o.shard.id, o.shard.term, o, o.token)
}

// end ends the incarnation; what waits in the mailbox has not run.
func (o *simObject) end() {
	o.alive = false
	for _, c := range o.mailbox {
		o.owner.node.sim.oracle.deny(c)
	}
	o.mailbox = nil
}

func (o *simObject) release() {
	n := 0
	for ; n < len(o.waiters); n++ {
		w := &o.waiters[n]
		if w.seq > o.committed || w.token > o.confirmed {
			break
		}
		o.owner.node.sim.oracle.answered(w.call, w.result)
	}
	o.waiters = append(o.waiters[:0:0], o.waiters[n:]...)
}

// Committed implements Settler.
func (o *simObject) Committed(seq uint64) {
	o.committed = max(o.committed, seq)
	for i := range o.waiters {
		if o.waiters[i].seq < seq {
			o.waiters[i].token = 0
		}
	}
	o.release()
	o.pump()
}

// Readable implements Settler.
func (o *simObject) Readable(seq uint64) {
	o.readable = max(o.readable, seq)
	o.pump()
}

// Refused implements Settler.
func (o *simObject) Refused(seq uint64, unknown bool) {
	o.refused++
	var kept []simWaiter
	for _, w := range o.waiters {
		switch {
		case w.seq < seq:
			kept = append(kept, w)
		case unknown && w.token == 0: // Its fate is open.
		default:
			o.owner.node.sim.oracle.deny(w.call)
		}
	}
	o.waiters = kept
	o.end()
	o.pump()
}

// Confirmed implements Confirmer.
func (o *simObject) Confirmed(token uint64, err error) {
	if err == nil {
		o.confirmed = max(o.confirmed, token)
		o.release()
	} else {
		var kept []simWaiter
		for _, w := range o.waiters {
			if w.token == 0 || w.token > token || w.token <= o.confirmed {
				kept = append(kept, w)
			}
		}
		o.waiters = kept
	}
	o.pump()
}

func (o *simObject) lose() {
	o.lost = true
	o.waiters = nil
	o.end()
}

// client makes calls, one after another, for ever.
func (s *simulation) client() {
	s.at(s.between(time.Millisecond, 60*time.Millisecond), "client", func() {
		if s.calm && s.now > s.calmSince+calmCalls && s.calmWrites > 0 {
			return
		}
		s.client()
		shard, object := placement.ShardID(s.rng.IntN(s.shards)), s.rng.IntN(s.objects) //nolint:gosec // small
		var owners []*simNode
		for _, n := range s.nodes {
			if n.host != nil && n.owner.shards[shard].term != 0 {
				owners = append(owners, n)
			}
		}
		if len(owners) == 0 {
			return
		}
		if len(owners) == 1 || s.chance(300) {
			owners = []*simNode{owners[s.rng.IntN(len(owners))]}
		} // Else one of them is superseded, and all are asked.
		calls := 1
		if s.chance(200) {
			calls += s.rng.IntN(5)
		}
		for range calls {
			for _, n := range owners {
				s.call(n, s.newCall(shard, object))
			}
		}
	})
}

func (s *simulation) newCall(shard placement.ShardID, object int) simCall {
	c := simCall{kind: simRead, shard: shard, object: object, floor: s.oracle.floor(shard, object)}
	switch p := s.rng.IntN(100); {
	case p < 50:
		c.kind = simWrite
	case p < 54:
		c.kind = simDelete
	case p < 60:
		c.kind = simReset
	case p < 64:
		c.kind = simEvict
	}
	s.nextID++
	c.id = s.nextID
	return c
}

// call delivers a call at once, or when the process goes on.
func (s *simulation) call(n *simNode, c simCall) {
	n.on(0, "call", func() {
		n.owner.deliver(c)
		s.oracle.settle()
		n.turnSoon()
	})
}
