package btrfs

import (
	"encoding/binary"
	"fmt"

	"clonecast/internal/filesystem"
	"clonecast/internal/quantity"
)

// reserved is never part of a chunk: boot loaders and the superblock live there.
const reserved = quantity.MiB

// Places in struct btrfs_extent_item, and bits of its flags.
const (
	extentItemFlags = 16
	extentItemSize  = 24 // at least

	extentData      = 1 << 0
	extentTreeBlock = 1 << 1
)

// allocated lists the bytes in use.
func (rd *reader) allocated() ([]quantity.Extent, error) {
	if err := rd.loadChunks(); err != nil {
		return nil, err
	}
	root, err := rd.extentTree()
	if err != nil {
		return nil, err
	}
	extents := extentSum{rd: rd}
	if err := rd.walk(root, key{}, lastKey, extents.visit); err != nil {
		return nil, err
	}
	if extents.total != rd.sb.BytesUsed {
		return nil, corrupt("extent tree", 0,
			fmt.Sprintf("%d bytes in use, the superblock says %d", extents.total, rd.sb.BytesUsed))
	}
	used := &extents.copies[0]
	for _, e := range extents.copies[1].Extents() {
		used.Add(e.Start, e.Length)
	}
	used.Add(0, min(reserved, rd.size))
	for _, at := range mirrors {
		used.Add(at, min(superblockSize, rd.size-at))
	}
	return used.Extents(), nil
}

// extentSum adds up the items of the extent tree. Each copy has a map of its own:
// in one map the places would not rise.
type extentSum struct {
	rd     *reader
	copies [maxCopies]filesystem.Map
	end    uint64 // of the extent before
	total  uint64
}

func (s *extentSum) visit(it item) error {
	length := it.offset
	switch it.kind {
	case itemExtent:
	case itemMetadata:
		length = uint64(s.rd.sb.NodeSize)
	case itemOwnerRef, itemTreeBlockRef, itemExtentDataRef, itemSharedBlockRef, itemSharedDataRef, itemBlockGroup:
		return nil
	default:
		return it.corrupt("does not belong into the extent tree")
	}
	if len(it.data) < extentItemSize {
		return it.corrupt(fmt.Sprintf("extent in %d bytes", len(it.data)))
	}
	start, sector := it.objectid, uint64(s.rd.sb.SectorSize)
	c, ok := s.rd.chunk(start, length)
	flags := binary.LittleEndian.Uint64(it.data[extentItemFlags:])
	isNode := flags&extentTreeBlock != 0
	switch {
	case !ok || length == 0:
		return it.corrupt("lies in no chunk")
	case start%sector != 0 || length%sector != 0:
		return it.corrupt("not made of whole sectors")
	case start < s.end:
		return it.corrupt(fmt.Sprintf("overlaps an extent that ends at %d", s.end))
	case it.kind == itemMetadata && !isNode, isNode && length != uint64(s.rd.sb.NodeSize):
		return it.corrupt(fmt.Sprintf("flags %#x, length %d", flags, length))
	case c.kind&contentOf(flags) == 0:
		return it.corrupt(fmt.Sprintf("flags %#x in a chunk of type %#x", flags, c.kind))
	}
	s.end = start + length
	s.total += length
	for i, place := range c.copies(start) {
		s.copies[i].Add(place, quantity.Bytes(length))
	}
	return nil
}

// contentOf gives the types of chunks in which an extent with such flags may lie.
func contentOf(flags uint64) uint64 {
	switch {
	case flags&(extentData|extentTreeBlock) == extentData:
		return chunkData
	case flags&(extentData|extentTreeBlock) == extentTreeBlock:
		return chunkMetadata | chunkSystem
	}
	return 0
}
