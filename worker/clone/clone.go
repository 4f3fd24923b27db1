// Package clone turns JavaScript values into CBOR and back: the structured clone of the web, in the form in which Go
// classes, the command line and the disk have values too (docs/format/values.md). Objects of storage and the arguments
// and results of calls go through it.
//
// What structured clone keeps is kept: undefined, NaN and -0, bigints, dates, regular expressions, maps, sets, buffers
// and views on them, errors, boxed primitives, holes of arrays, references to what was there before, and cycles. Of
// instances of classes the own enumerable properties are kept and the class is not. Functions, symbols, proxies,
// promises and the like can't be cloned and give a DataCloneError, unless Options.Replace knows what to make of them.
//
// All functions are used in an entry of the engine that the value is of.
package clone

import (
	"errors"
	"fmt"

	"github.com/holdfast-io/holdfast/storage/value"
	"github.com/holdfast-io/holdfast/worker/quickjs"
)

// Limits of encoded values, in bytes, and how deep values may be nested.
const (
	ValueMax   = 2 << 20
	MessageMax = 32 << 20
	DepthMax   = value.DepthMax / 4 // a level of JavaScript's takes up to four of CBOR's
)

// ErrTooLarge says that a value is larger than Options.SizeMax when it is encoded.
var ErrTooLarge = errors.New("the value is too large")

// ErrMalformed says that bytes are not what Encode makes, nor what Go writes.
var ErrMalformed = errors.New("the bytes are no value")

// Options say what more there is to cloning than what the language has.
type Options struct {
	// SizeMax is how large an encoded value may be, in bytes. 0: ValueMax.
	SizeMax int
	// ErrorProps keeps the own enumerable properties of errors.
	ErrorProps bool
	// Replace is asked what to put in the place of a function, of an instance of a class, and of whatever else is not
	// cloned as it is. What it gives is cloned in its place, and handed to Revive when it is read. When ok is false, an
	// instance is cloned as a plain object, and anything else refused. An error is what Encode gives. Nil: never ok.
	Replace func(v quickjs.Value) (replacement quickjs.Value, ok bool, err error)
	// Revive makes of what Replace gave what stands for it here. Nil: such values can't be read.
	Revive func(replacement quickjs.Value) (quickjs.Value, error)
}

func (o Options) sizeMax() int {
	if o.SizeMax > 0 {
		return o.SizeMax
	}
	return ValueMax
}

// refuse is the DataCloneError for what can't be cloned.
func refuse(what string) error {
	return &quickjs.Error{Name: "DataCloneError", Message: what + " could not be cloned."}
}

func tooLarge(size, limit int) error {
	return fmt.Errorf("%w: it takes more than %d bytes and may take %d", ErrTooLarge, size, limit)
}

// Major types of CBOR.
const (
	majorUint   = 0
	majorNegint = 1
	majorBytes  = 2
	majorText   = 3
	majorArray  = 4
	majorMap    = 5
	majorTag    = 6
	majorOther  = 7
)

// First bytes that stand for themselves.
const (
	byteFalse     = 0xf4
	byteTrue      = 0xf5
	byteNull      = 0xf6
	byteUndefined = 0xf7
	byteFloat16   = 0xf9
	byteFloat32   = 0xfa
	byteFloat64   = 0xfb
)

// Tags that others have defined.
const (
	tagTime      = 0
	tagBigint    = 2
	tagNegBigint = 3
	tagShareable = 28
	tagShared    = 29
	tagWTF8      = 273
)

// viewTags are RFC 8746's tags of typed arrays, little endian.
var viewTags = map[quickjs.Class]uint64{
	quickjs.ClassUint8:        64,
	quickjs.ClassUint8Clamped: 68,
	quickjs.ClassUint16:       69,
	quickjs.ClassUint32:       70,
	quickjs.ClassBigUint64:    71,
	quickjs.ClassInt8:         72,
	quickjs.ClassInt16:        77,
	quickjs.ClassInt32:        78,
	quickjs.ClassBigInt64:     79,
	quickjs.ClassFloat16:      84,
	quickjs.ClassFloat32:      85,
	quickjs.ClassFloat64:      86,
}

var viewClasses = func() map[uint64]quickjs.Class {
	out := make(map[uint64]quickjs.Class, len(viewTags))
	for class, tag := range viewTags {
		out[tag] = class
	}
	return out
}()

// The members of a protobuf message in JavaScript, as in the JSON form of google.protobuf.Any.
const (
	protoType  = "@type"
	protoValue = "value"
)

// The members of an encoded error.
const (
	keyName    = "name"
	keyMessage = "message"
	keyStack   = "stack"
	keyCause   = "cause"
	keyProps   = "props"
)

// errorNames are the classes of errors that are kept; any other becomes the first.
var errorNames = []string{"Error", "EvalError", "RangeError", "ReferenceError", "SyntaxError", "TypeError", "URIError"}
