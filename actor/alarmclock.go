package actor

import (
	"container/heap"
	"context"
	"errors"
	"log/slog"
	"math"
	"sync"
	"time"

	"github.com/holdfast-io/holdfast/placement"
	"github.com/holdfast-io/holdfast/storage"
)

// AlarmIndex is where pending alarms are found; a storage.Store is one. What is read of a shard that this
// node owns has every alarm whose segment was told Readable.
type AlarmIndex interface {
	AlarmClasses(shard placement.ShardID) ([]string, error)
	PendingAlarms(shard placement.ShardID, class string, from storage.AlarmPosition, until int64, limit int) ([]storage.AlarmPosition, error)
}

// Bounds of the alarms that are handed to their objects and not through.
const (
	alarmsInFlightMax = 4096
	// alarmsOfClassMax leaves room for other classes when the handlers of one are slow.
	alarmsOfClassMax = alarmsInFlightMax / 2
	alarmsReadMax    = 256 // at once
)

const (
	// alarmsPoll is how soon the clock looks again when alarms are due and there is no room.
	alarmsPoll = 2 * time.Millisecond
	// alarmsRetry is how soon it looks again at what it could not read.
	alarmsRetry = time.Second
	// alarmsSleepMax bounds how late alarms are when the wall clock is set forward.
	alarmsSleepMax = time.Second
)

// alarmClock hands the alarms of owned shards to their objects when they are due (P5). The index in
// the store is the truth: the clock holds, for each class in each shard, only when to read there next
// and from where, so that pending alarms cost no memory and nothing is scanned. It reads a shard when
// it is acquired, and learns of what is set afterwards when the store shows it. What it hands over is
// checked by the object in its turn; so an alarm that is handed over once too often, or late, or on a
// node with a wrong clock, does no harm.
type alarmClock struct {
	m    *Manager
	wake chan struct{} // capacity 1

	mu struct {
		sync.Mutex
		shards map[placement.ShardID]map[string]*alarmLane // owned, by the class's unique key
		lanes  alarmLanes
		// unread are the shards whose classes are to be read, from readAt on.
		unread map[placement.ShardID]bool
		readAt time.Time
		flying map[alarmObject]*alarmFlight
		ofType map[*Class]int // how many of flying
		again  alarmFlights
		wakeAt int64 // when the clock looks next by itself
	}
}

type alarmObject struct {
	shard placement.ShardID
	ref   storage.ObjectRef
}

// alarmLane is the pending alarms of one class in one shard. Every one that is not in flight is at or
// after from, and due at next or later.
type alarmLane struct {
	shard placement.ShardID
	class *Class
	key   string // the class's unique key
	next  int64
	from  storage.AlarmPosition
	index int // in the heap
	gone  bool
}

const never = math.MaxInt64

var lastPosition = storage.AlarmPosition{Due: never}

// alarmFlight is an alarm handed to its object.
type alarmFlight struct {
	lane  *alarmLane
	at    storage.AlarmPosition
	again int64     // the object's next alarm, set meanwhile; 0: none
	tries int       // that failed
	retry time.Time // when to hand it over again
	gone  bool
}

func newAlarmClock(m *Manager) *alarmClock {
	c := &alarmClock{m: m, wake: make(chan struct{}, 1)}
	c.mu.shards = make(map[placement.ShardID]map[string]*alarmLane)
	c.mu.unread = make(map[placement.ShardID]bool)
	c.mu.flying = make(map[alarmObject]*alarmFlight)
	c.mu.ofType = make(map[*Class]int)
	return c
}

func (c *alarmClock) poke() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// acquired begins to look after a shard's alarms.
func (c *alarmClock) acquired(shard placement.ShardID) {
	c.lost(shard)
	c.mu.Lock()
	c.mu.shards[shard] = make(map[string]*alarmLane)
	c.mu.unread[shard] = true
	c.mu.readAt = time.Time{}
	c.mu.Unlock()
	c.poke()
}

