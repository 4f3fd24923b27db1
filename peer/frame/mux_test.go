package frame_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/holdfast-io/holdfast/fault"
	"github.com/holdfast-io/holdfast/peer/frame"
	"github.com/holdfast-io/holdfast/placement"
	holdfastv1 "github.com/holdfast-io/holdfast/proto/holdfast/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// pipe is one side of a stream in memory that holds a few messages each way.
type pipe struct {
	out     chan<- []byte
	in      <-chan []byte
	closed  chan struct{} // shared by both sides
	once    *sync.Once
	sizes   []int
	onFrame func([]byte)
}

func newPipe(depth int) (a, b *pipe) {
	ab, ba := make(chan []byte, depth), make(chan []byte, depth)
	closed, once := make(chan struct{}), new(sync.Once)
	return &pipe{out: ab, in: ba, closed: closed, once: once}, &pipe{out: ba, in: ab, closed: closed, once: once}
}

func (p *pipe) Close() { p.once.Do(func() { close(p.closed) }) }

func (p *pipe) Send(f *holdfastv1.Frames) error {
	p.sizes = append(p.sizes, len(f.GetData()))
	select {
	case p.out <- bytes.Clone(f.GetData()):
		return nil
	case <-p.closed:
		return io.ErrClosedPipe
	}
}

func (p *pipe) Recv() (*holdfastv1.Frames, error) {
	select {
	case b := <-p.in:
		if p.onFrame != nil {
			p.onFrame(b)
		}
		return &holdfastv1.Frames{Data: b}, nil
	case <-p.closed:
		return nil, io.EOF
	}
}

// handler answers with fn, which runs in the reader.
type handler struct {
	fn       func(req *frame.Request, reply func(frame.Response)) func(error)
	announce func(placement.ShardID, placement.NodeID, uint64)
	query    func(kind string, body []byte) ([]byte, error)
}

func (h *handler) Call(req *frame.Request, reply func(frame.Response)) func(error) {
	return h.fn(req, reply)
}

func (h *handler) Announce(s placement.ShardID, n placement.NodeID, t uint64) { h.announce(s, n, t) }

func (h *handler) Query(kind string, body []byte, reply func([]byte, error)) {
	reply(h.query(kind, body))
}

func echo(req *frame.Request, reply func(frame.Response)) func(error) {
	reply(frame.Response{Body: req.Body})
	return nil
}

// converse runs a conversation between a client and h; close ends it and returns how each ended.
func converse(t *testing.T, h frame.Handler, o frame.Options) (client, server *frame.Mux, end func()) {
	t.Helper()
	a, b := newPipe(1)
	client, server = frame.NewMux(a, nil, o), frame.NewMux(b, h, o)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for _, m := range []*frame.Mux{client, server} {
		wg.Go(func() { _ = m.Run(ctx) })
	}
	return client, server, func() {
		cancel()
		wg.Wait()
		a.Close()
		client.Wait()
		server.Wait()
	}
}

func call(m *frame.Mux, req *frame.Request) frame.Response {
	got := make(chan frame.Response, 1)
	m.Call(req, func(r frame.Response) { got <- r })
	return <-got
}

