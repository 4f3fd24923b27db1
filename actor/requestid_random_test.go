package actor_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/holdfast-io/holdfast/actor"
	"github.com/holdfast-io/holdfast/examples/counter/counterv1"
	"github.com/holdfast-io/holdfast/fault"
	"github.com/holdfast-io/holdfast/placement"
	"github.com/holdfast-io/holdfast/storage"
)

// A tally counts how often each call has had an effect. What a call does goes by its number.
type tally struct {
	counterv1.UnimplementedCounterServer

	state *actor.State
}

type conduct int64

const (
	writesAndFails    conduct = iota // an error of the handler, whose writes are kept
	writesTwice                      // two segments
	confirmsAndWrites                // two segments, of which only the second writes
	confirmsAndReads                 // two segments, of which only the first writes
	confirmsAndPanics                // the first segment stays
	writesAndPanics                  // nothing stays
	reads                            // no effect
	writes                           // one segment
	conducts
)

func conductOf(n int64) conduct { return min(conduct(n)%(conducts+4), writes) }

func (c *tally) Increment(ctx context.Context, in *counterv1.IncrementRequest) (*counterv1.IncrementResponse, error) {
	n := in.GetAmount()
	s := c.state.Storage()
	runs, _, err := actor.Get[int64](s, "runs")
	if err != nil {
		return nil, err
	}
	effect := func(key string) {
		key = fmt.Sprintf("%s/%d", key, n)
		before, _, err := actor.Get[int64](s, key)
		if err == nil {
			err = errors.Join(actor.Put(s, key, before+1), actor.Put(s, "runs", runs+1))
		}
		if err != nil {
			panic(err)
		}
	}
	reply := &counterv1.IncrementResponse{Value: runs + 1}
	switch conductOf(n) {
	case reads:
		return reply, nil
	case writesAndFails:
		effect("a")
		return nil, status.Errorf(codes.FailedPrecondition, "after %d", runs)
	case writesAndPanics:
		effect("a")
		panic("as it was told")
	case writesTwice, confirmsAndReads, confirmsAndPanics:
		effect("a")
		if err := c.state.Confirm(ctx); err != nil {
			return nil, err
		}
		if conductOf(n) == writesTwice {
			effect("b")
		} else if conductOf(n) == confirmsAndPanics {
			panic("as it was told")
		}
	case confirmsAndWrites:
		if err := c.state.Confirm(ctx); err != nil {
			return nil, err
		}
		effect("a")
	default:
		effect("a")
	}
	return reply, nil
}

// cluster is a log and a store for one shard, whose owner is lost and found again, at random.
type cluster struct {
	t       *testing.T
	rng     *rand.Rand
	m       *actor.Manager
	store   *storage.Store
	fences  *storage.FenceCache
	term    uint64
	pending []proposal // not committed
	unread  []proposal // committed and applied, and not said to be
	asked   []func(error)
	calls   []*tried
}

type proposal struct {
	seg *storage.Segment
	s   actor.Settler
}

// tried is one call and all that its callers were told.
type tried struct {
	n int64

	mu      sync.Mutex // Answers come from any goroutine; the rest is read when all wait.
	flying  int
	replies []actor.Result // all that do not say to make it again
}

func (c *cluster) Propose(_ placement.ShardID, seg *storage.Segment, s actor.Settler) {
	c.pending = append(c.pending, proposal{seg, s})
}

func (c *cluster) Confirm(_ placement.ShardID, term uint64, f actor.Confirmer, token uint64) {
	c.asked = append(c.asked, func(err error) {
		if term != c.term {
			err = errors.New("another term")
		}
		f.Confirmed(token, err)
	})
}

func (c *cluster) ConfirmNow(placement.ShardID, uint64) bool { return false }

func (c *cluster) Reader(shard placement.ShardID, ref storage.ObjectRef) storage.ObjectReader {
	return c.store.Object(shard, ref)
}

func (c *cluster) Damaged(_ placement.ShardID, err error) { c.t.Errorf("damaged: %v", err) }

var tallyRef = storage.ObjectRef{Class: "Tally", ID: placement.ObjectID{1}}

