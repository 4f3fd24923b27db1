package placement_test

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-io/holdfast/placement"
)

// chains lists the replicas of every shard.
func chains(r *placement.Ring, k int) [][]placement.NodeID {
	out := make([][]placement.NodeID, r.Shards())
	for shard := range out {
		out[shard] = r.Replicas(placement.ShardID(shard), k)
	}
	return out
}

func without(members []placement.NodeID, gone ...placement.NodeID) []placement.NodeID {
	var out []placement.NodeID
	for _, m := range members {
		if !slices.Contains(gone, m) {
			out = append(out, m)
		}
	}
	return out
}

// checkShape checks what holds for the ring of any members.
func checkShape(t *testing.T, r *placement.Ring, members []placement.NodeID, shards, replicas int) {
	t.Helper()
	if diff := cmp.Diff(slices.Sorted(slices.Values(members)), r.Members()); diff != "" && len(members) > 0 {
		t.Fatalf("members (-want +got):\n%s", diff)
	}
	if r.Shards() != shards {
		t.Fatalf("got %d shards, want %d", r.Shards(), shards)
	}
	owned := make(map[placement.NodeID]int)
	for shard := range placement.ShardID(shards) {
		chain := r.Replicas(shard, replicas)
		if len(chain) != min(replicas, len(members)) {
			t.Fatalf("shard %d: got %d replicas, want %d of %d members", shard, len(chain), replicas, len(members))
		}
		for i, node := range chain {
			if !slices.Contains(members, node) || slices.Contains(chain[:i], node) {
				t.Fatalf("shard %d: %v is no choice among %v", shard, chain, members)
			}
		}
		for k := range chain {
			if !slices.Equal(r.Replicas(shard, k), chain[:k]) {
				t.Fatalf("shard %d: the first %d of %v are %v", shard, k, chain, r.Replicas(shard, k))
			}
		}
		owner, ok := r.Owner(shard)
		if ok != (len(chain) > 0) || ok && owner != chain[0] {
			t.Fatalf("shard %d: owner %v, %t of %v", shard, owner, ok, chain)
		}
		owned[owner]++
	}
	if len(members) == 0 {
		return
	}
	most := max(2, 2*shards/len(members))
	for node, n := range owned {
		if n > most {
			t.Errorf("%v owns %d of %d shards among %d members, want at most %d", node, n, shards, len(members), most)
		}
	}
}

// checkHeirs checks that whoever follows when owners are gone had the shard's data before.
func checkHeirs(t *testing.T, r *placement.Ring, replicas int, shard placement.ShardID) {
	t.Helper()
	chain := r.Replicas(shard, replicas)
	for k := 1; k < len(chain); k++ {
		rest := placement.NewRing(without(r.Members(), chain[:k]...), r.Shards(), 1)
		if heir, ok := rest.Owner(shard); !ok || heir != chain[k] {
			t.Errorf("shard %d: without %v the owner is %v, want %v", shard, chain[:k], heir, chain[k])
		}
	}
}

func FuzzRing(f *testing.F) {
	f.Add(uint64(1), uint16(64), uint8(3), uint8(3))
	f.Add(uint64(2), uint16(1), uint8(5), uint8(7))
	f.Add(uint64(3), uint16(3), uint8(9), uint8(3))
	f.Add(uint64(4), uint16(100), uint8(1), uint8(3))
	f.Add(uint64(5), uint16(256), uint8(10), uint8(1))
	f.Add(uint64(6), uint16(128), uint8(0), uint8(5))
	f.Add(uint64(7), uint16(97), uint8(7), uint8(5))
	f.Fuzz(func(t *testing.T, seed uint64, shardsIn uint16, membersIn, replicasIn uint8) {
		shards, count, replicas := 1+int(shardsIn)%256, int(membersIn)%11, 1+int(replicasIn)%7
		random := rand.New(rand.NewPCG(seed, 0))
		var members []placement.NodeID
		for len(members) < count {
			if id := placement.NodeID(random.Uint64() >> random.IntN(64)); id != 0 && !slices.Contains(members, id) {
				members = append(members, id)
			}
		}
		ring := placement.NewRing(members, shards, replicas)
		checkShape(t, ring, members, shards, replicas)

		// In another order, and named twice, they are the same set.
		given := slices.Concat(members, members[:count/2])
		random.Shuffle(len(given), func(i, j int) { given[i], given[j] = given[j], given[i] })
		before := slices.Clone(given)
		again := placement.NewRing(given, shards, replicas)
		if diff := cmp.Diff(chains(ring, replicas), chains(again, replicas)); diff != "" {
			t.Fatalf("the order of %v matters (-first +shuffled):\n%s", members, diff)
		}
		if !slices.Equal(given, before) {
			t.Fatal("the caller's slice was changed")
		}

		// Who asks for fewer replicas gets the beginning of the same chain.
		fewer := 1 + random.IntN(replicas)
		if diff := cmp.Diff(chains(ring, fewer), chains(placement.NewRing(members, shards, fewer), fewer)); diff != "" {
			t.Fatalf("the first %d of %d replicas differ (-long +short):\n%s", fewer, replicas, diff)
		}
		checkHeirs(t, ring, replicas, placement.ShardID(random.IntN(shards)))

		// However it came to be, a set of members has one ring.
		now := slices.Clone(members)
		for range random.IntN(4) {
			if i := random.IntN(len(now) + 1); i < len(now) {
				now = slices.Delete(now, i, i+1)
			} else {
				now = append(now, placement.NodeID(1+random.Uint64()>>1))
			}
			random.Shuffle(len(now), func(i, j int) { now[i], now[j] = now[j], now[i] })
			changed := placement.NewRing(now, shards, replicas)
			checkShape(t, changed, now, shards, replicas)
			sorted := slices.Sorted(slices.Values(now))
			if diff := cmp.Diff(chains(placement.NewRing(sorted, shards, replicas), replicas), chains(changed, replicas)); diff != "" {
				t.Fatalf("the order in which %v came matters (-sorted +got):\n%s", now, diff)
			}
		}
	})
}

