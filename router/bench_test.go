package router_test

import (
	"context"
	"testing"
	"time"

	"github.com/holdfast-io/holdfast/actor"
	"github.com/holdfast-io/holdfast/peer/frame"
	"github.com/holdfast-io/holdfast/placement"
	"github.com/holdfast-io/holdfast/router"
)

// swift is surroundings that answer at once, so that a benchmark measures the Router alone.
type swift struct{ leader placement.NodeID }

func (swift) Class(string) (router.ClassFacts, bool) { return counter, true }
func (swift) Meant(string) []string                  { return nil }
func (swift) ByKey(string) (router.ClassFacts, bool) { return counter, true }

func (swift) ByService(string) (router.ClassFacts, bool) { return counter, true }
func (swift) Revision() uint64                           { return 7 }
func (swift) Refresh(context.Context) error              { return nil }
func (swift) Deliver(c *actor.Call)                      { c.Done(actor.Result{}) }

func (s swift) Leader(placement.ShardID) (placement.NodeID, uint64, bool) { return s.leader, 3, true }

func (swift) Call(_ placement.NodeID, _ *frame.Request, done func(frame.Response)) func(error) {
	done(frame.Response{})
	return func(error) {}
}

func newSwift(b *testing.B, leader placement.NodeID) *router.Router {
	b.Helper()
	s := swift{leader}
	r := router.New(router.Config{
		Self: self, Shards: shards, Facts: s, Local: s, Leaders: s, Remote: s,
		Wish: func(placement.ShardID) (placement.NodeID, bool) { return 0, false },
		Addr: func(placement.NodeID) string { return "" },
	})
	r.Start()
	b.Cleanup(r.Close)
	return r
}

func benchmarkRoute(b *testing.B, leader placement.NodeID) {
	b.Helper()
	deadline := time.Now().Add(time.Hour)
	route := func(r *router.Router) {
		r.Route(&frame.Request{Class: counter.Name, Method: "Get", ID: id, Deadline: deadline}, func(frame.Response) {})
	}
	b.Run("alone", func(b *testing.B) {
		r := newSwift(b, leader)
		b.ReportAllocs()
		for b.Loop() {
			route(r)
		}
	})
	b.Run("parallel", func(b *testing.B) {
		r := newSwift(b, leader)
		b.SetParallelism(8)
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				route(r)
			}
		})
	})
}

func BenchmarkRouteHere(b *testing.B) { benchmarkRoute(b, self) }
func BenchmarkRouteAway(b *testing.B) { benchmarkRoute(b, 2) }
