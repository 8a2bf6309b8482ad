package image

import (
	"iter"

	"clonecast/internal/chunk"
	"clonecast/internal/quantity"
)

// Place is where a chunk of a content lies: the only places that a capture stores, and the
// order in which ids follow one another.
type Place struct {
	Number          int               // of the chunk, in the content's order
	quantity.Extent                   // of the region
	Allocated       []quantity.Extent // bytes that are stored, from the region's start
}

// Places gives the places of the chunks that normalized extents of a region touch, in order. It
// is the one rule by which a region is cut into chunks. Allocated is only valid during the call.
func Places(extents []quantity.Extent, length quantity.Bytes) iter.Seq[Place] {
	return func(yield func(Place) bool) {
		p := Place{Number: -1}
		next := quantity.Bytes(0) // the first chunk that was not begun
		for _, e := range extents {
			for k := e.Start / chunk.Size; k*chunk.Size < e.End(); k++ {
				if k >= next {
					if p.Number >= 0 && !yield(p) {
						return
					}
					start := k * chunk.Size
					p.Number, p.Allocated = p.Number+1, p.Allocated[:0]
					p.Extent = quantity.Extent{Start: start, Length: min(chunk.Size, length-start)}
					next = k + 1
				}
				from, to := max(e.Start, k*chunk.Size), min(e.End(), (k+1)*chunk.Size)
				p.Allocated = append(p.Allocated, quantity.Extent{Start: from, Length: to - from})
			}
		}
		if p.Number >= 0 {
			yield(p)
		}
	}
}

// ChunkCount is how many places Places gives, without walking over them: extents may come from
// anybody and touch more chunks than there are.
func ChunkCount(extents []quantity.Extent) int {
	n, next := 0, quantity.Bytes(0) // next: the first chunk not counted yet
	for _, e := range extents {
		first, last := max(e.Start/chunk.Size, next), (e.End()-1)/chunk.Size
		if last >= first {
			n += int(last - first + 1)
			next = last + 1
		}
	}
	return n
}

// Places gives the places of the content's chunks, in order. See the function Places.
func (c *Content) Places() iter.Seq[Place] { return Places(c.Extents, c.Length) }

// Pieces gives the chunks of a content in order, each with the part of the region that it
// covers. The content must be valid, as Parse makes sure.
func (c *Content) Pieces() iter.Seq2[chunk.ID, quantity.Extent] {
	return func(yield func(chunk.ID, quantity.Extent) bool) {
		for place := range c.Places() {
			if !yield(c.Chunks[place.Number], place.Extent) {
				return
			}
		}
	}
}

// Regions gives all contents of all disks: each disk's boot areas, then its partitions.
func (m *Manifest) Regions() iter.Seq[Content] {
	return func(yield func(Content) bool) {
		for i := range m.Disks {
			for _, c := range m.Disks[i].Contents() {
				if !yield(c) {
					return
				}
			}
		}
	}
}

// Chunks gives the id and the plain length of every chunk that m names, as often as it
// names it.
func (m *Manifest) Chunks() iter.Seq2[chunk.ID, int] {
	return func(yield func(chunk.ID, int) bool) {
		for c := range m.Regions() {
			for id, part := range c.Pieces() {
				if !yield(id, int(part.Length)) {
					return
				}
			}
		}
	}
}

// Validate tells why m is not a valid manifest: Pieces, Regions and Chunks need a valid one.
func (m *Manifest) Validate() error { return m.validate() }
