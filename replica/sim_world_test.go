package replica

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/cespare/xxhash/v2"

	"github.com/holdfast-io/holdfast/placement"
	"github.com/holdfast-io/holdfast/storage"
	"github.com/holdfast-io/holdfast/storage/storagetest"
)

// This file is the world of the simulation: time, the network, disks, processes, and what becomes of
// them. sim_fault_test.go decides what goes wrong, sim_object_test.go runs objects on the owners,
// sim_check_test.go says whether what happened may happen.
//
// Everything runs in one thread and draws from one source of randomness, so that a seed is a run. A
// Host is what it is in production but for its goroutines: the world calls its rounds, ticks and
// syncs itself, in an order of its own choosing.

// simConfig is what a run is made of.
type simConfig struct {
	seed  uint64
	steps int    // until everything is mended and the end is checked
	broke string // name of a break
	trace io.Writer
}

// Bounds of a world.
const (
	simTick      = 100 * time.Millisecond
	simNodesMax  = 8
	simRoundsMax = 200 // of one turn of a loop
)

// simulation is one run.
type simulation struct {
	simConfig

	rng    *rand.Rand
	now    time.Duration
	events simHeap
	seq    uint64
	step   int
	digest uint64 // of everything that has happened
	err    error  // the first violation
	stats  *simStats

	shards  int
	objects int // per shard
	weather simWeather
	nodes   []*simNode
	ring    []placement.NodeID
	removed map[placement.NodeID]bool
	oracle  *oracle
	nextID  uint64 // of writes

	calm       bool // no more faults
	calmSince  time.Duration
	calmWrites int // acknowledged since

	faultEvery                    time.Duration
	electionTicks, heartbeatTicks int
	keepEntries                   uint64
}

// simWeather is how the network is at the moment, in thousandths.
type simWeather struct {
	lost, doubled, late int
}

// simNode is a computer: its disk outlives its processes.
type simNode struct {
	sim     *simulation
	id      placement.NodeID
	disk    *storagetest.Disk
	host    *Host // nil: it does not run
	owner   *simOwner
	process int // counts them
	tick    time.Duration
	cut     map[placement.NodeID]bool // what it sends to them is lost

	pausedUntil time.Duration
	backlog     []simEvent // while it is paused
	turnDue     bool
	outbox      []simFrame
	offers      []simOffer // snapshots whose fate is not known yet

	crashIn     int // disk operations until it crashes; 0: it does not
	crashBefore bool
	crashed     storagetest.Op // during this turn
	full        bool           // the disk refuses writes
	wasFull     bool           // since the process began
	wiped       bool           // its disk is lost, and it with it
	retired     bool           // it was removed and has stopped for good
	hinted      map[placement.NodeID]bool

	checked []simChecked // by shard
}

type simFrame struct {
	to   placement.NodeID
	data []byte
}

type simOffer struct {
	result chan error
	done   func(error)
}

// simCrash is what a disk operation panics with when the power goes.
type simCrash struct{ op storagetest.Op }

var errSimDiskFull = errors.New("no space left on device")

func newSimulation(cfg simConfig, stats *simStats) *simulation {
	s := &simulation{simConfig: cfg, stats: stats, rng: rand.New(rand.NewPCG(cfg.seed, 0)), removed: make(map[placement.NodeID]bool)}
	s.shards = 1 + s.rng.IntN(3)
	s.objects = 1 + s.rng.IntN(3)
	s.electionTicks = 5 + s.rng.IntN(6)
	s.heartbeatTicks = 1 + s.rng.IntN(3)
	s.keepEntries = uint64(25 + s.rng.IntN(50)) //nolint:gosec // not negative
	s.oracle = newOracle(s)
	s.changeWeather()
	s.faultEvery = s.between(50*time.Millisecond, 700*time.Millisecond)
	for range []int{1, 3, 3, 4, 5}[s.rng.IntN(5)] {
		s.addNode()
	}
	return s
}

