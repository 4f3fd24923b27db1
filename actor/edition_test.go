package actor

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"

	"github.com/holdfast-io/holdfast/fault"
	"github.com/holdfast-io/holdfast/peer/frame"
)

// edited is a world of a dynamic class whose code is replaced. Its objects say which code they run.
type edited struct {
	*dynamicWorld

	released [10]atomic.Bool // by number
}

// editedThing is an object of some number of the code.
type editedThing struct {
	dynamicThing

	number uint64
}

// Invoke implements Dynamic.
func (e *editedThing) Invoke(ctx context.Context, name string, args []byte) ([]byte, error) {
	if name != "number" {
		return e.dynamicThing.Invoke(ctx, name, args)
	}
	_, err := add(e.s)
	return []byte{byte(e.number)}, err
}

// register replaces the code.
func (w *edited) register(t *testing.T, number uint64) {
	t.Helper()
	class := NewDynamicClass(dynamicClass, func(s *State) Dynamic { return &editedThing{dynamicThing{w.dynamicWorld, s}, number} })
	class.Number = number
	if err := w.manager.Register([]Class{class}, func() { w.released[number].Store(true) }); err != nil {
		t.Fatal(err)
	}
}

func edits(t *testing.T, test func(t *testing.T, w *edited)) {
	t.Helper()
	dynamically(t, func(t *testing.T, w *dynamicWorld) {
		e := &edited{dynamicWorld: w}
		e.register(t, 1)
		test(t, e)
	})
}

func (w *edited) runs(t *testing.T, n rune, number uint64) {
	t.Helper()
	w.ran(t, w.begin(n, "number"), number)
}

func (*edited) ran(t *testing.T, done <-chan Result, number uint64) {
	t.Helper()
	if r := <-done; r.Err != nil || r.Body[0] != byte(number) {
		t.Errorf("got %x, %v; want number %d", r.Body, r.Err, number)
	}
}

// waits is a method that waits until what it returns is called.
func (w *edited) waits(name string) (state func() *State, done func()) {
	var s *State
	ready := false
	w.methods[name] = does(func(ctx context.Context, state *State) error {
		s = state
		return s.Wait(ctx, func() bool { return ready })
	})
	return func() *State { return s }, func() { ready = true; s.Wake() }
}

// No call fails, and no write is lost, when the code is replaced under load; afterwards all run the new one.
func TestReplacedUnderLoad(t *testing.T) {
	t.Parallel()
	w := &edited{dynamicWorld: newDynamicWorld(t)}
	w.register(t, 1)
	const callers, calls, editions = 8, 200, 9
	var wg sync.WaitGroup
	for c := range callers {
		wg.Go(func() {
			last := byte(0)
			for range calls {
				r := <-w.begin(rune('A'+c%4), "number")
				if r.Err != nil || r.Body[0] < last {
					t.Errorf("got %x, %v, after %d", r.Body, r.Err, last)
					return
				}
				last = r.Body[0]
			}
		})
	}
	wg.Go(func() {
		for n := range uint64(editions - 1) {
			w.register(t, n+2)
		}
	})
	wg.Wait()
	for n := range 4 {
		w.runs(t, rune('A'+n), editions)
		if err := w.run(t, rune('A'+n), func(_ context.Context, s *State) error {
			if count, _, err := Get[int](s.Storage(), "n"); count != calls*callers/4+1 || err != nil {
				t.Errorf("%d writes, %v", count, err)
			}
			return nil
		}); err != nil {
			t.Error(err)
		}
	}
	for n := 1; n <= editions; n++ {
		if w.released[n].Load() != (n < editions) {
			t.Errorf("number %d released: %v", n, w.released[n].Load())
		}
	}
}

