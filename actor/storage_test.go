package actor

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/holdfast-io/holdfast/fault"
	"github.com/holdfast-io/holdfast/storage"
	"github.com/holdfast-io/holdfast/storage/value"
)

func TestWhatIsOverALimitIsRefusedAndWritesNothing(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("k", storage.MaxKeyBytes+1)
	large := make([]byte, storage.MaxValueBytes) // And the CBOR head.
	many := make(map[string]int)
	for i := range storage.MaxCallKeys + 1 {
		many[fmt.Sprint(i)] = i
	}
	var keys []string
	for key := range many {
		keys = append(keys, key)
	}
	second := func(_ any, err error) error { return err }
	for name, tc := range map[string]struct {
		do     func(s *Storage) error
		reason fault.Reason
		says   string
	}{
		"put, key":        {func(s *Storage) error { return Put(s, long, 1) }, fault.InvalidKey, "Keys cannot be larger than 2048 bytes. A key of size 2049 was provided"},
		"get, key":        {func(s *Storage) error { _, _, err := s.Get(long); return err }, fault.InvalidKey, "2048"},
		"get many, key":   {func(s *Storage) error { return second(s.GetMany("a", long)) }, fault.InvalidKey, "2048"},
		"put many, key":   {func(s *Storage) error { return PutMany(s, map[string]int{"a": 1, long: 1}) }, fault.InvalidKey, "2048"},
		"delete, key":     {func(s *Storage) error { return second(s.Delete(long)) }, fault.InvalidKey, "2048"},
		"put, value":      {func(s *Storage) error { return Put(s, "k", large) }, fault.ValueTooLarge, `Values cannot be larger than 2097152 bytes. A value of size 2097157 was provided for key "k"`},
		"put many, value": {func(s *Storage) error { return PutMany(s, map[string][]byte{"a": nil, "k": large}) }, fault.ValueTooLarge, "2097152"},
		"get many":        {func(s *Storage) error { return second(s.GetMany(keys...)) }, fault.InvalidArgument, "Maximum number of key value pairs is 128. 129 pairs were provided."},
		"put many":        {func(s *Storage) error { return PutMany(s, many) }, fault.InvalidArgument, "128"},
		"delete many":     {func(s *Storage) error { return second(s.DeleteMany(keys...)) }, fault.InvalidArgument, "128"},
		"no CBOR":         {func(s *Storage) error { return s.Put("k", []byte{0xff}) }, fault.InvalidArgument, `value of key "k": not one CBOR item`},
		"two CBOR items":  {func(s *Storage) error { return s.PutMany(map[string][]byte{"k": {1, 1}}) }, fault.InvalidArgument, "not one CBOR item"},
		"list, limit":     {listError(ListOptions{Limit: -1}), fault.InvalidArgument, "List limit must be positive."},
		"list, starts":    {listError(ListOptions{Start: "a", StartAfter: "a"}), fault.InvalidArgument, "list() cannot be called with both start and startAfter values."},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newPlainWorld(t)
			w.with(func(s *Storage) error {
				if err := tc.do(s); fault.ReasonOf(err) != tc.reason || !strings.Contains(err.Error(), tc.says) {
					t.Errorf("got %.200v, want %s with %q", err, tc.reason, tc.says)
				}
				if n := len(s.o.w.ops); n > 0 {
					t.Errorf("it wrote %d operations", n)
				}
				return nil
			})
		})
	}
}

func listError(o ListOptions) func(s *Storage) error {
	return func(s *Storage) error {
		for _, err := range s.List(o) {
			return err
		}
		return nil
	}
}

func TestWhatIsAtALimitIsTaken(t *testing.T) {
	t.Parallel()
	w := newPlainWorld(t)
	long := strings.Repeat("k", storage.MaxKeyBytes)
	w.with(func(s *Storage) error { return Put(s, long, make([]byte, storage.MaxValueBytes-5)) })
	w.with(func(s *Storage) error {
		got, ok, err := Get[[]byte](s, long)
		if !ok || len(got) != storage.MaxValueBytes-5 {
			t.Errorf("reads %d bytes, %v", len(got), ok)
		}
		return err
	})
}

