package btrfs

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"strings"

	"clonecast/internal/filesystem"
	"clonecast/internal/quantity"
)

const (
	superblockOffset = 64 * quantity.KiB
	superblockSize   = 4096
	magic            = "_BHRfS_M"
)

// mirrors are the places of the superblock's copies, on devices that are so large.
var mirrors = [...]quantity.Bytes{64 * quantity.MiB, 256 * quantity.GiB}

// superblock is struct btrfs_super_block (btrfs-progs: On-disk-format.rst).
type superblock struct {
	Checksum            [checksumSize]byte `offset:"0x0"`
	FSID                [16]byte           `offset:"0x20"`
	Bytenr              uint64             `offset:"0x30"`
	Flags               uint64             `offset:"0x38"`
	Magic               [8]byte            `offset:"0x40"`
	Generation          uint64             `offset:"0x48"`
	Root                uint64             `offset:"0x50"`
	ChunkRoot           uint64             `offset:"0x58"`
	LogRoot             uint64             `offset:"0x60"`
	_                   uint64             `offset:"0x68"`
	TotalBytes          uint64             `offset:"0x70"`
	BytesUsed           uint64             `offset:"0x78"`
	_                   uint64             `offset:"0x80"`
	NumDevices          uint64             `offset:"0x88"`
	SectorSize          uint32             `offset:"0x90"`
	NodeSize            uint32             `offset:"0x94"`
	_                   [2]uint32          `offset:"0x98"`
	SysChunkArraySize   uint32             `offset:"0xa0"`
	ChunkRootGeneration uint64             `offset:"0xa4"`
	_                   uint64             `offset:"0xac"`
	CompatRO            uint64             `offset:"0xb4"`
	Incompat            uint64             `offset:"0xbc"`
	CsumType            uint16             `offset:"0xc4"`
	RootLevel           uint8              `offset:"0xc6"`
	ChunkRootLevel      uint8              `offset:"0xc7"`
	_                   uint8              `offset:"0xc8"`
	DevID               uint64             `offset:"0xc9"`
	DevTotalBytes       uint64             `offset:"0xd1"`
	_                   [50]byte           `offset:"0xd9"`
	DevUUID             [16]byte           `offset:"0x10b"`
	DevFSID             [16]byte           `offset:"0x11b"`
	Label               [256]byte          `offset:"0x12b"`
	_                   [16]byte           `offset:"0x22b"`
	MetadataUUID        [16]byte           `offset:"0x23b"`
	_                   [224]byte          `offset:"0x24b"`
	SysChunkArray       [2048]byte         `offset:"0x32b"`
	_                   [1237]byte         `offset:"0xb2b"`
}

// Bits of Flags.
const (
	flagError   = 1 << 2
	flagSeeding = 1 << 32

	// written, reloc: set on sound file systems.
	knownFlags = 1<<0 | 1<<1 | flagError | flagSeeding
)

// Bits of Incompat.
const (
	incompatMixedBackref = 1 << 0
	incompatMetadataUUID = 1 << 10
	incompatZoned        = 1 << 12

	// mixed_backref, default_subvol, mixed_groups, compress_lzo, compress_zstd,
	// big_metadata, extended_iref, raid56, skinny_metadata, no_holes, metadata_uuid,
	// raid1c34; simple_quota.
	knownIncompat = 1<<12 - 1 | 1<<16
)

// knownCompatRO: free_space_tree, free_space_tree_valid, verity, block_group_tree.
const knownCompatRO = 1<<4 - 1

const (
	remedyMount = "boot the system and shut it down cleanly, or mount the file system once and unmount it"
	remedyCheck = "run btrfs check --readonly on the partition to see what is wrong"
)

// parseSuperblock decodes b; the magic stands, all else is still to be checked.
func parseSuperblock(b []byte) (superblock, error) {
	var sb superblock
	if _, err := binary.Decode(b, binary.LittleEndian, &sb); err != nil {
		return sb, fmt.Errorf("decode btrfs superblock: %w", err)
	}
	if string(sb.Magic[:]) != magic {
		return sb, filesystem.ErrNotFound
	}
	return sb, nil
}

