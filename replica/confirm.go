package replica

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"

	"go.etcd.io/raft/v3/quorum"

	"github.com/holdfast-io/holdfast/placement"
)

// Reads are confirmed as by Raft's ReadIndex, with one difference: a round asks about many shards
// at once. The owner notes which reads wait, asks every node that has voters of those shards
// "are you still in this term?", and when a majority of a shard's voters has said yes, the reads
// that came before the question are confirmed.
//
// It is sound for ReadIndex's reason, and needs no clock. An owner of a later term needs the votes
// of a majority. One of those voters has said yes, and so voted only afterwards: every owner of a
// later term was elected after the read ran (P1, P4). A yes needs no fsync, because it promises
// nothing: it says what has not happened yet. What Raft's own ReadIndex costs beyond it, on the busiest
// path that there is, is a heartbeat and its answer for each shard.
//
// Only as many nodes are asked as make a majority; when they are late, the others as well; and with
// the heartbeats everybody again, for a question or an answer may be lost. A late or doubled answer
// is harmless: it says something true about a moment after its question.

// readRound is the reads of one shard that one round asks for.
type readRound struct {
	number uint64 // of Host.asks
	reads  []confirmation
}

// confirmItem asks, or affirms, that a replica is in a term.
type confirmItem struct {
	shard    placement.ShardID
	to, from uint64 // replica ids
	term     uint64
}

// minConfirmItemBytes is what an item takes at least: four numbers.
const minConfirmItemBytes = 4

// appendConfirm appends a packet of the kind kindConfirm or kindConfirmed.
func appendConfirm(dst []byte, kind byte, number uint64, items []confirmItem) []byte {
	dst = append(dst, kind)
	dst = binary.AppendUvarint(dst, number)
	dst = binary.AppendUvarint(dst, uint64(len(items)))
	for i := range items {
		it := &items[i]
		dst = binary.AppendUvarint(dst, uint64(it.shard))
		dst = binary.AppendUvarint(dst, it.to)
		dst = binary.AppendUvarint(dst, it.from)
		dst = binary.AppendUvarint(dst, it.term)
	}
	return dst
}

// decodeConfirm reads what follows the kind, into the memory of items, and returns what follows it.
func decodeConfirm(b []byte, items []confirmItem) (number uint64, _ []confirmItem, rest []byte, err error) {
	d := decoder{b: b}
	number = d.uvarint()
	n := d.uvarint()
	if d.err == nil && n > uint64(len(d.b))/minConfirmItemBytes {
		d.err = errMalformed
	}
	items = items[:0]
	for i := uint64(0); i < n && d.err == nil; i++ {
		items = append(items, confirmItem{
			shard: placement.ShardID(d.uvarint()), //nolint:gosec // checked against the number of shards by the host
			to:    d.uvarint(), from: d.uvarint(), term: d.uvarint(),
		})
	}
	if d.err != nil {
		return 0, nil, nil, fmt.Errorf("confirmation: %w", d.err)
	}
	return number, items, d.b, nil
}

// wait takes a read that is to be confirmed. It says whether there is anything to ask now: not
// when this node does not own the shard in the read's term, which is answered at once.
func (g *Group) wait(c confirmation) bool {
	if g.ownTerm == 0 || c.term != g.ownTerm {
		c.who.Confirmed(c.token, ErrNotLeader)
		return false
	}
	if g.hooks.unconfirmedRead {
		c.who.Confirmed(c.token, nil)
		return false
	}
	g.waiting = append(g.waiting, c)
	g.asks.hold()
	return true
}

// ask makes the waiting reads a round of the number, and says whether others must be asked: where
// this replica is the only voter, its own word is enough.
func (g *Group) ask(number uint64) bool {
	g.rounds = append(g.rounds, readRound{number: number, reads: g.waiting})
	g.waiting = nil
	g.affirmed(g.id, number)
	return len(g.rounds) > 0
}

// affirmed notes that a voter was in this owner's term after the round was asked, and confirms
// what a majority has affirmed by now. In a joint configuration both majorities must have.
func (g *Group) affirmed(voter, number uint64) {
	if len(g.rounds) == 0 || g.affirms[voter] >= number {
		return
	}
	g.affirms[voter] = number
	g.confirmRounds()
}

// confirmRounds confirms what a majority of the present voters has affirmed. After a change of
// membership that may be more than before, and nobody else may be left to answer.
func (g *Group) confirmRounds() {
	confirmed := uint64(g.voters.CommittedIndex(g.affirms))
	n := 0
	for ; n < len(g.rounds) && g.rounds[n].number <= confirmed; n++ {
		g.asks.leave(g.rounds[n].number)
		for _, c := range g.rounds[n].reads {
			c.who.Confirmed(c.token, nil)
		}
	}
	if n == len(g.rounds) {
		clear(g.rounds)
		g.rounds = g.rounds[:0]
		return
	}
	g.rounds = append(g.rounds[:0:0], g.rounds[n:]...)
}

// failReads answers every read that waits.
func (g *Group) failReads() {
	for _, c := range g.waiting {
		c.who.Confirmed(c.token, ErrNotLeader)
	}
	g.waiting = nil
	for _, round := range g.rounds {
		g.asks.leave(round.number)
		for _, c := range round.reads {
			c.who.Confirmed(c.token, ErrNotLeader)
		}
	}
	g.rounds = nil
	clear(g.affirms)
}

// affirms says for each voter the latest round that it has affirmed.
type affirms map[uint64]uint64

