package replica

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"golang.org/x/time/rate"

	"github.com/holdfast-io/holdfast/placement"
	"github.com/holdfast-io/holdfast/storage"
)

// shipment is a shard on a store, that is sent to another, and the means to break it off.
type shipment struct {
	t        *testing.T
	from, to *storage.Store
	fs       *vfs.MemFS // of the other
	sent     int        // bytes, in the latest try
}

const (
	shippedShard placement.ShardID = 3
	shippedKeys                    = 2560
	shippedValue                   = 16 << 10
)

var errCut = errors.New("cut off")

func newShipment(t *testing.T) *shipment {
	t.Helper()
	s := &shipment{t: t, fs: vfs.NewMem()}
	s.from = openStore(t, vfs.NewMem())
	s.to = openStore(t, s.fs)
	t.Cleanup(func() {
		for _, store := range []*storage.Store{s.from, s.to} {
			if err := store.Close(); err != nil {
				t.Error(err)
			}
		}
	})
	rng := rand.NewChaCha8([32]byte{1})
	for i := range shippedKeys {
		value := make([]byte, shippedValue)
		_, _ = rng.Read(value)
		s.set(i, value)
	}
	return s
}

func openStore(t *testing.T, fs vfs.FS) *storage.Store {
	t.Helper()
	store, err := storage.Open("store", storage.Options{FS: fs})
	if err != nil {
		t.Fatal(err)
	}
	return store
}

func shippedKey(i int) []byte {
	return storage.AppendObjectKey(nil, shippedShard, storage.ObjectRef{Class: "C"}, storage.KindKV, fmt.Appendf(nil, "%05d", i))
}

func (s *shipment) set(i int, value []byte) {
	s.t.Helper()
	b := s.from.NewBatch()
	b.Set(shippedKey(i), value)
	if err := errors.Join(b.Commit(false), b.Close()); err != nil {
		s.t.Fatal(err)
	}
}

// restart is the receiver's.
func (s *shipment) restart() {
	s.t.Helper()
	if err := s.to.Close(); err != nil {
		s.t.Fatal(err)
	}
	s.to = openStore(s.t, s.fs)
}

// ship sends the shard, and breaks off after so many bytes; 0: not.
func (s *shipment) ship(cutAfter int) error {
	s.t.Helper()
	snap := s.from.Snapshot()
	defer func() { _ = snap.Close() }()
	it, err := snap.Iter(storage.StateSpan(shippedShard))
	if err != nil {
		s.t.Fatal(err)
	}
	defer it.Close()
	var runs *runReader
	s.sent = 0
	header := snapshotHeader{shard: shippedShard, to: 2, from: 1, at: indexTerm{7, 1}}
	h := &Host{store: s.to, cfg: Config{Shards: 8}}
	in, err := h.stage(header.encode(), func(has []byte) error {
		parts, err := decodeParts(has)
		runs = newRunReader(it, parts)
		return err
	}, func() ([]byte, error) {
		run, err := runs.next()
		s.sent += len(run)
		if cutAfter > 0 && s.sent > cutAfter {
			return nil, errCut
		}
		return run, err
	})
	if err != nil {
		return err
	}
	return in.ingest.Finish([]byte("hard"))
}

// arrived checks that the receiver has what the sender has.
func (s *shipment) arrived() {
	s.t.Helper()
	var its [2]*storage.Iter
	for i, store := range []*storage.Store{s.from, s.to} {
		it, err := store.Iter(storage.StateSpan(shippedShard))
		if err != nil {
			s.t.Fatal(err)
		}
		defer it.Close()
		its[i] = it
	}
	keys := 0
	a, b := its[0].First(), its[1].First()
	for ; a && b; a, b = its[0].Next(), its[1].Next() {
		if !bytes.Equal(its[0].Key(), its[1].Key()) || !bytes.Equal(its[0].Value(), its[1].Value()) {
			s.t.Fatalf("key %x differs from %x, or its value does", its[1].Key(), its[0].Key())
		}
		keys++
	}
	if a || b || keys < shippedKeys {
		s.t.Errorf("%d keys are the same; one side has more: %t, %t", keys, a, b)
	}
}

