package peer

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/holdfast-io/holdfast/peer/frame"
	"github.com/holdfast-io/holdfast/placement"
	peerv1 "github.com/holdfast-io/holdfast/proto/holdfast/peer/v1"
)

// link is what this node dialled to one other: two streams, each with a connection of its own and
// a goroutine that brings it back when it breaks.
type link struct {
	peers  *Peers
	to     placement.NodeID
	ctx    context.Context //nolint:containedctx // the link's lifetime, ended by SetPeers and Close
	cancel context.CancelCauseFunc
	mux    atomic.Pointer[frame.Mux] // nil while not connected

	mu     sync.Mutex
	frames [][]byte // Raft's, bounded by raftQueueFrames and raftQueueBytesMax
	bytes  int
	up     bool // the Raft stream stands: frames are queued only then
	wake   chan struct{}
}

func newLink(p *Peers, to placement.NodeID) *link {
	l := &link{peers: p, to: to, wake: make(chan struct{}, 1)}
	l.ctx, l.cancel = context.WithCancelCause(p.ctx)
	return l
}

// conn dials the node where it is now. The caller closes it.
func (l *link) conn() (*grpc.ClientConn, error) {
	addr, ok := l.peers.cfg.Resolve(l.to)
	if !ok {
		return nil, fmt.Errorf("node %s: no address is known", l.to)
	}
	return grpc.NewClient("passthrough:///"+addr, append(dialOptions(), grpc.WithContextDialer(l.peers.cfg.Dial))...)
}

// keep runs attempt again and again until the link ends, waiting longer after each that failed at
// once. attempt returns whether the stream stood.
func (l *link) keep(attempt func() (stood bool, err error)) {
	wait := retryMin
	for l.ctx.Err() == nil {
		stood, err := attempt()
		switch {
		case l.ctx.Err() != nil:
			return
		case stood:
			wait = retryMin
			l.peers.broke(l.to)
		case isRefusal(err):
			l.peers.sayOnce(refusedByPeer, l.to, err)
			if status.Code(err) == codes.DataLoss && l.peers.cfg.OnOldCopy != nil {
				l.peers.cfg.OnOldCopy(errors.New(status.Convert(err).Message()))
			}
			wait = refusedRetry
		}
		t := time.NewTimer(wait)
		select {
		case <-l.ctx.Done():
		case <-t.C:
		}
		t.Stop()
		wait = min(2*wait, retryMax)
	}
}

// greet reads the server's side of the handshake.
func (l *link) greet(header func() (metadata.MD, error)) error {
	md, err := header()
	if err != nil {
		return err
	}
	if len(md.Get(keyFrom)) == 0 {
		return errors.New("the node ended the stream without a handshake")
	}
	h, err := l.peers.check(md)
	if err != nil {
		l.peers.sayOnce(refusedByUs, h.Node, err)
		return status.Error(codes.FailedPrecondition, err.Error())
	}
	if h.Node != l.to {
		return fmt.Errorf("node %s answers where %s was", h.Node, l.to)
	}
	return nil
}

// runCalls keeps the stream of calls up.
func (l *link) runCalls() {
	l.keep(func() (bool, error) {
		conn, err := l.conn()
		if err != nil {
			return false, err
		}
		defer func() { _ = conn.Close() }()
		ctx, cancel := context.WithCancel(l.ctx)
		defer cancel()
		stream, err := peerv1.NewPeerClient(conn).Calls(l.peers.outgoing(ctx, l.to))
		if err != nil {
			return false, err
		}
		if err := l.greet(stream.Header); err != nil {
			// The refusal's own words come with the end of the stream.
			if _, reason := stream.Recv(); isRefusal(reason) {
				err = reason
			}
			return false, err
		}
		m := frame.NewMux(stream, l.peers.cfg.Calls(l.to), l.peers.cfg.Frames)
		l.mux.Store(m)
		defer l.mux.Store(nil)
		if l.peers.cfg.OnConnected != nil {
			l.peers.cfg.OnConnected(l.to)
		}
		err = m.Run(ctx)
		cancel()
		m.Wait()
		return true, err
	})
}

// runRaft keeps the stream of Raft's frames up.
func (l *link) runRaft() {
	l.keep(func() (bool, error) {
		conn, err := l.conn()
		if err != nil {
			return false, err
		}
		defer func() { _ = conn.Close() }()
		ctx, cancel := context.WithCancel(l.ctx)
		defer cancel()
		stream, err := peerv1.NewPeerClient(conn).Raft(l.peers.outgoing(ctx, l.to))
		if err != nil {
			return false, err
		}
		if err := l.greet(stream.Header); err != nil {
			return false, err
		}
		l.setUp(true)
		defer l.setUp(false)
		return true, l.sendRaft(stream)
	})
}

func (l *link) setUp(up bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.up, l.frames, l.bytes = up, nil, 0
}

// queueRaft queues a frame while the stream stands. Raft sends again what is dropped.
func (l *link) queueRaft(data []byte) bool {
	l.mu.Lock()
	ok := l.up && len(l.frames) < raftQueueFrames && l.bytes+len(data) <= raftQueueBytesMax
	if ok {
		l.frames = append(l.frames, data)
		l.bytes += len(data)
	}
	l.mu.Unlock()
	if ok {
		select {
		case l.wake <- struct{}{}:
		default:
		}
	}
	return ok
}

func (l *link) sendRaft(stream grpc.ClientStreamingClient[peerv1.RaftFrame, peerv1.RaftSummary]) error {
	var msg peerv1.RaftFrame
	for {
		l.mu.Lock()
		frames := l.frames
		l.frames, l.bytes = nil, 0
		l.mu.Unlock()
		for _, f := range frames {
			msg.Messages = f
			if err := stream.Send(&msg); err != nil {
				return err
			}
		}
		if len(frames) > 0 {
			continue
		}
		select {
		case <-l.wake:
		case <-stream.Context().Done():
			return context.Cause(stream.Context())
		}
	}
}
