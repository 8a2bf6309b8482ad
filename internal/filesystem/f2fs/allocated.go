package f2fs

import (
	"encoding/binary"
	"fmt"
	"math/bits"

	"clonecast/internal/filesystem"
	"clonecast/internal/quantity"
)

// Places in struct f2fs_sit_entry, which tells of one segment: the number of its blocks in
// use, with its type above, a bit for each block, highest first, and a time; and in struct
// sit_journal_entry: a segment's number and its entry.
const (
	sitEntrySize     = 74
	validMapAt       = 2
	validMapSize     = blocksPerSegment / 8
	journalEntrySize = 4 + sitEntrySize
	entriesPerBlock  = blockSize / sitEntrySize

	// A summary block has 512 entries of 7 bytes, the journal, and a footer of 5 bytes.
	// With compact summaries the journals of NAT and SIT come first.
	journalSize    = blockSize - 512*7 - 5
	journalEntries = (journalSize - 2) / journalEntrySize

	vblocksMask = 1<<10 - 1
	typeShift   = 10
)

// allocated lists the bytes in use.
func (rd *reader) allocated() ([]quantity.Extent, error) {
	journal, err := rd.journal()
	if err != nil {
		return nil, err
	}
	sum := segmentSum{rd: rd}
	sum.used.Add(0, offset(rd.sb.MainBlkaddr))
	for i := range rd.sb.sitBlocks() {
		at := rd.sitBlock(i)
		b, err := rd.block("SIT", at, 1)
		if err != nil {
			return nil, err
		}
		first := i * entriesPerBlock
		for segment := first; segment < min(first+entriesPerBlock, rd.sb.SegmentCountMain); segment++ {
			in := b[(segment-first)*sitEntrySize:][:sitEntrySize]
			if newer, ok := journal[segment]; ok {
				in = newer
			}
			if err := sum.add(segment, in, at); err != nil {
				return nil, err
			}
		}
	}
	if err := sum.check(); err != nil {
		return nil, err
	}
	for _, next := range rd.cp.nextFree() {
		sum.used.Add(offset(rd.mainBlock(next)), blockSize)
	}
	return sum.used.Extents(), nil
}

// sitBlock is the block that holds the copy of SIT block i that counts.
func (rd *reader) sitBlock(i uint32) uint32 {
	if rd.cp.sitBitmap[i/8]&(0x80>>(i%8)) != 0 {
		i += rd.sb.sitCopy()
	}
	return rd.sb.SITBlkaddr + i
}

// journal gives the entries that the checkpoint has instead of the SIT, by segment.
// They stand in the summary block of the log of cold data.
func (rd *reader) journal() (map[uint32][]byte, error) {
	at, skip := rd.cp.CpPackTotalBlockCount-(logs+1)+logColdData, quantity.Bytes(512*7)
	if rd.cp.CkptFlags&flagCompactSum != 0 {
		at, skip = rd.cp.CpPackStartSum, journalSize
	}
	if at >= rd.cp.CpPackTotalBlockCount {
		return nil, corrupt("checkpoint", offset(rd.cp.start),
			fmt.Sprintf("summaries at block %d of %d", at, rd.cp.CpPackTotalBlockCount))
	}
	at += rd.cp.start
	b, err := rd.block("summaries", at, 1)
	if err != nil {
		return nil, err
	}
	b = b[skip:]
	count := int(binary.LittleEndian.Uint16(b))
	if count > journalEntries {
		return nil, corrupt("SIT journal", offset(at), fmt.Sprintf("%d entries", count))
	}
	out := map[uint32][]byte{}
	for i := range count {
		entry := b[2+i*journalEntrySize:][:journalEntrySize]
		segment := binary.LittleEndian.Uint32(entry)
		if segment >= rd.sb.SegmentCountMain {
			return nil, corrupt("SIT journal", offset(at), fmt.Sprintf("segment %d of %d", segment, rd.sb.SegmentCountMain))
		}
		out[segment] = entry[4:]
	}
	return out, nil
}

// segmentSum adds up segments.
type segmentSum struct {
	rd     *reader
	used   filesystem.Map
	blocks uint64
	nodes  uint64
}

// add adds a segment; at is the SIT block, for the error.
func (s *segmentSum) add(segment uint32, raw []byte, at uint32) error {
	vblocks := binary.LittleEndian.Uint16(raw)
	count, kind := uint64(vblocks&vblocksMask), vblocks>>typeShift
	var bitmap [validMapSize]byte // lowest bit first
	ones := uint64(0)
	for i, b := range raw[validMapAt:][:validMapSize] {
		ones += uint64(bits.OnesCount8(b))
		bitmap[i] = bits.Reverse8(b)
	}
	if ones != count || kind >= logs {
		return corrupt(fmt.Sprintf("SIT entry %d", segment), offset(at),
			fmt.Sprintf("%d blocks in use, %d bits set, type %d", count, ones, kind))
	}
	s.blocks += count
	if kind >= dataLogs {
		s.nodes += count
	}
	start := offset(s.rd.mainBlock(place{segment: segment}))
	filesystem.EachRun(bitmap[:], blocksPerSegment, func(first, n uint64) {
		s.used.Add(start+quantity.Bytes(first)*blockSize, quantity.Bytes(n)*blockSize)
	})
	return nil
}

// check compares with the checkpoint's counters. Its counter of blocks includes those
// that are reserved, but have no place yet.
func (s *segmentSum) check() error {
	if s.nodes != uint64(s.rd.cp.ValidNodeCount) || s.blocks > s.rd.cp.ValidBlockCount {
		return corrupt("SIT", offset(s.rd.sb.SITBlkaddr),
			fmt.Sprintf("%d nodes of %d blocks in use, the checkpoint says %d of %d",
				s.nodes, s.blocks, s.rd.cp.ValidNodeCount, s.rd.cp.ValidBlockCount))
	}
	return nil
}
