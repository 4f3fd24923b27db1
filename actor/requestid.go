package actor

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash/maphash"
	"slices"
	"time"

	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/holdfast-io/holdfast/fault"
	"github.com/holdfast-io/holdfast/storage"
)

// RequestIDKeptFor is how long an object remembers a request id, at least: since the id was recorded, or
// since the incarnation began to look at ids, whichever is later. It is measured by this node's monotonic
// clock. The times that segments carry come from the wall clocks of several nodes, and one that is ahead
// would have the next owner forget an id that was recorded a moment ago, and run its call twice.
const RequestIDKeptFor = 10 * time.Minute

// Bounds of what is done and kept for request ids besides those of what is stored.
const (
	// requestsExpiredMax is how many expired ids are deleted with one segment.
	requestsExpiredMax = 4
	// indexBytesMax bounds the indexes of a node. What is over it is read anew for the next id.
	indexBytesMax = 64 << 20
)

// requestLog is what an object knows of the calls that carried a request id: where in its store each
// is, and those that the store does not show yet. Like machine it is the rules and nothing else: no
// I/O, no clock, and driven under the object's lock.
//
// The rules:
//
//   - An event that writes nothing records nothing.
//   - An event of one segment is recorded with its answer in that segment. One of several claims its id
//     with the first, and completes it with the last.
//   - An id that is recorded never runs again: its call is answered with what is recorded, or told that
//     it was interrupted. What is not recorded has not written.
//   - What an incarnation has recorded and could not commit ends with it.
//   - At most storage.RequestSlots ids of at most storage.MaxRequestsBytes are kept, the newest, and
//     none for which RequestIDKeptFor has passed here, in seconds of the node's monotonic clock, since it
//     was recorded or loaded.
type requestLog struct {
	loaded bool
	head   uint16 // slot of the oldest; the others follow, one slot after another
	kept   []keptRequest
	tags   []byte // of the same, apart, because a byte is found faster
	bytes  int
	// inFlight is what the store does not show yet, in order.
	inFlight []requestInFlight
}

// keptRequest is what is in memory of an id: enough to know that it is not another.
type keptRequest struct {
	hash    uint32
	seconds uint32 // when it was recorded or loaded, by the node's monotonic clock
	bytes   uint32 // as stored
}

const keptRequestBytes = 12

type requestInFlight struct {
	seq    uint64
	slot   uint16
	record storage.Request
}

var requestSeed = maphash.MakeSeed()

func hashRequest(id string) (hash uint32, tag byte) {
	h := maphash.String(requestSeed, id)
	return uint32(h), byte(h >> 32) //nolint:gosec // parts of it
}

// load begins with what the store shows, in any order of time. now is when it was read.
func (l *requestLog) load(stored []storedRequest, now uint32) error {
	slices.SortFunc(stored, func(a, b storedRequest) int {
		if a.time < b.time {
			return -1
		}
		return 1
	})
	*l = requestLog{loaded: true}
	for i, s := range stored {
		if i == 0 {
			l.head = s.slot
		} else if s.slot != l.slot(i) {
			return fmt.Errorf("%w: request id in slot %d, of which the one before is in slot %d", storage.ErrCorrupt, s.slot, l.slot(i-1))
		}
		s.seconds = now
		l.push(s.keptRequest, s.tag)
	}
	return nil
}

// storedRequest is a request id as it is read from the store.
type storedRequest struct {
	keptRequest

	tag  byte
	time uint64
	slot uint16
}

func newStoredRequest(slot uint16, r *storage.Request) storedRequest {
	k, tag := newKeptRequest(r, 0)
	return storedRequest{k, tag, r.Time, slot}
}

func newKeptRequest(r *storage.Request, seconds uint32) (k keptRequest, tag byte) {
	k.hash, tag = hashRequest(r.ID)
	k.seconds, k.bytes = seconds, uint32(r.Size()) //nolint:gosec // at most MaxRequestsBytes
	return k, tag
}

// push makes a request the newest.
func (l *requestLog) push(k keptRequest, tag byte) {
	l.kept, l.tags = append(l.kept, k), append(l.tags, tag)
	l.bytes += int(k.bytes)
}

// pop forgets the oldest.
func (l *requestLog) pop() {
	l.bytes -= int(l.kept[0].bytes)
	l.kept, l.tags = l.kept[1:], l.tags[1:]
	l.head = l.slot(1)
}

// slot returns that of the i-th oldest.
func (l *requestLog) slot(i int) uint16 {
	return uint16((int(l.head) + i) % storage.RequestSlots) //nolint:gosec // below RequestSlots
}

// index returns which oldest is in a slot; at least len(kept) when none is.
func (l *requestLog) index(slot uint16) int {
	return (int(slot) - int(l.head) + storage.RequestSlots) % storage.RequestSlots
}

