package actor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/holdfast-io/holdfast/fault"
	"github.com/holdfast-io/holdfast/storage"
)

// Alarmer is what an object implements to have alarms: what a class's constructor returns is asked
// for it.
//
// An alarm that is committed runs at least once, whatever fails (P5): its handler must bear to run
// again. It runs as any other event of the object does, and never beside another run of it on the same
// owner. While it runs the object has no alarm, unless the handler sets one. When it returns nil the
// alarm is over, in one batch with the handler's last writes. An error, a panic or an Abort is a
// failed run: it is tried again as the class's AlarmPolicy says, unless the handler has set or deleted
// the alarm itself. What it wrote before it returned an error stays.
type Alarmer interface {
	Alarm(ctx context.Context, info AlarmInfo) error
}

// AlarmInfo tells a handler which run of which alarm this is.
type AlarmInfo struct {
	// ScheduledTime is what the alarm was set for.
	ScheduledTime time.Time
	// RetryCount is how many runs of this alarm have failed and counted. A run that was cut off by
	// the loss of its owner does not count.
	RetryCount int
	// IsRetry is RetryCount > 0.
	IsRetry bool
}

// AlarmPolicy says what becomes of alarms whose handler fails. The zero value of a field stands for
// its default.
type AlarmPolicy struct {
	// Retries is how often a failed alarm is tried again before it goes to the list of dead alarms:
	// default 6; negative: never.
	Retries int
	// RetryDelay is how long the first retry waits: default 2 s. Each later one waits twice as long as
	// the one before, up to 512 times this, and each up to a quarter longer, by chance.
	RetryDelay time.Duration
	// RunLimit is when a handler's context ends: default 15 min.
	RunLimit time.Duration
}

// The defaults of an AlarmPolicy.
const (
	DefaultAlarmRetries    = 6
	DefaultAlarmRetryDelay = 2 * time.Second
	DefaultAlarmRunLimit   = 15 * time.Minute
)

// alarmBackoffDoublings bounds the exponent of the delay.
const alarmBackoffDoublings = 9

func (p AlarmPolicy) withDefaults() AlarmPolicy {
	if p.Retries == 0 {
		p.Retries = DefaultAlarmRetries
	}
	if p.RetryDelay <= 0 {
		p.RetryDelay = DefaultAlarmRetryDelay
	}
	if p.RunLimit <= 0 {
		p.RunLimit = DefaultAlarmRunLimit
	}
	return p
}

// delay is how long retry n, counted from 0, waits.
func (p AlarmPolicy) delay(n int) time.Duration {
	d := p.RetryDelay << min(n, alarmBackoffDoublings)
	return d + time.Duration(rand.Float64()*float64(d)/4) //nolint:gosec // jitter
}

// maxAlarmUnixMilli is the last moment that JavaScript's Date has too.
const maxAlarmUnixMilli = 8_640_000_000_000_000

// SetAlarm sets the object's one alarm, in place of any that it has; it is one of the event's writes,
// durable with them. A time that has passed is now. Times are cut to milliseconds.
func (s *State) SetAlarm(t time.Time) error {
	due := t.UnixMilli()
	switch {
	case t.Before(time.UnixMilli(1)):
		return fault.New(fault.InvalidArgument, "setAlarm() cannot be called with an alarm time <= 0")
	case t.After(time.UnixMilli(maxAlarmUnixMilli)):
		return fault.New(fault.InvalidArgument, "alarm time: at most %s, is %s", time.UnixMilli(maxAlarmUnixMilli).UTC(), t.UTC())
	}
	// Which methods the object has is not known while it is being constructed.
	if _, ok := s.o.impl.(Alarmer); s.o.impl != nil && !ok {
		return fault.New(fault.InvalidArgument, "Your Durable Object class must have an alarm() handler in order to call setAlarm()")
	}
	due = max(due, s.o.shard.manager.wallMilli())
	return s.o.setAlarm(storage.Alarm{Due: due, Scheduled: due})
}

// Alarm returns what the object's alarm is set for, and whether it has one. In the alarm's handler
// there is none until the handler sets it.
func (s *State) Alarm() (time.Time, bool, error) {
	a, ok, err := s.o.alarmSeen()
	if err != nil || !ok {
		return time.Time{}, false, err
	}
	return time.UnixMilli(a.Scheduled), true, nil
}

