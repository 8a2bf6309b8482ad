package deploy

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"

	"clonecast/internal/clone"
	"clonecast/internal/clone/layout"
	"clonecast/internal/image"
	"clonecast/internal/partition"
	"clonecast/internal/partition/table"
	"clonecast/internal/quantity"
)

// A deploy that keeps a partition does not take the old table away while it works, if it can be
// helped: a cut would make what is kept look lost. So that a cut disk does not boot half a system
// all the same, the boot code in LBA 0 and the first bytes of the EFI system partition go, and
// come back last.

// Keep leaves partitions of the version's disk, by number, as they are on the target. The
// only policy of a deploy is skip.
func Keep(d image.Disk, policy map[int]image.Mode) (image.Disk, error) {
	d.Partitions = slices.Clone(d.Partitions)
	for _, number := range slices.Sorted(maps.Keys(policy)) {
		i := slices.IndexFunc(d.Partitions, func(p image.Partition) bool { return p.Number == number })
		switch {
		case policy[number] != image.ModeSkip:
			return image.Disk{}, &clone.RefusedError{
				Reason: fmt.Sprintf("partition %d: a deploy cannot %s", number, policy[number]),
				Remedy: "a deploy can skip partitions; all other policies belong to captures",
			}
		case i < 0:
			return image.Disk{}, &clone.RefusedError{
				Reason: fmt.Sprintf("the image has no partition %d to skip", number),
				Remedy: "`clonecast image show` shows which there are",
			}
		}
		p := &d.Partitions[i]
		p.Mode, p.Reason = image.ModeSkip, layout.Ordered
		p.Content = image.Content{Start: p.Content.Start, Length: p.Content.Length}
	}
	return d, nil
}

// keeps tells whether a deploy of the disk leaves a partition as it is.
func keeps(d *image.Disk) bool {
	return slices.ContainsFunc(d.Partitions, func(p image.Partition) bool { return p.Mode == image.ModeSkip })
}

// keepable gives the target's table if a partition is to be kept. It refuses to lay a table
// over a partition that the target has at another place or length: part of it would be lost.
func keepable(d *image.Disk, t Target, g clone.Geometry) (partition.Table, error) {
	if !keeps(d) {
		return partition.Table{Kind: partition.None}, nil
	}
	old, err := table.Read(t, g.Size, g.LogicalSector)
	var corrupt *partition.CorruptError
	switch {
	case errors.As(err, &corrupt), errors.Is(err, partition.ErrUnsupported):
		return partition.Table{}, &clone.RefusedError{
			Reason: fmt.Sprintf("a partition is to be kept, and the target's table cannot be understood: %v", err),
			Remedy: "repair the table, or zero the disk's first sector to give up what it holds",
		}
	case err != nil:
		return partition.Table{}, fmt.Errorf("read the target's table: %w", err)
	case old.Kind == partition.None:
		return old, nil
	}
	for _, p := range d.Partitions {
		if p.Mode != image.ModeSkip {
			continue
		}
		for _, o := range old.Partitions {
			apart := o.Start >= p.Content.Start+p.Content.Length || p.Content.Start >= o.Start+o.Length
			if !apart && (o.Start != p.Content.Start || o.Length != p.Content.Length) {
				return partition.Table{}, &clone.RefusedError{
					Reason: fmt.Sprintf("partition %d is to be kept, but on the target partition %d takes its place: "+
						"bytes %d to %d instead of %d to %d", p.Number, o.Number,
						o.Start, o.Start+o.Length, p.Content.Start, p.Content.Start+p.Content.Length),
					Remedy: "use an image with the target's layout, " +
						"or zero the disk's first sector to give up what it holds",
				}
			}
		}
	}
	return old, nil
}

// changesTable tells whether the old table is worth saving: it changes, or a partition is kept.
func (t *target) changesTable() (bool, error) {
	if keeps(t.Image) {
		return true, nil
	}
	for _, r := range t.table {
		if same, err := holds(t.Target, r); err != nil || !same {
			return true, err
		}
	}
	return false, nil
}

// bootCodeLength is how much of LBA 0 the BIOS runs; disk signature and entries follow.
const bootCodeLength = 440

// noBoot is boot code that sends the BIOS to the next boot device (INT 18h) and else halts.
var noBoot = append([]byte{0xcd, 0x18, 0xf4, 0xeb, 0xfd}, make([]byte, bootCodeLength-5)...)

