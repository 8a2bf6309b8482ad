package image

import (
	"cmp"
	"fmt"
	"slices"

	"clonecast/internal/quantity"
)

// validate checks what a deploy relies on: names, sizes, and that every region lies
// inside its disk without touching another.
func (m *Manifest) validate() error { return m.check(true) }

// check is validate; an outline's contents have no chunk ids.
func (m *Manifest) check(ids bool) error {
	if err := CheckName(m.Image); err != nil {
		return fmt.Errorf("manifest: %w", err)
	}
	for _, s := range []string{m.Comment, m.Origin, m.Creator, m.Engine} {
		if err := checkString("a text", s); err != nil {
			return err
		}
	}
	if m.Created < 0 || m.Created > maxCreated {
		return fmt.Errorf("manifest: created at %d", m.Created)
	}
	if len(m.Disks) == 0 || len(m.Disks) > maxDisks {
		return fmt.Errorf("manifest: %d disks, want 1 to %d", len(m.Disks), maxDisks)
	}
	for i := range m.Disks {
		if err := m.Disks[i].validate(ids); err != nil {
			return fmt.Errorf("manifest: disk %d: %w", i, err)
		}
	}
	return nil
}

func (d *Disk) validate(ids bool) error {
	if !d.LogicalSector.Valid() || d.PhysicalSector > maxPhysicalSector || d.Size <= 0 || d.Size > maxDiskSize {
		return fmt.Errorf("size %d with sectors of %d bytes, physical ones of %d", d.Size, d.LogicalSector, d.PhysicalSector)
	}
	if len(d.Table) > maxAreas || len(d.Boot) > maxAreas || len(d.Partitions) > maxPartitions {
		return fmt.Errorf("%d table areas, %d boot areas, %d partitions are too many",
			len(d.Table), len(d.Boot), len(d.Partitions))
	}
	for _, s := range []string{d.Model, d.Serial, d.TableKind, d.DiskID} {
		if err := checkString("a text", s); err != nil {
			return err
		}
	}
	var regions []quantity.Extent
	for _, a := range d.Table {
		if len(a.Data) == 0 || len(a.Data) > maxTableArea {
			return fmt.Errorf("table area of %d bytes", len(a.Data))
		}
		regions = append(regions, quantity.Extent{Start: a.Start, Length: quantity.Bytes(len(a.Data))})
	}
	for i := range d.Boot {
		if err := d.Boot[i].validate(ids); err != nil {
			return fmt.Errorf("boot area at byte %d: %w", d.Boot[i].Start, err)
		}
		regions = append(regions, quantity.Extent{Start: d.Boot[i].Start, Length: d.Boot[i].Length})
	}
	for i := range d.Partitions {
		if err := d.Partitions[i].validate(ids); err != nil {
			return fmt.Errorf("partition %d: %w", d.Partitions[i].Number, err)
		}
		c := d.Partitions[i].Content
		regions = append(regions, quantity.Extent{Start: c.Start, Length: c.Length})
	}
	return checkDisjoint(regions, d.Size)
}

func (p *Partition) validate(ids bool) error {
	fs := &p.Filesystem
	for _, s := range []string{p.Type, p.GUID, p.Name, p.Reason, fs.Type, fs.UUID, fs.Label} {
		if err := checkString("a text", s); err != nil {
			return err
		}
	}
	if !slices.Contains(modeCodes, p.Mode) {
		return fmt.Errorf("unknown mode %q", p.Mode)
	}
	if (p.Mode == ModeSwap || p.Mode == ModeSkip) && len(p.Content.Extents) != 0 {
		return fmt.Errorf("mode %s stores %d extents", p.Mode, len(p.Content.Extents))
	}
	if p.Number < 0 || p.Number > 1<<20 || p.Filesystem.BlockSize < 0 || p.Filesystem.BlockSize > maxDiskSize {
		return fmt.Errorf("number %d, block size %d", p.Number, p.Filesystem.BlockSize)
	}
	return p.Content.validate(ids)
}

func (c *Content) validate(ids bool) error {
	end := quantity.Bytes(0)
	for i, e := range c.Extents {
		if e.Length <= 0 || e.Start < end || i > 0 && e.Start == end || e.Start > c.Length-e.Length {
			return fmt.Errorf("extent of %d bytes at %d does not follow byte %d inside %d bytes",
				e.Length, e.Start, end, c.Length)
		}
		end = e.End()
	}
	if n := ChunkCount(c.Extents); ids && n != len(c.Chunks) {
		return fmt.Errorf("%d chunk ids, extents touch %d", len(c.Chunks), n)
	}
	return nil
}

// checkDisjoint reports a region that leaves the disk or touches another one.
func checkDisjoint(regions []quantity.Extent, size quantity.Bytes) error {
	slices.SortFunc(regions, func(a, b quantity.Extent) int { return cmp.Compare(a.Start, b.Start) })
	end := quantity.Bytes(0)
	for _, r := range regions {
		if r.Start < end || r.Length <= 0 || r.Start > size-r.Length {
			return fmt.Errorf("region of %d bytes at %d overlaps another one or leaves the disk of %d bytes",
				r.Length, r.Start, size)
		}
		end = r.End()
	}
	return nil
}
