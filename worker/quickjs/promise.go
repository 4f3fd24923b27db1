package quickjs

import (
	"slices"

	"modernc.org/libc"
	lib "modernc.org/libquickjs"
)

// Resolver settles a promise.
type Resolver struct{ resolve, reject *Ref }

// NewPromise makes a promise. Its Resolver is the caller's to settle, or to Free.
func (e *Engine) NewPromise() (Value, *Resolver, error) {
	if err := e.usable(); err != nil {
		return Value{}, nil, err
	}
	n := 2 * sizeofValue
	out := e.tls.Alloc(n)
	defer e.tls.Free(n)
	promise, err := e.result(lib.XJS_NewPromiseCapability(e.tls, e.ctx, out))
	if err != nil {
		return Value{}, nil, err
	}
	resolve, reject := *at[lib.TJSValue](out), *at[lib.TJSValue](out + uintptr(sizeofValue))
	return promise, &Resolver{resolve: e.hold(resolve), reject: e.hold(reject)}, nil
}

// Resolve settles the promise with v, or as v when that is a promise. What waits for it runs with the next RunJobs. Of
// settling it again nothing comes.
func (r *Resolver) Resolve(v Value) error { return r.settle(r.resolve, v) }

// Reject settles the promise with a reason.
func (r *Resolver) Reject(reason Value) error { return r.settle(r.reject, reason) }

// RejectQuietly is Reject of a promise that nothing needs to wait for: it is none of TakeRejections.
func (r *Resolver) RejectQuietly(reason Value) error {
	e := r.reject.e
	e.rejections.quiet = true
	defer func() { e.rejections.quiet = false }()
	return r.Reject(reason)
}

func (r *Resolver) settle(with *Ref, v Value) error {
	if with.freed() {
		return nil
	}
	_, err := with.Value().Call(Value{}, v)
	r.Free()
	return err
}

// Free lets go of a promise that will not be settled. It may be called on any goroutine, and more than once.
func (r *Resolver) Free() {
	r.resolve.Free()
	r.reject.Free()
}

// PromiseState is what has become of a promise.
type PromiseState int

// The states of promises.
const (
	NoPromise PromiseState = iota - 1
	Pending
	Fulfilled
	Rejected
)

// Promise returns the state of v, a promise, and when it is settled its result or reason.
func (v Value) Promise() (PromiseState, Value) {
	if !v.IsPromise() {
		return NoPromise, Value{}
	}
	e, raw, err := v.use()
	if err != nil {
		return NoPromise, Value{}
	}
	state := PromiseState(lib.XJS_PromiseState(e.tls, e.ctx, raw))
	if state == Pending {
		return state, Value{}
	}
	return state, e.own(lib.XJS_PromiseResult(e.tls, e.ctx, raw))
}

// RunJobs runs what waits for settled promises, most jobs at most, and says how many are known to wait on: none, or
// some. An error ends it: jobs throw only what can't be caught, and when there is no memory.
func (e *Engine) RunJobs(most int) (more bool, err error) {
	if err := e.usable(); err != nil {
		return false, err
	}
	for range most {
		if err := e.stopped(); err != nil {
			return true, err
		}
		e.openScope()
		n := lib.XJS_ExecutePendingJob(e.tls, e.rt, 0)
		if n < 0 {
			err = e.exception()
		} else if p := e.takePanic(); p != nil {
			n, err = -1, p
		}
		e.closeScope()
		if n <= 0 {
			return n < 0, err
		}
	}
	return lib.XJS_IsJobPending(e.tls, e.rt) != 0, nil
}

// Rejection is a promise that was rejected while nothing waited for it.
type Rejection struct{ Promise, Reason Value }

// How many of them an engine remembers.
const rejectionsMax = 1024

type rejection struct{ promise, reason lib.TJSValue }

// rejections are those that were not taken yet, in their order.
type rejections struct {
	all   []rejection
	quiet bool // those that come now are not remembered
}

func (r *rejections) clear(e *Engine) {
	for _, one := range r.all {
		e.free(one.promise)
		e.free(one.reason)
	}
	r.all = nil
}

// onRejection hears of promises that are rejected while nothing waits for them, and of such that are waited for later.
func onRejection(tls *libc.TLS, _ uintptr, promise, reason lib.TJSValue, handled int32, _ uintptr) {
	e := engineOf(tls)
	r := &e.rejections
	if handled == 0 {
		if len(r.all) < rejectionsMax && !r.quiet {
			r.all = append(r.all, rejection{promise: dup(promise), reason: dup(reason)})
		}
		return
	}
	i := slices.IndexFunc(r.all, func(one rejection) bool { return pointerOf(one.promise) == pointerOf(promise) })
	if i >= 0 {
		one := r.all[i]
		r.all = slices.Delete(r.all, i, i+1)
		e.free(one.promise)
		e.free(one.reason)
	}
}

// TakeRejections returns the promises that were rejected and that nothing waits for, since it was called last. When jobs
// have been run to their end those are what JavaScript calls unhandled rejections.
func (e *Engine) TakeRejections() []Rejection {
	if e.usable() != nil {
		return nil
	}
	out := make([]Rejection, 0, len(e.rejections.all))
	for _, one := range e.rejections.all {
		out = append(out, Rejection{Promise: e.own(one.promise), Reason: e.own(one.reason)})
	}
	e.rejections.all = nil
	return out
}
