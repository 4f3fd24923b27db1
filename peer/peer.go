// Package peer keeps a node connected to the others: who they are is checked on every stream, calls
// and administrative queries travel on one multiplexed stream a pair, Raft's frames on another, and
// snapshots on a third connection, so that a large one holds up neither.
//
// Each node dials every other and sends on the streams that it dialled; what it receives comes on
// the streams that were dialled to it. docs/format/peer.md has the handshake.
package peer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/cespare/xxhash/v2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/holdfast-io/holdfast/peer/frame"
	"github.com/holdfast-io/holdfast/placement"
	peerv1 "github.com/holdfast-io/holdfast/proto/holdfast/peer/v1"
	holdfastv1 "github.com/holdfast-io/holdfast/proto/holdfast/v1"
)

// ProtocolMin and ProtocolMax are what this release can speak. Nodes talk when their ranges meet.
// Which version they use is not settled a connection: the cluster's feature level says what every
// node can read, and nobody sends more than that.
const (
	ProtocolMin = 1
	ProtocolMax = 1
)

// Hello is what a node says of itself on every stream.
type Hello struct {
	ClusterID string
	Node      placement.NodeID
	Name      string
	// Boot counts the starts of the node's store, and Nonce tells apart two processes that think
	// they have the same: copies of one disk.
	Boot     uint64
	Nonce    string
	Revision uint64 // of the cluster facts
}

// Config of Peers.
type Config struct {
	Self Hello
	// Revision returns the cluster facts' revision now.
	Revision func() uint64
	// Resolve returns where a node listens for others.
	Resolve func(placement.NodeID) (addr string, ok bool)
	// Admit refuses a node, with an error that says why to both sides. Called on every stream. An
	// error that is ErrOldCopy makes the other side's OnOldCopy be called.
	Admit func(Hello) error
	// OnOldCopy is told that another node has seen a later boot of this one: this process runs on an
	// old copy of its disk.
	OnOldCopy func(error)
	// Raft takes a frame and keeps it. It must not block for long.
	Raft func(from placement.NodeID, data []byte)
	// Snapshot takes a shard's state and returns when it is installed. It calls offer once, first,
	// with what is here already; next then returns runs, and io.EOF at the end.
	Snapshot func(ctx context.Context, from placement.NodeID, header []byte, offer func(parts []byte) error, next func() ([]byte, error)) error
	// Calls returns the handler of what a node sends.
	Calls func(from placement.NodeID) frame.Handler
	// OnBroken is told that the connections to a node broke and that it does not greet a new one
	// either. OnConnected, that calls can be sent to it.
	OnBroken    func(placement.NodeID)
	OnConnected func(placement.NodeID)
	// Frames bounds each conversation.
	Frames frame.Options
	// Dial reaches an address that Resolve returned: default a plain TCP dial.
	Dial   func(ctx context.Context, addr string) (net.Conn, error)
	Logger *slog.Logger
	// ProbeTimeout is how long a node may take to greet a new connection: default 50 ms.
	ProbeTimeout time.Duration
}

// ErrOldCopy is why a node is refused that runs on an old copy of its disk.
var ErrOldCopy = errors.New("the node runs on an old copy of its disk")

// refusalCode tells the two kinds of refusals apart on the wire.
func refusalCode(err error) codes.Code {
	if errors.Is(err, ErrOldCopy) {
		return codes.DataLoss
	}
	return codes.FailedPrecondition
}

// isRefusal says whether the other side refused this node.
func isRefusal(err error) bool {
	code := status.Code(err)
	return code == codes.FailedPrecondition || code == codes.DataLoss
}

// Bounds and times.
const (
	raftQueueFrames   = 1024
	raftQueueBytesMax = 64 << 20
	retryMin          = 20 * time.Millisecond
	retryMax          = time.Second
	refusedRetry      = 2 * time.Second
	messageBytesMax   = 64 << 20
)

