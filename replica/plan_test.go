package replica

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-io/holdfast/placement"
)

// planModel is one shard of a small cluster, as far as membership goes: it applies what the plan
// says, and checks each step against the rules of plan.go.
type planModel struct {
	t      *testing.T
	random *rand.Rand
	trace  strings.Builder

	target   int
	order    []placement.NodeID // the ring's taste; it wishes the first that are in it
	inRing   map[placement.NodeID]bool
	up       map[placement.NodeID]bool
	removed  map[placement.NodeID]bool
	noLead   map[placement.NodeID]bool
	avoid    map[placement.NodeID]Reluctance
	stable   bool
	leader   placement.NodeID
	replicas []replicaView
	nextID   uint64
	// next are the voters of a joint change under way, and after them, who stays as a learner.
	next, demoted []placement.NodeID
}

func newPlanModel(t *testing.T, random *rand.Rand) *planModel {
	t.Helper()
	m := &planModel{
		t: t, random: random, target: []int{1, 2, 3, 3, 3, 5}[random.IntN(6)], nextID: 1,
		inRing: make(map[placement.NodeID]bool), up: make(map[placement.NodeID]bool),
		removed: make(map[placement.NodeID]bool), noLead: make(map[placement.NodeID]bool),
		avoid: make(map[placement.NodeID]Reluctance),
	}
	for n := range 1 + random.IntN(7) {
		id := placement.NodeID(n + 1)
		m.order = append(m.order, id)
		m.up[id], m.inRing[id] = true, random.IntN(6) > 0
	}
	m.shuffle()
	for i, id := range m.some(m.order) {
		m.add(id, i == 0 || random.IntN(3) > 0)
	}
	for i := range m.replicas {
		m.replicas[i].CaughtUp = m.replicas[i].Voter || random.IntN(2) == 0
	}
	m.leader = m.replicas[0].Node
	for _, id := range m.order {
		if random.IntN(5) == 0 {
			m.kill(id)
		}
	}
	return m
}

// some picks at least one.
func (m *planModel) some(of []placement.NodeID) []placement.NodeID {
	out := slices.Clone(of)
	m.random.Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] })
	return out[:1+m.random.IntN(len(out))]
}

func (m *planModel) shuffle() {
	m.random.Shuffle(len(m.order), func(i, j int) { m.order[i], m.order[j] = m.order[j], m.order[i] })
	m.stable = false
}

func (m *planModel) add(node placement.NodeID, voter bool) {
	m.replicas = append(m.replicas, replicaView{ID: m.nextID, Node: node, Voter: voter})
	m.nextID++
}

func (m *planModel) at(node placement.NodeID) *replicaView {
	for i := range m.replicas {
		if m.replicas[i].Node == node {
			return &m.replicas[i]
		}
	}
	return nil
}

func (m *planModel) voters() []placement.NodeID {
	var out []placement.NodeID
	for _, r := range m.replicas {
		if r.Voter {
			out = append(out, r.Node)
		}
	}
	return out
}

func (m *planModel) wish() []placement.NodeID {
	var out []placement.NodeID
	for _, node := range m.order {
		if m.inRing[node] && len(out) < m.target {
			out = append(out, node)
		}
	}
	return out
}

func (m *planModel) quorum(voters []placement.NodeID) bool {
	live := 0
	for _, node := range voters {
		if m.up[node] {
			live++
		}
	}
	return live > len(voters)/2
}

// works says whether the group can commit, in both configurations of a joint one.
func (m *planModel) works() bool { return m.quorum(m.voters()) && (m.next == nil || m.quorum(m.next)) }

// kill kills a node, if the group survives that.
func (m *planModel) kill(node placement.NodeID) bool {
	was := m.up[node]
	m.up[node] = false
	if !m.works() {
		m.up[node] = was
		return false
	}
	return true
}

func (m *planModel) view() planView {
	v := planView{
		Self: m.leader, Joint: m.next != nil, Wish: m.wish(), Target: m.target,
		Live: m.up, Removed: m.removed, NoLead: m.noLead, Avoid: m.avoid, Stable: m.stable, Replicas: slices.Clone(m.replicas),
	}
	for i := range v.Replicas {
		r := &v.Replicas[i]
		r.Live = m.up[r.Node]
		r.CaughtUp = r.CaughtUp || r.Node == m.leader
	}
	return v
}

func (m *planModel) notef(format string, args ...any) { fmt.Fprintf(&m.trace, format+"\n", args...) }

