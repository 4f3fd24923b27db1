// Package router finds the owner of an object and takes a call there: to this node's objects, or to
// another node over its peer connection. It follows redirects, tries again what certainly did not run
// or can't run twice because it carries a request id, and gives every call exactly one answer, by its deadline.
//
// Where it believes an owner to be is only ever a belief (P1 does not rest on it): the owner itself
// decides whether it runs a call, and a wrong belief costs a hop or a retry.
package router

import (
	"cmp"
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/holdfast-io/holdfast/actor"
	"github.com/holdfast-io/holdfast/fault"
	"github.com/holdfast-io/holdfast/peer/frame"
	"github.com/holdfast-io/holdfast/placement"
	"github.com/holdfast-io/holdfast/tracing"
)

// ClassFacts is what the cluster knows of a class.
type ClassFacts struct {
	Name      string
	UniqueKey string
	Service   string // gRPC service; empty for none
	Runs      string // name under which this node's program has it; empty: its name
}

// Facts is this node's copy of the cluster facts.
type Facts interface {
	// Class returns the class of a name: its own, or one that means it.
	Class(name string) (ClassFacts, bool)
	// Meant returns the names of the classes that a name which is no class's own could mean, sorted.
	Meant(name string) []string
	ByService(service string) (ClassFacts, bool)
	// ByKey returns the class with a unique key: it keeps that under whatever name.
	ByKey(uniqueKey string) (ClassFacts, bool)
	Revision() uint64
	// Refresh asks the cluster for the newest.
	Refresh(ctx context.Context) error
}

// Local runs calls on this node.
type Local interface{ Deliver(c *actor.Call) }

// Leaders is what the replicas on this node know of who leads.
type Leaders interface {
	Leader(shard placement.ShardID) (placement.NodeID, uint64, bool)
}

// Remote sends calls to other nodes.
type Remote interface {
	Call(to placement.NodeID, req *frame.Request, done func(frame.Response)) (cancel func(cause error))
}

// Config of a Router.
type Config struct {
	Self    placement.NodeID
	Shards  int
	Facts   Facts
	Local   Local
	Leaders Leaders
	Remote  Remote
	// Wish returns the node that the ring wishes to own the shard: a guess for want of better.
	Wish func(shard placement.ShardID) (placement.NodeID, bool)
	// Addr returns a node's public gRPC address, for hints to clients.
	Addr func(placement.NodeID) string
	// FactsClass is the class that keeps the cluster facts. It is known without them, and its calls
	// wait for no facts: asking for them is such a call.
	FactsClass string
	// CallsMax bounds the calls under way: default 100,000. BytesMax bounds the memory that they take,
	// each with its body and CallBytes: default 1 GiB. Over either: OVERLOADED.
	CallsMax int
	BytesMax int64
	// Tracer makes the spans of calls; nil: there are none.
	Tracer *tracing.Tracer
}

// Limits on calls.
const (
	// DefaultTimeout ends a call that has no deadline of its own; a stream, only when no object has
	// taken it by then.
	DefaultTimeout = 30 * time.Second
	// CallBytes is what a call takes in memory besides its body, with all that waits for its answer:
	// streams, goroutines and their stacks.
	CallBytes      = 16 << 10
	hopsMax        = 3
	retryMin       = 2 * time.Millisecond
	retryMax       = 50 * time.Millisecond
	refreshTimeout = 3 * time.Second
	retryEvery     = 5 * time.Millisecond
	// sweepEvery is how often deadlines are looked at: an answer is late by no more.
	sweepEvery = 50 * time.Millisecond
	// roomPatience is how long a write that finds no room is tried again: an owner whose disk has
	// filled hands over to one that has room, if there is any.
	roomPatience = 2 * time.Second
	// supersededGrace is how long an owner of the past may still answer.
	supersededGrace = 100 * time.Millisecond
)

// Router routes calls. Its methods are safe for concurrent use.
type Router struct {
	cfg     Config
	learned []atomic.Pointer[belief] // by shard
	calls   atomic.Int64
	bytes   atomic.Int64 // that the calls take

	flying registry // the calls without an answer
	facts  factsQueue

	classes   sync.Map    // unique key → *classState
	unlocated errorCounts // of calls whose class was not found

	mu      sync.Mutex
	closed  bool
	delayed map[*call]time.Time // to be tried again

	ctx    context.Context //nolint:containedctx // the lifetime, ended by Close
	cancel context.CancelCauseFunc
	wg     sync.WaitGroup
}

// belief is who is thought to own a shard.
type belief struct {
	node placement.NodeID
	term uint64
}