// Peers are the connections of one node. Methods are safe for concurrent use.
type Peers struct {
	peerv1.UnimplementedPeerServer

	cfg    Config
	logger *slog.Logger

	ctx    context.Context //nolint:containedctx // the lifetime, ended by Close
	cancel context.CancelCauseFunc
	wg     sync.WaitGroup

	mu      sync.Mutex
	closed  bool
	links   map[placement.NodeID]*link
	serving map[*frame.Mux]bool      // that others have dialled
	probes  map[placement.NodeID]int // see broke
	said    map[string]bool          // refusals that have been logged
}

// New returns Peers that are connected to nobody; SetPeers says to whom.
func New(cfg Config) *Peers {
	if cfg.ProbeTimeout == 0 {
		cfg.ProbeTimeout = 50 * time.Millisecond
	}
	if cfg.Dial == nil {
		cfg.Dial = dialTCP
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	p := &Peers{
		cfg: cfg, logger: cfg.Logger,
		links: make(map[placement.NodeID]*link), serving: make(map[*frame.Mux]bool), probes: make(map[placement.NodeID]int), said: make(map[string]bool),
	}
	p.ctx, p.cancel = context.WithCancelCause(context.Background())
	return p
}

// Register adds the service to a server made with ServerOptions.
func (p *Peers) Register(s grpc.ServiceRegistrar) { peerv1.RegisterPeerServer(s, p) }

// ServerOptions are what the server of the peer port needs.
func ServerOptions() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.MaxRecvMsgSize(messageBytesMax),
		grpc.InitialWindowSize(4 << 20),
		grpc.InitialConnWindowSize(8 << 20),
		grpc.ConnectionTimeout(5 * time.Second),
		grpc.WaitForHandlers(true),
	}
}

// errClosed is why everything ends.
var errClosed = errors.New("the node is closing its connections")

// Drain asks the nodes that send calls here to send no more, and waits until those under way are
// answered, or ctx ends.
func (p *Peers) Drain(ctx context.Context) {
	p.mu.Lock()
	muxes := slices.Collect(maps.Keys(p.serving))
	p.mu.Unlock()
	var wg sync.WaitGroup
	for _, m := range muxes {
		wg.Go(func() { _ = m.Drain(ctx) }) // Whoever is not through by then is cut off.
	}
	wg.Wait()
}

// Close ends every connection and waits. The server is its owner's to stop, and stopped before.
func (p *Peers) Close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.cancel(errClosed)
	p.wg.Wait()
}

// SetPeers says which nodes to be connected to; connections to others are closed.
func (p *Peers) SetPeers(nodes []placement.NodeID) {
	want := make(map[placement.NodeID]bool)
	for _, n := range nodes {
		want[n] = n != p.cfg.Self.Node
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return
	}
	for id, l := range p.links {
		if !want[id] {
			l.cancel(errClosed)
			delete(p.links, id)
		}
	}
	for id, ok := range want {
		if ok && p.links[id] == nil {
			l := newLink(p, id)
			p.links[id] = l
			p.wg.Go(l.runCalls)
			p.wg.Go(l.runRaft)
		}
	}
}

func (p *Peers) link(to placement.NodeID) *link {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.links[to]
}

// errNoConnection is why something could not be sent.
var errNoConnection = errors.New("no connection to that node")

// SendRaft queues a frame and owns it. It does not block; false: it was dropped.
func (p *Peers) SendRaft(to placement.NodeID, data []byte) bool {
	l := p.link(to)
	return l != nil && l.queueRaft(data)
}

// Call sends a call to a node; see frame.Mux.Call.
func (p *Peers) Call(to placement.NodeID, req *frame.Request, done func(frame.Response)) (cancel func(cause error)) {
	m := p.mux(to)
	if m == nil {
		done(frame.ErrorResponse(&frame.LostError{Cause: errNoConnection}))
		return func(error) {}
	}
	return m.Call(req, done)
}

func (p *Peers) mux(to placement.NodeID) *frame.Mux {
	if l := p.link(to); l != nil {
		return l.mux.Load()
	}
	return nil
}

