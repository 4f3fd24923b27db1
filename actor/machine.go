package actor

import (
	"cmp"
	"slices"

	"github.com/holdfast-io/holdfast/fault"
	"github.com/holdfast-io/holdfast/tracing"
)

// Bounds of one object. What is over them is refused before it ran (P6).
const (
	MailboxEventsMax = 1024
	MailboxBytesMax  = 32 << 20
	// UnflushedBytesMax is how much an object may have written that is not yet readable before its
	// next event has to wait.
	UnflushedBytesMax = 8 << 20
	// HandlersMax is how many handlers of an object may have begun and not returned, before its next
	// event has to wait: the one that has the turn, those in a Yield, and those of incarnations that
	// have ended.
	// Streams are not among them.
	HandlersMax = 256
)

// machine is the life of one object on its owner: the rules, and nothing else. It does no I/O,
// knows no clock, and is driven under the object's lock. Calls are events; what is to be done
// about them comes back as values and in answers, which the shell sends when it holds no lock.
//
// The rules:
//
//   - One event has the turn. The next one begins when the handler has returned or given up its turn,
//     without waiting for the commit; it sees the uncommitted writes.
//   - An event that gives up its turn has closed its segment before. It has the turn back before
//     events that have not begun, in the order in which they asked for it.
//   - While an event is in a critical section no other has the turn, also when it has given it up.
//   - An event that wrote is answered when its segment is committed. One that only read is answered
//     when every segment proposed before it ran is committed and this node was found to be the
//     owner after it ran: by a confirmation, or by the commit of a segment proposed later.
//   - A segment that has only unconfirmed writes holds nobody back: its event is answered like one
//     that only read, and nobody waits for it, but for barriers. Its refusal ends the incarnation as
//     any other does.
//   - A refused segment refuses every later one, and ends the incarnation.
//   - A panic or an abort drops the open segment and ends the incarnation. It is told like a read, to
//     the event and to those behind it: it may have come of what is not committed yet.
//   - An incarnation that ended is followed by another only when each of its segments is readable
//     or refused for certain, and nobody of it waits at the gate.
//   - An event that began in an incarnation that ended is answered and forgotten: its handler may go
//     on, in vain.
//   - An event that may have had an effect, by a segment or by what it did behind the gate, is never
//     told that it did not run.
//   - A call that would wait for an event that waits for it is refused: while that one has the turn, or
//     is in a critical section, it never runs.
//   - What an event sends on streams waits at the gate with its segment, and is dropped with it.
//   - A stream may end before its handler has returned: what that returns is told to nobody.
//   - When ownership is lost, nothing gets out any more (P1).
type machine struct {
	// Of the current incarnation; alive is false before the first and between two.
	alive       bool
	term        uint64
	incarnation uint64
	seq         uint64 // last proposed
	locked      uint64 // last proposed that has confirmed writes: what runs now waits for it
	committed   uint64
	readable    uint64
	refused     uint64 // how many, always the last ones

	mailboxMax   int // events that may wait; 0: MailboxEventsMax
	mailbox      []*Call
	mailboxBytes int64
	running      *event   // has the turn
	suspended    []*event // gave it up
	resuming     []*event // of those: want it back, in order
	critical     *event   // nobody else may have it
	// streams are those that have begun and not returned, and idling those of them that gave up the turn.
	streams, idling int
	// open is what was sent in the open segment.
	open []send
	// dropped is how many bytes of messages went nowhere, for the shell to count off.
	dropped int
	// strays are handlers of events that are over and have not returned.
	strays int
	// why the last incarnation ended, and its events, for the shell to tell their handlers.
	why   error
	ended []*event

	waiters   []waiter
	token     uint64 // last confirmation asked for
	confirmed uint64

	// calling are the calls of others that have no answer yet and whose handlers may have given up their
	// turn, by the numbers in their chains, and whether they were made in a critical section.
	calling map[uint64]sender
	// holding says that the incarnation is to end: only what its handlers wait for begins.
	holding bool

	// lost says that the owner is another: this object is of the past.
	lost bool

	answers []answer
}

