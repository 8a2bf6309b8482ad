package local

import (
	"context"
	"fmt"

	"clonecast/internal/chunk"
	"clonecast/internal/chunkstore"
	"clonecast/internal/image"
)

// use says who needs a chunk: the last version that was found to, and whether it is the
// only one.
type use struct {
	version int // from 1; 0: nobody
	shared  bool
}

// Stats implements chunkstore.Store.
func (s *Store) Stats(ctx context.Context) (chunkstore.Stats, error) {
	r, err := s.stats(ctx)
	if err != nil {
		return chunkstore.Stats{}, fmt.Errorf("add up the store: %w", err)
	}
	return r, nil
}

func (s *Store) stats(ctx context.Context) (chunkstore.Stats, error) {
	c, err := s.countPacks(ctx)
	if err != nil {
		return chunkstore.Stats{}, err
	}
	r := chunkstore.Stats{Packs: len(c.packs), Bytes: c.size()}
	uses := make([]use, len(c.index.ids)) // by the first entry of each chunk
	missing := map[chunk.ID]bool{}
	err = s.eachVersion(ctx, func(m *image.Manifest, id image.VersionID) error {
		v := chunkstore.VersionStats{Version: m.Summary(id)}
		number := len(r.Versions) + 1
		for id := range m.Chunks() {
			e, found := c.entry(id)
			if !found {
				missing[id] = true
				continue
			}
			u := &uses[e]
			if u.version == number {
				continue
			}
			*u = use{number, u.version != 0}
			v.Chunks++
			v.Shared += int64(c.index.lengths[e])
			v.SharedStored += c.stored(e)
		}
		r.Logical += int64(v.Allocated)
		r.Versions = append(r.Versions, v)
		return nil
	})
	if err != nil {
		return chunkstore.Stats{}, err
	}
	for e, u := range uses {
		if u.version == 0 {
			continue
		}
		plain, stored := int64(c.index.lengths[e]), c.stored(e)
		r.Unique += plain
		r.Stored += stored
		if v := &r.Versions[u.version-1]; !u.shared {
			v.Own, v.Shared = v.Own+plain, v.Shared-plain
			v.OwnStored, v.SharedStored = v.OwnStored+stored, v.SharedStored-stored
		}
	}
	r.Missing = len(missing)
	return r, nil
}

// entry gives the first entry of a chunk.
func (c *census) entry(id chunk.ID) (int, bool) {
	for e := range c.index.find(id) {
		return e, true
	}
	return 0, false
}

// stored is the part of its frame that belongs to an entry.
func (c *census) stored(entry int) int64 {
	f := c.frame(c.index.at[entry])
	return int64(f.size) / int64(f.chunks)
}
