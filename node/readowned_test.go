package node

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/holdfast-io/holdfast/placement"
	"github.com/holdfast-io/holdfast/replica"
)

// scriptedHost notes the order in which it is asked.
type scriptedHost struct {
	steps  []string
	term   uint64
	sole   bool
	answer error // to Confirm
	await  error
}

func (h *scriptedHost) Leader(placement.ShardID) (placement.NodeID, uint64, bool) {
	return 1, h.term, h.term != 0
}

func (h *scriptedHost) ConfirmNow(placement.ShardID, uint64) bool {
	if h.sole {
		h.steps = append(h.steps, "confirm")
	}
	return h.sole
}

func (h *scriptedHost) Confirm(_ placement.ShardID, _ uint64, who replica.Confirmer, token uint64) {
	h.steps = append(h.steps, "confirm")
	who.Confirmed(token, h.answer)
}

func (h *scriptedHost) AwaitReadable(context.Context) error {
	h.steps = append(h.steps, "await")
	return h.await
}

// P4: a listing sees what was acknowledged before it was asked for, so the read comes after the proof
// of being the owner, and after what was acknowledged is readable; and it is given to nobody when
// the shard went elsewhere meanwhile.
func TestOwnedReadsComeLast(t *testing.T) {
	t.Parallel()
	closed := errors.New("closed")
	for name, tt := range map[string]struct {
		host  scriptedHost
		moved bool // while it was read
		want  error
		steps []string
	}{
		"several voters":  {scriptedHost{term: 3}, false, nil, []string{"confirm", "await", "read"}},
		"one voter":       {scriptedHost{term: 3, sole: true}, false, nil, []string{"confirm", "await", "read"}},
		"superseded":      {scriptedHost{term: 3, answer: replica.ErrNotLeader}, false, errNotOwner, []string{"confirm"}},
		"closed":          {scriptedHost{term: 3, await: closed}, false, closed, []string{"confirm", "await"}},
		"moved meanwhile": {scriptedHost{term: 3}, true, errNotOwner, []string{"confirm", "await", "read"}},
		"not the owner":   {scriptedHost{}, false, errNotOwner, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := tt.host
			raw, err := readOwned(t.Context(), &h, 1, 0, func() (any, error) {
				h.steps = append(h.steps, "read")
				if tt.moved {
					h.term++
				}
				return "what was read", nil
			})
			if !errors.Is(err, tt.want) || (err == nil) != (string(raw) == `"what was read"`) {
				t.Errorf("got %s, %v, want %v", raw, err, tt.want)
			}
			if !slices.Equal(h.steps, tt.steps) {
				t.Errorf("steps %v, want %v", h.steps, tt.steps)
			}
		})
	}
}
