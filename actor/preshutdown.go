package actor

import (
	"context"
	"log/slog"
	"time"
)

// PreShutdownTimeMax is how long the context of a PreShutdown lasts: a planned move holds up the
// events of all the objects in its shard meanwhile.
const PreShutdownTimeMax = 300 * time.Millisecond

// PreShutdowner is what the instance of a class may implement to be told that its incarnation is about
// to end by a plan: its object moves to another node, its node stops, or its code is replaced. It runs as an event of its
// own, with the turn; no other event begins meanwhile, and what it writes is there for the next
// incarnation. Its context ends after 300 ms; when it goes on, it puts a move off, as every handler
// that holds its turn does. Its error is logged, and a panic resets the object.
//
// It is no guarantee, but a chance to save what would be a pity to lose: an object that crashes, is
// reset, is evicted because it is idle, or is in a critical section, is not told. A move may come to
// nothing after it, and then the object goes on, and is told again the next time.
type PreShutdowner interface {
	PreShutdown(ctx context.Context) error
}

// preShutdown is the name of the event, where a method's would be.
const preShutdown = "PreShutdown"

// warn has every object of the shard that wants to know be told that it is about to end; the shard is
// paused.
func (s *shard) warn() {
	for _, o := range s.inMemory() {
		o.mu.Lock()
		o.warn = o.now != nil && o.now.listens
		o.unlock()
	}
}

// warnable says that the object is to be told now that it is about to end. When it can't be, or needn't
// any more, it will not. The caller holds the lock.
func (o *object) warnable() bool {
	if o.m.running != nil {
		return false // It waits for its turn.
	}
	o.warn = o.warn && o.m.alive && o.m.critical == nil && (o.m.holding || o.shard.paused.Load())
	return o.warn
}

// warning is the event that tells the object.
func (o *object) warning() *event {
	o.warn = false
	call := &Call{
		Shard: o.shard.id, Object: o.ref, Class: o.class.Name, Method: preShutdown, preShutdown: true,
		Deadline: time.Now().Add(PreShutdownTimeMax), Done: func(Result) {},
	}
	o.shard.manager.queued.Add(call.bytes())
	return o.m.interject(call)
}

// shutdown runs the instance's PreShutdown.
func (i *incarnation) shutdown(ctx context.Context) {
	if told, ok := i.impl.(PreShutdowner); ok {
		if err := told.PreShutdown(ctx); err != nil {
			i.state.Logger().Warn("PreShutdown failed", slog.Any("error", err))
		}
	}
}

// Drain tells the objects of every shard that this node still owns that they are about to end, and
// waits until nothing runs any more and what was written is committed, or the context ends. No event
// begins from then on.
func (m *Manager) Drain(ctx context.Context) {
	drained := make(chan struct{}, len(m.shards))
	n := 0
	for i := range m.shards {
		if term := m.shards[i].term.Load(); term != 0 {
			n++
			m.Pause(m.shards[i].id, term, func() { drained <- struct{}{} })
		}
	}
	for range n {
		select {
		case <-drained:
		case <-ctx.Done():
			return
		}
	}
}
