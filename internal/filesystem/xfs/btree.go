package xfs

import (
	"encoding/binary"
	"fmt"

	"clonecast/internal/filesystem"
)

const (
	maxLevels = 9 // XFS_BTREE_MAXLEVELS

	treeMagicV4 = 0x41425442 // "ABTB"
	treeMagicV5 = 0x41423342 // "AB3B"

	treeHeaderV4 = 0x10
	treeHeaderV5 = 0x38
	treeCRC      = 0x34

	recordSize  = 8 // start and count; of a key as well
	pointerSize = 4
)

// treeHeader is struct xfs_btree_block with short pointers (libxfs/xfs_format.h),
// big-endian. Version 4 has the first 16 bytes.
type treeHeader struct {
	Magic   uint32   `offset:"0x0"`
	Level   uint16   `offset:"0x4"` // 0: a leaf
	Records uint16   `offset:"0x6"`
	_       uint64   `offset:"0x8"`  // siblings
	Sector  uint64   `offset:"0x10"` // where the block is, in units of 512 bytes
	_       uint64   `offset:"0x18"`
	UUID    [16]byte `offset:"0x20"`
	Owner   uint32   `offset:"0x30"` // group
	_       uint32   `offset:"0x34"` // checksum
}

// eachFree calls f for the free extents of a group in the order of the tree. What f
// says against one ends the walk; f must accept rising extents only, which bounds the
// walk by the number of blocks, however the blocks point to one another.
func (rd *reader) eachFree(group uint64, head *agf, f func(run) string) error {
	w := treeWalk{rd: rd, group: group, f: f}
	w.levels = make([][]byte, head.Levels)
	return w.block(uint64(head.ByBlock), int(head.Levels)-1)
}

type treeWalk struct {
	rd     *reader
	group  uint64
	f      func(run) string
	levels [][]byte // one block of each level, reused
}

func (w *treeWalk) corrupt(block uint64, problem string, args ...any) error {
	name := fmt.Sprintf("free space tree of group %d, block %d", w.group, block)
	return corrupt(name, w.rd.offset(w.group, block), problem, args...)
}

// block walks over the tree under a block of the given level.
func (w *treeWalk) block(number uint64, level int) error {
	records, b, err := w.read(number, level)
	if err != nil {
		return err
	}
	if level == 0 {
		for i := range records {
			e := b[i*recordSize:]
			if problem := w.f(run{uint64(binary.BigEndian.Uint32(e)), uint64(binary.BigEndian.Uint32(e[4:]))}); problem != "" {
				return w.corrupt(number, "%s", problem)
			}
		}
		return nil
	}
	pointers := b[len(b)/(recordSize+pointerSize)*recordSize:]
	for i := range records {
		if err := w.block(uint64(binary.BigEndian.Uint32(pointers[i*pointerSize:])), level-1); err != nil {
			return err
		}
	}
	return nil
}

// read reads and verifies a block of the tree; it returns the number of records and
// what follows the header.
func (w *treeWalk) read(number uint64, level int) (records int, body []byte, err error) {
	rd := w.rd
	if number < rd.headerBlocks() || number >= rd.groupBlocks(w.group) {
		return 0, nil, w.corrupt(0, "leads to block %d of %d", number, rd.groupBlocks(w.group))
	}
	if w.levels[level] == nil {
		w.levels[level] = make([]byte, rd.blockSize)
	}
	b := w.levels[level]
	if err := filesystem.ReadFull(rd.r, b, rd.offset(w.group, number)); err != nil {
		return 0, nil, fmt.Errorf("free space tree of group %d: %w", w.group, err)
	}
	var h treeHeader
	if _, err := binary.Decode(b, binary.BigEndian, &h); err != nil {
		return 0, nil, err
	}
	magic, header := uint32(treeMagicV4), treeHeaderV4
	if rd.sb.v5() {
		magic, header = treeMagicV5, treeHeaderV5
	}
	body = b[header:]
	most := len(body) / recordSize
	if level > 0 {
		most = len(body) / (recordSize + pointerSize)
	}
	switch {
	case h.Magic != magic:
		return 0, nil, w.corrupt(number, "wrong magic")
	case rd.sb.v5() && checksum(b, treeCRC) != binary.LittleEndian.Uint32(b[treeCRC:]):
		return 0, nil, w.corrupt(number, "checksum does not match")
	case rd.sb.v5() && (h.UUID != rd.sb.metaUUID() || uint64(h.Owner) != w.group ||
		h.Sector != uint64(rd.offset(w.group, number)/512)):
		return 0, nil, w.corrupt(number, "is sector %d of group %d of the file system %s", h.Sector, h.Owner, uuid(h.UUID))
	case int(h.Level) != level:
		return 0, nil, w.corrupt(number, "level %d, want %d", h.Level, level)
	case int(h.Records) > most || h.Records == 0 && len(w.levels) > 1:
		return 0, nil, w.corrupt(number, "%d records, room for %d", h.Records, most)
	}
	return int(h.Records), body, nil
}