// addNode adds a computer with an empty disk; the first one creates the cluster.
func (s *simulation) addNode() *simNode {
	n := &simNode{
		sim: s, id: placement.NodeID(len(s.nodes) + 1), disk: &storagetest.Disk{}, tick: simTick, //nolint:gosec // small
		cut: make(map[placement.NodeID]bool), hinted: make(map[placement.NodeID]bool),
	}
	n.disk.Before, n.disk.After = n.beforeWrite, n.afterWrite
	s.nodes = append(s.nodes, n)
	s.ring = append(s.ring, n.id)
	if n.id == 1 {
		store, err := n.disk.Open()
		if err == nil {
			err = Bootstrap(store, storage.Identity{ClusterID: "c", Node: n.id, Shards: s.shards})
		}
		if err != nil {
			s.violatef("bootstrap: %v", err)
		}
	}
	s.start(n)
	return n
}

func (s *simulation) node(id placement.NodeID) *simNode { return s.nodes[id-1] }

// Time.

// simEvent happens at a time; if it has a node, then to the process that the node had when it was
// scheduled.
type simEvent struct {
	at      time.Duration
	seq     uint64
	name    string
	node    *simNode
	process int
	run     func()
}

// simHeap is a binary heap by time, and by order of scheduling where times are equal.
type simHeap []simEvent

func (h simHeap) less(i, j int) bool {
	return h[i].at < h[j].at || h[i].at == h[j].at && h[i].seq < h[j].seq
}

func (h *simHeap) push(e simEvent) {
	*h = append(*h, e)
	for i := len(*h) - 1; i > 0; {
		parent := (i - 1) / 2
		if !h.less(i, parent) {
			break
		}
		(*h)[i], (*h)[parent] = (*h)[parent], (*h)[i]
		i = parent
	}
}

func (h *simHeap) pop() simEvent {
	top, last := (*h)[0], len(*h)-1
	(*h)[0] = (*h)[last]
	(*h)[last] = simEvent{}
	*h = (*h)[:last]
	for i := 0; ; {
		child := 2*i + 1
		if child >= last {
			break
		}
		if child+1 < last && h.less(child+1, child) {
			child++
		}
		if !h.less(child, i) {
			break
		}
		(*h)[i], (*h)[child] = (*h)[child], (*h)[i]
		i = child
	}
	return top
}

// at schedules something that happens to no node in particular.
func (s *simulation) at(d time.Duration, name string, run func()) {
	s.seq++
	s.events.push(simEvent{at: s.now + d, seq: s.seq, name: name, run: run})
}

// on schedules something that happens to the node's present process.
func (n *simNode) on(d time.Duration, name string, run func()) {
	s := n.sim
	s.seq++
	s.events.push(simEvent{at: s.now + d, seq: s.seq, name: name, node: n, process: n.process, run: run})
}

// between draws a duration.
func (s *simulation) between(lo, hi time.Duration) time.Duration {
	return lo + time.Duration(s.rng.Int64N(int64(hi-lo)+1))
}

// chance is true so many times of a thousand.
func (s *simulation) chance(perMille int) bool { return s.rng.IntN(1000) < perMille }

// next makes the next step.
func (s *simulation) next() {
	e := s.events.pop()
	s.now = e.at
	n := e.node
	switch {
	case n == nil:
	case n.process != e.process || n.host == nil:
		return // It is another process now.
	case n.pausedUntil > s.now:
		n.backlog = append(n.backlog, e)
		return
	}
	s.step++
	s.stats.steps++
	s.mix(e.name, n, uint64(s.now)) //nolint:gosec // not negative
	e.run()
}

// mix makes something part of what the run is remembered by.
func (s *simulation) mix(what string, n *simNode, v uint64) {
	var b [24]byte
	if n != nil {
		b[0] = byte(n.id)
	}
	binary.BigEndian.PutUint64(b[8:], v)
	binary.BigEndian.PutUint64(b[16:], s.digest)
	s.digest = xxhash.Sum64(b[:]) ^ xxhash.Sum64String(what)
}

// tracef writes a line of the run, for who reads it.
func (s *simulation) tracef(n *simNode, format string, args ...any) {
	if s.trace == nil {
		return
	}
	who := "  "
	if n != nil {
		who = fmt.Sprintf("n%d", n.id)
	}
	_, _ = fmt.Fprintf(s.trace, "%6d %10s %s %s\n", s.step, s.now.Round(time.Microsecond), who, fmt.Sprintf(format, args...))
}

