package clone

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"clonecast/internal/filesystem"
	"clonecast/internal/filesystem/fat"
	"clonecast/internal/image"
	"clonecast/internal/quantity"
)

// ordered is the reason of a mode that an operator wants.
const ordered = "as ordered"

// Apply sets the modes that an operator wants for partitions of the disk r, by number,
// in place of those that Inspect chose. What cannot be done is refused.
func (l *Layout) Apply(r io.ReaderAt, policy map[int]image.Mode) error {
	for _, number := range slices.Sorted(maps.Keys(policy)) {
		i := slices.IndexFunc(l.Partitions, func(p PartitionLayout) bool { return p.Number == number })
		if i < 0 {
			return &RefusedError{Reason: fmt.Sprintf("there is no partition %d to %s", number, policy[number]), Remedy: "`clonecast disk inspect` shows which there are"}
		}
		p := &l.Partitions[i]
		if err := p.apply(io.NewSectionReader(r, int64(p.Start), int64(p.Length)), policy[number]); err != nil {
			return err
		}
	}
	return nil
}

func (p *PartitionLayout) apply(r io.ReaderAt, mode image.Mode) error {
	switch {
	case mode == image.ModeSkip:
		p.Mode, p.Reason, p.Remedy, p.Refuse, p.Extents = mode, ordered, "", false, nil
	case mode == image.ModeRaw:
		if p.Mode != image.ModeRaw {
			p.Reason, p.Remedy = ordered, ""
		}
		p.Mode, p.Extents = mode, []quantity.Extent{{Start: 0, Length: p.Length}}
	case mode == image.ModeFormat && p.Mode == image.ModeSwap:
		// Swap is made anew in any case.
	case mode == image.ModeFormat:
		return p.format(r)
	case p.Mode != mode:
		return &RefusedError{Reason: fmt.Sprintf("partition %d cannot be captured in mode %s: %s", p.Number, mode, p.Reason), Remedy: p.Remedy}
	}
	return nil
}

// format keeps the identity of a file system, to be made anew by every deploy. What is
// stored are the structures that the empty file system will have.
func (p *PartitionLayout) format(r io.ReaderAt) error {
	if !strings.HasPrefix(p.Volume.Type, "fat") {
		return &RefusedError{
			Reason: fmt.Sprintf("partition %d holds %s, which clonecast cannot make anew", p.Number, orUnknown(p.Volume.Type)),
			Remedy: "FAT and swap can be made anew; for another file system empty it before the capture, or use the policy clone, raw or skip",
		}
	}
	blank, err := fat.Blank(r, p.Length)
	if err != nil {
		return fmt.Errorf("partition %d: make it anew: %w", p.Number, err)
	}
	p.Mode, p.Reason, p.Remedy, p.Refuse, p.Extents, p.blank = image.ModeFormat, ordered, "", false, blank.Extents, blank
	return nil
}

func orUnknown(fs string) string {
	if fs == "" {
		return "no known file system"
	}
	return fs
}

// blankReader reads a disk with those partitions empty that are to be made anew.
type blankReader struct {
	disk   io.ReaderAt
	starts []quantity.Bytes
	blanks []filesystem.Blank
}

func newBlankReader(disk io.ReaderAt, l *Layout) io.ReaderAt {
	b := blankReader{disk: disk}
	for _, p := range l.Partitions {
		if p.Mode == image.ModeFormat {
			b.starts, b.blanks = append(b.starts, p.Start), append(b.blanks, p.blank)
		}
	}
	if len(b.blanks) == 0 {
		return disk
	}
	return b
}

func (r blankReader) ReadAt(b []byte, off int64) (int, error) {
	n, err := r.disk.ReadAt(b, off)
	for i, start := range r.starts {
		from := quantity.Bytes(off) - start // in the partition
		for _, z := range r.blanks[i].Zero {
			clear(b[clamp(z.Start-from, n):clamp(z.End()-from, n)])
		}
		for _, p := range r.blanks[i].Writes {
			if skip := from - p.Offset; skip < quantity.Bytes(len(p.Data)) {
				copy(b[clamp(-skip, n):n], p.Data[max(skip, 0):])
			}
		}
	}
	return n, err
}

func clamp(at quantity.Bytes, n int) int { return int(min(max(at, 0), quantity.Bytes(n))) }

// Keep leaves partitions of the version's disk, by number, as they are on the target. The
// only policy of a deploy is skip.
func Keep(d image.Disk, policy map[int]image.Mode) (image.Disk, error) {
	d.Partitions = slices.Clone(d.Partitions)
	for _, number := range slices.Sorted(maps.Keys(policy)) {
		i := slices.IndexFunc(d.Partitions, func(p image.Partition) bool { return p.Number == number })
		switch {
		case policy[number] != image.ModeSkip:
			return image.Disk{}, &RefusedError{Reason: fmt.Sprintf("partition %d: a deploy cannot %s", number, policy[number]), Remedy: "a deploy can skip partitions; all other policies belong to captures"}
		case i < 0:
			return image.Disk{}, &RefusedError{Reason: fmt.Sprintf("the image has no partition %d to skip", number), Remedy: "`clonecast image show` shows which there are"}
		}
		p := &d.Partitions[i]
		p.Mode, p.Reason = image.ModeSkip, ordered
		p.Content = image.Content{Start: p.Content.Start, Length: p.Content.Length}
	}
	return d, nil
}
