package client_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/holdfast-io/holdfast/client"
	"github.com/holdfast-io/holdfast/examples/counter/counterv1"
	"github.com/holdfast-io/holdfast/fault"
	"github.com/holdfast-io/holdfast/peer/frame"
	"github.com/holdfast-io/holdfast/placement"
	holdfastv1 "github.com/holdfast-io/holdfast/proto/holdfast/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type callFunc func(req *frame.Request, reply func(frame.Response)) func(error)

// node is the part of a node that clients see, with a script in place of objects.
type node struct {
	holdfastv1.UnimplementedObjectsServer

	addr string
	stop func()

	mu   sync.Mutex
	call callFunc
}

func (n *node) Stream(stream grpc.BidiStreamingServer[holdfastv1.Frames, holdfastv1.Frames]) error {
	return frame.NewMux(stream, (*script)(n), frame.Options{}).Run(stream.Context())
}

// NewUniqueID implements holdfastv1.ObjectsServer: there is one class.
func (*node) NewUniqueID(_ context.Context, req *holdfastv1.NewUniqueIDRequest) (*holdfastv1.NewUniqueIDResponse, error) {
	if req.GetClass() != "C" {
		return nil, fault.New(fault.UnknownClass, "class %q", req.GetClass())
	}
	id, err := placement.NewNamespace("C").NewUniqueID(rand.Reader)
	return &holdfastv1.NewUniqueIDResponse{Id: id.String()}, err
}

// script is a node as the handler of its streams.
type script node

func (s *script) Call(req *frame.Request, reply func(frame.Response)) func(error) {
	s.mu.Lock()
	call := s.call
	s.mu.Unlock()
	return call(req, reply)
}

func (*script) Announce(placement.ShardID, placement.NodeID, uint64) {}

func (*script) Query(_ string, _ []byte, reply func([]byte, error)) { reply(nil, nil) }

func (n *node) answer(call callFunc) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.call = call
}

// serve starts a node at an address; port 0 for any.
func serve(t *testing.T, addr string, call callFunc) *node {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	n := &node{addr: l.Addr().String(), call: call}
	s := grpc.NewServer()
	holdfastv1.RegisterObjectsServer(s, n)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Serve(l)
	}()
	n.stop = sync.OnceFunc(func() {
		s.Stop()
		<-done
	})
	t.Cleanup(n.stop)
	return n
}

