package cluster

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/memberlist"
)

// DefaultGossipPort is assumed where a seed names a host alone.
const DefaultGossipPort = 7946

// The question that a node without a cluster puts to a seed's gossip port. Memberlist's own
// streams begin with a message type below 0x80 or its label byte 0xF4; the magic begins with
// neither, so the two never mix.
const (
	discoveryMagic    = "\xffHOLDFAST?1\n"
	discoveryTimeout  = 3 * time.Second
	answerBytesMax    = 64 << 10
	discoveryInFlight = 16
)

// labelled begins a stream of memberlist's that says which cluster it is of: then come the length
// of the label, one byte, and the label.
const labelled = 0xf4

// errKey ends the errors of answers that can't be opened.
var errKey = errors.New("give all nodes the same gossip key")

// Answer is what a node says of its cluster to one that asks before joining.
type Answer struct {
	// ClusterID is empty while the answering node has no cluster itself.
	ClusterID string `json:"cluster_id"`
	// Bootstrap says that the node would create a cluster. Two such nodes never create two.
	Bootstrap bool   `json:"bootstrap"`
	Name      string `json:"name"`
	Shards    int    `json:"shards"`
	Replicas  int    `json:"replicas"`
	// Listener is drawn at random by each Listener, and tells one that asks a list of seeds which
	// of them is itself.
	Listener string `json:"listener"`
}

// Listener is a node's gossip port. It is open before the node belongs to a cluster, so that
// other nodes can ask who is there; Start hands it to memberlist afterwards. It implements
// memberlist.NodeAwareTransport.
//
// Close it with Shutdown, once; memberlist does so itself after Start.
type Listener struct {
	*memberlist.NetTransport

	id       string
	key      []byte
	logger   *slog.Logger
	answer   atomic.Pointer[Answer]
	owner    atomic.Pointer[Cluster] // nil before Start
	attached atomic.Bool
	conns    chan net.Conn
	packets  chan *memberlist.Packet
	slots    chan struct{} // bounds the questions answered at once
	stop     chan struct{} // closed when Shutdown begins
	down     chan struct{} // closed when the inner transport hands over nothing more
	once     sync.Once
	wg       sync.WaitGroup
}

// Listen opens the gossip port (TCP and UDP) on bind, HOST:PORT, port 0 for any. The key, when
// given, is the cluster's gossip key: questions are answered only to who has it.
func Listen(bind string, key []byte, logger *slog.Logger) (*Listener, error) {
	host, port, err := splitHostPort(bind)
	if err != nil {
		return nil, fmt.Errorf("--gossip %q: %w", bind, err)
	}
	if host == "" {
		host = "0.0.0.0"
	}
	inner, err := memberlist.NewNetTransport(&memberlist.NetTransportConfig{
		BindAddrs: []string{host},
		BindPort:  port,
		Logger:    slog.NewLogLogger(logger.Handler(), slog.LevelDebug),
	})
	if err != nil {
		return nil, fmt.Errorf("--gossip %s: %w", bind, err)
	}
	l := &Listener{
		NetTransport: inner,
		id:           rand.Text(),
		key:          key,
		logger:       logger,
		conns:        make(chan net.Conn),
		packets:      make(chan *memberlist.Packet),
		slots:        make(chan struct{}, discoveryInFlight),
		stop:         make(chan struct{}),
		down:         make(chan struct{}),
	}
	l.SetAnswer(Answer{})
	l.wg.Go(l.sortConns)
	l.wg.Go(l.forwardPackets)
	return l, nil
}

// Port returns the port that is listened on.
func (l *Listener) Port() int { return l.GetAutoBindPort() }

// ID is what Answer.Listener says.
func (l *Listener) ID() string { return l.id }

// SetAnswer sets what askers are told.
func (l *Listener) SetAnswer(a Answer) {
	a.Listener = l.id
	l.answer.Store(&a)
}

// StreamCh implements memberlist.Transport.
func (l *Listener) StreamCh() <-chan net.Conn {
	l.attached.Store(true)
	return l.conns
}

// PacketCh implements memberlist.Transport.
func (l *Listener) PacketCh() <-chan *memberlist.Packet {
	l.attached.Store(true)
	return l.packets
}

