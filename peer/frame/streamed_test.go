package frame_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"testing"
	"testing/synctest"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/holdfast-io/holdfast/fault"
	"github.com/holdfast-io/holdfast/peer/frame"
	"github.com/holdfast-io/holdfast/placement"
	holdfastv1 "github.com/holdfast-io/holdfast/proto/holdfast/v1"
)

// opened is a streamed call as the side got it that answers.
type opened struct {
	*frame.Request

	reply    func(frame.Response)
	canceled chan struct{} // closed when it is
}

// streams runs a test between a caller and the side that answers, in a bubble.
func streams(t *testing.T, o frame.Options, test func(t *testing.T, client, server *frame.Mux, calls <-chan *opened)) {
	t.Helper()
	streamsUntil(t, o, func(t *testing.T, client, server *frame.Mux, calls <-chan *opened, end func()) {
		defer end()
		test(t, client, server, calls)
	})
}

// streamsUntil is streams, and the test ends the conversation.
func streamsUntil(t *testing.T, o frame.Options, test func(t *testing.T, client, server *frame.Mux, calls <-chan *opened, end func())) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		calls := make(chan *opened, 10)
		client, server, end := converse(t, &handler{fn: func(req *frame.Request, reply func(frame.Response)) func(error) {
			c := &opened{Request: req, reply: reply, canceled: make(chan struct{})}
			if req.Pipe == nil {
				reply(frame.Response{Body: req.Body})
				return nil
			}
			calls <- c
			return func(error) { close(c.canceled) }
		}}, o)
		synctest.Wait() // Both have greeted.
		test(t, client, server, calls, end)
	})
}

func open(m *frame.Mux) (c *frame.Caller, cancel func(error)) {
	c = frame.NewCaller()
	return c, m.Call(&frame.Request{Method: "/feed.v1.Feed/Follow", Name: "x", Named: true, Pipe: &c.Pipe}, c.End)
}

// all takes what waits, and says whether more comes.
func all(f *frame.Flow) (got []string, over bool) {
	for {
		msg, ok, over := f.Take()
		if !ok {
			return got, over
		}
		got = append(got, string(msg))
	}
}