// formatDoubt is set when the superblock is of a kind that cannot be checked.
func (sb *superblock) formatDoubt() *filesystem.Doubt {
	if sb.CsumType >= csumTypes {
		return &filesystem.Doubt{Reason: fmt.Sprintf("unknown checksum type %d", sb.CsumType)}
	}
	return nil
}

// problem says what is wrong with the superblock, whose bytes are b; "": nothing.
func (sb *superblock) problem(b []byte, size quantity.Bytes) string {
	sector, node := uint64(sb.SectorSize), uint64(sb.NodeSize)
	switch {
	case !checksumOK(sb.CsumType, b):
		return "checksum does not match"
	case sb.Bytenr != uint64(superblockOffset):
		return fmt.Sprintf("says that it stands at byte %d", sb.Bytenr)
	case !blockSize(sector):
		return fmt.Sprintf("sector size %d", sector)
	case !blockSize(node) || node < sector:
		return fmt.Sprintf("node size %d", node)
	case sb.DevTotalBytes > uint64(size):
		return fmt.Sprintf("%d bytes do not fit on a partition of %d", sb.DevTotalBytes, int64(size))
	case sb.DevFSID != sb.nodeFSID():
		return "its device belongs to another file system"
	case sb.RootLevel >= maxLevel || sb.ChunkRootLevel >= maxLevel:
		return fmt.Sprintf("tree levels %d and %d", sb.RootLevel, sb.ChunkRootLevel)
	case int(sb.SysChunkArraySize) > len(sb.SysChunkArray):
		return fmt.Sprintf("%d bytes of system chunks", sb.SysChunkArraySize)
	}
	return ""
}

// blockSize tells whether n is a size that sectors and nodes can have.
func blockSize(n uint64) bool { return n >= 4096 && n <= 65536 && bits.OnesCount64(n) == 1 }

// stateDoubt is what a sound superblock says against using the map; nil: nothing.
func (sb *superblock) stateDoubt() *filesystem.Doubt {
	unknownIncompat, unknownRO := sb.Incompat&^knownIncompat, sb.CompatRO&^knownCompatRO
	switch {
	case sb.NumDevices != 1:
		return &filesystem.Doubt{Reason: fmt.Sprintf("one of %d devices of a file system", sb.NumDevices)}
	case sb.Flags&flagSeeding != 0:
		return &filesystem.Doubt{Reason: "seed of other file systems"}
	case sb.Flags&flagError != 0:
		return &filesystem.Doubt{Reason: "file system has errors", Remedy: remedyCheck}
	case sb.Flags&^knownFlags != 0:
		return &filesystem.Doubt{
			Reason: fmt.Sprintf("being converted, or unknown flags %#x", sb.Flags&^knownFlags),
			Remedy: remedyCheck,
		}
	case unknownIncompat&incompatZoned != 0:
		return &filesystem.Doubt{Reason: "on a zoned device"}
	case unknownIncompat != 0:
		return &filesystem.Doubt{Reason: fmt.Sprintf("unknown incompatible features %#x", unknownIncompat)}
	case unknownRO != 0:
		return &filesystem.Doubt{Reason: fmt.Sprintf("unknown read-only compatible features %#x", unknownRO)}
	case sb.Incompat&incompatMixedBackref == 0:
		return &filesystem.Doubt{Reason: "extent tree of the oldest format"}
	case sb.LogRoot != 0:
		return &filesystem.Doubt{Reason: "log tree needs replay", Remedy: remedyMount, Replay: true}
	}
	return nil
}

// nodeFSID is what nodes have as their file system's UUID: the UUID that it was
// made with, where it has got another since.
func (sb *superblock) nodeFSID() [16]byte {
	if sb.Incompat&incompatMetadataUUID != 0 {
		return sb.MetadataUUID
	}
	return sb.FSID
}

func (sb *superblock) uuid() string {
	u := sb.FSID
	return fmt.Sprintf("%x-%x-%x-%x-%x", u[0:4], u[4:6], u[6:8], u[8:10], u[10:16])
}

func (sb *superblock) label() string {
	name, _, _ := strings.Cut(string(sb.Label[:]), "\x00")
	return strings.ToValidUTF8(strings.TrimRight(name, " \t\n"), "\ufffd")
}
