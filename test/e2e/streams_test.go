package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/holdfast-io/holdfast/client"
	"github.com/holdfast-io/holdfast/fault"
	"github.com/holdfast-io/holdfast/placement"
	"github.com/holdfast-io/holdfast/test/e2e/internal/classes/classesv1"
)

// named returns a context that names an object and has no deadline.
func named(t *testing.T, name string) context.Context {
	return metadata.AppendToOutgoingContext(t.Context(), "holdfast-name", name)
}

// feedOf returns a stub of a Feed through a node: of gRPC itself, and of the Go client.
func feedOf(t *testing.T, p *process, name string) (ctx context.Context, plain, ours classesv1.FeedClient) {
	t.Helper()
	c, err := client.New([]string{p.ports["grpc"]})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return named(t, name), classesv1.NewFeedClient(p.conn()), classesv1.NewFeedClient(c.Name("Feed", name))
}

// follower reads a feed from its beginning to a number, which may be set meanwhile, and opens it again
// when it is ended.
type follower struct {
	name string
	ctx  context.Context //nolint:containedctx // of the calls
	feed classesv1.FeedClient

	got   atomic.Int64 // the last number
	ends  []error
	wrong error
}

func (f *follower) run(ctx context.Context, until *atomic.Int64) {
	for f.got.Load() < until.Load() && ctx.Err() == nil {
		if err := f.follow(until); err != nil {
			f.ends = append(f.ends, err)
			if code := status.Code(err); code != codes.Unavailable && code != codes.Aborted {
				f.wrong = err
				return
			}
			select {
			case <-time.After(20 * time.Millisecond):
			case <-ctx.Done():
			}
		}
		if f.wrong != nil {
			return
		}
	}
}

func (f *follower) follow(until *atomic.Int64) error {
	ctx, cancel := context.WithCancel(f.ctx)
	defer cancel()
	stream, err := f.feed.Follow(ctx, &classesv1.FollowRequest{After: f.got.Load()})
	if err != nil {
		return err
	}
	for f.got.Load() < until.Load() {
		entry, err := stream.Recv()
		if err != nil {
			return err
		}
		if want := f.got.Load() + 1; entry.GetNumber() != want {
			f.wrong = fmt.Errorf("entry %d came when %d was due", entry.GetNumber(), want)
			return nil
		}
		f.got.Add(1)
	}
	return nil
}

// ownerOfFeed returns the node that owns a feed.
func ownerOfFeed(t *testing.T, nodes []*process, through *process, name string) *process {
	t.Helper()
	s, err := through.status()
	if err != nil {
		t.Fatal(err)
	}
	shard := placement.ShardOf(placement.NewNamespace("Feed").IDFromName(name), len(s.Shards))
	for _, p := range nodes {
		if p.name == s.Shards[shard].Owner {
			return p
		}
	}
	t.Fatalf("shard %d has no owner", shard)
	return nil
}

// untilTold calls do until what became of it is known: a starved machine changes owners, and an event
// that was cut off by that may be sent again.
func untilTold(t *testing.T, do func() (*classesv1.Entry, error)) *classesv1.Entry {
	t.Helper()
	for {
		entry, err := do()
		if err == nil {
			return entry
		}
		if code := status.Code(err); code != codes.Unavailable && code != codes.Aborted || t.Context().Err() != nil {
			t.Fatal(err)
		}
		t.Logf("again: %v", err)
	}
}

// A subscriber gets what the object sends, in order and without a gap, through every node, also one that
// does not have the class; streams in the other directions as well.
func TestStreamsThroughEveryNode(t *testing.T) {
	nodes := prepareNodes(t, testnode, 3, "--shards", "64")
	nodes[2].bin = stock
	for _, p := range nodes {
		p.start()
	}
	for _, p := range nodes {
		p.waitReady()
	}
	waitSpread(t, nodes[0], 2) // The stock node has no Feed and leads nothing.
	var followers []*follower
	for _, p := range nodes {
		ctx, plain, ours := feedOf(t, p, "all")
		followers = append(followers, &follower{name: p.name + " by gRPC", ctx: ctx, feed: plain}, &follower{name: p.name + " by the client", ctx: ctx, feed: ours})
	}
	var until atomic.Int64
	until.Store(1 << 40)
	var wg sync.WaitGroup
	for _, f := range followers {
		wg.Go(func() { f.run(t.Context(), &until) })
	}
	var last int64
	said := func(through, text string, do func() (*classesv1.Entry, error)) {
		t.Helper()
		entry := untilTold(t, do)
		if entry.GetNumber() <= last || entry.GetText() != text {
			t.Errorf("through %s: entry %d %q after %d", through, entry.GetNumber(), entry.GetText(), last)
		}
		last = entry.GetNumber()
	}
	for i := range 30 {
		p := nodes[i%len(nodes)]
		ctx, plain, _ := feedOf(t, p, "all")
		text := fmt.Sprint(i)
		said(p.name, text, func() (*classesv1.Entry, error) { return plain.Post(ctx, &classesv1.PostRequest{Text: text}) })
	}
	for _, p := range nodes {
		ctx, plain, ours := feedOf(t, p, "all")
		for _, feed := range []classesv1.FeedClient{plain, ours} {
			said(p.name, "said", func() (*classesv1.Entry, error) { return talkOnce(ctx, feed) })
			said(p.name, "imported", func() (*classesv1.Entry, error) { return importOnce(ctx, feed) })
		}
	}
	until.Store(last + 1)
	ctx, plain, _ := feedOf(t, nodes[0], "all")
	said(nodes[0].name, "end", func() (*classesv1.Entry, error) { return plain.Post(ctx, &classesv1.PostRequest{Text: "end"}) })
	wg.Wait()
	for _, f := range followers {
		if f.wrong != nil || f.got.Load() < until.Load() {
			t.Errorf("%s has %d entries: %v (ended by %v)", f.name, f.got.Load(), f.wrong, f.ends)
		}
	}
}

