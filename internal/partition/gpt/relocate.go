package gpt

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"clonecast/internal/partition"
	"clonecast/internal/partition/mbr"
	"clonecast/internal/quantity"
)

// Disk is the geometry of a disk.
type Disk struct {
	Size   quantity.Bytes
	Sector quantity.SectorSize
}

// primaryEntries is where the entries of the primary usually stand.
const primaryEntries = 2

// Whole tells whether the saved table sectors can be written as they are: both copies are
// good, say the same and stand where they belong. Those of a larger disk are written as they
// are, too: no backup has room behind its partitions.
func Whole(saved []partition.Content, disk Disk) (bool, error) {
	d, err := open(partition.Contents(saved), disk.Size, disk.Sector)
	if err != nil {
		return false, fmt.Errorf("read saved GPT: %w", err)
	}
	return d.cut() || d.primary != nil && d.backup != nil && d.agree() && d.primary.header.Alternate == d.last, nil
}

// Relocate gives the table sectors for a disk of newSize bytes. saved are the
// table areas of the captured disk. The partitions, their GUIDs and the disk's
// stay; the backup moves to the new end, both headers and the protective MBR follow.
// A saved table with one bad copy comes out with two good ones.
//
// The result is in the order in which it must be written, with a flush after each:
// backup entries, backup header, primary entries, primary header, protective MBR. A
// cut between any two leaves one valid copy.
//
// The partitions must fit: newSize may be smaller than before only if they do. A table of a
// larger disk than the captured one becomes whole on a disk that is large enough; else it stays
// as it is.
func Relocate(saved []partition.Content, old Disk, newSize quantity.Bytes) ([]partition.Content, error) {
	d, err := open(partition.Contents(saved), old.Size, old.Sector)
	if err != nil {
		return nil, fmt.Errorf("read saved GPT: %w", err)
	}
	partitions, err := d.used()
	if err != nil {
		return nil, fmt.Errorf("read saved GPT: %w", err)
	}
	best := d.best()
	array := make([]byte, d.arraySectors(best.header)*uint64(d.sector))
	copy(array, best.entries)
	sectors := d.arraySectors(best.header)
	count := uint64(d.sector.Sectors(newSize))
	entriesLBA := uint64(primaryEntries)
	if d.primary != nil {
		entriesLBA = d.primary.header.EntriesLBA
	}
	if count < entriesLBA+2*sectors+2 || count < best.header.FirstUsable+sectors+2 {
		return nil, fmt.Errorf("move GPT: a disk of %s has no room for it", newSize)
	}
	last := count - 1
	primary := best.header
	primary.MyLBA, primary.Alternate = 1, last
	primary.EntriesLBA = entriesLBA
	primary.LastUsable = last - sectors - 1
	for _, p := range partitions {
		if p.First < entriesLBA+sectors && p.Last >= entriesLBA {
			return nil, fmt.Errorf("move GPT: %s lies where the entries belong, sectors %d to %d", p.name(),
				entriesLBA, entriesLBA+sectors-1)
		}
		if p.Last > primary.LastUsable && d.cut() {
			return d.asSaved(), nil
		}
		if p.Last > primary.LastUsable {
			return nil, fmt.Errorf("move GPT: %s ends at byte %d, the new disk's usable room at %d",
				p.name(), int64(d.offset(p.Last+1)), int64(d.offset(primary.LastUsable+1)))
		}
	}
	backup := primary
	backup.MyLBA, backup.Alternate = last, 1
	backup.EntriesLBA = last - sectors
	return []partition.Content{
		{Start: d.offset(backup.EntriesLBA), Data: array},
		{Start: d.offset(last), Data: best.encode(backup)},
		{Start: d.offset(primary.EntriesLBA), Data: bytes.Clone(array)},
		{Start: d.offset(1), Data: best.encode(primary)},
		{Start: 0, Data: d.protect(last)},
	}, nil
}

// asSaved gives the sectors of the only copy in the order of writing.
func (d *disk) asSaved() []partition.Content {
	return append(d.primary.contents(d), partition.Content{Start: 0, Data: d.protective})
}

// encode writes h over a copy of the header sector, so that bytes behind the known
// fields stay, and computes its checksums.
func (s *half) encode(h header) []byte {
	h.EntriesCRC = crc32.ChecksumIEEE(s.entries)
	raw := bytes.Clone(s.raw)
	if _, err := binary.Encode(raw, binary.LittleEndian, h); err != nil {
		return nil // header has a fixed size below the smallest sector
	}
	binary.LittleEndian.PutUint32(raw[16:], headerCRC(raw, h.HeaderSize))
	return raw
}

// protect gives LBA 0 for a disk that ends at last. Only the protective entry
// changes, and not in a hybrid MBR where it covers just the room in front of a real
// entry.
func (d *disk) protect(last uint64) []byte {
	const entries, whole = 0x1be, 0xffffffff
	out := bytes.Clone(d.protective)
	record, _ := mbr.ParseRecord(d.protective)
	hybrid := false
	for _, e := range record.Entries {
		hybrid = hybrid || e.Type != 0 && e.Type != mbr.TypeProtective
	}
	oldLast := d.last
	for i, e := range record.Entries {
		covers := e.Sectors == whole || uint64(e.Sectors) == oldLast
		size := uint32(min(last, whole))
		if e.Type != mbr.TypeProtective || e.Start != 1 || hybrid && !covers || e.Sectors == size {
			continue
		}
		at := entries + i*16
		copy(out[at+5:], []byte{0xff, 0xff, 0xff}) // CHS end: beyond what CHS can say
		binary.LittleEndian.PutUint32(out[at+12:], size)
	}
	return out
}