// A transaction, and a write of many keys, that does not fit into the event is taken back whole.
func TestWriteOfManyKeysThatDoesNotFitWritesNothing(t *testing.T) {
	t.Parallel()
	w := newPlainWorld(t)
	w.with(func(s *Storage) error {
		for i := range storage.MaxSegmentWrites - 2 {
			if err := Put(s, "k", i); err != nil {
				return err
			}
		}
		if err := PutMany(s, map[string]int{"a": 1, "b": 1, "c": 1}); fault.ReasonOf(err) != fault.WriteSetTooLarge {
			t.Errorf("three writes where two fit: %v", err)
		}
		if got, err := GetMany[int](s, "a", "b", "c"); err != nil || len(got) > 0 {
			t.Errorf("has written %v, %v", got, err)
		}
		return PutMany(s, map[string]int{"a": 1, "b": 1})
	})
}

func TestUnconfirmedWritesHoldNothingBack(t *testing.T) {
	t.Parallel()
	w := newPlainWorld(t)
	w.log.set(func() { w.log.hold = true })
	w.with(func(s *Storage) error { return Put(s.Unconfirmed(), "k", 1) })
	w.with(func(s *Storage) error {
		if got, _, err := Get[int](s, "k"); got != 1 || err != nil {
			t.Errorf("the next event reads %d, %v", got, err)
		}
		return nil
	})
	w.log.set(func() { w.log.sole = false })
	answered := w.start(1, func(_ context.Context, s *State) error { return Put(s.Storage().Unconfirmed(), "k", 2) })
	confirmedWrite := w.start(1, func(_ context.Context, s *State) error {
		return errors.Join(Put(s.Storage().Unconfirmed(), "k", 3), Put(s.Storage(), "l", 3)) // One that holds is enough.
	})
	for asked := 0; asked == 0; {
		w.log.set(func() { asked = len(w.log.asked) })
		runtime.Gosched()
	}
	select {
	case err := <-answered:
		t.Errorf("answered before this node was found to be the owner (P1): %v", err)
	default:
	}
	w.log.confirm()
	if err := <-answered; err != nil {
		t.Error(err)
	}
	select {
	case err := <-confirmedWrite:
		t.Errorf("a write that holds was answered before it was durable (P2): %v", err)
	default:
	}
	for queued := 0; queued < 3; {
		w.log.set(func() { queued = len(w.log.queue) })
		runtime.Gosched()
	}
	w.log.commit()
	if err := <-confirmedWrite; err != nil {
		t.Error(err)
	}
}

