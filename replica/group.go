package replica

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"sync/atomic"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/quorum"
	"go.etcd.io/raft/v3/raftpb"
	"go.etcd.io/raft/v3/tracker"

	"github.com/holdfast-io/holdfast/placement"
	"github.com/holdfast-io/holdfast/storage"
	"github.com/holdfast-io/holdfast/tracing"
)

// ErrNotLeader says that a read could not be confirmed: this node does not own the shard, or no
// longer in the term that was asked for.
var ErrNotLeader = errors.New("this node does not own the shard in that term")

// Settler is told what became of the segments that one object proposed. It is called from the
// host's loop, one call at a time: it must be quick, and may call the Host's Propose and Confirm,
// which only queue.
//
// Each segment gets Committed and later Readable, or Refused, once. Committed and Readable of
// several segments of one incarnation come in the order of their sequence.
type Settler interface {
	// Committed says that a majority has fsynced the segment and every replica will apply it: what
	// waits for it may get out.
	Committed(seq uint64)
	// Readable says that the store shows this segment and all before it.
	Readable(seq uint64)
	// Refused says that the segment and every later one of its incarnation will not be applied
	// from here: certainly never when unknown is false; when it is true, leadership was lost with
	// the segment in the log, and another owner may find it committed.
	Refused(seq uint64, unknown bool)
}

// Confirmer is told whether a read is confirmed. Called as a Settler is.
type Confirmer interface {
	Confirmed(token uint64, err error)
}

type proposal struct {
	seg     *storage.Segment
	settler Settler
	// done is for a proposal that has no segment: an empty one, or the end of a class.
	done     func(error)
	endClass string
}

type confirmation struct {
	term  uint64
	who   Confirmer
	token uint64
}

// entryInFlight is what one entry of the log proposed.
type entryInFlight struct {
	batch []proposal
	wave  uint64
}

// Entry payloads: the first byte says what the rest is. A replica that meets a kind it does not
// know stops; it never skips.
const (
	payloadSegments = 1 // segments, one after another
	payloadEmpty    = 2 // nothing; costs what a write costs
	payloadEndClass = 3 // the unique key of a class that is deleted
)

// payloadBytesMax is when a batch of proposals begins its next entry.
const payloadBytesMax = 1 << 20

// incarnation names one life of one object on this owner in the current term.
type incarnation struct {
	object storage.ObjectRef
	number uint64
}

// Group is one replica of one shard: Raft's state machine and what Holdfast adds to it (proposals
// with their fates, confirmed reads, the descriptor, ownership). It does no I/O and knows no
// clock; the Host drives it from one goroutine: calls in, then ready, then the batch is written,
// then advance.
type Group struct {
	shard placement.ShardID
	id    uint64 // replica id
	self  placement.NodeID
	owner Owner
	sole  *atomic.Uint64 // see Host.ConfirmNow
	hooks *hooks         // the Host's
	// onClassEnded is the Host's Config.OnClassEnded, or nil.
	onClassEnded func(shard placement.ShardID, term uint64, class string)

	rn      *raft.RawNode
	log     groupLog
	desc    descriptor
	applied indexTerm
	stopped map[uint64]bool // replicas that have said so
	// nodes of replicas that wrote to us, for those that the descriptor does not (yet) name.
	heard map[uint64]placement.NodeID
	// untold is, by replica, the latest commit that a message with nothing else to say was about.
	untold map[uint64]uint64

	term   uint64
	lead   uint64 // replica id of the leader; 0 none
	leader bool
	// ownTerm is the term in which this replica leads and has applied that term's first entry; 0
	// while it does not. Only then do objects run here.
	ownTerm uint64

	queued   []proposal
	scratch  *[]byte         // the Host's
	dirty    bool            // in Host.dirty
	inFlight []entryInFlight // in log order, of ownTerm
	traced   bool            // the Ready that is under way has entries with spans
	wave     *wave           // the Host's
	refused  map[incarnation]struct{}
	held     bool // in Host.held

	waiting    []confirmation // for the next round of questions
	rounds     []readRound    // asked, oldest first
	affirms    affirms        // of the voters, in ownTerm
	voters     quorum.JointConfig
	asks       *wave // the Host's
	asked      bool  // in Host.asking
	unanswered int   // ticks since the last answer

	quiet    int // ticks since a leader was heard or an answer came
	settling int // ticks for which a membership change counts as recent
	transfer *transfer
	full     bool // the objects were told that there is no room for writes
	putOff   int  // ticks before a hand-over that was given up is tried again
	stable   int  // ticks for which the ring has wished the same owner
	wish     []placement.NodeID
	moving   string // what is under way, in words
	gone     bool   // removed: to be collected when that is settled
	changed  uint64 // where the log ended when the membership last changed
	changing bool   // the ready applies a change of membership
	failed   error  // stopped: this replica can't go on
	ready    raft.Ready
	settled  []settled // to be told Readable when the batch is written
	decoded  [][]storage.Segment
	fences   []*storage.ObjectFence // of the segments of the ready, in order
	// fenceCache is where they come from, and ended are the classes whose end is in the batch.
	fenceCache *storage.FenceCache
	ended      []string
	fenced     int // how many of them are used
	install    *install
}