// deliver calls, or calls again.
func (c *cluster) deliver(call *tried) {
	n := call.n
	body, err := proto.Marshal(&counterv1.IncrementRequest{Amount: &n})
	if err != nil {
		c.t.Fatal(err)
	}
	call.mu.Lock()
	call.flying++
	call.mu.Unlock()
	c.m.Deliver(&actor.Call{
		Object: tallyRef, Class: "Tally", Name: "t", Named: true, Method: "Increment", Body: body,
		RequestID: fmt.Sprintf("call %d", n),
		Done: func(r actor.Result) {
			call.mu.Lock()
			defer call.mu.Unlock()
			call.flying--
			switch reason := fault.ReasonOf(r.Err); {
			case reason.Retryable(), reason == fault.OutcomeUnknown, reason == fault.ObjectReset:
			default:
				call.replies = append(call.replies, r)
			}
		},
	})
}

func (c *cluster) step() {
	switch n := c.rng.IntN(100); {
	case n < 20:
		c.calls = append(c.calls, &tried{n: int64(len(c.calls))})
		c.deliver(c.calls[len(c.calls)-1])
	case n < 40 && len(c.calls) > 0: // A duplicate, mostly of a late call.
		c.deliver(c.calls[max(0, len(c.calls)-1-c.rng.IntN(1+c.rng.IntN(40)))])
	case n < 60:
		c.commit()
	case n < 75:
		c.read()
	case n < 93:
		c.confirm()
	case n < 95:
		c.refuse()
	case n < 97:
		c.m.Evict(0, tallyRef)
	case n < 98:
		c.fail()
	}
	synctest.Wait()
}

// apply applies a segment, as every replica would.
func (c *cluster) apply(p proposal) bool {
	b := c.store.NewBatch()
	defer func() { _ = b.Close() }()
	fence, err := c.fences.Load(0, p.seg.Object)
	if err != nil {
		c.t.Fatal(err)
	}
	applied, _, err := storage.ApplySegment(b, fence, 0, p.seg.Term, p.seg)
	if err == nil {
		err = b.Commit(false)
	}
	if err != nil {
		c.t.Fatal(err)
	}
	return applied
}

func (c *cluster) commit() {
	if len(c.pending) == 0 {
		return
	}
	p := c.pending[0]
	c.pending = c.pending[1:]
	c.unread = append(c.unread, p)
	p.s.Committed(p.seg.Sequence)
}

func (c *cluster) read() {
	if len(c.unread) == 0 {
		return
	}
	p := c.unread[0]
	c.unread = c.unread[1:]
	if !c.apply(p) {
		c.t.Error("a committed segment was not applied")
	}
	p.s.Readable(p.seg.Sequence)
}

func (c *cluster) confirm() {
	if len(c.asked) == 0 {
		return
	}
	answer := c.asked[0]
	c.asked = c.asked[1:]
	answer(nil)
}

// refuse refuses the proposals from one on, for certain.
func (c *cluster) refuse() {
	if len(c.pending) == 0 {
		return
	}
	i := c.rng.IntN(len(c.pending))
	refused := c.pending[i:]
	c.pending = c.pending[:i:i]
	for _, p := range refused {
		p.s.Refused(p.seg.Sequence, false)
		synctest.Wait()
	}
}

// fail changes the owner. The new one finds what was committed, and some of what was proposed.
func (c *cluster) fail() {
	c.m.Lost(0, c.term)
	synctest.Wait()
	for len(c.unread) > 0 {
		c.apply(c.unread[0])
		c.unread = c.unread[1:]
	}
	for _, p := range c.pending[:c.rng.IntN(len(c.pending)+1)] {
		c.apply(p)
	}
	c.pending, c.asked = nil, nil
	c.term++
	c.m.Acquired(0, c.term)
}

// finish makes every call again until each has its answer.
func (c *cluster) finish() {
	for range 200 {
		open := false
		for _, call := range c.calls {
			if len(call.replies) == 0 && call.flying == 0 {
				c.deliver(call)
				synctest.Wait()
			}
			open = open || len(call.replies) == 0 || call.flying > 0
		}
		for range 50 {
			for _, act := range []func(){c.commit, c.read, c.confirm} {
				synctest.Wait()
				act()
			}
		}
		synctest.Wait()
		if !open {
			return
		}
	}
	c.t.Error("not every call was answered")
}

