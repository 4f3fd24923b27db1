package actor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/holdfast-io/holdfast/fault"
	"github.com/holdfast-io/holdfast/peer/frame"
	"github.com/holdfast-io/holdfast/placement"
	"github.com/holdfast-io/holdfast/storage"
	"github.com/holdfast-io/holdfast/storage/value"
)

const dynamicClass = "worker/Dynamic"

// dynamicWorld is a node that owns the objects of a dynamic class, beside those of a plainWorld. Objects
// are named by a rune. They call each other.
type dynamicWorld struct {
	*plainWorld

	mu      sync.Mutex
	methods map[string]method
	streams map[string]func(ctx context.Context, s *State, stream *Stream) error
	woken   func(ctx context.Context, s *State) error
	made    []*Outgoing
	// answer, if it is set, answers instead of the object.
	answer func(out *Outgoing, done func(Result)) (cancel func(error))
}

type method = func(ctx context.Context, s *State, args []byte) ([]byte, error)

// dynamicThing is an object of the class.
type dynamicThing struct {
	w *dynamicWorld
	s *State
}

// Invoke implements Dynamic.
func (d *dynamicThing) Invoke(ctx context.Context, name string, args []byte) ([]byte, error) {
	d.w.mu.Lock()
	fn := d.w.methods[name]
	d.w.mu.Unlock()
	if fn == nil {
		return nil, fault.New(fault.UnknownMethod, "no %q", name)
	}
	return fn(ctx, d.s, args)
}

// Stream implements Dynamic.
func (d *dynamicThing) Stream(ctx context.Context, name string, stream *Stream) error {
	d.w.mu.Lock()
	fn := d.w.streams[name]
	d.w.mu.Unlock()
	return fn(ctx, d.s, stream)
}

// Woken implements Woken.
func (d *dynamicThing) Woken(ctx context.Context) error {
	d.w.mu.Lock()
	fn := d.w.woken
	d.w.mu.Unlock()
	if fn == nil {
		return nil
	}
	return fn(ctx, d.s)
}

func newDynamicWorld(t *testing.T) *dynamicWorld {
	t.Helper()
	w := &dynamicWorld{methods: make(map[string]method), streams: make(map[string]func(context.Context, *State, *Stream) error)}
	class := NewDynamicClass(dynamicClass, func(s *State) Dynamic { return &dynamicThing{w, s} })
	w.plainWorld = newPlainWorldIn(t, "data", vfs.NewMem(), class)
	w.manager.cfg.Caller = w
	return w
}

func dynamically(t *testing.T, test func(t *testing.T, w *dynamicWorld)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, func(t *testing.T) { test(t, newDynamicWorld(t)) })
}

// call makes a call of an object by its name, which the caller finishes.
func (w *dynamicWorld) call(n rune, method string, done func(Result)) *Call {
	ref := storage.ObjectRef{Class: dynamicClass, ID: placement.ObjectID{31: byte(n)}}
	return &Call{Object: ref, Class: dynamicClass, Name: string(n), Named: true, Method: method, Values: true, Body: []byte{0x80}, Done: done}
}

// begin has an object run a method.
func (w *dynamicWorld) begin(n rune, method string) <-chan Result {
	done := make(chan Result, 1)
	w.manager.Deliver(w.call(n, method, func(r Result) { done <- r }))
	return done
}

// run has an object do something, and waits for the answer.
func (w *dynamicWorld) run(t *testing.T, n rune, fn func(ctx context.Context, s *State) error) error {
	t.Helper()
	name := fmt.Sprintf("%p", &n)
	w.set(func() { w.methods[name] = does(fn) })
	r := <-w.begin(n, name)
	return r.Err
}

func (w *dynamicWorld) set(fn func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	fn()
}

// does is a method that takes and returns nothing.
func does(fn func(ctx context.Context, s *State) error) method {
	return func(ctx context.Context, s *State, _ []byte) ([]byte, error) { return []byte{0xf6}, fn(ctx, s) }
}

// Call implements Caller.
func (w *dynamicWorld) Call(_ context.Context, out *Outgoing, done func(Result)) func(error) {
	w.mu.Lock()
	w.made = append(w.made, out)
	answer := w.answer
	w.mu.Unlock()
	if answer != nil {
		return answer(out, done)
	}
	call := w.call([]rune(out.Name)[0], out.Method, done)
	call.Values, call.Body, call.Chain, call.Deadline = out.Values, out.Body, out.Chain, out.Deadline
	w.manager.Deliver(call)
	return call.Cancel
}

