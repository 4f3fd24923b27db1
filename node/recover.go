package node

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/holdfast-io/holdfast/placement"
	systemv1 "github.com/holdfast-io/holdfast/proto/holdfast/system/v1"
	"github.com/holdfast-io/holdfast/replica"
	"github.com/holdfast-io/holdfast/storage"
)

// A shard that has lost a majority of its voters for good is made to go on from one of the replicas
// that are left, by hand and with all nodes stopped: what every surviving store has is collected, one
// plan is made of all of it, and each store takes its part of the plan. The plan alone decides, so no
// two stores can go on with the same shard. docs/operations.md says how it is used.

// RecoveryReport is what a stopped node has.
type RecoveryReport struct {
	ClusterID string               `json:"cluster_id"`
	Node      placement.NodeID     `json:"node"`
	Name      string               `json:"name"`
	Members   []RecoveryMember     `json:"members"`
	Removed   []placement.NodeID   `json:"removed,omitempty"`
	Shards    int                  `json:"shards"`
	Replicas  []replica.ShardState `json:"replicas"`
}

// RecoveryMember is a node by its id and name.
type RecoveryMember struct {
	ID   placement.NodeID `json:"id"`
	Name string           `json:"name"`
}

// String implements fmt.Stringer.
func (m RecoveryMember) String() string { return fmt.Sprintf("%s (%s)", m.Name, m.ID) }

// RecoveryPlan says how the shards that have lost their majority go on.
type RecoveryPlan struct {
	ClusterID string           `json:"cluster_id"`
	Lost      []RecoveryMember `json:"lost"`
	Shards    []RecoveredShard `json:"shards"`
	// Hopeless are shards of which no survivor has anything.
	Hopeless []placement.ShardID `json:"hopeless,omitempty"`
}

// RecoveredShard is one of them.
type RecoveredShard struct {
	replica.Recovery

	// On is the node whose replica is to be the only voter, and From what that replica was.
	On   RecoveryMember     `json:"on"`
	From replica.ShardState `json:"from"`
}

// far is by how much the numbers of a recovered shard are above all that the survivors have seen: more
// than the lost ones can have used since.
const far = 1 << 20

const lostMetaKey = "lost"

func loadLost(store *storage.Store) ([]placement.NodeID, error) {
	raw, ok, err := store.Meta(lostMetaKey)
	if err != nil || !ok {
		return nil, err
	}
	var out []placement.NodeID
	if err := json.Unmarshal(raw, &out); err != nil {
		return nil, fmt.Errorf("stored lost nodes: %w", err)
	}
	return out, nil
}

// openStopped opens the store of a stopped node.
func openStopped(dir string) (*storage.Store, error) {
	store, err := storage.OpenExisting(dir, storage.Options{})
	if err != nil {
		return nil, err
	}
	if store.Identity().ClusterID == "" {
		return nil, errors.Join(fmt.Errorf("%s belongs to no cluster", dir), store.Close())
	}
	return store, nil
}

// CollectRecovery reads what a stopped node has. The directory must not be in use.
func CollectRecovery(dir string) (report *RecoveryReport, err error) {
	store, err := openStopped(dir)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	id := store.Identity()
	report = &RecoveryReport{ClusterID: id.ClusterID, Node: id.Node, Name: id.Name, Shards: id.Shards}
	known, err := loadMembers(store)
	if err != nil {
		return nil, err
	}
	for i := range known.Members {
		report.Members = append(report.Members, RecoveryMember{known.Members[i].ID, known.Members[i].Name})
	}
	raw, _, err := store.Meta(factsMetaKey)
	if err != nil {
		return nil, err
	}
	var facts systemv1.FactsResponse
	if err := proto.Unmarshal(raw, &facts); err != nil {
		return nil, fmt.Errorf("stored cluster facts: %w", err)
	}
	for _, id := range facts.GetFacts().GetRemovedNodes() {
		report.Removed = append(report.Removed, placement.NodeID(id))
	}
	report.Replicas, err = replica.States(store)
	return report, err
}

// survey is the reports of all survivors, taken together.
type survey struct {
	reports  map[placement.NodeID]*RecoveryReport
	names    map[placement.NodeID]string
	listed   map[placement.NodeID]bool // by a descriptor
	removed  map[placement.NodeID]bool
	replicas map[placement.ShardID]map[placement.NodeID]replica.ShardState
}

