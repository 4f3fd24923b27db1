package web

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/holdfast-io/holdfast/worker/quickjs"
	"github.com/holdfast-io/holdfast/worker/web/internal/webcrypto"
)

// Platform is the web platform of one engine. Its methods must be called in an entry of that engine, except Close.
type Platform struct {
	host   Host
	engine *quickjs.Engine
	js     functions

	hasNode bool // the chunk with AsyncLocalStorage is loaded

	streams streams
	coders  coders
	crypto  *webcrypto.Crypto
	fetches fetches

	ctx        context.Context //nolint:containedctx // The platform's lifetime.
	cancel     context.CancelCauseFunc
	goroutines sync.WaitGroup
}

// Install puts the web platform into an engine, in an entry of it. The Platform must be closed before the engine.
func Install(e *quickjs.Engine, h Host) (*Platform, error) {
	p := &Platform{
		host: h, engine: e, crypto: webcrypto.New(),
		streams: streams{readers: make(map[int64]io.ReadCloser), writers: make(map[int64]*io.PipeWriter)},
		coders:  coders{byID: make(map[int64]*coder)},
		fetches: fetches{cancel: make(map[int64]context.CancelCauseFunc)},
	}
	p.ctx, p.cancel = context.WithCancelCause(context.Background())
	if err := p.start(); err != nil {
		p.Close()
		return nil, fmt.Errorf("install the web platform: %w", err)
	}
	return p, nil
}

func (p *Platform) start() error {
	core, err := p.load(coreChunk)
	if err != nil {
		return err
	}
	host := p.engine.Object()
	for name, f := range hostFunctions {
		if err := host.Set(name, p.function(name, f)); err != nil {
			return err
		}
	}
	// Those that take or give what is no plain value.
	for name, f := range map[string]quickjs.Func{"clone": p.clone, "loadChunk": p.loadChunk} {
		if err := host.Set(name, p.engine.Function(name, 1, f)); err != nil {
			return err
		}
	}
	platform, err := core.Call(quickjs.Value{}, host)
	if err != nil {
		return err
	}
	for name, ref := range p.js.refs() {
		f, err := platform.Get(name)
		if err != nil {
			return err
		}
		if *ref, err = f.Keep(); err != nil {
			return err
		}
	}
	return nil
}

func (p *Platform) clone(_ *quickjs.Engine, _ quickjs.Value, a quickjs.Args) (quickjs.Value, error) {
	return p.host.Clone(a.At(0))
}

func (p *Platform) loadChunk(_ *quickjs.Engine, _ quickjs.Value, a quickjs.Args) (quickjs.Value, error) {
	name, err := a.At(0).Text()
	if err != nil {
		return quickjs.Value{}, err
	}
	p.hasNode = p.hasNode || name == nodeChunk
	return p.load(name)
}

// load evaluates a script of dist to the function that it is.
func (p *Platform) load(name string) (quickjs.Value, error) {
	code, err := compiled(name)
	if err != nil {
		return quickjs.Value{}, err
	}
	return p.engine.Run(code)
}

var errClosed = errors.New("the engine was closed")

// Close ends all streams and requests and waits for the goroutines that worked on them. The engine must not be entered
// any more with work of the platform; what was not settled never is.
func (p *Platform) Close() {
	p.cancel(errClosed)
	p.streams.close()
	p.coders.close()
	p.js.free()
	p.goroutines.Wait()
}

// FireTimer runs the callback of a timer that Host.StartTimer started. Errors of the callback go to the log.
func (p *Platform) FireTimer(id int64) error {
	return p.call(p.js.fireTimer, quickjs.IntValue(id))
}

// DropTimer lets go of a timer that will never be fired, because what started it has ended.
func (p *Platform) DropTimer(id int64) error {
	return p.call(p.js.dropTimer, quickjs.IntValue(id))
}

// NewEvent is to be called at the start of each event that does not come through a method of the platform's: it has
// AsyncLocalStorage forget what enterWith left behind in another one.
func (p *Platform) NewEvent() error {
	if !p.hasNode {
		return nil
	}
	return p.call(p.js.newEvent)
}

// UnhandledRejection tells JavaScript of a promise that was rejected while nothing waits for it: an event on globalThis, and
// a line in the log unless a listener prevents it. Listeners may leave jobs to be run.
func (p *Platform) UnhandledRejection(r quickjs.Rejection) error {
	return p.call(p.js.unhandledRejection, r.Promise, r.Reason)
}

func (p *Platform) call(f *quickjs.Ref, args ...quickjs.Value) error {
	_, err := f.Value().Call(quickjs.Value{}, args...)
	return err
}

// Request makes a Request of what arrived. The platform owns a stream of body from then on, also when there is an error.
func (p *Platform) Request(head *Head, body Body) (quickjs.Value, error) {
	return p.made(head, body, func(headers quickjs.Value, rest []quickjs.Value) (quickjs.Value, error) {
		e := p.engine
		return p.js.takeRequest.Value().Call(quickjs.Value{}, append([]quickjs.Value{
			e.String(head.Method), e.String(head.URL), e.String(head.Redirect), headers,
		}, rest...)...)
	})
}

// Abort aborts the signal of a Request that Request has made: the client has gone.
func (p *Platform) Abort(request quickjs.Value) error { return p.call(p.js.abortRequest, request) }

// Response makes a Response of what arrived. The platform owns a stream of body from then on, also when there is an
// error.
func (p *Platform) Response(head *Head, body Body) (quickjs.Value, error) {
	return p.made(head, body, func(headers quickjs.Value, rest []quickjs.Value) (quickjs.Value, error) {
		e := p.engine
		return p.js.takeResponse.Value().Call(quickjs.Value{}, append([]quickjs.Value{
			quickjs.IntValue(int64(head.Status)), e.String(fromLatin1([]byte(head.StatusText))), e.String(head.URL),
			quickjs.BoolValue(head.Redirected), headers,
		}, rest...)...)
	})
}

