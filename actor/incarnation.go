package actor

import (
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/holdfast-io/holdfast/fault"
	"github.com/holdfast-io/holdfast/storage"
)

// incarnation is one life of an object in memory: the instance of its class, and what the store
// said when it was loaded.
type incarnation struct {
	*object

	term, number uint64
	state        *State
	edition      *edition

	// code is held by the handler whose code runs, and so guards what the class keeps in memory. The
	// turn sees to it that nobody waits for it; when the incarnation is over there are no turns, and
	// it keeps apart those handlers that have not returned.
	code sync.Mutex
	// closing is held while a segment is closed, and while one is added to: what a goroutine of the
	// handler writes while another closes the segment belongs to the next.
	closing sync.Mutex

	// Of the turn.
	impl      any
	exists    bool                // the record is there, with what is in flight
	nameless  bool                // the record has no name
	ran       uint64              // number of the code, as the record has it
	mark      *storage.ImportMark // of the record; nil: the object is whole
	marks     bool                // the open segment is a part of an import
	commitSeq uint64

	// Guarded by object.mu.
	alarm   alarmState
	over    error // why it has ended, if it has
	listens bool  // its instance is a PreShutdowner
	hears   bool  // its instance is a Woken, or not known yet
	wakes   uint64
	onEnd   []func()
	ctx     context.Context //nolint:containedctx // the incarnation's lifetime, once somebody asks for it
	cancel  context.CancelCauseFunc
	calls   map[uint64]*sentCall // of Stub.Send, by number, that have no answer
	// unclaimed are events of a dynamic class that have given up their turn, and whose request ids are not
	// recorded.
	unclaimed []*event
	// transactions are those that are open, each within the one before.
	transactions []*transaction
	// waits are the events in a Wait, and unasked how often they were not asked lately.
	waits   []*event
	unasked int
}

// load begins a new incarnation for an event: every segment of the last one is readable or dead, so
// the store has all there is. It returns nil when the event is over.
func (o *object) load(e *event) (*incarnation, error) {
	edition := o.class.acquire()
	if edition == nil {
		return nil, o.shard.manager.noClass(o.class.Name)
	}
	inc, err := o.loadEdition(e, edition)
	if inc == nil {
		edition.release()
	}
	return inc, err
}

// loadEdition is load, to run an edition.
func (o *object) loadEdition(e *event, edition *edition) (*incarnation, error) {
	r := o.reader()
	stored, err := r.Fence()
	if err != nil {
		return nil, fmt.Errorf("load object: %w", err)
	}
	if stored == nil { // Of an object that has been written there would be one, but for this.
		ended, err := r.ClassEnded()
		if err != nil {
			return nil, fmt.Errorf("load object: %w", err)
		}
		if ended {
			return nil, fault.New(fault.UnknownClass, "class %q: it was deleted, with all its objects", o.class.Name)
		}
	}
	var fence storage.Fence
	inc := &incarnation{object: o, edition: edition, exists: stored != nil, hears: true}
	inc.state = &State{o: inc, storage: Storage{o: inc}}
	if inc.exists {
		fence = *stored
		record, err := r.Record()
		if err != nil {
			return nil, fmt.Errorf("load object: %w", err)
		}
		if record != nil {
			inc.state.name, inc.mark, inc.ran = record.Name, record.Import, record.CodeVersion
		}
		if inc.ran > edition.of.Number {
			return nil, o.behind(inc.ran, edition.of.Number)
		}
	}
	inc.commitSeq, inc.nameless = fence.CommitSequence, inc.exists && inc.state.name == nil
	o.shard.manager.clock.observe(fence.Time)
	inc.term, inc.number = o.shard.term.Load(), o.shard.incarnations.Add(1)
	o.mu.Lock()
	defer o.mu.Unlock()
	if e.over {
		return nil, nil //nolint:nilnil // documented
	}
	o.w, o.now = writeSet{}, inc
	o.requests = requestLog{}
	o.m.born(inc.term, inc.number)
	o.class.tally.count(o.shard.id, func(t *Tally) { t.Activations++ })
	return inc, nil
}

// behind refuses to run an object under an earlier number of its class's code than it has run under.
func (o *object) behind(ran, have uint64) error {
	if fn := o.shard.manager.cfg.Behind; fn != nil {
		fn(o.class.Name, ran)
	}
	return fault.New(fault.NoOwner, "the object has run under number %d of the code of class %s, and its owner has number %d: it is about to have that too", ran, o.class.Name, have)
}

