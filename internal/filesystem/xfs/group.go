package xfs

import (
	"encoding/binary"
	"fmt"

	"clonecast/internal/filesystem"
	"clonecast/internal/quantity"
)

const (
	agfMagic   = 0x58414746 // "XAGF"
	agfVersion = 1
	agfSize    = 0xe0
	agfCRC     = 0xd8
	agfSector  = 1 // of the group
)

// agf is struct xfs_agf (libxfs/xfs_format.h), big-endian.
type agf struct {
	Magic      uint32    `offset:"0x0"`
	Version    uint32    `offset:"0x4"`
	Number     uint32    `offset:"0x8"`
	Length     uint32    `offset:"0xc"`
	ByBlock    uint32    `offset:"0x10"` // root of the tree of free extents by block
	BySize     uint32    `offset:"0x14"` // the same by length
	_          uint32    `offset:"0x18"`
	Levels     uint32    `offset:"0x1c"` // of the first
	_          [20]byte  `offset:"0x20"` // other trees, free list
	FreeBlocks uint32    `offset:"0x34"`
	Longest    uint32    `offset:"0x38"`
	_          uint32    `offset:"0x3c"`
	UUID       [16]byte  `offset:"0x40"` // version 5 from here
	_          [144]byte `offset:"0x50"` // more trees, checksum
}

// allocated lists the bytes in use.
func (rd *reader) allocated() ([]quantity.Extent, error) {
	var used filesystem.Map
	for number := range uint64(rd.sb.AGCount) {
		if err := rd.addGroup(&used, number); err != nil {
			return nil, err
		}
	}
	return used.Extents(), nil
}

// addGroup adds what lies between the free extents of a group.
func (rd *reader) addGroup(used *filesystem.Map, number uint64) error {
	f, err := rd.readAGF(number)
	if err != nil {
		return err
	}
	length := rd.groupBlocks(number)
	next := uint64(0) // first block that no free extent is known for
	free, longest := uint64(0), uint64(0)
	busy := rd.busy(number, f)
	err = rd.eachFree(number, f, func(e run) string {
		switch {
		case e.count == 0 || e.start < next || e.end() > length:
			return fmt.Sprintf("free extent of %d blocks at block %d, after block %d of %d", e.count, e.start, next, length)
		case busy.overlap(e):
			return fmt.Sprintf("free extent of %d blocks at block %d holds metadata", e.count, e.start)
		}
		used.Add(rd.offset(number, next), rd.bytes(e.start-next))
		next = e.end()
		free += e.count
		longest = max(longest, e.count)
		return ""
	})
	if err != nil {
		return err
	}
	if free != uint64(f.FreeBlocks) || longest != uint64(f.Longest) {
		return corrupt(agfName(number), rd.agfOffset(number),
			"%d blocks are free, %d of them in a row; the tree has %d and %d",
			f.FreeBlocks, f.Longest, free, longest)
	}
	used.Add(rd.offset(number, next), rd.bytes(length-next))
	return nil
}

// runs are blocks known to be in use.
type runs []run

func (r runs) overlap(e run) bool {
	for _, known := range r {
		if known.overlaps(e) {
			return true
		}
	}
	return false
}

// busy gives the blocks of a group that cannot be free.
func (rd *reader) busy(number uint64, f *agf) runs {
	out := runs{{0, rd.headerBlocks()}, {uint64(f.ByBlock), 1}, {uint64(f.BySize), 1}}
	if number == rd.logGroup {
		out = append(out, rd.log)
	}
	return out
}

func agfName(number uint64) string { return fmt.Sprintf("free space header of group %d", number) }

func (rd *reader) agfOffset(number uint64) quantity.Bytes {
	return rd.offset(number, 0) + agfSector*rd.sectorSize
}

// readAGF reads and verifies the header of a group's free space.
func (rd *reader) readAGF(number uint64) (*agf, error) {
	at, name := rd.agfOffset(number), agfName(number)
	b := make([]byte, rd.sectorSize)
	if err := filesystem.ReadFull(rd.r, b, at); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	f := new(agf)
	if _, err := binary.Decode(b, binary.BigEndian, f); err != nil {
		return nil, fmt.Errorf("decode %s: %w", name, err)
	}
	switch {
	case f.Magic != agfMagic || f.Version != agfVersion:
		return nil, corrupt(name, at, "wrong magic or version")
	case rd.sb.v5() && checksum(b, agfCRC) != binary.LittleEndian.Uint32(b[agfCRC:]):
		return nil, corrupt(name, at, "checksum does not match")
	case rd.sb.v5() && f.UUID != rd.sb.metaUUID():
		return nil, corrupt(name, at, "belongs to the file system %s", uuid(f.UUID))
	case uint64(f.Number) != number || uint64(f.Length) != rd.groupBlocks(number):
		return nil, corrupt(name, at, "is that of group %d with %d blocks, want %d",
			f.Number, f.Length, rd.groupBlocks(number))
	case f.Levels == 0 || f.Levels > maxLevels:
		return nil, corrupt(name, at, "tree of %d levels", f.Levels)
	}
	return f, nil
}
