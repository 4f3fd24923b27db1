package value

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"math/big"
	"strconv"

	"github.com/fxamacker/cbor/v2"
)

// safeIntegerMax is the largest integer up to which each is a number of JSON's readers.
const safeIntegerMax = 1<<53 - 1

// CBOR's major types, in the upper three bits of an item's first byte.
const (
	majorUint = iota << 5
	majorNegative
	majorBytes
	majorText
	majorArray
	majorMap
	majorTag
	majorSimple
)

// FromJSON returns the value that JSON text is of, as JavaScript's JSON.parse reads it: maps keep their
// order, and numbers that are integers, and are so exactly, become integers.
func FromJSON(text []byte) ([]byte, error) {
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	out, err := appendJSON(nil, d, 0)
	if err != nil {
		return nil, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("JSON: there is something behind the value")
	}
	return out, nil
}

// appendJSON appends the decoder's next value.
func appendJSON(dst []byte, d *json.Decoder, depth int) ([]byte, error) {
	if depth > DepthMax {
		return nil, fmt.Errorf("JSON: nested at most %d deep", DepthMax)
	}
	token, err := d.Token()
	if err != nil {
		return nil, fmt.Errorf("JSON: %w", unexpected(err))
	}
	switch t := token.(type) {
	case nil:
		return append(dst, 0xf6), nil
	case bool:
		if t {
			return append(dst, 0xf5), nil
		}
		return append(dst, 0xf4), nil
	case string:
		return append(AppendHead(dst, majorText, uint64(len(t))), t...), nil
	case json.Number:
		return appendNumber(dst, t)
	case json.Delim:
		return appendContainer(dst, d, t, depth)
	}
	return nil, fmt.Errorf("JSON: unexpected %v", token)
}

// unexpected is an end where there is to be more.
func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// appendContainer appends the array or object that a delimiter begins. How many it has of what is known
// at its end only, and comes first.
func appendContainer(dst []byte, d *json.Decoder, open json.Delim, depth int) ([]byte, error) {
	var body []byte
	n := uint64(0)
	for ; d.More(); n++ {
		if open == '{' {
			key, err := d.Token()
			if err != nil {
				return nil, fmt.Errorf("JSON: %w", unexpected(err))
			}
			name, _ := key.(string)
			body = append(AppendHead(body, majorText, uint64(len(name))), name...)
		}
		var err error
		if body, err = appendJSON(body, d, depth+1); err != nil {
			return nil, err
		}
	}
	if _, err := d.Token(); err != nil {
		return nil, fmt.Errorf("JSON: %w", unexpected(err))
	}
	if open == '{' {
		return append(AppendHead(dst, majorMap, n), body...), nil
	}
	return append(AppendHead(dst, majorArray, n), body...), nil
}

func appendNumber(dst []byte, n json.Number) ([]byte, error) {
	f, err := n.Float64()
	if err != nil && !math.IsInf(f, 0) {
		return nil, fmt.Errorf("JSON: %w", err)
	}
	if i := int64(f); math.Abs(f) <= safeIntegerMax && float64(i) == f && (i != 0 || !math.Signbit(f)) {
		return appendInt(dst, i), nil
	}
	return binary.BigEndian.AppendUint64(append(dst, 0xfb), math.Float64bits(f)), nil
}

// AppendHead appends an item's first bytes: the major type, in the three high bits, and its number in the
// fewest bytes.
func AppendHead(dst []byte, major byte, n uint64) []byte {
	switch {
	case n < 24:
		return append(dst, major|byte(n))
	case n < 1<<8:
		return append(dst, major|24, byte(n))
	case n < 1<<16:
		return binary.BigEndian.AppendUint16(append(dst, major|25), uint16(n))
	case n < 1<<32:
		return binary.BigEndian.AppendUint32(append(dst, major|26), uint32(n))
	default:
		return binary.BigEndian.AppendUint64(append(dst, major|27), n)
	}
}

// ToJSON returns the JSON text of a value, for people and for what reads no CBOR. What JSON lacks becomes
// what is nearest: bytes base64, undefined and numbers that are none null, keys that are no text the text
// of them, and what another tag has the JSON of its content. Integers keep all their digits.
func ToJSON(item []byte) ([]byte, error) {
	if err := Check(item); err != nil {
		return nil, err
	}
	w := jsonWriter{in: item}
	if err := w.item(); err != nil {
		return nil, err
	}
	return w.out, nil
}

