package replica

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"golang.org/x/time/rate"

	"github.com/holdfast-io/holdfast/placement"
	"github.com/holdfast-io/holdfast/storage"
)

// Transport is what a Host needs of the network. Messages may be lost, delayed, doubled and
// reordered; Raft bears it all.
type Transport interface {
	// Send queues a frame for a node and owns it from then on. It does not block; false means that
	// it was dropped (no connection, or the queue is full).
	Send(to placement.NodeID, frame []byte) bool
	// SendSnapshot streams a shard's state and returns when the receiver has installed it. begin is
	// called with what the receiver has already; the function that it returns returns runs, and
	// io.EOF at the end.
	SendSnapshot(ctx context.Context, to placement.NodeID, header []byte, begin func(parts []byte) (next func() ([]byte, error), err error)) error
}

// Owner is told which shards this node owns. It is called from the host's loop, one call at a
// time, and must not block or call back except to queue.
type Owner interface {
	// Acquired says that this node leads the shard in the term and has applied everything that was
	// acknowledged before: objects may run.
	Acquired(shard placement.ShardID, term uint64)
	// Pause asks that no new event start, for a planned hand-over, and that drained be called,
	// once, from any goroutine, when nothing runs and nothing is in flight.
	Pause(shard placement.ShardID, term uint64, drained func())
	// Resume says that the hand-over was given up.
	Resume(shard placement.ShardID, term uint64)
	// Lost says that the ownership is over: nothing more may get out (P1).
	Lost(shard placement.ShardID, term uint64)
}

// Config of a Host.
type Config struct {
	Node      placement.NodeID
	Shards    int
	Replicas  int // default 3
	Store     *storage.Store
	Transport Transport
	Owner     Owner
	Logger    *slog.Logger
	// Tick is Raft's unit of time: default 100 ms.
	Tick time.Duration
	// ElectionTicks without a leader begin an election: default 10. HeartbeatTicks: default 3.
	ElectionTicks, HeartbeatTicks int
	// LeaderStable is how long the plan must wish the same leader before ownership is moved:
	// default 5 s.
	LeaderStable time.Duration
	// SnapshotRate is how many bytes of snapshots are sent in a second, at most: default 8 MiB.
	SnapshotRate int
	// OnLeader is told when this node begins to own a shard. Called from the loop: must not block.
	OnLeader func(shard placement.ShardID, term uint64)
	// OnFull is told, of a shard that this node owns in the term, whether there is no room for what is
	// written to it; it begins as false. Called from the loop: must not block. Default: nothing.
	OnFull func(shard placement.ShardID, term uint64, full bool)
	// OnClassEnded is told, of a shard that this node owns in the term, that a class was deleted and the
	// store shows nothing of it any more. Called from the loop: must not block. Default: nothing.
	OnClassEnded func(shard placement.ShardID, term uint64, class string)
	// OnStall is called when the disk has not finished a write for 5 s of this process's own time:
	// the node is as good as dead and should go, so that others take over. Default: nothing.
	OnStall func(error)
}

