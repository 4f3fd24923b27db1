package router_test

import (
	"context"
	"errors"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-io/holdfast/actor"
	"github.com/holdfast-io/holdfast/fault"
	"github.com/holdfast-io/holdfast/peer/frame"
)

// follow opens a stream.
func (w *world) follow() (c *frame.Caller, cancel func(error)) {
	w.t.Helper()
	c = frame.NewCaller()
	req := named()
	req.Pipe = &c.Pipe
	return c, w.r.Route(req, c.End)
}

func over(c *frame.Caller) bool {
	synctest.Wait()
	select {
	case <-c.Ended():
		return true
	default:
		return false
	}
}

// ends wants the stream to have ended for a reason.
func ends(t *testing.T, c *frame.Caller, want fault.Reason) {
	t.Helper()
	if !over(c) {
		t.Fatalf("the stream goes on, want %s", want)
	}
	for {
		_, err := c.Recv(t.Context())
		if err == nil {
			continue
		}
		if fault.ReasonOf(err) != want {
			t.Errorf("the stream ended by %v, want %s", err, want)
		}
		return
	}
}

func TestStreamReachesTheObjectHere(t *testing.T) {
	t.Parallel()
	run(t, func(t *testing.T, w *world) {
		w.lead(self, 3)
		c, _ := w.follow()
		call := w.delivered()[0]
		if err := c.Send(t.Context(), []byte("question")); err != nil {
			t.Fatal(err)
		}
		call.Pipe.Begin()
		read := make(chan struct{}, 1)
		call.Pipe.OnReadable(func() { read <- struct{}{} })
		<-read
		if msg, ok, _ := call.Pipe.Take(); !ok || string(msg) != "question" {
			t.Errorf("got %q, %t", msg, ok)
		}
		taken := make(chan struct{}, 1)
		call.Pipe.OnTaken(func(int) { taken <- struct{}{} })
		call.Pipe.Push([]byte("answer"))
		if messages, bytes := call.Pipe.Waiting(); messages != 1 || bytes != 6 {
			t.Errorf("%d messages of %d bytes wait", messages, bytes)
		}
		if msg, err := c.Recv(t.Context()); string(msg) != "answer" {
			t.Errorf("got %q, %v", msg, err)
		}
		<-taken
		time.Sleep(10 * time.Minute) //nolint:forbidigo // A stream that an object has taken lasts.
		if over(c) {
			t.Fatalf("ended by %v", c.Answer())
		}
		call.Done(actor.Result{})
		if _, err := c.Recv(t.Context()); !errors.Is(err, io.EOF) {
			t.Errorf("at the end: %v", err)
		}
	})
}

// What no object has taken has not run, and is tried again, with the messages that wait.
func TestStreamIsTriedAgainUntilAnObjectTakesIt(t *testing.T) {
	t.Parallel()
	run(t, func(t *testing.T, w *world) {
		w.lead(2, 3)
		c, _ := w.follow()
		if err := c.Send(t.Context(), []byte("question")); err != nil {
			t.Fatal(err)
		}
		w.last(1).done(noOwner(owner{3, 4}))
		time.Sleep(time.Second)
		w.last(2).done(frame.ErrorResponse(&frame.LostError{Cause: errors.New("gone")}))
		w.lead(self, 5)
		time.Sleep(time.Second)
		call := w.delivered()[0]
		call.Pipe.Begin()
		if msg, ok, _ := call.Pipe.Take(); !ok || string(msg) != "question" {
			t.Errorf("got %q, %t", msg, ok)
		}
		call.Done(actor.Result{Err: fault.New(fault.OwnerChanged, "moved")})
		ends(t, c, fault.OwnerChanged)
		time.Sleep(time.Second)
		if len(w.delivered()) != 1 || len(w.sent()) != 2 {
			t.Error("a stream that had begun was made again")
		}
	})
}

func TestStreamThatHasBegunEndsByAMove(t *testing.T) {
	t.Parallel()
	for name, move := range map[string]func(w *world, s *sent){
		"connection lost": func(_ *world, s *sent) {
			s.done(frame.ErrorResponse(&frame.LostError{Sent: true, Cause: errors.New("gone")}))
		},
		"refused late": func(_ *world, s *sent) { s.done(noOwner(owner{3, 4})) },
		"news of an owner": func(w *world, _ *sent) {
			w.r.Learn(shard, 3, 4)
			time.Sleep(time.Second)
		},
		"the router stops": func(w *world, _ *sent) { w.r.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			run(t, func(t *testing.T, w *world) {
				w.lead(2, 3)
				c, _ := w.follow()
				s := w.last(1)
				s.req.Pipe.Begin()
				s.req.Pipe.Down.Push([]byte("before"))
				move(w, s)
				if msg, err := c.Recv(t.Context()); string(msg) != "before" {
					t.Errorf("got %q, %v", msg, err)
				}
				ends(t, c, fault.OwnerChanged)
				if name == "news of an owner" && len(s.canceled) == 0 {
					t.Error("the old owner was not told")
				}
			})
		})
	}
}

// A stream that was sent, and of which nothing came back, may have begun.
func TestStreamMayHaveBegunWhenTheConnectionBroke(t *testing.T) {
	t.Parallel()
	run(t, func(t *testing.T, w *world) {
		w.lead(2, 3)
		c, _ := w.follow()
		w.last(1).done(frame.ErrorResponse(&frame.LostError{Sent: true, Cause: errors.New("gone")}))
		ends(t, c, fault.OutcomeUnknown)
	})
}

func TestStreamThatNoObjectTakesEnds(t *testing.T) {
	t.Parallel()
	run(t, func(t *testing.T, w *world) {
		w.lead(2, 3)
		c, _ := w.follow()
		if s := w.last(1); !s.req.Deadline.IsZero() {
			t.Error("the stream got a deadline")
		}
		time.Sleep(29 * time.Second)
		if over(c) {
			t.Fatal("ended early")
		}
		time.Sleep(2 * time.Second)
		ends(t, c, fault.ObjectTimeout)
	})
}

func TestDeadlineAndCallerEndAStream(t *testing.T) {
	t.Parallel()
	run(t, func(t *testing.T, w *world) {
		w.lead(2, 3)
		c := frame.NewCaller()
		req := named()
		req.Pipe, req.Deadline = &c.Pipe, time.Now().Add(time.Minute)
		w.r.Route(req, c.End)
		s := w.last(1)
		if !s.req.Deadline.Equal(req.Deadline) {
			t.Errorf("the deadline went as %v", s.req.Deadline)
		}
		s.req.Pipe.Begin()
		time.Sleep(61 * time.Second)
		ends(t, c, fault.ObjectTimeout)
		if len(s.canceled) == 0 {
			t.Error("the owner was not told")
		}
		_, cancel := w.follow()
		s = w.last(2)
		s.req.Pipe.Begin()
		cancel(context.Canceled)
		synctest.Wait()
		if len(s.canceled) == 0 {
			t.Error("the owner was not told that the caller left")
		}
	})
}
