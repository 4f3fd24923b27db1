package web

import (
	"fmt"
	"regexp"
	"slices"

	"github.com/holdfast-io/holdfast/worker/quickjs"
)

// nodeModules are the modules of Node.js that there are, without "node:".
var nodeModules = []string{
	"assert", "assert/strict", "async_hooks", "buffer", "crypto", "diagnostics_channel", "events", "os", "path", "path/posix",
	"perf_hooks", "process", "querystring", "string_decoder", "timers", "timers/promises", "url", "util", "util/types",
}

// NodeModules are the names of the modules of Node.js that NodeModule has, as node:NAME.
func NodeModules() []string {
	out := make([]string, len(nodeModules))
	for i, name := range nodeModules {
		out[i] = "node:" + name
	}
	return out
}

var identifier = regexp.MustCompile(`^[A-Za-z_$][\w$]*$`)

// NodeModule is the exports of a module of Node.js by its name, node:NAME, for Engine.DefineModule. The first one that is
// asked for evaluates the JavaScript of them all.
func (p *Platform) NodeModule(name string) (map[string]quickjs.Value, error) {
	if !slices.Contains(NodeModules(), name) {
		return nil, fmt.Errorf("there is no module %q", name)
	}
	module, err := p.js.nodeModule.Value().Call(quickjs.Value{}, p.engine.String(name[len("node:"):]))
	if err != nil {
		return nil, err
	}
	keys, err := module.Keys()
	if err != nil {
		return nil, err
	}
	out := map[string]quickjs.Value{"default": module}
	for _, key := range keys {
		if key == "default" || !identifier.MatchString(key) {
			continue
		}
		if out[key], err = module.Get(key); err != nil {
			return nil, err
		}
	}
	return out, nil
}
