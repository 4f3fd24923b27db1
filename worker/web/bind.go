package web

import (
	"errors"
	"fmt"

	"github.com/holdfast-io/holdfast/worker/quickjs"
)

// functions are what platform.js returns for Go to call.
type functions struct {
	abortRequest, dropTimer, fireTimer, giveMessage, newEvent, nodeModule, pump, rejectOperation, resolveOperation, takeRequest, takeResponse, unhandledRejection *quickjs.Ref
}

// refs are the functions by their names in JavaScript.
func (f *functions) refs() map[string]**quickjs.Ref {
	return map[string]**quickjs.Ref{
		"abortRequest": &f.abortRequest, "dropTimer": &f.dropTimer, "fireTimer": &f.fireTimer, "giveMessage": &f.giveMessage, "newEvent": &f.newEvent, "nodeModule": &f.nodeModule, "pump": &f.pump,
		"rejectOperation": &f.rejectOperation, "resolveOperation": &f.resolveOperation, "takeRequest": &f.takeRequest,
		"takeResponse": &f.takeResponse, "unhandledRejection": &f.unhandledRejection,
	}
}

func (f *functions) free() {
	for _, ref := range f.refs() {
		(*ref).Free()
	}
}

// function makes a host function of the platform's.
func (p *Platform) function(name string, f func(*Platform, args) (any, error)) quickjs.Value {
	return p.engine.Function(name, 0, func(e *quickjs.Engine, _ quickjs.Value, in quickjs.Args) (_ quickjs.Value, err error) {
		defer func() {
			if p := recover(); p != nil {
				bad, ok := p.(badArgument)
				if !ok {
					panic(p)
				}
				err = quickjs.NewError("TypeError", "%s: %s", name, string(bad))
			}
		}()
		a := make(args, len(in))
		for i, v := range in {
			plain, err := plainOf(v)
			if err != nil {
				return quickjs.Value{}, fmt.Errorf("argument %d of %s: %w", i, name, err)
			}
			a[i] = plain
		}
		out, err := f(p, a)
		if err != nil {
			return quickjs.Value{}, thrown(err)
		}
		return e.From(out)
	})
}

// thrown is an error as hostCall reads it, in exception.js.
func thrown(err error) error {
	if js, ok := errors.AsType[*jsError](err); ok {
		return quickjs.NewError("Error", "web:%s:%s", js.name, js.err.Error())
	}
	return err
}

// plainOf makes a Go value of a string, a number, a boolean, bytes, undefined or null.
func plainOf(v quickjs.Value) (any, error) {
	switch v.Kind() {
	case quickjs.Undefined, quickjs.Null:
		return nil, v.Err()
	case quickjs.Boolean:
		return v.Bool()
	case quickjs.Number:
		return v.Float()
	case quickjs.String:
		return v.Text()
	case quickjs.Object:
		b, err := v.Bytes()
		if b == nil && err == nil {
			b = []byte{}
		}
		return b, err
	default:
		return nil, fmt.Errorf("a value of another kind is needed here than %v", v.Kind())
	}
}
