package frame

import (
	"encoding/binary"
	"errors"
	"slices"
	"time"
	"unicode/utf8"

	"google.golang.org/grpc/metadata"

	"github.com/holdfast-io/holdfast/placement"
)

// The kinds of frames.
const (
	kindCall     = 1
	kindReply    = 2
	kindBody     = 3 // more of the body of a call, query or reply
	kindCancel   = 4
	kindPing     = 5
	kindPong     = 6
	kindAnnounce = 7
	kindQuery    = 8  // administrative; answered by a reply
	kindBye      = 9  // send no more calls; those sent are still answered
	kindOpen     = 10 // a streamed call
	kindMessage  = 11 // a message of a streamed call, or a part of one
	kindCredit   = 12 // so much more may be sent
)

// Flags of messages and credits.
const (
	flagAnswering = 1 << 0 // it comes from the side that answers the call
	flagPart      = 1 << 1 // more of the message follows
	flagLast      = 1 << 2 // no message: the caller sends no more
)

// The bits of a ping.
const (
	featureStreams  = 1 << 0 // I know kinds 10 to 12
	featureExisting = 1 << 1 // I know hopsExisting
	featureValues   = 1 << 2 // I know hopsValues
)

// What is said of a call in its hops.
const (
	hopsExisting = 1 << 7 // its object must exist
	hopsValues   = 1 << 6 // its body is a CBOR array of arguments, and its reply is to be a CBOR item
	hopsFlags    = hopsExisting | hopsValues
)

// Flags of calls, queries and replies.
const (
	flagNamed    = 1 << 0
	flagJSON     = 1 << 1
	flagOrdered  = 1 << 2
	flagDeadline = 1 << 3
	flagMetadata = 1 << 4
	flagRequest  = 1 << 5 // of a call
	flagStatus   = 1 << 5 // of a reply
	flagOwner    = 1 << 6 // of a reply
	flagChain    = 1 << 6 // of a call
	flagMore     = 1 << 7 // the body goes on in kindBody frames
)

var errMalformed = errors.New("malformed frame")

// headerBytes is the length before each frame.
const headerBytes = 4

// beginFrame appends the start of a frame, whose length endFrame fills in.
func beginFrame(dst []byte, kind byte, call uint64) (b []byte, start int) {
	start = len(dst)
	dst = append(dst, 0, 0, 0, 0, kind)
	return binary.AppendUvarint(dst, call), start
}

func endFrame(b []byte, start int) []byte {
	binary.BigEndian.PutUint32(b[start:], uint32(len(b)-start-headerBytes)) //nolint:gosec // below FrameBytesMax
	return b
}

// appendEmpty appends a frame that has no content.
func appendEmpty(dst []byte, kind byte, call uint64) []byte {
	return endFrame(beginFrame(dst, kind, call))
}

// split cuts a body where its first frame is full. head bounds what that frame has besides.
func split(body []byte, head int) (first, rest []byte) {
	if room := FrameBytesMax - head; len(body) > room {
		return body[:room], body[room:]
	}
	return body, nil
}

// head bounds the size of the call's first frame without its body.
func (r *Request) head() int {
	n := 128 + len(r.Method) + len(r.Class) + len(r.Name) + len(r.RequestID)
	if len(r.Metadata) > 0 {
		n += 10 + metadataBytes(r.Metadata)
	}
	for i := range r.Chain {
		n += linkBytes + len(r.Chain[i].Label)
	}
	return n
}

func (r *Request) flags() byte {
	var flags byte
	if r.Named {
		flags |= flagNamed
	}
	if r.JSON {
		flags |= flagJSON
	}
	if r.Ordered {
		flags |= flagOrdered
	}
	if !r.Deadline.IsZero() {
		flags |= flagDeadline
	}
	if len(r.Metadata) > 0 {
		flags |= flagMetadata
	}
	if r.RequestID != "" {
		flags |= flagRequest
	}
	if len(r.Chain) > 0 {
		flags |= flagChain
	}
	return flags
}