func TestSyncWaitsForUnconfirmedWrites(t *testing.T) {
	t.Parallel()
	w := newPlainWorld(t)
	w.log.set(func() { w.log.hold = true })
	done := w.start(1, func(ctx context.Context, s *State) error {
		if err := Put(s.Storage().Unconfirmed(), "k", 1); err != nil {
			return err
		}
		return s.Storage().Sync(ctx)
	})
	for queued := 0; queued == 0; {
		w.log.set(func() { queued = len(w.log.queue) })
		runtime.Gosched()
	}
	select {
	case err := <-done:
		t.Errorf("did not wait: %v", err)
	default:
	}
	w.log.commit()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestTransactionRefusesWhatWouldReachBeyondIt(t *testing.T) {
	t.Parallel()
	w := newPlainWorld(t)
	err := w.do(1, func(ctx context.Context, s *State) error {
		return s.Storage().Transaction(func(tx *Storage) error {
			for name, err := range map[string]error{
				"DeleteAll": tx.DeleteAll(), "Sync": tx.Sync(ctx), "Confirm": s.Confirm(ctx),
				"Yield": s.Yield(ctx, func(context.Context) error { return nil }),
			} {
				if !errors.Is(err, ErrInTransaction) || !strings.Contains(err.Error(), name+" can't be called within a transaction") {
					t.Errorf("%s: %v", name, err)
				}
			}
			return Put(tx, "k", 1)
		})
	})
	if err != nil {
		t.Error(err)
	}
}

// The panic goes on as it was, and the object begins anew if nobody stops it.
func TestPanicInATransactionGoesOn(t *testing.T) {
	t.Parallel()
	w := newPlainWorld(t)
	err := w.do(1, func(_ context.Context, s *State) error {
		return errors.Join(Put(s.Storage(), "k", 1), s.Storage().Transaction(func(*Storage) error { panic("mine") }))
	})
	if fault.ReasonOf(err) != fault.Panic || !strings.Contains(err.Error(), "panicked: mine") {
		t.Error(err)
	}
	w.with(func(s *Storage) error {
		if _, ok, err := s.Get("k"); ok || err != nil {
			t.Errorf("what the event wrote is there: %v, %v", ok, err)
		}
		return Put(s, "k", 2)
	})
}

// A transaction of a goroutine that its event did not wait for ends with the event.
func TestTransactionThatOutlivesItsEventIsRolledBack(t *testing.T) {
	t.Parallel()
	w := newPlainWorld(t)
	begun, ended, outcome := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	w.with(func(s *Storage) error {
		go func() {
			outcome <- s.Transaction(func(tx *Storage) error {
				err := Put(tx, "half", 1)
				close(begun)
				<-ended
				return err
			})
		}()
		<-begun
		return nil
	})
	close(ended)
	if err := <-outcome; !errors.Is(err, ErrTransactionEnded) {
		t.Errorf("it ended with %v", err)
	}
	w.with(func(s *Storage) error {
		if _, ok, err := s.Get("half"); ok || err != nil {
			t.Errorf("half of it was written: %v, %v", ok, err)
		}
		return nil
	})
}

// A transaction of another goroutine that is open when an outer one ends, ends with it.
func TestInnerTransactionEndsWithTheOuter(t *testing.T) {
	t.Parallel()
	w := newPlainWorld(t)
	w.with(func(s *Storage) error {
		begun, ended, outcome := make(chan struct{}), make(chan struct{}), make(chan error, 1)
		if err := s.Transaction(func(*Storage) error {
			go func() {
				outcome <- s.Transaction(func(tx *Storage) error {
					err := Put(tx, "k", 1)
					close(begun)
					<-ended
					return err
				})
			}()
			<-begun
			return errMine
		}); !errors.Is(err, errMine) {
			t.Error(err)
		}
		close(ended)
		if err := <-outcome; !errors.Is(err, ErrTransactionEnded) {
			t.Errorf("the inner one ended with %v", err)
		}
		_, ok, err := s.Get("k")
		if ok {
			t.Error("what it wrote is there")
		}
		return err
	})
}

func TestUsingStorageWithoutATurnIsRefused(t *testing.T) {
	t.Parallel()
	w := newPlainWorld(t)
	var kept *Storage
	w.with(func(s *Storage) error { kept = s; return nil })
	if err := kept.Transaction(func(*Storage) error { return nil }); !errors.Is(err, ErrNoTurn) {
		t.Error(err)
	}
	if _, err := kept.GetMany("k"); !errors.Is(err, ErrNoTurn) {
		t.Error(err)
	}
}

// heapPeak is the most that the heap has held, after collections, when it was looked at.
type heapPeak struct{ before, most uint64 }

func heapNow() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

func (h *heapPeak) look() { h.most = max(h.most, heapNow()) }

// An object with a million keys is walked, and deleted, without being held in memory, and what is
// deleted is passed over in one step.
func TestLargeObjectIsNotHeldInMemory(t *testing.T) {
	// They have 105 MiB. What pebble compacts meanwhile takes some tens of MiB.
	const keys, heapMax = 1_000_000, 56 << 20
	if testing.Short() {
		t.Skip("writes a million keys")
	}
	w := newPlainWorldIn(t, t.TempDir(), vfs.Default)
	w.with(func(s *Storage) error { return Put(s, "", 0) }) // Makes the record.
	raw, err := value.Encode(strings.Repeat("v", 100))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < keys; {
		b := w.store.NewBatch()
		for range 10_000 {
			b.Set(storage.AppendObjectKey(nil, 0, plainRef(1), storage.KindKV, fmt.Appendf(nil, "%09d", i)), raw)
			i++
		}
		if err := errors.Join(b.Commit(false), b.Close()); err != nil {
			t.Fatal(err)
		}
	}
	h := heapPeak{before: heapNow()}
	w.with(func(s *Storage) error {
		n := 0
		for _, err := range s.List(ListOptions{Start: "0"}) {
			if err != nil {
				return err
			}
			if n++; n%(keys/10) == 0 {
				h.look()
			}
		}
		if n != keys {
			t.Errorf("walked %d keys", n)
		}
		return nil
	})
	w.with(func(s *Storage) error {
		if err := s.DeleteAll(); err != nil {
			return err
		}
		steps := 0
		over, hidden, err := s.overlay(nil, nil)
		if err != nil {
			return err
		}
		it, err := s.o.reader().Iter(storage.KindKV, nil, nil)
		if err != nil {
			return err
		}
		defer it.Close()
		m := merge{it: it, over: over, hidden: hidden}
		for m.start(); m.valid; m.step() {
			steps++
		}
		if steps > 0 {
			t.Errorf("passes over what is deleted in %d steps", steps)
		}
		h.look()
		return nil
	})
	h.look()
	if grown := int64(h.most) - int64(h.before); grown > heapMax { //nolint:gosec // far below
		t.Errorf("the heap has grown by %d bytes, want at most %d", grown, heapMax)
	} else {
		t.Logf("the heap has grown by at most %d KiB over %d MiB of keys and values", grown/1024, keys*110>>20)
	}
	objects, err := w.store.ListObjects(0, plainClass, nil, 1)
	if err != nil || len(objects) > 0 {
		t.Errorf("the object is still there: %v, %v", objects, err)
	}
}

// Ranges with an end are passed over in one step too, both ways.
func TestWalkPassesOverDeletedRanges(t *testing.T) {
	t.Parallel()
	w := newPlainWorld(t)
	w.with(func(s *Storage) error {
		for c := 'a'; c <= 'z'; c++ {
			if err := Put(s, string(c), 1); err != nil {
				return err
			}
		}
		return nil
	})
	w.with(func(s *Storage) error {
		for _, r := range []string{"bf", "eh", "yz", "aa"} {
			if err := s.write(storage.Op{Op: storage.OpDeleteRange, Kind: storage.KindKV, Key: []byte(r[:1]), End: []byte(r[1:])}); err != nil {
				return err
			}
		}
		if err := Put(s, "c", 2); err != nil {
			return err
		}
		over, hidden, err := s.overlay(nil, nil)
		if err != nil {
			return err
		}
		for reverse, want := range map[bool]string{false: "achijklmnopqrstuvwxz", true: "zxwvutsrqponmlkjihca"} {
			it, err := s.o.reader().Iter(storage.KindKV, nil, nil)
			if err != nil {
				return err
			}
			m := merge{it: it, over: over, hidden: hidden, reverse: reverse}
			var got strings.Builder
			m.start()
			for entry, ok := m.next(); ok; entry, ok = m.next() {
				got.WriteString(entry.Key)
				if m.valid && slices.ContainsFunc(hidden, func(r rangeDelete) bool { return r.covers(string(m.it.Key())) }) {
					t.Errorf("rests at %q, which is deleted", m.it.Key())
				}
			}
			it.Close()
			if got.String() != want {
				t.Errorf("walked %s, want %s", got.String(), want)
			}
		}
		return nil
	})
}

func TestDeleteAllIsNeverUnconfirmed(t *testing.T) {
	t.Parallel()
	w := newPlainWorld(t)
	w.with(func(s *Storage) error { return Put(s, "k", 1) })
	w.with(func(s *Storage) error {
		err := s.Unconfirmed().DeleteAll()
		if s.o.w.openConfirmed != 1 {
			t.Error("it holds nothing back")
		}
		return err
	})
}

// What an object that was reset has left open touches nothing of its next incarnation.
func TestTransactionOfAnIncarnationThatIsOver(t *testing.T) {
	t.Parallel()
	w := newPlainWorld(t)
	begun, reset, outcome := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	err := w.do(1, func(_ context.Context, s *State) error {
		go func() {
			outcome <- s.Storage().Transaction(func(tx *Storage) error {
				err := Put(tx, "half", 1)
				close(begun)
				<-reset
				return err
			})
		}()
		<-begun
		s.Abort("")
		return nil
	})
	if fault.ReasonOf(err) != fault.ObjectReset {
		t.Error(err)
	}
	w.with(func(s *Storage) error {
		if err := Put(s, "k", 1); err != nil {
			return err
		}
		close(reset)
		if err := <-outcome; fault.ReasonOf(err) != fault.ObjectReset {
			t.Errorf("it ended with %v", err)
		}
		got, err := GetMany[int](s, "half", "k")
		if len(got) != 1 || got["k"] != 1 {
			t.Errorf("reads %v", got)
		}
		return err
	})
}

func TestWriteWhileAnotherGoroutineConfirmsIsNotLost(t *testing.T) {
	t.Parallel()
	w := newPlainWorld(t)
	err := w.do(1, func(ctx context.Context, s *State) error {
		confirming := make(chan struct{})
		wrote := make(chan error, 1)
		go func() {
			<-confirming
			wrote <- Put(s.Storage(), "key", 1)
		}()
		var once sync.Once
		w.log.set(func() {
			w.log.asking = func() {
				once.Do(func() { close(confirming) })
				for range 1000 { // Until it has written, if it can.
					runtime.Gosched()
				}
			}
		})
		return errors.Join(s.Confirm(ctx), <-wrote)
	})
	if err != nil {
		t.Fatal(err)
	}
	w.with(func(s *Storage) error {
		if _, ok, err := Get[int](s, "key"); err != nil || !ok {
			t.Errorf("it is not there (%v)", err)
		}
		return nil
	})
}