// run runs an event's handler and closes its last segment, unless one of its request id has run, or
// is running. The error is one of reading; nothing has run then.
func (i *incarnation) run(e *event) error {
	if e.call.Named && i.state.name == nil { // Until now it was only ever called by id.
		i.mu.Lock() // Calls that others make in a Yield name the object.
		i.state.name = cloneName(e.call)
		i.mu.Unlock()
	}
	var result Result
	ran := false
	if e.call.RequestID != "" && e.call.Pipe == nil {
		if i.follow(e) {
			return nil
		}
		var err error
		if result, ran, err = i.repeated(e.call); err != nil {
			return err
		}
	}
	if !ran {
		var ok bool
		if e.call.Span != nil {
			i.traceBegun(e)
		}
		result, ok = i.handle(e)
		if e.span != nil {
			e.traceReturned(result, ok)
		}
		if !ok {
			return nil
		}
		if e.depth > 0 {
			i.reset(e, fault.New(fault.ObjectReset, "the object was reset: %s returned within a section that Block began", e.call.Method))
			return nil
		}
	}
	returned := i.shard.manager.now()
	err := i.close(e, &result, func(wrote writes, sole bool) gate {
		i.looking = true
		e.times.returned = returned
		return i.m.finish(result, wrote, sole)
	})
	switch {
	case err != nil:
		i.die(death{by: e, result: Result{Err: err}, begun: errOwnerChanged(), queued: errOwnerChanged()})
	case e.call.imported != nil && result.Err == nil && i.impl != nil:
		i.supplanted()
	}
	return nil
}

// handle calls the class. It returns false when the event is over.
func (i *incarnation) handle(e *event) (result Result, ok bool) {
	if e.call.alarm != nil {
		e.call.Deadline = time.Now().Add(i.class.Alarms.RunLimit) // From when it begins.
	}
	ctx := newEventContext(i.shard.manager.ctx, e.call)
	defer ctx.close()
	i.code.Lock()
	defer i.code.Unlock()
	defer func() {
		if p := recover(); p != nil {
			i.panicked(e, p)
			ok = false
		}
	}()
	switch {
	case e.call.imported != nil:
		return Result{Err: i.handleImport(e.call.imported)}, true
	case i.mark != nil:
		return Result{Err: i.errUnfinished()}, true
	}
	if e.call.alarm != nil {
		if result, ok = i.handleAlarm(ctx, e); ok {
			i.poll()
		}
		return result, ok
	}
	if e.call.preShutdown {
		i.shutdown(ctx)
		i.poll()
		return Result{}, true
	}
	if e.call.woken {
		i.wake(ctx, e)
		i.poll()
		return Result{}, true
	}
	if e.call.Existing && !i.exists {
		return Result{Err: fault.New(fault.UnknownObject, "object %s does not exist: it has no stored data; nothing ran",
			label(i.class.Name, e.call.Name, e.call.Named, i.ref.ID))}, true
	}
	method, err := i.method(e)
	if err != nil {
		return Result{Err: err}, true
	}
	if !i.constructed(e) {
		return Result{}, false
	}
	if most := i.class.CallTimeMax; most > 0 && e.call.Pipe == nil {
		defer i.limit(e, e.call.Method, most)()
	}
	body, err := method(i, ctx, e)
	i.poll()
	return Result{Body: body, Err: err}, true
}

// constructed sees to it that there is an instance of the class. It returns false when the event is over.
func (i *incarnation) constructed(e *event) bool {
	if i.impl != nil {
		return true
	}
	impl := i.edition.of.construct(i.state)
	if err := i.initialize(e, impl); err != nil {
		return false
	}
	i.impl = impl
	i.mu.Lock()
	defer i.mu.Unlock()
	_, i.listens = impl.(PreShutdowner)
	_, i.hears = impl.(Woken)
	return true
}

// method returns what runs an event: it calls the class, and returns the reply.
func (i *incarnation) method(e *event) (run func(*incarnation, *eventContext, *event) ([]byte, error), err error) {
	name := e.call.Method
	switch {
	case e.call.Pipe == nil && i.class.HasMethod(name):
		return (*incarnation).answer, nil
	case e.call.Pipe != nil && i.class.HasStream(name):
		if e.call.RequestID != "" {
			return nil, fault.New(fault.InvalidArgument, "holdfast-request-id: %s is a streaming method, which takes none: have the messages say what they repeat", name)
		}
		return (*incarnation).serve, nil
	}
	return nil, i.unknownMethod(e.call)
}

