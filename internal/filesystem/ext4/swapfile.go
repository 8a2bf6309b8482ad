package ext4

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"clonecast/internal/filesystem"
	"clonecast/internal/filesystem/swap"
	"clonecast/internal/quantity"
)

// inUse tells whether the file system was not unmounted: so a hibernated system leaves it.
func (sb *superblock) inUse() bool {
	return sb.incompat(incompatRecover) || sb.State&stateValid == 0
}

// hibernation looks for a swap file that holds a hibernated system, in a file system that was not
// unmounted and about which there is a doubt already. Where it cannot look, the journal must not
// be replayed.
func (rd *reader) hibernation(doubt *filesystem.Doubt) *filesystem.Doubt {
	number, err := rd.suspendedFile()
	switch {
	case err != nil:
		return swap.Unsure(doubt, err)
	case number != 0:
		return swap.Hibernated(fmt.Sprintf("a swap file (inode %d)", number))
	}
	return doubt
}

// tableChunk is how much of an inode table is read at once.
const tableChunk = quantity.MiB

// suspendedFile gives the inode of a swap file that holds a hibernated system; 0: there is none. All
// inodes are looked at, because a swap file may have any name; the content only of those whose
// size is one that mkswap takes. What is in the journal only is not seen.
func (rd *reader) suspendedFile() (uint32, error) {
	w := walker{reader: *rd}
	buf := make([]byte, tableChunk)
	for number := range rd.groups {
		g, err := rd.group(number)
		if err != nil {
			return 0, err
		}
		first := number * uint64(rd.sb.InodesPerGroup)
		perChunk := uint64(tableChunk) / rd.inodeSize
		for at := uint64(0); at < g.inodes; at += perChunk {
			n := min(perChunk, g.inodes-at)
			table := buf[:n*rd.inodeSize]
			place := rd.offset(g.inodeTable) + quantity.Bytes(at*rd.inodeSize)
			if err := filesystem.ReadFull(rd.r, table, place); err != nil {
				return 0, fmt.Errorf("read inode table of group %d: %w", number, err)
			}
			for i := range n {
				inode := uint32(first+at+i) + 1
				suspended, err := w.holdsSystem(inode, table[i*rd.inodeSize:][:rd.inodeSize])
				if err != nil {
					return 0, err
				}
				if suspended {
					return inode, nil
				}
			}
		}
	}
	return 0, nil
}

// holdsSystem tells whether the inode in raw is of a swap file with a hibernated system.
func (w *walker) holdsSystem(number uint32, raw []byte) (bool, error) {
	var in inode
	if _, err := binary.Decode(raw, binary.LittleEndian, &in); err != nil {
		return false, err
	}
	if in.Mode&modeType != modeRegular || in.Links == 0 || in.Flags&flagInlineData != 0 ||
		!swap.IsFileSize(in.size()) {
		return false, nil
	}
	f, err := w.file(number, in)
	var corrupt *filesystem.CorruptError
	if errors.As(err, &corrupt) {
		return false, nil // a part of its map is in the journal only: nobody hibernates into such a file
	}
	if err != nil {
		return false, err
	}
	head := make([]byte, min(f.Size, swap.MaxHeader))
	if _, err := io.ReadFull(f.NewReader(w.r), head); err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		return false, fmt.Errorf("read inode %d: %w", number, err)
	}
	return swap.HoldsSystem(head), nil
}
