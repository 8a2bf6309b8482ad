package table

import (
	"io"
	"slices"

	"clonecast/internal/partition"
	"clonecast/internal/partition/gpt"
	"clonecast/internal/partition/mbr"
	"clonecast/internal/quantity"
)

// sectorSizes are those of disks that are or were sold.
var sectorSizes = []quantity.SectorSize{512, 4096, 2048, 1024}

// SectorSize tells in which sectors the table of the disk r counts. It is the disk's own unless the
// table fits another size clearly better: a USB case may have shown the disk with sectors of
// another size when it was partitioned, and the image file of a disk does not say which it had.
//
// known tells whether content that is recognised begins at a place of the disk; in doubt it says no.
//
//	GPT: its header stands in sector 1 and says so: that decides
//	MBR: each size gives its partitions other places. One is better than the disk's own if the table
//	     is free of contradictions with it, and more than twice as many places hold what the table
//	     says: known content where a partition begins, the mark of an EBR
//
// So partitions that are blank, wiped or of unknown content say nothing. What cannot be read says
// nothing, either.
func SectorSize(r io.ReaderAt, size quantity.Bytes, disk quantity.SectorSize,
	known func(quantity.Extent) bool) quantity.SectorSize {
	if !disk.Valid() || size < quantity.Bytes(slices.Max(sectorSizes)) {
		return disk
	}
	b, err := partition.ReadFull(r, 0, 512)
	if err != nil {
		return disk
	}
	record, ok := mbr.ParseRecord(b)
	if !ok {
		return disk
	}
	best, most := disk, 0
	if record.Protective() {
		for _, sector := range append([]quantity.SectorSize{disk}, sectorSizes...) {
			if _, err := gpt.Read(r, size, sector); err == nil {
				return sector
			}
		}
		return disk
	}
	own, ownErr := mbr.Read(r, size, disk)
	counted := ownErr != nil // what it says with the disk's own sectors: looking for content takes time
	for _, sector := range sectorSizes {
		t, err := mbr.Read(r, size, sector)
		if sector == disk || err != nil || len(t.Notes) > 0 {
			continue
		}
		if !counted {
			most, counted = 2*count(claims(own, known)), true
		}
		all := claims(t, known)
		if len(all) <= most {
			continue // looking for content would take time
		}
		if n := count(all); n > most {
			best, most = sector, n
		}
	}
	return best
}

// claims gives what an MBR says of places of the disk: that content begins there or that an EBR
// stands there. Each can be asked whether it is so.
func claims(t partition.Table, known func(quantity.Extent) bool) []func() bool {
	var out []func() bool
	for _, a := range t.Areas {
		if a.Kind == partition.AreaTable && a.Start > 0 {
			out = append(out, func() bool { _, ok := mbr.ParseRecord(a.Data); return ok })
		}
	}
	for _, p := range t.Partitions {
		out = append(out, func() bool { return known(quantity.Extent{Start: p.Start, Length: p.Length}) })
	}
	return out
}

// count gives how many claims hold.
func count(claims []func() bool) int {
	n := 0
	for _, holds := range claims {
		if holds() {
			n++
		}
	}
	return n
}
