package deploy

import (
	"context"
	"errors"
	"fmt"
	"io"

	"clonecast/internal/filesystem"
	"clonecast/internal/filesystem/ntfs"
	"clonecast/internal/filesystem/probe"
	"clonecast/internal/filesystem/swap"
	"clonecast/internal/quantity"
)

// grow makes the file systems of partitions that grew as large as these. It comes last:
// the disk is whole, and a cut from here on leaves what the next deploy finds and repairs.
func (w *writing) grow(ctx context.Context) error {
	for i := range w.result.Grown {
		g := &w.result.Grown[i]
		if g.To == g.From {
			continue
		}
		size, err := w.growFilesystem(ctx, g)
		var cannot *filesystem.UnchangedError
		if errors.As(err, &cannot) {
			g.Note = "its file system stays at the old size: " + cannot.Reason
			continue
		}
		if err != nil {
			return fmt.Errorf("the %s of partition %d: %w", g.Filesystem, g.Number, err)
		}
		g.Volume = size
	}
	return nil
}

func (w *writing) growFilesystem(ctx context.Context, g *Grown) (quantity.Bytes, error) {
	where := quantity.Extent{Start: g.start, Length: g.To}
	if err := w.nothingBehind(g); err != nil {
		return 0, err
	}
	switch {
	case g.Filesystem == "swap":
		return w.growOwn(where, swap.Grow)
	case g.Filesystem == "ntfs":
		return w.growOwn(where, ntfs.Grow)
	case w.means.Grower == nil:
		return 0, &filesystem.UnchangedError{Reason: "this program cannot mount it"}
	}
	return w.means.Grower.Grow(ctx, w.number, g.Filesystem, where)
}

// nothingBehind refuses to let a file system grow over what the version stores behind it in the partition. The
// copy of NTFS's boot sector, at the end, moves with it.
func (w *writing) nothingBehind(g *Grown) error {
	if g.Filesystem == "swap" {
		return nil
	}
	v, err := probe.Read(io.NewSectionReader(w.target, int64(g.start), int64(g.From)), g.From)
	if err != nil {
		return err
	}
	end := g.From
	if v.Type == "ntfs" {
		end -= quantity.Bytes(w.plan.LogicalSector)
	}
	behind := quantity.Extent{Start: v.Size, Length: end - v.Size}
	for i := range w.plan.Regions {
		r := &w.plan.Regions[i]
		if r.Start == g.start && v.Doubt == nil && quantity.Overlaps(r.Content.Extents, behind) {
			return &filesystem.UnchangedError{Reason: "something is kept behind it in the partition"}
		}
	}
	return nil
}

// growOwn does what a package of ours plans.
func (w *writing) growOwn(where quantity.Extent,
	grow func(io.ReaderAt, quantity.Bytes) (filesystem.Growth, error)) (quantity.Bytes, error) {
	plan, err := grow(io.NewSectionReader(w.target, int64(where.Start), int64(where.Length)), where.Length)
	if err != nil {
		return 0, err
	}
	for _, step := range plan.Steps {
		for _, write := range step {
			if err := w.writeAt(write.Data, where.Start+write.Offset); err != nil {
				return 0, err
			}
		}
		if err := w.target.Sync(); err != nil {
			return 0, err
		}
		if err := w.checkWrites(step, where.Start); err != nil {
			return 0, err
		}
	}
	return plan.To, nil
}

// checkWrites reads back the writes of a step of growing.
func (w *writing) checkWrites(step []filesystem.Write, start quantity.Bytes) error {
	if err := w.target.DropCache(); err != nil {
		return err
	}
	var patches []Patch
	for _, write := range step {
		patches = append(patches, newPatch(start+write.Offset, write.Data, "file system"))
	}
	return w.check(patches)
}