func (m *planModel) fatalf(format string, args ...any) {
	m.t.Helper()
	m.t.Fatalf("%s\n%s", fmt.Sprintf(format, args...), m.trace.String())
}

func (m *planModel) describe() string {
	var parts []string
	for _, r := range m.replicas {
		word := fmt.Sprintf("%d", r.Node)
		if !r.Voter {
			word += " learns"
		}
		if !m.up[r.Node] {
			word += " dead"
		}
		if m.removed[r.Node] {
			word += " removed"
		}
		if m.noLead[r.Node] {
			word += " must not lead"
		}
		parts = append(parts, word)
	}
	return fmt.Sprintf("leader %d of [%s], wish %v", m.leader, strings.Join(parts, ", "), m.wish())
}

// step lets one moment pass: an election, an action, news from the learners.
func (m *planModel) step() action {
	m.t.Helper()
	if !m.works() {
		m.fatalf("the group has no live quorum: %s", m.describe())
	}
	if m.next != nil {
		m.leave()
		return action{Kind: actChange}
	}
	if lead := m.at(m.leader); lead == nil || !lead.Voter || !m.up[m.leader] {
		live := slices.DeleteFunc(m.voters(), func(n placement.NodeID) bool { return !m.up[n] })
		m.leader = live[m.random.IntN(len(live))]
		m.stable = false
		m.notef("elected: %s", m.describe())
	}
	a := plan(m.view())
	if a.Kind != actNone {
		m.notef("%s: %s", m.describe(), a)
	}
	m.apply(a)
	for i := range m.replicas {
		if r := &m.replicas[i]; !m.up[r.Node] {
			r.CaughtUp = false
		} else if m.random.IntN(2) == 0 {
			r.CaughtUp = true
		}
	}
	return a
}

func (m *planModel) apply(a action) {
	m.t.Helper()
	switch a.Kind {
	case actNone:
	case actAddLearner:
		if m.at(a.Node) != nil || !m.up[a.Node] || m.removed[a.Node] || !slices.Contains(m.wish(), a.Node) {
			m.fatalf("%s was not to be added", a.Node)
		}
		m.add(a.Node, false)
	case actRemoveLearner:
		if r := m.at(a.Node); r == nil || r.Voter {
			m.fatalf("%s is no learner", a.Node)
		}
		m.drop(a.Node)
	case actTransfer:
		if r := m.at(a.Node); r == nil || !r.Voter || !m.up[a.Node] || !r.CaughtUp || m.noLead[a.Node] || a.Node == m.leader {
			m.fatalf("%s can't lead", a.Node)
		}
		m.leader = a.Node
		m.stable = false
	case actChange:
		m.change(a)
	}
}

func (m *planModel) drop(node placement.NodeID) {
	m.replicas = slices.DeleteFunc(m.replicas, func(r replicaView) bool { return r.Node == node })
}

// change enters a change of the voters, after checking it.
func (m *planModel) change(a action) {
	m.t.Helper()
	before := m.voters()
	next := slices.Clone(before)
	for _, node := range a.Promote {
		if r := m.at(node); r == nil || r.Voter || !m.up[node] || !r.CaughtUp {
			m.fatalf("%s can't be promoted", node)
		}
		next = append(next, node)
	}
	for _, node := range slices.Concat(a.Demote, a.Remove) {
		if !slices.Contains(before, node) || node == m.leader {
			m.fatalf("%s can't go", node)
		}
		next = slices.DeleteFunc(next, func(n placement.NodeID) bool { return n == node })
	}
	if slices.Equal(before, next) {
		m.fatalf("a change that changes nothing")
	}
	if !m.quorum(next) {
		m.fatalf("of the next voters %v too few are alive", next)
	}
	if stay := len(before) - m.countRemoved(before); len(next) < odd(stay) {
		m.fatalf("from %v to %v voters: fewer, though only %d were removed", before, next, m.countRemoved(before))
	}
	m.next, m.demoted = next, a.Demote
}

func (m *planModel) countRemoved(nodes []placement.NodeID) int {
	n := 0
	for _, node := range nodes {
		if m.removed[node] {
			n++
		}
	}
	return n
}

// leave ends the joint change.
func (m *planModel) leave() {
	old := m.voters()
	for i := range m.replicas {
		m.replicas[i].Voter = slices.Contains(m.next, m.replicas[i].Node)
	}
	for _, node := range old {
		if !slices.Contains(m.next, node) && !slices.Contains(m.demoted, node) {
			m.drop(node)
		}
	}
	m.next, m.demoted = nil, nil
}

