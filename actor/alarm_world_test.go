package actor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/holdfast-io/holdfast/placement"
	"github.com/holdfast-io/holdfast/storage"
)

// bells is a cluster of one shard with objects that have alarms, on a store in memory, in a bubble of
// false time: so what a test sees happens when it is due and at no other time.
type bells struct {
	t       *testing.T
	store   *storage.Store
	log     *bellLog
	manager *Manager
	term    uint64

	skew  atomic.Int64 // how far ahead the clock is
	acts  sync.Map
	calls atomic.Int64

	mu sync.Mutex
	// handler runs in place of an object's Alarm.
	handler func(ctx context.Context, b *bell, info AlarmInfo) error
	runs    []bellRun
	began   time.Time
	running map[*object]int // another owner has objects of its own
}

// bellRun is one run of a handler that has ended, or been cut off.
type bellRun struct {
	object byte
	at     time.Duration // since the test began
	info   AlarmInfo
}

// bell is an object.
type bell struct {
	world *bells
	state *State
	n     byte
}

const bellClass = "Bell"

// Alarm implements Alarmer.
func (b *bell) Alarm(ctx context.Context, info AlarmInfo) error {
	w := b.world
	w.mu.Lock()
	w.runs = append(w.runs, bellRun{b.n, time.Since(w.began), info})
	handler := w.handler
	w.running[b.state.o.object]++
	beside := w.running[b.state.o.object] > 1
	w.mu.Unlock()
	defer func() {
		w.mu.Lock()
		w.running[b.state.o.object]--
		w.mu.Unlock()
	}()
	if beside {
		w.t.Error("two runs of one object's alarm beside each other")
	}
	if handler == nil {
		return nil
	}
	return handler(ctx, b, info)
}

// dumb is an object without a handler of alarms.
type dumb struct{ state *State }

// methods has one method, which does what the test has put into acts under the number that the call
// has with it.
func (w *bells) methods() map[string]grpc.MethodDesc {
	return map[string]grpc.MethodDesc{"Act": {
		MethodName: "Act",
		Handler: func(srv any, ctx context.Context, _ func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
			md, _ := metadata.FromIncomingContext(ctx)
			act, _ := w.acts.LoadAndDelete(md.Get("act")[0])
			fn, _ := act.(func(any) error)
			return &emptypb.Empty{}, fn(srv)
		},
	}}
}

