// Package objectfile reads and writes the files of 'holdfast export': a run of objects with what they have
// stored, as a CBOR sequence whose items carry checksums that hang together. docs/format/export.md has the
// bytes.
//
// It promises that a reader never takes a damaged or truncated file for a whole one: what it returned
// before it found that out is right, and the error says where the damage is. Memory is bounded by one
// item, whatever the file says of itself.
package objectfile

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/fxamacker/cbor/v2"

	"github.com/holdfast-io/holdfast/placement"
)

// Version is that of the files that this package writes, and the one that it reads.
const Version = 1

const (
	// ItemBytesMax bounds the payload of an item.
	ItemBytesMax = 4 << 20
	// EntriesBytes is about how many bytes of entries a Writer puts into one item.
	EntriesBytes = 1 << 20
	format       = "holdfast objects"
)

// Header says what a file has.
type Header struct {
	Class     string `cbor:"3,keyasint"`
	UniqueKey string `cbor:"4,keyasint"` // from which the ids of the class's objects are derived
	ClusterID string `cbor:"5,keyasint"`
	UnixMilli int64  `cbor:"6,keyasint"`           // when the file was begun
	One       bool   `cbor:"7,keyasint,omitempty"` // it is one object's and not the whole class's
}

type storedHeader struct {
	Format  string `cbor:"1,keyasint"`
	Version uint64 `cbor:"2,keyasint"`
	Header
}

// Object is an object without its entries.
type Object struct {
	ID   placement.ObjectID `cbor:"1,keyasint"`
	Name *string            `cbor:"2,keyasint,omitempty"` // nil: it was only ever called by id
	// Alarm and Dead are nil when it has none.
	Alarm *Alarm `cbor:"3,keyasint,omitempty"`
	Dead  *Dead  `cbor:"4,keyasint,omitempty"`
	// CommitSequence and Time name the moment: how many writes the object had had, and the owner's
	// hybrid logical time of the last of them.
	CommitSequence uint64 `cbor:"5,keyasint"`
	Time           uint64 `cbor:"6,keyasint"`
}

// Label names the object for people.
func (o *Object) Label() string {
	if o.Name == nil {
		return "object " + o.ID.String()
	}
	return fmt.Sprintf("object %.64q", *o.Name)
}

// Alarm is a pending alarm. Times are Unix milliseconds.
type Alarm struct {
	Due       int64  `cbor:"1,keyasint"`
	Scheduled int64  `cbor:"2,keyasint"`
	Retries   uint32 `cbor:"3,keyasint,omitempty"`
}

// Dead is an alarm that was given up. Times are Unix milliseconds.
type Dead struct {
	Scheduled int64  `cbor:"1,keyasint"`
	Died      int64  `cbor:"2,keyasint"`
	Retries   uint32 `cbor:"3,keyasint,omitempty"`
	Error     string `cbor:"4,keyasint,omitempty"`
}

// Entry is one key with its encoded value.
type Entry struct {
	_ struct{} `cbor:",toarray"`

	Key, Value []byte
}

// Entries are some of an object's, in the order of their keys.
type Entries []Entry

// ObjectEnd ends an object.
type ObjectEnd struct {
	Entries uint64 `cbor:"1,keyasint"`
	Bytes   uint64 `cbor:"2,keyasint"` // of keys and values
}

// Skipped stands for an object that could not be exported.
type Skipped struct {
	ID   placement.ObjectID `cbor:"1,keyasint"`
	Name *string            `cbor:"2,keyasint,omitempty"`
	Why  string             `cbor:"3,keyasint"`
}

// End ends a file, and says what it has.
type End struct {
	Objects uint64 `cbor:"1,keyasint"`
	Entries uint64 `cbor:"2,keyasint"`
	Bytes   uint64 `cbor:"3,keyasint"` // of keys and values
	Skipped uint64 `cbor:"4,keyasint"`
}

