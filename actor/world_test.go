package actor

import (
	"context"
	"errors"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/holdfast-io/holdfast/placement"
	"github.com/holdfast-io/holdfast/storage"
)

// plainWorld is a node that owns one shard of objects without a class of their own: each call brings
// with it what its object is to do.
type plainWorld struct {
	t       *testing.T
	store   *storage.Store
	log     *plainLog
	manager *Manager
	acts    sync.Map // what a call is to do, by the call
}

const plainClass = "Plain"

// thing is an object.
type thing struct{ state *State }

func newPlainWorld(t *testing.T) *plainWorld {
	t.Helper()
	return newPlainWorldIn(t, "data", vfs.NewMem())
}

func newPlainWorldIn(t *testing.T, dir string, fs vfs.FS, more ...Class) *plainWorld {
	t.Helper()
	store, err := storage.Open(dir, storage.Options{FS: fs, CacheBytes: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	w := &plainWorld{t: t, store: store, log: &plainLog{store: store, fences: storage.NewFenceCache(store, 100), sole: true}}
	class := Class{
		Name:      plainClass,
		construct: func(s *State) any { return &thing{state: s} },
		methods: map[string]grpc.MethodDesc{"Act": {
			MethodName: "Act",
			Handler: func(srv any, ctx context.Context, _ func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
				th, _ := srv.(*thing)
				event, _ := ctx.(*eventContext)
				act, _ := w.acts.LoadAndDelete(event.call)
				fn, _ := act.(func(context.Context, *State) error)
				return &emptypb.Empty{}, fn(ctx, th.state)
			},
		}},
	}
	class.streams = map[string]grpc.StreamDesc{"Stream": {
		StreamName: "Stream",
		Handler: func(srv any, stream grpc.ServerStream) error {
			th, _ := srv.(*thing)
			event, _ := stream.Context().(*eventContext)
			act, _ := w.acts.LoadAndDelete(event.call)
			fn, _ := act.(func(grpc.ServerStream, *State) error)
			return fn(stream, th.state)
		},
	}}
	if w.manager, err = NewManager(Config{Shards: 1, Classes: append(more, class)}); err != nil {
		t.Fatal(err)
	}
	w.manager.Start(w.log)
	w.manager.Acquired(0, 1)
	t.Cleanup(func() {
		w.manager.Close()
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	return w
}

// known returns a class that is registered.
func (m *Manager) known(name string) *Class {
	c, _ := m.class(name)
	return c
}

func plainRef(n byte) storage.ObjectRef {
	return storage.ObjectRef{Class: plainClass, ID: placement.ObjectID{31: n}}
}

// start has an object do something, as a call.
func (w *plainWorld) start(n byte, act func(ctx context.Context, s *State) error) <-chan error {
	return w.request(n, "", "", act)
}

// request is start with a request id, and arguments that the object does not look at.
func (w *plainWorld) request(n byte, id, body string, act func(ctx context.Context, s *State) error) <-chan error {
	done := make(chan error, 1)
	call := &Call{Object: plainRef(n), Class: plainClass, Method: "Act", RequestID: id, Body: []byte(body), Done: func(r Result) { done <- r.Err }}
	w.acts.Store(call, act)
	w.manager.Deliver(call)
	return done
}

// do has an object do something, and waits for the answer.
func (w *plainWorld) do(n byte, act func(ctx context.Context, s *State) error) error {
	return <-w.start(n, act)
}

// with has object 1 do what does not fail with its storage.
func (w *plainWorld) with(act func(s *Storage) error) {
	w.t.Helper()
	if err := w.do(1, func(_ context.Context, s *State) error { return act(s.Storage()) }); err != nil {
		w.t.Fatal(err)
	}
}

// plainLog is a log of one voter. What is proposed is committed at once, and readable at once or, when
// it is late, as show says; or it is held, or refused.
type plainLog struct {
	store  *storage.Store
	fences *storage.FenceCache

	mu     sync.Mutex
	late   bool // does not show what is committed
	hold   bool // does not commit
	refuse bool
	sole   bool // is the only voter
	queue  []plainProposal
	asked  []func() // confirmations, when not sole
	asking func()   // runs when a segment is being closed; nil for nothing
}

type plainProposal struct {
	seg     *storage.Segment
	settler Settler
}

func (l *plainLog) set(fn func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	fn()
}

// Propose implements Log.
func (l *plainLog) Propose(_ placement.ShardID, seg *storage.Segment, s Settler) {
	l.mu.Lock()
	refuse, hold, late := l.refuse, l.hold, l.late
	if !refuse {
		l.queue = append(l.queue, plainProposal{seg, s})
	}
	l.mu.Unlock()
	switch {
	case refuse:
		s.Refused(seg.Sequence, false)
	case hold:
	default:
		s.Committed(seg.Sequence)
		if !late {
			l.show(1)
		}
	}
}

// commit commits and shows all that is held.
func (l *plainLog) commit() {
	l.mu.Lock()
	queue := l.queue
	l.mu.Unlock()
	for _, p := range queue {
		p.settler.Committed(p.seg.Sequence)
	}
	l.show(len(queue))
}

// show has the store show so many segments more, and says how many are left.
func (l *plainLog) show(n int) (left int) {
	for range n {
		l.mu.Lock()
		if len(l.queue) == 0 {
			l.mu.Unlock()
			return 0
		}
		p := l.queue[0]
		l.queue = l.queue[1:]
		b := l.store.NewBatch()
		applied, why := false, ""
		fence, err := l.fences.Load(0, p.seg.Object)
		if err == nil {
			applied, why, err = storage.ApplySegment(b, fence, 0, 1, p.seg)
		}
		if err == nil && !applied {
			err = errors.New(why)
		}
		if err == nil {
			err = b.Commit(false)
		}
		if err = errors.Join(err, b.Close()); err != nil {
			panic(err)
		}
		l.mu.Unlock()
		p.settler.Readable(p.seg.Sequence)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.queue)
}

// Confirm implements Log.
func (l *plainLog) Confirm(_ placement.ShardID, _ uint64, c Confirmer, token uint64) {
	l.mu.Lock()
	sole := l.sole
	if !sole {
		l.asked = append(l.asked, func() { c.Confirmed(token, nil) })
	}
	l.mu.Unlock()
	if sole {
		c.Confirmed(token, nil)
	}
}

// confirm answers what was asked.
func (l *plainLog) confirm() {
	l.mu.Lock()
	asked := l.asked
	l.asked = nil
	l.mu.Unlock()
	for _, fn := range asked {
		fn()
	}
}

// ConfirmNow implements Log.
func (l *plainLog) ConfirmNow(placement.ShardID, uint64) bool {
	l.mu.Lock()
	sole, asking := l.sole, l.asking
	l.mu.Unlock()
	if asking != nil {
		asking()
	}
	return sole
}

// Reader implements Log.
func (l *plainLog) Reader(shard placement.ShardID, ref storage.ObjectRef) storage.ObjectReader {
	return l.store.Object(shard, ref)
}

// Damaged implements Log.
func (*plainLog) Damaged(_ placement.ShardID, err error) { panic(err) }
