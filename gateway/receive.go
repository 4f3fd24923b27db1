package gateway

import (
	"context"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/status"

	"github.com/holdfast-io/holdfast/fault"
)

// receiveGrace is how long a request may take to arrive before it counts as a slow one.
const receiveGrace = 250 * time.Millisecond

// receivers bounds the requests of plain gRPC that are on their way in: nobody else counts their bytes
// before they are whole. So many may arrive at once; others wait, and what their callers send stops at
// the windows of HTTP/2. Those that take longer than receiveGrace let others pass. When there are as
// many of these, requests are refused without being read.
//
// It is safe for concurrent use.
type receivers struct {
	slots chan struct{}
	slow  atomic.Int64
}

func newReceivers(most int) *receivers { return &receivers{slots: make(chan struct{}, most)} }

// receive calls recv, which takes a request in, when it may.
func (r *receivers) receive(ctx context.Context, recv func() error) error {
	select {
	case r.slots <- struct{}{}:
	case <-ctx.Done():
		return status.FromContextError(ctx.Err()).Err()
	}
	leave := func() { <-r.slots }
	if r.slow.Load() >= int64(cap(r.slots)) {
		leave()
		return fault.New(fault.Overloaded, "too many requests are slow to arrive at the node: at most %d", cap(r.slots))
	}
	grace := time.AfterFunc(receiveGrace, func() {
		r.slow.Add(1)
		leave()
	})
	err := recv()
	if grace.Stop() {
		leave()
	} else {
		r.slow.Add(-1)
	}
	return err
}

// bound makes the unary methods of a service take their requests in by receive.
func (r *receivers) bound(desc grpc.ServiceDesc) *grpc.ServiceDesc {
	methods := make([]grpc.MethodDesc, 0, len(desc.Methods))
	for _, m := range desc.Methods {
		handler := m.Handler
		m.Handler = func(srv any, ctx context.Context, dec func(any) error, interceptor grpc.UnaryServerInterceptor) (any, error) {
			return handler(srv, ctx, func(into any) error {
				return r.receive(ctx, func() error { return dec(into) })
			}, interceptor)
		}
		methods = append(methods, m)
	}
	desc.Methods = methods
	return &desc
}
