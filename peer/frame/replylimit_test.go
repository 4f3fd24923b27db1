package frame_test

import (
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/holdfast-io/holdfast/fault"
	"github.com/holdfast-io/holdfast/peer/frame"
)

// P6, P7: a reply over the limit is not the caller's mistake, and the call has run: it is told so, in
// the words of an owner that makes such a reply on the node where the call came in.
func TestReplyOverTheLimitSaysThatTheCallRan(t *testing.T) {
	t.Parallel()
	size := frame.BodyBytesMax + 1
	client, _, end := converse(t, &handler{fn: func(_ *frame.Request, reply func(frame.Response)) func(error) {
		reply(frame.Response{Body: make([]byte, size)})
		return nil
	}}, frame.Options{})
	defer end()
	r := call(client, &frame.Request{})
	err := r.Err()
	if status.Code(err) != codes.Internal || fault.ReasonOf(err) != "" || !strings.Contains(err.Error(), "at most 33554432 bytes, has 33554433; the call has run") {
		t.Errorf("got %v", err)
	}
	size--
	if r := call(client, &frame.Request{}); r.Err() != nil || len(r.Body) != size {
		t.Errorf("at the limit: got %d bytes, %v", len(r.Body), r.Err())
	}
}
