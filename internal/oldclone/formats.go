package clone

import (
	"fmt"

	"clonecast/internal/filesystem"
	"clonecast/internal/filesystem/swap"
	"clonecast/internal/image"
	"clonecast/internal/partition"
	"clonecast/internal/partition/gpt"
	"clonecast/internal/partition/mbr"
	"clonecast/internal/quantity"
)

// swapHeader makes the header page of a swap partition of that length anew.
func swapHeader(p image.Partition, length quantity.Bytes) ([]byte, error) {
	return swap.Header(filesystem.Volume{Type: p.Filesystem.Type, UUID: p.Filesystem.UUID, Label: p.Filesystem.Label,
		BlockSize: p.Filesystem.BlockSize}, length)
}

// tableFor gives the table sectors for the target in the order of writing. A GPT moves
// its backup to the end of a disk of another size; one that was captured with a bad copy
// comes out with two good ones, because the place of the bad one may hold a good copy of
// another table on the target. Partitions in lengths become longer. Everything else stays
// as it was.
func tableFor(d *image.Disk, g Geometry, lengths map[int]quantity.Bytes) ([]final, error) {
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
		var out []final
		for _, c := range moved {
			out = append(out, final{c.Start, c.Data})
		}
		return out, nil
	case isMBR && len(lengths) > 0:
		grown, err := mbr.Grow(savedTable(d), g.Size, g.LogicalSector, lengths)
		if err != nil {
			return nil, err
		}
		var areas []image.TableArea
		for _, c := range grown {
			areas = append(areas, image.TableArea{Start: c.Start, Data: c.Data})
		}
		return keptTable(areas, g), nil
	}
	return keptTable(d.Table, g), nil
}

// staysGPT tells whether a GPT can be written byte for byte.
func staysGPT(d *image.Disk, g Geometry, lengths map[int]quantity.Bytes) (bool, error) {
	if d.TableKind != string(partition.GPT) || d.Size != g.Size || len(lengths) > 0 {
		return false, nil
	}
	return gpt.Whole(savedTable(d), gpt.Disk{Size: d.Size, Sector: d.LogicalSector})
}

// movedGPT refuses a disk without room behind the last partition.
func movedGPT(d *image.Disk, g Geometry) ([]partition.Content, error) {
	moved, err := gpt.Relocate(savedTable(d), gpt.Disk{Size: d.Size, Sector: d.LogicalSector}, g.Size)
	if err != nil && g.Size < d.Size {
		return nil, &RefusedError{Reason: err.Error(), Remedy: "choose a disk at least as large as the captured one"}
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

// limitByTable sets where partitions must end at the latest, and adds what the table has
// in their way.
func (r *room) limitByTable(d *image.Disk, g Geometry) error {
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
func hybridStarts(d *image.Disk, g Geometry) map[quantity.Bytes]bool {
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
