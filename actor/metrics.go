package actor

import (
	"sync"
	"time"

	"github.com/holdfast-io/holdfast/placement"
	"github.com/holdfast-io/holdfast/storage"
)

// Tally is what is counted of objects: since the Manager began, but for Objects, Streams and
// AlarmsInFlight, which are what there is now.
type Tally struct {
	// Calls have been answered; of these Refused never began.
	Calls, Refused uint64
	// CallsMade are those that objects have made of others.
	CallsMade uint64
	// MailboxWait is of calls, Handler of the handlers of those that do not stream, with all that they wait
	// for, and CallTime of the same from delivery to answer. GateWait is of answers, and of handlers in the
	// middle of an event, that had to wait for a segment or a confirmation.
	MailboxWait, Handler, GateWait, CallTime Durations

	// Reads are keys read, one by one or in a list, and Writes and Deletes keys in proposed segments;
	// DeleteAll counts as one. Bytes are those of keys and values.
	Reads, ReadBytes, Writes, WrittenBytes, Deletes uint64

	Activations, Evictions, Resets uint64
	Objects                        int

	Streams                        int
	MessagesReceived, MessagesSent uint64

	// AlarmRuns are the handlers of alarms that have begun, AlarmFailures those that failed, AlarmRetries
	// the retries set for them, and AlarmDeaths the alarms given up after their last retry. AlarmsInFlight are
	// handed to their objects and not through, or wait to be handed over again.
	AlarmRuns, AlarmFailures, AlarmRetries, AlarmDeaths uint64
	AlarmsInFlight                                      int
	// AlarmTime is of their handlers, AlarmDelay how late they began.
	AlarmTime, AlarmDelay Durations
}

// add adds what another has counted.
func (t *Tally) add(other *Tally) {
	t.Calls += other.Calls
	t.Refused += other.Refused
	t.CallsMade += other.CallsMade
	t.MailboxWait.add(&other.MailboxWait)
	t.Handler.add(&other.Handler)
	t.GateWait.add(&other.GateWait)
	t.CallTime.add(&other.CallTime)
	t.Reads += other.Reads
	t.ReadBytes += other.ReadBytes
	t.Writes += other.Writes
	t.WrittenBytes += other.WrittenBytes
	t.Deletes += other.Deletes
	t.Activations += other.Activations
	t.Evictions += other.Evictions
	t.Resets += other.Resets
	t.Objects += other.Objects
	t.Streams += other.Streams
	t.MessagesReceived += other.MessagesReceived
	t.MessagesSent += other.MessagesSent
	t.AlarmRuns += other.AlarmRuns
	t.AlarmFailures += other.AlarmFailures
	t.AlarmRetries += other.AlarmRetries
	t.AlarmDeaths += other.AlarmDeaths
	t.AlarmsInFlight += other.AlarmsInFlight
	t.AlarmTime.add(&other.AlarmTime)
	t.AlarmDelay.add(&other.AlarmDelay)
}

// DurationBounds are the upper bounds of the buckets of Durations, inclusive. One more bucket has what is
// longer.
var DurationBounds = [...]time.Duration{
	25 * time.Microsecond, 50 * time.Microsecond, 100 * time.Microsecond, 250 * time.Microsecond, 500 * time.Microsecond,
	time.Millisecond, 2500 * time.Microsecond, 5 * time.Millisecond, 10 * time.Millisecond, 25 * time.Millisecond,
	50 * time.Millisecond, 100 * time.Millisecond, 250 * time.Millisecond, 500 * time.Millisecond,
	time.Second, 2500 * time.Millisecond, 5 * time.Second, 10 * time.Second, 30 * time.Second, time.Minute,
}

// Durations is a histogram. Counts has one for each bucket.
type Durations struct {
	Counts [len(DurationBounds) + 1]uint64
	Sum    time.Duration
}

func (d *Durations) observe(t time.Duration) {
	t = max(t, 0)
	i := 0
	for i < len(DurationBounds) && t > DurationBounds[i] { // Most are short.
		i++
	}
	d.Counts[i]++
	d.Sum += t
}

func (d *Durations) add(other *Durations) {
	for i := range d.Counts {
		d.Counts[i] += other.Counts[i]
	}
	d.Sum += other.Sum
}

// tallyParts is how many parts count a class, so that its objects seldom meet at one.
const tallyParts = 8

// classTally counts a class. Each part has a lock and plain numbers: one event has many things to be counted
// at once, and a lock that is free costs as much as two of them would by atomics.
type classTally [tallyParts]struct {
	mu sync.Mutex
	Tally
	_ [64]byte // a cache line between two
}

