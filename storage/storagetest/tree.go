package storagetest

import (
	"bytes"
	"hash/fnv"
)

// tree is an ordered map that is never changed: every change makes a new one that shares most of the
// old. So a snapshot, and what the disk would hold after a loss of power, is a pointer. It is a
// treap whose priorities are the hashes of its keys: the shape depends on the content alone.
type tree struct {
	key, value  []byte
	priority    uint64
	left, right *tree
}

func priority(key []byte) uint64 {
	h := fnv.New64a()
	_, _ = h.Write(key)
	p := h.Sum64()
	// FNV spreads the last bytes badly into the high bits, which decide.
	p ^= p >> 32
	return p * 0x9e3779b97f4a7c15
}

// split parts the tree into the keys below key and the others.
func (t *tree) split(key []byte) (below, rest *tree) {
	switch {
	case t == nil:
		return nil, nil
	case bytes.Compare(t.key, key) < 0:
		n := *t
		n.right, rest = t.right.split(key)
		return &n, rest
	default:
		n := *t
		below, n.left = t.left.split(key)
		return below, &n
	}
}

// join is the tree of both, whose keys are all below and all above each other.
func join(low, high *tree) *tree {
	switch {
	case low == nil:
		return high
	case high == nil:
		return low
	case low.priority > high.priority:
		n := *low
		n.right = join(low.right, high)
		return &n
	default:
		n := *high
		n.left = join(low, high.left)
		return &n
	}
}

// set returns the tree with the pair; it keeps both slices.
func (t *tree) set(key, value []byte) *tree {
	return t.insert(&tree{key: key, value: value, priority: priority(key)})
}

func (t *tree) insert(n *tree) *tree {
	if t == nil {
		return n
	}
	if t.priority < n.priority || t.priority == n.priority && !bytes.Equal(t.key, n.key) {
		below, rest := t.split(n.key)
		n.left, n.right = below, rest.without(n.key)
		return n
	}
	c := *t
	switch order := bytes.Compare(n.key, t.key); {
	case order == 0:
		c.value = n.value
	case order < 0:
		c.left = t.left.insert(n)
	default:
		c.right = t.right.insert(n)
	}
	return &c
}

func (t *tree) without(key []byte) *tree {
	if t == nil {
		return nil
	}
	switch order := bytes.Compare(key, t.key); {
	case order == 0:
		return join(t.left, t.right)
	case order < 0:
		left := t.left.without(key)
		if left == t.left {
			return t
		}
		c := *t
		c.left = left
		return &c
	default:
		right := t.right.without(key)
		if right == t.right {
			return t
		}
		c := *t
		c.right = right
		return &c
	}
}

// withoutRange returns the tree without [lo, hi).
func (t *tree) withoutRange(lo, hi []byte) *tree {
	if bytes.Compare(lo, hi) >= 0 {
		return t
	}
	below, rest := t.split(lo)
	_, above := rest.split(hi)
	return join(below, above)
}

func (t *tree) get(key []byte) (*tree, bool) {
	for t != nil {
		switch order := bytes.Compare(key, t.key); {
		case order == 0:
			return t, true
		case order < 0:
			t = t.left
		default:
			t = t.right
		}
	}
	return nil, false
}

// ceiling returns the first pair at or after key; after skips key itself.
func (t *tree) ceiling(key []byte, after bool) *tree {
	var found *tree
	for t != nil {
		if order := bytes.Compare(t.key, key); order > 0 || order == 0 && !after {
			found, t = t, t.left
		} else {
			t = t.right
		}
	}
	return found
}

// below returns the last pair before key.
func (t *tree) below(key []byte) *tree {
	var found *tree
	for t != nil {
		if bytes.Compare(t.key, key) < 0 {
			found, t = t, t.right
		} else {
			t = t.left
		}
	}
	return found
}

func (t *tree) last() *tree {
	for t != nil && t.right != nil {
		t = t.right
	}
	return t
}

// cursor implements storage.Cursor on a tree; nil bounds are none.
type cursor struct {
	root   *tree
	lo, hi []byte
	at     *tree
}

func (c *cursor) set(at *tree) bool {
	if at != nil && (bytes.Compare(at.key, c.lo) < 0 || c.hi != nil && bytes.Compare(at.key, c.hi) >= 0) {
		at = nil
	}
	c.at = at
	return at != nil
}

// First implements storage.Cursor.
func (c *cursor) First() bool { return c.set(c.root.ceiling(c.lo, false)) }

// Last implements storage.Cursor.
func (c *cursor) Last() bool {
	if c.hi == nil {
		return c.set(c.root.last())
	}
	return c.set(c.root.below(c.hi))
}

// Next implements storage.Cursor.
func (c *cursor) Next() bool { return c.at != nil && c.set(c.root.ceiling(c.at.key, true)) }

// Prev implements storage.Cursor.
func (c *cursor) Prev() bool { return c.at != nil && c.set(c.root.below(c.at.key)) }

// SeekGE implements storage.Cursor.
func (c *cursor) SeekGE(key []byte) bool {
	if bytes.Compare(key, c.lo) < 0 {
		key = c.lo
	}
	return c.set(c.root.ceiling(key, false))
}

// SeekLT implements storage.Cursor.
func (c *cursor) SeekLT(key []byte) bool {
	if c.hi != nil && bytes.Compare(key, c.hi) > 0 {
		key = c.hi
	}
	return c.set(c.root.below(key))
}

// Valid implements storage.Cursor.
func (c *cursor) Valid() bool { return c.at != nil }

// Key implements storage.Cursor.
func (c *cursor) Key() []byte { return c.at.key }

// Value implements storage.Cursor.
func (c *cursor) Value() []byte { return c.at.value }

// Error implements storage.Cursor.
func (*cursor) Error() error { return nil }

// Close implements storage.Cursor.
func (*cursor) Close() error { return nil }
