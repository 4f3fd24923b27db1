package client

import (
	"context"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"

	"github.com/holdfast-io/holdfast/peer/frame"
	holdfastv1 "github.com/holdfast-io/holdfast/proto/holdfast/v1"
)

// quickConnect makes gRPC give up a dial soon: conn tries again itself.
var quickConnect = grpc.ConnectParams{
	Backoff:           backoff.Config{BaseDelay: redialMin, Multiplier: 1.6, Jitter: 0.2, MaxDelay: redialMax},
	MinConnectTimeout: time.Second,
}

// conn is one node's stream, which a goroutine of its own brings back when it breaks.
type conn struct {
	c         *Client
	addr      string
	seed      bool
	grpc      *grpc.ClientConn
	mux       atomic.Pointer[frame.Mux] // nil while not connected
	abandoned atomic.Bool               // out of reach for too long, and not a seed
}

// ready says that calls can be sent.
func (n *conn) ready() bool {
	m := n.mux.Load()
	return m != nil && m.Open()
}

// open begins to connect.
func (n *conn) open() error {
	var err error
	if n.grpc, err = grpc.NewClient("passthrough:///"+n.addr, n.c.dial...); err != nil {
		return err
	}
	n.c.wg.Go(n.keep)
	return nil
}

// keep keeps the stream up until the client is closed, or the node was away for too long.
func (n *conn) keep() {
	defer func() { _ = n.grpc.Close() }()
	wait, away := redialMin, time.Now()
	for n.c.ctx.Err() == nil {
		if n.converse() {
			wait, away = redialMin, time.Now()
		}
		if !n.seed && time.Since(away) > abandonAfter {
			break
		}
		t := time.NewTimer(wait)
		select {
		case <-n.c.ctx.Done():
		case <-t.C:
		}
		t.Stop()
		wait = min(2*wait, redialMax)
	}
	n.abandoned.Store(true)
	n.c.mu.Lock()
	delete(n.c.conns, n.addr)
	n.c.mu.Unlock()
}

// converse runs one stream to its end, and says whether it stood.
func (n *conn) converse() (stood bool) {
	ctx, cancel := context.WithCancel(n.c.ctx)
	defer cancel()
	stream, err := holdfastv1.NewObjectsClient(n.grpc).Stream(ctx)
	if err != nil {
		return false
	}
	m := frame.NewMux(stream, nil, frame.Options{})
	ran := make(chan struct{})
	n.c.wg.Go(func() {
		_ = m.Run(ctx)
		cancel()
		m.Wait()
		close(ran)
	})
	// The node's first ping opens the stream; before that nobody need be there.
	_, err = stream.Header()
	if err == nil {
		n.mux.Store(m)
		n.c.connected()
	} else {
		cancel()
	}
	<-ran
	n.mux.Store(nil)
	return err == nil
}
