package e2e_test

import (
	"context"
	"encoding/binary"
	"flag"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	peerv1 "github.com/holdfast-io/holdfast/proto/holdfast/peer/v1"
	holdfastv1 "github.com/holdfast-io/holdfast/proto/holdfast/v1"
)

// garbage makes what no protocol would send, from a seed. label is what gossip of this cluster
// begins with, so that some of it comes further than the door.
type garbage struct {
	rng   *rand.Rand
	label []byte
}

func (g *garbage) bytes(size int) []byte {
	b := make([]byte, size)
	for i := range b {
		b[i] = byte(g.rng.Uint32())
	}
	return b
}

const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

// frame is an HTTP/2 frame that says it is so long.
func frame(length uint32, kind, flags byte, stream uint32, payload []byte) []byte {
	b := []byte{byte(length >> 16), byte(length >> 8), byte(length), kind, flags}
	return append(binary.BigEndian.AppendUint32(b, stream), payload...)
}

// stream returns what is sent on one TCP connection.
func (g *garbage) stream() []byte {
	settings := append([]byte(preface), frame(0, 4, 0, 0, nil)...)
	switch g.rng.IntN(14) {
	case 0:
		return g.bytes(1 + g.rng.IntN(64))
	case 1:
		return g.bytes(100_000)
	case 2:
		return []byte(preface)[:g.rng.IntN(len(preface))]
	case 3: // A frame over every limit.
		return append(settings, frame(0xffffff, byte(g.rng.IntN(12)), byte(g.rng.Uint32()), g.rng.Uint32(), g.bytes(1000))...)
	case 4: // Headers that are none.
		return append(settings, frame(200, 1, 4, 1, g.bytes(200))...)
	case 5: // A frame cut off.
		return append(settings, frame(1000, byte(g.rng.IntN(10)), 0, 1, g.bytes(g.rng.IntN(1000)))...)
	case 6: // Frames of all kinds.
		b := settings
		for range 50 {
			n := g.rng.IntN(64)
			b = append(b, frame(uint32(n), byte(g.rng.IntN(12)), byte(g.rng.Uint32()), g.rng.Uint32()&7, g.bytes(n))...)
		}
		return b
	case 7:
		return []byte("GET /" + strings.Repeat("a", g.rng.IntN(20_000)) + " HTTP/1.1\r\nHost: x\r\n\r\n")
	case 8:
		return []byte("POST /metrics HTTP/1.1\r\nContent-Length: 99999999999\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffff\r\n")
	case 9: // A question of a node without a cluster, cut off.
		question := "\xffHOLDFAST?1\n"
		return []byte(question)[:1+g.rng.IntN(len(question))]
	case 10: // The label of this cluster, cut off; or another's.
		if g.rng.IntN(2) == 0 {
			return g.label[:g.rng.IntN(len(g.label))]
		}
		return append([]byte{0xf4, byte(g.rng.Uint32())}, g.bytes(300)...)
	case 11: // Gossip's messages with nothing sensible in them.
		return append(append(append([]byte(nil), g.label...), byte(g.rng.IntN(16))), g.bytes(g.rng.IntN(500))...)
	case 12: // An exchange of state that says it has very many nodes.
		header := append([]byte{6, 0x83, 0xa5}, "Nodes\xce\x7f\xff\xff\xff\xacUserStateLen\xce\x7f\xff\xff\xff\xa4Join\xc3"...)
		return append(append([]byte(nil), g.label...), header...)
	default: // Nothing at all.
		return nil
	}
}

// packet returns a datagram.
func (g *garbage) packet() []byte {
	switch g.rng.IntN(4) {
	case 0:
		return g.bytes(g.rng.IntN(1400))
	case 1:
		return append(append(append([]byte(nil), g.label...), byte(g.rng.IntN(16))), g.bytes(g.rng.IntN(500))...)
	case 2: // A compound of messages that are not there.
		return append(append([]byte(nil), g.label...), 7, 255, 0xff, 0xff)
	default:
		return g.label[:g.rng.IntN(len(g.label))]
	}
}

