package worker

import (
	"slices"
	"sync"
	"time"

	"github.com/holdfast-io/holdfast/worker/quickjs"
)

const (
	// pendingMax is how much an object, or an HTTP request, may wait for at a time.
	pendingMax = 10_000
	// keepMax is how long something that an object waits for keeps it in memory.
	keepMax = 15 * time.Minute
)

// loop is the event loop of one object, or of one HTTP request of the worker's own: what it has begun outside of
// itself, and what of that has come to an end and is to be run.
type loop struct {
	engine *engine
	number int64
	// wake says that something is ready to be run. It is called without any lock, and must not block.
	wake func()
	// lose says that the engine is lost. So is that.
	lose   func(why error)
	log    logger
	events events

	mu struct {
		sync.Mutex
		ready   []completion
		pending int // begun and not run
		holds   int // promises of waitUntil
		timers  timers
		latest  time.Time     // when something was begun last
		spent   time.Duration // of the CPU, by the latest events
		section int           // that is open, and keeps what was begun before it waiting; 0: none
		over    bool
		// imports are the stubs of others' functions and RpcTargets that JavaScript has: those who have them are
		// told when it lets go of one.
		imports    map[int64]imported
		lastImport int64
	}
}

// completion is what is to be run because something outside has ended.
type completion struct {
	run     func() error
	section int // in which it was begun
}

// operation is something begun outside; it is a web.Op.
type operation struct {
	loop    *loop
	section int
	gate    chan error // of one that leaves: told when it may
}

// begin counts something that is begun.
func (l *loop) begin() (*operation, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.beginLocked(); err != nil {
		return nil, err
	}
	return &operation{loop: l, section: l.mu.section}, nil
}

func (l *loop) beginLocked() error {
	switch {
	case l.mu.over:
		return errGone
	case l.mu.pending >= pendingMax:
		return quickjs.NewError("Error", "Too much is waited for at a time: at most %d timers, fetches and calls may be pending.", pendingMax)
	}
	l.mu.pending++
	l.mu.latest = time.Now()
	return nil
}

// Settle implements web.Op.
func (o *operation) Settle(run func() error) { o.loop.complete(completion{run, o.section}) }

// drop takes back what was begun and will not end.
func (o *operation) drop() {
	o.loop.mu.Lock()
	defer o.loop.mu.Unlock()
	o.loop.mu.pending--
}

func (l *loop) complete(c completion) {
	l.mu.Lock()
	over := l.mu.over
	if !over {
		l.mu.ready = append(l.mu.ready, c)
	}
	l.mu.Unlock()
	if !over {
		l.wake()
		return
	}
	// JavaScript lets go of what waits for it, and goes on in vain.
	_ = l.engine.enter(&entry{loop: l}, c.run, nil)
}

// take takes what is to be run next.
func (l *loop) take() (run func() error, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, c := range l.mu.ready {
		if c.section >= l.mu.section {
			l.mu.ready = slices.Delete(l.mu.ready, i, i+1)
			l.mu.pending--
			return c.run, true
		}
	}
	return nil, false
}

// runnable says whether there is something to take.
func (l *loop) runnable() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range l.mu.ready {
		if c.section >= l.mu.section {
			return true
		}
	}
	return false
}

// left says whether something is begun and not run.
func (l *loop) left() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.mu.pending > 0
}

// keptUntil is when nothing that is pending keeps the object in memory any more.
func (l *loop) keptUntil() time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.mu.latest.Add(keepMax)
}

// enterSection keeps what was begun before it waiting, until exitSection. Sections are numbered as they begin.
func (l *loop) setSection(n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mu.section = n
}

// spend counts time of the CPU, and says whether it is more than most.
func (l *loop) spend(d, most time.Duration) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mu.spent += d
	return most > 0 && l.mu.spent > most
}

// newEvent begins to count anew: an event has come.
func (l *loop) newEvent() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mu.spent = 0
}

// hold counts a promise of waitUntil, release one that is settled.
func (l *loop) hold() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mu.holds++
}

func (l *loop) release() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mu.holds--
}

func (l *loop) held() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.mu.holds > 0
}

// end ends the loop: nothing of it has any effect any more. What it returns is to be run in vain, for JavaScript to
// let go of what waits for it.
func (l *loop) end() []completion {
	l.mu.Lock()
	defer l.mu.Unlock()
	left := l.mu.ready
	l.mu.over = true
	for _, id := range l.mu.timers.end() {
		left = append(left, completion{run: func() error { return l.engine.platform.DropTimer(id) }})
	}
	l.mu.ready = nil
	return left
}

// runAll runs what is left at a loop's end.
func runAll(left []completion) error {
	for _, c := range left {
		if err := c.run(); isFatal(err) {
			return err
		}
	}
	return nil
}

func (l *loop) isOver() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.mu.over
}