func newBells(t *testing.T) *bells {
	t.Helper()
	store, err := storage.Open("data", storage.Options{FS: vfs.NewMem(), CacheBytes: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	w := &bells{t: t, store: store, began: time.Now(), running: make(map[*object]int)}
	w.log = &bellLog{store: store, fences: storage.NewFenceCache(store, 100)}
	bellClass := Class{Name: bellClass, methods: w.methods(), construct: func(s *State) any { return &bell{w, s, s.ID()[31]} }}
	dumbClass := Class{Name: "Dumb", methods: w.methods(), construct: func(s *State) any { return &dumb{s} }}
	w.manager, err = NewManager(Config{Shards: 1, Classes: []Class{bellClass, dumbClass}, Alarms: store, Now: func() time.Time { return time.Now().Add(time.Duration(w.skew.Load())) }, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	w.manager.Start(w.log)
	w.acquire()
	t.Cleanup(func() {
		w.lose()
		w.manager.Close()
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	return w
}

func (w *bells) acquire() {
	w.term++
	w.log.begin(w.term)
	w.manager.Acquired(0, w.term)
}

// lose takes the ownership away; what is proposed and not applied is not.
func (w *bells) lose() {
	w.log.begin(0)
	w.manager.Lost(0, w.term)
}

func bellRef(class string, n byte) storage.ObjectRef {
	return storage.ObjectRef{Class: class, ID: placement.ObjectID{31: n}}
}

// start has an object do something, as a call.
func (w *bells) start(class string, n byte, act func(any) error) <-chan error {
	done := make(chan error, 1)
	number := strconv.FormatInt(w.calls.Add(1), 10)
	w.acts.Store(number, act)
	w.manager.Deliver(&Call{
		Object: bellRef(class, n), Class: class, Name: fmt.Sprint(n), Named: true, Method: "Act",
		Metadata: metadata.Pairs("act", number), Done: func(r Result) { done <- r.Err },
	})
	return done
}

func (w *bells) act(n byte, act func(b *bell) error) error {
	w.t.Helper()
	return <-w.start(bellClass, n, func(srv any) error {
		b, _ := srv.(*bell)
		return act(b)
	})
}

// must has an object do what does not fail.
func (w *bells) must(n byte, act func(b *bell) error) {
	w.t.Helper()
	if err := w.act(n, act); err != nil {
		w.t.Fatal(err)
	}
}

func (w *bells) set(n byte, after time.Duration) {
	w.t.Helper()
	w.must(n, func(b *bell) error { return b.state.SetAlarm(time.Now().Add(after)) })
}

// alarmOf is what the object's alarm is set for, since the test began; -1 when there is none.
func (w *bells) alarmOf(n byte) time.Duration {
	w.t.Helper()
	at := time.Duration(-1)
	w.must(n, func(b *bell) error {
		t, ok, err := b.state.Alarm()
		if ok {
			at = t.Sub(w.began)
		}
		return err
	})
	return at
}

func (w *bells) handle(fn func(ctx context.Context, b *bell, info AlarmInfo) error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.handler = fn
}

// takeRuns returns the runs that have begun since it was last called.
func (w *bells) takeRuns() []bellRun {
	synctest.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	runs := w.runs
	w.runs = nil
	return runs
}

// after lets time pass.
func after(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

// stored wants the store to have so many keys of the shard's objects and alarms.
func (w *bells) stored(want int) {
	w.t.Helper()
	synctest.Wait()
	it, err := w.store.Iter(storage.StateSpan(0))
	if err != nil {
		w.t.Fatal(err)
	}
	defer it.Close()
	var keys []string
	for ok := it.First(); ok; ok = it.Next() {
		keys = append(keys, fmt.Sprintf("%q", it.Key()))
	}
	if len(keys) != want {
		w.t.Errorf("the store has %d keys of the shard's state, want %d:\n%s", len(keys), want, keys)
	}
}

func (w *bells) deadAlarms() []storage.DeadAlarmListing {
	w.t.Helper()
	synctest.Wait()
	list, err := w.store.DeadAlarms(0, bellClass, nil, 10)
	if err != nil {
		w.t.Fatal(err)
	}
	return list
}

// bellLog is a log of one voter. It applies what is proposed at once, or after a delay.
type bellLog struct {
	store  *storage.Store
	fences *storage.FenceCache

	apply sync.Mutex

	mu     sync.Mutex
	term   uint64
	refuse bool // everything
	delay  func() time.Duration
	last   time.Time // when what was proposed last is settled
}

func (l *bellLog) begin(term uint64) {
	l.apply.Lock() // Nothing is half applied.
	defer l.apply.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.term = term
}

func (l *bellLog) setRefuse(refuse bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.refuse = refuse
}

// Propose implements Log.
func (l *bellLog) Propose(_ placement.ShardID, seg *storage.Segment, s Settler) {
	l.mu.Lock()
	if l.delay == nil {
		l.mu.Unlock()
		l.settle(seg, s)
		return
	}
	at := time.Now().Add(l.delay())
	if !at.After(l.last) {
		at = l.last.Add(1)
	}
	l.last = at
	l.mu.Unlock()
	time.AfterFunc(time.Until(at), func() { l.settle(seg, s) })
}

func (l *bellLog) settle(seg *storage.Segment, s Settler) {
	l.apply.Lock()
	defer l.apply.Unlock()
	l.mu.Lock()
	term, refuse := l.term, l.refuse
	l.mu.Unlock()
	if refuse || seg.Term != term {
		s.Refused(seg.Sequence, false)
		return
	}
	b := l.store.NewBatch()
	applied := false
	fence, err := l.fences.Load(0, seg.Object)
	if err == nil {
		applied, _, err = storage.ApplySegment(b, fence, 0, term, seg)
	}
	if err == nil && applied {
		err = b.Commit(true)
	}
	if err = errors.Join(err, b.Close()); err != nil {
		panic(err)
	}
	if !applied { // One before it was refused.
		s.Refused(seg.Sequence, false)
		return
	}
	s.Committed(seg.Sequence)
	s.Readable(seg.Sequence)
}

// Confirm implements Log.
func (l *bellLog) Confirm(_ placement.ShardID, _ uint64, c Confirmer, token uint64) {
	c.Confirmed(token, nil)
}

// ConfirmNow implements Log.
func (l *bellLog) ConfirmNow(placement.ShardID, uint64) bool { return true }

// Reader implements Log.
func (l *bellLog) Reader(shard placement.ShardID, ref storage.ObjectRef) storage.ObjectReader {
	return l.store.Object(shard, ref)
}

// Damaged implements Log.
func (l *bellLog) Damaged(_ placement.ShardID, err error) { panic(err) }

// inBubble runs a test in false time.
func inBubble(t *testing.T, test func(t *testing.T, w *bells)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { test(t, newBells(t)) })
}
