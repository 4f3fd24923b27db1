package placement

import (
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"sync"
)

// ErrForeignID says that an id is well formed but of another namespace.
var ErrForeignID = errors.New("the Durable Object ID is not valid for this namespace")

// Namespace is a class seen as a set of ids. Ids are derived as workerd derives them
// (workerd src/workerd/server/actor-id-impl.c++): the first half is a keyed hash of the name, or
// random, and the second half authenticates the first. It is a value, safe to copy and share.
type Namespace struct {
	// hashes are of keyedHash, to be used again: keying one costs more than the rest.
	hashes *sync.Pool
}

// keyedHash is a keyed hash, reset, with room for what goes in and out.
type keyedHash struct {
	hash.Hash

	message []byte
	sum     []byte
}

// NewNamespace returns the namespace of a class's unique key.
func NewNamespace(uniqueKey string) Namespace {
	key := sha256.Sum256([]byte(uniqueKey))
	return Namespace{&sync.Pool{New: func() any { return &keyedHash{Hash: hmac.New(sha256.New, key[:])} }}}
}

// IDFromName returns the id of a name: always the same, and no I/O. The empty name is a name.
func (n Namespace) IDFromName(name string) ObjectID {
	h, _ := n.hashes.Get().(*keyedHash)
	defer n.hashes.Put(h)
	h.message = append(h.message[:0], name...)
	var id ObjectID
	copy(id[:16], h.mac())
	h.seal(&id)
	if cap(h.message) > messageKept {
		h.message = nil
	}
	return id
}

// messageKept is how long a name may be whose room is kept.
const messageKept = 1024

// NewUniqueID draws an id that no name has.
func (n Namespace) NewUniqueID(random io.Reader) (ObjectID, error) {
	var id ObjectID
	if _, err := io.ReadFull(random, id[:16]); err != nil {
		return ObjectID{}, fmt.Errorf("draw object id: %w", err)
	}
	return n.seal(id), nil
}

// Check returns ErrForeignID when id was not derived in this namespace.
func (n Namespace) Check(id ObjectID) error {
	if sealed := n.seal(id); !hmac.Equal(sealed[16:], id[16:]) {
		return ErrForeignID
	}
	return nil
}

// ParseID reads 64 hex digits and checks that they are an id of this namespace.
func (n Namespace) ParseID(s string) (ObjectID, error) {
	id, err := ParseID(s)
	if err != nil {
		return ObjectID{}, err
	}
	return id, n.Check(id)
}

// seal sets the second half from the first.
func (n Namespace) seal(id ObjectID) ObjectID {
	h, _ := n.hashes.Get().(*keyedHash)
	defer n.hashes.Put(h)
	h.seal(&id)
	return id
}

func (h *keyedHash) seal(id *ObjectID) {
	h.message = append(h.message[:0], id[:16]...)
	copy(id[16:], h.mac())
}

// mac hashes the message, and leaves the hash reset. The sum is good until the next.
func (h *keyedHash) mac() []byte {
	h.Write(h.message) // A hash never fails.
	h.sum = h.Sum(h.sum[:0])
	h.Reset()
	return h.sum
}
