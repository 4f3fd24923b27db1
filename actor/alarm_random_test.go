package actor

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-io/holdfast/storage"
)

// alarmProgram is random doings with alarms: sets, deletes, failures of every kind, evictions, losses of the
// owner, refused segments and late commits. What is known of each alarm is only what callers and
// handlers could know.
type alarmProgram struct {
	*bells

	rng   *rand.Rand // of the steps
	fates *rand.Rand // of the handlers; guarded by mu
	// claims are the alarms that must run: their sets were acknowledged, and nothing has run since that may
	// have changed them. By object, what each is set for in Unix milliseconds.
	claims map[byte]int64
	// tried has every time that an event has set an alarm to, acknowledged or not.
	tried map[byte]map[int64]bool
	// failed is how many runs of an alarm have counted at most.
	failed map[byte]map[int64]int
	calm   bool
	runsOf int
}

const programObjects = 4

func (p *alarmProgram) pick() byte { return byte(1 + p.rng.IntN(programObjects)) }

// sets has the object's running event set an alarm.
func (p *alarmProgram) sets(b *bell, after time.Duration) (int64, error) {
	at := time.Now().Add(after)
	p.mu.Lock()
	delete(p.claims, b.n)
	if p.tried[b.n] == nil {
		p.tried[b.n], p.failed[b.n] = make(map[int64]bool), make(map[int64]int)
	}
	p.tried[b.n][at.UnixMilli()] = true
	p.mu.Unlock()
	return at.UnixMilli(), b.state.SetAlarm(at)
}

func (p *alarmProgram) deletes(b *bell) error {
	p.mu.Lock()
	delete(p.claims, b.n)
	p.mu.Unlock()
	return b.state.DeleteAlarm()
}

// ring is the handler of every alarm. The seed decides what it does.
func (p *alarmProgram) ring(ctx context.Context, b *bell, info AlarmInfo) error {
	at := info.ScheduledTime.UnixMilli()
	p.mu.Lock()
	p.runsOf++
	if info.ScheduledTime.After(time.Now()) || !p.tried[b.n][at] {
		p.t.Errorf("object %d: runs the alarm for %d, which is not due or was never set", b.n, at)
	}
	if info.RetryCount > p.failed[b.n][at] {
		p.t.Errorf("object %d: retry %d of the alarm for %d, which has failed %d times", b.n, info.RetryCount, at, p.failed[b.n][at])
	}
	act := p.fates.IntN(12)
	if p.calm {
		act = 0
	}
	if act > 4 {
		p.failed[b.n][at] = max(p.failed[b.n][at], info.RetryCount+1)
	}
	wait := time.Duration(p.fates.IntN(3)) * 40 * time.Millisecond
	p.mu.Unlock()
	if wait > 0 {
		<-time.After(wait)
	}
	switch act {
	case 1:
		_, err := p.sets(b, time.Second)
		return err
	case 2:
		if err := Put(b.state.Storage(), "k", at); err != nil {
			return err
		}
		if err := b.state.Confirm(ctx); err != nil {
			return err
		}
	case 3:
		_, err := p.sets(b, time.Minute)
		if err != nil {
			return err
		}
		return b.state.Confirm(ctx)
	case 4:
		if err := b.state.Storage().DeleteAll(); err != nil {
			return err
		}
	case 5:
		return errBell
	case 6:
		if _, err := p.sets(b, time.Second); err != nil {
			return err
		}
		return errBell
	case 7:
		if err := p.deletes(b); err != nil {
			return err
		}
		return errBell
	case 8:
		panic("the bell falls down")
	case 9:
		b.state.Abort("the bell goes home")
	case 10:
		if err := b.state.Confirm(ctx); err != nil {
			return err
		}
		panic("the bell falls down")
	case 11:
		p.mu.Lock()
		delete(p.claims, b.n)
		p.mu.Unlock()
		b.state.AbortWithoutRetry("the bell goes home")
	}
	// It is done, if this gets out; what it was claimed for has run.
	p.mu.Lock()
	if p.claims[b.n] == at {
		delete(p.claims, b.n)
	}
	p.mu.Unlock()
	return nil
}

