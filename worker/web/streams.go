package web

import (
	"context"
	"errors"
	"fmt"
	"io"
)

const (
	// Streams of one engine that are open.
	streamsMax = 4096
	// What a read gives at a time, in bytes.
	readBytes = 64 << 10
	// What text(), json() and the like read of a stream; a longer one is read in pieces.
	readAllMax = 64 << 20
)

// streams are those between JavaScript and Go, by the numbers that JavaScript knows them by. They are only
// touched on the engine; what blocks runs on goroutines of the platform.
type streams struct {
	last    int64
	readers map[int64]io.ReadCloser
	writers map[int64]*io.PipeWriter
}

func (s *streams) next() (int64, error) {
	if len(s.readers)+len(s.writers) >= streamsMax {
		return 0, named("Error", fmt.Errorf("more than %d bodies of requests and responses are open: read them or cancel them", streamsMax))
	}
	s.last++
	return s.last, nil
}

func (s *streams) addReader(r io.ReadCloser) (int64, error) {
	id, err := s.next()
	if err != nil {
		return 0, errors.Join(err, r.Close())
	}
	s.readers[id] = r
	return id, nil
}

// takeReader takes a stream that JavaScript has not read from away from it.
func (s *streams) takeReader(id int64) (io.ReadCloser, error) {
	r, ok := s.readers[id]
	if !ok {
		return nil, fmt.Errorf("the body is not there any more (stream %d)", id)
	}
	delete(s.readers, id)
	return r, nil
}

// pipe opens a stream that JavaScript writes to.
func (s *streams) pipe() (int64, *io.PipeReader, error) {
	id, err := s.next()
	if err != nil {
		return 0, nil, err
	}
	r, w := io.Pipe()
	s.writers[id] = w
	return id, r, nil
}

func (s *streams) close() {
	for _, r := range s.readers {
		_ = r.Close()
	}
	for _, w := range s.writers {
		_ = w.CloseWithError(errors.New("the engine was closed"))
	}
	clear(s.readers)
	clear(s.writers)
}

// read starts a read of one piece: bytes, or null at the end.
func (p *Platform) read(id, op int64) error {
	r, ok := p.streams.readers[id]
	if !ok {
		return named("TypeError", errors.New("the body is not there any more"))
	}
	return p.begin(op, func(context.Context) (any, error) {
		buf := make([]byte, readBytes)
		for {
			n, err := r.Read(buf)
			switch {
			case n > 0:
				// An error with it comes again with the next read.
				return buf[:n], nil
			case errors.Is(err, io.EOF):
				return nil, nil
			case err != nil:
				return nil, err
			}
		}
	}, func(result any, err error) {
		if result == nil || err != nil {
			p.cancelRead(id)
		}
	})
}

func (p *Platform) readAll(id, op int64) error {
	r, err := p.streams.takeReader(id)
	if err != nil {
		return named("TypeError", err)
	}
	return p.begin(op, func(ctx context.Context) (any, error) {
		// It is in no list any more that Close goes through.
		defer context.AfterFunc(ctx, func() { _ = r.Close() })()
		data, err := io.ReadAll(io.LimitReader(r, readAllMax+1))
		err = errors.Join(err, r.Close())
		if err == nil && len(data) > readAllMax {
			err = fmt.Errorf("the body is larger than %d bytes: read it in pieces, by its stream", readAllMax)
		}
		return data, err
	}, nil)
}

func (p *Platform) cancelRead(id int64) {
	if r, err := p.streams.takeReader(id); err == nil {
		_ = r.Close()
	}
}

func (p *Platform) write(id int64, data []byte, op int64) error {
	w, ok := p.streams.writers[id]
	if !ok {
		return named("TypeError", errors.New("the reader of this body has gone away"))
	}
	return p.begin(op, func(context.Context) (any, error) {
		_, err := w.Write(data)
		return nil, err
	}, nil)
}

// closeWrite ends a stream that JavaScript writes to: well, or by an error.
func (p *Platform) closeWrite(id int64, err error) {
	if w, ok := p.streams.writers[id]; ok {
		delete(p.streams.writers, id)
		_ = w.CloseWithError(err) // nil is the end
	}
}
