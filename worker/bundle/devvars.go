package bundle

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// devVarsFile has secrets for development, which stay out of the configuration.
const devVarsFile = ".dev.vars"

// vars are the plain values of env: those of the configuration and, in development, over them those
// of .dev.vars.
func (c *Config) vars(o Options) ([]Var, []Problem, error) {
	if !o.Dev {
		return c.Vars, nil, nil
	}
	file, raw, err := c.readDevVars(o.Environment)
	if err != nil || raw == nil {
		return c.Vars, nil, err
	}
	vars := slices.Clone(c.Vars)
	var warnings []Problem
	for name, value := range parseDotenv(string(raw)) {
		if i := slices.IndexFunc(c.Bindings, func(b Binding) bool { return b.Name == name }); i >= 0 {
			warnings = append(warnings, Problem{File: file, Key: name, Text: "ignored: env has a Durable Object namespace of this name"})
			continue
		}
		text, err := json.Marshal(value)
		if err != nil {
			return nil, nil, fmt.Errorf("read %s: %s: %w", file, name, err)
		}
		vars = slices.DeleteFunc(vars, func(v Var) bool { return v.Name == name })
		vars = append(vars, Var{Name: name, Value: text})
	}
	slices.SortFunc(vars, func(a, b Var) int { return strings.Compare(a.Name, b.Name) })
	return vars, warnings, nil
}

// readDevVars reads the file of the environment, or else the one for all of them; it returns nil
// when there is neither.
func (c *Config) readDevVars(environment string) (string, []byte, error) {
	names := []string{devVarsFile}
	if environment != "" {
		names = []string{devVarsFile + "." + environment, devVarsFile}
	}
	for _, name := range names {
		raw, err := os.ReadFile(filepath.Join(c.Dir, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return "", nil, fmt.Errorf("read %s: %w", name, err)
		}
		if len(raw) > configBytesMax {
			return "", nil, fmt.Errorf("read %s: it has %d bytes, the limit is %d", name, len(raw), configBytesMax)
		}
		return name, raw, nil
	}
	return "", nil, nil
}

// dotenvLine is a line of a .env file as npm's dotenv, which wrangler uses, understands it. Go's
// packages for such files put other variables into values, and so would change a secret with a
// dollar in it.
var dotenvLine = regexp.MustCompile("(?m)^\\s*(?:export\\s+)?([\\w.-]+)(?:\\s*=\\s*?|:\\s+?)" +
	"(\\s*'(?:\\\\'|[^'])*'|\\s*\"(?:\\\\\"|[^\"])*\"|\\s*`(?:\\\\`|[^`])*`|[^#\\r\\n]+)?\\s*(?:#.*)?$")

func parseDotenv(text string) map[string]string {
	out := make(map[string]string)
	for _, m := range dotenvLine.FindAllStringSubmatch(strings.ReplaceAll(text, "\r\n", "\n"), -1) {
		value := strings.TrimSpace(m[2])
		if n := len(value); n >= 2 && strings.ContainsRune("'\"`", rune(value[0])) && value[0] == value[n-1] {
			quote := value[0]
			value = value[1 : n-1]
			if quote == '"' {
				value = strings.NewReplacer(`\n`, "\n", `\r`, "\r").Replace(value)
			}
		}
		out[m[1]] = value
	}
	return out
}