// Who holds its turn is waited for.
func TestReplacedWhileAHandlerRuns(t *testing.T) {
	edits(t, func(t *testing.T, w *edited) {
		done := make(chan struct{})
		w.methods["runs"] = does(func(_ context.Context, s *State) error {
			<-done
			_, err := add(s)
			return err
		})
		runs := w.begin('A', "runs")
		synctest.Wait()
		w.register(t, 2)
		next := w.begin('A', "number")
		time.Sleep(2 * ReplaceTimeMax) //nolint:forbidigo // in a bubble: longer than others are waited for
		unanswered(t, "what runs", runs)
		unanswered(t, "an event behind it", next)
		close(done)
		if r := <-runs; r.Err != nil {
			t.Error(r.Err)
		}
		w.ran(t, next, 2)
	})
}

// Handlers that have given up their turn are waited for, and others wait meanwhile.
func TestReplacedWhileAHandlerWaits(t *testing.T) {
	edits(t, func(t *testing.T, w *edited) {
		_, done := w.waits("waits")
		waits := w.begin('A', "waits")
		synctest.Wait()
		w.register(t, 2)
		next := w.begin('A', "number")
		unanswered(t, "an event behind the replacement", next)
		w.runs(t, 'B', 2)
		if w.released[1].Load() {
			t.Error("released while a handler waits")
		}
		done()
		if r := <-waits; r.Err != nil {
			t.Error(r.Err)
		}
		w.ran(t, next, 2)
		synctest.Wait()
		if !w.released[1].Load() {
			t.Error("not released")
		}
	})
}

// But not for ever.
func TestReplacedWhileAHandlerWaitsLong(t *testing.T) {
	edits(t, func(t *testing.T, w *edited) {
		state, _ := w.waits("waits")
		waits := w.begin('A', "waits")
		synctest.Wait()
		ended := make(chan struct{})
		state().OnEnd(func() { close(ended) })
		w.register(t, 2)
		next := w.begin('A', "number")
		time.Sleep(ReplaceTimeMax - time.Second) //nolint:forbidigo // in a bubble: nearly as long as it waits
		unanswered(t, "what waits", waits)
		if r := <-waits; fault.ReasonOf(r.Err) != fault.ObjectReset || !strings.Contains(r.Err.Error(), "code was updated") {
			t.Errorf("got %v", r.Err)
		}
		w.ran(t, next, 2)
		<-ended
	})
}

// What a handler waits for may have to call its object.
func TestReplacedWhileACallComesBack(t *testing.T) {
	edits(t, func(t *testing.T, w *edited) {
		_, done := w.waits("elsewhere")
		elsewhere := w.methods["elsewhere"]
		answers := make(chan Result, 1)
		w.methods["back"] = does(func(ctx context.Context, s *State) error {
			if err := s.Object(dynamicClass, "A").Call(ctx, "end", nil); err != nil {
				return err
			}
			_, err := elsewhere(ctx, s, nil)
			return err
		})
		w.methods["end"] = does(func(_ context.Context, s *State) error {
			_, err := add(s)
			return err
		})
		w.methods["calls"] = does(func(ctx context.Context, s *State) error {
			s.Object(dynamicClass, "B").Send(ctx, "back", []byte{0x80}, func(r Result) { answers <- r; s.Wake() })
			if err := s.Wait(ctx, func() bool { return len(answers) > 0 }); err != nil {
				return err
			}
			return (<-answers).Err
		})
		// B begins when the code of A is being replaced.
		var held []*Outgoing
		var answer []func(Result)
		w.answer = func(out *Outgoing, done func(Result)) func(error) {
			held, answer = append(held, out), append(answer, done)
			return func(error) {}
		}
		calls := w.begin('A', "calls")
		unanswered(t, "what calls", calls)
		w.register(t, 2)
		other := w.begin('A', "number")
		unanswered(t, "an event of its own", other)
		w.set(func() { w.answer = nil })
		w.Call(t.Context(), held[0], answer[0])
		unanswered(t, "what calls", calls)
		done()
		if r := <-calls; r.Err != nil {
			t.Error(r.Err)
		}
		w.ran(t, other, 2)
	})
}

