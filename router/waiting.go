package router

import (
	"context"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/holdfast-io/holdfast/fault"
	"github.com/holdfast-io/holdfast/peer/frame"
	"github.com/holdfast-io/holdfast/placement"
)

// factsQueue holds the calls that wait for newer cluster facts, in the order in which they came: their
// class is not known here, or their sender knows a later revision. Later calls of their objects wait
// behind them, so that the calls of one object keep their order if they name it in the same way, by
// its name or by its id. Other objects' pass by: one caller of a class that there is not must not
// hold up everybody.
//
// A call in it is one of those under way: CallsMax bounds it, and its deadline ends it.
type factsQueue struct {
	waiting atomic.Int64 // calls in it, those being let go included

	mu struct {
		sync.Mutex
		calls   []*heldCall
		objects map[objectKey]int // how many calls name it, those being let go included
		running bool
	}
}

type heldCall struct {
	*call

	objects [3]objectKey // by its class, its service and its unique key, as far as they are known
}

// objectKey is an object as calls name it.
type objectKey struct {
	class string // name of the class, of its service, or its unique key; empty: no object
	named bool
	name  string
	id    placement.ObjectID
}

func objectKeys(req *frame.Request, classes [3]string) (out [3]objectKey) {
	for i, class := range classes {
		out[i] = objectKey{class: class, named: req.Named, name: req.Name}
		if !req.Named {
			out[i].id = req.ID
		}
	}
	return out
}

// needsFacts says that what is known here is not enough to route the request.
func (r *Router) needsFacts(req *frame.Request, class ClassFacts, known bool) bool {
	if known && class.Name == r.cfg.FactsClass {
		return false
	}
	return !known || req.Revision > r.cfg.Facts.Revision()
}

// hold puts the call into the queue, unless it needs to wait for nothing there.
func (r *Router) hold(c *call, class ClassFacts, known bool) bool {
	h := &heldCall{call: c}
	if known {
		h.objects = objectKeys(c.req, [3]string{class.Name, class.Service, class.UniqueKey})
	} else {
		service, _, _ := splitMethod(c.req.Method)
		h.objects = objectKeys(c.req, [3]string{c.req.Class, service})
	}
	needs := r.needsFacts(c.req, class, known)
	q := &r.facts
	q.mu.Lock()
	defer q.mu.Unlock()
	if !needs && !slices.ContainsFunc(h.objects[:], func(key objectKey) bool { return q.mu.objects[key] > 0 }) {
		return false
	}
	if !r.flying.add(c) {
		c.fail(errStopping())
		return true
	}
	q.waiting.Add(1)
	q.mu.calls = append(q.mu.calls, h)
	for _, key := range h.objects {
		if key.class != "" {
			q.mu.objects[key]++
		}
	}
	if !q.mu.running {
		q.mu.running = r.spawn(r.drainHeld)
	}
	return true
}

// spawn starts a goroutine that Close waits for, unless it has begun: it answers every call then.
func (r *Router) spawn(fn func()) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.closed {
		r.wg.Go(fn)
	}
	return !r.closed
}

// drainHeld lets calls go until none waits. Those that come meanwhile are asked for anew: the facts
// that a refresh brought may be older than what they were told of.
func (r *Router) drainHeld() {
	q := &r.facts
	for {
		q.mu.Lock()
		batch := q.mu.calls
		q.mu.calls = nil
		q.mu.running = len(batch) > 0
		q.mu.Unlock()
		if len(batch) == 0 {
			return
		}
		err := r.refreshFor(batch)
		for _, h := range batch {
			r.release(h.call, err)
			// Only now may others of its object pass.
			q.mu.Lock()
			for _, key := range h.objects {
				if q.mu.objects[key]--; q.mu.objects[key] <= 0 {
					delete(q.mu.objects, key)
				}
			}
			q.mu.Unlock()
			q.waiting.Add(-1)
		}
	}
}

// refreshFor asks for the newest facts if one of the calls needs them.
func (r *Router) refreshFor(batch []*heldCall) error {
	for _, h := range batch {
		class, known := r.class(h.req)
		if h.gone() || !r.needsFacts(h.req, class, known) {
			continue
		}
		ctx, cancel := context.WithTimeout(r.ctx, refreshTimeout)
		defer cancel()
		return r.cfg.Facts.Refresh(ctx)
	}
	return nil
}

// release routes a call by the facts that there are now; err is why they may not be the newest.
func (r *Router) release(c *call, err error) {
	if c.gone() {
		return
	}
	class, ok := r.class(c.req)
	switch {
	case ok:
		c.mu.Lock()
		err := c.locate(class)
		c.mu.Unlock()
		r.launch(c, err)
	case err != nil:
		c.fail(fault.New(fault.NoOwner, "the class is not known here, and the cluster facts can't be read: %v", err))
	case c.req.Class != "":
		c.fail(UnknownClass(r.cfg.Facts, c.req.Class))
	default:
		c.fail(fault.New(fault.UnknownClass, "method %q: no class of this cluster has that service", c.req.Method))
	}
}

// UnknownClass says that there is no class of a name, or that it is not clear which one is meant.
func UnknownClass(facts Facts, name string) error {
	if meant := facts.Meant(name); len(meant) > 1 {
		return fault.New(fault.UnknownClass, "class %q: several workers have a class of that name; say which: %s", name, strings.Join(meant, ", "))
	}
	return fault.New(fault.UnknownClass, "class %q: there is no such class in this cluster", name)
}