func newSurvey(reports []*RecoveryReport) (*survey, error) {
	if len(reports) == 0 {
		return nil, errors.New("give the reports of all surviving nodes")
	}
	s := &survey{
		reports: make(map[placement.NodeID]*RecoveryReport), names: make(map[placement.NodeID]string),
		listed: make(map[placement.NodeID]bool), removed: make(map[placement.NodeID]bool),
		replicas: make(map[placement.ShardID]map[placement.NodeID]replica.ShardState),
	}
	for _, r := range reports {
		switch {
		case r.Shards < 1 || r.Shards > placement.MaxShards:
			return nil, fmt.Errorf("report of %q: shards: must be 1 to %d, is %d; is it one that collect wrote?", r.Name, placement.MaxShards, r.Shards)
		case r.ClusterID == "" || r.ClusterID != reports[0].ClusterID:
			return nil, fmt.Errorf("report of %s: it is of cluster %q, that of %s of %q", r.Name, r.ClusterID, reports[0].Name, reports[0].ClusterID)
		case s.reports[r.Node] != nil:
			return nil, fmt.Errorf("two reports of node %s (%s)", r.Name, r.Node)
		}
		s.reports[r.Node] = r
		for _, id := range r.Removed {
			s.removed[id] = true
		}
		for _, m := range r.Members {
			s.names[m.ID] = m.Name
		}
		for _, state := range r.Replicas {
			if s.replicas[state.Shard] == nil {
				s.replicas[state.Shard] = make(map[placement.NodeID]replica.ShardState)
			}
			s.replicas[state.Shard][r.Node] = state
			for _, id := range members(state) {
				s.listed[id] = true
			}
		}
	}
	for _, r := range reports {
		s.names[r.Node] = r.Name
	}
	return s, nil
}

func members(s replica.ShardState) []placement.NodeID {
	return slices.Concat(s.Voters, s.Outgoing, s.Learners)
}

func (s *survey) member(id placement.NodeID) RecoveryMember { return RecoveryMember{id, s.names[id]} }

// lost resolves the names or ids of the lost nodes, and checks that nobody else is missing: a node that
// is neither lost nor asked may be half of a majority.
func (s *survey) lost(named []string) (map[placement.NodeID]bool, error) {
	lost := make(map[placement.NodeID]bool)
	known := make(map[placement.NodeID]bool)
	for _, ids := range []map[placement.NodeID]bool{s.listed, s.removed} {
		maps.Copy(known, ids)
	}
	for id := range s.names {
		known[id] = true
	}
	for _, name := range named {
		found := false
		for id := range known {
			if id.String() == name || s.names[id] == name && s.reports[id] == nil {
				lost[id], found = true, true
			}
		}
		if !found {
			return nil, fmt.Errorf("lost node %q: no report knows a node of that name or id that is not among the reports itself", name)
		}
	}
	for id := range lost {
		if s.reports[id] != nil {
			return nil, fmt.Errorf("lost node %s: there is a report of it, so it is not lost; leave it out of either", s.member(id))
		}
	}
	reporting := make(map[string]bool)
	for _, r := range s.reports {
		reporting[r.Name] = true
	}
	for _, id := range slices.Sorted(maps.Keys(known)) {
		// One that no shard lists is no part of any majority if it was removed, or replaced by one that
		// reports.
		idle := !s.listed[id] && (s.removed[id] || reporting[s.names[id]])
		if s.reports[id] == nil && !lost[id] && !idle {
			return nil, fmt.Errorf("node %s is neither lost nor among the reports: collect it, or name it as lost", s.member(id))
		}
	}
	return lost, nil
}

// PlanRecovery decides how the shards go on of which a majority of the voters is among the lost nodes,
// given by names or ids. reports must be of every node that is not lost.
//
// Of a shard's survivors the one goes on whose log is ahead, as Raft compares logs; among equal ones
// a voter, then the smaller node id. A survivor whose membership has been overtaken by a later one
// that another survivor knows is no candidate.
func PlanRecovery(reports []*RecoveryReport, lostNodes []string) (*RecoveryPlan, error) {
	s, err := newSurvey(reports)
	if err != nil {
		return nil, err
	}
	lost, err := s.lost(lostNodes)
	if err != nil {
		return nil, err
	}
	p := &RecoveryPlan{ClusterID: reports[0].ClusterID}
	for _, id := range slices.Sorted(maps.Keys(lost)) {
		p.Lost = append(p.Lost, s.member(id))
	}
	for i := range reports[0].Shards {
		shard := shardID(i)
		r, hopeless, ok := s.recover(shard, lost)
		switch {
		case hopeless:
			p.Hopeless = append(p.Hopeless, shard)
		case ok:
			p.Shards = append(p.Shards, r)
		}
	}
	return p, nil
}

