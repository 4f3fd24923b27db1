package worker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/holdfast-io/holdfast/storage/value"
	"github.com/holdfast-io/holdfast/worker/clone"
	"github.com/holdfast-io/holdfast/worker/quickjs"
	"github.com/holdfast-io/holdfast/worker/web"
)

// wireMessage is a Request or Response on its way between objects.
type wireMessage struct {
	Method     string   `cbor:"method,omitempty"`
	URL        string   `cbor:"url,omitempty"`
	Redirect   string   `cbor:"redirect,omitempty"`
	Status     int      `cbor:"status,omitempty"`
	StatusText string   `cbor:"statusText,omitempty"`
	Headers    []string `cbor:"headers,omitempty"` // name, value, …; characters are bytes
	EncodeBody string   `cbor:"encodeBody,omitempty"`
	Body       []byte   `cbor:"body,omitempty"` // nil: none
}

func wireOf(h *web.Head, body []byte) *wireMessage {
	m := &wireMessage{
		Method: h.Method, URL: h.URL, Redirect: h.Redirect, Status: h.Status, StatusText: characters(h.StatusText),
		EncodeBody: h.EncodeBody, Headers: make([]string, len(h.Header)), Body: body,
	}
	for i, s := range h.Header {
		m.Headers[i] = characters(s)
	}
	return m
}

func (m *wireMessage) head() *web.Head {
	h := &web.Head{
		Method: m.Method, URL: m.URL, Redirect: m.Redirect, Status: m.Status, StatusText: bytesOf(m.StatusText),
		EncodeBody: m.EncodeBody, Header: make([]string, len(m.Headers)), Length: int64(len(m.Body)),
	}
	for i, s := range m.Headers {
		h.Header[i] = bytesOf(s)
	}
	return h
}

// characters is the text whose characters are the bytes of s; bytesOf is its inverse, and cuts those that are no
// bytes.
func characters(s string) string {
	var b strings.Builder
	for i := range len(s) {
		b.WriteRune(rune(s[i]))
	}
	return b.String()
}

func bytesOf(s string) string {
	out := make([]byte, 0, len(s))
	for _, r := range s {
		out = append(out, byte(r))
	}
	return string(out)
}

// hostFetch makes a request of an object: class, id, name, Request. It returns a promise of the Response.
func (e *engine) hostFetch(a quickjs.Args) (quickjs.Value, error) {
	to, err := e.target(a)
	if err != nil {
		return undefined, err
	}
	l, err := e.loopNow()
	if err != nil {
		return undefined, err
	}
	promise, p, err := e.promise(l)
	if err != nil {
		return undefined, err
	}
	head, body, err := e.platform.Take(a.At(3))
	if p.unless(err) != nil {
		return undefined, err
	}
	send := func(bytes []byte) error {
		args, err := value.EncodeArguments(wireOf(head, bytes))
		if err == nil && len(args) > clone.MessageMax {
			err = quickjs.NewError("TypeError", "The body of a request to a Durable Object is limited to 32MiB.")
		}
		if err != nil {
			return err
		}
		return e.send(p, to, fetchMethod, args, e.takeResponse)
	}
	if body.Stream == nil {
		return promise, p.unless(send(body.Bytes))
	}
	op, err := l.begin()
	if err != nil {
		p.drop()
		return undefined, errors.Join(err, body.Stream.Close())
	}
	e.w.wg.Go(func() {
		bytes, err := readAll(body.Stream)
		op.Settle(func() error {
			if err == nil {
				err = send(bytes)
			}
			if err != nil {
				p.settle(func() (quickjs.Value, error) { return undefined, err })
			}
			return nil
		})
	})
	return promise, nil
}

// readAll reads a body to its end, and closes it.
func readAll(body io.ReadCloser) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(body, clone.MessageMax+1))
	err = errors.Join(err, body.Close())
	if err == nil && len(data) > clone.MessageMax {
		err = quickjs.NewError("TypeError", "The body of a message to or from a Durable Object is limited to 32MiB.")
	}
	return data, err
}

// takeResponse makes a Response of a reply.
func (e *engine) takeResponse(raw []byte) (quickjs.Value, error) {
	var m wireMessage
	if err := value.Decode(raw, &m); err != nil {
		return undefined, fmt.Errorf("reply of fetch: %w", err)
	}
	return e.platform.Response(m.head(), web.Body{Bytes: m.Body})
}

// fetch runs the object's fetch.
func (o *object) fetch(ctx context.Context, args []byte) ([]byte, error) {
	defer o.keep()
	e := o.loop.engine
	var head *web.Head
	var body web.Body
	err := o.event(ctx, func() (quickjs.Value, error) {
		m, err := requestOf(args)
		if err != nil {
			return undefined, err
		}
		request, err := e.platform.Request(m.head(), web.Body{Bytes: m.Body})
		if err != nil {
			return undefined, err
		}
		return e.run.fetch.Value().Call(undefined, o.number(), request)
	}, func(v quickjs.Value) (err error) {
		head, body, err = e.platform.Take(v)
		return err
	})
	if js, ok := errors.AsType[*jsError](err); ok {
		o.loop.log.uncaught("in fetch", js)
	}
	if err != nil {
		return nil, err
	}
	if body.Stream != nil {
		if body.Bytes, err = o.readAll(ctx, body.Stream); err != nil {
			return nil, err
		}
	}
	return value.Encode(wireOf(head, body.Bytes))
}

// readAll reads a body that the object's JavaScript may still write.
func (o *object) readAll(ctx context.Context, body io.ReadCloser) (bytes []byte, err error) {
	op, err := o.loop.begin()
	if err != nil {
		return nil, errors.Join(err, body.Close())
	}
	done := false
	o.w.wg.Go(func() {
		data, failed := readAll(body)
		op.Settle(func() error {
			bytes, err, done = data, failed, true
			return nil
		})
	})
	if waited := o.await(ctx, func() bool { return done }); waited != nil {
		_ = body.Close()
		return nil, waited
	}
	return bytes, err
}

// requestOf reads the arguments of fetch: the message, or what others call it with, of the same fields.
func requestOf(args []byte) (*wireMessage, error) {
	items, err := value.SplitArguments(args)
	if err == nil && len(items) != 1 {
		err = errors.New("it takes one argument")
	}
	m := &wireMessage{}
	if err == nil {
		err = value.Decode(items[0], m)
	}
	if err != nil {
		return nil, quickjs.NewError("TypeError", "fetch: %v", err)
	}
	return m, nil
}
