package ext4

import (
	"encoding/binary"
	"errors"
	"fmt"

	"clonecast/internal/filesystem"
	"clonecast/internal/quantity"
)

// log is a journal that has nothing to replay.
type log struct {
	inode inode
	super journalSuperblock
}

const (
	// Features of journals that are understood: revoke, 64bit, async_commit, csum_v2,
	// csum_v3, fast_commit. None of them gives a clean journal a content.
	knownJournalIncompat = 0x3f

	// A journal of more blocks is copied: mke2fs makes none.
	maxJournalBlocks = 16 << 20
	maxJournalPieces = 1 << 16
	maxExtentNodes   = 4096
)

// errOddJournal reports a journal whose blocks are not known for certain.
var errOddJournal = errors.New("the journal's blocks cannot be told")

// discarded lists the blocks of a clean journal after its superblock. Nobody reads them:
// where s_start is zero the kernel and e2fsck look at the superblock alone
// (jbd2_journal_recover in fs/jbd2/recovery.c), and the next transaction overwrites them.
// A journal that is odd in any way has no such blocks.
func (rd *reader) discarded(allocated []quantity.Extent) ([]filesystem.Discard, error) {
	if rd.log == nil {
		return nil, nil
	}
	extents, err := rd.logExtents(rd.log)
	if err == nil {
		err = rd.checkLog(extents, allocated)
	}
	if errors.Is(err, errOddJournal) || len(extents) == 0 {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("map the journal: %w", err)
	}
	return []filesystem.Discard{{What: "journal", Extents: extents}}, nil
}

// logExtents gives the bytes of the journal from its first log block on, normalized.
func (rd *reader) logExtents(l *log) ([]quantity.Extent, error) {
	s := l.super
	blocks := uint64(s.MaxLen)
	switch {
	case quantity.Bytes(s.BlockSize) != rd.blockSize, s.First == 0, s.First >= s.MaxLen, s.MaxLen > maxJournalBlocks,
		s.BlockType == journalSuperblockV2 && s.Incompat&^knownJournalIncompat != 0,
		l.inode.Mode&modeType != modeRegular, l.inode.size() < blocks*uint64(rd.blockSize):
		return nil, errOddJournal
	}
	m := &logMap{rd: rd, first: uint64(s.First), blocks: blocks}
	var err error
	if l.inode.extents() {
		err = m.extentNode(l.inode.Block[:], extentMaxDepth+1)
	} else {
		err = m.blockMap(l.inode.Block[:])
	}
	if err != nil {
		return nil, err
	}
	if m.next != blocks {
		return nil, errOddJournal
	}
	out := quantity.Normalize(m.out)
	if quantity.Total(out) != rd.offset(blocks-m.first) {
		return nil, errOddJournal // a block is there twice
	}
	return out, nil
}

// checkLog refuses blocks that the bitmaps call free, and those of other metadata.
func (rd *reader) checkLog(extents, allocated []quantity.Extent) error {
	for _, e := range extents {
		if !quantity.Covers(allocated, e) {
			return errOddJournal
		}
	}
	shares := func(block, count uint64) bool {
		return quantity.Overlaps(extents, quantity.Extent{Start: rd.offset(block), Length: rd.offset(count)})
	}
	for number := range rd.groups {
		g, err := rd.group(number)
		if err != nil {
			return err
		}
		base := min(rd.baseMeta(number), rd.groupBlocks(number))
		if shares(rd.firstBlock(number), base) || shares(g.blockBitmap, 1) || shares(g.inodeBitmap, 1) ||
			shares(g.inodeTable, rd.tableSize) {
			return errOddJournal
		}
	}
	return nil
}

// logMap collects the journal's blocks in their logical order.
type logMap struct {
	rd            *reader
	first, blocks uint64 // log blocks are [first, blocks)
	next          uint64 // logical block that comes next
	nodes         int
	out           []quantity.Extent
}

// add appends count blocks at a place on the disk.
func (m *logMap) add(block, count uint64) error {
	count = min(count, m.blocks-m.next)
	if block <= uint64(m.rd.sb.FirstDataBlock) || block >= m.rd.blocks || count > m.rd.blocks-block {
		return errOddJournal
	}
	skip := uint64(0) // the journal's superblock
	if m.next < m.first {
		skip = min(m.first-m.next, count)
	}
	m.next += count
	e := quantity.Extent{Start: m.rd.offset(block + skip), Length: m.rd.offset(count - skip)}
	if n := len(m.out); n > 0 && m.out[n-1].End() == e.Start {
		m.out[n-1].Length += e.Length
		return nil
	}
	if len(m.out) == maxJournalPieces {
		return errOddJournal
	}
	m.out = append(m.out, e)
	return nil
}

// extentNode walks the extents of a node (Documentation/filesystems/ext4/ifork.rst), whose
// depth must be below the given one.
func (m *logMap) extentNode(node []byte, above uint16) error {
	const header, entry, maxInitialized = 12, 12, 1 << 15
	le := binary.LittleEndian
	entries, depth := le.Uint16(node[2:]), le.Uint16(node[6:])
	if m.nodes++; m.nodes > maxExtentNodes || le.Uint16(node) != extentMagic ||
		depth >= above || int(entries) > (len(node)-header)/entry {
		return errOddJournal
	}
	for i := range int(entries) {
		if m.next == m.blocks {
			return nil
		}
		e := node[header+i*entry:][:entry]
		if uint64(le.Uint32(e)) != m.next {
			return errOddJournal // a hole, or out of order
		}
		if depth > 0 {
			child, err := m.block(uint64(le.Uint16(e[8:]))<<32 | uint64(le.Uint32(e[4:])))
			if err != nil {
				return err
			}
			if err := m.extentNode(child, depth); err != nil {
				return err
			}
			continue
		}
		count := uint64(le.Uint16(e[4:]))
		if count == 0 || count > maxInitialized { // more: allocated, but never written
			return errOddJournal
		}
		if err := m.add(uint64(le.Uint16(e[6:]))<<32|uint64(le.Uint32(e[8:])), count); err != nil {
			return err
		}
	}
	return nil
}

// blockMap walks the block map of ext2 and ext3: 12 blocks, then blocks that list blocks,
// one to three levels deep.
func (m *logMap) blockMap(list []byte) error {
	const direct = 12
	if err := m.listed(list[:4*direct], 0); err != nil {
		return err
	}
	for level := 1; level <= 3; level++ {
		at := 4 * (direct + level - 1)
		if err := m.listed(list[at:at+4], level); err != nil {
			return err
		}
	}
	return nil
}

// listed walks a list of block numbers; level is how many lists lie between them and data.
func (m *logMap) listed(list []byte, level int) error {
	for ; len(list) > 0 && m.next < m.blocks; list = list[4:] {
		number := uint64(binary.LittleEndian.Uint32(list))
		if level == 0 {
			if err := m.add(number, 1); err != nil {
				return err
			}
			continue
		}
		below, err := m.block(number)
		if err != nil {
			return err
		}
		if err := m.listed(below, level-1); err != nil {
			return err
		}
	}
	return nil
}

// block reads a block of the journal's map.
func (m *logMap) block(number uint64) ([]byte, error) {
	if number <= uint64(m.rd.sb.FirstDataBlock) || number >= m.rd.blocks {
		return nil, errOddJournal
	}
	b := make([]byte, m.rd.blockSize)
	if err := filesystem.ReadFull(m.rd.r, b, m.rd.offset(number)); err != nil {
		return nil, fmt.Errorf("block %d: %w", number, err)
	}
	return b, nil
}
