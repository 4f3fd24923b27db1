package actor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/holdfast-io/holdfast/fault"
	"github.com/holdfast-io/holdfast/placement"
	"github.com/holdfast-io/holdfast/storage"
)

// Settler is how a Log answers what was proposed; package replica says when.
type Settler interface {
	Committed(seq uint64)
	Readable(seq uint64)
	Refused(seq uint64, unknown bool)
}

// Confirmer is how a Log answers whether this node is the owner.
type Confirmer interface {
	Confirmed(token uint64, err error)
}

// Log is what objects need of replication. Its methods queue and do not block, but for reads.
type Log interface {
	Propose(shard placement.ShardID, seg *storage.Segment, s Settler)
	Confirm(shard placement.ShardID, term uint64, c Confirmer, token uint64)
	ConfirmNow(shard placement.ShardID, term uint64) bool
	Reader(shard placement.ShardID, ref storage.ObjectRef) storage.ObjectReader
	// Damaged says that what Reader reads is damaged: another node has to take the shard over.
	Damaged(shard placement.ShardID, err error)
}

// Config of a Manager.
type Config struct {
	Shards  int
	Classes []Class
	Logger  *slog.Logger
	// Caller takes the calls that objects make; nil: they can make none.
	Caller Caller
	// QueuedBytesMax bounds the calls that are waiting or running on this node: default 256 MiB.
	QueuedBytesMax int64
	// IdleTimeout overrides every class's, for tests.
	IdleTimeout time.Duration
	// Now is the wall clock: default time.Now. No promise rests on it (P1).
	Now func() time.Time
	// Alarms is where the pending alarms of owned shards are read from; nil: none runs.
	Alarms AlarmIndex
	// ClassOf returns the name of the class with a unique key; nil: they are the same.
	ClassOf func(uniqueKey string) (name string, ok bool)
	// NoClass says why calls of a class that is not registered are refused; nil: the owner is about to hand
	// over.
	NoClass func(class string) error
	// Behind is told that an object has run under a later number of its class's code than this node has: it
	// runs here no more until that is registered. It must not block; nil: nobody is told.
	Behind func(class string, number uint64)
}

// Manager runs the objects that this node owns. It implements what package replica calls an
// Owner. Its methods are safe for concurrent use.
type Manager struct {
	cfg       Config
	log       Log
	logger    *slog.Logger
	classes   atomic.Pointer[map[string]*Class] // replaced as a whole, never changed
	shards    []shard
	clock     hybridClock
	began     time.Time    // with the monotonic clock
	queued    atomic.Int64 // bytes
	indexed   atomic.Int64 // bytes of the objects' indexes of request ids
	unclassed classTally   // of calls whose class is not here
	alarms    *alarmClock
	work      chan *object // to runners that wait
	waiting   atomic.Int64 // those

	registering sync.Mutex // held while classes changes
	closing     struct {
		sync.Mutex
		begun bool
	}

	ctx    context.Context //nolint:containedctx // the Manager's lifetime, ended by Close
	cancel context.CancelCauseFunc
	wg     sync.WaitGroup
}

// shard is the objects of one shard that this node owns.
type shard struct {
	manager *Manager
	id      placement.ShardID

	mu           sync.Mutex
	term         atomic.Uint64 // 0: not owned. Written under mu.
	objects      map[storage.ObjectRef]*object
	drained      func()
	paused       atomic.Bool
	full         atomic.Bool  // there is no room for writes
	busy         atomic.Int64 // objects with something running, in flight or at the gate
	incarnations atomic.Uint64
}

