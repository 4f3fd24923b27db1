package actor

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/metadata"

	"github.com/holdfast-io/holdfast/placement"
	"github.com/holdfast-io/holdfast/storage"
	"github.com/holdfast-io/holdfast/tracing"
)

// Call is one event for one object. The sender fills it in and hands it to Deliver, and must not
// change it afterwards.
type Call struct {
	Shard  placement.ShardID
	Object storage.ObjectRef
	// Class is the class's name; Object has its unique key.
	Class string
	// Name is the object's name when Named; otherwise it was called by id.
	Name  string
	Named bool
	// Method is the bare name.
	Method string
	// JSON says that Body is JSON, and that the reply is to be.
	JSON bool
	// Values says that Body is a CBOR array of arguments, and that the reply is to be one CBOR item. Not
	// with JSON.
	Values bool
	Body   []byte
	// Pipe makes it a streamed call: Body is empty, and the Result, which ends it, has none.
	Pipe Pipe
	// Metadata is the caller's, without the keys that are Holdfast's own.
	Metadata metadata.MD
	// RequestID names the call among all that the object is sent: of those with the same id one runs,
	// and the others get its answer. At most storage.MaxRequestIDBytes; empty: none.
	RequestID string
	// Existing says that the object must exist: if it does not, nothing runs, and the answer is
	// UNKNOWN_OBJECT.
	Existing bool
	// Deadline ends the call; zero: never.
	Deadline time.Time
	// Chain are the events that wait for the call, when an object has made it.
	Chain []Link
	// Span is what the call is traced under; nil: it is not traced.
	Span *tracing.Span
	// Done is called exactly once, from any goroutine. It must not block.
	Done func(Result)

	alarm    *alarmEvent // what the event is about when it is not a call
	imported *ImportPart // likewise
	// preShutdown says that it is no call, but tells the object of its end, and woken that it tells it of a
	// Wake.
	preShutdown, woken bool
	ev                 event // once it has begun

	mu struct {
		sync.Mutex
		canceled error
		cancel   context.CancelCauseFunc // of the handler's context, once somebody looks at it
	}
}

// Result is what became of a Call: the reply, or why there is none.
type Result struct {
	Body []byte
	Err  error
}

// bytes is what the call costs while it waits.
func (c *Call) bytes() int64 { return int64(len(c.Body)) + int64(len(c.Name)) + 256 }

// begun is the call as an event.
func (c *Call) begun() *event {
	c.ev.call = c
	return &c.ev
}

// errCanceled is the cause when the caller gave none.
var errCanceled = errors.New("the caller went away")

// Cancel says that nobody waits for the answer any more. A call that has not begun does not run; a
// handler that runs sees its context end, and its writes still commit. Safe at any time, any
// number of times.
func (c *Call) Cancel(cause error) {
	if cause == nil {
		cause = errCanceled
	}
	c.mu.Lock()
	if c.mu.canceled == nil {
		c.mu.canceled = cause
	}
	cancel := c.mu.cancel
	c.mu.Unlock()
	if cancel != nil {
		cancel(cause)
	}
}

func (c *Call) canceledBy() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.mu.canceled
}

// eventContext is the context of a handler. Most handlers never look at it, so the timer and the
// channel behind it are made only when somebody does.
type eventContext struct {
	context.Context //nolint:containedctx // the parent of this context

	call   *Call
	once   sync.Once
	inner  context.Context //nolint:containedctx // this context itself, once it is looked at
	end    context.CancelFunc
	looked atomic.Bool // and inner has more to say than the parent
}

func newEventContext(parent context.Context, call *Call) *eventContext {
	if len(call.Metadata) > 0 {
		parent = metadata.NewIncomingContext(parent, call.Metadata)
	}
	if span := call.ev.span; span != nil {
		parent = span.Context(parent)
	}
	return &eventContext{Context: parent, call: call}
}

// callKey is what a context has the Call of its event under.
type callKey struct{}

// Value implements context.Context.
func (e *eventContext) Value(key any) any {
	if key == (callKey{}) {
		return e.call
	}
	if e.looked.Load() {
		return e.inner.Value(key) // Among them what context.Cause asks for.
	}
	return e.Context.Value(key)
}

// eventOf returns the event whose handler's context ctx is, or comes from.
func eventOf(ctx context.Context) *event {
	if c, ok := ctx.Value(callKey{}).(*Call); ok {
		return &c.ev
	}
	return nil
}

// Deadline implements context.Context.
func (e *eventContext) Deadline() (time.Time, bool) {
	return e.call.Deadline, !e.call.Deadline.IsZero()
}

// Done implements context.Context.
func (e *eventContext) Done() <-chan struct{} { return e.look().Done() }

// Err implements context.Context.
func (e *eventContext) Err() error { return e.look().Err() }

func (e *eventContext) look() context.Context {
	e.once.Do(func() {
		ctx, cancel := context.WithCancelCause(e.Context)
		e.inner, e.end = ctx, func() { cancel(nil) }
		if !e.call.Deadline.IsZero() {
			inner, stop := context.WithDeadline(ctx, e.call.Deadline)
			e.inner, e.end = inner, func() { stop(); cancel(nil) }
		}
		e.call.mu.Lock()
		e.call.mu.cancel = cancel
		cause := e.call.mu.canceled
		e.call.mu.Unlock()
		if cause != nil {
			cancel(cause)
		}
		e.looked.Store(true)
	})
	return e.inner
}

// close releases what look made; the handler has returned. Whoever looks now finds it over.
func (e *eventContext) close() {
	e.once.Do(func() { e.inner, e.end = over, func() {} })
	e.end()
}

// over is a context that has ended.
var over = func() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}()