// violate records a broken promise. The first one ends the run.
func (s *simulation) violatef(format string, args ...any) {
	if s.err == nil {
		s.err = fmt.Errorf("step %d: "+format, append([]any{s.step}, args...)...)
		s.tracef(nil, "VIOLATION: "+format, args...)
	}
}

// Processes.

// start begins a process on the node, if its disk lets it.
func (s *simulation) start(n *simNode) {
	if n.host != nil || n.wiped || n.retired {
		return
	}
	n.process++
	n.backlog, n.offers, n.outbox = nil, nil, nil
	n.pausedUntil, n.turnDue, n.crashed, n.wasFull = 0, false, "", n.full
	n.checked = make([]simChecked, s.shards)
	clear(n.hinted)
	ok := n.guarded(func() {
		store, err := n.disk.Open()
		if err != nil {
			if !n.full {
				s.violatef("open: %v", err)
			}
			panic(simCrash{})
		}
		n.owner = newSimOwner(n)
		host, err := New(Config{
			Node: n.id, Shards: s.shards, Store: store, Transport: simTransport{n}, Owner: n.owner, Logger: s.logger(n),
			Tick: simTick, ElectionTicks: s.electionTicks, HeartbeatTicks: s.heartbeatTicks, LeaderStable: 5 * simTick,
			OnClassEnded: n.owner.classEnded,
		})
		if err != nil {
			s.violatef("start: %v", err)
			panic(simCrash{})
		}
		clock := func() time.Time { return time.Unix(0, int64(s.now)) }
		host.shell = simShell{n}
		for _, w := range []*wave{&host.wave, &host.asks} {
			w.clock, w.timer = clock, &simAlarm{node: n}
		}
		host.hooks = s.hooks()
		n.owner.host, n.host = host, host
		host.campaignAlone()
	})
	if !ok {
		n.down()
		n.sim.at(s.between(100*time.Millisecond, time.Second), "restart", func() { s.start(n) })
		return
	}
	s.tracef(n, "started, process %d", n.process)
	n.host.SetMembership(s.membership(n))
	n.nextTick()
	n.gossip()
	n.turnSoon()
}

func (s *simulation) hooks() hooks {
	return hooks{
		keepEntries:            s.keepEntries,
		dropFsync:              s.broke == "drop-fsync",
		answerBeforeCommit:     s.broke == "answer-before-commit",
		unconfirmedRead:        s.broke == "unconfirmed-read",
		confChangeTwice:        s.broke == "conf-change-twice",
		snapshotWithoutApplied: s.broke == "snapshot-without-applied-index",
	}
}

func (s *simulation) logger(n *simNode) *slog.Logger {
	if s.trace == nil {
		return nil
	}
	return slog.New(slog.NewTextHandler(simLogWriter{n}, &slog.HandlerOptions{Level: slog.LevelDebug, ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}}))
}

type simLogWriter struct{ n *simNode }

// Write implements io.Writer.
func (w simLogWriter) Write(b []byte) (int, error) {
	w.n.sim.tracef(w.n, "%s", strings.TrimSuffix(string(b), "\n"))
	return len(b), nil
}

// guarded runs the node's code and says whether the process has survived it.
func (n *simNode) guarded(fn func()) (survived bool) {
	defer func() {
		switch p := recover(); p := p.(type) {
		case nil:
			survived = n.crashed == ""
		case simCrash:
		default:
			if !n.full {
				n.sim.violatef("node %d panicked: %v\n%s", n.id, p, debug.Stack())
			}
		}
	}()
	fn()
	return
}

// beforeWrite is before every write of the disk.
func (n *simNode) beforeWrite(op storagetest.Op) error {
	if n.full {
		n.sim.stats.refusedWrites++
		return errSimDiskFull
	}
	n.crashAt(op, true)
	return nil
}

func (n *simNode) afterWrite(op storagetest.Op) { n.crashAt(op, false) }

func (n *simNode) crashAt(op storagetest.Op, before bool) {
	if n.crashIn == 0 || n.crashBefore != before {
		return
	}
	if n.crashIn--; n.crashIn > 0 {
		return
	}
	n.crashed = op
	n.sim.stats.crashPoints[op]++
	n.sim.tracef(n, "loses power (%v %s)", map[bool]string{true: "before", false: "after"}[before], op)
	panic(simCrash{op})
}

