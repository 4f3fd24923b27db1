package outbound

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"net/http"
	"net/url"
	"sync"
	"time"
)

// body is that of a response, with its limits. It gives its place among the requests under way back when it is
// closed.
type body struct {
	ctx    context.Context //nolint:containedctx // The lifetime of the request, which ends with this body.
	r      io.ReadCloser
	left   int64
	idle   *time.Timer
	client *Client
	cancel context.CancelCauseFunc
	once   sync.Once
}

func (b *body) Read(p []byte) (int, error) {
	b.idle.Reset(b.client.cfg.IdleTime)
	n, err := b.r.Read(p)
	b.idle.Stop()
	b.left -= int64(n)
	switch {
	case b.left < 0:
		return 0, fmt.Errorf("the body of the response is larger than %d bytes (setting fetch-body-max)", b.client.cfg.BodyBytesMax)
	case err != nil && !errors.Is(err, io.EOF):
		if cause := context.Cause(b.ctx); cause != nil {
			err = cause
		}
		return n, plain(err)
	default:
		return n, err
	}
}

func (b *body) Close() error {
	err := b.r.Close()
	b.once.Do(func() {
		b.idle.Stop()
		b.cancel(context.Canceled)
		b.client.inFlight.Release(1)
	})
	return err
}

// Bytes is a request's body that is all there: it can be sent again when a redirect asks for it.
func Bytes(data []byte) io.ReadCloser {
	return &replayable{Reader: bytes.NewReader(data), data: data}
}

type replayable struct {
	*bytes.Reader
	data []byte
}

func (r *replayable) Close() error { return nil }

// Replay is the body from its start.
func (r *replayable) Replay() (io.ReadCloser, error) { return Bytes(r.data), nil }

// plain takes off what net/http wraps round an error, which repeats the request's URL with its secrets.
func plain(err error) error {
	if u, ok := errors.AsType[*url.Error](err); ok {
		return u.Err
	}
	return err
}

func keys(h http.Header) iter.Seq[string] { return maps.Keys(h) }