// lost forgets a shard: its next owner has the index.
func (c *alarmClock) lost(shard placement.ShardID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for key := range c.mu.shards[shard] {
		c.forgetLocked(shard, key)
	}
	delete(c.mu.shards, shard)
	delete(c.mu.unread, shard)
}

// classEnded forgets the alarms of a class, by its unique key, that the shard has no more.
func (c *alarmClock) classEnded(shard placement.ShardID, class string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.forgetLocked(shard, class)
}

func (c *alarmClock) forgetLocked(shard placement.ShardID, class string) {
	l := c.mu.shards[shard][class]
	if l == nil {
		return
	}
	l.gone = true
	heap.Remove(&c.mu.lanes, l.index)
	delete(c.mu.shards[shard], class)
	for _, f := range c.mu.flying {
		if f.lane == l {
			f.gone = true
			c.landLocked(f)
		}
	}
}

// note says that the store shows an alarm that it may not have shown before.
func (c *alarmClock) note(shard placement.ShardID, class *Class, ref storage.ObjectRef, due int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if f := c.mu.flying[alarmObject{shard, ref}]; f != nil {
		f.again = due // An object's alarms run one after another.
		return
	}
	if c.mu.shards[shard] != nil {
		c.noteLocked(c.laneLocked(shard, class, ref.Class), storage.AlarmPosition{Due: due, ID: ref.ID})
	}
}

func (c *alarmClock) laneLocked(shard placement.ShardID, class *Class, key string) *alarmLane {
	l := c.mu.shards[shard][key]
	if l == nil {
		l = &alarmLane{shard: shard, class: class, key: key, next: never, from: lastPosition}
		c.mu.shards[shard][key] = l
		heap.Push(&c.mu.lanes, l)
	}
	return l
}

// noteLocked has the lane read at a position, when that is due.
func (c *alarmClock) noteLocked(l *alarmLane, at storage.AlarmPosition) {
	if at.Compare(l.from) < 0 {
		l.from = at
	}
	if at.Due < l.next {
		l.next = at.Due
		heap.Fix(&c.mu.lanes, l.index)
		if at.Due < c.mu.wakeAt {
			c.poke()
		}
	}
}

// flying returns how many alarms of a class are in flight.
func (c *alarmClock) flying(class *Class) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.mu.ofType[class]
}

// run hands alarms over until the Manager ends.
func (c *alarmClock) run() {
	t := time.NewTimer(0)
	defer t.Stop()
	for {
		c.readShards()
		blocked := c.handOver()
		t.Reset(c.sleep(blocked))
		select {
		case <-c.m.ctx.Done():
			return
		case <-c.wake:
		case <-t.C:
		}
	}
}

// sleep is how long there is nothing to do.
func (c *alarmClock) sleep(blocked bool) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	now, wall := time.Now(), c.m.cfg.Now() // Only what is due is a matter of the wall clock.
	d := time.Duration(math.MaxInt64)
	if len(c.mu.lanes) > 0 && c.mu.lanes[0].next != never {
		d = min(alarmsSleepMax, time.UnixMilli(c.mu.lanes[0].next).Sub(wall))
	}
	if len(c.mu.again) > 0 {
		d = min(d, c.mu.again[0].retry.Sub(now))
	}
	if len(c.mu.unread) > 0 {
		d = min(d, c.mu.readAt.Sub(now))
	}
	if blocked {
		d = alarmsPoll
	}
	d = max(d, 0)
	c.mu.wakeAt = never
	if d < math.MaxInt64 {
		c.mu.wakeAt = wall.Add(d).UnixMilli()
	}
	return d
}

