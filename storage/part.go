package storage

import (
	"crypto/sha256"
	"encoding/binary"
	"hash"
)

// Part is a run of pairs that has been received before: all that a Snapshot had from First to Last.
type Part struct {
	First, Last []byte
	// Sum is a PartSum of the pairs. Who has another store compares it with its own: a Part is the
	// same there, or it is not.
	Sum [sha256.Size]byte
}

// PartSum sums up pairs, in their order.
type PartSum struct {
	h   hash.Hash
	len []byte
}

// NewPartSum returns the sum of no pairs.
func NewPartSum() *PartSum { return &PartSum{h: sha256.New()} }

// Add adds a pair.
func (s *PartSum) Add(key, value []byte) {
	for _, b := range [...][]byte{key, value} {
		s.len = binary.AppendUvarint(s.len[:0], uint64(len(b)))
		_, _ = s.h.Write(s.len) // A hash takes everything.
		_, _ = s.h.Write(b)
	}
}

// Sum returns the sum of what was added.
func (s *PartSum) Sum() [sha256.Size]byte { return [sha256.Size]byte(s.h.Sum(nil)) }
