package node

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc/metadata"

	"github.com/holdfast-io/holdfast/actor"
	"github.com/holdfast-io/holdfast/client"
	"github.com/holdfast-io/holdfast/placement"
	holdfastv1 "github.com/holdfast-io/holdfast/proto/holdfast/v1"
	"github.com/holdfast-io/holdfast/storage/value"
	"github.com/holdfast-io/holdfast/tracing"
)

// relay is an object that counts, and then has another count that it is told of.
type relay struct{ s *actor.State }

func relayClass() actor.Class {
	return actor.NewDynamicClass("Relay", func(s *actor.State) actor.Dynamic { return &relay{s} })
}

// Invoke implements actor.Dynamic.
func (o *relay) Invoke(ctx context.Context, _ string, args []byte) ([]byte, error) {
	var next []string
	if err := value.Decode(args, &next); err != nil {
		return nil, err
	}
	n, _, err := actor.Get[int](o.s.Storage(), "n")
	if err == nil {
		err = actor.Put(o.s.Storage(), "n", n+1)
	}
	if err == nil && len(next) > 0 {
		err = o.s.Object("Relay", next[0]).Call(ctx, "count", nil)
	}
	if err != nil {
		return nil, err
	}
	return value.Encode(n + 1)
}

// Stream implements actor.Dynamic.
func (*relay) Stream(context.Context, string, *actor.Stream) error { return nil }

// traced are nodes whose spans, and those of their client, are kept in memory.
type traced struct {
	nodes []*workerNode
	spans *tracetest.InMemoryExporter
}

// provider makes spans that say where they are from, and begins traces by itself only if it samples.
func (w *traced) provider(t *testing.T, name string, root sdktrace.Sampler) *sdktrace.TracerProvider {
	t.Helper()
	p := sdktrace.NewTracerProvider(
		sdktrace.WithSyncer(w.spans), sdktrace.WithSampler(sdktrace.ParentBased(root)),
		sdktrace.WithResource(resource.NewSchemaless(attribute.String("node", name))),
	)
	t.Cleanup(func() { _ = p.Shutdown(context.WithoutCancel(t.Context())) })
	return p
}

// startTraced starts three nodes that begin no traces by themselves, and waits until each shard has three
// voters and the owner that it is to have.
func startTraced(t *testing.T) *traced {
	t.Helper()
	w := &traced{spans: tracetest.NewInMemoryExporter()}
	for n := range 3 {
		name := fmt.Sprintf("n%d", n)
		cfg := Config{Name: name, Shards: 16, Classes: []actor.Class{relayClass()}, TracerProvider: w.provider(t, name, sdktrace.NeverSample())}
		w.nodes = append(w.nodes, startNode(t, cfg, w.nodes...))
	}
	w.await(t, "every shard to have its owner and three voters", func() bool {
		for shard := range w.nodes[0].id.Shards {
			for _, n := range w.nodes {
				wish, ok := n.ring.Load().Owner(placement.ShardID(shard)) //nolint:gosec // small
				owner, _ := n.router.Owner(placement.ShardID(shard))      //nolint:gosec // small
				if !ok || wish != owner || len(n.ring.Load().Members()) != 3 {
					return false
				}
			}
		}
		status, err := w.nodes[0].admin().Status(t.Context(), &holdfastv1.StatusRequest{})
		if err != nil {
			return false
		}
		return !slices.ContainsFunc(status.GetShards(), func(s *holdfastv1.Shard) bool { return len(s.GetVoters()) != 3 || s.GetMoving() != "" })
	})
	return w
}

func (*traced) await(t *testing.T, what string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !done(); <-time.After(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited a minute for %s", what)
		}
	}
}

// owned returns the name of an object that a node owns.
func (w *traced) owned(t *testing.T, by int) string {
	t.Helper()
	for n := range 1000 {
		name := fmt.Sprint("o", n)
		shard := placement.ShardOf(placement.NewNamespace("Relay").IDFromName(name), w.nodes[0].id.Shards)
		if owner, _ := w.nodes[by].router.Owner(shard); owner == w.nodes[by].id.Node {
			return name
		}
	}
	t.Fatalf("n%d owns nothing", by)
	return ""
}

// tree waits until the spans of a trace are so many, and returns them as lines, each with its kind, name and
// node, below the one that it is a part of, those of one in the order of these.
func (w *traced) tree(t *testing.T, root trace.SpanID, id trace.TraceID, count int) []string {
	t.Helper()
	var spans []tracetest.SpanStub
	w.await(t, fmt.Sprintf("%d spans", count), func() bool {
		spans = nil
		for _, s := range w.spans.GetSpans() {
			if s.SpanContext.TraceID() == id {
				spans = append(spans, s)
			}
		}
		return len(spans) >= count
	})
	var below func(parent trace.SpanID, indent string) []string
	below = func(parent trace.SpanID, indent string) (lines []string) {
		var blocks []string
		for _, s := range spans {
			if s.Parent.SpanID() != parent {
				continue
			}
			node, _ := s.Resource.Set().Value("node")
			line := fmt.Sprintf("%s%s %s @%s", indent, s.SpanKind, s.Name, node.AsString())
			blocks = append(blocks, strings.Join(append([]string{line}, below(s.SpanContext.SpanID(), indent+"  ")...), "\n"))
		}
		slices.Sort(blocks)
		for _, b := range blocks {
			lines = append(lines, strings.Split(b, "\n")...)
		}
		return lines
	}
	return below(root, "")
}

