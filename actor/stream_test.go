package actor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/holdfast-io/holdfast/fault"
	"github.com/holdfast-io/holdfast/peer/frame"
)

// testPipe is a pipe as router makes it.
type testPipe struct{ *frame.Pipe }

func (p testPipe) Take() (msg []byte, ok, over bool)  { return p.Up.Take() }
func (p testPipe) OnReadable(fn func())               { p.Up.OnReadable(fn) }
func (p testPipe) Push(msg []byte) bool               { return p.Down.Push(msg) }
func (p testPipe) OnTaken(fn func(bytes int))         { p.Down.OnTaken(fn) }
func (p testPipe) Waiting() (messages, bytes int)     { return p.Down.Waiting() }
func (p testPipe) Discard()                           { p.Down.Discard() }
func text(m *wrapperspb.StringValue) string           { return m.GetValue() }
func say(stream grpc.ServerStream, text string) error { return stream.SendMsg(wrapperspb.String(text)) }

func hear(stream grpc.ServerStream) (string, error) {
	var m wrapperspb.StringValue
	err := stream.RecvMsg(&m)
	return m.GetValue(), err
}

// caller is the caller of a stream.
type caller struct {
	pipe testPipe
	call *Call
	done chan error
}

// stream opens a stream of an object, which does something with it.
func (w *plainWorld) stream(n byte, act func(stream grpc.ServerStream, s *State) error) *caller {
	c := &caller{pipe: testPipe{new(frame.Pipe)}, done: make(chan error, 1)}
	c.call = &Call{Object: plainRef(n), Class: plainClass, Method: "Stream", Pipe: c.pipe, Done: func(r Result) { c.done <- r.Err }}
	w.acts.Store(c.call, act)
	w.manager.Deliver(c.call)
	return c
}

func (c *caller) say(texts ...string) {
	for _, text := range texts {
		msg, err := proto.Marshal(wrapperspb.String(text))
		if err != nil {
			panic(err)
		}
		c.pipe.Up.Push(msg)
	}
}

// heard is what has come.
func (c *caller) heard(t *testing.T) (out []string) {
	t.Helper()
	synctest.Wait()
	for {
		msg, ok, _ := c.pipe.Down.Take()
		if !ok {
			return out
		}
		var m wrapperspb.StringValue
		if err := proto.Unmarshal(msg, &m); err != nil {
			t.Fatal(err)
		}
		out = append(out, text(&m))
	}
}

func (c *caller) hears(t *testing.T, want ...string) {
	t.Helper()
	if got := c.heard(t); !slices.Equal(got, want) {
		t.Errorf("heard %q, want %q", got, want)
	}
}

func streaming(t *testing.T, test func(t *testing.T, w *plainWorld)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { test(t, newPlainWorld(t)) })
}

func TestRecvGivesUpTheTurn(t *testing.T) {
	t.Parallel()
	streaming(t, func(t *testing.T, w *plainWorld) {
		c := w.stream(1, func(stream grpc.ServerStream, s *State) error {
			for {
				text, err := hear(stream)
				if errors.Is(err, io.EOF) {
					return nil
				}
				if err != nil {
					return err
				}
				n, err := add(s)
				if err != nil {
					return err
				}
				if err := say(stream, fmt.Sprint(text, n)); err != nil {
					return err
				}
			}
		})
		synctest.Wait()
		if !c.pipe.Begun() {
			t.Fatal("the object did not take the stream")
		}
		if err := w.do(1, func(_ context.Context, s *State) error { _, err := add(s); return err }); err != nil {
			t.Fatal(err)
		}
		c.say("a", "b")
		c.hears(t, "a2", "b3")
		if got := number(t, w); got != 3 {
			t.Errorf("a call sees %d, want 3", got)
		}
		c.pipe.Up.Close()
		if err := <-c.done; err != nil {
			t.Error(err)
		}
	})
}

// P2, P1: nothing goes out on a stream before what was written before it is durable, and before this
// node is known to own the object still; and all of it in order.
func TestMessagesPassTheGateInOrder(t *testing.T) {
	t.Parallel()
	streaming(t, func(t *testing.T, w *plainWorld) {
		var all grpc.ServerStream
		c := w.stream(1, func(stream grpc.ServerStream, s *State) error {
			all = stream
			return s.Wait(stream.Context(), nil)
		})
		post := func(text string, write bool) <-chan error {
			return w.start(1, func(_ context.Context, s *State) error {
				if write {
					if _, err := add(s); err != nil {
						return err
					}
				}
				return say(all, text)
			})
		}
		synctest.Wait()
		w.log.set(func() { w.log.hold = true })
		one := post("one", true)
		two := post("two", false)
		pending(t, "the first", one)
		pending(t, "the second, which may have seen the first,", two)
		c.hears(t)
		w.log.set(func() { w.log.hold = false })
		w.log.commit()
		c.hears(t, "one", "two")
		if err := errors.Join(<-one, <-two); err != nil {
			t.Error(err)
		}
		w.log.set(func() { w.log.sole = false })
		three := post("three", false)
		pending(t, "the third, not confirmed,", three)
		c.hears(t)
		w.log.confirm()
		c.hears(t, "three")
		if err := <-three; err != nil {
			t.Error(err)
		}
	})
}

