package replica

import (
	"cmp"
	"fmt"
	"log/slog"
	"slices"
	"sync/atomic"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/holdfast-io/holdfast/placement"
	"github.com/holdfast-io/holdfast/storage"
)

// counters are for status and metrics.
type counters struct {
	framesDropped atomic.Uint64
	batches       atomic.Uint64
	syncs         atomic.Uint64
	proposals     atomic.Uint64
	snapshotsSent atomic.Uint64
	snapshotsGot  atomic.Uint64
	elections     atomic.Uint64
}

// run is the loop: the one goroutine that touches the groups. It takes in what comes also while a
// batch is on its way to the disk; what has come by then is the next batch. It ends when nothing is
// on its way any more.
func (h *Host) run() {
	defer close(h.flights)
	h.campaignAlone()
	for done := h.ctx.Done(); ; {
		h.round()
		switch {
		case h.ctx.Err() != nil && !h.flying:
			return
		case h.ctx.Err() != nil:
			done = nil
		case h.more():
			continue
		}
		select {
		case <-done:
		case <-h.wake:
		}
	}
}

// more says that the next round need not wait for anything to come in.
func (h *Host) more() bool {
	return !h.flying && len(h.dirty) > 0
}

// sync waits for the disk, so that the loop need not.
func (h *Host) sync() {
	for range h.flights {
		h.syncBatch()
	}
}

func (h *Host) syncBatch() {
	if err := h.batch.Sync(); err != nil {
		panic(fmt.Sprintf("replica: %v", err)) // Pebble has reported it as fatal.
	}
	h.finished.Add(1)
	h.mu.Lock()
	h.mu.in.landed = true
	h.mu.Unlock()
	h.poke()
}

// campaignAlone makes this node the owner at once of every shard of which it is the only voter:
// there is nobody to wait for.
func (h *Host) campaignAlone() {
	for _, g := range h.groups {
		if g != nil && g.desc.soleVoter(g.id) {
			h.guard(g, func() { _ = g.rn.Campaign() })
			h.mark(g)
		}
	}
}

// round takes in everything that has come, lets the groups act on it, and writes what they want
// in one batch.
func (h *Host) round() {
	in := h.swap()
	if in.landed {
		h.land()
		offers := h.offers
		h.offers = nil
		for _, offer := range offers {
			offer()
		}
	}
	for range h.ticks.Swap(0) {
		h.tickGroups()
	}
	for _, f := range in.frames {
		h.takeFrame(f)
	}
	for _, fn := range in.controls {
		fn()
	}
	for _, p := range in.proposals {
		if g := h.group(p.shard); g != nil {
			h.hold(g, p.p)
		} else {
			(&Group{}).refuse(p.p, false)
		}
	}
	h.counters.proposals.Add(uint64(len(in.proposals)))
	for _, c := range in.confirms {
		g := h.group(c.shard)
		switch {
		case g == nil:
			c.c.who.Confirmed(c.c.token, ErrNotLeader)
		case g.wait(c.c) && !g.asked:
			g.asked = true
			h.asking = append(h.asking, g)
		}
	}
	h.recycle(in)
	h.askRound()
	h.sendFrames()
	h.release()
	if len(h.dirty) > 0 && !h.flying && h.ctx.Err() == nil {
		h.process()
	}
}

// group returns the replica of a shard, or nil when there is none that works.
func (h *Host) group(shard placement.ShardID) *Group {
	if int(shard) >= len(h.groups) {
		return nil
	}
	g := h.groups[shard]
	if g == nil || g.failed != nil {
		return nil
	}
	return g
}

// hold keeps a proposal of a group for the next wave.
func (h *Host) hold(g *Group, p proposal) {
	g.queued = append(g.queued, p)
	h.wave.hold()
	if !g.held {
		g.held = true
		h.held = append(h.held, g)
	}
}

// release begins the next wave if the last one is over.
func (h *Host) release() {
	if len(h.held) == 0 || h.flying || !h.mayBegin(&h.wave) {
		return
	}
	h.wave.begin()
	for i, g := range h.held {
		g.held = false
		h.mark(g)
		h.held[i] = nil
	}
	h.held = h.held[:0]
}