// answer runs an event of a method that takes one message and returns one.
func (i *incarnation) answer(ctx *eventContext, e *event) ([]byte, error) {
	if impl, ok := i.impl.(Dynamic); ok && i.class.dynamic {
		return i.invoke(ctx, e, impl)
	}
	reply, err := i.class.methods[e.call.Method].Handler(i.impl, ctx, func(into any) error { return decodeRequest(e.call, into) }, nil)
	if err != nil {
		return nil, ownError(err)
	}
	return encodeReply(e.call, reply)
}

// panicked ends the incarnation because an event's handler panicked.
func (i *incarnation) panicked(e *event, p any) {
	if _, ok := p.(abortError); ok {
		return
	}
	method := e.call.Method
	i.state.Logger().Error("handler panicked", slog.String("method", method), slog.Any("panic", p), slog.String("stack", string(debug.Stack())))
	i.die(death{
		by:     e,
		result: Result{Err: fault.New(fault.Panic, "%s of class %s panicked: %v; the object was reset", method, i.class.Name, p)},
		begun:  fault.New(fault.ObjectReset, "the object was reset because another event panicked while this one had given up its turn; call again if what it does may be done twice"),
		queued: fault.New(fault.ObjectReset, "the object was reset because an event before this one panicked; this one did not run"),
	})
}

// die ends the incarnation, if it is not over yet.
func (i *incarnation) die(d death) {
	log := i.shard.manager.log
	sole := log.ConfirmNow(i.shard.id, i.term)
	i.mu.Lock()
	if i.over != nil {
		i.mu.Unlock()
		return
	}
	seg := i.failAlarm(&d)
	g := i.m.die(d, sole)
	token := i.m.token
	i.class.tally.count(i.shard.id, func(t *Tally) { t.Resets++ })
	i.unlock()
	if seg != nil {
		log.Propose(i.shard.id, seg, i.object)
	}
	if g&gateConfirm != 0 {
		log.Confirm(i.shard.id, i.term, i.object, token)
	}
}

// close closes the open segment of the event that has the turn and puts the event, or a barrier, at
// the output gate. An error says that it did not. result is the event's, nil for a barrier.
func (i *incarnation) close(e *event, result *Result, wait func(wrote writes, sole bool) gate) error {
	i.closing.Lock()
	defer i.closing.Unlock()
	i.mu.Lock()
	err := i.holds(e)
	if err != nil {
		i.mu.Unlock()
		return err
	}
	i.abandonTransactions()
	ops, wrote := i.w.ops, i.w.wrote()
	i.mu.Unlock()
	record, wrote, err := i.recordOps(ops, wrote)
	identified := e.call.RequestID != "" && i.exists
	if identified && result != nil && e.claim.made {
		wrote = confirmedWrites // What was claimed has to be completed.
	}
	var alarms closing
	if err == nil && wrote != noWrites {
		alarms, err = i.closeAlarms()
	}
	log := i.shard.manager.log
	sole := err == nil && wrote != confirmedWrites && log.ConfirmNow(i.shard.id, i.term)
	i.mu.Lock()
	switch held := i.holds(e); {
	case held != nil:
		err = held
	case err == nil && wrote != noWrites && i.shard.full.Load():
		err = errFull(e)
	}
	if err != nil {
		i.mu.Unlock()
		return err
	}
	i.abandonTransactions() // Nothing that was begun meanwhile may outlive the segment.
	if result != nil && len(i.unclaimed) > 0 {
		i.unclaimed = slices.DeleteFunc(i.unclaimed, func(other *event) bool { return other == e })
	}
	if wrote == noWrites {
		i.w.discardOpen()
	}
	g := wait(wrote, sole)
	token := i.m.token
	var seg *storage.Segment
	if g&gatePropose != 0 {
		seg = i.segment(record, &alarms)
		if identified {
			i.record(seg, e, result)
		}
		i.claimOthers(e, seg)
		if e.call.Span != nil {
			i.traceCommit(e, seg)
		}
	}
	i.alarm.mark = 0
	i.mu.Unlock()
	if g&gatePropose != 0 {
		log.Propose(i.shard.id, seg, i.object)
	}
	if g&gateConfirm != 0 {
		log.Confirm(i.shard.id, i.term, i.object, token)
	}
	return nil
}

// change locks the open segment to be added to, and returns what unlocks it.
func (i *incarnation) change() (unlock func()) {
	i.closing.Lock()
	i.mu.Lock()
	return func() {
		i.mu.Unlock()
		i.closing.Unlock()
	}
}

