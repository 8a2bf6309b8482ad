package deploy

import (
	"clonecast/internal/image"
	"clonecast/internal/quantity"
)

// A disk is told of free bytes in runs of whole blocks and not too short, since a disk may
// ignore those; and not too long, so that a deploy can be cancelled.
const (
	trimGrain    = quantity.Bytes(4096)
	trimShortest = 64 * quantity.KiB
	trimLongest  = quantity.GiB
)

// free lists the bytes of the disk that region i leaves free, if all of them are
// ours: the partition is stored by its allocation map, is being written, and nothing else
// has a place in it.
func (t *target) free(i int) []quantity.Extent {
	r := &t.plan.Regions[i]
	if p := t.partition(i); p == nil || p.Mode != image.ModeClone || !r.touched() {
		return nil
	}
	overlaps := func(start, length quantity.Bytes) bool { return start < r.Start+r.Length && r.Start < start+length }
	for k, other := range t.plan.Regions {
		if k != i && overlaps(other.Start, other.Length) {
			return nil
		}
	}
	for _, f := range t.closing {
		if overlaps(f.Start, f.Length) {
			return nil
		}
	}
	var out []quantity.Extent
	add := func(start, end quantity.Bytes) {
		start, end = r.Start+start, r.Start+end
		start, end = (start+trimGrain-1)/trimGrain*trimGrain, end/trimGrain*trimGrain
		if end-start >= trimShortest {
			out = append(out, quantity.Extent{Start: start, Length: end - start})
		}
	}
	at := quantity.Bytes(0)
	for _, e := range r.Content.Extents {
		add(at, e.Start)
		at = e.End()
	}
	add(at, r.Length)
	return out
}

// untrimmed are the stale marks that stay zero: what a disk gives back of trimmed bytes is not defined.
func (t *target) untrimmed() []Patch {
	var trimmed []quantity.Extent
	for _, r := range t.plan.Regions {
		trimmed = append(trimmed, r.Trim...)
	}
	trimmed = quantity.Normalize(trimmed)
	var out []Patch
	for _, p := range t.stale {
		if !quantity.Overlaps(trimmed, quantity.Extent{Start: p.Start, Length: p.Length}) {
			out = append(out, p)
		}
	}
	return out
}