// NewUniqueID implements Caller.
func (*dynamicWorld) NewUniqueID(context.Context, string) (placement.ObjectID, error) {
	return placement.ObjectID{}, errors.New("no ids")
}

func (w *dynamicWorld) outgoing() []*Outgoing {
	synctest.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.made)
}

func unanswered(t *testing.T, what string, done <-chan Result) {
	t.Helper()
	synctest.Wait()
	select {
	case r := <-done:
		t.Errorf("%s was answered: %x, %v", what, r.Body, r.Err)
	default:
	}
}

func TestADynamicClassTakesValuesAndJSON(t *testing.T) {
	dynamically(t, func(t *testing.T, w *dynamicWorld) {
		var got []byte
		w.methods["echo"] = func(_ context.Context, _ *State, args []byte) ([]byte, error) {
			got = bytes.Clone(args)
			return args, nil
		}
		w.methods["broken"] = func(context.Context, *State, []byte) ([]byte, error) { return []byte{0x82}, nil }
		call := func(method string, change func(c *Call)) Result {
			done := make(chan Result, 1)
			c := w.call('A', method, func(r Result) { done <- r })
			change(c)
			w.manager.Deliver(c)
			return <-done
		}
		json := func(text string) func(*Call) {
			return func(c *Call) { c.Values, c.JSON, c.Body = false, true, []byte(text) }
		}
		for text, want := range map[string][2]string{
			"":           {"[]", "[]"},
			`{"n": 1}`:   {`[{"n": 1}]`, `[{"n":1}]`},
			`[1, "two"]`: {`[1, "two"]`, `[1,"two"]`},
		} {
			if r := call("echo", json(text)); r.Err != nil || value.Diagnose(got) != want[0] || string(r.Body) != want[1] {
				t.Errorf("%q: got %s, replied %s, %v", text, value.Diagnose(got), r.Body, r.Err)
			}
		}
		if r := call("echo", func(c *Call) { c.Body = []byte{0x81, 0x05} }); r.Err != nil || !bytes.Equal(r.Body, []byte{0x81, 0x05}) {
			t.Errorf("got %x, %v", r.Body, r.Err)
		}
		for what, r := range map[string]Result{
			"JSON":     call("echo", json("{")),
			"protobuf": call("echo", func(c *Call) { c.Values = false }),
		} {
			if fault.ReasonOf(r.Err) != fault.InvalidArgument {
				t.Errorf("%s: %v", what, r.Err)
			}
		}
		if r := call("no such", json("")); fault.ReasonOf(r.Err) != fault.UnknownMethod {
			t.Errorf("a method that there is not: %v", r.Err)
		}
		if r := call("broken", json("")); status.Code(r.Err) != codes.Internal {
			t.Errorf("a reply that is none: %v", r.Err)
		}
	})
}

// A method of a gRPC service takes what is JSON-like, and is called so by objects of any class.
func TestAGoClassTakesValues(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		args []any
		want string
		err  bool
	}{
		"a JSON-like value": {args: []any{"text"}, want: "text"},
		"a message":         {args: []any{wrapperspb.String("text")}, want: "text"},
		"nothing":           {},
		"two":               {args: []any{"a", "b"}, err: true},
		"another message":   {args: []any{wrapperspb.Int64(5)}, err: true},
		"another value":     {args: []any{[]any{1}}, err: true},
	} {
		args, err := value.EncodeArguments(c.args...)
		if err != nil {
			t.Fatal(err)
		}
		into := &wrapperspb.StringValue{}
		err = decodeRequest(&Call{Values: true, Body: args}, into)
		if into.GetValue() != c.want || (err != nil) != c.err || err != nil && fault.ReasonOf(err) != fault.InvalidArgument {
			t.Errorf("%s: %q, %v", name, into.GetValue(), err)
		}
	}
	reply, err := encodeReply(&Call{Values: true}, wrapperspb.Int64(7))
	if err != nil || value.Diagnose(reply) != `"7"` {
		t.Errorf("%s, %v", value.Diagnose(reply), err)
	}
	if _, err := encodeReply(&Call{Values: true}, &emptypb.Empty{}); err != nil {
		t.Error(err)
	}
}

