// Package ratelimiter is a class that limits how often something may be done: a token bucket for each
// name, such as a user or an API key.
//
//	holdfast call RateLimiter alice Take
package ratelimiter

import (
	"context"
	"math"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/holdfast-io/holdfast/actor"
	"github.com/holdfast-io/holdfast/examples/ratelimiter/ratelimiterv1"
)

// bucketKey is where a limiter keeps its bucket.
const bucketKey = "bucket"

// A limiter that was never configured has these.
const (
	defaultCapacity  = 10
	defaultPerSecond = 1
)

// Class describes the class to a node.
func Class() actor.Class {
	return actor.NewClass("RateLimiter", &ratelimiterv1.RateLimiter_ServiceDesc, func(s *actor.State) ratelimiterv1.RateLimiterServer {
		return &RateLimiter{storage: s.Storage()}
	})
}

// RateLimiter is one token bucket.
type RateLimiter struct {
	ratelimiterv1.UnimplementedRateLimiterServer

	storage *actor.Storage
}

// bucket is what is stored. The tokens are those that there were at a time; how many there are now
// follows from it, so nothing has to run to fill the bucket.
type bucket struct {
	Capacity  uint32
	PerSecond float64
	Tokens    float64
	At        int64 // milliseconds since 1970
}

// at returns the bucket as it is at a later time. Another node's clock may be behind: then none are
// added until it has caught up.
func (b bucket) at(now int64) bucket {
	if now > b.At {
		b.Tokens = math.Min(float64(b.Capacity), b.Tokens+b.PerSecond*float64(now-b.At)/1000)
		b.At = now
	}
	return b
}

// Take takes tokens out, all or none.
func (r *RateLimiter) Take(_ context.Context, req *ratelimiterv1.TakeRequest) (*ratelimiterv1.TakeResponse, error) {
	want := uint32(1)
	if req.Tokens != nil {
		want = req.GetTokens()
	}
	now := time.Now().UnixMilli()
	b, known, err := actor.Get[bucket](r.storage, bucketKey)
	if err != nil {
		return nil, err
	}
	if !known {
		b = bucket{Capacity: defaultCapacity, PerSecond: defaultPerSecond, Tokens: defaultCapacity, At: now}
	}
	if want == 0 || want > b.Capacity {
		return nil, status.Errorf(codes.InvalidArgument, "tokens: must be 1 to the bucket's capacity, %d; is %d", b.Capacity, want)
	}
	b = b.at(now)
	if missing := float64(want) - b.Tokens; missing > 0 {
		return &ratelimiterv1.TakeResponse{
			Remaining:    uint32(b.Tokens),
			RetryAfterMs: int64(math.Ceil(missing / b.PerSecond * 1000)),
		}, nil
	}
	b.Tokens -= float64(want)
	// Tokens are cheap to lose: the answer need not wait until they are durable. When the node is lost
	// at this moment, somebody gets a few calls more.
	if err := actor.Put(r.storage.Unconfirmed(), bucketKey, b); err != nil {
		return nil, err
	}
	return &ratelimiterv1.TakeResponse{Allowed: true, Remaining: uint32(b.Tokens)}, nil
}

// maxSecondsToFill keeps times in the range of numbers.
const maxSecondsToFill = 1e9

// Configure changes the limits; the bucket is full afterwards.
func (r *RateLimiter) Configure(_ context.Context, req *ratelimiterv1.ConfigureRequest) (*ratelimiterv1.ConfigureResponse, error) {
	if req.GetCapacity() < 1 {
		return nil, status.Error(codes.InvalidArgument, "capacity: must be at least 1, is 0")
	}
	// Written so that NaN is refused too.
	if slowest := float64(req.GetCapacity()) / maxSecondsToFill; !(req.GetPerSecond() >= slowest) {
		return nil, status.Errorf(codes.InvalidArgument, "per_second: must be at least %g with this capacity, is %g", slowest, req.GetPerSecond())
	}
	return &ratelimiterv1.ConfigureResponse{}, actor.Put(r.storage, bucketKey, bucket{
		Capacity: req.GetCapacity(), PerSecond: req.GetPerSecond(), Tokens: float64(req.GetCapacity()), At: time.Now().UnixMilli(),
	})
}