// AckedIndex implements quorum.AckedIndexer.
func (a affirms) AckedIndex(voter uint64) (quorum.Index, bool) {
	number, ok := a[voter]
	return quorum.Index(number), ok
}

// jointConfig is a configuration as Raft counts its majorities.
func (c *confState) jointConfig() quorum.JointConfig {
	set := func(ids []uint64) quorum.MajorityConfig {
		m := make(quorum.MajorityConfig, len(ids))
		for _, id := range ids {
			m[id] = struct{}{}
		}
		return m
	}
	return quorum.JointConfig{set(c.Voters), set(c.VotersOutgoing)}
}

// askVoters puts the question of a group's latest round to all its voters.
func (h *Host) askVoters(g *Group) {
	for _, r := range g.desc.Replicas {
		if r.ID != g.id && g.desc.isVoter(r.ID) {
			h.question(g, r)
		}
	}
}

func (h *Host) question(g *Group, r replicaAddr) {
	h.questions[r.Node] = append(h.questions[r.Node], confirmItem{shard: g.shard, to: r.ID, from: g.id, term: g.ownTerm})
}

// askRound begins the next round for every group with reads that wait, if the last one is over. Its
// frames leave at once: no read waits for the disk.
func (h *Host) askRound() {
	if h.asks.late() {
		h.askOthers()
	}
	if len(h.asking) == 0 || !h.mayBegin(&h.asks) {
		return
	}
	h.asks.begin()
	number := h.asks.number
	h.inRound = h.inRound[:0]
	clear(h.silent)
	for i, g := range h.asking {
		g.asked, h.asking[i] = false, nil
		if len(g.waiting) == 0 || h.groups[g.shard] != g {
			continue // It has lost its ownership meanwhile.
		}
		h.asks.join()
		if g.ask(number) {
			h.askMajority(g)
			h.inRound = append(h.inRound, g)
		}
	}
	h.asking = h.asking[:0]
	if len(h.inRound) > 0 {
		h.asks.timer.Reset(waveMax)
		h.sendQuestions()
	}
}

// askMajority puts the question to as many voters as it takes.
func (h *Host) askMajority(g *Group) {
	if g.desc.joint() {
		h.askVoters(g)
		return
	}
	others := h.others[:0]
	for _, r := range g.desc.Replicas {
		if r.ID != g.id && g.desc.isVoter(r.ID) {
			others = append(others, r)
		}
	}
	slices.SortFunc(others, func(a, b replicaAddr) int { return cmp.Compare(h.askRank(a.Node), h.askRank(b.Node)) })
	for _, r := range others[:len(g.desc.Conf.Voters)/2] {
		h.question(g, r)
		h.silent[r.Node] = true
	}
	h.others = others
}

// askRank says whom to ask first: who was not late; else the next one round the circle of node ids,
// so that every node asks few others, and is asked by few.
func (h *Host) askRank(node placement.NodeID) uint64 {
	rank := uint64(node-h.cfg.Node) >> 1
	if h.late[node] {
		rank |= 1 << 63
	}
	return rank
}

// askOthers follows a round that is late: the nodes that have not answered are marked as late, for
// a while, and everybody is asked.
func (h *Host) askOthers() {
	for node := range h.silent {
		h.late[node] = true
	}
	for _, g := range h.inRound {
		if len(g.rounds) > 0 && h.groups[g.shard] == g {
			h.askVoters(g)
		}
	}
	h.inRound = h.inRound[:0]
	h.sendQuestions()
}

// askAgain repeats the questions that have had no answer for a heartbeat's time. An answer to the
// latest round serves all before it.
func (h *Host) askAgain(g *Group) {
	if len(g.rounds) == 0 {
		g.unanswered = 0
		return
	}
	if g.unanswered++; g.unanswered > h.cfg.HeartbeatTicks {
		g.unanswered = 0
		h.askVoters(g)
	}
}

// sendQuestions sends what was put together for each node. The number is that of the latest round.
func (h *Host) sendQuestions() {
	for node, items := range h.questions {
		if len(items) == 0 {
			continue
		}
		h.queueBytes(node, len(items)*32+16, func(dst []byte) []byte { return appendConfirm(dst, kindConfirm, h.asks.number, items) })
		h.questions[node] = items[:0]
	}
	h.sendFrames()
}

// takeConfirm answers, or takes the answers to, questions about many shards.
func (h *Host) takeConfirm(from placement.NodeID, kind byte, b []byte) (rest []byte, err error) {
	number, items, rest, err := decodeConfirm(b, h.items)
	if err != nil {
		return nil, err
	}
	h.items = items
	if kind == kindConfirm {
		h.answerConfirm(from, number, items)
		return rest, nil
	}
	if number == h.asks.number {
		delete(h.silent, from)
	}
	for _, it := range items {
		if g := h.group(it.shard); g != nil && g.id == it.to && g.ownTerm != 0 && g.ownTerm == it.term {
			g.unanswered = 0
			g.affirmed(it.from, number)
		}
	}
	return rest, nil
}

// answerConfirm affirms what is so. A replica that is in another term says nothing: who asks will
// hear of a later one from Raft itself.
func (h *Host) answerConfirm(from placement.NodeID, number uint64, items []confirmItem) {
	yes := items[:0]
	for _, it := range items {
		if g := h.group(it.shard); g != nil && g.id == it.to && g.term == it.term {
			yes = append(yes, confirmItem{shard: it.shard, to: it.from, from: it.to, term: it.term})
		}
	}
	if len(yes) > 0 {
		h.queueBytes(from, len(yes)*32+16, func(dst []byte) []byte { return appendConfirm(dst, kindConfirmed, number, yes) })
	}
}