func TestRequestArrivesAsSent(t *testing.T) {
	t.Parallel()
	seen := make(chan *frame.Request, 1)
	h := &handler{fn: func(req *frame.Request, reply func(frame.Response)) func(error) {
		seen <- req
		reply(frame.Response{
			Body: []byte("reply"), Revision: 9,
			Owner: frame.OwnerHint{Node: 1 << 60, Addr: "10.0.0.1:7070", Shard: 255, Shards: 256, Term: 1 << 40},
		})
		return nil
	}}
	client, _, end := converse(t, h, frame.Options{})
	defer end()
	for name, req := range map[string]*frame.Request{
		"named": {
			Method: "/counter.v1.Counter/Increment", Name: "ä\x00b", Named: true, Ordered: true,
			Hops: 3, Revision: 1 << 50, Metadata: metadata.MD{"k": {"v", ""}, "x-bin": {"\xff"}}, Body: []byte("body"),
		},
		"empty name": {Method: "M", Class: "C", Named: true, JSON: true},
		"id":         {Method: "M", Class: "C", ID: placement.ObjectID{1, 31: 2}},
		"long":       {Method: "M", Class: "C", Named: true, Name: strings.Repeat("n", frame.NameBytesMax), Body: bytes.Repeat([]byte("0123456789"), 100_000)},
		"deadline":   {Method: "M", Class: "C", Deadline: time.Now().Add(time.Minute)},
		"request id": {Method: "M", Class: "C", Metadata: metadata.MD{"k": {"v"}}, RequestID: strings.Repeat("r", frame.RequestIDBytesMax), Body: []byte("body")},
		"chain": {
			Method: "M", Class: "C", Metadata: metadata.MD{"k": {"v"}}, Body: bytes.Repeat([]byte("0123456789"), 100_000),
			Chain: []frame.Link{{Event: 1 << 63, Label: `Counter "A"`}, {Event: 2}},
		},
	} {
		got := call(client, req)
		if err := got.Err(); err != nil {
			t.Errorf("%s: call: %v", name, err)
		}
		want := frame.OwnerHint{Node: 1 << 60, Addr: "10.0.0.1:7070", Shard: 255, Shards: 256, Term: 1 << 40}
		if got.Owner != want || string(got.Body) != "reply" || got.Revision != 9 {
			t.Errorf("%s: got reply %+v", name, got)
		}
		opt := cmp.Comparer(func(a, b time.Time) bool { return a.Sub(b).Abs() < time.Second })
		if diff := cmp.Diff(req, normal(<-seen), opt); diff != "" {
			t.Errorf("%s: (-sent +got)\n%s", name, diff)
		}
	}
}

// normal makes an empty body nil.
func normal(r *frame.Request) *frame.Request {
	if len(r.Body) == 0 {
		r.Body = nil
	}
	return r
}

func TestErrors(t *testing.T) {
	t.Parallel()
	var next error
	h := &handler{fn: func(_ *frame.Request, reply func(frame.Response)) func(error) {
		reply(frame.ErrorResponse(next))
		return nil
	}}
	client, _, end := converse(t, h, frame.Options{})
	defer end()
	for _, c := range []struct {
		err    error
		code   codes.Code
		reason fault.Reason
	}{
		{fault.New(fault.NoOwner, "nobody"), codes.Unavailable, fault.NoOwner},
		{fmt.Errorf("wrapped: %w", fault.New(fault.OutcomeUnknown, "x")), codes.Aborted, fault.OutcomeUnknown},
		{status.Error(codes.DataLoss, "text"), codes.DataLoss, ""},
		{errors.New("plain"), codes.Unknown, ""},
		{context.Canceled, codes.Canceled, ""},
		{context.DeadlineExceeded, codes.DeadlineExceeded, ""},
		{&frame.LostError{Sent: true, Cause: io.EOF}, codes.Aborted, fault.OutcomeUnknown},
		{&frame.LostError{Cause: io.EOF}, codes.Unavailable, fault.NoOwner},
		{status.Error(codes.NotFound, strings.Repeat("ä", 1<<20)), codes.NotFound, ""},
	} {
		next = c.err
		r := call(client, &frame.Request{})
		err := r.Err()
		if got := status.Code(err); got != c.code || !r.Failed() {
			t.Errorf("%.50v: got code %v, want %v", c.err, got, c.code)
		}
		if got := fault.ReasonOf(err); got != c.reason {
			t.Errorf("%.50v: got reason %q, want %q", c.err, got, c.reason)
		}
	}
}

