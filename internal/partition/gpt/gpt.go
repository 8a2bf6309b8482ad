// Package gpt reads GUID partition tables and moves them to disks of another size.
//
// LBA 0 holds a protective MBR, LBA 1 the primary header, which leads to the
// array of entries; a backup of both stands at the end of the disk. Header and
// array carry CRCs. The reader accepts what the kernel accepts
// (block/partitions/efi.c) and one thing more:
//
//	primary good                  it is the table; a bad or different backup is noted
//	primary bad, backup good      the backup at the last LBA is the table, and noted
//	both bad                      error
//
// A copy that cannot be read is a bad one; what belongs in its place is made of the good one.
// A primary that is of a larger disk (an image file that was cut short, an adapter that hides
// sectors) is read as far as the disk reaches, and noted; the kernel reads no such table.
//
// Entries may be larger than 128 bytes, as the specification allows; the kernel reads no
// such table.
//
// A hybrid MBR (protective and real entries) is kept as it is; the GPT decides.
//
// The gap between the entries and the first partition is a boot area; free space
// elsewhere is not part of the table.
package gpt

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"math/bits"
	"slices"

	"clonecast/internal/partition"
	"clonecast/internal/partition/mbr"
	"clonecast/internal/quantity"
)

// Read reads the table of the disk r. It returns partition.ErrNotFound when LBA 0
// announces no GPT.
func Read(r io.ReaderAt, size quantity.Bytes, sector quantity.SectorSize) (partition.Table, error) {
	d, err := open(r, size, sector)
	if err != nil {
		return partition.Table{}, err
	}
	table := partition.Table{
		Kind:   partition.GPT,
		DiskID: d.best().header.DiskGUID.String(),
	}
	if table.Partitions, err = d.partitions(); err != nil {
		return partition.Table{}, err
	}
	table.Notes = d.notes
	table.Areas = d.areas(table.Partitions)
	if err := table.Check(size); err != nil {
		return partition.Table{}, err
	}
	return table, nil
}

// maxDisk is more than any disk has; it keeps the arithmetic from overflowing.
const maxDisk = 1 << 56

// disk is what open found: two copies of which at least one is good.
type disk struct {
	r               io.ReaderAt
	size            quantity.Bytes
	sector          quantity.SectorSize
	last            uint64 // last LBA
	protective      []byte // LBA 0
	primary, backup *half  // nil: bad
	notes           []string
}

// half is one verified copy of the table.
type half struct {
	header  header
	raw     []byte // header sector
	array   []byte // whole sectors
	entries []byte // of array, without padding
}

func (d *disk) best() *half {
	if d.primary != nil {
		return d.primary
	}
	return d.backup
}

func open(r io.ReaderAt, size quantity.Bytes, sector quantity.SectorSize) (*disk, error) {
	if !sector.Valid() || sector.Sectors(size) < 3 {
		return nil, partition.ErrNotFound
	}
	d := &disk{r: r, size: size, sector: sector, last: uint64(sector.Sectors(size)) - 1}
	var err error
	if d.protective, err = partition.ReadFull(r, 0, int(sector)); err != nil {
		return nil, &partition.UnreadableError{Structure: "protective MBR", Err: err}
	}
	record, ok := mbr.ParseRecord(d.protective)
	if !ok || !record.Protective() {
		return nil, partition.ErrNotFound
	}
	if !protectsFromOne(record) {
		return nil, corrupt("protective MBR", 0, "its protective entry does not start at sector 1")
	}
	var badPrimary, badBackup error
	d.primary, badPrimary = d.readHalf("primary", 1)
	where := d.last
	if d.primary != nil && !d.cut() {
		where = d.primary.header.Alternate
	}
	d.backup, badBackup = d.readHalf("backup", where)
	if d.primary != nil && d.cut() && d.backup != nil {
		badPrimary = corrupt("primary header", d.offset(1), "it is of a larger disk")
		d.primary = nil
	}
	if d.primary == nil && d.backup == nil {
		return nil, fmt.Errorf("both copies are bad: %w; %w", badPrimary, badBackup)
	}
	d.note(badPrimary, badBackup)
	return d, nil
}

// protectsFromOne is the kernel's condition for looking for a GPT at all.
func protectsFromOne(r mbr.Record) bool {
	return slices.ContainsFunc(r.Entries[:], func(e mbr.Entry) bool {
		return e.Type == mbr.TypeProtective && e.Start == 1
	})
}

// cut tells whether the table is of a larger disk.
func (d *disk) cut() bool { return d.best().header.LastUsable > d.last }

func (d *disk) note(badPrimary, badBackup error) {
	switch {
	case badPrimary != nil:
		d.notes = append(d.notes, fmt.Sprintf("the backup table is used: %v", badPrimary))
	case d.cut():
		d.notes = append(d.notes, fmt.Sprintf(
			"the table is of a disk of at least %d sectors, this one has %d: its end is missing",
			d.best().header.LastUsable+1, d.last+1))
		return
	case badBackup != nil:
		d.notes = append(d.notes, fmt.Sprintf("the backup table is bad: %v", badBackup))
	case !d.agree():
		d.notes = append(d.notes, "primary and backup table differ, the primary is used")
	}
	if size := d.best().header.EntrySize; size != entrySize {
		d.notes = append(d.notes, fmt.Sprintf("its entries have %d bytes: Linux does not read this table", size))
	}
	if at := d.best().header.Alternate; d.primary != nil && at != d.last {
		d.notes = append(d.notes, fmt.Sprintf("the backup table is at sector %d, not at the end of the disk (%d)",
			at, d.last))
	}
}

