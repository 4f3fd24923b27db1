package worker

import (
	"crypto/rand"
	"maps"
	"slices"
	"time"

	"github.com/holdfast-io/holdfast/actor"
	"github.com/holdfast-io/holdfast/placement"
	"github.com/holdfast-io/holdfast/storage"
	"github.com/holdfast-io/holdfast/worker/quickjs"
)

// hostFunction is one that JavaScript calls as host.NAME.
type hostFunction func(e *engine, a quickjs.Args) (quickjs.Value, error)

// objectFunction is one for the object whose number is the first argument, by JavaScript that runs in its turn.
type objectFunction func(o *object, e *engine, a quickjs.Args) (quickjs.Value, error)

var undefined quickjs.Value

// hostFunctions are those that need no object's turn.
var hostFunctions = map[string]hostFunction{
	"idFromName": func(e *engine, a quickjs.Args) (quickjs.Value, error) {
		ns, err := e.namespace(a)
		if err != nil {
			return undefined, err
		}
		name, err := a.At(1).Text()
		if err != nil {
			return undefined, err
		}
		return e.js.String(ns.IDFromName(name).String()), nil
	},
	"newUniqueId": func(e *engine, a quickjs.Args) (quickjs.Value, error) {
		ns, err := e.namespace(a)
		if err != nil {
			return undefined, err
		}
		id, err := ns.NewUniqueID(rand.Reader)
		if err != nil {
			return undefined, err
		}
		return e.js.String(id.String()), nil
	},
	"idIsOf": func(e *engine, a quickjs.Args) (quickjs.Value, error) {
		ns, err := e.namespace(a)
		if err != nil {
			return undefined, err
		}
		text, err := a.At(1).Text()
		if err != nil {
			return undefined, err
		}
		_, err = ns.ParseID(text)
		return quickjs.BoolValue(err == nil), nil
	},
	"hold": func(e *engine, _ quickjs.Args) (quickjs.Value, error) {
		l, err := e.loopNow()
		if err == nil {
			l.hold()
		}
		return undefined, err
	},
	"release": func(e *engine, _ quickjs.Args) (quickjs.Value, error) {
		l, err := e.loopNow()
		if err == nil {
			l.release()
		}
		return undefined, err
	},
	"settled": func(e *engine, a quickjs.Args) (quickjs.Value, error) {
		number, err := a.At(0).Int()
		if err == nil && e.now != nil {
			e.now.loop.settled(number)
		}
		return undefined, err
	},
	"call":     (*engine).hostCall,
	"fetch":    (*engine).hostFetch,
	"imported": (*engine).hostImported,
	"released": (*engine).hostReleased,
}

// namespace is that of the class whose full name is the first argument.
func (e *engine) namespace(a quickjs.Args) (placement.Namespace, error) {
	class, err := a.At(0).Text()
	if err != nil {
		return placement.Namespace{}, err
	}
	ns, ok := e.w.cfg.Cluster.Namespace(class)
	if !ok {
		return placement.Namespace{}, quickjs.NewError("Error", "This cluster has no class %q: deploy the worker that has it, or look at script_name of the binding.", class)
	}
	return ns, nil
}