// A snapshot that was broken off goes on where it was, also after a restart.
func TestASnapshotIsResumed(t *testing.T) {
	t.Parallel()
	for _, restart := range []bool{false, true} {
		t.Run(fmt.Sprint("restart ", restart), func(t *testing.T) {
			t.Parallel()
			s := newShipment(t)
			if err := s.ship(shippedKeys * shippedValue / 2); !errors.Is(err, errCut) {
				t.Fatalf("got %v", err)
			}
			if restart {
				s.restart()
			}
			if err := s.ship(0); err != nil {
				t.Fatal(err)
			}
			if limit := shippedKeys * shippedValue * 6 / 10; s.sent > limit {
				t.Errorf("sent %d bytes again, at most %d were missing", s.sent, limit)
			}
			s.arrived()
			if in := s.to.NewIngest(shippedShard); len(in.Parts()) != 0 {
				t.Errorf("%d parts are left of what is finished", len(in.Parts()))
			}
		})
	}
}

// What has changed since the snapshot was broken off is sent anew.
func TestAResumedSnapshotHasWhatWasWrittenMeanwhile(t *testing.T) {
	t.Parallel()
	s := newShipment(t)
	if err := s.ship(shippedKeys * shippedValue * 3 / 4); !errors.Is(err, errCut) {
		t.Fatalf("got %v", err)
	}
	s.set(0, []byte("another"))             // At the beginning of a part.
	s.set(3, []byte("another"))             // In it.
	s.set(-1, []byte("before"))             // Before all.
	s.set(shippedKeys-1, []byte("another")) // In none.
	if err := s.ship(0); err != nil {
		t.Fatal(err)
	}
	s.arrived()
	if all := shippedKeys * shippedValue; s.sent > all*8/10 {
		t.Errorf("sent %d of %d bytes: nothing was kept", s.sent, all)
	}
}

// A disk that has damaged a part has not got it.
func TestADamagedPartIsSentAgain(t *testing.T) {
	t.Parallel()
	s := newShipment(t)
	if err := s.ship(shippedKeys * shippedValue * 3 / 4); !errors.Is(err, errCut) {
		t.Fatalf("got %v", err)
	}
	names, err := s.fs.List("store")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if path := s.fs.PathJoin("store", name); bytes.HasPrefix([]byte(name), []byte("ingest-")) {
			damage(t, s.fs, path)
		}
	}
	if err := s.ship(0); err != nil {
		t.Fatal(err)
	}
	s.arrived()
}

// damage turns a bit in the middle of a file.
func damage(t *testing.T, fs vfs.FS, path string) {
	t.Helper()
	f, err := fs.OpenReadWrite(path, vfs.WriteCategoryUnspecified)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	var b [1]byte
	at := info.Size() / 2
	if _, err := f.ReadAt(b[:], at); err != nil && !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	b[0] ^= 1
	if _, err := f.WriteAt(b[:], at); err != nil {
		t.Fatal(err)
	}
}

// What a receiver says that it has comes back as it was, and what is no such thing is refused.
func FuzzDecodeParts(f *testing.F) {
	f.Add(encodeParts([]storage.Part{{First: []byte("a"), Last: []byte("b")}, {First: []byte("c"), Last: []byte("c"), Sum: [32]byte{1}}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		parts, err := decodeParts(b)
		if err != nil {
			return
		}
		again, err := decodeParts(encodeParts(parts))
		if err != nil || len(again) != len(parts) && len(b) < partsBytesMax {
			t.Errorf("%d parts came back as %d: %v", len(parts), len(again), err)
		}
	})
}

// stuck is a Transport to a node that takes a snapshot's first run and no other.
type stuck struct{ sentFrames }

func (stuck) SendSnapshot(ctx context.Context, _ placement.NodeID, _ []byte, begin func([]byte) (func() ([]byte, error), error)) error {
	next, err := begin(nil)
	if err != nil {
		return err
	}
	if _, err := next(); err != nil {
		return err
	}
	<-ctx.Done()
	return context.Cause(ctx)
}

// A receiver that takes nothing more is given up, so that it does not hold back the disk's space.
func TestAStuckReceiverIsGivenUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newShipment(t)
		h := &Host{store: s.from, cfg: Config{Shards: 8, Transport: stuck{}}, ctx: t.Context(), sendRate: rate.NewLimiter(rate.Inf, 1)}
		began := time.Now()
		err := h.streamSnapshot(s.from.Snapshot(), 2, snapshotHeader{shard: shippedShard})
		if err == nil || !strings.Contains(err.Error(), "takes nothing") {
			t.Errorf("got %v", err)
		}
		if took := time.Since(began); took != snapshotStallMax {
			t.Errorf("gave up after %v, want %v", took, snapshotStallMax)
		}
	})
}
