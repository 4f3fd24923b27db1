package actor

import (
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/holdfast-io/holdfast/fault"
	"github.com/holdfast-io/holdfast/storage"
)

// object is one object in memory: its machine and writes under a lock, and the instance of the
// class. It implements Settler and Confirmer. While it has events to run, one goroutine runs them;
// when it has none there is no goroutine.
type object struct {
	shard *shard
	class *Class
	ref   storage.ObjectRef

	mu       sync.Mutex
	m        machine
	w        writeSet
	running  bool  // a runner is at work
	counted  bool  // in shard.busy
	charged  int   // bytes of the write set that count as the node's
	lastUsed int64 // Unix nanoseconds
	requests requestLog
	indexed  int  // bytes of requests that count as the node's
	evict    bool // as soon as it is idle

	// Of the turn: touched only by the runner.
	state     *State
	impl      any
	exists    bool // the record is there, with what is in flight
	nameless  bool // the record has no name
	commitSeq uint64
}

// unlock is how every change of the machine ends: it starts a runner if there is something to run,
// keeps the shard's count of busy objects, and answers who is to be answered, without the lock.
func (o *object) unlock() {
	start := false
	if !o.running && o.ready() {
		// The count is raised before the pause is looked at, so that a pause that begins now either
		// stops this start or waits for it.
		o.count(true)
		if start = !o.shard.paused.Load(); start {
			o.running = true
		}
	}
	o.count(o.running || o.m.busy())
	o.charge()
	answers := o.m.take()
	o.mu.Unlock()
	o.send(answers)
	if start {
		o.shard.manager.spawn(o)
	}
	o.shard.checkDrained()
}

// charge keeps the node's count of the bytes that wait in mailboxes and write sets.
func (o *object) charge() {
	if bytes := o.w.bytes(); bytes != o.charged {
		o.shard.manager.queued.Add(int64(bytes - o.charged))
		o.charged = bytes
	}
	if o.requests.indexBytes() == 0 && o.indexed == 0 {
		return
	}
	if o.shard.manager.indexed.Load() > indexBytesMax && !o.running && o.m.settled() {
		o.requests = requestLog{latest: o.requests.latest}
	}
	o.chargeIndex(o.requests.indexBytes())
}

// chargeIndex keeps the node's count of the bytes of indexes of request ids.
func (o *object) chargeIndex(bytes int) {
	if bytes != o.indexed {
		o.shard.manager.indexed.Add(int64(bytes - o.indexed))
		o.indexed = bytes
	}
}

// ready says that an event could begin, but for a pause.
func (o *object) ready() bool { return o.m.runnable() && o.w.bytes() <= UnflushedBytesMax }

func (o *object) count(busy bool) {
	if busy == o.counted {
		return
	}
	o.counted = busy
	if busy {
		o.shard.busy.Add(1)
	} else {
		o.shard.busy.Add(-1)
	}
}

func (o *object) send(answers []answer) {
	for _, a := range answers {
		if a.call != nil {
			o.shard.manager.done(a.call, a.result)
		} else {
			a.barrier(a.result.Err)
		}
	}
}

// run runs events until there is none to run.
func (o *object) run() {
	for {
		o.mu.Lock()
		if !o.ready() || o.shard.paused.Load() {
			o.running = false
			o.lastUsed = time.Now().UnixNano()
			if o.m.lost {
				o.w = writeSet{}
				o.requests = requestLog{}
			}
			o.unlock()
			return
		}
		call := o.m.begin()
		alive := o.m.alive
		o.mu.Unlock()
		o.event(call, alive)
	}
}

// event runs one event and closes its segment.
func (o *object) event(call *Call, alive bool) {
	if err := expired(call); err != nil {
		o.skip(err)
		return
	}
	if !alive {
		if err := o.load(); err != nil {
			o.skip(o.unreadable(err))
			return
		}
	}
	if call.Named && o.state.name == nil { // Until now it was only ever called by id.
		o.state.name = cloneName(call)
	}
	result, reset, err := o.answer(call)
	switch {
	case err != nil:
		o.skip(o.unreadable(err))
		return
	case reset != nil:
		o.reset(result, reset)
		return
	}
	seg, err := o.close(call, &result, func(wrote, sole bool) gate { return o.m.finish(result, wrote, sole) })
	if err != nil {
		o.reset(Result{Err: err}, errOwnerChanged())
		return
	}
	o.propose(seg)
	o.afterTurn()
}