// DeleteAlarm deletes the object's alarm, if it has one. In the alarm's handler it keeps the alarm
// from being tried again, should the handler fail.
func (s *State) DeleteAlarm() error { return s.o.deleteAlarm() }

// AbortWithoutRetry is Abort, and when it is called by the handler of an alarm, gives that alarm up.
func (s *State) AbortWithoutRetry(reason string) {
	s.AbandonAlarm()
	s.Abort(reason)
}

// alarmEvent is what an event that is not a call is about.
type alarmEvent struct {
	kind alarmEventKind
	// due says which alarm is to run: the one that is due then. One that was changed meanwhile is not.
	due int64
}

type alarmEventKind int

const (
	alarmRun alarmEventKind = iota
	alarmRearm
	alarmDiscard
)

// alarmState is what the turn knows of an object's alarm and dead alarm, as the last closed segment
// left them. Guarded by object.mu.
type alarmState struct {
	known, deadKnown bool
	alarm            *storage.Alarm
	dead             *storage.DeadAlarm

	event   *event         // that is to run an alarm, or runs it
	running *storage.Alarm // whose handler runs
	// mark is how many operations of the open segment are older than the run, and changed says that one
	// closed since it began has set or deleted the alarm.
	mark    int
	changed bool
}

// changedByRun says that the alarm was set or deleted since its handler began.
func (i *incarnation) changedByRunLocked() bool {
	at, ok := i.w.singleAt(storage.KindAlarm)
	return i.alarm.changed || ok && at >= i.alarm.mark
}

// loadAlarm reads the object's alarm from the store unless it is known. No segment in flight can have
// changed it: who closes one that does knows it.
func (i *incarnation) loadAlarm() error {
	i.mu.Lock()
	known, err := i.alarm.known, i.turn()
	i.mu.Unlock()
	if known || err != nil {
		return err
	}
	a, err := i.reader().Alarm()
	if err != nil {
		return i.unreadable(err)
	}
	i.mu.Lock()
	i.alarm.known, i.alarm.alarm = true, a
	i.mu.Unlock()
	return nil
}

func (i *incarnation) loadDead() error {
	i.mu.Lock()
	known, err := i.alarm.deadKnown, i.turn()
	i.mu.Unlock()
	if known || err != nil {
		return err
	}
	d, err := i.reader().DeadAlarm()
	if err != nil {
		return i.unreadable(err)
	}
	i.mu.Lock()
	i.alarm.deadKnown, i.alarm.dead = true, d
	i.mu.Unlock()
	return nil
}

// pendingLocked is the alarm with what the open segment does to it; it is known.
func (i *incarnation) pendingLocked() (*storage.Alarm, error) {
	return opened(i, storage.KindAlarm, i.alarm.alarm, storage.DecodeAlarm)
}

// deadLocked is the same of the dead alarm.
func (i *incarnation) deadLocked() (*storage.DeadAlarm, error) {
	return opened(i, storage.KindDeadAlarm, i.alarm.dead, storage.DecodeDeadAlarm)
}

// opened is the open segment's word on the one key of a kind, or, when it has none, what the last closed
// segment has left; nil when there is none. The caller holds the lock.
func opened[T any](i *incarnation, kind storage.KeyKind, closed *T, decode func([]byte) (T, error)) (*T, error) {
	raw, exists, known := i.w.single(kind)
	switch {
	case !known:
		return closed, nil
	case !exists:
		return nil, nil //nolint:nilnil // there is none
	}
	v, err := decode(raw)
	return &v, err
}

