package worker

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"time"

	"github.com/holdfast-io/holdfast/actor"
	"github.com/holdfast-io/holdfast/fault"
	"github.com/holdfast-io/holdfast/worker/quickjs"
)

// object is one incarnation of a Durable Object: what is between package actor, which gives it turns, and the
// engine in which its instance is. All of its fields are for who has the turn.
type object struct {
	w     *Worker
	class string
	state *actor.State
	loop  loop

	last     int64     // number of a section or transaction
	sections []section // that keep other events out, in the order in which they began
	open     map[int64]transaction
	// exports keeps the object in memory while others have stubs of what is its own; nil: they have none.
	exports *operation
	// departures leave the object at the end of an entry, if no transaction is open.
	departures []func(ctx context.Context)
}

// section is one of blockConcurrencyWhile, or a transaction.
type section struct {
	number int
	end    func(failed error) error
}

// transaction is one that is open.
type transaction struct {
	end  func(commit bool) error
	sync bool
}

// newObject makes what package actor knows an instance of a class by: what it implements says what the class has.
func (w *Worker) newObject(class string, state *actor.State) actor.Dynamic {
	o := &object{w: w, class: class, state: state, open: make(map[int64]transaction)}
	o.loop.wake, o.loop.lose = state.Wake, o.lose
	name, _ := state.Name()
	o.loop.log = logger{w: w, class: class, object: state.ID().String(), name: name}
	switch has := w.classes[class]; {
	case has.alarm && has.preShutdown:
		return alarmWarned{o, alarmed{o}, warned{o}}
	case has.alarm:
		return alarmOnly{o, alarmed{o}}
	case has.preShutdown:
		return warnedOnly{o, warned{o}}
	}
	return o
}

type (
	alarmed   struct{ o *object }
	warned    struct{ o *object }
	alarmOnly struct {
		*object
		alarmed
	}
	warnedOnly struct {
		*object
		warned
	}
	alarmWarned struct {
		*object
		alarmed
		warned
	}
)

// Init implements actor.Initializer: it runs the constructor, and all that it has blockConcurrencyWhile wait for.
func (o *object) Init(ctx context.Context) error {
	e, err := o.w.engineOf(o.state.ID())
	if err == nil {
		err = e.add(&o.loop)
	}
	if err != nil {
		return resetFor(textEngine)
	}
	o.state.OnEnd(o.end)
	o.loop.newEvent()
	err = o.enter(ctx, func() error {
		name := quickjs.Value{}
		if n, ok := o.state.Name(); ok {
			name = e.js.String(n)
		}
		_, err := e.run.construct.Value().Call(quickjs.Value{}, o.number(), e.js.String(o.class), e.js.String(o.state.ID().String()), name)
		return err
	})
	if err == nil {
		err = o.await(ctx, func() bool { return true })
	}
	if js, ok := errors.AsType[*jsError](err); ok {
		o.loop.log.uncaught("in the constructor", js)
		return js.reset()
	}
	if err == nil {
		o.keep()
	}
	return err
}

// end lets go of the instance: the incarnation has ended.
func (o *object) end() {
	left := o.loop.end()
	o.w.release(o.loop.takeImports())
	o.loop.engine.remove(&o.loop)
	// What is lost with its engine needs no letting go.
	_ = o.loop.engine.enter(&entry{loop: &o.loop}, func() error {
		o.loop.forgetAll()
		if err := runAll(left); err != nil {
			return err
		}
		_, err := o.loop.engine.run.drop.Value().Call(quickjs.Value{}, o.number())
		return err
	}, nil)
}

// lose resets the object: its engine is lost.
func (o *object) lose(why error) {
	lost, _ := errors.AsType[*lostError](why)
	mine := lost != nil && lost.by == &o.loop
	text := textEngine
	switch {
	case errors.Is(why, quickjs.ErrOutOfMemory) && mine:
		text = textMemory
	case errors.Is(why, quickjs.ErrOutOfMemory):
		text = textMemoryOther
	case errors.Is(why, quickjs.ErrTimeLimit) && mine:
		text = textCPU
	case errors.Is(why, quickjs.ErrTimeLimit):
		text = textCPUOther
	}
	o.state.ResetWith(resetFor(text))
}

func (o *object) number() quickjs.Value { return quickjs.IntValue(o.loop.number) }

// enter runs JavaScript for the object, in the turn of the event that ctx is of, and lets out what it has sent.
func (o *object) enter(ctx context.Context, fn func() error) error {
	return o.enterFor(&entry{loop: &o.loop, object: o, ctx: ctx}, fn, nil)
}

