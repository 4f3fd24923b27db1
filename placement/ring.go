package placement

import (
	"slices"

	"github.com/buraksezer/consistent"
	"github.com/cespare/xxhash/v2"
)

// Ring says which members should own and replicate each shard: a wish that Raft's own membership
// changes are steered towards, never a decision.
//
// The k-th replica of a shard is its owner in the ring without the first k owners, so the heir of
// a member that dies is already a replica. It is immutable and safe for concurrent use, and a
// function of the set of members alone.
type Ring struct {
	shards  int
	members []NodeID
	chains  [][]NodeID // by shard: replicas in order of preference, at most chainMax
}

const (
	// chainMax bounds the successor chain: no shard has more replicas.
	chainMax = 7
	// ringPoints and ringLoad are the library's defaults, pinned here because every node must
	// compute the same ring, also after an upgrade of the library.
	ringPoints = 20
	ringLoad   = 1.25
)

// NewRing computes the ring of the members, in any order, duplicates ignored. It takes
// milliseconds for 10 members and 256 shards, and up to a second for 50: call it when the members
// change, off the path of calls. replicas bounds how long a chain anybody will ask for, 1 to 7.
func NewRing(members []NodeID, shards, replicas int) *Ring {
	sorted := slices.Clone(members)
	slices.Sort(sorted)
	sorted = slices.Compact(sorted)
	r := &Ring{shards: shards, members: sorted, chains: make([][]NodeID, shards)}
	depth := min(replicas, chainMax, len(sorted))
	for shard := range r.chains {
		r.chains[shard] = make([]NodeID, 0, depth)
	}
	if depth == 0 {
		return r
	}
	// Shards with the same owners so far need the same smaller ring: each is computed once.
	type group struct {
		excluded string
		shards   []int
	}
	all := make([]int, shards)
	for i := range all {
		all[i] = i
	}
	groups := []group{{shards: all}}
	for range depth {
		next := make(map[string][]int)
		var order []string
		for _, g := range groups {
			owners := r.owners(r.chains[g.shards[0]])
			for _, shard := range g.shards {
				r.chains[shard] = append(r.chains[shard], owners[shard])
				key := exclusionKey(r.chains[shard])
				if next[key] == nil {
					order = append(order, key)
				}
				next[key] = append(next[key], shard)
			}
		}
		groups = groups[:0:0]
		for _, key := range order {
			groups = append(groups, group{excluded: key, shards: next[key]})
		}
	}
	return r
}

// owners returns the owner of every shard in the ring without the excluded members.
func (r *Ring) owners(excluded []NodeID) []NodeID {
	var members []consistent.Member
	var ids []NodeID
	for _, id := range r.members {
		if !slices.Contains(excluded, id) {
			members = append(members, ringMember(id))
			ids = append(ids, id)
		}
	}
	owners := make([]NodeID, r.shards)
	if len(ids) == 1 {
		for i := range owners {
			owners[i] = ids[0]
		}
		return owners
	}
	c := consistent.New(members, consistent.Config{
		Hasher:            ringHasher{},
		PartitionCount:    r.shards,
		ReplicationFactor: ringPoints,
		Load:              ringLoad,
	})
	for shard := range owners {
		owners[shard] = NodeID(c.GetPartitionOwner(shard).(ringMember))
	}
	return owners
}

// exclusionKey is the same for the same set of nodes in whatever order.
func exclusionKey(nodes []NodeID) string {
	sorted := slices.Clone(nodes)
	slices.Sort(sorted)
	key := make([]byte, 0, 8*len(sorted))
	for _, id := range sorted {
		key = append(key, id.String()...)
	}
	return string(key)
}

// Owner returns the member that should own the shard; false when the ring is empty.
func (r *Ring) Owner(shard ShardID) (NodeID, bool) {
	chain := r.chains[shard]
	if len(chain) == 0 {
		return 0, false
	}
	return chain[0], true
}

// Replicas returns the first k members of the shard's successor chain, fewer when there are fewer
// members or the ring was made for fewer. The caller must not modify it.
func (r *Ring) Replicas(shard ShardID, k int) []NodeID {
	chain := r.chains[shard]
	return chain[:min(k, len(chain))]
}

// Members returns the members, sorted. The caller must not modify it.
func (r *Ring) Members() []NodeID { return r.members }

// Shards returns the number of shards.
func (r *Ring) Shards() int { return r.shards }

// ringMember implements consistent.Member.
type ringMember NodeID

// String implements consistent.Member.
func (m ringMember) String() string { return NodeID(m).String() }

// ringHasher implements consistent.Hasher. The function is part of the placement contract.
type ringHasher struct{}

// Sum64 implements consistent.Hasher.
func (ringHasher) Sum64(b []byte) uint64 { return xxhash.Sum64(b) }
