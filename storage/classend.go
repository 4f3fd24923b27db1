package storage

import (
	"fmt"

	"github.com/holdfast-io/holdfast/placement"
)

// classEndVersion is the value of a ClassEndKey.
const classEndVersion = 1

// EndClass deletes every object of a class (by its unique key) in the shard, with their alarms, and bars
// the class for good: whatever its objects still propose is dropped. fences are those of the one who
// applies.
func (b *Batch) EndClass(fences *FenceCache, shard placement.ShardID, class string) {
	b.DeleteRange(classSpan(shard, class))
	b.DeleteRange(AlarmSpan(shard, class))
	b.Set(ClassEndKey(shard, class), []byte{classEndVersion})
	fences.endClass(shard, class)
}

// ClassEnded says whether the class was deleted in the shard.
func (s *Store) ClassEnded(shard placement.ShardID, class string) (bool, error) {
	value, ok, err := s.Get(ClassEndKey(shard, class))
	if err != nil || !ok {
		return false, err
	}
	if len(value) != 1 || value[0] != classEndVersion {
		return false, fmt.Errorf("%w: end %x of class %s", ErrCorrupt, value, class)
	}
	return true, nil
}

// ClassEnded says whether the object's class was deleted in its shard.
func (r ObjectReader) ClassEnded() (bool, error) { return r.store.ClassEnded(r.shard, r.ref.Class) }

// classKey is a class in a shard.
type classKey struct {
	shard placement.ShardID
	class string
}

// endClass has the class's objects write no more, those included whose fences are in use.
func (c *FenceCache) endClass(shard placement.ShardID, class string) {
	c.ended[classKey{shard, class}] = true
	for _, fences := range []map[fenceKey]*ObjectFence{c.recent, c.old} {
		for key, f := range fences {
			if key.shard == shard && key.ref.Class == class {
				*f = ObjectFence{ended: true}
			}
		}
	}
}

// classEnded is ClassEnded, read once.
func (c *FenceCache) classEnded(shard placement.ShardID, class string) (bool, error) {
	key := classKey{shard, class}
	ended, ok := c.ended[key]
	if ok {
		return ended, nil
	}
	ended, err := c.store.ClassEnded(shard, class)
	if err == nil {
		c.ended[key] = ended
	}
	return ended, err
}
