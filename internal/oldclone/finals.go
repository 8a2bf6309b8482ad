package clone

import (
	"fmt"
	"slices"

	"clonecast/internal/image"
	"clonecast/internal/quantity"
)

// finals lists what is written after all content, in the order of writing: swap
// headers, then the table from the disk's end to its start, LBA 0 last and alone. lengths
// are those of partitions that grow, by number.
func finals(d *image.Disk, g Geometry, lengths map[int]quantity.Bytes) (swaps, table []final, err error) {
	for _, p := range d.Partitions {
		if p.Mode != image.ModeSwap {
			continue
		}
		header, err := swapHeader(p, lengthOf(p, lengths))
		if err != nil {
			return nil, nil, fmt.Errorf("partition %d: %w", p.Number, err)
		}
		swaps = append(swaps, final{p.Content.Start, header})
	}
	if table, err = tableFor(d, g, lengths); err != nil {
		return nil, nil, err
	}
	return swaps, table, nil
}

// lengthOf is how long a partition is on the target.
func lengthOf(p image.Partition, lengths map[int]quantity.Bytes) quantity.Bytes {
	return max(p.Content.Length, lengths[p.Number])
}

// keptTable gives table sectors as they were captured, LBA 0 last and alone.
func keptTable(areas []image.TableArea, g Geometry) []final {
	var out []final
	for _, a := range slices.Backward(areas) {
		if sector := int(g.LogicalSector); a.Start == 0 && len(a.Data) > sector {
			out = append(out, final{quantity.Bytes(sector), a.Data[sector:]}, final{0, a.Data[:sector]})
			continue
		}
		out = append(out, final{a.Start, a.Data})
	}
	return out
}
