package placement_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/holdfast-io/holdfast/placement"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func parse(t *testing.T, s string) placement.ObjectID {
	t.Helper()
	id, err := placement.ParseID(s)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// Stored data depends on these for ever. The first is workerd's own, the others were computed with
// another implementation of HMAC.
func TestIDsOfNamesNeverChange(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ uniqueKey, name, want string }{
		{"ka", "foo", "74725953383541014171c58fa21c0985643e35f9f5a8d9bd27d047be73499797"},
		{"ka", "", "770bd4c4876cd7a9d698c0d10b0a40ad0dc2f2edd9081e37ac867cc1a78818a8"},
		{"ka", "ä\x00b", "f5b9415c5cdae637f245d93988f1606d2a80c548ae3249692388a9b2be89b6ff"},
		{"", "foo", "8a241a327cb9e6f77289c80a5826903d5483c567d0e39407443cfbad54466728"},
		{"my-counter/Counter", "visits", "7fd58ad59543d8ac96493f66ac6edba074520f3cc2ff860cf49cc6d273163db2"},
		{"Counter", strings.Repeat("x", 64<<10), "84780b75bf36529b5c05e1f2da669cf7ba725e74eb889a01d4e24ad8b21c3f27"},
	} {
		if got := placement.NewNamespace(tc.uniqueKey).IDFromName(tc.name).String(); got != tc.want {
			t.Errorf("unique key %q, name %.20q: got %s, want %s", tc.uniqueKey, tc.name, got, tc.want)
		}
	}
}

func TestParseIDTakesDigitsOfEitherCase(t *testing.T) {
	t.Parallel()
	const s = "74725953383541014171c58fa21c0985643e35f9f5a8d9bd27d047be73499797"
	if got := parse(t, s).String(); got != s {
		t.Errorf("got %s, want %s", got, s)
	}
	if got := parse(t, strings.ToUpper(s)).String(); got != s {
		t.Errorf("upper case: got %s, want %s", got, s)
	}
}

func TestParseIDRefusesWhatIsNoID(t *testing.T) {
	t.Parallel()
	for _, s := range []string{
		"", "00", strings.Repeat("0", 63), strings.Repeat("0", 65), strings.Repeat("0", 128),
		strings.Repeat("0", 63) + "g", " " + strings.Repeat("0", 63), "0x" + strings.Repeat("0", 62),
		strings.Repeat("ä", 32), strings.Repeat("0", 63) + "\x00",
	} {
		id, err := placement.ParseID(s)
		if err == nil || !strings.Contains(err.Error(), "64 hex digits") || id != (placement.ObjectID{}) {
			t.Errorf("%q: got %s, %v", s, id, err)
		}
		if _, err := placement.NewNamespace("ka").ParseID(s); err == nil || errors.Is(err, placement.ErrForeignID) {
			t.Errorf("in a namespace, %q: got %v", s, err)
		}
	}
}

func FuzzParseID(f *testing.F) {
	f.Add("74725953383541014171c58fa21c0985643e35f9f5a8d9bd27d047be73499797")
	f.Add(strings.Repeat("F", 64))
	f.Add("x")
	f.Fuzz(func(t *testing.T, s string) {
		id, err := placement.ParseID(s)
		if err == nil && id.String() != strings.ToLower(s) {
			t.Errorf("%q: got %s", s, id)
		}
	})
}

func TestANamespaceKnowsItsOwnIDs(t *testing.T) {
	t.Parallel()
	a, b := placement.NewNamespace("a"), placement.NewNamespace("b")
	id := a.IDFromName("foo")
	if err := a.Check(id); err != nil {
		t.Errorf("its own: got %v", err)
	}
	if got, err := a.ParseID(strings.ToUpper(id.String())); got != id || err != nil {
		t.Errorf("its own, as text: got %s, %v", got, err)
	}
	if err := b.Check(id); !errors.Is(err, placement.ErrForeignID) {
		t.Errorf("another's: got %v", err)
	}
	if _, err := b.ParseID(id.String()); !errors.Is(err, placement.ErrForeignID) {
		t.Errorf("another's, as text: got %v", err)
	}
	if b.IDFromName("foo") == id {
		t.Error("two namespaces gave one name the same id")
	}
	for bit := range 8 * len(id) {
		forged := id
		forged[bit/8] ^= 1 << (bit % 8)
		if err := a.Check(forged); !errors.Is(err, placement.ErrForeignID) {
			t.Errorf("with bit %d turned: got %v", bit, err)
		}
	}
	if err := a.Check(placement.ObjectID{}); !errors.Is(err, placement.ErrForeignID) {
		t.Errorf("the zero id: got %v", err)
	}
}