// disturb does something to a node that the group survives.
func (m *planModel) disturb() {
	node := m.order[m.random.IntN(len(m.order))]
	switch m.random.IntN(8) {
	case 0, 1:
		if m.kill(node) {
			m.notef("%d dies", node)
		}
	case 2:
		m.up[node] = true
		m.notef("%d comes back", node)
	case 3:
		// Only who has been dead for long leaves the ring by itself; a removed one leaves it too.
		if m.up[node] && !m.removed[node] && !m.inRing[node] {
			m.inRing[node], m.stable = true, false
			m.notef("%d joins the ring", node)
		} else if !m.up[node] && m.inRing[node] {
			m.inRing[node], m.stable = false, false
			m.notef("%d leaves the ring", node)
		}
	case 4:
		if m.random.IntN(3) == 0 {
			m.remove(node)
		}
	case 5:
		if m.random.IntN(3) == 0 {
			m.shuffle()
			m.notef("the ring changes to %v", m.wish())
		}
	case 6:
		m.noLead[node] = !m.noLead[node]
		m.notef("%d must not lead: %t", node, m.noLead[node])
	case 7:
		m.avoid[node] = Reluctance(m.random.IntN(int(noLead)))
		m.notef("%d had better not lead: %d", node, m.avoid[node])
	}
}

// remove removes a node for good, if others are left.
func (m *planModel) remove(node placement.NodeID) {
	members := slices.DeleteFunc(slices.Clone(m.order), func(n placement.NodeID) bool { return m.removed[n] || !m.inRing[n] || n == node })
	if len(members) > 0 {
		m.removed[node], m.inRing[node], m.stable = true, false, false
		m.notef("%d is removed for good", node)
	}
}

// calm lets every node that the ring wishes live, and a majority of those that are to vote. It says
// how many that will be.
func (m *planModel) calm() int {
	for _, node := range m.order {
		if !m.removed[node] && !m.inRing[node] && len(m.wish()) == 0 {
			m.inRing[node] = true
		}
	}
	for _, node := range m.wish() {
		m.up[node] = true
	}
	clear(m.noLead)
	maps.DeleteFunc(m.avoid, func(_ placement.NodeID, r Reluctance) bool { return r == DiskLow }) // Nothing is put there.
	for m.next != nil {
		m.leave()
	}
	stay := slices.DeleteFunc(m.voters(), func(n placement.NodeID) bool { return m.removed[n] })
	count := max(odd(len(m.wish())), odd(len(stay)))
	live := len(m.wish())
	for _, node := range stay {
		if !slices.Contains(m.wish(), node) && (m.up[node] || live <= count/2) {
			m.up[node] = true
			live++
		}
	}
	return count
}

// settle runs until nothing is left to do.
func (m *planModel) settle(steps int) {
	m.t.Helper()
	for quiet := 0; quiet < 5; {
		if steps--; steps < 0 {
			m.fatalf("not done after too many steps: %s", m.describe())
		}
		if m.step().Kind == actNone && m.caughtUp() {
			quiet++
			m.stable = true
		} else {
			quiet = 0
		}
	}
}

func (m *planModel) caughtUp() bool {
	return !slices.ContainsFunc(m.replicas, func(r replicaView) bool { return m.up[r.Node] && !r.CaughtUp })
}

func FuzzPlanReachesWhatTheRingWishes(f *testing.F) {
	for seed := range uint64(1000) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, seed uint64) {
		m := newPlanModel(t, rand.New(rand.NewPCG(seed, 0)))
		m.notef("at first: %s", m.describe())
		for range m.random.IntN(60) {
			if m.random.IntN(3) == 0 {
				m.disturb()
			}
			m.stable = m.stable || m.random.IntN(4) == 0
			m.step()
		}
		count := m.calm()
		m.notef("calm: %s", m.describe())
		m.settle(100)

		wish, voters := m.wish(), m.voters()
		if len(voters) < count || len(voters) != odd(len(voters)) {
			m.fatalf("%d voters, want %d: %s", len(voters), count, m.describe())
		}
		for i, node := range wish {
			switch r := m.at(node); {
			case r == nil:
				m.fatalf("no replica on %d: %s", node, m.describe())
			case len(m.avoid) == 0 && i < min(count, odd(len(wish))) && !r.Voter:
				m.fatalf("%d does not vote: %s", node, m.describe())
			}
		}
		for _, r := range m.replicas {
			if m.removed[r.Node] || !r.Voter && !slices.Contains(wish, r.Node) {
				m.fatalf("%d still has a replica: %s", r.Node, m.describe())
			}
		}
		first := wish[0]
		for _, node := range wish {
			if m.avoid[node] < m.avoid[first] {
				first = node
			}
		}
		// Who is no choice of the ring's leads only where it is the more willing.
		if m.leader != first && (slices.Contains(wish, m.leader) || m.avoid[m.leader] >= m.avoid[first]) {
			m.fatalf("%d does not lead, reluctant %v: %s", first, m.avoid, m.describe())
		}
	})
}

