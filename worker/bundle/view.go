package bundle

import (
	"maps"
	"slices"
	"strings"
)

// view is a configuration as one environment sees it.
type view struct {
	environment string
	top, env    map[string]node // env is nil at the top level
}

// use says what becomes of a key of the configuration.
type use int

const (
	inherited use = iota // read; an environment without it has the top level's
	perEnv               // read; an environment without it has none
	topOnly              // read; stands at the top level alone
	silent               // means nothing outside of Cloudflare, and changes nothing
	noEnv                // unsupported: leaves a binding out of env
	noEffect             // unsupported: something does not happen
)

// keys are wrangler's keys. Any other is unknown.
var keys = map[string]use{
	"name": inherited, "main": inherited, "compatibility_date": inherited, "compatibility_flags": inherited,
	"migrations": inherited, "exports": inherited, "rules": inherited, "tsconfig": inherited,
	"jsx_factory": inherited, "jsx_fragment": inherited, "minify": inherited, "keep_names": inherited,

	"vars": perEnv, "define": perEnv, "durable_objects": perEnv,

	"env": topOnly, "alias": topOnly,

	"$schema": silent, "account_id": silent, "workers_dev": silent, "preview_urls": silent, "send_metrics": silent,
	"keep_vars": silent, "dev": silent, "legacy_env": silent, "upload_source_maps": silent, "observability": silent,
	"compliance_region": silent, "placement": silent, "logpush": silent, "first_party_worker": silent, "previews": silent,
	"preserve_file_names": silent, "no_bundle": silent, "cloudchamber": silent, "type": silent,

	"ai": noEnv, "ai_search": noEnv, "ai_search_namespaces": noEnv, "analytics_engine_datasets": noEnv, "artifacts": noEnv,
	"browser": noEnv, "d1_databases": noEnv, "data_blobs": noEnv, "dispatch_namespaces": noEnv, "flagship": noEnv,
	"hyperdrive": noEnv, "images": noEnv, "kv_namespaces": noEnv, "logfwdr": noEnv, "media": noEnv, "mtls_certificates": noEnv,
	"pipelines": noEnv, "queues": noEnv, "r2_buckets": noEnv, "ratelimits": noEnv, "secrets_store_secrets": noEnv,
	"send_email": noEnv, "services": noEnv, "stream": noEnv, "text_blobs": noEnv, "unsafe": noEnv, "unsafe_hello_world": noEnv,
	"vectorize": noEnv, "version_metadata": noEnv, "vpc_networks": noEnv, "vpc_services": noEnv, "wasm_modules": noEnv,
	"worker_loaders": noEnv, "workflows": noEnv,

	"assets": noEffect, "base_dir": noEffect, "build": noEffect, "cache": noEffect, "containers": noEffect,
	"find_additional_modules": noEffect, "limits": noEffect, "pages_build_output_dir": noEffect, "python_modules": noEffect,
	"route": noEffect, "routes": noEffect, "secrets": noEffect, "site": noEffect, "streaming_tail_consumers": noEffect,
	"tail_consumers": noEffect, "triggers": noEffect,
}

// unsupported says what a key of the kinds noEnv and noEffect means to its author.
var unsupported = map[string]string{
	"assets":         "static files are not served",
	"build":          "Holdfast runs no command of a project: run it yourself first",
	"containers":     "ctx.container is undefined",
	"limits":         "the limits of the node hold",
	"python_modules": "Python does not run here",
	"route":          "the worker is reached by its name",
	"routes":         "the worker is reached by its name",
	"secrets":        "secrets are not checked for",
	"services":       "service bindings are not supported; env has none of them",
	"site":           "static files are not served",
	"triggers":       "scheduled() is not called: an object's alarm can do that",
}

// newView chooses an environment, and warns of the keys that have no use. It says false when there
// is no such environment.
func newView(r *reader, environment string) (*view, bool) {
	for _, path := range r.doc.twice {
		r.warnf(path, "is there more than once: the last one counts")
	}
	v := &view{environment: environment, top: r.fields(node{value: r.doc.root})}
	if environment != "" {
		envs := map[string]node{}
		if n, ok := v.top["env"]; ok {
			envs = r.fields(n)
		}
		env, ok := envs[environment]
		if !ok {
			have := "it has no environments"
			if len(envs) > 0 {
				have = "it has " + strings.Join(slices.Sorted(maps.Keys(envs)), ", ")
			}
			r.failf("env", "the configuration has no environment %q: %s", environment, have)
			return nil, false
		}
		v.env = r.fields(env)
	}
	v.warnOfUseless(r)
	return v, true
}

// get returns the value of a key of the kinds that are read.
func (v *view) get(key string) (node, bool) {
	if n, ok := v.env[key]; ok && keys[key] != topOnly {
		return n, true
	}
	if v.env != nil && keys[key] == perEnv {
		return node{}, false
	}
	n, ok := v.top[key]
	return n, ok
}

// own says whether the environment itself has the key.
func (v *view) own(key string) bool {
	_, ok := v.env[key]
	return ok
}

// warnOfMissing says what of an object of the top level the environment does not have, because it
// is not inherited.
func (v *view) warnOfMissing(r *reader, key string) {
	if v.env == nil || !v.own(key) {
		return
	}
	top, ok := v.top[key]
	if !ok {
		return
	}
	own := r.fields(v.env[key])
	for name, n := range r.fields(top) {
		if _, ok := own[name]; !ok {
			r.warnf(n.path, "is not in env.%s, which does not inherit %s from the top level: repeat it there", v.environment, key)
		}
	}
}

func (v *view) warnOfUseless(r *reader) {
	for key, n := range v.top {
		switch use, known := keys[key]; {
		case !known:
			r.warnf(n.path, "unknown, ignored")
		case v.own(key):
		case v.env != nil && (use == perEnv || use == noEnv):
			r.warnf(n.path, "env.%s does not inherit %s from the top level: repeat it there", v.environment, key)
		default:
			warnOfUse(r, key, n, use)
		}
	}
	for key, n := range v.env {
		switch use, known := keys[key]; {
		case !known:
			r.warnf(n.path, "unknown, ignored")
		case use == topOnly:
			r.warnf(n.path, "ignored: it belongs to the top level")
		default:
			warnOfUse(r, key, n, use)
		}
	}
}

func warnOfUse(r *reader, key string, n node, use use) {
	if use != noEnv && use != noEffect || isEmpty(n.value) {
		return
	}
	meaning := unsupported[key]
	if meaning == "" {
		meaning = "not supported, ignored"
		if use == noEnv {
			meaning = "not supported: env has none of its bindings"
		}
	}
	r.warnf(n.path, "%s", meaning)
}

// isEmpty says that a key is there and asks for nothing.
func isEmpty(v any) bool {
	switch v := v.(type) {
	case nil:
		return true
	case bool:
		return !v
	case []any:
		return len(v) == 0
	case map[string]any:
		return len(v) == 0
	}
	return false
}
