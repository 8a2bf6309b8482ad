package gpt

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"

	"clonecast/internal/partition"
	"clonecast/internal/quantity"
)

// partitions decodes the used entries of the best copy.
func (d *disk) partitions() ([]partition.Partition, error) {
	var out []partition.Partition
	for i := range d.best().count() {
		var e entry
		if _, err := binary.Decode(d.best().entry(i), binary.LittleEndian, &e); err != nil {
			return nil, fmt.Errorf("decode GPT entry %d: %w", i+1, err)
		}
		if e.Type == (guid{}) {
			continue
		}
		name := fmt.Sprintf("partition %d", i+1)
		if e.First > e.Last || e.Last > d.last {
			return nil, corrupt(name, 0, "sectors %d to %d on a disk of %d sectors", e.First, e.Last, d.last+1)
		}
		typ := e.Type.String()
		if typ == typeLDMMetadata || typ == typeLDMData {
			return nil, fmt.Errorf("%s has type %s: %w: Windows dynamic disk", name, typ, partition.ErrUnsupported)
		}
		out = append(out, partition.Partition{
			Number: i + 1,
			Start:  d.offset(e.First),
			Length: d.offset(e.Last - e.First + 1),
			Type:   typ,
			GUID:   e.Unique.String(),
			Name:   e.name(),
		})
	}
	return out, nil
}

// areas lists the table sectors of both copies and the boot area in front of the
// first partition. A bad backup has no area; a bad primary keeps its usual place,
// so that its bytes are kept, too.
func (d *disk) areas(partitions []partition.Partition) []partition.Area {
	var tables []quantity.Extent
	add := func(lba, sectors uint64) {
		tables = append(tables, quantity.Extent{Start: d.offset(lba), Length: d.offset(sectors)})
	}
	add(0, 2)
	if d.primary != nil {
		add(d.primary.header.EntriesLBA, d.arraySectors(d.primary.header))
	} else if end := 2 + d.arraySectors(d.backup.header); end <= d.backup.header.FirstUsable {
		add(2, end-2)
	}
	if d.backup != nil {
		add(d.backup.header.EntriesLBA, d.arraySectors(d.backup.header))
		add(d.backup.header.MyLBA, 1)
	}
	tables = quantity.Normalize(tables)

	var areas []partition.Area
	for _, t := range tables {
		areas = append(areas, partition.Area{Kind: partition.AreaTable, Start: t.Start, Length: t.Length})
	}
	areas = append(areas, gaps(tables, partitions)...)
	slices.SortFunc(areas, func(a, b partition.Area) int { return cmp.Compare(a.Start, b.Start) })
	return areas
}

// gaps are the boot areas: what lies between table sectors in front of the first
// partition. A disk without partitions has none.
func gaps(tables []quantity.Extent, partitions []partition.Partition) []partition.Area {
	if len(partitions) == 0 {
		return nil
	}
	first := slices.MinFunc(partitions, func(a, b partition.Partition) int { return cmp.Compare(a.Start, b.Start) }).Start
	var out []partition.Area
	for i, t := range tables {
		end := first
		if i+1 < len(tables) {
			end = min(end, tables[i+1].Start)
		}
		if end > t.End() {
			out = append(out, partition.Area{Kind: partition.AreaBoot, Start: t.End(), Length: end - t.End()})
		}
	}
	return out
}