// Shutdown closes the port and waits for what it started.
func (l *Listener) Shutdown() error {
	var err error
	l.once.Do(func() {
		close(l.stop)
		err = l.NetTransport.Shutdown()
		close(l.down)
		l.wg.Wait()
	})
	return err
}

// forwardPackets hands datagrams to memberlist, and drops them while there is none: the inner
// transport would block, and could not be shut down.
func (l *Listener) forwardPackets() {
	for {
		select {
		case <-l.down:
			return
		case p := <-l.NetTransport.PacketCh():
			if !l.attached.Load() {
				continue
			}
			select {
			case l.packets <- p:
			case <-l.stop:
			}
		}
	}
}

// sortConns tells questions from gossip by the first bytes, each connection on its own goroutine
// so that a silent one holds up nobody; over the bound they are closed.
func (l *Listener) sortConns() {
	for {
		select {
		case <-l.down:
			return
		case c := <-l.NetTransport.StreamCh():
			select {
			case l.slots <- struct{}{}:
				l.wg.Go(func() {
					defer func() { <-l.slots }()
					l.sortConn(c)
				})
			default:
				_ = c.Close()
			}
		}
	}
}

func (l *Listener) sortConn(c net.Conn) {
	_ = c.SetReadDeadline(time.Now().Add(discoveryTimeout))
	unblock := make(chan struct{})
	defer close(unblock)
	l.wg.Go(func() {
		select {
		case <-l.stop:
			_ = c.SetReadDeadline(time.Unix(1, 0))
		case <-unblock:
		}
	})
	head := make([]byte, 1, 2+memberlist.LabelMaxSize)
	if _, err := io.ReadFull(c, head); err != nil {
		_ = c.Close()
		return
	}
	switch head[0] {
	case discoveryMagic[0]:
		l.answerConn(c)
		return
	case labelled:
		var err error
		if head, err = readLabel(c, head); err != nil || !l.ours(c, string(head[2:])) {
			_ = c.Close()
			return
		}
	}
	_ = c.SetReadDeadline(time.Time{})
	if !l.attached.Load() {
		_ = c.Close()
		return
	}
	select {
	case l.conns <- &replayConn{Conn: c, head: head}:
	case <-l.stop:
		_ = c.Close()
	}
}

// readLabel reads the rest of a label's header.
func readLabel(c net.Conn, head []byte) ([]byte, error) {
	head = head[:2]
	if _, err := io.ReadFull(c, head[1:]); err != nil {
		return nil, err
	}
	head = head[:2+int(head[1])]
	_, err := io.ReadFull(c, head[2:])
	return head, err
}

// ours says whether a stream with the label is of this cluster; memberlist would discard it otherwise
// without a word to the operator.
func (l *Listener) ours(c net.Conn, label string) bool {
	owner := l.owner.Load()
	if owner == nil || label == owner.cfg.ClusterID {
		return true
	}
	host, _, err := net.SplitHostPort(c.RemoteAddr().String())
	if err != nil {
		host = c.RemoteAddr().String()
	}
	_ = owner.refuse(fmt.Errorf("a node at %s is of cluster %q, this one of cluster %q", host, label, owner.cfg.ClusterID))
	return false
}

func (l *Listener) answerConn(c net.Conn) {
	defer func() { _ = c.Close() }()
	rest := make([]byte, len(discoveryMagic)-1)
	if _, err := io.ReadFull(c, rest); err != nil || string(rest) != discoveryMagic[1:] {
		return
	}
	body, err := json.Marshal(l.answer.Load())
	if err != nil {
		l.logger.Error("encode discovery answer", slog.Any("error", err))
		return
	}
	sealed, err := seal(l.key, body)
	if err != nil {
		l.logger.Error("seal discovery answer", slog.Any("error", err))
		return
	}
	_ = c.SetWriteDeadline(time.Now().Add(discoveryTimeout))
	_, _ = c.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(sealed))), sealed...)) //nolint:gosec // an answer is small
}

