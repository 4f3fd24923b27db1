package web

import (
	"context"
	"errors"
	"io"
	"sync"

	"github.com/holdfast-io/holdfast/worker/web/outbound"
)

// errAborted is the cause of a fetch that JavaScript gave up.
var errAborted = named("AbortError", errors.New("The operation was aborted.")) //nolint:staticcheck,revive // The text that JavaScript shows.

// fetch starts a request. It returns the number of the stream that its body is to be written to, if it is
// streamed.
func (p *Platform) fetch(op int64, head string, body []byte, hostStream int64, streamed bool) (int64, error) {
	h, err := parseHead(head)
	if err != nil {
		return 0, err
	}
	r := &outbound.Request{Method: h.Method, URL: h.URL, Header: h.Header, Redirect: h.Redirect, Length: h.Length}
	var writer int64
	switch {
	case body != nil:
		r.Body, r.Length = outbound.Bytes(body), int64(len(body))
	case hostStream != 0:
		r.Body, err = p.streams.takeReader(hostStream)
	case streamed:
		var reader *io.PipeReader
		writer, reader, err = p.streams.pipe()
		r.Body = reader
	}
	if err != nil {
		return 0, err
	}
	// The context lives as long as the response's body: abortFetch ends both.
	ctx, cancel := context.WithCancelCause(p.ctx)
	p.fetches.add(op, cancel)
	if err := p.beginFetch(ctx, op, r); err != nil {
		p.fetches.end(op, err)
		if r.Body != nil {
			_ = r.Body.Close()
		}
		return 0, err
	}
	return writer, nil
}

func (p *Platform) beginFetch(ctx context.Context, id int64, r *outbound.Request) error {
	op, err := p.host.BeginFetch()
	if err != nil {
		return err
	}
	p.goroutines.Go(func() {
		resp, err := p.host.Fetch(ctx, op, r)
		if cause := context.Cause(ctx); err != nil && cause != nil {
			err = cause
		}
		if err != nil {
			op.Settle(func() error {
				p.fetches.end(id, err)
				return p.reject(id, err)
			})
			return
		}
		op.Settle(func() error { return p.answer(id, resp) })
	})
	return nil
}

// answer hands a response to JavaScript. Its context ends with its body.
func (p *Platform) answer(id int64, resp *outbound.Response) error {
	h := &Head{Header: resp.Header}
	headers, err := h.headerText()
	var stream int64
	if err == nil {
		stream, err = p.streams.addReader(&fetchBody{ReadCloser: resp.Body, fetches: &p.fetches, id: id})
	}
	if err != nil {
		p.fetches.end(id, err)
		return p.reject(id, err)
	}
	return p.resolve(id, []any{
		resp.Status, fromLatin1([]byte(resp.StatusText)), resp.URL, resp.Redirected, headers, resp.Length, nil, stream,
	})
}

// fetches are the requests under way, to the end of the response's body, by the numbers of their operations.
type fetches struct {
	mu     sync.Mutex
	cancel map[int64]context.CancelCauseFunc
}

func (f *fetches) add(id int64, cancel context.CancelCauseFunc) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.cancel[id] = cancel
}

// end cancels a request that is under way.
func (f *fetches) end(id int64, cause error) {
	f.mu.Lock()
	cancel, ok := f.cancel[id]
	delete(f.cancel, id)
	f.mu.Unlock()
	if ok {
		cancel(cause)
	}
}

// fetchBody is the body of a response, with which the request ends.
type fetchBody struct {
	io.ReadCloser
	fetches *fetches
	id      int64
}

func (b *fetchBody) Close() error {
	err := b.ReadCloser.Close()
	b.fetches.end(b.id, context.Canceled)
	return err
}
