package e2e_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-io/holdfast/client"
	"github.com/holdfast-io/holdfast/fault"
	"github.com/holdfast-io/holdfast/placement"
	"github.com/holdfast-io/holdfast/test/e2e/internal/classes/classesv1"
)

// relays returns names of relays, one of each node's.
func relays(t *testing.T, through *process, nodes int) []string {
	t.Helper()
	s, err := through.status()
	if err != nil {
		t.Fatal(err)
	}
	var names, owners []string
	for i := 0; len(names) < nodes; i++ {
		if i == 1000 {
			t.Fatalf("only %v own relays", owners)
		}
		name := fmt.Sprintf("r%d", i)
		shard := placement.ShardOf(placement.NewNamespace("Relay").IDFromName(name), len(s.Shards))
		if owner := s.Shards[shard].Owner; !slices.Contains(owners, owner) {
			names, owners = append(names, name), append(owners, owner)
		}
	}
	return names
}

// Objects on three nodes call each other: what they wrote is kept, and what would never end is refused
// or ends.
func TestObjectsCallEachOther(t *testing.T) {
	nodes := startNodes(t, prepareNodes(t, testnode, 3, "--shards", "16"))
	r := relays(t, nodes[0], 3)
	c, err := client.New([]string{nodes[0].ports["grpc"]})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	pass := func(timeout time.Duration, req *classesv1.PassRequest) (string, error) {
		ctx, cancel := context.WithTimeout(t.Context(), timeout)
		defer cancel()
		resp, err := classesv1.NewRelayClient(c.Name("Relay", r[0])).Pass(ctx, req)
		var out []string
		for _, v := range resp.GetVisits() {
			out = append(out, fmt.Sprintf("%s %d<%s>", v.GetRelay(), v.GetCount(), v.GetFrom()))
		}
		return strings.Join(out, " "), err
	}
	chain := func(names ...string) string {
		for i, name := range names {
			names[i] = fmt.Sprintf("Relay %q", name)
		}
		return "call chain: " + strings.Join(names, " → ")
	}

	got, err := pass(20*time.Second, &classesv1.PassRequest{Path: []string{r[1], r[2]}})
	if want := fmt.Sprintf("%s 1<> %s 1<%s> %s 1<%s>", r[0], r[1], r[0], r[2], r[1]); err != nil || got != want {
		t.Fatalf("got %q, %v, want %q", got, err, want)
	}
	begun := time.Now()
	_, err = pass(20*time.Second, &classesv1.PassRequest{Path: []string{r[1], r[2], r[0]}})
	if fault.ReasonOf(err) != fault.CallCycle || !strings.HasSuffix(err.Error(), chain(r[0], r[1], r[2], r[0])) || time.Since(begun) > 15*time.Second {
		t.Fatalf("a cycle, after %v: %v", time.Since(begun), err)
	}
	// The counts of the cycle are kept: they were written before the calls.
	got, err = pass(20*time.Second, &classesv1.PassRequest{Path: []string{r[1], r[2], r[0]}, Yield: true})
	if want := fmt.Sprintf("%s 3<> %s 3<%s> %s 3<%s> %s 4<%s>", r[0], r[1], r[0], r[2], r[1], r[0], r[2]); err != nil || got != want {
		t.Fatalf("over who has given up its turn: got %q, %v, want %q", got, err, want)
	}
	_, err = pass(20*time.Second, &classesv1.PassRequest{Path: slices.Repeat([]string{r[1], r[0]}, 40), Yield: true})
	if fault.ReasonOf(err) != fault.CallCycle || !strings.Contains(err.Error(), "at most 64 objects") {
		t.Fatalf("a chain that is too long: %v", err)
	}

	// Two that hold their turns and wait for each other.
	var wg sync.WaitGroup
	errs := make([]error, 2)
	for i := range errs {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), 4*time.Second)
			defer cancel()
			_, errs[i] = classesv1.NewRelayClient(c.Name("Relay", r[i])).Pass(ctx, &classesv1.PassRequest{Path: []string{r[1-i]}, Millis: 1000})
		})
	}
	wg.Wait()
	if !slices.ContainsFunc(errs, func(err error) bool {
		return fault.ReasonOf(err) == fault.ObjectTimeout && strings.Contains(err.Error(), "call chain: ")
	}) {
		t.Errorf("two chains that wait for each other: %v", errs)
	}
}

// An object is told that its node stops, or that it moves, and what it writes then is kept.
func TestObjectsAreToldOfTheirEnd(t *testing.T) {
	p := newProcess(t, "n1", "--bootstrap", "--shards", "16")
	p.bin = testnode
	farewells := func() int64 {
		p.start()
		p.waitReady()
		c, err := client.New([]string{p.ports["grpc"]})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		resp, err := classesv1.NewRelayClient(c.Name("Relay", "a")).Pass(ctx, &classesv1.PassRequest{})
		if err != nil {
			t.Fatal(err)
		}
		return resp.GetVisits()[0].GetFarewells()
	}
	if n := farewells(); n != 0 {
		t.Errorf("a new object was told %d times", n)
	}
	p.stop()
	if n := farewells(); n != 1 {
		t.Errorf("an object whose node has stopped was told %d times", n)
	}
	p.kill()
	if n := farewells(); n != 1 {
		t.Errorf("an object whose node was killed was told %d times", n)
	}
}
