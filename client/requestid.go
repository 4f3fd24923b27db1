package client

import (
	"crypto/rand"
	"strconv"
	"sync/atomic"

	"github.com/holdfast-io/holdfast/fault"
)

// requestIDs makes the ids of a Client's calls: a random beginning of its own, and a number.
type requestIDs struct {
	prefix string
	last   *atomic.Uint64
}

func newRequestIDs() requestIDs {
	return requestIDs{prefix: rand.Text()[:20] + "-", last: new(atomic.Uint64)} // 100 bits
}

func (r requestIDs) next() string {
	var b [40]byte
	return string(strconv.AppendUint(append(b[:0], r.prefix...), r.last.Add(1), 36))
}

// keyRequestID is the metadata key of an id that the caller gives.
const keyRequestID = "holdfast-request-id"

// requestID returns the id of a call whose caller has given so many.
func (c *Client) requestID(given []string) (string, error) {
	switch {
	case len(given) == 0:
		return c.ids.next(), nil
	case len(given) > 1:
		return "", fault.New(fault.InvalidArgument, "%s: give one, got %d", keyRequestID, len(given))
	case given[0] == "":
		return "", fault.New(fault.InvalidArgument, "%s: must not be empty", keyRequestID)
	}
	return given[0], nil
}
