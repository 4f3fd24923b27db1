package objectfile

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/holdfast-io/holdfast/placement"
)

// DamageError says where a file is not what was written.
type DamageError struct {
	// Offset is where the item begins in which that shows, and Item counts it from 0.
	Offset int64
	Item   uint64
	// Object names the object in which it lies; empty between objects.
	Object string
	Err    error
}

// Error implements error.
func (e *DamageError) Error() string {
	within := ""
	if e.Object != "" {
		within = ", in " + e.Object
	}
	return fmt.Sprintf("the file is damaged at byte %d (item %d%s): %v", e.Offset, e.Item, within, e.Err)
}

// Unwrap returns what is wrong there.
func (e *DamageError) Unwrap() error { return e.Err }

// ErrTruncated is in a DamageError when the file ends too early.
var ErrTruncated = errors.New("it ends there, before its end: it was cut off, or its export was")

// Reader reads a file. Not safe for concurrent use.
type Reader struct {
	r      *bufio.Reader
	s      state
	header Header
}

// NewReader reads the header.
func NewReader(r io.Reader) (*Reader, error) {
	in := &Reader{r: bufio.NewReaderSize(r, 256<<10)}
	var start [3]byte
	if _, err := io.ReadFull(in.r, start[:]); err != nil || !bytes.Equal(start[:], magic) {
		return nil, in.damaged(errors.New("it is no file of exported objects"))
	}
	in.s.offset = int64(len(magic))
	kind, payload, sum, err := in.read()
	if err != nil {
		return nil, in.damaged(err)
	}
	var h storedHeader
	if kind != kindHeader {
		return nil, in.damaged(errors.New("it is no file of exported objects"))
	}
	err = unmarshal(payload, &h)
	switch {
	case h.Format == format && h.Version != Version:
		return nil, in.damaged(fmt.Errorf("it is of version %d, and this release reads version %d", h.Version, Version))
	case err != nil:
		return nil, in.damaged(err)
	case h.Format != format:
		return nil, in.damaged(errors.New("it is no file of exported objects"))
	}
	in.header = h.Header
	in.took(payload, sum)
	return in, nil
}

// Header returns the file's header.
func (r *Reader) Header() Header { return r.header }

// Offset is how many bytes have been read.
func (r *Reader) Offset() int64 { return r.s.offset }

// Next returns the next item, and io.EOF behind the *End of a file that is whole. Any other error is a
// *DamageError, around that of what is read from if it is to blame.
func (r *Reader) Next() (Item, error) {
	if r.s.over {
		if _, err := r.r.ReadByte(); err == nil {
			return nil, r.damaged(errors.New("there is more behind the end"))
		} else if !errors.Is(err, io.EOF) {
			return nil, r.damaged(err)
		}
		return nil, io.EOF
	}
	kind, payload, sum, err := r.read()
	if err != nil {
		return nil, r.damaged(err)
	}
	item, err := decode(kind, payload)
	if err == nil {
		err = r.s.next(item)
	}
	if err != nil {
		return nil, r.damaged(err)
	}
	r.took(payload, sum)
	return item, nil
}

func decode(kind byte, payload []byte) (Item, error) {
	switch kind {
	case kindObject:
		return decodeInto(payload, &Object{})
	case kindEntries:
		entries, err := decodeInto(payload, &Entries{})
		if err != nil {
			return nil, err
		}
		return *entries, nil
	case kindObjectEnd:
		return decodeInto(payload, &ObjectEnd{})
	case kindSkipped:
		return decodeInto(payload, &Skipped{})
	case kindEnd:
		return decodeInto(payload, &End{})
	}
	return nil, fmt.Errorf("an item of kind %d, which this release does not know", kind)
}

// unmarshal decodes a payload. What it returns is never io.EOF, which is the end of a file that is whole.
func unmarshal(payload []byte, into any) error {
	if err := decMode.Unmarshal(payload, into); err != nil {
		return errors.New(err.Error())
	}
	return nil
}

// decodeInto takes nothing but what a Writer writes.
func decodeInto[T any](payload []byte, into *T) (*T, error) {
	if err := unmarshal(payload, into); err != nil {
		return nil, err
	}
	again, err := encMode.Marshal(into)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(payload, again) {
		return nil, errors.New("it is not in the encoding of the format")
	}
	return into, nil
}

// read reads an item, as it is.
func (r *Reader) read() (kind byte, payload []byte, sum uint32, err error) {
	var head [headBytes]byte
	if err := r.full(head[:]); err != nil {
		return 0, nil, 0, err
	}
	length := binary.BigEndian.Uint32(head[3:])
	if head[0] != headArray || head[1] > 0x17 || head[2] != headString || length > ItemBytesMax {
		return 0, nil, 0, errors.New("no item begins there")
	}
	// What is claimed is believed only as far as it comes.
	var body bytes.Buffer
	body.Grow(int(min(length, 64<<10)) + bytes.MinRead)
	if n, err := io.CopyN(&body, r.r, int64(length)); err != nil {
		if errors.Is(err, io.EOF) || n < int64(length) && errors.Is(err, io.ErrUnexpectedEOF) {
			err = ErrTruncated
		}
		return 0, nil, 0, err
	}
	var tail [sumBytes]byte
	if err := r.full(tail[:]); err != nil {
		return 0, nil, 0, err
	}
	sum = chained(r.s.sum, head[1], body.Bytes())
	if tail[0] != headSum || binary.BigEndian.Uint32(tail[1:]) != sum {
		return 0, nil, 0, errors.New("the checksum does not match")
	}
	return head[1], body.Bytes(), sum, nil
}

func (r *Reader) full(b []byte) error {
	_, err := io.ReadFull(r.r, b)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return ErrTruncated
	}
	return err
}

// took notes that an item was read.
func (r *Reader) took(payload []byte, sum uint32) {
	r.s.items++
	r.s.offset += int64(headBytes + len(payload) + sumBytes)
	r.s.sum = sum
}

func (r *Reader) damaged(err error) error {
	e := &DamageError{Offset: r.s.offset, Item: r.s.items, Err: err}
	if r.s.object != nil {
		e.Object = r.s.object.Label()
	}
	return e
}

// Recover reads a file that was cut off and returns its header, the place behind the last object that it
// has whole, from which it can be written on, and that object's id, nil when there is none. A file that is
// whole is refused.
func Recover(r io.Reader) (Header, Mark, *placement.ObjectID, error) {
	in, err := NewReader(r)
	if err != nil {
		return Header{}, Mark{}, nil, err
	}
	var last, open *placement.ObjectID
	for at := in.s; ; {
		item, err := in.Next()
		if err != nil {
			return in.header, Mark{Offset: at.offset, Total: at.total, items: at.items, sum: at.sum}, last, nil //nolint:nilerr // where it was cut off
		}
		switch it := item.(type) {
		case *Object:
			open = &it.ID
		case *ObjectEnd:
			last, at = open, in.s
		case *Skipped:
			last, at = &it.ID, in.s
		case *End:
			return in.header, Mark{}, nil, errors.New("the file is whole")
		}
	}
}
