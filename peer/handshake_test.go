package peer

import (
	"context"
	"errors"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/holdfast-io/holdfast/placement"
	peerv1 "github.com/holdfast-io/holdfast/proto/holdfast/peer/v1"
)

// dialed is a connection to a node without the code that is tested.
func dialed(t *testing.T, n *node) peerv1.PeerClient {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+n.listener.Addr().String(), dialOptions()...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return peerv1.NewPeerClient(conn)
}

// greeting is a handshake that node 1 of cluster c takes.
func greeting(pairs ...string) metadata.MD {
	md := metadata.Pairs(keyCluster, "c", keyFrom, "0000000000000002", keyName, "n2", keyTo, "0000000000000001",
		keyBoot, "5", keyNonce, "x", keyProtocol, "1", keyRevision, "7")
	for i := 0; i < len(pairs); i += 2 {
		md.Set(pairs[i], pairs[i+1])
	}
	return md
}

// A stream of whom this node must not talk to is refused, whatever it is for, in words that say what
// is wrong (P7): a node of the wrong cluster, or an old copy of a disk, takes part in nothing (P1).
func TestHandshakeRefuses(t *testing.T) {
	t.Parallel()
	n := start(t, &directory{}, 1, func(c *Config) {
		c.Admit = func(h Hello) error {
			if h.Nonce == "old" {
				return errors.New("runs on an old copy of its disk")
			}
			return nil
		}
	})
	client := dialed(t, n)
	for _, tt := range []struct {
		name string
		md   metadata.MD
		want []string
	}{
		{"wrong cluster", greeting(keyCluster, "d"), []string{"n2", "of cluster d", "of cluster c"}},
		{"no cluster", greeting(keyCluster, ""), []string{"of cluster c"}},
		{"meant for another", greeting(keyTo, "0000000000000003"), []string{"meant for node 0000000000000003", "0000000000000001", "taken over"}},
		{"a later protocol", greeting(keyProtocol, "2", keyProtocolMax, "3"), []string{`protocol versions 2 to 3`, "speaks 1 to 1", "too far apart"}},
		{"a later protocol without a range", greeting(keyProtocol, "2"), []string{`protocol versions 2 to 2`}},
		{"an earlier protocol", greeting(keyProtocol, "0"), []string{"protocol versions 0 to 0"}},
		{"a range the wrong way round", greeting(keyProtocol, "2", keyProtocolMax, "1"), []string{"protocol version", "not a range"}},
		{"no protocol", greeting(keyProtocol, ""), []string{"protocol version", "not a range"}},
		{"no sender", greeting(keyFrom, ""), []string{"handshake: from", "16 hex digits"}},
		{"no boot", greeting(keyBoot, ""), []string{"handshake: boot"}},
		{"negative boot", greeting(keyBoot, "-1"), []string{"handshake: boot"}},
		{"no revision", greeting(keyRevision, "x"), []string{"handshake: revision"}},
		{"two clusters", metadata.Join(greeting(), metadata.Pairs(keyCluster, "c")), []string{"of cluster"}},
		{"not admitted", greeting(keyNonce, "old"), []string{"old copy of its disk"}},
		{"nothing", nil, []string{"protocol version"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for name, open := range streams(client) {
				_, err := open(metadata.NewOutgoingContext(t.Context(), tt.md))
				if status.Code(err) != codes.FailedPrecondition {
					t.Errorf("%s: got %v, want a refusal", name, err)
				}
				for _, part := range tt.want {
					if !strings.Contains(status.Convert(err).Message(), part) {
						t.Errorf("%s: got %v, want %q in it", name, err, part)
					}
				}
			}
			if n.logs.Count("WARN refused", "this node", tt.want[0]) == 0 {
				t.Error("the node that refuses does not say so")
			}
		})
	}
}

// streams opens each kind of stream, and returns the header or the error it ended with.
func streams(client peerv1.PeerClient) map[string]func(context.Context) (metadata.MD, error) {
	result := func(stream grpc.ClientStream, err error) (metadata.MD, error) {
		if err != nil {
			return nil, err
		}
		md, err := stream.Header()
		if err == nil && len(md.Get(keyFrom)) == 0 {
			err = stream.RecvMsg(&peerv1.RaftSummary{})
		}
		return md, err
	}
	return map[string]func(context.Context) (metadata.MD, error){
		"calls":    func(ctx context.Context) (metadata.MD, error) { s, err := client.Calls(ctx); return result(s, err) },
		"raft":     func(ctx context.Context) (metadata.MD, error) { s, err := client.Raft(ctx); return result(s, err) },
		"snapshot": func(ctx context.Context) (metadata.MD, error) { s, err := client.Snapshot(ctx); return result(s, err) },
	}
}

