package e2e_test

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/metadata"

	"github.com/holdfast-io/holdfast/test/e2e/internal/classes/classesv1"
)

var (
	rebuildMiB  = flag.Int("rebuild-mib", 16, "how many mebibytes of objects TestRebuild writes before a node of five is lost for good; 1024 is what it was made for")
	rebuildRate = flag.Int("rebuild-rate", 0, "how many calls a second TestRebuild makes, whatever becomes of them; 0: 16 callers, each as fast as it is answered")
)

// TestRebuild: a cluster of five loses one node for good. By itself it brings every shard back to three
// replicas on the others, within ten minutes, while calls go on, and nothing is lost. It says how long that
// took and what was left of the throughput; with its flags it does so with much to copy.
func TestRebuild(t *testing.T) {
	const givenUpAfter = 5 * time.Second
	nodes := startNodes(t, prepareNodes(t, testnode, 5, "--ring-dead-after", givenUpAfter.String()))
	fill(t, nodes, *rebuildMiB)

	survivors, lost := nodes[:4], nodes[4]
	l := newLoad(t, survivors, 300)
	if *rebuildRate > 0 {
		l.offer(*rebuildRate)
	} else {
		l.run(16)
	}
	l.waitAcked(1000)
	calm := time.Now()
	<-time.After(time.Second + min(29*time.Second, time.Duration(*rebuildMiB)*30*time.Millisecond))
	fault, said := time.Now(), survivors[0].logged()
	lost.kill()
	waitFor(t, "the lost node to leave the ring", 30*time.Second, func() (bool, string) {
		return survivors[0].saidSince(said, "msg=ring members="), "it is there"
	})
	left := time.Now()
	waitVoters(t, survivors[0], []string{"n1", "n2", "n3", "n4"})
	whole := time.Now()
	l.waitAcked(500)
	l.finish()
	t.Logf("%d MiB of objects: every shard has three replicas again %s after the loss, %s of them for the node to be given up",
		*rebuildMiB, whole.Sub(fault).Round(100*time.Millisecond), left.Sub(fault).Round(100*time.Millisecond))
	before := l.between(calm, fault)
	t.Logf("before the loss: %s", before)
	for _, span := range []struct {
		what     string
		from, to time.Time
	}{{"until it is given up", fault, left}, {"while shards are copied", left, whole}, {"both", fault, whole}} {
		p := l.between(span.from, span.to)
		t.Logf("%s: %.0f%%: %s", span.what, 100*p.rate/before.rate, p)
	}
	t.Logf("calls in each second after the loss: %d", l.between(fault, whole).seconds)
	l.check()
	checkFilled(t, survivors, *rebuildMiB)
}

// pace is what callers got for a while.
type pace struct {
	rate         float64       // acknowledged calls a second
	seconds      []int         // the calls of each whole second
	median, slow time.Duration // of their answers; slow is the 99th percentile
}

func (p pace) String() string {
	worst := 0
	if len(p.seconds) > 0 {
		worst = slices.Min(p.seconds)
	}
	return fmt.Sprintf("%.0f a second, %d in the worst one, answered in %s, 1%% in more than %s", p.rate, worst, p.median.Round(100*time.Microsecond), p.slow.Round(time.Millisecond))
}

// between is the pace from one time to another.
func (l *load) between(from, to time.Time) pace {
	l.mu.Lock()
	defer l.mu.Unlock()
	seconds := make([]int, int(to.Sub(from)/time.Second)+1)
	var took []time.Duration
	for _, a := range l.answers {
		if a.at.After(from) && !a.at.After(to) {
			seconds[a.at.Sub(from)/time.Second]++
			took = append(took, a.took)
		}
	}
	p := pace{rate: float64(len(took)) / to.Sub(from).Seconds(), seconds: seconds[:len(seconds)-1]}
	if len(took) > 0 {
		slices.Sort(took)
		p.median, p.slow = took[len(took)/2], took[len(took)*99/100]
	}
	return p
}

