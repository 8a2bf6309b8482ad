// Package xfs reads the allocation of XFS file systems, version 5 and version 4.
//
// A file system is a row of allocation groups of equal length, the last one maybe
// shorter. Each begins with four sectors: a superblock, the header of the free space
// (AGF), of the inodes (AGI), and the free list (AGFL). The AGF names the root of the
// B+tree of the free extents, sorted by block: the only list of what is free, and none
// of what is used. Blocks on the free list are kept for the trees; they count as used
// here.
//
//	superblock -> geometry, features, checksum
//	not known well enough, or the log is not clean -> identity and Doubt, no map
//	the log is not clean -> is there a swap file with a hibernated system? (swapfile.go)
//	for each group: AGF -> tree of free extents -> all between them is in use
//
// Clean means what the kernel means by it, and more: the log's last record is the one
// that an unmount writes, and nothing in the log contradicts that. The trees in front
// of a log that needs replay call blocks free that hold data already synced.
//
// Version 5 carries a checksum, the place and the owner in every block; all are
// verified. Numbers are big-endian but for the checksums.
//
// Not guaranteed: inodes of a clean file system are not read, so that a file whose blocks are in the tree of
// free extents is not found out. Nothing is read from the superblocks of later groups.
//
// The format: "XFS Algorithms & Data Structures" and Linux's fs/xfs/libxfs.
package xfs

import (
	"fmt"
	"hash/crc32"
	"io"

	"clonecast/internal/filesystem"
	"clonecast/internal/quantity"
)

const format = "xfs"

// Read reads the file system on the partition r.
func Read(r io.ReaderAt, size quantity.Bytes) (filesystem.Volume, error) {
	sb, err := readSuperblock(r, size)
	if err != nil {
		return filesystem.Volume{}, err
	}
	v := filesystem.Volume{
		Type: format, UUID: uuid(sb.UUID), Label: sb.label(), BlockSize: quantity.Bytes(sb.BlockSize),
		Doubt: sb.doubt(),
	}
	if v.Doubt != nil {
		return v, nil
	}
	g, problem := newGeometry(sb, size)
	if problem != "" {
		return filesystem.Volume{}, corrupt("superblock", 0, "%s", problem)
	}
	rd := reader{r: r, geometry: g}
	if v.Doubt, err = rd.logDoubt(); err != nil {
		return filesystem.Volume{}, fmt.Errorf("read the log of xfs: %w", err)
	}
	if v.Doubt != nil {
		v.Doubt = rd.hibernation(v.Doubt)
		return v, nil
	}
	if v.Allocated, err = rd.allocated(); err != nil {
		return filesystem.Volume{}, err
	}
	v.Size = quantity.Bytes(sb.DataBlocks) * g.blockSize
	return v, nil
}

// reader reads blocks of a file system whose geometry is known.
type reader struct {
	geometry
	r io.ReaderAt
}

func corrupt(structure string, at quantity.Bytes, problem string, args ...any) error {
	return &filesystem.CorruptError{
		Format: format, Structure: structure, Offset: at, Problem: fmt.Sprintf(problem, args...),
	}
}

// checksum is the CRC-32C of b with the four bytes at crcOffset taken for zero.
func checksum(b []byte, crcOffset int) uint32 {
	table := crc32.MakeTable(crc32.Castagnoli)
	sum := crc32.Update(0, table, b[:crcOffset])
	sum = crc32.Update(sum, table, make([]byte, 4))
	return crc32.Update(sum, table, b[crcOffset+4:])
}
