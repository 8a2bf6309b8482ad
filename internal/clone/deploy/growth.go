package deploy

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"clonecast/internal/clone"
	"clonecast/internal/image"
	"clonecast/internal/partition"
	"clonecast/internal/partition/gpt"
	"clonecast/internal/partition/mbr"
	"clonecast/internal/quantity"
)

// Grown is what becomes of a partition that was to grow.
type Grown struct {
	Number     int            `json:"partition"`
	Filesystem string         `json:"filesystem"`
	From       quantity.Bytes `json:"from"`                       // length of the partition
	To         quantity.Bytes `json:"to"`                         // the same when it stays as it is
	Volume     quantity.Bytes `json:"filesystem_bytes,omitempty"` // the file system's new size; 0 when it did not grow
	Note       string         `json:"note,omitempty"`             // why not, or why not by more

	start quantity.Bytes
}

func (g Grown) String() string {
	s := fmt.Sprintf("partition %d (%s): ", g.Number, cmp.Or(g.Filesystem, "no file system"))
	if g.To > g.From {
		s += fmt.Sprintf("%v to %v", g.From, g.To)
	} else {
		s += fmt.Sprintf("stays at %v", g.From)
	}
	if g.Note != "" {
		s += ": " + g.Note
	}
	return s
}

// Grower makes file systems larger that only a kernel can make larger. Grow is given the
// target, counted from 0, and the place of the partition on it, and returns the file system's
// new size. A *filesystem.UnchangedError says that it stays as it is, and is sound.
type Grower interface {
	Grow(ctx context.Context, disk int, fsType string, where quantity.Extent) (quantity.Bytes, error)
}

// Partition types of Windows' recovery environment. It wants to stay small.
const (
	recoveryGPT = "de94bba4-06d1-4d40-a16a-bfd50179d6ac"
	recoveryMBR = "0x27"
)

// toGrow gives the partitions that the rule names.
func toGrow(d *image.Disk, rule image.GrowDisk) ([]*image.Partition, error) {
	var out []*image.Partition
	if rule.Last {
		for i := range d.Partitions { // by start
			p := &d.Partitions[i]
			if p.Filesystem.Type != "swap" && p.Type != recoveryGPT && p.Type != recoveryMBR {
				out = []*image.Partition{p}
			}
		}
		return out, nil
	}
	for _, n := range rule.Numbers {
		i := slices.IndexFunc(d.Partitions, func(p image.Partition) bool { return p.Number == n })
		if i < 0 {
			return nil, &clone.RefusedError{Reason: fmt.Sprintf("partition %d was to grow, the image has none", n),
				Remedy: "see the image's partitions with `clonecast image show`, or say \"last\""}
		}
		out = append(out, &d.Partitions[i])
	}
	return out, nil
}

// PlanGrowth decides how long the partitions become that the rule names.
func PlanGrowth(d *image.Disk, g clone.Geometry, rule image.GrowDisk) ([]Grown, error) {
	chosen, err := toGrow(d, rule)
	if err != nil || len(chosen) == 0 {
		return nil, err
	}
	r, err := newRoom(d, g)
	if err != nil {
		return nil, err
	}
	var out []Grown
	for _, p := range chosen {
		grown := Grown{Number: p.Number, Filesystem: p.Filesystem.Type, From: p.Content.Length, To: p.Content.Length,
			start: p.Content.Start}
		if grown.Note = staysBecause(p); grown.Note == "" {
			grown.To, grown.Note = r.lengthOf(p)
		}
		out = append(out, grown)
	}
	return out, nil
}

// staysBecause says why what a partition holds cannot grow; empty: it can.
func staysBecause(p *image.Partition) string {
	switch {
	case p.Mode == image.ModeSwap:
		return ""
	case p.Mode == image.ModeSkip:
		return "its content is not in the image"
	case p.Mode == image.ModeRaw && p.Reason != "":
		return "it was copied block by block: " + p.Reason
	case p.Mode != image.ModeClone:
		return "it was not captured by its allocation map"
	}
	switch p.Filesystem.Type {
	case "ext2", "ext3", "ext4", "xfs", "btrfs", "ntfs", "swap":
		return ""
	case "vfat", "fat12", "fat16", "fat32":
		return "a FAT has no room for more clusters; a larger one would move all files"
	}
	return "this file system cannot be made larger"
}

