package actor

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-io/holdfast/storage"
)

// book drives a requestLog by commands, beside a store that does what it says. Each command returns
// what the segment writes, or what is found:
//
//	add ID [BYTES]          records a call that is through, with a reply of so many bytes
//	claim ID, complete ID   a call of several segments
//	find ID                 its slots
//	readable SEQ            the store shows the segments up to this
//	after SECONDS           time goes by
//	skew SECONDS            the wall clock is set ahead
//	clear                   the object ends
//	load                    a new incarnation
//	is                      how many are kept, of how many bytes, and how many are in flight
type book struct {
	t      *testing.T
	l      requestLog
	seq    uint64
	now    uint64 // of the segments
	mono   int    // milliseconds of the monotonic clock
	claims map[string]*claim
	store  map[uint16]storage.Request
}

func newBook(t *testing.T) *book {
	t.Helper()
	return &book{t: t, l: requestLog{loaded: true}, now: 1000 << 16, claims: make(map[string]*claim), store: make(map[uint16]storage.Request)}
}

func (b *book) write(ops []storage.Op) string {
	b.t.Helper()
	var out []string
	for _, op := range ops {
		slot, err := storage.RequestSlot(op.Key)
		if err != nil {
			b.t.Fatal(err)
		}
		if op.Op == storage.OpDelete {
			delete(b.store, slot)
			out = append(out, fmt.Sprintf("delete %d", slot))
			continue
		}
		r, err := storage.DecodeRequest(op.Value)
		if err != nil {
			b.t.Fatal(err)
		}
		b.store[slot] = r
		out = append(out, fmt.Sprintf("set %d %s %s", slot, r.ID, [...]string{"", "claimed", "replied", "failed", "dropped"}[r.State]))
	}
	return strings.Join(out, ", ")
}

func (b *book) seconds() uint32 { return uint32(b.mono / 1000) } //nolint:gosec // small

func (b *book) do(command string) string {
	b.t.Helper()
	words := append(strings.Fields(command), "", "")
	id := words[1]
	number := func(word string) int {
		n, err := strconv.Atoi(word)
		if err != nil && word != "" {
			b.t.Fatalf("command %q: %v", command, err)
		}
		return n
	}
	add := func(state storage.RequestState, bytes int) string {
		b.seq++
		b.now += 1 << 16
		b.mono++
		if b.claims[id] == nil {
			b.claims[id] = &claim{}
		}
		return b.write(b.l.add(b.seq, storage.Request{Time: b.now, State: state, ID: id, Reply: make([]byte, bytes)}, b.claims[id], b.seconds()))
	}
	switch words[0] {
	case "add":
		delete(b.claims, id)
		return add(storage.RequestReplied, number(words[2]))
	case "claim":
		delete(b.claims, id)
		return add(storage.RequestClaimed, 0)
	case "complete":
		return add(storage.RequestReplied, number(words[2]))
	case "find":
		return strings.Trim(fmt.Sprint(b.l.find(id, b.seconds())), "[]")
	case "readable":
		b.l.readable(uint64(number(words[1]))) //nolint:gosec // small
	case "after":
		b.now += uint64(number(words[1])) * 1000 << 16 //nolint:gosec // small
		b.mono += number(words[1]) * 1000
	case "skew": // Only the clock that segments carry.
		b.now += uint64(number(words[1])) * 1000 << 16 //nolint:gosec // small
	case "clear":
		b.l.clear()
		clear(b.store)
	case "load":
		var stored []storedRequest
		for slot, r := range b.store {
			stored = append(stored, newStoredRequest(slot, &r))
		}
		if err := b.l.load(stored, b.seconds()); err != nil {
			b.t.Fatal(err)
		}
	case "is":
		return fmt.Sprintf("%d kept of %d bytes, %d in flight", len(b.l.kept), b.l.bytes, len(b.l.inFlight))
	default:
		b.t.Fatalf("unknown command %q", command)
	}
	return ""
}