// mayBegin says whether the next wave may begin. If not, the loop is woken to ask again.
func (h *Host) mayBegin(w *wave) bool {
	ok, again := w.ready()
	if !ok {
		w.timer.Reset(again)
	}
	return ok
}

func (h *Host) mark(g *Group) {
	if !g.dirty {
		g.dirty = true
		h.dirty = append(h.dirty, g)
	}
}

// guard runs fn of a group; a panic of the library ends that replica, not the node.
func (h *Host) guard(g *Group, fn func()) {
	defer func() {
		if p := recover(); p != nil {
			h.fail(g, fmt.Errorf("raft: %v", p))
		}
	}()
	fn()
}

// fail stops a replica that can't go on. It tells the others, and the owner replaces it.
func (h *Host) fail(g *Group, err error) {
	if g.failed != nil {
		return
	}
	g.failed, g.quiet = err, 0
	g.lose()
	h.leaders[g.shard].Store(nil)
	h.logger.Error("replica stopped", slog.Int("shard", int(g.shard)), slog.Uint64("replica", g.id), slog.Any("error", err))
}

// process drives every dirty group through one Ready, with one batch for all. Nothing is on its way
// to the disk then.
func (h *Host) process() {
	work := h.dirty
	h.dirty = h.processed[:0]
	// In the order of their keys: the store takes what is in order faster.
	slices.SortFunc(work, func(a, b *Group) int { return cmp.Compare(a.shard, b.shard) })
	sync := false
	for _, g := range work {
		g.dirty = false
		if g.failed != nil || h.groups[g.shard] != g {
			continue
		}
		h.guard(g, g.flush)
		if g.failed != nil || !g.rn.HasReady() {
			continue
		}
		h.guard(g, g.begin)
		if g.failed != nil {
			continue
		}
		if err := h.prepare(g); err != nil {
			h.fail(g, err)
			continue
		}
		sync = sync || g.ready.MustSync || g.changing
		h.active = append(h.active, g)
	}
	clear(work)
	h.processed = work[:0]
	// What needs no fsync of our own leaves now, so that followers write while we do.
	h.sendMessages(h.active...)
	h.commit(sync)
	h.fences.Trim()
}

// prepare adds what a group wants written to the batch. Whatever can fail because of what an entry
// says fails before anything of it is in the batch.
func (h *Host) prepare(g *Group) error {
	if !raft.IsEmptySnap(g.ready.Snapshot) {
		if err := h.install(g); err != nil {
			return err
		}
	}
	if err := g.decode(h.fences); err != nil {
		return err
	}
	if err := g.write(h.batch); err != nil {
		// A read of the store failed in the middle of a batch: nothing here can be relied on.
		panic(fmt.Sprintf("replica: shard %d: %v", g.shard, err))
	}
	if len(g.ready.CommittedEntries) > 0 {
		g.truncate(h.batch)
	}
	h.publish(g)
	return nil
}

// publish lets others see who leads.
func (h *Host) publish(g *Group) {
	var node placement.NodeID
	switch {
	case g.leader && g.ownTerm != 0:
		node = g.self
	case g.leader || g.lead == 0:
	default:
		node, _ = g.address(g.lead)
	}
	old := h.leaders[g.shard].Load()
	if old != nil && old.node == node && old.term == g.term {
		return
	}
	h.leaders[g.shard].Store(&leaderView{node: node, term: g.term})
	if node == g.self && node != 0 {
		h.counters.elections.Add(1)
		if h.cfg.OnLeader != nil {
			h.cfg.OnLeader(g.shard, g.term)
		}
	}
}

// commit writes the batch. A write that fails leaves nothing to rely on: pebble has already
// reported it as fatal.
func (h *Host) commit(sync bool) {
	if h.batch.Empty() {
		h.land()
		return
	}
	h.counters.batches.Add(1)
	if !sync || h.hooks.dropFsync {
		if err := h.batch.Commit(false); err != nil {
			panic(fmt.Sprintf("replica: %v", err))
		}
		h.land()
		return
	}
	h.counters.syncs.Add(1)
	if err := h.batch.Begin(); err != nil {
		panic(fmt.Sprintf("replica: %v", err))
	}
	for _, g := range h.active {
		g.tellReadable()
	}
	h.begun.Add(1)
	h.flying = true
	h.flights <- struct{}{} // It has room: one flies at a time.
}

