package worker

import (
	"context"
	"maps"
	"slices"

	"github.com/holdfast-io/holdfast/actor"
	"github.com/holdfast-io/holdfast/storage/value"
	"github.com/holdfast-io/holdfast/worker/quickjs"
)

// importsMax is how many stubs of others' functions and RpcTargets an object, or an HTTP request, may have at a time.
const importsMax = 10_000

// imported is where a function or an RpcTarget is, and the method that takes one stub of it back.
type imported struct {
	of     target
	method string
}

// stubFor returns what stands for a function, an RpcTarget or a stub that is sent, or undefined for what is none of
// them.
func (e *engine) stubFor(v quickjs.Value) (quickjs.Value, error) {
	number, ns, id := int64(0), "", ""
	if e.now != nil && e.now.object != nil {
		o := e.now.object
		number, ns, id = o.loop.number, o.state.Class(), o.state.ID().String()
	}
	return e.run.replace.Value().Call(undefined, v, quickjs.IntValue(number), e.js.String(ns), e.js.String(id))
}

// revive makes a stub of what came in its place.
func (e *engine) revive(v quickjs.Value, argument bool) (quickjs.Value, error) {
	return e.run.revive.Value().Call(undefined, v, quickjs.BoolValue(argument))
}

// hostImported counts a stub: class, id, method that takes it back. It returns a number for hostReleased.
func (e *engine) hostImported(a quickjs.Args) (quickjs.Value, error) {
	l, err := e.loopNow()
	if err != nil {
		return undefined, err
	}
	class, err := a.At(0).Text()
	if err != nil {
		return undefined, err
	}
	to, err := targetOf(class, a.At(1))
	if err != nil {
		return undefined, err
	}
	method, err := a.At(2).Text()
	if err != nil {
		return undefined, err
	}
	number, err := l.imported(imported{to, method})
	return quickjs.IntValue(number), err
}

// imported counts a stub of what others have.
func (l *loop) imported(i imported) (number int64, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.mu.over:
		return 0, errGone
	case len(l.mu.imports) >= importsMax:
		return 0, quickjs.NewError("Error", "Too many stubs: at most %d of others' functions and RpcTargets may be held at a time. Dispose of those that are not needed any more.", importsMax)
	case l.mu.imports == nil:
		l.mu.imports = make(map[int64]imported)
	}
	l.mu.lastImport++
	l.mu.imports[l.mu.lastImport] = i
	return l.mu.lastImport, nil
}

// hostReleased lets go of a stub of this loop's.
func (e *engine) hostReleased(a quickjs.Args) (quickjs.Value, error) {
	number, err := a.At(0).Int()
	if err != nil || e.now == nil {
		return undefined, err
	}
	e.w.release(e.now.loop.takeImports(number))
	return undefined, nil
}

// takeImports takes stubs out by their numbers, or all when none is given.
func (l *loop) takeImports(numbers ...int64) (out []imported) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(numbers) == 0 {
		numbers = slices.Collect(maps.Keys(l.mu.imports))
	}
	for _, n := range numbers {
		if i, ok := l.mu.imports[n]; ok {
			out = append(out, i)
			delete(l.mu.imports, n)
		}
	}
	return out
}

// release tells others that stubs of what is theirs are gone. Nobody waits for it: what is not told ends with their instances.
func (w *Worker) release(stubs []imported) {
	if len(stubs) == 0 {
		return
	}
	none, err := value.EncodeArguments()
	if err != nil {
		return
	}
	for _, s := range stubs {
		w.cfg.Cluster.Call(w.ctx, &actor.Outgoing{
			Class: s.of.class, ID: s.of.id, Method: s.method, Values: true, Body: none,
		}, func(actor.Result) {})
	}
}

// keepExports keeps the object in memory while others have stubs of what is its own, for as long as anything keeps
// it.
func (o *object) keepExports(keep bool) error {
	if !keep {
		if o.exports != nil {
			o.exports.drop()
			o.exports = nil
		}
		return nil
	}
	var err error
	o.exports, err = o.loop.begin()
	return err
}

// endStubs ends the stubs that came with the arguments of a call.
func (o *object) endStubs(ctx context.Context, call int64) error {
	return o.enter(ctx, func() error {
		_, err := o.loop.engine.run.ended.Value().Call(undefined, o.number(), quickjs.IntValue(call))
		return err
	})
}
