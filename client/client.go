// Package client is the Go client of a cluster: stubs of objects that know where their object lives.
//
//	c, err := client.New([]string{"127.0.0.1:7070"})
//	counter := counterv1.NewCounterClient(c.Name("Counter", "visits"))
//	reply, err := counter.Increment(ctx, &counterv1.IncrementRequest{})
//
// A stub is a grpc.ClientConnInterface: the class's ordinary generated client runs on it. All the
// calls of a Client share a few multiplexed streams (holdfast.v1.Objects/Stream), one to each node
// that it has reason to talk to. Every answer says which node owns the object's shard, and the next
// call goes straight there; where that node can't be reached from here, any other passes it on.
//
// What the client promises:
//
//   - Calls on one stub reach the object in the order in which they were made, also those of Send,
//     which does not wait for the answer.
//   - A call is made again, within its deadline, when it certainly did not run, and when it is not known
//     whether it did: every call carries a request id, by which the object answers it with its first
//     reply and runs it no second time. The caller sees neither a move nor a failover.
//   - A call of Send whose fate is not known fails with ABORTED, reason OUTCOME_UNKNOWN, when another
//     was sent behind it on the same stub: made again it could run after that one. What was called on
//     the stub before it failed is not made again either. A call of which it is not known until its
//     deadline whether it ran fails so too.
//   - A call that was cut off after a part of its writes, by a Confirm, had become durable fails with
//     ABORTED, reason REQUEST_INTERRUPTED.
//
// A program that wants to make a call again after its own restart gives the id itself, as outgoing
// metadata holdfast-request-id, 1 to 128 bytes. An object remembers the newest 1,024 ids of calls that
// wrote something, and their replies, up to 1 MiB and for at least 10 minutes; older ones count as new.
package client

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/holdfast-io/holdfast/fault"
	"github.com/holdfast-io/holdfast/peer/frame"
	"github.com/holdfast-io/holdfast/placement"
	holdfastv1 "github.com/holdfast-io/holdfast/proto/holdfast/v1"
	"github.com/holdfast-io/holdfast/tracing"
)

// Limits of a Client and its stubs.
const (
	// CallsMax bounds the calls of one stub that wait to be sent. Over it: OVERLOADED.
	CallsMax = 16384
	// DefaultTimeout bounds a call whose context has no deadline.
	DefaultTimeout = 30 * time.Second
	// connsMax bounds the nodes that a Client talks to.
	connsMax = 256
	// abandonAfter is how long a node that was learned of may stay out of reach.
	abandonAfter = time.Minute
	retryMin     = 2 * time.Millisecond
	retryMax     = 50 * time.Millisecond
	redialMin    = 20 * time.Millisecond
	redialMax    = time.Second
)

// Client calls the objects of one cluster. It is safe for concurrent use. Close it.
type Client struct {
	dial   []grpc.DialOption
	tracer *tracing.Tracer // nil: calls are not traced
	ids    requestIDs
	seeds  []*conn
	owners atomic.Pointer[owners]

	ctx    context.Context //nolint:containedctx // the lifetime, ended by Close
	cancel context.CancelCauseFunc
	wg     sync.WaitGroup

	mu      sync.Mutex
	closed  bool
	conns   map[string]*conn
	delayed map[*Object]time.Time // stubs with calls to be made again, and when
}

// owners is who owns each shard, as far as answers have said.
type owners struct{ shards []atomic.Pointer[owner] }

type owner struct {
	conn *conn
	term uint64
}

// An Option changes a Client.
type Option func(*Client)

// WithDialOptions adds options for the gRPC connections: credentials, for instance, which are
// insecure by default.
func WithDialOptions(o ...grpc.DialOption) Option {
	return func(c *Client) { c.dial = append(c.dial, o...) }
}

// WithTracerProvider has every call be a span of the provider's, below that of the call's context if it has one. The
// nodes go on with the trace, and sample what it does. Without it, and with a nil provider, calls are not traced.
func WithTracerProvider(provider trace.TracerProvider) Option {
	return func(c *Client) { c.tracer = tracing.New(provider) }
}

var errClosed = errors.New("the client is closed")

// New returns a Client of the cluster that has a node at one of the addresses (host:port of gRPC).
// It begins to connect and does not wait for it: calls do.
func New(addrs []string, options ...Option) (*Client, error) {
	if len(addrs) == 0 {
		return nil, errors.New("holdfast client: give the address of at least one node")
	}
	if len(addrs) > connsMax {
		return nil, fmt.Errorf("holdfast client: at most %d addresses, got %d", connsMax, len(addrs))
	}
	c := &Client{
		dial: []grpc.DialOption{
			grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(2 * frame.FrameBytesMax)),
			grpc.WithInitialWindowSize(1 << 20), grpc.WithInitialConnWindowSize(4 << 20),
			grpc.WithConnectParams(quickConnect),
		},
		ids:     newRequestIDs(),
		conns:   make(map[string]*conn),
		delayed: make(map[*Object]time.Time),
	}
	for _, option := range options {
		option(c)
	}
	c.ctx, c.cancel = context.WithCancelCause(context.Background())
	for _, addr := range addrs {
		if c.conns[addr] != nil {
			continue
		}
		n := &conn{c: c, addr: addr, seed: true}
		if err := n.open(); err != nil {
			c.cancel(err)
			c.wg.Wait()
			return nil, fmt.Errorf("holdfast client: address %q: %w", addr, err)
		}
		c.conns[addr] = n
		c.seeds = append(c.seeds, n)
	}
	c.wg.Go(c.sweep)
	return c, nil
}

