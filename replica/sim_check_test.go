package replica

import (
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/cespare/xxhash/v2"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/holdfast-io/holdfast/placement"
	"github.com/holdfast-io/holdfast/storage"
)

// oracle knows what has been committed, from whichever replica shows it first, and what must follow
// from it. It applies the log by rules of its own and compares every replica with the outcome.
type oracle struct {
	sim     *simulation
	shards  []oracleShard
	leaders map[oracleTerm]uint64           // replica ids: one leader per shard and term
	owners  map[oracleTerm]placement.NodeID // and one owner (P1)
	writes  map[uint64]oraclePosition       // by id: where it is in its object's chain
	denied  map[uint64]bool                 // ids of writes that were said not to have happened
	answers []oracleAnswer                  // what the turn has let out
	orphans []oracleAnswer                  // what a process let out just before it died
}

type oracleTerm struct {
	shard placement.ShardID
	term  uint64
}

type oraclePosition struct {
	shard    placement.ShardID
	object   int
	position int
}

// oracleShard is one shard as its log makes it.
type oracleShard struct {
	entries []oracleEntry // from index first on
	state   map[string]string
	digest  uint64 // of state
	objects []oracleObject
	desc    descriptor // the latest that a replica showed, and the one before
	before  descriptor
}

// oracleFirst is the index that Bootstrap gives the empty state.
const oracleFirst = 10

// oracleEntry is a committed entry and what the shard is after it.
type oracleEntry struct {
	term, hash uint64
	digest     uint64
	descriptor uint64 // 0: not seen yet
}

// oracleObject is the chain of an object's writes.
type oracleObject struct {
	chain  []uint64 // of positions: the last write after it, 0 when the object does not exist
	floor  int      // the latest position that a client has seen
	fence  storage.Fence
	exists bool
	ended  uint64 // by which entry, with its class
}

// oracleAnswer is an answer that has got out.
type oracleAnswer struct {
	call   simCall
	result uint64
}

// simChecked is how far a replica was compared.
type simChecked struct {
	replica uint64
	applied uint64
}

func newOracle(s *simulation) *oracle {
	o := &oracle{
		sim: s, leaders: make(map[oracleTerm]uint64), owners: make(map[oracleTerm]placement.NodeID),
		writes: make(map[uint64]oraclePosition), denied: make(map[uint64]bool),
	}
	for range s.shards {
		sh := oracleShard{state: make(map[string]string), entries: []oracleEntry{{term: 1}}}
		for range s.objects {
			sh.objects = append(sh.objects, oracleObject{chain: []uint64{0}})
		}
		o.shards = append(o.shards, sh)
	}
	return o
}

func (sh *oracleShard) head() uint64 { return oracleFirst + uint64(len(sh.entries)) - 1 }

func (sh *oracleShard) at(index uint64) *oracleEntry { return &sh.entries[index-oracleFirst] }

// owns notes an owner.
func (o *oracle) owns(node placement.NodeID, shard placement.ShardID, term uint64) {
	key := oracleTerm{shard, term}
	if other, ok := o.owners[key]; ok {
		o.sim.violatef("P1: nodes %d and %d both own shard %d in term %d", other, node, shard, term)
	}
	o.owners[key] = node
}

// floor is how far an object has certainly come.
func (o *oracle) floor(shard placement.ShardID, object int) int {
	return o.shards[shard].objects[object].floor
}

// deny notes that a call was said not to have happened.
func (o *oracle) deny(c simCall) {
	if c.kind != simWrite && c.kind != simDelete {
		return
	}
	o.sim.stats.refused++
	o.denied[c.id] = true
	if _, ok := o.writes[c.id]; ok {
		o.sim.violatef("write %d was refused, and is committed", c.id)
	}
}

// answered takes an answer that gets out.
func (o *oracle) answered(c simCall, result uint64) {
	o.sim.mix("answer", nil, result)
	o.sim.tracef(nil, "answer: call %d (kind %d) of shard %d object %d: %d", c.id, c.kind, c.shard, c.object, result)
	o.answers = append(o.answers, oracleAnswer{c, result})
}