func (c Config) withDefaults() Config {
	if c.Replicas == 0 {
		c.Replicas = 3
	}
	if c.Tick == 0 {
		c.Tick = 100 * time.Millisecond
	}
	if c.ElectionTicks == 0 {
		c.ElectionTicks = 10
	}
	if c.HeartbeatTicks == 0 {
		c.HeartbeatTicks = 3
	}
	if c.LeaderStable == 0 {
		c.LeaderStable = 5 * time.Second
	}
	if c.SnapshotRate == 0 {
		c.SnapshotRate = 8 << 20
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

// Bounds of what waits for the loop. Raft's frames over the bound are dropped, which Raft bears;
// proposals are refused.
const (
	inboxFramesMax    = 4096
	inboxBytesMax     = 64 << 20 // of frames
	inboxProposalsMax = 1 << 16
	ticksPerLoopMax   = 2
	snapshotsMax      = 4  // sent at once
	receivedMax       = 16 // received at once
	fenceCacheObjects = 1 << 16
)

// Host runs the replicas of one node. Its methods are safe for concurrent use.
type Host struct {
	cfg    Config
	store  *storage.Store
	logger *slog.Logger
	disk   diskLog

	// leaders and sole are read without a lock on the path of every call.
	leaders []atomic.Pointer[leaderView]
	sole    []atomic.Uint64 // the term in which this node owns the shard as its only voter, or 0

	wake chan struct{} // capacity 1
	mu   struct {
		sync.Mutex
		in     inbox
		closed bool
	}

	// Of the loop alone.
	groups     []*Group // by shard; nil: no replica here
	fences     *storage.FenceCache
	batch      *storage.Batch
	active     []*Group // what the batch has writes of
	flying     bool     // the batch is on its way to the disk
	wave       wave
	held       []*Group // have proposals for the next wave
	asks       wave
	asking     []*Group // have reads for the next round of questions
	questions  map[placement.NodeID][]confirmItem
	inRound    []*Group                  // asked in the latest round
	silent     map[placement.NodeID]bool // asked in the latest round, and have not answered
	late       map[placement.NodeID]bool // did not answer in time lately
	items      []confirmItem             // scratch
	others     []replicaAddr             // scratch
	spare      inbox
	dirty      []*Group
	processed  []*Group // room for dirty
	scratch    []byte   // of the groups
	out        map[placement.NodeID]*outFrame
	membership Membership
	broken     map[placement.NodeID]bool // see PeerBroken
	sending    int                       // snapshots
	sendRate   *rate.Limiter             // of their bytes
	snapshots  []queuedSnapshot
	offers     []func() // received snapshots that wait for the batch to land
	handOver   bool
	age        int // ticks
	shell      shell
	hooks      hooks

	ticks    atomic.Int32
	begun    atomic.Uint64 // synced writes
	finished atomic.Uint64 // those that are on disk
	flights  chan struct{} // to the syncer: the batch has begun to fly
	counters counters
	received chan struct{} // has one for each snapshot that is being received
	installs chan struct{} // has one while a snapshot is installed, and while the loop rests from it

	ctx    context.Context //nolint:containedctx // the Host's own lifetime, ended by Close
	cancel context.CancelCauseFunc
	wg     sync.WaitGroup
	closed sync.Once
}

type leaderView struct {
	node placement.NodeID
	term uint64
}

type inbox struct {
	frames    []inFrame
	bytes     int // of them
	proposals []inProposal
	confirms  []inConfirm
	controls  []func()
	landed    bool // the batch is on disk
}

type inFrame struct {
	from placement.NodeID
	data []byte
}

type inProposal struct {
	shard placement.ShardID
	p     proposal
}

type inConfirm struct {
	shard placement.ShardID
	c     confirmation
}

type outFrame struct {
	data []byte
}

// frameBytesMax is when a frame is full. One message may be larger; it then has a frame to itself.
const frameBytesMax = 1 << 20

// Bootstrap creates every shard of a new cluster on the node of id alone, as a group of one voter,
// and gives the store that identity, in one synced batch: a crash leaves both or neither. The log
// begins at an index of its own choosing, so that a replica added later can only begin with a
// snapshot.
func Bootstrap(store *storage.Store, id storage.Identity) error {
	const firstIndex, firstTerm, firstReplica = 10, 1, 1
	b := store.NewBatch()
	defer func() { _ = b.Close() }()
	desc := descriptor{Generation: 1, NextID: firstReplica + 1, Replicas: []replicaAddr{{ID: firstReplica, Node: id.Node}}, Conf: confState{Voters: []uint64{firstReplica}}}
	for i := range id.Shards {
		shard := placement.ShardID(i) //nolint:gosec // below MaxShards
		b.Set(storage.ReplicaKey(shard), encodeUints(firstReplica))
		b.Set(storage.DescriptorKey(shard), desc.encode())
		b.Set(storage.AppliedKey(shard), encodeUints(firstIndex, firstTerm))
		b.Set(storage.TruncatedKey(shard), encodeUints(firstIndex, firstTerm))
		b.Set(storage.HardStateKey(shard), encodeUints(firstTerm, 0, firstIndex))
	}
	return store.SetIdentity(id, b)
}

// New loads the replicas that the store has. It starts nothing; call Start.
func New(cfg Config) (*Host, error) {
	cfg = cfg.withDefaults()
	h := &Host{
		cfg:      cfg,
		store:    cfg.Store,
		logger:   cfg.Logger,
		disk:     diskLog{cfg.Store},
		leaders:  make([]atomic.Pointer[leaderView], cfg.Shards),
		sole:     make([]atomic.Uint64, cfg.Shards),
		wake:     make(chan struct{}, 1),
		groups:   make([]*Group, cfg.Shards),
		fences:   storage.NewFenceCache(cfg.Store, fenceCacheObjects),
		batch:    cfg.Store.NewBatch(),
		flights:  make(chan struct{}, 1),
		received: make(chan struct{}, receivedMax),
		installs: make(chan struct{}, 1),
		out:      make(map[placement.NodeID]*outFrame),

		questions: make(map[placement.NodeID][]confirmItem),
		silent:    make(map[placement.NodeID]bool),
		late:      make(map[placement.NodeID]bool),

		broken:   make(map[placement.NodeID]bool),
		sendRate: rate.NewLimiter(rate.Limit(cfg.SnapshotRate), snapshotBurst),
	}
	h.ctx, h.cancel = context.WithCancelCause(context.Background())
	h.shell, h.hooks.keepEntries = goroutines{h}, logKeepEntries
	for _, w := range []*wave{&h.wave, &h.asks} {
		w.clock = time.Now
		w.timer = time.AfterFunc(time.Hour, h.poke)
		w.timer.Stop()
	}
	shards, err := cfg.Store.Shards()
	if err != nil {
		return nil, err
	}
	for _, shard := range shards {
		if int(shard) >= cfg.Shards {
			return nil, fmt.Errorf("the store has shard %d, the cluster has %d shards: %w", shard, cfg.Shards, storage.ErrCorrupt)
		}
		h.groups[shard] = h.loadOrStop(shard)
	}
	return h, nil
}

// errClosed is why everything ends.
var errClosed = errors.New("the host is closed")

// Start starts the loop.
func (h *Host) Start() {
	h.wg.Go(h.tick)
	h.wg.Go(h.sync)
	h.wg.Go(h.run)
}

// Close stops everything at once, hands nothing over, and waits. What was proposed and not settled
// is refused as unknown.
func (h *Host) Close() error {
	var err error
	h.closed.Do(func() {
		h.cancel(errClosed)
		h.wg.Wait()
		h.wave.timer.Stop()
		h.asks.timer.Stop()
		h.mu.Lock()
		h.mu.closed = true
		h.mu.Unlock()
		h.refuseAll()
		err = h.batch.Close()
	})
	return err
}

// refuseAll answers everybody who still waits. The loop has ended.
func (h *Host) refuseAll() {
	in := h.swap()
	for _, p := range in.proposals {
		(&Group{}).refuse(p.p, false)
	}
	for _, c := range in.confirms {
		c.c.who.Confirmed(c.c.token, ErrNotLeader)
	}
	for _, g := range h.groups {
		if g == nil {
			continue
		}
		g.lose()
	}
}

// tick counts time for the loop and watches it: the count is of this process's own running, so a
// pause of the process is not mistaken for a stalled disk.
func (h *Host) tick() {
	t := time.NewTicker(h.cfg.Tick)
	defer t.Stop()
	var watched uint64 // the last write that had been finished at the last tick
	stalled := 0
	for {
		select {
		case <-h.ctx.Done():
			return
		case <-t.C:
		}
		if h.ticks.Load() < ticksPerLoopMax {
			h.ticks.Add(1)
		}
		h.poke()
		if finished := h.finished.Load(); finished == h.begun.Load() || finished != watched {
			watched, stalled = finished, 0
			continue
		}
		stalled++
		if stalled == max(h.cfg.ElectionTicks/3, 1) {
			h.logger.Warn("the disk is slow: a synced write takes longer than a third of an election timeout")
		}
		if stalled == int(stallMax/h.cfg.Tick) && h.cfg.OnStall != nil {
			h.cfg.OnStall(fmt.Errorf("the disk has not finished a write for %d ticks of %s", stalled, h.cfg.Tick))
		}
	}
}

// stallMax is how long a write may take before the node gives itself up.
const stallMax = 5 * time.Second

func (h *Host) poke() {
	select {
	case h.wake <- struct{}{}:
	default: // The loop is going to look anyway.
	}
}

// swap takes what has come in and leaves an empty inbox.
func (h *Host) swap() inbox {
	h.mu.Lock()
	in := h.mu.in
	h.mu.in = h.spare
	h.mu.Unlock()
	h.spare = inbox{}
	return in
}

// recycle gives the slices of a consumed inbox back for reuse.
func (h *Host) recycle(in inbox) {
	clear(in.frames)
	clear(in.proposals)
	clear(in.confirms)
	clear(in.controls)
	h.spare = inbox{frames: in.frames[:0], proposals: in.proposals[:0], confirms: in.confirms[:0], controls: in.controls[:0]}
}

// Receive takes a frame from a node; it keeps data. Over the bound the frame is dropped.
func (h *Host) Receive(from placement.NodeID, data []byte) {
	h.mu.Lock()
	full := h.mu.closed || len(h.mu.in.frames) >= inboxFramesMax || h.mu.in.bytes+len(data) > inboxBytesMax
	if !full {
		h.mu.in.frames = append(h.mu.in.frames, inFrame{from, data})
		h.mu.in.bytes += len(data)
	}
	h.mu.Unlock()
	if full {
		h.counters.framesDropped.Add(1)
		return
	}
	h.poke()
}

// Propose queues a segment; s is told of its fate. Segments of one object keep their order.
func (h *Host) Propose(shard placement.ShardID, seg *storage.Segment, s Settler) {
	p := proposal{seg: seg, settler: s}
	if !h.enqueue(shard, p) {
		p.traceRefused(false)
		s.Refused(seg.Sequence, false)
	}
}

// ProposeEmpty proposes nothing, for measuring what replication itself costs.
func (h *Host) ProposeEmpty(shard placement.ShardID, done func(error)) {
	if !h.enqueue(shard, proposal{done: done}) {
		done(ErrNotLeader)
	}
}

// EndClass proposes to delete every object of a class, by its unique key, in the shard, and to bar the
// class there for good. done is told, from any goroutine, when that is committed, or why it may not be.
// Ending a class again changes nothing. Only for clusters in which every node knows of it: others stop.
func (h *Host) EndClass(shard placement.ShardID, class string, done func(error)) {
	if !h.enqueue(shard, proposal{endClass: class, done: done}) {
		done(ErrNotLeader)
	}
}

func (h *Host) enqueue(shard placement.ShardID, p proposal) bool {
	h.mu.Lock()
	full := h.mu.closed || len(h.mu.in.proposals) >= inboxProposalsMax
	if !full {
		h.mu.in.proposals = append(h.mu.in.proposals, inProposal{shard, p})
	}
	h.mu.Unlock()
	if full {
		return false
	}
	h.poke()
	return true
}

// Confirm asks whether this node still owns the shard in the term, at some moment after the call:
// one question to a majority of its voters, shared by all who ask meanwhile, also about other
// shards (P1, P4). confirm.go says why it is sound.
func (h *Host) Confirm(shard placement.ShardID, term uint64, who Confirmer, token uint64) {
	h.mu.Lock()
	closed := h.mu.closed
	if !closed {
		h.mu.in.confirms = append(h.mu.in.confirms, inConfirm{shard, confirmation{term, who, token}})
	}
	h.mu.Unlock()
	if closed {
		who.Confirmed(token, ErrNotLeader)
		return
	}
	h.poke()
}

// ConfirmNow is Confirm answered at once, where that can be: when this node owns the shard in the
// term and is its only voter, nobody else can have been elected, because no election is won
// without its vote. The mark is taken away before a change that adds a voter takes effect here,
// and no other replica may vote before this one, which alone commits the change, has applied it.
func (h *Host) ConfirmNow(shard placement.ShardID, term uint64) bool {
	return term != 0 && h.sole[shard].Load() == term
}

// Leader returns who leads the shard, as far as the replica here knows.
func (h *Host) Leader(shard placement.ShardID) (placement.NodeID, uint64, bool) {
	v := h.leaders[shard].Load()
	if v == nil || v.node == 0 {
		return 0, 0, false
	}
	return v.node, v.term, true
}

// Damaged says that reading the shard's state has failed: the replica stops, hands its part to the
// others, and is made anew from theirs.
func (h *Host) Damaged(shard placement.ShardID, err error) {
	h.control(func() {
		if g := h.group(shard); g != nil {
			h.fail(g, err)
		}
	})
}

// Reader reads the applied state of an object.
func (h *Host) Reader(shard placement.ShardID, ref storage.ObjectRef) storage.ObjectReader {
	return h.store.Object(shard, ref)
}

// control runs fn on the loop. It returns false when the loop has ended.
func (h *Host) control(fn func()) bool {
	h.mu.Lock()
	closed := h.mu.closed || h.ctx.Err() != nil
	if !closed {
		h.mu.in.controls = append(h.mu.in.controls, fn)
	}
	h.mu.Unlock()
	if !closed {
		h.poke()
	}
	return !closed
}

// loadOrStop makes the group of a replica that the store has. One that can't go on is the others'
// to replace; the node serves the rest.
func (h *Host) loadOrStop(shard placement.ShardID) *Group {
	g := h.newGroup(shard)
	if err := h.load(g); err != nil {
		h.fail(g, err)
	}
	return g
}

// load reads what the store has of a replica, and starts Raft on it.
func (h *Host) load(g *Group) error {
	shard := g.shard
	var hs [3]uint64
	for _, f := range []struct {
		key  []byte
		what string
		into []*uint64
	}{
		{storage.ReplicaKey(shard), "replica id", []*uint64{&g.id}},
		{storage.AppliedKey(shard), "applied index", []*uint64{&g.applied.Index, &g.applied.Term}},
		{storage.TruncatedKey(shard), "truncated index", []*uint64{&g.log.trunc.Index, &g.log.trunc.Term}},
		{storage.HardStateKey(shard), "hard state", []*uint64{&hs[0], &hs[1], &hs[2]}},
	} {
		raw, ok, err := h.store.Get(f.key)
		if err != nil {
			return err
		}
		if !ok {
			continue // A replica that has had no snapshot yet has only its id.
		}
		if err := readUints(f.what, raw, f.into...); err != nil {
			return err
		}
	}
	raw, ok, err := h.store.Get(storage.DescriptorKey(shard))
	if err != nil {
		return err
	}
	if ok {
		d, err := decodeDescriptor(raw)
		if err != nil {
			return err
		}
		g.setDescriptor(d)
	}
	if err := h.loadLast(g); err != nil {
		return err
	}
	// The applied index may be ahead of the commit that Raft wrote down, never behind.
	commit := max(hs[2], g.applied.Index)
	if commit > g.log.last.Index {
		return fmt.Errorf("committed up to %d, but the log ends at %d: %w", commit, g.log.last.Index, storage.ErrCorrupt)
	}
	g.log.hard = raftpb.HardState{Term: new(hs[0]), Vote: new(hs[1]), Commit: &commit}
	g.term = hs[0]
	return h.startRaft(g)
}

func (h *Host) newGroup(shard placement.ShardID) *Group {
	g := &Group{
		shard:   shard,
		self:    h.cfg.Node,
		owner:   h.cfg.Owner,
		sole:    &h.sole[shard],
		stopped: make(map[uint64]bool),
		scratch: &h.scratch,
		wave:    &h.wave,
		asks:    &h.asks,
		affirms: make(affirms),
		hooks:   &h.hooks,
		heard:   make(map[uint64]placement.NodeID),
		untold:  make(map[uint64]uint64),
		refused: make(map[incarnation]struct{}),
	}
	g.onClassEnded = h.cfg.OnClassEnded
	g.log = groupLog{shard: shard, disk: h.disk, group: g}
	return g
}

// loadLast finds where the log ends.
func (h *Host) loadLast(g *Group) error {
	g.log.last = g.log.trunc
	lo, hi := storage.LogSpan(g.shard, g.log.trunc.Index+1, noLimit)
	it, err := h.store.Iter(lo, hi)
	if err != nil {
		return err
	}
	defer it.Close()
	if !it.Last() {
		return it.Error()
	}
	index, err := storage.LogIndex(it.Key())
	if err != nil {
		return err
	}
	e, err := decodeLogEntry(index, it.Value())
	if err != nil {
		return err
	}
	g.log.last = indexTerm{index, e.GetTerm()}
	return nil
}

// startRaft starts the library's state machine. It panics on a state that it finds impossible;
// that is this replica's end, not the node's.
func (h *Host) startRaft(g *Group) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("raft refuses the stored state: %v: %w", p, storage.ErrCorrupt)
		}
	}()
	g.rn, err = raft.NewRawNode(raftConfig(h.cfg, g.id, g.applied.Index, &g.log, raftLogger{h.logger, g.shard}))
	if err != nil {
		return fmt.Errorf("start raft: %w", err)
	}
	return nil
}

