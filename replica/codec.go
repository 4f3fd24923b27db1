package replica

import (
	"encoding/binary"
	"errors"
	"fmt"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/holdfast-io/holdfast/placement"
)

// Encodings by hand, because Raft messages are most of what nodes send and log entries most of
// what they write. docs/format/raft.md has them byte by byte.

// errMalformed says that bytes from the network or the disk are not what they should be.
var errMalformed = errors.New("malformed")

// The kinds of what travels in a frame: Raft's own messages, and ours.
const (
	kindRaft      = 1
	kindTooOld    = 2 // to a replica that is no member: you were removed
	kindAsk       = 3 // from a replica that hears no leader: was I removed?
	kindConfirm   = 4 // an owner's question: are you still in this term? See confirm.go.
	kindConfirmed = 5 // the answer
	kindStopped   = 6 // from a replica that can't go on: replace me. Else as kindAsk.
)

// packet is one message between replicas of a shard on two nodes.
type packet struct {
	kind  byte
	shard placement.ShardID
	to    uint64 // replica ids
	from  uint64
	msg   *raftpb.Message // kindRaft
	// generation of the sender's descriptor, and with kindTooOld its next replica id.
	generation uint64
	nextID     uint64
}

// Flags of an encoded Raft message, so that what is mostly absent costs nothing.
const (
	flagReject  = 1 << 0
	flagContext = 1 << 1
	flagEntries = 1 << 2
	flagVote    = 1 << 3
)

func (p *packet) append(dst []byte) []byte {
	dst = append(dst, p.kind)
	dst = binary.AppendUvarint(dst, uint64(p.shard))
	dst = binary.AppendUvarint(dst, p.to)
	dst = binary.AppendUvarint(dst, p.from)
	if p.kind != kindRaft {
		dst = binary.AppendUvarint(dst, p.generation)
		return binary.AppendUvarint(dst, p.nextID)
	}
	return appendMessage(dst, p.msg)
}

func appendMessage(dst []byte, m *raftpb.Message) []byte {
	var flags byte
	if m.GetReject() {
		flags |= flagReject
	}
	if len(m.GetContext()) > 0 {
		flags |= flagContext
	}
	if len(m.GetEntries()) > 0 {
		flags |= flagEntries
	}
	if m.GetVote() != 0 {
		flags |= flagVote
	}
	dst = append(dst, byte(m.GetType()), flags) //nolint:gosec // message types are below 256
	for _, v := range [...]uint64{m.GetTerm(), m.GetLogTerm(), m.GetIndex(), m.GetCommit()} {
		dst = binary.AppendUvarint(dst, v)
	}
	if flags&flagReject != 0 {
		dst = binary.AppendUvarint(dst, m.GetRejectHint())
	}
	if flags&flagVote != 0 {
		dst = binary.AppendUvarint(dst, m.GetVote())
	}
	if flags&flagContext != 0 {
		dst = appendBytes(dst, m.GetContext())
	}
	if flags&flagEntries != 0 {
		dst = binary.AppendUvarint(dst, uint64(len(m.GetEntries())))
		for _, e := range m.GetEntries() {
			dst = append(dst, byte(e.GetType())) //nolint:gosec // entry types are below 256
			dst = binary.AppendUvarint(dst, e.GetTerm())
			dst = binary.AppendUvarint(dst, e.GetIndex())
			dst = appendBytes(dst, e.GetData())
		}
	}
	return dst
}

// messageSize is an upper bound of what appendMessage adds.
func messageSize(m *raftpb.Message) int {
	size := 64 + len(m.GetContext())
	for _, e := range m.GetEntries() {
		size += 32 + len(e.GetData())
	}
	return size
}

// decodePacket reads one packet and returns what follows it. The message shares memory with b.
func decodePacket(b []byte) (packet, []byte, error) {
	d := decoder{b: b}
	p := packet{kind: d.byte()}
	p.shard = placement.ShardID(d.uvarint()) //nolint:gosec // checked against the number of shards by the host
	p.to, p.from = d.uvarint(), d.uvarint()
	switch p.kind {
	case kindRaft:
		p.msg = d.message()
		if p.msg != nil {
			p.msg.To, p.msg.From = &p.to, &p.from
		}
	case kindTooOld, kindAsk, kindStopped:
		p.generation, p.nextID = d.uvarint(), d.uvarint()
	default:
		return packet{}, nil, fmt.Errorf("packet kind %d: %w", p.kind, errMalformed)
	}
	if d.err != nil {
		return packet{}, nil, fmt.Errorf("packet: %w", d.err)
	}
	return p, d.b, nil
}

