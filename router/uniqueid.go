package router

import (
	"context"
	"crypto/rand"

	"github.com/holdfast-io/holdfast/fault"
	"github.com/holdfast-io/holdfast/placement"
)

// NewUniqueID draws the id of a new object of a class. It asks the cluster only for a class that this
// node does not know.
func (r *Router) NewUniqueID(ctx context.Context, class string) (placement.ObjectID, error) {
	facts, known := r.cfg.Facts.Class(class)
	if !known {
		ctx, cancel := context.WithTimeout(ctx, refreshTimeout)
		defer cancel()
		if err := r.cfg.Facts.Refresh(ctx); err != nil {
			return placement.ObjectID{}, fault.New(fault.NoOwner, "class %q is not known here, and the cluster can't be asked for it at the moment: %v", class, err)
		}
		if facts, known = r.cfg.Facts.Class(class); !known {
			return placement.ObjectID{}, UnknownClass(r.cfg.Facts, class)
		}
	}
	return r.classOf(facts.UniqueKey).namespace.NewUniqueID(rand.Reader)
}

// Namespace returns the namespace of a class; false when this node does not know the class.
func (r *Router) Namespace(class string) (placement.Namespace, bool) {
	facts, known := r.cfg.Facts.Class(class)
	if !known {
		return placement.Namespace{}, false
	}
	return r.classOf(facts.UniqueKey).namespace, true
}
