package storage

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/holdfast-io/holdfast/placement"
)

// segmentVersion is the first byte of an encoded segment. docs/format/segment.md.
const segmentVersion = 1

// ErrMalformed says that bytes are no segment.
var ErrMalformed = errors.New("malformed segment")

// AppendTo appends the encoded segment.
func (seg *Segment) AppendTo(dst []byte) []byte {
	dst = append(dst, segmentVersion, byte(len(seg.Object.Class)))
	dst = append(dst, seg.Object.Class...)
	dst = append(dst, seg.Object.ID[:]...)
	for _, v := range [...]uint64{seg.Term, seg.Incarnation, seg.Sequence, seg.CommitSequence, seg.Time} {
		dst = binary.AppendUvarint(dst, v)
	}
	dst = binary.AppendUvarint(dst, uint64(len(seg.Ops)))
	for i := range seg.Ops {
		op := &seg.Ops[i]
		dst = append(dst, byte(op.Op), byte(op.Kind))
		dst = appendBytes(dst, op.Key)
		switch op.Op {
		case OpSet:
			dst = appendBytes(dst, op.Value)
		case OpDeleteRange:
			dst = appendBytes(dst, op.End)
		case OpDelete, OpPatch:
		}
	}
	return dst
}

// Size returns an upper bound of the encoded size.
func (seg *Segment) Size() int {
	size := 2 + len(seg.Object.Class) + len(seg.Object.ID) + 6*binary.MaxVarintLen64
	for i := range seg.Ops {
		op := &seg.Ops[i]
		size += 2 + 2*binary.MaxVarintLen32 + len(op.Key) + len(op.Value) + len(op.End)
	}
	return size
}

func appendBytes(dst, b []byte) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(b))), b...)
}

// DecodeSegment reads one segment and returns what follows it. Keys and values share memory with
// b. An operation that is not known gives ErrUnknownOp, anything else that is wrong ErrMalformed.
func DecodeSegment(b []byte) (Segment, []byte, error) {
	d := decoder{b: b}
	if v := d.byte(); v != segmentVersion && d.err == nil {
		return Segment{}, nil, fmt.Errorf("%w: segment version %d", ErrUnknownOp, v)
	}
	var seg Segment
	seg.Object.Class = string(d.take(uint64(d.byte())))
	copy(seg.Object.ID[:], d.take(uint64(len(placement.ObjectID{}))))
	for _, field := range [...]*uint64{&seg.Term, &seg.Incarnation, &seg.Sequence, &seg.CommitSequence, &seg.Time} {
		*field = d.uvarint()
	}
	n := d.uvarint()
	// Every operation takes at least three bytes: a count that could not be there allocates nothing.
	if d.err == nil && n > uint64(len(d.b))/3 {
		d.err = ErrMalformed
	}
	if d.err == nil && n > 0 {
		seg.Ops = make([]Op, n)
	}
	for i := range seg.Ops {
		op := &seg.Ops[i]
		op.Op, op.Kind = OpKind(d.byte()), KeyKind(d.byte())
		op.Key = d.bytes()
		switch op.Op {
		case OpSet:
			op.Value = d.bytes()
		case OpDeleteRange:
			op.End = d.bytes()
		case OpDelete:
		case OpPatch:
			fallthrough
		default:
			if d.err == nil {
				return Segment{}, nil, fmt.Errorf("%w: operation %d", ErrUnknownOp, op.Op)
			}
		}
		if d.err != nil {
			break
		}
	}
	if d.err != nil {
		return Segment{}, nil, d.err
	}
	return seg, d.b, nil
}

// decoder reads from b until the first error, which it keeps.
type decoder struct {
	b   []byte
	err error
}

func (d *decoder) take(n uint64) []byte {
	if d.err != nil || n > uint64(len(d.b)) {
		d.err = ErrMalformed
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
		d.err = ErrMalformed
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) bytes() []byte { return d.take(d.uvarint()) }