// New returns a Router; Start begins to retry.
func New(cfg Config) *Router {
	if cfg.CallsMax == 0 {
		cfg.CallsMax = 100_000
	}
	if cfg.BytesMax == 0 {
		cfg.BytesMax = 1 << 30
	}
	r := &Router{
		cfg:     cfg,
		learned: make([]atomic.Pointer[belief], cfg.Shards),
		delayed: make(map[*call]time.Time),
	}
	r.facts.mu.objects = make(map[objectKey]int)
	r.ctx, r.cancel = context.WithCancelCause(context.Background())
	return r
}

// Start begins to watch deadlines and to try calls again.
func (r *Router) Start() {
	r.wg.Go(r.retry)
	r.wg.Go(r.sweep)
}

var (
	errClosed     = errors.New("the node is stopping")
	errSuperseded = errors.New("the owner changed")
)

func errStopping() error { return fault.New(fault.NoOwner, "%v; call another", errClosed) }

// Close answers what is under way and waits. Later calls are refused.
func (r *Router) Close() {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	for _, c := range r.flying.close() {
		c.end(errClosed, func(at place) error {
			switch {
			case at == nowhere:
				return errStopping()
			case c.begun():
				return errStreamMoved(errClosed.Error())
			}
			return fault.New(fault.OutcomeUnknown, "%v; the call may or may not have taken effect: read before calling again", errClosed)
		})
	}
	r.cancel(errClosed)
	r.wg.Wait()
}

// Route takes a call to its owner. reply is called exactly once, by the call's deadline (a stream
// without one lasts until either side ends it, or the owner changes), from any goroutine, possibly before Route returns; it must not block. The router owns req. Calls from one
// goroutine for one object keep their order while their owner does not change, if they name it in the
// same way, by its name or by its id.
func (r *Router) Route(req *frame.Request, reply func(frame.Response)) (cancel func(cause error)) {
	if err := r.admit(len(req.Body)); err != nil {
		r.unlocated.count(err)
		reply(frame.ErrorResponse(err))
		return func(error) {}
	}
	c := &call{r: r, req: req, reply: reply, until: req.Deadline}
	if req.Deadline.IsZero() {
		c.until = time.Now().Add(DefaultTimeout)
		if req.Pipe == nil {
			req.Deadline = c.until
		}
	}
	if r.cfg.Tracer != nil {
		c.trace(r.cfg.Tracer)
	}
	class, known := r.class(req)
	if r.needsFacts(req, class, known) || r.facts.waiting.Load() > 0 {
		if r.hold(c, class, known) {
			return c.stop
		}
	}
	err := c.locate(class)
	if !r.flying.add(c) {
		err = errStopping()
	}
	r.launch(c, err)
	return c.stop
}

// admit counts a call with a body of so many bytes, unless there are too many.
func (r *Router) admit(body int) error {
	cost := int64(body) + CallBytes
	calls, bytes := r.calls.Add(1), r.bytes.Add(cost)
	if calls <= int64(r.cfg.CallsMax) && bytes <= r.cfg.BytesMax {
		return nil
	}
	r.leave(body)
	if calls > int64(r.cfg.CallsMax) {
		return fault.New(fault.Overloaded, "the node has too many calls under way: at most %d", r.cfg.CallsMax)
	}
	return fault.New(fault.Overloaded, "the calls under way take too much of the node's memory: at most %d bytes", r.cfg.BytesMax)
}

// leave takes back what admit counted.
func (r *Router) leave(body int) {
	r.calls.Add(-1)
	r.bytes.Add(-int64(body) - CallBytes)
}

// launch makes the first try, unless there is a reason not to.
func (r *Router) launch(c *call, err error) {
	if err != nil {
		c.fail(err)
		return
	}
	r.try(c)
}

// class returns the class that a request names. What another node forwards has its unique key for a name:
// it may be renamed meanwhile, and another have its name.
func (r *Router) class(req *frame.Request) (ClassFacts, bool) {
	switch {
	case req.Class != "" && req.Hops > 0:
		return r.cfg.Facts.ByKey(req.Class)
	case req.Class != "":
		return r.cfg.Facts.Class(req.Class)
	}
	service, _, ok := splitMethod(req.Method)
	if !ok {
		return ClassFacts{}, false
	}
	return r.cfg.Facts.ByService(service)
}

// splitMethod reads "/service/Method".
func splitMethod(full string) (service, method string, ok bool) {
	full, ok = strings.CutPrefix(full, "/")
	if !ok {
		return "", "", false
	}
	i := strings.LastIndexByte(full, '/')
	if i < 0 {
		return "", "", false
	}
	return full[:i], full[i+1:], true
}

