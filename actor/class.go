package actor

import (
	"cmp"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
)

// DefaultIdleTimeout is how long an object stays in memory without an event.
const DefaultIdleTimeout = 10 * time.Second

// ReservedPrefix begins the names of classes that only the cluster itself calls.
const ReservedPrefix = "holdfast."

// Class is a type of object: what implements it is made anew for each object. Make one of a gRPC service
// with NewClass, and one that is known by its name alone with NewDynamicClass.
type Class struct {
	// Name is what the class is registered under in the cluster. That of a worker's class is
	// WORKER/CLASS.
	Name string
	// Service is the gRPC service, as protoc-gen-go-grpc describes it; nil for a dynamic class.
	Service *grpc.ServiceDesc
	// IdleTimeout is how long an object stays in memory without an event: default 10 s. Longer
	// where loading is dear, shorter where objects are many and large.
	IdleTimeout time.Duration
	// Alarms says what becomes of alarms whose handler fails. Objects whose implementation is an
	// Alarmer can have alarms.
	Alarms AlarmPolicy
	// MailboxEventsMax is how many events of an object may wait, over which they are refused with
	// OVERLOADED: default, and at most, 1,024.
	MailboxEventsMax int
	// UnflushedBytesMax is how much an object may have written that is not yet readable before its next
	// event waits: default, and at most, 8 MiB.
	UnflushedBytesMax int
	// CallTimeMax is how long a handler may take, with all that it waits for. One that takes longer
	// does not go on well: its object is reset, its caller gets OBJECT_TIMEOUT, and everybody else
	// who waits OBJECT_RESET. Default: no limit but the call's own deadline, at which the handler's
	// context ends and nothing is reset.
	CallTimeMax time.Duration

	// Number is that of the code, for classes whose code is replaced: an object that has run under a later
	// number does not run under an earlier one. 0: the code has none.
	Number uint64

	dynamic   bool
	tally     *classTally // the Manager's
	construct func(*State) any
	edition   *atomic.Pointer[edition] // of a registered class
	methods   map[string]grpc.MethodDesc
	streams   map[string]grpc.StreamDesc
}

// NewClass describes a class by the service description and the server interface that
// protoc-gen-go-grpc generates from the class's own .proto:
//
//	actor.NewClass("Counter", &counterv1.Counter_ServiceDesc, func(s *actor.State) counterv1.CounterServer {
//		return &Counter{storage: s.Storage()}
//	})
//
// Methods may stream, in either direction or both; State.Wait says how handlers wait for each other.
//
// construct is called for each incarnation of each object, before its first event; what it returns
// is never called by two goroutines at once.
func NewClass[S any](name string, service *grpc.ServiceDesc, construct func(*State) S) Class {
	c := Class{
		Name:        name,
		Service:     service,
		IdleTimeout: DefaultIdleTimeout,
		construct:   func(s *State) any { return construct(s) },
		methods:     make(map[string]grpc.MethodDesc),
		streams:     make(map[string]grpc.StreamDesc),
	}
	for _, m := range service.Methods {
		c.methods[m.MethodName] = m
	}
	for _, s := range service.Streams {
		c.streams[s.StreamName] = s
	}
	return c
}

// prepare checks the limits and fills in those that are not given.
func (c *Class) prepare() error {
	switch {
	case c.construct == nil:
		return fmt.Errorf("class %q: make it with NewClass or NewDynamicClass", c.Name)
	case c.MailboxEventsMax < 0 || c.MailboxEventsMax > MailboxEventsMax:
		return fmt.Errorf("class %q: MailboxEventsMax: from 1 to %d, or 0 for that, is %d", c.Name, MailboxEventsMax, c.MailboxEventsMax)
	case c.UnflushedBytesMax < 0 || c.UnflushedBytesMax > UnflushedBytesMax:
		return fmt.Errorf("class %q: UnflushedBytesMax: from 1 to %d, or 0 for that, is %d", c.Name, UnflushedBytesMax, c.UnflushedBytesMax)
	case c.CallTimeMax < 0:
		return fmt.Errorf("class %q: CallTimeMax: at least 0, is %v", c.Name, c.CallTimeMax)
	}
	c.edition = new(atomic.Pointer[edition])
	c.IdleTimeout = cmp.Or(c.IdleTimeout, DefaultIdleTimeout)
	c.MailboxEventsMax = cmp.Or(c.MailboxEventsMax, MailboxEventsMax)
	c.UnflushedBytesMax = cmp.Or(c.UnflushedBytesMax, UnflushedBytesMax)
	return nil
}

// ServiceName returns the full name of the class's gRPC service; empty for a dynamic class.
func (c *Class) ServiceName() string {
	if c.Service == nil {
		return ""
	}
	return c.Service.ServiceName
}

// HasMethod says whether the class has, or may have, a unary method of the name.
func (c *Class) HasMethod(name string) bool {
	_, ok := c.methods[name]
	return ok || c.dynamic
}

// HasStream says whether the class has, or may have, a streaming method of the name.
func (c *Class) HasStream(name string) bool {
	_, ok := c.streams[name]
	return ok || c.dynamic
}

var discard = slog.New(slog.DiscardHandler)
