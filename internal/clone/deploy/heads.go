package deploy

import (
	"cmp"
	"io"
	"slices"
	"sync"

	"clonecast/internal/clone"
	"clonecast/internal/quantity"
)

// headLength is how much of a partition is zero until everything else is written.
// It holds the superblock or boot sector of every file system that is cloned: btrfs has its own at
// 64 KiB.
const headLength = 68 * quantity.KiB

// firstBytes are what is zeroed of the regions whose first chunk is withheld.
func (d *DiskPlan) firstBytes(r io.ReaderAt) ([]Patch, error) {
	var out []Patch
	for i := range d.Regions {
		head, ok := d.head(i)
		if !ok {
			continue
		}
		buf := clone.AlignedBuffer(head.Length)
		if _, err := clone.ReadBatch(r, []clone.Piece{head}, buf); err != nil {
			return nil, err
		}
		for _, e := range head.Extents {
			end := min(e.End(), headLength)
			if e.Start < end && !clone.AllZero(buf[e.Start:end]) {
				out = append(out, zeroPatch(head.Start+e.Start, end-e.Start, "start of "+d.Regions[i].Name))
			}
		}
	}
	return out, nil
}

// head gives the first chunk's place of region i if it is withheld and something is allocated there.
func (d *DiskPlan) head(i int) (clone.Piece, bool) {
	r := &d.Regions[i]
	if !r.Withheld {
		return clone.Piece{}, false
	}
	for p := range clone.Pieces(i, r.Content) {
		return p, p.Start == r.Start
	}
	return clone.Piece{}, false
}

// heads keeps the first chunks of partitions until the end.
type heads struct {
	mu   sync.Mutex
	kept map[int]head // by region
}

type head struct {
	clone.Piece
	data []byte
}

func (s *heads) put(p clone.Piece, data []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.kept == nil {
		s.kept = make(map[int]head)
	}
	s.kept[p.Region] = head{p, data}
}

func (s *heads) has(p clone.Piece) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	h, ok := s.kept[p.Region]
	return ok && h.Number == p.Number
}

// all gives the heads from the disk's start on.
func (s *heads) all() []head {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []head
	for _, h := range s.kept {
		out = append(out, h)
	}
	slices.SortFunc(out, func(a, b head) int { return cmp.Compare(a.Start, b.Start) })
	return out
}
