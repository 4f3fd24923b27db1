package worker

import (
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"sync"

	"github.com/holdfast-io/holdfast/worker/bundle"
	"github.com/holdfast-io/holdfast/worker/quickjs"
	"github.com/holdfast-io/holdfast/worker/web"
)

//go:embed js/*.js
var runtimeFiles embed.FS

// runtimePrefix begins the names of the runtime's modules.
const runtimePrefix = "holdfast:worker/"

// runtimeModules are the modules of js, compiled at their first use in this process.
var runtimeModules = sync.OnceValues(func() (map[string]*quickjs.Bytecode, error) {
	out := make(map[string]*quickjs.Bytecode)
	files, err := fs.Glob(runtimeFiles, "js/*.js")
	if err != nil {
		return nil, err
	}
	for _, file := range files {
		source, err := runtimeFiles.ReadFile(file)
		if err != nil {
			return nil, err
		}
		name := runtimePrefix + file[len("js/"):]
		if out[name], err = quickjs.CompileModule(string(source), name); err != nil {
			return nil, err
		}
	}
	return out, nil
})

// loadRuntime is quickjs.Options.Load.
func loadRuntime(name string) (*quickjs.Bytecode, error) {
	modules, err := runtimeModules()
	if err != nil {
		return nil, err
	}
	code, ok := modules[name]
	if !ok {
		return nil, quickjs.NewError("TypeError", "There is no module %q.", name)
	}
	return code, nil
}

// start makes the platform, the runtime and the worker's code.
func (e *engine) start() error {
	return e.js.Enter(func() error {
		var err error
		if e.platform, err = web.Install(e.js, host{e}); err != nil {
			return err
		}
		runtime, err := loadRuntime(runtimePrefix + "runtime.js")
		if err != nil {
			return err
		}
		ns, err := e.load(runtime)
		if err != nil {
			return err
		}
		functions, err := ns.Get("runtime")
		if err != nil {
			return err
		}
		if err := e.startRuntime(functions); err != nil {
			return e.explained(err)
		}
		return e.explained(e.loadWorker())
	})
}

// load runs a module to its end.
func (e *engine) load(code *quickjs.Bytecode) (ns quickjs.Value, err error) {
	ns, done, err := e.js.Import(code)
	for more := true; more && err == nil; {
		more, err = e.js.RunJobs(jobsAtOnce)
	}
	if err != nil {
		return quickjs.Value{}, err
	}
	switch state, reason := done.Promise(); state {
	case quickjs.Rejected:
		e.js.TakeRejections()
		return quickjs.Value{}, e.js.Caught(reason)
	case quickjs.Pending:
		return quickjs.Value{}, fmt.Errorf("%s: its top-level await never ends", code.Name())
	case quickjs.NoPromise, quickjs.Fulfilled:
	}
	return ns, nil
}

// startRuntime tells the runtime what the worker is bound to, and defines what the worker imports.
func (e *engine) startRuntime(functions quickjs.Value) error {
	for name, ref := range e.run.refs() {
		f, err := functions.Get(name)
		if err != nil {
			return err
		}
		if *ref, err = f.Keep(); err != nil {
			return err
		}
	}
	host, err := e.hostObject()
	if err != nil {
		return err
	}
	namespaces, vars, classes, err := e.bindings()
	if err != nil {
		return err
	}
	exports, err := functions.Invoke("start", host, namespaces, vars, classes)
	if err != nil {
		return err
	}
	names, err := exports.Keys()
	if err != nil {
		return err
	}
	module := make(map[string]quickjs.Value, len(names))
	for _, name := range names {
		if module[name], err = exports.Get(name); err != nil {
			return err
		}
	}
	email := map[string]quickjs.Value{"EmailMessage": module["EmailMessage"]}
	delete(module, "EmailMessage")
	if err := e.js.DefineModule("cloudflare:workers", module); err != nil {
		return err
	}
	for _, name := range e.w.bundle.Modules {
		if !strings.HasPrefix(name, "node:") {
			continue
		}
		module, err := e.platform.NodeModule(name)
		if err == nil {
			err = e.js.DefineModule(name, module)
		}
		if err != nil {
			return err
		}
	}
	return e.js.DefineModule("cloudflare:email", email)
}

// bindings are the namespaces, variables and own classes of env and ctx.exports.
func (e *engine) bindings() (namespaces, vars, classes quickjs.Value, err error) {
	b := e.w.bundle
	namespaces, vars, classes = e.js.Object(), e.js.Object(), e.js.Object()
	for _, binding := range b.Bindings {
		if err := namespaces.Set(binding.Name, e.js.String(classOf(b, binding))); err != nil {
			return namespaces, vars, classes, err
		}
	}
	for _, class := range b.Classes {
		if err := classes.Set(class.Name, e.js.String(b.Name+"/"+class.Name)); err != nil {
			return namespaces, vars, classes, err
		}
	}
	parse, err := e.js.Global().Get("JSON")
	if err != nil {
		return namespaces, vars, classes, err
	}
	for _, v := range b.Vars {
		value, err := parse.Invoke("parse", e.js.String(string(v.Value)))
		if err == nil {
			err = vars.Set(v.Name, value)
		}
		if err != nil {
			return namespaces, vars, classes, fmt.Errorf("variable %s: %w", v.Name, err)
		}
	}
	return namespaces, vars, classes, nil
}

// classOf is the full name of the class that a binding is to.
func classOf(b *bundle.Bundle, binding bundle.Binding) string {
	switch binding.Worker {
	case bundle.GoWorker:
		return binding.Class
	case "":
		return b.Name + "/" + binding.Class
	}
	return binding.Worker + "/" + binding.Class
}

// loadWorker runs the bundle's module, and learns what its classes have.
func (e *engine) loadWorker() error {
	ns, err := e.load(e.w.code)
	if err != nil {
		return err
	}
	classes := e.w.bundle.Classes
	names := make([]quickjs.Value, len(classes))
	for i, class := range classes {
		names[i] = e.js.String(class.Name)
	}
	abilities, err := e.run.load.Value().Call(quickjs.Value{}, ns, e.js.Array(names...))
	if err != nil {
		return err
	}
	e.w.abilities.Do(func() {
		err = e.learn(abilities)
	})
	return err
}

func (e *engine) learn(abilities quickjs.Value) error {
	e.w.classes = make(map[string]abilitySet)
	for i, class := range e.w.bundle.Classes {
		v, err := abilities.At(uint32(i)) //nolint:gosec // few
		if err != nil {
			return err
		}
		alarm, err := v.Get("alarm")
		if err != nil {
			return err
		}
		preShutdown, err := v.Get("preShutdown")
		if err != nil {
			return err
		}
		e.w.classes[class.Name] = abilitySet{alarm: alarm.Truthy(), preShutdown: preShutdown.Truthy()}
	}
	return nil
}

// explained gives an error of JavaScript the stack that it had, in places of the project's files.
func (e *engine) explained(err error) error {
	js, ok := errors.AsType[*quickjs.Error](err)
	if !ok {
		return err
	}
	return fmt.Errorf("%w\n%s", err, e.w.mapper.MapStack(js.Stack))
}