func TestRequestLog(t *testing.T) {
	t.Parallel()
	type step struct{ command, want string }
	for name, steps := range map[string][]step{
		"an id is found once it is recorded": {
			{"find a", ""},
			{"add a", "set 0 a replied"},
			{"add b", "set 1 b replied"},
			{"find a", "0"},
			{"find b", "1"},
			{"load", ""},
			{"find a", "0"},
			{"find b", "1"},
			{"add c", "set 2 c replied"},
		},
		"a claim is completed in its place": {
			{"claim a", "set 0 a claimed"},
			{"add b", "set 1 b replied"},
			{"complete a", "set 0 a replied"},
			{"find a", "0"},
			{"is", "2 kept of 54 bytes, 3 in flight"},
			{"readable 2", ""},
			{"is", "2 kept of 54 bytes, 1 in flight"},
			{"load", ""},
			{"add c", "set 2 c replied"},
		},
		"a claim that is no longer kept is recorded anew": {
			{"claim a", "set 0 a claimed"},
			{"clear", ""},
			{"find a", ""},
			{"add b", "set 0 b replied"},
			{"complete a", "set 1 a replied"},
			{"find a", "1"},
			{"find b", "0"},
		},
		"a clock that is set does not age ids": {
			{"add a", "set 0 a replied"},
			{"skew 43200", ""},
			{"load", ""},
			{"find a", "0"},
			{"add b", "set 1 b replied"},
			{"find a", "0"},
			{"after 601", ""},
			{"find a", ""},
		},
		"ids count from the load": {
			{"add a", "set 0 a replied"},
			{"after 400", ""},
			{"load", ""},
			{"after 400", ""},
			{"find a", "0"},
			{"after 201", ""},
			{"find a", ""},
		},
		"ids expire with time, and are deleted with what is written later, a few with each": {
			{"add a", "set 0 a replied"},
			{"add b", "set 1 b replied"},
			{"after 599", ""},
			{"find a", "0"},
			{"after 2", ""},
			{"find a", ""},
			{"add c", "delete 0, delete 1, set 2 c replied"},
			{"find a", ""},
			{"load", ""},
			{"is", "1 kept of 27 bytes, 0 in flight"},
			{"after 599", ""},
			{"add d", "set 3 d replied"},
			{"find c", "2"},
		},
		"an expired id that is still there is not found, and may be used anew": {
			{"add a", "set 0 a replied"},
			{"add b", "set 1 b replied"},
			{"add c", "set 2 c replied"},
			{"add d", "set 3 d replied"},
			{"add e", "set 4 e replied"},
			{"after 601", ""},
			{"add f", "delete 0, delete 1, delete 2, delete 3, set 5 f replied"},
			{"find e", ""},
			{"add e", "delete 4, set 6 e replied"},
			{"find e", "6"},
		},
		"the oldest go when there are too many bytes": {
			{"add a 600000", "set 0 a replied"},
			{"add b 400000", "set 1 b replied"},
			{"add c 600000", "delete 0, set 2 c replied"},
			{"find a", ""},
			{"find b", "1"},
			{"add d 1048549", "delete 1, delete 2, set 3 d replied"},
			{"is", "1 kept of 1048576 bytes, 4 in flight"},
		},
		"a reply that is too large is not kept, but that it was given is": {
			{"add a", "set 0 a replied"}, {"add b 1048550", "set 1 b dropped"}, {"find a", "0"}, {"find b", "1"},
		},
		"a large reply of a claim pushes out older ones only": {
			{"add a 500000", "set 0 a replied"},
			{"claim b", "set 1 b claimed"},
			{"add c 300000", "set 2 c replied"},
			{"complete b 700000", "delete 0, set 1 b replied"},
			{"claim d", "set 3 d claimed"},
			{"complete d 100000", "delete 1, set 3 d replied"},
			{"claim e", "set 4 e claimed"},
			{"add f 700000", "delete 2, set 5 f replied"},
			{"complete e 600000", "delete 3, set 4 e dropped"},
			{"find e", "4"},
			{"load", ""},
			{"find f", "5"},
		},
	} {
		b := newBook(t)
		for i, s := range steps {
			if got := b.do(s.command); got != s.want {
				t.Errorf("%s: step %d: %s: got %q, want %q", name, i+1, s.command, got, s.want)
			}
		}
	}
}

// At random: the newest are found where the store has them, and the store has no more than it may.
func TestRequestLogKeepsTheNewest(t *testing.T) {
	t.Parallel()
	b := newBook(t)
	const calls = 5000
	times := make([]uint32, calls) // since when each is kept
	for i := range calls {
		if i%97 == 0 {
			b.do("after 7")
		}
		if i%1500 == 1499 {
			b.do("load")
			for j := range i {
				times[j] = b.seconds()
			}
		}
		b.do(fmt.Sprintf("add r%d %d", i, i*31%1200))
		times[i] = b.seconds()
		if bytes := func() (n int) {
			for _, r := range b.store {
				n += r.Size()
			}
			return n
		}(); bytes != b.l.bytes || bytes > storage.MaxRequestsBytes || len(b.store) != len(b.l.kept) || len(b.store) > storage.RequestSlots {
			t.Fatalf("after %d: %d in the store of %d bytes, %d kept of %d bytes", i, len(b.store), bytes, len(b.l.kept), b.l.bytes)
		}
		if i%50 != 0 {
			continue
		}
		for j := range i + 1 {
			slots := b.l.find(fmt.Sprintf("r%d", j), b.seconds())
			kept := j > i-len(b.l.kept) && b.seconds()-times[j] <= uint32(RequestIDKeptFor/time.Second)
			found := slices.ContainsFunc(slots, func(s uint16) bool { return b.store[s].ID == fmt.Sprintf("r%d", j) })
			if kept != found {
				t.Fatalf("after %d: %d is kept: %v, found: %v", i, j, kept, found)
			}
		}
	}
}

// An object that ends forgets the ids of its calls, and leaves no key behind; the call that ends it may
// have one, too.
func TestAnObjectThatHasRequestIDsEnds(t *testing.T) {
	t.Parallel()
	w := newPlainWorld(t)
	for _, id := range []string{"", "that ends it"} {
		for _, end := range []func(s *Storage) error{(*Storage).DeleteAll, func(s *Storage) error { _, err := s.Delete("k"); return err }} {
			put := func(_ context.Context, s *State) error { return Put(s.Storage(), "k", 1) }
			if err := <-w.request(1, "first", "", put); err != nil {
				t.Fatal(err)
			}
			if err := <-w.request(1, id, "", func(_ context.Context, s *State) error { return end(s.Storage()) }); err != nil {
				t.Fatal(err)
			}
			for _, kind := range []storage.KeyKind{storage.KindRecord, storage.KindFence, storage.KindRequest, storage.KindKV} {
				it, err := w.store.Object(0, plainRef(1)).Iter(kind, nil, nil)
				if err != nil {
					t.Fatal(err)
				}
				if it.First() {
					t.Errorf("the end by %q leaves a key of kind %#x", id, byte(kind))
				}
				it.Close()
			}
		}
	}
}
