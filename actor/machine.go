package actor

import (
	"github.com/holdfast-io/holdfast/fault"
)

// Bounds of one object. What is over them is refused before it ran (P6).
const (
	MailboxEventsMax = 1024
	MailboxBytesMax  = 32 << 20
	// UnflushedBytesMax is how much an object may have written that is not yet readable before its
	// next event has to wait.
	UnflushedBytesMax = 8 << 20
)

// machine is the life of one object on its owner: the rules, and nothing else. It does no I/O,
// knows no clock, and is driven under the object's lock. Calls are events; what is to be done
// about them comes back as values and in answers, which the shell sends when it holds no lock.
//
// The rules:
//
//   - One event runs at a time. The next one begins when the handler has returned, without waiting
//     for the commit; it sees the uncommitted writes.
//   - An event that wrote is answered when its segment is committed. One that only read is answered
//     when every segment proposed before it ran is committed and this node was found to be the
//     owner after it ran: by a confirmation, or by the commit of a segment proposed later.
//   - A refused segment refuses every later one, and ends the incarnation.
//   - A panic or an abort drops the open segment and ends the incarnation. It is told like a read, to
//     the event and to those behind it: it may have come of what is not committed yet.
//   - An incarnation that ended is followed by another only when each of its segments is readable
//     or refused for certain, and nobody of it waits at the gate.
//   - An event that may have had an effect is never told that it did not run.
//   - When ownership is lost, nothing gets out any more (P1).
type machine struct {
	// Of the current incarnation; alive is false before the first and between two.
	alive       bool
	term        uint64
	incarnation uint64
	seq         uint64 // last proposed
	committed   uint64
	readable    uint64
	refused     uint64 // how many, always the last ones

	mailbox      []*Call
	mailboxBytes int64
	running      *Call
	// proposed is the first segment that the running event has proposed by a barrier, if it has.
	proposed uint64
	// doom is why the incarnation is over, if it is: the running event's effects are dropped, and
	// it is answered with this.
	doom error

	waiters   []waiter
	token     uint64 // last confirmation asked for
	confirmed uint64

	// lost says that the owner is another: this object is of the past.
	lost bool

	answers []answer
}

// waiter is an event that has run and waits at the output gate.
type waiter struct {
	call   *Call // nil for a barrier
	result Result
	seq    uint64 // must be committed
	token  uint64 // must be confirmed; 0: the commit is enough
	// proposed is the first segment that the event has proposed before, if it has.
	proposed uint64
	// barrier is told when a handler's own Confirm is through.
	barrier func(error)
}

type answer struct {
	call    *Call
	result  Result
	barrier func(error)
}

// Errors that tell callers what certainly did not happen.
func errOwnerChanged() error {
	return fault.New(fault.OwnerChanged, "the object's owner changed before the call took effect; call again")
}

func errOutcomeUnknown() error {
	return fault.New(fault.OutcomeUnknown, "the owner changed while the call's writes were being committed; they may or may not have taken effect: read before calling again")
}

// deliver takes an event into the mailbox. The error says that it was refused.
func (m *machine) deliver(c *Call) error {
	switch {
	case m.lost:
		return errOwnerChanged()
	case len(m.mailbox) >= MailboxEventsMax:
		return fault.New(fault.Overloaded, "the object's mailbox is full: at most %d events wait", MailboxEventsMax)
	case m.mailboxBytes+c.bytes() > MailboxBytesMax:
		return fault.New(fault.Overloaded, "the object's mailbox is full: at most %d bytes wait", MailboxBytesMax)
	}
	m.mailbox = append(m.mailbox, c)
	m.mailboxBytes += c.bytes()
	return nil
}

// settled says that each proposed segment is readable or refused.
func (m *machine) settled() bool { return m.readable+m.refused == m.seq }

// runnable says whether the next event may begin, as far as the machine knows.
func (m *machine) runnable() bool {
	if m.lost || m.running != nil || len(m.mailbox) == 0 {
		return false
	}
	return m.alive || m.settled() && len(m.waiters) == 0
}