// effects returns how often a call has had an effect.
func (c *cluster) effects(key string, n int64) int64 {
	raw, ok, err := c.store.Object(0, tallyRef).Get(storage.KindKV, fmt.Appendf(nil, "%s/%d", key, n))
	if err != nil {
		c.t.Fatal(err)
	}
	if !ok {
		return 0
	}
	return int64(raw[0]) // A CBOR integer below 24.
}

func (c *cluster) check() (interrupted int) {
	for _, call := range c.calls {
		kind := conductOf(call.n)
		a, b := c.effects("a", call.n), c.effects("b", call.n)
		if a > 1 || b > 1 || b > a {
			c.t.Errorf("call %d had %d and %d effects", call.n, a, b)
		}
		if kind == reads {
			continue
		}
		first := call.replies[0]
		for _, r := range call.replies {
			if kind == writesAndPanics || kind == confirmsAndPanics {
				continue
			}
			if !bytes.Equal(r.Body, first.Body) || status.Convert(r.Err).String() != status.Convert(first.Err).String() {
				c.t.Errorf("call %d was answered with %v, then with %v", call.n, first, r)
			}
		}
		last := call.replies[len(call.replies)-1]
		reason := fault.ReasonOf(last.Err)
		if reason == fault.RequestInterrupted {
			interrupted++
		}
		var ok bool
		switch kind {
		case writesAndFails:
			ok = a == 1 && status.Code(last.Err) == codes.FailedPrecondition
		case writesAndPanics:
			ok = a == 0 && reason == fault.Panic
		case confirmsAndPanics:
			ok = a == 1 && (reason == fault.Panic || reason == fault.RequestInterrupted)
		case writesTwice:
			ok = a == 1 && (b == 1 && last.Err == nil || b == 0 && reason == fault.RequestInterrupted)
		case confirmsAndReads:
			ok = a == 1 && (last.Err == nil || reason == fault.RequestInterrupted)
		default:
			ok = a == 1 && last.Err == nil
		}
		if !ok {
			c.t.Errorf("call %d had %d and %d effects, and was answered with %v", call.n, a, b, last)
		}
	}
	return interrupted
}

// At random: duplicates, changes of owner, refused segments, panics and evictions. No call has a second
// effect, and all who make the same call get the same answer.
func TestRequestIDsRunOnce(t *testing.T) {
	t.Parallel()
	calls, interrupted := 0, 0
	for seed := range uint64(60) {
		synctest.Test(t, func(t *testing.T) {
			store, err := storage.Open("data", storage.Options{FS: vfs.NewMem()})
			if err != nil {
				t.Fatal(err)
			}
			m, err := actor.NewManager(actor.Config{Shards: 1, Logger: slog.New(slog.DiscardHandler), Classes: []actor.Class{
				actor.NewClass("Tally", &counterv1.Counter_ServiceDesc, func(s *actor.State) counterv1.CounterServer { return &tally{state: s} }),
			}})
			if err != nil {
				t.Fatal(err)
			}
			c := &cluster{t: t, rng: rand.New(rand.NewPCG(seed, 0)), m: m, store: store, fences: storage.NewFenceCache(store, 100), term: 1}
			m.Start(c)
			m.Acquired(0, 1)
			for range 600 {
				c.step()
				if c.rng.IntN(20) == 0 {
					<-time.After(time.Duration(c.rng.IntN(1000)) * time.Millisecond)
				}
			}
			c.finish()
			interrupted += c.check()
			calls += len(c.calls)
			m.Close()
			if err := store.Close(); err != nil {
				t.Error(err)
			}
		})
		if t.Failed() {
			t.Fatalf("with seed %d", seed)
		}
	}
	t.Logf("%d calls, of which %d were interrupted", calls, interrupted)
	if interrupted == 0 {
		t.Error("no call was interrupted")
	}
}