// answer runs an event, unless one of its request id has run. The error is one of reading; nothing
// has run then.
func (o *object) answer(call *Call) (result Result, reset, err error) {
	if call.RequestID != "" {
		result, is, err := o.repeated(call)
		if is || err != nil {
			return result, nil, err
		}
	}
	result, reset = o.handle(call)
	return result, reset, nil
}

// reset ends the incarnation with the running event: its open segment is dropped.
func (o *object) reset(result Result, queued error) {
	o.mu.Lock()
	o.w.discardOpen()
	o.mu.Unlock()
	// With nothing open there is nothing to propose, and nothing that fails.
	_, _ = o.close(nil, nil, func(_, sole bool) gate { return o.m.die(result, queued, sole) })
	o.state, o.impl = nil, nil
	o.shard.manager.counters.resets.Add(1)
	o.afterTurn()
}

// afterTurn sends what the turn has answered; the runner goes on.
func (o *object) afterTurn() {
	o.mu.Lock()
	answers := o.m.take()
	o.mu.Unlock()
	o.send(answers)
}

func (o *object) skip(err error) {
	o.mu.Lock()
	o.m.skip(err)
	answers := o.m.take()
	o.mu.Unlock()
	o.send(answers)
}

// unreadable reports a store that is damaged, and returns what is told instead of what was to be read.
func (o *object) unreadable(err error) error {
	if !errors.Is(err, storage.ErrCorrupt) {
		return err
	}
	o.shard.manager.log.Damaged(o.shard.id, err)
	return fault.New(fault.NoOwner, "the owner's copy of the object is damaged, and another is about to take over: %v", err)
}

// expired answers an event that nobody waits for any more, without running it.
func expired(call *Call) error {
	if !call.Deadline.IsZero() && !time.Now().Before(call.Deadline) {
		return fault.New(fault.ObjectTimeout, "the call's deadline passed while it waited in the object's mailbox; it did not run")
	}
	if cause := call.canceledBy(); cause != nil {
		return status.FromContextError(cause).Err()
	}
	return nil
}

// load begins a new incarnation: every segment of the last one is readable or dead, so the store
// has all there is.
func (o *object) load() error {
	r := o.reader()
	raw, exists, err := r.Get(storage.KindFence, nil)
	if err != nil {
		return fmt.Errorf("load object: %w", err)
	}
	var fence storage.Fence
	if exists {
		if fence, err = storage.DecodeFence(raw); err != nil {
			return fmt.Errorf("load object: %w", err)
		}
	}
	state := &State{o: o, storage: Storage{o}}
	if exists {
		raw, ok, err := r.Get(storage.KindRecord, nil)
		if err != nil {
			return fmt.Errorf("load object: %w", err)
		}
		if ok {
			record, err := storage.DecodeRecord(raw)
			if err != nil {
				return fmt.Errorf("load object: %w", err)
			}
			state.name = record.Name
		}
	}
	o.shard.manager.clock.observe(fence.Time)
	o.nameless = exists && state.name == nil
	o.state, o.impl, o.exists, o.commitSeq = state, nil, exists, fence.CommitSequence
	o.mu.Lock()
	o.w = writeSet{}
	o.requests = requestLog{latest: fence.Time}
	o.m.born(o.shard.term.Load(), o.shard.incarnations.Add(1))
	o.mu.Unlock()
	o.shard.manager.counters.activations.Add(1)
	return nil
}

// handle calls the class. reset is not nil when the incarnation is over: what those that wait
// behind this event are told.
func (o *object) handle(call *Call) (result Result, reset error) {
	ctx := newEventContext(o.shard.manager.ctx, call)
	defer ctx.close()
	defer func() {
		p := recover()
		if p == nil {
			return
		}
		if a, ok := p.(abortError); ok {
			err := fault.New(fault.ObjectReset, "the object was reset: %s", a.reason)
			result, reset = Result{Err: err}, err
			return
		}
		o.state.Logger().Error("handler panicked", slog.String("method", call.Method), slog.Any("panic", p), slog.String("stack", string(debug.Stack())))
		result = Result{Err: fault.New(fault.Panic, "%s of class %s panicked: %v; the object was reset", call.Method, o.class.Name, p)}
		reset = fault.New(fault.ObjectReset, "the object was reset because an event before this one panicked; this one did not run")
	}()
	method, ok := o.class.methods[call.Method]
	if !ok {
		return Result{Err: o.unknownMethod(call.Method)}, nil
	}
	if o.impl == nil {
		o.impl = o.class.construct(o.state)
	}
	reply, err := method.Handler(o.impl, ctx, func(into any) error { return decodeRequest(call, into) }, nil)
	if err != nil {
		return Result{Err: ownError(err)}, nil
	}
	body, err := encodeReply(call, reply)
	return Result{Body: body, Err: err}, nil
}