func TestMessagesOfWhatFailsDoNotGoOut(t *testing.T) {
	t.Parallel()
	streaming(t, func(t *testing.T, w *plainWorld) {
		c := w.stream(1, func(stream grpc.ServerStream, _ *State) error {
			if err := say(stream, "before"); err != nil {
				return err
			}
			if _, err := hear(stream); err != nil {
				return err
			}
			if err := say(stream, "never"); err != nil {
				return err
			}
			panic("broken")
		})
		c.hears(t, "before")
		c.say("go on")
		wantReason(t, "a panic", <-c.done, fault.Panic)
		c.hears(t)
		if q := w.manager.Stats().QueuedBytes; q != 0 {
			t.Errorf("%d bytes are still counted", q)
		}
	})
}

func TestStreamsEndWithTheirIncarnation(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		end  func(w *plainWorld)
		want fault.Reason
	}{
		"reset": {func(w *plainWorld) {
			_ = w.do(1, func(_ context.Context, s *State) error { s.Abort("enough"); return nil })
		}, fault.ObjectReset},
		"lost": {func(w *plainWorld) { w.manager.Lost(0, 1) }, fault.OwnerChanged},
		"refused": {func(w *plainWorld) {
			w.log.set(func() { w.log.refuse = true })
			_ = w.do(1, func(_ context.Context, s *State) error { _, err := add(s); return err })
		}, fault.OwnerChanged},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			streaming(t, func(t *testing.T, w *plainWorld) {
				handlers := make(chan error, 3)
				recv := w.stream(1, func(stream grpc.ServerStream, s *State) error {
					if _, err := add(s); err != nil { // That it has written makes no difference.
						return err
					}
					_, err := hear(stream)
					handlers <- err
					return err
				})
				wait := w.stream(1, func(stream grpc.ServerStream, s *State) error {
					err := s.Wait(stream.Context(), func() bool { return false })
					handlers <- err
					return err
				})
				yield := w.stream(1, func(stream grpc.ServerStream, s *State) error {
					err := s.Yield(stream.Context(), func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() })
					handlers <- err
					return err
				})
				synctest.Wait()
				test.end(w)
				for _, c := range []*caller{recv, wait, yield} {
					wantReason(t, "a stream", <-c.done, test.want)
				}
				for range 3 {
					wantReason(t, "a handler", <-handlers, test.want)
				}
			})
		})
	}
}

// A planned move waits for nothing that streams wait for; what happened before it gets out.
func TestStreamsDoNotHoldUpAMove(t *testing.T) {
	t.Parallel()
	streaming(t, func(t *testing.T, w *plainWorld) {
		c := w.stream(1, func(stream grpc.ServerStream, s *State) error {
			if err := say(stream, "hello"); err != nil {
				return err
			}
			return s.Wait(stream.Context(), nil)
		})
		synctest.Wait()
		drained := make(chan struct{})
		w.manager.Pause(0, 1, func() { close(drained) })
		<-drained
		w.manager.Lost(0, 1)
		c.hears(t, "hello")
		wantReason(t, "the stream", <-c.done, fault.OwnerChanged)
	})
}

func TestObjectWithStreamsIsNotEvicted(t *testing.T) {
	t.Parallel()
	streaming(t, func(t *testing.T, w *plainWorld) {
		c := w.stream(1, func(stream grpc.ServerStream, s *State) error { return s.Wait(stream.Context(), nil) })
		synctest.Wait()
		w.manager.Evict(0, plainRef(1))
		if n := w.manager.Stats().Objects; n != 1 {
			t.Errorf("%d objects", n)
		}
		c.call.Cancel(nil)
		if err := <-c.done; status.Code(err) != codes.Canceled {
			t.Errorf("got %v", err)
		}
	})
}