// Query sends an administrative request and waits for the answer.
func (p *Peers) Query(ctx context.Context, to placement.NodeID, kind string, body []byte) ([]byte, error) {
	m := p.mux(to)
	if m == nil {
		return nil, errNoConnection
	}
	type result struct {
		body []byte
		err  error
	}
	answered := make(chan result, 1)
	m.Query(kind, body, func(body []byte, err error) { answered <- result{body, err} })
	select {
	case r := <-answered:
		return r.body, r.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// Announce tells every connected node that a node owns a shard.
func (p *Peers) Announce(shard placement.ShardID, node placement.NodeID, term uint64) {
	p.mu.Lock()
	links := make([]*link, 0, len(p.links))
	for _, l := range p.links {
		links = append(links, l)
	}
	p.mu.Unlock()
	for _, l := range links {
		if m := l.mux.Load(); m != nil {
			m.Announce(shard, node, term)
		}
	}
}

// SendSnapshot streams a shard's state to a node; it returns when the node has installed it.
// begin is called with what the node says that it has already; the function that it returns returns
// runs, and io.EOF at the end.
func (p *Peers) SendSnapshot(ctx context.Context, to placement.NodeID, header []byte, begin func(parts []byte) (next func() ([]byte, error), err error)) error {
	l := p.link(to)
	if l == nil {
		return errNoConnection
	}
	conn, err := l.conn()
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := peerv1.NewPeerClient(conn).Snapshot(p.outgoing(ctx, to))
	if err == nil {
		err = sendSnapshot(stream, header, begin)
	}
	if err != nil {
		return fmt.Errorf("snapshot to %s: %w", to, err)
	}
	return nil
}

func sendSnapshot(stream grpc.BidiStreamingClient[peerv1.SnapshotChunk, peerv1.SnapshotReply], header []byte, begin func(parts []byte) (next func() ([]byte, error), err error)) error {
	if err := stream.Send(&peerv1.SnapshotChunk{Header: header}); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	reply, err := stream.Recv() // Its error is also why Send failed, if it did.
	if err != nil {
		return err
	}
	next, err := begin(reply.GetParts())
	if err != nil {
		return err
	}
	for last := false; !last; {
		run, err := next()
		if last = errors.Is(err, io.EOF); err != nil && !last {
			return err
		}
		if err := stream.Send(&peerv1.SnapshotChunk{Run: run, Checksum: xxhash.Sum64(run), Last: last}); err != nil {
			break // Recv has the reason.
		}
	}
	if err := stream.CloseSend(); err != nil {
		return err
	}
	if _, err = stream.Recv(); err != nil {
		return err
	}
	return nil
}

// The handshake's metadata keys.
const (
	keyCluster  = "holdfast-cluster"
	keyFrom     = "holdfast-from"
	keyName     = "holdfast-name"
	keyTo       = "holdfast-to"
	keyBoot     = "holdfast-boot"
	keyNonce    = "holdfast-nonce"
	keyRevision = "holdfast-revision"
	// The lowest version that the sender can speak, which releases without a range compare with the
	// one they have, and the highest.
	keyProtocol    = "holdfast-protocol"
	keyProtocolMax = "holdfast-protocol-max"
)

func (p *Peers) hello() metadata.MD {
	s := p.cfg.Self
	revision := uint64(0)
	if p.cfg.Revision != nil {
		revision = p.cfg.Revision()
	}
	return metadata.Pairs(
		keyCluster, s.ClusterID, keyFrom, s.Node.String(), keyName, s.Name,
		keyBoot, strconv.FormatUint(s.Boot, 10), keyNonce, s.Nonce,
		keyProtocol, strconv.Itoa(ProtocolMin), keyProtocolMax, strconv.Itoa(ProtocolMax), keyRevision, strconv.FormatUint(revision, 10),
	)
}

func (p *Peers) outgoing(ctx context.Context, to placement.NodeID) context.Context {
	md := p.hello()
	md.Set(keyTo, to.String())
	return metadata.NewOutgoingContext(ctx, md)
}

// check reads a handshake and decides whether to talk to who sent it.
func (p *Peers) check(md metadata.MD) (Hello, error) {
	one := func(key string) string {
		if v := md.Get(key); len(v) == 1 {
			return v[0]
		}
		return ""
	}
	h := Hello{ClusterID: one(keyCluster), Name: one(keyName), Nonce: one(keyNonce)}
	var err error
	if err := checkProtocol(one(keyProtocol), one(keyProtocolMax)); err != nil {
		return h, err
	}
	if h.Node, err = placement.ParseNodeID(one(keyFrom)); err != nil {
		return h, fmt.Errorf("handshake: from: %w", err)
	}
	if h.Boot, err = strconv.ParseUint(one(keyBoot), 10, 64); err != nil {
		return h, fmt.Errorf("handshake: boot: %w", err)
	}
	if h.Revision, err = strconv.ParseUint(one(keyRevision), 10, 64); err != nil {
		return h, fmt.Errorf("handshake: revision: %w", err)
	}
	if h.ClusterID != p.cfg.Self.ClusterID {
		return h, fmt.Errorf("node %s (%s) is of cluster %s, this one (%s) of cluster %s", h.Name, h.Node, h.ClusterID, p.cfg.Self.Name, p.cfg.Self.ClusterID)
	}
	if to := one(keyTo); to != "" && to != p.cfg.Self.Node.String() {
		return h, fmt.Errorf("meant for node %s, but this is %s (%s): its address was taken over", to, p.cfg.Self.Node, p.cfg.Self.Name)
	}
	if p.cfg.Admit != nil {
		return h, p.cfg.Admit(h)
	}
	return h, nil
}

// checkProtocol compares the range of another node with this one's. A release from before there were
// ranges says only one version.
func checkProtocol(lowest, highest string) error {
	if highest == "" {
		highest = lowest
	}
	lo, errLo := strconv.ParseUint(lowest, 10, 31)
	hi, errHi := strconv.ParseUint(highest, 10, 31)
	if errLo != nil || errHi != nil || lo > hi {
		return fmt.Errorf("protocol versions %q to %q: not a range", lowest, highest)
	}
	if lo > ProtocolMax || hi < ProtocolMin {
		return fmt.Errorf("protocol versions %d to %d, this node speaks %d to %d: the releases are too far apart; upgrade by way of one between them", lo, hi, ProtocolMin, ProtocolMax)
	}
	return nil
}

// accept is the server's side of the handshake: it answers with this node's own.
func (p *Peers) accept(stream grpc.ServerStream) (Hello, error) {
	md, _ := metadata.FromIncomingContext(stream.Context())
	h, err := p.check(md)
	if err != nil {
		p.sayOnce(refusedByUs, h.Node, err)
		return h, status.Error(refusalCode(err), err.Error())
	}
	return h, stream.SendHeader(p.hello())
}

// refusal says who refused whom.
type refusal string

const (
	refusedByUs   refusal = "this node"
	refusedByPeer refusal = "peer"
)

// sayOnce logs a refusal the first time.
func (p *Peers) sayOnce(who refusal, node placement.NodeID, err error) {
	p.mu.Lock()
	key := string(who) + err.Error()
	said := p.said[key]
	if len(p.said) < 1000 {
		p.said[key] = true
	}
	p.mu.Unlock()
	if !said {
		p.logger.Warn("refused", slog.String("by", string(who)), slog.String("peer", node.String()), slog.Any("error", err))
	}
}

// Calls implements peerv1.PeerServer.
func (p *Peers) Calls(stream grpc.BidiStreamingServer[holdfastv1.Frames, holdfastv1.Frames]) error {
	h, err := p.accept(stream)
	if err != nil {
		return err
	}
	ctx, cancel := p.until(stream.Context())
	defer cancel()
	m := frame.NewMux(stream, p.cfg.Calls(h.Node), p.cfg.Frames)
	p.mu.Lock()
	p.serving[m] = true
	p.mu.Unlock()
	err = m.Run(ctx)
	p.mu.Lock()
	delete(p.serving, m)
	p.mu.Unlock()
	p.broke(h.Node)
	p.wg.Go(m.Wait) // It ends with the stream, and that when this returns.
	return err
}

// until ends with ctx or with Peers.
func (p *Peers) until(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(p.ctx, func() { cancel(errClosed) })
	return ctx, func() { stop(); cancel(nil) }
}

// Raft implements peerv1.PeerServer.
func (p *Peers) Raft(stream grpc.ClientStreamingServer[peerv1.RaftFrame, peerv1.RaftSummary]) error {
	h, err := p.accept(stream)
	if err != nil {
		return err
	}
	for {
		f, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return stream.SendAndClose(&peerv1.RaftSummary{})
		}
		if err != nil {
			p.broke(h.Node)
			return err
		}
		p.cfg.Raft(h.Node, f.GetMessages())
	}
}

// Snapshot implements peerv1.PeerServer.
func (p *Peers) Snapshot(stream grpc.BidiStreamingServer[peerv1.SnapshotChunk, peerv1.SnapshotReply]) error {
	h, err := p.accept(stream)
	if err != nil {
		return err
	}
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	offer := func(parts []byte) error { return stream.Send(&peerv1.SnapshotReply{Parts: parts}) }
	last := false
	next := func() ([]byte, error) {
		for !last {
			chunk, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			if err != nil {
				return nil, fmt.Errorf("snapshot: %w", err)
			}
			if xxhash.Sum64(chunk.GetRun()) != chunk.GetChecksum() {
				return nil, errors.New("snapshot: a chunk's checksum does not match")
			}
			last = chunk.GetLast()
			if len(chunk.GetRun()) > 0 {
				return chunk.GetRun(), nil
			}
		}
		return nil, io.EOF
	}
	if err := p.cfg.Snapshot(stream.Context(), h.Node, first.GetHeader(), offer, next); err != nil {
		return status.Error(codes.Aborted, err.Error())
	}
	return stream.Send(&peerv1.SnapshotReply{})
}

// broke follows the end of an established stream of a node: when it does not greet a new connection
// either, it is taken for dead. A vanished machine answers nothing, so the probe has a short limit;
// a node that only dropped a stream answers at once.
func (p *Peers) broke(node placement.NodeID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return
	}
	probing := p.probes[node]
	p.probes[node] = probeAgain
	if probing == 0 {
		p.wg.Go(func() { p.probe(node) })
	}
}

