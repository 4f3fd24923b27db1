package worker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/holdfast-io/holdfast/worker/quickjs"
	"github.com/holdfast-io/holdfast/worker/web"
)

// Limits of HTTP requests that come to a worker.
const (
	// URLBytesMax is that of the request's URL. Over it: 414.
	URLBytesMax = 16 << 10
	// HeaderBytesMax is that of all headers together. Over it: 431.
	HeaderBytesMax = 32 << 10
	// BodyBytesMax is that of the body. Over it: 413, or the read of the body fails.
	BodyBytesMax = 100 << 20
	// RequestsMax is how many requests a worker serves at a time on one node. Over it: 503.
	RequestsMax = 4096
	// deferTimeMax is how long promises of waitUntil go on when the response is through.
	deferTimeMax = 30 * time.Second
	// smallBody is what is read before the worker begins, when the length is known.
	smallBody = 64 << 10
)

// request is an HTTP request that the worker's own fetch answers. It has neither turn nor gate. One goroutine at a
// time runs its loop.
type request struct {
	w     *Worker
	loop  loop
	woken chan struct{} // capacity 1
	lost  chan struct{} // closed when the engine is
	why   error         // of lost
}

// ServeHTTP implements http.Handler: the worker's fetch answers.
func (w *Worker) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	if status, text := refusal(r); status != 0 {
		http.Error(rw, text, status)
		return
	}
	if w.requests.Add(1) > RequestsMax {
		w.requests.Add(-1)
		http.Error(rw, fmt.Sprintf("The worker serves too many requests at a time: at most %d.", RequestsMax), http.StatusServiceUnavailable)
		return
	}
	rq, err := w.newRequest()
	if err != nil {
		w.requests.Add(-1)
		w.logger.Error("no engine for a request", slog.String("worker", w.bundle.Name), slog.Any("error", err))
		http.Error(rw, "Service Unavailable", http.StatusServiceUnavailable)
		return
	}
	whole := rq.serve(rw, r)
	if rq.loop.held() {
		w.wg.Go(rq.goOn)
	} else {
		rq.end()
	}
	if !whole {
		panic(http.ErrAbortHandler) // The client must not take it for whole.
	}
}

// refusal says why a request is refused before the worker sees it.
func refusal(r *http.Request) (status int, text string) {
	if n := len(r.RequestURI); n > URLBytesMax {
		return http.StatusRequestURITooLong, fmt.Sprintf("URL: at most %d bytes, has %d", URLBytesMax, n)
	}
	n := 0
	for name, values := range r.Header {
		for _, v := range values {
			n += len(name) + len(v)
		}
	}
	if n > HeaderBytesMax {
		return http.StatusRequestHeaderFieldsTooLarge, fmt.Sprintf("headers: at most %d bytes, have %d", HeaderBytesMax, n)
	}
	if r.ContentLength > BodyBytesMax {
		return http.StatusRequestEntityTooLarge, fmt.Sprintf("body: at most %d bytes, has %d", BodyBytesMax, r.ContentLength)
	}
	return 0, ""
}

// newRequest finds an engine for a request: each has its turn.
func (w *Worker) newRequest() (*request, error) {
	rq := &request{w: w, woken: make(chan struct{}, 1), lost: make(chan struct{})}
	rq.loop.log = logger{w: w}
	rq.loop.wake = func() {
		select {
		case rq.woken <- struct{}{}:
		default: // It will look.
		}
	}
	rq.loop.lose = func(why error) {
		rq.why = why
		close(rq.lost)
	}
	for range 2 { // An engine may be lost just when it was found.
		e, err := w.engineAt(w.engines.requests, int(w.turn.Add(1)%uint64(w.cfg.Engines))) //nolint:gosec // small
		if err != nil {
			return nil, err
		}
		if err = e.add(&rq.loop); err == nil {
			return rq, nil
		}
	}
	return nil, quickjs.ErrLost
}

func (rq *request) end() {
	rq.w.requests.Add(-1)
	rq.loop.forgetAll()
	if left := rq.loop.end(); len(left) > 0 {
		_ = rq.enter(func() error { return runAll(left) })
	}
	rq.w.release(rq.loop.takeImports())
	rq.loop.engine.remove(&rq.loop)
}

// goOn runs what was deferred until it is settled.
func (rq *request) goOn() {
	defer rq.end()
	ctx, cancel := context.WithTimeoutCause(rq.w.ctx, deferTimeMax, errDeferredTooLong)
	defer cancel()
	err := rq.drive(ctx, rq.enter, func() bool { return !rq.loop.held() })
	if errors.Is(err, errDeferredTooLong) {
		rq.loop.log.log(slog.LevelWarn, err.Error())
	}
}

