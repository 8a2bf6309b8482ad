// Package btrfs reads the allocation of btrfs file systems on one device.
//
// A file system is a set of B-trees whose nodes have logical addresses. Chunks map
// runs of them to places on the device: one place, or two with the profile DUP.
//
//	superblock -> identity, features, checksum
//	not clean, several devices, other profiles? -> identity and Doubt, no map
//	chunks of the superblock -> chunk tree -> all chunks
//	root tree -> root of the extent tree
//	for each extent in the extent tree: all its copies are in use
//	the first MiB (boot loaders) and the superblock's mirrors are in use
//	is there a swap file with a hibernated system? (swapfile.go)
//
// Snapshots, compressed data and either kind of free space cache need nothing of
// their own: the extent tree has every extent that any tree refers to, once.
//
// Clean means that there is no log tree: trees are only ever replaced as a whole,
// by the superblock, but what was fsynced since lies in the log tree alone, in
// blocks that the extent tree calls free.
//
// Every node is checked before it is used: checksum, address, tree, level and
// generation, keys in order and within what the parent says. As levels fall and
// keys rise, no node is visited twice. A node whose first copy is bad is read from
// the second, as the kernel does. In the end the extents must add up to the
// number of bytes that the superblock says are used.
//
// Not read: the trees of files but for swap files, the device tree, superblock mirrors.
package btrfs

import (
	"errors"
	"fmt"
	"io"

	"clonecast/internal/filesystem"
	"clonecast/internal/filesystem/swap"
	"clonecast/internal/quantity"
)

const format = "btrfs"

// Read reads the file system on the partition r.
func Read(r io.ReaderAt, size quantity.Bytes) (filesystem.Volume, error) {
	if size < superblockOffset+superblockSize {
		return filesystem.Volume{}, filesystem.ErrNotFound
	}
	raw := make([]byte, superblockSize)
	if err := filesystem.ReadFull(r, raw, superblockOffset); err != nil {
		return filesystem.Volume{}, fmt.Errorf("btrfs superblock: %w", err)
	}
	sb, err := parseSuperblock(raw)
	if err != nil {
		return filesystem.Volume{}, err
	}
	v := filesystem.Volume{Type: format, UUID: sb.uuid(), Label: sb.label()}
	if v.Doubt = sb.formatDoubt(); v.Doubt != nil {
		return v, nil
	}
	if problem := sb.problem(raw, size); problem != "" {
		return filesystem.Volume{}, corrupt("superblock", superblockOffset, problem)
	}
	v.BlockSize = quantity.Bytes(sb.SectorSize)
	rd := reader{r: r, size: size, sb: &sb, nodes: uint64(size) / uint64(sb.NodeSize)}
	if v.Doubt = sb.stateDoubt(); v.Doubt != nil {
		if v.Doubt.Replay {
			v.Doubt = rd.unlessHibernated(v.Doubt)
		}
		return v, nil
	}
	v.Allocated, err = rd.allocated()
	var doubt *doubtError
	if errors.As(err, &doubt) {
		v.Doubt = &doubt.doubt
		return v, nil
	}
	if err != nil {
		return filesystem.Volume{}, err
	}
	v.Size = quantity.Bytes(sb.DevTotalBytes)
	rd.nodes = uint64(size) / uint64(sb.NodeSize)
	if asleep, _ := rd.hibernation(); asleep != nil { // without an answer the map is as good as before
		v.Doubt, v.Allocated = asleep, nil
	}
	return v, nil
}

// unlessHibernated gives the doubt, or that the file system holds a hibernated system. Where that
// cannot be found out the log must not be replayed.
func (rd *reader) unlessHibernated(doubt *filesystem.Doubt) *filesystem.Doubt {
	asleep, err := rd.hibernation()
	if asleep != nil {
		return asleep
	}
	if err != nil {
		return swap.Unsure(doubt, err)
	}
	return doubt
}

// reader reads trees of a file system whose superblock is sound.
type reader struct {
	r       io.ReaderAt
	size    quantity.Bytes
	sb      *superblock
	chunks  []chunk          // sorted by start
	buffers [maxLevel][]byte // a node for each level of the tree being walked
	nodes   uint64           // how many more may be read: no file system has more
}

// doubtError carries a Doubt from inside a tree to Read.
type doubtError struct{ doubt filesystem.Doubt }

func (e *doubtError) Error() string { return e.doubt.Reason }

func corrupt(structure string, at quantity.Bytes, problem string) error {
	return &filesystem.CorruptError{Format: format, Structure: structure, Offset: at, Problem: problem}
}
