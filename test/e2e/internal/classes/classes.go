// Package classes has the classes that the tests need besides the stock binary's, written as a user
// would write them.
package classes

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/holdfast-io/holdfast/actor"
	"github.com/holdfast-io/holdfast/test/e2e/internal/classes/classesv1"
)

// Register describes the class Register.
func Register() actor.Class {
	return actor.NewClass("Register", &classesv1.Register_ServiceDesc, func(s *actor.State) classesv1.RegisterServer {
		return &register{storage: s.Storage()}
	})
}

// The keys of a register. A write changes both.
const (
	valueKey   = "value"
	versionKey = "version"
)

type register struct {
	classesv1.UnimplementedRegisterServer

	storage *actor.Storage
}

// Get implements classesv1.RegisterServer.
func (r *register) Get(context.Context, *classesv1.GetRequest) (*classesv1.State, error) {
	return r.read()
}

// Add implements classesv1.RegisterServer.
func (r *register) Add(_ context.Context, req *classesv1.AddRequest) (*classesv1.State, error) {
	s, err := r.read()
	if err != nil {
		return nil, err
	}
	return r.write(s, s.GetValue()+req.GetAmount())
}

// CompareAndSet implements classesv1.RegisterServer.
func (r *register) CompareAndSet(_ context.Context, req *classesv1.CompareAndSetRequest) (*classesv1.CompareAndSetResponse, error) {
	s, err := r.read()
	if err != nil {
		return nil, err
	}
	if s.GetValue() != req.GetExpected() {
		return &classesv1.CompareAndSetResponse{State: s}, nil
	}
	s, err = r.write(s, req.GetValue())
	return &classesv1.CompareAndSetResponse{Swapped: true, State: s}, err
}

func (r *register) read() (*classesv1.State, error) {
	value, _, err := actor.Get[int64](r.storage, valueKey)
	if err != nil {
		return nil, err
	}
	version, _, err := actor.Get[int64](r.storage, versionKey)
	return &classesv1.State{Value: value, Version: version}, err
}

func (r *register) write(old *classesv1.State, value int64) (*classesv1.State, error) {
	s := &classesv1.State{Value: value, Version: old.GetVersion() + 1}
	if err := actor.Put(r.storage, valueKey, s.GetValue()); err != nil {
		return nil, err
	}
	return s, actor.Put(r.storage, versionKey, s.GetVersion())
}

// Box describes the class Box.
func Box() actor.Class {
	return actor.NewClass("Box", &classesv1.Box_ServiceDesc, func(s *actor.State) classesv1.BoxServer {
		return &box{storage: s.Storage()}
	})
}

type box struct {
	classesv1.UnimplementedBoxServer

	storage *actor.Storage
}

// Put implements classesv1.BoxServer.
func (b *box) Put(_ context.Context, req *classesv1.PutRequest) (*classesv1.PutResponse, error) {
	for i := range req.GetCount() {
		key := fmt.Sprintf("%0*d", req.GetKeyBytes(), i)
		if err := b.storage.Put(key, bytesItem(int(req.GetValueBytes()))); err != nil {
			return nil, err
		}
	}
	return &classesv1.PutResponse{}, nil
}

// bytesItem returns a CBOR byte string that takes size bytes, 5 of them its head.
func bytesItem(size int) []byte {
	const head = 5
	n := size - head
	return append([]byte{0x5a, byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}, strings.Repeat("x", n)...)
}

// Keys implements classesv1.BoxServer.
func (b *box) Keys(context.Context, *classesv1.KeysRequest) (*classesv1.KeysResponse, error) {
	resp := &classesv1.KeysResponse{}
	for _, err := range b.storage.List(actor.ListOptions{}) {
		if err != nil {
			return nil, err
		}
		resp.Keys++
	}
	return resp, nil
}

// Panic implements classesv1.BoxServer.
func (b *box) Panic(context.Context, *classesv1.KeysRequest) (*classesv1.KeysResponse, error) {
	if err := actor.Put(b.storage, "never", 1); err != nil {
		return nil, err
	}
	panic("as it was told")
}