// Item is what a file consists of: *Object, Entries, *ObjectEnd, *Skipped or *End.
type Item interface{ kind() byte }

// Kinds of items. The numbers are in files.
const (
	kindHeader    = 0
	kindObject    = 1
	kindEntries   = 2
	kindObjectEnd = 3
	kindSkipped   = 4
	kindEnd       = 5
)

func (*Object) kind() byte    { return kindObject }
func (Entries) kind() byte    { return kindEntries }
func (*ObjectEnd) kind() byte { return kindObjectEnd }
func (*Skipped) kind() byte   { return kindSkipped }
func (*End) kind() byte       { return kindEnd }

// magic is the tag of self-described CBOR, before the first item.
var magic = []byte{0xd9, 0xd9, 0xf7}

// Around a payload: an array of three, the kind, and the head of a byte string before it; an integer of
// four bytes, the checksum, behind it.
const (
	headArray  = 0x83
	headString = 0x5a
	headSum    = 0x1a
	headBytes  = 1 + 1 + 5
	sumBytes   = 5
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// chained is the checksum of an item: over that of the one before, its kind and its payload. So no item
// can be lost, doubled or moved.
func chained(before uint32, kind byte, payload []byte) uint32 {
	var head [5]byte
	binary.BigEndian.PutUint32(head[:], before)
	head[4] = kind
	return crc32.Update(crc32.Update(0, castagnoli, head[:]), castagnoli, payload)
}

// The payloads are in CBOR's core deterministic encoding. A key that a map must not have is refused: it
// is of a later version.
var (
	encMode = must(cbor.CoreDetEncOptions().EncMode())
	decMode = must(cbor.DecOptions{
		DupMapKey: cbor.DupMapKeyEnforcedAPF, ExtraReturnErrors: cbor.ExtraDecErrorUnknownField,
		IndefLength: cbor.IndefLengthForbidden, TagsMd: cbor.TagsForbidden, MaxNestedLevels: 8, MaxArrayElements: ItemBytesMax,
	}.DecMode())
)

func must[T any](mode T, err error) T {
	if err != nil {
		panic(err)
	}
	return mode
}

// state is where a file is: after which item, and what that leaves to be.
type state struct {
	items  uint64
	offset int64
	sum    uint32
	total  End

	object *Object // that has begun
	end    ObjectEnd
	last   []byte // the object's last key
	over   bool   // the End was there
}

// next checks that an item may come next, and notes it.
func (s *state) next(item Item) error {
	if s.over {
		return errors.New("there is more behind the end")
	}
	switch it := item.(type) {
	case *Object:
		if s.object != nil {
			return fmt.Errorf("it begins within %s", s.object.Label())
		}
		s.object, s.end, s.last = it, ObjectEnd{}, nil
	case Entries:
		return s.entries(it)
	case *ObjectEnd:
		if s.object == nil || *it != s.end {
			return fmt.Errorf("an object ends with %+v, which has %+v", *it, s.end)
		}
		s.object = nil
		s.total.Objects++
		s.total.Entries += it.Entries
		s.total.Bytes += it.Bytes
	case *Skipped:
		if s.object != nil {
			return fmt.Errorf("it is within %s", s.object.Label())
		}
		s.total.Skipped++
	case *End:
		if s.object != nil || *it != s.total {
			return fmt.Errorf("the file ends with %+v, which has %+v", *it, s.total)
		}
		s.over = true
	}
	return nil
}

func (s *state) entries(entries Entries) error {
	if s.object == nil {
		return errors.New("entries of no object")
	}
	for i := range entries {
		e := &entries[i]
		if s.end.Entries > 0 && string(e.Key) <= string(s.last) {
			return fmt.Errorf("key %.64q comes behind %.64q", e.Key, s.last)
		}
		s.last = e.Key
		s.end.Entries++
		s.end.Bytes += uint64(len(e.Key)) + uint64(len(e.Value))
	}
	return nil
}