func TestAStubCallsWithValues(t *testing.T) {
	dynamically(t, func(t *testing.T, w *dynamicWorld) {
		w.methods["join"] = func(_ context.Context, _ *State, args []byte) ([]byte, error) {
			var words []string
			if err := value.Decode(args, &words); err != nil {
				return nil, err
			}
			return value.Encode(strings.Join(words, " "))
		}
		err := w.run(t, 'A', func(ctx context.Context, s *State) error {
			var out string
			if err := s.Object(dynamicClass, "B").Call(ctx, "join", &out, "a", "b"); err != nil || out != "a b" {
				t.Errorf("got %q, %v", out, err)
			}
			var number int
			if err := s.Object(dynamicClass, "B").Call(ctx, "join", &number); status.Code(err) != codes.Internal {
				t.Errorf("into something else: %v", err)
			}
			if err := s.Object("holdfast.System", "x").Call(ctx, "join", nil); fault.ReasonOf(err) != fault.UnknownClass {
				t.Errorf("a reserved class: %v", err)
			}
			return s.Object(dynamicClass, "B").Call(ctx, "join", nil)
		})
		if err != nil {
			t.Error(err)
		}
	})
}

// What happens outside of an object has the handler that waits for it go on, in its turn, and other events
// run meanwhile.
func TestWakeHasAHandlerGoOn(t *testing.T) {
	dynamically(t, func(t *testing.T, w *dynamicWorld) {
		var state *State
		ready := make(chan string, 2)
		var got []string
		waits := func(what string) method {
			return does(func(ctx context.Context, s *State) error {
				state = s
				err := s.Wait(ctx, func() bool { return slices.Contains(got, what) || len(ready) > 0 })
				for len(ready) > 0 {
					got = append(got, <-ready)
				}
				if err == nil && !slices.Contains(got, what) {
					err = s.Wait(ctx, func() bool { return slices.Contains(got, what) })
				}
				if err != nil {
					return err
				}
				_, err = add(s)
				return err
			})
		}
		w.methods["a"], w.methods["b"] = waits("a"), waits("b")
		a, b := w.begin('A', "a"), w.begin('A', "b")
		unanswered(t, "a", a)
		unanswered(t, "b", b)
		if r := <-w.begin('A', "no such"); fault.ReasonOf(r.Err) != fault.UnknownMethod {
			t.Errorf("an event meanwhile: %v", r.Err)
		}
		ready <- "b"
		state.Wake() // a takes it, and finds that it is for b.
		if r := <-b; r.Err != nil {
			t.Error(r.Err)
		}
		unanswered(t, "a", a)
		ready <- "a"
		got = append(got, "a") // As a continuation would that b runs.
		state.Wake()
		if r := <-a; r.Err != nil {
			t.Error(r.Err)
		}
	})
}

// No Wake is lost, whatever the object does when it comes.
func TestNoWakeIsLost(t *testing.T) {
	t.Parallel()
	w := newDynamicWorld(t)
	states := make(chan *State, 1)
	var mu sync.Mutex
	inbox, seen := 0, 0
	drain := func() {
		mu.Lock()
		seen += inbox
		inbox = 0
		mu.Unlock()
	}
	some := func() bool {
		mu.Lock()
		defer mu.Unlock()
		return inbox > 0
	}
	w.methods["first"] = does(func(_ context.Context, s *State) error { states <- s; return nil })
	w.methods["take"] = does(func(ctx context.Context, s *State) error {
		ctx, cancel := context.WithTimeout(ctx, time.Millisecond)
		defer cancel()
		_ = s.Wait(ctx, some)
		drain()
		return nil
	})
	all := make(chan struct{})
	const wakes = 2000
	w.woken = func(context.Context, *State) error {
		drain()
		mu.Lock()
		defer mu.Unlock()
		if seen == wakes {
			close(all)
			seen++
		}
		return nil
	}
	<-w.begin('A', "first")
	s := <-states
	var wg sync.WaitGroup
	wg.Go(func() {
		for range wakes {
			mu.Lock()
			inbox++
			mu.Unlock()
			s.Wake()
		}
	})
	wg.Go(func() {
		for range 200 {
			<-w.begin('A', "take")
		}
	})
	wg.Wait()
	s.Wake() // Woken looks whether all was seen.
	select {
	case <-all:
	case <-time.After(10 * time.Second):
		mu.Lock()
		defer mu.Unlock()
		t.Fatalf("%d of %d were seen, and %d are left", seen, wakes, inbox)
	}
}

