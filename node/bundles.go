package node

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync"

	"google.golang.org/protobuf/proto"

	"github.com/holdfast-io/holdfast/node/system"
	systemv1 "github.com/holdfast-io/holdfast/proto/holdfast/system/v1"
	"github.com/holdfast-io/holdfast/storage"
	"github.com/holdfast-io/holdfast/worker/bundle"
)

// bundles keeps the bundles of workers: in the cluster, each in an object that its hash names, and those that
// this node runs on its disk too, so that it starts without asking.
type bundles struct {
	call  func(ctx context.Context, class, name, method string, req, resp proto.Message) error
	store *storage.Store

	mu   sync.Mutex
	kept []string // hashes on the disk, once known
}

// The keys of facts of this node alone: a bundle, and the list of those that there are.
const (
	bundleMetaPrefix = "bundle/"
	bundlesMetaKey   = "bundles"
)

func (b *bundles) ask(ctx context.Context, hash, method string, req, resp proto.Message) error {
	if err := b.call(ctx, system.BundleClassName, hash, method, req, resp); err != nil {
		return fmt.Errorf("bundle %.12s: %w", hash, err)
	}
	return nil
}

// put stores a bundle in the cluster. What was stored before it was broken off is not sent again.
func (b *bundles) put(ctx context.Context, hash string, file []byte) error {
	begun := &systemv1.BeginBundleResponse{}
	if err := b.ask(ctx, hash, "Begin", &systemv1.BeginBundleRequest{Size: uint64(len(file))}, begun); err != nil || begun.GetSealed() {
		return err
	}
	n := begun.GetNext()
	for chunk := range slices.Chunk(file[int(n)*system.ChunkBytes:], system.ChunkBytes) {
		if err := b.ask(ctx, hash, "Put", &systemv1.PutChunkRequest{Index: n, Data: chunk}, &systemv1.PutChunkResponse{}); err != nil {
			return err
		}
		n++
	}
	return b.ask(ctx, hash, "Seal", &systemv1.SealBundleRequest{}, &systemv1.SealBundleResponse{})
}

// cached returns a bundle that is on this node's disk.
func (b *bundles) cached(_ context.Context, hash string, _ uint64) ([]byte, error) {
	file, ok, err := b.store.Meta(bundleMetaPrefix + hash)
	if err != nil {
		return nil, err
	}
	if !ok || bundle.Hash(file) != hash {
		return nil, errNotCached
	}
	return file, nil
}

// load returns a bundle, of this node's disk or of the cluster.
func (b *bundles) load(ctx context.Context, hash string, size uint64) ([]byte, error) {
	if file, err := b.cached(ctx, hash, size); err == nil {
		return file, nil
	}
	file, err := b.fetch(ctx, hash, size)
	if err != nil {
		return nil, err
	}
	return file, b.remember(hash, file)
}

// fetch returns a bundle of the cluster.
func (b *bundles) fetch(ctx context.Context, hash string, size uint64) ([]byte, error) {
	var file []byte
	for n := range system.Chunks(size) {
		chunk := &systemv1.GetChunkResponse{}
		if err := b.ask(ctx, hash, "Get", &systemv1.GetChunkRequest{Index: n}, chunk); err != nil {
			return nil, err
		}
		file = append(file, chunk.GetData()...)
	}
	if bundle.Hash(file) != hash {
		return nil, fmt.Errorf("bundle %.12s: what the cluster has of it is another", hash)
	}
	return file, nil
}

// remember keeps a bundle on this node's disk.
func (b *bundles) remember(hash string, file []byte) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.listLocked(); err != nil {
		return err
	}
	if !slices.Contains(b.kept, hash) { // The list first: what is not on it is never deleted.
		b.kept = append(b.kept, hash)
		if err := b.writeListLocked(); err != nil {
			return err
		}
	}
	return b.store.SetMeta(bundleMetaPrefix+hash, file)
}

// keep forgets what is on this node's disk and nothing runs. It tries again the next time when that fails.
func (b *bundles) keep(deployed []*systemv1.Worker) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.listLocked(); err != nil {
		return
	}
	gone := slices.DeleteFunc(slices.Clone(b.kept), func(hash string) bool {
		return slices.ContainsFunc(deployed, func(w *systemv1.Worker) bool { return w.GetHash() == hash })
	})
	for _, hash := range gone {
		if err := b.store.DeleteMeta(bundleMetaPrefix + hash); err != nil {
			return
		}
		b.kept = slices.DeleteFunc(b.kept, func(kept string) bool { return kept == hash })
	}
	if len(gone) > 0 {
		_ = b.writeListLocked() // What is gone may stay on it.
	}
}

func (b *bundles) listLocked() error {
	if b.kept != nil {
		return nil
	}
	raw, ok, err := b.store.Meta(bundlesMetaKey)
	if err != nil {
		return err
	}
	b.kept = []string{}
	if ok {
		if err := json.Unmarshal(raw, &b.kept); err != nil {
			return fmt.Errorf("stored list of bundles: %w", err)
		}
	}
	return nil
}

func (b *bundles) writeListLocked() error {
	raw, err := json.Marshal(b.kept)
	if err != nil {
		return err
	}
	return b.store.SetMeta(bundlesMetaKey, raw)
}