// readShards finds out which classes have alarms in the shards that are new.
func (c *alarmClock) readShards() {
	c.mu.Lock()
	var shards []placement.ShardID
	if !time.Now().Before(c.mu.readAt) {
		for shard := range c.mu.unread {
			shards = append(shards, shard)
		}
	}
	c.mu.Unlock()
	for _, shard := range shards {
		keys, err := c.m.cfg.Alarms.AlarmClasses(shard)
		if err != nil {
			c.unreadable(shard, err)
		}
		c.mu.Lock()
		all := err == nil
		for _, key := range keys {
			name, ok := c.m.cfg.ClassOf(key)
			class, registered := c.m.class(name)
			if !ok || !registered { // The cluster facts may not be here yet.
				all = false
				continue
			}
			if c.mu.shards[shard] != nil {
				c.noteLocked(c.laneLocked(shard, class, key), storage.AlarmPosition{})
			}
		}
		if all {
			delete(c.mu.unread, shard)
		} else {
			c.mu.readAt = time.Now().Add(alarmsRetry)
		}
		c.mu.Unlock()
	}
}

func (c *alarmClock) unreadable(shard placement.ShardID, err error) {
	c.m.logger.Error("read alarms", slog.Any("shard", shard), slog.Any("error", err))
	if errors.Is(err, storage.ErrCorrupt) {
		c.m.log.Damaged(shard, err)
	}
}

// handOver hands over what is due and there is room for. It says whether something is due and must wait
// for room.
func (c *alarmClock) handOver() (blocked bool) {
	for {
		c.mu.Lock()
		now, wall := time.Now(), c.m.wallMilli()
		var deliver []*alarmFlight
		for len(c.mu.again) > 0 && !c.mu.again[0].retry.After(now) {
			if f, _ := heap.Pop(&c.mu.again).(*alarmFlight); !f.gone {
				deliver = append(deliver, f)
			}
		}
		l, room, full := c.dueLocked(wall)
		blocked = blocked || full
		var from storage.AlarmPosition
		if l != nil {
			// What is noted while the store is read lowers these again.
			from = l.from
			l.from, l.next = lastPosition, never
			heap.Fix(&c.mu.lanes, l.index)
		}
		c.mu.Unlock()
		if l != nil {
			found, err := c.m.cfg.Alarms.PendingAlarms(l.shard, l.key, from, wall, room)
			if err != nil {
				c.unreadable(l.shard, err)
			}
			c.mu.Lock()
			switch {
			case l.gone:
			case err != nil:
				l.from = from
				l.next = wall + alarmsRetry.Milliseconds()
				heap.Fix(&c.mu.lanes, l.index)
			default:
				deliver = append(deliver, c.takeLocked(l, from, found, wall, room)...)
			}
			c.mu.Unlock()
		}
		for _, f := range deliver {
			c.deliver(f)
		}
		if l == nil {
			return blocked
		}
	}
}

// dueLocked returns the lane that has been due for the longest, of those that have room, and for how
// many; full says that there is one that has none.
func (c *alarmClock) dueLocked(now int64) (l *alarmLane, room int, full bool) {
	free := min(alarmsInFlightMax-len(c.mu.flying), alarmsReadMax)
	var aside []*alarmLane
	for len(c.mu.lanes) > 0 && c.mu.lanes[0].next <= now {
		if free <= 0 {
			full = true
			break
		}
		first := c.mu.lanes[0]
		if room = min(free, alarmsOfClassMax-c.mu.ofType[first.class]); room > 0 {
			l = first
			break
		}
		full = true
		heap.Pop(&c.mu.lanes)
		aside = append(aside, first)
	}
	for _, one := range aside {
		heap.Push(&c.mu.lanes, one)
	}
	return l, room, full
}

// takeLocked takes what was read of a lane: what is due takes off, and the lane is to be read next at
// what is not.
func (c *alarmClock) takeLocked(l *alarmLane, from storage.AlarmPosition, found []storage.AlarmPosition, now int64, room int) []*alarmFlight {
	var out []*alarmFlight
	for i, at := range found {
		if i == room || at.Due > now {
			c.noteLocked(l, at)
			return out
		}
		from = at.Next()
		object := alarmObject{l.shard, storage.ObjectRef{Class: l.key, ID: at.ID}}
		if c.mu.flying[object] != nil {
			continue // It is this one, or one whose note is yet to come.
		}
		f := &alarmFlight{lane: l, at: at}
		c.mu.flying[object] = f
		c.mu.ofType[l.class]++
		out = append(out, f)
	}
	if from.Compare(l.from) < 0 {
		l.from = from // Nothing later is there; what comes is noted.
	}
	return out
}

