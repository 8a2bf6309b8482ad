// Package lvm reads what lies where on an LVM2 physical volume: its own areas and the logical
// volumes on it.
//
//	label in one of the first four sectors -> UUID, metadata areas
//	header of each metadata area -> place of the newest text, checked by its CRC
//	text -> volume group: extent size, logical volumes, their segments
//
// Only a volume group is understood that has this physical volume and no other, and logical
// volumes of linear and striped segments. Anything else (mirrors, snapshots, thin pools, caches,
// moves under way) is a Doubt: its targets keep data in places that the text does not name. Where a
// logical volume of such a group begins is named, so that a hibernated system in it is found.
//
// What the logical volumes hold is the caller's to find out: each can be read as a device of
// its own, and its bytes be mapped to the physical volume.
//
// The format: LVM2's lib/format_text/layout.h and lvm(8).
package lvm

import (
	"fmt"
	"hash/crc32"
	"io"

	"clonecast/internal/filesystem"
	"clonecast/internal/quantity"
)

// Format is blkid's name for physical volumes.
const Format = "LVM2_member"

const sectorSize = 512

// Physical is a physical volume.
type Physical struct {
	UUID  string
	Group string         // name of the volume group
	Size  quantity.Bytes // of the device that it was made for, at most that of r

	// Own lists what LVM itself uses: all in front of the first extent (label, metadata, boot
	// loaders), and further metadata areas.
	Own     []quantity.Extent
	Volumes []Logical
}

// Read reads the physical volume r. With a Doubt only its UUID is given. Its errors are those
// that package filesystem names.
func Read(r io.ReaderAt, size quantity.Bytes) (Physical, *filesystem.Doubt, error) {
	l, err := readLabel(r, size)
	if err != nil {
		return Physical{}, nil, err
	}
	p := Physical{UUID: l.uuid(), Size: size}
	if l.size < uint64(size) && l.size != 0 {
		p.Size = quantity.Bytes(l.size)
	}
	if len(l.data) != 1 || len(l.metadata) == 0 {
		return p, &filesystem.Doubt{Reason: fmt.Sprintf("%d data areas and %d metadata areas", len(l.data),
			len(l.metadata))}, nil
	}
	text, at, doubt, err := readMetadata(r, l.metadata)
	if doubt != nil || err != nil {
		return p, doubt, err
	}
	g, err := parseGroup(text, at)
	if err != nil {
		return Physical{}, nil, err
	}
	if doubt := g.doubt(p.UUID); doubt != nil {
		if asleep := g.hibernation(r, size, p.UUID); asleep != nil {
			doubt = asleep
		}
		return p, doubt, nil
	}
	p.Group = g.name
	if p.Volumes, err = g.logicals(r, size); err != nil {
		return Physical{}, nil, err
	}
	p.Own = append([]quantity.Extent{{Length: g.start}}, l.metadata...)
	return p, nil, nil
}

// checksum is LVM's CRC-32: a start of its own, no inversion.
func checksum(b []byte) uint32 {
	const start = 0xf597a6cf
	return ^crc32.Update(^uint32(start), crc32.IEEETable, b)
}

func corrupt(structure string, at quantity.Bytes, problem string) error {
	return &filesystem.CorruptError{Format: Format, Structure: structure, Offset: at, Problem: problem}
}