// down ends the process and cuts the power of the disk.
func (n *simNode) down() {
	keep := n.sim.rng.IntN(n.disk.Unsynced() + 1)
	n.sim.mix("down", n, uint64(keep)) //nolint:gosec // small
	if n.owner != nil {
		n.owner.die()
	}
	n.host, n.owner, n.crashIn = nil, nil, 0
	n.process++
	n.disk.Crash(keep)
	for _, o := range n.offers {
		o.done(errors.New("the receiver died"))
	}
	n.offers = nil
}

// crash ends the process at once.
func (s *simulation) crash(n *simNode) {
	if n.host == nil {
		return
	}
	s.stats.crashes++
	s.tracef(n, "crashed")
	n.flushOutbox() // What was sent before is on its way.
	n.down()
	for _, other := range s.nodes {
		// Connections break; most nodes notice.
		if other.host != nil && s.chance(700) {
			other.hint(n.id, s.between(time.Millisecond, 60*time.Millisecond))
		}
	}
	back := s.between(20*time.Millisecond, time.Second)
	if s.chance(200) {
		back = s.between(time.Second, 6*time.Second)
	}
	s.at(back, "restart", func() { s.start(n) })
}

// hint tells a node that its connections to another broke, and later that there are new ones.
func (n *simNode) hint(about placement.NodeID, d time.Duration) {
	if n.hinted[about] {
		return
	}
	n.hinted[about] = true
	n.on(d, "broken", func() {
		n.host.PeerBroken(about)
		n.on(n.sim.between(100*time.Millisecond, 3*time.Second), "connected", func() {
			n.hinted[about] = false
			n.host.PeerConnected(about)
			n.turnSoon()
		})
		n.turn()
	})
}

// stop ends the process as a planned stop does: what is on its way to the disk lands first.
func (s *simulation) stop(n *simNode) {
	if n.host == nil {
		return
	}
	s.tracef(n, "stops")
	ok := n.guarded(func() {
		if n.host.flying {
			n.host.syncBatch()
			n.host.round()
		}
		if err := n.host.Close(); err != nil {
			s.violatef("close: %v", err)
		}
	})
	n.flushOutbox()
	if ok {
		n.check()
	} else {
		s.oracle.settle()
	}
	n.down()
}

// The loop.

func (n *simNode) nextTick() {
	n.on(n.tick, "tick", func() {
		if n.host.ticks.Load() < ticksPerLoopMax {
			n.host.ticks.Add(1)
		}
		n.nextTick()
		n.turn()
	})
}

// turnSoon wakes the loop; what comes until it runs shares its round.
func (n *simNode) turnSoon() {
	if n.host == nil || n.turnDue {
		return
	}
	n.turnDue = true
	n.on(n.sim.between(0, 200*time.Microsecond), "turn", n.turn)
}

// turn runs the loop's rounds until it would wait.
func (n *simNode) turn() {
	n.turnDue = false
	s := n.sim
	ok := n.guarded(func() {
		for i := 0; ; i++ {
			n.host.round()
			if i > simRoundsMax {
				s.violatef("node %d: the loop does not come to rest", n.id)
				return
			}
			if n.host.more() {
				continue
			}
			select {
			case <-n.host.wake:
			default:
				return
			}
		}
	})
	if !ok {
		s.crash(n)
		s.oracle.settle()
		return
	}
	select {
	case <-n.host.flights:
		n.on(n.diskDelay(), "landed", func() {
			if n.guarded(n.host.syncBatch) {
				n.turn()
			} else {
				s.crash(n)
			}
		})
	default:
	}
	n.flushOutbox()
	n.check()
	n.answerOffers()
}

func (n *simNode) diskDelay() time.Duration {
	if n.sim.chance(20) {
		return n.sim.between(time.Millisecond, 200*time.Millisecond)
	}
	return n.sim.between(50*time.Microsecond, 2*time.Millisecond)
}