func TestLimitsAreRefusedByTheSender(t *testing.T) {
	t.Parallel()
	client, _, end := converse(t, &handler{fn: echo}, frame.Options{})
	defer end()
	for want, req := range map[fault.Reason]*frame.Request{
		fault.RequestTooLarge: {Body: make([]byte, frame.BodyBytesMax+1)},
		fault.InvalidArgument: {Named: true, Name: strings.Repeat("n", frame.NameBytesMax+1)},
	} {
		r := call(client, req)
		if got := fault.ReasonOf(r.Err()); got != want {
			t.Errorf("got %v, want %v", r.Err(), want)
		}
	}
	r := call(client, &frame.Request{Metadata: metadata.MD{"k": {strings.Repeat("v", frame.MetadataBytesMax)}}})
	if got := fault.ReasonOf(r.Err()); got != fault.RequestTooLarge {
		t.Errorf("metadata: got %v", r.Err())
	}
	r = call(client, &frame.Request{RequestID: strings.Repeat("r", frame.RequestIDBytesMax+1)})
	if got := fault.ReasonOf(r.Err()); got != fault.InvalidArgument || !strings.Contains(r.Err().Error(), "128 bytes, has 129") {
		t.Errorf("request id: got %v", r.Err())
	}
	r = call(client, &frame.Request{Chain: make([]frame.Link, frame.ChainMax+1)})
	if got := fault.ReasonOf(r.Err()); got != fault.InvalidArgument || !strings.Contains(r.Err().Error(), "64 links, has 65") {
		t.Errorf("chain: got %v", r.Err())
	}
	r = call(client, &frame.Request{Chain: []frame.Link{{Label: strings.Repeat("l", frame.LabelBytesMax+1)}}})
	if got := fault.ReasonOf(r.Err()); got != fault.InvalidArgument || !strings.Contains(r.Err().Error(), "256 bytes, has 257") {
		t.Errorf("label: got %v", r.Err())
	}
	chain := make([]frame.Link, frame.ChainMax)
	for i := range chain {
		chain[i].Label = strings.Repeat("l", frame.LabelBytesMax)
	}
	r = call(client, &frame.Request{
		Chain:  chain,
		Method: strings.Repeat("m", frame.MethodBytesMax), Class: strings.Repeat("c", frame.MethodBytesMax),
		Named: true, Name: strings.Repeat("n", frame.NameBytesMax), Body: make([]byte, frame.BodyBytesMax),
		Metadata: metadata.MD{"k": {strings.Repeat("v", frame.MetadataBytesMax-9)}},
	})
	if err := r.Err(); err != nil || len(r.Body) != frame.BodyBytesMax {
		t.Errorf("everything at its limit: got %d bytes, %v", len(r.Body), err)
	}
}

// A large call delays no small one, of another object; one of the same object waits behind it.
func TestLargeCallsTakeTurns(t *testing.T) {
	t.Parallel()
	var order []string
	h := &handler{fn: func(req *frame.Request, reply func(frame.Response)) func(error) {
		order = append(order, req.Method)
		reply(frame.Response{Body: req.Body})
		return nil
	}}
	a, b := newPipe(0)
	client, server := frame.NewMux(a, nil, frame.Options{}), frame.NewMux(b, h, frame.Options{})
	var calls sync.WaitGroup
	send := func(name, method string, size int) {
		calls.Add(1)
		client.Call(&frame.Request{Class: "C", Named: true, Name: name, Method: method, Body: make([]byte, size)}, func(r frame.Response) {
			if err := r.Err(); err != nil || len(r.Body) != size {
				t.Errorf("%s: got %d bytes, %v", method, len(r.Body), err)
			}
			calls.Done()
		})
	}
	send("A", "large", 32<<20)
	send("A", "behind", 10)
	send("B", "small", 10)
	send("C", "second large", 1<<20)
	send("C", "second behind", 10)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { _ = client.Run(ctx) })
	wg.Go(func() { _ = server.Run(ctx) })
	calls.Wait()
	cancel()
	wg.Wait()
	a.Close()
	client.Wait()
	server.Wait()
	if diff := cmp.Diff([]string{"small", "second large", "second behind", "large", "behind"}, order); diff != "" {
		t.Errorf("order (-want +got)\n%s", diff)
	}
	for _, n := range append(a.sizes, b.sizes...) {
		if n > frame.FrameBytesMax {
			t.Errorf("a message of %d bytes", n)
		}
	}
}

func TestOrderPerStream(t *testing.T) {
	t.Parallel()
	next := uint64(0)
	h := &handler{fn: func(req *frame.Request, reply func(frame.Response)) func(error) {
		if req.Revision != next {
			t.Errorf("got call %d, want %d", req.Revision, next)
		}
		next++
		reply(frame.Response{})
		return nil
	}}
	client, _, end := converse(t, h, frame.Options{})
	defer end()
	var wg sync.WaitGroup
	for i := range uint64(5000) {
		wg.Add(1)
		client.Call(&frame.Request{Revision: i, Body: make([]byte, i%700)}, func(frame.Response) { wg.Done() })
	}
	wg.Wait()
}

