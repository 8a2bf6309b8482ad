package xfs

import (
	"encoding/binary"
	"fmt"

	"clonecast/internal/filesystem"
	"clonecast/internal/filesystem/swap"
	"clonecast/internal/quantity"
)

// A hibernated system leaves its file systems mounted, so that the log is not clean, and may lie in
// a swap file. All inodes are looked at, because that may have any name:
//
//	for each group: AGI -> tree of inodes -> chunks of 64 inodes
//	regular file of a size that mkswap takes -> where its first extent is -> the header page
//
// As the log is not replayed, blocks may be older than what points to them: what does not look as
// it should is passed over, and what is in the log only is not seen. Nobody hibernates into a file
// made a moment ago.

// hibernation gives the doubt about a file system whose log is not clean: the one there is, or that
// it holds a hibernated system. Where that cannot be found out the log must not be replayed.
func (rd *reader) hibernation(doubt *filesystem.Doubt) *filesystem.Doubt {
	found, err := rd.suspendedFile()
	switch {
	case err != nil:
		return swap.Unsure(doubt, err)
	case found != 0:
		return swap.Hibernated(fmt.Sprintf("a swap file (inode %d)", found))
	}
	return doubt
}

// suspendedFile gives the inode of a swap file that holds a hibernated system; 0: there is none.
func (rd *reader) suspendedFile() (uint64, error) {
	if !isPower(uint64(rd.sb.InodeSize), rd.sb.BlockLog-rd.sb.InodesLog, minInode, uint64(rd.blockSize)) {
		return 0, corrupt("superblock", 0, "inodes of %d bytes", rd.sb.InodeSize)
	}
	inodes := rd.sb.DataBlocks << rd.sb.InodesLog
	s := swapSearch{rd: rd, blocks: rd.sb.DataBlocks, chunks: inodes/inodesOfChunk + 1}
	for group := range uint64(rd.sb.AGCount) {
		if err := s.group(group); err != nil || s.found != 0 {
			return s.found, err
		}
	}
	return 0, nil
}

const (
	agiMagic  = 0x58414749 // "XAGI"
	agiSector = 2          // of the group
	agiRoot   = 0x14
	agiLevels = 0x18

	inodeTreeMagicV4 = 0x49414254 // "IABT"
	inodeTreeMagicV5 = 0x49414233 // "IAB3"
	inodeRecord      = 16         // struct xfs_inobt_rec: first inode, counts, bits of what is free
	inodesOfChunk    = 64
	minInode         = 256

	mapTreeMagicV4 = 0x424d4150 // "BMAP"
	mapTreeMagicV5 = 0x424d4133 // "BMA3"
	mapHeaderV4    = 0x18       // struct xfs_btree_block with long pointers
	mapHeaderV5    = 0x48
	mapRecord      = 16 // struct xfs_bmbt_rec; key and pointer of inner blocks take as much
)

// dinode is the start of struct xfs_dinode (libxfs/xfs_format.h), big-endian.
type dinode struct {
	Magic   uint16   `offset:"0x0"`
	Mode    uint16   `offset:"0x2"`
	Version uint8    `offset:"0x4"`
	Format  uint8    `offset:"0x5"`
	_       [50]byte `offset:"0x6"`
	Size    uint64   `offset:"0x38"`
	_       [18]byte `offset:"0x40"`
	ForkOff uint8    `offset:"0x52"` // end of the data fork, in units of 8 bytes; 0: that of the inode
}

const (
	dinodeMagic   = 0x494e // "IN"
	dinodeCoreV2  = 0x64
	dinodeCoreV3  = 0xb0
	modeType      = 0xf000
	modeRegular   = 0x8000
	formatExtents = 2
	formatTree    = 3
)

// swapSearch looks for a swap file that holds a hibernated system.
type swapSearch struct {
	rd     *reader
	blocks uint64 // of inode trees that may still be read: no file system has more ...
	chunks uint64 // ... and of their records
	found  uint64 // inode
}

func (s *swapSearch) group(number uint64) error {
	b := make([]byte, s.rd.sectorSize)
	if err := filesystem.ReadFull(s.rd.r, b, s.rd.offset(number, 0)+agiSector*s.rd.sectorSize); err != nil {
		return err
	}
	levels := binary.BigEndian.Uint32(b[agiLevels:])
	if binary.BigEndian.Uint32(b) != agiMagic || levels == 0 || levels > maxLevels {
		return corrupt(fmt.Sprintf("inode header of group %d", number), s.rd.offset(number, 0),
			"wrong magic, or %d levels", levels)
	}
	return s.tree(number, uint64(binary.BigEndian.Uint32(b[agiRoot:])), levels-1)
}

// tree walks the tree of a group's inodes from a block of the given level downwards.
func (s *swapSearch) tree(group, block uint64, level uint32) error {
	if block >= s.rd.groupBlocks(group) || s.blocks == 0 || s.found != 0 {
		return nil
	}
	s.blocks--
	b := make([]byte, s.rd.blockSize)
	if err := filesystem.ReadFull(s.rd.r, b, s.rd.offset(group, block)); err != nil {
		return err
	}
	magic, header := uint32(inodeTreeMagicV4), treeHeaderV4
	if s.rd.sb.v5() {
		magic, header = inodeTreeMagicV5, treeHeaderV5
	}
	records, body := int(binary.BigEndian.Uint16(b[6:])), b[header:]
	if binary.BigEndian.Uint32(b) != magic || uint32(binary.BigEndian.Uint16(b[4:])) != level {
		return nil
	}
	if level == 0 {
		for i := range min(records, len(body)/inodeRecord) {
			if s.chunks == 0 || s.found != 0 {
				return nil
			}
			s.chunks--
			if err := s.chunk(group, body[i*inodeRecord:][:inodeRecord]); err != nil {
				return err
			}
		}
		return nil
	}
	most := len(body) / (2 * pointerSize) // a key is as long
	for i := range min(records, most) {
		if err := s.tree(group, uint64(binary.BigEndian.Uint32(body[(most+i)*pointerSize:])), level-1); err != nil {
			return err
		}
	}
	return nil
}

