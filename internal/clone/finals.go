package clone

import (
	"fmt"
	"slices"

	"clonecast/internal/image"
	"clonecast/internal/quantity"
)

// finals lists what is written after all content, in the order of writing: swap
// headers, then the table from the disk's end to its start, LBA 0 last and alone.
func finals(d *image.Disk, g Geometry) (swaps, table []final, err error) {
	for _, p := range d.Partitions {
		if p.Mode != image.ModeSwap {
			continue
		}
		header, err := swapHeader(p)
		if err != nil {
			return nil, nil, fmt.Errorf("partition %d: %w", p.Number, err)
		}
		swaps = append(swaps, final{p.Content.Start, header})
	}
	if table, err = tableFor(d, g); err != nil {
		return nil, nil, err
	}
	return swaps, table, nil
}

// keptTable gives the table sectors as they were captured, LBA 0 last and alone.
func keptTable(d *image.Disk, g Geometry) []final {
	var out []final
	for _, a := range slices.Backward(d.Table) {
		if sector := int(g.LogicalSector); a.Start == 0 && len(a.Data) > sector {
			out = append(out, final{quantity.Bytes(sector), a.Data[sector:]}, final{0, a.Data[:sector]})
			continue
		}
		out = append(out, final{a.Start, a.Data})
	}
	return out
}
