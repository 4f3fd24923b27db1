package cluster

import (
	"fmt"
	"net"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-io/holdfast/placement"
)

// Whoever of the cluster a node asks, it gets to know all of it, and all of them get to know it.
func TestJoinByAnySeed(t *testing.T) {
	t.Parallel()
	a := start(t, nodeConfig{id: 1})
	b := start(t, nodeConfig{id: 2, seeds: []string{a.addr()}})
	a.sees("n1:alive n2:alive")
	c := start(t, nodeConfig{id: 3, seeds: []string{"127.0.0.1:1", b.addr()}})
	for _, n := range []*node{a, b, c} {
		n.sees("n1:alive n2:alive n3:alive")
	}
	got, ok := c.Member(1)
	want := Member{ID: 1, Name: "n1", State: Alive, Addresses: Addresses{Gossip: a.addr(), GRPC: "grpc-of-n1"}}
	if diff := cmp.Diff(want, got); !ok || diff != "" {
		t.Errorf("what the third knows of the first (-want +got):\n%s", diff)
	}
	// What a node says of itself later reaches the others as well.
	a.SetNoLead(true)
	eventually(t, func() (bool, string) { m, _ := c.Member(1); return m.NoLead, "the third does not hear of it" })
}

// Stopping is not leaving: a node that stops keeps its place, and finds back without a seed.
func TestRestartNeedsNoSeed(t *testing.T) {
	t.Parallel()
	a := start(t, nodeConfig{id: 1})
	b := start(t, nodeConfig{id: 2, boot: 1, seeds: []string{a.addr()}})
	a.sees("n1:alive n2:alive")
	b.sees("n1:alive n2:alive")
	known := b.Members()
	b.stop()
	a.sees("n1:alive n2:dead")
	a.Forget(1)
	b = start(t, nodeConfig{id: 2, boot: 2, known: known}) // On another port, too.
	a.sees("n1:alive n2:alive")
	b.sees("n1:alive n2:alive")
	if m, _ := a.Member(2); m.Boot != 2 || m.Addresses.Gossip != b.addr() {
		t.Errorf("the other knows %+v of it, want boot 2 at %s", m, b.addr())
	}
	// Only who is not there can be forgotten.
	a.Forget(2)
	a.sees("n1:alive n2:alive")
	b.stop()
	a.sees("n1:alive n2:dead")
	a.Forget(2)
	a.sees("n1:alive")
}

// A node of another cluster is refused, and both sides say so (P7): an operator looks at either.
func TestAnotherClusterIsRefused(t *testing.T) {
	t.Parallel()
	a := start(t, nodeConfig{id: 1, cluster: "red"})
	b := start(t, nodeConfig{id: 2, cluster: "blue", seeds: []string{a.addr()}})
	a.says("WARN refused a node", "blue", "red")
	b.says("WARN refused a node", a.addr(), "red", "blue")
	// However often it tries, each says it once.
	eventually(t, func() (bool, string) { return b.logs.Count("DEBUG join") > 5, "it does not try again" })
	for _, n := range []*node{a, b} {
		if got := n.logs.Count("WARN"); got != 1 {
			t.Errorf("%s warned %d times", n.view(), got)
		}
	}
	a.sees("n1:alive")
	b.sees("n2:alive")
}

// Two living nodes never carry one name, and both sides say so (P7); a dead one's name is free.
func TestNameOfALivingNodeIsRefused(t *testing.T) {
	t.Parallel()
	first := start(t, nodeConfig{id: 1, name: "n", patient: true})
	other := start(t, nodeConfig{id: 2, name: "other", patient: true, seeds: []string{first.addr()}})
	first.sees("n:alive other:alive")
	other.sees("n:alive other:alive") // Who joins is seen before it sees.
	second := start(t, nodeConfig{id: 3, name: "n", seeds: []string{other.addr()}})
	text := `has the name "n" of the living node `
	other.says("WARN refused a node", "0000000000000003", text+"0000000000000001", first.addr(), "give every node a name of its own")
	second.says("WARN refused a node", "0000000000000001", text+"0000000000000003")
	first.sees("n:alive other:alive")
	second.sees("n:alive")
	second.stop()

	first.stop()
	other.sees("n:dead other:alive")
	third := start(t, nodeConfig{id: 3, name: "n", seeds: []string{other.addr()}})
	other.sees("n:replaced other:alive n:alive")
	third.sees("other:alive n:alive")
	// Who was replaced does not come back as long as its name is taken.
	again := start(t, nodeConfig{id: 1, name: "n", seeds: []string{other.addr()}})
	again.says("WARN refused a node", text+"0000000000000001")
	other.sees("n:replaced other:alive n:alive")
}