// NewManager returns a Manager of the classes. It owns nothing until Acquired says so.
func NewManager(cfg Config) (*Manager, error) {
	if cfg.Logger == nil {
		cfg.Logger = discard
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Caller == nil {
		cfg.Caller = noCaller{}
	}
	if cfg.QueuedBytesMax == 0 {
		cfg.QueuedBytesMax = 256 << 20
	}
	m := &Manager{cfg: cfg, logger: cfg.Logger, clock: hybridClock{wall: cfg.Now}, began: time.Now().Add(-1), shards: make([]shard, cfg.Shards), work: make(chan *object)}
	classes := make(map[string]*Class)
	for i := range cfg.Classes {
		c := cfg.Classes[i]
		if err := m.prepare(&c); err != nil {
			return nil, err
		}
		if classes[c.Name] != nil {
			return nil, fmt.Errorf("class %q is registered twice", c.Name)
		}
		c.edition.Store(newEdition(&c, nil))
		classes[c.Name] = &c
	}
	m.classes.Store(&classes)
	if cfg.ClassOf == nil {
		m.cfg.ClassOf = func(uniqueKey string) (string, bool) { return uniqueKey, true }
	}
	m.alarms = newAlarmClock(m)
	for i := range m.shards {
		m.shards[i].manager, m.shards[i].id = m, placement.ShardID(i) //nolint:gosec // below MaxShards
	}
	m.ctx, m.cancel = context.WithCancelCause(context.Background())
	return m, nil
}

// prepare makes a class one of the Manager's.
func (m *Manager) prepare(c *Class) error {
	if err := c.prepare(); err != nil {
		return err
	}
	if m.cfg.IdleTimeout != 0 {
		c.IdleTimeout = m.cfg.IdleTimeout
	}
	c.Alarms = c.Alarms.withDefaults()
	c.tally = new(classTally)
	return nil
}

// class returns a class that is or was registered.
func (m *Manager) class(name string) (*Class, bool) {
	c, ok := (*m.classes.Load())[name]
	return c, ok
}

// noClass refuses what is for a class that is not registered.
func (m *Manager) noClass(name string) error {
	if m.cfg.NoClass != nil {
		return m.cfg.NoClass(name)
	}
	return fault.New(fault.NoOwner, "the owner of the object has no class %q; it is about to hand over", name)
}

// Start begins to evict idle objects and to run alarms. log is where they write; it is set once, here, because it
// and the Manager need each other.
func (m *Manager) Start(log Log) {
	m.log = log
	m.wg.Go(m.sweep)
	if m.cfg.Alarms != nil {
		m.wg.Go(m.alarms.run)
	}
}

var errStopped = errors.New("the node is stopping")

// Close loses every shard, ends the contexts of running handlers, and waits for them.
func (m *Manager) Close() {
	for i := range m.shards {
		m.Lost(m.shards[i].id, m.shards[i].term.Load())
	}
	m.closing.Lock()
	m.closing.begun = true
	m.closing.Unlock()
	m.cancel(errStopped)
	m.wg.Wait()
	for _, c := range *m.classes.Load() {
		if p := c.edition.Swap(nil); p != nil {
			p.release()
		}
	}
}

// spawned runs fn in a goroutine that Close waits for, unless that has begun.
func (m *Manager) spawned(fn func()) {
	m.closing.Lock()
	defer m.closing.Unlock()
	if !m.closing.begun {
		m.wg.Go(fn)
	}
}

// runnersMax bounds the goroutines that wait for an object to run. A goroutine that has run handlers
// has the stack that they need: a new one would have to grow it first.
const runnersMax = 256

// spawn runs an object's events, in a goroutine that waits for work if there is one.
func (m *Manager) spawn(o *object) {
	select {
	case m.work <- o:
	default:
		m.wg.Go(func() { m.runner(o) })
	}
}

// runner runs objects, one after another, until there are enough others that wait for one.
func (m *Manager) runner(o *object) {
	for {
		o.run()
		if m.waiting.Add(1) > runnersMax {
			m.waiting.Add(-1)
			return
		}
		select {
		case o = <-m.work:
			m.waiting.Add(-1)
		case <-m.ctx.Done():
			m.waiting.Add(-1)
			return
		}
	}
}

// Deliver hands a call to its object, creating it in memory if it is not there. It does not block.
// Calls for one object run in the order in which they were delivered.
func (m *Manager) Deliver(c *Call) {
	c.ev.times.delivered = m.now()
	if m.queued.Add(c.bytes()) > m.cfg.QueuedBytesMax {
		m.refuse(c, fault.New(fault.Overloaded, "the node's mailboxes are full: at most %d bytes wait", m.cfg.QueuedBytesMax))
		return
	}
	class, ok := m.class(c.Class)
	if !ok || class.edition.Load() == nil {
		m.refuse(c, m.noClass(c.Class))
		return
	}
	s := &m.shards[c.Shard]
	s.mu.Lock()
	if s.term.Load() == 0 {
		s.mu.Unlock()
		m.refuse(c, errOwnerChanged())
		return
	}
	o := s.objects[c.Object]
	var over ending
	if o != nil && o.class != class { // It was renamed.
		if over, ok = m.leave(s, o); !ok {
			s.mu.Unlock()
			m.refuse(c, fault.New(fault.NoOwner, "the object's class was renamed, and what ran under its former name is about to end"))
			return
		}
		o = nil
	}
	if o == nil {
		o = &object{shard: s, class: class, ref: c.Object, m: machine{mailboxMax: class.MailboxEventsMax}}
		s.objects[c.Object] = o
		class.tally.count(c.Shard, func(t *Tally) { t.Objects++ })
	}
	o.mu.Lock()
	s.mu.Unlock()
	err := o.m.deliver(c)
	o.unlock()
	if err != nil {
		m.refuse(c, err)
	}
	over.tell()
}

func (m *Manager) refuse(c *Call, err error) {
	tally := &m.unclassed
	if class, ok := m.class(c.Class); ok {
		tally = class.tally
	}
	if c.isCall() {
		tally.count(c.Shard, func(t *Tally) {
			t.Calls++
			t.Refused++
		})
	}
	m.done(c, Result{Err: err})
}

func (m *Manager) done(c *Call, r Result) {
	m.queued.Add(-c.bytes())
	if c.Span != nil {
		m.traceAnswered(c)
	}
	c.Done(r)
}

// Acquired implements the replica's Owner: objects of the shard may run here.
func (m *Manager) Acquired(id placement.ShardID, term uint64) {
	s := &m.shards[id]
	s.mu.Lock()
	defer s.mu.Unlock()
	s.objects = make(map[storage.ObjectRef]*object)
	s.drained = nil
	s.paused.Store(false)
	s.full.Store(false)
	s.incarnations.Store(0)
	s.term.Store(term)
	m.alarms.acquired(id)
}

// Lost implements the replica's Owner: from here on nothing of the shard's objects gets out (P1).
func (m *Manager) Lost(id placement.ShardID, term uint64) {
	s := &m.shards[id]
	s.mu.Lock()
	if term == 0 || s.term.Load() != term {
		s.mu.Unlock()
		return
	}
	objects := s.objects
	s.objects, s.drained = nil, nil
	s.term.Store(0)
	s.paused.Store(false)
	m.alarms.lost(id)
	s.mu.Unlock()
	loseAll(slices.Collect(maps.Values(objects)))
}

// loseAll ends objects that are no longer among their shard's.
func loseAll(objects []*object) {
	for _, o := range objects {
		o.class.tally.count(o.shard.id, func(t *Tally) { t.Objects-- })
		o.lose()
	}
}

// ClassEnded says that a class, by its unique key, was deleted and the store shows nothing of it any more:
// what is in memory of its objects ends, as if they were owned elsewhere. Whoever loads one later finds
// that the class has ended.
func (m *Manager) ClassEnded(id placement.ShardID, term uint64, class string) {
	s := &m.shards[id]
	var ended []*object
	s.mu.Lock()
	if s.term.Load() == term {
		for ref, o := range s.objects {
			if ref.Class == class {
				ended = append(ended, o)
				delete(s.objects, ref)
			}
		}
		m.alarms.classEnded(id, class)
	}
	s.mu.Unlock()
	loseAll(ended)
}

// Pause implements the replica's Owner. Objects that want to are told first that they are about to end.
func (m *Manager) Pause(id placement.ShardID, term uint64, drained func()) {
	s := &m.shards[id]
	s.mu.Lock()
	if s.term.Load() != term {
		s.mu.Unlock()
		return
	}
	s.drained = nil
	s.paused.Store(true)
	s.mu.Unlock()
	s.warn()
	s.mu.Lock()
	if s.term.Load() == term && s.paused.Load() {
		s.drained = drained
	}
	s.mu.Unlock()
	s.checkDrained()
}

// Resume implements the replica's Owner.
func (m *Manager) Resume(id placement.ShardID, term uint64) {
	s := &m.shards[id]
	s.mu.Lock()
	if s.term.Load() != term {
		s.mu.Unlock()
		return
	}
	s.drained = nil
	s.paused.Store(false)
	s.mu.Unlock()
	for _, o := range s.inMemory() {
		o.mu.Lock()
		o.unlock() // Starts what waited.
	}
}

// inMemory returns the shard's objects.
func (s *shard) inMemory() []*object {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Values(s.objects))
}

