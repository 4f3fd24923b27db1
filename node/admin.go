package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/holdfast-io/holdfast/cluster"
	"github.com/holdfast-io/holdfast/fault"
	"github.com/holdfast-io/holdfast/peer/frame"
	"github.com/holdfast-io/holdfast/placement"
	systemv1 "github.com/holdfast-io/holdfast/proto/holdfast/system/v1"
	holdfastv1 "github.com/holdfast-io/holdfast/proto/holdfast/v1"
	"github.com/holdfast-io/holdfast/replica"
	"github.com/holdfast-io/holdfast/router"
	"github.com/holdfast-io/holdfast/storage"
	"github.com/holdfast-io/holdfast/storage/value"
)

// peerCalls takes what another node sends: forwarded calls, news of owners, and queries.
type peerCalls struct {
	n    *Node
	from placement.NodeID
}

// Call implements frame.Handler.
func (p *peerCalls) Call(req *frame.Request, reply func(frame.Response)) func(error) {
	return p.n.router.Route(req, reply)
}

// Announce implements frame.Handler.
func (p *peerCalls) Announce(shard placement.ShardID, node placement.NodeID, term uint64) {
	p.n.router.Learn(shard, node, term)
}

// Query implements frame.Handler. Queries read the disk, so each has a goroutine.
func (p *peerCalls) Query(kind string, body []byte, reply func([]byte, error)) {
	n := p.n
	n.mu.Lock()
	closing := n.ctx.Err() != nil
	if !closing {
		n.wg.Go(func() {
			ctx, cancel := context.WithTimeout(n.ctx, queryTimeout)
			defer cancel()
			reply(n.answer(ctx, kind, body))
		})
	}
	n.mu.Unlock()
	if closing {
		reply(nil, errClosed)
	}
}

// The kinds of queries between nodes.
const (
	queryStatus = "status"
	queryList   = "list"
	queryFind   = "find"
	queryShow   = "show"
	queryEvict  = "evict"
	queryAlarms = "alarms"
	queryDead   = "dead"
	queryRearm  = "rearm"
	// queryWorkers asks what a node runs.
	queryWorkers = "workers"
	// queryLogs asks what a worker has logged on a node.
	queryLogs = "logs"

	queryExport     = "export"
	queryExportNext = "export-next"
	queryExportEnd  = "export-end"
	queryImport     = "import"

	queryTimeout = 10 * time.Second
)

const (
	// findLooks is how many objects a query looks at for those with a name.
	findLooks = 10_000
	// findTime is how long a page is looked for; it ends with what was found by then.
	findTime = 2 * time.Second
)

// shardQuery asks the owner of a shard about its objects.
type shardQuery struct {
	Shard      placement.ShardID
	Class      string // unique key
	ID         placement.ObjectID
	After      *placement.ObjectID
	StartAfter []byte
	Limit      int
	NamePrefix string
	// Of alarms.
	From    storage.AlarmPosition
	Discard bool
}

type showAnswer struct {
	Exists         bool
	Record         storage.Record
	Keys, Values   [][]byte
	More           bool
	CommitSequence uint64
	Alarm          *storage.Alarm
	Dead           *storage.DeadAlarm
}

// listAnswer are objects of a shard.
type listAnswer struct {
	Objects []storage.ObjectListing
	Last    *placement.ObjectID // looked at; nil when no more are behind it
}

// errNotOwner says that a query came to the wrong node.
var errNotOwner = errors.New("not the owner of the shard")

