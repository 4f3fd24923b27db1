// Package value encodes the values that objects store: each is one CBOR item (RFC 8949), read
// alike by Go classes, TypeScript classes, the command line and whatever comes later. Byte slices
// are byte strings, a protobuf message is a tagged array of its full name and its bytes, and the
// tags kept for what JavaScript's structured clone has and JSON lacks are listed in
// docs/format/values.md. All functions are safe for concurrent use.
package value

import (
	"encoding/binary"
	"errors"
	"fmt"
	"reflect"

	"github.com/fxamacker/cbor/v2"
	"google.golang.org/protobuf/proto"
)

// Tags of stored values, from CBOR's first-come range. They are on disks: never reuse one. JavaScript's are written by
// worker/clone. 40601 and 40609 were set aside and never written.
const (
	TagProto       = 40600 // [full name, bytes]
	TagDate        = 40602 // milliseconds, of a Date that no time.Time can be
	TagRegExp      = 40603 // [source, flags]
	TagMap         = 40604 // [key, value, key, value, …]
	TagSet         = 40605 // [element, …]
	TagError       = 40606 // {name, message, stack, cause, props}
	TagView        = 40607 // [class, buffer, offset, length], on a buffer that is used elsewhere too
	TagSparse      = 40608 // [length, {index or name: value}], of an array with holes or properties
	TagArrayBuffer = 40610 // bytes
	TagDataView    = 40611 // bytes
	TagBoxed       = 40612 // the primitive in an object
	TagReplaced    = 40613 // what stands for something that a value can't have: never on disks
)

// DepthMax is how deep a value may be nested.
const DepthMax = 4096

// The modes are fixed: what is stored must not depend on who stored it.
var (
	encMode = mustEnc(cbor.EncOptions{Sort: cbor.SortNone, ShortestFloat: cbor.ShortestFloatNone, Time: cbor.TimeRFC3339Nano, TimeTag: cbor.EncTagRequired})
	decMode = mustDec(cbor.DecOptions{MaxNestedLevels: DepthMax, MaxArrayElements: 1 << 24, MaxMapPairs: 1 << 24, DefaultMapType: reflect.TypeFor[map[string]any]()})
)

func mustEnc(o cbor.EncOptions) cbor.EncMode {
	m, err := o.EncMode()
	if err != nil {
		panic(err)
	}
	return m
}

func mustDec(o cbor.DecOptions) cbor.DecMode {
	m, err := o.DecMode()
	if err != nil {
		panic(err)
	}
	return m
}

// Encode returns v as one CBOR item.
func Encode(v any) ([]byte, error) {
	switch v := v.(type) {
	case proto.Message:
		body, err := proto.Marshal(v)
		if err != nil {
			return nil, fmt.Errorf("encode value: %w", err)
		}
		out, err := encMode.Marshal(cbor.Tag{Number: TagProto, Content: []any{string(v.ProtoReflect().Descriptor().FullName()), body}})
		if err != nil {
			return nil, fmt.Errorf("encode value: %w", err)
		}
		return out, nil
	case int64:
		return appendInt(make([]byte, 0, 9), v), nil
	}
	out, err := encMode.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encode value: %w", err)
	}
	return out, nil
}

// ErrWrongMessage says that a stored protobuf message is of another type than the one asked for.
var ErrWrongMessage = errors.New("the stored value is another protobuf message")

// Decode reads one CBOR item into what into points to. For a protobuf message into is the message
// itself, or a pointer to a message pointer, which is set to a new message.
func Decode(b []byte, into any) error {
	switch into := into.(type) {
	case proto.Message:
		return decodeProto(b, into)
	case *int64:
		if n, ok := readInt(b); ok {
			*into = n
			return nil
		}
	default:
		if m, ok := newMessage(into); ok {
			return decodeProto(b, m)
		}
	}
	if err := decMode.Unmarshal(b, into); err != nil {
		return fmt.Errorf("decode value: %w", err)
	}
	return nil
}

// newMessage recognises **M for a generated message M, and points it at a new one.
func newMessage(into any) (proto.Message, bool) {
	p := reflect.ValueOf(into)
	if p.Kind() != reflect.Pointer || p.IsNil() || p.Elem().Kind() != reflect.Pointer {
		return nil, false
	}
	if _, ok := reflect.TypeAssert[proto.Message](p.Elem()); !ok {
		return nil, false
	}
	fresh := reflect.New(p.Elem().Type().Elem())
	p.Elem().Set(fresh)
	m, ok := reflect.TypeAssert[proto.Message](fresh)
	return m, ok
}

// IsMessage says whether a value is a protobuf message.
func IsMessage(b []byte) bool {
	return len(b) > 2 && b[0] == majorTag|25 && binary.BigEndian.Uint16(b[1:]) == TagProto
}

func decodeProto(b []byte, into proto.Message) error {
	var tag cbor.RawTag
	if err := decMode.Unmarshal(b, &tag); err != nil {
		return fmt.Errorf("decode value: not a protobuf message: %w", err)
	}
	if tag.Number != TagProto {
		return fmt.Errorf("%w: it has tag %d", ErrWrongMessage, tag.Number)
	}
	var content struct {
		_    struct{} `cbor:",toarray"`
		Name string
		Body []byte
	}
	if err := decMode.Unmarshal(tag.Content, &content); err != nil {
		return fmt.Errorf("decode value: %w", err)
	}
	if want := string(into.ProtoReflect().Descriptor().FullName()); content.Name != want {
		return fmt.Errorf("%w: it is a %s, not a %s", ErrWrongMessage, content.Name, want)
	}
	if err := proto.Unmarshal(content.Body, into); err != nil {
		return fmt.Errorf("decode value: %w", err)
	}
	return nil
}

// Check says whether b is exactly one well-formed CBOR item.
func Check(b []byte) error {
	if err := decMode.Wellformed(b); err != nil {
		return fmt.Errorf("check value: %w", err)
	}
	return nil
}

// Diagnose returns a value in CBOR's diagnostic notation (RFC 8949 section 8), for people. What is
// no CBOR item is shown as hex.
func Diagnose(b []byte) string {
	s, err := cbor.Diagnose(b)
	if err != nil {
		return fmt.Sprintf("not CBOR: h'%x'", b)
	}
	return s
}

// Counters are what objects store most, so integers have a path of their own: the same bytes as
// CBOR's, without reflection.
func appendInt(dst []byte, v int64) []byte {
	if v < 0 {
		return AppendHead(dst, 0x20, uint64(-1-v)) //nolint:gosec // not negative
	}
	return AppendHead(dst, 0x00, uint64(v)) //nolint:gosec // not negative
}

// readInt reads an integer that fits; anything else is left to the general decoder.
func readInt(b []byte) (int64, bool) {
	if len(b) == 0 || b[0]>>5 > 1 {
		return 0, false
	}
	var n uint64
	switch info := b[0] & 0x1f; {
	case info < 24 && len(b) == 1:
		n = uint64(info)
	case info >= 24 && info <= 27 && len(b) == 1+1<<(info-24):
		for _, c := range b[1:] {
			n = n<<8 | uint64(c)
		}
	default:
		return 0, false
	}
	if n > 1<<63-1 {
		return 0, false
	}
	if b[0]>>5 == 1 {
		return -1 - int64(n), true
	}
	return int64(n), true
}
