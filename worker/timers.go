package worker

import (
	"cmp"
	"slices"
	"time"
)

// timers are those of a loop that are not due yet. They come due in the order of their times, and those of one
// moment as they were started: whoever sees two of them come the other way round has seen them wait for a goroutine.
type timers struct {
	list  []timer // by due, and then number
	count uint64
	clock *time.Timer // for the first
}

type timer struct {
	id      int64
	due     time.Time
	number  uint64
	section int
}

func (t *timer) compare(o timer) int {
	return cmp.Or(t.due.Compare(o.due), cmp.Compare(t.number, o.number))
}

// startTimer has the platform's timer fired after d.
func (l *loop) startTimer(id int64, d time.Duration) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.beginLocked(); err != nil {
		return err
	}
	ts := &l.mu.timers
	ts.count++
	t := timer{id, time.Now().Add(d), ts.count, l.mu.section}
	at, _ := slices.BinarySearchFunc(ts.list, t, func(a, b timer) int { return a.compare(b) })
	ts.list = slices.Insert(ts.list, at, t)
	if at == 0 {
		l.setClock()
	}
	return nil
}

// setClock sets the clock for the first timer. The caller holds the lock.
func (l *loop) setClock() {
	ts := &l.mu.timers
	if len(ts.list) == 0 {
		return
	}
	d := time.Until(ts.list[0].due)
	if ts.clock == nil {
		ts.clock = time.AfterFunc(d, l.due)
	} else {
		ts.clock.Reset(d)
	}
}

// due fires what is due.
func (l *loop) due() {
	l.mu.Lock()
	now := time.Now()
	ts := &l.mu.timers
	n := 0
	for n < len(ts.list) && !ts.list[n].due.After(now) {
		t := ts.list[n]
		l.mu.ready = append(l.mu.ready, completion{func() error { return l.engine.platform.FireTimer(t.id) }, t.section})
		n++
	}
	ts.list = slices.Delete(ts.list, 0, n)
	l.setClock()
	l.mu.Unlock()
	if n > 0 {
		l.wake()
	}
}

// stopTimer takes a timer back, if it is not due yet.
func (l *loop) stopTimer(id int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	ts := &l.mu.timers
	if at := slices.IndexFunc(ts.list, func(t timer) bool { return t.id == id }); at >= 0 {
		ts.list = slices.Delete(ts.list, at, at+1)
		l.mu.pending--
	}
}

// end ends them all, and returns their ids.
func (ts *timers) end() []int64 {
	ids := make([]int64, len(ts.list))
	for i := range ts.list {
		ids[i] = ts.list[i].id
	}
	ts.list = nil
	if ts.clock != nil {
		ts.clock.Stop()
	}
	return ids
}
