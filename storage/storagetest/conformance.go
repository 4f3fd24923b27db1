package storagetest

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/holdfast-io/holdfast/placement"
	"github.com/holdfast-io/holdfast/storage"
)

// Machine is a computer with a store on it.
type Machine interface {
	// Open opens the store.
	Open() (*storage.Store, error)
	// Crash is a power cut while the store is open: some part of what was not synced remains, as
	// rng has it.
	Crash(rng *rand.Rand)
}

// Run holds an engine to what the rest of the code counts on. newMachine returns a machine with an
// empty disk.
func Run(t *testing.T, newMachine func(t *testing.T) Machine) {
	t.Helper()
	for _, test := range []struct {
		name string
		run  func(t *testing.T, m Machine)
	}{
		{"iterators walk both ways within their bounds", testIter},
		{"a range is deleted as far as written before", testDeleteRange},
		{"iterators and snapshots see one moment", testOneMoment},
		{"what has begun can be read, and is durable when synced", testBegin},
		{"a replacement takes effect whole and is durable", func(t *testing.T, m Machine) { t.Helper(); testReplace(t, m, "new") }},
		{"a large replacement takes effect whole and is durable", func(t *testing.T, m Machine) {
			t.Helper()
			testReplace(t, m, strings.Repeat("new", 1<<20))
		}},
		{"the keys of a replacement ascend and are in its range", testReplaceOrder},
		{"a replacement that is given up changes nothing", testAbort},
		{"the boot counter never goes back", testBoot},
		{"power cuts leave a prefix", testPowerCuts},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, newMachine(t)) })
	}
}

