// Package lock is a class of distributed locks: one holder at a time, a lease that ends by itself, and
// fencing tokens for what the lock protects.
//
//	holdfast call Lock nightly-report Acquire '{"holder": "worker-7", "lease_ms": 60000}'
package lock

import (
	"context"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/holdfast-io/holdfast/actor"
	"github.com/holdfast-io/holdfast/examples/lock/lockv1"
)

// What a lock stores: who holds it, absent while it is free, and the newest token that was given out.
const (
	holderKey = "holder"
	tokenKey  = "token"
)

const (
	defaultLease = 30 * time.Second
	leaseMax     = time.Hour
	holderMax    = 1024 // bytes
)

// Class describes the class to a node.
func Class() actor.Class {
	return actor.NewClass("Lock", &lockv1.Lock_ServiceDesc, func(s *actor.State) lockv1.LockServer {
		return &Lock{state: s, storage: s.Storage()}
	})
}

// Lock is one lock.
type Lock struct {
	lockv1.UnimplementedLockServer

	state   *actor.State
	storage *actor.Storage
}

// Acquire takes the lock when it is free, or becomes free within wait_ms.
func (l *Lock) Acquire(ctx context.Context, req *lockv1.AcquireRequest) (*lockv1.AcquireResponse, error) {
	if n := len(req.GetHolder()); n > holderMax {
		return nil, status.Errorf(codes.InvalidArgument, "holder: at most %d bytes, has %d", holderMax, n)
	}
	lease, err := leaseOf(req.LeaseMs)
	if err != nil {
		return nil, err
	}
	if err := l.waitUntilFree(ctx, req.GetWaitMs()); err != nil {
		return nil, err
	}
	holder, held, err := actor.Get[string](l.storage, holderKey)
	if err != nil {
		return nil, err
	}
	if held {
		return &lockv1.AcquireResponse{Holder: holder}, nil
	}
	token, _, err := actor.Get[int64](l.storage, tokenKey)
	if err != nil {
		return nil, err
	}
	token++
	if err := actor.Put(l.storage, tokenKey, token); err != nil {
		return nil, err
	}
	if err := actor.Put(l.storage, holderKey, req.GetHolder()); err != nil {
		return nil, err
	}
	if err := l.state.SetAlarm(time.Now().Add(lease)); err != nil {
		return nil, err
	}
	return &lockv1.AcquireResponse{Acquired: true, Token: token, Holder: req.GetHolder()}, nil
}

// waitUntilFree lets other calls have their turns until the lock is free or the time is over. Which
// of the two it was the caller finds in the storage.
func (l *Lock) waitUntilFree(ctx context.Context, ms int64) error {
	if ms <= 0 {
		return nil
	}
	limited, cancel := context.WithTimeout(ctx, time.Duration(min(ms, leaseMax.Milliseconds()))*time.Millisecond)
	defer cancel()
	var failed error
	err := l.state.Wait(limited, func() bool {
		var held bool
		_, held, failed = l.storage.Get(holderKey)
		return failed != nil || !held
	})
	if err != nil && ctx.Err() == nil && limited.Err() != nil {
		return nil // Only our own time is over.
	}
	if err != nil {
		return err
	}
	return failed
}

// Renew begins the lease anew.
func (l *Lock) Renew(_ context.Context, req *lockv1.RenewRequest) (*lockv1.RenewResponse, error) {
	lease, err := leaseOf(req.LeaseMs)
	if err != nil {
		return nil, err
	}
	if holds, err := l.holds(req.GetToken()); err != nil {
		return nil, err
	} else if !holds {
		return nil, status.Errorf(codes.FailedPrecondition, "token %d no longer holds the lock: stop what you do under it, and acquire it again", req.GetToken())
	}
	return &lockv1.RenewResponse{}, l.state.SetAlarm(time.Now().Add(lease)) // In place of the old one.
}

// Release gives the lock back.
func (l *Lock) Release(_ context.Context, req *lockv1.ReleaseRequest) (*lockv1.ReleaseResponse, error) {
	if holds, err := l.holds(req.GetToken()); err != nil || !holds {
		return &lockv1.ReleaseResponse{}, err
	}
	if err := l.state.DeleteAlarm(); err != nil {
		return nil, err
	}
	_, err := l.storage.Delete(holderKey)
	return &lockv1.ReleaseResponse{Released: true}, err
}

// Alarm implements actor.Alarmer: the lease is over. A lease that was renewed or given back meanwhile
// is no longer this alarm's, and then it does not run.
func (l *Lock) Alarm(context.Context, actor.AlarmInfo) error {
	_, err := l.storage.Delete(holderKey)
	return err
}

// holds says whether a token is that of the present holder: the lock is held, and by the newest.
func (l *Lock) holds(token int64) (bool, error) {
	_, held, err := l.storage.Get(holderKey)
	if err != nil || !held {
		return false, err
	}
	newest, _, err := actor.Get[int64](l.storage, tokenKey)
	return token == newest, err
}

func leaseOf(ms *int64) (time.Duration, error) {
	if ms == nil {
		return defaultLease, nil
	}
	if *ms < 1 || *ms > leaseMax.Milliseconds() {
		return 0, status.Errorf(codes.InvalidArgument, "lease_ms: must be 1 to %d, is %d", leaseMax.Milliseconds(), *ms)
	}
	return time.Duration(*ms) * time.Millisecond, nil
}