// A Wake that nobody waits for is an event of its own, which may keep the object in memory.
func TestWokenIsAnEventOfItsOwn(t *testing.T) {
	dynamically(t, func(t *testing.T, w *dynamicWorld) {
		var state *State
		w.methods["begin"] = does(func(_ context.Context, s *State) error { state = s; return nil })
		runs, finished := 0, false
		w.woken = func(ctx context.Context, s *State) error {
			runs++
			if _, err := add(s); err != nil {
				t.Error(err)
			}
			return s.Wait(ctx, func() bool { return finished })
		}
		<-w.begin('A', "begin")
		state.Wake()
		synctest.Wait()
		if runs != 1 {
			t.Fatalf("Woken ran %d times", runs)
		}
		state.Wake() // It waits for one, and this one is not for it.
		synctest.Wait()
		time.Sleep(time.Minute) //nolint:forbidigo // in a bubble: longer than an object stays idle
		if n := w.manager.Stats().Objects; n != 1 || runs != 1 {
			t.Errorf("%d objects in memory, Woken ran %d times", n, runs)
		}
		r := <-w.begin('A', "begin")
		if r.Err != nil {
			t.Error(r.Err)
		}
		finished = true
		w.woken = nil
		state.Wake()
		synctest.Wait()
		time.Sleep(time.Minute) //nolint:forbidigo // in a bubble: longer than an object stays idle
		if n := w.manager.Stats().Objects; n != 0 {
			t.Errorf("%d objects in memory", n)
		}
		state.Wake() // Of an incarnation that has ended.
		synctest.Wait()
		if err := w.run(t, 'A', func(_ context.Context, s *State) error {
			n, err := add(s)
			if n != 2 {
				t.Errorf("Woken wrote %d", n-1)
			}
			return err
		}); err != nil {
			t.Error(err)
		}
	})
}

// While a section keeps all others out, a Wake goes to its event.
func TestWakeInASection(t *testing.T) {
	dynamically(t, func(t *testing.T, w *dynamicWorld) {
		var state *State
		ready, others := false, false
		w.methods["waits"] = does(func(ctx context.Context, s *State) error {
			return s.Wait(ctx, func() bool { return others })
		})
		w.methods["blocks"] = does(func(ctx context.Context, s *State) error {
			state = s
			end, err := s.Block(ctx)
			if err != nil {
				return err
			}
			inner, err := s.Block(ctx)
			if err != nil {
				return err
			}
			if err := s.Wait(ctx, func() bool { return ready }); err != nil {
				return err
			}
			if err := inner(nil); err != nil {
				return err
			}
			others = true
			return end(nil)
		})
		w.methods["after"] = does(func(context.Context, *State) error {
			if !others {
				t.Error("ran in a section of another event")
			}
			return nil
		})
		waits := w.begin('A', "waits")
		synctest.Wait()
		blocks := w.begin('A', "blocks")
		synctest.Wait()
		after := w.begin('A', "after")
		unanswered(t, "what is behind the section", after)
		ready = true
		state.Wake()
		for _, done := range []<-chan Result{blocks, waits, after} {
			if r := <-done; r.Err != nil {
				t.Error(r.Err)
			}
		}
	})
}

func TestASectionThatGoesWrong(t *testing.T) {
	for name, c := range map[string]struct {
		fn     func(ctx context.Context, s *State) error
		reason fault.Reason
		text   string
	}{
		"fails": {func(ctx context.Context, s *State) error {
			end, err := s.Block(ctx)
			if err != nil {
				return err
			}
			if over := end(errors.New("no luck")); fault.ReasonOf(over) != fault.ObjectReset {
				return fmt.Errorf("end returned %w", over)
			}
			return nil
		}, fault.ObjectReset, "no luck"},
		"is left open": {func(ctx context.Context, s *State) error {
			_, err := s.Block(ctx)
			return err
		}, fault.ObjectReset, "within a section"},
		"takes too long": {func(ctx context.Context, s *State) error {
			if _, err := s.Block(ctx); err != nil {
				return err
			}
			return s.Wait(ctx, func() bool { return false })
		}, fault.ObjectTimeout, "30s"},
	} {
		t.Run(name, func(t *testing.T) {
			dynamically(t, func(t *testing.T, w *dynamicWorld) {
				w.methods["x"] = does(c.fn)
				w.methods["next"] = does(func(context.Context, *State) error { return nil })
				done := w.begin('A', "x")
				if r := <-done; fault.ReasonOf(r.Err) != c.reason || !strings.Contains(r.Err.Error(), c.text) {
					t.Errorf("got %v", r.Err)
				}
				if r := <-w.begin('A', "next"); r.Err != nil {
					t.Errorf("the next event: %v", r.Err)
				}
			})
		})
	}
}