// made has a message made of what arrived: of its headers, and the rest, which is length, bytes and stream.
func (p *Platform) made(head *Head, body Body, message func(headers quickjs.Value, rest []quickjs.Value) (quickjs.Value, error)) (quickjs.Value, error) {
	var id int64
	if body.Stream != nil {
		var err error
		if id, err = p.streams.addReader(body.Stream); err != nil {
			return quickjs.Value{}, err
		}
	}
	headers, err := head.headerText()
	var out quickjs.Value
	if err == nil {
		bytes := quickjs.NullValue()
		if body.Bytes != nil {
			bytes = p.engine.Bytes(body.Bytes)
		}
		out, err = message(p.engine.String(headers), []quickjs.Value{quickjs.IntValue(head.Length), bytes, quickjs.IntValue(id)})
	}
	if err != nil {
		p.cancelRead(id)
	}
	return out, err
}

// Take takes a Request or Response of JavaScript's apart, to send it elsewhere. Its body counts as used from then on.
// The stream of the body, if it has one, is the caller's to read and to close; while the caller reads, JavaScript must be
// let run (it writes to it, by operations of the host's). What is no Response and no Request is a TypeError.
func (p *Platform) Take(message quickjs.Value) (*Head, Body, error) {
	parts, err := p.js.giveMessage.Value().Call(quickjs.Value{}, message)
	if err != nil {
		return nil, Body{}, err
	}
	first, err := parts.At(0)
	if err != nil {
		return nil, Body{}, err
	}
	if first.Kind() == quickjs.Number {
		return takePlain(first, parts)
	}
	in := [4]quickjs.Value{first}
	for i := 1; i < len(in); i++ {
		if in[i], err = parts.At(uint32(i)); err != nil { //nolint:gosec // Four.
			return nil, Body{}, err
		}
	}
	text, err := in[0].Text()
	if err != nil {
		return nil, Body{}, err
	}
	head, err := parseHead(text)
	if err != nil {
		return nil, Body{}, err
	}
	body, err := p.bodyOf(in[1], in[2], in[3])
	if body.Bytes != nil {
		head.Length = int64(len(body.Bytes))
	}
	return head, body, err
}

// takePlain is Take of what giveMessage gives for most Responses.
func takePlain(status, parts quickjs.Value) (*Head, Body, error) {
	number, err := status.Int()
	if err != nil {
		return nil, Body{}, err
	}
	var texts [2]string // headers and body
	for i := range texts {
		v, err := parts.At(uint32(i) + 1) //nolint:gosec // Two.
		if err == nil {
			texts[i], err = v.Text()
		}
		if err != nil {
			return nil, Body{}, err
		}
	}
	head := &Head{Status: int(number), EncodeBody: "automatic", Length: int64(len(texts[1]))}
	head.Header, err = parseHeaders(texts[0])
	return head, Body{Bytes: []byte(texts[1])}, err
}

func (p *Platform) bodyOf(bytes, hostStream, stream quickjs.Value) (Body, error) {
	switch {
	case bytes.Kind() == quickjs.String:
		text, err := bytes.Text()
		return Body{Bytes: []byte(text)}, err
	case !bytes.IsNullish():
		b, err := bytes.Bytes()
		if b == nil {
			b = []byte{}
		}
		return Body{Bytes: b}, err
	}
	id, err := hostStream.Int()
	switch {
	case err != nil:
		return Body{}, err
	case id != 0:
		r, err := p.streams.takeReader(id)
		return Body{Stream: r}, err
	case stream.IsNullish():
		return Body{}, nil
	}
	id, r, err := p.streams.pipe()
	if err != nil {
		return Body{}, err
	}
	if err := p.call(p.js.pump, stream, quickjs.IntValue(id)); err != nil {
		_ = r.Close()
		return Body{}, err
	}
	return Body{Stream: r}, nil
}

// jsError is an error by the name that it has in JavaScript: of a standard error, or of a DOMException.
type jsError struct {
	name string
	err  error
}

func (e *jsError) Error() string { return e.err.Error() }
func (e *jsError) Unwrap() error { return e.err }

// named gives an error a name, unless it has one.
func named(name string, err error) error {
	var js *jsError
	var crypto *webcrypto.Error
	switch {
	case err == nil || errors.As(err, &js):
		return err
	case errors.As(err, &crypto):
		return &jsError{crypto.Name, errors.New(crypto.Message)}
	default:
		return &jsError{name, err}
	}
}

// begin starts an operation of JavaScript's, by its number: work runs on a goroutine, and its result, a string, bytes, a
// list or nil, settles the promise. after, if there is one, is called before, in the engine.
func (p *Platform) begin(id int64, work func(context.Context) (any, error), after func(any, error)) error {
	op, err := p.host.Begin()
	if err != nil {
		return err
	}
	p.goroutines.Go(func() {
		result, err := work(p.ctx)
		op.Settle(func() error {
			if after != nil {
				after(result, err)
			}
			if err != nil {
				return p.reject(id, err)
			}
			return p.resolve(id, result)
		})
	})
	return nil
}

func (p *Platform) resolve(id int64, result any) error {
	v, err := p.engine.From(result)
	if err != nil {
		return p.reject(id, err)
	}
	return p.call(p.js.resolveOperation, quickjs.IntValue(id), v)
}

func (p *Platform) reject(id int64, err error) error {
	name := "TypeError"
	if js, ok := errors.AsType[*jsError](err); ok {
		name = js.name
	}
	return p.call(p.js.rejectOperation, quickjs.IntValue(id), p.engine.String(name), p.engine.String(err.Error()))
}