// ownError is what a handler returned, as its own. When it passes on what another call was refused
// with, that one did not run, but this one did: it must not be taken for a refusal.
func ownError(err error) error {
	if !fault.ReasonOf(err).Retryable() {
		return err
	}
	return status.Error(status.Code(err), status.Convert(err).Message())
}

// ReplyBytesMax bounds an encoded reply, as calls are bounded.
const ReplyBytesMax = 32 << 20

func cloneName(call *Call) *string {
	name := strings.Clone(call.Name) // Not to keep the call.
	return &name
}

func (o *object) unknownMethod(method string) error {
	if o.class.streams[method] {
		return fault.New(fault.UnknownMethod, "%s of class %s is a streaming method; streaming methods are not supported yet", method, o.class.Name)
	}
	return fault.New(fault.UnknownMethod, "class %s has no method %q", o.class.Name, method)
}

func decodeRequest(call *Call, into any) error {
	m, ok := into.(proto.Message)
	if !ok {
		return status.Errorf(codes.Internal, "request type %T is no protobuf message", into)
	}
	var err error
	switch {
	case !call.JSON:
		err = proto.Unmarshal(call.Body, m)
	case len(call.Body) > 0:
		err = protojson.Unmarshal(call.Body, m)
	}
	if err != nil {
		return fault.New(fault.InvalidArgument, "request: not a %s: %v", m.ProtoReflect().Descriptor().FullName(), err)
	}
	return nil
}

func encodeReply(call *Call, reply any) ([]byte, error) {
	m, ok := reply.(proto.Message)
	if !ok {
		return nil, status.Errorf(codes.Internal, "reply type %T is no protobuf message", reply)
	}
	var body []byte
	var err error
	if call.JSON {
		body, err = protojson.MarshalOptions{EmitDefaultValues: true}.Marshal(m)
	} else {
		body, err = proto.Marshal(m)
	}
	if err == nil && len(body) > ReplyBytesMax {
		err = status.Errorf(codes.Internal, "reply of %s: at most %d bytes, has %d; the call has run, and what it wrote is kept", call.Method, ReplyBytesMax, len(body))
	}
	if err != nil {
		return nil, err
	}
	return body, nil
}

// close closes the open segment of a call and puts its event, or barrier, at the output gate. It
// returns what is to be proposed, if anything is. result is nil unless the call is through.
func (o *object) close(call *Call, result *Result, wait func(wrote, sole bool) gate) (*storage.Segment, error) {
	record, wrote, err := o.recordOps()
	if err != nil {
		return nil, err
	}
	identified := call != nil && call.RequestID != "" && o.exists
	if identified && result != nil && call.claim.made {
		wrote = true // What was claimed has to be completed.
	}
	log := o.shard.manager.log
	sole := !wrote && log.ConfirmNow(o.shard.id, o.m.term)
	o.mu.Lock()
	if !wrote {
		o.w.discardOpen()
	}
	g := wait(wrote, sole)
	token, term := o.m.token, o.m.term
	var seg *storage.Segment
	switch g {
	case gatePropose:
		o.commitSeq++
		ops := append(slices.Clip(o.w.closeSegment(o.m.seq)), record...)
		now := o.shard.manager.clock.now()
		if identified {
			request := o.requests.add(o.m.seq, newRequest(call, result, now), &call.claim)
			o.w.charge(len(request[len(request)-1].Value))
			ops = append(request, ops...) // As their keys are ordered.
		}
		o.requests.latest = now
		seg = &storage.Segment{
			Object: o.ref, Term: term, Incarnation: o.m.incarnation, Sequence: o.m.seq,
			CommitSequence: o.commitSeq, Time: now, Ops: ops,
		}
	case gateNone, gateConfirm:
		o.w.discardOpen() // The incarnation is over, or there is nothing in it.
	}
	o.mu.Unlock()
	if g == gateConfirm {
		log.Confirm(o.shard.id, term, o, token)
	}
	return seg, nil
}

func (o *object) propose(seg *storage.Segment) {
	if seg != nil {
		o.shard.manager.log.Propose(o.shard.id, seg, o)
	}
}