// jsonWriter writes the JSON of an item that is well-formed.
type jsonWriter struct {
	in, out []byte
	shared  [][]byte // what may be referred to, by number; nil while it is being written
	again   int      // in how many references this is: there, what may be referred to has its number already
}

// indefinite is the length of what a break ends.
const indefinite = math.MaxUint64

// head reads an item's first bytes. n is its argument, and bits how many bytes that had.
func (w *jsonWriter) head() (major byte, n uint64, size int) {
	major = w.in[0] & 0xe0
	info := w.in[0] & 0x1f
	w.in = w.in[1:]
	switch {
	case info < 24:
		return major, uint64(info), 0
	case info == 31:
		return major, indefinite, 0
	}
	size = 1 << (info - 24)
	for _, b := range w.in[:size] {
		n = n<<8 | uint64(b)
	}
	w.in = w.in[size:]
	return major, n, size
}

func (w *jsonWriter) item() error {
	major, n, size := w.head()
	switch major {
	case majorUint:
		w.out = strconv.AppendUint(w.out, n, 10)
	case majorNegative:
		w.out = append(w.out, new(big.Int).Not(new(big.Int).SetUint64(n)).String()...)
	case majorBytes:
		w.out = append(w.out, '"')
		w.out = base64.StdEncoding.AppendEncode(w.out, w.text(n))
		w.out = append(w.out, '"')
	case majorText:
		return w.string(w.text(n))
	case majorArray:
		return w.list(n, '[', ']', w.item)
	case majorMap:
		return w.list(n, '{', '}', w.pair)
	case majorTag:
		return w.tagged(n)
	default:
		w.simple(n, size)
	}
	return nil
}

// text reads the content of a string of bytes or of text, of one piece or several.
func (w *jsonWriter) text(n uint64) []byte {
	if n != indefinite {
		s := w.in[:n]
		w.in = w.in[n:]
		return s
	}
	var s []byte
	for !w.ends() {
		_, n, _ := w.head()
		s = append(s, w.text(n)...)
	}
	return s
}

// ends says, and takes it, whether a break is next.
func (w *jsonWriter) ends() bool {
	if w.in[0] != 0xff {
		return false
	}
	w.in = w.in[1:]
	return true
}

func (w *jsonWriter) string(s []byte) error {
	quoted, err := json.Marshal(string(s))
	if err != nil {
		return fmt.Errorf("encode JSON: %w", err)
	}
	w.out = append(w.out, quoted...)
	return nil
}

func (w *jsonWriter) list(n uint64, open, end byte, one func() error) error {
	w.out = append(w.out, open)
	for i := range n {
		if n == indefinite && w.ends() {
			break
		}
		if i > 0 {
			w.out = append(w.out, ',')
		}
		if err := one(); err != nil {
			return err
		}
	}
	w.out = append(w.out, end)
	return nil
}

func (w *jsonWriter) pair() error {
	key := jsonWriter{in: w.in}
	isText := w.in[0]&0xe0 == majorText
	if err := key.item(); err != nil {
		return err
	}
	w.in = key.in
	if isText {
		w.out = append(w.out, key.out...)
	} else if err := w.string(key.out); err != nil {
		return err
	}
	w.out = append(w.out, ':')
	return w.item()
}

// Tags that are not ours.
const (
	tagBigUint     = 2
	tagBigNegative = 3
	tagShareable   = 28  // what references refer to, by their order
	tagShared      = 29  // a reference
	tagWTF8        = 273 // a string with half a surrogate pair
)

// referencesMax is up to which length of the JSON references are written as what they refer to: a few bytes can refer to
// very much.
const referencesMax = 32 << 20

// againMax is how deep references are followed.
const againMax = 64

// shareable writes what may be referred to.
func (w *jsonWriter) shareable() error {
	if w.again > 0 {
		return w.item()
	}
	n := len(w.shared)
	w.shared = append(w.shared, nil) // until its end, a reference to it is one to itself
	start := w.in
	if err := w.item(); err != nil {
		return err
	}
	w.shared[n] = start
	return nil
}

