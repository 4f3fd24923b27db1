package actor

import (
	"fmt"
	"maps"
	"slices"
	"sync/atomic"
	"time"

	"github.com/holdfast-io/holdfast/fault"
)

// ReplaceTimeMax is how long an object whose class was replaced goes on with the code before, for the
// handlers that have given up their turn.
const ReplaceTimeMax = 10 * time.Second

// edition is the code of a class, which Register may replace. A class that was unregistered has none.
type edition struct {
	of *Class // as it was registered
	// users are the incarnations that run it, and the class itself while it has it. gone is told when there
	// is none any more, which never changes again.
	users atomic.Int64
	gone  func()
}

// hold counts a user in. It returns false when there are none any more.
func (p *edition) hold() bool {
	for {
		n := p.users.Load()
		if n == 0 {
			return false
		}
		if p.users.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

// release counts a user out.
func (p *edition) release() {
	if p.users.Add(-1) == 0 && p.gone != nil {
		p.gone()
	}
}

// newEdition is that of a class, with the class as its user.
func newEdition(c *Class, gone func()) *edition {
	p := &edition{of: c, gone: gone}
	p.users.Store(1)
	return p
}

// acquire returns the class's code with the caller as its user; nil when the class has none.
func (c *Class) acquire() *edition {
	for {
		p := c.edition.Load()
		if p == nil || p.hold() {
			return p
		}
	}
}

// Register registers classes with a Manager that runs. Those whose names are registered get their code
// replaced, and keep everything else: objects in memory go over between two of their events. What a
// handler holds its turn for is waited for, and up to 10 s what handlers have given up their turn for: those
// that have not returned by then are told OBJECT_RESET. Streams end as when the owner changes.
// Meanwhile the object's other events wait, but for calls that come of one that it waits for.
//
// released, if it is given, is called once when the code of all the classes has been replaced in its
// turn, or unregistered, and no object runs it any more; or when the Manager has been closed.
//
// It refuses all of them when one is not as it must be.
func (m *Manager) Register(classes []Class, released func()) error {
	classes = slices.Clone(classes)
	for i := range classes {
		if err := m.prepare(&classes[i]); err != nil {
			return err
		}
		if known, ok := m.class(classes[i].Name); ok && known.ServiceName() != classes[i].ServiceName() {
			return fmt.Errorf("class %q: registered with another service", classes[i].Name)
		}
	}
	var left atomic.Int64
	left.Store(int64(len(classes)))
	gone := func() {
		if left.Add(-1) == 0 && released != nil {
			released()
		}
	}
	m.registering.Lock()
	var old []*edition
	all := maps.Clone(*m.classes.Load())
	for i := range classes {
		c := &classes[i]
		p := newEdition(c, gone)
		if known := all[c.Name]; known != nil {
			if before := known.edition.Swap(p); before != nil {
				old = append(old, before)
			}
			continue
		}
		c.edition.Store(p)
		all[c.Name] = c
	}
	m.classes.Store(&all)
	m.registering.Unlock()
	m.replaced(old)
	return nil
}

// Unregister takes the code of classes away: their objects end as when it is replaced, and what calls them is
// refused.
func (m *Manager) Unregister(names ...string) {
	m.registering.Lock()
	var old []*edition
	for _, name := range names {
		if c, ok := m.class(name); ok {
			if p := c.edition.Swap(nil); p != nil {
				old = append(old, p)
			}
		}
	}
	m.registering.Unlock()
	m.replaced(old)
}

// replaced has the objects in memory go over from code that no class has any more.
func (m *Manager) replaced(old []*edition) {
	for _, p := range old {
		p.release()
	}
	if len(old) == 0 {
		return
	}
	m.goOver(false)
	m.spawned(func() {
		t := time.NewTimer(ReplaceTimeMax)
		defer t.Stop()
		select {
		case <-t.C:
			m.goOver(true)
		case <-m.ctx.Done():
		}
	})
}

// goOver has every object look whether its class's code was replaced. late says that its handlers have had
// their time.
func (m *Manager) goOver(late bool) {
	for i := range m.shards {
		for _, o := range m.shards[i].inMemory() {
			o.mu.Lock()
			if o.outdated() {
				o.late = o.late || late
				o.warn = o.warn || !late && o.now.listens
			}
			o.unlock()
		}
	}
}

// outdated says that the living incarnation runs code that its class does not have any more. The caller
// holds the lock.
func (o *object) outdated() bool { return o.now != nil && o.now.edition != o.class.edition.Load() }

// superseding says whether the incarnation is to end now because its code was replaced. The caller holds the
// lock.
func (o *object) superseding() bool {
	o.m.holding = o.outdated()
	return o.m.holding && !o.looking && !o.warnable() && !o.m.busy() && (o.late || !o.m.awaited())
}

// errReplaced is told to handlers that have not returned in time.
func errReplaced() error {
	return fault.New(fault.ObjectReset, "the object was reset because its code was updated; call again if what it does may be done twice")
}

// awaited says that a handler which has given up its turn has a caller that waits for it.
func (m *machine) awaited() bool {
	for _, e := range m.suspended {
		if !e.background && e.call.Pipe == nil && !e.call.woken {
			return true
		}
	}
	return false
}

// supersede ends the incarnation because the class has other code: what waits in the mailbox is for the
// next.
func (m *machine) supersede() {
	for _, e := range m.suspended {
		if e.call.Pipe != nil {
			m.fail(waiter{e: e}, errStreamMoved())
		} else {
			m.fail(waiter{e: e}, errReplaced())
		}
	}
	m.forget(errReplaced())
	m.holding = false
}

// next returns which event of the mailbox begins next: the first, or, while the incarnation is to end, the
// first that comes of a call which a handler waits for; -1: none.
func (m *machine) next() int {
	if !m.holding {
		return min(len(m.mailbox), 1) - 1
	}
	for n, c := range m.mailbox {
		if m.servesOwn(c) {
			return n
		}
	}
	return -1
}

// servesOwn says whether a call comes of one that a handler of the object has made, and waits for.
func (m *machine) servesOwn(c *Call) bool {
	for _, l := range c.Chain {
		if _, ok := m.calling[l.Event]; ok {
			return true
		}
		for _, e := range m.suspended {
			if e.number == l.Event {
				return true
			}
		}
	}
	return false
}
