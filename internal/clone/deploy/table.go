package deploy

import (
	"fmt"
	"slices"

	"clonecast/internal/clone"
	"clonecast/internal/filesystem"
	"clonecast/internal/filesystem/swap"
	"clonecast/internal/image"
	"clonecast/internal/partition"
	"clonecast/internal/partition/gpt"
	"clonecast/internal/partition/mbr"
	"clonecast/internal/quantity"
)

// tableNone is how a manifest names a disk without a table.
const tableNone = string(partition.None)

// swapHeaders makes the header pages of the swap areas that a version names without storing them.
// lengths are those of partitions that grow, by number.
func swapHeaders(d *image.Disk, lengths map[int]quantity.Bytes) (headers []Patch, err error) {
	for _, p := range d.Partitions {
		if p.Mode != image.ModeSwap {
			continue
		}
		identity := filesystem.Volume{Type: p.Filesystem.Type, UUID: p.Filesystem.UUID, Label: p.Filesystem.Label,
			BlockSize: p.Filesystem.BlockSize}
		header, err := swap.Header(identity, lengthOf(p, lengths))
		if err != nil {
			return nil, fmt.Errorf("partition %d: %w", p.Number, err)
		}
		headers = append(headers, newPatch(p.Content.Start, header, fmt.Sprintf("swap header of partition %d", p.Number)))
	}
	return headers, nil
}

// lengthOf is how long a partition is on the target.
func lengthOf(p image.Partition, lengths map[int]quantity.Bytes) quantity.Bytes {
	return max(p.Content.Length, lengths[p.Number])
}

// tableFor gives the table sectors for the target in the order of writing, LBA 0 last and alone. A
// GPT moves its backup to the end of a disk of another size; one that was captured with a bad copy
// comes out with two good ones, because the place of the bad one may hold a good copy of
// another table on the target. Partitions in lengths become longer. Everything else stays
// as it was.
func tableFor(d *image.Disk, g clone.Geometry, lengths map[int]quantity.Bytes) ([]Patch, error) {
	isGPT, isMBR := d.TableKind == string(partition.GPT), d.TableKind == string(partition.MBR)
	asItWas, err := staysGPT(d, g, lengths)
	if err != nil {
		return nil, err
	}
	switch {
	case isGPT && !asItWas:
		moved, err := movedGPT(d, g)
		if err == nil && len(lengths) > 0 {
			moved, err = gpt.Grow(moved, gpt.Disk{Size: g.Size, Sector: g.LogicalSector}, lengths)
		}
		if err != nil {
			return nil, err
		}
		var out []Patch
		for _, c := range moved {
			out = append(out, newPatch(c.Start, c.Data, "partition table"))
		}
		return out, nil
	case isMBR && len(lengths) > 0:
		grown, err := mbr.Grow(savedTable(d), g.Size, g.LogicalSector, lengths)
		if err != nil {
			return nil, err
		}
		return tablePatches(grown, g), nil
	}
	return tablePatches(savedTable(d), g), nil
}

// tablePatches gives table sectors from the disk's end to its start, LBA 0 last and alone.
func tablePatches(areas []partition.Content, g clone.Geometry) []Patch {
	var out []Patch
	for _, a := range slices.Backward(areas) {
		if sector := int(g.LogicalSector); a.Start == 0 && len(a.Data) > sector {
			out = append(out, newPatch(quantity.Bytes(sector), a.Data[sector:], "partition table"))
			a.Data = a.Data[:sector]
		}
		out = append(out, newPatch(a.Start, a.Data, "partition table"))
	}
	return out
}

// staysGPT tells whether a GPT can be written byte for byte.
func staysGPT(d *image.Disk, g clone.Geometry, lengths map[int]quantity.Bytes) (bool, error) {
	if d.TableKind != string(partition.GPT) || d.Size != g.Size || len(lengths) > 0 {
		return false, nil
	}
	return gpt.Whole(savedTable(d), gpt.Disk{Size: d.Size, Sector: d.LogicalSector})
}

// movedGPT refuses a disk without room behind the last partition.
func movedGPT(d *image.Disk, g clone.Geometry) ([]partition.Content, error) {
	moved, err := gpt.Relocate(savedTable(d), gpt.Disk{Size: d.Size, Sector: d.LogicalSector}, g.Size)
	if err != nil && g.Size < d.Size {
		return nil, &clone.RefusedError{Reason: err.Error(), Remedy: "choose a disk at least as large as the captured one"}
	}
	return moved, err
}

func savedTable(d *image.Disk) []partition.Content {
	var saved []partition.Content
	for _, a := range d.Table {
		saved = append(saved, partition.Content{Start: a.Start, Data: a.Data})
	}
	return saved
}