// append appends the call's first frame, which has the body's first part; total is that of the
// whole body.
func (r *Request) append(dst []byte, call uint64, now time.Time, first []byte, total int) []byte {
	kind := byte(kindCall)
	if r.Pipe != nil {
		kind = kindOpen
	}
	dst, start := beginFrame(dst, kind, call)
	flags := r.flags()
	if total > len(first) {
		flags |= flagMore
	}
	hops := r.Hops &^ hopsFlags
	if r.Existing {
		hops |= hopsExisting
	}
	if r.Values {
		hops |= hopsValues
	}
	dst = append(dst, flags, hops)
	dst = binary.AppendUvarint(dst, r.Revision)
	dst = appendString(dst, r.Class)
	dst = appendString(dst, r.Method)
	if r.Named {
		dst = appendString(dst, r.Name)
	} else {
		dst = append(dst, r.ID[:]...)
	}
	if flags&flagDeadline != 0 {
		dst = binary.AppendUvarint(dst, uint64(max(r.Deadline.Sub(now), 1)))
	}
	if flags&flagMetadata != 0 {
		dst = appendMetadata(dst, r.Metadata)
	}
	if flags&flagRequest != 0 {
		dst = appendString(dst, r.RequestID)
	}
	if flags&flagChain != 0 {
		dst = appendChain(dst, r.Chain)
	}
	if flags&flagMore != 0 {
		dst = binary.AppendUvarint(dst, uint64(total)) //nolint:gosec // below BodyBytesMax
	}
	return endFrame(append(dst, first...), start)
}

