// Package conformance proves that classes in Go do what Durable Objects do. It has tests only: each fact
// of the Durable Objects documentation that means something for a Go class is one test, under the heading
// that the documentation has for it, and runs on a node that keeps the object in memory, on a node that
// drops it between the steps of the test, and on a cluster of three in which the object has another owner
// at each step.
//
// TestPrograms adds random programs of storage calls, transactions and alarms, on nodes in processes of their
// own that are stopped and killed, and compares every answer with a model in memory.
//
// docs/conformance.md lists the facts beside the tests, those that mean nothing for a Go class with the
// reason, and where Holdfast differs.
package conformance
