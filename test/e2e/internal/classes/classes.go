// Package classes has the classes that the tests need besides the stock binary's, written as a user
// would write them.
package classes

import (
	"context"
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