// Hold implements classesv1.BoxServer.
func (b *box) Hold(ctx context.Context, req *classesv1.HoldRequest) (*classesv1.KeysResponse, error) {
	held, _, err := actor.Get[int32](b.storage, "held")
	if err != nil {
		return nil, err
	}
	if err := actor.Put(b.storage, "held", held+1); err != nil {
		return nil, err
	}
	if req.GetStubborn() {
		ctx = context.WithoutCancel(ctx)
	}
	t := time.NewTimer(time.Duration(req.GetMillis()) * time.Millisecond)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case <-t.C:
		return &classesv1.KeysResponse{Keys: held + 1}, nil
	}
}

// Bell describes the class Bell. Its alarms die after two retries.
func Bell() actor.Class {
	c := actor.NewClass("Bell", &classesv1.Bell_ServiceDesc, func(s *actor.State) classesv1.BellServer {
		return &bell{state: s, storage: s.Storage()}
	})
	c.Alarms = actor.AlarmPolicy{Retries: 2, RetryDelay: 50 * time.Millisecond}
	return c
}

type bell struct {
	classesv1.UnimplementedBellServer

	state   *actor.State
	storage *actor.Storage
}

// What a bell stores: what is left to do, and each ring under a key of its own.
const (
	planKey    = "plan"
	ringPrefix = "ring/"
)

type plan struct {
	Failures, Repeats int32
	Every             int64
}

// Set implements classesv1.BellServer.
func (b *bell) Set(_ context.Context, req *classesv1.SetBellRequest) (*classesv1.BellState, error) {
	if err := actor.Put(b.storage, planKey, plan{req.GetFailures(), req.GetRepeats(), req.GetEveryMs()}); err != nil {
		return nil, err
	}
	if err := b.state.SetAlarm(time.Now().Add(time.Duration(req.GetAfterMs()) * time.Millisecond)); err != nil {
		return nil, err
	}
	return b.read()
}

// Rings implements classesv1.BellServer.
func (b *bell) Rings(context.Context, *classesv1.GetRequest) (*classesv1.BellState, error) {
	return b.read()
}

func (b *bell) read() (*classesv1.BellState, error) {
	s := &classesv1.BellState{}
	at, ok, err := b.state.Alarm()
	if err != nil {
		return nil, err
	}
	if ok {
		s.AlarmMs = at.UnixMilli()
	}
	for entry, err := range b.storage.List(actor.ListOptions{Prefix: ringPrefix}) {
		if err != nil {
			return nil, err
		}
		ring := &classesv1.Ring{}
		if err := entry.Decode(ring); err != nil {
			return nil, err
		}
		s.Rings = append(s.Rings, ring)
	}
	return s, nil
}

var errCracked = errors.New("the bell is cracked")

// Alarm implements actor.Alarmer.
func (b *bell) Alarm(_ context.Context, info actor.AlarmInfo) error {
	began := time.Now()
	p, _, err := actor.Get[plan](b.storage, planKey)
	if err != nil {
		return err
	}
	s, err := b.read()
	if err != nil {
		return err
	}
	fails, repeats := p.Failures > 0, p.Repeats > 0
	if fails {
		p.Failures--
	} else if repeats {
		p.Repeats--
	}
	if err := actor.Put(b.storage, planKey, p); err != nil {
		return err
	}
	if fails {
		return errCracked
	}
	ring := &classesv1.Ring{ScheduledMs: info.ScheduledTime.UnixMilli(), BeganMs: began.UnixMilli(), RetryCount: int32(info.RetryCount)}
	if err := actor.Put(b.storage, fmt.Sprintf("%s%06d", ringPrefix, len(s.GetRings())), ring); err != nil {
		return err
	}
	if repeats {
		return b.state.SetAlarm(began.Add(time.Duration(p.Every) * time.Millisecond))
	}
	return nil
}
