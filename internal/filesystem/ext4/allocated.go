package ext4

import (
	"encoding/binary"
	"fmt"
	"math/bits"

	"clonecast/internal/quantity"
)

// readAhead is how much is read when a bitmap is needed: with flex_bg the bitmaps
// of 16 groups stand side by side.
const readAhead = 64 * quantity.KiB

// allocated lists the bytes in use.
func (rd *reader) allocated() ([]quantity.Extent, error) {
	// The blocks in front of group 0 (boot sector, 1 KiB blocks) have no bit.
	used := rd.add(nil, 0, uint64(rd.sb.FirstDataBlock))
	for number := range rd.groups {
		g, err := rd.group(number)
		if err != nil {
			return nil, err
		}
		if used, err = rd.addGroup(used, g); err != nil {
			return nil, err
		}
	}
	return quantity.Normalize(used), nil
}

func (rd *reader) addGroup(used []quantity.Extent, g group) ([]quantity.Extent, error) {
	first, length := rd.firstBlock(g.number), rd.groupBlocks(g.number)
	if g.uninit {
		meta := divUp(rd.baseMeta(g.number), rd.ratio) * rd.ratio
		used = rd.add(used, first, min(meta, length))
	} else {
		bitmap, err := rd.bitmap(g)
		if err != nil {
			return nil, err
		}
		eachRun(bitmap, divUp(length, rd.ratio), func(start, n uint64) {
			used = rd.add(used, first+start*rd.ratio, min(n*rd.ratio, length-start*rd.ratio))
		})
	}
	used = rd.add(used, g.blockBitmap, 1)
	used = rd.add(used, g.inodeBitmap, 1)
	return rd.add(used, g.inodeTable, rd.tableSize), nil
}

// add appends a run of blocks, joining it to the last one where they touch.
func (rd *reader) add(used []quantity.Extent, block, count uint64) []quantity.Extent {
	e := quantity.Extent{Start: rd.offset(block), Length: rd.offset(count)}
	if n := len(used); n > 0 && used[n-1].End() == e.Start {
		used[n-1].Length += e.Length
		return used
	}
	return append(used, e)
}

// bitmap returns the verified block bitmap of a group, valid until the next call.
func (rd *reader) bitmap(g group) ([]byte, error) {
	have := uint64(len(rd.window)) / uint64(rd.blockSize)
	if g.blockBitmap < rd.windowAt || g.blockBitmap-rd.windowAt >= have {
		want := min(uint64(max(readAhead, rd.blockSize)/rd.blockSize), rd.blocks-g.blockBitmap)
		if rd.window == nil {
			rd.window = make([]byte, max(readAhead, rd.blockSize))
		}
		rd.window = rd.window[:want*uint64(rd.blockSize)]
		if err := readFull(rd.r, rd.offset(g.blockBitmap), rd.window); err != nil {
			rd.window = rd.window[:0]
			return nil, fmt.Errorf("read block bitmap of group %d: %w", g.number, err)
		}
		rd.windowAt = g.blockBitmap
	}
	at := (g.blockBitmap - rd.windowAt) * uint64(rd.blockSize)
	bitmap := rd.window[at : at+uint64(rd.blockSize)]
	if !rd.bitmapChecksumOK(g, bitmap) {
		return nil, corrupt(rd.fsType, fmt.Sprintf("block bitmap of group %d", g.number), rd.offset(g.blockBitmap), "checksum does not match")
	}
	return bitmap, nil
}

// eachRun calls f for every run of ones in the first n bits of the bitmap, whose
// length is a multiple of 8 bytes.
func eachRun(bitmap []byte, n uint64, f func(start, length uint64)) {
	for at := uint64(0); at < n; {
		start := nextBit(bitmap, at, n, 0)
		if start == n {
			return
		}
		end := nextBit(bitmap, start, n, ^uint64(0))
		f(start, end-start)
		at = end
	}
}

// nextBit finds the first bit at or after at that is one (invert 0) or zero
// (invert all ones); n when there is none.
func nextBit(bitmap []byte, at, n, invert uint64) uint64 {
	for at < n {
		word := (binary.LittleEndian.Uint64(bitmap[at/64*8:]) ^ invert) >> (at % 64)
		if word != 0 {
			return min(at+uint64(bits.TrailingZeros64(word)), n)
		}
		at = (at/64 + 1) * 64
	}
	return n
}
