package clone

import (
	"clonecast/internal/filesystem"
	"clonecast/internal/filesystem/swap"
	"clonecast/internal/image"
	"clonecast/internal/partition"
	"clonecast/internal/partition/gpt"
)

// swapHeader makes the header page of a swap partition anew.
func swapHeader(p image.Partition) ([]byte, error) {
	return swap.Header(filesystem.Volume{Type: p.Filesystem.Type, UUID: p.Filesystem.UUID, Label: p.Filesystem.Label,
		BlockSize: p.Filesystem.BlockSize}, p.Content.Length)
}

// tableFor gives the table sectors for the target in the order of writing. A GPT moves
// its backup to the end of a disk of another size; every other table stays as it was.
func tableFor(d *image.Disk, g Geometry) ([]final, error) {
	if d.TableKind != string(partition.GPT) || d.Size == g.Size {
		return keptTable(d, g), nil
	}
	var saved []partition.Content
	for _, a := range d.Table {
		saved = append(saved, partition.Content{Start: a.Start, Data: a.Data})
	}
	moved, err := gpt.Relocate(saved, gpt.Disk{Size: d.Size, Sector: d.LogicalSector}, g.Size)
	if err != nil {
		return nil, err
	}
	var out []final
	for _, c := range moved {
		out = append(out, final{c.Start, c.Data})
	}
	return out, nil
}
