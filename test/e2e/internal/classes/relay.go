package classes

import (
	"context"
	"strings"
	"time"

	"google.golang.org/grpc/metadata"

	"github.com/holdfast-io/holdfast/actor"
	"github.com/holdfast-io/holdfast/test/e2e/internal/classes/classesv1"
)

// Relay describes the class Relay.
func Relay() actor.Class {
	return actor.NewClass("Relay", &classesv1.Relay_ServiceDesc, func(s *actor.State) classesv1.RelayServer {
		return &relay{state: s}
	})
}

type relay struct {
	classesv1.UnimplementedRelayServer

	state *actor.State
}

// PreShutdown implements actor.PreShutdowner: it counts.
func (r *relay) PreShutdown(context.Context) error {
	n, _, err := actor.Get[int64](r.state.Storage(), "farewells")
	if err != nil {
		return err
	}
	return actor.Put(r.state.Storage(), "farewells", n+1)
}

// Pass implements classesv1.RelayServer.
func (r *relay) Pass(ctx context.Context, req *classesv1.PassRequest) (*classesv1.PassResponse, error) {
	count, _, err := actor.Get[int64](r.state.Storage(), "count")
	if err != nil {
		return nil, err
	}
	if err := actor.Put(r.state.Storage(), "count", count+1); err != nil {
		return nil, err
	}
	name, _ := r.state.Name()
	farewells, _, err := actor.Get[int64](r.state.Storage(), "farewells")
	if err != nil {
		return nil, err
	}
	visit := &classesv1.Visit{Relay: name, Count: count + 1, Farewells: farewells, From: strings.Join(metadata.ValueFromIncomingContext(ctx, "relay-from"), ",")}
	resp := &classesv1.PassResponse{Visits: []*classesv1.Visit{visit}}
	if len(req.GetPath()) == 0 {
		return resp, nil
	}
	if err := wait(ctx, time.Duration(req.GetMillis())*time.Millisecond); err != nil {
		return nil, err
	}
	next := classesv1.NewRelayClient(r.state.Object("Relay", req.GetPath()[0]))
	pass := func(ctx context.Context) error {
		rest, err := next.Pass(metadata.AppendToOutgoingContext(ctx, "relay-from", name), &classesv1.PassRequest{
			Path: req.GetPath()[1:], Yield: req.GetYield(), Millis: req.GetMillis(),
		})
		resp.Visits = append(resp.Visits, rest.GetVisits()...)
		return err
	}
	if req.GetYield() {
		return resp, r.state.Yield(ctx, pass)
	}
	return resp, pass(ctx)
}

func wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}