// offer makes so many calls a second until finish, however long they take, but for what would be more than
// offeredAtOnce at the same time: those are late, and late they are made.
func (l *load) offer(perSecond int) {
	const offeredAtOnce = 1000
	slots := make(chan struct{}, offeredAtOnce)
	l.wg.Go(func() {
		rng := rand.New(rand.NewPCG(1, 7))
		began := time.Now()
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for made := 0; !l.stop.Load(); <-tick.C {
			for ; made < int(time.Since(began).Seconds()*float64(perSecond)) && !l.stop.Load(); made++ {
				slots <- struct{}{}
				object, seed, due := rng.IntN(len(l.objects)), rng.Uint64(), began.Add(time.Duration(made)*time.Second/time.Duration(perSecond))
				l.wg.Go(func() {
					l.timed(rand.New(rand.NewPCG(seed, 7)), object, due)
					<-slots
				})
			}
		}
	})
}

// waitVoters waits until every shard has three voters among the nodes, and nothing moves.
func waitVoters(t *testing.T, through *process, names []string) {
	t.Helper()
	waitForEvery(t, time.Second, "three voters of every shard", 10*time.Minute, func() (bool, string) {
		s, err := through.status()
		if err != nil {
			return false, err.Error()
		}
		missing := 0
		for _, shard := range s.Shards {
			strange := slices.ContainsFunc(shard.Voters, func(v string) bool { return !slices.Contains(names, v) })
			if len(shard.Voters) != 3 || strange || len(shard.Learners) > 0 || shard.Owner == "" {
				missing++
			}
		}
		return missing == 0, fmt.Sprintf("%d of %d shards are not there", missing, len(s.Shards))
	})
}

const (
	filledEntryBytes = 32 << 10
	filledEntries    = 1 << 20 / filledEntryBytes
)

func filledName(n int) string { return fmt.Sprintf("mass-%d", n) }

// filledText is what each entry has: nothing that could be compressed to nothing.
func filledText() string {
	text := make([]byte, filledEntryBytes/2)
	rng := rand.NewChaCha8([32]byte{})
	_, _ = rng.Read(text)
	return fmt.Sprintf("%x", text)
}

// fill writes so much, in objects of a mebibyte.
func fill(t *testing.T, nodes []*process, mib int) {
	t.Helper()
	text := filledText()
	began := time.Now()
	eachFilled(t, nodes, mib, func(ctx context.Context, feed classesv1.FeedClient) error {
		for i := range filledEntries {
			// The disk of a small machine may be too slow for it, and owners change: with an id, a call may be sent again.
			ctx := metadata.AppendToOutgoingContext(ctx, "holdfast-request-id", strconv.Itoa(i))
			_, err := feed.Post(ctx, &classesv1.PostRequest{Text: text})
			for tries := 1; err != nil && tries < 10; tries++ {
				_, err = feed.Post(ctx, &classesv1.PostRequest{Text: text})
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	t.Logf("%d MiB written in %s", mib, time.Since(began).Round(time.Second))
}

// checkFilled reads the last entry of each object, which is what was written.
func checkFilled(t *testing.T, nodes []*process, mib int) {
	t.Helper()
	text := filledText()
	eachFilled(t, nodes, mib, func(ctx context.Context, feed classesv1.FeedClient) error {
		ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
		defer cancel()
		stream, err := feed.Follow(ctx, &classesv1.FollowRequest{After: filledEntries - 1})
		if err != nil {
			return err
		}
		entry, err := stream.Recv()
		if err == nil && (entry.GetNumber() != filledEntries || entry.GetText() != text) {
			err = fmt.Errorf("the last entry is %d, of %d bytes", entry.GetNumber(), len(entry.GetText()))
		}
		return err
	})
}

// eachFilled does something with each of the objects, with eight at a time.
func eachFilled(t *testing.T, nodes []*process, mib int, do func(context.Context, classesv1.FeedClient) error) {
	t.Helper()
	var next atomic.Int64
	var wg sync.WaitGroup
	for i := range 8 {
		feed := classesv1.NewFeedClient(nodes[i%len(nodes)].conn())
		wg.Go(func() {
			for n := next.Add(1); int(n) <= mib && !t.Failed(); n = next.Add(1) {
				if err := do(named(t, filledName(int(n))), feed); err != nil {
					t.Errorf("%s: %v", filledName(int(n)), err)
				}
			}
		})
	}
	wg.Wait()
	if t.Failed() {
		t.FailNow()
	}
}