func TestCancel(t *testing.T) {
	t.Parallel()
	canceled := make(chan error, 1)
	h := &handler{fn: func(_ *frame.Request, reply func(frame.Response)) func(error) {
		return func(cause error) {
			canceled <- cause
			reply(frame.ErrorResponse(cause))
			reply(frame.Response{}) // Goes nowhere.
		}
	}}
	client, _, end := converse(t, h, frame.Options{})
	defer end()
	got := make(chan frame.Response, 2)
	cancel := client.Call(&frame.Request{}, func(r frame.Response) { got <- r })
	cancel(errors.New("bored"))
	cancel(errors.New("bored"))
	if err := <-canceled; !errors.Is(err, context.Canceled) {
		t.Errorf("handler: got cause %v", err)
	}
	r := <-got
	if code := status.Code(r.Err()); code != codes.Canceled {
		t.Errorf("caller: got %v", r.Err())
	}
	// A long call that is canceled on its way never reaches the handler.
	cancel = client.Call(&frame.Request{Body: make([]byte, 32<<20)}, func(r frame.Response) { got <- r })
	cancel(nil)
	r = <-got
	if code := status.Code(r.Err()); code != codes.Canceled {
		t.Errorf("long call: got %v", r.Err())
	}
	if len(canceled) > 0 {
		t.Error("the handler saw the long call")
	}
}

func TestAnnounceAndQuery(t *testing.T) {
	t.Parallel()
	var news []string
	h := &handler{
		announce: func(s placement.ShardID, n placement.NodeID, term uint64) {
			news = append(news, fmt.Sprint(s, n, term))
		},
		query: func(kind string, body []byte) ([]byte, error) {
			if kind == "fail" {
				return nil, fault.New(fault.UnknownNode, "no")
			}
			return append([]byte(kind), body...), nil
		},
	}
	client, _, end := converse(t, h, frame.Options{})
	defer end()
	client.Announce(4095, 1<<63, 1<<40)
	type answer struct {
		body []byte
		err  error
	}
	ask := func(kind string, body []byte) answer {
		got := make(chan answer, 1)
		client.Query(kind, body, func(b []byte, err error) { got <- answer{b, err} })
		return <-got
	}
	if got := ask("echo", []byte("x")); string(got.body) != "echox" || got.err != nil {
		t.Errorf("query: got %+v", got)
	}
	if got := ask("long", make([]byte, 1<<20)); len(got.body) != 1<<20+4 || got.err != nil {
		t.Errorf("long query: got %d bytes, %v", len(got.body), got.err)
	}
	if got := ask("fail", nil); fault.ReasonOf(got.err) != fault.UnknownNode {
		t.Errorf("failing query: got %v", got.err)
	}
	if diff := cmp.Diff([]string{"4095 8000000000000000 1099511627776"}, news); diff != "" {
		t.Errorf("announcements (-want +got)\n%s", diff)
	}
}

func TestLost(t *testing.T) {
	t.Parallel()
	a, b := newPipe(0)
	client := frame.NewMux(a, nil, frame.Options{})
	var got [3]frame.LostError
	send := func(i, size int) {
		client.Call(&frame.Request{Body: make([]byte, size)}, func(r frame.Response) {
			lost, ok := errors.AsType[*frame.LostError](r.Err())
			if !ok {
				t.Errorf("call %d: got %v", i, r.Err())
				return
			}
			got[i] = *lost
		})
	}
	send(0, 10)
	send(1, 1<<20) // Its last frame never leaves.
	done := make(chan error)
	go func() { done <- client.Run(t.Context()) }()
	if _, err := b.Recv(); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Recv(); err != nil { // The writer is in the second Send at least.
		t.Fatal(err)
	}
	send(2, 10)
	a.Close()
	if err := <-done; !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("got %v", err)
	}
	client.Wait()
	if !got[0].Sent || got[1].Sent {
		t.Errorf("got sent %t and %t, want true and false", got[0].Sent, got[1].Sent)
	}
	r := call(client, &frame.Request{})
	if lost, ok := errors.AsType[*frame.LostError](r.Err()); !ok || lost.Sent {
		t.Errorf("after the end: got %v", r.Err())
	}
}

func TestSilence(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a, b := newPipe(100)
		client := frame.NewMux(a, nil, frame.Options{})
		var lost frame.Response
		client.Call(&frame.Request{}, func(r frame.Response) { lost = r })
		start := time.Now()
		_ = client.Run(t.Context())
		if took := time.Since(start); took != time.Second {
			t.Errorf("ended after %v, want 1s", took)
		}
		if lost, ok := errors.AsType[*frame.LostError](lost.Err()); !ok || !lost.Sent {
			t.Errorf("got %v", lost)
		}
		b.Close()
		client.Wait()
	})
}