// The states of the probe of a node: probeAgain, a stream broke that the probe may not have seen.
const (
	probing = iota + 1
	probeAgain
)

// probe finds out whether a node lives, as often as streams of it break meanwhile.
func (p *Peers) probe(node placement.NodeID) {
	for p.nextProbe(node) {
		if !p.greeted(node) && p.ctx.Err() == nil && p.cfg.OnBroken != nil {
			p.cfg.OnBroken(node)
		}
	}
}

// nextProbe says whether a stream broke since the last probe.
func (p *Peers) nextProbe(node placement.NodeID) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.probes[node] != probeAgain {
		delete(p.probes, node)
		return false
	}
	p.probes[node] = probing
	return true
}

// greeted says whether a node greets a new connection: a gRPC server speaks first. That the
// connection comes to be says nothing, because the kernel still accepts for a process that is being
// killed, as long as it has not come to close the listening socket.
func (p *Peers) greeted(node placement.NodeID) bool {
	addr, ok := p.cfg.Resolve(node)
	if !ok {
		return false
	}
	ctx, cancel := context.WithTimeout(p.ctx, p.cfg.ProbeTimeout)
	defer cancel()
	conn, err := p.cfg.Dial(ctx, addr)
	if err != nil {
		return false
	}
	defer func() { _ = conn.Close() }()
	if deadline, ok := ctx.Deadline(); ok {
		_ = conn.SetReadDeadline(deadline)
	}
	_, err = conn.Read(make([]byte, 1))
	return err == nil
}

func dialTCP(ctx context.Context, addr string) (net.Conn, error) {
	return (&net.Dialer{}).DialContext(ctx, "tcp", addr)
}

func dialOptions() []grpc.DialOption {
	return []grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second},
			MinConnectTimeout: time.Second,
		}),
		grpc.WithInitialWindowSize(4 << 20),
		grpc.WithInitialConnWindowSize(8 << 20),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(messageBytesMax), grpc.MaxCallSendMsgSize(messageBytesMax)),
	}
}
