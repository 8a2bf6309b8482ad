package deploy

import (
	"context"
	"io"

	"clonecast/internal/clone"
	"clonecast/internal/image"
	"clonecast/internal/quantity"
)

// compare finds the chunks that the target does not hold, and what becomes of each region.
func (d *DiskPlan) compare(ctx context.Context, r io.ReaderAt, compared *counter) error {
	contents := d.contents()
	same := make([]int, len(contents))
	err := clone.HashPieces(ctx, r, contents, nil, func(p clone.Piece, holds bool) {
		n, region := p.Allocated(), &d.Regions[p.Region]
		d.Compared += n
		if holds {
			region.Kept += n
			same[p.Region]++
		} else {
			region.Differ += n
			region.Write[p.Number] = true
		}
		compared.add(n)
	})
	if err != nil {
		return err
	}
	for i := range d.Regions {
		r := &d.Regions[i]
		d.Kept, d.Differ = d.Kept+r.Kept, d.Differ+r.Differ
		switch {
		case r.Fate == Leave || r.Differ == 0:
		case 2*same[i] > len(r.Write):
			r.Fate = Update
		default:
			r.Fate = Write
		}
	}
	return nil
}

// contents are those of the regions, in their order.
func (d *DiskPlan) contents() []*image.Content {
	var out []*image.Content
	for i := range d.Regions {
		out = append(out, d.Regions[i].Content)
	}
	return out
}

// allocated is how many bytes the version stores of the disk.
func (d *DiskPlan) allocated() quantity.Bytes {
	var sum quantity.Bytes
	for i := range d.Regions {
		sum += d.Regions[i].Content.Allocated()
	}
	return sum
}

// holds tells whether the disk has a patch's bytes already.
func holds(r io.ReaderAt, p Patch) (bool, error) {
	b := make([]byte, p.Length)
	if err := clone.ReadFull(r, b, p.Start); err != nil {
		return false, err
	}
	return string(b) == string(p.bytes()), nil
}
