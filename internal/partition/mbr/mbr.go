// Package mbr reads the partition table of a master boot record and its chain of
// extended boot records (EBR).
//
// LBA 0 holds boot code, a disk signature and four entries. One entry may be a
// container (types 05, 0f, 85): its first sector is an EBR, whose data entry is
// relative to that EBR and whose link entry, relative to the container's start,
// leads to the next EBR. The reader follows the kernel (block/partitions/msdos.c),
// because partition numbers must be the ones Linux gives:
//
//	primaries are 1..4 by slot; logicals count from 5 in chain order
//	entries with a size are partitions whatever their type
//	in an EBR all four entries count; the last two only if they fit the container
//	an entry whose status byte is neither 00 nor 80 means: this is no MBR
//
// Where the kernel shrugs and goes on (a link to a sector without magic, to an
// EBR seen before or outside the container, partitions that overlap) the reader
// stops with an error: a table that contradicts itself must not decide which bytes
// are copied. The same goes for an EBR that cannot be read: what follows it is not
// known. Partitions that leave the disk (an image file that was cut short, an adapter
// that hides sectors) are read as far as it reaches, as the kernel does, and noted.
//
// BSD, Minix and Solaris slices inside a primary partition are not listed; they
// are part of that partition's bytes.
package mbr

import (
	"errors"
	"fmt"
	"io"

	"clonecast/internal/partition"
	"clonecast/internal/quantity"
)

// Read reads the table of the disk r. It returns partition.ErrNotFound when LBA 0
// is no MBR (no magic, boot code in place of entries), announces a GPT, or lists
// nothing: boot sectors of FAT and NTFS, and GRUB's in front of any file system,
// look like an MBR without partitions, and then the disk's content must not be lost. The same
// goes for the one partition that begins with the sector it stands in: mkfs.fat writes that
// into the boot sector of a file system on a whole disk.
func Read(r io.ReaderAt, size quantity.Bytes, sector quantity.SectorSize) (partition.Table, error) {
	if !sector.Valid() || size < quantity.Bytes(sector) {
		return partition.Table{}, partition.ErrNotFound
	}
	b, err := partition.ReadFull(r, 0, int(sector))
	if err != nil {
		return partition.Table{}, &partition.UnreadableError{Structure: "MBR", Err: err}
	}
	record, ok := ParseRecord(b)
	if !ok || !record.plausible() || record.Protective() || record.empty() || record.ofItself() {
		return partition.Table{}, partition.ErrNotFound
	}
	s := scan{r: r, size: size, sector: sector}
	if err := s.primaries(record); err != nil {
		return partition.Table{}, err
	}
	if len(s.partitions) == 0 && len(s.notes) > 0 {
		return partition.Table{}, corrupt("MBR", 0, "none of its partitions lies inside the disk")
	}
	table := partition.Table{
		Kind:       partition.MBR,
		DiskID:     fmt.Sprintf("%08x", record.DiskSignature),
		Partitions: s.partitions,
		Areas:      s.areas(b),
		Notes:      s.notes,
	}
	if err := table.Check(size); err != nil {
		return partition.Table{}, err
	}
	return table, nil
}

// scan collects what the records say.
type scan struct {
	r      io.ReaderAt
	size   quantity.Bytes
	sector quantity.SectorSize

	partitions []partition.Partition
	logicals   int     // counted, also those behind the disk's end
	places     []place // of the partitions' entries
	containers []quantity.Extent
	slots      []int    // of the containers' entries in the MBR
	records    []record // every EBR, in chain order
	links      []link   // from EBR to EBR
	notes      []string
}

// place is where an entry stands.
type place struct {
	record quantity.Bytes
	slot   int
}

// link is an entry that leads to an EBR.
type link struct {
	place
	to quantity.Bytes
}

// record is the place of an EBR and of its first data entry (-1: it has none).
type record struct {
	at      quantity.Bytes
	logical quantity.Bytes
	raw     []byte // whole sector
}

func (s *scan) primaries(mbr Record) error {
	for i, e := range mbr.Entries {
		if e.Type == typeDynamic && e.Sectors != 0 {
			return fmt.Errorf("partition %d has type 0x42: %w: Windows dynamic disk", i+1, partition.ErrUnsupported)
		}
		if e.data() {
			s.add(i+1, e, e.extent(0, s.sector), place{0, i})
		}
	}
	for i, e := range mbr.Entries {
		if !e.extended() {
			continue
		}
		container := e.extent(0, s.sector)
		if err := s.checkContainer(i+1, container); err != nil {
			return err
		}
		if container.Start >= s.size {
			_, note := partition.Clip(i+1, container, s.size)
			s.notes = append(s.notes, note)
			continue
		}
		s.containers = append(s.containers, container)
		s.slots = append(s.slots, i)
		if err := s.chain(container); err != nil {
			return err
		}
	}
	return nil
}

// add adds a partition as far as it lies on the disk.
func (s *scan) add(number int, e Entry, where quantity.Extent, at place) {
	where, note := partition.Clip(number, where, s.size)
	if note != "" {
		s.notes = append(s.notes, note)
	}
	if where.Length == 0 {
		return
	}
	s.places = append(s.places, at)
	s.partitions = append(s.partitions, partition.Partition{
		Number: number,
		Start:  where.Start,
		Length: where.Length,
		Type:   fmt.Sprintf("0x%02x", e.Type),
		Active: e.Status == 0x80,
	})
}

// checkContainer keeps an extended partition behind the MBR and apart from the
// primaries and other containers.
func (s *scan) checkContainer(number int, c quantity.Extent) error {
	corrupt := func(problem string) error {
		return corrupt(fmt.Sprintf("extended partition %d", number), c.Start, problem)
	}
	if c.Start < quantity.Bytes(s.sector) {
		return corrupt("it begins with the MBR")
	}
	for _, p := range s.partitions {
		if p.Number <= 4 && overlap(c, quantity.Extent{Start: p.Start, Length: p.Length}) {
			return corrupt(fmt.Sprintf("it overlaps partition %d", p.Number))
		}
	}
	for _, other := range s.containers {
		if overlap(c, other) {
			return corrupt("it overlaps another extended partition")
		}
	}
	return nil
}

func overlap(a, b quantity.Extent) bool { return a.Start < b.End() && b.Start < a.End() }

func corrupt(structure string, at quantity.Bytes, problem string) error {
	return &partition.CorruptError{Format: partition.MBR, Structure: structure, Offset: at, Problem: problem}
}

// errNoMagic is the answer of readRecord for a sector that is no EBR.
var errNoMagic = errors.New("no 55 AA at its end")

func (s *scan) readRecord(at quantity.Bytes) (Record, []byte, error) {
	b, err := partition.ReadFull(s.r, at, int(s.sector))
	if err != nil {
		return Record{}, nil, &partition.UnreadableError{Structure: "EBR", Offset: at, Err: err}
	}
	rec, ok := ParseRecord(b)
	if !ok {
		return Record{}, b, errNoMagic
	}
	return rec, b, nil
}