func (k *keptRequest) expired(now uint32) bool {
	return now > k.seconds+uint32(RequestIDKeptFor/time.Second)
}

// find returns where an id is recorded, the newest first: hardly ever anywhere else.
func (l *requestLog) find(id string, now uint32) (slots []uint16) {
	hash, tag := hashRequest(id)
	for end := len(l.tags); end > 0; {
		if end = bytes.LastIndexByte(l.tags[:end], tag); end < 0 {
			break
		}
		if k := &l.kept[end]; k.hash == hash && !k.expired(now) {
			slots = append(slots, l.slot(end))
		}
	}
	return slots
}

// flying returns what is recorded in a slot, if the store does not show it yet.
func (l *requestLog) flying(slot uint16) (storage.Request, bool) {
	for i := len(l.inFlight) - 1; i >= 0; i-- {
		if f := &l.inFlight[i]; f.slot == slot {
			return f.record, true
		}
	}
	return storage.Request{}, false
}

// claim is where a call's id is recorded while the call is not through.
type claim struct {
	made bool
	slot uint16
	time uint64
}

// add records an id with the segment seq, now, and returns what the segment has to write. c is the claim
// of the id; a claim that is still kept is overwritten.
func (l *requestLog) add(seq uint64, r storage.Request, c *claim, now uint32) []storage.Op {
	if r.Size() > storage.MaxRequestsBytes {
		r.State, r.Reply = storage.RequestDropped, nil
	}
	at, since := len(l.kept), now
	hash, _ := hashRequest(r.ID)
	if i := l.index(c.slot); c.made && i < at && l.kept[i].hash == hash {
		at, since, r.Time = i, l.kept[i].seconds, c.time
		l.bytes -= int(l.kept[at].bytes)
		l.kept[at].bytes = 0
	}
	target := l.slot(at)
	var ops []storage.Op
	for expired := 0; at > 0; at-- {
		oldest := &l.kept[0]
		over := at == storage.RequestSlots || l.bytes+r.Size() > storage.MaxRequestsBytes
		if !over {
			if expired == requestsExpiredMax || !oldest.expired(now) {
				break
			}
			expired++
		}
		if l.head != target {
			ops = append(ops, storage.Op{Op: storage.OpDelete, Kind: storage.KindRequest, Key: storage.RequestKey(l.head)})
		}
		l.pop()
	}
	if l.bytes+r.Size() > storage.MaxRequestsBytes { // Of later ones than the claim.
		r.State, r.Reply = storage.RequestDropped, nil
	}
	if k, tag := newKeptRequest(&r, since); at == len(l.kept) {
		l.push(k, tag)
	} else {
		l.kept[at] = k
		l.bytes += int(k.bytes)
	}
	*c = claim{made: true, slot: target, time: r.Time}
	l.inFlight = append(l.inFlight, requestInFlight{seq: seq, slot: target, record: r})
	return append(ops, storage.Op{Op: storage.OpSet, Kind: storage.KindRequest, Key: storage.RequestKey(target), Value: r.Append(nil)})
}

// clear forgets everything: the object ends, and its ids with it.
func (l *requestLog) clear() { *l = requestLog{loaded: true} }

// readable says that the store shows the segments up to seq.
func (l *requestLog) readable(seq uint64) {
	n := 0
	for n < len(l.inFlight) && l.inFlight[n].seq <= seq {
		n++
	}
	if l.inFlight = slices.Delete(l.inFlight, 0, n); len(l.inFlight) == 0 {
		l.inFlight = nil
	}
}

// indexBytes is what the index takes in memory.
func (l *requestLog) indexBytes() int { return cap(l.kept)*keptRequestBytes + cap(l.tags) }

// fingerprint is of what a call asks for: a request id is good for it alone.
func fingerprint(c *Call) (sum [16]byte) {
	h := sha256.New()
	head := binary.AppendUvarint(make([]byte, 0, 64), uint64(len(c.Method)))
	head = append(head, c.Method...)
	switch {
	case c.JSON:
		head = append(head, 1)
	case c.Values:
		head = append(head, 2)
	default:
		head = append(head, 0)
	}
	_, _ = h.Write(head)
	_, _ = h.Write(c.Body)
	var full [sha256.Size]byte
	copy(sum[:], h.Sum(full[:0]))
	return sum
}

// newRequest is what is recorded of a call: with its result, or, when that is nil, as a claim.
func newRequest(c *Call, result *Result, now uint64) storage.Request {
	r := storage.Request{Time: now, State: storage.RequestClaimed, Fingerprint: fingerprint(c), ID: c.RequestID}
	switch {
	case result == nil:
	case result.Err == nil:
		r.State, r.Reply = storage.RequestReplied, result.Body
	default:
		r.State, r.Reply = storage.RequestDropped, nil
		if raw, err := proto.Marshal(fault.StatusOf(result.Err).Proto()); err == nil {
			r.State, r.Reply = storage.RequestFailed, raw
		}
	}
	return r
}