type settled struct {
	settler Settler
	seq     uint64
	span    *tracing.Span
}

// complaint is what a replica that has stopped says to the others. Only one that is damaged is to be
// replaced; one that met what a later release wrote waits for that release.
func (g *Group) complaint() byte {
	if errors.Is(g.failed, storage.ErrUnknownOp) {
		return kindAsk
	}
	return kindStopped
}

// raftConfig is the library's configuration; replica ids are its node ids.
func raftConfig(cfg Config, id, applied uint64, log raft.Storage, logger raft.Logger) *raft.Config {
	return &raft.Config{
		ID:                        id,
		ElectionTick:              cfg.ElectionTicks,
		HeartbeatTick:             cfg.HeartbeatTicks,
		Storage:                   log,
		Applied:                   applied,
		MaxSizePerMsg:             512 << 10,
		MaxCommittedSizePerReady:  4 << 20,
		MaxUncommittedEntriesSize: 64 << 20,
		MaxInflightMsgs:           256,
		CheckQuorum:               true,
		PreVote:                   true,
		DisableProposalForwarding: true,
		StepDownOnRemoval:         true,
		Logger:                    logger,
	}
}

// step takes a message from another replica.
func (g *Group) step(from placement.NodeID, m *raftpb.Message) {
	if g.heard[m.GetFrom()] != from {
		g.heard[m.GetFrom()] = from
	}
	switch m.GetType() {
	case raftpb.MsgApp, raftpb.MsgHeartbeat, raftpb.MsgSnap:
		g.quiet = 0
	default:
	}
	// Raft ignores what it must; errors are about messages it was not meant to get.
	_ = g.rn.Step(m)
}

// address returns the node of a replica.
func (g *Group) address(id uint64) (placement.NodeID, bool) {
	if node, ok := g.desc.node(id); ok {
		return node, true
	}
	node, ok := g.heard[id]
	return node, ok
}

// flush hands the queued proposals to Raft, in as few entries as may be.
func (g *Group) flush() {
	if len(g.queued) == 0 {
		return
	}
	queued := g.queued
	g.queued = nil
	payload := (*g.scratch)[:0]
	var batch []proposal
	send := func() {
		if len(batch) == 0 {
			return
		}
		// Raft keeps the entry for as long as a follower may need it: no more than it takes.
		if err := g.rn.Propose(slices.Clone(payload)); err != nil {
			// Dropped before it reached the log: certainly never applied.
			for _, p := range batch {
				g.refuse(p, false)
			}
		} else {
			g.inFlight = append(g.inFlight, entryInFlight{batch, g.wave.join()})
			g.traced = traceProposed(batch) || g.traced
			if g.hooks.answerBeforeCommit {
				for _, p := range batch {
					p.settler.Committed(p.seg.Sequence)
				}
			}
		}
		payload, batch = payload[:0], nil
	}
	for i, p := range queued {
		if p.seg == nil {
			send()
			if g.ownTerm == 0 {
				p.done(ErrNotLeader)
				continue
			}
			payload, batch = p.appendBare(payload), []proposal{p}
			send()
			continue
		}
		if !g.admits(p) {
			g.refuse(p, false)
			continue
		}
		if size := p.seg.Size(); len(payload) > 0 && len(payload)+size > payloadBytesMax {
			send()
		}
		if len(payload) == 0 {
			payload = append(payload, payloadSegments)
			batch = make([]proposal, 0, len(queued)-i)
		}
		payload = p.seg.AppendTo(payload)
		batch = append(batch, p)
	}
	send()
	*g.scratch = payload
	g.shrinkScratch()
	if g.queued == nil && cap(queued) <= queuedKept { // What refuses may propose again.
		clear(queued)
		g.queued = queued[:0]
	}
}

