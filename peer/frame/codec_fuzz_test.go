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
		{Method: "M", Class: "C", Existing: true, Hops: 3, RequestID: "id"},
		{Method: "M", Class: "C", Values: true, Hops: 3},
		{Method: "M", Class: "C", Chain: []Link{{Event: 1 << 63, Label: "é"}, {Event: 2}}},
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

func TestMalformedChainsAreRefused(t *testing.T) {
	t.Parallel()
	call := func(chain []byte) []byte {
		b := []byte{flagNamed | flagChain, 0, 0, 1, 'C', 1, 'M', 1, 'n'}
		return append(b, chain...)
	}
	links := func(n int, label string) []byte {
		chain := make([]Link, n)
		for i := range chain {
			chain[i].Label = label
		}
		return appendChain(nil, chain)
	}
	for name, c := range map[string]struct {
		b  []byte
		ok bool
	}{
		"one link":      {links(1, "Counter \"A\""), true},
		"most links":    {links(ChainMax, string(make([]byte, LabelBytesMax))), true},
		"no link":       {links(0, ""), false},
		"too many":      {links(ChainMax+1, ""), false},
		"a long label":  {links(1, string(make([]byte, LabelBytesMax+1))), false},
		"not UTF-8":     {links(1, "\xff"), false},
		"cut":           {links(2, "label")[:20], false},
		"count is huge": {[]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f}, false},
	} {
		var r Request
		if _, err := r.decode(call(c.b), time.Now(), &names{}); (err == nil) != c.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}