// Ask asks the seed which cluster it belongs to. An error means that nobody answered there, or
// not as Holdfast does, or with another gossip key; the text says which.
func Ask(ctx context.Context, seed string, key []byte) (Answer, error) {
	host, port, err := splitHostPort(seed)
	if err != nil {
		return Answer{}, fmt.Errorf("seed %q: %w", seed, err)
	}
	ctx, cancel := context.WithTimeout(ctx, discoveryTimeout)
	defer cancel()
	var dialer net.Dialer
	c, err := dialer.DialContext(ctx, "tcp", net.JoinHostPort(host, strconv.Itoa(port)))
	if err != nil {
		return Answer{}, fmt.Errorf("seed %s: %w", seed, err)
	}
	defer func() { _ = c.Close() }()
	stopped := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	defer stopped()

	notGossip := func(err error) error {
		return fmt.Errorf("seed %s does not answer as a Holdfast gossip port (is it the port of --gossip, %d by default?): %w", seed, DefaultGossipPort, err)
	}
	if _, err := io.WriteString(c, discoveryMagic); err != nil {
		return Answer{}, notGossip(err)
	}
	var size [4]byte
	if _, err := io.ReadFull(c, size[:]); err != nil {
		return Answer{}, notGossip(err)
	}
	n := binary.BigEndian.Uint32(size[:])
	if n > answerBytesMax {
		return Answer{}, notGossip(fmt.Errorf("answer of %d bytes", n))
	}
	sealed := make([]byte, n)
	if _, err := io.ReadFull(c, sealed); err != nil {
		return Answer{}, notGossip(err)
	}
	body, err := open(key, sealed)
	if err != nil {
		return Answer{}, fmt.Errorf("seed %s: %w", seed, err)
	}
	var a Answer
	if err := json.Unmarshal(body, &a); err != nil {
		return Answer{}, fmt.Errorf("seed %s: unreadable answer, perhaps sealed: %w: %w", seed, errKey, err)
	}
	return a, nil
}

// CheckAddress says what is wrong with a gossip address, HOST or HOST:PORT.
func CheckAddress(addr string) error {
	_, _, err := splitHostPort(addr)
	return err
}

// splitHostPort reads HOST or HOST:PORT.
func splitHostPort(addr string) (string, int, error) {
	host, portText, err := net.SplitHostPort(addr)
	if err != nil {
		var ae *net.AddrError
		if errors.As(err, &ae) && ae.Err == "missing port in address" {
			return addr, DefaultGossipPort, nil
		}
		return "", 0, err
	}
	port, err := strconv.ParseUint(portText, 10, 16)
	if err != nil {
		return "", 0, fmt.Errorf("port %q: must be a number up to 65535", portText)
	}
	return host, int(port), nil
}

// seal encrypts with the gossip key, when there is one, as memberlist does its own traffic.
func seal(key, plain []byte) ([]byte, error) {
	if len(key) == 0 {
		return plain, nil
	}
	gcm, err := newGCM(key)
	if err != nil {
		return nil, err
	}
	nonce := make([]byte, gcm.NonceSize())
	if _, err := rand.Read(nonce); err != nil {
		return nil, fmt.Errorf("draw nonce: %w", err)
	}
	return gcm.Seal(nonce, nonce, plain, []byte(discoveryMagic)), nil
}

func open(key, sealed []byte) ([]byte, error) {
	if len(key) == 0 {
		return sealed, nil
	}
	gcm, err := newGCM(key)
	if err != nil {
		return nil, err
	}
	if len(sealed) < gcm.NonceSize() {
		return nil, fmt.Errorf("answer is not sealed, but this node has a gossip key: %w", errKey)
	}
	nonce, box := sealed[:gcm.NonceSize()], sealed[gcm.NonceSize():]
	plain, err := gcm.Open(nil, nonce, box, []byte(discoveryMagic))
	if err != nil {
		return nil, fmt.Errorf("answer is not sealed with this node's gossip key: %w: %w", errKey, err)
	}
	return plain, nil
}

func newGCM(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("gossip key: %w", err)
	}
	return cipher.NewGCM(block)
}

// replayConn gives back the bytes that were read to tell gossip from questions.
type replayConn struct {
	net.Conn

	head []byte
}

// Read implements net.Conn.
func (c *replayConn) Read(p []byte) (int, error) {
	if len(c.head) > 0 && len(p) > 0 {
		n := copy(p, c.head)
		c.head = c.head[n:]
		return n, nil
	}
	return c.Conn.Read(p)
}
