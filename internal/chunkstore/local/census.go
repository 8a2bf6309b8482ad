package local

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/bits"
	"slices"
	"strings"
	"time"

	"clonecast/internal/chunk"
	"clonecast/internal/image"
)

// census knows all packs of a store and which of their chunks are needed. It is read from
// the medium, like a check, and costs memory like the store's own index.
type census struct {
	index index
	packs []countedPack
}

type countedPack struct {
	name     string
	size     int64
	modified time.Time
	frames   []countedFrame
}

// countedFrame is a frame; its chunks are the entries of the index from first on.
type countedFrame struct {
	offset, size uint32
	first        uint32
	chunks       uint8
	live         uint16 // bit k: its chunk k is needed
}

// liveBytes is the part of the frame's bytes that belongs to needed chunks.
func (f countedFrame) liveBytes() int64 {
	return int64(f.size) * int64(bits.OnesCount16(f.live)) / int64(f.chunks)
}

// countPacks reads the index of every pack.
func (s *Store) countPacks(ctx context.Context) (*census, error) {
	c := &census{index: newIndex()}
	entries, err := s.fs.ReadDir(packsDir)
	if err != nil {
		return nil, fmt.Errorf("list packs: %w", err)
	}
	for _, e := range entries {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		name, ok := strings.CutSuffix(e.Name(), packSuffix)
		if !ok {
			continue
		}
		info, err := s.fs.Stat(packPath(name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		frames, err := s.loadPack(name)
		if err != nil {
			return nil, err
		}
		c.add(countedPack{name: name, size: info.Size(), modified: info.ModTime()}, frames)
	}
	return c, nil
}

func (c *census) add(p countedPack, frames []packFrame) {
	for i, f := range frames {
		p.frames = append(p.frames, countedFrame{offset: f.offset, size: f.size,
			first: uint32(len(c.index.ids)), chunks: uint8(len(f.chunks))})
		for _, e := range f.chunks {
			c.index.add(e, location{uint32(len(c.packs)), uint32(i)})
		}
	}
	c.packs = append(c.packs, p)
}

// need marks all copies of a chunk as live. It tells whether there is one.
func (c *census) need(id chunk.ID) bool {
	found := false
	for e := range c.index.find(id) {
		f := c.frame(c.index.at[e])
		f.live |= 1 << (uint32(e) - f.first)
		found = true
	}
	return found
}

func (c *census) frame(at location) *countedFrame { return &c.packs[at.pack].frames[at.frame] }

// liveIDs lists the needed chunks of a frame.
func (c *census) liveIDs(f countedFrame) []chunk.ID {
	var ids []chunk.ID
	for k := range uint32(f.chunks) {
		if f.live>>k&1 == 1 {
			ids = append(ids, c.index.ids[f.first+k])
		}
	}
	return ids
}

// settle leaves each needed chunk live in one place: in the pack of which most is needed,
// so that packs of spare copies become empty.
func (c *census) settle() {
	order := make([]*countedPack, len(c.packs))
	for i := range c.packs {
		order[i] = &c.packs[i]
	}
	share := func(p *countedPack) float64 { return float64(p.liveBytes()) / float64(p.size+1) }
	slices.SortStableFunc(order, func(a, b *countedPack) int { return cmp.Compare(share(b), share(a)) })
	for _, p := range order {
		for i := range p.frames {
			f := &p.frames[i]
			for k := range uint32(f.chunks) {
				if f.live>>k&1 == 1 {
					c.onlyAt(f.first + k)
				}
			}
		}
	}
}

// onlyAt clears the need of all copies of a chunk but one entry.
func (c *census) onlyAt(entry uint32) {
	for e := range c.index.find(c.index.ids[entry]) {
		if uint32(e) != entry {
			f := c.frame(c.index.at[e])
			f.live &^= 1 << (uint32(e) - f.first)
		}
	}
}

// sizeOf is the length of some packs.
func (c *census) sizeOf(names map[string]bool) (bytes int64) {
	for _, p := range c.packs {
		if names[p.name] {
			bytes += p.size
		}
	}
	return bytes
}

// size is the length of all packs.
func (c *census) size() (bytes int64) {
	for _, p := range c.packs {
		bytes += p.size
	}
	return bytes
}

func (p *countedPack) liveBytes() (bytes int64) {
	for _, f := range p.frames {
		bytes += f.liveBytes()
	}
	return bytes
}

// eachVersion calls f with every version. One whose manifest cannot be read is an error:
// nobody knows what it needs.
func (s *Store) eachVersion(ctx context.Context, f func(m *image.Manifest, id image.VersionID) error) error {
	names, err := s.Images(ctx)
	if err != nil {
		return err
	}
	for _, name := range names {
		sequences, err := s.sequences(name)
		if err != nil {
			return fmt.Errorf("list versions of %s: %w", name, err)
		}
		for _, n := range sequences {
			if err := ctx.Err(); err != nil {
				return err
			}
			_, m, id, err := s.manifest(name, n)
			if errors.Is(err, fs.ErrNotExist) {
				continue // deleted since it was listed
			}
			if err != nil {
				return fmt.Errorf("read manifest of %s@%d: %w", name, n, err)
			}
			if err := f(m, id); err != nil {
				return err
			}
		}
	}
	return nil
}