// count has fn count something of objects of a shard. fn must be short, and take no other lock.
func (c *classTally) count(shard placement.ShardID, fn func(*Tally)) {
	p := &c[shard%tallyParts]
	p.mu.Lock()
	fn(&p.Tally)
	p.mu.Unlock()
}

func (c *classTally) sum() *Tally {
	var out Tally
	for i := range c {
		p := &c[i]
		p.mu.Lock()
		out.add(&p.Tally)
		p.mu.Unlock()
	}
	return &out
}

// storageUse is what an object has done with its storage and nobody has counted yet.
type storageUse struct {
	reads, writes, deletes  uint32
	readBytes, writtenBytes uint64
}

func (u *storageUse) read(key int, value []byte) {
	u.reads++
	u.readBytes += uint64(key + len(value)) //nolint:gosec // not negative
}

// propose counts what a segment writes.
func (u *storageUse) propose(ops []storage.Op) {
	for n := range ops {
		switch op := &ops[n]; {
		case op.Kind != storage.KindKV:
		case op.Op == storage.OpSet:
			u.writes++
			u.writtenBytes += uint64(len(op.Key) + len(op.Value))
		default:
			u.deletes++
		}
	}
}

// countReads counts what a walk has read.
func (o *object) countReads(use storageUse) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.use.reads += use.reads
	o.use.readBytes += use.readBytes
}

func (u *storageUse) tell(t *Tally) {
	t.Reads += uint64(u.reads)
	t.ReadBytes += u.readBytes
	t.Writes += uint64(u.writes)
	t.WrittenBytes += u.writtenBytes
	t.Deletes += uint64(u.deletes)
}

// eventTimes are of the Manager's monotonic clock; 0: not yet.
type eventTimes struct{ delivered, begun, returned time.Duration }

// now is the Manager's monotonic clock, in time since it began: never 0.
func (m *Manager) now() time.Duration { return time.Since(m.began) }

// countAnswers counts events that have come to their end, and what their object has done with its storage.
func (o *object) countAnswers(answers []answer, use storageUse) {
	var now time.Duration
	for i := range answers {
		if c := answers[i].ended(); c != nil && (c.ev.gated || c.ev.times.returned == 0) {
			now = o.shard.manager.now()
			break
		}
	}
	o.class.tally.count(o.shard.id, func(t *Tally) {
		use.tell(t)
		for i := range answers {
			if c := answers[i].ended(); c != nil {
				t.countCall(c, now)
			}
		}
	})
}

// ended returns the call that is answered, if one is.
func (a *answer) ended() *Call {
	if a.barrier != nil || a.call == nil || !a.call.isCall() {
		return nil
	}
	return a.call
}

// countCall counts a call that is answered, now if that is not when its handler returned.
func (t *Tally) countCall(c *Call, now time.Duration) {
	e, at := &c.ev, &c.ev.times
	t.Calls++
	if at.begun == 0 {
		t.Refused++
		return
	}
	t.MailboxWait.observe(at.begun - at.delivered)
	returned, answered := at.returned, at.returned
	switch {
	case returned == 0: // Its handler goes on, in vain, or has panicked.
		returned, answered = now, now
	case e.gated:
		answered = now
		t.GateWait.observe(now - returned)
	}
	if c.Pipe == nil {
		t.Handler.observe(returned - at.begun)
		t.CallTime.observe(answered - at.delivered)
	}
}

// isCall tells a call from other events.
func (c *Call) isCall() bool { return c.alarm == nil && !c.preShutdown && !c.woken && !c.ev.background }

// ClassStats is what a Manager has counted of one class.
type ClassStats struct {
	Class string
	Tally
}

// Stats are the Manager's counters, and what is in memory now.
type Stats struct {
	// Tally is of all classes, and of what was refused for want of one.
	Tally
	Classes []ClassStats
	// QueuedBytes are of the calls that wait or run, and of the writes that are on their way.
	QueuedBytes int64
}

// Stats returns the counters. It adds many up, so it is for scraping, not for hot paths.
func (m *Manager) Stats() Stats {
	out := Stats{QueuedBytes: m.QueuedBytes(), Tally: *m.unclassed.sum()}
	for _, class := range *m.classes.Load() {
		t := class.tally.sum()
		t.AlarmsInFlight = m.alarms.flying(class)
		out.add(t)
		out.Classes = append(out.Classes, ClassStats{class.Name, *t})
	}
	return out
}

// QueuedBytes returns how many bytes the calls take that wait or run, and the writes that are on their way.
func (m *Manager) QueuedBytes() int64 { return m.queued.Load() }
