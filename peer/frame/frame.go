// Package frame is the multiplexed conversation that nodes have with each other and the Go client
// has with nodes: many calls at once on one stream, in order, in frames of at most 256 KiB that
// take turns, so that a large call delays no small one.
//
// The codec is pure and by hand, because it is on the path of every forwarded call; the frames are
// described byte by byte in docs/format/frames.md. Mux is the conversation itself, over any gRPC
// stream of holdfast.v1.Frames.
package frame

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/holdfast-io/holdfast/placement"
)

// Limits. What is over them is refused by who sends, and ends the stream of who sends it anyway.
const (
	// FrameBytesMax is the size of a frame, and of a message of frames.
	FrameBytesMax = 256 << 10
	// BodyBytesMax is the size of a call's request or reply.
	BodyBytesMax = 32 << 20
	// NameBytesMax is the size of an object's name.
	NameBytesMax = 64 << 10
	// MetadataBytesMax is the size of a call's metadata, all keys and values together.
	MetadataBytesMax = 64 << 10
)

// Request is a call of one object.
type Request struct {
	// Method is "/service/Method" when Class is empty, else the bare method name.
	Method string
	Class  string
	// Name is the object's when Named; otherwise ID is.
	Name  string
	Named bool
	ID    placement.ObjectID
	// JSON says that Body is JSON and the reply is to be.
	JSON bool
	// Ordered says that the caller keeps the order of its calls itself: no node may retry.
	Ordered bool
	// Hops counts the nodes that have forwarded the call.
	Hops uint8
	// Revision of the cluster facts that the sender knows.
	Revision uint64
	// Deadline is absolute here and what remains of it on the wire; zero: none.
	Deadline time.Time
	Metadata metadata.MD
	Body     []byte
}

// OwnerHint says who owns the shard of the object that was called, as far as the answering node
// knows. Shards is 0 when there is no hint.
type OwnerHint struct {
	Node   placement.NodeID
	Addr   string // public gRPC address
	Shard  placement.ShardID
	Shards uint32
	Term   uint64
}

// Response is the answer to a Request.
type Response struct {
	Body []byte
	// Status is a google.rpc.Status, encoded; nil: OK.
	Status   []byte
	Owner    OwnerHint
	Revision uint64
	// local is the error itself, when it did not come over the wire.
	local error
}

// Err returns the call's error, as a gRPC status error, or nil.
func (r *Response) Err() error {
	if r.local != nil {
		return r.local
	}
	if r.Status == nil {
		return nil
	}
	var s spb.Status
	if err := proto.Unmarshal(r.Status, &s); err != nil {
		return fmt.Errorf("decode status: %w", err)
	}
	return status.ErrorProto(&s)
}

// Failed says that the call ended with an error.
func (r *Response) Failed() bool { return r.local != nil || r.Status != nil }

// ErrorResponse answers with an error: a fault, a gRPC status, or any other, which becomes UNKNOWN
// with its text.
func ErrorResponse(err error) Response { return Response{local: err} }

// encodeStatus returns the wire form of the response's error.
func (r *Response) encodeStatus() []byte {
	if r.local == nil {
		return r.Status
	}
	s, _ := status.FromError(r.local)
	raw, err := proto.Marshal(s.Proto())
	if err != nil {
		return []byte{} // An OK status would be empty; see decodeResponse.
	}
	return raw
}

// The kinds of frames.
const (
	kindCall     = 1
	kindReply    = 2
	kindBody     = 3 // more of the body of a call or reply
	kindCancel   = 4
	kindPing     = 5
	kindPong     = 6
	kindAnnounce = 7
	kindQuery    = 8 // administrative; answered by a reply
)

// Flags of calls and replies.
const (
	flagNamed    = 1 << 0
	flagJSON     = 1 << 1
	flagOrdered  = 1 << 2
	flagDeadline = 1 << 3
	flagMetadata = 1 << 4
	flagStatus   = 1 << 5
	flagOwner    = 1 << 6
	flagMore     = 1 << 7 // the body goes on in kindBody frames
)