// event is a Call that has begun.
type event struct {
	call *Call
	// proposed is the first segment that it has proposed, if it has.
	proposed uint64
	// acted says that it has passed the gate, and may have done what is not undone.
	acted bool
	// over says that its incarnation ended before it returned.
	over bool
	// background says that it is work that a call has left behind.
	background bool
	// gated says that its answer has waited at the gate.
	gated bool
	// answered says that a stream has ended, though its handler may go on, by why.
	answered bool
	why      error
	// depth counts the critical sections that it is in.
	depth int
	// number tells it from all other events, once it has called another object; 0 before.
	number uint64
	// at is its place in machine.suspended.
	at int

	// followers have the same request id, and are answered with it.
	followers []*Call

	stream streamState
	wait   waitState
	times  eventTimes
	// Of the shell, under the object's lock.
	turn   chan struct{} // closed when it has the turn back, or is over
	cancel func(error)   // of its Init's context
	claim  claim         // of the call's request id
	span   *tracing.Span // of its handler; nil: it is not traced
}

// sender is who has made a call without waiting for it in its turn.
type sender struct {
	by       *event
	critical bool
}

// waiter is an event that has run and waits at the output gate, or a barrier of one that goes on.
type waiter struct {
	e      *event
	result Result
	seq    uint64 // must be committed
	last   uint64 // the last segment that it has seen or written
	wrote  bool   // that one is its own
	token  uint64 // must be confirmed; 0: the commit is enough
	// barrier is told when the gate is open; nil at the event's end.
	barrier func(error)
	// part says that nobody waits for the barrier, and inOrder that it is told after those before it.
	part, inOrder bool
	// sends go out before anything else, when the gate is open.
	sends []send
}

type answer struct {
	call    *Call
	result  Result
	barrier func(error) // or nil
	sends   []send      // before anything else
	slow    bool        // a stream's, whose messages are dropped
	inOrder bool        // after those before it
}

// death is why an incarnation ends by the fault of its own class.
type death struct {
	by     *event // may be nil
	result Result // for it
	begun  error  // for the other events that have begun
	queued error  // for those that have not
}

// Errors that tell callers what certainly did not happen.
func errOwnerChanged() error {
	return fault.New(fault.OwnerChanged, "the object's owner changed before the call took effect; call again")
}

func errOutcomeUnknown() error {
	return fault.New(fault.OutcomeUnknown, "the owner changed while the call's writes were being committed; they may or may not have taken effect: read before calling again")
}

func errActed() error {
	return fault.New(fault.OutcomeUnknown, "the owner changed after the call had begun to act on what is outside the object; it may or may not have taken effect: read before calling again")
}

// deliver takes an event into the mailbox. The error says that it was refused.
func (m *machine) deliver(c *Call) error {
	switch {
	case m.lost:
		return errOwnerChanged()
	case len(m.mailbox) >= cmp.Or(m.mailboxMax, MailboxEventsMax):
		return fault.New(fault.Overloaded, "the object's mailbox is full: at most %d events wait", cmp.Or(m.mailboxMax, MailboxEventsMax))
	case m.mailboxBytes+c.bytes() > MailboxBytesMax:
		return fault.New(fault.Overloaded, "the object's mailbox is full: at most %d bytes wait", MailboxBytesMax)
	case m.waitsFor(c):
		return errCycle(c)
	}
	m.mailbox = append(m.mailbox, c)
	m.mailboxBytes += c.bytes()
	return nil
}

// waitsFor says that the object waits for the call, or for one that does, and lets no other event run
// meanwhile.
func (m *machine) waitsFor(c *Call) bool {
	waits := func(e *event) bool {
		return e != nil && e.number != 0 && slices.ContainsFunc(c.Chain, func(l Link) bool { return l.Event == e.number })
	}
	return waits(m.running) || waits(m.critical) || m.critical != nil && slices.ContainsFunc(c.Chain, func(l Link) bool {
		made, ok := m.calling[l.Event]
		return ok && made.critical && made.by == m.critical
	})
}

// settled says that each proposed segment is readable or refused.
func (m *machine) settled() bool { return m.readable+m.refused == m.seq }

// runnable says whether the next event may begin, as far as the machine knows.
func (m *machine) runnable() bool {
	if m.lost || m.running != nil || m.critical != nil || m.next() < 0 {
		return false
	}
	if len(m.resuming) > 0 || len(m.suspended)-m.idling+m.strays >= HandlersMax {
		return false
	}
	return m.alive || m.settled() && len(m.waiters) == 0
}