func (n *simNode) answerOffers() {
	n.offers = slices.DeleteFunc(n.offers, func(o simOffer) bool {
		select {
		case err := <-o.result:
			if err == nil {
				n.sim.stats.snapshots++
			}
			n.sim.tracef(n, "snapshot: %v", err)
			o.done(err)
			return true
		default:
			return false
		}
	})
}

// pause stops the process for a while, as SIGSTOP does. What comes meanwhile waits for it.
func (n *simNode) pause(d time.Duration) {
	if n.host == nil || n.pausedUntil > n.sim.now {
		return
	}
	n.sim.stats.pauses++
	n.sim.tracef(n, "paused for %s", d)
	n.pausedUntil = n.sim.now + d
	process := n.process
	n.sim.at(d, "resume", func() {
		if n.process != process {
			return
		}
		n.pausedUntil = 0
		backlog := n.backlog
		n.backlog = nil
		for _, e := range backlog { // It comes by different ways, and so in any order.
			n.on(n.sim.between(0, 5*time.Millisecond), e.name, e.run)
		}
	})
}

// simShell implements shell.
type simShell struct{ n *simNode }

func (sh simShell) after(d time.Duration, fn func()) {
	n := sh.n
	n.on(d, "after", func() {
		n.host.control(fn)
		n.turn()
	})
}

// stream implements shell: the data is read now, arrives later whole or not at all, and the sender
// hears of it later still.
func (sh simShell) stream(snap *storage.Snapshot, to placement.NodeID, header snapshotHeader, done func(error)) {
	n, s := sh.n, sh.n.sim
	report := func(err error) {
		if s.chance(50) {
			err = errors.New("the stream broke before the answer")
		}
		n.on(s.between(100*time.Microsecond, 5*time.Millisecond), "snapshot sent", func() {
			n.host.control(func() { done(err) })
			n.turn()
		})
	}
	it, err := snap.Iter(storage.StateSpan(header.shard))
	if err != nil {
		s.violatef("snapshot: %v", err)
		return
	}
	var runs [][]byte
	for reader := newRunReader(it, nil); ; {
		pairs, err := reader.next()
		if err != nil {
			break
		}
		runs = append(runs, pairs)
	}
	it.Close()
	if err := snap.Close(); err != nil {
		s.violatef("snapshot: %v", err)
	}
	s.tracef(n, "sends a snapshot of shard %d at %d to n%d", header.shard, header.at.Index, to)
	receiver := s.node(to)
	delay := s.between(time.Millisecond, 30*time.Millisecond)
	if s.chance(100) {
		delay = s.between(30*time.Millisecond, 3*time.Second)
	}
	if receiver.host == nil || n.cut[to] || s.chance(s.weather.lost) {
		report(errors.New("unreachable"))
		return
	}
	process := receiver.process
	var arrive func()
	arrive = func() {
		switch {
		case receiver.process != process || n.cut[to]:
			report(errors.New("unreachable"))
		case receiver.pausedUntil > s.now:
			s.at(receiver.pausedUntil-s.now, "snapshot waits", arrive)
		default:
			receiver.takeSnapshot(n.id, header.encode(), runs, report)
		}
	}
	s.at(delay, "snapshot arrives", arrive)
}

func (n *simNode) takeSnapshot(from placement.NodeID, header []byte, runs [][]byte, report func(error)) {
	var in *install
	var err error
	ok := n.guarded(func() {
		in, err = n.host.stage(header, func([]byte) error { return nil }, func() ([]byte, error) {
			if len(runs) == 0 {
				return nil, io.EOF
			}
			run := runs[0]
			runs = runs[1:]
			return run, nil
		})
	})
	switch {
	case !ok:
		report(errors.New("the receiver died"))
		n.sim.crash(n)
	case err != nil:
		report(err)
	default:
		result := make(chan error, 1)
		n.offers = append(n.offers, simOffer{result, report})
		n.host.control(func() { n.host.offer(from, in, result) })
		n.turn()
	}
}

// simAlarm implements alarm. Like a timer it rings once, as last set.
type simAlarm struct {
	node *simNode
	set  int // counts
}

// Reset implements alarm.
func (a *simAlarm) Reset(d time.Duration) bool {
	a.set++
	set := a.set
	a.node.on(d, "wake", func() {
		if a.set == set {
			a.node.turn()
		}
	})
	return true
}

