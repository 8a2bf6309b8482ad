package f2fs

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math"
	"strings"
	"unicode/utf16"

	"clonecast/internal/filesystem"
	"clonecast/internal/quantity"
)

const (
	superblockOffset = 1024
	superblockSize   = 3072
	magic            = 0xf2f52010
)

// superblock is struct f2fs_super_block (kernel: include/linux/f2fs_fs.h).
type superblock struct {
	Magic              uint32      `offset:"0x0"`
	_                  [2]uint16   `offset:"0x4"`
	LogSectorSize      uint32      `offset:"0x8"`
	LogSectorsPerBlock uint32      `offset:"0xc"`
	LogBlockSize       uint32      `offset:"0x10"`
	LogBlocksPerSeg    uint32      `offset:"0x14"`
	SegsPerSec         uint32      `offset:"0x18"`
	SecsPerZone        uint32      `offset:"0x1c"`
	ChecksumOffset     uint32      `offset:"0x20"`
	BlockCount         uint64      `offset:"0x24"`
	SectionCount       uint32      `offset:"0x2c"`
	SegmentCount       uint32      `offset:"0x30"`
	SegmentCountCkpt   uint32      `offset:"0x34"`
	SegmentCountSIT    uint32      `offset:"0x38"`
	SegmentCountNAT    uint32      `offset:"0x3c"`
	SegmentCountSSA    uint32      `offset:"0x40"`
	SegmentCountMain   uint32      `offset:"0x44"`
	Segment0Blkaddr    uint32      `offset:"0x48"`
	CpBlkaddr          uint32      `offset:"0x4c"`
	SITBlkaddr         uint32      `offset:"0x50"`
	NATBlkaddr         uint32      `offset:"0x54"`
	SSABlkaddr         uint32      `offset:"0x58"`
	MainBlkaddr        uint32      `offset:"0x5c"`
	_                  [3]uint32   `offset:"0x60"`
	UUID               [16]byte    `offset:"0x6c"`
	VolumeName         [512]uint16 `offset:"0x7c"`
	_                  [516]byte   `offset:"0x47c"`
	CpPayload          uint32      `offset:"0x680"`
	_                  [512]byte   `offset:"0x684"`
	Feature            uint32      `offset:"0x884"`
	_                  [17]byte    `offset:"0x888"`
	FirstDevice        [64]byte    `offset:"0x899"` // its path; empty where there is only one
	_                  [803]byte   `offset:"0x8d9"`
	Checksum           uint32      `offset:"0xbfc"`
}

// Bits of Feature.
const (
	featureZoned    = 0x2
	featureChecksum = 0x800
	featureReadOnly = 0x4000

	// encrypt, atomic_write, extra_attr, prjquota, inode_chksum, flexible_inline_xattr,
	// quota_ino, inode_crtime, lost_found, verity, sb_chksum, casefold, compression,
	// device_alias. Read-only file systems have no SSA and fewer logs.
	knownFeatures = 0x1 | 0x4 | 0x8 | 0x10 | 0x20 | 0x40 | 0x80 | 0x100 | 0x200 | 0x400 | 0x800 | 0x1000 | 0x2000 | 0x8000
)

// parseSuperblock decodes b; the magic stands, all else is still to be checked.
func parseSuperblock(b []byte) (superblock, error) {
	var sb superblock
	if _, err := binary.Decode(b, binary.LittleEndian, &sb); err != nil {
		return sb, fmt.Errorf("decode f2fs superblock: %w", err)
	}
	if sb.Magic != magic {
		return sb, filesystem.ErrNotFound
	}
	return sb, nil
}

