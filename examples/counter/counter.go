// Package counter is the smallest useful class of objects, and the model of how to write one: a
// number with a name, which survives everything and is never wrong.
//
//	holdfast call Counter visits Increment '{"amount": 5}'
package counter

import (
	"context"

	"github.com/holdfast-io/holdfast/actor"
	"github.com/holdfast-io/holdfast/examples/counter/counterv1"
)

// valueKey is where a counter keeps its number.
const valueKey = "value"

// Class describes the class to a node: its name, its gRPC service, and how an object of it is made.
func Class() actor.Class {
	return actor.NewClass("Counter", &counterv1.Counter_ServiceDesc, func(s *actor.State) counterv1.CounterServer {
		return &Counter{storage: s.Storage()}
	})
}

// Counter is one counter. Its methods are called one at a time, so there is nothing to lock; what
// they write is durable before their reply gets out, so there is nothing to flush.
type Counter struct {
	counterv1.UnimplementedCounterServer

	storage *actor.Storage
}

// Get returns the number; 0 for a counter that was never written, which leaves no trace.
func (c *Counter) Get(context.Context, *counterv1.GetRequest) (*counterv1.GetResponse, error) {
	value, _, err := actor.Get[int64](c.storage, valueKey)
	if err != nil {
		return nil, err
	}
	return &counterv1.GetResponse{Value: value}, nil
}

// Increment adds amount, 1 when it is absent, and returns the new number.
func (c *Counter) Increment(_ context.Context, req *counterv1.IncrementRequest) (*counterv1.IncrementResponse, error) {
	value, err := c.add(orOne(req.Amount))
	return &counterv1.IncrementResponse{Value: value}, err
}

// Decrement subtracts amount, 1 when it is absent, and returns the new number.
func (c *Counter) Decrement(_ context.Context, req *counterv1.DecrementRequest) (*counterv1.DecrementResponse, error) {
	value, err := c.add(-orOne(req.Amount))
	return &counterv1.DecrementResponse{Value: value}, err
}

func (c *Counter) add(amount int64) (int64, error) {
	value, _, err := actor.Get[int64](c.storage, valueKey)
	if err != nil {
		return 0, err
	}
	value += amount
	return value, actor.Put(c.storage, valueKey, value)
}

func orOne(amount *int64) int64 {
	if amount == nil {
		return 1
	}
	return *amount
}