// begin takes the next event out of the mailbox and runs it. The caller has seen that it is
// runnable and loads a new incarnation if none is alive.
func (m *machine) begin() *Call {
	c := m.mailbox[0]
	m.mailbox[0] = nil
	m.mailbox = m.mailbox[1:]
	if len(m.mailbox) == 0 {
		m.mailbox = nil
	}
	m.mailboxBytes -= c.bytes()
	m.running, m.proposed = c, 0
	return c
}

// skip answers the running event, which did not run.
func (m *machine) skip(err error) {
	m.answer(m.running, Result{Err: err})
	m.running = nil
}

// born begins an incarnation.
func (m *machine) born(term, incarnation uint64) {
	if m.lost { // While it was being loaded. What it does now gets nowhere.
		m.doom = errOwnerChanged()
		return
	}
	m.alive, m.doom = true, nil
	m.term, m.incarnation = term, incarnation
	m.seq, m.committed, m.readable, m.refused = 0, 0, 0, 0
}

// gate is what the shell does about an event that has run.
type gate int

const (
	gateNone    gate = iota // it is answered, or waits for what is under way
	gatePropose             // propose the segment m.seq
	gateConfirm             // ask for a confirmation with m.token
)

// finish takes what the handler returned. wrote says that its segment has writes; sole that this
// node can't have been superseded at this moment.
func (m *machine) finish(result Result, wrote, sole bool) gate {
	c := m.running
	m.running = nil
	switch {
	case m.doom != nil:
		m.fail(waiter{call: c, proposed: m.proposed}, m.doom)
		return gateNone
	case wrote:
		return m.propose(waiter{call: c, result: result, proposed: m.proposed})
	}
	return m.wait(sole, waiter{call: c, result: result, proposed: m.proposed})
}

// barrier is a handler's own Confirm: the segment so far is closed, and fn told when it is durable
// and this node still the owner.
func (m *machine) barrier(fn func(error), wrote, sole bool) gate {
	switch {
	case m.doom != nil:
		fn(m.doom)
		return gateNone
	case wrote:
		if m.proposed == 0 {
			m.proposed = m.seq + 1
		}
		return m.propose(waiter{barrier: fn})
	}
	return m.wait(sole, waiter{barrier: fn})
}

// propose puts an event, or a barrier, at the gate behind a segment of its own.
func (m *machine) propose(w waiter) gate {
	m.seq++
	w.seq = m.seq
	m.waiters = append(m.waiters, w)
	return gatePropose
}

// wait puts at the gate what has no segment of its own.
func (m *machine) wait(sole bool, ws ...waiter) gate {
	if sole && m.committed == m.seq && len(m.waiters) == 0 {
		for _, w := range ws {
			m.answers = append(m.answers, answer{w.call, w.result, w.barrier})
		}
		return gateNone
	}
	m.token++
	for _, w := range ws {
		w.seq, w.token = m.seq, m.token
		m.waiters = append(m.waiters, w)
	}
	return gateConfirm
}

// die ends the incarnation by the running event's own fault (a panic, an abort): its open segment
// is dropped; segments in flight go on; what waits in the mailbox did not run, and is told so.
func (m *machine) die(result Result, queued error, sole bool) gate {
	ws := make([]waiter, 0, 1+len(m.mailbox))
	ws = append(ws, waiter{call: m.running, result: result, proposed: m.proposed})
	m.running = nil
	if m.doom != nil { // It was over already, and the mailbox emptied.
		m.fail(ws[0], m.doom)
		return gateNone
	}
	for _, c := range m.mailbox {
		ws = append(ws, waiter{call: c, result: Result{Err: queued}})
	}
	m.mailbox, m.mailboxBytes = nil, 0
	m.alive = false
	return m.wait(sole, ws...)
}