// land follows the write: the groups that it was for go on.
func (h *Host) land() {
	h.flying = false
	for i, g := range h.active {
		if h.groups[g.shard] == g { // Else it was collected meanwhile.
			h.finish(g)
		}
		h.active[i] = nil
	}
	h.active = h.active[:0]
	h.sendMessages()
	h.batch.Reset()
}

// finish follows the write: it tells what can be read now, queues the acknowledgements that the
// write allows, and lets Raft go on.
func (h *Host) finish(g *Group) {
	g.tellReadable()
	if g.traced {
		g.traceSynced()
	}
	for _, m := range g.ready.Messages {
		if g.followsWrite(m) {
			h.emit(g, m)
		}
	}
	h.guard(g, g.advance)
	h.publish(g)
	if g.failed == nil && g.rn.HasReady() {
		h.mark(g)
	}
}

// followsWrite says whether a message must not leave before the write: it promises that something is
// on this disk, or it may tell that a change of membership is committed that is not yet applied on
// this disk. A follower that hears of such a change counts by it at once, and may then neither elect
// itself nor, having the longer log, elect a leader that has forgotten the change.
func (g *Group) followsWrite(m *raftpb.Message) bool {
	if g.changing {
		return true
	}
	switch m.GetType() {
	case raftpb.MsgAppResp, raftpb.MsgVoteResp, raftpb.MsgPreVoteResp:
		return true
	default:
		return false
	}
}

// sendMessages queues the messages of the groups that may leave before the write, and sends every
// frame that there is.
func (h *Host) sendMessages(groups ...*Group) {
	for _, g := range groups {
		for _, m := range g.ready.Messages {
			if !g.followsWrite(m) {
				h.emit(g, m)
			}
		}
	}
	h.sendFrames()
}

// emit queues a message, or does what it stands for.
func (h *Host) emit(g *Group, m *raftpb.Message) {
	switch {
	case g.canWait(m):
	case m.GetType() == raftpb.MsgSnap:
		h.sendSnapshot(g, m)
	default:
		h.queue(g, m)
	}
}

// sendFrames sends every frame that there is.
func (h *Host) sendFrames() {
	for node, f := range h.out {
		if len(f.data) > 0 {
			h.send(node, f)
		}
	}
}

func (h *Host) send(node placement.NodeID, f *outFrame) {
	data := f.data
	f.data = nil
	if !h.cfg.Transport.Send(node, data) {
		h.counters.framesDropped.Add(1)
	}
}

// queue puts a Raft message into the frame for its node.
func (h *Host) queue(g *Group, m *raftpb.Message) {
	node, ok := g.address(m.GetTo())
	if !ok || node == g.self {
		return
	}
	h.queuePacket(node, &packet{kind: kindRaft, shard: g.shard, to: m.GetTo(), from: g.id, msg: m}, messageSize(m))
}

func (h *Host) queuePacket(node placement.NodeID, p *packet, size int) {
	h.queueBytes(node, size, p.append)
}

// queueBytes puts a packet of at most so many bytes into the frame for a node.
func (h *Host) queueBytes(node placement.NodeID, size int, appendTo func([]byte) []byte) {
	f := h.out[node]
	if f == nil {
		f = &outFrame{}
		h.out[node] = f
	}
	if len(f.data) > 0 && len(f.data)+size > frameBytesMax {
		h.send(node, f)
	}
	if f.data == nil {
		f.data = make([]byte, 0, max(size, 512))
	}
	f.data = appendTo(f.data)
}

// takeFrame steps every message of a frame.
func (h *Host) takeFrame(f inFrame) {
	for rest := f.data; len(rest) > 0; {
		if kind := rest[0]; kind == kindConfirm || kind == kindConfirmed {
			next, err := h.takeConfirm(f.from, kind, rest[1:])
			if err != nil {
				h.dropFrame(f, err)
				return
			}
			rest = next
			continue
		}
		p, next, err := decodePacket(rest)
		if err != nil {
			h.dropFrame(f, err)
			return
		}
		rest = next
		if int(p.shard) < len(h.groups) {
			h.takePacket(f.from, &p)
		}
	}
}

