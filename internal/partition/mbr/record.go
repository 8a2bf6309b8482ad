package mbr

import (
	"encoding/binary"

	"clonecast/internal/quantity"
)

// recordSize is the size of an MBR or EBR, whatever the sector size.
const recordSize = 512

// magic is 55 AA at the end of a record.
const magic = 0xaa55

// Partition types that mean something to the reader.
const (
	TypeProtective = 0xee // GPT protective entry
	typeDynamic    = 0x42 // Windows dynamic disk (LDM)
)

// Record is an MBR, or an EBR, which uses the entries and the magic only
// (struct msdos_partition in the kernel's include/linux/msdos_partition.h).
type Record struct {
	BootCode      [440]byte `offset:"0x0"`
	DiskSignature uint32    `offset:"0x1b8"`
	CopyProtected uint16    `offset:"0x1bc"`
	Entries       [4]Entry  `offset:"0x1be"`
	Magic         uint16    `offset:"0x1fe"`
}

// Entry is one of the four partition entries; Start and Sectors count logical sectors.
type Entry struct {
	Status   uint8   `offset:"0x0"`
	StartCHS [3]byte `offset:"0x1"`
	Type     uint8   `offset:"0x4"`
	EndCHS   [3]byte `offset:"0x5"`
	Start    uint32  `offset:"0x8"`
	Sectors  uint32  `offset:"0xc"`
}

// ParseRecord decodes the first 512 bytes of b; ok is false when they do not end
// in 55 AA.
func ParseRecord(b []byte) (r Record, ok bool) {
	if len(b) < recordSize {
		return Record{}, false
	}
	if _, err := binary.Decode(b[:recordSize], binary.LittleEndian, &r); err != nil || r.Magic != magic {
		return Record{}, false
	}
	return r, true
}

// Protective tells whether the record announces a GPT.
func (r Record) Protective() bool {
	for _, e := range r.Entries {
		if e.Type == TypeProtective {
			return true
		}
	}
	return false
}

// plausible is the kernel's test that the entries are entries and not boot code:
// every status byte is 0 or 0x80.
func (r Record) plausible() bool {
	for _, e := range r.Entries {
		if e.Status != 0 && e.Status != 0x80 {
			return false
		}
	}
	return true
}

// empty tells whether no entry takes any room.
func (r Record) empty() bool {
	for _, e := range r.Entries {
		if e.Sectors != 0 {
			return false
		}
	}
	return true
}

// ofItself tells whether the only entry is of a partition that begins with the record.
func (r Record) ofItself() bool {
	entries := 0
	for _, e := range r.Entries {
		switch {
		case e.Sectors == 0:
		case !e.data() || e.Start != 0:
			return false
		default:
			entries++
		}
	}
	return entries == 1
}

func (e Entry) extended() bool {
	return e.Sectors != 0 && (e.Type == 0x05 || e.Type == 0x0f || e.Type == 0x85)
}

// data tells whether Linux counts the entry as a partition: any size but zero,
// whatever its type.
func (e Entry) data() bool { return e.Sectors != 0 && !e.extended() }

// extent places e relative to base. 32-bit counts of sectors up to 4096 bytes on
// top of a base inside the disk cannot overflow.
func (e Entry) extent(base quantity.Bytes, sector quantity.SectorSize) quantity.Extent {
	return quantity.Extent{
		Start:  base + quantity.Bytes(e.Start)*quantity.Bytes(sector),
		Length: quantity.Bytes(e.Sectors) * quantity.Bytes(sector),
	}
}
