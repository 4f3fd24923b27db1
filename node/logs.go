package node

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"

	"github.com/holdfast-io/holdfast/cluster"
	"github.com/holdfast-io/holdfast/fault"
	"github.com/holdfast-io/holdfast/placement"
	holdfastv1 "github.com/holdfast-io/holdfast/proto/holdfast/v1"
)

const (
	// logEntriesMax and logBytesMax are what a node keeps of the log of one worker: the latest.
	logEntriesMax = 4096
	logBytesMax   = 1 << 20
	// logPageBytes is about how much a node tells of it at a time; one more entry may be.
	logPageBytes = 256 << 10
	// logPollEvery is how often a node is asked by whoever follows, logAskTimeout how long it may take to answer,
	// and logRetryAfter when it is asked again if it has not.
	logPollEvery  = 250 * time.Millisecond
	logAskTimeout = 2 * time.Second
	logRetryAfter = 500 * time.Millisecond
	// logMembersEvery is how often it is looked for nodes that have come.
	logMembersEvery = time.Second
	// followersMax is how many may follow through one node.
	followersMax = 64
)

// LogEntry is what a worker has logged.
type LogEntry struct {
	Time time.Time
	// Class, without the worker's name, and Object, an id, are of the object that logs; empty: the worker's own
	// handlers do. Name is the object's name, if it has one that it knows.
	Class  string `json:",omitempty"`
	Object string `json:",omitempty"`
	Name   string `json:",omitempty"`
	Level  slog.Level
	Text   string // may have several lines
}

func (e *LogEntry) bytes() int { return len(e.Class) + len(e.Object) + len(e.Name) + len(e.Text) + 64 }

// logRing has the latest of what a worker has logged on this node. It is safe for concurrent use.
type logRing struct {
	mu      sync.Mutex
	entries []LogEntry // the oldest first
	last    uint64     // number of the last; the first of all had 1
	bytes   int
}

// Log takes an entry, and drops the oldest for it.
func (r *logRing) Log(e LogEntry) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.entries = append(r.entries, e)
	r.last++
	r.bytes += e.bytes()
	drop := 0
	for len(r.entries)-drop > 1 && (len(r.entries)-drop > logEntriesMax || r.bytes > logBytesMax) {
		r.bytes -= r.entries[drop].bytes()
		r.entries[drop] = LogEntry{} // The array is used on: it must not keep the text.
		drop++
	}
	r.entries = r.entries[drop:]
}

// logQuery asks a node for what a worker has logged there.
type logQuery struct {
	Worker, Class string
	Level         slog.Level
	// Boot is the node's when it was last asked, and After the number of the last entry that it told of or passed
	// over. Boot 0: it was not asked, and tells of the last Tail entries.
	Boot, After uint64
	Tail        int
}

// logPage is the answer.
type logPage struct {
	Boot, Last uint64
	Dropped    uint64 // entries that came after the last one told of, and are gone
	More       bool   // there is more by now
	Entries    []LogEntry
}

// read reads a page. boot is the node's.
func (r *logRing) read(q logQuery, boot uint64) logPage {
	r.mu.Lock()
	defer r.mu.Unlock()
	first := r.last - uint64(len(r.entries)) + 1
	page := logPage{Boot: boot, Last: q.After}
	switch {
	case q.Boot == 0:
		page.Last = r.last - min(uint64(max(q.Tail, 0)), uint64(len(r.entries))) //nolint:gosec // not negative
	case q.Boot != boot: // It has started again: everything is new.
		page.Last = 0
	}
	if page.Last+1 < first {
		page.Dropped, page.Last = first-1-page.Last, first-1
	}
	size := 0
	for _, e := range r.entries[page.Last+1-first:] {
		if size > logPageBytes {
			page.More = true
			break
		}
		page.Last++
		if e.Level >= q.Level && (q.Class == "" || e.Class == q.Class) {
			page.Entries = append(page.Entries, e)
			size += e.bytes()
		}
	}
	return page
}

// log returns the log of a worker.
func (w *workers) log(worker string) *logRing {
	w.mu.Lock()
	defer w.mu.Unlock()
	r := w.mu.logs[worker]
	if r == nil {
		r = &logRing{}
		w.mu.logs[worker] = r
	}
	return r
}

// readLog reads a page of the log of a worker, which may never have been here.
func (w *workers) readLog(q logQuery, boot uint64) logPage {
	w.mu.Lock()
	r := w.mu.logs[q.Worker]
	w.mu.Unlock()
	if r == nil {
		r = &logRing{}
	}
	return r.read(q, boot)
}

// answerLogs answers what a worker has logged on this node.
func (n *Node) answerLogs(body []byte) ([]byte, error) {
	var q logQuery
	if err := json.Unmarshal(body, &q); err != nil {
		return nil, fmt.Errorf("query %s: %w", queryLogs, err)
	}
	return json.Marshal(n.workers.readLog(q, n.store.Boot()))
}