type decoder struct {
	b   []byte
	err error
}

func (d *decoder) message() *raftpb.Message {
	typ, flags := raftpb.MessageType(d.byte()), d.byte()
	// One allocation for all the fields that protobuf wants behind pointers.
	fields := &struct {
		m                                              raftpb.Message
		typ                                            raftpb.MessageType
		term, logTerm, index, commit, rejectHint, vote uint64
		reject                                         bool
	}{typ: typ}
	fields.term, fields.logTerm, fields.index, fields.commit = d.uvarint(), d.uvarint(), d.uvarint(), d.uvarint()
	m := &fields.m
	m.Type, m.Term, m.LogTerm, m.Index, m.Commit = &fields.typ, &fields.term, &fields.logTerm, &fields.index, &fields.commit
	m.Reject, m.RejectHint, m.Vote = &fields.reject, &fields.rejectHint, &fields.vote
	if flags&flagReject != 0 {
		fields.reject = true
		fields.rejectHint = d.uvarint()
	}
	if flags&flagVote != 0 {
		fields.vote = d.uvarint()
	}
	if flags&flagContext != 0 {
		m.Context = d.bytes()
	}
	if flags&flagEntries != 0 {
		n := d.uvarint()
		if d.err == nil && n > uint64(len(d.b))/4 { // an entry takes at least four bytes
			d.err = errMalformed
		}
		if d.err != nil {
			return nil
		}
		m.Entries = make([]*raftpb.Entry, 0, n)
		for range n {
			typ := raftpb.EntryType(d.byte())
			term, index := d.uvarint(), d.uvarint()
			m.Entries = append(m.Entries, newEntry(typ, term, index, d.bytes()))
		}
	}
	if d.err != nil {
		return nil
	}
	return m
}

// newEntry makes an entry with one allocation.
func newEntry(typ raftpb.EntryType, term, index uint64, data []byte) *raftpb.Entry {
	e := &struct {
		e           raftpb.Entry
		typ         raftpb.EntryType
		term, index uint64
	}{typ: typ, term: term, index: index}
	e.e.Type, e.e.Term, e.e.Index, e.e.Data = &e.typ, &e.term, &e.index, data
	return &e.e
}

// Log entries on disk: type, term, data. The index is in the key.
func appendLogEntry(dst []byte, e *raftpb.Entry) []byte {
	dst = append(dst, byte(e.GetType())) //nolint:gosec // entry types are below 256
	dst = binary.AppendUvarint(dst, e.GetTerm())
	return append(dst, e.GetData()...)
}

// decodeLogEntry copies what it keeps of b.
func decodeLogEntry(index uint64, b []byte) (*raftpb.Entry, error) {
	d := decoder{b: b}
	typ, term := raftpb.EntryType(d.byte()), d.uvarint()
	if d.err != nil {
		return nil, fmt.Errorf("log entry %d: %w", index, d.err)
	}
	return newEntry(typ, term, index, append([]byte(nil), d.b...)), nil
}

// encodeUints is a run of fixed-width numbers, for the small records of Raft's state.
func encodeUints(vs ...uint64) []byte {
	dst := make([]byte, 0, 8*len(vs))
	for _, v := range vs {
		dst = binary.BigEndian.AppendUint64(dst, v)
	}
	return dst
}

func readUints(what string, b []byte, into ...*uint64) error {
	if len(b) != 8*len(into) {
		return fmt.Errorf("%s: %d bytes: %w", what, len(b), errMalformed)
	}
	for i, p := range into {
		*p = binary.BigEndian.Uint64(b[8*i:])
	}
	return nil
}

func appendBytes(dst, b []byte) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(b))), b...)
}

func (d *decoder) take(n uint64) []byte {
	if d.err != nil || n > uint64(len(d.b)) {
		d.err = errMalformed
		return nil
	}
	out := d.b[:n:n]
	d.b = d.b[n:]
	return out
}

func (d *decoder) byte() byte {
	if one := d.take(1); one != nil {
		return one[0]
	}
	return 0
}

func (d *decoder) uvarint() uint64 {
	if d.err != nil {
		return 0
	}
	v, n := binary.Uvarint(d.b)
	if n <= 0 {
		d.err = errMalformed
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) bytes() []byte { return d.take(d.uvarint()) }
