package router

import (
	"maps"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc/codes"

	"github.com/holdfast-io/holdfast/fault"
	"github.com/holdfast-io/holdfast/peer/frame"
	"github.com/holdfast-io/holdfast/placement"
)

// classState is what the Router keeps of a class. A call looks it up once.
type classState struct {
	namespace          placement.Namespace // deriving its key hashes
	forwarded, retries atomic.Uint64
	errors             errorCounts
}

// classOf returns what is kept of the class with a unique key.
func (r *Router) classOf(uniqueKey string) *classState {
	if c, ok := r.classes.Load(uniqueKey); ok {
		return c.(*classState) //nolint:forcetypeassert // nothing else is stored
	}
	c, _ := r.classes.LoadOrStore(uniqueKey, &classState{namespace: placement.NewNamespace(uniqueKey)})
	return c.(*classState) //nolint:forcetypeassert // nothing else is stored
}

// ErrorKind is one way for calls to fail.
type ErrorKind struct {
	Code codes.Code
	// Reason is empty for an error that is not Holdfast's.
	Reason fault.Reason
}

// errorCounts counts calls that failed. There are so many kinds as codes and reasons together, whatever
// handlers return.
type errorCounts struct {
	mu sync.Mutex
	n  map[ErrorKind]uint64
}

func (e *errorCounts) count(err error) {
	s := fault.StatusOf(err)
	kind := ErrorKind{s.Code(), fault.ReasonOf(err)}
	if kind.Code > codes.Unauthenticated {
		kind.Code = codes.Unknown
	}
	if !kind.Reason.Known() {
		kind.Reason = ""
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.n == nil {
		e.n = make(map[ErrorKind]uint64)
	}
	e.n[kind]++
}

func (e *errorCounts) get() map[ErrorKind]uint64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	return maps.Clone(e.n)
}

// countError counts a call that came in here and failed.
func (c *call) countError(located bool, resp *frame.Response) {
	if !resp.Failed() || c.req.Hops > 0 {
		return
	}
	errors := &c.r.unlocated
	if located {
		errors = &c.state.errors
	}
	errors.count(resp.Err())
}

// ClassStats is what a Router has counted of the calls of one class.
type ClassStats struct {
	// UniqueKey is the class's; empty for calls whose class was not found, or not looked for.
	UniqueKey string
	// Forwarded are the tries sent to other nodes, Retries the tries after a call's first.
	Forwarded, Retries uint64
	// Errors are the calls that came in at this node, from callers and from its objects, and failed.
	Errors map[ErrorKind]uint64
}

// Stats returns what is counted of each class.
func (r *Router) Stats() []ClassStats {
	out := []ClassStats{{Errors: r.unlocated.get()}}
	r.classes.Range(func(key, value any) bool {
		c := value.(*classState) //nolint:forcetypeassert // nothing else is stored
		out = append(out, ClassStats{
			UniqueKey: key.(string), //nolint:forcetypeassert // nothing else is stored
			Forwarded: c.forwarded.Load(), Retries: c.retries.Load(), Errors: c.errors.get(),
		})
		return true
	})
	return out
}

// InFlight returns how many calls are under way, and how many bytes of memory they take.
func (r *Router) InFlight() (calls, bytes int64) { return r.calls.Load(), r.bytes.Load() }