func (o *object) enterFor(en *entry, fn, then func() error) error {
	err := o.loop.engine.enter(en, fn, then)
	if len(o.open) == 0 {
		o.depart(en.ctx)
	}
	return err
}

// depart lets out what JavaScript has sent.
func (o *object) depart(ctx context.Context) {
	for _, leave := range o.departures {
		// What one event sends another may go on with: it does not end by the deadline of the event that
		// happens to have the turn.
		leave(context.WithoutCancel(ctx))
	}
	clear(o.departures)
	o.departures = o.departures[:0]
}

// await runs what the object has waited for until the condition holds and no section is open. Meanwhile it gives up
// the turn.
func (o *object) await(ctx context.Context, until func() bool) error {
	done := func() bool { return len(o.sections) == 0 && until() }
	err := o.drive(ctx, done)
	if err != nil && len(o.sections) > 0 {
		// Nobody waits for the event any more, but what it has begun keeps the others out until it is done.
		_ = o.drive(context.WithoutCancel(ctx), func() bool { return len(o.sections) == 0 })
	}
	return err
}

func (o *object) drive(ctx context.Context, done func() bool) error {
	for !done() {
		run, ok := o.loop.take()
		if !ok {
			if err := o.state.Wait(ctx, func() bool { return done() || o.loop.runnable() }); err != nil {
				return err
			}
			continue
		}
		// What the code did before it waited stays whatever comes of what it does now.
		if err := o.state.EndSegment(ctx); err != nil {
			return err
		}
		if err := o.enter(ctx, run); err != nil {
			js, ok := errors.AsType[*jsError](err)
			if !ok {
				return err
			}
			o.loop.log.uncaught("", js)
		}
	}
	return nil
}

// event runs JavaScript for an event, waits for the promise that it returns, and has take take the result, in an
// entry of the engine.
func (o *object) event(ctx context.Context, start func() (quickjs.Value, error), take func(quickjs.Value) error) error {
	o.loop.newEvent()
	en := &entry{loop: &o.loop, object: o, ctx: ctx}
	ev, fn, then := o.loop.event(en, start, take)
	err := o.enterFor(en, fn, then)
	waits := ev.promise != nil
	if waited := o.await(ctx, func() bool { return !waits || ev.settled }); err == nil {
		err = waited
	}
	switch {
	case !waits:
		return err
	case err != nil:
		o.loop.forget(ev)
		return err
	}
	return o.enter(ctx, func() error { return ev.take(o.loop.engine, take) })
}

// keep has the object go on with what it has begun and nobody waits for.
func (o *object) keep() {
	if o.loop.left() {
		o.state.Wake()
	}
}

// Woken implements actor.Woken: it goes on with what no other event waits for, as long as there is something, and
// so keeps the object in memory.
func (o *object) Woken(ctx context.Context) error {
	for o.loop.left() {
		until := o.loop.keptUntil()
		if !time.Now().Before(until) {
			return nil
		}
		bounded, cancel := context.WithDeadline(ctx, until)
		err := o.await(bounded, func() bool { return !o.loop.left() })
		cancel()
		if err != nil && ctx.Err() != nil {
			return nil //nolint:nilerr // the object has ended
		}
		if err != nil && bounded.Err() == nil {
			return err
		}
	}
	return nil
}

// Invoke implements actor.Dynamic.
func (o *object) Invoke(ctx context.Context, method string, args []byte) ([]byte, error) {
	if method == fetchMethod {
		return o.fetch(ctx, args)
	}
	defer o.keep()
	e := o.loop.engine
	var reply []byte
	o.last++
	call, stubs := o.last, false
	err := o.event(ctx, func() (quickjs.Value, error) {
		if path, ok := isRead(method); ok {
			return e.run.read.Value().Call(quickjs.Value{}, o.number(), e.js.String(path))
		}
		values, has, err := e.decodeArguments(args)
		if err != nil {
			return quickjs.Value{}, err
		}
		stubs = has
		run := e.run.call
		if !isName(method) {
			run = e.run.callAt
		}
		return run.Value().Call(quickjs.Value{}, o.number(), e.js.String(method), values, quickjs.IntValue(call))
	}, func(v quickjs.Value) (err error) {
		reply, err = e.encodeMessage(v)
		return err
	})
	if stubs {
		err = errors.Join(err, o.endStubs(ctx, call))
	}
	if js, ok := errors.AsType[*jsError](err); ok {
		o.loop.log.uncaught("in "+method, js)
	}
	return reply, err
}