// dropFrame ignores the rest of a frame: no node sends what can't be read.
func (h *Host) dropFrame(f inFrame, err error) {
	h.logger.Warn("dropped a raft frame", slog.String("from", f.from.String()), slog.Any("error", err))
}

func (h *Host) takePacket(from placement.NodeID, p *packet) {
	switch p.kind {
	case kindAsk, kindStopped:
		h.answerAsk(from, p)
		return
	case kindTooOld:
		h.takeTooOld(p)
		return
	}
	if h.membership.Spent && bringsSegments(p.msg) {
		h.counters.framesDropped.Add(1)
		return
	}
	g := h.replicaFor(from, p)
	if g == nil {
		return
	}
	if g.leader && !g.desc.contains(p.from) && p.from < g.desc.NextID {
		// A removed replica that does not know it yet.
		h.tellTooOld(g, from, p.from)
		return
	}
	if isVote(p.msg) && g.gone && g.log.last.Index > g.applied.Index {
		if g = h.forgetRest(g); g.failed != nil {
			return
		}
	}
	h.guard(g, func() { g.step(from, p.msg) })
	h.mark(g)
}

func isVote(m *raftpb.Message) bool {
	return m.GetType() == raftpb.MsgVote || m.GetType() == raftpb.MsgPreVote
}

// forgetRest drops the entries that a removed replica has behind what it has applied, before it
// votes, and starts Raft on it anew.
//
// Voters that do not know yet that its removal is committed still need its vote, and it would deny
// them for ever if its log were longer than all of theirs: the owner that applied the removal may
// have appended entries that reached nobody else. It loses nothing. What was committed behind the
// removal is on a majority of the voters that the removal leaves, with or without this replica, and
// no election is won without a majority of those.
func (h *Host) forgetRest(g *Group) *Group {
	b := h.store.NewBatch()
	defer func() { _ = b.Close() }()
	b.DeleteRange(storage.LogSpan(g.shard, g.applied.Index+1, g.log.last.Index+1))
	hard := &g.log.hard
	b.Set(storage.HardStateKey(g.shard), encodeUints(hard.GetTerm(), hard.GetVote(), g.applied.Index))
	if err := b.Commit(true); err != nil {
		panic(fmt.Sprintf("replica: %v", err))
	}
	g.lose()
	anew := h.loadOrStop(g.shard)
	h.groups[g.shard] = anew
	h.publish(anew)
	return anew
}

// replicaFor returns the replica that a message is for, creating it when a leader has added one
// here. nil drops the message.
func (h *Host) replicaFor(from placement.NodeID, p *packet) *Group {
	g := h.groups[p.shard]
	switch {
	case g == nil:
		return h.createReplica(from, p)
	case p.to > g.id:
		// A later replica of this shard was added here, so ours was removed: ask, and go then.
		h.queuePacket(from, &packet{kind: kindAsk, shard: p.shard, to: p.from, from: g.id, generation: g.desc.Generation}, 64)
		return nil
	case g.failed != nil || p.to < g.id:
		return nil
	}
	return g
}

// createReplica makes an empty replica for a leader that has added one here. Its id is on disk
// before it answers anything: with the term that it learns from this message, which is synced first,
// and so without a sync of its own, for there may be many to make. It votes for nobody and campaigns for nothing until a snapshot has
// told it the configuration.
func (h *Host) createReplica(from placement.NodeID, p *packet) *Group {
	switch p.msg.GetType() {
	case raftpb.MsgApp, raftpb.MsgHeartbeat, raftpb.MsgSnap:
	default:
		return nil
	}
	raw, ok, err := h.store.Get(storage.TombstoneKey(p.shard))
	if err != nil {
		h.logger.Error("read tombstone", slog.Int("shard", int(p.shard)), slog.Any("error", err))
		return nil
	}
	if ok {
		var nextID uint64
		if err := readUints("tombstone", raw, &nextID); err != nil || p.to < nextID {
			return nil
		}
	}
	b := h.store.NewBatch()
	defer func() { _ = b.Close() }()
	b.Set(storage.ReplicaKey(p.shard), encodeUints(p.to))
	if err := b.Commit(false); err != nil {
		panic(fmt.Sprintf("replica: %v", err))
	}
	g := h.loadOrStop(p.shard)
	h.groups[p.shard] = g
	if g.failed != nil {
		return nil
	}
	h.logger.Debug("replica created", slog.Int("shard", int(p.shard)), slog.Uint64("replica", g.id), slog.String("leader", from.String()))
	return g
}

