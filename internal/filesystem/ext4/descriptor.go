package ext4

import (
	"encoding/binary"
	"fmt"
)

// descriptor is the part of struct ext4_group_desc that all sizes have.
type descriptor struct {
	BlockBitmapLo     uint32 `offset:"0x0"`
	InodeBitmapLo     uint32 `offset:"0x4"`
	InodeTableLo      uint32 `offset:"0x8"`
	FreeBlocksLo      uint16 `offset:"0xc"`
	FreeInodesLo      uint16 `offset:"0xe"`
	_                 uint16 `offset:"0x10"`
	Flags             uint16 `offset:"0x12"`
	_                 uint32 `offset:"0x14"`
	BlockBitmapCsumLo uint16 `offset:"0x18"`
	_                 uint16 `offset:"0x1a"`
	UnusedInodesLo    uint16 `offset:"0x1c"` // at the end of the table: never written
	Checksum          uint16 `offset:"0x1e"`
}

// descriptorHi is what descriptors of 64 bytes and more have behind it.
type descriptorHi struct {
	BlockBitmapHi     uint32  `offset:"0x0"`
	InodeBitmapHi     uint32  `offset:"0x4"`
	InodeTableHi      uint32  `offset:"0x8"`
	FreeBlocksHi      uint16  `offset:"0xc"`
	FreeInodesHi      uint16  `offset:"0xe"`
	_                 uint16  `offset:"0x10"`
	UnusedInodesHi    uint16  `offset:"0x12"`
	_                 uint32  `offset:"0x14"`
	BlockBitmapCsumHi uint16  `offset:"0x18"`
	_                 [6]byte `offset:"0x1a"`
}

const (
	flagInodeUninit = 0x1
	flagBlockUninit = 0x2
)

// group is a decoded and verified descriptor.
type group struct {
	number      uint64
	blockBitmap uint64
	inodeBitmap uint64
	inodeTable  uint64
	uninit      bool // the block bitmap was never written
	bitmapCsum  uint32
	free        uint64 // clusters
	inodes      uint64 // of the table that may be in use
}

// parseGroup decodes the descriptor of group number; problem says what is wrong.
func (g *geometry) parseGroup(number uint64, raw []byte) (group, string, error) {
	var lo descriptor
	if _, err := binary.Decode(raw, binary.LittleEndian, &lo); err != nil {
		return group{}, "", err
	}
	out := group{
		number:      number,
		blockBitmap: uint64(lo.BlockBitmapLo),
		inodeBitmap: uint64(lo.InodeBitmapLo),
		inodeTable:  uint64(lo.InodeTableLo),
		uninit:      lo.Flags&flagBlockUninit != 0 && g.sb.ro(roGDTCsum|roMetadataCsum),
		bitmapCsum:  uint32(lo.BlockBitmapCsumLo),
		free:        uint64(lo.FreeBlocksLo),
	}
	freeInodes, unused := uint64(lo.FreeInodesLo), uint64(lo.UnusedInodesLo)
	if g.descSize >= 64 {
		var hi descriptorHi
		if _, err := binary.Decode(raw[32:], binary.LittleEndian, &hi); err != nil {
			return group{}, "", err
		}
		out.blockBitmap |= uint64(hi.BlockBitmapHi) << 32
		out.inodeBitmap |= uint64(hi.InodeBitmapHi) << 32
		out.inodeTable |= uint64(hi.InodeTableHi) << 32
		out.free |= uint64(hi.FreeBlocksHi) << 16
		freeInodes |= uint64(hi.FreeInodesHi) << 16
		unused |= uint64(hi.UnusedInodesHi) << 16
		out.bitmapCsum |= uint32(hi.BlockBitmapCsumHi) << 16
	}
	out.inodes = g.usedInodes(lo.Flags, freeInodes, unused)
	if want, used := g.descriptorChecksum(number, raw); used && want != lo.Checksum {
		return group{}, "checksum does not match", nil
	}
	for _, run := range []struct {
		name         string
		start, count uint64
	}{
		{"block bitmap", out.blockBitmap, 1},
		{"inode bitmap", out.inodeBitmap, 1},
		{"inode table", out.inodeTable, g.tableSize},
	} {
		if run.start < uint64(g.sb.FirstDataBlock) || run.start >= g.blocks || run.count > g.blocks-run.start {
			return group{}, fmt.Sprintf("%s at block %d of %d", run.name, run.start, g.blocks), nil
		}
	}
	return out, "", nil
}

// usedInodes is how many inodes at the start of a group's table may be in use.
func (g *geometry) usedInodes(flags uint16, free, unused uint64) uint64 {
	all := uint64(g.sb.InodesPerGroup)
	switch {
	case free >= all:
		return 0
	case !g.sb.ro(roGDTCsum | roMetadataCsum):
		return all
	case flags&flagInodeUninit != 0:
		return 0
	}
	return all - min(unused, all)
}

// descriptorChecksum computes what bg_checksum must be; used is false when the
// file system has no checksums.
func (g *geometry) descriptorChecksum(number uint64, raw []byte) (sum uint16, used bool) {
	n := binary.LittleEndian.AppendUint32(nil, uint32(number))
	switch {
	case g.sb.ro(roMetadataCsum):
		return uint16(crc32c(g.sb.seed(), n, raw[:0x1e], []byte{0, 0}, raw[0x20:])), true
	case g.sb.ro(roGDTCsum):
		sum := crc16(0xffff, g.sb.UUID[:], n, raw[:0x1e])
		if g.sb.incompat(incompat64Bit) {
			sum = crc16(sum, raw[0x20:])
		}
		return sum, true
	}
	return 0, false
}

// bitmapChecksumOK verifies the block bitmap of a group.
func (g *geometry) bitmapChecksumOK(of group, bitmap []byte) bool {
	if !g.sb.ro(roMetadataCsum) {
		return true
	}
	sum := crc32c(g.sb.seed(), bitmap[:g.perGroup/g.ratio/8])
	if g.descSize < 64 {
		sum &= 0xffff
	}
	return sum == of.bitmapCsum
}