// lengthsOf gives the new lengths of the partitions that grow, by number.
func lengthsOf(plan []Grown) map[int]quantity.Bytes {
	out := map[int]quantity.Bytes{}
	for _, g := range plan {
		if g.To > g.From {
			out[g.Number] = g.To
		}
	}
	return out
}

// room is where partitions can end on a target.
type room struct {
	end       quantity.Bytes          // of what the table can describe
	limit     string                  // why the disk has more than that
	whole     bool                    // the disk has no table
	obstacles []obstacle              // by start
	hybrid    map[quantity.Bytes]bool // starts of partitions that stand in two tables
}

// obstacle is something that no partition may grow over.
type obstacle struct {
	start quantity.Bytes
	name  string
}

func newRoom(d *image.Disk, g clone.Geometry) (*room, error) {
	r := &room{end: g.Size, whole: d.TableKind == tableNone}
	if err := r.limitByTable(d, g); err != nil {
		return nil, err
	}
	for _, p := range d.Partitions {
		r.obstacles = append(r.obstacles, obstacle{p.Content.Start, fmt.Sprintf("partition %d", p.Number)})
	}
	for _, c := range d.Boot {
		r.obstacles = append(r.obstacles, obstacle{c.Start, "a boot area"})
	}
	slices.SortFunc(r.obstacles, func(a, b obstacle) int { return int(max(-1, min(1, a.start-b.start))) })
	return r, nil
}

// growAlignment is what the end of a grown partition is a multiple of.
const growAlignment = quantity.MiB

// lengthOf gives the length that a partition can have, and why not more.
func (r *room) lengthOf(p *image.Partition) (quantity.Bytes, string) {
	start, old := p.Content.Start, p.Content.Start+p.Content.Length
	if r.hybrid[start] {
		return p.Content.Length, "it stands in a hybrid MBR, too"
	}
	limit, note := r.end, r.limit
	if note == "" {
		note = "the disk has no free room behind it"
	}
	for _, o := range r.obstacles {
		if o.start > start {
			if o.start < limit {
				limit, note = o.start, o.name+" follows it"
			}
			break
		}
	}
	end := limit / growAlignment * growAlignment
	if r.whole {
		end = limit
	}
	switch {
	case end <= old:
		return p.Content.Length, note
	case limit < r.end || r.limit != "":
		return end - start, note
	}
	return end - start, ""
}

// limitByTable sets where partitions must end at the latest, and adds what the table has
// in their way.
func (r *room) limitByTable(d *image.Disk, g clone.Geometry) error {
	switch d.TableKind {
	case string(partition.MBR):
		if limit := quantity.Bytes(mbr.MaxSectors) * quantity.Bytes(g.LogicalSector); r.end > limit {
			r.end, r.limit = limit, fmt.Sprintf("an MBR can describe %v of the disk", limit)
		}
		for _, a := range d.Table {
			r.obstacles = append(r.obstacles, obstacle{a.Start, "the table of a logical partition"})
		}
	case string(partition.GPT):
		moved, err := movedGPT(d, g)
		if err != nil {
			return err
		}
		r.hybrid = hybridStarts(d, g)
		r.end, err = gpt.UsableEnd(moved, gpt.Disk{Size: g.Size, Sector: g.LogicalSector})
		return err
	}
	return nil
}

// hybridStarts gives the starts of partitions that the MBR in front of a GPT lists, too.
func hybridStarts(d *image.Disk, g clone.Geometry) map[quantity.Bytes]bool {
	out := map[quantity.Bytes]bool{}
	for _, a := range d.Table {
		if a.Start != 0 {
			continue
		}
		record, _ := mbr.ParseRecord(a.Data)
		for _, e := range record.Entries {
			if e.Type != 0 && e.Type != mbr.TypeProtective {
				out[quantity.Bytes(e.Start)*quantity.Bytes(g.LogicalSector)] = true
			}
		}
	}
	return out
}