// talkOnce says one thing in a stream of both directions, and sees the stream end.
func talkOnce(ctx context.Context, feed classesv1.FeedClient) (*classesv1.Entry, error) {
	talk, err := feed.Talk(ctx)
	if err != nil {
		return nil, err
	}
	if err := talk.Send(&classesv1.PostRequest{Text: "said"}); err != nil && !errors.Is(err, io.EOF) { // Recv says why it ended.
		return nil, err
	}
	entry, err := talk.Recv()
	if err != nil {
		return nil, err
	}
	if err := talk.CloseSend(); err != nil {
		return nil, err
	}
	if _, err := talk.Recv(); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("the end is %w", err)
	}
	return entry, nil
}

// importOnce sends one entry in a stream to the object, and has its answer.
func importOnce(ctx context.Context, feed classesv1.FeedClient) (*classesv1.Entry, error) {
	load, err := feed.Import(ctx)
	if err != nil {
		return nil, err
	}
	if err := load.Send(&classesv1.PostRequest{Text: "imported"}); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return load.CloseAndRecv()
}

// P2: who subscribes again where its stream ended misses nothing that was acknowledged, and sees nothing
// twice, while owners are killed and stopped.
func TestSubscribersLiveThroughMoves(t *testing.T) {
	nodes := startNodes(t, prepareNodes(t, testnode, 3, "--shards", "64"))
	const name = "moves"
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	var followers []*follower
	for _, p := range nodes {
		stub, plain, ours := feedOf(t, p, name)
		followers = append(followers, &follower{name: p.name + " by gRPC", ctx: stub, feed: plain}, &follower{name: p.name + " by the client", ctx: stub, feed: ours})
	}
	var target atomic.Int64
	target.Store(1 << 40)
	var wg sync.WaitGroup
	var done []chan struct{}
	for _, f := range followers {
		ended := make(chan struct{})
		done = append(done, ended)
		wg.Go(func() {
			defer close(ended)
			f.run(ctx, &target)
		})
	}
	var acked int64
	post := func(n int) {
		t.Helper()
		for posted := 0; posted < n && ctx.Err() == nil; {
			p := nodes[posted%len(nodes)]
			if p.cmd == nil {
				p = nodes[(posted+1)%len(nodes)]
			}
			stub, cancel := context.WithTimeout(named(t, name), 5*time.Second)
			entry, err := classesv1.NewFeedClient(p.conn()).Post(stub, &classesv1.PostRequest{Text: "x"})
			cancel()
			if err == nil {
				acked = entry.GetNumber()
				posted++
			}
		}
	}
	post(20)
	for _, end := range []func(*process){(*process).kill, (*process).stop} {
		owner := ownerOfFeed(t, nodes, nodes[0], name)
		end(owner)
		post(20)
		owner.start()
		owner.waitReady()
		waitSpread(t, owner, 3)
		post(20)
	}
	target.Store(acked)
	post(1) // Wakes those who have that already.
	for i, f := range followers {
		select {
		case <-done[i]:
		case <-ctx.Done():
		}
		if f.wrong != nil || f.got.Load() < target.Load() {
			t.Errorf("%s has %d of %d entries: %v (ended by %v)", f.name, f.got.Load(), target.Load(), f.wrong, f.ends)
		}
		if !slices.ContainsFunc(f.ends, func(err error) bool { return fault.ReasonOf(err) == fault.OwnerChanged }) {
			t.Errorf("%s was never told of a change: %v", f.name, f.ends)
		}
	}
	wg.Wait()
}