// begin takes the next event out of the mailbox and runs it. The caller has seen that it is
// runnable and loads a new incarnation if none is alive.
func (m *machine) begin() *event {
	n := m.next()
	c := m.mailbox[n]
	copy(m.mailbox[1:n+1], m.mailbox[:n])
	m.mailbox[0] = nil
	m.mailbox = m.mailbox[1:]
	if len(m.mailbox) == 0 {
		m.mailbox = nil
	}
	m.mailboxBytes -= c.bytes()
	m.running = c.begun()
	if c.Pipe != nil {
		m.streams++
	}
	return m.running
}

// interject runs an event that was not in the mailbox. Nobody else has the turn.
func (m *machine) interject(c *Call) *event {
	m.running = c.begun()
	return m.running
}

// skip answers the running event, which did not run.
func (m *machine) skip(err error) {
	m.answer(m.running.call, Result{Err: err})
	m.runs()
}

// runs ends the turn of an event that does not want it back.
func (m *machine) runs() *event {
	e := m.running
	m.running = nil
	if e.call.Pipe != nil {
		m.streams--
	}
	return e
}

// follow answers the running event, which does not run, with another that has begun.
func (m *machine) follow(e *event) {
	e.followers = append(e.followers, m.running.call)
	m.runs()
}

// born begins an incarnation, with the running event.
func (m *machine) born(term, incarnation uint64) {
	m.alive, m.why = true, nil
	m.term, m.incarnation = term, incarnation
	m.seq, m.locked, m.committed, m.readable, m.refused = 0, 0, 0, 0, 0
}

// leave gives up the running event's turn. The caller has put a barrier before it.
func (m *machine) leave() {
	m.suspend(m.running)
	m.running = nil
}

// suspend puts an event among those without a turn.
func (m *machine) suspend(e *event) {
	e.at = len(m.suspended)
	m.suspended = append(m.suspended, e)
	if e.call.Pipe != nil {
		m.idling++
	}
}

// unsuspend takes it out; the last one takes its place.
func (m *machine) unsuspend(e *event) {
	last := len(m.suspended) - 1
	m.suspended[e.at] = m.suspended[last]
	m.suspended[e.at].at = e.at
	m.suspended[last] = nil
	m.suspended = m.suspended[:last]
	if e.call.Pipe != nil {
		m.idling--
	}
}

// join adds work that outlives its call, as an event that has given up its turn for good. It says
// whether there is room.
func (m *machine) join(e *event) bool {
	n := 0
	for _, other := range m.suspended {
		if other.background {
			n++
		}
	}
	if n >= BackgroundMax {
		return false
	}
	e.background = true
	m.suspend(e)
	return true
}

// retire ends what join began.
func (m *machine) retire(e *event) {
	m.unsuspend(e)
	m.answer(e.call, Result{})
}

// want asks for the turn of an event that gave it up.
func (m *machine) want(e *event) { m.resuming = append(m.resuming, e) }

// resumable returns the event that may have its turn back, if there is one.
func (m *machine) resumable() *event {
	switch {
	case m.running != nil || len(m.resuming) == 0:
		return nil
	case m.critical == nil:
		return m.resuming[0]
	case slices.Contains(m.resuming, m.critical):
		return m.critical
	}
	return nil
}

// resume gives the turn to the event that may have it back.
func (m *machine) resume() *event {
	e := m.resumable()
	if m.resuming[0] == e {
		m.resuming[0] = nil
		m.resuming = m.resuming[1:]
	} else {
		m.resuming = slices.DeleteFunc(m.resuming, func(other *event) bool { return other == e })
	}
	m.unsuspend(e)
	m.running = e
	return e
}

// enter begins a critical section of the running event, within those that it is in.
func (m *machine) enter() {
	m.critical = m.running
	m.critical.depth++
}

// exit ends the innermost critical section of the running event.
func (m *machine) exit() {
	if m.running.depth--; m.running.depth == 0 {
		m.critical = nil
	}
}

// returned counts the handler of an event that is over off.
func (m *machine) returned() { m.strays-- }

