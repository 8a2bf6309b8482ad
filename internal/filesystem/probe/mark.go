package probe

import (
	"encoding/binary"
	"hash/crc32"

	"clonecast/internal/quantity"
)

// mark is a magic that was found. Its methods read what stands around it: off counts from the
// magic's first byte and may be negative. What lies outside the partition is zero.
type mark struct {
	w  *window
	at quantity.Bytes
}

// move is the mark as if it stood off bytes further on.
func (m mark) move(off quantity.Bytes) mark { return mark{m.w, m.at + off} }

func (m mark) bytes(off, n quantity.Bytes) []byte { return m.w.bytes(m.at+off, n) }
func (m mark) byte(off quantity.Bytes) byte       { return m.bytes(off, 1)[0] }
func (m mark) has(off quantity.Bytes, s string) bool {
	return string(m.bytes(off, quantity.Bytes(len(s)))) == s
}

func (m mark) le16(off quantity.Bytes) uint16 { return binary.LittleEndian.Uint16(m.bytes(off, 2)) }
func (m mark) le32(off quantity.Bytes) uint32 { return binary.LittleEndian.Uint32(m.bytes(off, 4)) }
func (m mark) le64(off quantity.Bytes) uint64 { return binary.LittleEndian.Uint64(m.bytes(off, 8)) }
func (m mark) be16(off quantity.Bytes) uint16 { return binary.BigEndian.Uint16(m.bytes(off, 2)) }
func (m mark) be32(off quantity.Bytes) uint32 { return binary.BigEndian.Uint32(m.bytes(off, 4)) }
func (m mark) be64(off quantity.Bytes) uint64 { return binary.BigEndian.Uint64(m.bytes(off, 8)) }

// sum8 adds up n bytes at off, sum16 the n/2 little-endian words there.
func (m mark) sum8(off, n quantity.Bytes) (sum uint8) {
	for _, b := range m.bytes(off, n) {
		sum += b
	}
	return sum
}

func (m mark) sum16(off, n quantity.Bytes) (sum uint16) {
	for b := m.bytes(off, n); len(b) >= 2; b = b[2:] {
		sum += binary.LittleEndian.Uint16(b)
	}
	return sum
}

// rawCRC32 goes on from sum without the inversions of the usual CRC-32.
func rawCRC32(sum uint32, b []byte) uint32 { return ^crc32.Update(^sum, crc32.IEEETable, b) }