func open(t *testing.T, m Machine) *storage.Store {
	t.Helper()
	s, err := m.Open()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func closeStore(t *testing.T, s *storage.Store) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// The tests write log entries of shards, whose keys sort by index; shard 2 is the one replaced.
const testShard = 2

func testKey(shard placement.ShardID, n int) []byte {
	return storage.LogKey(shard, uint64(n)) //nolint:gosec // not negative
}

func commit(t *testing.T, s *storage.Store, sync bool, fill func(b *storage.Batch)) {
	t.Helper()
	b := s.NewBatch()
	fill(b)
	if err := b.Commit(sync); err != nil {
		t.Fatal(err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
}

// contents returns everything of the test's shards, as text.
func contents(t *testing.T, it *storage.Iter, err error) string {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	defer it.Close()
	var out []string
	for ok := it.First(); ok; ok = it.Next() {
		out = append(out, fmt.Sprintf("%x=%s", it.Key(), it.Value()))
	}
	if err := it.Error(); err != nil {
		t.Fatal(err)
	}
	return strings.Join(out, " ")
}

func span() (lo, hi []byte) {
	lo, _ = storage.ShardSpan(testShard - 1)
	_, hi = storage.ShardSpan(testShard + 1)
	return lo, hi
}

func all(t *testing.T, s *storage.Store) string {
	t.Helper()
	it, err := s.Iter(span())
	return contents(t, it, err)
}

func testIter(t *testing.T, m Machine) {
	t.Helper()
	s := open(t, m)
	defer closeStore(t, s)
	commit(t, s, true, func(b *storage.Batch) {
		for n := range 10 {
			b.Set(testKey(testShard, 2*n), fmt.Append(nil, 2*n))
		}
	})
	it, err := s.Iter(testKey(testShard, 3), testKey(testShard, 12))
	if err != nil {
		t.Fatal(err)
	}
	defer it.Close()
	at := func(what string, ok bool, want string) {
		t.Helper()
		got := "end"
		if ok {
			got = string(it.Value())
		}
		if got != want || ok != it.Valid() {
			t.Errorf("%s: at %s (valid %v), want %s", what, got, it.Valid(), want)
		}
	}
	at("First", it.First(), "4")
	at("Next", it.Next(), "6")
	at("Prev", it.Prev(), "4")
	at("Prev over the bound", it.Prev(), "end")
	at("Last", it.Last(), "10")
	at("Next over the bound", it.Next(), "end")
	at("SeekGE a key", it.SeekGE(testKey(testShard, 6)), "6")
	at("SeekGE between", it.SeekGE(testKey(testShard, 7)), "8")
	at("SeekGE below the bound", it.SeekGE(testKey(testShard, 0)), "4")
	at("SeekGE above the bound", it.SeekGE(testKey(testShard, 16)), "end")
	at("SeekLT a key", it.SeekLT(testKey(testShard, 6)), "4")
	at("SeekLT above the bound", it.SeekLT(testKey(testShard, 19)), "10")
	at("SeekLT below the bound", it.SeekLT(testKey(testShard, 2)), "end")
	all, err := s.Iter(nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer all.Close()
	if !all.Last() || string(all.Value()) != "18" || !all.Prev() || string(all.Value()) != "16" {
		t.Error("an iterator without bounds does not come to the last keys")
	}
	if _, ok, err := s.Get(testKey(testShard, 7)); ok || err != nil {
		t.Errorf("Get of what is not there: %v, %v", ok, err)
	}
}

func testDeleteRange(t *testing.T, m Machine) {
	t.Helper()
	s := open(t, m)
	defer closeStore(t, s)
	commit(t, s, true, func(b *storage.Batch) {
		b.Set(testKey(testShard, 1), []byte("a"))
		b.Set(testKey(testShard, 2), []byte("b"))
	})
	commit(t, s, true, func(b *storage.Batch) {
		b.Set(testKey(testShard, 3), []byte("c"))
		b.DeleteRange(testKey(testShard, 2), testKey(testShard, 5))
		b.Set(testKey(testShard, 4), []byte("d"))
		b.Delete(testKey(testShard, 9))
	})
	want := fmt.Sprintf("%x=a %x=d", testKey(testShard, 1), testKey(testShard, 4))
	if got := all(t, s); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func testOneMoment(t *testing.T, m Machine) {
	t.Helper()
	s := open(t, m)
	defer closeStore(t, s)
	commit(t, s, false, func(b *storage.Batch) { b.Set(testKey(testShard, 1), []byte("old")) })
	snap := s.Snapshot()
	it, err := s.Iter(span())
	commit(t, s, true, func(b *storage.Batch) {
		b.Set(testKey(testShard, 1), []byte("new"))
		b.Set(testKey(testShard, 2), []byte("new"))
	})
	want := fmt.Sprintf("%x=old", testKey(testShard, 1))
	if got := contents(t, it, err); got != want {
		t.Errorf("the iterator shows %s", got)
	}
	it, err = snap.Iter(span())
	if got := contents(t, it, err); got != want {
		t.Errorf("the snapshot shows %s", got)
	}
	if got, _, _ := snap.Get(testKey(testShard, 1)); string(got) != "old" {
		t.Errorf("the snapshot has %s", got)
	}
	if err := snap.Close(); err != nil {
		t.Error(err)
	}
}

func testBegin(t *testing.T, m Machine) {
	t.Helper()
	s := open(t, m)
	b := s.NewBatch()
	b.Set(testKey(testShard, 1), []byte("v"))
	if err := b.Begin(); err != nil {
		t.Fatal(err)
	}
	if got, _, _ := s.Get(testKey(testShard, 1)); string(got) != "v" {
		t.Errorf("after Begin: %q", got)
	}
	if err := b.Sync(); err != nil {
		t.Fatal(err)
	}
	b.Reset()
	if !b.Empty() {
		t.Error("a batch that was reset is not empty")
	}
	b.Set(testKey(testShard, 2), []byte("never committed"))
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	m.Crash(rand.New(rand.NewPCG(1, 1)))
	s = open(t, m)
	defer closeStore(t, s)
	if got, want := all(t, s), fmt.Sprintf("%x=v", testKey(testShard, 1)); got != want {
		t.Errorf("after the power cut: %s", got)
	}
}

func testReplace(t *testing.T, m Machine, value string) {
	t.Helper()
	s := open(t, m)
	commit(t, s, true, func(b *storage.Batch) {
		b.Set(testKey(testShard-1, 1), []byte("before"))
		b.Set(testKey(testShard, 1), []byte("old"))
		b.Set(testKey(testShard, 2), []byte("old"))
		b.Set(testKey(testShard+1, 1), []byte("behind"))
	})
	in := s.NewIngest(testShard)
	if err := in.Add(testKey(testShard, 2), []byte(value)); err != nil {
		t.Fatal(err)
	}
	commit(t, s, false, func(b *storage.Batch) { b.Set(testKey(testShard, 7), []byte("old too")) })
	if err := in.Finish([]byte("hard")); err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf("%x=before %x=%s %x=hard %x=behind",
		testKey(testShard-1, 1), testKey(testShard, 2), value, storage.HardStateKey(testShard), testKey(testShard+1, 1))
	if got := all(t, s); got != want {
		t.Errorf("got %.500s, want %.500s", got, want)
	}
	m.Crash(rand.New(rand.NewPCG(1, 1)))
	s = open(t, m)
	defer closeStore(t, s)
	if got := all(t, s); got != want {
		t.Errorf("after the power cut %.500s, want %.500s", got, want)
	}
}

func testReplaceOrder(t *testing.T, m Machine) {
	t.Helper()
	s := open(t, m)
	defer closeStore(t, s)
	in := s.NewIngest(testShard)
	if err := in.Add(testKey(testShard, 2), nil); err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{2, 1} {
		if err := in.Add(testKey(testShard, n), nil); err == nil {
			t.Errorf("key %d was taken after key 2", n)
		}
	}
	if err := in.Add(testKey(testShard+1, 1), nil); err == nil {
		t.Error("a key of another shard was taken")
	}
	if err := in.Abort(); err != nil {
		t.Fatal(err)
	}
}

func testAbort(t *testing.T, m Machine) {
	t.Helper()
	s := open(t, m)
	defer closeStore(t, s)
	commit(t, s, true, func(b *storage.Batch) { b.Set(testKey(testShard, 1), []byte("old")) })
	before := all(t, s)
	in := s.NewIngest(testShard)
	if err := in.Add(testKey(testShard, 2), []byte("new")); err != nil {
		t.Fatal(err)
	}
	if err := in.Abort(); err != nil {
		t.Fatal(err)
	}
	if got := all(t, s); got != before {
		t.Errorf("got %s, want %s", got, before)
	}
}

func testBoot(t *testing.T, m Machine) {
	t.Helper()
	var last uint64
	for range 3 {
		s := open(t, m)
		if s.Boot() <= last {
			t.Errorf("boot %d after %d", s.Boot(), last)
		}
		last = s.Boot()
		m.Crash(rand.New(rand.NewPCG(1, 1)))
	}
}

// moment is what the store showed after a write: of the shard that is replaced, and of the others.
type moment struct{ inside, outside string }

// testPowerCuts makes random writes and cuts the power at random. Whatever the disk shows then must
// be what the store showed at one moment since the last sync; only a replacement, which is durable
// at once, may be ahead of it.
func testPowerCuts(t *testing.T, m Machine) {
	t.Helper()
	const seed, cuts, writes = 1, 20, 40
	rng := rand.New(rand.NewPCG(seed, seed))
	state := make(map[string]string)
	for cut := range cuts {
		s := open(t, m)
		if got := show(state); show(read(t, s)) != got {
			t.Fatalf("cut %d: the store has changed while it was closed", cut)
		}
		moments := []moment{show(state)}
		synced, replaced := 0, 0
		for i := 1; i <= writes; i++ {
			if rng.IntN(10) == 0 {
				replaceAtRandom(t, s, rng, state)
				replaced = i
			} else {
				sync := rng.IntN(3) == 0
				empty := true
				commit(t, s, sync, func(b *storage.Batch) {
					fillAtRandom(b, rng, state)
					empty = b.Empty()
				})
				if sync && !empty { // An empty batch syncs nothing.
					synced = i
				}
			}
			moments = append(moments, show(state))
			if got := show(read(t, s)); got != moments[i] {
				t.Fatalf("cut %d, write %d: the store shows %v, want %v", cut, i, got, moments[i])
			}
		}
		m.Crash(rng)
		s = open(t, m)
		state = read(t, s)
		closeStore(t, s)
		got := show(state)
		found := false
		for i := synced; i < len(moments); i++ {
			found = found || got == moment{inside: moments[max(i, replaced)].inside, outside: moments[i].outside}
		}
		if !found {
			t.Fatalf("cut %d (synced at %d, replaced at %d): the disk has\n%v, which is no moment of the store; the last one was\n%v", cut, synced, replaced, got, moments[len(moments)-1])
		}
	}
}

func show(state map[string]string) moment {
	var inside, outside []string
	lo, hi := storage.ShardSpan(testShard)
	for _, key := range slices.Sorted(maps.Keys(state)) {
		if text := fmt.Sprintf("%x=%s", key, state[key]); key >= string(lo) && key < string(hi) {
			inside = append(inside, text)
		} else {
			outside = append(outside, text)
		}
	}
	return moment{strings.Join(inside, " "), strings.Join(outside, " ")}
}

func read(t *testing.T, s *storage.Store) map[string]string {
	t.Helper()
	it, err := s.Iter(span())
	if err != nil {
		t.Fatal(err)
	}
	defer it.Close()
	state := make(map[string]string)
	for ok := it.First(); ok; ok = it.Next() {
		state[string(it.Key())] = string(it.Value())
	}
	return state
}

func fillAtRandom(b *storage.Batch, rng *rand.Rand, state map[string]string) {
	for range 1 + rng.IntN(3) {
		key := testKey(testShard-1+placement.ShardID(rng.IntN(3)), rng.IntN(8)) //nolint:gosec // small
		switch rng.IntN(6) {
		case 0:
			b.Delete(key)
			delete(state, string(key))
		case 1:
			end := testKey(testShard+1, rng.IntN(8))
			if string(key) >= string(end) {
				continue
			}
			b.DeleteRange(key, end)
			maps.DeleteFunc(state, func(k, _ string) bool { return k >= string(key) && k < string(end) })
		default:
			value := strconv.Itoa(rng.IntN(1000))
			b.Set(key, []byte(value))
			state[string(key)] = value
		}
	}
}

func replaceAtRandom(t *testing.T, s *storage.Store, rng *rand.Rand, state map[string]string) {
	t.Helper()
	lo, hi := storage.ShardSpan(testShard)
	maps.DeleteFunc(state, func(k, _ string) bool { return k >= string(lo) && k < string(hi) })
	in := s.NewIngest(testShard)
	large := rng.IntN(4) == 0 // More than is held in memory.
	for n := range rng.IntN(8) {
		key, value := testKey(testShard, n), strconv.Itoa(rng.IntN(1000))
		if large {
			value += strings.Repeat("x", 1<<20)
		}
		if err := in.Add(key, []byte(value)); err != nil {
			t.Fatal(err)
		}
		state[string(key)] = value
	}
	if err := in.Finish([]byte("hard")); err != nil {
		t.Fatal(err)
	}
	state[string(storage.HardStateKey(testShard))] = "hard"
}