// gate is what the shell does about an event that has run.
type gate int

const (
	gateNone    gate = 0         // it is answered, or waits for what is under way
	gatePropose gate = 1 << iota // propose the segment m.seq
	gateConfirm                  // ask for a confirmation with m.token
)

// writes is what a segment has written.
type writes int

const (
	noWrites          writes = iota // there is no segment
	unconfirmedWrites               // nobody waits for it
	confirmedWrites
)

// finish takes what the running event's handler returned. sole says that this node can't have been
// superseded at this moment.
func (m *machine) finish(result Result, wrote writes, sole bool) gate {
	return m.gate(waiter{e: m.runs(), result: result, sends: m.sent()}, wrote, sole)
}

// part is of an event that goes on and waits for nothing: the segment so far is closed.
func (m *machine) part(wrote writes, sole bool) gate {
	if wrote == noWrites && len(m.open) == 0 {
		return gateNone
	}
	return m.gate(waiter{e: m.running, barrier: func(error) {}, part: true, sends: m.sent()}, wrote, sole)
}

// gate puts at the gate what has written so.
func (m *machine) gate(w waiter, wrote writes, sole bool) gate {
	if wrote == noWrites {
		return m.wait(sole, w)
	}
	m.propose(&w)
	if wrote == unconfirmedWrites {
		return gatePropose | m.wait(sole, w)
	}
	return m.lock(w)
}

// barrier is of the running event, which goes on: the segment so far is closed, and w's barrier told when
// it is durable and this node still the owner. It waits for unconfirmed writes too.
func (m *machine) barrier(w waiter, wrote writes, sole bool) gate {
	w.sends = m.sent()
	if wrote == noWrites {
		m.locked = m.seq
		return m.wait(sole, w)
	}
	m.propose(&w)
	return m.lock(w)
}

// outside is a barrier of an event that has given up its turn: it is told when all that the object has
// written is durable and this node still the owner.
func (m *machine) outside(w waiter, sole bool) gate { return m.wait(sole, w) }

// propose gives what is about to be put at the gate a segment of its own.
func (m *machine) propose(w *waiter) {
	m.seq++
	w.last, w.wrote = m.seq, true
	if w.e.proposed == 0 {
		w.e.proposed = m.seq
	}
}

// lock puts at the gate what waits for its own segment, and has all that follows wait for it.
func (m *machine) lock(w waiter) gate {
	m.locked = m.seq
	w.seq = m.seq
	m.hold(w)
	return gatePropose
}

// wait puts at the gate what does not wait for a segment of its own.
func (m *machine) wait(sole bool, ws ...waiter) gate {
	if sole && m.committed >= m.locked && len(m.waiters) == 0 {
		for _, w := range ws {
			m.pass(w)
		}
		return gateNone
	}
	m.token++
	for _, w := range ws {
		w.seq, w.last, w.token = m.locked, m.seq, m.token
		m.hold(w)
	}
	return gateConfirm
}

// hold keeps at the gate what can't pass it yet.
func (m *machine) hold(w waiter) {
	if w.barrier == nil {
		w.e.gated = true
	}
	m.waiters = append(m.waiters, w)
}

// die ends the incarnation by its class's own fault (a panic, an abort): the open segment is dropped;
// segments in flight go on; what waits in the mailbox did not run, and is told so.
func (m *machine) die(d death, sole bool) gate {
	var ws []waiter
	for _, e := range m.begun() {
		w := waiter{e: e, result: Result{Err: d.begun}}
		if e == d.by {
			w.result = d.result
		}
		ws = append(ws, w)
	}
	for _, c := range m.mailbox {
		ws = append(ws, waiter{e: c.begun(), result: Result{Err: d.queued}})
	}
	m.mailbox, m.mailboxBytes = nil, 0
	m.forget(d.begun)
	return m.wait(sole, ws...)
}

// end ends the incarnation and refuses everything that has begun or waits in the mailbox.
func (m *machine) end(err error) {
	for _, e := range m.begun() {
		m.fail(waiter{e: e}, err)
	}
	for _, c := range m.mailbox {
		m.answer(c, Result{Err: err})
	}
	m.mailbox, m.mailboxBytes = nil, 0
	m.forget(err)
}

