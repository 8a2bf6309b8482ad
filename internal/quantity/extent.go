package quantity

import (
	"cmp"
	"slices"
)

// Extent is a run of bytes: the allocated part of a partition or of a disk area.
type Extent struct {
	Start  Bytes
	Length Bytes
}

// End is the first byte after e.
func (e Extent) End() Bytes { return e.Start + e.Length }

// Normalize sorts extents by start, drops empty ones and joins those that touch
// or overlap. It works in place and returns the shortened slice.
func Normalize(extents []Extent) []Extent {
	extents = slices.DeleteFunc(extents, func(e Extent) bool { return e.Length <= 0 })
	if !slices.IsSortedFunc(extents, func(a, b Extent) int { return cmp.Compare(a.Start, b.Start) }) {
		slices.SortFunc(extents, func(a, b Extent) int { return cmp.Compare(a.Start, b.Start) })
	}
	out := extents[:0]
	for _, e := range extents {
		if n := len(out); n > 0 && e.Start <= out[n-1].End() {
			out[n-1].Length = max(out[n-1].End(), e.End()) - out[n-1].Start
			continue
		}
		out = append(out, e)
	}
	return out
}

// Covers tells whether all of e lies in one of the normalized extents.
func Covers(extents []Extent, e Extent) bool {
	i := firstEndingAfter(extents, e.Start)
	return i < len(extents) && extents[i].Start <= e.Start && e.End() <= extents[i].End()
}

// Overlaps tells whether e shares a byte with one of the normalized extents.
func Overlaps(extents []Extent, e Extent) bool {
	i := firstEndingAfter(extents, e.Start)
	return i < len(extents) && extents[i].Start < e.End() && e.Length > 0
}

// firstEndingAfter is the index of the first extent that ends after the byte at.
func firstEndingAfter(extents []Extent, at Bytes) int {
	i, _ := slices.BinarySearchFunc(extents, at, func(e Extent, at Bytes) int {
		if e.End() <= at {
			return -1
		}
		return 1
	})
	return i
}

// Total is the sum of the lengths of normalized extents.
func Total(extents []Extent) Bytes {
	var sum Bytes
	for _, e := range extents {
		sum += e.Length
	}
	return sum
}
