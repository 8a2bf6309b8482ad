package deploy

import (
	"io"

	"clonecast/internal/clone"
	"clonecast/internal/clone/rescue"
	"clonecast/internal/filesystem/probe"
	"clonecast/internal/partition"
	"clonecast/internal/partition/table"
	"clonecast/internal/quantity"
)

// staleMarks finds marks of the target's old life that the version does not overwrite and that could
// win a later probe: of file systems, RAID and volume members and partition tables, in free blocks of
// partitions, in gaps and at both ends of the disk. Each is to be zeroed. Partitions that are kept keep
// theirs.
func (t *target) staleMarks() ([]Patch, error) {
	found := map[quantity.Bytes]Patch{}
	for _, part := range t.probed() {
		if err := t.marksIn(part, found); err != nil {
			return nil, err
		}
	}
	return sortedPatches(found), nil
}

// probed are the parts of the disk that somebody may look at for a file system: all of it, the new
// partitions, the gaps between them and what the old table calls a partition.
func (t *target) probed() []quantity.Extent {
	parts := []quantity.Extent{{Start: 0, Length: t.Geometry.Size}}
	used := []quantity.Extent{}
	for _, p := range t.Image.Partitions {
		e := quantity.Extent{Start: p.Content.Start, Length: lengthOf(p, t.lengths)}
		parts, used = append(parts, e), append(used, e)
	}
	at := quantity.Bytes(0)
	for _, e := range append(quantity.Normalize(used), quantity.Extent{Start: t.Geometry.Size}) {
		if e.Start > at {
			parts = append(parts, quantity.Extent{Start: at, Length: e.Start - at})
		}
		at = e.End()
	}
	// A table that nobody can read names no partitions. The new one may say more of a partition than was
	// captured, where that was cut off by the end of its disk.
	for _, r := range []io.ReaderAt{t.Target, partition.Contents(contentsOf(t.table))} {
		found, err := table.Read(r, t.Geometry.Size, t.Geometry.LogicalSector)
		if err != nil {
			continue
		}
		for _, p := range found.Partitions {
			parts = append(parts, quantity.Extent{Start: p.Start, Length: p.Length})
		}
	}
	return parts
}

func contentsOf(table []Patch) []partition.Content {
	var out []partition.Content
	for _, p := range table {
		out = append(out, partition.Content{Start: p.Start, Data: p.bytes()})
	}
	return out
}

// marksIn adds the marks in a part of the disk.
func (t *target) marksIn(part quantity.Extent, found map[quantity.Bytes]Patch) error {
	for _, area := range probe.Areas(part.Length) {
		if !t.hasFree(part.Start+area.Start, area.Length) {
			continue
		}
		data := make([]byte, area.Length)
		// A place that cannot be read holds no mark, and is nothing that a deploy needs.
		if err := clone.ReadFull(&rescue.Reader{Disk: t.Target}, data, part.Start+area.Start); err != nil {
			return err
		}
		for _, s := range area.Found(data) {
			start := part.Start + s.Offset
			if t.isFree(start, s.Length()) && found[start].Length < s.Length() {
				found[start] = zeroPatch(start, s.Length(), "stale mark of "+s.Type)
			}
		}
	}
	return nil
}

// hasFree tells whether a run of bytes of the disk is not stored from end to end.
func (t *target) hasFree(start, length quantity.Bytes) bool {
	for _, r := range t.plan.Regions {
		e := quantity.Extent{Start: start - r.Start, Length: length}
		if e.Start < 0 || e.End() > r.Length {
			continue
		}
		if r.Fate == Leave || quantity.Covers(r.Content.Extents, e) {
			return false
		}
	}
	return true
}

// isFree tells whether the version stores nothing in these bytes of the disk.
func (t *target) isFree(start, length quantity.Bytes) bool {
	end := start + length
	for _, r := range t.closing {
		if r.Start < end && start < r.Start+r.Length {
			return false
		}
	}
	for _, a := range t.old.Areas { // it may have to stand until the new one is there
		if a.Kind == partition.AreaTable && a.Start < end && start < a.Start+a.Length {
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
