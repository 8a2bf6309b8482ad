package clone

import (
	"fmt"
	"io"

	"clonecast/internal/filesystem"
	"clonecast/internal/image"
	"clonecast/internal/partition"
	"clonecast/internal/quantity"
)

// tableNone is how a manifest names a disk without a table.
const tableNone = string(partition.None)

// Layout is what Inspect found on a disk, and how each part would be captured.
type Layout struct {
	Geometry
	Table      partition.Table
	Partitions []PartitionLayout
}

// PartitionLayout is one partition of a Layout.
type PartitionLayout struct {
	partition.Partition
	Volume filesystem.Volume
	Mode   image.Mode
	Reason string // why it is not cloned by its allocation map
	Remedy string // what the operator can do about it
	Refuse bool   // a capture is refused unless forced

	// Extents are the bytes that a capture stores, from the partition's start.
	Extents []quantity.Extent

	blank filesystem.Blank // mode format: what they become
}

// Allocated is how many bytes a capture stores of the partition.
func (p *PartitionLayout) Allocated() quantity.Bytes { return quantity.Total(p.Extents) }

// Discarded is how many of these bytes are not content: a capture stores a fill byte in
// their place (see filesystem.Discard).
func (p *PartitionLayout) Discarded() quantity.Bytes {
	var sum quantity.Bytes
	for _, d := range p.Discards() {
		sum += quantity.Total(d.Extents)
	}
	return sum
}

// Discards lists what of the partition is not content. Only a map that is used can tell.
func (p *PartitionLayout) Discards() []filesystem.Discard {
	if p.Mode != image.ModeClone {
		return nil
	}
	return p.Volume.Discarded
}

// newPartitionLayout decides how a partition is captured. Doubt means allocated.
func newPartitionLayout(p partition.Partition, v filesystem.Volume) PartitionLayout {
	l := PartitionLayout{Partition: p, Volume: v}
	switch {
	case v.Doubt != nil:
		l.Mode, l.Reason, l.Remedy, l.Refuse = image.ModeRaw, v.Doubt.Reason, Remedy(v.Doubt), v.Doubt.Refuse
		l.Extents = []quantity.Extent{{Start: 0, Length: p.Length}}
	case v.Type == "swap":
		l.Mode, l.Reason = image.ModeSwap, "only UUID and label are kept"
	default:
		l.Mode, l.Extents = image.ModeClone, v.Allocated
	}
	return l
}

// refusal says why the disk must not be captured, if so.
func (l *Layout) refusal(force bool) error {
	for i := range l.Partitions {
		p := &l.Partitions[i]
		if p.Refuse && !force {
			return &RefusedError{Reason: fmt.Sprintf("partition %d (%s): %s", p.Number, p.Volume.Type, p.Reason), Remedy: p.Remedy}
		}
	}
	return nil
}

// manifestDisk makes the manifest's disk: all but the chunk ids.
func (l *Layout) manifestDisk(r io.ReaderAt) (image.Disk, error) {
	d := image.Disk{Size: l.Size, LogicalSector: l.LogicalSector, PhysicalSector: l.PhysicalSector, Model: l.Model,
		Serial: l.Serial, TableKind: string(l.Table.Kind), DiskID: l.Table.DiskID}
	for _, a := range l.Table.Areas {
		if a.Kind == partition.AreaBoot {
			d.Boot = append(d.Boot, image.Content{Start: a.Start, Length: a.Length,
				Extents: []quantity.Extent{{Start: 0, Length: a.Length}}})
			continue
		}
		data := make([]byte, a.Length)
		if err := readFull(r, data, a.Start); err != nil {
			return image.Disk{}, fmt.Errorf("partition table: %w", err)
		}
		d.Table = append(d.Table, image.TableArea{Start: a.Start, Data: data})
	}
	for _, p := range l.Partitions {
		d.Partitions = append(d.Partitions, image.Partition{
			Number: p.Number, Type: p.Type, GUID: p.GUID, Name: p.Name, Mode: p.Mode, Reason: p.Reason,
			Filesystem: image.Filesystem{Type: p.Volume.Type, UUID: p.Volume.UUID, Label: p.Volume.Label, BlockSize: p.Volume.BlockSize},
			Content:    image.Content{Start: p.Start, Length: p.Length, Extents: p.Extents},
		})
	}
	return d, nil
}