// recordOps says what the open segment does to the object's record, and whether the segment writes
// anything at all. An object exists while it has data: its first write makes the record, and when
// the last key goes so does the record.
func (o *object) recordOps() ([]storage.Op, bool, error) {
	// Only the turn writes into the open segment: reading it here needs no lock.
	ops := o.w.ops
	if len(ops) == 0 {
		return nil, false, nil
	}
	sets, deletes := 0, 0
	for i := range ops {
		if ops[i].Op == storage.OpSet {
			sets++
		} else {
			deletes++
		}
	}
	empty := false
	if deletes > 0 {
		var err error
		if empty, err = o.isEmpty(); err != nil {
			return nil, false, err
		}
	}
	switch {
	case empty && !o.exists, !o.exists && sets == 0:
		return nil, false, nil // Nothing was there, and nothing is.
	case empty:
		ops, err := o.endRequests()
		if err != nil {
			return nil, false, err
		}
		o.exists = false
		return append(ops, storage.Op{Op: storage.OpDelete, Kind: storage.KindRecord}), true, nil
	case !o.exists, o.nameless && o.state.name != nil:
		o.exists, o.nameless = true, o.state.name == nil
		raw, err := storage.Record{Name: o.state.name, Class: o.class.Name}.Encode()
		if err != nil {
			return nil, false, err
		}
		return []storage.Op{{Op: storage.OpSet, Kind: storage.KindRecord, Value: raw}}, true, nil
	}
	return nil, true, nil
}

func (o *object) isEmpty() (bool, error) {
	empty := true
	err := (&Storage{o}).list(ListOptions{Limit: 1}, func(Entry, error) bool {
		empty = false
		return false
	})
	return empty, err
}

// barrier is State.Confirm: it closes the segment that the running event has written so far.
func (o *object) barrier(fn func(error)) error {
	if err := o.turn(); err != nil {
		return err
	}
	seg, err := o.close(o.m.running, nil, func(wrote, sole bool) gate { return o.m.barrier(fn, wrote, sole) })
	if err != nil {
		return err
	}
	o.propose(seg)
	o.afterTurn()
	return nil
}

// turn says whether the object's storage may be used now.
func (o *object) turn() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.turnLocked()
}

func (o *object) turnLocked() error {
	switch {
	case o.m.running == nil:
		return ErrNoTurn
	case o.m.doom != nil:
		return o.m.doom
	}
	return nil
}

func (o *object) reader() storage.ObjectReader { return o.shard.manager.log.Reader(o.shard.id, o.ref) }

// get reads a key through what is not yet in the store.
func (o *object) get(key string) ([]byte, bool, error) {
	o.mu.Lock()
	if err := o.turnLocked(); err != nil {
		o.mu.Unlock()
		return nil, false, err
	}
	v, exists, known := o.w.get(key)
	version := o.w.version
	o.mu.Unlock()
	if known {
		return v, exists, nil
	}
	v, exists, err := o.reader().Get(storage.KindKV, []byte(key))
	if err != nil {
		return nil, false, o.unreadable(err)
	}
	o.mu.Lock()
	o.w.remember(key, v, exists, version)
	o.mu.Unlock()
	return v, exists, nil
}

func (o *object) write(op storage.Op) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if err := o.turnLocked(); err != nil {
		return err
	}
	err := o.w.add(op)
	o.charge()
	return err
}

// overlay returns what lies over the store in [lo, hi).
func (o *object) overlay(lo, hi []byte) ([]overlaid, []rangeDelete, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if err := o.turnLocked(); err != nil {
		return nil, nil, err
	}
	over, hidden := o.w.view(lo, hi)
	return over, hidden, nil
}

// Committed implements Settler.
func (o *object) Committed(seq uint64) {
	o.mu.Lock()
	o.m.commit(seq)
	o.unlock()
}

// Readable implements Settler.
func (o *object) Readable(seq uint64) {
	o.mu.Lock()
	o.m.read(seq)
	o.w.readable(seq)
	o.requests.readable(seq)
	o.unlock()
}

// Refused implements Settler.
func (o *object) Refused(seq uint64, unknown bool) {
	o.mu.Lock()
	o.m.refuse(seq, unknown)
	o.unlock()
}

// Confirmed implements Confirmer.
func (o *object) Confirmed(token uint64, err error) {
	o.mu.Lock()
	o.m.confirm(token, err)
	o.unlock()
}

// lose ends the object: it is owned elsewhere.
func (o *object) lose() {
	o.mu.Lock()
	o.m.lose()
	running := o.m.running
	if !o.running {
		o.w = writeSet{} // Else it is the runner's.
		o.requests = requestLog{}
	}
	o.unlock()
	if running != nil {
		running.Cancel(errSuperseded)
	}
}

var errSuperseded = errors.New("this node no longer owns the object")