// objectFunctions are those of ctx.
var objectFunctions = map[string]objectFunction{
	"get": func(o *object, e *engine, a quickjs.Args) (quickjs.Value, error) {
		key, err := keyOf(a.At(1))
		if err != nil {
			return undefined, err
		}
		raw, ok, err := o.state.Storage().Get(key)
		if err != nil {
			return undefined, refused(err)
		}
		if !ok {
			return undefined, nil
		}
		return e.decode(raw)
	},
	"getMany": func(o *object, e *engine, a quickjs.Args) (quickjs.Value, error) {
		keys, err := keysOf(a.At(1))
		if err != nil {
			return undefined, err
		}
		found, err := o.state.Storage().GetMany(keys...)
		if err != nil {
			return undefined, refused(err)
		}
		return e.entries(found)
	},
	"put": func(o *object, e *engine, a quickjs.Args) (quickjs.Value, error) {
		key, err := keyOf(a.At(1))
		if err != nil {
			return undefined, err
		}
		raw, err := e.encode(a.At(2))
		if err != nil {
			return undefined, err
		}
		if err := o.storage(a.At(3)).Put(key, raw); err != nil {
			return undefined, refused(err)
		}
		return undefined, nil
	},
	"putMany": func(o *object, e *engine, a quickjs.Args) (quickjs.Value, error) {
		keys, err := keysOf(a.At(1))
		if err != nil {
			return undefined, err
		}
		entries := make(map[string][]byte, len(keys))
		for i, key := range keys {
			v, err := a.At(2).At(uint32(i)) //nolint:gosec // at most 128
			if err != nil {
				return undefined, err
			}
			if entries[key], err = e.encode(v); err != nil {
				return undefined, err
			}
		}
		if err := o.storage(a.At(3)).PutMany(entries); err != nil {
			return undefined, refused(err)
		}
		return undefined, nil
	},
	"deleteMany": func(o *object, _ *engine, a quickjs.Args) (quickjs.Value, error) {
		keys, err := keysOf(a.At(1))
		if err != nil {
			return undefined, err
		}
		n, err := o.storage(a.At(2)).DeleteMany(keys...)
		if err != nil {
			return undefined, refused(err)
		}
		return quickjs.IntValue(int64(n)), nil
	},
	"list": func(o *object, e *engine, a quickjs.Args) (quickjs.Value, error) {
		options, empty, err := listOptions(a.At(1))
		if err != nil {
			return undefined, err
		}
		if empty {
			return e.js.Array(), nil
		}
		return e.list(o.state.Storage(), options)
	},
	"deleteAll": func(o *object, _ *engine, _ quickjs.Args) (quickjs.Value, error) {
		return undefined, o.deleteAll()
	},
	"sync": func(o *object, e *engine, _ quickjs.Args) (quickjs.Value, error) {
		return o.sync(e)
	},
	"getAlarm": func(o *object, _ *engine, _ quickjs.Args) (quickjs.Value, error) {
		at, ok, err := o.state.Alarm()
		if err != nil {
			return undefined, refused(err)
		}
		if !ok {
			return quickjs.NullValue(), nil
		}
		return quickjs.IntValue(at.UnixMilli()), nil
	},
	"setAlarm": func(o *object, _ *engine, a quickjs.Args) (quickjs.Value, error) {
		ms, err := a.At(1).Float()
		if err != nil {
			return undefined, err
		}
		if err := o.state.SetAlarm(time.UnixMilli(int64(min(ms, 9e15)))); err != nil {
			return undefined, refused(err)
		}
		return undefined, nil
	},
	"deleteAlarm": func(o *object, _ *engine, _ quickjs.Args) (quickjs.Value, error) {
		if err := o.state.DeleteAlarm(); err != nil {
			return undefined, refused(err)
		}
		return undefined, nil
	},
	"begin": func(o *object, e *engine, a quickjs.Args) (quickjs.Value, error) {
		number, err := o.begin(e.now.ctx, a.At(1).Truthy())
		return quickjs.IntValue(number), err
	},
	"end": func(o *object, e *engine, a quickjs.Args) (quickjs.Value, error) {
		number, err := a.At(1).Int()
		if err != nil {
			return undefined, err
		}
		return undefined, o.finish(e.now.ctx, number, a.At(2).Truthy())
	},
	"block": func(o *object, e *engine, _ quickjs.Args) (quickjs.Value, error) {
		number, err := o.block(e.now.ctx)
		return quickjs.IntValue(number), err
	},
	"unblock": func(o *object, _ *engine, a quickjs.Args) (quickjs.Value, error) {
		number, err := a.At(1).Int()
		if err != nil {
			return undefined, err
		}
		return undefined, o.unblock(number)
	},
	"broken": func(o *object, e *engine, a quickjs.Args) (quickjs.Value, error) {
		err := e.thrown(e.js.Caught(a.At(1)))
		if js, ok := err.(*jsError); ok { //nolint:errorlint // not wrapped
			o.broken(js)
		}
		return undefined, err
	},
	"keep": func(o *object, _ *engine, a quickjs.Args) (quickjs.Value, error) {
		return undefined, o.keepExports(a.At(1).Truthy())
	},
	"abort": func(o *object, _ *engine, a quickjs.Args) (quickjs.Value, error) {
		message, err := a.At(1).Text()
		if err != nil {
			return undefined, err
		}
		o.abort(message, a.At(2).Truthy())
		return undefined, nil
	},
}

var errOther = quickjs.NewError("Error", "Cannot perform I/O on behalf of a different Durable Object. I/O objects (such as streams, request/response bodies, and others) created in the context of one Durable Object cannot be accessed from a different Durable Object in the same isolate.")

// hostObject makes what runtime.js gets of Go.
func (e *engine) hostObject() (quickjs.Value, error) {
	out := e.js.Object()
	for name, f := range hostFunctions {
		if err := out.Set(name, e.js.Function(name, 0, func(_ *quickjs.Engine, _ quickjs.Value, a quickjs.Args) (quickjs.Value, error) { return f(e, a) })); err != nil {
			return out, err
		}
	}
	for name, f := range objectFunctions {
		if err := out.Set(name, e.js.Function(name, 1, func(_ *quickjs.Engine, _ quickjs.Value, a quickjs.Args) (quickjs.Value, error) {
			o, err := e.objectNow(a.At(0))
			if err != nil {
				return undefined, err
			}
			return f(o, e, a)
		})); err != nil {
			return out, err
		}
	}
	return out, nil
}