// appendBare appends the payload of a proposal that has no segment.
func (p *proposal) appendBare(dst []byte) []byte {
	if p.endClass == "" {
		return append(dst, payloadEmpty)
	}
	return append(append(dst, payloadEndClass), p.endClass...)
}

// shrinkScratch keeps one large entry from holding memory for ever.
func (g *Group) shrinkScratch() {
	if cap(*g.scratch) > 2*payloadBytesMax {
		*g.scratch = nil
	}
}

// queuedKept is how many proposals a group keeps room for.
const queuedKept = 64

// admits says whether a segment may be proposed: only in the term in which its object was loaded
// (P1), and only when none before it of its incarnation was refused (P3).
func (g *Group) admits(p proposal) bool {
	if g.ownTerm == 0 || p.seg.Term != g.ownTerm {
		return false
	}
	_, refused := g.refused[incarnation{p.seg.Object, p.seg.Incarnation}]
	return !refused
}

// refuse answers a proposal that was not, or may not be, applied.
func (g *Group) refuse(p proposal, unknown bool) {
	if p.seg == nil {
		p.done(ErrNotLeader)
		return
	}
	if g.ownTerm != 0 && p.seg.Term == g.ownTerm {
		g.refused[incarnation{p.seg.Object, p.seg.Incarnation}] = struct{}{}
	}
	p.traceRefused(unknown)
	p.settler.Refused(p.seg.Sequence, unknown)
}

// begin takes the next Ready. Lost ownership is told at once, before anything else gets out (P1).
func (g *Group) begin() {
	g.ready = g.rn.Ready()
	rd := &g.ready
	if !raft.IsEmptyHardState(rd.HardState) && rd.GetTerm() != g.term {
		g.term = rd.GetTerm()
		if g.ownTerm != 0 && g.term != g.ownTerm {
			g.lose()
		}
	}
	if rd.SoftState != nil {
		g.lead = rd.Lead
		g.leader = rd.RaftState == raft.StateLeader
		if !g.leader {
			g.lose()
		}
	}
}

// lose ends ownership, if there was any: first the objects learn of it, so that nothing more gets
// out, then every waiter gets its answer.
func (g *Group) lose() {
	term := g.ownTerm
	g.ownTerm = 0
	if g.sole != nil {
		g.sole.Store(0)
	}
	g.transfer = nil
	g.moving = ""
	g.stable = 0
	g.full = false
	if term != 0 && g.owner != nil {
		g.owner.Lost(g.shard, term)
	}
	for _, e := range g.inFlight {
		g.wave.leave(e.wave)
		for _, p := range e.batch {
			g.refuse(p, true)
		}
	}
	g.inFlight = nil
	for _, p := range g.queued {
		g.refuse(p, false)
	}
	g.queued = nil
	g.failReads()
	clear(g.refused)
}

// write adds to the batch what the Ready wants written, and opens gates for what it says is
// committed. An error stops this replica, not the node.
func (g *Group) write(b *storage.Batch) error {
	rd := &g.ready
	if n := len(rd.CommittedEntries); n > 0 {
		last := rd.CommittedEntries[n-1]
		g.applied = indexTerm{last.GetIndex(), last.GetTerm()}
		if !g.hooks.confChangeTwice || last.GetType() != raftpb.EntryConfChangeV2 {
			b.Set(storage.AppliedKey(g.shard), encodeUints(g.applied.Index, g.applied.Term))
		}
	}
	if len(rd.Entries) > 0 {
		g.writeEntries(b, rd.Entries)
	}
	for i, e := range rd.CommittedEntries {
		if err := g.apply(b, e, g.decoded[i]); err != nil {
			return fmt.Errorf("apply entry %d: %w", e.GetIndex(), err)
		}
	}
	if !raft.IsEmptyHardState(rd.HardState) {
		g.writeHardState(b, rd.HardState)
	}
	return nil
}

