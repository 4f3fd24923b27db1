package node

import (
	"context"
	"fmt"
	"log/slog"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-io/holdfast/fault"
	holdfastv1 "github.com/holdfast-io/holdfast/proto/holdfast/v1"
)

func texts(p logPage) []string {
	var out []string
	for _, e := range p.Entries {
		out = append(out, e.Text)
	}
	return out
}

// A node keeps the latest entries; who asks for the rest is told how many are gone.
func TestLogRing(t *testing.T) {
	t.Parallel()
	r := &logRing{}
	says := func(what string, q logQuery, want logPage, entries ...string) {
		t.Helper()
		got := r.read(q, 7)
		if diff := cmp.Diff(entries, texts(got)); diff != "" {
			t.Errorf("%s: entries (-want +got):\n%s", what, diff)
		}
		want.Boot, got.Entries = 7, nil
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", what, diff)
		}
	}
	says("nothing yet", logQuery{Tail: 10}, logPage{})
	for i := range 5 {
		level := slog.LevelInfo
		if i%2 == 1 {
			level = slog.LevelError
		}
		r.Log(LogEntry{Class: string("AB"[i%2]), Level: level, Text: fmt.Sprint(i + 1)})
	}
	says("no tail", logQuery{}, logPage{Last: 5})
	says("a tail", logQuery{Tail: 2}, logPage{Last: 5}, "4", "5")
	says("a tail longer than there is", logQuery{Tail: 9}, logPage{Last: 5}, "1", "2", "3", "4", "5")
	says("from where it was", logQuery{Boot: 7, After: 3}, logPage{Last: 5}, "4", "5")
	says("of a level", logQuery{Boot: 7, Level: slog.LevelWarn}, logPage{Last: 5}, "2", "4")
	says("of a class", logQuery{Boot: 7, Class: "A"}, logPage{Last: 5}, "1", "3", "5")
	says("the node has started again", logQuery{Boot: 6, After: 99}, logPage{Last: 5}, "1", "2", "3", "4", "5")

	for i := range logEntriesMax {
		r.Log(LogEntry{Text: fmt.Sprint(i)})
	}
	if got := r.read(logQuery{Boot: 7, After: 3}, 7); got.Dropped != 2 || len(got.Entries) == 0 || got.Entries[0].Text != "0" {
		t.Errorf("over so many entries: %d dropped, from %v on", got.Dropped, got.Entries[:1])
	}
	long := strings.Repeat("x", 16<<10)
	for range 100 {
		r.Log(LogEntry{Text: long})
	}
	if r.bytes > logBytesMax || len(r.entries) > logBytesMax/len(long) || len(r.entries) < 60 {
		t.Errorf("keeps %d entries of %d bytes", len(r.entries), r.bytes)
	}
	pages, at := 0, uint64(1)
	for more := true; more; pages++ {
		p := r.read(logQuery{Boot: 7, After: at}, 7)
		at, more = p.Last, p.More
	}
	if at != r.last || pages < 3 || pages > 5 {
		t.Errorf("%d pages up to entry %d of %d", pages, at, r.last)
	}
	r.Log(LogEntry{Text: strings.Repeat("x", 2*logBytesMax)})
	if len(r.entries) != 1 {
		t.Errorf("an entry over the limit leaves %d", len(r.entries))
	}
}

// followed is what somebody who follows logs has been told.
type followed struct {
	t      *testing.T
	stream holdfastv1.Admin_FollowLogsClient
	lines  []string
}

func (n *workerNode) follows(ctx context.Context, t *testing.T, req *holdfastv1.FollowLogsRequest) *followed {
	t.Helper()
	req.Worker = "talk"
	stream, err := n.admin().FollowLogs(ctx, req)
	if err != nil {
		t.Fatal(err)
	}
	if first, err := stream.Recv(); err != nil || len(first.GetEntries()) > 0 {
		t.Fatalf("first %v, %v", first, err)
	}
	return &followed{t: t, stream: stream}
}