// settle keeps the answers of a turn that did not end: the replica can't show what they rest on.
func (o *oracle) settle() {
	o.orphans = append(o.orphans, o.answers...)
	o.answers = nil
}

// judgeAll judges the answers of the turn, and the orphans that can be by now.
func (o *oracle) judgeAll() {
	for _, a := range o.answers {
		if !o.judge(a) {
			o.sim.violatef("P2, P4: call %d was answered with %d, which is not committed, or not any more", a.call.id, a.result)
		}
	}
	o.answers = o.answers[:0]
	o.orphans = slices.DeleteFunc(o.orphans, o.judge)
}

// judge checks that an answer is linearizable (P4): it shows the object no earlier than any answer
// that came before the call. It says whether it could tell.
func (o *oracle) judge(a oracleAnswer) bool {
	object := &o.shards[a.call.shard].objects[a.call.object]
	var position int
	if a.result != 0 {
		at, ok := o.writes[a.result]
		if !ok {
			return false
		}
		position = at.position
	} else {
		// It found nothing: at the first moment since the call at which there was nothing.
		since := slices.Index(object.chain[a.call.floor:], 0)
		if since < 0 {
			return false
		}
		position = a.call.floor + since
	}
	if own := a.result == a.call.id; position < a.call.floor || own && position == a.call.floor {
		o.sim.violatef("P4: a call of shard %d object %d shows it at %d; another had shown %d before", a.call.shard, a.call.object, position, a.call.floor)
	}
	object.floor = max(object.floor, position)
	if a.call.kind == simRead {
		o.sim.stats.reads++
	} else {
		o.sim.stats.writes++
		if o.sim.calm {
			o.sim.calmWrites++
		}
	}
	return true
}

// check compares what the node shows after a turn with what must be.
func (n *simNode) check() {
	for _, g := range n.host.groups {
		if g != nil {
			n.checkGroup(g)
		}
	}
	n.sim.oracle.judgeAll()
}

func (n *simNode) checkGroup(g *Group) {
	s, o := n.sim, n.sim.oracle
	if g.failed != nil {
		if !n.wasFull && !n.full {
			s.violatef("node %d: the replica of shard %d has failed: %v", n.id, g.shard, g.failed)
		}
		return
	}
	if g.leader {
		key := oracleTerm{g.shard, g.term}
		if other, ok := o.leaders[key]; ok && other != g.id {
			s.violatef("replicas %d and %d of shard %d both lead in term %d", other, g.id, g.shard, g.term)
		}
		o.leaders[key] = g.id
	}
	raw, ok := n.disk.Visible(storage.AppliedKey(g.shard))
	var at indexTerm
	if !ok || readUints("applied", raw, &at.Index, &at.Term) != nil || at.Index == 0 {
		return
	}
	checked := &n.checked[g.shard]
	if checked.replica != g.id {
		*checked = simChecked{replica: g.id}
	}
	if at.Index == checked.applied {
		return
	}
	if at.Index < checked.applied {
		s.violatef("node %d: shard %d went back from %d to %d", n.id, g.shard, checked.applied, at.Index)
	}
	n.checkApplied(g.shard, checked.applied, at)
	if n.owner.shards[g.shard].term != 0 {
		o.shards[g.shard].showEnd(at.Index)
	}
	checked.applied = at.Index
}

