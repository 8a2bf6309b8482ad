package ntfs

import (
	"encoding/binary"
	"fmt"
	"unicode/utf16"

	"clonecast/internal/quantity"
)

// recordHeader is ntfs-3g's MFT_RECORD (NTFS 3.0 part).
type recordHeader struct {
	Magic          [4]byte   `offset:"0x00"` // "FILE"
	FixupOffset    uint16    `offset:"0x04"`
	FixupCount     uint16    `offset:"0x06"`
	_              uint64    `offset:"0x08"`
	SequenceNumber uint16    `offset:"0x10"`
	_              uint16    `offset:"0x12"`
	FirstAttribute uint16    `offset:"0x14"`
	Flags          uint16    `offset:"0x16"`
	Used           uint32    `offset:"0x18"`
	_              uint32    `offset:"0x1c"` // bytes allocated
	Base           reference `offset:"0x20"` // of an extension record; else 0
}

const recordInUse = 0x0001 // recordHeader.Flags

// reference is a MFT_REF: record number in the low 48 bits, sequence number above.
type reference uint64

func (r reference) number() uint64   { return uint64(r) & (1<<48 - 1) }
func (r reference) sequence() uint16 { return uint16(r >> 48) }

// record is one MFT record with its fixups undone.
type record struct {
	recordHeader
	number uint64
	data   []byte // the first Used bytes
	whole  []byte // data and the unused rest
}

func (r record) name() string { return fmt.Sprintf("MFT record %d", r.number) }

// readRecord reads record number from the part of $MFT that is mapped by now.
func (v *volume) readRecord(number uint64) (record, error) {
	name := fmt.Sprintf("MFT record %d", number)
	if number >= uint64(v.mft.size/v.recordSize) {
		return record{}, corrupt(name, 0, "$MFT has only %d records", int64(v.mft.size/v.recordSize))
	}
	b := make([]byte, v.recordSize)
	off := quantity.Bytes(number) * v.recordSize
	if err := v.readStream(&v.mft, b, off); err != nil {
		return record{}, fmt.Errorf("%s: %w", name, err)
	}
	return parseRecord(b, number)
}

func parseRecord(b []byte, number uint64) (record, error) {
	r := record{number: number}
	off := quantity.Bytes(number) * quantity.Bytes(len(b))
	if _, err := binary.Decode(b, binary.LittleEndian, &r.recordHeader); err != nil || string(r.Magic[:]) != "FILE" {
		return record{}, corrupt(r.name(), off, "no FILE signature")
	}
	if problem := undoFixups(b, int(r.FixupOffset), int(r.FixupCount)); problem != "" {
		return record{}, corrupt(r.name(), off, "%s", problem)
	}
	if r.Flags&recordInUse == 0 {
		return record{}, corrupt(r.name(), off, "not in use")
	}
	if uint64(r.Used) > uint64(len(b)) || uint32(r.FirstAttribute) > r.Used {
		return record{}, corrupt(r.name(), off, "%d bytes used, attributes at %d", r.Used, r.FirstAttribute)
	}
	r.data, r.whole = b[:r.Used], b
	return r, nil
}

// undoFixups puts back the last two bytes of each stride of b, which the writer
// replaced by a number that changes with every write. A stride with another
// number was not written together with the rest. It returns the problem, if any.
func undoFixups(b []byte, offset, count int) string {
	if count != len(b)/stride+1 || offset%2 != 0 || offset < 0x18 || offset+2*count > stride {
		return fmt.Sprintf("%d fixups at byte %d do not fit %d bytes", count, offset, len(b))
	}
	number := binary.LittleEndian.Uint16(b[offset:])
	for i := 1; i < count; i++ {
		last := b[i*stride-2 : i*stride]
		if binary.LittleEndian.Uint16(last) != number {
			return fmt.Sprintf("torn write: sector %d is of another generation", i-1)
		}
		copy(last, b[offset+2*i:offset+2*i+2])
	}
	return ""
}

// redoFixups is the reverse of undoFixups: b, whose fixups were undone, gets a new
// number, as before every write of a record.
func redoFixups(b []byte, offset, count int) {
	number := binary.LittleEndian.Uint16(b[offset:]) + 1
	if number == 0 || number == 0xFFFF {
		number = 1
	}
	binary.LittleEndian.PutUint16(b[offset:], number)
	for i := 1; i < count; i++ {
		last := b[i*stride-2 : i*stride]
		copy(b[offset+2*i:], last)
		binary.LittleEndian.PutUint16(last, number)
	}
}

// decodeName decodes UTF-16LE.
func decodeName(b []byte) string {
	units := make([]uint16, len(b)/2)
	for i := range units {
		units[i] = binary.LittleEndian.Uint16(b[2*i:])
	}
	return string(utf16.Decode(units))
}
