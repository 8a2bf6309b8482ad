package xfs

import (
	"encoding/binary"
	"fmt"
	"io"
	"math/bits"
	"strings"

	"clonecast/internal/filesystem"
	"clonecast/internal/quantity"
)

const (
	superblockSize  = 0x108
	superblockCRC   = 0xe0
	superblockMagic = 0x58465342 // "XFSB"
)

// superblock is struct xfs_dsb (libxfs/xfs_format.h), big-endian.
type superblock struct {
	Magic            uint32   `offset:"0x0"`
	BlockSize        uint32   `offset:"0x4"`
	DataBlocks       uint64   `offset:"0x8"`
	RealtimeBlocks   uint64   `offset:"0x10"`
	RealtimeExtents  uint64   `offset:"0x18"`
	UUID             [16]byte `offset:"0x20"`
	LogStart         uint64   `offset:"0x30"` // file system block; 0: on another device
	_                [28]byte `offset:"0x38"` // inodes, length of a realtime extent
	AGBlocks         uint32   `offset:"0x54"`
	AGCount          uint32   `offset:"0x58"`
	_                uint32   `offset:"0x5c"`
	LogBlocks        uint32   `offset:"0x60"`
	VersionNum       uint16   `offset:"0x64"` // low four bits: version; others: features of version 4
	SectorSize       uint16   `offset:"0x66"`
	InodeSize        uint16   `offset:"0x68"`
	_                uint16   `offset:"0x6a"`
	Name             [12]byte `offset:"0x6c"`
	BlockLog         uint8    `offset:"0x78"`
	SectorLog        uint8    `offset:"0x79"`
	_                uint8    `offset:"0x7a"`
	InodesLog        uint8    `offset:"0x7b"` // per block
	AGBlockLog       uint8    `offset:"0x7c"`
	_                uint8    `offset:"0x7d"`
	InProgress       uint8    `offset:"0x7e"`
	_                [73]byte `offset:"0x7f"` // counters, quotas, stripes
	Features2        uint32   `offset:"0xc8"` // version 4
	_                uint32   `offset:"0xcc"`
	FeaturesCompat   uint32   `offset:"0xd0"` // version 5 from here
	FeaturesROCompat uint32   `offset:"0xd4"`
	FeaturesIncompat uint32   `offset:"0xd8"`
	_                uint32   `offset:"0xdc"` // features of the log, void when it is clean
	_                [24]byte `offset:"0xe0"` // checksum, inodes, log sequence number
	MetaUUID         [16]byte `offset:"0xf8"`
}

// Features of version 4: all but "shared", which nobody knows.
const (
	versionMask       = 0xf
	versionShared     = 0x200
	versionLogV2      = 0x400
	versionDirV2      = 0x2000
	versionMoreBits   = 0x8000
	knownFeatures2    = 0x2 | 0x8 | 0x80 | 0x200 // lazy counters, attr2, projid32, ftype
	incompatMetaUUID  = 0x4
	incompatNeedsWork = 0x10 // XFS_SB_FEAT_INCOMPAT_NEEDSREPAIR
)

// Features of version 5 that do not change where free space is told: finobt, rmapbt,
// reflink, inobtcount; ftype, sparse inodes, meta_uuid, bigtime, needsrepair, nrext64,
// exchange-range, parent pointers.
const (
	knownROCompat = 0x1 | 0x2 | 0x4 | 0x8
	knownIncompat = 0x1 | 0x2 | 0x4 | 0x8 | 0x10 | 0x20 | 0x40 | 0x80
)

const (
	remedyUnmount = "boot the system and shut it down cleanly, or mount the partition and unmount it"
	remedyRepair  = "run xfs_repair on the partition"
)

func (sb *superblock) version() int { return int(sb.VersionNum & versionMask) }

// v5 tells whether blocks describe and check themselves.
func (sb *superblock) v5() bool { return sb.version() == 5 }

// logV2 tells whether log records may have more than one header sector.
func (sb *superblock) logV2() bool { return sb.v5() || sb.VersionNum&versionLogV2 != 0 }

// metaUUID is the UUID that blocks carry.
func (sb *superblock) metaUUID() [16]byte {
	if sb.FeaturesIncompat&incompatMetaUUID != 0 {
		return sb.MetaUUID
	}
	return sb.UUID
}