// A transaction goes on over waits in a section: no part of it is seen or stays by itself.
func TestATransactionThatWaits(t *testing.T) {
	for _, commit := range []bool{true, false} {
		t.Run(fmt.Sprint(commit), func(t *testing.T) {
			dynamically(t, func(t *testing.T, w *dynamicWorld) {
				var state *State
				ready := false
				w.methods["tx"] = does(func(ctx context.Context, s *State) error {
					state = s
					endBlock, err := s.Block(ctx)
					if err != nil {
						return err
					}
					tx, end, err := s.Storage().Begin()
					if err != nil {
						return err
					}
					if err := Put(tx, "n", 5); err != nil {
						return err
					}
					if err := s.Wait(ctx, func() bool { return ready }); err != nil {
						return err
					}
					if n, _, err := Get[int](tx, "n"); n != 5 || err != nil {
						t.Errorf("after the wait: %d, %v", n, err)
					}
					return errors.Join(end(commit), endBlock(nil))
				})
				tx := w.begin('A', "tx")
				synctest.Wait()
				w.log.mu.Lock()
				if n := len(w.log.queue); n > 0 {
					t.Errorf("%d segments of a transaction under way", n)
				}
				w.log.mu.Unlock()
				ready = true
				state.Wake()
				if r := <-tx; r.Err != nil {
					t.Error(r.Err)
				}
				if err := w.run(t, 'A', func(_ context.Context, s *State) error {
					if n, ok, err := Get[int](s.Storage(), "n"); err != nil || ok != commit || ok && n != 5 {
						t.Errorf("committed %v, and there is %d, %v, %v", commit, n, ok, err)
					}
					return nil
				}); err != nil {
					t.Error(err)
				}
				if err := w.run(t, 'A', func(ctx context.Context, s *State) error {
					return s.Storage().Transaction(func(*Storage) error { return s.Wait(ctx, func() bool { return true }) })
				}); !errors.Is(err, ErrInTransaction) {
					t.Errorf("a wait in a transaction without a section: %v", err)
				}
			})
		})
	}
}

// The end of an incarnation is told, however it comes about.
func TestTheEndIsTold(t *testing.T) {
	for name, end := range map[string]func(w *dynamicWorld, s *State){
		"eviction": func(w *dynamicWorld, s *State) { w.manager.Evict(0, s.o.ref) },
		"idleness": func(*dynamicWorld, *State) { time.Sleep(time.Minute) }, //nolint:forbidigo // in a bubble
		"reset":    func(_ *dynamicWorld, s *State) { s.Reset("for a test") },
		"owner":    func(w *dynamicWorld, _ *State) { w.manager.Lost(0, 1) },
		"close":    func(w *dynamicWorld, _ *State) { w.manager.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			dynamically(t, func(t *testing.T, w *dynamicWorld) {
				var state *State
				var ctx context.Context
				ended := make(chan struct{})
				w.methods["x"] = does(func(_ context.Context, s *State) error {
					state, ctx = s, s.Context()
					s.OnEnd(func() { close(ended) })
					return nil
				})
				<-w.begin('A', "x")
				if ctx.Err() != nil {
					t.Error("ended already")
				}
				end(w, state)
				select {
				case <-ended:
				case <-time.After(time.Hour): // In a bubble.
					t.Fatal("OnEnd's function was not called")
				}
				<-ctx.Done()
				if context.Cause(ctx) == nil || state.Context().Err() == nil {
					t.Error("no cause")
				}
				late := make(chan struct{})
				state.OnEnd(func() { close(late) })
				<-late
			})
		})
	}
}

// Whoever resets an object from elsewhere has its handlers told.
func TestResetFromOutside(t *testing.T) {
	dynamically(t, func(t *testing.T, w *dynamicWorld) {
		var state *State
		w.methods["x"] = does(func(ctx context.Context, s *State) error {
			state = s
			if _, err := add(s); err != nil {
				return err
			}
			err := s.Wait(ctx, func() bool { return false })
			if _, over := add(s); over == nil {
				t.Error("writes after the reset")
			}
			return err
		})
		x := w.begin('A', "x")
		unanswered(t, "x", x)
		state.Reset("out of memory")
		if r := <-x; fault.ReasonOf(r.Err) != fault.ObjectReset || !strings.Contains(r.Err.Error(), "out of memory") {
			t.Errorf("got %v", r.Err)
		}
		state.Reset("twice")
	})
}