func (g *Group) writeHardState(b *storage.Batch, hs *raftpb.HardState) {
	same := g.log.hard.GetTerm() == hs.GetTerm() && g.log.hard.GetVote() == hs.GetVote()
	if same {
		*g.log.hard.Commit = hs.GetCommit()
		return // Not for the commit alone: the applied index says as much.
	}
	g.log.hard.Term, g.log.hard.Vote, g.log.hard.Commit = new(hs.GetTerm()), new(hs.GetVote()), new(hs.GetCommit())
	b.Set(storage.HardStateKey(g.shard), encodeUints(hs.GetTerm(), hs.GetVote(), hs.GetCommit()))
}

func (g *Group) writeEntries(b *storage.Batch, entries []*raftpb.Entry) {
	oldLast := g.log.last.Index
	for _, e := range entries {
		*g.scratch = appendLogEntry((*g.scratch)[:0], e)
		b.Set(storage.LogKey(g.shard, e.GetIndex()), *g.scratch)
	}
	g.shrinkScratch()
	if last := entries[len(entries)-1].GetIndex(); last < oldLast {
		b.DeleteRange(storage.LogSpan(g.shard, last+1, oldLast+1))
	}
	g.log.append(entries)
}

// acquire begins ownership once the first entry of the own term is applied and the batch with it
// is written: everything that earlier owners had acknowledged can be read then.
func (g *Group) acquire() {
	if g.ownTerm != 0 || !g.leader || g.applied.Term != g.term {
		return
	}
	g.ownTerm = g.term
	g.markSole()
	g.owner.Acquired(g.shard, g.ownTerm)
}

// markSole says whether this node owns the shard as its only voter.
func (g *Group) markSole() {
	if g.ownTerm != 0 && g.desc.soleVoter(g.id) {
		g.sole.Store(g.ownTerm)
	}
}

// apply applies one committed entry, whose foreign segments are decoded.
func (g *Group) apply(b *storage.Batch, e *raftpb.Entry, segs []storage.Segment) error {
	switch {
	case e.GetType() == raftpb.EntryConfChangeV2:
		return g.applyConfChange(b, e)
	case len(e.GetData()) == 0:
		return nil
	}
	if e.GetData()[0] == payloadEndClass {
		g.endClass(b, string(e.GetData()[1:]))
	}
	if g.isOwn(e) {
		return g.applyOwn(b, e)
	}
	for i := range segs {
		if _, _, err := storage.ApplySegment(b, g.nextFence(), g.shard, e.GetTerm(), &segs[i]); err != nil {
			return err
		}
	}
	return nil
}

// endClass applies the end of a class. Its objects are told when the store shows it.
func (g *Group) endClass(b *storage.Batch, class string) {
	b.EndClass(g.fenceCache, g.shard, class)
	g.ended = append(g.ended, class)
}

// applyOwn applies an entry that this owner proposed: its segments are still at hand. Within the
// own term the log has what was proposed, in that order.
func (g *Group) applyOwn(b *storage.Batch, e *raftpb.Entry) error {
	batch := g.inFlight[0].batch
	g.wave.leave(g.inFlight[0].wave)
	g.inFlight[0] = entryInFlight{}
	if len(g.inFlight) == 1 {
		g.inFlight = g.inFlight[:0] // Its room serves the next.
	} else {
		g.inFlight = g.inFlight[1:]
	}
	for _, p := range batch {
		if p.seg == nil {
			p.done(nil)
			continue
		}
		applied, _, err := storage.ApplySegment(b, g.nextFence(), g.shard, e.GetTerm(), p.seg)
		if err != nil {
			return err
		}
		if !applied {
			g.refuse(p, false)
			continue
		}
		p.seg.Span.Committed(e.GetTerm(), e.GetIndex())
		p.settler.Committed(p.seg.Sequence)
		g.settled = append(g.settled, settled{p.settler, p.seg.Sequence, p.seg.Span})
	}
	return nil
}

