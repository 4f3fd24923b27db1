package storage

import (
	"encoding/binary"
	"fmt"
)

// RequestState says how far the call of a request id has come.
type RequestState byte

// The states. A claim is written with the first segment of its call, and overwritten with its last.
const (
	RequestClaimed RequestState = 1 // it has written, and was not through
	RequestReplied RequestState = 2 // Reply is its reply
	RequestFailed  RequestState = 3 // Reply is the google.rpc.Status that it ended with
	RequestDropped RequestState = 4 // it is through, and what it answered was too large to be kept
)

// RequestSlots is how many request ids an object keeps. Each is in a slot; the next goes to the slot
// after the newest, round and round, and so takes the place of the oldest.
const RequestSlots = 1024

// Request is what is kept of a call that carried a request id.
type Request struct {
	// Time is that of the segment that claimed the id.
	Time        uint64
	State       RequestState
	Fingerprint [16]byte // of the method and the arguments
	ID          string
	Reply       []byte
}

const requestHeadBytes = 1 + 8 + 16 + 1

// Size is that of the stored form.
func (r *Request) Size() int { return requestHeadBytes + len(r.ID) + len(r.Reply) }

// Append appends the stored form. The id has at most 255 bytes.
func (r *Request) Append(dst []byte) []byte {
	dst = append(dst, byte(r.State))
	dst = binary.BigEndian.AppendUint64(dst, r.Time)
	dst = append(dst, r.Fingerprint[:]...)
	dst = append(append(dst, byte(len(r.ID))), r.ID...)
	return append(dst, r.Reply...)
}

// DecodeRequest reads what Append wrote. Reply shares memory with b.
func DecodeRequest(b []byte) (Request, error) {
	var r Request
	d := decoder{b: b}
	r.State = RequestState(d.byte())
	if raw := d.take(8); raw != nil {
		r.Time = binary.BigEndian.Uint64(raw)
	}
	copy(r.Fingerprint[:], d.take(uint64(len(r.Fingerprint))))
	r.ID = string(d.take(uint64(d.byte())))
	if d.err != nil || r.State < RequestClaimed || r.State > RequestDropped {
		return Request{}, fmt.Errorf("%w: request id in state %d, of %d bytes", ErrCorrupt, r.State, len(b))
	}
	r.Reply = d.b
	return r, nil
}

const requestKeyBytes = 2

// RequestKey is the key of a slot, of kind KindRequest.
func RequestKey(slot uint16) []byte { return binary.BigEndian.AppendUint16(nil, slot) }

// RequestSlot reads the slot back from a RequestKey.
func RequestSlot(key []byte) (uint16, error) {
	if len(key) == 2 {
		if slot := binary.BigEndian.Uint16(key); slot < RequestSlots {
			return slot, nil
		}
	}
	return 0, fmt.Errorf("%w: slot %x of a request id", ErrCorrupt, key)
}
