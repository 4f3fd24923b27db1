package actor

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/holdfast-io/holdfast/fault"
)

// fate is what a random life knows of a segment, apart from the machine.
type fate int

const (
	proposed fate = iota
	committed
	readable
	refused
	mayBeRefused // refused, but another owner may find it committed
)

// waiting is an event, or a barrier, and all that decides when it may be answered.
type waiting struct {
	call        *Call
	ended       bool // it has returned, or asked for its barrier
	wrote       writes
	sole        bool
	barrier     int  // the first segment that a barrier of it has written
	acted       bool // has passed the gate
	depth       int  // of critical sections
	died        bool
	incarnation int
	seq         int // the last segment that it must wait for
	last        int // the last segment of its incarnation when it returned, its own when it wrote
	token       uint64
	answers     int
	// of is whose part it is, if it is one.
	of *waiting
	// Of a stream: the messages sent to it, and how many of them have gone out.
	sent []*message
	out  int
}

// message is one sent on a stream, and what it waits for at the gate.
type message struct {
	to, behind *waiting
}

// anyPipe makes a call a stream.
type anyPipe struct{ Pipe }

// world plays the log and the callers of one machine at random, within the contract of Settler and
// Confirmer, and checks each answer against what it knows.
type world struct {
	t     *testing.T
	rng   *rand.Rand
	m     machine
	calls map[*Call]*waiting
	order []*Call // delivered and not begun
	all   []*waiting
	// fates of the segments of each incarnation, from its first.
	fates     [][]fate
	locked    int      // the last segment of the last incarnation that is waited for
	asked     []uint64 // tokens not answered
	confirmed uint64
	running   *waiting
	suspended []*waiting // gave up their turn
	wanting   []*waiting // of those: want it back
	critical  *waiting
	sending   []*message // in the open segment
	strays    int
	lost      bool
}

// begun returns the events that have begun and not ended.
func (w *world) begun() []*waiting {
	if w.running == nil {
		return slices.Clone(w.suspended)
	}
	return append([]*waiting{w.running}, w.suspended...)
}

// forget is the end of an incarnation: nobody has its turn, or waits for it.
func (w *world) forget() {
	w.strays += len(w.begun())
	w.sending = nil
	w.running, w.suspended, w.wanting, w.critical = nil, nil, nil, nil
	w.order = w.order[:0]
}

func (w *world) last() *[]fate { return &w.fates[len(w.fates)-1] }

func (w *world) step() {
	switch n := w.rng.IntN(100); {
	case n < 25:
		w.deliver()
	case n < 45:
		w.begin()
	case n < 70:
		w.end()
	case n < 80:
		w.commit()
	case n < 88:
		w.read()
	case n < 96:
		w.confirm(w.rng.IntN(10) == 0)
	case n < 97:
		w.want()
	case n < 98:
		w.returned()
	case n < 99:
		w.refuse(w.rng.IntN(2) == 0)
	case w.rng.IntN(30) == 0:
		w.lose()
	}
	w.check()
}

func (w *world) deliver() {
	c := &Call{Body: make([]byte, w.rng.IntN(5))}
	if w.rng.IntN(3) == 0 {
		c.Pipe = anyPipe{}
	}
	if err := w.m.deliver(c); err != nil {
		if !w.lost {
			w.t.Errorf("delivery refused: %v", err)
		}
		return
	}
	e := &waiting{call: c}
	w.calls[c] = e
	w.all = append(w.all, e)
	w.order = append(w.order, c)
}

// want has an event that has given up its turn ask for it.
func (w *world) want() {
	if len(w.suspended) == 0 {
		return
	}
	e := w.suspended[w.rng.IntN(len(w.suspended))]
	if !slices.Contains(w.wanting, e) {
		w.wanting = append(w.wanting, e)
		w.m.want(&e.call.ev)
	}
}

func (w *world) returned() {
	if w.strays > 0 {
		w.strays--
		w.m.returned()
	}
}

// resume gives the turn back to who may have it.
func (w *world) resume() {
	e := w.wanting[0]
	if w.critical != nil {
		e = w.critical
	}
	if w.running != nil || w.m.resume() != &e.call.ev {
		w.t.Fatal("an event has its turn back out of order, or beside another")
	}
	same := func(other *waiting) bool { return other == e }
	w.wanting, w.suspended = slices.DeleteFunc(w.wanting, same), slices.DeleteFunc(w.suspended, same)
	w.running = e
}

// handlers are those that count.
func (w *world) handlers() int {
	n := w.strays
	for _, e := range w.suspended {
		if e.call.Pipe == nil {
			n++
		}
	}
	return n
}