// answerAsk tells a replica that it was removed, when this one knows: a later descriptor without
// it is proof, for ids are never used again. The owner notes a member that has stopped.
func (h *Host) answerAsk(from placement.NodeID, p *packet) {
	g := h.group(p.shard)
	if g == nil {
		return
	}
	if node, ok := g.desc.node(p.from); ok && node == from && p.kind == kindStopped && g.leader {
		g.stopped[p.from] = true
		return
	}
	if g.desc.Generation < p.generation || g.desc.contains(p.from) || p.from >= g.desc.NextID {
		return
	}
	h.tellTooOld(g, from, p.from)
}

// tellTooOld tells a replica that it was removed, when it is not needed any more. Another may already
// have been added in its place.
func (h *Host) tellTooOld(g *Group, node placement.NodeID, id uint64) {
	if !g.membershipSettled() {
		return
	}
	h.queuePacket(node, &packet{kind: kindTooOld, shard: g.shard, to: id, from: g.id, generation: g.desc.Generation, nextID: g.desc.nextIDOn(node)}, 64)
}

func (h *Host) takeTooOld(p *packet) {
	g := h.groups[p.shard]
	if g == nil || g.id != p.to || p.generation < g.desc.Generation || p.nextID <= g.id {
		return
	}
	h.destroy(g, p.nextID)
}

// destroy deletes a replica that was removed and leaves a tombstone, so that it never comes back
// under an id that has voted.
func (h *Host) destroy(g *Group, nextID uint64) {
	if g.failed == nil {
		g.lose()
	}
	h.groups[g.shard] = nil
	h.leaders[g.shard].Store(nil)
	h.sole[g.shard].Store(0)
	h.fences.Forget(g.shard)
	if err := h.store.DestroyShard(g.shard, encodeUints(nextID)); err != nil {
		panic(fmt.Sprintf("replica: %v", err))
	}
	h.logger.Info("replica collected", slog.Int("shard", int(g.shard)), slog.Uint64("replica", g.id))
}

// tickGroups moves time on by one tick.
func (h *Host) tickGroups() {
	askEach := 2 * h.cfg.ElectionTicks // a replica that hears of nobody asks whether it was removed
	for _, g := range h.groups {
		if g == nil {
			continue
		}
		if g.failed != nil {
			if g.quiet++; g.quiet%askEach == 1 && g.id != 0 {
				h.ask(g, g.complaint())
			}
			continue
		}
		g.quiet++
		if g.applied.Index == 0 {
			// It knows no configuration yet, and so no time. A late message may have created it after
			// its removal: then nobody else would ever collect it.
			if g.quiet%askEach == 0 {
				h.ask(g, kindAsk)
			}
			continue
		}
		h.guard(g, g.rn.Tick)
		if g.failed != nil {
			continue
		}
		g.trimApplied()
		if g.leader {
			g.quiet = 0
			g.settling = max(g.settling-1, 0)
			h.tellFull(g)
			h.askAgain(g)
			h.reconcile(g)
		} else if g.quiet%askEach == 0 || g.gone && g.quiet%reconcileEach == 0 {
			h.ask(g, kindAsk)
		}
		if g.rn.HasReady() {
			h.mark(g)
		}
	}
	trimTails(h.groups)
	h.sendQuestions()
	if h.age++; h.age%h.cfg.ElectionTicks == 0 {
		clear(h.late) // They get another chance.
	}
}

// ask asks whether this replica was removed, or says that it has stopped: to every other node that
// its descriptor names, and, since none of those may be left, to everybody who lives.
func (h *Host) ask(g *Group, kind byte) {
	p := packet{kind: kind, shard: g.shard, from: g.id, generation: g.desc.Generation}
	for _, r := range g.desc.Replicas {
		if r.Node != g.self {
			h.queuePacket(r.Node, &p, 64)
		}
	}
	for node, live := range h.membership.Live {
		named := slices.ContainsFunc(g.desc.Replicas, func(r replicaAddr) bool { return r.Node == node })
		if live && !named && node != g.self {
			h.queuePacket(node, &p, 64)
		}
	}
}
