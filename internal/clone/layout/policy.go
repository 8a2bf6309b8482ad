package layout

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"clonecast/internal/clone"
	"clonecast/internal/filesystem/fat"
	"clonecast/internal/image"
	"clonecast/internal/quantity"
)

// Ordered is the reason of a mode that an operator wants.
const Ordered = "as ordered"

// Apply sets the modes that an operator wants for partitions of the disk r, by number,
// in place of those that Inspect chose. What cannot be done is refused.
func (l *Layout) Apply(r io.ReaderAt, policy map[int]image.Mode) error {
	for _, number := range slices.Sorted(maps.Keys(policy)) {
		i := slices.IndexFunc(l.Partitions, func(p Partition) bool { return p.Number == number })
		if i < 0 {
			return &clone.RefusedError{
				Reason: fmt.Sprintf("there is no partition %d to %s", number, policy[number]),
				Remedy: "`clonecast disk inspect` shows which there are",
			}
		}
		p := &l.Partitions[i]
		if err := p.apply(io.NewSectionReader(r, int64(p.Start), int64(p.Length)), policy[number]); err != nil {
			return err
		}
	}
	return nil
}

func (p *Partition) apply(r io.ReaderAt, mode image.Mode) error {
	switch {
	case mode == image.ModeSkip:
		p.Mode, p.Reason, p.Remedy, p.Refuse, p.Extents = mode, Ordered, "", false, nil
	case mode == image.ModeRaw:
		if p.Mode != image.ModeRaw {
			p.Reason, p.Remedy = Ordered, ""
		}
		p.Mode, p.Extents = mode, []quantity.Extent{{Start: 0, Length: p.Length}}
	case mode == image.ModeFormat && p.Mode == image.ModeClone && p.Volume.Type == "swap":
		// Its header is all that is stored of it in any case.
	case mode == image.ModeFormat:
		return p.format(r)
	case p.Mode != mode:
		return &clone.RefusedError{
			Reason: fmt.Sprintf("partition %d cannot be captured in mode %s: %s", p.Number, mode, p.Reason),
			Remedy: p.Remedy,
		}
	}
	return nil
}

// format keeps the identity of a file system, to be made anew by every deploy. What is
// stored are the structures that the empty file system will have.
func (p *Partition) format(r io.ReaderAt) error {
	if !strings.HasPrefix(p.Volume.Type, "fat") {
		what := p.Volume.Type
		if what == "" {
			what = "no known file system"
		}
		return &clone.RefusedError{
			Reason: fmt.Sprintf("partition %d holds %s, which clonecast cannot make anew", p.Number, what),
			Remedy: "FAT and swap can be made anew; for another file system empty it before the capture, " +
				"or use the policy clone, raw or skip",
		}
	}
	blank, err := fat.Blank(r, p.Length)
	if err != nil {
		return fmt.Errorf("partition %d: make it anew: %w", p.Number, err)
	}
	p.Mode, p.Reason, p.Remedy, p.Refuse = image.ModeFormat, Ordered, "", false
	p.Extents, p.Blank = blank.Extents, blank
	return nil
}