// send sends a stream and hears what comes back for a moment: the other side may close, or wait.
func (g *garbage) send(addr string) error {
	c, err := net.DialTimeout("tcp", addr, 5*time.Second)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	_ = c.SetDeadline(time.Now().Add(time.Duration(1+g.rng.IntN(100)) * time.Millisecond))
	_, _ = c.Write(g.stream()) // It may be closed in the middle.
	_, _ = c.Read(make([]byte, 1000))
	if t, ok := c.(*net.TCPConn); ok && g.rng.IntN(2) == 0 {
		_ = t.SetLinger(0) // End with a reset.
	}
	return nil
}

func (g *garbage) sendPacket(addr string) error {
	c, err := net.Dial("udp", addr)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	_, _ = c.Write(g.packet()) // A datagram may get lost.
	return nil
}

// residentBytes is the memory that a process has now.
func (p *process) residentBytes() int64 {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", p.cmd.Process.Pid))
	if err != nil {
		return 0 // Not on this system.
	}
	var size, resident int64
	if _, err := fmt.Sscan(string(raw), &size, &resident); err != nil {
		p.t.Fatal(err)
	}
	return resident * int64(os.Getpagesize())
}

var garbageFor = flag.Duration("garbage", 0, "how long TestGarbageOnEveryPort sends garbage; a short while without")