// checkApplied compares log and state at an applied index with those of the other replicas.
func (n *simNode) checkApplied(shard placement.ShardID, from uint64, at indexTerm) {
	s, sh := n.sim, &n.sim.oracle.shards[shard]
	advanced := false
	for i := max(from+1, oracleFirst+1); i <= at.Index; i++ {
		raw, ok := n.disk.Visible(storage.LogKey(shard, i))
		if !ok && i > sh.head() {
			raw, ok = s.committed(shard, i, at)
		}
		switch {
		case !ok && i > sh.head():
			s.violatef("node %d: shard %d has applied %d without log entry %d, which no other replica has applied", n.id, shard, at.Index, i)
			return
		case !ok:
			continue // Truncated, or a snapshot.
		}
		hash := xxhash.Sum64(raw)
		if i <= sh.head() {
			if e := sh.at(i); e.hash != hash {
				s.violatef("node %d: shard %d has another committed entry at %d than others", n.id, shard, i)
				return
			}
			continue
		}
		e, err := decodeLogEntry(i, raw)
		if err != nil {
			s.violatef("node %d: shard %d entry %d: %v", n.id, shard, i, err)
			return
		}
		s.oracle.apply(shard, e)
		sh.entries = append(sh.entries, oracleEntry{term: e.GetTerm(), hash: hash, digest: sh.digest})
		advanced = true
	}
	n.checkState(shard, at)
	if advanced {
		n.checkDurable(shard, at)
	}
}

// committed finds an entry that a replica has applied and truncated in one batch in the log of
// another one: the logs of two replicas that have the same last entry are the same before it.
func (s *simulation) committed(shard placement.ShardID, index uint64, at indexTerm) ([]byte, bool) {
	for _, n := range s.nodes {
		raw, _ := n.disk.Visible(storage.LogKey(shard, at.Index))
		if e, err := decodeLogEntry(at.Index, raw); err != nil || e.GetTerm() != at.Term {
			continue
		}
		if raw, ok := n.disk.Visible(storage.LogKey(shard, index)); ok {
			return raw, true
		}
	}
	return nil, false
}

// checkState compares the replicated state.
func (n *simNode) checkState(shard placement.ShardID, at indexTerm) {
	s, sh := n.sim, &n.sim.oracle.shards[shard]
	e := sh.at(at.Index)
	if e.term != at.Term {
		s.violatef("node %d: shard %d has applied %d of term %d, others of term %d", n.id, shard, at.Index, at.Term, e.term)
	}
	digest := uint64(0)
	lo, hi := storage.StateSpan(shard)
	n.disk.Walk(lo, hi, func(key, value []byte) bool {
		digest ^= pairDigest(key, value)
		return true
	})
	if digest != e.digest {
		s.violatef("node %d: shard %d differs from what its log makes it at %d\n%s", n.id, shard, at.Index, n.diff(shard, at.Index))
	}
	raw, _ := n.disk.Visible(storage.DescriptorKey(shard))
	switch sum := xxhash.Sum64(raw); e.descriptor {
	case 0:
		e.descriptor = sum
	case sum:
	default:
		s.violatef("node %d: shard %d has another membership at %d than others", n.id, shard, at.Index)
	}
	desc, err := decodeDescriptor(raw)
	if err != nil {
		s.violatef("node %d: shard %d: %v", n.id, shard, err)
		return
	}
	if desc.Generation > sh.desc.Generation {
		if sh.desc.Generation > 0 {
			s.stats.changes += int(desc.Generation - sh.desc.Generation) //nolint:gosec // small
		}
		s.tracef(n, "shard %d generation %d at %d: %v %+v", shard, desc.Generation, at.Index, desc.Replicas, desc.Conf)
		sh.before, sh.desc = sh.desc, desc
	}
}

// diff says how the replica's state differs from the oracle's, when that is at the same index.
func (n *simNode) diff(shard placement.ShardID, index uint64) string {
	sh := &n.sim.oracle.shards[shard]
	if sh.head() != index {
		return ""
	}
	out := ""
	seen := make(map[string]bool)
	lo, hi := storage.StateSpan(shard)
	n.disk.Walk(lo, hi, func(key, value []byte) bool {
		seen[string(key)] = true
		if want, ok := sh.state[string(key)]; !ok || want != string(value) {
			out += fmt.Sprintf("%x: has %x, want %x (%v)\n", key, value, want, ok)
		}
		return true
	})
	for key, want := range sh.state {
		if !seen[key] {
			out += fmt.Sprintf("%x: missing, want %x\n", key, want)
		}
	}
	return out
}