func TestUniqueIDsAreSealedAndComeFromTheSource(t *testing.T) {
	t.Parallel()
	ns := placement.NewNamespace("ka")
	id, err := ns.NewUniqueID(bytes.NewReader(bytes.Repeat([]byte{0xab}, 20)))
	if err != nil {
		t.Fatal(err)
	}
	const want = "abababababababababababababababab6383982fe175ba20c1bae352c8ee4cb1"
	if id.String() != want {
		t.Errorf("got %s, want %s", id, want)
	}
	if err := ns.Check(id); err != nil {
		t.Error(err)
	}
	if err := placement.NewNamespace("kb").Check(id); !errors.Is(err, placement.ErrForeignID) {
		t.Errorf("in another namespace: got %v", err)
	}
	// A source that ends early must give no id that could be drawn twice.
	id, err = ns.NewUniqueID(bytes.NewReader(make([]byte, 15)))
	if !errors.Is(err, io.ErrUnexpectedEOF) || id != (placement.ObjectID{}) {
		t.Errorf("got %s, %v", id, err)
	}
}

func TestANamespaceIsSafeForConcurrentUse(t *testing.T) {
	t.Parallel()
	ns := placement.NewNamespace("ka")
	want := make([]placement.ObjectID, 50)
	for i := range want {
		want[i] = placement.NewNamespace("ka").IDFromName(fmt.Sprint(i))
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for i, id := range want {
				if got := ns.IDFromName(fmt.Sprint(i)); got != id || ns.Check(got) != nil {
					t.Errorf("name %d: got %s, want %s", i, got, id)
				}
			}
		})
	}
	wg.Wait()
}

// Stored data depends on these for ever.
func TestShardsOfIDsNeverChange(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		id     string
		shards int
		want   placement.ShardID
	}{
		{"74725953383541014171c58fa21c0985643e35f9f5a8d9bd27d047be73499797", 1, 0},
		{"74725953383541014171c58fa21c0985643e35f9f5a8d9bd27d047be73499797", 256, 0x01},
		{"74725953383541014171c58fa21c0985643e35f9f5a8d9bd27d047be73499797", 4096, 0x101},
		{"74725953383541014171c58fa21c0985643e35f9f5a8d9bd27d047be73499797", 100, 37},
		{"74725953383541014171c58fa21c0985643e35f9f5a8d9bd27d047be73499797", 7, 6},
		{"00000000000000ff" + strings.Repeat("f", 48), 256, 255},
		{"0100000000000000" + strings.Repeat("0", 48), 255, 1},
		{"ffffffffffffffff" + strings.Repeat("0", 48), 4096, 4095},
		{"ffffffffffffffff" + strings.Repeat("0", 48), 1000, 615},
	} {
		if got := placement.ShardOf(parse(t, tc.id), tc.shards); got != tc.want {
			t.Errorf("%s of %d shards: got %d, want %d", tc.id, tc.shards, got, tc.want)
		}
	}
}

func TestNamesSpreadOverAllShards(t *testing.T) {
	t.Parallel()
	const shards, each = 256, 100
	ns := placement.NewNamespace("ka")
	count := make([]int, shards)
	for i := range shards * each {
		count[placement.ShardOf(ns.IDFromName(fmt.Sprint(i)), shards)]++
	}
	for shard, n := range count {
		if n < each/2 || n > 2*each {
			t.Errorf("shard %d has %d of %d names, want about %d", shard, n, shards*each, each)
		}
	}
}

func TestNodeIDsAreReadAsTheyAreWritten(t *testing.T) {
	t.Parallel()
	for _, id := range []placement.NodeID{0, 1, 0xdeadbeef, 1<<64 - 1} {
		got, err := placement.ParseNodeID(id.String())
		if diff := cmp.Diff(id, got); diff != "" || err != nil {
			t.Errorf("%s: %v, (-want +got):\n%s", id, err, diff)
		}
	}
	if got := placement.NodeID(0xbeef).String(); got != "000000000000beef" {
		t.Errorf("got %s", got)
	}
	for _, s := range []string{"", "beef", strings.Repeat("0", 17), strings.Repeat("z", 16), "0x00000000000000"} {
		if id, err := placement.ParseNodeID(s); err == nil || !strings.Contains(err.Error(), "16 hex digits") || id != 0 {
			t.Errorf("%q: got %s, %v", s, id, err)
		}
	}
}

func BenchmarkIDFromName(b *testing.B) {
	ns := placement.NewNamespace("Counter")
	b.ReportAllocs()
	for b.Loop() {
		_ = ns.IDFromName("object-1234")
	}
}