// decode reads a call's first frame into r and returns the size of the whole body. Body shares
// memory with b; Class and Method are looked up in names.
func (r *Request) decode(b []byte, now time.Time, names *names) (total int, err error) {
	d := decoder{b: b}
	flags := d.byte()
	r.Named, r.JSON, r.Ordered = flags&flagNamed != 0, flags&flagJSON != 0, flags&flagOrdered != 0
	hops := d.byte()
	r.Hops, r.Existing, r.Values = hops&^hopsFlags, hops&hopsExisting != 0, hops&hopsValues != 0
	r.Revision = d.uvarint()
	r.Class, r.Method = names.get(d.bytes(MethodBytesMax)), names.get(d.bytes(MethodBytesMax))
	if r.Named {
		r.Name = string(d.bytes(NameBytesMax))
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
	if flags&flagRequest != 0 {
		if r.RequestID = string(d.bytes(RequestIDBytesMax)); r.RequestID == "" {
			d.err = errMalformed
		}
	}
	if flags&flagChain != 0 {
		r.Chain = d.chain()
	}
	r.Body, total = d.body(flags)
	return total, d.err
}

// appendQuery appends a query's first frame.
func appendQuery(dst []byte, call uint64, kind string, first []byte, total int) []byte {
	dst, start := beginFrame(dst, kindQuery, call)
	var flags byte
	if total > len(first) {
		flags |= flagMore
	}
	dst = appendString(append(dst, flags), kind)
	if flags&flagMore != 0 {
		dst = binary.AppendUvarint(dst, uint64(total)) //nolint:gosec // below BodyBytesMax
	}
	return endFrame(append(dst, first...), start)
}

// decodeQuery reads a query's first frame into a request whose method is the query's kind.
func (r *Request) decodeQuery(b []byte) (total int, err error) {
	d := decoder{b: b}
	flags := d.byte()
	r.Method = string(d.bytes(kindBytesMax))
	r.Body, total = d.body(flags)
	return total, d.err
}

// append appends the reply's first frame. status is the wire form of its error, or nil.
func (r *Response) append(dst []byte, call uint64, status, first []byte, total int) []byte {
	dst, start := beginFrame(dst, kindReply, call)
	var flags byte
	if status != nil {
		flags |= flagStatus
	}
	if r.Owner.Shards != 0 && len(r.Owner.Addr) <= addrBytesMax {
		flags |= flagOwner
	}
	if total > len(first) {
		flags |= flagMore
	}
	dst = append(dst, flags)
	dst = binary.AppendUvarint(dst, r.Revision)
	if flags&flagStatus != 0 {
		dst = binary.AppendUvarint(dst, uint64(len(status)))
		dst = append(dst, status...)
	}
	if flags&flagOwner != 0 {
		dst = binary.BigEndian.AppendUint64(dst, uint64(r.Owner.Node))
		dst = appendString(dst, r.Owner.Addr)
		dst = binary.AppendUvarint(dst, uint64(r.Owner.Shard))
		dst = binary.AppendUvarint(dst, uint64(r.Owner.Shards))
		dst = binary.AppendUvarint(dst, r.Owner.Term)
	}
	if flags&flagMore != 0 {
		dst = binary.AppendUvarint(dst, uint64(total)) //nolint:gosec // below BodyBytesMax
	}
	return endFrame(append(dst, first...), start)
}

// head bounds the size of a reply's first frame without its body.
func (r *Response) head(status []byte) int { return 128 + len(status) + len(r.Owner.Addr) }

// decode reads a reply's first frame into r and returns the size of the whole body. Body and
// Status share memory with b.
func (r *Response) decode(b []byte, names *names) (total int, err error) {
	d := decoder{b: b}
	flags := d.byte()
	r.Revision = d.uvarint()
	if flags&flagStatus != 0 {
		if r.Status = d.bytes(statusBytesMax); len(r.Status) == 0 {
			r.Status = unknownStatus // An empty status would say OK.
		}
	}
	if flags&flagOwner != 0 {
		if raw := d.take(8); raw != nil {
			r.Owner.Node = placement.NodeID(binary.BigEndian.Uint64(raw))
		}
		r.Owner.Addr = names.get(d.bytes(addrBytesMax))
		shard, shards := d.uvarint(), d.uvarint()
		if shards == 0 || shards > placement.MaxShards || shard >= shards {
			d.err = errMalformed
		}
		r.Owner.Shard, r.Owner.Shards = placement.ShardID(shard), uint32(shards) //nolint:gosec // checked
		r.Owner.Term = d.uvarint()
	}
	r.Body, total = d.body(flags)
	return total, d.err
}

// appendBody appends a frame with more of a body.
func appendBody(dst []byte, call uint64, reply bool, part []byte) []byte {
	dst, start := beginFrame(dst, kindBody, call)
	direction := byte(0)
	if reply {
		direction = 1
	}
	return endFrame(append(append(dst, direction), part...), start)
}

// appendMessage appends a message of a streamed call, or a part of one.
func appendMessage(dst []byte, call uint64, flags byte, part []byte) []byte {
	dst, start := beginFrame(dst, kindMessage, call)
	return endFrame(append(append(dst, flags), part...), start)
}

// appendCredit appends the permission to send so much more.
func appendCredit(dst []byte, call uint64, flags byte, messages, bytes int) []byte {
	dst, start := beginFrame(dst, kindCredit, call)
	dst = binary.AppendUvarint(append(dst, flags), uint64(messages)) //nolint:gosec // not negative
	return endFrame(binary.AppendUvarint(dst, uint64(bytes)), start) //nolint:gosec // not negative
}

// creditMax bounds what one credit may say: more than any side grants.
const creditMax = 1 << 40

func decodeCredit(b []byte) (flags byte, messages, bytes int, err error) {
	d := decoder{b: b}
	flags = d.byte()
	m, n := d.uvarint(), d.uvarint()
	if d.err != nil || m > creditMax || n > creditMax || flags&^flagAnswering != 0 {
		return 0, 0, 0, errMalformed
	}
	return flags, int(m), int(n), nil //nolint:gosec // checked
}

// appendPing appends a ping that says what this side knows.
func appendPing(dst []byte) []byte {
	dst, start := beginFrame(dst, kindPing, 0)
	return endFrame(binary.AppendUvarint(dst, featureStreams|featureExisting|featureValues), start)
}

// decodePing returns what the other side knows; releases before it was asked say nothing.
func decodePing(b []byte) (features uint64, err error) {
	if len(b) == 0 {
		return 0, nil
	}
	d := decoder{b: b}
	features = d.uvarint()
	return features, d.err
}

// appendAnnounce appends the news of who owns a shard.
func appendAnnounce(dst []byte, shard placement.ShardID, node placement.NodeID, term uint64) []byte {
	dst, start := beginFrame(dst, kindAnnounce, 0)
	dst = binary.AppendUvarint(dst, uint64(shard))
	dst = binary.BigEndian.AppendUint64(dst, uint64(node))
	return endFrame(binary.AppendUvarint(dst, term), start)
}

func decodeAnnounce(b []byte) (shard placement.ShardID, node placement.NodeID, term uint64, err error) {
	d := decoder{b: b}
	s := d.uvarint()
	raw := d.take(8)
	term = d.uvarint()
	if d.err != nil || s >= placement.MaxShards {
		return 0, 0, 0, errMalformed
	}
	return placement.ShardID(s), placement.NodeID(binary.BigEndian.Uint64(raw)), term, nil //nolint:gosec // checked
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

// linkBytes bounds the size of a link without its label.
const linkBytes = 8 + 2

func appendChain(dst []byte, chain []Link) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(chain)))
	for i := range chain {
		dst = binary.BigEndian.AppendUint64(dst, chain[i].Event)
		dst = appendString(dst, chain[i].Label)
	}
	return dst
}

