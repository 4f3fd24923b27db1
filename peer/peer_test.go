package peer

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"

	"github.com/cespare/xxhash/v2"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/holdfast-io/holdfast/peer/frame"
	"github.com/holdfast-io/holdfast/placement"
	peerv1 "github.com/holdfast-io/holdfast/proto/holdfast/peer/v1"
)

// Each node sends on the stream that it dialed, and the other knows who it is.
func TestCallsGoBothWays(t *testing.T) {
	t.Parallel()
	a, b := pair(t, nil)
	for _, tt := range []struct {
		from, to *node
		id, toID placement.NodeID
	}{{a, b, 1, 2}, {b, a, 2, 1}} {
		got := tt.from.send(tt.toID, "M")
		in := await(t, tt.to.calls, "the call does not arrive")
		if in.from != tt.id || in.req.Method != "M" {
			t.Errorf("from %s came %+v", in.from, in.req)
		}
		in.reply(frame.Response{Body: []byte("reply")})
		if r := await(t, got, "no answer"); r.Err() != nil || string(r.Body) != "reply" {
			t.Errorf("got %s, %v", r.Body, r.Err())
		}
		body, err := tt.from.Query(t.Context(), tt.toID, "status", []byte("x"))
		if want := "status of x for " + tt.id.String(); err != nil || string(body) != want {
			t.Errorf("got %s, %v, want %s", body, err, want)
		}
		tt.from.Announce(5, tt.id, 1)
		if shard := await(t, tt.to.announced, "the news does not arrive"); shard != 5 {
			t.Errorf("got news of shard %d", shard)
		}
	}
}

// To whom there is no connection nothing is sent, and that is certain: the call may be tried elsewhere.
func TestNothingIsSentWithoutAConnection(t *testing.T) {
	t.Parallel()
	a := start(t, &directory{}, 1, nil)
	a.SetPeers([]placement.NodeID{2}) // Whose address nobody knows.
	for _, to := range []placement.NodeID{2, 3} {
		r := await(t, a.send(to, "M"), "no answer")
		if lost, ok := errors.AsType[*frame.LostError](r.Err()); !ok || lost.Sent {
			t.Errorf("got %v, want that it was not sent", r.Err())
		}
		if a.SendRaft(to, []byte("x")) {
			t.Error("a Raft frame was taken")
		}
		if _, err := a.Query(t.Context(), to, "status", nil); !errors.Is(err, errNoConnection) {
			t.Errorf("query: got %v", err)
		}
		if err := a.SendSnapshot(t.Context(), to, nil, nil); err == nil {
			t.Error("a snapshot was taken")
		}
	}
}

// Raft's frames keep their order. When the other side is slow, what is over the queue's bounds is
// dropped and said to be (P6); what was taken arrives.
func TestRaftFramesAreQueuedWithinBounds(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name      string
		size, max int // of a frame, and of frames taken before one is dropped: the queue and what is on its way
	}{
		{"many", 64, 500_000},
		{"large", 1 << 20, 64 + 32},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			let := make(chan struct{})
			got := make(chan []byte, tt.max+2)
			a, _ := pair(t, func(c *Config) {
				c.Raft = func(_ placement.NodeID, data []byte) { <-let; got <- data }
			})
			unblock := sync.OnceFunc(func() { close(let) })
			t.Cleanup(unblock)
			newFrame := func(i int) []byte {
				return binary.BigEndian.AppendUint64(make([]byte, tt.size-8), uint64(i))
			}
			eventually(t, "the stream of Raft's does not stand", func() bool { return a.SendRaft(2, newFrame(0)) })
			taken := 1
			for a.SendRaft(2, newFrame(taken)) {
				if taken++; taken > tt.max {
					t.Fatalf("%d frames of %d bytes were taken", taken, tt.size)
				}
			}
			unblock()
			for i := range taken {
				data := await(t, got, "a frame that was taken does not arrive")
				if n := binary.BigEndian.Uint64(data[len(data)-8:]); n != uint64(i) {
					t.Fatalf("frame %d came as number %d", n, i)
				}
			}
			eventually(t, "nothing more is taken", func() bool { return a.SendRaft(2, newFrame(taken)) })
		})
	}
}