var errMalformed = errors.New("malformed frame")

// appendFrame appends a frame whose content fill appends: four bytes of length, then the content.
func appendFrame(dst []byte, kind byte, call uint64, fill func([]byte) []byte) []byte {
	start := len(dst)
	dst = append(dst, 0, 0, 0, 0, kind)
	dst = binary.AppendUvarint(dst, call)
	if fill != nil {
		dst = fill(dst)
	}
	binary.BigEndian.PutUint32(dst[start:], uint32(len(dst)-start-4)) //nolint:gosec // below FrameBytesMax
	return dst
}

// bodyRoom is how much of a body goes into the first frame: what is before it is at most this
// short of a whole frame.
func bodyRoom(head int) int { return max(0, FrameBytesMax-head-64) }

func (r *Request) head() int {
	n := 128 + len(r.Method) + len(r.Class) + len(r.Name)
	if len(r.Metadata) > 0 {
		n += metadataBytes(r.Metadata)
	}
	return n
}

// append appends the call's first frame and returns the rest of the body.
func (r *Request) append(dst []byte, call uint64, now time.Time) ([]byte, []byte) {
	body := r.Body
	var rest []byte
	if room := bodyRoom(r.head()); len(body) > room {
		body, rest = body[:room], body[room:]
	}
	dst = appendFrame(dst, kindCall, call, func(dst []byte) []byte {
		var flags byte
		set := func(on bool, flag byte) {
			if on {
				flags |= flag
			}
		}
		set(r.Named, flagNamed)
		set(r.JSON, flagJSON)
		set(r.Ordered, flagOrdered)
		set(!r.Deadline.IsZero(), flagDeadline)
		set(len(r.Metadata) > 0, flagMetadata)
		set(len(rest) > 0, flagMore)
		dst = append(dst, flags, r.Hops)
		dst = binary.AppendUvarint(dst, r.Revision)
		dst = appendString(dst, r.Class)
		dst = appendString(dst, r.Method)
		if r.Named {
			dst = appendString(dst, r.Name)
		} else {
			dst = append(dst, r.ID[:]...)
		}
		if !r.Deadline.IsZero() {
			dst = binary.AppendUvarint(dst, uint64(max(r.Deadline.Sub(now), 1)))
		}
		if len(r.Metadata) > 0 {
			dst = appendMetadata(dst, r.Metadata)
		}
		if len(rest) > 0 {
			dst = binary.AppendUvarint(dst, uint64(len(r.Body)))
		}
		return append(dst, body...)
	})
	return dst, rest
}

// decodeRequest reads a call's first frame. total is the size of the whole body. What it returns
// shares memory with b.
func decodeRequest(b []byte, now time.Time) (*Request, int, error) {
	d := decoder{b: b}
	flags := d.byte()
	r := &Request{Named: flags&flagNamed != 0, JSON: flags&flagJSON != 0, Ordered: flags&flagOrdered != 0, Hops: d.byte()}
	r.Revision = d.uvarint()
	r.Class, r.Method = d.string(NameBytesMax), d.string(NameBytesMax)
	if r.Named {
		r.Name = d.string(NameBytesMax)
	} else {
		copy(r.ID[:], d.take(uint64(len(r.ID))))
	}
	if flags&flagDeadline != 0 {
		remains := d.uvarint()
		if remains > 1<<62 {
			d.err = errMalformed
		}
		r.Deadline = now.Add(time.Duration(remains)) //nolint:gosec // checked
	}
	if flags&flagMetadata != 0 {
		r.Metadata = d.metadata()
	}
	total := -1
	if flags&flagMore != 0 {
		total = d.total()
	}
	if d.err != nil {
		return nil, 0, d.err
	}
	r.Body = d.b
	if total < 0 {
		total = len(r.Body)
	}
	if total < len(r.Body) {
		return nil, 0, errMalformed
	}
	return r, total, nil
}