func (c *alarmClock) deliver(f *alarmFlight) {
	class, ok := c.m.cfg.ClassOf(f.lane.key) // It may have been renamed.
	if !ok {
		class = f.lane.class.Name
	}
	c.m.Deliver(&Call{
		Shard: f.lane.shard, Object: storage.ObjectRef{Class: f.lane.key, ID: f.at.ID}, Class: class, Method: "Alarm",
		alarm: &alarmEvent{kind: alarmRun, due: f.at.Due}, Done: func(r Result) { c.done(f, r.Err) },
	})
}

// done takes what became of an alarm. Without an error it is over, or has been written down as one
// for later; with one it has not come to an end for reasons that are not its handler's, and is handed
// over again.
func (c *alarmClock) done(f *alarmFlight, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case f.gone:
	case err != nil:
		f.retry = time.Now().Add(f.lane.class.Alarms.delay(f.tries))
		f.tries++
		heap.Push(&c.mu.again, f)
		c.poke()
	default:
		c.landLocked(f)
		if f.again != 0 {
			c.noteLocked(f.lane, storage.AlarmPosition{Due: f.again, ID: f.at.ID})
		}
	}
}

func (c *alarmClock) landLocked(f *alarmFlight) {
	delete(c.mu.flying, alarmObject{f.lane.shard, storage.ObjectRef{Class: f.lane.key, ID: f.at.ID}})
	c.mu.ofType[f.lane.class]--
}

// alarmLanes is a heap by when they are to be read.
type alarmLanes []*alarmLane

// Len implements heap.Interface.
func (h alarmLanes) Len() int { return len(h) }

// Less implements heap.Interface.
func (h alarmLanes) Less(i, j int) bool { return h[i].next < h[j].next }

// Swap implements heap.Interface.
func (h alarmLanes) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}

// Push implements heap.Interface.
func (h *alarmLanes) Push(x any) {
	l, _ := x.(*alarmLane)
	l.index = len(*h)
	*h = append(*h, l)
}

// Pop implements heap.Interface.
func (h *alarmLanes) Pop() any {
	last := len(*h) - 1
	l := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	return l
}

// alarmFlights is a heap by when they are to be handed over again. Those of a lost shard stay in it
// until then.
type alarmFlights []*alarmFlight

// Len implements heap.Interface.
func (h alarmFlights) Len() int { return len(h) }

// Less implements heap.Interface.
func (h alarmFlights) Less(i, j int) bool { return h[i].retry.Before(h[j].retry) }

// Swap implements heap.Interface.
func (h alarmFlights) Swap(i, j int) { h[i], h[j] = h[j], h[i] }

// Push implements heap.Interface.
func (h *alarmFlights) Push(x any) {
	f, _ := x.(*alarmFlight)
	*h = append(*h, f)
}

// Pop implements heap.Interface.
func (h *alarmFlights) Pop() any {
	last := len(*h) - 1
	f := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	return f
}

// RearmAlarm arms the dead alarm of an object again, to run at once, or discards it: as an event of the
// object, so that it comes in turn. class is the name of the object's class.
func (m *Manager) RearmAlarm(ctx context.Context, shard placement.ShardID, ref storage.ObjectRef, class string, discardIt bool) error {
	kind := alarmRearm
	if discardIt {
		kind = alarmDiscard
	}
	done := make(chan error, 1)
	call := &Call{Shard: shard, Object: ref, Class: class, Method: "Alarm", alarm: &alarmEvent{kind: kind}, Done: func(r Result) { done <- r.Err }}
	m.Deliver(call)
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		call.Cancel(context.Cause(ctx))
		return context.Cause(ctx)
	}
}
