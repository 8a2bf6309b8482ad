// Package layout finds out what is on a disk and how each part of it is captured.
//
//	table      read the partition table and the boot areas
//	probe      look into each partition: which file system, which of its bytes are in use
//	decide     per partition: by its allocation map, every block, or not at all
//	policy     what an operator wants instead
//	replay     if wanted, let the kernel replay journals, and look again
//
// Doubt means allocated: a map is used only if the file system is proven clean. Everything but
// the replay only reads.
package layout

import (
	"fmt"

	"clonecast/internal/clone"
	"clonecast/internal/filesystem"
	"clonecast/internal/image"
	"clonecast/internal/partition"
	"clonecast/internal/quantity"
)

// Layout is what Inspect found on a disk, and how each part would be captured.
type Layout struct {
	clone.Geometry
	Table      partition.Table
	Partitions []Partition

	// Members are the RAID arrays and volume managers that claim the whole disk, by blkid's names. A
	// capture is refused unless forced.
	Members []string

	options Options // how it was looked at
}

// Partition is one partition of a Layout.
type Partition struct {
	partition.Partition
	Volume filesystem.Volume
	Mode   image.Mode
	Reason string // why it is not cloned by its allocation map
	Remedy string // what the operator can do about it
	Refuse bool   // a capture is refused unless forced

	// Unread says what of its structures could not be read, if anything: what was found is not all that
	// there may be.
	Unread string

	// Extents are the bytes that a capture stores, from the partition's start.
	Extents []quantity.Extent

	Blank filesystem.Blank // mode format: what they become
}

// Allocated is how many bytes a capture stores of the partition.
func (p *Partition) Allocated() quantity.Bytes { return quantity.Total(p.Extents) }

// Discarded is how many of these bytes are not content: a capture stores a fill byte in
// their place (see filesystem.Discard).
func (p *Partition) Discarded() quantity.Bytes {
	var sum quantity.Bytes
	for _, d := range p.Discards() {
		sum += quantity.Total(d.Extents)
	}
	return sum
}

// Discards lists what of the partition is not content. Only a map that is used can tell.
func (p *Partition) Discards() []filesystem.Discard {
	if p.Mode != image.ModeClone {
		return nil
	}
	return p.Volume.Discarded
}

// NewPartition decides how a partition is captured. Doubt means allocated.
func NewPartition(p partition.Partition, v filesystem.Volume) Partition {
	l := Partition{Partition: p, Volume: v}
	switch {
	case v.Doubt != nil:
		l.Mode, l.Reason, l.Remedy, l.Refuse = image.ModeRaw, v.Doubt.Reason, Remedy(v.Doubt), v.Doubt.Refuse
		l.Extents = []quantity.Extent{{Start: 0, Length: p.Length}}
	default:
		l.Mode, l.Extents = image.ModeClone, v.Allocated
	}
	return l
}

// Refusal says why the disk must not be captured, if so.
func (l *Layout) Refusal(force bool) error {
	if len(l.Members) > 0 && !force {
		return &clone.RefusedError{Reason: memberText(l.Members), Remedy: memberRemedy}
	}
	for i := range l.Partitions {
		p := &l.Partitions[i]
		if p.Refuse && !force {
			return &clone.RefusedError{
				Reason: fmt.Sprintf("partition %d (%s): %s", p.Number, p.Volume.Type, p.Reason),
				Remedy: p.Remedy,
			}
		}
	}
	return nil
}

// memberRemedy is what to do about a disk that something claims as a whole.
const memberRemedy = "capture the array or the volumes (as /dev/md0), or take the disk as it is: --force; " +
	"stale marks are erased by wipefs"