// agree tells whether two good copies are of the same table.
func (d *disk) agree() bool {
	a, b := d.primary.header, d.backup.header
	return a.EntriesCRC == b.EntriesCRC && a.DiskGUID == b.DiskGUID && a.Entries == b.Entries &&
		a.EntrySize == b.EntrySize
}

func corrupt(structure string, at quantity.Bytes, format string, args ...any) error {
	return &partition.CorruptError{Format: partition.GPT, Structure: structure, Offset: at,
		Problem: fmt.Sprintf(format, args...)}
}

// readHalf reads and verifies the copy whose header is at lba.
func (d *disk) readHalf(name string, lba uint64) (*half, error) {
	if lba < 1 || lba > d.last {
		return nil, corrupt(name+" header", 0, "its place, sector %d, is outside the disk", lba)
	}
	raw, err := d.read(lba, 1)
	if err != nil {
		return nil, &partition.UnreadableError{Structure: name + " GPT header", Offset: d.offset(lba), Err: err}
	}
	h := half{raw: raw}
	if _, err := binary.Decode(raw[:headerSize], binary.LittleEndian, &h.header); err != nil {
		return nil, fmt.Errorf("decode %s GPT header: %w", name, err)
	}
	if problem := d.headerProblem(h.header, raw, lba); problem != "" {
		return nil, corrupt(name+" header", d.offset(lba), "%s", problem)
	}
	array, err := d.read(h.header.EntriesLBA, d.arraySectors(h.header))
	if err != nil {
		return nil, &partition.UnreadableError{Structure: name + " GPT entries",
			Offset: d.offset(h.header.EntriesLBA), Err: err}
	}
	h.array = array
	h.entries = array[:h.header.Entries*h.header.EntrySize]
	if crc32.ChecksumIEEE(h.entries) != h.header.EntriesCRC {
		return nil, corrupt(name+" entries", d.offset(h.header.EntriesLBA), "checksum does not match")
	}
	return &h, nil
}

// headerProblem checks h, which stands at lba, and says what is wrong with it.
func (d *disk) headerProblem(h header, raw []byte, lba uint64) string {
	switch {
	case h.Signature != signature:
		return "it does not begin with EFI PART"
	case h.HeaderSize < headerSize || h.HeaderSize > uint32(d.sector):
		return fmt.Sprintf("its size is %d", h.HeaderSize)
	case headerCRC(raw, h.HeaderSize) != h.HeaderCRC:
		return "checksum does not match"
	case h.MyLBA != lba:
		return fmt.Sprintf("it says it stands at sector %d", h.MyLBA)
	case h.EntrySize < entrySize || h.EntrySize > maxEntrySize || bits.OnesCount32(h.EntrySize) != 1:
		return fmt.Sprintf("entries have %d bytes, want 128 times a power of two", h.EntrySize)
	case h.Entries == 0 || h.Entries > maxArray/h.EntrySize:
		return fmt.Sprintf("it counts %d entries of %d bytes", h.Entries, h.EntrySize)
	case h.FirstUsable > d.last || h.FirstUsable > h.LastUsable,
		h.LastUsable > d.last && (lba != 1 || h.LastUsable > maxDisk/uint64(d.sector)):
		return fmt.Sprintf("its usable range is %d to %d on a disk of %d sectors", h.FirstUsable, h.LastUsable,
			d.last+1)
	case h.EntriesLBA < 2 || h.EntriesLBA > d.last || d.arraySectors(h) > d.last-h.EntriesLBA+1:
		return fmt.Sprintf("its entries at sector %d are outside the disk", h.EntriesLBA)
	}
	return ""
}

// headerCRC is the checksum of the header with its checksum field zero.
func headerCRC(raw []byte, size uint32) uint32 {
	crc := crc32.ChecksumIEEE(raw[:16])
	crc = crc32.Update(crc, crc32.IEEETable, make([]byte, 4))
	return crc32.Update(crc, crc32.IEEETable, raw[20:size])
}

// arraySectors is the room the entries of h take, at most maxArray bytes where it matters.
func (d *disk) arraySectors(h header) uint64 {
	return (uint64(h.Entries)*uint64(h.EntrySize) + uint64(d.sector) - 1) / uint64(d.sector)
}

// count is the number of entries, used or not.
func (s *half) count() int { return int(s.header.Entries) }

// entry gives the bytes of entry i, counted from 0, which count says there is.
func (s *half) entry(i int) []byte {
	size := int(s.header.EntrySize)
	return s.entries[i*size:][:size]
}

// offset is for sectors inside the disk.
func (d *disk) offset(lba uint64) quantity.Bytes {
	return quantity.Bytes(lba) * quantity.Bytes(d.sector)
}

func (d *disk) read(lba, sectors uint64) ([]byte, error) {
	return partition.ReadFull(d.r, d.offset(lba), int(sectors)*int(d.sector))
}
