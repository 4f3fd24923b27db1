package actor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-io/holdfast/fault"
	"github.com/holdfast-io/holdfast/storage/value"
)

// program runs events of random calls of an object's storage, side by side with a plain map.
type program struct {
	t   *testing.T
	rng *rand.Rand
	w   *plainWorld

	model map[string]string // what the object sees
	done  []string
	depth int
}

var errMine = errors.New("the event's own")

func (p *program) logf(format string, args ...any) {
	p.done = append(p.done, strings.Repeat("  ", p.depth)+fmt.Sprintf(format, args...))
}

func (p *program) key() string { return someKeys[p.rng.IntN(len(someKeys))] }

func (p *program) keys() []string {
	keys := make([]string, p.rng.IntN(5))
	for i := range keys {
		keys[i] = p.key()
	}
	return keys
}

func (p *program) value() string {
	return fmt.Sprint(p.rng.IntN(1000)) + strings.Repeat("x", []int{0, 0, 10, 600}[p.rng.IntN(4)])
}

// event is one call of the object.
func (p *program) event() {
	before := maps.Clone(p.model)
	refuse, end := p.rng.IntN(15) == 0, p.rng.IntN(10)
	p.logf("event (refused: %v)", refuse)
	p.w.log.set(func() { p.w.log.refuse, p.w.log.late = refuse, p.rng.IntN(3) > 0 })
	held := false                   // the answer waits for its writes
	returned := make(chan struct{}) // after an abort, later than it is answered
	err := p.w.do(1, func(ctx context.Context, s *State) error {
		defer close(returned)
		p.depth++
		defer func() { p.depth-- }()
		for range p.rng.IntN(8) {
			if p.rng.IntN(12) == 0 && !refuse {
				p.logf("Confirm")
				p.check("Confirm", s.Confirm(ctx), nil)
				before = maps.Clone(p.model)
				continue
			}
			p.step(ctx, s.Storage())
		}
		held = s.o.w.openConfirmed > 0
		switch end {
		case 0:
			p.logf("Abort")
			s.Abort("")
		case 1:
			p.logf("returns an error")
			return errMine
		}
		return nil
	})
	<-returned
	switch {
	case end == 0:
		p.check("aborted", err, func(err error) bool { return fault.ReasonOf(err) == fault.ObjectReset })
		p.model = before
	case held && refuse && !maps.Equal(before, p.model):
		p.check("refused", err, func(err error) bool { return fault.ReasonOf(err) == fault.OwnerChanged })
	case held && refuse: // Nothing is proposed that changes nothing of an object that is not there.
	case end == 1:
		p.check("the event", err, func(err error) bool { return errors.Is(err, errMine) })
	default:
		p.check("the event", err, nil)
	}
	if refuse {
		p.model = before
	}
	if p.rng.IntN(3) == 0 || end == 0 || refuse { // Else who loads it again would wait.
		p.w.log.show(1000)
	} else {
		p.w.log.show(p.rng.IntN(3))
	}
	if p.rng.IntN(8) == 0 && p.w.log.show(0) == 0 {
		p.logf("evicted: %v", p.w.manager.Evict(0, plainRef(1)))
	}
}

// check wants an error that is as said; none, if nothing is said.
func (p *program) check(what string, err error, is func(error) bool) {
	p.t.Helper()
	if is == nil && err != nil || is != nil && !is(err) {
		p.t.Errorf("%s: %v", what, err)
	}
}

func inTransaction(err error) bool { return errors.Is(err, ErrInTransaction) }

func (p *program) step(ctx context.Context, s *Storage) {
	if p.rng.IntN(3) == 0 {
		s = s.Unconfirmed()
	}
	switch n := p.rng.IntN(100); {
	case n < 20:
		key, v := p.key(), p.value()
		p.logf("Put %q %.8q", key, v)
		p.check("Put", Put(s, key, v), nil)
		p.model[key] = v
	case n < 30:
		entries := make(map[string]string)
		for _, key := range p.keys() {
			entries[key] = p.value()
		}
		p.logf("PutMany %.8q", entries)
		p.check("PutMany", PutMany(s, entries), nil)
		maps.Copy(p.model, entries)
	case n < 40:
		p.get(s)
	case n < 45:
		p.getMany(s)
	case n < 52:
		key := p.key()
		p.logf("Delete %q", key)
		there, err := s.Delete(key)
		p.check("Delete", err, nil)
		if _, want := p.model[key]; there != want {
			p.t.Errorf("Delete %q: it was there: %v, want %v", key, there, want)
		}
		delete(p.model, key)
	case n < 60:
		p.deleteMany(s)
	case n < 63:
		p.logf("DeleteAll")
		if err := s.DeleteAll(); p.depth > 1 {
			p.check("DeleteAll", err, inTransaction)
		} else {
			p.check("DeleteAll", err, nil)
			clear(p.model)
		}
	case n < 80:
		p.list(s)
	case p.depth < 4:
		p.transaction(ctx, s)
	default:
		p.logf("Sync")
		p.check("Sync", s.Sync(ctx), inTransaction)
	}
}

func (p *program) get(s *Storage) {
	key := p.key()
	p.logf("Get %q", key)
	got, ok, err := Get[string](s, key)
	p.check("Get", err, nil)
	if want, there := p.model[key]; ok != there || got != want {
		p.t.Errorf("Get %q: %.8q, %v, want %.8q, %v", key, got, ok, want, there)
	}
}

