package worker

import (
	"context"
	"strings"

	"github.com/holdfast-io/holdfast/actor"
	"github.com/holdfast-io/holdfast/placement"
	"github.com/holdfast-io/holdfast/worker/quickjs"
)

// How methods of JavaScript are named in calls: a method by its name, a method of a property and so on by the names
// with "/" between them, what is read and not called with readPrefix before it, and fetch by fetchMethod. In
// names, "%", "/", "?" and "!" are %25, %2f, %3f and %21. What an object has sent as a stub is called by its place in
// the object's table (targets.js): "!TOKEN.NUMBER", with a path after a "/".
const (
	readPrefix  = "?"
	fetchMethod = "fetch"
)

// isName says that a method is one of the object's own, under its name as it is.
func isName(method string) bool { return !strings.ContainsAny(method, "!%/") }

func isRead(method string) (path string, ok bool) { return strings.CutPrefix(method, readPrefix) }

// target is the object that a stub is of.
type target struct {
	class string
	id    placement.ObjectID
	name  string
	named bool
}

// target reads the first three arguments: class, id, and name or undefined.
func (e *engine) target(a quickjs.Args) (t target, err error) {
	class, err := a.At(0).Text()
	if err != nil {
		return t, err
	}
	if t, err = targetOf(class, a.At(1)); err != nil {
		return t, err
	}
	if name := a.At(2); !name.IsUndefined() {
		t.named = true
		if t.name, err = name.Text(); err != nil {
			return t, err
		}
	}
	return t, nil
}

// targetOf is the object of a class that has an id.
func targetOf(class string, id quickjs.Value) (t target, err error) {
	t.class = class
	hex, err := id.Text()
	if err != nil {
		return t, err
	}
	t.id, err = placement.ParseID(hex)
	return t, err
}

// hostCall calls a method: class, id, name, method, arguments, and what is told how it failed. It returns a promise of the
// result.
func (e *engine) hostCall(a quickjs.Args) (quickjs.Value, error) {
	to, err := e.target(a)
	if err != nil {
		return undefined, err
	}
	method, err := a.At(3).Text()
	if err != nil {
		return undefined, err
	}
	body, err := e.encodeMessage(a.At(4))
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
	if p.remote, err = a.At(5).Keep(); err == nil {
		err = e.send(p, to, method, body, e.decode)
	}
	return promise, p.unless(err)
}

var errInTransaction = quickjs.NewError("Error", "Fetches and calls of others can't be made within a transaction, which may be rolled back: make them before or after ctx.storage.transaction().")

// send makes a call whose reply take makes a value of, and p is told of. On an error nothing is sent, and p is left to
// the caller.
func (e *engine) send(p *pending, to target, method string, body []byte, take func([]byte) (quickjs.Value, error)) error {
	answered := func(r actor.Result) {
		p.settle(func() (quickjs.Value, error) {
			if r.Err == nil {
				return take(r.Body)
			}
			v, err := e.errorValue(r.Err, to.id.String())
			if err == nil {
				err = quickjs.Thrown(v)
			}
			return undefined, err
		})
	}
	o := e.now.object
	if o == nil {
		e.w.cfg.Cluster.Call(e.w.ctx, &actor.Outgoing{
			Class: to.class, Name: to.name, Named: to.named, ID: to.id, Method: method, Values: true, Body: body,
		}, answered)
		return nil
	}
	if len(o.open) > 0 {
		return errInTransaction
	}
	stub := o.state.ObjectByID(to.class, to.id)
	if to.named {
		stub = o.state.Object(to.class, to.name)
	}
	o.departures = append(o.departures, func(ctx context.Context) { stub.Send(ctx, method, body, answered) })
	return nil
}

// leave has fn told, at the end of the entry, when something may leave the object.
func (o *object) leave(p *pending, fn func(error)) {
	o.departures = append(o.departures, func(ctx context.Context) {
		if err := o.state.Depart(ctx, fn); err != nil {
			p.drop() // The object has ended.
		}
	})
}

// beginFetch begins a fetch that is to leave the object.
func (o *object) beginFetch() (*operation, error) {
	if len(o.open) > 0 {
		return nil, errInTransaction
	}
	op, err := o.loop.begin()
	if err != nil {
		return nil, err
	}
	op.gate = make(chan error, 1)
	o.departures = append(o.departures, func(ctx context.Context) {
		if err := o.state.Depart(ctx, func(err error) { op.gate <- err }); err != nil {
			op.gate <- err
		}
	})
	return op, nil
}

// pending is a promise of JavaScript's that Go settles.
type pending struct {
	e        *engine
	op       *operation
	resolver *quickjs.Resolver
	remote   *quickjs.Ref // what is told how a call failed, or nil
}

// promise makes one, as something that the loop waits for.
func (e *engine) promise(l *loop) (quickjs.Value, *pending, error) {
	op, err := l.begin()
	if err != nil {
		return undefined, nil, err
	}
	promise, resolver, err := e.js.NewPromise()
	if err != nil {
		op.drop()
		return undefined, nil, err
	}
	return promise, &pending{e: e, op: op, resolver: resolver}, nil
}

// settle settles it, on any goroutine, with what fn makes in an entry of the engine: a value, or an error that
// rejects it.
func (p *pending) settle(fn func() (quickjs.Value, error)) {
	if p.op.loop.isOver() {
		p.free()
		return
	}
	p.op.Settle(func() error {
		defer p.free()
		v, err := fn()
		switch {
		case isFatal(err):
			return err
		case err == nil:
			return p.resolver.Resolve(v)
		case p.remote == nil:
			return p.resolver.Reject(p.e.js.Exception(err))
		}
		// A stub's promise shows through what the worker has of it only: it may have let go of that.
		e := p.e.js.Exception(err)
		if _, err := p.e.run.failed.Value().Call(undefined, p.remote.Value(), e); err != nil {
			return err
		}
		return p.resolver.RejectQuietly(e)
	})
}

func (p *pending) free() {
	p.resolver.Free()
	p.remote.Free()
}

// unless drops it if there is an error, which it returns.
func (p *pending) unless(err error) error {
	if err != nil {
		p.drop()
	}
	return err
}

// drop leaves it as it is for ever. Whoever drops it does not settle it.
func (p *pending) drop() {
	p.op.drop()
	p.free()
}