// chunks hands out so many chunks, then err.
func chunks(err error, all ...string) func() ([]byte, error) {
	return func() ([]byte, error) {
		if len(all) == 0 {
			return nil, err
		}
		chunk := all[0]
		all = all[1:]
		return []byte(chunk), nil
	}
}

// received is what came of a snapshot.
type received struct {
	header string
	chunks []string
	err    error // that reading ended with
}

// receiver takes snapshots, and says what came of each.
type receiver chan received

func (r receiver) snapshot(_ context.Context, _ placement.NodeID, header []byte, offer func([]byte) error, next func() ([]byte, error)) error {
	got := received{header: string(header)}
	defer func() { r <- got }()
	if err := offer([]byte("parts")); err != nil {
		return err
	}
	for {
		chunk, err := next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			got.err = err
			return err
		}
		if string(chunk) == "bad" {
			return errors.New("can't be installed")
		}
		got.chunks = append(got.chunks, string(chunk))
	}
}

// A snapshot arrives whole, or both sides know that it did not.
func TestSnapshotArrivesWhole(t *testing.T) {
	t.Parallel()
	done := make(receiver, 10)
	a, _ := pair(t, func(c *Config) { c.Snapshot = done.snapshot })
	for _, tt := range []struct {
		name string
		next func() ([]byte, error)
		want []string
		err  string // that the sender gets; empty: none
	}{
		{"chunks", chunks(io.EOF, "one", "two", "three"), []string{"one", "two", "three"}, ""},
		{"nothing", chunks(io.EOF), nil, ""},
		{"an empty chunk", chunks(io.EOF, "one", "", "two"), []string{"one", "two"}, ""},
		{"the receiver fails", chunks(io.EOF, "one", "bad", "two"), []string{"one"}, "can't be installed"},
		{"the sender fails", chunks(errors.New("disk on fire"), "one"), nil, "disk on fire"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := a.SendSnapshot(t.Context(), 2, []byte("header"), func(parts []byte) (func() ([]byte, error), error) {
				if string(parts) != "parts" {
					t.Errorf("the receiver has %q", parts)
				}
				return tt.next, nil
			})
			if (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
				t.Errorf("the sender got %v, want %q", err, tt.err)
			}
			if tt.name == "the sender fails" { // It may fail before anything has arrived.
				select {
				case got := <-done:
					if got.err == nil {
						t.Error("the receiver took it for whole")
					}
				default:
				}
				return
			}
			got := await(t, done, "nothing was received")
			if diff := cmp.Diff(tt.want, got.chunks); diff != "" || got.header != "header" {
				t.Errorf("header %q, chunks (-want +got):\n%s", got.header, diff)
			}
		})
	}
}

// A chunk that is not what was sent, and a stream that ends too soon, are no snapshot.
func TestDamagedSnapshotIsRefused(t *testing.T) {
	t.Parallel()
	done := make(receiver, 10)
	n := start(t, &directory{}, 1, func(c *Config) { c.Snapshot = done.snapshot })
	client := dialed(t, n)
	ofNothing := xxhash.Sum64(nil)
	for _, tt := range []struct {
		name   string
		chunks []*peerv1.SnapshotChunk
		want   string
	}{
		{"wrong checksum", []*peerv1.SnapshotChunk{{}, {Run: []byte("one"), Checksum: 1, Last: true}}, "checksum does not match"},
		{"no checksum", []*peerv1.SnapshotChunk{{}, {Run: []byte("one"), Last: true}}, "checksum does not match"},
		{"wrong checksum of nothing", []*peerv1.SnapshotChunk{{}, {Checksum: 1, Last: true}}, "checksum does not match"},
		{"later wrong", []*peerv1.SnapshotChunk{{}, {Checksum: ofNothing}, {Run: []byte("one"), Checksum: 2}}, "checksum does not match"},
		{"no end", []*peerv1.SnapshotChunk{{}, {Checksum: ofNothing}}, "unexpected EOF"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			stream, err := client.Snapshot(metadata.NewOutgoingContext(t.Context(), greeting()))
			if err != nil {
				t.Fatal(err)
			}
			for _, chunk := range tt.chunks {
				if err := stream.Send(chunk); err != nil && !errors.Is(err, io.EOF) {
					t.Fatal(err)
				}
			}
			if err := stream.CloseSend(); err != nil {
				t.Fatal(err)
			}
			if _, err := stream.Recv(); err != nil {
				t.Fatal(err)
			}
			_, err = stream.Recv()
			if status.Code(err) != codes.Aborted || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("the sender got %v, want %q", err, tt.want)
			}
			if got := await(t, done, "nothing was received"); got.err == nil || len(got.chunks) != 0 {
				t.Errorf("received %+v", got)
			}
		})
	}
}

