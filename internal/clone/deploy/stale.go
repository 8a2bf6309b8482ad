package deploy

import (
	"clonecast/internal/filesystem/probe"
	"clonecast/internal/image"
	"clonecast/internal/partition"
	"clonecast/internal/quantity"
)

// staleMarks finds marks of the target's old life that the version does not overwrite and that could
// win a later probe: file system magics in free blocks, and a GPT's backup header at the disk's
// end. Each is to be zeroed.
func (t *target) staleMarks() ([]Patch, error) {
	var out []Patch
	look := func(start quantity.Bytes, magic []byte, length quantity.Bytes, what string) error {
		if !t.isFree(start, length) {
			return nil
		}
		stale, err := holds(t.Target, newPatch(start, magic, ""))
		if stale {
			out = append(out, zeroPatch(start, length, "stale mark of "+what))
		}
		return err
	}
	for _, p := range t.Image.Partitions {
		if p.Mode != image.ModeClone && p.Mode != image.ModeSwap && p.Mode != image.ModeFormat {
			continue
		}
		for _, s := range probe.Signatures(lengthOf(p, t.lengths)) {
			if err := look(p.Content.Start+s.Offset, s.Magic, s.Length(), s.Type); err != nil {
				return nil, err
			}
		}
	}
	if t.Image.TableKind != string(partition.GPT) {
		sector := quantity.Bytes(t.Geometry.LogicalSector)
		if err := look(t.Geometry.Size-sector, []byte(gptMagic), sector, "gpt"); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// isFree tells whether the version stores nothing in these bytes of the disk.
func (t *target) isFree(start, length quantity.Bytes) bool {
	end := start + length
	for _, r := range t.closing {
		if r.Start < end && start < r.Start+r.Length {
			return false
		}
	}
	for _, r := range t.plan.Regions {
		if r.Start >= end || start >= r.Start+r.Length {
			continue
		}
		if r.Fate == Leave {
			return false
		}
		e := quantity.Extent{Start: max(start-r.Start, 0), Length: end - max(start, r.Start)}
		if quantity.Overlaps(r.Content.Extents, e) {
			return false
		}
	}
	return true
}
