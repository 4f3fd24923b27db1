// Package router finds the owner of an object and takes a call there: to this node's objects, or to
// another node over its peer connection. It follows redirects, tries again what certainly did not
// run, and gives every call exactly one answer, by its deadline.
//
// Where it believes an owner to be is only ever a belief (P1 does not rest on it): the owner itself
// decides whether it runs a call, and a wrong belief costs a hop or a retry.
package router

import (
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/holdfast-io/holdfast/actor"
	"github.com/holdfast-io/holdfast/fault"
	"github.com/holdfast-io/holdfast/peer/frame"
	"github.com/holdfast-io/holdfast/placement"
	"github.com/holdfast-io/holdfast/storage"
)

// ClassFacts is what the cluster knows of a class.
type ClassFacts struct {
	Name      string
	UniqueKey string
	Service   string // gRPC service; empty for none
}

// Facts is this node's copy of the cluster facts.
type Facts interface {
	Class(name string) (ClassFacts, bool)
	ByService(service string) (ClassFacts, bool)
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
	// CallsMax bounds the calls under way: default 100,000. Over it: OVERLOADED.
	CallsMax int
}

// Limits on calls.
const (
	// DefaultTimeout ends a call that has no deadline of its own.
	DefaultTimeout = 30 * time.Second
	hopsMax        = 3
	retryMin       = 2 * time.Millisecond
	retryMax       = 50 * time.Millisecond
	refreshTimeout = 3 * time.Second
	sweepEvery     = 20 * time.Millisecond
	// supersededGrace is how long an owner of the past may still answer.
	supersededGrace = 100 * time.Millisecond
)

// Router routes calls. Its methods are safe for concurrent use.
type Router struct {
	cfg     Config
	learned []atomic.Pointer[belief] // by shard
	calls   atomic.Int64

	namespaces sync.Map // unique key → placement.Namespace

	mu        sync.Mutex
	closed    bool
	forwarded map[*call]struct{}
	delayed   map[*call]time.Time // to be tried again

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
	r := &Router{
		cfg:       cfg,
		learned:   make([]atomic.Pointer[belief], cfg.Shards),
		forwarded: make(map[*call]struct{}),
		delayed:   make(map[*call]time.Time),
	}
	r.ctx, r.cancel = context.WithCancelCause(context.Background())
	return r
}

// Start begins to watch deadlines and to try calls again.
func (r *Router) Start() { r.wg.Go(r.sweep) }

var errClosed = errors.New("the node is stopping")

// Close answers what is under way and waits.
func (r *Router) Close() {
	r.mu.Lock()
	r.closed = true
	var rest []*call
	for c := range r.forwarded {
		rest = append(rest, c)
	}
	for c := range r.delayed {
		rest = append(rest, c)
	}
	r.mu.Unlock()
	for _, c := range rest {
		c.interrupt(errClosed)
	}
	r.cancel(errClosed)
	r.wg.Wait()
}

// call is one call on its way.
type call struct {
	r     *Router
	req   *frame.Request
	class ClassFacts
	ref   storage.ObjectRef
	shard placement.ShardID
	wait  time.Duration // before the next try

	mu       sync.Mutex
	reply    func(frame.Response) // nil once answered
	cancel   func(error)          // of the try under way
	canceled error
	to       belief // forwarded to
	// superseded is when the owner that it was forwarded to was found to be one of the past.
	superseded time.Time
}

// Route takes a call to its owner. reply is called exactly once, from any goroutine, possibly
// before Route returns; it must not block. The router owns req. Calls from one goroutine for one
// object keep their order while their owner does not change.
func (r *Router) Route(req *frame.Request, reply func(frame.Response)) (cancel func(cause error)) {
	if r.calls.Add(1) > int64(r.cfg.CallsMax) {
		r.calls.Add(-1)
		reply(frame.ErrorResponse(fault.New(fault.Overloaded, "the node has too many calls under way: at most %d", r.cfg.CallsMax)))
		return func(error) {}
	}
	if req.Deadline.IsZero() {
		req.Deadline = time.Now().Add(DefaultTimeout)
	}
	c := &call{r: r, req: req, reply: reply}
	class, ok := r.class(req)
	if !ok || req.Revision > r.cfg.Facts.Revision() {
		// The class may be new, or the sender know more: ask before refusing.
		r.spawn(c, func() { r.refreshThenRoute(c) })
		return c.stop
	}
	c.class = class
	r.resolve(c)
	return c.stop
}

func (r *Router) spawn(c *call, fn func()) {
	r.mu.Lock()
	closed := r.closed
	if !closed {
		r.wg.Go(fn)
	}
	r.mu.Unlock()
	if closed {
		c.fail(fault.New(fault.NoOwner, "the node is stopping; call another"))
	}
}