func (p *program) getMany(s *Storage) {
	keys, want := p.keys(), make(map[string]string)
	for _, key := range keys {
		if v, ok := p.model[key]; ok {
			want[key] = v
		}
	}
	p.logf("GetMany %q", keys)
	got, err := GetMany[string](s, keys...)
	p.check("GetMany", err, nil)
	if !maps.Equal(got, want) {
		p.t.Errorf("GetMany %q (-want +got):\n%s", keys, cmp.Diff(want, got))
	}
}

func (p *program) deleteMany(s *Storage) {
	keys, size := p.keys(), len(p.model)
	for _, key := range keys {
		delete(p.model, key)
	}
	p.logf("DeleteMany %q", keys)
	n, err := s.DeleteMany(keys...)
	p.check("DeleteMany", err, nil)
	if n != size-len(p.model) {
		p.t.Errorf("DeleteMany %q: %d were there, want %d", keys, n, size-len(p.model))
	}
}

func (p *program) list(s *Storage) {
	o := ListOptions{Reverse: p.rng.IntN(2) == 0}
	switch p.rng.IntN(3) {
	case 0:
		o.Start = p.key()
	case 1:
		o.StartAfter = p.key()
	default:
	}
	if p.rng.IntN(2) == 0 {
		o.End = p.key()
	}
	if p.rng.IntN(2) == 0 {
		o.Prefix = p.key()
	}
	if p.rng.IntN(2) == 0 {
		o.Limit = 1 + p.rng.IntN(4)
	}
	p.logf("List %+q", fmt.Sprintf("%+v", o))
	want := make([]string, 0, len(p.model))
	for _, key := range slices.Sorted(maps.Keys(p.model)) {
		if key >= o.Start && (o.StartAfter == "" || key > o.StartAfter) && (o.End == "" || key < o.End) && strings.HasPrefix(key, o.Prefix) {
			want = append(want, key+"="+p.model[key])
		}
	}
	if o.Reverse {
		slices.Reverse(want)
	}
	if o.Limit > 0 && len(want) > o.Limit {
		want = want[:o.Limit]
	}
	got := make([]string, 0, len(want))
	for entry, err := range s.List(o) {
		var v string
		p.check("List", errors.Join(err, entry.Decode(&v)), nil)
		got = append(got, entry.Key+"="+v)
		if p.rng.IntN(5) == 0 { // Not seen by the walk.
			key, v := p.key(), p.value()
			p.logf("  Put %q %.8q", key, v)
			p.check("Put", Put(s, key, v), nil)
			p.model[key] = v
		}
	}
	if !slices.Equal(want, got) {
		p.t.Errorf("List %+v (-want +got):\n%s", o, cmp.Diff(want, got))
	}
}

func (p *program) transaction(ctx context.Context, s *Storage) {
	before, end := maps.Clone(p.model), p.rng.IntN(4)
	p.logf("Transaction")
	p.depth++
	depth := p.depth
	var escaped *Storage
	err := func() (err error) {
		defer func() {
			if r := recover(); r != nil {
				p.logf("recovered")
				err = errMine
			}
		}()
		return s.Transaction(func(tx *Storage) error {
			escaped = tx
			for range p.rng.IntN(6) {
				p.step(ctx, []*Storage{tx, s}[p.rng.IntN(2)])
			}
			switch end {
			case 0:
				p.logf("fails")
				return errMine
			case 1:
				p.logf("panics")
				panic(errMine)
			}
			return nil
		})
	}()
	p.depth = depth - 1
	if end < 2 {
		p.check("Transaction", err, func(err error) bool { return errors.Is(err, errMine) })
		p.model = before
	} else {
		p.check("Transaction", err, nil)
	}
	p.check("an ended transaction", Put(escaped, "k", 1), func(err error) bool { return errors.Is(err, ErrTransactionEnded) })
}

// stored wants the store to have exactly what the model has.
func (p *program) stored() {
	p.w.log.show(1000)
	it, err := p.w.store.Object(0, plainRef(1)).Iter(0x10, nil, nil)
	if err != nil {
		p.t.Fatal(err)
	}
	defer it.Close()
	got := make(map[string]string)
	for ok := it.First(); ok; ok = it.Next() {
		var v string
		p.check("decode", value.Decode(bytes.Clone(it.Value()), &v), nil)
		got[string(it.Key())] = v
	}
	if !maps.Equal(p.model, got) {
		p.t.Errorf("the store (-want +got):\n%s", cmp.Diff(p.model, got))
	}
	objects, err := p.w.store.ListObjects(0, plainClass, nil, 10)
	p.check("ListObjects", err, nil)
	if exists := len(objects) == 1; exists != (len(p.model) > 0) {
		p.t.Errorf("the object exists: %v, with %d keys", exists, len(p.model))
	}
}

func TestRandomProgramsReadAsAPlainMap(t *testing.T) {
	t.Parallel()
	for seed := range uint64(60) {
		p := &program{t: t, rng: rand.New(rand.NewPCG(seed, 0)), w: newPlainWorld(t), model: make(map[string]string)}
		for range 60 {
			p.event()
			if p.rng.IntN(10) == 0 {
				p.stored()
			}
			if t.Failed() {
				t.Fatalf("seed %d, after:\n%s", seed, strings.Join(p.done, "\n"))
			}
		}
	}
}