// repeat is what a call is answered with whose id is recorded.
func repeat(c *Call, r *storage.Request) Result {
	if r.Fingerprint != fingerprint(c) {
		return Result{Err: errOtherRequest(c.RequestID)}
	}
	switch r.State {
	case storage.RequestReplied:
		return Result{Body: r.Reply}
	case storage.RequestFailed:
		var s spb.Status
		if err := proto.Unmarshal(r.Reply, &s); err == nil {
			return Result{Err: status.ErrorProto(&s)}
		}
	case storage.RequestDropped:
		return Result{Err: fault.New(fault.RequestInterrupted, "the call of this request id has run, and its reply was too large to be kept; it is not run again: read what it did")}
	case storage.RequestClaimed:
	}
	return Result{Err: fault.New(fault.RequestInterrupted, "the call of this request id was cut off after it had written something; it is not run again: read what it did")}
}

// follow says whether an event of the same request id is running: it has given up its turn. Then this
// one, which has the turn, is answered with that one, or told that it asks for something else.
func (i *incarnation) follow(e *event) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	n := slices.IndexFunc(i.m.suspended, func(s *event) bool { return s.call.RequestID == e.call.RequestID })
	switch {
	case e.over || n < 0:
		return false
	case fingerprint(i.m.suspended[n].call) != fingerprint(e.call):
		i.m.skip(errOtherRequest(e.call.RequestID))
	default:
		i.m.follow(i.m.suspended[n])
	}
	return true
}

// errOtherRequest says that an id was used before, for something else.
func errOtherRequest(id string) error {
	return fault.New(fault.InvalidArgument, "request id %.128q: it was used for another method or other arguments; take a new id for each call", id)
}

// repeated returns what a call is answered with, without being run, because its id is recorded.
func (i *incarnation) repeated(c *Call) (result Result, is bool, err error) {
	if err := i.loadRequests(); err != nil {
		return Result{}, false, err
	}
	i.mu.Lock()
	for _, slot := range i.requests.find(c.RequestID, i.shard.manager.seconds()) {
		record, flies := i.requests.flying(slot)
		i.mu.Unlock()
		if !flies {
			if record, err = i.readRequest(slot); err != nil {
				return Result{}, false, err
			}
		}
		if record.ID == c.RequestID {
			return repeat(c, &record), true, nil
		}
		i.mu.Lock()
	}
	i.mu.Unlock()
	return Result{}, false, nil
}

// readRequest reads what is recorded in a slot.
func (i *incarnation) readRequest(slot uint16) (storage.Request, error) {
	raw, ok, err := i.reader().Get(storage.KindRequest, storage.RequestKey(slot))
	if err == nil && !ok {
		err = fmt.Errorf("%w: slot %d is gone", storage.ErrCorrupt, slot)
	}
	var r storage.Request
	if err == nil {
		r, err = storage.DecodeRequest(raw)
	}
	if err != nil {
		return storage.Request{}, fmt.Errorf("read request id: %w", err)
	}
	return r, nil
}

// loadRequests reads the index of the request ids, unless it is there. What is in flight and not in
// the index does not change them.
func (i *incarnation) loadRequests() error {
	i.mu.Lock()
	loaded := i.requests.loaded
	i.mu.Unlock()
	if loaded {
		return nil
	}
	var stored []storedRequest
	if i.exists {
		it, err := i.reader().Iter(storage.KindRequest, nil, nil)
		if err != nil {
			return fmt.Errorf("read request ids: %w", err)
		}
		defer it.Close()
		for ok := it.First(); ok; ok = it.Next() {
			slot, err := storage.RequestSlot(it.Key())
			if err != nil {
				return fmt.Errorf("read request ids: %w", err)
			}
			r, err := storage.DecodeRequest(it.Value())
			if err != nil {
				return fmt.Errorf("read request ids: %w", err)
			}
			stored = append(stored, newStoredRequest(slot, &r))
		}
		if err := it.Error(); err != nil {
			return fmt.Errorf("read request ids: %w", err)
		}
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.requests.load(stored, i.shard.manager.seconds())
}

// endRequests forgets the object's ids, because it ends, and returns what that writes.
func (i *incarnation) endRequests() ([]storage.Op, error) {
	if err := i.loadRequests(); err != nil {
		return nil, err
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	none := len(i.requests.kept) == 0
	i.requests.clear()
	if none {
		return nil, nil
	}
	return []storage.Op{{Op: storage.OpDeleteRange, Kind: storage.KindRequest}}, nil
}