// Whose code others may have run is not told that it did not run, and is not run again.
func TestWritesThatOthersMade(t *testing.T) {
	dynamically(t, func(t *testing.T, w *dynamicWorld) {
		done := make(map[*State]bool)
		w.methods["waits"] = does(func(ctx context.Context, s *State) error {
			return s.Wait(ctx, func() bool { return done[s] })
		})
		w.methods["writes"] = does(func(_ context.Context, s *State) error { // As a continuation of what waits.
			_, err := add(s)
			return err
		})
		identified := func(id string) (*Call, <-chan Result) {
			out := make(chan Result, 1)
			c := w.call('A', "waits", func(r Result) { out <- r })
			c.RequestID, c.Deadline = id, time.Now().Add(time.Minute)
			return c, out
		}
		waits, answered := identified("id")
		w.manager.Deliver(waits)
		plain := w.begin('A', "waits")
		synctest.Wait()
		if r := <-w.begin('A', "writes"); r.Err != nil {
			t.Fatal(r.Err)
		}
		w.manager.Lost(0, 1)
		for what, done := range map[string]<-chan Result{"with an id": answered, "without": plain} {
			if r := <-done; fault.ReasonOf(r.Err) != fault.OutcomeUnknown {
				t.Errorf("%s: %v", what, r.Err)
			}
		}
		w.manager.Acquired(0, 2)
		again, answered := identified("id")
		w.manager.Deliver(again)
		if r := <-answered; fault.ReasonOf(r.Err) != fault.RequestInterrupted {
			t.Errorf("sent again: %v", r.Err)
		}
	})
}

// An id is not recorded of who returned before anything was written.
func TestAnIdOfWhoReturnedIsNotRecorded(t *testing.T) {
	dynamically(t, func(t *testing.T, w *dynamicWorld) {
		runs := 0
		w.methods["reads"] = does(func(ctx context.Context, s *State) error {
			runs++
			ctx, cancel := context.WithTimeout(ctx, time.Second)
			defer cancel()
			_ = s.Wait(ctx, func() bool { return false })
			return nil
		})
		w.methods["writes"] = does(func(_ context.Context, s *State) error {
			_, err := add(s)
			return err
		})
		for range 2 {
			out := make(chan Result, 1)
			c := w.call('A', "reads", func(r Result) { out <- r })
			c.RequestID = "id"
			w.manager.Deliver(c)
			if r := <-out; r.Err != nil {
				t.Error(r.Err)
			}
			if r := <-w.begin('A', "writes"); r.Err != nil {
				t.Error(r.Err)
			}
		}
		if runs != 2 {
			t.Errorf("ran %d times", runs)
		}
	})
}

// Calls that nobody stands and waits for leave when the writes before them are durable (P2), in order.
func TestSend(t *testing.T) {
	dynamically(t, func(t *testing.T, w *dynamicWorld) {
		w.log.set(func() { w.log.hold = true })
		w.answer = func(out *Outgoing, done func(Result)) func(error) {
			done(Result{Body: []byte(out.Method)})
			return func(error) {}
		}
		var mu sync.Mutex
		var got []string
		w.methods["x"] = does(func(ctx context.Context, s *State) error {
			b := s.Object(dynamicClass, "B")
			for n := range 5 {
				if n%2 == 0 {
					if _, err := add(s); err != nil {
						return err
					}
				}
				b.Send(ctx, fmt.Sprint(n), []byte{0x80}, func(r Result) {
					mu.Lock()
					got = append(got, string(r.Body))
					mu.Unlock()
					s.Wake()
				})
			}
			return s.Wait(ctx, func() bool {
				mu.Lock()
				defer mu.Unlock()
				return len(got) == 5
			})
		})
		x := w.begin('A', "x")
		unanswered(t, "x", x)
		if made := w.outgoing(); len(made) > 0 {
			t.Errorf("%d calls left before the writes were durable (P2)", len(made))
		}
		w.log.set(func() { w.log.hold = false })
		w.log.commit()
		if r := <-x; r.Err != nil {
			t.Error(r.Err)
		}
		if want := []string{"0", "1", "2", "3", "4"}; !slices.Equal(got, want) {
			t.Errorf("left in the order %v", got)
		}
		for _, out := range w.outgoing() {
			if !out.Values || len(out.Chain) != 1 || time.Until(out.Deadline) != OutgoingTimeMax {
				t.Errorf("made %+v", out)
			}
		}
		if n := w.manager.Stats().QueuedBytes; n != 0 {
			t.Errorf("%d bytes are counted still", n)
		}
	})
}