// raftLogger implements raft.Logger: what the library says is debugging, and its panics stay
// panics, which the loop turns into the end of one replica.
type raftLogger struct {
	logger *slog.Logger
	shard  placement.ShardID
}

func (l raftLogger) log(level slog.Level, text string) {
	l.logger.LogAttrs(context.Background(), level, "raft", slog.Int("shard", int(l.shard)), slog.String("text", text))
}

func (l raftLogger) debugging() bool {
	return l.logger.Enabled(context.Background(), slog.LevelDebug)
}

func (l raftLogger) debug(v ...any) {
	if l.debugging() {
		l.log(slog.LevelDebug, fmt.Sprint(v...))
	}
}

func (l raftLogger) debugf(format string, v ...any) {
	if l.debugging() {
		l.log(slog.LevelDebug, fmt.Sprintf(format, v...))
	}
}

// Debug implements raft.Logger.
func (l raftLogger) Debug(v ...any) { l.debug(v...) }

// Debugf implements raft.Logger.
func (l raftLogger) Debugf(format string, v ...any) { l.debugf(format, v...) }

// Info implements raft.Logger.
func (l raftLogger) Info(v ...any) { l.debug(v...) }

// Infof implements raft.Logger.
func (l raftLogger) Infof(format string, v ...any) { l.debugf(format, v...) }

// Warning implements raft.Logger.
func (l raftLogger) Warning(v ...any) { l.debug(v...) }

// Warningf implements raft.Logger.
func (l raftLogger) Warningf(format string, v ...any) { l.debugf(format, v...) }

// Error implements raft.Logger.
func (l raftLogger) Error(v ...any) { l.log(slog.LevelError, fmt.Sprint(v...)) }

// Errorf implements raft.Logger.
func (l raftLogger) Errorf(format string, v ...any) {
	l.log(slog.LevelError, fmt.Sprintf(format, v...))
}

// Fatal implements raft.Logger.
func (l raftLogger) Fatal(v ...any) { panic(fmt.Sprint(v...)) }

// Fatalf implements raft.Logger.
func (l raftLogger) Fatalf(format string, v ...any) { panic(fmt.Sprintf(format, v...)) }

// Panic implements raft.Logger.
func (l raftLogger) Panic(v ...any) { panic(fmt.Sprint(v...)) }

// Panicf implements raft.Logger.
func (l raftLogger) Panicf(format string, v ...any) { panic(fmt.Sprintf(format, v...)) }

var _ io.Closer = (*Host)(nil)