// TestGarbageOnEveryPort: random, truncated and oversized bytes on every port of every node, and
// connections on which nothing comes, while calls go on: no node falls, no call fails, no write is lost,
// and nothing is left of it in memory (P7).
func TestGarbageOnEveryPort(t *testing.T) {
	const senders, rounds = 6, 250
	nodes := startNodes(t, prepareNodes(t, testnode, 3))
	s, err := nodes[0].status()
	if err != nil {
		t.Fatal(err)
	}
	label := append([]byte{0xf4, byte(len(s.ClusterID))}, s.ClusterID...)
	if *garbageFor > 0 {
		// Memory tables, caches and logs in memory have their bounds: what grows beyond them is garbage's.
		fill(t, nodes, 512)
	}
	l := newLoad(t, nodes, 100)
	l.run(16)
	l.waitAcked(500)
	before := make([]footprint, len(nodes))
	for i, p := range nodes {
		before[i] = p.footprint()
	}

	// Silent connections, more than there are questions answered at once.
	ports := []string{"grpc", "peer", "gossip", "http", "admin"}
	var silent []net.Conn
	for range 20 {
		for _, p := range nodes {
			for _, port := range ports {
				c, err := net.DialTimeout("tcp", p.ports[port], 5*time.Second)
				if err != nil {
					t.Fatalf("%s of %s: %v", port, p.name, err)
				}
				t.Cleanup(func() { _ = c.Close() })
				silent = append(silent, c)
			}
		}
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	var wg sync.WaitGroup
	var sent atomic.Int64
	began := time.Now()
	for i := range senders {
		g := &garbage{rng: rand.New(rand.NewPCG(seed, uint64(i))), label: label}
		wg.Go(func() {
			for round := 0; round < rounds || time.Since(began) < *garbageFor; round++ {
				p, port := nodes[g.rng.IntN(len(nodes))], ports[g.rng.IntN(len(ports))]
				if err := g.send(p.ports[port]); err != nil {
					t.Errorf("%s of %s: %v", port, p.name, err)
				}
				if err := g.sendPacket(p.ports["gossip"]); err != nil {
					t.Errorf("gossip of %s: %v", p.name, err)
				}
				sent.Add(2)
			}
		})
	}
	if *garbageFor > 0 {
		logFootprints(t, nodes, began.Add(*garbageFor))
	}
	wg.Wait()
	garbledFrames(t, nodes, seed)
	l.waitAcked(500)
	for _, c := range silent {
		_ = c.Close()
	}
	for i, p := range nodes {
		p.alive()
		if code, _, err := p.get("/readyz"); err != nil || code != 200 {
			t.Errorf("readiness of %s: %d, %v", p.name, code, err)
		}
		waitForgotten(t, p, before[i])
	}
	l.finish()
	l.check()
	if n := l.unknown.Load(); n != 0 {
		t.Errorf("%d calls of unknown outcome", n)
	}
	if s, err := nodes[0].status(); err != nil || len(s.Nodes) != 3 {
		t.Errorf("nodes: %+v, %v", s.Nodes, err)
	}
	t.Logf("%d connections and datagrams of garbage", sent.Load())
}

// footprint is what a process takes of its machine.
type footprint struct{ resident, files, goroutines int64 }

func (f footprint) String() string {
	return fmt.Sprintf("%d MiB, %d files, %d goroutines", f.resident>>20, f.files, f.goroutines)
}

func (p *process) footprint() footprint {
	p.t.Helper()
	_, page, err := p.get("/metrics")
	if err != nil {
		p.t.Fatalf("metrics of %s: %v", p.name, err)
	}
	return footprint{p.residentBytes(), int64(metricOf(page, "process_open_fds")), int64(metricOf(page, "go_goroutines"))}
}

// waitForgotten waits until a process takes no more than before, but for what its work differs from one
// moment to another.
func waitForgotten(t *testing.T, p *process, before footprint) {
	t.Helper()
	residentMax := before.resident * 5 / 4
	if *garbageFor == 0 {
		residentMax = before.resident + 1<<30 // Its caches have only begun to fill.
	}
	var after footprint
	waitFor(t, p.name+" to take no more than before", 60*time.Second, func() (bool, string) {
		after = p.footprint()
		return after.resident <= residentMax && after.files <= before.files+50 && after.goroutines <= before.goroutines+100,
			fmt.Sprintf("%s before, %s after", before, after)
	})
	t.Logf("%s: %s before, %s after", p.name, before, after)
}

// logFootprints shows ten times, until the end, what the nodes take.
func logFootprints(t *testing.T, nodes []*process, end time.Time) {
	t.Helper()
	tick := time.NewTicker(time.Until(end) / 10)
	defer tick.Stop()
	for range 10 {
		<-tick.C
		for _, p := range nodes {
			t.Logf("%s before the end: %s: %s", time.Until(end).Round(time.Second), p.name, p.footprint())
		}
	}
}

// garbledFrames speaks gRPC well and what it carries badly: the conversation ends with an error,
// and only that one.
func garbledFrames(t *testing.T, nodes []*process, seed uint64) {
	t.Helper()
	g := &garbage{rng: rand.New(rand.NewPCG(seed, 99))}
	for _, p := range nodes {
		conn := p.conn()
		for range 50 {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			stream, err := holdfastv1.NewObjectsClient(conn).Stream(ctx)
			if err != nil {
				t.Fatal(err)
			}
			// A message of one frame that says it is longer than the message.
			data := append([]byte{0x7f, 0, 0, 0}, g.bytes(g.rng.IntN(200))...)
			if g.rng.IntN(2) == 0 { // Or one of no known kind.
				data = append([]byte{0, 0, 0, 10, 200}, g.bytes(9)...)
			}
			_ = stream.Send(&holdfastv1.Frames{Data: data})
			for err == nil {
				_, err = stream.Recv()
			}
			if c := status.Code(err); c == codes.DeadlineExceeded || c == codes.Unavailable {
				t.Errorf("a garbled conversation with %s: %v", p.name, err)
			}
			cancel()
		}
	}
	// The handshake of the peer port: none, and one of another cluster.
	for _, p := range nodes {
		conn := dial(t, p.ports["peer"])
		for what, md := range map[string]metadata.MD{
			"no handshake": {},
			"of another cluster": metadata.Pairs("holdfast-cluster", "another", "holdfast-from", "0000000000000001", "holdfast-name", "stranger",
				"holdfast-boot", "1", "holdfast-nonce", "x", "holdfast-protocol", "1", "holdfast-revision", "0"),
		} {
			ctx, cancel := context.WithTimeout(metadata.NewOutgoingContext(t.Context(), md), 10*time.Second)
			stream, err := peerv1.NewPeerClient(conn).Raft(ctx)
			if err != nil {
				t.Fatal(err)
			}
			_ = stream.Send(&peerv1.RaftFrame{Messages: g.bytes(1000)})
			if _, err = stream.CloseAndRecv(); status.Code(err) != codes.FailedPrecondition {
				t.Errorf("%s at %s: %v", what, p.name, err)
			}
			cancel()
		}
	}
}