// doubt is what the superblock says against using the map; nil: nothing.
func (sb *superblock) doubt() *filesystem.Doubt {
	switch unknown := sb.Feature &^ knownFeatures; {
	case sb.FirstDevice[0] != 0:
		return &filesystem.Doubt{Reason: "one of several devices of a file system"}
	case unknown&featureZoned != 0:
		return &filesystem.Doubt{Reason: "on a zoned device"}
	case unknown&featureReadOnly != 0:
		return &filesystem.Doubt{Reason: "made for reading only"}
	case unknown != 0:
		return &filesystem.Doubt{Reason: fmt.Sprintf("unknown features %#x", unknown)}
	case sb.LogBlockSize != 12 || sb.LogBlocksPerSeg != 9:
		return &filesystem.Doubt{
			Reason: fmt.Sprintf("blocks of 2^%d bytes, segments of 2^%d blocks", sb.LogBlockSize, sb.LogBlocksPerSeg),
		}
	}
	return nil
}

// problem says what is wrong with the superblock, whose bytes are b; "": nothing.
func (sb *superblock) problem(b []byte, size quantity.Bytes) string {
	if sb.Feature&featureChecksum != 0 &&
		(sb.ChecksumOffset != superblockSize-4 || checksum(b[:superblockSize-4]) != sb.Checksum) {
		return "checksum does not match"
	}
	if sb.BlockCount > uint64(size/blockSize) {
		return fmt.Sprintf("%d blocks do not fit on a partition of %d bytes", sb.BlockCount, int64(size))
	}
	at := uint64(sb.Segment0Blkaddr)
	for _, area := range []struct {
		name     string
		start    uint32
		segments uint32
	}{
		{"checkpoints", sb.CpBlkaddr, sb.SegmentCountCkpt},
		{"SIT", sb.SITBlkaddr, sb.SegmentCountSIT},
		{"NAT", sb.NATBlkaddr, sb.SegmentCountNAT},
		{"SSA", sb.SSABlkaddr, sb.SegmentCountSSA},
		{"main area", sb.MainBlkaddr, sb.SegmentCountMain},
	} {
		if uint64(area.start) != at || area.segments == 0 {
			return fmt.Sprintf("%s of %d segments at block %d, want it at %d", area.name, area.segments, area.start, at)
		}
		at += uint64(area.segments) * blocksPerSegment
	}
	switch {
	case at > min(sb.BlockCount, math.MaxUint32):
		return fmt.Sprintf("main area ends at block %d of %d", at, sb.BlockCount)
	case sb.Segment0Blkaddr == 0:
		return "checkpoints at block 0"
	case sb.SegmentCountCkpt != 2:
		return fmt.Sprintf("%d segments of checkpoints", sb.SegmentCountCkpt)
	case sb.sitBlocks() > sb.sitCopy():
		return fmt.Sprintf("SIT of %d segments for %d segments", sb.SegmentCountSIT, sb.SegmentCountMain)
	case sb.CpPayload >= blocksPerSegment:
		return fmt.Sprintf("checkpoints of %d blocks", sb.CpPayload)
	}
	return ""
}

// sitBlocks is the number of SIT blocks that the main area needs.
func (sb *superblock) sitBlocks() uint32 { return (sb.SegmentCountMain-1)/entriesPerBlock + 1 }

// sitCopy is the number of blocks in one copy of the SIT.
func (sb *superblock) sitCopy() uint32 { return sb.SegmentCountSIT / 2 * blocksPerSegment }

// inMain tells whether the block lies in the main area.
func (sb *superblock) inMain(block uint64) bool {
	return block >= uint64(sb.MainBlkaddr) && block < uint64(sb.MainBlkaddr)+uint64(sb.SegmentCountMain)*blocksPerSegment
}

func (sb *superblock) uuid() string {
	u := sb.UUID
	return fmt.Sprintf("%x-%x-%x-%x-%x", u[0:4], u[4:6], u[6:8], u[8:10], u[10:16])
}

func (sb *superblock) label() string {
	name, _, _ := strings.Cut(string(utf16.Decode(sb.VolumeName[:])), "\x00")
	return name
}

// checksum is the kernel's f2fs_crc32: the magic as its start, no inversion.
func checksum(parts ...[]byte) uint32 {
	sum := ^uint32(magic)
	for _, b := range parts {
		sum = crc32.Update(sum, crc32.IEEETable, b)
	}
	return ^sum
}