// alarmSeen is the alarm as the running event sees it.
func (i *incarnation) alarmSeen() (storage.Alarm, bool, error) {
	if err := i.loadAlarm(); err != nil {
		return storage.Alarm{}, false, err
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if err := i.turn(); err != nil {
		return storage.Alarm{}, false, err
	}
	if i.alarm.running != nil && !i.changedByRunLocked() {
		return storage.Alarm{}, false, nil
	}
	a, err := i.pendingLocked()
	if err != nil || a == nil {
		return storage.Alarm{}, false, err
	}
	return *a, true, nil
}

func (i *incarnation) setAlarm(a storage.Alarm) error {
	raw, err := a.Encode()
	if err != nil {
		return err
	}
	return i.state.storage.write(storage.Op{Op: storage.OpSet, Kind: storage.KindAlarm, Value: raw})
}

// deleteAlarm writes nothing when there is none.
func (i *incarnation) deleteAlarm() error {
	if err := i.loadAlarm(); err != nil {
		return err
	}
	defer i.change()()
	if err := i.turn(); err != nil {
		return err
	}
	if a, err := i.pendingLocked(); err != nil || a == nil {
		return err
	}
	return i.w.add(storage.Op{Op: storage.OpDelete, Kind: storage.KindAlarm}, true)
}

// deleteAlarms deletes the dead alarm too.
func (i *incarnation) deleteAlarms() error {
	if err := i.deleteAlarm(); err != nil {
		return err
	}
	if err := i.loadDead(); err != nil {
		return err
	}
	defer i.change()()
	if err := i.turn(); err != nil {
		return err
	}
	if d, err := i.deadLocked(); err != nil || d == nil {
		return err
	}
	return i.w.add(storage.Op{Op: storage.OpDelete, Kind: storage.KindDeadAlarm}, true)
}

// handleAlarm runs an event that is not a call. A result with an error says that the event has not come
// to its end, and is to be delivered again. It returns false when the event is over.
func (i *incarnation) handleAlarm(ctx context.Context, e *event) (result Result, ok bool) {
	if e.call.alarm.kind != alarmRun {
		return Result{Err: i.handleDead(e.call.alarm.kind == alarmRearm)}, true
	}
	if err := i.loadAlarm(); err != nil {
		return Result{Err: err}, true
	}
	i.mu.Lock()
	i.alarm.event = e
	i.mu.Unlock()
	if !i.constructed(e) {
		return Result{}, false
	}
	a, err := i.beginAlarm(e)
	if err != nil || a == nil { // It was changed or deleted while this waited.
		return Result{Err: err}, true
	}
	begun, late := i.shard.manager.now(), time.Duration(i.shard.manager.wallMilli()-a.Due)*time.Millisecond
	i.class.tally.count(i.shard.id, func(t *Tally) {
		t.AlarmRuns++
		t.AlarmDelay.observe(late)
	})
	defer i.rung(begun)
	h, ok := i.impl.(Alarmer)
	if !ok {
		return Result{Err: i.endAlarm(e, fmt.Errorf("class %s has no Alarm method", i.class.Name))}, true
	}
	failure := h.Alarm(ctx, AlarmInfo{ScheduledTime: time.UnixMilli(a.Scheduled), RetryCount: int(a.Retries), IsRetry: a.Retries > 0})
	return Result{Err: i.endAlarm(e, failure)}, true
}

// beginAlarm returns the alarm that an event is to run, if the object still has it.
func (i *incarnation) beginAlarm(e *event) (*storage.Alarm, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	a, err := i.pendingLocked()
	switch {
	case e.over:
		return nil, i.over
	case err != nil || a == nil || a.Due != e.call.alarm.due:
		i.alarm.event = nil
		return nil, err
	case i.ringing:
		i.alarm.event = nil
		return nil, fault.New(fault.Overloaded, "the handler of the object's last alarm has not returned yet, though its incarnation is over")
	}
	i.ringing = true
	i.alarm.running, i.alarm.mark, i.alarm.changed = a, len(i.w.ops), false
	return a, nil
}

// rung says that the handler of an alarm has returned, which has begun then.
func (i *incarnation) rung(begun time.Duration) {
	took := i.shard.manager.now() - begun
	i.class.tally.count(i.shard.id, func(t *Tally) { t.AlarmTime.observe(took) })
	i.mu.Lock()
	defer i.mu.Unlock()
	i.ringing = false
}

// endAlarm ends the run of an alarm, whose handler has returned.
func (i *incarnation) endAlarm(e *event, failure error) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if e.over {
		return i.over
	}
	i.abandonTransactions() // Else what follows would be part of them.
	return i.endAlarmLocked(failure, false)
}

