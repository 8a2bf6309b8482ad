package mbr

import (
	"encoding/binary"
	"fmt"
	"slices"

	"clonecast/internal/partition"
	"clonecast/internal/quantity"
)

// MaxSectors is how many sectors of a disk an MBR can describe.
const MaxSectors quantity.Sectors = 1 << 32

// Grow gives table sectors in which the partitions have new lengths, by their numbers.
// The container of a logical partition and the link to its EBR follow. Nothing else
// changes, and the sectors keep their order. size is the disk's.
func Grow(table []partition.Content, size quantity.Bytes, sector quantity.SectorSize,
	lengths map[int]quantity.Bytes) ([]partition.Content, error) {
	saved := partition.Contents(table).Clone()
	b, err := partition.ReadFull(saved, 0, recordSize)
	if err != nil {
		return nil, fmt.Errorf("read saved MBR: %w", err)
	}
	record, ok := ParseRecord(b)
	if !ok {
		return nil, corrupt("MBR", 0, "it does not end in 55 AA")
	}
	s := scan{r: saved, size: size, sector: sector}
	if err := s.primaries(record); err != nil {
		return nil, fmt.Errorf("read saved MBR: %w", err)
	}
	for number, length := range lengths {
		i := slices.IndexFunc(s.partitions, func(p partition.Partition) bool { return p.Number == number })
		if i < 0 {
			return nil, fmt.Errorf("grow partition %d: the table has no such partition", number)
		}
		if err := s.growPartition(saved, i, length); err != nil {
			return nil, fmt.Errorf("grow partition %d: %w", number, err)
		}
	}
	if _, err := Read(saved, size, sector); err != nil {
		return nil, fmt.Errorf("grow partitions: %w", err)
	}
	return saved, nil
}

// growPartition sets the length of partition i, and of what must cover it.
func (s *scan) growPartition(saved partition.Contents, i int, length quantity.Bytes) error {
	p, at := s.partitions[i], s.places[i]
	if err := s.setEnd(saved, at, p.Start, p.Start+length); err != nil {
		return err
	}
	if at.record == 0 {
		return nil
	}
	for _, l := range s.links {
		if l.to == at.record {
			if err := s.extend(saved, l.place, l.to, p.Start+length); err != nil {
				return err
			}
		}
	}
	for k, c := range s.containers {
		if c.Start <= at.record && at.record < c.End() {
			return s.extend(saved, place{0, s.slots[k]}, c.Start, p.Start+length)
		}
	}
	return nil
}

// extend makes the entry at a place, which begins at start, reach end if it does not.
func (s *scan) extend(saved partition.Contents, at place, start, end quantity.Bytes) error {
	b, err := partition.ReadFull(saved, at.offset()+entrySectors, 4)
	if err != nil {
		return err
	}
	if start+quantity.Bytes(binary.LittleEndian.Uint32(b))*quantity.Bytes(s.sector) >= end {
		return nil
	}
	return s.setEnd(saved, at, start, end)
}

// setEnd makes the entry at a place, which begins at start, end at end.
func (s *scan) setEnd(saved partition.Contents, at place, start, end quantity.Bytes) error {
	sectors, last := s.sector.Sectors(end-start), s.sector.Sectors(end)
	if end <= start || last > MaxSectors || end > s.size {
		return fmt.Errorf("its end at byte %d is beyond the disk or what an MBR can say", int64(end))
	}
	if err := saved.Put(at.offset()+entryEndCHS, endCHS(last-1)); err != nil {
		return err
	}
	return saved.Put(at.offset()+entrySectors, binary.LittleEndian.AppendUint32(nil, uint32(sectors)))
}

// Where Entry.EndCHS and Entry.Sectors stand in an entry, and the entries in a record.
const (
	entriesOffset = 0x1be
	entrySize     = 16
	entryEndCHS   = 5
	entrySectors  = 12
)

func (p place) offset() quantity.Bytes {
	return p.record + entriesOffset + quantity.Bytes(p.slot*entrySize)
}

// endCHS gives cylinder, head and sector of a sector for 255 heads and 63 sectors, as
// every BIOS of the last decades counts; beyond 1024 cylinders the usual mark.
func endCHS(sector quantity.Sectors) []byte {
	const heads, perTrack, cylinders = 255, 63, 1024
	c, h, s := sector/(heads*perTrack), sector/perTrack%heads, sector%perTrack+1
	if c >= cylinders {
		return []byte{0xfe, 0xff, 0xff}
	}
	return []byte{byte(h), byte(s) | byte(c>>8<<6), byte(c)}
}