// A handshake that is taken is answered with the node's own, and Admit sees all of it.
func TestHandshakeIsAnswered(t *testing.T) {
	t.Parallel()
	admitted := make(chan Hello, 3)
	n := start(t, &directory{}, 1, func(c *Config) { c.Admit = func(h Hello) error { admitted <- h; return nil } })
	for name, open := range streams(dialed(t, n)) {
		ctx, cancel := context.WithCancel(metadata.NewOutgoingContext(t.Context(), greeting()))
		md, err := open(ctx)
		cancel()
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if got, want := <-admitted, (Hello{ClusterID: "c", Node: 2, Name: "n2", Boot: 5, Nonce: "x", Revision: 7}); got != want {
			t.Errorf("%s: admitted %+v, want %+v", name, got, want)
		}
		got, err := New(Config{Self: Hello{ClusterID: "c", Node: 2}}).check(md)
		if want := (Hello{ClusterID: "c", Node: 1, Name: "n1", Boot: 3, Nonce: "nonce", Revision: 9}); err != nil || got != want {
			t.Errorf("%s: answered %+v, %v, want %+v", name, got, err, want)
		}
	}
}

// Two nodes that can't be of one cluster stay apart, and both say why, once (P7).
func TestRefusalIsSaidOnBothSides(t *testing.T) {
	t.Parallel()
	d := &directory{}
	a := start(t, d, 1, nil)
	b := start(t, d, 2, func(c *Config) { c.Self.ClusterID = "d" })
	a.SetPeers([]placement.NodeID{2})
	eventually(t, "the one that refuses does not say so", func() bool {
		return b.logs.Count("WARN refused", "this node", "of cluster c", "of cluster d") == 1
	})
	eventually(t, "the one that is refused does not say so", func() bool {
		return a.logs.Count("WARN refused", "by=peer", "of cluster c", "of cluster d") == 1
	})
	if r := await(t, a.send(2, "M"), "no answer"); r.Err() == nil {
		t.Error("a call got through")
	}
	if a.SendRaft(2, []byte("x")) {
		t.Error("a Raft frame was taken")
	}
}

// A node whose address another took over is not mistaken for it.
func TestAddressThatWasTakenOver(t *testing.T) {
	t.Parallel()
	d := &directory{}
	a, b := start(t, d, 1, nil), start(t, d, 2, nil)
	d.set(3, b.listener.Addr().String())
	a.SetPeers([]placement.NodeID{3})
	eventually(t, "the other is not found out", func() bool { return a.logs.Count("by=peer", "meant for node 0000000000000003") > 0 })
	if b.logs.Count("WARN refused", "this node", "taken over") != 1 {
		t.Error("the one that was dialed does not say so once")
	}
	select {
	case id := <-a.connected:
		t.Errorf("connected to %s", id)
	default:
	}
}

// Whatever comes as a handshake is taken whole or refused.
func FuzzHandshake(f *testing.F) {
	f.Add("c", "0000000000000002", "n2", "0000000000000001", "5", "x", "1", "7", true)
	f.Add("", "", "", "", "", "", "", "", false)
	f.Add("c", "ffffffffffffffff", "\xff", "", "18446744073709551615", "", "1", "18446744073709551616", true)
	p := New(Config{Self: Hello{ClusterID: "c", Node: 1}})
	f.Fuzz(func(t *testing.T, cluster, from, name, to, boot, nonce, protocol, revision string, twice bool) {
		md := metadata.Pairs(keyCluster, cluster, keyFrom, from, keyName, name, keyTo, to, keyBoot, boot, keyNonce, nonce,
			keyProtocol, protocol, keyRevision, revision)
		if twice {
			md.Append(keyFrom, from)
		}
		h, err := p.check(md)
		if err != nil {
			return
		}
		if twice {
			t.Fatalf("two senders were taken: %+v", h)
		}
		if h.ClusterID != "c" || cluster != "c" || protocol != "1" || to != "" && to != "0000000000000001" {
			t.Errorf("took %v as %+v", md, h)
		}
		if !strings.EqualFold(h.Node.String(), from) || h.Name != name || h.Nonce != nonce {
			t.Errorf("read %v as %+v", md, h)
		}
	})
}

// Nodes talk when their ranges meet. This release's is 1 to 1.
func TestProtocolRanges(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		lowest, highest string
		ok              bool
	}{
		{"1", "", true},
		{"1", "1", true},
		{"1", "7", true},
		{"0", "1", true},
		{"2", "7", false},
		{"0", "0", false},
		{"7", "1", false},
		{"1", "x", false},
		{"-1", "1", false},
		{"", "1", false},
		{"", "", false},
	} {
		if err := checkProtocol(tt.lowest, tt.highest); (err == nil) != tt.ok {
			t.Errorf("%q to %q: %v", tt.lowest, tt.highest, err)
		}
	}
}