// record records an event's request id in a segment: with its result, or, when that is nil, as a claim. The
// caller holds the lock.
func (i *incarnation) record(seg *storage.Segment, e *event, result *Result) {
	request := i.requests.add(i.m.seq, newRequest(e.call, result, seg.Time), &e.claim, i.shard.manager.seconds())
	i.w.charge(len(request[len(request)-1].Value))
	seg.Ops = append(request, seg.Ops...) // As their keys are ordered.
}

// claimOthers records the request ids of the other events whose writes the segment may have. The caller
// holds the lock.
func (i *incarnation) claimOthers(e *event, seg *storage.Segment) {
	kept := i.unclaimed[:0]
	for _, other := range i.unclaimed {
		switch {
		case other.claim.made, other.over:
		case other == e, !i.exists:
			kept = append(kept, other)
		default:
			i.record(seg, other, nil)
		}
	}
	clear(i.unclaimed[len(kept):])
	i.unclaimed = kept
}

// segment is what the open segment, which it moves in flight, is proposed as: with what it does to the
// object's record and alarms. The caller holds the lock.
func (i *incarnation) segment(record []storage.Op, alarms *closing) *storage.Segment {
	i.commitSeq++
	ops := append(slices.Clip(i.w.closeSegment(i.m.seq, alarms.due)), record...)
	ops = append(ops, alarms.index...)
	i.use.propose(ops)
	if alarms.touched {
		i.alarm = alarms.next
	}
	return &storage.Segment{
		Object: i.ref, Term: i.term, Incarnation: i.number, Sequence: i.m.seq,
		CommitSequence: i.commitSeq, Time: i.shard.manager.clock.now(), Ops: ops,
	}
}

// errFull refuses what an event wrote, before anything of it is proposed.
func errFull(e *event) error {
	if e.proposed != 0 || e.acted || e.call.Pipe != nil { // That stays.
		return fault.New(fault.ObjectReset, "the object was reset: the disks that keep it are nearly full; what this event wrote since its last Confirm or Yield was not made")
	}
	return fault.New(fault.DiskFull, "the disks that keep the object are nearly full, and the call was not made: make room, or add nodes; 'holdfast status' says which")
}

// recordOps says what the open segment, of these operations, does to the object's record, and what the
// segment writes. An object exists while it has data or an alarm: its first write makes the record, and
// when the last key goes so does the record.
func (i *incarnation) recordOps(ops []storage.Op, wrote writes) ([]storage.Op, writes, error) {
	switch {
	case i.marks: // Also of a last part that has nothing but that it is the last.
		return i.importedOps()
	case len(ops) == 0:
		return nil, noWrites, nil
	}
	sets, keySets, keyDeletes := 0, 0, 0
	for n := range ops {
		switch isKey := ops[n].Kind == storage.KindKV; {
		case ops[n].Op == storage.OpSet:
			sets++
			if isKey {
				keySets++
			}
		case isKey:
			keyDeletes++
		}
	}
	empty := false
	if sets < len(ops) && (keySets == 0 || keyDeletes > 0) {
		var err error
		if empty, err = i.isEmpty(); err != nil {
			return nil, noWrites, err
		}
	}
	switch {
	case empty && !i.exists, !i.exists && sets == 0:
		return nil, noWrites, nil // Nothing was there, and nothing is.
	case empty:
		ops, err := i.endRequests()
		if err != nil {
			return nil, noWrites, err
		}
		i.exists = false
		return append(ops, storage.Op{Op: storage.OpDelete, Kind: storage.KindRecord}), wrote, nil
	case !i.exists, i.nameless && i.state.name != nil, i.ran < i.edition.of.Number:
		i.exists, i.nameless, i.ran = true, i.state.name == nil, i.edition.of.Number
		raw, err := storage.Record{Name: i.state.name, Class: i.class.Name, CodeVersion: i.ran}.Encode()
		if err != nil {
			return nil, noWrites, err
		}
		return []storage.Op{{Op: storage.OpSet, Kind: storage.KindRecord, Value: raw}}, wrote, nil
	}
	return nil, wrote, nil
}

func (i *incarnation) isEmpty() (bool, error) {
	if has, err := i.hasAlarms(); has || err != nil {
		return false, err
	}
	empty := true
	err := i.state.storage.list(ListOptions{Limit: 1}, func(Entry, error) bool {
		empty = false
		return false
	})
	return empty, err
}

// turn says whether the object's storage may be used now. The caller holds the lock.
func (i *incarnation) turn() error {
	switch {
	case i.over != nil:
		return i.over
	case i.m.running == nil:
		return ErrNoTurn
	}
	return nil
}