// Streams, and what outlives its call, are not waited for.
func TestReplacedEndsStreams(t *testing.T) {
	edits(t, func(t *testing.T, w *edited) {
		w.streams["listen"] = func(ctx context.Context, s *State, stream *Stream) error {
			if _, err := add(s); err != nil {
				return err
			}
			if err := stream.Send([]byte("hello")); err != nil {
				return err
			}
			return s.Wait(ctx, nil)
		}
		pipe := testPipe{new(frame.Pipe)}
		listens := make(chan Result, 1)
		c := w.call('A', "listen", func(r Result) { listens <- r })
		c.Pipe, c.Body, c.Values = pipe, nil, false
		w.log.set(func() { w.log.hold = true })
		w.manager.Deliver(c)
		ended := make(chan error, 1)
		w.methods["outlives"] = does(func(ctx context.Context, s *State) error {
			return s.WaitUntil(ctx, func(ctx context.Context) error {
				<-ctx.Done()
				ended <- context.Cause(ctx)
				return nil
			})
		})
		outlives := w.begin('A', "outlives")
		unanswered(t, "what is behind what is not committed", outlives)
		w.log.set(func() { w.log.hold = false })
		w.register(t, 2)
		unanswered(t, "what is behind what is not committed", outlives)
		w.log.commit()
		if r := <-outlives; r.Err != nil {
			t.Fatal(r.Err)
		}
		w.runs(t, 'A', 2)
		if r := <-listens; fault.ReasonOf(r.Err) != fault.OwnerChanged {
			t.Errorf("the stream ended by %v", r.Err)
		}
		select {
		case err := <-ended:
			if fault.ReasonOf(err) != fault.ObjectReset {
				t.Errorf("what outlived its call ended by %v", err)
			}
		default: // It had not begun.
		}
		if msg, ok, _ := pipe.Down.Take(); !ok || string(msg) != "hello" {
			t.Errorf("what was sent before: %q, %v", msg, ok)
		}
	})
}

// What an object has written and not committed is not lost when its code is replaced.
func TestReplacedWhileWritesAreCommitted(t *testing.T) {
	edits(t, func(t *testing.T, w *edited) {
		w.log.set(func() { w.log.hold = true })
		first := w.begin('A', "number")
		unanswered(t, "what is not committed", first)
		w.register(t, 2)
		next := w.begin('A', "number")
		unanswered(t, "the next", next)
		w.log.set(func() { w.log.hold = false })
		w.log.commit()
		w.ran(t, first, 1)
		w.ran(t, next, 2)
		if err := w.run(t, 'A', func(_ context.Context, s *State) error {
			if n, _, err := Get[int](s.Storage(), "n"); n != 2 || err != nil {
				t.Errorf("%d writes, %v", n, err)
			}
			return nil
		}); err != nil {
			t.Error(err)
		}
	})
}

// Who wants to know is told of the end.
func TestReplacedTellsPreShutdown(t *testing.T) {
	listens(t, func(_ context.Context, s *State) error {
		_, err := add(s)
		return err
	}, func(t *testing.T, l *loop) {
		if err := l.do(1, func(context.Context, *State) error { return nil }); err != nil {
			t.Fatal(err)
		}
		class := *l.manager.known(plainClass)
		if err := l.manager.Register([]Class{class}, nil); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if n := number(t, l.plainWorld); n != 1 {
			t.Errorf("PreShutdown ran %d times", n)
		}
	})
}

// A class that is unregistered has no objects any more, until it is registered again.
func TestUnregister(t *testing.T) {
	edits(t, func(t *testing.T, w *edited) {
		w.manager.cfg.NoClass = func(class string) error { return fault.New(fault.UnknownClass, "no %s", class) }
		_, done := w.waits("waits")
		waits := w.begin('A', "waits")
		synctest.Wait()
		queued := w.begin('A', "number")
		synctest.Wait()
		w.manager.Unregister(dynamicClass, "no such")
		late := w.begin('A', "number")
		if r := <-late; fault.ReasonOf(r.Err) != fault.UnknownClass {
			t.Errorf("got %v", r.Err)
		}
		done()
		if r := <-waits; r.Err != nil {
			t.Error(r.Err)
		}
		if r := <-queued; r.Err != nil && fault.ReasonOf(r.Err) != fault.UnknownClass {
			t.Errorf("what was queued: %v", r.Err)
		}
		synctest.Wait()
		if !w.released[1].Load() {
			t.Error("not released")
		}
		if _, ok := w.manager.Class(dynamicClass); ok {
			t.Error("it is there")
		}
		w.register(t, 2)
		w.runs(t, 'A', 2)
	})
}

