package worker

import "github.com/holdfast-io/holdfast/worker/quickjs"

// event is a call of JavaScript's whose result is waited for.
type event struct {
	promise *quickjs.Ref // nil: it is not waited for, or not any more
	settled bool
}

// events are those of a loop whose promises are waited for. They are touched by who runs the loop alone.
type events struct {
	last int64
	by   map[int64]*event
}

// event makes what an entry does for an event: fn calls start, and then, when all is done that can be without
// waiting, has take take the result, or keeps the promise that is to be waited for.
func (l *loop) event(en *entry, start func() (quickjs.Value, error), take func(quickjs.Value) error) (ev *event, fn, then func() error) {
	ev = &event{}
	promised := false
	fn = func() error {
		v, err := start()
		if err != nil {
			return err
		}
		if promised = v.IsPromise(); promised {
			en.result = v
			return nil
		}
		return take(v)
	}
	then = func() error {
		if !promised {
			return nil
		}
		return l.look(ev, en.result, take)
	}
	return ev, fn, then
}

// look looks at an event's promise, at the end of its first entry: most are settled then.
func (l *loop) look(ev *event, promise quickjs.Value, take func(quickjs.Value) error) error {
	state, v := promise.Promise()
	if state != quickjs.Pending {
		return outcome(l.engine, state, v, take)
	}
	kept, err := promise.Keep()
	if err != nil {
		return err
	}
	l.events.last++
	number := l.events.last
	if _, err := l.engine.run.watch.Value().Call(undefined, promise, quickjs.IntValue(number)); err != nil {
		kept.Free()
		return err
	}
	if l.events.by == nil {
		l.events.by = make(map[int64]*event)
	}
	ev.promise = kept
	l.events.by[number] = ev
	return nil
}

// take takes the result of an event that is settled, in an entry.
func (ev *event) take(e *engine, take func(quickjs.Value) error) error {
	defer ev.promise.Free()
	state, v := ev.promise.Value().Promise()
	return outcome(e, state, v, take)
}

func outcome(e *engine, state quickjs.PromiseState, v quickjs.Value, take func(quickjs.Value) error) error {
	if state == quickjs.Rejected {
		return e.js.Caught(v)
	}
	return take(v)
}

// settled notes that the promise of an event is.
func (l *loop) settled(number int64) {
	if ev := l.events.by[number]; ev != nil {
		delete(l.events.by, number)
		ev.settled = true
	}
}

// forget waits no more for an event's promise.
func (l *loop) forget(ev *event) {
	for number, watched := range l.events.by {
		if watched == ev {
			delete(l.events.by, number)
		}
	}
	ev.promise.Free()
}

func (l *loop) forgetAll() {
	for _, ev := range l.events.by {
		ev.promise.Free()
	}
	l.events.by = nil
}