// Stop implements alarm.
func (a *simAlarm) Stop() bool {
	a.set++
	return true
}

// The network.

// simTransport implements Transport.
type simTransport struct{ n *simNode }

// Send implements Transport. Frames leave in the order of their receivers, which the order of the
// host's calls does not have.
func (t simTransport) Send(to placement.NodeID, frame []byte) bool {
	if to == t.n.id || int(to) > len(t.n.sim.nodes) {
		t.n.sim.violatef("node %d sends to node %d", t.n.id, to)
		return false
	}
	t.n.outbox = append(t.n.outbox, simFrame{to, frame})
	return true
}

// SendSnapshot implements Transport. Snapshots go by simShell.
func (simTransport) SendSnapshot(context.Context, placement.NodeID, []byte, func([]byte) (func() ([]byte, error), error)) error {
	return errors.ErrUnsupported
}

func (n *simNode) flushOutbox() {
	frames := n.outbox
	n.outbox = nil
	slices.SortStableFunc(frames, func(a, b simFrame) int { return int(a.to) - int(b.to) })
	for _, f := range frames {
		n.sim.mix("frame", n, xxhash.Sum64(f.data)^uint64(f.to))
		n.sim.deliver(n, f)
		if n.sim.chance(n.sim.weather.doubled) {
			n.sim.stats.doubled++
			n.sim.deliver(n, simFrame{f.to, slices.Clone(f.data)})
		}
	}
}

func (s *simulation) deliver(from *simNode, f simFrame) {
	to := s.node(f.to)
	if from.cut[f.to] || s.chance(s.weather.lost) {
		s.stats.lost++
		return
	}
	delay := s.between(100*time.Microsecond, time.Millisecond)
	if s.chance(s.weather.late) {
		s.stats.late++
		delay = s.between(time.Millisecond, time.Second)
	}
	s.at(delay, "deliver", func() {
		switch {
		case to.host == nil:
		case to.pausedUntil > s.now:
			// The kernel takes it for the process.
			if len(to.backlog) < 500 {
				to.backlog = append(to.backlog, simEvent{name: "deliver", run: func() { to.receive(from.id, f.data) }})
			}
		default:
			to.receive(from.id, f.data)
		}
	})
}

func (n *simNode) receive(from placement.NodeID, data []byte) {
	n.host.Receive(from, data)
	n.turnSoon()
}

func (s *simulation) changeWeather() {
	s.weather = simWeather{lost: s.rng.IntN(30), doubled: s.rng.IntN(30), late: s.rng.IntN(30)}
	switch s.rng.IntN(4) {
	case 0:
		s.weather = simWeather{}
	case 1:
		s.weather.lost, s.weather.late = s.rng.IntN(300), s.rng.IntN(300)
	}
}

// Membership.

// simRings keeps the rings that were computed: they are functions of their members.
var simRings = make(map[string]*placement.Ring)

func simRing(members []placement.NodeID, shards int) *placement.Ring {
	key := fmt.Sprint(members, shards)
	ring := simRings[key]
	if ring == nil {
		ring = placement.NewRing(members, shards, 3)
		simRings[key] = ring
	}
	return ring
}

// membership is what the node knows of the cluster at the moment: gossip, which may be wrong.
func (s *simulation) membership(n *simNode) Membership {
	m := Membership{Ring: simRing(s.ring, s.shards), Live: make(map[placement.NodeID]bool), Removed: make(map[placement.NodeID]bool), NoLead: make(map[placement.NodeID]bool)}
	for _, other := range s.nodes {
		live := other.host != nil && other.pausedUntil < s.now && (!n.cut[other.id] || !other.cut[n.id])
		if !s.calm && s.chance(20) {
			live = !live
		}
		m.Live[other.id] = live || other == n
		m.Removed[other.id] = s.removed[other.id]
		if !s.calm && s.chance(20) {
			m.NoLead[other.id] = true
		}
	}
	return m
}

func (n *simNode) gossip() {
	n.on(n.sim.between(200*time.Millisecond, 800*time.Millisecond), "gossip", func() {
		n.host.SetMembership(n.sim.membership(n))
		n.gossip()
		n.turnSoon()
	})
}