// A call is followed from the client, through a node that does not own the object, to the commits of what it
// writes, and through the call that its object makes of one of another node.
func TestTraceOfAForwardedCall(t *testing.T) {
	t.Parallel()
	w := startTraced(t)
	outer, inner := w.owned(t, 1), w.owned(t, 2)
	c, err := client.New([]string{w.nodes[0].Addresses().GRPC}, client.WithTracerProvider(w.provider(t, "client", sdktrace.AlwaysSample())))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	reply, err := c.Name("Relay", outer).CallJSON(t.Context(), "count", []string{inner})
	if err != nil || string(reply) != "1" {
		t.Fatalf("got %s, %v", reply, err)
	}
	var id trace.TraceID
	w.await(t, "the client's span", func() bool {
		spans := w.spans.GetSpans()
		i := slices.IndexFunc(spans, func(s tracetest.SpanStub) bool { return !s.Parent.IsValid() })
		if i >= 0 {
			id = spans[i].SpanContext.TraceID()
		}
		return i >= 0
	})
	want := []string{
		"client Relay/count @client",
		"  server Relay/count @n0",
		"    client forward @n0",
		"      server Relay/count @n1",
		"        internal commit @n1", // what was written before the call, with the claim of the request id
		"        internal commit @n1", // the reply, for that id
		"        internal handler @n1",
		"          client Relay/count @n1",
		"            client forward @n1",
		"              server Relay/count @n2",
		"                internal commit @n2",
		"                internal handler @n2",
		"                internal mailbox @n2",
		"                internal output gate @n2",
		"          internal output gate @n1",
		"        internal mailbox @n1",
		"        internal output gate @n1",
	}
	if diff := cmp.Diff(want, w.tree(t, trace.SpanID{}, id, len(want))); diff != "" {
		t.Errorf("spans (-want +got):\n%s", diff)
	}
	for _, s := range w.spans.GetSpans() {
		if s.EndTime.Before(s.StartTime) {
			t.Errorf("%s ended before it began", s.Name)
		}
		switch s.Name {
		case "commit":
			checkCommit(t, &s)
		case "Relay/count":
			if set := attribute.NewSet(s.Attributes...); s.SpanKind == trace.SpanKindServer && (!set.HasValue(tracing.ObjectKey) || !set.HasValue(tracing.NameKey)) {
				t.Errorf("%s of %v does not say which object", s.Name, s.Attributes)
			}
		}
	}

	// What is to be traced, and what not, is what the caller says: plain gRPC here.
	objects := holdfastv1.NewObjectsClient(w.nodes[0].conn)
	req := &holdfastv1.CallRequest{Class: "Relay", Method: "count", Json: "[]", Object: &holdfastv1.CallRequest_Name{Name: outer}}
	const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-"
	for _, flags := range []string{"00", "01"} {
		w.spans.Reset()
		ctx := metadata.AppendToOutgoingContext(t.Context(), "traceparent", parent+flags)
		if _, err := objects.Call(ctx, req); err != nil {
			t.Fatal(err)
		}
		if flags == "00" && len(w.spans.GetSpans()) > 0 {
			t.Errorf("a call that is not sampled has spans: %v", w.spans.GetSpans())
		}
	}
	id, _ = trace.TraceIDFromHex("0af7651916cd43dd8448eb211c80319c")
	root, _ := trace.SpanIDFromHex("b7ad6b7169203331")
	want = []string{
		"server Relay/count @n0",
		"  client forward @n0",
		"    server Relay/count @n1",
		"      internal commit @n1",
		"      internal handler @n1",
		"      internal mailbox @n1",
		"      internal output gate @n1",
	}
	if diff := cmp.Diff(want, w.tree(t, root, id, len(want))); diff != "" {
		t.Errorf("plain gRPC: spans (-want +got):\n%s", diff)
	}
}

// checkCommit wants the span of a commit to say what became of the segment, when and where.
func checkCommit(t *testing.T, s *tracetest.SpanStub) {
	t.Helper()
	var events []string
	for _, e := range s.Events {
		events = append(events, e.Name)
	}
	if diff := cmp.Diff([]string{"proposed", "synced", "committed"}, events); diff != "" {
		t.Errorf("commit: events (-want +got):\n%s", diff)
	}
	set := attribute.NewSet(s.Attributes...)
	term, _ := set.Value(tracing.TermKey)
	index, _ := set.Value(tracing.IndexKey)
	if term.AsInt64() == 0 || index.AsInt64() == 0 || !set.HasValue(tracing.ShardKey) {
		t.Errorf("commit: attributes %v, want shard, term and index", s.Attributes)
	}
}