// end ends the incarnation and refuses what waits in the mailbox.
func (m *machine) end(err error) {
	m.alive = false
	for _, c := range m.mailbox {
		m.answer(c, Result{Err: err})
	}
	m.mailbox, m.mailboxBytes = nil, 0
	if m.running != nil && m.doom == nil {
		m.doom = err
	}
}

// commit opens the gate for everything up to the segment.
func (m *machine) commit(seq uint64) {
	m.committed = max(m.committed, seq)
	// What ran before the segment was proposed is confirmed by its commit.
	for i := range m.waiters {
		if m.waiters[i].seq < seq {
			m.waiters[i].token = 0
		}
	}
	m.release()
}

// read says that the store shows the segments up to seq.
func (m *machine) read(seq uint64) { m.readable = max(m.readable, seq) }

// confirm takes the answer to a confirmation; it is good for every earlier one.
func (m *machine) confirm(token uint64, err error) {
	if err == nil {
		m.confirmed = max(m.confirmed, token)
		m.release()
		return
	}
	kept := m.waiters[:0]
	for _, w := range m.waiters {
		if w.token != 0 && w.token <= token && w.token > m.confirmed {
			m.fail(w, errOwnerChanged())
		} else {
			kept = append(kept, w)
		}
	}
	clear(m.waiters[len(kept):])
	m.waiters = kept
}

// refuse ends the incarnation because a segment was refused. What waits for it or a later one is
// answered; unknown says that the segment may yet turn out to be committed elsewhere.
func (m *machine) refuse(seq uint64, unknown bool) {
	m.refused++
	if !unknown && m.proposed >= seq {
		m.proposed = 0 // It will never have happened.
	}
	kept := m.waiters[:0]
	for _, w := range m.waiters {
		if !unknown && w.proposed >= seq {
			w.proposed = 0
		}
		switch {
		case w.seq < seq:
			kept = append(kept, w)
		case unknown && w.token == 0:
			m.fail(w, errOutcomeUnknown())
		default:
			m.fail(w, errOwnerChanged())
		}
	}
	clear(m.waiters[len(kept):])
	m.waiters = kept
	m.end(errOwnerChanged())
}

// lose ends everything: another node owns the object now, or soon.
func (m *machine) lose() {
	m.lost = true
	for _, w := range m.waiters {
		if w.token == 0 && w.seq > m.committed {
			m.fail(w, errOutcomeUnknown())
		} else {
			m.fail(w, errOwnerChanged())
		}
	}
	m.waiters = nil
	m.end(errOwnerChanged())
}

// release answers, in order, the events whose gate is open.
func (m *machine) release() {
	n := 0
	for ; n < len(m.waiters); n++ {
		w := &m.waiters[n]
		if w.seq > m.committed || w.token > m.confirmed {
			break
		}
		m.answers = append(m.answers, answer{w.call, w.result, w.barrier})
	}
	if n == len(m.waiters) {
		clear(m.waiters)
		m.waiters = m.waiters[:0]
		if cap(m.waiters) > 64 {
			m.waiters = nil
		}
		return
	}
	m.waiters = append(m.waiters[:0], m.waiters[n:]...)
}

func (m *machine) answer(c *Call, r Result) {
	m.answers = append(m.answers, answer{call: c, result: r})
}

// fail answers with an error. One that says that the event did not run is not said of an event that
// has proposed something.
func (m *machine) fail(w waiter, err error) {
	if w.proposed != 0 && fault.ReasonOf(err).Retryable() {
		err = errOutcomeUnknown()
	}
	m.answers = append(m.answers, answer{w.call, Result{Err: err}, w.barrier})
}

// busy says that something runs, is in flight, or waits at the gate.
func (m *machine) busy() bool {
	return m.running != nil || len(m.waiters) > 0 || !m.settled()
}

// idle says that nothing would be lost by forgetting the object.
func (m *machine) idle() bool { return !m.busy() && len(m.mailbox) == 0 }

// take returns what is to be answered, for the shell to send when it holds no lock.
func (m *machine) take() []answer {
	out := m.answers
	m.answers = nil
	return out
}