var errDeferredTooLong = errors.New("waitUntil() tasks did not complete within the allowed time after invocation end and have been cancelled")

func (rq *request) enter(fn func() error) error {
	return rq.loop.engine.enter(&entry{loop: &rq.loop}, fn, nil)
}

// errHung says that a request can't come to an end.
var errHung = errors.New("The Workers runtime canceled this request because it detected that your Worker's code had hung and would never generate a response.") //nolint:staticcheck,revive // Cloudflare's text

// drive runs what the request has waited for until the condition holds; errHung says that it never will. Each runs in an
// entry that enter makes.
func (rq *request) drive(ctx context.Context, enter func(run func() error) error, done func() bool) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	return rq.run(ctx, enter, func() bool {
		if done() {
			return true
		}
		if !rq.loop.left() {
			cancel(errHung)
		}
		return false
	})
}

// run runs what the request has waited for until the condition holds, which is asked whenever something has run.
func (rq *request) run(ctx context.Context, enter func(run func() error) error, done func() bool) error {
	for !done() {
		if run, ok := rq.loop.take(); ok {
			if err := enter(run); err != nil {
				js, ok := errors.AsType[*jsError](err)
				if !ok {
					return err
				}
				rq.loop.log.uncaught("", js)
			}
			continue
		}
		select {
		case <-rq.woken:
		case <-rq.lost:
			return rq.why
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// serve has the worker answer, and sends the answer. It says whether that is whole.
func (rq *request) serve(rw http.ResponseWriter, r *http.Request) bool {
	head, body, err := rq.answer(rw, r)
	if err != nil {
		rq.fail(rw, r, err)
		return true
	}
	return rq.send(rw, r, head, body)
}

// answer runs the worker's fetch.
func (rq *request) answer(rw http.ResponseWriter, r *http.Request) (head *web.Head, body web.Body, err error) {
	e := rq.loop.engine
	in, err := bodyOfRequest(rw, r)
	if err != nil {
		return nil, web.Body{}, err
	}
	var request, promise *quickjs.Ref
	defer func() {
		request.Free()
		promise.Free()
	}()
	answered := false
	// look takes the answer when it is there.
	look := func(answer quickjs.Value) (err error) {
		v := answer
		if answer.IsPromise() {
			var state quickjs.PromiseState
			switch state, v = answer.Promise(); state {
			case quickjs.Rejected:
				answered = true
				return e.js.Caught(v)
			case quickjs.Pending:
				if promise == nil {
					promise, err = answer.Keep()
				}
				return err
			case quickjs.NoPromise, quickjs.Fulfilled: // v is the answer.
			}
		}
		answered = true
		head, body, err = e.platform.Take(v)
		return err
	}
	en := &entry{loop: &rq.loop}
	err = e.enter(en, func() (err error) {
		made, err := e.platform.Request(headOf(r), in)
		if err == nil {
			request, err = made.Keep()
		}
		if err == nil {
			en.result, err = e.run.serve.Value().Call(undefined, made)
		}
		return err
	}, func() error { return look(en.result) })
	if err != nil || answered {
		return head, body, err
	}
	var failed error // to answer
	enter := func(run func() error) error {
		en := &entry{loop: &rq.loop}
		err := e.enter(en, func() error {
			en.result = promise.Value()
			return run()
		}, func() error { return look(en.result) })
		if answered {
			failed = err
			return nil
		}
		if _, ok := errors.AsType[*jsError](err); ok { // The jobs were run all the same.
			failed = rq.enter(func() error { return look(promise.Value()) })
		}
		return err
	}
	err = rq.drive(r.Context(), enter, func() bool { return answered })
	if r.Context().Err() != nil {
		// The client has gone. The worker may want to know; what it has deferred goes on.
		_ = rq.enter(func() error {
			if _, err := e.run.watch.Value().Call(undefined, promise.Value(), quickjs.IntValue(0)); err != nil { // It may fail now.
				return err
			}
			return e.platform.Abort(request.Value())
		})
	}
	return head, body, cmp.Or(err, failed)
}

// bodyOfRequest is the request's body for JavaScript.
func bodyOfRequest(rw http.ResponseWriter, r *http.Request) (web.Body, error) {
	switch {
	case r.ContentLength == 0 || r.Method == http.MethodGet || r.Method == http.MethodHead:
		return web.Body{}, nil
	case r.ContentLength > 0 && r.ContentLength <= smallBody:
		data, err := io.ReadAll(r.Body)
		return web.Body{Bytes: data}, err
	}
	return web.Body{Stream: http.MaxBytesReader(rw, r.Body, BodyBytesMax)}, nil
}

// headOf is the request's head for JavaScript.
func headOf(r *http.Request) *web.Head {
	url := r.RequestURI
	if strings.HasPrefix(url, "/") || url == "*" || url == "" {
		scheme := "http://"
		if r.TLS != nil {
			scheme = "https://"
		}
		url = scheme + r.Host + r.URL.RequestURI()
	}
	h := &web.Head{Method: r.Method, URL: url, Redirect: "manual", Header: []string{"Host", r.Host}, Length: r.ContentLength}
	for name, values := range r.Header {
		for _, v := range values {
			h.Header = append(h.Header, name, v)
		}
	}
	if ip, _, ok := strings.Cut(r.RemoteAddr, ":"); ok && r.Header.Get("Cf-Connecting-Ip") == "" {
		h.Header = append(h.Header, "CF-Connecting-IP", ip)
	}
	return h
}

// fail answers a request for which the worker has no answer.
func (rq *request) fail(rw http.ResponseWriter, r *http.Request, err error) {
	if js, ok := errors.AsType[*jsError](err); ok {
		rq.loop.log.uncaught("in fetch", js)
		text := "Internal Server Error"
		if rq.w.cfg.ShowErrors {
			text = "Uncaught " + rq.w.mapper.MapStack(js.Error()+"\n"+js.Stack)
		}
		http.Error(rw, text, http.StatusInternalServerError)
		return
	}
	var tooLarge *http.MaxBytesError
	switch {
	case r.Context().Err() != nil: // Nobody reads it.
	case errors.As(err, &tooLarge):
		http.Error(rw, fmt.Sprintf("body: at most %d bytes", BodyBytesMax), http.StatusRequestEntityTooLarge)
	case errors.Is(err, errHung):
		rq.loop.log.log(slog.LevelError, err.Error())
		http.Error(rw, err.Error(), http.StatusInternalServerError)
	case isFatal(err):
		rq.loop.log.log(slog.LevelError, "The worker exceeded its resource limits: "+err.Error())
		http.Error(rw, "The worker exceeded its resource limits.", http.StatusServiceUnavailable)
	default:
		rq.loop.log.log(slog.LevelError, err.Error())
		http.Error(rw, "Internal Server Error", http.StatusInternalServerError)
	}
}

// send sends the worker's answer, and says whether it is whole.
func (rq *request) send(rw http.ResponseWriter, r *http.Request, head *web.Head, body web.Body) bool {
	header := rw.Header()
	for i := 0; i+1 < len(head.Header); i += 2 {
		switch name := http.CanonicalHeaderKey(head.Header[i]); name {
		case "Connection", "Keep-Alive", "Transfer-Encoding", "Upgrade":
		case "Content-Length":
			if r.Method == http.MethodHead {
				header.Set(name, head.Header[i+1])
			}
		default:
			header.Add(name, head.Header[i+1])
		}
	}
	if _, ok := header["Content-Type"]; !ok {
		header["Content-Type"] = nil // None is guessed.
	}
	if head.Length >= 0 && body.Stream != nil {
		header.Set("Content-Length", strconv.FormatInt(head.Length, 10))
	}
	rw.WriteHeader(head.Status)
	if body.Stream == nil {
		_, _ = rw.Write(body.Bytes)
		return true
	}
	if r.Method == http.MethodHead {
		_ = body.Stream.Close()
		return true
	}
	return rq.stream(rw, r, body.Stream)
}

// stream sends a body that the worker may still be writing: while this goroutine copies, another runs the loop.
func (rq *request) stream(rw http.ResponseWriter, r *http.Request, body io.ReadCloser) bool {
	ctx, cancel := context.WithCancelCause(r.Context())
	driven := make(chan struct{})
	rq.w.wg.Go(func() {
		defer close(driven)
		if err := rq.run(ctx, rq.enter, func() bool { return false }); !errors.Is(err, errStreamed) {
			_ = body.Close()
		}
	})
	out := http.NewResponseController(rw)
	buffer := make([]byte, 32<<10)
	for {
		n, err := body.Read(buffer)
		if n > 0 {
			if _, failed := rw.Write(buffer[:n]); failed != nil {
				err = failed
			} else if failed := out.Flush(); failed != nil {
				err = failed
			}
		}
		if err != nil {
			_ = body.Close()
			cancel(errStreamed)
			<-driven
			return errors.Is(err, io.EOF)
		}
	}
}

// errStreamed says that the body is through.
var errStreamed = errors.New("the response is through")
