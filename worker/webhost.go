package worker

import (
	"context"
	"crypto/rand"
	"time"

	"github.com/holdfast-io/holdfast/worker/quickjs"
	"github.com/holdfast-io/holdfast/worker/web"
	"github.com/holdfast-io/holdfast/worker/web/outbound"
)

// host is what the web platform of an engine needs (web.Host).
type host struct{ *engine }

// errGlobal refuses what JavaScript can't do while its modules are loaded.
var errGlobal = quickjs.NewError("Error", "Disallowed operation called within global scope. Asynchronous I/O (ex: fetch() or connect()), setting a timeout, and generating random values are not allowed within global scope. To fix this error, perform this operation within a handler.")

// loopNow is the loop whose JavaScript runs.
func (e *engine) loopNow() (*loop, error) {
	if e.now == nil {
		return nil, errGlobal
	}
	if e.now.loop.isOver() {
		panic(errGone)
	}
	return e.now.loop, nil
}

// Begin implements web.Host.
func (h host) Begin() (web.Op, error) {
	l, err := h.loopNow()
	if err != nil {
		return nil, err
	}
	return l.begin()
}

// BeginFetch implements web.Host.
func (h host) BeginFetch() (web.Op, error) {
	l, err := h.loopNow()
	if err != nil {
		return nil, err
	}
	if o := h.now.object; o != nil {
		return o.beginFetch()
	}
	return l.begin()
}

// Fetch implements web.Host.
func (h host) Fetch(ctx context.Context, op web.Op, r *outbound.Request) (*outbound.Response, error) {
	if o, ok := op.(*operation); ok && o.gate != nil {
		select {
		case err := <-o.gate:
			if err != nil {
				closeBody(r)
				return nil, err
			}
		case <-ctx.Done():
			closeBody(r)
			return nil, context.Cause(ctx)
		}
	}
	return h.w.cfg.Fetch.Do(ctx, r)
}

func closeBody(r *outbound.Request) {
	if r.Body != nil {
		_ = r.Body.Close()
	}
}

// StartTimer implements web.Host.
func (h host) StartTimer(id int64, d time.Duration) error {
	l, err := h.loopNow()
	if err != nil {
		return err
	}
	return l.startTimer(id, d)
}

// StopTimer implements web.Host. A timer of another object in the engine is not found here, and goes off in vain.
func (h host) StopTimer(id int64) {
	if h.now != nil {
		h.now.loop.stopTimer(id)
	}
}

// Log implements web.Host.
func (h host) Log(level web.Level, text string) {
	if h.now == nil {
		(&logger{w: h.w}).log(levelOf(level), text)
		return
	}
	h.now.loop.log.log(levelOf(level), text)
}

// Now implements web.Host.
func (host) Now() time.Time { return time.Now() }

// Random implements web.Host.
func (host) Random(p []byte) { _, _ = rand.Read(p) }

// Clone implements web.Host.
func (h host) Clone(v quickjs.Value) (quickjs.Value, error) {
	raw, err := h.encode(v)
	if err != nil {
		return quickjs.Value{}, err
	}
	return h.decode(raw)
}