// reference writes what is referred to once more, and null in the place of what is around it.
func (w *jsonWriter) reference() error {
	n, rest := w.in[0], jsonWriter{in: w.in}
	if err := rest.item(); err != nil {
		return err
	}
	w.in = rest.in
	number, bad := strconv.ParseUint(string(rest.out), 10, 32)
	known := bad == nil && n&0xe0 == majorUint && number < uint64(len(w.shared)) && w.shared[number] != nil
	if !known || len(w.out) > referencesMax || w.again > againMax {
		w.out = append(w.out, "null"...)
		return nil //nolint:nilerr // What refers to nothing is null.
	}
	again := w.shared[number]
	w.shared[number] = nil
	inner := jsonWriter{in: again, out: w.out, shared: w.shared, again: w.again + 1}
	err := inner.item()
	w.shared[number] = again
	w.out = inner.out
	return err
}

func (w *jsonWriter) tagged(tag uint64) error {
	if isBytes := w.in[0]&0xe0 == majorBytes; isBytes && (tag == tagBigUint || tag == tagBigNegative) {
		_, n, _ := w.head()
		i := new(big.Int).SetBytes(w.text(n))
		if tag == tagBigNegative {
			i.Not(i)
		}
		w.out = append(w.out, i.String()...)
		return nil
	}
	switch tag {
	case tagShareable:
		return w.shareable()
	case tagShared:
		return w.reference()
	case tagWTF8:
		if w.in[0]&0xe0 == majorBytes {
			_, n, _ := w.head()
			return w.string(w.text(n))
		}
	case TagReplaced:
		return errReplaced
	}
	return w.item()
}

// errReplaced says that a value is of use to workers alone.
var errReplaced = errors.New("it is or has a function, an RpcTarget or a stub, which JSON can't have")

// simple writes a simple value or a number with a fraction, of so many bytes.
func (w *jsonWriter) simple(n uint64, size int) {
	var f float64
	switch {
	case size == 2:
		f = float64(halfFloat(uint16(n))) //nolint:gosec // of two bytes
	case size == 4:
		f = float64(math.Float32frombits(uint32(n))) //nolint:gosec // of four bytes
	case size == 8:
		f = math.Float64frombits(n)
	case n == 20:
		w.out = append(w.out, "false"...)
		return
	case n == 21:
		w.out = append(w.out, "true"...)
		return
	default:
		w.out = append(w.out, "null"...)
		return
	}
	text, err := json.Marshal(f)
	if err != nil { // No number, or an infinite one.
		text = []byte("null")
	}
	w.out = append(w.out, text...)
}

func halfFloat(bits uint16) float32 {
	sign, exponent, fraction := uint32(bits>>15)<<31, uint32(bits>>10&0x1f), uint32(bits&0x3ff)
	switch exponent {
	case 0:
		f := float32(fraction) / (1 << 24)
		return math.Float32frombits(math.Float32bits(f) | sign)
	case 0x1f:
		return math.Float32frombits(sign | 0xff<<23 | fraction<<13)
	}
	return math.Float32frombits(sign | (exponent+127-15)<<23 | fraction<<13)
}

// EncodeArguments returns the arguments of a call as one CBOR array.
func EncodeArguments(args ...any) ([]byte, error) {
	out := AppendHead(nil, majorArray, uint64(len(args)))
	for n, arg := range args {
		item, err := Encode(arg)
		if err != nil {
			return nil, fmt.Errorf("argument %d: %w", n+1, err)
		}
		out = append(out, item...)
	}
	return out, nil
}

// ArgumentsFromJSON returns the arguments that JSON text is of, as one CBOR array: an array's are its
// elements, anything else is the one argument, and no text is none.
func ArgumentsFromJSON(text []byte) ([]byte, error) {
	if len(bytes.TrimSpace(text)) == 0 {
		return AppendHead(nil, majorArray, 0), nil
	}
	item, err := FromJSON(text)
	if err != nil || item[0]&0xe0 == majorArray {
		return item, err
	}
	return append(AppendHead(nil, majorArray, 1), item...), nil
}

// SplitArguments returns the arguments in a CBOR array, which share its memory.
func SplitArguments(args []byte) ([][]byte, error) {
	if len(args) == 0 || args[0]&0xe0 != majorArray {
		return nil, errors.New("arguments: must be one CBOR array")
	}
	var items []cbor.RawMessage
	if err := decMode.Unmarshal(args, &items); err != nil {
		return nil, fmt.Errorf("arguments: %w", err)
	}
	out := make([][]byte, len(items))
	for i := range items {
		out[i] = items[i]
	}
	return out, nil
}