// owner returns who is believed to own the shard: of what the replica here knows and what was
// learned from others, the later term; else the ring's wish.
func (r *Router) owner(shard placement.ShardID) (belief, bool) {
	var best belief
	if node, term, ok := r.cfg.Leaders.Leader(shard); ok {
		best = belief{node, term}
	}
	if l := r.learned[shard].Load(); l != nil && l.term > best.term {
		best = *l
	}
	if best.node != 0 {
		return best, true
	}
	if node, ok := r.cfg.Wish(shard); ok {
		return belief{node: node}, true
	}
	return belief{}, false
}

// try sends the call to whoever is believed to be the owner.
func (r *Router) try(c *call) {
	to, ok := r.owner(c.shard)
	switch {
	case !ok:
		r.again(c, fault.New(fault.NoOwner, "no owner of the object is known at the moment"))
	case to.node == r.cfg.Self:
		r.local(c)
	case c.req.Hops >= hopsMax:
		c.fail(fault.New(fault.NoOwner, "no owner was found within %d hops", hopsMax))
	case c.req.Hops > 0 && to.term == 0:
		// A guess of ours is no better than the sender's.
		c.fail(fault.New(fault.NoOwner, "no owner of the object is known at the moment"))
	default:
		r.forward(c, to)
	}
}

func (r *Router) local(c *call) {
	req := c.req
	class, known := r.cfg.Facts.ByKey(c.ref.Class)
	if !known {
		class = c.class
	}
	var try uint
	ac := &actor.Call{
		Shard: c.shard, Object: c.ref, Class: cmp.Or(class.Runs, class.Name), Name: req.Name, Named: req.Named,
		Method: req.Method, JSON: req.JSON, Values: req.Values, Body: req.Body, Metadata: req.Metadata, RequestID: req.RequestID, Existing: req.Existing, Deadline: req.Deadline, Chain: chainOf(req), Span: c.span,
		Done: func(res actor.Result) {
			if res.Err == nil {
				c.answer(frame.Response{Body: res.Body})
				return
			}
			r.tried(c, try, res.Err, frame.ErrorResponse(res.Err))
		},
	}
	if req.Pipe != nil {
		ac.Pipe = localPipe{req.Pipe}
	}
	if try = c.begin(here, belief{}, ac.Cancel); try != 0 {
		r.cfg.Local.Deliver(ac)
	}
}

func (r *Router) forward(c *call, to belief) {
	req := *c.req
	req.Hops++
	req.Class = c.class.UniqueKey
	req.Revision = r.cfg.Facts.Revision()
	try := c.begin(away, to, nil)
	if try == 0 {
		return
	}
	if l := r.learned[c.shard].Load(); l != nil {
		c.supersede(c.shard, l.term, time.Now()) // News that came just before the call could be found.
	}
	c.state.forwarded.Add(1)
	span := c.traceForward(to, &req)
	cancel := r.cfg.Remote.Call(to.node, &req, func(resp frame.Response) {
		if span != nil {
			span.End(resp.Err())
		}
		r.forwardDone(c, try, to, resp)
	})
	c.began(try, cancel) // It may have its answer already, and be on another try.
}

func (r *Router) forwardDone(c *call, try uint, to belief, resp frame.Response) {
	if resp.Owner.Shards != 0 && resp.Owner.Node != 0 {
		r.Learn(resp.Owner.Shard, resp.Owner.Node, resp.Owner.Term)
	}
	if !resp.Failed() {
		c.answer(resp)
		return
	}
	err := resp.Err()
	if lost, ok := errors.AsType[*frame.LostError](err); ok {
		if c.begun() {
			c.fail(errStreamMoved("the connection to the owner broke"))
			return
		}
		if lost.Sent {
			err = fault.New(fault.OutcomeUnknown, "the connection to the owner broke before it answered; the call may or may not have taken effect: read before calling again")
		} else {
			r.unlearn(c.shard, to)
			err = fault.New(fault.NoOwner, "the owner can't be reached at the moment: %v", lost.Cause)
		}
		resp = frame.ErrorResponse(err)
	}
	r.tried(c, try, err, resp)
}

// tried takes the end of a try that failed: the call is tried again if it certainly did not run, or if
// its request id keeps it from running twice, else answered.
func (r *Router) tried(c *call, try uint, err error, resp frame.Response) {
	switch again, current := c.ended(try, err); {
	case again:
		r.again(c, err)
	case current && c.req.Existing && fault.ReasonOf(err) == fault.UnknownObject:
		c.giveUp(err) // A try before it may have run, and have deleted the object.
	case current:
		c.answer(resp)
	}
}

// mayTryAgain says that the call certainly did not run, and may run at another try.
func mayTryAgain(err error) bool {
	reason := fault.ReasonOf(err)
	return reason.Retryable() || reason == fault.DiskFull
}

