package objectfile

import (
	"encoding/binary"
	"fmt"
	"io"
)

// Writer writes a file. Its methods are to be called in the order of the items: for each object Begin,
// Entry for each of its entries in the order of their keys, End; at last Close. Not safe for concurrent
// use. After an error of w nothing that was written since the last Mark counts.
type Writer struct {
	w       io.Writer
	s       state
	pending Entries
	bytes   int // of pending
	buf     []byte
}

// Mark is a place between two objects, from which a file can be written on.
type Mark struct {
	// Offset is how long the file is then, and Total what it has.
	Offset int64
	Total  End

	items uint64
	sum   uint32
}

// NewWriter begins a file.
func NewWriter(w io.Writer, h Header) (*Writer, error) {
	out := &Writer{w: w}
	if _, err := w.Write(magic); err != nil {
		return nil, fmt.Errorf("write objects: %w", err)
	}
	out.s.offset = int64(len(magic))
	if err := out.write(kindHeader, storedHeader{Format: format, Version: Version, Header: h}); err != nil {
		return nil, err
	}
	return out, nil
}

// NewWriterAt goes on behind a Mark: w appends there.
func NewWriterAt(w io.Writer, m Mark) *Writer {
	return &Writer{w: w, s: state{items: m.items, offset: m.Offset, sum: m.sum, total: m.Total}}
}

// Mark returns the place between two objects that the writer is at.
func (w *Writer) Mark() Mark {
	return Mark{Offset: w.s.offset, Total: w.s.total, items: w.s.items, sum: w.s.sum}
}

// Begin begins an object.
func (w *Writer) Begin(o *Object) error { return w.item(o) }

// Entry adds an entry to the object. It owns key and value.
func (w *Writer) Entry(key, value []byte) error {
	if len(w.pending) > 0 && w.bytes+len(key)+len(value) > EntriesBytes {
		if err := w.flush(); err != nil {
			return err
		}
	}
	w.pending = append(w.pending, Entry{Key: key, Value: value})
	w.bytes += len(key) + len(value) + 16
	return nil
}

func (w *Writer) flush() error {
	if len(w.pending) == 0 {
		return nil
	}
	pending := w.pending
	w.pending, w.bytes = nil, 0
	return w.item(pending)
}

// End ends the object.
func (w *Writer) End() error {
	if err := w.flush(); err != nil {
		return err
	}
	end := w.s.end
	return w.item(&end)
}

// Skip notes an object that could not be exported.
func (w *Writer) Skip(s *Skipped) error { return w.item(s) }

// Close ends the file. It does not close what it is written to.
func (w *Writer) Close() (End, error) {
	end := w.s.total
	return end, w.item(&end)
}

func (w *Writer) item(item Item) error {
	if err := w.s.next(item); err != nil {
		return fmt.Errorf("write objects: %w", err)
	}
	return w.write(item.kind(), item)
}

func (w *Writer) write(kind byte, v any) error {
	payload, err := encMode.Marshal(v)
	if err != nil {
		return fmt.Errorf("write objects: %w", err)
	}
	if len(payload) > ItemBytesMax {
		return fmt.Errorf("write objects: an item of %d bytes; at most %d", len(payload), ItemBytesMax)
	}
	sum := chained(w.s.sum, kind, payload)
	w.buf = append(w.buf[:0], headArray, kind, headString)
	w.buf = binary.BigEndian.AppendUint32(w.buf, uint32(len(payload))) //nolint:gosec // bounded above
	w.buf = append(append(w.buf, payload...), headSum)
	w.buf = binary.BigEndian.AppendUint32(w.buf, sum)
	if _, err := w.w.Write(w.buf); err != nil {
		return fmt.Errorf("write objects: %w", err)
	}
	w.s.items++
	w.s.offset += int64(len(w.buf))
	w.s.sum = sum
	return nil
}
