package system

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"

	"github.com/holdfast-io/holdfast/actor"
	"github.com/holdfast-io/holdfast/fault"
	systemv1 "github.com/holdfast-io/holdfast/proto/holdfast/system/v1"
)

// BundleClassName is the class whose objects keep the bundles of workers, each named by its SHA-256. It is
// its own unique key.
const BundleClassName = "holdfast.Bundle"

// BundleServiceName is the gRPC service that the class implements.
const BundleServiceName = "holdfast.system.v1.Bundles"

// Bounds of a bundle.
const (
	// ChunkBytes is the size of every chunk of a bundle but the last.
	ChunkBytes = 1 << 20
	// BundleBytesMax is the size of a bundle.
	BundleBytesMax = 31 << 20
)

// Chunks returns in how many chunks a bundle of so many bytes is kept.
func Chunks(size uint64) uint32 {
	return uint32((min(size, BundleBytesMax) + ChunkBytes - 1) / ChunkBytes) //nolint:gosec // at most BundleBytesMax
}

// The keys that the object stores, beside those of its chunks.
const (
	sizeKey   = "size"
	sealedKey = "sealed"
)

func chunkKey(index uint32) string { return fmt.Sprintf("chunk/%04d", index) }

// BundleClass returns the class, to be registered on every node.
func BundleClass() actor.Class {
	return actor.NewClass(BundleClassName, &systemv1.Bundles_ServiceDesc, func(s *actor.State) systemv1.BundlesServer {
		return &bundle{state: s, store: s.Storage()}
	})
}

// bundle implements systemv1.BundlesServer, one event at a time.
type bundle struct {
	systemv1.UnimplementedBundlesServer

	state *actor.State
	store *actor.Storage
}

// Begin implements systemv1.BundlesServer.
func (b *bundle) Begin(_ context.Context, req *systemv1.BeginBundleRequest) (*systemv1.BeginBundleResponse, error) {
	if req.GetSize() == 0 || req.GetSize() > BundleBytesMax {
		return nil, fault.New(fault.InvalidArgument, "size: from 1 to %d bytes, is %d", BundleBytesMax, req.GetSize())
	}
	size, sealed, err := b.load()
	if err != nil || sealed {
		return &systemv1.BeginBundleResponse{Sealed: sealed}, err
	}
	if size != req.GetSize() { // Nothing that was stored was ever read.
		if err := b.store.DeleteAll(); err != nil {
			return nil, err
		}
		return &systemv1.BeginBundleResponse{}, actor.Put(b.store, sizeKey, req.GetSize())
	}
	next := uint32(0)
	for ; next < Chunks(size); next++ {
		if _, ok, err := b.store.Get(chunkKey(next)); err != nil {
			return nil, err
		} else if !ok {
			break
		}
	}
	return &systemv1.BeginBundleResponse{Next: next}, nil
}

// load returns the size of the bundle, 0 when none was begun, and whether it is there as a whole.
func (b *bundle) load() (size uint64, sealed bool, err error) {
	size, _, err = actor.Get[uint64](b.store, sizeKey)
	if err == nil {
		sealed, _, err = actor.Get[bool](b.store, sealedKey)
	}
	return size, sealed, err
}

// Put implements systemv1.BundlesServer.
func (b *bundle) Put(_ context.Context, req *systemv1.PutChunkRequest) (*systemv1.PutChunkResponse, error) {
	size, sealed, err := b.load()
	switch {
	case err != nil || sealed:
		return &systemv1.PutChunkResponse{}, err
	case req.GetIndex() >= Chunks(size):
		return nil, fault.New(fault.InvalidArgument, "index: there are %d chunks, and this is number %d", Chunks(size), req.GetIndex())
	case uint64(len(req.GetData())) != chunkBytes(size, req.GetIndex()):
		return nil, fault.New(fault.InvalidArgument, "data: chunk %d has %d bytes, not %d", req.GetIndex(), chunkBytes(size, req.GetIndex()), len(req.GetData()))
	}
	return &systemv1.PutChunkResponse{}, actor.Put(b.store, chunkKey(req.GetIndex()), req.GetData())
}

// chunkBytes is the size of one chunk of a bundle.
func chunkBytes(size uint64, index uint32) uint64 {
	return min(ChunkBytes, size-uint64(index)*ChunkBytes)
}

// Seal implements systemv1.BundlesServer.
func (b *bundle) Seal(context.Context, *systemv1.SealBundleRequest) (*systemv1.SealBundleResponse, error) {
	size, sealed, err := b.load()
	if err != nil || sealed {
		return &systemv1.SealBundleResponse{}, err
	}
	hash := sha256.New()
	for n := range Chunks(size) {
		data, _, err := actor.Get[[]byte](b.store, chunkKey(n))
		if err != nil {
			return nil, err
		}
		_, _ = hash.Write(data)
	}
	name, _ := b.state.Name()
	if got := hex.EncodeToString(hash.Sum(nil)); got != name {
		return nil, fault.New(fault.InvalidArgument, "bundle %s: what was stored is another, of hash %s, or not all of it", name, got)
	}
	return &systemv1.SealBundleResponse{}, actor.Put(b.store, sealedKey, true)
}

// Get implements systemv1.BundlesServer.
func (b *bundle) Get(_ context.Context, req *systemv1.GetChunkRequest) (*systemv1.GetChunkResponse, error) {
	size, sealed, err := b.load()
	if err != nil {
		return nil, err
	}
	if !sealed || req.GetIndex() >= Chunks(size) {
		name, _ := b.state.Name()
		return nil, fault.New(fault.UnknownObject, "bundle %s: there is none, or no chunk %d of it", name, req.GetIndex())
	}
	data, _, err := actor.Get[[]byte](b.store, chunkKey(req.GetIndex()))
	return &systemv1.GetChunkResponse{Data: data, Size: size}, err
}

// Drop implements systemv1.BundlesServer.
func (b *bundle) Drop(context.Context, *systemv1.DropBundleRequest) (*systemv1.DropBundleResponse, error) {
	return &systemv1.DropBundleResponse{}, b.store.DeleteAll()
}