// group makes a model of nodes that all live, of which the given ones vote and the first leads.
func group(t *testing.T, target int, voters []placement.NodeID, wish ...placement.NodeID) *planModel {
	t.Helper()
	m := &planModel{
		t: t, random: rand.New(rand.NewPCG(1, 1)), target: target, nextID: 1, order: wish, leader: voters[0],
		inRing: make(map[placement.NodeID]bool), up: make(map[placement.NodeID]bool),
		removed: make(map[placement.NodeID]bool), noLead: make(map[placement.NodeID]bool),
		avoid: make(map[placement.NodeID]Reluctance),
	}
	for _, node := range wish {
		m.inRing[node], m.up[node] = true, true
	}
	for _, node := range voters {
		m.up[node] = true
		m.add(node, true)
	}
	for i := range m.replicas {
		m.replicas[i].CaughtUp = true
	}
	return m
}

// actions runs the model until nothing is left to do, and returns what was done.
func (m *planModel) actions() []string {
	m.t.Helper()
	var out []string
	for quiet := 0; quiet < 5; {
		joint := m.next != nil
		a := m.step()
		if joint {
			continue
		}
		if a.Kind == actNone && m.caughtUp() {
			quiet++
			m.stable = true
			continue
		}
		quiet = 0
		if a.Kind != actNone {
			out = append(out, strings.ReplaceAll(a.String(), "000000000000000", ""))
		}
		if len(out) > 50 {
			m.fatalf("it does not end")
		}
	}
	return out
}

func TestPlanSteps(t *testing.T) {
	t.Parallel()
	nodes := func(ids ...placement.NodeID) []placement.NodeID { return ids }
	for _, tc := range []struct {
		name  string
		model *planModel
		want  []string
	}{
		{"alone", group(t, 3, nodes(1), 1), nil},
		{"one and a learner on two", group(t, 3, nodes(1), 1, 2), []string{"adding a replica on 2"}},
		{
			"from one voter to three in one change", group(t, 3, nodes(1), 1, 2, 3),
			[]string{"adding a replica on 2", "adding a replica on 3", "promoting [2 3]"},
		},
		{
			"from three to five in one change", group(t, 5, nodes(1, 2, 3), 1, 2, 3, 4, 5),
			[]string{"adding a replica on 4", "adding a replica on 5", "promoting [4 5]"},
		},
		{
			"three voters and a learner on four", group(t, 4, nodes(1, 2, 3), 1, 2, 3, 4),
			[]string{"adding a replica on 4"},
		},
		{
			"the only vote moves by way of both", group(t, 3, nodes(1), 2, 1),
			[]string{"adding a replica on 2", "promoting [2]", "moving ownership to 2", "demoting [1]"},
		},
		{
			"one of three is replaced at once", group(t, 3, nodes(1, 2, 3), 1, 2, 4),
			[]string{"adding a replica on 4", "promoting [4], removing [3]"},
		},
		{
			"a leader that is to go hands over first", group(t, 3, nodes(1, 2, 3), 2, 3, 4),
			[]string{"adding a replica on 4", "moving ownership to 2", "promoting [4], removing [1]"},
		},
		{
			"where all are to go there are never more voters than it takes, and three in the end", group(t, 3, nodes(1, 2, 3), 4, 5, 6),
			[]string{
				"adding a replica on 4", "adding a replica on 5", "adding a replica on 6", "promoting [4]", "moving ownership to 4",
				"promoting [5 6], removing [1 2 3]",
			},
		},
		{
			"ownership follows the first choice", group(t, 3, nodes(1, 2, 3), 3, 2, 1),
			[]string{"moving ownership to 3"},
		},
		{"voters do not become fewer because the ring has fewer", group(t, 3, nodes(1, 2, 3), 1, 2), nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tc.model.t = t
			if diff := cmp.Diff(tc.want, tc.model.actions()); diff != "" {
				t.Errorf("(-want +got):\n%s\n%s", diff, tc.model.trace.String())
			}
		})
	}
}

