package e2e_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/metadata"

	"github.com/holdfast-io/holdfast/examples/counter/counterv1"
	"github.com/holdfast-io/holdfast/fault"
	"github.com/holdfast-io/holdfast/placement"
)

// isFault says that an error is one of Holdfast's own, and not gRPC's.
func isFault(err error) bool { return fault.ReasonOf(err) != "" }

// counterShard is the shard of a counter.
func counterShard(name string, shards int) int {
	return int(placement.ShardOf(placement.NewNamespace("Counter").IDFromName(name), shards))
}

func oneNode(t *testing.T) *process {
	t.Helper()
	p := newProcess(t, "n1", "--bootstrap")
	p.start()
	p.waitReady()
	return p
}

func TestOneNodeKeepsTheCountOverAKill(t *testing.T) {
	p := oneNode(t)
	out, errs, code := holdfast("call", "Counter", "A", "Increment", `{"amount": 5}`, "--addr", p.ports["grpc"])
	if code != 0 || strings.TrimSpace(out) != `{"value":"5"}` {
		t.Fatalf("call: exit %d, %q, %s", code, out, errs)
	}
	p.kill()
	p.start()
	p.waitReady()
	ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(t.Context(), "holdfast-name", "A"), 10*time.Second)
	defer cancel()
	resp, err := counterv1.NewCounterClient(p.conn()).Increment(ctx, &counterv1.IncrementRequest{})
	if err != nil || resp.GetValue() != 6 {
		t.Fatalf("increment: %v, %v", resp, err)
	}
	if out, _, _ := holdfast("objects", "Counter", "--addr", p.ports["grpc"]); !strings.Contains(out, `"A"`) {
		t.Errorf("objects: %q", out)
	}
	if out, _, _ := holdfast("object", "Counter", "A", "--addr", p.ports["grpc"]); !strings.Contains(out, `"value" = 6`) {
		t.Errorf("object: %q", out)
	}
}
