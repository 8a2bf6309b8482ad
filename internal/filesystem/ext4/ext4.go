// Package ext4 reads the allocation of ext2, ext3 and ext4 file systems.
//
// A file system is a row of groups of blocks; each group has a descriptor, which
// names its block bitmap (one bit per cluster; a cluster is a block unless the
// bigalloc feature is on), its inode bitmap and its inode table.
//
//	superblock -> geometry, features, checksum
//	not clean? -> identity and Doubt, no map; is there a swap file with a hibernated system?
//	for each descriptor: verify checksum;
//	    bitmap never written -> the group's own metadata is in use
//	    otherwise            -> verify the bitmap's checksum, its runs are in use
//	    in any case          -> bitmaps and inode table are in use
//	blocks of the clean journal -> in use, but not content (journal.go)
//
// Clean means what e2fsck and the kernel mean by it, and more: no journal to
// replay (flag and journal superblock agree), no errors, no orphans, no other host
// (MMP). A bitmap in front of a journal that needs replay calls blocks free that
// hold data already synced.
//
// Nothing is read from backup superblocks: where the first is bad, the answer is a
// CorruptError. A group's counter of free clusters must fit its bitmap; the superblock's
// counters are not looked at. Inodes of a clean file system are not read: a file whose blocks are
// not in the bitmaps is not found out, which takes e2fsck.
package ext4

import (
	"fmt"
	"io"

	"clonecast/internal/filesystem"
	"clonecast/internal/quantity"
)

// Read reads the file system on the partition r.
func Read(r io.ReaderAt, size quantity.Bytes) (filesystem.Volume, error) {
	if size < superblockOffset+superblockSize {
		return filesystem.Volume{}, filesystem.ErrNotFound
	}
	raw := make([]byte, superblockSize)
	if err := filesystem.ReadFull(r, raw, superblockOffset); err != nil {
		return filesystem.Volume{}, fmt.Errorf("read ext superblock: %w", err)
	}
	sb, problem, err := parseSuperblock(raw)
	if err != nil {
		return filesystem.Volume{}, fmt.Errorf("decode ext superblock: %w", err)
	}
	if sb.Magic != magic {
		return filesystem.Volume{}, filesystem.ErrNotFound
	}
	v := filesystem.Volume{Type: sb.fsType(), UUID: sb.uuid(), Label: sb.label()}
	if problem != "" {
		return filesystem.Volume{}, corrupt(v.Type, "superblock", superblockOffset, problem)
	}
	if v.Doubt = superblockDoubt(&sb); v.Doubt != nil && v.Type == "jbd" {
		return v, nil
	}
	g, problem := newGeometry(&sb, size)
	if problem != "" {
		return filesystem.Volume{}, corrupt(v.Type, "superblock", superblockOffset, problem)
	}
	v.BlockSize = g.blockSize * quantity.Bytes(g.ratio)
	rd := reader{r: r, geometry: g, fsType: v.Type}
	if v.Doubt != nil {
		if sb.knownFeatures() && sb.inUse() {
			v.Doubt = rd.hibernation(v.Doubt)
		}
		return v, nil
	}
	if v.Doubt, err = rd.deepDoubt(); err != nil {
		return filesystem.Volume{}, err
	}
	if v.Doubt != nil {
		return v, nil
	}
	if v.Allocated, err = rd.allocated(); err != nil {
		return filesystem.Volume{}, err
	}
	if v.Discarded, err = rd.discarded(v.Allocated); err != nil {
		return filesystem.Volume{}, err
	}
	v.Size = g.offset(g.blocks)
	return v, nil
}

// reader reads blocks of a file system whose geometry is known.
type reader struct {
	geometry
	r      io.ReaderAt
	fsType string
	log    *log // set when the journal was found through its inode

	descriptors []byte // the descriptor block last read ...
	loaded      uint64 // ... and its number + 1
	window      []byte // block bitmaps read ahead ...
	windowAt    uint64 // ... and the block they start at
}

func corrupt(fsType, structure string, at quantity.Bytes, problem string) error {
	return &filesystem.CorruptError{Format: fsType, Structure: structure, Offset: at, Problem: problem}
}

// offset is the place of a block below g.blocks.
func (g *geometry) offset(block uint64) quantity.Bytes {
	return quantity.Bytes(block) * g.blockSize
}

// group reads the descriptor of group number.
func (rd *reader) group(number uint64) (group, error) {
	per := rd.descriptorsPerBlock()
	block := number / per
	where := rd.descriptorBlock(block)
	name := fmt.Sprintf("group descriptor %d", number)
	if where >= rd.blocks {
		return group{}, corrupt(rd.fsType, name, 0, fmt.Sprintf("at block %d of %d", where, rd.blocks))
	}
	if rd.loaded != block+1 {
		rd.loaded = 0
		if rd.descriptors == nil {
			rd.descriptors = make([]byte, rd.blockSize)
		}
		if err := filesystem.ReadFull(rd.r, rd.descriptors, rd.offset(where)); err != nil {
			return group{}, fmt.Errorf("read %s: %w", name, err)
		}
		rd.loaded = block + 1
	}
	at := number % per * rd.descSize
	out, problem, err := rd.parseGroup(number, rd.descriptors[at:at+rd.descSize])
	if err != nil {
		return group{}, fmt.Errorf("decode %s: %w", name, err)
	}
	if problem != "" {
		return group{}, corrupt(rd.fsType, name, rd.offset(where)+quantity.Bytes(at), problem)
	}
	return out, nil
}