func TestPlanKeepsDeadVotersWhereNobodyCanReplaceThem(t *testing.T) {
	t.Parallel()
	m := group(t, 3, []placement.NodeID{1, 2, 3}, 1, 2, 3)
	m.up[3] = false
	if got := m.actions(); len(got) > 0 {
		t.Errorf("while the ring has it: %v", got)
	}
	m.inRing[3] = false
	if got := m.actions(); len(got) > 0 {
		t.Errorf("when the ring has lost it: %v", got)
	}
	m.removed[3] = true
	want := []string{"demoting [2], removing [3]"}
	if diff := cmp.Diff(want, m.actions()); diff != "" {
		t.Errorf("when it was removed for good (-want +got):\n%s", diff)
	}
}

func TestPlanReplacesADeadVoterOnAnotherNode(t *testing.T) {
	t.Parallel()
	m := group(t, 3, []placement.NodeID{1, 2, 3}, 1, 2, 3, 4)
	m.up[3], m.inRing[3] = false, false
	want := []string{"adding a replica on 4", "promoting [4], removing [3]"}
	if diff := cmp.Diff(want, m.actions()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestPlanWaitsForWhatIsUnderWay(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(v *planView){
		"a joint change":                  func(v *planView) { v.Joint = true },
		"a learner that is not caught up": func(v *planView) { v.Replicas[3].CaughtUp = false },
		"a learner that is dead":          func(v *planView) { v.Replicas[3].Live = false },
	} {
		v := planView{
			Self: 1, Wish: []placement.NodeID{1, 2, 4}, Target: 3, Stable: true,
			Live: map[placement.NodeID]bool{1: true, 2: true, 3: true, 4: true},
			Replicas: []replicaView{
				{ID: 1, Node: 1, Voter: true, Live: true, CaughtUp: true},
				{ID: 2, Node: 2, Voter: true, Live: true, CaughtUp: true},
				{ID: 3, Node: 3, Voter: true, Live: true, CaughtUp: true},
				{ID: 4, Node: 4, Live: true, CaughtUp: true},
			},
		}
		if got := plan(v); got.Kind != actChange {
			t.Fatalf("%s: beforehand got %q", name, got)
		}
		change(&v)
		if got := plan(v); got.Kind != actNone {
			t.Errorf("%s: got %q", name, got)
		}
	}
}

// Two are removed for good while two others are dead: what would be left could not go on.
func TestPlanKeepsALiveQuorum(t *testing.T) {
	t.Parallel()
	m := group(t, 3, []placement.NodeID{1, 2, 3, 4, 5}, 1)
	m.up[4], m.up[5] = false, false
	m.removed[2], m.removed[3] = true, true
	if got := m.actions(); len(got) > 0 {
		t.Errorf("got %v", got)
	}
	m.up[5] = true
	want := []string{"removing [2 3]"}
	if diff := cmp.Diff(want, m.actions()); diff != "" {
		t.Errorf("when one is back (-want +got):\n%s", diff)
	}
}

// A replica is added only where there is room for it.
func TestPlanAddsWhereThereIsRoom(t *testing.T) {
	t.Parallel()
	m := group(t, 3, []placement.NodeID{1}, 1, 2, 3)
	m.avoid[3] = DiskLow
	want := []string{"adding a replica on 2"}
	if diff := cmp.Diff(want, m.actions()); diff != "" {
		t.Errorf("while there is none (-want +got):\n%s", diff)
	}
	m.avoid[3] = Drained
	want = []string{"adding a replica on 3", "promoting [2 3]"}
	if diff := cmp.Diff(want, m.actions()); diff != "" {
		t.Errorf("afterwards (-want +got):\n%s", diff)
	}
}

func TestHasRoom(t *testing.T) {
	t.Parallel()
	d := descriptor{
		Replicas: []replicaAddr{{ID: 1, Node: 11}, {ID: 2, Node: 12}, {ID: 3, Node: 13}, {ID: 4, Node: 14}},
		Conf:     confState{Voters: []uint64{1, 2, 3}, Learners: []uint64{4}},
	}
	joint := d
	joint.Conf.VotersOutgoing = []uint64{4}
	for _, tc := range []struct {
		d    *descriptor
		full []placement.NodeID
		want bool
	}{
		{&d, nil, true},
		{&d, []placement.NodeID{11}, true},
		{&d, []placement.NodeID{11, 14}, true},
		{&d, []placement.NodeID{11, 13}, false},
		{&joint, []placement.NodeID{12}, true},
		{&joint, []placement.NodeID{14}, false},
	} {
		full := make(map[placement.NodeID]bool)
		for _, node := range tc.full {
			full[node] = true
		}
		if got := hasRoom(tc.d, full); got != tc.want {
			t.Errorf("%+v with %v full: %t", tc.d.Conf, tc.full, got)
		}
	}
}

func TestPlanMovesOwnershipOnlyToWhoCanOwn(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name   string
		change func(v *planView)
		want   string
	}{
		{"to the first choice", func(*planView) {}, "moving ownership to 2"},
		{"not while the ring changes", func(v *planView) { v.Stable = false }, ""},
		{"not to a dead node", func(v *planView) { v.Replicas[1].Live = false }, ""},
		{"not to one behind", func(v *planView) { v.Replicas[1].CaughtUp = false }, ""},
		{"not to one that must not lead", func(v *planView) { v.NoLead = map[placement.NodeID]bool{2: true} }, ""},
		{"away from one that must not lead, at once", func(v *planView) {
			v.NoLead, v.Stable = map[placement.NodeID]bool{1: true}, false
		}, "moving ownership to 2"},
		{"to the next where the first must not lead either", func(v *planView) {
			v.NoLead = map[placement.NodeID]bool{1: true, 2: true}
		}, "moving ownership to 3"},
		{"not where nobody may lead", func(v *planView) {
			v.NoLead = map[placement.NodeID]bool{1: true, 2: true, 3: true}
		}, ""},
		{"not to a drained one", func(v *planView) { v.Avoid = map[placement.NodeID]Reluctance{2: Drained} }, ""},
		{"away from a drained one, at once", func(v *planView) {
			v.Avoid, v.Stable = map[placement.NodeID]Reluctance{1: Drained}, false
		}, "moving ownership to 2"},
		{"to the next where the first is drained too", func(v *planView) {
			v.Avoid = map[placement.NodeID]Reluctance{1: Drained, 2: Drained}
		}, "moving ownership to 3"},
		{"to the ring's choice where all are drained", func(v *planView) {
			v.Avoid = map[placement.NodeID]Reluctance{1: Drained, 2: Drained, 3: Drained}
		}, "moving ownership to 2"},
		{"not off a drained one where the others are dead", func(v *planView) {
			v.Avoid = map[placement.NodeID]Reluctance{1: Drained}
			v.Replicas[1].Live, v.Replicas[2].Live = false, false
		}, ""},
		{"from one without room to a drained one", func(v *planView) {
			v.Avoid = map[placement.NodeID]Reluctance{1: DiskLow, 2: Drained, 3: Drained}
		}, "moving ownership to 2"},
		{"not from a drained one to one without room", func(v *planView) {
			v.Avoid = map[placement.NodeID]Reluctance{1: Drained, 2: DiskLow, 3: DiskLow}
		}, ""},
		{"from one that must not lead to a drained one", func(v *planView) {
			v.NoLead, v.Avoid = map[placement.NodeID]bool{1: true, 2: true}, map[placement.NodeID]Reluctance{3: Drained}
		}, "moving ownership to 3"},
		{"not with nothing wished", func(v *planView) { v.Wish = nil }, ""},
	} {
		v := planView{
			Self: 1, Wish: []placement.NodeID{2, 1, 3}, Target: 3, Stable: true,
			Live: map[placement.NodeID]bool{1: true, 2: true, 3: true},
			Replicas: []replicaView{
				{ID: 1, Node: 1, Voter: true, Live: true, CaughtUp: true},
				{ID: 2, Node: 2, Voter: true, Live: true, CaughtUp: true},
				{ID: 3, Node: 3, Voter: true, Live: true, CaughtUp: true},
			},
		}
		tc.change(&v)
		if got := strings.ReplaceAll(plan(v).String(), "000000000000000", ""); got != tc.want {
			t.Errorf("%s: got %q, want %q", tc.name, got, tc.want)
		}
	}
}