// going says that an event has begun and not returned, with the turn or without it.
func (m *machine) going(e *event) bool { return m.running == e || slices.Contains(m.suspended, e) }

// begun returns the events that have begun and not returned.
func (m *machine) begun() []*event {
	if m.running == nil {
		return m.suspended
	}
	return append([]*event{m.running}, m.suspended...)
}

// forget ends the incarnation: its handlers go on in vain.
func (m *machine) forget(why error) {
	for _, e := range m.begun() {
		e.over = true
		m.strays++
		m.ended = append(m.ended, e)
	}
	m.running, m.suspended, m.resuming, m.critical = nil, nil, nil, nil
	m.drop(m.open)
	m.streams, m.idling, m.open, m.calling = 0, 0, nil, nil
	m.alive, m.why = false, why
}

// commit opens the gate for everything up to the segment.
func (m *machine) commit(seq uint64) {
	m.committed = max(m.committed, seq)
	// What ran before the segment was proposed, its own event included, is confirmed by its commit.
	for i := range m.waiters {
		if w := &m.waiters[i]; w.last < seq || w.wrote && w.last == seq {
			w.token = 0
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

// refuse ends the incarnation because a segment was refused. What has seen it or a later one is
// answered; unknown says that the segment may yet turn out to be committed elsewhere.
func (m *machine) refuse(seq uint64, unknown bool) {
	m.refused++
	if !unknown {
		for i := range m.waiters { // Whoever has proposed what is not committed waits, or its barrier does.
			if e := m.waiters[i].e; e.proposed >= seq {
				e.proposed = 0 // It will never have happened.
			}
		}
	}
	kept := m.waiters[:0]
	for _, w := range m.waiters {
		switch {
		case w.last < seq:
			kept = append(kept, w)
		case unknown && w.wrote:
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
		if w.wrote && w.last > m.committed {
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
		m.pass(*w)
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

// pass lets through the gate.
func (m *machine) pass(w waiter) {
	if w.barrier != nil {
		w.e.acted = w.e.acted || !w.part || len(w.sends) > 0
	} else {
		w.result.Err = w.e.told(w.result.Err)
	}
	m.settle(w, w.sends)
}

// settle tells what becomes of an event or a barrier.
func (m *machine) settle(w waiter, sends []send) {
	a := answer{call: w.e.call, result: w.result, barrier: w.barrier, sends: sends, inOrder: w.inOrder}
	if w.barrier == nil {
		if w.e.answered {
			a.call = nil
		}
		w.e.answered = true
	}
	m.answers = append(m.answers, a)
}

// fail answers with an error.
func (m *machine) fail(w waiter, err error) {
	if w.barrier == nil {
		err = w.e.told(err)
	}
	for _, s := range w.sends { // There must be no gap in them.
		m.hangUp(s.to, errStreamMoved(), false)
	}
	m.drop(w.sends)
	w.result = Result{Err: err}
	m.settle(w, nil)
}

// told is what the event's caller is told of an error: not that the event did not run, if it has
// proposed something, or acted.
func (e *event) told(err error) error {
	switch {
	case !fault.ReasonOf(err).Retryable():
		return err
	case e.call.Pipe != nil:
		return errStreamMoved()
	case e.proposed != 0:
		return errOutcomeUnknown()
	case e.acted:
		return errActed()
	}
	return err
}

// busy says that something has the turn, is in flight, or waits at the gate.
func (m *machine) busy() bool {
	return m.running != nil || len(m.waiters) > 0 || !m.settled()
}

// idle says that nothing would be lost by forgetting the object.
func (m *machine) idle() bool {
	return !m.busy() && len(m.mailbox) == 0 && len(m.suspended) == 0 && m.strays == 0
}

// take returns what is to be answered, for the shell to send when it holds no lock, and the events
// that are over since it was last called.
func (m *machine) take() ([]answer, []*event) {
	answers, ended := m.answers, m.ended
	m.answers, m.ended = nil, nil
	for _, a := range answers {
		if a.barrier != nil || a.call == nil {
			continue
		}
		for _, c := range a.call.ev.followers {
			answers = append(answers, answer{call: c, result: a.result})
		}
		a.call.ev.followers = nil
	}
	return answers, ended
}