// checkDurable checks what commit means (P2): a majority of the voters has the entry on disk, and
// keeps it if the power goes now.
func (n *simNode) checkDurable(shard placement.ShardID, at indexTerm) {
	sh := &n.sim.oracle.shards[shard]
	// A change of membership is committed by the voters from before it.
	if !n.sim.durable(shard, at, &sh.desc) && !n.sim.durable(shard, at, &sh.before) {
		n.sim.violatef("P2: node %d has applied %d of shard %d, which is not on the disks of a majority", n.id, at.Index, shard)
	}
}

func (s *simulation) durable(shard placement.ShardID, at indexTerm, desc *descriptor) bool {
	for _, voters := range [][]uint64{desc.Conf.Voters, desc.Conf.VotersOutgoing} {
		have := 0
		for _, id := range voters {
			if node, ok := desc.node(id); ok && s.node(node).hasDurable(shard, id, at) {
				have++
			}
		}
		if len(voters) > 0 && have < len(voters)/2+1 {
			return false
		}
	}
	return len(desc.Conf.Voters) > 0
}

func (n *simNode) hasDurable(shard placement.ShardID, id uint64, at indexTerm) bool {
	if n.wiped {
		return true // It had.
	}
	var got uint64
	if raw, ok := n.disk.Durable(storage.ReplicaKey(shard)); !ok || readUints("replica", raw, &got) != nil || got != id {
		return false
	}
	if raw, ok := n.disk.Durable(storage.AppliedKey(shard)); ok {
		var applied, term uint64
		if readUints("applied", raw, &applied, &term) == nil && applied >= at.Index {
			return true
		}
	}
	raw, ok := n.disk.Durable(storage.LogKey(shard, at.Index))
	if !ok {
		return false
	}
	e, err := decodeLogEntry(at.Index, raw)
	return err == nil && e.GetTerm() == at.Term
}

// apply applies a committed entry to the oracle's own state.
func (o *oracle) apply(shard placement.ShardID, e *raftpb.Entry) {
	data := e.GetData()
	if e.GetType() != raftpb.EntryNormal || len(data) == 0 {
		return
	}
	switch data[0] {
	case payloadEndClass:
		o.endClass(shard, e.GetIndex(), string(data[1:]))
		return
	case payloadSegments:
	default:
		return
	}
	for rest := data[1:]; len(rest) > 0; {
		seg, next, err := storage.DecodeSegment(rest)
		if err != nil {
			o.sim.violatef("shard %d entry %d: %v", shard, e.GetIndex(), err)
			return
		}
		rest = next
		o.applySegment(shard, e.GetTerm(), &seg)
	}
}

// endClass deletes the objects of a class, for good.
func (o *oracle) endClass(shard placement.ShardID, index uint64, class string) {
	sh := &o.shards[shard]
	o.sim.stats.classEnds++
	for i := range sh.objects {
		ref := simRef(shard, i)
		if ref.Class != class {
			continue
		}
		for key := range sh.state {
			if lo, hi := storage.ObjectSpan(shard, ref); key >= string(lo) && key < string(hi) {
				sh.delete(key)
			}
		}
		object := &sh.objects[i]
		object.chain, object.exists, object.ended = append(object.chain, 0), false, index
	}
	sh.set(string(storage.ClassEndKey(shard, class)), "\x01")
}

// showEnd notes that the owner shows what is applied at the index: when a class has ended by then, nobody
// may see its objects' data from now on.
func (sh *oracleShard) showEnd(index uint64) {
	for i := range sh.objects {
		if object := &sh.objects[i]; object.ended != 0 && object.ended <= index {
			object.floor = len(object.chain) - 1
		}
	}
}