func appendString(dst []byte, s string) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(s))), s...)
}

// decoder reads fields one after another. After the first that is not there err is set and all
// that follow are empty.
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

// body reads the rest of a first frame: the body, or its size and first part.
func (d *decoder) body(flags byte) (first []byte, total int) {
	if flags&flagMore != 0 {
		n := d.uvarint()
		if n > BodyBytesMax || n <= uint64(len(d.b)) {
			d.err = errMalformed
			return nil, 0
		}
		total = int(n) //nolint:gosec // checked
	} else {
		total = len(d.b)
	}
	return d.take(uint64(len(d.b))), total
}

func (d *decoder) metadata() metadata.MD {
	n := d.uvarint()
	if n > uint64(len(d.b))/2 {
		d.err = errMalformed
		return nil
	}
	md := make(metadata.MD, min(n, 16))
	size := 0
	for range n {
		k, v := string(d.bytes(MetadataBytesMax)), string(d.bytes(MetadataBytesMax))
		if size += len(k) + len(v) + 8; d.err != nil || size > MetadataBytesMax {
			d.err = errMalformed
			return nil
		}
		md[k] = append(md[k], v)
	}
	return md
}

func (d *decoder) chain() []Link {
	n := d.uvarint()
	if n == 0 || n > ChainMax {
		d.err = errMalformed
		return nil
	}
	chain := make([]Link, n)
	for i := range chain {
		l := &chain[i]
		if raw := d.take(8); raw != nil {
			l.Event = binary.BigEndian.Uint64(raw)
		}
		l.Label = string(d.bytes(LabelBytesMax))
		if !utf8.ValidString(l.Label) { // It goes into the texts of errors.
			d.err = errMalformed
		}
	}
	return chain
}

// names makes strings of bytes that come again and again (methods, classes, addresses) without an
// allocation each time. It holds at most namesMax. Not safe for concurrent use.
type names struct{ seen map[string]string }

const (
	namesMax     = 1024
	nameCacheMax = 256 // bytes of a string that is kept
)

func (n *names) get(b []byte) string {
	if len(b) == 0 {
		return ""
	}
	if s, ok := n.seen[string(b)]; ok {
		return s
	}
	s := string(b)
	if len(b) <= nameCacheMax && len(n.seen) < namesMax {
		if n.seen == nil {
			n.seen = make(map[string]string)
		}
		n.seen[s] = s
	}
	return s
}

// own returns a body that does not keep the message alive which it came in, when that is much
// larger: what waits in a mailbox is counted by its own size (P6).
func own(body []byte, message int) []byte {
	if message > 4096 && len(body) < message/2 {
		return slices.Clone(body)
	}
	return body
}
