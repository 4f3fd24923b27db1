package web

import (
	"embed"
	"fmt"
	"path"
	"strings"
	"sync"

	"github.com/holdfast-io/holdfast/worker/quickjs"
)

//go:generate go run ./generate

//go:embed dist/*.js
var dist embed.FS

// coreChunk is the script that each engine evaluates at its start; the others are evaluated at first use.
const coreChunk = "core"

// nodeChunk has the modules of Node.js.
const nodeChunk = "node"

// chunks are the scripts of dist, compiled at their first use in this process.
var chunks = sync.OnceValue(func() map[string]func() (*quickjs.Bytecode, error) {
	out := make(map[string]func() (*quickjs.Bytecode, error))
	files, err := dist.ReadDir("dist")
	if err != nil {
		panic(err) // it is embedded
	}
	for _, file := range files {
		name := strings.TrimSuffix(file.Name(), ".js")
		out[name] = sync.OnceValues(func() (*quickjs.Bytecode, error) {
			source, err := dist.ReadFile(path.Join("dist", file.Name()))
			if err != nil {
				return nil, err
			}
			return quickjs.CompileScript(string(source), "holdfast:"+name)
		})
	}
	return out
})

func compiled(name string) (*quickjs.Bytecode, error) {
	compile, ok := chunks()[name]
	if !ok {
		return nil, fmt.Errorf("the web platform has no part %q", name)
	}
	return compile()
}