// decode reads the committed entries of the Ready, so that one that this release does not know is
// found before anything of the Ready is in the batch. Entries that this owner proposed are at hand
// already.
//
// The fences are read here too: a damaged one stops this replica, and not the node.
func (g *Group) decode(fences *storage.FenceCache) error {
	g.decoded, g.fences, g.fenced, g.fenceCache = g.decoded[:0], g.fences[:0], 0, fences
	own := g.inFlight
	for _, e := range g.ready.CommittedEntries {
		segs, err := g.decodeEntry(e)
		if err != nil {
			return fmt.Errorf("entry %d: %w", e.GetIndex(), err)
		}
		g.decoded = append(g.decoded, segs)
		for i := range segs {
			if err := g.loadFence(fences, segs[i].Object); err != nil {
				return fmt.Errorf("entry %d: %w", e.GetIndex(), err)
			}
		}
		if !g.isOwn(e) {
			continue
		}
		for _, p := range own[0].batch {
			if p.seg == nil {
				continue
			}
			if err := g.loadFence(fences, p.seg.Object); err != nil {
				return fmt.Errorf("entry %d: %w", e.GetIndex(), err)
			}
		}
		own = own[1:]
	}
	return nil
}

// loadFence gets the fence of the next segment ready for nextFence.
func (g *Group) loadFence(fences *storage.FenceCache, object storage.ObjectRef) error {
	fence, err := fences.Load(g.shard, object)
	g.fences = append(g.fences, fence)
	return err
}

// nextFence returns the fence of the next segment that is applied: decode has loaded them in order.
func (g *Group) nextFence() *storage.ObjectFence {
	g.fenced++
	return g.fences[g.fenced-1]
}

// isOwn says that an entry is one that this owner proposed in its own term.
func (g *Group) isOwn(e *raftpb.Entry) bool {
	return g.ownTerm != 0 && e.GetTerm() == g.ownTerm && e.GetType() == raftpb.EntryNormal && len(e.GetData()) > 0
}

func (g *Group) decodeEntry(e *raftpb.Entry) ([]storage.Segment, error) {
	data := e.GetData()
	switch {
	case e.GetType() == raftpb.EntryConfChangeV2:
		_, err := decodeConfChange(data)
		return nil, err
	case e.GetType() != raftpb.EntryNormal:
		return nil, fmt.Errorf("type %d: %w", e.GetType(), storage.ErrUnknownOp)
	case len(data) == 0 || g.isOwn(e):
		return nil, nil
	}
	switch data[0] {
	case payloadEmpty, payloadEndClass:
		return nil, nil
	case payloadSegments:
	default:
		return nil, fmt.Errorf("kind %d: %w: upgrade this node", data[0], storage.ErrUnknownOp)
	}
	var segs []storage.Segment
	for rest := data[1:]; len(rest) > 0; {
		seg, next, err := storage.DecodeSegment(rest)
		if err != nil {
			return nil, err
		}
		segs = append(segs, seg)
		rest = next
	}
	return segs, nil
}

// applyConfChange applies a membership change. The new descriptor is in the same batch as the
// applied index, so a restart applies no change twice.
func (g *Group) applyConfChange(b *storage.Batch, e *raftpb.Entry) error {
	cc, err := decodeConfChange(e.GetData())
	if err != nil {
		return err
	}
	d := decoder{b: cc.GetContext()}
	var added []replicaAddr
	if len(d.b) > 0 {
		added = d.addrs()
	}
	if d.err != nil {
		return fmt.Errorf("membership change: %w", d.err)
	}
	g.sole.Store(0) // Before the change takes effect: see Host.ConfirmNow.
	conf := g.rn.ApplyConfChange(cc)
	g.setDescriptor(g.desc.change(added, conf))
	g.settling = settlingTicks
	g.markSole()
	g.confirmRounds()
	g.changed, g.changing = g.log.last.Index, true
	b.Set(storage.DescriptorKey(g.shard), g.desc.encode())
	return nil
}

// membershipSettled says that this replica owns the shard and that a majority of its voters has the
// latest change of membership applied on disk: they have acknowledged an entry that was proposed
// after this leader had applied the change, and with such an entry comes the word that the change is
// committed. From then on no election needs the vote of a replica that the change has removed.
//
// Before that it may: a voter that has the change in its log and does not know that it is committed
// still counts by the old configuration.
func (g *Group) membershipSettled() bool { return g.ownTerm != 0 && g.applied.Index > g.changed }