// Close ends the connections and waits. Calls under way fail.
func (c *Client) Close() {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.cancel(errClosed)
	c.wg.Wait()
	c.mu.Lock()
	rest := c.delayed
	c.delayed = nil
	c.mu.Unlock()
	for o := range rest {
		o.pump()
	}
}

// Name returns a stub of the object of a class that has a name: any UTF-8, also empty. Making one
// costs nothing on the network.
func (c *Client) Name(class, name string) *Object {
	return &Object{c: c, class: class, name: name, named: true, shard: -1}
}

// ID returns a stub of the object of a class with an id.
func (c *Client) ID(class string, id placement.ObjectID) *Object {
	return &Object{c: c, class: class, id: id, shard: -1}
}

// NewUniqueID draws the id of a new object of a class, which no name has: call it by ID. It asks any
// node, at most DefaultTimeout long.
func (c *Client) NewUniqueID(ctx context.Context, class string) (placement.ObjectID, error) {
	ctx, cancel := context.WithTimeout(ctx, DefaultTimeout)
	defer cancel()
	var err error = fault.New(fault.NoOwner, "no node can be reached at the moment")
	for wait := retryMin; ; wait = min(2*wait, retryMax) {
		if n := c.route(-1); n != nil {
			var drawn *holdfastv1.NewUniqueIDResponse
			if drawn, err = holdfastv1.NewObjectsClient(n.grpc).NewUniqueID(ctx, &holdfastv1.NewUniqueIDRequest{Class: class}); err == nil {
				return placement.ParseID(drawn.GetId())
			}
			if status.Code(err) != codes.Unavailable {
				return placement.ObjectID{}, err
			}
		}
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-c.ctx.Done():
			t.Stop()
			return placement.ObjectID{}, status.Error(codes.Canceled, errClosed.Error())
		case <-ctx.Done():
			t.Stop()
			return placement.ObjectID{}, err
		}
	}
}

// learn takes the news of who owns a shard, which come with answers.
func (c *Client) learn(hint *frame.OwnerHint) {
	if hint.Shards == 0 || hint.Shards > placement.MaxShards || hint.Addr == "" {
		return
	}
	table := c.owners.Load()
	if table == nil || len(table.shards) != int(hint.Shards) {
		fresh := &owners{shards: make([]atomic.Pointer[owner], hint.Shards)}
		if !c.owners.CompareAndSwap(table, fresh) {
			return // The next answer will do.
		}
		table = fresh
	}
	slot := &table.shards[hint.Shard]
	for {
		old := slot.Load()
		if old != nil && (old.term > hint.Term || old.term == hint.Term && !old.conn.abandoned.Load()) {
			return
		}
		n := c.connTo(hint.Addr)
		if n == nil || slot.CompareAndSwap(old, &owner{conn: n, term: hint.Term}) {
			return
		}
	}
}

// connTo returns the connection to an address, and begins one when there is none.
func (c *Client) connTo(addr string) *conn {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n := c.conns[addr]; n != nil {
		return n
	}
	if c.closed || len(c.conns) >= connsMax {
		return nil
	}
	n := &conn{c: c, addr: addr}
	if n.open() != nil {
		return nil
	}
	c.conns[addr] = n
	return n
}

// route returns the best connection for an object of a shard (-1: not known): to its owner, else to
// a node that passes it on; nil when there is none.
func (c *Client) route(shard int) *conn {
	if table := c.owners.Load(); table != nil && shard >= 0 && shard < len(table.shards) {
		if o := table.shards[shard].Load(); o != nil && o.conn.ready() {
			return o.conn
		}
	}
	for _, n := range c.seeds {
		if n.ready() {
			return n
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, n := range c.conns {
		if n.ready() {
			return n
		}
	}
	return nil
}

// later makes the sweeper pump a stub at a time, or returns false: the client is closed.
func (c *Client) later(o *Object, at time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.delayed == nil {
		return false
	}
	if was, ok := c.delayed[o]; !ok || at.Before(was) {
		c.delayed[o] = at
	}
	return true
}

// connected lets the calls that wait for a connection go.
func (c *Client) connected() {
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	for o := range c.delayed {
		c.delayed[o] = now
	}
}

// sweep pumps the stubs that are due.
func (c *Client) sweep() {
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-c.ctx.Done():
			return
		case now := <-tick.C:
			var due []*Object
			c.mu.Lock()
			for o, at := range c.delayed {
				if !at.After(now) {
					delete(c.delayed, o)
					due = append(due, o)
				}
			}
			c.mu.Unlock()
			for _, o := range due {
				o.pump()
			}
		}
	}
}