// With a gossip key only who has it gets in, and only who has it gets an answer.
func TestGossipKey(t *testing.T) {
	t.Parallel()
	key, another := []byte(strings.Repeat("k", 32)), []byte(strings.Repeat("a", 16))
	a := start(t, nodeConfig{id: 1, key: key})
	with := start(t, nodeConfig{id: 2, key: key, seeds: []string{a.addr()}})
	a.sees("n1:alive n2:alive")
	with.sees("n1:alive n2:alive")
	if got, err := Ask(t.Context(), a.addr(), key); err != nil || got.Name != "n1" {
		t.Errorf("asked with the key: %+v, %v", got, err)
	}
	for _, tt := range []struct {
		name string
		key  []byte
	}{{"no key", nil}, {"another key", another}} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, err := Ask(t.Context(), a.addr(), tt.key)
			if err == nil || got != (Answer{}) || !strings.Contains(err.Error(), "give all nodes the same gossip key") {
				t.Errorf("asked: %+v, %v", got, err)
			}
			without := start(t, nodeConfig{id: 3, key: tt.key, seeds: []string{a.addr()}})
			without.says("WARN refused a node", "gossip key")
			eventually(t, func() (bool, string) { return without.logs.Count("DEBUG join") > 5, "it does not try again" })
			without.sees("n3:alive")
			a.sees("n1:alive n2:alive")
		})
	}
	open := start(t, nodeConfig{id: 4})
	if _, err := Ask(t.Context(), open.addr(), key); err == nil || !strings.Contains(err.Error(), "gossip key") {
		t.Errorf("a node without a key, asked with one: %v", err)
	}
}

// Gossip that was cut in two, until each side took the other for dead, is whole again soon after it
// can be: it does not heal by itself, and so is joined again.
func TestHealedPartitionMergesAgain(t *testing.T) {
	t.Parallel()
	a := start(t, nodeConfig{id: 1})
	known := []Member{{ID: 1, Name: "n1", Addresses: Addresses{Gossip: a.addr()}}}
	b := start(t, nodeConfig{id: 2, known: known})
	a.sees("n1:alive n2:alive")
	b.sees("n1:alive n2:alive")
	cut := func(cut bool) { // Nothing that comes in is handed on.
		a.listener.attached.Store(!cut)
		b.listener.attached.Store(!cut)
	}
	cut(true)
	a.sees("n1:alive n2:dead")
	b.sees("n1:dead n2:alive")
	cut(false)
	a.sees("n1:alive n2:alive")
	b.sees("n1:alive n2:alive")
}

// Addresses that take connections and answer nothing hold nobody up for long, however many they are.
func TestSilentMembersHoldNobodyUp(t *testing.T) {
	t.Parallel()
	a := start(t, nodeConfig{id: 1})
	silent, err := net.Listen("tcp", "127.0.0.1:0") // The kernel takes the connections.
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = silent.Close() }()
	var known []Member
	port := silent.Addr().(*net.TCPAddr).Port
	for i := range placement.NodeID(32) { // One after another they would take more than a minute.
		addr := fmt.Sprintf("127.0.0.%d:%d", 2+i, port)
		l, err := net.Listen("tcp", addr)
		if err != nil {
			t.Skip("loopback has one address: ", err)
		}
		defer func() { _ = l.Close() }()
		known = append(known, Member{ID: 100 + i, Name: fmt.Sprint("silent", i), Addresses: Addresses{Gossip: addr}})
	}
	b := start(t, nodeConfig{id: 2, known: known, seeds: []string{a.addr()}})
	eventually(t, func() (bool, string) {
		m, ok := b.Member(1)
		return ok && m.State == Alive, b.view()
	})
}

// What a node says of itself fits into a gossip message, or is refused at the start (P7).
func TestLongAddressesAreRefused(t *testing.T) {
	t.Parallel()
	_, err := Start(Config{Self: Member{ID: 1, Addresses: Addresses{GRPC: strings.Repeat("h", 500)}}})
	if err == nil || !strings.Contains(err.Error(), "at most 512") || !strings.Contains(err.Error(), "shorten") {
		t.Errorf("got %v", err)
	}
}
