package frame

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"google.golang.org/grpc/metadata"
)

// What decodes as a call encodes again to what decodes alike, and is within the limits.
func FuzzDecodedRequestsEncodeAgain(f *testing.F) {
	now := time.Unix(1_000_000, 0)
	for _, r := range []Request{
		{Method: "M", Class: "C", Named: true, Name: "n", Body: []byte("b")},
		{Method: "/s/M", Ordered: true, Hops: 2, Revision: 300, Deadline: now.Add(time.Second), Metadata: metadata.MD{"k": {"v", "w"}}},
		{Method: "M", Class: "C", JSON: true, RequestID: "id"},
	} {
		f.Add(r.append(nil, 7, now, r.Body, len(r.Body))[headerBytes+2:])
		f.Add(r.append(nil, 7, now, r.Body, len(r.Body)+9)[headerBytes+2:])
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var r Request
		total, err := r.decode(b, now, &names{})
		if err != nil {
			return
		}
		if err := r.check(); err != nil {
			t.Fatalf("decoded %+v: %v", r, err)
		}
		if !r.Deadline.After(now) { // It is at least 1 on the wire.
			r.Deadline = time.Time{}
		}
		raw := r.append(nil, 7, now, r.Body, total)
		var again Request
		if n, err := again.decode(raw[headerBytes+2:], now, &names{}); err != nil || n != total {
			t.Fatalf("encoded again as %x: %d of %d bytes, %v", raw, n, total, err)
		}
		if diff := cmp.Diff(r, again, cmpopts.EquateEmpty()); diff != "" {
			t.Fatalf("(-decoded +again)\n%s", diff)
		}
	})
}