// Who makes the calls whose gate has opened keeps their order, also when others open the gates of later ones.
func TestSentCallsLeaveOneAfterTheOther(t *testing.T) {
	dynamically(t, func(t *testing.T, w *dynamicWorld) {
		w.log.set(func() { w.log.hold = true })
		leaving := make(chan struct{})
		w.answer = func(out *Outgoing, done func(Result)) func(error) {
			if out.Method == "0" {
				<-leaving
			}
			done(Result{})
			return func(error) {}
		}
		w.methods["x"] = does(func(ctx context.Context, s *State) error {
			for n := range 2 {
				if _, err := add(s); err != nil {
					return err
				}
				s.Object(dynamicClass, "B").Send(ctx, fmt.Sprint(n), nil, func(Result) {})
			}
			return nil
		})
		x := w.begin('A', "x")
		unanswered(t, "x", x)
		for n := range uint64(2) {
			go w.log.queue[n].settler.Committed(n + 1)
			if made := w.outgoing(); len(made) != 1 {
				t.Errorf("%d calls have left", len(made))
			}
		}
		close(leaving)
		if r := <-x; r.Err != nil || len(w.outgoing()) != 2 {
			t.Errorf("%d calls have left, %v", len(w.outgoing()), r.Err)
		}
		w.log.commit()
	})
}

// A Wake that comes between a handler's look and its sleep has it look again.
func TestAWakeJustBeforeSleep(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newPlainWorld(t)
		looks := 0
		done := w.start(1, func(ctx context.Context, s *State) error {
			ctx, cancel := context.WithTimeout(ctx, time.Minute)
			defer cancel()
			return s.Wait(ctx, func() bool {
				looks++
				if looks == 1 {
					s.Wake()
				}
				return looks == 2
			})
		})
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// One that comes while the conditions of others are asked has them asked again.
func TestAWakeWhileConditionsAreAsked(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newPlainWorld(t)
		ready, asking := false, false
		waits := w.start(1, func(ctx context.Context, s *State) error {
			ctx, cancel := context.WithTimeout(ctx, time.Minute)
			defer cancel()
			return s.Wait(ctx, func() bool {
				if asking {
					asking = false
					defer func() { ready = true; s.Wake() }()
				}
				return ready
			})
		})
		pending(t, "what waits", waits)
		if err := w.do(1, func(context.Context, *State) error { asking = true; return nil }); err != nil {
			t.Error(err)
		}
		if err := <-waits; err != nil {
			t.Error(err)
		}
	})
}

// The end of the incarnation ends the calls that it has under way, and their answers are the end's.
func TestSentCallsEndWithTheIncarnation(t *testing.T) {
	dynamically(t, func(t *testing.T, w *dynamicWorld) {
		var canceled []error
		w.answer = func(_ *Outgoing, done func(Result)) func(error) {
			return func(cause error) {
				canceled = append(canceled, cause)
				done(Result{Err: cause})
			}
		}
		answers := make(chan Result, SentMax+1)
		var state *State
		w.methods["x"] = does(func(ctx context.Context, s *State) error {
			state = s
			b := s.Object(dynamicClass, "B")
			for range SentMax {
				b.Send(ctx, "m", nil, func(r Result) { answers <- r })
			}
			b.Send(ctx, "m", nil, func(r Result) {
				if fault.ReasonOf(r.Err) != fault.Overloaded {
					t.Errorf("one too many: %v", r.Err)
				}
			})
			return nil
		})
		if r := <-w.begin('A', "x"); r.Err != nil {
			t.Error(r.Err)
		}
		w.outgoing()
		refused := make(chan Result, 1)
		send := func() Result {
			state.Object(dynamicClass, "B").Send(t.Context(), "m", nil, func(r Result) { refused <- r })
			return <-refused
		}
		if r := send(); !errors.Is(r.Err, ErrNoTurn) {
			t.Errorf("without an event: %v", r.Err)
		}
		state.Reset("enough")
		for range SentMax {
			if r := <-answers; fault.ReasonOf(r.Err) != fault.ObjectReset {
				t.Fatalf("got %v", r.Err)
			}
		}
		if len(canceled) != SentMax {
			t.Errorf("%d canceled", len(canceled))
		}
		if r := send(); fault.ReasonOf(r.Err) != fault.ObjectReset {
			t.Errorf("after the end: %v", r.Err)
		}
	})
}