// hears waits until a line has come for each of the patterns.
func (f *followed) hears(patterns ...string) {
	f.t.Helper()
	for _, p := range patterns {
		for !slices.ContainsFunc(f.lines, regexp.MustCompile("^"+p+"$").MatchString) {
			resp, err := f.stream.Recv()
			if err != nil {
				f.t.Fatalf("%v; heard %q, want %q", err, f.lines, p)
			}
			for _, e := range resp.GetEntries() {
				f.lines = append(f.lines, strings.TrimSpace(fmt.Sprintf("%s %s %s %s", e.GetNode(), e.GetLevel(), e.GetText(), e.GetClass())))
			}
			for _, n := range resp.GetNotices() {
				f.lines = append(f.lines, fmt.Sprintf("%s: %d dropped: %s", n.GetNode(), n.GetDropped(), n.GetError()))
			}
		}
	}
}

// What a worker logs anywhere is followed through any node: on nodes that are there, that come, and that come back.
func TestLogsAreFollowed(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	n1 := startNode(t, Config{Name: "n1", Loader: &fakeLoader{}})
	n2 := startNode(t, Config{Name: "n2", Loader: &fakeLoader{}}, n1)
	n1.refusesToFollow(t, fault.UnknownWorker, &holdfastv1.FollowLogsRequest{Worker: "talk"})
	n1.deploys(t, bundleOf(t, "v1", "Room"), 1)
	runs(t, 1, n1, n2)
	n1.serves(t, "localhost", "v1")
	n2.serves(t, "localhost", "v1")
	n1.says(t, "Room", "x", "v1", 1)
	all := n1.follows(ctx, t, &holdfastv1.FollowLogsRequest{Tail: 100})
	all.hears("n1 info asked", "n2 info asked")
	warnings := n2.follows(ctx, t, &holdfastv1.FollowLogsRequest{Tail: 100, Level: "warn", Class: "Room"})
	warnings.hears("n[12] warn made Room")
	if slices.Contains(warnings.lines, "n1 info asked") {
		t.Errorf("heard what is no warning: %q", warnings.lines)
	}

	n3 := startNode(t, Config{Name: "n3", Loader: &fakeLoader{}}, n1)
	runs(t, 1, n3)
	n3.serves(t, "localhost", "v1")
	only := n1.follows(ctx, t, &holdfastv1.FollowLogsRequest{Node: "n3", Tail: 1})
	only.hears("n3 info asked")
	n3.serves(t, "localhost", "v1")
	all.hears("n3 info asked")

	n1.refusesToFollow(t, fault.InvalidArgument, &holdfastv1.FollowLogsRequest{Worker: "talk", Level: "loud"})
	n1.followers.Add(followersMax)
	n1.refusesToFollow(t, fault.Overloaded, &holdfastv1.FollowLogsRequest{Worker: "talk"})
	n1.followers.Add(-followersMax)

	// A node that stops says so to those who follow through it, and others follow it when it is back.
	through := n3.follows(ctx, t, &holdfastv1.FollowLogsRequest{})
	conn := n3.conn
	defer func() { _ = conn.Close() }()
	n3.conn = nil // It is used yet.
	n3.stop(t)
	for {
		if _, err := through.stream.Recv(); err != nil {
			if fault.ReasonOf(err) != fault.NoOwner {
				t.Errorf("the node that is asked stops: %v", err)
			}
			break
		}
	}
	all.lines = nil
	n3.cfg.Bootstrap = false
	n3 = startNode(t, n3.cfg, n1)
	runs(t, 1, n3)
	n3.serves(t, "localhost", "v1")
	all.hears("n3 info asked")
}

func (n *workerNode) refusesToFollow(t *testing.T, reason fault.Reason, req *holdfastv1.FollowLogsRequest) {
	t.Helper()
	stream, err := n.admin().FollowLogs(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); fault.ReasonOf(err) != reason {
		t.Errorf("%v: %v, want %s", req, err, reason)
	}
}
