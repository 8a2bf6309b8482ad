package gpt

import (
	"encoding/binary"
	"fmt"
	"unicode/utf16"
)

const (
	signature  = 0x5452415020494645 // "EFI PART"
	headerSize = 92
	entrySize  = 128 // of all that anybody uses; the specification allows 128 times a power of two
	// maxEntrySize and maxArray bound the table; sgdisk makes 128 entries, nothing in the
	// field makes more than a few hundred.
	maxEntrySize = 4096
	maxArray     = 4096 * entrySize
)

// header is the GPT header (UEFI specification, table "GPT Header").
type header struct {
	Signature   uint64 `offset:"0"`
	Revision    uint32 `offset:"8"`
	HeaderSize  uint32 `offset:"12"`
	HeaderCRC   uint32 `offset:"16"`
	_           uint32 `offset:"20"`
	MyLBA       uint64 `offset:"24"`
	Alternate   uint64 `offset:"32"`
	FirstUsable uint64 `offset:"40"`
	LastUsable  uint64 `offset:"48"`
	DiskGUID    guid   `offset:"56"`
	EntriesLBA  uint64 `offset:"72"`
	Entries     uint32 `offset:"80"`
	EntrySize   uint32 `offset:"84"`
	EntriesCRC  uint32 `offset:"88"`
}

// entry is one partition (UEFI specification, table "GPT Partition Entry").
type entry struct {
	Type       guid       `offset:"0"`
	Unique     guid       `offset:"16"`
	First      uint64     `offset:"32"`
	Last       uint64     `offset:"40"` // inclusive
	Attributes uint64     `offset:"48"`
	Name       [36]uint16 `offset:"56"`
}

func (e entry) name() string {
	for i, c := range e.Name {
		if c == 0 {
			return string(utf16.Decode(e.Name[:i]))
		}
	}
	return string(utf16.Decode(e.Name[:]))
}

// guid has its first three fields little-endian.
type guid [16]byte

func (g guid) String() string {
	return fmt.Sprintf("%08x-%04x-%04x-%x-%x", binary.LittleEndian.Uint32(g[0:]),
		binary.LittleEndian.Uint16(g[4:]), binary.LittleEndian.Uint16(g[6:]), g[8:10], g[10:])
}

// Partition types of Windows dynamic disks.
const (
	typeLDMMetadata = "5808c8aa-7e8f-42e0-85d2-e1e90434cfb3"
	typeLDMData     = "af9b60a0-1431-4f62-bc68-3311714a69ad"
)