// A sent call that its object does not want any more is canceled, wherever it is.
func TestCancelASentCall(t *testing.T) {
	for _, held := range []bool{true, false} {
		t.Run(fmt.Sprint(held), func(t *testing.T) {
			dynamically(t, func(t *testing.T, w *dynamicWorld) {
				w.answer = func(_ *Outgoing, done func(Result)) func(error) {
					return func(cause error) { done(Result{Err: status.FromContextError(cause).Err()}) }
				}
				w.log.set(func() { w.log.hold = held })
				answer := make(chan Result, 1)
				var cancel func(error)
				w.methods["x"] = does(func(ctx context.Context, s *State) error {
					if _, err := add(s); err != nil {
						return err
					}
					cancel = s.Object(dynamicClass, "B").Send(ctx, "m", nil, func(r Result) { answer <- r })
					return nil
				})
				x := w.begin('A', "x")
				synctest.Wait()
				cancel(nil)
				w.log.set(func() { w.log.hold = false })
				w.log.commit()
				if r := <-answer; status.Code(r.Err) != codes.Canceled {
					t.Errorf("got %v", r.Err)
				}
				<-x
				if made := len(w.outgoing()); (made == 0) != held {
					t.Errorf("%d left", made)
				}
			})
		})
	}
}

// An object that waits for a call without its turn can be called back, but not in a section.
func TestACallBack(t *testing.T) {
	for _, section := range []bool{false, true} {
		t.Run(fmt.Sprint(section), func(t *testing.T) {
			dynamically(t, func(t *testing.T, w *dynamicWorld) {
				calls := func(to, method string) func(ctx context.Context, s *State) error {
					return func(ctx context.Context, s *State) error {
						answer := make(chan Result, 1)
						s.Object(dynamicClass, to).Send(ctx, method, []byte{0x80}, func(r Result) {
							answer <- r
							s.Wake()
						})
						if err := s.Wait(ctx, func() bool { return len(answer) > 0 }); err != nil {
							return err
						}
						return (<-answer).Err
					}
				}
				w.methods["there"] = does(func(ctx context.Context, s *State) error {
					if !section {
						return calls("B", "back")(ctx, s)
					}
					end, err := s.Block(ctx)
					if err != nil {
						return err
					}
					return errors.Join(calls("B", "back")(ctx, s), end(nil))
				})
				w.methods["back"] = does(calls("A", "end"))
				w.methods["end"] = does(func(context.Context, *State) error { return nil })
				r := <-w.begin('A', "there")
				if section != (fault.ReasonOf(r.Err) == fault.CallCycle) || !section && r.Err != nil {
					t.Errorf("got %v", r.Err)
				}
			})
		})
	}
}

func TestADynamicStream(t *testing.T) {
	dynamically(t, func(t *testing.T, w *dynamicWorld) {
		w.streams["echo"] = func(ctx context.Context, s *State, stream *Stream) error {
			first, err := stream.Recv()
			if err != nil {
				return err
			}
			if err := stream.Send(first); err != nil {
				return err
			}
			stream.Notify(s.Wake)
			for {
				msg, ok, err := stream.TryRecv()
				switch {
				case errors.Is(err, io.EOF):
					return nil
				case ok:
					before := stream.Room()
					if err := stream.Send(msg); err != nil {
						return err
					}
					if room := stream.Room(); room != before-len(msg) {
						t.Errorf("room for %d, and after %d bytes for %d", before, len(msg), room)
					}
					continue
				}
				notified := make(chan struct{}, 1)
				stream.Notify(func() {
					select {
					case notified <- struct{}{}:
					default:
					}
					s.Wake()
				})
				if err := s.Wait(ctx, func() bool { return len(notified) > 0 }); err != nil {
					return err
				}
			}
		}
		pipe := testPipe{new(frame.Pipe)}
		done := make(chan Result, 1)
		c := w.call('A', "echo", func(r Result) { done <- r })
		c.Pipe, c.Body, c.Values = pipe, nil, false
		w.manager.Deliver(c)
		var heard []string
		for _, word := range []string{"a", "b", "c"} {
			pipe.Up.Push([]byte(word))
			synctest.Wait()
			msg, _, _ := pipe.Down.Take()
			heard = append(heard, string(msg))
		}
		if !slices.Equal(heard, []string{"a", "b", "c"}) {
			t.Errorf("heard %q", heard)
		}
		pipe.Up.Close()
		if r := <-done; r.Err != nil {
			t.Error(r.Err)
		}
	})
}

// The message of a gRPC class's method may be called by a dynamic object's stub, and what it replies is as
// JSON.
func TestMessagesAreValues(t *testing.T) {
	t.Parallel()
	item, err := value.Encode(wrapperspb.String("x"))
	if err != nil || !value.IsMessage(item) || value.IsMessage([]byte{0xf6}) {
		t.Errorf("%x, %v", item, err)
	}
	var out wrapperspb.StringValue
	if err := value.Decode(item, &out); err != nil || !proto.Equal(&out, wrapperspb.String("x")) {
		t.Errorf("%v, %v", &out, err)
	}
}