// class returns the class that a request names.
func (r *Router) class(req *frame.Request) (ClassFacts, bool) {
	if req.Class != "" {
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

func (r *Router) refreshThenRoute(c *call) {
	ctx, cancel := context.WithTimeout(r.ctx, refreshTimeout)
	defer cancel()
	err := r.cfg.Facts.Refresh(ctx)
	class, ok := r.class(c.req)
	switch {
	case ok:
		c.class = class
		r.resolve(c)
	case err != nil:
		c.fail(fault.New(fault.NoOwner, "the class is not known here, and the cluster facts can't be read: %v", err))
	case c.req.Class != "":
		c.fail(fault.New(fault.UnknownClass, "class %q: there is no such class in this cluster", c.req.Class))
	default:
		c.fail(fault.New(fault.UnknownClass, "method %q: no class of this cluster has that service", c.req.Method))
	}
}

// resolve finds the object that the call names.
func (r *Router) resolve(c *call) {
	req := c.req
	if req.Class == "" {
		_, req.Method, _ = splitMethod(req.Method)
		req.Class = c.class.Name
	}
	if len(req.Name) > frame.NameBytesMax {
		c.fail(fault.New(fault.InvalidArgument, "name: at most %d bytes, has %d", frame.NameBytesMax, len(req.Name)))
		return
	}
	if !utf8.ValidString(req.Name) { // It could be stored, but not read back.
		c.fail(fault.New(fault.InvalidArgument, "name %.64q: must be UTF-8", req.Name))
		return
	}
	ns := r.namespace(c.class.UniqueKey)
	id := req.ID
	if req.Named {
		id = ns.IDFromName(req.Name)
	} else if err := ns.Check(id); err != nil {
		c.fail(fault.New(fault.InvalidID, "id %s: not an id of class %s", id, c.class.Name))
		return
	}
	c.ref = storage.ObjectRef{Class: c.class.UniqueKey, ID: id}
	c.shard = placement.ShardOf(id, r.cfg.Shards)
	r.try(c)
}

// namespace caches the key of a class: deriving it hashes.
func (r *Router) namespace(uniqueKey string) placement.Namespace {
	if ns, ok := r.namespaces.Load(uniqueKey); ok {
		return ns.(placement.Namespace) //nolint:forcetypeassert // nothing else is stored
	}
	ns := placement.NewNamespace(uniqueKey)
	r.namespaces.Store(uniqueKey, ns)
	return ns
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
	ac := &actor.Call{
		Shard: c.shard, Object: c.ref, Class: c.class.Name, Name: req.Name, Named: req.Named,
		Method: req.Method, JSON: req.JSON, Body: req.Body, Metadata: req.Metadata, Deadline: req.Deadline,
		Done: func(res actor.Result) {
			if res.Err == nil {
				c.answer(frame.Response{Body: res.Body})
				return
			}
			if reason := fault.ReasonOf(res.Err); reason.Retryable() {
				r.again(c, res.Err)
				return
			}
			c.answer(frame.ErrorResponse(res.Err))
		},
	}
	c.under(ac.Cancel, belief{})
	r.cfg.Local.Deliver(ac)
}

func (r *Router) forward(c *call, to belief) {
	req := *c.req
	req.Hops++
	req.Revision = r.cfg.Facts.Revision()
	c.under(nil, to)
	r.mu.Lock()
	r.forwarded[c] = struct{}{}
	r.mu.Unlock()
	cancel := r.cfg.Remote.Call(to.node, &req, func(resp frame.Response) {
		r.mu.Lock()
		delete(r.forwarded, c)
		r.mu.Unlock()
		r.forwardDone(c, to, resp)
	})
	c.under(cancel, to)
}

func (r *Router) forwardDone(c *call, to belief, resp frame.Response) {
	if resp.Owner.Shards != 0 && resp.Owner.Node != 0 {
		r.Learn(resp.Owner.Shard, resp.Owner.Node, resp.Owner.Term)
	}
	if !resp.Failed() {
		c.answer(resp)
		return
	}
	err := resp.Err()
	if lost, ok := errors.AsType[*frame.LostError](err); ok {
		if lost.Sent {
			c.answer(frame.ErrorResponse(fault.New(fault.OutcomeUnknown, "the connection to the owner broke before it answered; the call may or may not have taken effect: read before calling again")))
			return
		}
		r.unlearn(c.shard, to)
		r.again(c, fault.New(fault.NoOwner, "the owner can't be reached at the moment: %v", lost.Cause))
		return
	}
	if fault.ReasonOf(err).Retryable() {
		r.again(c, err)
		return
	}
	c.answer(resp)
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
	var woken []*call
	now := time.Now()
	r.mu.Lock()
	for c := range r.forwarded {
		if c.shard == shard {
			c.supersede(term, now)
		}
	}
	for c := range r.delayed {
		if c.shard == shard {
			delete(r.delayed, c)
			woken = append(woken, c)
		}
	}
	r.mu.Unlock()
	for _, c := range woken {
		r.try(c)
	}
}

// unlearn forgets a belief that led nowhere.
func (r *Router) unlearn(shard placement.ShardID, wrong belief) {
	if l := r.learned[shard].Load(); l != nil && *l == wrong {
		r.learned[shard].CompareAndSwap(l, nil)
	}
}

// again tries a call that certainly did not run once more, a little later. Only the node at which
// the call came in does, and not when the caller keeps an order itself.
func (r *Router) again(c *call, err error) {
	if c.req.Ordered || c.req.Hops > 0 {
		c.fail(err)
		return
	}
	c.wait = min(max(2*c.wait, retryMin), retryMax)
	at := time.Now().Add(c.wait/2 + rand.N(c.wait)) //nolint:gosec // jitter
	if !at.Before(c.req.Deadline) {
		c.fail(err)
		return
	}
	c.under(nil, belief{})
	r.mu.Lock()
	closed := r.closed
	if !closed {
		r.delayed[c] = at
	}
	r.mu.Unlock()
	if closed {
		c.fail(err)
	}
}

// sweep tries again what is due, and ends what is past its deadline.
func (r *Router) sweep() {
	t := time.NewTicker(sweepEvery / 4)
	defer t.Stop()
	ticks := 0
	for {
		select {
		case <-r.ctx.Done():
			return
		case now := <-t.C:
			ticks++
			var due, late, ended []*call
			r.mu.Lock()
			for c, at := range r.delayed {
				if !at.After(now) {
					delete(r.delayed, c)
					due = append(due, c)
				}
			}
			if ticks%4 == 0 {
				for c := range r.forwarded {
					switch {
					case now.After(c.req.Deadline):
						late = append(late, c)
					case c.isSuperseded(now):
						ended = append(ended, c)
					}
				}
			}
			r.mu.Unlock()
			for _, c := range due {
				if !c.gone() {
					r.try(c)
				}
			}
			for _, c := range late {
				c.interrupt(context.DeadlineExceeded)
			}
			for _, c := range ended {
				c.fail(fault.New(fault.OutcomeUnknown, "the owner changed before it answered; the call may or may not have taken effect: read before calling again"))
			}
		}
	}
}

// under notes what is under way for the call, and passes a cancellation on that came before.
func (c *call) under(cancel func(error), to belief) {
	c.mu.Lock()
	if to != c.to {
		c.superseded = time.Time{}
	}
	c.cancel, c.to = cancel, to
	canceled := c.canceled
	c.mu.Unlock()
	if canceled != nil && cancel != nil {
		cancel(canceled)
	}
}

// supersede notes that the owner that the call was forwarded to is one of an earlier term.
func (c *call) supersede(term uint64, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.to.term != 0 && c.to.term < term && c.superseded.IsZero() {
		c.superseded = now
	}
}

func (c *call) isSuperseded(now time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.superseded.IsZero() && now.Sub(c.superseded) > supersededGrace
}

func (c *call) gone() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.reply == nil
}

// stop is given to the caller: nobody waits any more.
func (c *call) stop(cause error) {
	if cause == nil {
		cause = context.Canceled
	}
	c.mu.Lock()
	if c.canceled == nil {
		c.canceled = cause
	}
	cancel := c.cancel
	c.mu.Unlock()
	if cancel != nil {
		cancel(cause)
	}
}

// interrupt ends the call here, whatever becomes of it elsewhere.
func (c *call) interrupt(cause error) {
	c.stop(cause)
	if errors.Is(cause, context.DeadlineExceeded) {
		c.fail(fault.New(fault.ObjectTimeout, "the call's deadline passed before the owner answered; it may or may not have taken effect"))
		return
	}
	c.fail(fault.New(fault.OutcomeUnknown, "%v; the call may or may not have taken effect", cause))
}

func (c *call) fail(err error) { c.answer(frame.ErrorResponse(err)) }

// answer answers the caller, once, with a hint of who owns the object.
func (c *call) answer(resp frame.Response) {
	c.mu.Lock()
	reply := c.reply
	c.reply = nil
	c.mu.Unlock()
	if reply == nil {
		return
	}
	c.r.calls.Add(-1)
	if c.class.Name != "" {
		if to, ok := c.r.owner(c.shard); ok && to.term != 0 {
			resp.Owner = frame.OwnerHint{
				Node: to.node, Addr: c.r.cfg.Addr(to.node), Shard: c.shard, Shards: uint32(c.r.cfg.Shards), Term: to.term, //nolint:gosec // below MaxShards
			}
		}
	}
	resp.Revision = c.r.cfg.Facts.Revision()
	reply(resp)
}

// Owner returns who is believed to own a shard, for those who ask for something else than a call.
func (r *Router) Owner(shard placement.ShardID) (placement.NodeID, bool) {
	b, ok := r.owner(shard)
	return b.node, ok
}