// endAlarmLocked puts into the open segment what becomes of the alarm whose handler has ended, if the
// handler has not seen to it: it is over, is tried again, or is dead.
func (i *incarnation) endAlarmLocked(failure error, abandoned bool) error {
	a, changed := i.alarm.running, i.changedByRunLocked()
	i.alarm.event, i.alarm.running = nil, nil
	if failure != nil {
		i.class.tally.count(i.shard.id, func(t *Tally) { t.AlarmFailures++ })
	}
	switch policy := i.class.Alarms; {
	case changed:
		if failure != nil {
			i.state.Logger().Info("alarm failed, and was set or deleted by its own handler", slog.Any("error", failure))
		}
	case failure == nil || abandoned:
		i.w.push(storage.Op{Op: storage.OpDelete, Kind: storage.KindAlarm}, true)
	case int(a.Retries) < policy.Retries:
		i.class.tally.count(i.shard.id, func(t *Tally) { t.AlarmRetries++ })
		delay := policy.delay(int(a.Retries))
		i.state.Logger().Info("alarm failed, and will be tried again", slog.Any("error", failure), slog.Duration("after", delay))
		raw, err := storage.Alarm{Due: i.shard.manager.wallMilli() + delay.Milliseconds(), Scheduled: a.Scheduled, Retries: a.Retries + 1}.Encode()
		if err != nil {
			return err
		}
		i.w.push(storage.Op{Op: storage.OpSet, Kind: storage.KindAlarm, Value: raw}, true)
	default:
		i.class.tally.count(i.shard.id, func(t *Tally) { t.AlarmDeaths++ })
		i.state.Logger().Warn("alarm is dead: its last retry failed; see 'holdfast alarms'", slog.Any("error", failure))
		raw, err := storage.DeadAlarm{Scheduled: a.Scheduled, Died: i.shard.manager.wallMilli(), Retries: a.Retries, Error: errorText(failure)}.Encode()
		if err != nil {
			return err
		}
		i.w.push(storage.Op{Op: storage.OpDelete, Kind: storage.KindAlarm}, true)
		i.w.push(storage.Op{Op: storage.OpSet, Kind: storage.KindDeadAlarm, Value: raw}, true)
	}
	return nil
}

// errorText cuts an error's text to what is kept of it, as valid UTF-8.
func errorText(err error) string {
	text := strings.ToValidUTF8(err.Error(), "\uFFFD")
	if len(text) <= storage.MaxAlarmErrorBytes {
		return text
	}
	text = text[:storage.MaxAlarmErrorBytes]
	for !utf8.ValidString(text) {
		text = text[:len(text)-1]
	}
	return text
}

// failAlarm makes the death of an incarnation by the handler of an alarm a failed run of it. What becomes
// of the alarm is the incarnation's last segment, which it returns; what the handler wrote is dropped.
// The caller holds the lock, and is about to tell the machine of the death.
func (i *incarnation) failAlarm(d *death) *storage.Segment {
	e := i.alarm.event
	if e == nil || e.over || i.shard.full.Load() || d.by != e && (d.by != nil || i.m.running != e) {
		return nil
	}
	failure := d.begun
	if d.by == e {
		failure = d.result.Err
	}
	i.abandonTransactions()
	i.w.discardOpen()
	i.alarm.mark = 0
	if i.alarm.running == nil { // It was the constructor, or Init.
		a := i.alarm.alarm
		if a == nil || a.Due != e.call.alarm.due {
			return nil
		}
		i.alarm.running, i.alarm.changed = a, false
	}
	if err := i.endAlarmLocked(failure, false); err != nil {
		d.by, d.result = e, Result{Err: err}
		return nil //nolint:nilerr // the event is told, and delivered again
	}
	d.by, d.result = e, Result{} // The event has come to its end.
	if len(i.w.ops) == 0 {
		return nil
	}
	alarms, err := i.closeAlarmsLocked()
	if err != nil { // It will be delivered again.
		i.w.discardOpen()
		d.result.Err = err
		return nil
	}
	w := waiter{e: e, barrier: func(error) {}}
	i.m.propose(&w)
	i.m.lock(w)
	return i.segment(nil, &alarms)
}

