package web

import (
	"bytes"
	"compress/flate"
	"compress/gzip"
	"compress/zlib"
	"errors"
	"fmt"
	"io"
	"iter"
)

const (
	// Coders of one engine at a time: a compressor takes about 0.8 MB of Go's memory, which the limit of
	// the engine does not see.
	codersMax = 32
	// What a coder hands out at a time, in bytes.
	pieceBytes = 64 << 10
)

// coder compresses or decompresses a stream that comes in pieces. Go's readers pull their input, so it runs
// as a coroutine that stops whenever it needs more input or has a piece of output. It belongs to one engine
// and must be closed.
type coder struct {
	in   []byte
	last bool
	next func() (piece, bool)
	stop func()
	err  error
}

// piece is what a coroutine stopped with: output, an error, or, with neither, the wish for more input.
type piece struct {
	out []byte
	err error
}

// errStopped ends the coroutine when the coder is closed.
var errStopped = errors.New("the coder was closed")

func newCoder(format string, decompress bool) (*coder, error) {
	switch format {
	case "gzip", "deflate", "deflate-raw":
	default:
		return nil, fmt.Errorf("unknown compression format %q", format)
	}
	c := &coder{}
	c.next, c.stop = iter.Pull(func(yield func(piece) bool) {
		run := c.compress
		if decompress {
			run = c.decompress
		}
		if err := run(format, yield); err != nil && !errors.Is(err, errStopped) {
			yield(piece{err: err})
		}
	})
	return c, nil
}

// code hands input in, or nil to get the next piece of output of the last input. It returns nil when all
// output that there is so far was returned. The result is the caller's.
func (c *coder) code(in []byte, last bool) ([]byte, error) {
	if c.err != nil {
		return nil, c.err
	}
	if in != nil {
		c.in, c.last = in, last
	}
	p, more := c.next()
	if !more {
		if len(c.in) > 0 {
			c.err = errors.New("trailing data after the end of the compressed stream")
			return nil, c.err
		}
		return nil, nil
	}
	c.err = p.err
	return p.out, p.err
}

func (c *coder) close() {
	c.stop()
}

// coders are those of one engine, by the numbers that JavaScript knows them by.
type coders struct {
	last int64
	byID map[int64]*coder
}

func (c *coders) add(format string, decompress bool) (int64, error) {
	if len(c.byID) >= codersMax {
		return 0, fmt.Errorf("more than %d compression streams are open: read them to their end, or cancel them", codersMax)
	}
	one, err := newCoder(format, decompress)
	if err != nil {
		return 0, err
	}
	c.last++
	c.byID[c.last] = one
	return c.last, nil
}

func (c *coders) code(id int64, in []byte, last bool) ([]byte, error) {
	one, ok := c.byID[id]
	if !ok {
		return nil, errors.New("the compression stream has ended")
	}
	return one.code(in, last)
}

func (c *coders) free(id int64) {
	if one, ok := c.byID[id]; ok {
		delete(c.byID, id)
		one.close()
	}
}

func (c *coders) close() {
	for id := range c.byID {
		c.free(id)
	}
}

// input is the reader of the coroutine's input, which stops the coroutine when there is none.
type input struct {
	c     *coder
	yield func(piece) bool
}

func (i input) fill() error {
	for len(i.c.in) == 0 {
		if i.c.last {
			return io.EOF
		}
		if !i.yield(piece{}) {
			return errStopped
		}
	}
	return nil
}

func (i input) Read(p []byte) (int, error) {
	if err := i.fill(); err != nil {
		return 0, err
	}
	n := copy(p, i.c.in)
	i.c.in = i.c.in[n:]
	return n, nil
}

// ReadByte makes input an io.ByteReader: so the decompressors read not a byte beyond the end of their stream.
func (i input) ReadByte() (byte, error) {
	if err := i.fill(); err != nil {
		return 0, err
	}
	b := i.c.in[0]
	i.c.in = i.c.in[1:]
	return b, nil
}

func (c *coder) decompress(format string, yield func(piece) bool) error {
	in := input{c, yield}
	var r io.Reader
	var err error
	switch format {
	case "gzip":
		var z *gzip.Reader
		if z, err = gzip.NewReader(in); err == nil {
			z.Multistream(false)
			r = z
		}
	case "deflate":
		r, err = zlib.NewReader(in)
	default:
		r = flate.NewReader(in)
	}
	for err == nil {
		buf := make([]byte, pieceBytes)
		var n int
		n, err = r.Read(buf)
		if n > 0 && !yield(piece{out: buf[:n]}) {
			return errStopped
		}
	}
	if errors.Is(err, io.EOF) && r != nil {
		// What follows is trailing data; wait for the end to see whether there is any.
		if err := in.fill(); err == nil || errors.Is(err, io.EOF) {
			return nil
		}
		return errStopped
	}
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

func (c *coder) compress(format string, yield func(piece) bool) error {
	var out bytes.Buffer
	var w io.WriteCloser
	switch format {
	case "gzip":
		w = gzip.NewWriter(&out)
	case "deflate":
		w = zlib.NewWriter(&out)
	default:
		z, err := flate.NewWriter(&out, flate.DefaultCompression)
		if err != nil {
			return err
		}
		w = z
	}
	in := input{c, yield}
	buf := make([]byte, pieceBytes)
	for {
		n, err := in.Read(buf)
		if errors.Is(err, io.EOF) {
			err = w.Close()
		} else if err == nil {
			_, err = w.Write(buf[:n])
		}
		if err != nil {
			return err
		}
		if out.Len() > 0 && !yield(piece{out: bytes.Clone(out.Bytes())}) {
			return errStopped
		}
		out.Reset()
		if n == 0 {
			return nil
		}
	}
}