// A slow caller's stream ends, and nobody else's.
func TestSlowConsumer(t *testing.T) {
	t.Parallel()
	streaming(t, func(t *testing.T, w *plainWorld) {
		streams := make(map[grpc.ServerStream]bool)
		follow := func(stream grpc.ServerStream, s *State) error {
			streams[stream] = true
			defer delete(streams, stream)
			return s.Wait(stream.Context(), nil)
		}
		slow, quick := w.stream(1, follow), w.stream(1, follow)
		synctest.Wait()
		post := func(text string) (failed int) {
			if err := w.do(1, func(context.Context, *State) error {
				for stream := range streams {
					if err := say(stream, text); err != nil {
						wantReason(t, "who sends", err, fault.SlowConsumer)
						failed++
					}
				}
				return nil
			}); err != nil {
				t.Fatal(err)
			}
			return failed
		}
		for i := range SendMessagesMax {
			if n := post(fmt.Sprint(i)); n != 0 {
				t.Fatalf("message %d: %d streams failed", i, n)
			}
			quick.hears(t, fmt.Sprint(i))
		}
		if n := post("one too many"); n != 1 {
			t.Errorf("%d streams failed", n)
		}
		quick.hears(t, "one too many")
		wantReason(t, "the slow one", <-slow.done, fault.SlowConsumer)
		slow.hears(t) // What waited is gone.
		if len(streams) != 1 {
			t.Errorf("%d streams are left", len(streams))
		}
		large := strings.Repeat("x", SendBytesMax/2)
		post(large)
		if n := post(large); n != 1 {
			t.Error("bytes are not counted")
		}
		wantReason(t, "the other one", <-quick.done, fault.SlowConsumer)
		if q := w.manager.Stats().QueuedBytes; q != 0 {
			t.Errorf("%d bytes are still counted", q)
		}
	})
}

func TestMessagesAtTheGateAreBounded(t *testing.T) {
	t.Parallel()
	streaming(t, func(t *testing.T, w *plainWorld) {
		w.log.set(func() { w.log.hold = true })
		sent := 0
		c := w.stream(1, func(stream grpc.ServerStream, s *State) error {
			for {
				if _, err := add(s); err != nil {
					return err
				}
				if err := say(stream, "x"); err != nil {
					return err
				}
				sent++
			}
		})
		wantReason(t, "the stream", <-c.done, fault.SlowConsumer)
		if sent != SendMessagesMax {
			t.Errorf("%d messages were taken", sent)
		}
		w.log.set(func() { w.log.hold = false })
		synctest.Wait()
		w.log.commit()
		c.hears(t)
	})
}

func TestWaitSentMakesRoom(t *testing.T) {
	t.Parallel()
	streaming(t, func(t *testing.T, w *plainWorld) {
		const n = 10 * SendMessagesMax
		c := w.stream(1, func(stream grpc.ServerStream, s *State) error {
			for i := range n {
				if i%(SendMessagesMax/2) == 0 {
					if err := s.WaitSent(stream.Context()); err != nil {
						return err
					}
				}
				if err := say(stream, fmt.Sprint(i)); err != nil {
					return err
				}
			}
			return nil
		})
		got := 0
		for got < n {
			more := c.heard(t)
			if len(more) == 0 {
				t.Fatalf("nothing comes after %d", got)
			}
			for _, text := range more {
				if text != fmt.Sprint(got) {
					t.Fatalf("message %d is %q", got, text)
				}
				got++
			}
		}
		if err := <-c.done; err != nil {
			t.Error(err)
		}
	})
}

func TestCallerLeaves(t *testing.T) {
	t.Parallel()
	streaming(t, func(t *testing.T, w *plainWorld) {
		var left []string
		var streams []grpc.ServerStream
		leave := func(what string, act func(stream grpc.ServerStream, s *State) error) *caller {
			return w.stream(1, func(stream grpc.ServerStream, s *State) error {
				streams = append(streams, stream)
				err := act(stream, s)
				left = append(left, what)
				return err
			})
		}
		callers := []*caller{
			leave("recv", func(stream grpc.ServerStream, _ *State) error { _, err := hear(stream); return err }),
			leave("wait", func(stream grpc.ServerStream, s *State) error {
				return s.Wait(stream.Context(), func() bool { return false })
			}),
			leave("end", func(stream grpc.ServerStream, s *State) error { return s.Wait(stream.Context(), nil) }),
		}
		synctest.Wait()
		for _, c := range callers {
			c.call.Cancel(context.Canceled)
			if err := <-c.done; status.Code(err) != codes.Canceled {
				t.Errorf("got %v", err)
			}
		}
		if !slices.Equal(left, []string{"recv", "wait", "end"}) {
			t.Errorf("left: %q", left)
		}
		if err := w.do(1, func(context.Context, *State) error {
			for _, stream := range streams {
				if err := say(stream, "late"); status.Code(err) != codes.Canceled {
					t.Errorf("sent to who has left: %v", err)
				}
			}
			return nil
		}); err != nil {
			t.Error(err)
		}
	})
}