// P6: a subscriber that does not read is ended, and nobody else notices.
func TestSlowConsumer(t *testing.T) {
	nodes := startNodes(t, prepareNodes(t, testnode, 3, "--shards", "64"))
	live := func(p *process) grpc.ServerStreamingClient[classesv1.Entry] {
		ctx, plain, _ := feedOf(t, p, "slow")
		stream, err := plain.Live(ctx, &classesv1.FollowRequest{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := stream.Recv(); err != nil {
			t.Fatal(err)
		}
		return stream
	}
	var slow, quick []grpc.ServerStreamingClient[classesv1.Entry]
	for _, p := range nodes {
		slow, quick = append(slow, live(p)), append(quick, live(p))
	}
	ctx, poster, _ := feedOf(t, nodes[0], "slow")
	text := strings.Repeat("x", 100_000)
	for i := range 120 {
		entry, err := poster.Post(ctx, &classesv1.PostRequest{Text: text})
		if err != nil {
			t.Fatal(err)
		}
		for n, stream := range quick {
			if got, err := stream.Recv(); err != nil || got.GetNumber() != entry.GetNumber() {
				t.Fatalf("entry %d through %s: %d, %v", i, nodes[n].name, got.GetNumber(), err)
			}
		}
	}
	for n, stream := range slow {
		read := 0
		for {
			_, err := stream.Recv()
			if err == nil {
				read++
				continue
			}
			if fault.ReasonOf(err) != fault.SlowConsumer {
				t.Errorf("through %s, after %d entries: %v", nodes[n].name, read, err)
			}
			break
		}
	}
}

// An object holds 10,000 subscribers.
func TestTenThousandSubscribers(t *testing.T) {
	const subscribers, connections = 10_000, 12
	nodes := startNodes(t, prepareNodes(t, testnode, 3, "--shards", "64"))
	owner := ownerOfFeed(t, nodes, nodes[0], "crowd")
	before := make([]int64, len(nodes))
	for i, p := range nodes {
		before[i] = p.residentBytes()
	}
	ctx, cancel := context.WithCancel(named(t, "crowd"))
	defer cancel()
	var conns []*grpc.ClientConn
	for i := range connections {
		conns = append(conns, nodes[i%len(nodes)].conn())
	}
	streams := make([]grpc.ServerStreamingClient[classesv1.Entry], subscribers)
	open := func(i int) error {
		for {
			stream, err := classesv1.NewFeedClient(conns[i%connections]).Live(ctx, &classesv1.FollowRequest{})
			if err == nil {
				_, err = stream.Recv()
			}
			if err == nil {
				streams[i] = stream
				return nil
			}
			if fault.ReasonOf(err) != fault.Overloaded { // The mailbox is bounded.
				return err
			}
		}
	}
	began := time.Now()
	each := func(what string, do func(i int) error) {
		t.Helper()
		var wg sync.WaitGroup
		var failed atomic.Pointer[error]
		const workers = 200
		for w := range workers {
			wg.Go(func() {
				for i := w; i < subscribers; i += workers {
					if err := do(i); err != nil {
						failed.Store(&err)
						return
					}
				}
			})
		}
		wg.Wait()
		if err := failed.Load(); err != nil {
			t.Fatalf("%s: %v", what, *err)
		}
	}
	each("subscribe", open)
	t.Logf("%d subscribed in %v", subscribers, time.Since(began).Round(time.Millisecond))
	poster := classesv1.NewFeedClient(nodes[0].conn())
	for round := range 3 {
		began := time.Now()
		entry, err := poster.Post(ctx, &classesv1.PostRequest{Text: fmt.Sprint("round ", round)})
		if err != nil {
			t.Fatal(err)
		}
		acked := time.Since(began)
		each("receive", func(i int) error {
			got, err := streams[i].Recv()
			if err == nil && got.GetNumber() != entry.GetNumber() {
				err = fmt.Errorf("subscriber %d got %d, want %d", i, got.GetNumber(), entry.GetNumber())
			}
			return err
		})
		t.Logf("round %d: acknowledged in %v, everybody has it after %v", round, acked.Round(time.Millisecond), time.Since(began).Round(time.Millisecond))
	}
	for i, p := range nodes {
		role := "passes on"
		if p == owner {
			role = "owner"
		}
		grown := p.residentBytes() - before[i]
		t.Logf("%s (%s) grew by %d MiB, %d KiB a subscriber", p.name, role, grown>>20, grown>>10/subscribers)
	}
	cancel()
	waitFor(t, "a call when all have left", 30*time.Second, func() (bool, string) {
		_, err := poster.Post(named(t, "crowd"), &classesv1.PostRequest{})
		return err == nil, fmt.Sprint(err)
	})
}
