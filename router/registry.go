package router

import (
	"math/rand/v2"
	"sync"
)

// registry holds every call that has no answer yet, so that deadlines, news of owners and the end
// find them all. It is on the path of every call: a call is linked into one of many short lists,
// each with a lock of its own, and nothing is allocated.
//
// A list's lock may be held when that of a call is taken, never the other way round.
type registry [registryLists]callList

const registryLists = 32

type callList struct {
	mu     sync.Mutex
	closed bool
	first  *call
	_      [40]byte // a cache line for each
}

// links is a call's place in its list.
type links struct {
	list       *callList
	prev, next *call
}

// add links a call in, unless the registry is closed.
func (r *registry) add(c *call) bool {
	l := &r[rand.Uint32()%registryLists] //nolint:gosec // only to spread them
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return false
	}
	c.links = links{list: l, next: l.first}
	if l.first != nil {
		l.first.links.prev = c
	}
	l.first = c
	return true
}

// remove takes a call out, if it is in.
func (r *registry) remove(c *call) {
	l := c.links.list
	if l == nil {
		return // It was refused.
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	prev, next := c.links.prev, c.links.next
	switch {
	case prev != nil:
		prev.links.next = next
	case l.first == c:
		l.first = next
	}
	if next != nil {
		next.links.prev = prev
	}
	c.links.prev, c.links.next = nil, nil
}

// each shows every call to see, which must not add, remove or answer one.
func (r *registry) each(see func(*call)) {
	for i := range r {
		l := &r[i]
		l.mu.Lock()
		for c := l.first; c != nil; c = c.links.next {
			see(c)
		}
		l.mu.Unlock()
	}
}

// close lets no more calls in, and returns those that are in.
func (r *registry) close() []*call {
	for i := range r {
		r[i].mu.Lock()
		r[i].closed = true
		r[i].mu.Unlock()
	}
	var rest []*call
	r.each(func(c *call) { rest = append(rest, c) })
	return rest
}