// objectNow is the object with a number, if its JavaScript runs.
func (e *engine) objectNow(number quickjs.Value) (*object, error) {
	n, err := number.Int()
	switch {
	case err != nil:
		return nil, err
	case e.now == nil || e.now.object == nil || e.now.loop.number != n:
		return nil, errOther
	case e.now.loop.isOver():
		panic(errGone)
	}
	return e.now.object, nil
}

func (o *object) storage(unconfirmed quickjs.Value) *actor.Storage {
	if unconfirmed.Truthy() {
		return o.state.Storage().Unconfirmed()
	}
	return o.state.Storage()
}

// sync returns a promise of everything being durable that the object has written.
func (o *object) sync(e *engine) (quickjs.Value, error) {
	if len(o.open) > 0 {
		return undefined, quickjs.NewError("Error", "Cannot call sync() within a transaction")
	}
	promise, p, err := e.promise(&o.loop)
	if err != nil {
		return undefined, err
	}
	o.leave(p, func(error) { p.settle(func() (quickjs.Value, error) { return undefined, nil }) })
	return promise, nil
}

// deleteAllDeletesAlarm is the compatibility date from which deleteAll deletes the alarm too.
const deleteAllDeletesAlarm = "2026-02-24"

func (o *object) deleteAll() error {
	at, has, err := o.state.Alarm()
	if err == nil {
		err = o.state.Storage().DeleteAll()
	}
	if err == nil && has && !o.w.since(deleteAllDeletesAlarm) {
		err = o.state.SetAlarm(at)
	}
	if err != nil {
		return refused(err)
	}
	return nil
}

// keyOf reads a key.
func keyOf(v quickjs.Value) (string, error) {
	key, err := v.Text()
	if err == nil && len(key) > storage.MaxKeyBytes {
		return "", quickjs.NewError("RangeError", "Keys cannot be larger than %d bytes. A key of size %d was provided.", storage.MaxKeyBytes, len(key))
	}
	return key, err
}

// keysOf reads an array of keys.
func keysOf(array quickjs.Value) ([]string, error) {
	n, err := array.Len()
	if err != nil {
		return nil, err
	}
	out := make([]string, n)
	for i := range out {
		v, err := array.At(uint32(i)) //nolint:gosec // an array has no more
		if err != nil {
			return nil, err
		}
		if out[i], err = keyOf(v); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// listOptions reads the options of list(), which runtime.js has checked. empty says that no key can be meant.
func listOptions(v quickjs.Value) (o actor.ListOptions, empty bool, err error) {
	text := func(name string) (s string, ok bool) {
		p, failed := v.Get(name)
		if failed == nil && p.Kind() == quickjs.String {
			s, failed = p.Text()
			ok = failed == nil
		}
		if err == nil {
			err = failed
		}
		return s, ok
	}
	o.Start, _ = text("start")
	if after, ok := text("startAfter"); ok {
		if o.StartAfter = after; after == "" {
			o.Start = "\x00" // The least key after the empty one.
		}
	}
	end, bounded := text("end")
	o.End = end
	o.Prefix, _ = text("prefix")
	reverse, failed := v.Get("reverse")
	if err == nil {
		err = failed
	}
	o.Reverse = reverse.Truthy()
	limit, failed := v.Get("limit")
	if err == nil {
		err = failed
	}
	if limit.Kind() == quickjs.Number {
		n, failed := limit.Float()
		if err == nil {
			err = failed
		}
		o.Limit = int(min(n, 1<<53))
	}
	return o, bounded && end == "", err
}

// list returns an array of [key, value].
func (e *engine) list(s *actor.Storage, options actor.ListOptions) (quickjs.Value, error) {
	out := e.js.Array()
	n := uint32(0)
	for entry, err := range s.List(options) {
		if err != nil {
			return undefined, refused(err)
		}
		pair, err := e.js.Scope(func() (quickjs.Value, error) { return e.pair(entry.Key, entry.Value) })
		if err == nil {
			err = out.SetAt(n, pair)
		}
		if err != nil {
			return undefined, err
		}
		n++
	}
	return out, nil
}

func (e *engine) pair(key string, raw []byte) (quickjs.Value, error) {
	v, err := e.decode(raw)
	if err != nil {
		return undefined, err
	}
	pair := e.js.Array(e.js.String(key), v)
	return pair, pair.Err()
}

// entries returns an array of [key, value] in the order of the keys.
func (e *engine) entries(found map[string][]byte) (quickjs.Value, error) {
	out := e.js.Array()
	for i, key := range slices.Sorted(maps.Keys(found)) {
		pair, err := e.pair(key, found[key])
		if err == nil {
			err = out.SetAt(uint32(i), pair) //nolint:gosec // at most 128
		}
		if err != nil {
			return undefined, err
		}
	}
	return out, nil
}
