package frame_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"

	"github.com/holdfast-io/holdfast/fault"
	"github.com/holdfast-io/holdfast/peer/frame"
)

func mustExist() *frame.Request {
	return &frame.Request{Method: "M", Class: "C", Name: "x", Named: true, Existing: true, Hops: 2}
}

func TestACallOfWhatMustExistArrives(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var got *frame.Request
		client, _, end := converse(t, &handler{fn: func(req *frame.Request, reply func(frame.Response)) func(error) {
			got = req
			return echo(req, reply)
		}}, frame.Options{})
		defer end()
		synctest.Wait() // Both have greeted.
		r := call(client, mustExist())
		if err := r.Err(); err != nil {
			t.Fatal(err)
		}
		if !got.Existing || got.Hops != 2 {
			t.Errorf("got %+v", got)
		}
	})
}

// A side that does not know such calls would make the object: it is sent none.
func TestNoCallOfWhatMustExistToReleasesWithoutThem(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a, old := newPipe(100)
		m := frame.NewMux(a, nil, frame.Options{})
		ctx, cancel := context.WithCancel(t.Context())
		ran := make(chan struct{})
		go func() { _ = m.Run(ctx); close(ran) }()
		r := call(m, mustExist())
		if lost, ok := errors.AsType[*frame.LostError](r.Err()); !ok || lost.Sent {
			t.Errorf("before the other side has said anything: %v", r.Err())
		}
		for _, features := range [][]byte{nil, {1}} {
			_ = old.Send(pingFrame(features...))
			synctest.Wait()
			if r := call(m, mustExist()); fault.ReasonOf(r.Err()) != fault.NoOwner {
				t.Errorf("got %v", r.Err())
			}
		}
		cancel()
		<-ran
		a.Close()
		m.Wait()
		for len(old.in) > 0 {
			if b := <-old.in; b[4] == 1 {
				t.Error("it was sent")
			}
		}
	})
}
