package gpt

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"

	"clonecast/internal/partition"
	"clonecast/internal/quantity"
)

// used decodes the used entries of the best copy, by their numbers.
func (d *disk) used() ([]numbered, error) {
	var out []numbered
	for i := range d.best().count() {
		var e entry
		if _, err := binary.Decode(d.best().entry(i), binary.LittleEndian, &e); err != nil {
			return nil, fmt.Errorf("decode GPT entry %d: %w", i+1, err)
		}
		if e.Type == (guid{}) {
			continue
		}
		n := numbered{i + 1, e}
		if e.First > e.Last || e.Last > d.last && (!d.cut() || e.Last > maxDisk/uint64(d.sector)) {
			return nil, corrupt(n.name(), 0, "sectors %d to %d on a disk of %d sectors", e.First, e.Last, d.last+1)
		}
		typ := e.Type.String()
		if typ == typeLDMMetadata || typ == typeLDMData {
			return nil, fmt.Errorf("%s has type %s: %w: Windows dynamic disk", n.name(), typ, partition.ErrUnsupported)
		}
		out = append(out, n)
	}
	return out, nil
}

// numbered is an entry and its number.
type numbered struct {
	number int
	entry
}

func (n numbered) name() string { return fmt.Sprintf("partition %d", n.number) }

// partitions lists the partitions as far as they lie on the disk. What does not is noted.
func (d *disk) partitions() ([]partition.Partition, error) {
	used, err := d.used()
	if err != nil {
		return nil, err
	}
	var out []partition.Partition
	for _, e := range used {
		all := quantity.Extent{Start: d.offset(e.First), Length: d.offset(e.Last - e.First + 1)}
		where, note := partition.Clip(e.number, all, d.offset(d.last+1))
		if note != "" {
			d.notes = append(d.notes, note)
		}
		if where.Length == 0 {
			continue
		}
		out = append(out, partition.Partition{
			Number: e.number,
			Start:  where.Start,
			Length: where.Length,
			Type:   e.Type.String(),
			GUID:   e.Unique.String(),
			Name:   e.entry.name(),
		})
	}
	if len(used) > 0 && len(out) == 0 {
		return nil, corrupt("table", 0, "none of its partitions lies on the disk")
	}
	return out, nil
}

// areas lists the table sectors of both copies and the boot area in front of the
// first partition. A bad backup has no area; a bad primary keeps its usual place,
// so that its bytes are kept, too.
func (d *disk) areas(partitions []partition.Partition) []partition.Area {
	contents := d.contents()
	var tables []quantity.Extent
	for _, c := range contents {
		tables = append(tables, quantity.Extent{Start: c.Start, Length: quantity.Bytes(len(c.Data))})
	}
	tables = quantity.Normalize(tables)

	var areas []partition.Area
	for _, t := range tables {
		data := make([]byte, t.Length)
		contents.ReadAt(data, int64(t.Start)) // never fails
		areas = append(areas, partition.Area{Kind: partition.AreaTable, Start: t.Start, Length: t.Length, Data: data})
	}
	areas = append(areas, gaps(tables, partitions)...)
	slices.SortFunc(areas, func(a, b partition.Area) int { return cmp.Compare(a.Start, b.Start) })
	return areas
}

// contents are the bytes of the table sectors.
func (d *disk) contents() partition.Contents {
	out := partition.Contents{{Start: 0, Data: d.protective}}
	if d.primary != nil {
		out = append(out, d.primary.contents(d)...)
	} else {
		out = append(out, d.usualPrimary()...)
	}
	if d.backup != nil {
		out = append(out, d.backup.contents(d)...)
	}
	return out
}

func (s *half) contents(d *disk) partition.Contents {
	return partition.Contents{{Start: d.offset(s.header.EntriesLBA), Data: s.array},
		{Start: d.offset(s.header.MyLBA), Data: s.raw}}
}

// usualPrimary gives what stands where a bad primary should be or, if that cannot be read, what
// should stand there.
func (d *disk) usualPrimary() partition.Contents {
	sectors := d.arraySectors(d.backup.header)
	if primaryEntries+sectors > d.backup.header.FirstUsable {
		sectors = 0 // it stood elsewhere
	}
	if b, err := d.read(1, 1+sectors); err == nil {
		return partition.Contents{{Start: d.offset(1), Data: b}}
	}
	if sectors == 0 {
		return partition.Contents{{Start: d.offset(1), Data: make([]byte, d.sector)}}
	}
	h := d.backup.header
	h.MyLBA, h.Alternate, h.EntriesLBA = 1, d.backup.header.MyLBA, primaryEntries
	return partition.Contents{{Start: d.offset(1), Data: d.backup.encode(h)},
		{Start: d.offset(primaryEntries), Data: d.backup.array}}
}

// gaps are the boot areas: what lies between table sectors in front of the first
// partition. A disk without partitions has none.
func gaps(tables []quantity.Extent, partitions []partition.Partition) []partition.Area {
	if len(partitions) == 0 {
		return nil
	}
	first := slices.MinFunc(partitions, func(a, b partition.Partition) int {
		return cmp.Compare(a.Start, b.Start)
	}).Start
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
