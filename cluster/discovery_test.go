package cluster

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func listenAlone(t *testing.T, key []byte) (l *Listener, addr string) {
	t.Helper()
	l, err := Listen("127.0.0.1:0", key, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Shutdown(); err != nil {
			t.Error(err)
		}
	})
	return l, (&node{listener: l}).addr()
}

// A node answers before it belongs to a cluster, and says what has become of it since.
func TestListenerAnswersBeforeThereIsACluster(t *testing.T) {
	t.Parallel()
	l, addr := listenAlone(t, nil)
	for _, want := range []Answer{
		{},
		{Name: "n1", Bootstrap: true},
		{Name: "n1", ClusterID: "c", Shards: 256, Replicas: 3},
	} {
		l.SetAnswer(want)
		want.Listener = l.ID()
		got, err := Ask(t.Context(), addr, nil)
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("%v (-want +got):\n%s", err, diff)
		}
	}
	if l2, _ := listenAlone(t, nil); l2.ID() == l.ID() {
		t.Error("two listeners have one id")
	}
	// Gossip itself finds nobody there yet.
	conn := dial(t, addr)
	write(t, conn, []byte{labelled, 1, 'c'})
	closedByOther(t, conn)
}

// Who asks is told what is wrong with what it asked (P7), and waits for nobody longer than it wants.
func TestAskSaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	serve := func(t *testing.T, answer []byte) string {
		t.Helper()
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.ReadFull(c, make([]byte, len(discoveryMagic)))
			_, _ = c.Write(answer)
			_ = c.Close()
		}()
		t.Cleanup(func() { _ = l.Close(); <-done })
		return l.Addr().String()
	}
	for _, tt := range []struct {
		name   string
		answer []byte
		want   string
	}{
		{"hangs up", nil, "does not answer as a Holdfast gossip port"},
		{"is a web server", []byte("HTTP/1.1 400 Bad Request\r\n\r\n"), "does not answer as a Holdfast gossip port"},
		{"answers in part", []byte{0, 0, 0, 9, '{'}, "does not answer as a Holdfast gossip port"},
		{"answers too much", []byte{0, 1, 0, 1, '{'}, "answer of 65537 bytes"},
		{"answers no JSON", []byte{0, 0, 0, 1, '{'}, "unreadable answer"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			addr := serve(t, tt.answer)
			_, err := Ask(t.Context(), addr, nil)
			if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), "seed "+addr) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
	for _, seed := range []string{"127.0.0.1:1", "1:2:3", "127.0.0.1:x", "127.0.0.1:65536"} {
		if _, err := Ask(t.Context(), seed, nil); err == nil || !strings.Contains(err.Error(), seed) {
			t.Errorf("%s: got %v", seed, err)
		}
	}
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = silent.Close() }()
	ctx, cancel := context.WithCancel(t.Context())
	asked := make(chan error, 1)
	go func() {
		_, err := Ask(ctx, silent.Addr().String(), nil)
		asked <- err
	}()
	conn, err := silent.Accept()
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := <-asked; err == nil {
		t.Error("got an answer of a silent one")
	}
	_ = conn.Close()
}

func dial(t *testing.T, addr string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func write(t *testing.T, conn net.Conn, data []byte) {
	t.Helper()
	if _, err := conn.Write(data); err != nil {
		t.Fatal(err)
	}
}

func closedByOther(t *testing.T, conn net.Conn) {
	t.Helper()
	if err := conn.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, conn); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("the connection was not closed")
	}
}

// Garbage on the gossip port changes nothing (P7): the node goes on, and others still join.
func TestGarbageOnTheGossipPort(t *testing.T) {
	t.Parallel()
	a := start(t, nodeConfig{id: 1})
	b := start(t, nodeConfig{id: 2, seeds: []string{a.addr()}})
	a.sees("n1:alive n2:alive")
	noise := make([]byte, 1024)
	if _, err := rand.Read(noise); err != nil {
		t.Fatal(err)
	}
	ofCluster := append([]byte{labelled, 1, 'c'}, noise...)
	pieces := [][]byte{
		noise, ofCluster,
		{0},
		{labelled},
		{labelled, 0},
		{labelled, 255, 'c'},
		ofCluster[:4],
		[]byte(discoveryMagic[:5]), []byte(discoveryMagic[:1] + "GET / HTTP/1.1\r\n"), []byte("GET / HTTP/1.1\r\n\r\n"),
	}
	for kind := range byte(20) { // Every kind of message that memberlist knows, with nothing sensible in it.
		pieces = append(pieces, append([]byte{labelled, 1, 'c', kind}, noise[:64]...), append([]byte{kind}, noise[:64]...))
	}
	udp, err := net.Dial("udp", a.addr())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = udp.Close() }()
	for _, piece := range pieces {
		write(t, udp, piece)
		conn := dial(t, a.addr())
		write(t, conn, piece)
		_ = conn.Close()
	}
	start(t, nodeConfig{id: 3, seeds: []string{a.addr()}})
	for _, n := range []*node{a, b} {
		n.sees("n1:alive n2:alive n3:alive")
	}
	if got, err := Ask(t.Context(), a.addr(), nil); err != nil || got.Name != "n1" {
		t.Errorf("asked: %+v, %v", got, err)
	}
}

// Who connects and says nothing takes one of a few places, and those over them are turned away (P6);
// none of them holds up the end.
func TestSilentConnectionsAreBounded(t *testing.T) {
	t.Parallel()
	_, addr := listenAlone(t, nil)
	for range discoveryInFlight {
		dial(t, addr)
	}
	eventually(t, func() (bool, string) {
		_, err := Ask(t.Context(), addr, nil)
		return err != nil, "more than the places are served"
	})
}

func TestSplitHostPort(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		in, host string
		port     int
	}{
		{"n1", "n1", DefaultGossipPort},
		{"n1:1234", "n1", 1234},
		{":0", "", 0},
		{"10.0.0.1", "10.0.0.1", DefaultGossipPort},
		{"[::1]:5", "::1", 5},
	} {
		host, port, err := splitHostPort(tt.in)
		if err != nil || host != tt.host || port != tt.port {
			t.Errorf("%q: got %q, %d, %v; want %q, %d", tt.in, host, port, err, tt.host, tt.port)
		}
	}
}

// What is sealed opens with its key and no other, and nothing else opens at all.
func FuzzOpen(f *testing.F) {
	key, another := bytes.Repeat([]byte{1}, 32), bytes.Repeat([]byte{2}, 32)
	f.Add([]byte("{}"))
	f.Add([]byte{})
	f.Add(bytes.Repeat([]byte{7}, 40))
	f.Fuzz(func(t *testing.T, data []byte) {
		if plain, err := open(key, data); err == nil {
			t.Errorf("opened %x, which nobody sealed: %x", data, plain)
		}
		sealed, err := seal(key, data)
		if err != nil {
			t.Fatal(err)
		}
		if plain, err := open(key, sealed); err != nil || !bytes.Equal(plain, data) {
			t.Errorf("got %x, %v", plain, err)
		}
		if plain, err := open(another, sealed); err == nil {
			t.Errorf("another key opens it: %x", plain)
		}
	})
}
