package e2e_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/holdfast-io/holdfast/client"
	"github.com/holdfast-io/holdfast/examples/counter/counterv1"
	"github.com/holdfast-io/holdfast/fault"
)

// identified is the context of a call of an object under a request id.
func identified(ctx context.Context, name, id string) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "holdfast-name", name, "holdfast-request-id", id)
}

func amount(n int64) *counterv1.IncrementRequest {
	return &counterv1.IncrementRequest{Amount: &n}
}

// TestRequestIDRunsOnce: a call under an id that was used gets the first reply, also of the next owner.
func TestRequestIDRunsOnce(t *testing.T) {
	nodes := threeNodes(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	at := func(i int) counterv1.CounterClient { return counterv1.NewCounterClient(nodes[i].conn()) }
	const objects = 30
	name := func(i int) string { return fmt.Sprintf("once-%d", i) }
	for i := range objects {
		for n := range 3 {
			resp, err := at(n).Increment(identified(ctx, name(i), "first"), amount(5))
			if err != nil || resp.GetValue() != 5 {
				t.Fatalf("call %d of %s: got %v, %v, want 5", n+1, name(i), resp, err)
			}
		}
		if resp, err := at(0).Increment(identified(ctx, name(i), "second"), amount(1)); err != nil || resp.GetValue() != 6 {
			t.Fatalf("another id: got %v, %v, want 6", resp, err)
		}
	}
	_, err := at(1).Increment(identified(ctx, name(0), "first"), amount(6))
	if status.Code(err) != codes.InvalidArgument || fault.ReasonOf(err) != fault.InvalidArgument {
		t.Errorf("other arguments: got %v", err)
	}
	if _, err = at(1).Get(identified(ctx, name(0), "first"), &counterv1.GetRequest{}); fault.ReasonOf(err) != fault.InvalidArgument {
		t.Errorf("another method: got %v", err)
	}
	// What wrote nothing is not recorded.
	for want := int64(6); want < 8; want++ {
		if resp, err := at(2).Get(identified(ctx, name(0), "read"), &counterv1.GetRequest{}); err != nil || resp.GetValue() != want {
			t.Errorf("got %v, %v, want %d", resp, err, want)
		}
		if _, err := at(2).Increment(identified(ctx, name(0), fmt.Sprint("more", want)), amount(1)); err != nil {
			t.Error(err)
		}
	}
	existingThroughAnyNode(ctx, t, nodes)
	nodes[2].kill()
	for i := range objects {
		resp, err := at(i%2).Increment(identified(ctx, name(i), "first"), amount(5))
		if err != nil || resp.GetValue() != 5 {
			t.Errorf("%s after its owner may have died: got %v, %v, want 5", name(i), resp, err)
		}
	}
}

// existingThroughAnyNode: whichever node is asked, and whichever owns the object, one that must exist and
// does not is not made.
func existingThroughAnyNode(ctx context.Context, t *testing.T, nodes []*process) {
	t.Helper()
	for i := range 12 {
		name := fmt.Sprintf("existing-%d", i)
		must := metadata.AppendToOutgoingContext(ctx, "holdfast-name", name, "holdfast-existing", "true")
		c := counterv1.NewCounterClient(nodes[i%3].conn())
		if _, err := c.Increment(must, amount(1)); status.Code(err) != codes.NotFound || fault.ReasonOf(err) != fault.UnknownObject {
			t.Errorf("%s: got %v", name, err)
		}
		if resp, err := c.Increment(identified(ctx, name, "makes it"), amount(2)); err != nil || resp.GetValue() != 2 {
			t.Errorf("%s: got %v, %v, want 2", name, resp, err)
		}
		if resp, err := c.Increment(must, amount(1)); err != nil || resp.GetValue() != 3 {
			t.Errorf("%s exists: got %v, %v, want 3", name, resp, err)
		}
	}
}

// TestKillIsNotNoticed: who calls by the Go client sees no error when nodes are killed, one after
// another, and every call has had one effect.
func TestKillIsNotNoticed(t *testing.T) {
	nodes := threeNodes(t)
	var addrs []string
	for _, n := range nodes {
		addrs = append(addrs, n.ports["grpc"])
	}
	c, err := client.New(addrs)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	const objects = 200
	type count struct {
		sync.Mutex
		stub    counterv1.CounterClient
		answers map[int64]bool
	}
	counts := make([]count, objects)
	for i := range counts {
		counts[i].stub = counterv1.NewCounterClient(c.Name("Counter", fmt.Sprintf("unnoticed-%d", i)))
		counts[i].answers = make(map[int64]bool)
	}
	var stop atomic.Bool
	var acked, failed atomic.Int64
	var wg sync.WaitGroup
	for caller := range 64 {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(caller), 9))
			for !stop.Load() {
				o := &counts[rng.IntN(objects)]
				resp, err := o.stub.Increment(t.Context(), &counterv1.IncrementRequest{})
				if err != nil {
					if failed.Add(1) < 5 {
						t.Errorf("increment: %v", err)
					}
					continue
				}
				acked.Add(1)
				o.Lock()
				if o.answers[resp.GetValue()] {
					t.Errorf("%d was answered twice", resp.GetValue())
				}
				o.answers[resp.GetValue()] = true
				o.Unlock()
			}
		})
	}
	waitMore := func(n int64) {
		want := acked.Load() + n
		waitFor(t, "increments", time.Minute, func() (bool, string) {
			return acked.Load() >= want, fmt.Sprintf("%d of %d", acked.Load(), want)
		})
	}
	waitMore(2000)
	for _, victim := range []*process{nodes[1], nodes[2], nodes[0]} {
		victim.kill()
		waitMore(2000)
		victim.start()
		victim.waitReady()
		waitSpread(t, victim, 3)
		waitMore(1000)
	}
	stop.Store(true)
	wg.Wait()
	for i := range counts {
		o := &counts[i]
		resp, err := o.stub.Get(t.Context(), &counterv1.GetRequest{})
		if err != nil || resp.GetValue() != int64(len(o.answers)) {
			t.Errorf("object %d: got %v, %v, want %d", i, resp, err, len(o.answers))
		}
	}
	t.Logf("%d increments, %d failed", acked.Load(), failed.Load())
}