// A side that answers pings lives for ever; and a Send that blocks does not keep Run from ending.
func TestAliveThenBlocked(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		client, _, end := converse(t, &handler{fn: echo}, frame.Options{})
		time.Sleep(time.Minute) //nolint:forbidigo // Of the bubble's clock.
		r := call(client, &frame.Request{})
		if err := r.Err(); err != nil {
			t.Error(err)
		}
		end()

		a, _ := newPipe(0) // Nobody reads.
		blocked := frame.NewMux(a, nil, frame.Options{})
		start := time.Now()
		_ = blocked.Run(t.Context())
		if took := time.Since(start); took != time.Second {
			t.Errorf("ended after %v, want 1s", took)
		}
		a.Close()
		blocked.Wait()
	})
}

func TestBounds(t *testing.T) {
	t.Parallel()
	a, _ := newPipe(0)
	defer a.Close()
	m := frame.NewMux(a, nil, frame.Options{CallsMax: 2, QueueBytesMax: 1000})
	var got []fault.Reason
	for _, size := range []int{10, 2000, 10, 10} {
		m.Call(&frame.Request{Body: make([]byte, size)}, func(r frame.Response) { got = append(got, fault.ReasonOf(r.Err())) })
	}
	if diff := cmp.Diff([]fault.Reason{fault.Overloaded, fault.Overloaded}, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

// Who does not read replies gets no more calls taken, and then is dead.
func TestSlowReader(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a, b := newPipe(0)
		taken := 0
		server := frame.NewMux(b, &handler{fn: func(_ *frame.Request, reply func(frame.Response)) func(error) {
			taken++
			reply(frame.Response{Body: make([]byte, 100_000)})
			return nil
		}}, frame.Options{QueueBytesMax: 1_000_000})
		client := frame.NewMux(&deaf{a}, nil, frame.Options{DeadAfter: 1000})
		for range 1000 {
			client.Call(&frame.Request{Body: make([]byte, 30_000)}, func(frame.Response) {})
		}
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { _ = client.Run(ctx) })
		start := time.Now()
		_ = server.Run(t.Context())
		if took := time.Since(start); took < time.Second || took > 1500*time.Millisecond {
			t.Errorf("ended after %v, want about 1s", took)
		}
		if taken > 30 {
			t.Errorf("%d calls were taken from who reads nothing", taken)
		}
		cancel()
		a.Close()
		wg.Wait()
		client.Wait()
		server.Wait()
	})
}

// deaf never receives.
type deaf struct{ *pipe }

func (d *deaf) Recv() (*holdfastv1.Frames, error) {
	<-d.closed
	return nil, io.EOF
}

func TestDrain(t *testing.T) {
	t.Parallel()
	replies := make(chan func(frame.Response), 1)
	h := &handler{fn: func(_ *frame.Request, reply func(frame.Response)) func(error) {
		replies <- reply
		return nil
	}}
	client, server, end := converse(t, h, frame.Options{})
	defer end()
	got := make(chan frame.Response, 1)
	client.Call(&frame.Request{}, func(r frame.Response) { got <- r })
	reply := <-replies
	drained := make(chan error, 1)
	go func() { drained <- server.Drain(t.Context()) }()
	for client.Open() {
		select {
		case err := <-drained:
			t.Fatalf("drained with a call under way: %v", err)
		case <-time.After(time.Millisecond):
		}
	}
	r := call(client, &frame.Request{})
	if lost, ok := errors.AsType[*frame.LostError](r.Err()); !ok || lost.Sent {
		t.Errorf("a call after the bye: got %v", r.Err())
	}
	reply(frame.Response{Body: []byte("late")})
	if err := <-drained; err != nil {
		t.Errorf("drain: %v", err)
	}
	if r := <-got; string(r.Body) != "late" {
		t.Errorf("got %+v", r)
	}
}

// Garbage ends the conversation and nothing else.
func TestGarbage(t *testing.T) {
	t.Parallel()
	for _, b := range []string{"\x00", "\x00\x00\x00\xff\x01", "\xff\xff\xff\xff", "\x00\x00\x00\x02\x63\x00", "\x00\x00\x00\x02\x01\x01", "\x00\x00\x00\x00"} {
		a, peer := newPipe(10)
		m := frame.NewMux(a, &handler{fn: echo}, frame.Options{})
		_ = peer.Send(&holdfastv1.Frames{Data: []byte(b)})
		if err := m.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "malformed") {
			t.Errorf("%q: got %v", b, err)
		}
		a.Close()
		m.Wait()
	}
}