// SetFull says whether there is room for what the shard's objects write: while there is none, events
// that write are refused with DISK_FULL, and their objects reset.
func (m *Manager) SetFull(id placement.ShardID, term uint64, full bool) {
	s := &m.shards[id]
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.term.Load() == term {
		s.full.Store(full)
	}
}

// checkDrained tells who paused the shard when nothing is under way any more.
func (s *shard) checkDrained() {
	if !s.paused.Load() || s.busy.Load() != 0 {
		return
	}
	s.mu.Lock()
	fn := s.drained
	s.drained = nil
	s.mu.Unlock()
	if fn != nil {
		fn()
	}
}

// sweep evicts the objects that have been idle for long enough.
func (m *Manager) sweep() {
	every := DefaultIdleTimeout
	for _, c := range *m.classes.Load() {
		every = min(every, c.IdleTimeout)
	}
	t := time.NewTicker(max(every/4, 10*time.Millisecond))
	defer t.Stop()
	for {
		select {
		case <-m.ctx.Done():
			return
		case <-t.C:
			for i := range m.shards {
				m.evictIdle(&m.shards[i], m.now())
			}
		}
	}
}

func (m *Manager) evictIdle(s *shard, now time.Duration) {
	var over []ending
	s.mu.Lock()
	for _, o := range s.objects {
		o.mu.Lock()
		if o.idle() && (o.evict || now-o.lastUsed >= o.class.IdleTimeout) {
			over = append(over, m.forget(s, o))
		}
		o.mu.Unlock()
	}
	s.mu.Unlock()
	for i := range over {
		over[i].tell()
	}
}