func sequence(n int) []placement.NodeID {
	members := make([]placement.NodeID, n)
	for i := range members {
		members[i] = placement.NodeID(0x1000 + i)
	}
	return members
}

// Every node must compute the same ring, whatever its version.
func TestRingNeverChanges(t *testing.T) {
	t.Parallel()
	small := placement.NewRing(sequence(4), 8, 3)
	want := [][]placement.NodeID{
		{0x1001, 0x1002, 0x1000},
		{0x1002, 0x1003, 0x1000},
		{0x1000, 0x1001, 0x1003},
		{0x1000, 0x1003, 0x1001},
		{0x1000, 0x1001, 0x1002},
		{0x1003, 0x1001, 0x1002},
		{0x1001, 0x1002, 0x1003},
		{0x1002, 0x1000, 0x1001},
	}
	if diff := cmp.Diff(want, chains(small, 3)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	h := sha256.New()
	_, _ = fmt.Fprint(h, chains(placement.NewRing(sequence(7), 256, 5), 5)) // A hash takes everything.
	if got, want := hex.EncodeToString(h.Sum(nil)), "39787d769088deb48d095825e11820069c9eeed1e4bc4164413d262a8dbcae4e"; got != want {
		t.Errorf("7 members, 256 shards: got %s, want %s", got, want)
	}
}

func TestRingWithoutMembersHasNoOwner(t *testing.T) {
	t.Parallel()
	r := placement.NewRing(nil, 16, 3)
	checkShape(t, r, nil, 16, 3)
	if owner, ok := r.Owner(0); ok || owner != 0 {
		t.Errorf("got %v, %t", owner, ok)
	}
}

func TestMembersMayOutnumberShards(t *testing.T) {
	t.Parallel()
	for _, shards := range []int{1, 2, 3, 8} {
		for _, n := range []int{shards, shards + 1, 4 * shards, 40} {
			r := placement.NewRing(sequence(n), shards, 3)
			checkShape(t, r, sequence(n), shards, 3)
			checkHeirs(t, r, 3, placement.ShardID(shards-1))
		}
	}
}

func TestNoShardHasMoreThanSevenReplicas(t *testing.T) {
	t.Parallel()
	r := placement.NewRing(sequence(9), 4, 100)
	for shard := range placement.ShardID(4) {
		if got := len(r.Replicas(shard, 100)); got != 7 {
			t.Errorf("shard %d: got %d replicas, want 7", shard, got)
		}
	}
}

func TestEveryHeirOfADeadMemberWasAReplica(t *testing.T) {
	t.Parallel()
	for _, n := range []int{2, 3, 5, 8} {
		const shards = 128
		whole := placement.NewRing(sequence(n), shards, 3)
		for _, dead := range sequence(n) {
			rest := placement.NewRing(without(sequence(n), dead), shards, 1)
			for shard := range placement.ShardID(shards) {
				if owner, _ := whole.Owner(shard); owner != dead {
					continue
				}
				heir, _ := rest.Owner(shard)
				if !slices.Contains(whole.Replicas(shard, 3), heir) {
					t.Errorf("%d members: %v inherits shard %d from %v without being its replica", n, heir, shard, dead)
				}
			}
		}
	}
}

// A ring that dealt shards out afresh with every change would be correct and useless.
func TestAChangeOfMembersMovesFewReplicas(t *testing.T) {
	t.Parallel()
	const shards, replicas = 256, 3
	for n := 4; n <= 9; n++ {
		smaller := chains(placement.NewRing(sequence(n), shards, replicas), replicas)
		larger := chains(placement.NewRing(sequence(n+1), shards, replicas), replicas)
		moved := 0
		for shard := range smaller {
			for _, node := range larger[shard] {
				if !slices.Contains(smaller[shard], node) {
					moved++
				}
			}
		}
		least := shards * replicas / (n + 1)
		if moved > 3*least/2 {
			t.Errorf("from %d to %d members: %d of %d replicas moved, at least %d must", n, n+1, moved, shards*replicas, least)
		}
	}
}