func TestWaitHasItsTurnWhenItsConditionHolds(t *testing.T) {
	t.Parallel()
	streaming(t, func(t *testing.T, w *plainWorld) {
		const n = 100
		level, woken, asked := 0, 0, 0
		var callers []<-chan error
		for i := range n {
			callers = append(callers, w.start(1, func(ctx context.Context, s *State) error {
				err := s.Wait(ctx, func() bool { asked++; return level > i/50 })
				woken++
				return err
			}))
		}
		synctest.Wait()
		raise := func() {
			if err := w.do(1, func(context.Context, *State) error { level++; asked = 0; return nil }); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		raise()
		if woken != n/2 {
			t.Errorf("%d are awake", woken)
		}
		if asked > 4*n {
			t.Errorf("%d waiters were asked %d times", n, asked)
		}
		raise()
		for _, c := range callers {
			if err := <-c; err != nil {
				t.Error(err)
			}
		}
	})
}

// What wakes all of many waiters asks each a few times, not each for each.
func TestWaitersAreNotAskedForEachOther(t *testing.T) {
	t.Parallel()
	streaming(t, func(t *testing.T, w *plainWorld) {
		const n = 1000
		last, asked := 0, 0
		callers := make([]*caller, n)
		for i := range callers {
			callers[i] = w.stream(1, func(stream grpc.ServerStream, s *State) error {
				for next := 1; ; next++ {
					if err := s.Wait(stream.Context(), func() bool { asked++; return last >= next }); err != nil {
						return err
					}
					if err := say(stream, fmt.Sprint(next)); err != nil {
						return err
					}
				}
			})
			if i%500 == 0 {
				synctest.Wait() // The mailbox is bounded.
			}
		}
		synctest.Wait()
		asked = 0
		for range 3 {
			if err := w.do(1, func(context.Context, *State) error { last++; return nil }); err != nil {
				t.Fatal(err)
			}
			for _, c := range callers {
				c.hears(t, fmt.Sprint(last))
			}
		}
		if asked > 20*n {
			t.Errorf("%d waiters were asked %d times in 3 rounds", n, asked)
		}
	})
}

func TestStreamRefusals(t *testing.T) {
	t.Parallel()
	streaming(t, func(t *testing.T, w *plainWorld) {
		kind := func(method string, pipe Pipe) error {
			done := make(chan error, 1)
			w.manager.Deliver(&Call{Object: plainRef(1), Class: plainClass, Method: method, Pipe: pipe, Done: func(r Result) { done <- r.Err }})
			return <-done
		}
		pipe := testPipe{new(frame.Pipe)}
		for _, test := range []struct {
			err  error
			kind string
		}{
			{kind("Act", pipe), fault.KindUnary},
			{kind("Stream", nil), fault.KindStream},
			{kind("None", pipe), ""},
			{kind("None", nil), ""},
		} {
			wantReason(t, "the call", test.err, fault.UnknownMethod)
			if got := fault.MetadataOf(test.err)[fault.KindKey]; got != test.kind {
				t.Errorf("%v: kind %q, want %q", test.err, got, test.kind)
			}
		}
		done := make(chan error, 1)
		w.manager.Deliver(&Call{Object: plainRef(1), Class: plainClass, Method: "Stream", Pipe: pipe, RequestID: "again", Done: func(r Result) { done <- r.Err }})
		wantReason(t, "a stream with a request id", <-done, fault.InvalidArgument)
		if pipe.Begun() {
			t.Error("a refused stream has begun")
		}
		c := w.stream(1, func(stream grpc.ServerStream, _ *State) error {
			if err := stream.SetHeader(metadata.Pairs("k", "v")); status.Code(err) != codes.Unimplemented {
				t.Errorf("a header: %v", err)
			}
			if err := say(stream, strings.Repeat("x", SendBytesMax)); fault.ReasonOf(err) != fault.ValueTooLarge {
				t.Errorf("a message over the limit: %v", err)
			}
			_, err := hear(stream)
			return err
		})
		c.pipe.Up.Push([]byte{0xff})
		wantReason(t, "garbage", <-c.done, fault.InvalidArgument)
	})
}

func TestStreamsOfAnObjectAreBounded(t *testing.T) {
	t.Parallel()
	w := newPlainWorld(t)
	follow := func(stream grpc.ServerStream, s *State) error { return s.Wait(stream.Context(), nil) }
	for i := range StreamsMax {
		w.stream(1, follow)
		if i%500 == 0 {
			if err := w.do(1, func(context.Context, *State) error { return nil }); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.do(1, func(context.Context, *State) error { return nil }); err != nil {
		t.Fatal(err)
	}
	wantReason(t, "one too many", <-w.stream(1, follow).done, fault.Overloaded)
	wantReason(t, "of another object", w.do(2, func(context.Context, *State) error { return nil }), "")
}