func (w *world) begin() {
	if w.m.runnable() && (len(w.wanting) > 0 || w.critical != nil || w.handlers() >= HandlersMax) {
		w.t.Fatal("an event can begin before one that wants its turn back, in a critical section, or beside too many")
	}
	if w.m.resumable() != nil {
		w.resume()
		return
	}
	if w.running == nil && len(w.wanting) > 0 && (w.critical == nil || slices.Contains(w.wanting, w.critical)) {
		w.t.Fatal("nobody has the turn, and one that wants it does not have it back")
	}
	if !w.m.runnable() {
		return
	}
	if w.running != nil || w.lost {
		w.t.Fatal("an event can begin while another runs, or after ownership was lost")
	}
	if !w.m.alive {
		if len(w.m.waiters) > 0 {
			w.t.Fatal("loads while somebody waits for the last incarnation")
		}
		if len(w.fates) > 0 && slices.ContainsFunc(*w.last(), func(f fate) bool { return f == proposed || f == committed }) {
			w.t.Fatalf("loads with segments in flight: %v", *w.last())
		}
		w.fates = append(w.fates, nil)
		w.locked = 0
	}
	c := w.m.begin().call
	if c != w.order[0] {
		w.t.Fatal("an event has overtaken another")
	}
	w.order = w.order[1:]
	w.running = w.calls[c]
	w.running.incarnation = len(w.fates) - 1
	if !w.m.alive {
		w.m.born(1, uint64(len(w.fates)))
	}
}

// end ends the running event, or has it ask for a barrier or give up its turn, or enter or leave a
// critical section.
func (w *world) end() {
	if w.rng.IntN(40) == 0 && len(w.begun()) > 0 {
		w.die(w.begun()[w.rng.IntN(len(w.begun()))])
		return
	}
	e := w.running
	if e == nil {
		return
	}
	if w.rng.IntN(3) == 0 {
		w.send()
		return
	}
	switch n := w.rng.IntN(24); {
	case n < 3:
		w.part(e)
	case n < 4:
		w.hangUp()
	case n < 10:
		w.barrier(e)
		if n < 7 {
			w.running, w.suspended = nil, append(w.suspended, e)
			w.m.leave()
		}
	case n < 11:
		w.critical = e
		e.depth++
		w.m.enter()
	case e.depth > 0:
		if e.depth--; e.depth == 0 {
			w.critical = nil
		}
		w.m.exit()
	default:
		w.running = nil
		w.wait(e, false, func(wrote writes, sole bool) gate { return w.m.finish(Result{}, wrote, sole) })
	}
}

// someStream is a stream that has begun, if there is one.
func (w *world) someStream() *waiting {
	var streams []*waiting
	for _, e := range w.begun() {
		if e.call.Pipe != nil && e.answers == 0 {
			streams = append(streams, e)
		}
	}
	if len(streams) == 0 {
		return nil
	}
	return streams[w.rng.IntN(len(streams))]
}

// send has the running event send a message on a stream; its number is in the bytes.
func (w *world) send() {
	to := w.someStream()
	if to == nil {
		return
	}
	n := len(to.sent)
	msg := &message{to: to}
	to.sent, w.sending = append(to.sent, msg), append(w.sending, msg)
	w.m.send(&to.call.ev, []byte{byte(n), byte(n >> 8)})
}

func (w *world) hangUp() {
	if e := w.someStream(); e != nil {
		w.m.hangUp(&e.call.ev, errSlowConsumer(), true)
	}
}

// part has the running event give up its turn without waiting for the gate.
func (w *world) part(e *waiting) {
	b := &waiting{incarnation: e.incarnation, of: e}
	w.wait(b, false, w.m.part)
	if b.wrote != noWrites && e.barrier == 0 {
		e.barrier = b.last
	}
	w.running, w.suspended = nil, append(w.suspended, e)
	w.m.leave()
}

// went checks messages that have gone out.
func (w *world) went(sends []send) {
	for _, s := range sends {
		to := w.calls[s.to.call]
		n := int(s.msg[0]) | int(s.msg[1])<<8
		msg := to.sent[n]
		if to.answers == 0 && n != to.out {
			w.t.Fatalf("message %d of a stream went out after %d", n, to.out-1)
		}
		to.out++
		w.passes(msg.behind)
		if msg.behind.of != nil {
			msg.behind.of.acted = true
		}
	}
}

func (w *world) barrier(e *waiting) {
	b := &waiting{incarnation: e.incarnation}
	w.all = append(w.all, b)
	w.wait(b, true, func(wrote writes, sole bool) gate {
		return w.m.barrier(waiter{e: w.m.running, barrier: func(err error) {
			w.answered(b, err)
			if err == nil {
				e.acted = true
			}
		}}, wrote, sole)
	})
	if b.wrote != noWrites && e.barrier == 0 {
		e.barrier = b.seq
	}
}

