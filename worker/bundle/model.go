package bundle

import "encoding/json"

// Bundle is a worker, ready to be stored and run. What is a list is in a fixed order, so that
// equal bundles have equal bytes.
type Bundle struct {
	// Name is the worker's. A class of it is known to the cluster as NAME/CLASS.
	Name string `cbor:"1,keyasint,omitempty"`
	// Code is one ES module. It imports nothing but Modules.
	Code []byte `cbor:"2,keyasint,omitempty"`
	// SourceMap maps Code back to the project's files (version 3, without their text). It may be
	// empty.
	SourceMap []byte `cbor:"3,keyasint,omitempty"`
	// Exports are the names that Code exports, sorted; "default" among them.
	Exports []string `cbor:"4,keyasint,omitempty"`
	// Modules are the modules that Code imports from the runtime, such as cloudflare:workers,
	// sorted. Where node:async_hooks is among them, the code has no async functions: they are
	// lowered to generators, so that the runtime can follow what they wait for.
	Modules []string `cbor:"5,keyasint,omitempty"`
	// Classes are the Durable Object classes that the worker has, sorted by name. Code exports each.
	Classes []Class `cbor:"6,keyasint,omitempty"`
	// Bindings are what env has of namespaces, in the configuration's order.
	Bindings []Binding `cbor:"7,keyasint,omitempty"`
	// Vars are what env has of plain values, sorted by name.
	Vars []Var `cbor:"8,keyasint,omitempty"`
	// Migrations are the lifecycle of the classes as a history; nil where there is none.
	Migrations []Migration `cbor:"9,keyasint,omitempty"`
	// Lifecycle is the lifecycle of the classes as declared by "exports", sorted by class; nil where
	// it is not. A worker has Migrations or Lifecycle, not both.
	Lifecycle []Lifecycle `cbor:"10,keyasint,omitempty"`
	// CompatibilityDate is YYYY-MM-DD, or empty.
	CompatibilityDate string `cbor:"11,keyasint,omitempty"`
	// CompatibilityFlags are in the configuration's order.
	CompatibilityFlags []string `cbor:"12,keyasint,omitempty"`
}

// Class is a Durable Object class that the worker has.
type Class struct {
	Name string `cbor:"1,keyasint,omitempty"`
	// SQLite says that the class was created with SQLite storage, and may use ctx.storage.sql. In all
	// else classes have the same storage.
	SQLite bool `cbor:"2,keyasint,omitempty"`
}

// Binding is a namespace in env.
type Binding struct {
	Name  string `cbor:"1,keyasint,omitempty"` // of the property of env
	Class string `cbor:"2,keyasint,omitempty"`
	// Worker is the one that has the class; empty for this one, and GoWorker for the Go classes of the cluster.
	Worker string `cbor:"3,keyasint,omitempty"`
}

// Var is a plain value in env.
type Var struct {
	Name string `cbor:"1,keyasint,omitempty"`
	// Value is JSON.
	Value json.RawMessage `cbor:"2,keyasint,omitempty"`
}

// Migration is one step in the history of a worker's classes.
type Migration struct {
	Tag              string   `cbor:"1,keyasint,omitempty"`
	NewClasses       []string `cbor:"2,keyasint,omitempty"`
	NewSQLiteClasses []string `cbor:"3,keyasint,omitempty"`
	RenamedClasses   []Rename `cbor:"4,keyasint,omitempty"`
	DeletedClasses   []string `cbor:"5,keyasint,omitempty"`
}

// Rename gives a class another name; it keeps its objects.
type Rename struct {
	From string `cbor:"1,keyasint,omitempty"`
	To   string `cbor:"2,keyasint,omitempty"`
}

// Lifecycle declares what a class is to be.
type Lifecycle struct {
	Class string `cbor:"1,keyasint,omitempty"`
	State State  `cbor:"2,keyasint,omitempty"`
	// SQLite is that of Class, for Created.
	SQLite bool `cbor:"3,keyasint,omitempty"`
	// RenamedTo is the class's new name, for Renamed.
	RenamedTo string `cbor:"4,keyasint,omitempty"`
}

// State is what "exports" declares a class to be.
type State string

// The states. Those of a transfer between workers are refused.
const (
	Created State = "created"
	Deleted State = "deleted"
	Renamed State = "renamed"
)
