package mbr

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"slices"

	"clonecast/internal/partition"
	"clonecast/internal/quantity"
)

// maxRecords bounds the EBRs of a disk: Linux has minors for 255 partitions.
const maxRecords = 255

// firstLogical is the number of the first logical partition.
const firstLogical = 5

// chain follows the EBRs of one container.
func (s *scan) chain(container quantity.Extent) error {
	visited := map[quantity.Bytes]bool{}
	at, window := container.Start, container.Length
	for {
		if visited[at] {
			return corrupt("EBR", at, "the chain of EBRs comes back to this one")
		}
		visited[at] = true
		if len(s.records) == maxRecords {
			return corrupt("EBR", at, "the chain has more than 255 EBRs")
		}
		rec, raw, err := s.readRecord(at)
		if errors.Is(err, errNoMagic) && at == container.Start && len(bytes.Trim(raw, "\x00")) == 0 {
			s.records = append(s.records, record{at: at, logical: -1, raw: raw})
			return nil // made but never filled
		}
		if errors.Is(err, errNoMagic) {
			return corrupt("EBR", at, "it does not end in 55 AA")
		}
		if err != nil {
			return err
		}
		if err := s.addLogicals(rec, raw, at, container, window); err != nil {
			return err
		}
		i := slices.IndexFunc(rec.Entries[:], Entry.extended)
		if i < 0 {
			return nil
		}
		next := rec.Entries[i].extent(container.Start, s.sector)
		if next.Start > container.End()-quantity.Bytes(s.sector) {
			return corrupt("EBR", at, "its link leads out of the extended partition")
		}
		if next.Start > s.size-quantity.Bytes(s.sector) {
			s.notes = append(s.notes, fmt.Sprintf(
				"further logical partitions are listed at byte %d, behind the end of the disk (%d): they are left out",
				int64(next.Start), int64(s.size)))
			return nil
		}
		s.links = append(s.links, link{place{at, i}, next.Start})
		at, window = next.Start, next.Length
	}
}

// addLogicals adds the data entries of the EBR at at, whose sector is raw. window is the
// length that the link to this EBR gave it.
func (s *scan) addLogicals(rec Record, raw []byte, at quantity.Bytes, container quantity.Extent,
	window quantity.Bytes) error {
	found := record{at: at, logical: -1, raw: raw}
	for i, e := range rec.Entries {
		if !e.data() {
			continue
		}
		where := e.extent(at, s.sector)
		inside := where.Start >= container.Start && where.End() <= container.End()
		// Like the kernel: the last two entries sometimes hold garbage.
		if i >= 2 && (!inside || where.End() > at+window) {
			continue
		}
		if !inside || e.Start == 0 {
			return corrupt("EBR", at, "its partition does not lie inside the extended partition")
		}
		s.add(firstLogical+s.logicals, e, where, place{at, i})
		s.logicals++
		if found.logical < 0 {
			found.logical = where.Start
		}
	}
	s.records = append(s.records, found)
	return nil
}

// areas lists the bytes outside partitions: LBA 0, the gap behind it, each EBR and
// the gap between it and its logical partition. A gap ends early where something
// else stands in it (chains need not be in disk order). mbr is the sector at LBA 0.
func (s *scan) areas(mbr []byte) []partition.Area {
	var taken []quantity.Bytes // where partitions, containers and EBRs start
	for _, p := range s.partitions {
		taken = append(taken, p.Start)
	}
	for _, c := range s.containers {
		taken = append(taken, c.Start)
	}
	for _, r := range s.records {
		taken = append(taken, r.at)
	}
	slices.Sort(taken)

	sector := quantity.Bytes(s.sector)
	areas := []partition.Area{{Kind: partition.AreaTable, Start: 0, Length: sector, Data: mbr}}
	if len(taken) > 0 && taken[0] > sector {
		areas = append(areas, partition.Area{Kind: partition.AreaBoot, Start: sector, Length: taken[0] - sector})
	}
	for _, r := range s.records {
		areas = append(areas, partition.Area{Kind: partition.AreaTable, Start: r.at, Length: sector, Data: r.raw})
		start := r.at + sector
		if i, _ := slices.BinarySearch(taken, start); r.logical > start && i < len(taken) && taken[i] > start {
			areas = append(areas, partition.Area{Kind: partition.AreaBoot, Start: start, Length: taken[i] - start})
		}
	}
	slices.SortFunc(areas, func(a, b partition.Area) int { return cmp.Compare(a.Start, b.Start) })
	return areas
}