// idle says that nothing would be lost by forgetting the object. The caller holds the lock.
func (o *object) idle() bool { return !o.looking && !o.woken && o.m.idle() }

// forget drops an idle object from memory. The caller holds both locks, and tells of the end without them.
func (m *Manager) forget(s *shard, o *object) (over ending) {
	delete(s.objects, o.ref)
	o.chargeIndex(0)
	o.class.tally.count(s.id, func(t *Tally) {
		t.Evictions++
		t.Objects--
	})
	if o.now != nil {
		over = o.now.finished(errEvicted)
		o.now = nil
	}
	return over
}

// leave drops an object from memory at once, and says so, or has it dropped soon after it is idle. The caller
// holds the shard's lock, and tells of the end without it.
func (m *Manager) leave(s *shard, o *object) (over ending, left bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.idle() {
		o.evict = true
		return ending{}, false
	}
	return m.forget(s, o), true
}

// Evict drops an object from memory: at once when it is idle, else soon after it next is. It says
// whether the object was in memory.
func (m *Manager) Evict(id placement.ShardID, ref storage.ObjectRef) bool {
	s := &m.shards[id]
	s.mu.Lock()
	o := s.objects[ref]
	var over ending
	if o != nil {
		over, _ = m.leave(s, o)
	}
	s.mu.Unlock()
	over.tell()
	return o != nil
}

// Class returns a class that is registered.
func (m *Manager) Class(name string) (*Class, bool) {
	c, ok := m.class(name)
	return c, ok && c.edition.Load() != nil
}

// hybridClock gives times that never go back: Unix milliseconds << 16 with a counter below. They
// name restore points; no promise rests on them.
type hybridClock struct {
	wall func() time.Time
	last atomic.Uint64
}

// observe makes every later time come after one that another owner gave.
func (c *hybridClock) observe(t uint64) {
	for {
		last := c.last.Load()
		if t <= last || c.last.CompareAndSwap(last, t) {
			return
		}
	}
}

// wallMilli is the wall clock in Unix milliseconds, after 1970.
func (m *Manager) wallMilli() int64 { return max(m.cfg.Now().UnixMilli(), 1) }

// seconds is the node's monotonic clock: what ages by it ages no faster when somebody sets a clock.
func (m *Manager) seconds() uint32 { return uint32(m.now() / time.Second) } //nolint:gosec // 136 years

func (c *hybridClock) now() uint64 {
	wall := uint64(max(c.wall().UnixMilli(), 0)) << 16 //nolint:gosec // not negative
	for {
		last := c.last.Load()
		next := max(wall, last+1)
		if c.last.CompareAndSwap(last, next) {
			return next
		}
	}
}