func (p *alarmProgram) step() {
	switch n := p.rng.IntN(100); {
	case n < 40:
		object := p.pick()
		var at int64
		later := time.Duration(p.rng.IntN(5000)) * time.Millisecond
		err := p.act(object, func(b *bell) error {
			var err error
			at, err = p.sets(b, later)
			return err
		})
		p.mu.Lock()
		if err == nil && p.lastRun(object) < at {
			p.claims[object] = at
		}
		p.mu.Unlock()
	case n < 45:
		_ = p.act(p.pick(), p.deletes)
	case n < 55:
		_ = p.act(p.pick(), func(b *bell) error { return Put(b.state.Storage(), "k", n) })
	case n < 60:
		_ = p.act(p.pick(), func(*bell) error { panic("the bell falls down") })
	case n < 65:
		p.manager.Evict(0, bellRef(bellClass, p.pick()))
	case n < 70:
		p.lose()
		synctest.Wait()
		p.acquire()
	case n < 74:
		p.log.setRefuse(true)
		_ = p.act(p.pick(), func(b *bell) error { return Put(b.state.Storage(), "k", n) })
		p.log.setRefuse(false)
	case n < 77:
		_ = p.manager.RearmAlarm(p.t.Context(), 0, bellRef(bellClass, p.pick()), bellClass, n == 74)
	default:
		after(time.Duration(p.rng.IntN(3000)) * time.Millisecond)
	}
	p.checkIndex()
}

// lastRun is what the object's last run was for: an alarm may have run before its set was acknowledged.
func (p *alarmProgram) lastRun(object byte) int64 {
	for _, r := range slices.Backward(p.runs) {
		if r.object == object {
			return r.info.ScheduledTime.UnixMilli()
		}
	}
	return 0
}

// checkIndex wants the index to have just the alarms that the objects have.
func (p *alarmProgram) checkIndex() {
	p.t.Helper()
	p.log.apply.Lock() // Nothing is half applied.
	defer p.log.apply.Unlock()
	listed, err := p.store.PendingAlarms(0, bellClass, storage.AlarmPosition{}, never, 100)
	if err != nil {
		p.t.Fatal(err)
	}
	var have []storage.AlarmPosition
	objects, err := p.store.ListObjects(0, bellClass, nil, 100)
	if err != nil {
		p.t.Fatal(err)
	}
	dead := 0
	for _, o := range objects {
		r := p.store.Object(0, storage.ObjectRef{Class: bellClass, ID: o.ID})
		raw, ok, err := r.Get(storage.KindAlarm, nil)
		if err != nil {
			p.t.Fatal(err)
		}
		_, isDead, err := r.Get(storage.KindDeadAlarm, nil)
		if err != nil {
			p.t.Fatal(err)
		}
		if isDead {
			dead++
		}
		if !ok {
			continue
		}
		a, err := storage.DecodeAlarm(raw)
		if err != nil {
			p.t.Fatal(err)
		}
		have = append(have, storage.AlarmPosition{Due: a.Due, ID: o.ID})
	}
	slices.SortFunc(have, storage.AlarmPosition.Compare)
	if !slices.Equal(have, listed) {
		p.t.Fatalf("the objects that exist have the alarms %v, the index has %v", have, listed)
	}
	if list, err := p.store.DeadAlarms(0, bellClass, nil, 100); err != nil || len(list) != dead {
		p.t.Fatalf("the objects that exist have %d dead alarms, the index has %v, %v", dead, list, err)
	}
}

func (p *alarmProgram) wantNoneInFlight() {
	p.t.Helper()
	c := p.manager.alarms
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.mu.flying) > 0 || len(c.mu.again) > 0 {
		p.t.Errorf("in flight at the end: %v, %v", c.mu.flying, c.mu.again)
	}
	for class, n := range c.mu.ofType {
		if n != 0 {
			p.t.Errorf("%d of class %s are counted as in flight at the end", n, class.Name)
		}
	}
}

func TestRandomProgramsKeepEveryAlarm(t *testing.T) {
	t.Parallel()
	runs := 0
	for seed := range uint64(60) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			inBubble(t, func(t *testing.T, w *bells) {
				p := &alarmProgram{
					bells: w, rng: rand.New(rand.NewPCG(seed, 0)), fates: rand.New(rand.NewPCG(seed, 2)), claims: make(map[byte]int64),
					tried: make(map[byte]map[int64]bool), failed: make(map[byte]map[int64]int),
				}
				if seed%2 == 0 {
					delays := rand.New(rand.NewPCG(seed, 1))
					w.log.delay = func() time.Duration { return time.Duration(delays.IntN(30)) * time.Millisecond }
				}
				w.handle(p.ring)
				for range 150 {
					p.step()
					if t.Failed() {
						return
					}
				}
				p.mu.Lock()
				p.calm = true
				p.mu.Unlock()
				after(2 * time.Hour) // Longer than the longest delay of all retries.
				p.mu.Lock()
				if len(p.claims) > 0 {
					t.Errorf("acknowledged, and not run (P5): %v", p.claims)
				}
				p.mu.Unlock()
				p.checkIndex()
				if left, err := w.store.PendingAlarms(0, bellClass, storage.AlarmPosition{}, never, 10); err != nil || len(left) > 0 {
					t.Errorf("pending at the end: %v, %v", left, err)
				}
				p.wantNoneInFlight()
				runs += p.runsOf
			})
		})
		if t.Failed() {
			t.Fatalf("with seed %d", seed)
		}
	}
	t.Logf("%d runs", runs)
}
