package worker

import (
	"errors"

	"github.com/holdfast-io/holdfast/worker/bundle"
	"github.com/holdfast-io/holdfast/worker/clone"
	"github.com/holdfast-io/holdfast/worker/quickjs"
	"github.com/holdfast-io/holdfast/worker/web"
)

// Modules are the modules that the code of workers may import.
func Modules() []string { return append(bundle.DefaultModules(), web.NodeModules()...) }

// errorPropsSince is the compatibility date from which errors that are thrown or sent keep the properties of their
// own.
const errorPropsSince = "2026-04-21"

func (w *Worker) since(date string) bool { return w.bundle.CompatibilityDate >= date }

// encode makes the bytes of a value that it is stored as.
func (e *engine) encode(v quickjs.Value) ([]byte, error) {
	raw, err := clone.Encode(e.js, v, clone.Options{Replace: func(v quickjs.Value) (quickjs.Value, bool, error) {
		_, err := e.run.storable.Value().Call(undefined, v)
		return undefined, false, err
	}})
	if errors.Is(err, clone.ErrTooLarge) {
		return nil, quickjs.NewError("RangeError", "Values cannot be larger than %d bytes.", clone.ValueMax)
	}
	return raw, e.cloneError(err)
}

// encodeMessage makes the bytes of a value that it is sent as.
func (e *engine) encodeMessage(v quickjs.Value) ([]byte, error) {
	raw, err := clone.Encode(e.js, v, clone.Options{SizeMax: 2 * clone.MessageMax, ErrorProps: e.w.since(errorPropsSince), Replace: e.replace})
	switch {
	case errors.Is(err, clone.ErrTooLarge):
		return nil, quickjs.NewError("Error", "Serialized RPC arguments or return values are limited to 32MiB, but the size of this value was more than %d bytes.", 2*clone.MessageMax)
	case err == nil && len(raw) > clone.MessageMax:
		return nil, quickjs.NewError("Error", "Serialized RPC arguments or return values are limited to 32MiB, but the size of this value was: %d bytes.", len(raw))
	}
	return raw, e.cloneError(err)
}

// decode makes a value of its bytes.
func (e *engine) decode(raw []byte) (quickjs.Value, error) {
	v, err := clone.Decode(e.js, raw, clone.Options{SizeMax: clone.MessageMax, Revive: func(v quickjs.Value) (quickjs.Value, error) { return e.revive(v, false) }})
	return v, e.cloneError(err)
}

// decodeArguments is decode of a call's arguments. Stubs among them end with the call; it says whether there are any.
func (e *engine) decodeArguments(raw []byte) (v quickjs.Value, stubs bool, err error) {
	v, err = clone.Decode(e.js, raw, clone.Options{SizeMax: clone.MessageMax, Revive: func(v quickjs.Value) (quickjs.Value, error) {
		stubs = true
		return e.revive(v, true)
	}})
	return v, stubs, e.cloneError(err)
}

// replace is asked for what takes the place of a value that can't be sent as it is.
func (e *engine) replace(v quickjs.Value) (quickjs.Value, bool, error) {
	if stub, err := e.stubFor(v); err != nil || stub.Kind() != quickjs.Undefined {
		return stub, err == nil, err
	}
	class, err := v.Get("constructor")
	if err != nil {
		return undefined, false, err
	}
	name := ""
	if class.IsFunction() {
		n, err := class.Get("name")
		if err != nil {
			return undefined, false, err
		}
		if name, err = n.ToText(); err != nil {
			return undefined, false, err
		}
	}
	return undefined, false, e.dataCloneError("Could not serialize object of type \"" + name + "\". This type does not support serialization.")
}

// cloneError makes a DOMException of an error by which a value can't be cloned.
func (e *engine) cloneError(err error) error {
	js, ok := err.(*quickjs.Error) //nolint:errorlint // not wrapped
	if !ok || js.Name != "DataCloneError" || js.Value.Kind() != quickjs.Undefined {
		return err
	}
	return e.dataCloneError(js.Message)
}

func (e *engine) dataCloneError(message string) error {
	v, err := e.run.makeError.Value().Call(undefined, e.js.String("DataCloneError"), e.js.String(message), quickjs.BoolValue(true), e.js.Object(), quickjs.BoolValue(false))
	if err != nil {
		return err
	}
	return quickjs.Thrown(v)
}