func (sb *superblock) label() string {
	name, _, _ := strings.Cut(string(sb.Name[:]), "\x00")
	return strings.ToValidUTF8(strings.TrimRight(name, " \t\n"), "\ufffd")
}

func uuid(u [16]byte) string {
	if u == [16]byte{} {
		return ""
	}
	return fmt.Sprintf("%x-%x-%x-%x-%x", u[0:4], u[4:6], u[6:8], u[8:10], u[10:16])
}

// readSuperblock reads the superblock of group 0 and verifies its checksum.
func readSuperblock(r io.ReaderAt, size quantity.Bytes) (*superblock, error) {
	const least = 512
	if size < least {
		return nil, filesystem.ErrNotFound
	}
	b := make([]byte, least)
	if err := filesystem.ReadFull(r, b, 0); err != nil {
		return nil, fmt.Errorf("superblock of xfs: %w", err)
	}
	sb := new(superblock)
	if _, err := binary.Decode(b, binary.BigEndian, sb); err != nil {
		return nil, fmt.Errorf("decode superblock of xfs: %w", err)
	}
	if sb.Magic != superblockMagic {
		return nil, filesystem.ErrNotFound
	}
	switch {
	case !isPower(uint64(sb.SectorSize), sb.SectorLog, 512, 32768):
		return nil, corrupt("superblock", 0, "sectors of %d bytes", sb.SectorSize)
	case !isPower(uint64(sb.BlockSize), sb.BlockLog, uint64(sb.SectorSize), 65536):
		return nil, corrupt("superblock", 0, "blocks of %d bytes", sb.BlockSize)
	case quantity.Bytes(sb.SectorSize) > size:
		return nil, corrupt("superblock", 0, "sectors of %d bytes on a partition of %d", sb.SectorSize, int64(size))
	}
	if !sb.v5() {
		return sb, nil
	}
	b = make([]byte, sb.SectorSize)
	if err := filesystem.ReadFull(r, b, 0); err != nil {
		return nil, fmt.Errorf("superblock of xfs: %w", err)
	}
	if checksum(b, superblockCRC) != binary.LittleEndian.Uint32(b[superblockCRC:]) {
		return nil, corrupt("superblock", 0, "checksum does not match")
	}
	return sb, nil
}

// isPower tells whether n is 2^log and from least to most.
func isPower(n uint64, log uint8, least, most uint64) bool {
	return bits.OnesCount64(n) == 1 && bits.TrailingZeros64(n) == int(log) && n >= least && n <= most
}

// doubt is what the superblock alone says against using the trees; nil: nothing.
func (sb *superblock) doubt() *filesystem.Doubt {
	if doubt := sb.featureDoubt(); doubt != nil {
		return doubt
	}
	switch {
	case sb.InProgress != 0:
		return &filesystem.Doubt{Reason: "mkfs or a copy of the file system did not finish", Remedy: remedyRepair}
	case sb.RealtimeBlocks != 0 || sb.RealtimeExtents != 0:
		return &filesystem.Doubt{Reason: "part of the file system is on a realtime device"}
	case sb.LogStart == 0:
		return &filesystem.Doubt{Reason: "the log is on another device"}
	}
	return nil
}

func (sb *superblock) featureDoubt() *filesystem.Doubt {
	switch sb.version() {
	case 4:
		features2 := uint32(0)
		if sb.VersionNum&versionMoreBits != 0 {
			features2 = sb.Features2
		}
		if sb.VersionNum&versionShared != 0 || sb.VersionNum&versionDirV2 == 0 || features2&^knownFeatures2 != 0 {
			return &filesystem.Doubt{Reason: fmt.Sprintf("unknown features %#x %#x of version 4", sb.VersionNum, features2)}
		}
	case 5:
		incompat, ro := sb.FeaturesIncompat&^knownIncompat, sb.FeaturesROCompat&^knownROCompat
		switch {
		case incompat != 0:
			return &filesystem.Doubt{Reason: fmt.Sprintf("unknown incompatible features %#x", incompat)}
		case ro != 0:
			return &filesystem.Doubt{Reason: fmt.Sprintf("unknown read-only compatible features %#x", ro)}
		case sb.FeaturesIncompat&incompatNeedsWork != 0:
			return &filesystem.Doubt{Reason: "marked as in need of repair", Remedy: remedyRepair}
		}
	default:
		return &filesystem.Doubt{Reason: fmt.Sprintf("version %d of XFS is not known", sb.version())}
	}
	return nil
}
