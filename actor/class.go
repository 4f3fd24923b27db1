package actor

import (
	"log/slog"
	"time"

	"google.golang.org/grpc"
)

// DefaultIdleTimeout is how long an object stays in memory without an event.
const DefaultIdleTimeout = 10 * time.Second

// Class is a type of object: a gRPC service whose implementation is made anew for each object.
// Make one with NewClass.
type Class struct {
	// Name is what the class is registered under in the cluster.
	Name string
	// Service is the gRPC service, as protoc-gen-go-grpc describes it.
	Service *grpc.ServiceDesc
	// IdleTimeout is how long an object stays in memory without an event: default 10 s. Longer
	// where loading is dear, shorter where objects are many and large.
	IdleTimeout time.Duration
	// Alarms says what becomes of alarms whose handler fails. Objects whose implementation is an
	// Alarmer can have alarms.
	Alarms AlarmPolicy

	construct func(*State) any
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

// HasMethod says whether the class has a unary method of the name.
func (c *Class) HasMethod(name string) bool {
	_, ok := c.methods[name]
	return ok
}

// HasStream says whether the class has a streaming method of the name.
func (c *Class) HasStream(name string) bool {
	_, ok := c.streams[name]
	return ok
}

var discard = slog.New(slog.DiscardHandler)
