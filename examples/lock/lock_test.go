package lock_test

import (
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/holdfast-io/holdfast/examples/internal/onenode"
	"github.com/holdfast-io/holdfast/examples/lock"
	"github.com/holdfast-io/holdfast/examples/lock/lockv1"
)

// long is longer than any test.
var long = new(time.Hour.Milliseconds())

func TestOneHolderAtATime(t *testing.T) {
	t.Parallel()
	l := lockv1.NewLockClient(onenode.Start(t, lock.Class()).Name("Lock", "x"))
	first := acquire(t, l, &lockv1.AcquireRequest{Holder: "a", LeaseMs: long})
	if !first.GetAcquired() {
		t.Fatalf("a free lock: got %v", first)
	}
	if got := acquire(t, l, &lockv1.AcquireRequest{Holder: "b", LeaseMs: long}); got.GetAcquired() || got.GetHolder() != "a" || got.GetToken() != 0 {
		t.Errorf("a lock that a holds: got %v", got)
	}
	if got := acquire(t, l, &lockv1.AcquireRequest{Holder: "b", LeaseMs: long, WaitMs: proto.Int64(50)}); got.GetAcquired() {
		t.Errorf("a lock that a holds, after a wait: got %v", got)
	}
	if got, err := l.Release(t.Context(), &lockv1.ReleaseRequest{Token: first.GetToken() - 1}); err != nil || got.GetReleased() {
		t.Errorf("released with another's token: got %v, %v", got, err)
	}
	if got, err := l.Release(t.Context(), &lockv1.ReleaseRequest{Token: first.GetToken()}); err != nil || !got.GetReleased() {
		t.Errorf("got %v, %v", got, err)
	}
	if got := acquire(t, l, &lockv1.AcquireRequest{Holder: "b", LeaseMs: long}); !got.GetAcquired() || got.GetToken() <= first.GetToken() {
		t.Errorf("a lock that was given back: got %v, want a token over %d", got, first.GetToken())
	}
}

func TestWaitsForTheHolder(t *testing.T) {
	t.Parallel()
	l := lockv1.NewLockClient(onenode.Start(t, lock.Class()).Name("Lock", "x"))
	first := acquire(t, l, &lockv1.AcquireRequest{Holder: "a", LeaseMs: long})
	const waiters = 3
	type result struct {
		*lockv1.AcquireResponse
		err error
	}
	results := make(chan result, waiters)
	for range waiters {
		go func() {
			got, err := l.Acquire(t.Context(), &lockv1.AcquireRequest{Holder: "b", LeaseMs: long, WaitMs: long})
			results <- result{got, err}
		}()
	}
	token := first.GetToken()
	for range waiters { // Each has it when the one before gives it back.
		if _, err := l.Release(t.Context(), &lockv1.ReleaseRequest{Token: token}); err != nil {
			t.Fatal(err)
		}
		got := <-results
		if got.err != nil || !got.GetAcquired() || got.GetToken() != token+1 {
			t.Fatalf("after token %d: got %v, %v", token, got.AcquireResponse, got.err)
		}
		token = got.GetToken()
	}
}

func TestLeaseEnds(t *testing.T) {
	t.Parallel()
	l := lockv1.NewLockClient(onenode.Start(t, lock.Class()).Name("Lock", "x"))
	dead := acquire(t, l, &lockv1.AcquireRequest{Holder: "dead", LeaseMs: proto.Int64(100)})
	got := acquire(t, l, &lockv1.AcquireRequest{Holder: "b", LeaseMs: proto.Int64(100), WaitMs: long})
	if !got.GetAcquired() || got.GetToken() <= dead.GetToken() {
		t.Fatalf("got %v, want a token over %d", got, dead.GetToken())
	}
	if _, err := l.Renew(t.Context(), &lockv1.RenewRequest{Token: dead.GetToken(), LeaseMs: long}); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("renewed a lease that has ended: got %v", err)
	}
}

func TestRenewReplacesTheLease(t *testing.T) {
	t.Parallel()
	l := lockv1.NewLockClient(onenode.Start(t, lock.Class()).Name("Lock", "x"))
	first := acquire(t, l, &lockv1.AcquireRequest{Holder: "a", LeaseMs: long})
	if _, err := l.Renew(t.Context(), &lockv1.RenewRequest{Token: first.GetToken(), LeaseMs: proto.Int64(1)}); err != nil {
		t.Fatal(err)
	}
	if got := acquire(t, l, &lockv1.AcquireRequest{Holder: "b", WaitMs: long}); !got.GetAcquired() {
		t.Errorf("got %v", got)
	}
}

func TestRefusesLeasesOutOfRange(t *testing.T) {
	t.Parallel()
	l := lockv1.NewLockClient(onenode.Start(t, lock.Class()).Name("Lock", "x"))
	for _, ms := range []int64{-1, 0, 3_600_001} {
		if _, err := l.Acquire(t.Context(), &lockv1.AcquireRequest{LeaseMs: &ms}); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%d: got %v", ms, err)
		}
	}
}

func acquire(t *testing.T, l lockv1.LockClient, req *lockv1.AcquireRequest) *lockv1.AcquireResponse {
	t.Helper()
	got, err := l.Acquire(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	return got
}