func connect(t *testing.T, addrs ...string) *client.Client {
	t.Helper()
	c, err := client.New(addrs)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func echo(req *frame.Request, reply func(frame.Response)) func(error) {
	reply(frame.Response{Body: req.Body})
	return nil
}

func TestCallArrives(t *testing.T) {
	t.Parallel()
	got := make(chan *frame.Request, 1)
	n := serve(t, "127.0.0.1:0", func(req *frame.Request, reply func(frame.Response)) func(error) {
		got <- req
		reply(frame.Response{Body: []byte{8, 7}})
		return nil
	})
	c := connect(t, n.addr)
	ctx := metadata.AppendToOutgoingContext(t.Context(), "k", "v", "holdfast-name", "other")
	reply, err := counterv1.NewCounterClient(c.Name("Counter", "ä")).Get(ctx, &counterv1.GetRequest{})
	if err != nil || reply.GetValue() != 7 {
		t.Fatalf("got %v, %v", reply, err)
	}
	req := <-got
	if req.Class != "Counter" || req.Method != "Get" || //nolint:usestdlibvars // the counter's
		req.Name != "ä" || !req.Named || req.JSON || req.Deadline.IsZero() {
		t.Errorf("got %+v", req)
	}
	if len(req.Metadata) != 1 || req.Metadata.Get("k")[0] != "v" {
		t.Errorf("got metadata %v", req.Metadata)
	}
	id := placement.NewNamespace("Counter").IDFromName("x")
	n.answer(func(req *frame.Request, reply func(frame.Response)) func(error) {
		got <- req
		reply(frame.Response{Body: req.Body})
		return nil
	})
	raw, err := c.ID("Counter", id).CallJSON(t.Context(), "Increment", map[string]int{"amount": 5})
	if err != nil || string(raw) != `{"amount":5}` {
		t.Errorf("got %s, %v", raw, err)
	}
	if req := <-got; req.ID != id || req.Named || !req.JSON || req.Method != "Increment" {
		t.Errorf("got %+v", req)
	}
	if _, err := c.Name("Counter", "x").CallJSON(t.Context(), "M", make(chan int)); status.Code(err) != codes.InvalidArgument {
		t.Errorf("arguments that JSON can't say: got %v", err)
	}
}

func TestNewUniqueID(t *testing.T) {
	t.Parallel()
	n := serve(t, "127.0.0.1:0", echo)
	c := connect(t, n.addr)
	id, err := c.NewUniqueID(t.Context(), "C")
	if err != nil {
		t.Fatal(err)
	}
	if err := placement.NewNamespace("C").Check(id); err != nil {
		t.Error(err)
	}
	if _, err := c.NewUniqueID(t.Context(), "Other"); fault.ReasonOf(err) != fault.UnknownClass {
		t.Errorf("no such class: got %v", err)
	}
	n.stop()
	if _, err := c.NewUniqueID(expired(t), "C"); err == nil {
		t.Error("got an id of nobody")
	}
	c.Close()
	if _, err := c.NewUniqueID(t.Context(), "C"); status.Code(err) != codes.Canceled {
		t.Errorf("closed: got %v", err)
	}
}

// An answer says who owns the object: the next call goes there, and back when that node is gone.
func TestGoesToTheOwner(t *testing.T) {
	t.Parallel()
	id := placement.NewNamespace("C").IDFromName("x")
	direct := make(chan struct{}, 100)
	owner := serve(t, "127.0.0.1:0", func(req *frame.Request, reply func(frame.Response)) func(error) {
		direct <- struct{}{}
		return echo(req, reply)
	})
	first := serve(t, "127.0.0.1:0", func(_ *frame.Request, reply func(frame.Response)) func(error) {
		reply(frame.Response{Body: []byte(`"passed on"`), Owner: frame.OwnerHint{
			Node: 7, Addr: owner.addr, Shard: placement.ShardOf(id, 16), Shards: 16, Term: 3,
		}})
		return nil
	})
	c := connect(t, first.addr)
	o := c.Name("C", "x")
	until(t, "a call that goes straight to the owner", func() bool {
		if _, err := o.CallJSON(t.Context(), "M", nil); err != nil {
			t.Fatal(err)
		}
		return len(direct) > 0
	})
	owner.stop()
	until(t, "a call that is passed on again", func() bool {
		raw, err := o.CallJSON(t.Context(), "M", nil)
		if err != nil && fault.ReasonOf(err) != fault.OutcomeUnknown {
			t.Fatal(err)
		}
		return string(raw) == `"passed on"`
	})
}

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); {
		if time.Now().After(end) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

func TestRefusedCallIsMadeAgain(t *testing.T) {
	t.Parallel()
	calls := 0
	n := serve(t, "127.0.0.1:0", func(req *frame.Request, reply func(frame.Response)) func(error) {
		if calls++; calls < 4 {
			reply(frame.ErrorResponse(fault.New(fault.NoOwner, "none")))
			return nil
		}
		return echo(req, reply)
	})
	c := connect(t, n.addr)
	if _, err := c.Name("C", "x").CallJSON(t.Context(), "M", nil); err != nil || calls != 4 {
		t.Errorf("got %v after %d calls", err, calls)
	}
	n.answer(func(_ *frame.Request, reply func(frame.Response)) func(error) {
		reply(frame.ErrorResponse(fault.New(fault.NoOwner, "none")))
		return nil
	})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := c.Name("C", "x").CallJSON(ctx, "M", nil)
	if code := status.Code(err); code != codes.DeadlineExceeded && code != codes.Unavailable {
		t.Errorf("got %v", err)
	}
}

// A call whose answer was lost is made again under its id, and no other.
func TestLostCallIsMadeAgain(t *testing.T) {
	t.Parallel()
	ids := make(chan string, 10)
	n := serve(t, "127.0.0.1:0", func(req *frame.Request, _ func(frame.Response)) func(error) {
		ids <- req.RequestID
		return nil
	})
	c := connect(t, n.addr)
	answered := make(chan error, 1)
	go func() {
		_, err := c.Name("C", "x").CallJSON(t.Context(), "M", 5)
		answered <- err
	}()
	first := <-ids
	n.stop()
	refusals := []error{fault.New(fault.OutcomeUnknown, ""), fault.New(fault.NoOwner, ""), fault.New(fault.Overloaded, "")}
	serve(t, n.addr, func(req *frame.Request, reply func(frame.Response)) func(error) {
		ids <- req.RequestID
		if len(refusals) > 0 {
			err := refusals[0]
			refusals = refusals[1:]
			reply(frame.ErrorResponse(err))
			return nil
		}
		return echo(req, reply)
	})
	if err := <-answered; err != nil {
		t.Fatal(err)
	}
	for range 4 {
		if id := <-ids; id != first || id == "" {
			t.Errorf("made again with id %q, not %q", id, first)
		}
	}
	if _, err := c.Name("C", "x").CallJSON(t.Context(), "M", 5); err != nil {
		t.Fatal(err)
	}
	if id := <-ids; id == first {
		t.Error("another call has the same id")
	}
}

// What may have run is not said not to have, whatever becomes of it when it is made again.
func TestLostCallStaysInDoubt(t *testing.T) {
	t.Parallel()
	var calls atomic.Int64
	n := serve(t, "127.0.0.1:0", func(_ *frame.Request, reply func(frame.Response)) func(error) {
		reason := fault.NoOwner
		if calls.Add(1) == 1 {
			reason = fault.OutcomeUnknown
		}
		reply(frame.ErrorResponse(fault.New(reason, "")))
		return nil
	})
	c := connect(t, n.addr)
	p, err := c.Name("C", "x").Send(t.Context(), "M", &counterv1.IncrementRequest{})
	if err != nil {
		t.Fatal(err)
	}
	until(t, "three tries", func() bool { return calls.Load() >= 3 })
	c.Close()
	if err := p.Wait(&counterv1.IncrementRequest{}); fault.ReasonOf(err) != fault.OutcomeUnknown {
		t.Errorf("got %v", err)
	}
}

func TestExisting(t *testing.T) {
	t.Parallel()
	got := make(chan *frame.Request, 3)
	n := serve(t, "127.0.0.1:0", func(req *frame.Request, reply func(frame.Response)) func(error) {
		got <- req
		if req.Existing {
			reply(frame.ErrorResponse(fault.New(fault.UnknownObject, "")))
			return nil
		}
		return echo(req, reply)
	})
	o := connect(t, n.addr).Name("C", "x")
	if _, err := o.Existing().CallJSON(t.Context(), "M", 5); fault.ReasonOf(err) != fault.UnknownObject {
		t.Errorf("got %v", err)
	}
	if _, err := o.CallJSON(t.Context(), "M", 5); err != nil {
		t.Error(err)
	}
	if _, err := o.Existing().NewStream(t.Context(), &grpc.StreamDesc{ServerStreams: true}, "/s/M"); fault.ReasonOf(err) != fault.UnknownObject {
		t.Errorf("stream: got %v", err)
	}
	if a, b, c := <-got, <-got, <-got; !a.Existing || b.Existing || !c.Existing || a.Name != "x" {
		t.Errorf("got %+v, %+v, %+v", a, b, c)
	}
}

// It is not said not to be there when a try before may have deleted it.
func TestLostCallOfWhatMustExistStaysInDoubt(t *testing.T) {
	t.Parallel()
	var calls atomic.Int64
	n := serve(t, "127.0.0.1:0", func(_ *frame.Request, reply func(frame.Response)) func(error) {
		reason := fault.UnknownObject
		if calls.Add(1) == 1 {
			reason = fault.OutcomeUnknown
		}
		reply(frame.ErrorResponse(fault.New(reason, "")))
		return nil
	})
	if _, err := connect(t, n.addr).Name("C", "x").Existing().CallJSON(t.Context(), "M", 5); fault.ReasonOf(err) != fault.OutcomeUnknown || calls.Load() != 2 {
		t.Errorf("got %v after %d calls", err, calls.Load())
	}
}

// A call of Send that is lost is not made again when one behind it may have run.
func TestLostCallIsNotMadeAgainAfterALaterOne(t *testing.T) {
	t.Parallel()
	var calls atomic.Int64
	n := serve(t, "127.0.0.1:0", func(*frame.Request, func(frame.Response)) func(error) {
		calls.Add(1)
		return nil
	})
	c := connect(t, n.addr)
	pending := sendAll(t, c.Name("C", "x"), 2)
	until(t, "two calls", func() bool { return calls.Load() == 2 })
	n.stop()
	if err := pending[0].Wait(&counterv1.IncrementRequest{}); fault.ReasonOf(err) != fault.OutcomeUnknown || status.Code(err) != codes.Aborted {
		t.Errorf("got %v", err)
	}
	again := serve(t, n.addr, echo)
	defer again.stop()
	// The stub lives on.
	if raw, err := c.Name("C", "x").CallJSON(t.Context(), "M", 5); err != nil || string(raw) != "5" {
		t.Errorf("got %s, %v", raw, err)
	}
}

func TestRequestIDOfTheCaller(t *testing.T) {
	t.Parallel()
	got := make(chan *frame.Request, 1)
	n := serve(t, "127.0.0.1:0", func(req *frame.Request, reply func(frame.Response)) func(error) {
		got <- req
		return echo(req, reply)
	})
	c := connect(t, n.addr)
	ctx := metadata.AppendToOutgoingContext(t.Context(), "holdfast-request-id", "mine")
	if _, err := c.Name("C", "x").CallJSON(ctx, "M", 5); err != nil {
		t.Fatal(err)
	}
	if req := <-got; req.RequestID != "mine" || len(req.Metadata) > 0 {
		t.Errorf("got %+v", req)
	}
	for _, bad := range []struct{ id, want string }{{"", "empty"}, {strings.Repeat("x", 129), "128 bytes, has 129"}} {
		ctx := metadata.AppendToOutgoingContext(t.Context(), "holdfast-request-id", bad.id)
		_, err := c.Name("C", "x").CallJSON(ctx, "M", 5)
		if fault.ReasonOf(err) != fault.InvalidArgument || !strings.Contains(err.Error(), bad.want) {
			t.Errorf("id of %d bytes: got %v", len(bad.id), err)
		}
	}
	_, err := c.Name("C", "x").CallJSON(metadata.AppendToOutgoingContext(ctx, "holdfast-request-id", "another"), "M", 5)
	if fault.ReasonOf(err) != fault.InvalidArgument {
		t.Errorf("two ids: got %v", err)
	}
}

// sendAll makes calls with the revisions of their order in the body, without waiting.
func sendAll(t *testing.T, o *client.Object, n int) []*client.Pending {
	t.Helper()
	var all []*client.Pending
	for i := range n {
		amount := int64(i)
		p, err := o.Send(t.Context(), "M", &counterv1.IncrementRequest{Amount: &amount})
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
	return all
}

func TestOrderOfOneStub(t *testing.T) {
	t.Parallel()
	var ran []int
	calls := 0
	n := serve(t, "127.0.0.1:0", func(req *frame.Request, reply func(frame.Response)) func(error) {
		if calls++; calls <= 150 { // All of the first, some of the second wave: then an owner is found.
			reply(frame.ErrorResponse(fault.New(fault.OwnerChanged, "moved")))
			return nil
		}
		number := 0
		if len(req.Body) == 2 {
			number = int(req.Body[1])
		}
		ran = append(ran, number)
		return echo(req, reply)
	})
	c := connect(t, n.addr)
	pending := sendAll(t, c.Name("C", "x"), 100)
	var failed []int
	for i, p := range pending {
		if err := p.Wait(&counterv1.IncrementRequest{}); err != nil {
			if fault.ReasonOf(err) != fault.OwnerChanged {
				t.Errorf("call %d: %v", i, err)
			}
			failed = append(failed, i)
		}
	}
	for i := 1; i < len(ran); i++ {
		if ran[i] <= ran[i-1] {
			t.Fatalf("call %d ran after call %d", ran[i], ran[i-1])
		}
	}
	if len(ran)+len(failed) != 100 || len(ran) < 50 {
		t.Errorf("%d ran and %d failed of 100", len(ran), len(failed))
	}
}

// When a call ends unknown, those behind it that were not sent yet are not sent.
func TestUnknownPoisonsWhatIsBehind(t *testing.T) {
	t.Parallel()
	var replies []func(frame.Response)
	got := make(chan struct{}, 10)
	n := serve(t, "127.0.0.1:0", func(_ *frame.Request, reply func(frame.Response)) func(error) {
		replies = append(replies, reply)
		got <- struct{}{}
		return nil
	})
	c := connect(t, n.addr)
	o := c.Name("C", "x")
	pending := sendAll(t, o, 2)
	<-got
	<-got
	replies[1](frame.ErrorResponse(fault.New(fault.NoOwner, "none")))
	replies[0](frame.ErrorResponse(fault.New(fault.OutcomeUnknown, "lost")))
	for i, want := range []fault.Reason{fault.OutcomeUnknown, fault.NoOwner} {
		if err := pending[i].Wait(&counterv1.IncrementRequest{}); fault.ReasonOf(err) != want {
			t.Errorf("call %d: got %v, want %s", i, err, want)
		}
	}
	n.answer(echo)
	if err := sendAll(t, o, 1)[0].Wait(&counterv1.IncrementRequest{}); err != nil {
		t.Errorf("the next call: %v", err)
	}
}

func TestCanceledCall(t *testing.T) {
	t.Parallel()
	arrived, told := make(chan struct{}), make(chan struct{})
	n := serve(t, "127.0.0.1:0", func(_ *frame.Request, reply func(frame.Response)) func(error) {
		close(arrived)
		return func(cause error) {
			reply(frame.ErrorResponse(cause))
			close(told)
		}
	})
	c := connect(t, n.addr)
	ctx, cancel := context.WithCancel(t.Context())
	failed := make(chan error)
	go func() {
		_, err := c.Name("C", "x").CallJSON(ctx, "M", nil)
		failed <- err
	}()
	<-arrived
	cancel()
	if err := <-failed; status.Code(err) != codes.Canceled {
		t.Errorf("got %v", err)
	}
	<-told
}

func TestNobodyThere(t *testing.T) {
	t.Parallel()
	if _, err := client.New(nil); err == nil {
		t.Error("no addresses: want an error")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	_ = l.Close()
	c := connect(t, addr)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	if _, err := c.Name("C", "x").CallJSON(ctx, "M", nil); err == nil {
		t.Error("want an error")
	}
	// A call that waits for a connection ends when the client is closed.
	failed := make(chan error)
	go func() {
		_, err := c.Name("C", "x").CallJSON(context.Background(), "M", nil)
		failed <- err
	}()
	c.Close()
	if err := <-failed; status.Code(err) != codes.Canceled {
		t.Errorf("got %v", err)
	}
	if _, err := c.Name("C", "x").CallJSON(context.Background(), "M", nil); status.Code(err) != codes.Canceled {
		t.Errorf("after Close: got %v", err)
	}
}

func TestManyCallersOfManyStubs(t *testing.T) {
	t.Parallel()
	var nodes []*node
	for range 3 {
		nodes = append(nodes, serve(t, "127.0.0.1:0", nil))
	}
	for i, n := range nodes {
		n.answer(func(req *frame.Request, reply func(frame.Response)) func(error) {
			id := placement.NewNamespace(req.Class).IDFromName(req.Name)
			shard := placement.ShardOf(id, 64)
			owner := nodes[int(shard)%3]
			if int(shard)%3 != i && req.Metadata == nil && shard%7 == 0 {
				reply(frame.ErrorResponse(fault.New(fault.NoOwner, "none")))
				return nil
			}
			reply(frame.Response{Body: req.Body, Owner: frame.OwnerHint{Node: 1, Addr: owner.addr, Shard: shard, Shards: 64, Term: 1}})
			return nil
		})
	}
	c := connect(t, nodes[0].addr, nodes[1].addr, nodes[2].addr)
	// Owners of shards divisible by 7 have to be learned first: nobody passes those on.
	for i := range 500 {
		ctx := metadata.AppendToOutgoingContext(t.Context(), "teach", "1")
		if _, err := c.Name("C", fmt.Sprint(i)).CallJSON(ctx, "M", i); err != nil {
			t.Fatal(err)
		}
	}
	var wg sync.WaitGroup
	for g := range 16 {
		wg.Go(func() {
			for i := range 200 {
				raw, err := c.Name("C", fmt.Sprint(i)).CallJSON(t.Context(), "M", g)
				if err != nil || string(raw) != fmt.Sprint(g) {
					t.Errorf("got %s, %v", raw, err)
					return
				}
			}
		})
	}
	wg.Wait()
	if _, err := c.Name("C", "0").CallJSON(expired(t), "M", nil); !errors.Is(err, context.DeadlineExceeded) && status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("an expired context: got %v", err)
	}
}

func expired(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 0)
	cancel()
	return ctx
}