// applySegment applies a segment, if it belongs to the entry's owner and follows what its
// incarnation has written. Then it must also follow what the object has come to: within an
// incarnation nothing is missing, and an incarnation begins where the one before has ended (P3).
func (o *oracle) applySegment(shard placement.ShardID, term uint64, seg *storage.Segment) {
	sh := &o.shards[shard]
	object := &sh.objects[seg.Object.ID[1]]
	id, before := decodeSimValue(seg.Ops[0].Value)
	if seg.Term != term || object.ended != 0 || object.exists && !follows(&object.fence, seg) {
		o.sim.tracef(nil, "write %d of shard %d object %d is dropped", id, shard, seg.Object.ID[1])
		return
	}
	if last := object.chain[len(object.chain)-1]; before != last {
		o.sim.violatef("P3: write %d of shard %d object %d (term %d, incarnation %d, sequence %d) follows %d, but the last one is %d",
			id, shard, seg.Object.ID[1], seg.Term, seg.Incarnation, seg.Sequence, before, last)
	}
	if o.denied[id] {
		o.sim.violatef("write %d was refused, and is committed", id)
	}
	if _, ok := o.writes[id]; ok {
		o.sim.violatef("write %d is applied twice", id)
	}
	o.writes[id] = oraclePosition{shard, int(seg.Object.ID[1]), len(object.chain)}
	sh.applyOps(shard, seg)
	object.exists = sh.has(simKey(shard, seg.Object, storage.KindRecord, ""))
	fenceKey := simKey(shard, seg.Object, storage.KindFence, "")
	if !object.exists {
		object.chain = append(object.chain, 0)
		sh.delete(fenceKey)
		return
	}
	object.chain = append(object.chain, id)
	object.fence = storage.Fence{Term: seg.Term, Incarnation: seg.Incarnation, Sequence: seg.Sequence, CommitSequence: seg.CommitSequence, Time: seg.Time}
	sh.set(fenceKey, string(object.fence.Append(nil)))
}

// follows says whether a segment may come after the last one of its object.
func follows(last *storage.Fence, seg *storage.Segment) bool {
	switch {
	case seg.Term == last.Term && seg.Incarnation == last.Incarnation:
		return seg.Sequence == last.Sequence+1
	case seg.Term == last.Term:
		return seg.Incarnation > last.Incarnation && seg.Sequence == 1
	default:
		return seg.Term > last.Term && seg.Sequence == 1
	}
}

func simKey(shard placement.ShardID, ref storage.ObjectRef, kind storage.KeyKind, key string) string {
	return string(storage.AppendObjectKey(nil, shard, ref, kind, []byte(key)))
}

func (sh *oracleShard) applyOps(shard placement.ShardID, seg *storage.Segment) {
	for _, op := range seg.Ops {
		key := simKey(shard, seg.Object, op.Kind, string(op.Key))
		switch op.Op {
		case storage.OpSet:
			sh.set(key, string(op.Value))
		case storage.OpDelete:
			sh.delete(key)
		case storage.OpDeleteRange:
			end := simKey(shard, seg.Object, op.Kind+1, "")
			if len(op.End) > 0 {
				end = simKey(shard, seg.Object, op.Kind, string(op.End))
			}
			for k := range sh.state {
				if k >= key && k < end {
					sh.delete(k)
				}
			}
		case storage.OpPatch:
		}
	}
}

func (sh *oracleShard) has(key string) bool {
	_, ok := sh.state[key]
	return ok
}

func (sh *oracleShard) set(key, value string) {
	sh.delete(key)
	sh.state[key] = value
	sh.digest ^= pairDigest([]byte(key), []byte(value))
}

func (sh *oracleShard) delete(key string) {
	if value, ok := sh.state[key]; ok {
		sh.digest ^= pairDigest([]byte(key), []byte(value))
		delete(sh.state, key)
	}
}

// pairDigest is a pair's part of a state's digest, which is all of them together in any order.
func pairDigest(key, value []byte) uint64 {
	var b [16]byte
	binary.BigEndian.PutUint64(b[:], xxhash.Sum64(key))
	binary.BigEndian.PutUint64(b[8:], xxhash.Sum64(value))
	return xxhash.Sum64(b[:])
}
