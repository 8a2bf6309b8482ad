package clone

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	"clonecast/internal/image"
	"clonecast/internal/partition"
	"clonecast/internal/partition/saved"
	"clonecast/internal/partition/table"
	"clonecast/internal/quantity"
)

// A deploy that keeps a partition does not take the old table away while it works, if it
// can be helped: a cut would make what is kept look lost. So that a cut disk does not boot half a system all the
// same, the boot code in LBA 0 and the first bytes of the EFI system partition go, and
// come back last.

// keeps tells whether a deploy of the disk leaves a partition as it is.
func keeps(d *image.Disk) bool {
	return slices.ContainsFunc(d.Partitions, func(p image.Partition) bool { return p.Mode == image.ModeSkip })
}

// keepable gives the target's table if a partition is to be kept. It refuses to lay a table
// over a partition that the target has at another place or length: part of it would be lost.
func keepable(d *image.Disk, t Target, g Geometry) (partition.Table, error) {
	if !keeps(d) {
		return partition.Table{Kind: partition.None}, nil
	}
	old, err := table.Read(t, g.Size, g.LogicalSector)
	var corrupt *partition.CorruptError
	switch {
	case errors.As(err, &corrupt), errors.Is(err, partition.ErrUnsupported):
		return partition.Table{}, &RefusedError{
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
				return partition.Table{}, &RefusedError{
					Reason: fmt.Sprintf("partition %d is to be kept, but on the target partition %d takes its place: bytes %d to %d instead of %d to %d",
						p.Number, o.Number, o.Start, o.Start+o.Length, p.Content.Start, p.Content.Start+p.Content.Length),
					Remedy: "use an image with the target's layout, or zero the disk's first sector to give up what it holds",
				}
			}
		}
	}
	return old, nil
}

// saveTable hands out the old table before it is changed.
func (d *deploy) saveTable(ctx context.Context) error {
	if d.opts.SaveTable == nil {
		return nil
	}
	changes := keeps(d.disk)
	for _, f := range d.table {
		same, err := d.holds(f)
		if err != nil {
			return err
		}
		changes = changes || !same
	}
	if !changes {
		return nil
	}
	c, err := saved.Take(d.target, d.geometry.Size, d.geometry.LogicalSector)
	if err != nil {
		return err
	}
	if c.Empty() {
		return nil
	}
	c.Model, c.Serial = d.geometry.Model, d.geometry.Serial
	return d.opts.SaveTable(ctx, d.number, c)
}

// bootCodeLength is how much of LBA 0 the BIOS runs; disk signature and entries follow.
const bootCodeLength = 440

// noBoot is boot code that sends the BIOS to the next boot device (INT 18h) and else halts.
var noBoot = append([]byte{0xcd, 0x18, 0xf4, 0xeb, 0xfd}, make([]byte, bootCodeLength-5)...)

// invalidateBootCode takes the boot code away and leaves the table.
func (d *deploy) invalidateBootCode() error {
	if d.disk.TableKind == tableNone {
		return nil
	}
	sector := make([]byte, d.geometry.LogicalSector)
	if err := readFull(d.target, sector, 0); err != nil {
		return err
	}
	if code := sector[:bootCodeLength]; allZero(code) || bytes.Equal(code, noBoot) {
		return nil
	}
	copy(sector, noBoot)
	return d.writeAt(sector, 0)
}

// Types of the EFI system partition.
const (
	typeESP = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"
	mbrESP  = "0xef"
)

// bootsFirmware tells whether the firmware would start from content i although the deploy
// is under way, because the table stays.
func (d *deploy) bootsFirmware(i int) bool {
	p := d.disk.Partitions[i-len(d.disk.Boot)]
	return keeps(d.disk) && len(p.Content.Extents) > 0 && (p.Type == typeESP || p.Type == mbrESP)
}

// leavesTable tells whether the old table can stand until the new one is written. It must
// go first if content will be written over its sectors, or if EBRs change: what lies
// between the old and the new table could then be read as a third one.
func (d *deploy) leavesTable() (bool, error) {
	if !keeps(d.disk) || d.old.Kind == partition.None {
		return false, nil
	}
	for _, a := range d.old.Areas {
		if a.Kind == partition.AreaTable && a.Start > 0 && d.writes(quantity.Extent{Start: a.Start, Length: a.Length}) {
			return false, nil
		}
	}
	if d.disk.TableKind != string(partition.MBR) {
		return true, nil
	}
	for _, f := range d.table {
		same, err := d.holds(f)
		if err != nil {
			return false, err
		}
		if f.start != 0 && !same {
			return false, nil
		}
	}
	return true, nil
}

// writes tells whether these bytes of the disk lie in a region of which the version stores
// something: also its free bytes may be written or trimmed.
func (d *deploy) writes(e quantity.Extent) bool {
	return slices.ContainsFunc(d.contents, func(c *image.Content) bool {
		return len(c.Extents) > 0 && c.Start < e.End() && e.Start < c.Start+c.Length
	})
}

// oldHeaders are the places of the old GPT's headers: without them it is gone, wherever the
// new table is.
func (d *deploy) oldHeaders() []final {
	if d.old.Kind != partition.GPT {
		return nil
	}
	var out []final
	for _, a := range d.old.Areas {
		if a.Kind == partition.AreaTable {
			out = append(out, final{a.Start, make([]byte, a.Length)})
		}
	}
	return out
}

// Restore puts a saved table back onto the disk that it was taken of.
func Restore(t Target, g Geometry, c saved.Copy) error {
	if c.Size != g.Size || c.Sector != g.LogicalSector || c.Serial != g.Serial {
		return &RefusedError{
			Reason: fmt.Sprintf("the table was saved from a disk of %d bytes in sectors of %d, serial %q; this one has %d in sectors of %d, serial %q",
				c.Size, c.Sector, c.Serial, g.Size, g.LogicalSector, g.Serial),
			Remedy: "choose the disk that it was saved from",
		}
	}
	for w := range c.Writes() {
		if w.Start == 0 { // the last one, and only on top of the others
			if err := t.Sync(); err != nil {
				return err
			}
		}
		if _, err := t.WriteAt(w.Data, int64(w.Start)); err != nil {
			return &WriteError{Offset: w.Start, Err: err}
		}
	}
	return t.Sync()
}
