package actor

import (
	"context"
	"slices"

	"google.golang.org/grpc/status"
)

// Wait gives up the object's turn until cond holds, and has it back then: a handler waits for what
// other events of the object do. With a nil cond it waits until ctx ends. What the event has written
// so far becomes a segment of its own, which others see and which stays when the handler fails
// afterwards; what it has sent goes out.
//
// cond looks at what the class keeps in memory, or at its storage, and changes nothing. It is asked in
// the turns of other events, when they give up theirs: so it should be quick. When it holds, the
// handler has the turn before events that have not begun, and Wait asks again before it returns. What
// changes without the turn, outside of the object, is told by Wake.
//
// Wait returns an error when ctx ends, or the object was reset or has another owner meanwhile. It does
// not hold up a planned move of the object, nor does the event's end. ctx is the handler's own, or made
// from it. Handlers of unary methods may wait, too: at most 256 of an object, streams not counted. It is
// refused inside a transaction, unless that is in a section of BlockConcurrency or Block: then the
// transaction goes on.
func (s *State) Wait(ctx context.Context, cond func() bool) error {
	i, e := s.o, eventOf(ctx)
	for {
		if err := i.mayWait(ctx, e, "Wait"); err != nil {
			return err
		}
		i.mu.Lock()
		wakes := i.wakes
		i.mu.Unlock()
		if cond != nil && cond() {
			i.takeWake(wakes)
			return nil
		}
		if err := i.pause(ctx, e, cond, wakes); err != nil {
			return err
		}
	}
}

// mayWait says whether an event has the turn, and somebody to wait for. what asks.
func (i *incarnation) mayWait(ctx context.Context, e *event, what string) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if err := i.holds(e); err != nil {
		return err
	}
	if err := i.notInTransaction(what); err != nil && i.m.critical != e {
		return err
	}
	if e.why != nil {
		return e.why
	}
	if ctx.Err() != nil {
		return status.FromContextError(ctx.Err()).Err()
	}
	return nil
}

// pause gives up the turn of an event that has it, until somebody pokes it, cond holds, its context
// ends, or it is over: then it returns why. cond was asked after so many wakes.
func (i *incarnation) pause(ctx context.Context, e *event, cond func() bool, wakes uint64) error {
	if err := i.part(e); err != nil {
		return err
	}
	i.poll()
	i.mu.Lock()
	if e.over || e.wait.poked || cond != nil && i.wakes != wakes {
		e.wait.poked = false
		defer i.unlock() // Sends what was answered at once.
		return i.over
	}
	turn := make(chan struct{})
	e.turn, e.wait.paused = turn, true
	if e.wait.cond = cond; cond != nil && !e.wait.listed {
		e.wait.listed = true
		i.waits = append(i.waits, e)
	}
	i.m.leave()
	i.code.Unlock()
	i.unlock()
	select {
	case <-turn:
	case <-ctx.Done():
		i.poke(e)
		<-turn
	}
	i.code.Lock()
	i.mu.Lock()
	defer i.mu.Unlock()
	e.wait.poked = false
	if e.over {
		return i.over
	}
	return nil
}

// part closes the segment that an event has written so far, which gives up its turn. In a section that keeps
// all others out it may be in a transaction, and then nothing is closed.
func (i *incarnation) part(e *event) error {
	i.mu.Lock()
	open := len(i.transactions) > 0
	if i.class.dynamic { // Others may go on with what it has begun.
		e.acted = true
		if e.call.RequestID != "" && e.call.Pipe == nil && !e.claim.made && !slices.Contains(i.unclaimed, e) {
			i.unclaimed = append(i.unclaimed, e)
		}
	}
	i.mu.Unlock()
	if open {
		return nil
	}
	return i.close(e, nil, i.m.part)
}

// waitState is what an event has that waits, or may. Guarded by object.mu, but for cond and holds.
type waitState struct {
	paused bool // in pause, and has not asked for the turn yet
	poked  bool // something has happened since it last had a look
	listed bool // in incarnation.waits
	holds  bool
	cond   func() bool
}

// poke has an event that waits have a look.
func (i *incarnation) poke(e *event) {
	i.mu.Lock()
	e.wait.poked = true
	i.awake(e)
	i.unlock()
}

// awake asks for the turn of an event that waits. The caller holds the lock.
func (o *object) awake(e *event) {
	if e.wait.paused && !e.over {
		e.wait.paused = false
		o.m.want(e)
	}
}

// poll asks the conditions of those that wait, in the turn of an event that is about to give up its
// own, with its code's lock. While others are about to have theirs back it leaves that to them, but not
// for long: so what wakes all of n handlers asks some n times and not n times n.
func (i *incarnation) poll() {
	i.mu.Lock()
	waits := i.waits
	if len(waits) == 0 || i.over != nil {
		i.mu.Unlock()
		return
	}
	if len(i.m.resuming) > 0 && i.unasked < len(waits) {
		i.unasked++
		i.mu.Unlock()
		return
	}
	i.waits, i.unasked = nil, 0
	wakes := i.wakes
	i.mu.Unlock()
	for _, e := range waits {
		e.wait.holds = e.wait.cond()
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	kept := waits[:0]
	for _, e := range waits {
		switch {
		case e.over || !e.wait.paused:
			e.wait.listed = false
		case e.wait.holds:
			e.wait.listed = false
			i.awake(e)
		default:
			kept = append(kept, e)
		}
	}
	clear(waits[len(kept):])
	i.waits = append(kept, i.waits...)
	if i.wakes != wakes { // Somebody has to ask again.
		if e := i.sleeper(); e != nil {
			i.awake(e)
		}
	}
}