// die ends the incarnation by an event's fault: it, and the others, wait at the gate as reads do.
func (w *world) die(e *waiting) {
	e.died = true
	ended := w.begun()
	for _, c := range w.order {
		ended = append(ended, w.calls[c])
	}
	w.forget()
	sole := w.rng.IntN(4) == 0
	g := w.m.die(panicOf(&e.call.ev), sole)
	for _, one := range ended {
		one.incarnation, one.seq, one.last, one.sole = len(w.fates)-1, w.locked, len(*w.last()), sole
		if g == gateConfirm {
			one.token = w.m.token
		}
	}
	if g == gateConfirm {
		w.asked = append(w.asked, w.m.token)
	}
}

// open says that what does not wait for a segment of its own may get out.
func (w *world) open(e *waiting) bool {
	fates := w.fates[e.incarnation]
	for _, f := range fates[:e.seq] {
		if f != committed && f != readable {
			return false
		}
	}
	since := e.last // What is proposed after it, or by it, confirms it when it is committed.
	if e.wrote != noWrites {
		since--
	}
	later := slices.ContainsFunc(fates[since:], func(f fate) bool { return f == committed || f == readable })
	return later || e.sole || e.token != 0 && e.token <= w.confirmed
}

func (w *world) wait(e *waiting, barrier bool, gated func(wrote writes, sole bool) gate) {
	wrote, sole := writes(w.rng.IntN(3)), w.rng.IntN(4) == 0
	e.ended, e.wrote, e.sole, e.last = true, wrote, sole, len(*w.last())
	for _, msg := range w.sending {
		msg.behind = e
	}
	w.sending = nil
	if wrote != noWrites {
		e.last++
	}
	if barrier || wrote == confirmedWrites {
		w.locked = e.last
	}
	e.seq = w.locked
	g := gated(wrote, sole)
	if (g&gatePropose != 0) != (wrote != noWrites) {
		w.t.Fatalf("wrote %d, and does %d about it", wrote, g)
	}
	if g&gatePropose != 0 {
		*w.last() = append(*w.last(), proposed)
		if w.m.seq != uint64(e.last) {
			w.t.Fatalf("proposes segment %d after %d (P3)", w.m.seq, e.last-1)
		}
	}
	if g&gateConfirm != 0 {
		if wrote == confirmedWrites || barrier && wrote != noWrites {
			w.t.Fatal("confirms what needs no confirmation")
		}
		e.token = w.m.token
		w.asked = append(w.asked, e.token)
	}
}

// next returns the first segment of the fate, 0 when there is none.
func (w *world) next(f fate) int {
	if len(w.fates) == 0 {
		return 0
	}
	return 1 + slices.Index(*w.last(), f)
}

func (w *world) commit() {
	n := w.next(proposed)
	if n == 0 || n > 1 && (*w.last())[n-2] >= refused {
		return
	}
	(*w.last())[n-1] = committed
	w.m.commit(uint64(n))
}

func (w *world) read() {
	if n := w.next(committed); n > 0 {
		(*w.last())[n-1] = readable
		w.m.read(uint64(n))
	}
}

func (w *world) refuse(unknown bool) {
	n := w.next(proposed)
	if n == 0 {
		return
	}
	for i := n - 1; i < len(*w.last()); i++ {
		(*w.last())[i] = refused
		if unknown {
			(*w.last())[i] = mayBeRefused
		}
		w.m.refuse(uint64(i+1), unknown)
		w.forget()
		w.check()
	}
}

func (w *world) confirm(lost bool) {
	if len(w.asked) == 0 {
		return
	}
	i := w.rng.IntN(len(w.asked))
	token := w.asked[i]
	w.asked = slices.Delete(w.asked, i, i+1)
	if lost {
		w.m.confirm(token, errOwnerChanged())
		return
	}
	w.confirmed = max(w.confirmed, token)
	w.m.confirm(token, nil)
}

func (w *world) lose() {
	w.lost = true
	w.m.lose()
	w.forget()
}