// chunk looks at the inodes of a record.
func (s *swapSearch) chunk(group uint64, record []byte) error {
	first, free := uint64(binary.BigEndian.Uint32(record)), binary.BigEndian.Uint64(record[8:])
	size := quantity.Bytes(s.rd.sb.InodeSize)
	perBlock := uint64(s.rd.blockSize / size)
	var b []byte // of the block that an inode is in
	loaded := uint64(0)
	for i := range uint64(inodesOfChunk) {
		block := (first + i) / perBlock
		if free>>i&1 != 0 || block == 0 || block >= s.rd.groupBlocks(group) {
			continue
		}
		if loaded != block {
			b, loaded = make([]byte, s.rd.blockSize), block
			if err := filesystem.ReadFull(s.rd.r, b, s.rd.offset(group, block)); err != nil {
				return err
			}
		}
		at := quantity.Bytes((first+i)%perBlock) * size
		suspended, err := s.suspended(b[at : at+size])
		if err != nil {
			return err
		}
		if suspended {
			s.found = group<<(s.rd.sb.AGBlockLog+s.rd.sb.InodesLog) | (first + i)
			return nil
		}
	}
	return nil
}

// suspended tells whether an inode is of a swap file that holds a hibernated system.
func (s *swapSearch) suspended(raw []byte) (bool, error) {
	var in dinode
	if _, err := binary.Decode(raw, binary.BigEndian, &in); err != nil {
		return false, err
	}
	if in.Magic != dinodeMagic || in.Mode&modeType != modeRegular || !swap.IsFileSize(in.Size) {
		return false, nil
	}
	core, end := dinodeCoreV2, len(raw)
	if in.Version >= 3 {
		core = dinodeCoreV3
	}
	if in.ForkOff != 0 {
		end = min(end, core+8*int(in.ForkOff))
	}
	if end < core+mapRecord {
		return false, nil
	}
	record, err := s.firstRecord(in.Format, raw[core:end])
	if record == nil || err != nil {
		return false, err
	}
	place, length, ok := s.extent(record)
	if !ok {
		return false, nil
	}
	head := make([]byte, min(length, swap.MaxHeader))
	if err := filesystem.ReadFull(s.rd.r, head, place); err != nil {
		return false, err
	}
	return swap.HoldsSystem(head), nil
}

// firstRecord gives the first extent of a file, from its data fork or from the tree that this is
// the root of; nil: there is none.
func (s *swapSearch) firstRecord(format uint8, fork []byte) ([]byte, error) {
	if format == formatExtents {
		return fork[:mapRecord], nil
	}
	if format != formatTree {
		return nil, nil
	}
	level := binary.BigEndian.Uint16(fork)
	most := (len(fork) - 4) / mapRecord
	if level == 0 || level > maxLevels || most == 0 {
		return nil, nil
	}
	pointer := binary.BigEndian.Uint64(fork[4+most*8:])
	magic, header := uint32(mapTreeMagicV4), mapHeaderV4
	if s.rd.sb.v5() {
		magic, header = mapTreeMagicV5, mapHeaderV5
	}
	b := make([]byte, s.rd.blockSize)
	for level > 0 {
		level--
		at, _, ok := s.place(pointer, 1)
		if !ok {
			return nil, nil
		}
		if err := filesystem.ReadFull(s.rd.r, b, at); err != nil {
			return nil, err
		}
		if binary.BigEndian.Uint32(b) != magic || binary.BigEndian.Uint16(b[4:]) != level ||
			binary.BigEndian.Uint16(b[6:]) == 0 {
			return nil, nil
		}
		most = (len(b) - header) / mapRecord
		pointer = binary.BigEndian.Uint64(b[header+most*8:])
	}
	return b[header:][:mapRecord], nil
}

// extent decodes struct xfs_bmbt_rec: a flag, 54 bits of offset in the file, 52 of the first
// block, 21 of the number of blocks. It must be of the file's start.
func (s *swapSearch) extent(record []byte) (place, length quantity.Bytes, ok bool) {
	hi, lo := binary.BigEndian.Uint64(record), binary.BigEndian.Uint64(record[8:])
	if hi>>9&(1<<54-1) != 0 {
		return 0, 0, false
	}
	return s.place(hi&(1<<9-1)<<43|lo>>21, lo&(1<<21-1))
}

// place gives where blocks of the file system are that are in one group.
func (s *swapSearch) place(block, count uint64) (at, length quantity.Bytes, ok bool) {
	group, inGroup := block>>s.rd.sb.AGBlockLog, block&(1<<s.rd.sb.AGBlockLog-1)
	if group >= uint64(s.rd.sb.AGCount) || inGroup >= s.rd.groupBlocks(group) || count == 0 ||
		count > s.rd.groupBlocks(group)-inGroup {
		return 0, 0, false
	}
	return s.rd.offset(group, inGroup), s.rd.bytes(count), true
}