func TestStreamCarriesMessagesBothWays(t *testing.T) {
	t.Parallel()
	streams(t, frame.Options{}, func(t *testing.T, client, _ *frame.Mux, calls <-chan *opened) {
		c, _ := open(client)
		call := <-calls
		if call.Method != "/feed.v1.Feed/Follow" || call.Name != "x" || len(call.Body) > 0 {
			t.Errorf("opened %+v", call.Request)
		}
		large := string(bytes.Repeat([]byte("0123456789abcdef"), frame.MessageBytesMax/16))
		for _, msg := range []string{"a", "", large} {
			if err := c.Send(t.Context(), []byte(msg)); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		if got, _ := all(&call.Pipe.Up); len(got) > 0 {
			t.Errorf("%d messages came before the object took the call", len(got))
		}
		select {
		case <-c.Begun():
			t.Error("begun too early")
		default:
		}
		call.Pipe.Begin()
		<-c.Begun()
		synctest.Wait()
		if got, over := all(&call.Pipe.Up); over || len(got) != 3 || got[0] != "a" || got[1] != "" || got[2] != large {
			t.Errorf("got %d messages, over %v", len(got), over)
		}
		c.CloseSend()
		synctest.Wait()
		if _, over := all(&call.Pipe.Up); !over {
			t.Error("the caller's end did not come")
		}
		for _, msg := range []string{"b", large, ""} {
			if !call.Pipe.Down.Push([]byte(msg)) {
				t.Errorf("%d bytes are refused", len(msg))
			}
			synctest.Wait()
		}
		call.reply(frame.Response{})
		for _, want := range []string{"b", large, ""} {
			if got, err := c.Recv(t.Context()); err != nil || string(got) != want {
				t.Errorf("got %d bytes, %v", len(got), err)
			}
		}
		if _, err := c.Recv(t.Context()); !errors.Is(err, io.EOF) {
			t.Errorf("at the end: %v", err)
		}
	})
}

// The error comes behind the messages, whatever the window.
func TestStreamEndsWithItsErrorBehindItsMessages(t *testing.T) {
	t.Parallel()
	streams(t, frame.Options{}, func(t *testing.T, client, _ *frame.Mux, calls <-chan *opened) {
		c, _ := open(client)
		call := <-calls
		call.Pipe.Begin()
		for i := range frame.FlowMessagesMax {
			if !call.Pipe.Down.Push(fmt.Append(nil, i)) {
				t.Fatalf("message %d is refused", i)
			}
		}
		call.reply(frame.ErrorResponse(fault.New(fault.OwnerChanged, "moved")))
		for i := range frame.FlowMessagesMax {
			if got, err := c.Recv(t.Context()); err != nil || string(got) != fmt.Sprint(i) {
				t.Fatalf("message %d: got %q, %v", i, got, err)
			}
		}
		if _, err := c.Recv(t.Context()); fault.ReasonOf(err) != fault.OwnerChanged {
			t.Errorf("at the end: %v", err)
		}
	})
}

// P6: who takes nothing holds up its own stream, at a bound, and nobody else.
func TestSlowStreamHoldsUpNobody(t *testing.T) {
	t.Parallel()
	streams(t, frame.Options{}, func(t *testing.T, client, _ *frame.Mux, calls <-chan *opened) {
		slow, _ := open(client)
		slowCall := <-calls
		slowCall.Pipe.Begin()
		pushed := 0
		for slowCall.Pipe.Down.Push(make([]byte, 10_000)) {
			pushed++
			synctest.Wait()
		}
		if messages, size := slow.Pipe.Down.Waiting(); messages == 0 || size > 64<<10+10_000 {
			t.Errorf("%d messages of %d bytes wait at the caller", messages, size)
		}
		if most := (frame.FlowBytesMax + 64<<10 + 10_000) / 10_000; pushed > most {
			t.Errorf("%d messages were taken, at most %d may", pushed, most)
		}
		if r := call(client, &frame.Request{Body: []byte("unary")}); string(r.Body) != "unary" {
			t.Errorf("a call beside it: %v", r.Err())
		}
		quick, _ := open(client)
		quickCall := <-calls
		quickCall.Pipe.Begin()
		for i := range 5000 {
			quickCall.Pipe.Down.Push(fmt.Append(nil, i))
			if got, err := quick.Recv(t.Context()); err != nil || string(got) != fmt.Sprint(i) {
				t.Fatalf("message %d of the other stream: got %q, %v", i, got, err)
			}
		}
		// The caller's direction as well.
		up := 0
		ctx, cancel := context.WithCancel(t.Context())
		go func() { synctest.Wait(); cancel() }()
		for quick.Send(ctx, make([]byte, 1000)) == nil {
			up++
		}
		if up > 2*(64+2) {
			t.Errorf("%d KB went up though nobody takes them", up)
		}
	})
}

func TestCanceledStreamIsToldAndNotWaitedFor(t *testing.T) {
	t.Parallel()
	streams(t, frame.Options{}, func(t *testing.T, client, _ *frame.Mux, calls <-chan *opened) {
		c, cancel := open(client)
		call := <-calls
		call.Pipe.Begin()
		for call.Pipe.Down.Push(make([]byte, 1000)) {
		}
		cancel(context.Canceled)
		<-call.canceled
		call.reply(frame.ErrorResponse(context.Canceled))
		<-c.Ended()
		if r := c.Answer(); status.Code(r.Err()) != codes.Canceled {
			t.Errorf("got %v", r.Err())
		}
		if !call.Pipe.Down.Push([]byte("after")) {
			t.Error("who sends on is told of a full queue, which there is not")
		}
	})
}

func TestStreamsEndWithTheConversation(t *testing.T) {
	t.Parallel()
	streamsUntil(t, frame.Options{}, func(t *testing.T, client, _ *frame.Mux, calls <-chan *opened, end func()) {
		c, _ := open(client)
		told := <-calls
		end()
		r := c.Answer()
		if lost, ok := errors.AsType[*frame.LostError](r.Err()); !ok || !lost.Sent {
			t.Errorf("got %v", r.Err())
		}
		select {
		case <-told.canceled:
		default:
			t.Error("the side that answers was not told")
		}
	})
}

// A side that stops ends the streams that it answers, and drains.
func TestDrainEndsStreams(t *testing.T) {
	t.Parallel()
	streams(t, frame.Options{}, func(t *testing.T, client, server *frame.Mux, calls <-chan *opened) {
		c, _ := open(client)
		call := <-calls
		call.Pipe.Begin()
		call.Pipe.Down.Push([]byte("last"))
		if err := server.Drain(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got, err := c.Recv(t.Context()); string(got) != "last" {
			t.Errorf("got %q, %v", got, err)
		}
		if _, err := c.Recv(t.Context()); fault.ReasonOf(err) != fault.OwnerChanged {
			t.Errorf("got %v", err)
		}
		<-call.canceled
	})
}

func TestStreamBounds(t *testing.T) {
	t.Parallel()
	streams(t, frame.Options{StreamsMax: 2, UnreadBytesMax: 100_000, CallsMax: 1}, func(t *testing.T, client, _ *frame.Mux, calls <-chan *opened) {
		one, _ := open(client)
		two, _ := open(client)
		three, _ := open(client)
		<-three.Ended()
		if _, err := three.Recv(t.Context()); fault.ReasonOf(err) != fault.Overloaded {
			t.Errorf("the third stream: %v", err)
		}
		var second *opened
		for range 2 {
			second = <-calls
			second.Pipe.Begin()
			second.Pipe.Down.Push(make([]byte, 60_000))
			synctest.Wait()
		}
		<-two.Ended()
		if r := two.Answer(); fault.ReasonOf(r.Err()) != fault.SlowConsumer {
			t.Errorf("the stream over the bound: %v", r.Err())
		}
		if got, err := one.Recv(t.Context()); len(got) != 60_000 {
			t.Errorf("the stream before it: %v", err)
		}
		if err := one.Send(t.Context(), make([]byte, frame.MessageBytesMax+1)); fault.ReasonOf(err) != fault.RequestTooLarge {
			t.Errorf("a message over the limit: %v", err)
		}
		<-second.canceled
		second.reply(frame.Response{})
		synctest.Wait()
		four, _ := open(client)
		select {
		case <-four.Ended():
			t.Errorf("a stream ended, and its place is still taken: %v", four.Answer())
		case call := <-calls:
			call.Pipe.Begin()
			for range 10 { // What was taken counts no more.
				call.Pipe.Down.Push(make([]byte, 60_000))
				if _, err := four.Recv(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
		}
	})
}

// pingFrame is the ping of a release, with what it says of itself.
func pingFrame(features ...byte) *holdfastv1.Frames {
	b := append([]byte{0, 0, 0, 0, 5, 0}, features...)
	binary.BigEndian.PutUint32(b, uint32(len(b)-4)) //nolint:gosec // short
	return &holdfastv1.Frames{Data: b}
}

// A side that does not know streams is sent none.
func TestNoStreamsToReleasesWithoutThem(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a, old := newPipe(100)
		m := frame.NewMux(a, nil, frame.Options{})
		ctx, cancel := context.WithCancel(t.Context())
		ran := make(chan struct{})
		go func() { _ = m.Run(ctx); close(ran) }()
		early, _ := open(m)
		<-early.Ended()
		r := early.Answer()
		if lost, ok := errors.AsType[*frame.LostError](r.Err()); !ok || lost.Sent {
			t.Errorf("before the other side has said anything: %v", r.Err())
		}
		_ = old.Send(pingFrame())
		synctest.Wait()
		c, _ := open(m)
		<-c.Ended()
		if r := c.Answer(); status.Code(r.Err()) != codes.Unimplemented {
			t.Errorf("got %v", r.Err())
		}
		cancel()
		<-ran
		a.Close()
		m.Wait()
		for len(old.in) > 0 {
			if b := <-old.in; b[4] > 9 {
				t.Errorf("a frame of kind %d was sent", b[4])
			}
		}
	})
}

// Whoever sends more than was granted loses the conversation.
func TestUngrantedMessagesAreRefused(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a, peer := newPipe(10)
		m := frame.NewMux(a, &handler{fn: func(_ *frame.Request, _ func(frame.Response)) func(error) {
			return nil
		}}, frame.Options{})
		open := []byte("\x00\x00\x00\x07\x0a\x01\x01\x00\x00\x00\x00\x00")
		binary.BigEndian.PutUint32(open, uint32(len(open)-4)) //nolint:gosec // short
		_ = peer.Send(&holdfastv1.Frames{Data: open})
		_ = peer.Send(&holdfastv1.Frames{Data: []byte("\x00\x00\x00\x04\x0b\x01\x00x")})
		if err := m.Run(t.Context()); err == nil || !bytes.Contains([]byte(err.Error()), []byte("more than was granted")) {
			t.Errorf("got %v", err)
		}
		a.Close()
		m.Wait()
	})
}