// recover decides about one shard: whether it has to be recovered, and from what.
func (s *survey) recover(shard placement.ShardID, lost map[placement.NodeID]bool) (r RecoveredShard, hopeless, ok bool) {
	var latest replica.ShardState
	var ids, terms uint64
	for _, state := range s.replicas[shard] {
		if state.Generation > latest.Generation {
			latest = state
		}
		ids, terms = max(ids, state.Replica, state.NextID), max(terms, state.Term, state.LastTerm)
	}
	if !lostMajority(latest.Voters, lost) && (len(latest.Outgoing) == 0 || !lostMajority(latest.Outgoing, lost)) {
		return r, false, false
	}
	var best placement.NodeID
	for _, node := range slices.Sorted(maps.Keys(s.replicas[shard])) {
		state := s.replicas[shard][node]
		if state.Generation == 0 || state.Problem != "" || !slices.Contains(members(latest), node) {
			continue
		}
		if best == 0 || better(state, s.replicas[shard][best], slices.Contains(latest.Voters, node) && !slices.Contains(latest.Voters, best)) {
			best = node
		}
	}
	if best == 0 {
		return r, true, false
	}
	return RecoveredShard{
		Recovery: replica.Recovery{Shard: shard, Replica: ids + far, Generation: latest.Generation + far, Term: terms + far},
		On:       s.member(best), From: s.replicas[shard][best],
	}, false, true
}

func lostMajority(voters []placement.NodeID, lost map[placement.NodeID]bool) bool {
	left := 0
	for _, id := range voters {
		if !lost[id] {
			left++
		}
	}
	return left <= len(voters)/2
}

// better says that a replica goes on rather than another; votes, that of the two only it is a voter.
func better(a, b replica.ShardState, votes bool) bool {
	c := cmp.Or(cmp.Compare(a.LastTerm, b.LastTerm), cmp.Compare(a.LastIndex, b.LastIndex))
	return c > 0 || c == 0 && votes
}

// ApplyRecovery takes this store's part of a plan: its own replicas go on where the plan says so, and
// the lost nodes are refused from then on. All of it or nothing. It returns the shards that go on
// here; with try it changes nothing and returns those that would. Applied again it changes nothing.
// The directory must not be in use.
func ApplyRecovery(dir string, p *RecoveryPlan, try bool) (here []RecoveredShard, err error) {
	store, err := openStopped(dir)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	id := store.Identity()
	if id.ClusterID != p.ClusterID {
		return nil, fmt.Errorf("%s is of cluster %q, the plan of %q", dir, id.ClusterID, p.ClusterID)
	}
	var lost []placement.NodeID
	for _, m := range p.Lost {
		if m.ID == id.Node {
			return nil, fmt.Errorf("%s is that of node %s, which the plan gives up as lost", dir, m)
		}
		lost = append(lost, m.ID)
	}
	states, err := replica.States(store)
	if err != nil {
		return nil, err
	}
	b := store.NewBatch()
	defer func() { _ = b.Close() }()
	var recoveries []replica.Recovery
	for _, s := range p.Shards {
		if s.On.ID != id.Node {
			continue
		}
		i := slices.IndexFunc(states, func(now replica.ShardState) bool { return now.Shard == s.Shard })
		if i >= 0 && states[i].Replica == s.Replica {
			continue // It was applied before.
		}
		if i < 0 || !same(states[i], s.From) {
			return nil, fmt.Errorf("shard %d: what %s has is not what the plan was made of; stop the node, collect and plan again", s.Shard, dir)
		}
		here, recoveries = append(here, s), append(recoveries, s.Recovery)
	}
	if err := replica.Recover(store, b, recoveries...); err != nil {
		return nil, err
	}
	if try {
		return here, nil
	}
	before, err := loadLost(store)
	if err != nil {
		return nil, err
	}
	for _, node := range before {
		if !slices.Contains(lost, node) {
			lost = append(lost, node)
		}
	}
	raw, err := json.Marshal(lost)
	if err != nil {
		return nil, err
	}
	b.SetMeta(lostMetaKey, raw)
	return here, b.Commit(true)
}

func same(a, b replica.ShardState) bool {
	return a.Replica == b.Replica && a.Generation == b.Generation && a.LastTerm == b.LastTerm && a.LastIndex == b.LastIndex && a.Term == b.Term
}
