package node

import "github.com/holdfast-io/holdfast/placement"

// Calls makes calls of objects, for what runs on a node and is no object. It is safe for concurrent use.
type Calls struct{ objectCalls }

// Calls returns what makes them.
func (n *Node) Calls() Calls { return Calls{objectCalls{n}} }

// Namespace returns the namespace of a class, as far as this node knows; false when it knows no such class.
func (c Calls) Namespace(class string) (placement.Namespace, bool) {
	if c.n.facts == nil || c.n.router == nil {
		return placement.Namespace{}, false
	}
	return c.n.router.Namespace(class)
}
