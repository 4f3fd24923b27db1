package conformance_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-io/holdfast/actor"
)

// op is one thing that a program does in an event.
type op struct {
	Do      string
	Keys    []string          `json:",omitempty"`
	Entries map[string]string `json:",omitempty"`
	Options actor.ListOptions `json:",omitzero"`
	At      int64             `json:",omitempty"` // of an alarm, in Unix milliseconds; 0: in a moment
	// Unconfirmed has the storage's writes hold nothing back.
	Unconfirmed bool `json:",omitempty"`
	// Ops are those of a transaction, or what a list does at its first entry, and End is how the
	// transaction ends.
	Ops []op   `json:",omitempty"`
	End ending `json:",omitempty"`
	// Outer has an op of a transaction use the storage that the transaction was begun on.
	Outer bool `json:",omitempty"`
}

// ending is how an event, a transaction or the run of an alarm ends.
type ending string

const (
	returns ending = ""
	fails   ending = "fails"
	panics  ending = "panics"
	aborts  ending = "aborts"
	givesUp ending = "gives up"
)

// event is what an object does in one event.
type event struct {
	Ops []op
	End ending `json:",omitempty"`
	// Runs is how many runs of an alarm have that end; those after them return.
	Runs int `json:",omitempty"`
}

func (e event) encode() string {
	raw, err := json.Marshal(e)
	if err != nil {
		panic(err)
	}
	return string(raw)
}

// platform is what an event has: an object's storage and alarm, or the model of them.
type platform interface {
	get(key string) (string, bool, error)
	getMany(keys []string) (map[string]string, error)
	put(key, value string) error
	putMany(entries map[string]string) error
	delete(key string) (bool, error)
	deleteMany(keys []string) (int, error)
	deleteAll() error
	list(o actor.ListOptions, each func(key, value string)) error
	transaction(fn func(tx platform) error) error
	sync() error
	setAlarm(at int64) error
	deleteAlarm() error
	alarm() (at int64, err error) // 0: none; momentary: in a moment
	abort(reason string)
	abortWithoutRetry(reason string)
	unconfirmed() platform
}

// momentary stands for every time that is not one of the years ahead.
const momentary = 1

// performance does what events say, and writes down what it was told.
type performance struct{ said []string }

func (p *performance) sayf(format string, args ...any) {
	p.said = append(p.said, fmt.Sprintf(format, args...))
}

// text is what was said. All of it is ASCII: it travels in errors too.
func (p *performance) text() string { return strings.Join(p.said, "\n") }

// event returns what the event's handler does.
func (p *performance) event(on platform, e event) error {
	p.ops(on, on, e.Ops)
	return p.end(on, e.End)
}

func (p *performance) end(on platform, end ending) error {
	switch end {
	case fails:
		return errors.New(p.text())
	case panics:
		panic(p.text())
	case aborts:
		on.abort(p.text())
	case givesUp:
		on.abortWithoutRetry(p.text())
	case returns:
	}
	return nil
}

// The keys by which an alarm's handler knows what to do, and tells what it was told.
const (
	planKey = "the plan"
	rangKey = "the bell rang"
)

// ring is the run of an alarm.
func (p *performance) ring(on platform, retry int) error {
	raw, ok, err := on.get(planKey)
	p.sayf("retry %d: %v %s", retry, ok, named(err))
	var plan event
	if ok {
		if err := json.Unmarshal([]byte(raw), &plan); err != nil {
			return err
		}
	}
	p.ops(on, on, plan.Ops)
	if err := on.put(rangKey, p.text()); err != nil {
		return err
	}
	if retry >= plan.Runs {
		return nil
	}
	return p.end(on, plan.End)
}

// ops does them. outer is the platform that the innermost transaction was begun on.
func (p *performance) ops(inner, outer platform, ops []op) {
	for _, o := range ops {
		on := inner
		if o.Outer {
			on = outer
		}
		if o.Unconfirmed {
			on = on.unconfirmed()
		}
		p.op(on, o)
	}
}

func (p *performance) op(on platform, o op) {
	switch o.Do {
	case "get":
		v, ok, err := on.get(o.Keys[0])
		p.sayf("get %+q: %s %v %s", o.Keys[0], shown(v), ok, named(err))
	case "get many":
		got, err := on.getMany(o.Keys)
		p.sayf("get many: %s %s", shownMany(got), named(err))
	case "put":
		for key, v := range o.Entries {
			p.sayf("put %+q: %s", key, named(on.put(key, v)))
		}
	case "put many":
		p.sayf("put many: %s", named(on.putMany(o.Entries)))
	case "delete":
		was, err := on.delete(o.Keys[0])
		p.sayf("delete %+q: %v %s", o.Keys[0], was, named(err))
	case "delete many":
		n, err := on.deleteMany(o.Keys)
		p.sayf("delete many: %d %s", n, named(err))
	case "delete all":
		p.sayf("delete all: %s", named(on.deleteAll()))
	case "list":
		p.list(on, o)
	case "transaction":
		p.transaction(on, o)
	case "sync":
		p.sayf("sync: %s", named(on.sync()))
	case "set alarm":
		p.sayf("set alarm: %s", named(on.setAlarm(o.At)))
	case "delete alarm":
		p.sayf("delete alarm: %s", named(on.deleteAlarm()))
	case "alarm":
		at, err := on.alarm()
		p.sayf("alarm: %d %s", at, named(err))
	case "abort":
		on.abort(p.text())
	default:
		panic("no such op: " + o.Do)
	}
}

