package main

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/holdfast-io/holdfast/actor"
	"github.com/holdfast-io/holdfast/client"
	"github.com/holdfast-io/holdfast/examples/counter/counterv1"
	"github.com/holdfast-io/holdfast/placement"
	"github.com/holdfast-io/holdfast/storage"
)

// What the object that is listed has.
const (
	listedKeys     = 100_000
	listedPerEvent = 10_000
	listedClass    = "Listed"
	listedName     = "large"
)

// listed is an object with many keys, in the guise of a counter: an increment writes the next keys,
// and a read lists them all and returns how many nanoseconds that took.
type listed struct {
	counterv1.UnimplementedCounterServer

	store *actor.Storage
	next  int
}

func listedObjects() actor.Class {
	return actor.NewClass(listedClass, &counterv1.Counter_ServiceDesc, func(s *actor.State) counterv1.CounterServer {
		return &listed{store: s.Storage()}
	})
}

// Increment implements counterv1.CounterServer.
func (l *listed) Increment(context.Context, *counterv1.IncrementRequest) (*counterv1.IncrementResponse, error) {
	for range listedPerEvent {
		if err := actor.Put(l.store, fmt.Sprintf("key-%08d", l.next), make([]byte, 100)); err != nil {
			return nil, err
		}
		l.next++
	}
	return &counterv1.IncrementResponse{Value: int64(l.next)}, nil
}

// Get implements counterv1.CounterServer.
func (l *listed) Get(context.Context, *counterv1.GetRequest) (*counterv1.GetResponse, error) {
	begun, n := time.Now(), 0
	for _, err := range l.store.List(actor.ListOptions{}) {
		if err != nil {
			return nil, err
		}
		n++
	}
	took := time.Since(begun)
	if n != listedKeys {
		return nil, fmt.Errorf("listed %d keys", n)
	}
	return &counterv1.GetResponse{Value: took.Nanoseconds()}, nil
}

// list measures Storage.List against pebble's own iterator over the same keys in the same files.
// The node holds the files while it runs, so the two are measured in turns of a second or so.
func (b *bench) list() error {
	sayf("list: writing %d keys into one object", listedKeys)
	var ours, raw, ratios []figures
	for round := range b.o.rounds {
		o, err := b.listObject(round == 0)
		if err != nil {
			return err
		}
		b.stopAll()
		r, err := b.listRaw()
		if err != nil {
			return err
		}
		sayf("list, round %d of %d: %.0f keys/s, raw pebble %.0f keys/s", round+1, b.o.rounds, o, r)
		ours, raw = append(ours, figures{perSecond: o}), append(raw, figures{perSecond: r})
		ratios = append(ratios, figures{perSecond: o / r})
	}
	perSecond := func(f figures) float64 { return f.perSecond }
	b.printf("\n## one object, %d keys of 100 bytes, walked in order\n\n", listedKeys)
	b.printf("Storage.List                         %10.0f keys/s  (within the object)\n", median(ours, perSecond))
	b.printf("raw pebble iterator                  %10.0f keys/s\n", median(raw, perSecond))
	b.printf("ratio                                %10.2f\n", median(ratios, perSecond))
	return nil
}

func (b *bench) listDir() string { return filepath.Join(b.dir, "list") }

// listTimes is how often the keys are walked in a round. The fastest walk counts: the others were
// disturbed, or read from disk.
const listTimes = 30

// listObject returns how many keys a second an object lists.
func (b *bench) listObject(fill bool) (float64, error) {
	n, err := b.spawn(roleConfig{Role: "lister", Name: "list", Dir: b.listDir(), Bootstrap: true})
	if err != nil {
		return 0, err
	}
	c, err := client.New([]string{n.ready.GRPC})
	if err != nil {
		return 0, err
	}
	defer c.Close()
	stub := counterv1.NewCounterClient(c.Name(listedClass, listedName))
	for i := 0; fill && i < listedKeys; i += listedPerEvent {
		if _, err := stub.Increment(b.ctx, &counterv1.IncrementRequest{}); err != nil {
			return 0, err
		}
	}
	if fill { // What was just written is in memory: from here on it is in files.
		c.Close()
		b.stopAll()
		return b.listObject(false)
	}
	fastest := time.Hour
	for range listTimes {
		reply, err := stub.Get(b.ctx, &counterv1.GetRequest{})
		if err != nil {
			return 0, err
		}
		fastest = min(fastest, time.Duration(reply.GetValue()))
	}
	return listedKeys / fastest.Seconds(), nil
}

// listRaw returns how many keys a second pebble's iterator passes over.
func (b *bench) listRaw() (float64, error) {
	merger := *pebble.DefaultMerger
	merger.Name = "holdfast.v1" // Nothing is merged, but the store is opened by that name alone.
	db, err := pebble.Open(b.listDir(), &pebble.Options{Logger: quiet{}, Merger: &merger, CacheSize: 64 << 20})
	if err != nil {
		return 0, err
	}
	defer func() { _ = db.Close() }()
	id := placement.NewNamespace(listedClass).IDFromName(listedName)
	shard := placement.ShardOf(id, placement.DefaultShards)
	lo := storage.AppendObjectKey(nil, shard, storage.ObjectRef{Class: listedClass, ID: id}, storage.KindKV, nil)
	hi := storage.AppendObjectKey(nil, shard, storage.ObjectRef{Class: listedClass, ID: id}, storage.KindKV+1, nil)
	fastest := time.Hour
	for range listTimes {
		begun := time.Now()
		it, err := db.NewIter(&pebble.IterOptions{LowerBound: lo, UpperBound: hi})
		if err != nil {
			return 0, err
		}
		n, bytes := 0, 0
		for ok := it.First(); ok; ok = it.Next() {
			n++
			bytes += len(it.Key()) + len(it.Value())
		}
		if err := it.Close(); err != nil {
			return 0, err
		}
		fastest = min(fastest, time.Since(begun))
		if n != listedKeys || bytes < listedKeys*100 {
			return 0, fmt.Errorf("pebble has %d keys of %d bytes", n, bytes)
		}
	}
	return listedKeys / fastest.Seconds(), nil
}