// invalidations are what takes away the boot code or, unless the old table can stand, the tables.
func (t *target) invalidations() ([]Patch, error) {
	leave, err := t.leavesTable()
	if err != nil {
		return nil, err
	}
	if leave {
		return t.withoutBootCode()
	}
	return t.withoutTables()
}

// withoutBootCode takes the boot code away and leaves the table.
func (t *target) withoutBootCode() ([]Patch, error) {
	if t.Image.TableKind == tableNone {
		return nil, nil
	}
	sector := make([]byte, t.Geometry.LogicalSector)
	if err := clone.ReadFull(t.Target, sector, 0); err != nil {
		return nil, err
	}
	if code := sector[:bootCodeLength]; clone.AllZero(code) || bytes.Equal(code, noBoot) {
		return nil, nil
	}
	copy(sector, noBoot)
	return []Patch{newPatch(0, sector, "no boot code")}, nil
}

const gptMagic = "EFI PART"

// withoutTables zeroes LBA 0, and every GPT header where the old or the new table has one.
func (t *target) withoutTables() ([]Patch, error) {
	if t.Image.TableKind == tableNone {
		return nil, nil
	}
	var out []Patch
	sector := t.Geometry.LogicalSector
	seen := map[quantity.Bytes]bool{}
	if kept := t.toKeep(); len(kept) > 0 {
		_, set := keptOf(t.Image)
		out = append(out, newPatch(0, cutMark(sector, kept, set), "no partition table, but what is kept"))
		seen[0] = true
	}
	for _, r := range append(t.oldHeaders(), t.closing...) {
		b := make([]byte, r.Length)
		if err := clone.ReadFull(t.Target, b, r.Start); err != nil {
			return nil, err
		}
		for at := 0; at+int(sector) <= len(b); at += int(sector) {
			s, place := b[at:at+int(sector)], r.Start+quantity.Bytes(at)
			if place != 0 && string(s[:8]) != gptMagic || clone.AllZero(s) || seen[place] {
				continue
			}
			seen[place] = true
			out = append(out, zeroPatch(place, quantity.Bytes(sector), "no partition table"))
		}
	}
	return out, nil
}

// oldHeaders are the places of the old GPT's headers: without them it is gone, wherever the
// new table is.
func (t *target) oldHeaders() []Patch {
	if t.old.Kind != partition.GPT {
		return nil
	}
	var out []Patch
	for _, a := range t.old.Areas {
		if a.Kind == partition.AreaTable {
			out = append(out, zeroPatch(a.Start, a.Length, "old partition table"))
		}
	}
	return out
}

// Types of the EFI system partition.
const (
	typeESP = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"
	mbrESP  = "0xef"
)

// bootsFirmware tells whether the firmware would start from region i although the deploy
// is under way, because the table stays.
func (t *target) bootsFirmware(i int) bool {
	p := t.partition(i)
	return p != nil && keeps(t.Image) && len(p.Content.Extents) > 0 && (p.Type == typeESP || p.Type == mbrESP)
}

// leavesTable tells whether the old table can stand until the new one is written. It must
// go first if content will be written over its sectors, or if EBRs change: what lies
// between the old and the new table could then be read as a third one.
func (t *target) leavesTable() (bool, error) {
	if !keeps(t.Image) || t.old.Kind == partition.None {
		return false, nil
	}
	for _, a := range t.old.Areas {
		if a.Kind == partition.AreaTable && a.Start > 0 && t.writes(quantity.Extent{Start: a.Start, Length: a.Length}) {
			return false, nil
		}
	}
	if t.Image.TableKind != string(partition.MBR) {
		return true, nil
	}
	for _, r := range t.table {
		same, err := holds(t.Target, r)
		if err != nil {
			return false, err
		}
		if r.Start != 0 && !same {
			return false, nil
		}
	}
	return true, nil
}

// writes tells whether these bytes of the disk lie in a region of which the version stores
// something: also its free bytes may be written or trimmed.
func (t *target) writes(e quantity.Extent) bool {
	return slices.ContainsFunc(t.plan.Regions, func(r Region) bool {
		return len(r.Content.Extents) > 0 && r.Start < e.End() && e.Start < r.Start+r.Length
	})
}