// A node that dropped its streams but greets a new connection is not taken for dead: an election for
// nothing would be the least of it. One that does not answer is, at once.
func TestBrokenOnlyWhenANewConnectionFailsToo(t *testing.T) {
	t.Parallel()
	a, b := pair(t, nil)
	b.SetPeers(nil) // It ends the streams that it dialed.
	before := b.listener.accepted.Load()
	eventually(t, "the first does not dial", func() bool { return b.listener.accepted.Load() > before || len(a.broken) > 0 })
	eventually(t, "the first goes on probing", func() bool {
		a.mu.Lock()
		defer a.mu.Unlock()
		return a.probes[2] == 0
	})
	if len(a.broken) != 0 {
		t.Error("a node that answers a dial was taken for dead")
	}
	b.stop()
	if got := await(t, a.broken, "a node that does not answer was not taken for dead"); got != 2 {
		t.Errorf("node %s was", got)
	}
}

// A process that is being killed closes its sockets one after another: that its kernel accepts a
// connection is no sign of life.
func TestAcceptedByNobody(t *testing.T) {
	t.Parallel()
	d := &directory{}
	a, b := start(t, d, 1, nil), start(t, d, 2, nil)
	a.SetPeers([]placement.NodeID{1, 2})
	await(t, a.connected, "the first is not connected")
	backlog, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = backlog.Close() }()
	d.set(2, backlog.Addr().String())
	b.stop()
	if got := await(t, a.broken, "a node that only its kernel answers for was not taken for dead"); got != 2 {
		t.Errorf("node %s was", got)
	}
}

// A node that comes back is connected again, and said to be, and lost calls are known to be.
func TestReconnects(t *testing.T) {
	t.Parallel()
	d := &directory{}
	a, b := start(t, d, 1, nil), start(t, d, 2, nil)
	a.SetPeers([]placement.NodeID{2})
	await(t, a.connected, "not connected")
	lost := a.send(2, "M")
	await(t, b.calls, "the call does not arrive")
	b.stop()
	r := await(t, lost, "no answer")
	if err, ok := errors.AsType[*frame.LostError](r.Err()); !ok || !err.Sent {
		t.Errorf("got %v, want a call that was sent and lost", r.Err())
	}
	start(t, d, 2, nil) // At another address.
	await(t, a.connected, "not connected again")
	// Who is no peer any more is not connected any more.
	a.SetPeers(nil)
	r = await(t, a.send(2, "M"), "no answer")
	if !errors.Is(r.Err(), errNoConnection) {
		t.Errorf("got %v, want no connection", r.Err())
	}
}

// A node that stops answers what is under way, and is sent nothing more.
func TestDrainAnswersWhatIsUnderWay(t *testing.T) {
	t.Parallel()
	a, b := pair(t, nil)
	first := a.send(2, "first")
	in := await(t, b.calls, "the call does not arrive")
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		b.Drain(t.Context())
	}()
	eventually(t, "the other is not told to send no more", func() bool { return !a.mux(2).Open() })
	r := await(t, a.send(2, "second"), "no answer")
	if lost, ok := errors.AsType[*frame.LostError](r.Err()); !ok || lost.Sent {
		t.Errorf("a call after that: got %v, want that it was not sent", r.Err())
	}
	select {
	case <-drained:
		t.Error("drained with a call under way")
	default:
	}
	in.reply(frame.Response{Body: []byte("reply")})
	if r := await(t, first, "no answer"); r.Err() != nil || string(r.Body) != "reply" {
		t.Errorf("the call under way: got %s, %v", r.Body, r.Err())
	}
	await(t, drained, "Drain does not return")
	// It ends with its context, whatever is still under way.
	a.send(2, "third")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	b.Drain(ctx)
}