// FollowLogs implements holdfastv1.AdminServer.
func (a *adminServer) FollowLogs(req *holdfastv1.FollowLogsRequest, stream grpc.ServerStreamingServer[holdfastv1.FollowLogsResponse]) error {
	q := logQuery{Worker: req.GetWorker(), Class: req.GetClass(), Level: slog.LevelDebug, Tail: int(req.GetTail())}
	if level := req.GetLevel(); level != "" && q.Level.UnmarshalText([]byte(level)) != nil {
		return fault.New(fault.InvalidArgument, "level: must be one of debug, info, warn and error, is %.64q", level)
	}
	if _, err := a.n.history(stream.Context(), q.Worker); err != nil {
		return err
	}
	if a.n.followers.Add(1) > followersMax {
		a.n.followers.Add(-1)
		return fault.New(fault.Overloaded, "at most %d follow logs through one node", followersMax)
	}
	defer a.n.followers.Add(-1)
	ctx, cancel := context.WithCancelCause(stream.Context())
	defer context.AfterFunc(a.n.ctx, func() { cancel(errFollowedStops) })()
	if err := stream.Send(&holdfastv1.FollowLogsResponse{}); err != nil {
		return err
	}
	f := &logFollower{n: a.n, ctx: ctx, query: q, node: req.GetNode(), found: make(chan *holdfastv1.FollowLogsResponse), ended: make(chan placement.NodeID)}
	defer f.wg.Wait()
	defer cancel(nil)
	return f.run(stream.Send)
}

// errFollowedStops ends a stream, so that the node can stop.
var errFollowedStops = fault.New(fault.NoOwner, "the node is stopping; follow through another")

// logFollower follows the log of a worker on all nodes, each in a goroutine of its own: one that does not answer holds back
// no other.
type logFollower struct {
	n     *Node
	ctx   context.Context //nolint:containedctx // the stream's
	query logQuery
	node  string // the only one; empty: all

	found chan *holdfastv1.FollowLogsResponse
	ended chan placement.NodeID // nodes that are followed no more
	wg    sync.WaitGroup
}

// logPosition is how far a node's log was read. While a goroutine follows the node it is that goroutine's.
type logPosition struct {
	query     logQuery
	following bool
}

func (f *logFollower) run(send func(*holdfastv1.FollowLogsResponse) error) error {
	nodes := make(map[placement.NodeID]*logPosition)
	tick := time.NewTicker(logMembersEvery)
	defer tick.Stop()
	for {
		for _, m := range f.n.cluster.Members() {
			if m.State != cluster.Alive || f.node != "" && m.Name != f.node {
				continue
			}
			if nodes[m.ID] == nil {
				nodes[m.ID] = &logPosition{query: f.query}
			}
			if at := nodes[m.ID]; !at.following {
				at.following = true
				f.wg.Go(func() { f.follow(m.ID, m.Name, &at.query) })
			}
		}
		select {
		case <-f.ctx.Done():
			return context.Cause(f.ctx)
		case <-tick.C:
		case id := <-f.ended:
			nodes[id].following = false
		case found := <-f.found:
			if err := send(found); err != nil {
				return err
			}
		}
	}
}

// follow asks a node again and again for what comes after q, until it is not a member that is alive.
func (f *logFollower) follow(id placement.NodeID, name string, q *logQuery) {
	failed := false
	for {
		if m, ok := f.n.member(id); !ok || m.State != cluster.Alive {
			break
		}
		wait := logPollEvery
		page, err := f.ask(id, *q)
		switch {
		case f.ctx.Err() != nil:
			return
		case err != nil:
			if !failed && !f.tell(&holdfastv1.FollowLogsResponse{Notices: []*holdfastv1.LogNotice{{Node: name, Error: err.Error()}}}) {
				return
			}
			failed, wait = true, logRetryAfter
		default:
			failed, q.Boot, q.After = false, page.Boot, page.Last
			if resp := page.proto(name); resp != nil && !f.tell(resp) {
				return
			}
			if page.More {
				wait = 0
			}
		}
		select {
		case <-f.ctx.Done():
			return
		case <-time.After(wait):
		}
	}
	select {
	case <-f.ctx.Done():
	case f.ended <- id:
	}
}

// tell hands something on; false when nobody follows any more.
func (f *logFollower) tell(resp *holdfastv1.FollowLogsResponse) bool {
	select {
	case <-f.ctx.Done():
		return false
	case f.found <- resp:
		return true
	}
}

func (f *logFollower) ask(id placement.NodeID, q logQuery) (page logPage, err error) {
	body, err := json.Marshal(q)
	if err != nil {
		return page, err
	}
	ctx, cancel := context.WithTimeout(f.ctx, logAskTimeout)
	defer cancel()
	raw, err := f.n.askNode(ctx, id, queryLogs, body)
	if err != nil {
		return page, err
	}
	return page, json.Unmarshal(raw, &page)
}

// proto returns what there is to say, or nil.
func (p *logPage) proto(node string) *holdfastv1.FollowLogsResponse {
	if p.Dropped == 0 && len(p.Entries) == 0 {
		return nil
	}
	out := &holdfastv1.FollowLogsResponse{}
	if p.Dropped > 0 {
		out.Notices = append(out.Notices, &holdfastv1.LogNotice{Node: node, Dropped: p.Dropped})
	}
	for _, e := range p.Entries {
		out.Entries = append(out.Entries, &holdfastv1.LogEntry{
			Node: node, TimeUnixMs: e.Time.UnixMilli(), Class: e.Class, Object: e.Object, Name: e.Name,
			Level: strings.ToLower(e.Level.String()), Text: e.Text,
		})
	}
	return out
}
