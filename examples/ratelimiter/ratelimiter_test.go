package ratelimiter_test

import (
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/holdfast-io/holdfast/examples/internal/onenode"
	"github.com/holdfast-io/holdfast/examples/ratelimiter"
	"github.com/holdfast-io/holdfast/examples/ratelimiter/ratelimiterv1"
)

func TestTakesWhatIsThereAndRefusesTheRest(t *testing.T) {
	t.Parallel()
	c := onenode.Start(t, ratelimiter.Class())
	alice := ratelimiterv1.NewRateLimiterClient(c.Name("RateLimiter", "alice"))
	// So slow that no token comes while the test runs.
	if _, err := alice.Configure(t.Context(), &ratelimiterv1.ConfigureRequest{Capacity: 3, PerSecond: 0.0001}); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		tokens, remaining uint32
		allowed           bool
	}{
		{2, 1, true},
		{2, 1, false}, // All or none.
		{1, 0, true},
		{1, 0, false},
	} {
		got, err := alice.Take(t.Context(), &ratelimiterv1.TakeRequest{Tokens: &tt.tokens})
		if err != nil {
			t.Fatal(err)
		}
		if got.GetAllowed() != tt.allowed || got.GetRemaining() != tt.remaining || (got.GetRetryAfterMs() > 9_000_000) == tt.allowed {
			t.Errorf("%+v: got %v", tt, got)
		}
	}
	bob := ratelimiterv1.NewRateLimiterClient(c.Name("RateLimiter", "bob"))
	if got, err := bob.Take(t.Context(), &ratelimiterv1.TakeRequest{}); err != nil || !got.GetAllowed() || got.GetRemaining() != 9 {
		t.Errorf("another name has a bucket of its own: got %v, %v", got, err)
	}
}

func TestTokensComeBack(t *testing.T) {
	t.Parallel()
	c := onenode.Start(t, ratelimiter.Class())
	began := time.Now()
	fast := ratelimiterv1.NewRateLimiterClient(c.Name("RateLimiter", "fast"))
	if _, err := fast.Configure(t.Context(), &ratelimiterv1.ConfigureRequest{Capacity: 1, PerSecond: 20}); err != nil {
		t.Fatal(err)
	}
	for taken := 0; taken < 3; {
		got, err := fast.Take(t.Context(), &ratelimiterv1.TakeRequest{})
		if err != nil {
			t.Fatal(err)
		}
		if got.GetAllowed() {
			taken++
		}
	}
	// Two had to come first; times are cut to milliseconds.
	if took := time.Since(began); took < 99*time.Millisecond {
		t.Errorf("three tokens in %s out of a bucket of one that gets 20 a second", took)
	}
}

func TestRefusesWhatMakesNoSense(t *testing.T) {
	t.Parallel()
	r := ratelimiterv1.NewRateLimiterClient(onenode.Start(t, ratelimiter.Class()).Name("RateLimiter", "x"))
	for _, req := range []*ratelimiterv1.ConfigureRequest{{PerSecond: 1}, {Capacity: 1}, {Capacity: 1, PerSecond: -1}} {
		if _, err := r.Configure(t.Context(), req); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%v: got %v", req, err)
		}
	}
	for _, tokens := range []uint32{0, 11} {
		if _, err := r.Take(t.Context(), &ratelimiterv1.TakeRequest{Tokens: &tokens}); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%d tokens: got %v", tokens, err)
		}
	}
}