func (r *Response) append(dst []byte, call uint64) ([]byte, []byte) {
	raw := r.encodeStatus()
	body := r.Body
	var rest []byte
	if room := bodyRoom(128 + len(raw) + len(r.Owner.Addr)); len(body) > room {
		body, rest = body[:room], body[room:]
	}
	dst = appendFrame(dst, kindReply, call, func(dst []byte) []byte {
		var flags byte
		if raw != nil {
			flags |= flagStatus
		}
		if r.Owner.Shards != 0 {
			flags |= flagOwner
		}
		if len(rest) > 0 {
			flags |= flagMore
		}
		dst = append(dst, flags)
		dst = binary.AppendUvarint(dst, r.Revision)
		if raw != nil {
			dst = appendString(dst, string(raw))
		}
		if r.Owner.Shards != 0 {
			dst = binary.BigEndian.AppendUint64(dst, uint64(r.Owner.Node))
			dst = appendString(dst, r.Owner.Addr)
			dst = binary.AppendUvarint(dst, uint64(r.Owner.Shard))
			dst = binary.AppendUvarint(dst, uint64(r.Owner.Shards))
			dst = binary.AppendUvarint(dst, r.Owner.Term)
		}
		if len(rest) > 0 {
			dst = binary.AppendUvarint(dst, uint64(len(r.Body)))
		}
		return append(dst, body...)
	})
	return dst, rest
}

func decodeResponse(b []byte) (Response, int, error) {
	d := decoder{b: b}
	flags := d.byte()
	var r Response
	r.Revision = d.uvarint()
	if flags&flagStatus != 0 {
		r.Status = d.bytes(FrameBytesMax)
		if len(r.Status) == 0 { // A status that could not be encoded is still an error.
			r.Status = []byte{0x08, 0x02}
		}
	}
	if flags&flagOwner != 0 {
		if raw := d.take(8); raw != nil {
			r.Owner.Node = placement.NodeID(binary.BigEndian.Uint64(raw))
		}
		r.Owner.Addr = d.string(1024)
		r.Owner.Shard = placement.ShardID(d.uvarint()) //nolint:gosec // a hint
		r.Owner.Shards = uint32(d.uvarint())           //nolint:gosec // a hint
		r.Owner.Term = d.uvarint()
	}
	total := -1
	if flags&flagMore != 0 {
		total = d.total()
	}
	if d.err != nil {
		return Response{}, 0, d.err
	}
	r.Body = d.b
	if total < 0 {
		total = len(r.Body)
	}
	if total < len(r.Body) {
		return Response{}, 0, errMalformed
	}
	return r, total, nil
}

func metadataBytes(md metadata.MD) int {
	n := 0
	for k, vs := range md {
		for _, v := range vs {
			n += len(k) + len(v) + 8
		}
	}
	return n
}

func appendMetadata(dst []byte, md metadata.MD) []byte {
	n := 0
	for _, vs := range md {
		n += len(vs)
	}
	dst = binary.AppendUvarint(dst, uint64(n)) //nolint:gosec // not negative
	for k, vs := range md {
		for _, v := range vs {
			dst = appendString(appendString(dst, k), v)
		}
	}
	return dst
}

func appendString(dst []byte, s string) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(s))), s...)
}

type decoder struct {
	b   []byte
	err error
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

func (d *decoder) bytes(limit uint64) []byte {
	n := d.uvarint()
	if n > limit {
		d.err = errMalformed
	}
	return d.take(n)
}

func (d *decoder) string(limit uint64) string { return string(d.bytes(limit)) }

func (d *decoder) total() int {
	n := d.uvarint()
	if n > BodyBytesMax {
		d.err = errMalformed
		return 0
	}
	return int(n) //nolint:gosec // checked
}

func (d *decoder) metadata() metadata.MD {
	n := d.uvarint()
	if n > uint64(len(d.b))/2 {
		d.err = errMalformed
		return nil
	}
	md := make(metadata.MD, min(n, 16))
	for range n {
		k, v := d.string(MetadataBytesMax), d.string(MetadataBytesMax)
		if d.err != nil {
			return nil
		}
		md[k] = append(md[k], v)
	}
	return md
}