// Learn takes the news of who owns a shard. Calls that were forwarded to the owner of an earlier
// term end a moment later: that one may be cut off, and its answer may never come. The moment is
// for planned moves, where the old owner has answered, and the news overtakes the answer.
func (r *Router) Learn(shard placement.ShardID, node placement.NodeID, term uint64) {
	if int(shard) >= len(r.learned) {
		return
	}
	for {
		old := r.learned[shard].Load()
		if old != nil && old.term >= term {
			return
		}
		if r.learned[shard].CompareAndSwap(old, &belief{node, term}) {
			break
		}
	}
	now := time.Now()
	r.flying.each(func(c *call) { c.supersede(shard, term, now) })
	r.tryDelayed(func(c *call, _ time.Time) bool { return c.shard == shard })
}

// unlearn forgets a belief that led nowhere.
func (r *Router) unlearn(shard placement.ShardID, wrong belief) {
	if l := r.learned[shard].Load(); l != nil && *l == wrong {
		r.learned[shard].CompareAndSwap(l, nil)
	}
}

// again tries a call once more, a little later. Only the node at which the call came in does, and not
// when the caller keeps an order itself. A stream that has begun did run: it is over.
func (r *Router) again(c *call, err error) {
	if c.begun() {
		if fault.ReasonOf(err) != fault.OwnerChanged {
			err = errStreamMoved(err.Error())
		}
		c.fail(err)
		return
	}
	if c.req.Ordered || c.req.Hops > 0 {
		c.giveUp(err)
		return
	}
	if fault.ReasonOf(err) == fault.DiskFull {
		now := time.Now()
		if c.full.IsZero() {
			c.full = now
		}
		if now.Sub(c.full) > roomPatience {
			c.giveUp(err)
			return
		}
	}
	c.wait = min(max(2*c.wait, retryMin), retryMax)
	at := time.Now().Add(c.wait/2 + rand.N(c.wait)) //nolint:gosec // jitter
	if !at.Add(retryEvery).Before(c.until) {
		// There is no time for another try.
		c.giveUp(err)
		return
	}
	if !c.rest() {
		return
	}
	c.state.retries.Add(1)
	c.span.Failed("retry", err)
	r.mu.Lock()
	closed := r.closed
	if !closed {
		r.delayed[c] = at
	}
	r.mu.Unlock()
	if closed {
		c.giveUp(err)
	}
}

// retry tries again what is due.
func (r *Router) retry() {
	t := time.NewTicker(retryEvery)
	defer t.Stop()
	for {
		select {
		case <-r.ctx.Done():
			return
		case now := <-t.C:
			r.tryDelayed(func(_ *call, at time.Time) bool { return !at.After(now) })
		}
	}
}

// tryDelayed tries those of the delayed calls again, each to be tried at its time, that are due.
func (r *Router) tryDelayed(due func(c *call, at time.Time) bool) {
	var calls []*call
	r.mu.Lock()
	for c, at := range r.delayed {
		if due(c, at) {
			delete(r.delayed, c)
			calls = append(calls, c)
		}
	}
	r.mu.Unlock()
	for _, c := range calls {
		r.try(c)
	}
}

// sweep ends what is past its deadline, or waits for an owner of the past.
func (r *Router) sweep() {
	t := time.NewTicker(sweepEvery)
	defer t.Stop()
	for {
		select {
		case <-r.ctx.Done():
			return
		case now := <-t.C:
			var late, superseded []*call
			r.flying.each(func(c *call) {
				switch {
				case c.late(now):
					late = append(late, c)
				case c.supersededTry(now) != 0:
					superseded = append(superseded, c)
				}
			})
			for _, c := range late {
				c.end(context.DeadlineExceeded, errDeadline)
			}
			for _, c := range superseded {
				if c.begun() {
					c.end(errSuperseded, func(place) error { return errStreamMoved("the owner changed") })
					continue
				}
				err := fault.New(fault.OutcomeUnknown, "the owner changed before it answered; the call may or may not have taken effect: read before calling again")
				r.tried(c, c.supersededTry(now), err, frame.ErrorResponse(err))
			}
		}
	}
}

// errDeadline is why a call that was at a place when its deadline passed has no other answer.
func errDeadline(at place) error {
	switch at {
	case here:
		return fault.New(fault.ObjectTimeout, "the call's deadline passed before the object answered; it may or may not have taken effect")
	case away:
		return fault.New(fault.ObjectTimeout, "the call's deadline passed before the owner answered; it may or may not have taken effect")
	default:
		return fault.New(fault.ObjectTimeout, "the call's deadline passed before an owner took it; it did not run")
	}
}

// Owner returns who is believed to own a shard, for those who ask for something else than a call.
func (r *Router) Owner(shard placement.ShardID) (placement.NodeID, bool) {
	b, ok := r.owner(shard)
	return b.node, ok
}
