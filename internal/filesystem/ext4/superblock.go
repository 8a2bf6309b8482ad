package ext4

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"strings"
)

const (
	superblockOffset = 1024
	superblockSize   = 1024
	magic            = 0xef53
)

// superblock is struct ext4_super_block (Documentation/filesystems/ext4/super.rst).
type superblock struct {
	InodesCount       uint32       `offset:"0x0"`
	BlocksCountLo     uint32       `offset:"0x4"`
	_                 [12]byte     `offset:"0x8"`
	FirstDataBlock    uint32       `offset:"0x14"`
	LogBlockSize      uint32       `offset:"0x18"`
	LogClusterSize    uint32       `offset:"0x1c"`
	BlocksPerGroup    uint32       `offset:"0x20"`
	ClustersPerGroup  uint32       `offset:"0x24"`
	InodesPerGroup    uint32       `offset:"0x28"`
	_                 [12]byte     `offset:"0x2c"`
	Magic             uint16       `offset:"0x38"`
	State             uint16       `offset:"0x3a"`
	_                 [16]byte     `offset:"0x3c"`
	RevLevel          uint32       `offset:"0x4c"`
	_                 [8]byte      `offset:"0x50"`
	InodeSize         uint16       `offset:"0x58"`
	_                 uint16       `offset:"0x5a"`
	FeatureCompat     uint32       `offset:"0x5c"`
	FeatureIncompat   uint32       `offset:"0x60"`
	FeatureROCompat   uint32       `offset:"0x64"`
	UUID              [16]byte     `offset:"0x68"`
	VolumeName        [16]byte     `offset:"0x78"`
	_                 [70]byte     `offset:"0x88"`
	ReservedGDTBlocks uint16       `offset:"0xce"`
	JournalUUID       [16]byte     `offset:"0xd0"`
	JournalInum       uint32       `offset:"0xe0"`
	JournalDev        uint32       `offset:"0xe4"`
	LastOrphan        uint32       `offset:"0xe8"`
	_                 [17]byte     `offset:"0xec"`
	JournalBackupType uint8        `offset:"0xfd"`
	DescSize          uint16       `offset:"0xfe"`
	_                 uint32       `offset:"0x100"`
	FirstMetaBG       uint32       `offset:"0x104"`
	_                 uint32       `offset:"0x108"`
	JournalBlocks     [17 * 4]byte `offset:"0x10c"`
	BlocksCountHi     uint32       `offset:"0x150"`
	_                 [20]byte     `offset:"0x154"`
	MMPBlock          uint64       `offset:"0x168"`
	_                 [4]byte      `offset:"0x170"`
	LogGroupsPerFlex  uint8        `offset:"0x174"`
	_                 [215]byte    `offset:"0x175"`
	BackupBGs         [2]uint32    `offset:"0x24c"`
	_                 [28]byte     `offset:"0x254"`
	ChecksumSeed      uint32       `offset:"0x270"`
	_                 [392]byte    `offset:"0x274"`
	Checksum          uint32       `offset:"0x3fc"`
}

// Feature bits the reader acts on.
const (
	compatHasJournal   = 0x4
	compatSparseSuper2 = 0x200

	incompatRecover    = 0x4
	incompatJournalDev = 0x8
	incompatMetaBG     = 0x10
	incompat64Bit      = 0x80
	incompatMMP        = 0x100
	incompatCsumSeed   = 0x2000

	roSparseSuper   = 0x1
	roGDTCsum       = 0x10
	roBigalloc      = 0x200
	roMetadataCsum  = 0x400
	roOrphanPresent = 0x10000
)

// Features that are understood: filetype, recover, journal_dev, meta_bg, extents,
// 64bit, mmp, flex_bg, ea_inode, csum_seed, largedir, inline_data, encrypt, casefold;
// sparse_super, large_file, btree_dir, huge_file, gdt_csum, dir_nlink, extra_isize,
// quota, bigalloc, metadata_csum, readonly, project, verity, orphan_present.
const (
	knownIncompat = 0x2 | 0x4 | 0x8 | 0x10 | 0x40 | 0x80 | 0x100 | 0x200 | 0x400 |
		0x2000 | 0x4000 | 0x8000 | 0x10000 | 0x20000
	knownROCompat = 0x1 | 0x2 | 0x4 | 0x8 | 0x10 | 0x20 | 0x40 | 0x100 | 0x200 | 0x400 |
		0x1000 | 0x2000 | 0x8000 | 0x10000
)

// What ext3 understands, as libblkid tells the three apart.
const (
	ext3Incompat = 0x2 | 0x4 | 0x10
	ext3ROCompat = 0x1 | 0x2 | 0x4
)

func (sb *superblock) compat(bits uint32) bool   { return sb.FeatureCompat&bits != 0 }
func (sb *superblock) incompat(bits uint32) bool { return sb.FeatureIncompat&bits != 0 }
func (sb *superblock) ro(bits uint32) bool       { return sb.FeatureROCompat&bits != 0 }

// fsType is blkid's name for the file system.
func (sb *superblock) fsType() string {
	switch {
	case sb.incompat(incompatJournalDev):
		return "jbd"
	case sb.incompat(^uint32(ext3Incompat)) || sb.ro(^uint32(ext3ROCompat)):
		return "ext4"
	case sb.compat(compatHasJournal):
		return "ext3"
	}
	return "ext2"
}

func (sb *superblock) uuid() string {
	u := sb.UUID
	if u == [16]byte{} {
		return ""
	}
	return fmt.Sprintf("%x-%x-%x-%x-%x", u[0:4], u[4:6], u[6:8], u[8:10], u[10:16])
}

func (sb *superblock) label() string {
	name, _, _ := strings.Cut(string(sb.VolumeName[:]), "\x00")
	return strings.ToValidUTF8(strings.TrimRight(name, " \t\n"), "\ufffd")
}

// seed starts the checksums of descriptors and bitmaps.
func (sb *superblock) seed() uint32 {
	if sb.incompat(incompatCsumSeed) {
		return sb.ChecksumSeed
	}
	return crc32c(^uint32(0), sb.UUID[:])
}

// parseSuperblock decodes b; problem says what is wrong with it.
func parseSuperblock(b []byte) (sb superblock, problem string, err error) {
	if _, err := binary.Decode(b, binary.LittleEndian, &sb); err != nil {
		return sb, "", err
	}
	if sb.Magic == magic && sb.ro(roMetadataCsum) && crc32c(^uint32(0), b[:0x3fc]) != sb.Checksum {
		return sb, "checksum does not match", nil
	}
	return sb, "", nil
}

// crc32c is the kernel's: no inversion at either end.
func crc32c(seed uint32, p ...[]byte) uint32 {
	crc := ^seed
	for _, b := range p {
		crc = crc32.Update(crc, castagnoli(), b)
	}
	return ^crc
}

func castagnoli() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) }

// crc16 is the CRC-16 with polynomial 0xA001 of descriptors before metadata_csum.
func crc16(crc uint16, p ...[]byte) uint16 {
	for _, b := range p {
		for _, c := range b {
			crc ^= uint16(c)
			for range 8 {
				if crc&1 != 0 {
					crc = crc>>1 ^ 0xa001
				} else {
					crc >>= 1
				}
			}
		}
	}
	return crc
}