func (p *performance) list(on platform, o op) {
	begun := false
	var said []string // What is written meanwhile does not change the walk, and is said before it.
	err := on.list(o.Options, func(key, v string) {
		if !begun {
			begun = true
			p.ops(on, on, o.Ops)
		}
		said = append(said, fmt.Sprintf("%+q=%s", key, shown(v)))
	})
	p.sayf("list %s: %s", strings.Join(said, " "), named(err))
}

func (p *performance) transaction(on platform, o op) {
	var over platform
	err := func() (err error) {
		defer func() {
			if r := recover(); r == errMine { //nolint:errorlint // whether it is this panic
				err = errMine
			} else if r != nil {
				panic(r)
			}
		}()
		return on.transaction(func(tx platform) error {
			over = tx
			p.ops(tx, on, o.Ops)
			if o.End == panics {
				panic(errMine)
			}
			if o.End == fails {
				return errMine
			}
			return nil
		})
	}()
	p.sayf("transaction: %s", named(err))
	if over != nil {
		p.sayf("after it: %s", named(over.put("after", "it")))
	}
}

// named is what is said of an error.
func named(err error) string {
	switch {
	case err == nil:
		return "ok"
	case errors.Is(err, actor.ErrInTransaction):
		return "refused in a transaction"
	case errors.Is(err, actor.ErrTransactionEnded):
		return "refused after the transaction"
	case errors.Is(err, errMine):
		return "its own error"
	}
	return fmt.Sprintf("%+q", err.Error())
}

// shown is a value, whose beginning is like no other's.
func shown(v string) string { return fmt.Sprintf("%+.8q/%d", v, len(v)) }

func shownMany(entries map[string]string) string {
	var out []string
	for _, key := range slices.Sorted(maps.Keys(entries)) {
		out = append(out, fmt.Sprintf("%+q=%s", key, shown(entries[key])))
	}
	return strings.Join(out, " ")
}

// everything is an event that sees all that its object has, and changes nothing. What was seen is durable
// when it returns.
var everything = event{Ops: []op{{Do: "list"}, {Do: "alarm"}, {Do: "sync"}}}

// inObject is the platform of an object.
type inObject struct {
	ctx   context.Context //nolint:containedctx // the event's
	state *actor.State
	*actor.Storage
}

func (o inObject) get(key string) (string, bool, error) { return actor.Get[string](o.Storage, key) }
func (o inObject) getMany(keys []string) (map[string]string, error) {
	return actor.GetMany[string](o.Storage, keys...)
}

func (o inObject) put(key, value string) error { return actor.Put(o.Storage, key, value) }

func (o inObject) putMany(entries map[string]string) error { return actor.PutMany(o.Storage, entries) }
func (o inObject) delete(key string) (bool, error)         { return o.Delete(key) }
func (o inObject) deleteMany(keys []string) (int, error)   { return o.DeleteMany(keys...) }
func (o inObject) deleteAll() error                        { return o.DeleteAll() }
func (o inObject) sync() error                             { return o.Sync(o.ctx) }
func (o inObject) deleteAlarm() error                      { return o.state.DeleteAlarm() }
func (o inObject) abort(reason string)                     { o.state.Abort(reason) }
func (o inObject) abortWithoutRetry(reason string)         { o.state.AbortWithoutRetry(reason) }
func (o inObject) unconfirmed() platform                   { return inObject{o.ctx, o.state, o.Unconfirmed()} }

func (o inObject) list(options actor.ListOptions, each func(key, value string)) error {
	for entry, err := range o.List(options) {
		var v string
		if err := errors.Join(err, entry.Decode(&v)); err != nil {
			return err
		}
		each(entry.Key, v)
	}
	return nil
}

func (o inObject) transaction(fn func(tx platform) error) error {
	return o.Transaction(func(tx *actor.Storage) error { return fn(inObject{o.ctx, o.state, tx}) })
}

func (o inObject) setAlarm(at int64) error {
	if at == 0 {
		return o.state.SetAlarm(soon())
	}
	return o.state.SetAlarm(time.UnixMilli(at))
}

func (o inObject) alarm() (int64, error) {
	at, ok, err := o.state.Alarm()
	switch {
	case !ok || err != nil:
		return 0, err
	case at.Before(farAlarms):
		return momentary, nil
	}
	return at.UnixMilli(), nil
}

// farAlarms is when the first alarm is due that no program waits for.
var farAlarms = time.Date(2200, 1, 1, 0, 0, 0, 0, time.UTC)
