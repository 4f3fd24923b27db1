package frame_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"

	"github.com/holdfast-io/holdfast/fault"
	"github.com/holdfast-io/holdfast/peer/frame"
)

// featured are calls that say what earlier releases do not know, and what a release that does not know them
// says of itself.
func featured() map[string]struct {
	req *frame.Request
	old [][]byte
} {
	return map[string]struct {
		req *frame.Request
		old [][]byte
	}{
		"of what must exist": {
			&frame.Request{Method: "M", Class: "C", Name: "x", Named: true, Existing: true, Hops: 2},
			[][]byte{nil, {1}},
		},
		"with values": {
			&frame.Request{Method: "M", Class: "C", Name: "x", Named: true, Values: true, Hops: 2},
			[][]byte{nil, {1}, {3}},
		},
	}
}

func TestACallOfAFeatureArrives(t *testing.T) {
	t.Parallel()
	for name, c := range featured() {
		t.Run(name, func(t *testing.T) { arrives(t, c.req) })
	}
}

func arrives(t *testing.T, req *frame.Request) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		var got *frame.Request
		client, _, end := converse(t, &handler{fn: func(req *frame.Request, reply func(frame.Response)) func(error) {
			got = req
			return echo(req, reply)
		}}, frame.Options{})
		defer end()
		synctest.Wait() // Both have greeted.
		r := call(client, req)
		if err := r.Err(); err != nil {
			t.Fatal(err)
		}
		if got.Existing != req.Existing || got.Values != req.Values || got.Hops != 2 {
			t.Errorf("got %+v", got)
		}
	})
}

// A side that does not know such calls would take them for others: it is sent none.
func TestNoCallOfAFeatureToReleasesWithoutIt(t *testing.T) {
	t.Parallel()
	for name, c := range featured() {
		t.Run(name, func(t *testing.T) { staysHere(t, c.req, c.old) })
	}
}

func staysHere(t *testing.T, req *frame.Request, old [][]byte) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		a, other := newPipe(100)
		m := frame.NewMux(a, nil, frame.Options{})
		ctx, cancel := context.WithCancel(t.Context())
		ran := make(chan struct{})
		go func() { _ = m.Run(ctx); close(ran) }()
		r := call(m, req)
		if lost, ok := errors.AsType[*frame.LostError](r.Err()); !ok || lost.Sent {
			t.Errorf("before the other side has said anything: %v", r.Err())
		}
		for _, features := range old {
			_ = other.Send(pingFrame(features...))
			synctest.Wait()
			if r := call(m, req); fault.ReasonOf(r.Err()) != fault.NoOwner {
				t.Errorf("got %v", r.Err())
			}
		}
		cancel()
		<-ran
		a.Close()
		m.Wait()
		for len(other.in) > 0 {
			if b := <-other.in; b[4] == 1 {
				t.Error("it was sent")
			}
		}
	})
}