// answer answers a query, of another node or of this one.
func (n *Node) answer(ctx context.Context, kind string, body []byte) ([]byte, error) {
	switch kind {
	case queryStatus:
		return json.Marshal(n.host.Status())
	case queryExport, queryExportNext, queryExportEnd:
		return n.answerExport(ctx, kind, body)
	case queryImport:
		return n.answerImport(ctx, body)
	case queryWorkers:
		return json.Marshal(n.workers.states())
	case queryLogs:
		return n.answerLogs(body)
	}
	var q shardQuery
	if err := json.Unmarshal(body, &q); err != nil {
		return nil, fmt.Errorf("query %s: %w", kind, err)
	}
	if int(q.Shard) >= n.id.Shards {
		return nil, fmt.Errorf("query %s: shard %d of %d", kind, q.Shard, n.id.Shards)
	}
	if owner, _, ok := n.host.Leader(q.Shard); !ok || owner != n.id.Node {
		return nil, errNotOwner
	}
	ref := storage.ObjectRef{Class: q.Class, ID: q.ID}
	switch kind {
	case queryEvict:
		return json.Marshal(n.manager.Evict(q.Shard, ref))
	case queryList:
		return readOwned(ctx, n.host, n.id.Node, q.Shard, func() (any, error) { return n.store.ListObjects(q.Shard, q.Class, q.After, q.Limit) })
	case queryFind:
		return readOwned(ctx, n.host, n.id.Node, q.Shard, func() (any, error) {
			var a listAnswer
			var err error
			a.Objects, a.Last, err = n.store.FindObjects(q.Shard, q.Class, q.After, q.NamePrefix, q.Limit, findLooks)
			return a, err
		})
	case queryAlarms:
		return readOwned(ctx, n.host, n.id.Node, q.Shard, func() (any, error) { return n.listAlarms(q) })
	case queryDead:
		return readOwned(ctx, n.host, n.id.Node, q.Shard, func() (any, error) { return n.listDeadAlarms(q) })
	case queryRearm:
		return n.rearm(ctx, q, ref)
	case queryShow:
		return readOwned(ctx, n.host, n.id.Node, q.Shard, func() (any, error) { return n.show(q, ref) })
	}
	return nil, fmt.Errorf("query %q is not known: upgrade this node", kind)
}

// shardHost is what readOwned needs of a replica.Host.
type shardHost interface {
	Leader(shard placement.ShardID) (node placement.NodeID, term uint64, ok bool)
	ConfirmNow(shard placement.ShardID, term uint64) bool
	Confirm(shard placement.ShardID, term uint64, who replica.Confirmer, token uint64)
	AwaitReadable(ctx context.Context) error
}

// readOwned reads the store as asOwner does and encodes what was read.
func readOwned(ctx context.Context, host shardHost, self placement.NodeID, shard placement.ShardID, read func() (any, error)) ([]byte, error) {
	var answer any
	err := asOwner(ctx, host, self, shard, func() (err error) {
		answer, err = read()
		return err
	})
	if err != nil {
		return nil, err
	}
	return json.Marshal(answer)
}