// setDescriptor takes a descriptor and what follows from it.
func (g *Group) setDescriptor(d descriptor) {
	g.desc = d
	g.voters = d.Conf.jointConfig()
	g.gone = !d.contains(g.id)
}

// tellReadable tells the objects what the store shows now.
func (g *Group) tellReadable() {
	for _, class := range g.ended {
		if g.ownTerm != 0 && g.onClassEnded != nil {
			g.onClassEnded(g.shard, g.ownTerm, class)
		}
	}
	g.ended = nil
	for i, s := range g.settled {
		// Readable covers everything before: one call for the last of a run is enough.
		if i+1 == len(g.settled) || g.settled[i+1].settler != s.settler {
			s.settler.Readable(s.seq)
		}
		s.span.End(nil)
		g.settled[i] = settled{}
	}
	g.settled = g.settled[:0]
}

// advance follows the write of the batch.
func (g *Group) advance() {
	g.acquire()
	g.rn.Advance(g.ready)
	g.ready, g.changing = raft.Ready{}, false
}

// settlingTicks is how long after a membership change every news of a commit is sent at once: a
// replica that is leaving hears of nothing later.
const settlingTicks = 30

// canWait says that a message tells a follower only that something it has, or is about to have, is
// committed. The next entry will say so as well, or the next heartbeat: a follower needs to know
// sooner only to apply sooner. Not sending it saves half of a write's messages.
//
// An empty message that has no news is another thing: Raft asks with it, after a heartbeat, whether
// the follower has got what was sent. It must go, or what was lost is never sent again.
func (g *Group) canWait(m *raftpb.Message) bool {
	if m.GetType() != raftpb.MsgApp || len(m.GetEntries()) > 0 || g.settling > 0 {
		return false
	}
	if m.GetCommit() <= g.untold[m.GetTo()] {
		return false
	}
	g.untold[m.GetTo()] = m.GetCommit()
	flows := false
	g.rn.WithProgress(func(id uint64, _ raft.ProgressType, pr tracker.Progress) {
		if id == m.GetTo() {
			flows = pr.State == tracker.StateReplicate && !pr.MsgAppFlowPaused
		}
	})
	return flows
}

// lagMax is how far behind a replica may be and still count as caught up, in entries.
const lagMax = 1024

// caughtUp says whether a follower is near enough to take over.
func caughtUp(match, commit uint64) bool { return match+lagMax >= commit }

// truncatable returns up to where the log may be truncated, or zero. A replica keeps what it may
// need to bring followers up to date without a snapshot: a run of entries always, and as leader
// what active followers lack, up to a bound.
func (g *Group) truncatable() indexTerm {
	keep := g.hooks.keepEntries
	if g.applied.Index <= g.log.trunc.Index+2*keep && g.log.bytes <= 2*logKeepBytes {
		return indexTerm{}
	}
	to := g.applied.Index
	if to > keep && g.log.bytes <= 2*logKeepBytes {
		to -= keep
	}
	if g.leader && g.log.bytes <= 4*logKeepBytes {
		to = min(to, g.slowest())
	}
	if to <= g.log.trunc.Index {
		return indexTerm{}
	}
	term, err := g.log.Term(to)
	if err != nil {
		return indexTerm{}
	}
	return indexTerm{to, term}
}

// slowest returns up to where the slowest of the owner's active followers has the log.
func (g *Group) slowest() uint64 {
	slowest := uint64(math.MaxUint64)
	g.rn.WithProgress(func(id uint64, _ raft.ProgressType, pr tracker.Progress) {
		if id != g.id && pr.RecentActive && pr.Match > 0 {
			slowest = min(slowest, pr.Match)
		}
	})
	return slowest
}

const (
	logKeepEntries = 2000
	logKeepBytes   = 4 << 20
)

// truncate drops the log's head, in the same batch as everything else.
func (g *Group) truncate(b *storage.Batch) {
	to := g.truncatable()
	if to.Index == 0 {
		return
	}
	b.DeleteRange(storage.LogSpan(g.shard, g.log.trunc.Index+1, to.Index+1))
	b.Set(storage.TruncatedKey(g.shard), encodeUints(to.Index, to.Term))
	g.log.truncateTo(to)
}

// noLimit asks for everything.
const noLimit = math.MaxUint64
