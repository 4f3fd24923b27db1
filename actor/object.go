package actor

import (
	"errors"
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

// object is one object on its owner: its machine and writes under a lock. It implements Settler and
// Confirmer. While it has events to run, one goroutine runs them; when it has none, and no handler
// that has given up its turn, there is no goroutine.
type object struct {
	shard *shard
	class *Class
	ref   storage.ObjectRef

	mu       sync.Mutex
	m        machine
	w        writeSet
	now      *incarnation // the living one
	looking  bool         // a runner is about to see what runs next
	counted  bool         // in shard.busy
	use      storageUse
	charged  int           // bytes of the write set that count as the node's
	lastUsed time.Duration // by the Manager's clock
	requests requestLog
	indexed  int    // bytes of requests that count as the node's
	evict    bool   // as soon as it is idle
	ringing  bool   // an alarm's handler has begun and not returned
	warn     bool   // its PreShutdown is to run
	woken    bool   // nobody has taken a Wake yet
	waker    *event // runs Woken
	late     bool   // the handlers of code that was replaced have had their time
	outbox   outbox
}

// unlock is how every change of the machine ends: it gives the turn to whoever may have it, keeps
// the shard's count of busy objects, and tells who is to be told, without the lock.
func (o *object) unlock() {
	if o.superseding() {
		o.m.supersede()
	}
	answers, ended := o.m.take()
	if o.m.dropped > 0 {
		o.shard.manager.queued.Add(-int64(o.m.dropped))
		o.m.dropped = 0
	}
	why := o.m.why
	over := o.bury(ended)
	start := !o.looking && o.warnable()
	o.looking = o.looking || start
	if !o.looking && o.ready() {
		// The count is raised before the pause is looked at, so that a pause that begins now either
		// stops this start or waits for it.
		o.count(true)
		switch paused := o.shard.paused.Load(); {
		case paused:
		case o.m.resumable() != nil:
			o.m.resume().wake()
		default:
			start, o.looking = true, true
		}
	}
	o.count(o.looking || o.m.busy())
	o.charge()
	ordered := o.outbox.add(answers)
	var use storageUse
	if len(answers) > 0 {
		use, o.use = o.use, use
	}
	o.mu.Unlock()
	if len(answers) > 0 {
		o.countAnswers(answers, use)
	}
	for _, e := range ended {
		e.end(why)
	}
	over.tell()
	if ordered {
		o.sendInOrder()
	} else {
		o.send(answers)
	}
	if start {
		o.shard.manager.spawn(o)
	}
	o.shard.checkDrained()
}

// bury ends the incarnation that the machine has ended, and wakes its handlers that wait for their
// turn.
func (o *object) bury(ended []*event) (over ending) {
	if o.now != nil && !o.m.alive {
		over = o.now.finished(o.m.why)
		o.now, o.woken, o.waker, o.late = nil, false, nil, false
		o.w.discardOpen()
	}
	if o.m.lost {
		o.w, o.requests = writeSet{}, requestLog{}
	}
	for _, e := range ended {
		e.wake()
	}
	return over
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
	if o.shard.manager.indexed.Load() > indexBytesMax && !o.m.busy() && len(o.m.suspended) == 0 {
		o.requests = requestLog{}
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

// ready says that an event could begin, or have its turn back, but for a pause.
func (o *object) ready() bool {
	return (o.m.runnable() || o.m.resumable() != nil || o.wakeable()) && o.w.bytes() <= o.class.UnflushedBytesMax
}

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
		switch {
		case a.barrier != nil:
			a.barrier(a.result.Err)
		case a.call == nil: // It has its answer already.
		case a.call.Pipe != nil:
			o.endStream(a)
		default:
			o.shard.manager.done(a.call, a.result)
		}
	}
}

// run runs events until there is none to begin. Whoever wants its turn back goes first, in its own
// goroutine.
func (o *object) run() {
	for {
		now := o.shard.manager.now()
		o.mu.Lock()
		o.looking = false
		var e *event
		switch {
		case o.warnable():
			e = o.warning()
		case o.superseding(), o.m.resumable() != nil || !o.ready() || o.shard.paused.Load():
			o.lastUsed = now
			o.unlock()
			return
		case o.wakeable():
			e = o.waking()
		default:
			e = o.m.begin()
			e.times.begun = now
		}
		inc := o.now
		o.mu.Unlock()
		if !o.event(e, inc) {
			return
		}
	}
}

// event runs one event, in inc or a new incarnation, and closes its last segment. It says whether
// the caller may look for the next: when the event is over, somebody else does.
func (o *object) event(e *event, inc *incarnation) bool {
	err := o.expired(e)
	if err == nil {
		err = o.crowded(e)
	}
	if err != nil {
		return o.finish(e, err)
	}
	if inc == nil {
		inc, err = o.load(e)
	}
	if inc != nil {
		err = inc.run(e)
	}
	if err != nil {
		err = o.unreadable(err)
	}
	return o.finish(e, err)
}

// finish takes note that the event's handler has returned, or that the event has not run, by err.
func (o *object) finish(e *event, err error) bool {
	o.mu.Lock()
	defer o.unlock()
	if e.over {
		o.m.returned()
		return false
	}
	o.looking = true
	if err != nil {
		e.times.begun = 0
		o.m.skip(err)
	}
	return true
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
func (o *object) expired(e *event) error {
	call := e.call
	if now := o.shard.manager.began.Add(e.times.begun); !call.Deadline.IsZero() && !now.Before(call.Deadline) {
		return fault.New(fault.ObjectTimeout, "the call's deadline passed while it waited in the object's mailbox; it did not run").With(fault.LimitKey, fault.LimitMailbox)
	}
	if cause := call.canceledBy(); cause != nil {
		return status.FromContextError(cause).Err()
	}
	return nil
}

// ownError is what a handler returned, as its own. When it passes on what another call was refused
// with, that one did not run, but this one did: it must not be taken for a refusal.
func ownError(err error) error {
	if reason := fault.ReasonOf(err); !reason.Retryable() && reason != fault.DiskFull && reason != fault.Overloaded {
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

func (o *object) unknownMethod(c *Call) error {
	method := c.Method
	switch {
	case c.Pipe != nil && o.class.HasMethod(method):
		return fault.New(fault.UnknownMethod, "%s of class %s is no streaming method: call it", method, o.class.Name).With(fault.KindKey, fault.KindUnary)
	case c.Pipe == nil && o.class.HasStream(method):
		return fault.New(fault.UnknownMethod, "%s of class %s is a streaming method: open a stream", method, o.class.Name).With(fault.KindKey, fault.KindStream)
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
	case call.Values:
		err = decodeValues(call.Body, m)
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
	switch {
	case call.JSON:
		body, err = replyJSON.Marshal(m)
	case call.Values:
		body, err = encodeValue(m)
	default:
		body, err = proto.Marshal(m)
	}
	if err == nil {
		err = checkReply(call, body)
	}
	if err != nil {
		return nil, err
	}
	return body, nil
}

func checkReply(call *Call, body []byte) error {
	if len(body) > ReplyBytesMax {
		return status.Errorf(codes.Internal, "reply of %s: at most %d bytes, has %d; the call has run, and what it wrote is kept", call.Method, ReplyBytesMax, len(body))
	}
	return nil
}

func (o *object) reader() storage.ObjectReader { return o.shard.manager.log.Reader(o.shard.id, o.ref) }

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
	due := o.w.readable(seq)
	o.requests.readable(seq)
	o.unlock()
	if due != 0 {
		o.shard.manager.alarms.note(o.shard.id, o.class, o.ref, due)
	}
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
	o.unlock()
}