// An object that has run under a number does not run under an earlier one, here or elsewhere.
func TestAnObjectRemembersItsNumber(t *testing.T) {
	edits(t, func(t *testing.T, w *edited) {
		var told []string
		w.manager.cfg.Behind = func(class string, number uint64) { told = append(told, fmt.Sprint(class, " ", number)) }
		w.register(t, 3)
		w.runs(t, 'A', 3) // It writes.
		w.methods["reads"] = does(func(context.Context, *State) error { return nil })
		if r := <-w.begin('B', "reads"); r.Err != nil {
			t.Error(r.Err)
		}
		w.register(t, 2) // As on a node that is behind.
		if r := <-w.begin('A', "number"); fault.ReasonOf(r.Err) != fault.NoOwner {
			t.Errorf("got %v", r.Err)
		}
		if want := []string{dynamicClass + " 3"}; !slices.Equal(told, want) {
			t.Errorf("told %v", told)
		}
		w.runs(t, 'B', 2)
		w.register(t, 4)
		w.runs(t, 'A', 4)
		record, err := w.store.Object(0, w.call('A', "", nil).Object).Record()
		if err != nil || record.CodeVersion != 4 || record.Class != dynamicClass || *record.Name != "A" {
			t.Errorf("recorded %+v, %v", record, err)
		}
	})
}

// An object goes on under the new name of its class, when what it did under the former one is over.
func TestAClassIsRenamed(t *testing.T) {
	edits(t, func(t *testing.T, w *edited) {
		w.runs(t, 'A', 1)
		_, done := w.waits("waits")
		waits := w.begin('B', "waits")
		synctest.Wait()
		renamed := NewDynamicClass("worker/Renamed", func(s *State) Dynamic { return &editedThing{dynamicThing{w.dynamicWorld, s}, 2} })
		renamed.Number = 2
		if err := w.manager.Register([]Class{renamed}, nil); err != nil {
			t.Fatal(err)
		}
		w.manager.Unregister(dynamicClass)
		number := func(n rune) Result {
			answer := make(chan Result, 1)
			c := w.call(n, "number", func(r Result) { answer <- r })
			c.Class = renamed.Name
			w.manager.Deliver(c)
			return <-answer
		}
		if r := number('A'); r.Err != nil || r.Body[0] != 2 {
			t.Errorf("got %x, %v", r.Body, r.Err)
		}
		if r := number('B'); fault.ReasonOf(r.Err) != fault.NoOwner {
			t.Errorf("while it waits: %x, %v", r.Body, r.Err)
		}
		done()
		if r := <-waits; r.Err != nil {
			t.Error(r.Err)
		}
		if r := number('B'); r.Err != nil || r.Body[0] != 2 {
			t.Errorf("got %x, %v", r.Body, r.Err)
		}
		if !w.released[1].Load() {
			t.Error("not released")
		}
	})
}

func TestRegisterRefuses(t *testing.T) {
	edits(t, func(t *testing.T, w *edited) {
		good := NewDynamicClass("worker/New", func(*State) Dynamic { return nil })
		for what, bad := range map[string]Class{
			"no class":        {Name: "x"},
			"a limit":         {Name: "x", construct: good.construct, MailboxEventsMax: -1},
			"another service": {Name: dynamicClass, construct: good.construct, Service: &grpc.ServiceDesc{ServiceName: "s"}},
		} {
			if err := w.manager.Register([]Class{good, bad}, nil); err == nil {
				t.Errorf("%s: registered", what)
			}
		}
		if _, ok := w.manager.Class("worker/New"); ok {
			t.Error("what stood beside what was refused is registered")
		}
		if err := w.manager.Register([]Class{good}, nil); err != nil {
			t.Error(err)
		}
		if _, ok := w.manager.Class("worker/New"); !ok {
			t.Error("not registered")
		}
	})
}
