package e2e_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/holdfast-io/holdfast/examples/counter/counterv1"
	"github.com/holdfast-io/holdfast/fault"
	"github.com/holdfast-io/holdfast/placement"
	holdfastv1 "github.com/holdfast-io/holdfast/proto/holdfast/v1"
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

func TestBadInput(t *testing.T) {
	p := oneNode(t)
	conn := p.conn()
	counter := counterv1.NewCounterClient(conn)
	objects := holdfastv1.NewObjectsClient(conn)
	get := func(pairs ...string) error {
		ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(t.Context(), pairs...), 10*time.Second)
		defer cancel()
		_, err := counter.Get(ctx, &counterv1.GetRequest{})
		return err
	}
	call := func(req *holdfastv1.CallRequest) error {
		_, err := objects.Call(t.Context(), req)
		return err
	}
	name := func(s string) *holdfastv1.CallRequest_Name { return &holdfastv1.CallRequest_Name{Name: s} }
	foreign := placement.NewNamespace("Other").IDFromName("x").String()
	for what, tc := range map[string]struct {
		err  error
		want fault.Reason
	}{
		"no object":      {get(), fault.MissingObject},
		"two objects":    {get("holdfast-name", "a", "holdfast-id", foreign), fault.AmbiguousObject},
		"no id":          {get("holdfast-id", "xyz"), fault.InvalidID},
		"foreign id":     {get("holdfast-id", foreign), fault.InvalidID},
		"unknown class":  {call(&holdfastv1.CallRequest{Class: "Nope", Object: name("a"), Method: "Get"}), fault.UnknownClass},
		"reserved class": {call(&holdfastv1.CallRequest{Class: "holdfast.System", Object: name("cluster"), Method: "Facts"}), fault.UnknownClass},
		"unknown method": {call(&holdfastv1.CallRequest{Class: "Counter", Object: name("a"), Method: "Nope"}), fault.UnknownMethod},
		"no json":        {call(&holdfastv1.CallRequest{Class: "Counter", Object: name("a"), Method: "Increment", Json: "{"}), fault.InvalidArgument},
		"large name":     {call(&holdfastv1.CallRequest{Class: "Counter", Object: name(strings.Repeat("x", 65<<10)), Method: "Get"}), fault.InvalidArgument},
		"large request":  {call(&holdfastv1.CallRequest{Class: "Counter", Object: name("a"), Method: "Get", Json: strings.Repeat(" ", 40<<20)}), fault.RequestTooLarge},
	} {
		s, _ := status.FromError(tc.err)
		if got := fault.ReasonOf(tc.err); got != tc.want {
			t.Errorf("%s: %q (%s: %s), want %s", what, got, s.Code(), s.Message(), tc.want)
		}
	}
	if err := get("holdfast-name-bin", ""); err != nil {
		t.Errorf("the empty name: %v", err)
	}
	// Nothing of that stayed.
	if out, _, _ := holdfast("objects", "Counter", "--addr", p.ports["grpc"]); out != "" {
		t.Errorf("objects: %q", out)
	}
	for _, port := range []string{"grpc", "peer", "gossip"} {
		garbage(t, p.ports[port])
	}
	if err := get("holdfast-name", "a"); err != nil {
		t.Errorf("after garbage on the ports: %v", err)
	}
}

func TestCommandLineRefusals(t *testing.T) {
	p := oneNode(t)
	free := freePorts(t, 5)
	serve := func(args ...string) (string, int) {
		base := []string{"serve", "--grpc", free[0], "--peer", free[1], "--gossip", free[2], "--http", free[3], "--admin", free[4]}
		_, errs, code := holdfast(append(base, args...)...)
		return errs, code
	}
	for what, tc := range map[string]struct {
		args []string
		code int
		text string
	}{
		"a directory in use":         {[]string{"--name", "n1", "--data-dir", p.dir}, 1, "another process"},
		"neither join nor bootstrap": {[]string{"--name", "x", "--data-dir", t.TempDir()}, 1, "--join"},
		"no name":                    {[]string{"--data-dir", t.TempDir()}, 2, "--name"},
		"bad name":                   {[]string{"--name", "a b", "--data-dir", t.TempDir(), "--bootstrap"}, 2, "--name"},
		"even replicas":              {[]string{"--name", "x", "--data-dir", t.TempDir(), "--bootstrap", "--replicas", "2"}, 2, "--replicas"},
		"unknown flag":               {[]string{"--nope"}, 2, "--nope"},
	} {
		if errs, code := serve(tc.args...); code != tc.code || !strings.Contains(errs, tc.text) {
			t.Errorf("%s: exit %d, want %d and %q in: %s", what, code, tc.code, tc.text, errs)
		}
	}
	if _, errs, code := holdfast("call", "Counter", "A", "Get", "--addr", free[0]); code != 1 || !strings.Contains(errs, "no node answers") {
		t.Errorf("call of nobody: exit %d, %s", code, errs)
	}
	if _, errs, code := holdfast("call", "Counter"); code != 2 {
		t.Errorf("call without a method: exit %d, %s", code, errs)
	}
}
