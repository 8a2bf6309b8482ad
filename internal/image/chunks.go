package image

import (
	"iter"

	"clonecast/internal/chunk"
	"clonecast/internal/quantity"
)

// Pieces gives the chunks of a content in order, each with the part of the region that it
// covers. The content must be valid, as Parse makes sure.
func (c *Content) Pieces() iter.Seq2[chunk.ID, quantity.Extent] {
	return func(yield func(chunk.ID, quantity.Extent) bool) {
		n := 0
		for place := range c.places() {
			if !yield(c.Chunks[n], place) {
				return
			}
			n++
		}
	}
}

// places gives the parts of the region that its chunks cover, in order.
func (c *Content) places() iter.Seq[quantity.Extent] {
	return func(yield func(quantity.Extent) bool) {
		next := quantity.Bytes(0) // the first chunk that was not given yet
		for _, e := range c.Extents {
			for k := max(e.Start/chunk.Size, next); k <= (e.End()-1)/chunk.Size; k++ {
				start := k * chunk.Size
				if !yield(quantity.Extent{Start: start, Length: min(chunk.Size, c.Length-start)}) {
					return
				}
				next = k + 1
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