// asOwner reads the store as the owner of a shard (P4). The order is what
// makes it see everything that was acknowledged before it was asked: an owner that is confirmed
// first has acknowledged it itself or applied it before it became the owner; the store shows it once the
// replicas' loop has been passed; and the read comes last. If it is the owner still, what it read was
// not taken away under it.
func asOwner(ctx context.Context, host shardHost, self placement.NodeID, shard placement.ShardID, read func() error) error {
	owner, term, ok := host.Leader(shard)
	if !ok || owner != self {
		return errNotOwner
	}
	if !host.ConfirmNow(shard, term) {
		c := make(confirmer, 1)
		host.Confirm(shard, term, c, 0)
		select {
		case err := <-c:
			if err != nil {
				return errNotOwner
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	if err := host.AwaitReadable(ctx); err != nil {
		return err
	}
	if err := read(); err != nil {
		return err
	}
	if node, now, ok := host.Leader(shard); !ok || node != self || now != term {
		return errNotOwner
	}
	return nil
}

// confirmer implements replica.Confirmer for one who waits.
type confirmer chan error

// Confirmed implements replica.Confirmer.
func (c confirmer) Confirmed(_ uint64, err error) { c <- err }

func (n *Node) show(q shardQuery, ref storage.ObjectRef) (showAnswer, error) {
	var out showAnswer
	r := n.store.Object(q.Shard, ref)
	record, err := r.Record()
	if err != nil || record == nil {
		return out, err
	}
	out.Exists, out.Record = true, *record
	fence, err := r.Fence()
	if err != nil {
		return out, err
	}
	if fence != nil {
		out.CommitSequence = fence.CommitSequence
	}
	if out.Alarm, err = r.Alarm(); err != nil {
		return out, err
	}
	if out.Dead, err = r.DeadAlarm(); err != nil {
		return out, err
	}
	var lo []byte
	if len(q.StartAfter) > 0 {
		lo = append(slices.Clone(q.StartAfter), 0)
	}
	it, err := r.Iter(storage.KindKV, lo, nil)
	if err != nil {
		return out, err
	}
	defer it.Close()
	size := 0
	for ok := it.First(); ok; ok = it.Next() {
		if len(out.Keys) == q.Limit || size > 4<<20 {
			out.More = true
			break
		}
		out.Keys = append(out.Keys, slices.Clone(it.Key()))
		out.Values = append(out.Values, slices.Clone(it.Value()))
		size += len(it.Key()) + len(it.Value())
	}
	return out, it.Error()
}

// ask puts a query to the owner of a shard, wherever that is, until the context ends.
func (n *Node) ask(ctx context.Context, kind string, q shardQuery, into any) error {
	body, err := json.Marshal(q)
	if err != nil {
		return err
	}
	raw, err := n.askOwner(ctx, q.Shard, kind, body)
	if err != nil {
		return err
	}
	return json.Unmarshal(raw, into)
}

// askOwner is ask of a query that is encoded. It may come to the owner more than once.
func (n *Node) askOwner(ctx context.Context, shard placement.ShardID, kind string, body []byte) (raw []byte, err error) {
	t := time.NewTicker(20 * time.Millisecond)
	defer t.Stop()
	for {
		err = errNotOwner
		if owner, ok := n.router.Owner(shard); ok {
			raw, err = n.askNode(ctx, owner, kind, body)
		}
		if err == nil {
			return raw, nil
		}
		select {
		case <-ctx.Done():
			return nil, fault.New(fault.NoOwner, "shard %d: %v", shard, err)
		case <-t.C:
		}
	}
}

// askNode puts a query to a node.
func (n *Node) askNode(ctx context.Context, node placement.NodeID, kind string, body []byte) ([]byte, error) {
	if node == n.id.Node {
		return n.answer(ctx, kind, body)
	}
	return n.peers.Query(ctx, node, kind, body)
}

// adminServer implements holdfastv1.AdminServer.
type adminServer struct {
	holdfastv1.UnimplementedAdminServer

	n *Node
}

// Status implements holdfastv1.AdminServer.
func (a *adminServer) Status(ctx context.Context, _ *holdfastv1.StatusRequest) (*holdfastv1.StatusResponse, error) {
	n := a.n
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	out := &holdfastv1.StatusResponse{ClusterId: n.id.ClusterID}
	members := n.cluster.Members()
	views, warnings := n.views(ctx, members)
	out.Warnings = warnings
	best := bestViews(views, n.id.Shards)
	owns := make(map[placement.NodeID]int32)
	holds := make(map[placement.NodeID]bool)
	for i := range n.id.Shards {
		shard := &holdfastv1.Shard{Id: uint32(i)} //nolint:gosec // below MaxShards
		if v := best[i]; v != nil {
			shard.Voters, shard.Learners = n.names(v.Voters), n.names(v.Learners)
			shard.Term, shard.Moving = v.Term, n.inWords(v.Moving)
			if v.Owns {
				shard.Owner = n.nameOf(v.Leader)
				owns[v.Leader]++
			}
			for _, id := range slices.Concat(v.Voters, v.Learners) {
				holds[id] = true
			}
		}
		out.Shards = append(out.Shards, shard)
	}
	for i := range members {
		m := &members[i]
		if m.State == cluster.Replaced && !holds[m.ID] {
			continue
		}
		out.Nodes = append(out.Nodes, &holdfastv1.Node{
			Name: m.Name, Id: m.ID.String(), State: n.stateOf(m, holds[m.ID]), Owns: owns[m.ID], Version: m.Version,
			Drained: n.facts.Drained()[m.ID], DiskFull: m.State == cluster.Alive && m.DiskFull,
			Addresses: &holdfastv1.Addresses{
				Grpc: m.Addresses.GRPC, Peer: m.Addresses.Peer, Gossip: m.Addresses.Gossip, Http: m.Addresses.HTTP, Admin: m.Addresses.Admin,
			},
		})
		if why := noLeadWarning(m); why != "" {
			out.Warnings = append(out.Warnings, why)
		}
		if why := diskWarning(m); why != "" {
			out.Warnings = append(out.Warnings, why)
		}
		if n.facts.Drained()[m.ID] {
			out.Warnings = append(out.Warnings, drainedWarning(m, owns[m.ID]))
		}
	}
	for _, c := range n.facts.view.Load().facts.GetClasses() {
		out.Classes = append(out.Classes, &holdfastv1.Class{Name: c.GetName(), Service: c.GetService(), UniqueKey: c.GetUniqueKey()})
	}
	out.Warnings = append(out.Warnings, durability(best)...)
	out.Warnings = append(out.Warnings, n.deadVoters(best, members)...)
	return out, nil
}

// noLeadWarning says why a node that is there must not own anything; what one that is dead once said
// of itself is no news.
func noLeadWarning(m *cluster.Member) string {
	switch {
	case m.State != cluster.Alive || !m.NoLead:
		return ""
	case m.Stopping:
		return fmt.Sprintf("node %s is stopping and hands over what it owns", m.Name)
	default:
		return fmt.Sprintf("node %s lacks classes of the cluster, or can't load a worker, and so owns nothing: see its /readyz", m.Name)
	}
}

// diskWarning says that a node that is there has little room.
func diskWarning(m *cluster.Member) string {
	switch {
	case m.State != cluster.Alive:
		return ""
	case m.DiskFull:
		return fmt.Sprintf("node %s has no room on its disk: what it owns refuses writes", m.Name)
	case m.DiskLow:
		return fmt.Sprintf("node %s has little room on its disk: it gives ownership away", m.Name)
	}
	return ""
}

// drainedWarning says how far a drained node is.
func drainedWarning(m *cluster.Member, owns int32) string {
	if owns == 0 {
		return fmt.Sprintf("node %s is drained: it owns nothing until 'holdfast drain --off %s'", m.Name, m.Name)
	}
	return fmt.Sprintf("node %s is being drained: it owns %d shards still, those that no other node can take among them", m.Name, owns)
}

// deadVoters says which voters are dead, and how many of the others each shard needs: a dead node
// keeps its seat.
func (n *Node) deadVoters(views []*replica.ShardStatus, members []cluster.Member) []string {
	alive := make(map[placement.NodeID]bool)
	for i := range members {
		alive[members[i].ID] = members[i].State == cluster.Alive
	}
	shards := make(map[string]int)
	for _, v := range views {
		if v == nil {
			continue
		}
		dead := slices.DeleteFunc(slices.Clone(v.Voters), func(id placement.NodeID) bool { return alive[id] })
		if len(dead) > 0 {
			shards[fmt.Sprintf("have voters that are dead, %s: %d of the %d voters must answer", strings.Join(n.names(dead), ", "), len(v.Voters)/2+1, len(v.Voters))]++
		}
	}
	var out []string
	for _, text := range slices.Sorted(maps.Keys(shards)) {
		out = append(out, fmt.Sprintf("%d shards %s", shards[text], text))
	}
	return out
}

// durability says how much an acknowledged write survives, when that is less than it could be.
func durability(views []*replica.ShardStatus) []string {
	lone := 0
	for _, v := range views {
		if v != nil && len(v.Voters) == 1 {
			lone++
		}
	}
	if lone == 0 {
		return nil
	}
	return []string{fmt.Sprintf("%d shards have one voter: what they acknowledge is on one disk; three nodes make it a majority of three", lone)}
}

func (n *Node) stateOf(m *cluster.Member, holds bool) string {
	switch {
	case n.facts.Removed()[m.ID] && holds:
		return "removing"
	case n.facts.Removed()[m.ID]:
		return "removed"
	default:
		return string(m.State)
	}
}

// inWords puts names for the node ids in a text.
func (n *Node) inWords(text string) string {
	if text == "" {
		return ""
	}
	for _, m := range n.cluster.Members() {
		text = strings.ReplaceAll(text, m.ID.String(), m.Name)
	}
	return text
}

// views asks every living node for its replicas' view of their shards.
func (n *Node) views(ctx context.Context, members []cluster.Member) ([]replica.ShardStatus, []string) {
	var (
		mu       sync.Mutex
		wg       sync.WaitGroup
		out      []replica.ShardStatus
		warnings []string
	)
	for i := range members {
		m := &members[i]
		if m.State != cluster.Alive {
			continue
		}
		wg.Go(func() {
			var views []replica.ShardStatus
			var err error
			if m.ID == n.id.Node {
				views = n.host.Status()
			} else {
				var raw []byte
				if raw, err = n.peers.Query(ctx, m.ID, queryStatus, nil); err == nil {
					err = json.Unmarshal(raw, &views)
				}
			}
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				warnings = append(warnings, fmt.Sprintf("node %s does not answer: %v", m.Name, err))
				return
			}
			out = append(out, views...)
		})
	}
	wg.Wait()
	return out, warnings
}

// bestViews picks, for each shard, the owner's view in the latest term, or else the latest one.
func bestViews(views []replica.ShardStatus, shards int) []*replica.ShardStatus {
	best := make([]*replica.ShardStatus, shards)
	for i := range views {
		v := &views[i]
		if int(v.Shard) >= shards {
			continue
		}
		old := best[v.Shard]
		switch {
		case old == nil, v.Owns && !old.Owns && v.Term >= old.Term, v.Owns == old.Owns && v.Term > old.Term:
			best[v.Shard] = v
		}
	}
	return best
}

// object resolves what an admin request names.
func (n *Node) object(ctx context.Context, class, name, id string, named bool) (router.ClassFacts, placement.ObjectID, error) {
	f, err := n.class(ctx, class)
	if err != nil {
		return f, placement.ObjectID{}, err
	}
	ns := placement.NewNamespace(f.UniqueKey)
	if named {
		return f, ns.IDFromName(name), nil
	}
	if id == "" {
		return f, placement.ObjectID{}, fault.New(fault.MissingObject, "which object? Set name or id")
	}
	oid, err := ns.ParseID(id)
	switch {
	case errors.Is(err, placement.ErrForeignID):
		return f, oid, fault.New(fault.InvalidID, "id %s: %v, that of class %s", id, err, f.Name)
	case err != nil:
		return f, oid, fault.New(fault.InvalidID, "id: %v", err)
	}
	return f, oid, nil
}

func (n *Node) class(ctx context.Context, name string) (router.ClassFacts, error) {
	if f, ok := n.facts.Class(name); ok {
		return f, nil
	}
	if err := n.facts.Refresh(ctx); err != nil {
		return router.ClassFacts{}, err
	}
	f, ok := n.facts.Class(name)
	if !ok {
		return f, router.UnknownClass(n.facts, name)
	}
	return f, nil
}

// listed returns the class whose objects a request wants listed.
func (n *Node) listed(ctx context.Context, req *holdfastv1.ListObjectsRequest) (router.ClassFacts, error) {
	key := req.GetUniqueKey()
	switch {
	case key == "":
		return n.class(ctx, req.GetClass())
	case req.GetClass() != "" || req.GetAfter() != "":
		return router.ClassFacts{}, fault.New(fault.InvalidArgument, "unique_key: not with class and after")
	case !slices.Contains(n.facts.Ended(), key):
		return router.ClassFacts{}, fault.New(fault.UnknownClass, "unique_key %q: no class that had it was deleted; name the class", key)
	}
	return router.ClassFacts{UniqueKey: key}, nil
}

// ListObjects implements holdfastv1.AdminServer.
func (a *adminServer) ListObjects(ctx context.Context, req *holdfastv1.ListObjectsRequest) (*holdfastv1.ListObjectsResponse, error) {
	f, err := a.n.listed(ctx, req)
	if err != nil {
		return nil, err
	}
	size, err := pageSize(req.GetPageSize())
	if err != nil {
		return nil, err
	}
	shard, after, err := parsePageToken(req.GetPageToken())
	switch {
	case err != nil:
		return nil, err
	case req.GetAfter() == "":
	case req.GetPageToken() != "":
		return nil, fault.New(fault.InvalidArgument, "after: not with page_token, which says it")
	default:
		_, id, err := a.n.object(ctx, f.Name, "", req.GetAfter(), false)
		if err != nil {
			return nil, err
		}
		shard, after = int(placement.ShardOf(id, a.n.id.Shards)), &id
	}
	out := &holdfastv1.ListObjectsResponse{}
	for until := time.Now().Add(findTime); shard < a.n.id.Shards; {
		q := shardQuery{Shard: placement.ShardID(shard), Class: f.UniqueKey, After: after, Limit: size - len(out.GetObjects()), NamePrefix: req.GetNamePrefix()} //nolint:gosec // below MaxShards
		list, err := a.n.objectsOf(ctx, q)
		if err != nil {
			return nil, err
		}
		for _, o := range list.Objects {
			out.Objects = append(out.Objects, &holdfastv1.ObjectSummary{Id: o.ID.String(), Name: o.Record.Name})
		}
		if after = list.Last; after == nil {
			shard++
		}
		switch {
		case len(out.GetObjects()) < size && (q.NamePrefix == "" || time.Now().Before(until)):
		case after != nil:
			out.NextPageToken = strconv.Itoa(shard) + "/" + after.String()
			return out, nil
		case shard < a.n.id.Shards:
			out.NextPageToken = strconv.Itoa(shard) + "/"
			return out, nil
		}
	}
	return out, nil
}

// objectsOf returns objects of one shard: all, or with a prefix those that it begins the names of.
func (n *Node) objectsOf(ctx context.Context, q shardQuery) (listAnswer, error) {
	var out listAnswer
	if q.NamePrefix != "" {
		return out, n.ask(ctx, queryFind, q, &out)
	}
	if err := n.ask(ctx, queryList, q, &out.Objects); err != nil {
		return out, err
	}
	if len(out.Objects) == q.Limit {
		out.Last = &out.Objects[q.Limit-1].ID
	}
	return out, nil
}

func pageSize(size int32) (int, error) {
	switch {
	case size == 0:
		return 100, nil
	case size < 0 || size > 1000:
		return 0, fault.New(fault.InvalidArgument, "page_size: must be 1 to 1000, is %d", size)
	}
	return int(size), nil
}

func errPageToken() error {
	return fault.New(fault.InvalidArgument, "page_token: not one that this cluster gave")
}

// cutPageToken reads which shard a page begins in, and after what.
func cutPageToken(token string) (shard int, rest string, err error) {
	if token == "" {
		return 0, "", nil
	}
	text, rest, ok := strings.Cut(token, "/")
	shard, err = strconv.Atoi(text)
	if !ok || err != nil || shard < 0 {
		return 0, "", errPageToken()
	}
	return shard, rest, nil
}

func parsePageToken(token string) (int, *placement.ObjectID, error) {
	shard, rest, err := cutPageToken(token)
	if err != nil || rest == "" { // It begins the shard.
		return shard, nil, err
	}
	id, err := placement.ParseID(rest)
	if err != nil {
		return 0, nil, errPageToken()
	}
	return shard, &id, nil
}

// ShowObject implements holdfastv1.AdminServer.
func (a *adminServer) ShowObject(ctx context.Context, req *holdfastv1.ShowObjectRequest) (*holdfastv1.ShowObjectResponse, error) {
	n := a.n
	_, named := req.GetObject().(*holdfastv1.ShowObjectRequest_Name)
	f, id, err := n.object(ctx, req.GetClass(), req.GetName(), req.GetId(), named)
	if err != nil {
		return nil, err
	}
	limit := int(req.GetLimit())
	switch {
	case limit == 0:
		limit = 1000
	case limit < 0 || limit > 1000:
		return nil, fault.New(fault.InvalidArgument, "limit: must be 1 to 1000, is %d", limit)
	}
	shard := placement.ShardOf(id, n.id.Shards)
	var shown showAnswer
	if err := n.ask(ctx, queryShow, shardQuery{Shard: shard, Class: f.UniqueKey, ID: id, StartAfter: req.GetStartAfter(), Limit: limit}, &shown); err != nil {
		return nil, err
	}
	if !shown.Exists {
		return nil, fault.New(fault.UnknownObject, "object %s of class %s does not exist: it has no stored data", id, f.Name)
	}
	owner, _ := n.router.Owner(shard)
	out := &holdfastv1.ShowObjectResponse{
		Id: id.String(), Name: shown.Record.Name, Shard: uint32(shard), Owner: n.nameOf(owner), More: shown.More,
		CommitSequence: shown.CommitSequence, ImportUnfinished: shown.Record.Import != nil,
	}
	if a := shown.Alarm; a != nil {
		out.AlarmUnixMs, out.AlarmDueUnixMs, out.AlarmRetries = &a.Scheduled, a.Due, a.Retries
	}
	if shown.Dead != nil {
		out.DeadAlarm = deadAlarm(id, shown.Record.Name, shown.Dead)
	}
	for i := range shown.Keys {
		out.Entries = append(out.Entries, &holdfastv1.Entry{Key: shown.Keys[i], Value: shown.Values[i], Diagnostic: value.Diagnose(shown.Values[i])})
	}
	return out, nil
}

// EvictObject implements holdfastv1.AdminServer.
func (a *adminServer) EvictObject(ctx context.Context, req *holdfastv1.EvictObjectRequest) (*holdfastv1.EvictObjectResponse, error) {
	_, named := req.GetObject().(*holdfastv1.EvictObjectRequest_Name)
	f, id, err := a.n.object(ctx, req.GetClass(), req.GetName(), req.GetId(), named)
	if err != nil {
		return nil, err
	}
	var evicted bool
	q := shardQuery{Shard: placement.ShardOf(id, a.n.id.Shards), Class: f.UniqueKey, ID: id}
	if err := a.n.ask(ctx, queryEvict, q, &evicted); err != nil {
		return nil, err
	}
	return &holdfastv1.EvictObjectResponse{Evicted: evicted}, nil
}

// RemoveNode implements holdfastv1.AdminServer.
func (a *adminServer) RemoveNode(ctx context.Context, req *holdfastv1.RemoveNodeRequest) (*holdfastv1.RemoveNodeResponse, error) {
	n := a.n
	target, err := n.findMember(req.GetNode())
	if err != nil {
		return nil, err
	}
	removed := n.facts.Removed()
	if !slices.ContainsFunc(n.cluster.Members(), func(m cluster.Member) bool {
		return m.ID != target.ID && m.State == cluster.Alive && !removed[m.ID]
	}) {
		return nil, fault.New(fault.InvalidArgument, "node %q: it is the last one alive; nobody could take its replicas", req.GetNode())
	}
	if err := n.facts.ask(ctx, "RemoveNode", &systemv1.RemoveNodeRequest{Node: uint64(target.ID)}); err != nil {
		return nil, err
	}
	return &holdfastv1.RemoveNodeResponse{Id: target.ID.String()}, nil
}

// DrainNode implements holdfastv1.AdminServer.
func (a *adminServer) DrainNode(ctx context.Context, req *holdfastv1.DrainNodeRequest) (*holdfastv1.DrainNodeResponse, error) {
	target, err := a.n.findMember(req.GetNode())
	if err != nil {
		return nil, err
	}
	if err := a.n.facts.ask(ctx, "DrainNode", &systemv1.DrainNodeRequest{Node: uint64(target.ID), Off: req.GetOff()}); err != nil {
		return nil, err
	}
	return &holdfastv1.DrainNodeResponse{Id: target.ID.String()}, nil
}

// findMember finds a node by its name, which is not that of one that was replaced, or by its id.
func (n *Node) findMember(nameOrID string) (cluster.Member, error) {
	for _, m := range n.cluster.Members() {
		if m.ID.String() == nameOrID || m.Name == nameOrID && m.State != cluster.Replaced {
			return m, nil
		}
	}
	return cluster.Member{}, fault.New(fault.UnknownNode, "node %q: no member has that name or id; see 'holdfast status'", nameOrID)
}
