package ext4

import (
	"fmt"

	"clonecast/internal/filesystem"
	"clonecast/internal/quantity"
)

// readAhead is how much is read when a bitmap is needed: with flex_bg the bitmaps
// of 16 groups stand side by side.
const readAhead = 64 * quantity.KiB

// allocated lists the bytes in use.
func (rd *reader) allocated() ([]quantity.Extent, error) {
	// The blocks in front of group 0 (boot sector, 1 KiB blocks) have no bit.
	var used filesystem.Map
	rd.add(&used, 0, uint64(rd.sb.FirstDataBlock))
	for number := range rd.groups {
		g, err := rd.group(number)
		if err != nil {
			return nil, err
		}
		if err := rd.addGroup(&used, g); err != nil {
			return nil, err
		}
	}
	return used.Extents(), nil
}

func (rd *reader) addGroup(used *filesystem.Map, g group) error {
	first, length := rd.firstBlock(g.number), rd.groupBlocks(g.number)
	clusters, taken := divUp(length, rd.ratio), uint64(0)
	if g.uninit {
		meta := divUp(rd.baseMeta(g.number), rd.ratio) * rd.ratio
		rd.add(used, first, min(meta, length))
		taken = rd.overhead(g)
	} else {
		bitmap, err := rd.bitmap(g)
		if err != nil {
			return err
		}
		filesystem.EachRun(bitmap, clusters, func(start, n uint64) {
			rd.add(used, first+start*rd.ratio, min(n*rd.ratio, length-start*rd.ratio))
			taken += n
		})
	}
	// The kernel takes a group that says otherwise for damaged, too (ext4_mb_generate_buddy).
	if taken+g.free != clusters {
		descriptor := rd.offset(rd.descriptorBlock(g.number / rd.descriptorsPerBlock()))
		return corrupt(rd.fsType, fmt.Sprintf("group descriptor %d", g.number), descriptor,
			fmt.Sprintf("%d clusters are free, the bitmap has %d", g.free, clusters-taken))
	}
	rd.add(used, g.blockBitmap, 1)
	rd.add(used, g.inodeBitmap, 1)
	rd.add(used, g.inodeTable, rd.tableSize)
	return nil
}

// overhead is how many clusters of a group are in use whose bitmap was never written: its own
// metadata, as far as that lies in it (ext4_num_overhead_clusters in fs/ext4/balloc.c).
func (rd *reader) overhead(g group) uint64 {
	first, end := rd.firstBlock(g.number), rd.firstBlock(g.number)+rd.groupBlocks(g.number)
	var own filesystem.Map
	for _, run := range [][2]uint64{
		{first, rd.baseMeta(g.number)}, {g.blockBitmap, 1}, {g.inodeBitmap, 1}, {g.inodeTable, rd.tableSize},
	} {
		from, to := max(run[0], first), min(run[0]+run[1], end)
		if from < to {
			at := (from - first) / rd.ratio
			own.Add(quantity.Bytes(at), quantity.Bytes(divUp(to-first, rd.ratio)-at))
		}
	}
	return uint64(quantity.Total(own.Extents()))
}

// add adds a run of blocks.
func (rd *reader) add(used *filesystem.Map, block, count uint64) {
	used.Add(rd.offset(block), rd.offset(count))
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
		if err := filesystem.ReadFull(rd.r, rd.window, rd.offset(g.blockBitmap)); err != nil {
			rd.window = rd.window[:0]
			return nil, fmt.Errorf("read block bitmap of group %d: %w", g.number, err)
		}
		rd.windowAt = g.blockBitmap
	}
	at := (g.blockBitmap - rd.windowAt) * uint64(rd.blockSize)
	bitmap := rd.window[at : at+uint64(rd.blockSize)]
	if !rd.bitmapChecksumOK(g, bitmap) {
		return nil, corrupt(rd.fsType, fmt.Sprintf("block bitmap of group %d", g.number), rd.offset(g.blockBitmap),
			"checksum does not match")
	}
	return bitmap, nil
}