// Stream implements actor.Dynamic.
func (o *object) Stream(_ context.Context, method string, _ *actor.Stream) error {
	return fault.New(fault.UnknownMethod, "%s of class %s is no streaming method: call it", method, o.state.Class()).With(fault.KindKey, fault.KindUnary)
}

// Alarm implements actor.Alarmer.
func (a alarmed) Alarm(ctx context.Context, info actor.AlarmInfo) error {
	o := a.o
	defer o.keep()
	e := o.loop.engine
	err := o.event(ctx, func() (quickjs.Value, error) {
		return e.run.alarm.Value().Call(quickjs.Value{}, o.number(), quickjs.IntValue(int64(info.RetryCount)), quickjs.IntValue(info.ScheduledTime.UnixMilli()))
	}, func(quickjs.Value) error { return nil })
	if js, ok := errors.AsType[*jsError](err); ok {
		o.loop.log.uncaught("in alarm", js)
	}
	return err
}

// PreShutdown implements actor.PreShutdowner.
func (p warned) PreShutdown(ctx context.Context) error {
	o := p.o
	e := o.loop.engine
	return o.event(ctx, func() (quickjs.Value, error) {
		return e.run.preShutdown.Value().Call(quickjs.Value{}, o.number(), e.js.String("inactive"))
	}, func(quickjs.Value) error { return nil })
}

// block begins a section.
func (o *object) block(ctx context.Context) (int64, error) {
	end, err := o.state.Block(ctx)
	if err != nil {
		if _, ok := errors.AsType[*fault.Error](err); ok {
			return 0, refused(err)
		}
		return 0, quickjs.NewError("Error", "%v", err)
	}
	o.last++
	o.sections = append(o.sections, section{int(o.last), end})
	o.loop.setSection(int(o.last))
	return o.last, nil
}

// unblock ends a section. Those of package actor end from the inside out, and it does not matter which is which.
func (o *object) unblock(number int64) error {
	at := slices.IndexFunc(o.sections, func(s section) bool { return s.number == int(number) })
	if at < 0 {
		return nil
	}
	last := len(o.sections) - 1
	err := o.sections[last].end(nil)
	for i := at; i < last; i++ {
		o.sections[i].number = o.sections[i+1].number
	}
	o.sections = o.sections[:last]
	section := 0
	if last > 0 {
		section = o.sections[last-1].number
	}
	o.loop.setSection(section)
	if err != nil {
		return refused(err)
	}
	return nil
}

// broken resets the object because a section has failed.
func (o *object) broken(js *jsError) {
	o.loop.log.uncaught("in blockConcurrencyWhile", js)
	o.state.ResetWith(js.reset())
	panic(errAborted)
}

// abort resets the object.
func (o *object) abort(message string, retryAlarm bool) {
	if !retryAlarm {
		o.state.AbandonAlarm()
	}
	o.state.ResetWith(resetFor(message))
	panic(errAborted)
}

// begin begins a transaction. One that is not synchronous is a segment of its own.
func (o *object) begin(ctx context.Context, sync bool) (int64, error) {
	if len(o.open) == 0 {
		o.depart(ctx)
		if !sync {
			if err := o.state.EndSegment(ctx); err != nil {
				return 0, refused(err)
			}
		}
	}
	_, end, err := o.state.Storage().Begin()
	if err != nil {
		return 0, refused(err)
	}
	o.last++
	o.open[o.last] = transaction{end, sync}
	return o.last, nil
}

// finish ends a transaction.
func (o *object) finish(ctx context.Context, number int64, commit bool) error {
	tx, ok := o.open[number]
	if !ok {
		return nil
	}
	delete(o.open, number)
	if err := tx.end(commit); err != nil && !errors.Is(err, actor.ErrTransactionEnded) {
		return refused(err)
	}
	if len(o.open) == 0 && !tx.sync {
		if err := o.state.EndSegment(ctx); err != nil {
			return refused(err)
		}
	}
	return nil
}

// uncaught logs an error that the worker did not catch.
func (l *logger) uncaught(where string, e *jsError) {
	text := "Uncaught "
	if where != "" {
		text += "(" + where + ") "
	}
	text += e.Error()
	if e.Stack != "" {
		text += "\n" + e.Stack
	}
	l.log(slog.LevelError, text)
}
