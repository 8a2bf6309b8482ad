package ext4

import (
	"encoding/binary"
	"fmt"

	"clonecast/internal/filesystem"
	"clonecast/internal/quantity"
)

// inode is the beginning of struct ext4_inode.
type inode struct {
	Mode   uint16   `offset:"0x0"`
	_      uint16   `offset:"0x2"`
	SizeLo uint32   `offset:"0x4"`
	_      [18]byte `offset:"0x8"`
	Links  uint16   `offset:"0x1a"`
	_      uint32   `offset:"0x1c"`
	Flags  uint32   `offset:"0x20"`
	_      uint32   `offset:"0x24"`
	Block  [60]byte `offset:"0x28"`
	_      uint64   `offset:"0x64"`
	SizeHi uint32   `offset:"0x6c"`
}

const (
	flagExtents = 0x80000

	modeType    = 0xf000
	modeRegular = 0x8000
)

func (i inode) extents() bool { return i.Flags&flagExtents != 0 }

func (i inode) size() uint64 { return uint64(i.SizeHi)<<32 | uint64(i.SizeLo) }

func (rd *reader) journalInode() (inode, error) {
	var out inode
	index := uint64(rd.sb.JournalInum) - 1
	number := index / uint64(rd.sb.InodesPerGroup)
	if number >= rd.groups {
		return out, corrupt(rd.fsType, "superblock", superblockOffset, fmt.Sprintf("journal inode %d", rd.sb.JournalInum))
	}
	g, err := rd.group(number)
	if err != nil {
		return out, err
	}
	at := rd.offset(g.inodeTable) + quantity.Bytes(index%uint64(rd.sb.InodesPerGroup)*rd.inodeSize)
	b := make([]byte, binary.Size(out))
	if err := filesystem.ReadFull(rd.r, b, at); err != nil {
		return out, fmt.Errorf("read journal inode: %w", err)
	}
	if _, err := binary.Decode(b, binary.LittleEndian, &out); err != nil {
		return out, fmt.Errorf("decode journal inode: %w", err)
	}
	return out, nil
}

const (
	extentMagic    = 0xf30a
	extentMaxDepth = 5
	extentNodeSize = 24 // header and first entry
)

// firstExtent walks down the extent tree in list to the first block of a file.
func (rd *reader) firstExtent(list []byte) (uint64, error) {
	node := list[:extentNodeSize]
	for depth := uint16(extentMaxDepth + 1); ; {
		entries, below := binary.LittleEndian.Uint16(node[2:]), binary.LittleEndian.Uint16(node[6:])
		if binary.LittleEndian.Uint16(node) != extentMagic || entries == 0 || below >= depth ||
			binary.LittleEndian.Uint32(node[12:]) != 0 {
			return 0, errNoJournal
		}
		depth = below
		if depth == 0 {
			return uint64(binary.LittleEndian.Uint16(node[18:]))<<32 | uint64(binary.LittleEndian.Uint32(node[20:])), nil
		}
		child := uint64(binary.LittleEndian.Uint16(node[20:]))<<32 | uint64(binary.LittleEndian.Uint32(node[16:]))
		if child <= uint64(rd.sb.FirstDataBlock) || child >= rd.blocks {
			return 0, errNoJournal
		}
		node = make([]byte, extentNodeSize)
		if err := filesystem.ReadFull(rd.r, node, rd.offset(child)); err != nil {
			return 0, fmt.Errorf("read extent block of the journal: %w", err)
		}
	}
}