// FuzzFrames feeds a conversation, in which calls and streams are under way, with whatever: it ends
// or goes on, and everybody gets an answer.
func FuzzFrames(f *testing.F) {
	for _, b := range []string{
		"\x00\x00\x00\x03\x05\x00\x01", "\x00\x00\x00\x04\x0b\x01\x01x", "\x00\x00\x00\x05\x0c\x01\x01\x10\x10",
		"\x00\x00\x00\x05\x0c\x01\x01\x10\x10\x00\x00\x00\x04\x0b\x01\x03x\x00\x00\x00\x04\x0b\x01\x01y\x00\x00\x00\x04\x02\x01\x00\x00",
		"\x00\x00\x00\x08\x0a\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x04\x0b\x01\x00x\x00\x00\x00\x03\x0b\x01\x04\x00\x00\x00\x02\x04\x01",
		"\x00\x00\x00\x02\x09\x00", "\x00\x00\x00\x08\x01\x05\x01\x00\x00\x00\x00\x00",
	} {
		f.Add([]byte(b))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		synctest.Test(t, func(t *testing.T) {
			a, peer := newPipe(10)
			m := frame.NewMux(a, &handler{
				fn: func(req *frame.Request, reply func(frame.Response)) func(error) {
					if req.Pipe != nil {
						req.Pipe.Begin()
						req.Pipe.Down.Push([]byte("answer"))
					}
					reply(frame.Response{Body: req.Body})
					return func(error) {}
				},
				announce: func(placement.ShardID, placement.NodeID, uint64) {},
				query:    func(string, []byte) ([]byte, error) { return nil, nil },
			}, frame.Options{})
			ctx, cancel := context.WithCancel(t.Context())
			ran := make(chan struct{})
			go func() { _ = m.Run(ctx); close(ran) }()
			go func() {
				for {
					if _, err := peer.Recv(); err != nil {
						return
					}
				}
			}()
			_ = peer.Send(pingFrame(1))
			synctest.Wait()
			c, _ := open(m)
			_ = c.Send(ctx, []byte("question"))
			answered := make(chan frame.Response, 1)
			m.Call(&frame.Request{}, func(r frame.Response) { answered <- r })
			_ = peer.Send(&holdfastv1.Frames{Data: b})
			synctest.Wait()
			cancel()
			<-ran
			a.Close()
			m.Wait()
			<-answered
			<-c.Ended()
		})
	})
}