// abandonAlarm gives up the alarm whose handler has the turn, or may have what has the turn go on for it,
// in a segment of its own; what the handler wrote is dropped.
func (i *incarnation) abandonAlarm() error {
	i.mu.Lock()
	e := i.m.running
	if i.over != nil || e == nil || i.alarm.event != e && !i.class.dynamic || i.alarm.running == nil {
		i.mu.Unlock()
		return nil //nolint:nilerr // what is over has no alarm to give up
	}
	i.abandonTransactions()
	i.w.discardOpen()
	i.alarm.mark = 0
	err := i.endAlarmLocked(errAbandoned, true)
	i.mu.Unlock()
	if err != nil {
		return err
	}
	return i.close(e, nil, func(wrote writes, sole bool) gate {
		return i.m.barrier(waiter{e: e, barrier: func(error) {}}, wrote, sole)
	})
}

var errAbandoned = errors.New("its handler has given it up")

// handleDead arms the object's dead alarm again, to run at once, or discards it.
func (i *incarnation) handleDead(rearm bool) error {
	if err := errors.Join(i.loadAlarm(), i.loadDead()); err != nil {
		return err
	}
	i.mu.Lock()
	dead, pending := i.alarm.dead, i.alarm.alarm // Nothing is open yet.
	i.mu.Unlock()
	switch {
	case dead == nil:
		return fault.New(fault.UnknownAlarm, "object %s of class %s has no dead alarm", i.ref.ID, i.class.Name)
	case rearm && pending != nil:
		return fault.New(fault.AlarmPending, "object %s of class %s has an alarm for %s, whose place the dead one would take: let it run first, or discard the dead one",
			i.ref.ID, i.class.Name, time.UnixMilli(pending.Scheduled).UTC().Format(time.RFC3339Nano))
	}
	if rearm {
		if err := i.setAlarm(storage.Alarm{Due: i.shard.manager.wallMilli(), Scheduled: dead.Scheduled}); err != nil {
			return err
		}
	}
	return i.state.storage.write(storage.Op{Op: storage.OpDelete, Kind: storage.KindDeadAlarm})
}

// closing is what the open segment makes of the object's alarm: the operations on the shard's index, and
// what is known once the segment is closed.
type closing struct {
	touched bool
	index   []storage.Op
	next    alarmState
	due     int64 // of the alarm that it sets; 0: none
}

// closeAlarms looks at what the open segment does to the alarms.
func (i *incarnation) closeAlarms() (closing, error) {
	i.mu.Lock()
	_, _, set := i.w.single(storage.KindAlarm)
	none := len(i.w.singles) == 0
	i.mu.Unlock()
	if none {
		return closing{}, nil
	}
	if set {
		if err := i.loadAlarm(); err != nil {
			return closing{}, err
		}
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.closeAlarmsLocked()
}

// closeAlarmsLocked is closeAlarms when the alarm is known.
func (i *incarnation) closeAlarmsLocked() (closing, error) {
	c := closing{touched: true, next: i.alarm}
	if i.alarm.running != nil && i.changedByRunLocked() {
		c.next.changed = true
	}
	if _, _, ok := i.w.single(storage.KindDeadAlarm); ok {
		dead, err := i.deadLocked()
		if err != nil {
			return closing{}, err
		}
		c.next.deadKnown, c.next.dead = true, dead
	}
	if _, _, set := i.w.single(storage.KindAlarm); !set {
		return c, nil
	}
	before := i.alarm.alarm
	after, err := i.pendingLocked()
	if err != nil {
		return closing{}, err
	}
	c.next.alarm = after
	if before != nil && (after == nil || after.Due != before.Due) {
		c.index = append(c.index, storage.Op{Op: storage.OpDelete, Kind: storage.KindAlarmDue, Key: storage.AlarmDueKey(before.Due)})
	}
	if after != nil {
		c.due = after.Due
		if before == nil || after.Due != before.Due {
			c.index = append(c.index, storage.Op{Op: storage.OpSet, Kind: storage.KindAlarmDue, Key: storage.AlarmDueKey(after.Due)})
		}
	}
	return c, nil
}

// hasAlarms says that the object has an alarm or a dead one, with what the open segment does to them:
// it exists then, also without data.
func (i *incarnation) hasAlarms() (bool, error) {
	if err := errors.Join(i.loadAlarm(), i.loadDead()); err != nil {
		return false, err
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	a, err := i.pendingLocked()
	if err != nil || a != nil {
		return a != nil, err
	}
	d, err := i.deadLocked()
	return d != nil, err
}