func (w *world) check() {
	answers, ended := w.m.take()
	for _, e := range ended {
		if !e.over || e == w.m.running {
			w.t.Fatal("an event is said to be over, and is not")
		}
	}
	for _, a := range answers {
		w.went(a.sends)
		if a.call == nil {
			continue // A stream's that has ended before.
		}
		if a.barrier != nil {
			a.barrier(a.result.Err)
			continue
		}
		e := w.calls[a.call]
		if e == nil {
			w.t.Fatal("answers a call that was not delivered")
		}
		w.answered(e, a.result.Err)
	}
	if w.m.strays != w.strays || len(w.m.suspended) != len(w.suspended) || (w.m.running != nil) != (w.running != nil) {
		w.t.Fatalf("%d strays, %d suspended, running %v; there are %d, %d, %v", w.m.strays, len(w.m.suspended), w.m.running != nil, w.strays, len(w.suspended), w.running != nil)
	}
	var bytes int64
	for _, c := range w.m.mailbox {
		bytes += c.bytes()
	}
	if bytes != w.m.mailboxBytes || len(w.m.mailbox) != len(w.order) {
		w.t.Fatalf("the mailbox has %d events of %d bytes, and counts %d and %d", len(w.order), bytes, len(w.m.mailbox), w.m.mailboxBytes)
	}
	if w.m.readable > w.m.committed || w.m.committed > w.m.seq {
		w.t.Fatalf("readable %d, committed %d, proposed %d", w.m.readable, w.m.committed, w.m.seq)
	}
}

func (w *world) answered(e *waiting, err error) {
	if e.answers++; e.answers > 1 {
		w.t.Fatal("answered twice")
	}
	var fates []fate
	if e.ended {
		fates = w.fates[e.incarnation]
	}
	switch reason := fault.ReasonOf(err); reason {
	case "":
		w.passes(e)
	case fault.SlowConsumer:
		if e.call.Pipe == nil {
			w.t.Fatal("a call is said to be slow")
		}
	case fault.OwnerChanged:
		if e.call != nil && e.call.Pipe != nil {
			return // It says nothing of what the stream has done.
		}
		// Those who get it call again: its write must never turn up, and it must not have acted.
		if e.acted {
			w.t.Fatal("an event that has passed the gate is said not to have happened")
		}
		if e.barrier > 0 && !slices.Contains(w.fates[e.incarnation][:e.barrier], refused) {
			w.t.Fatal("an event that has proposed a segment is said not to have happened")
		}
		if e.wrote != noWrites && !slices.Contains(fates[:e.last], refused) {
			w.t.Fatalf("segment %d may be, or become, committed, and its event is said not to have happened: %v", e.last, fates)
		}
	case fault.OutcomeUnknown:
		if e.barrier > 0 || e.acted {
			return // What is not known, or not to be undone, is of its barrier.
		}
		if e.wrote == noWrites || fates[e.last-1] == committed || fates[e.last-1] == readable {
			w.t.Fatalf("segment %d has a known outcome: %v", e.last, fates)
		}
	case fault.Panic:
		if !e.died || !w.open(e) {
			w.t.Fatal("another event's panic was answered, or this one's before its reasons were durable (P2)")
		}
	case fault.ObjectReset:
		if e.ended || !w.open(e) {
			w.t.Fatal("an event that returned was said to have been reset, or another before the reasons were durable (P2)")
		}
	default:
		w.t.Fatalf("answered with %v", err)
	}
}

// passes checks that what is behind the gate of an event, or a barrier, may get out.
func (w *world) passes(e *waiting) {
	if !e.ended || w.lost {
		w.t.Fatal("a reply of an event that did not return, or after ownership was lost (P1)")
	}
	fates := w.fates[e.incarnation]
	for i, f := range fates[:e.seq] {
		if f != committed && f != readable {
			w.t.Fatalf("what is behind segment %d got out while segment %d was not committed (P2): %v", e.seq, i+1, fates)
		}
	}
	if e.wrote != confirmedWrites && !w.open(e) {
		w.t.Fatal("a read, or unconfirmed write, got out before this node was found to be the owner (P1)")
	}
}

// finish brings everything to its end, so that nobody is left without an answer.
func (w *world) finish() {
	for range 10_000 {
		if w.m.idle() {
			break
		}
		w.begin()
		w.end()
		w.want()
		w.returned()
		w.commit()
		w.read()
		w.confirm(false)
		if w.next(proposed) > 0 && w.next(refused)+w.next(mayBeRefused) > 0 {
			w.refuse(false)
		}
		w.check()
	}
	unanswered := 0
	for _, e := range w.all {
		if e.answers == 0 {
			unanswered++
		}
	}
	if unanswered > 0 || !w.m.idle() {
		w.t.Errorf("%d of %d were never answered; idle: %v", unanswered, len(w.all), w.m.idle())
	}
}

func TestRandomLivesAnswerEveryCallOnceAndNothingTooEarly(t *testing.T) {
	t.Parallel()
	answered := 0
	for seed := range uint64(500) {
		w := &world{t: t, rng: rand.New(rand.NewPCG(seed, 0)), calls: make(map[*Call]*waiting)}
		for range 400 {
			w.step()
		}
		w.finish()
		answered += len(w.all)
		if t.Failed() {
			t.Fatalf("with seed %d", seed)
		}
	}
	t.Logf("%d calls and barriers", answered)
}
