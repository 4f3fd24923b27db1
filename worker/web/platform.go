package web

import (
	"context"
	"errors"
	"sync"

	"github.com/holdfast-io/holdfast/worker/quickjs"
	"github.com/holdfast-io/holdfast/worker/web/internal/webcrypto"
)

// Platform is the web platform of one engine. All its methods must be called on the engine, as the engine's own
// are, except Close.
type Platform struct {
	host   Host
	engine *quickjs.Engine
	js     functions

	streams streams
	coders  coders
	crypto  *webcrypto.Crypto
	fetches fetches

	ctx        context.Context //nolint:containedctx // The platform's lifetime.
	cancel     context.CancelCauseFunc
	goroutines sync.WaitGroup
}

var errClosed = errors.New("the engine was closed")

// Close ends all streams and requests and waits for the goroutines that worked on them. JavaScript must not run
// any more; what was not settled never is.
func (p *Platform) Close() {
	p.cancel(errClosed)
	p.streams.close()
	p.coders.close()
	p.goroutines.Wait()
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

// begin starts an operation of JavaScript's, by its number: work runs on a goroutine, and its result, a string,
// bytes, a list or nil, settles the promise. after, if there is one, is called before, on the engine.
func (p *Platform) begin(id int64, work func(context.Context) (any, error), after func(any, error)) error {
	op, err := p.host.Begin()
	if err != nil {
		return err
	}
	p.goroutines.Go(func() {
		result, err := work(p.ctx)
		op.Settle(func() {
			if after != nil {
				after(result, err)
			}
			if err != nil {
				p.reject(id, named("TypeError", err))
				return
			}
			p.resolve(id, result)
		})
	})
	return nil
}
