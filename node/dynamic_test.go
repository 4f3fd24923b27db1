package node

import (
	"context"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/holdfast-io/holdfast/actor"
	examplecounter "github.com/holdfast-io/holdfast/examples/counter"
	"github.com/holdfast-io/holdfast/fault"
	holdfastv1 "github.com/holdfast-io/holdfast/proto/holdfast/v1"
	"github.com/holdfast-io/holdfast/storage/value"
)

// adder is an object that counts by itself, and by an object of a class in Go.
type adder struct{ s *actor.State }

// Invoke implements actor.Dynamic.
func (a *adder) Invoke(ctx context.Context, method string, args []byte) ([]byte, error) {
	switch method {
	case "add":
		var by []int64
		if err := value.Decode(args, &by); err != nil {
			return nil, err
		}
		n, _, err := actor.Get[int64](a.s.Storage(), "n")
		if err != nil {
			return nil, err
		}
		for _, b := range by {
			n += b
		}
		if err := actor.Put(a.s.Storage(), "n", n); err != nil {
			return nil, err
		}
		return value.Encode(n)
	case "elsewhere":
		var reply any
		if err := a.s.Object("Counter", "c").Call(ctx, "Increment", &reply); err != nil {
			return nil, err
		}
		return value.Encode(reply)
	}
	return nil, fault.New(fault.UnknownMethod, "no method %q", method)
}

// Stream implements actor.Dynamic.
func (*adder) Stream(context.Context, string, *actor.Stream) error { return nil }

// A class without a .proto is called with JSON, by its bare name too, and calls others in its turn.
func TestADynamicClassIsCalled(t *testing.T) {
	t.Parallel()
	const free = "127.0.0.1:0"
	n, err := Start(t.Context(), Config{
		Name: "n", DataDir: t.TempDir(), Bootstrap: true, Shards: 2, GRPC: free, Peer: free, Gossip: free, HTTP: free, Admin: free,
		DrainTimeout: 5 * time.Second, MinFreeDisk: -1,
		Classes: []actor.Class{examplecounter.Class(), actor.NewDynamicClass("math/Adder", func(s *actor.State) actor.Dynamic { return &adder{s} })},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := n.Close(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	}()
	if err := n.WaitReady(t.Context()); err != nil {
		t.Fatal(err)
	}
	conn, err := grpc.NewClient("passthrough:///"+n.Addresses().GRPC, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	for _, c := range []struct{ class, method, json, want string }{
		{"math/Adder", "add", `[1, 2]`, `3`},
		{"Adder", "add", `4`, `7`},
		{"Adder", "add", ``, `7`},
		{"Adder", "elsewhere", ``, `{"value":"1"}`},
	} {
		resp, err := holdfastv1.NewObjectsClient(conn).Call(t.Context(), &holdfastv1.CallRequest{
			Class: c.class, Method: c.method, Json: c.json, Object: &holdfastv1.CallRequest_Name{Name: "x"},
		})
		if err != nil || resp.GetJson() != c.want {
			t.Errorf("%s %s %s: %s, %v", c.class, c.method, c.json, resp.GetJson(), err)
		}
	}
	_, err = holdfastv1.NewObjectsClient(conn).Call(t.Context(), &holdfastv1.CallRequest{
		Class: "Adder", Method: "no", Object: &holdfastv1.CallRequest_Name{Name: "x"},
	})
	if grpcStatus := fault.StatusOf(err); grpcStatus.Code() != codes.Unimplemented {
		t.Errorf("got %v", err)
	}
	list, err := holdfastv1.NewAdminClient(conn).ListObjects(t.Context(), &holdfastv1.ListObjectsRequest{Class: "Adder"})
	if err != nil || len(list.GetObjects()) != 1 {
		t.Errorf("listed %v, %v", list, err)
	}
}
