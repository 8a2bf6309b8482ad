package clone

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"clonecast/internal/filesystem"
	"clonecast/internal/filesystem/ntfs"
	"clonecast/internal/image"
	"clonecast/internal/quantity"
)

// Grown is what becomes of a partition that was to grow.
type Grown struct {
	Number     int            `json:"partition"`
	Filesystem string         `json:"filesystem"`
	From       quantity.Bytes `json:"from"`                       // length of the partition
	To         quantity.Bytes `json:"to"`                         // the same when it stays as it is
	Volume     quantity.Bytes `json:"filesystem_bytes,omitempty"` // size of the file system afterwards; 0 when it did not grow
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
			if p.Mode != image.ModeSwap && p.Type != recoveryGPT && p.Type != recoveryMBR {
				out = []*image.Partition{p}
			}
		}
		return out, nil
	}
	for _, n := range rule.Numbers {
		i := slices.IndexFunc(d.Partitions, func(p image.Partition) bool { return p.Number == n })
		if i < 0 {
			return nil, &RefusedError{Reason: fmt.Sprintf("partition %d was to grow, the image has none", n),
				Remedy: "see the image's partitions with `clonecast image show`, or say \"last\""}
		}
		out = append(out, &d.Partitions[i])
	}
	return out, nil
}

// PlanGrowth decides how long the partitions become that the rule names.
func PlanGrowth(d *image.Disk, g Geometry, rule image.GrowDisk) ([]Grown, error) {
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
		plan := Grown{Number: p.Number, Filesystem: p.Filesystem.Type, From: p.Content.Length, To: p.Content.Length, start: p.Content.Start}
		if plan.Note = staysBecause(p); plan.Note == "" {
			plan.To, plan.Note = r.lengthOf(p)
		}
		out = append(out, plan)
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
	case "ext2", "ext3", "ext4", "xfs", "btrfs", "ntfs":
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

func newRoom(d *image.Disk, g Geometry) (*room, error) {
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

// grow makes the file systems of partitions that grew as large as these. It comes last:
// the disk is whole, and a cut from here on leaves what the next deploy finds and repairs.
func (d *deploy) grow(ctx context.Context) error {
	for i := range d.result.Grown {
		g := &d.result.Grown[i]
		if g.To == g.From {
			continue
		}
		size, err := d.growFilesystem(ctx, g)
		var cannot *filesystem.UnchangedError
		if errors.As(err, &cannot) {
			g.Note = "its file system stays at the old size: " + cannot.Reason
			continue
		}
		if err != nil {
			return fmt.Errorf("grow the %s of partition %d: %w", g.Filesystem, g.Number, err)
		}
		g.Volume = size
	}
	return nil
}

func (d *deploy) growFilesystem(ctx context.Context, g *Grown) (quantity.Bytes, error) {
	where := quantity.Extent{Start: g.start, Length: g.To}
	switch {
	case g.Filesystem == "swap":
		return g.To, nil // its header was made for the new length
	case g.Filesystem == "ntfs":
		return d.growNTFS(where)
	case d.opts.Grower == nil:
		return 0, &filesystem.UnchangedError{Reason: "this program cannot mount it"}
	}
	return d.opts.Grower.Grow(ctx, d.number, g.Filesystem, where)
}

// growNTFS does what ntfs.Grow plans.
func (d *deploy) growNTFS(where quantity.Extent) (quantity.Bytes, error) {
	plan, err := ntfs.Grow(io.NewSectionReader(d.target, int64(where.Start), int64(where.Length)), where.Length)
	if err != nil {
		return 0, err
	}
	for _, step := range plan.Steps {
		for _, w := range step {
			if err := d.writeAt(w.Data, where.Start+w.Offset); err != nil {
				return 0, err
			}
		}
		if err := d.target.Sync(); err != nil {
			return 0, err
		}
	}
	return plan.To, nil
}
