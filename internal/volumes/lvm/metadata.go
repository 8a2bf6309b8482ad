package lvm

import (
	"encoding/binary"
	"fmt"
	"io"

	"clonecast/internal/filesystem"
	"clonecast/internal/quantity"
)

// areaHeader is struct mda_header, the first sector of a metadata area.
type areaHeader struct {
	Checksum uint32       `offset:"0x0"` // of the sector from here on
	Magic    [16]byte     `offset:"0x4"`
	Version  uint32       `offset:"0x14"`
	Start    uint64       `offset:"0x18"`
	Size     uint64       `offset:"0x20"`
	Text     textLocation `offset:"0x28"` // of the metadata that count
	Next     textLocation `offset:"0x40"` // of those that are about to count
	_        [424]byte    `offset:"0x58"`
}

// textLocation is struct raw_locn.
type textLocation struct {
	Offset   uint64 `offset:"0x0"` // from the area's start
	Size     uint64 `offset:"0x8"`
	Checksum uint32 `offset:"0x10"`
	Flags    uint32 `offset:"0x14"`
}

const (
	areaMagic = " LVM2 x[5A%r0N*>"

	flagIgnored = 1 // the area is not in use

	// maxText is many times what the tools give a metadata area.
	maxText = 4 * quantity.MiB
)

// readMetadata reads the text of the areas, which must be the same in all that are in use. It
// gives also its place, for errors.
func readMetadata(r io.ReaderAt, areas []quantity.Extent) (text []byte, at quantity.Bytes, doubt *filesystem.Doubt,
	err error) {
	for _, area := range areas {
		h, err := readAreaHeader(r, area)
		if err != nil {
			return nil, 0, nil, err
		}
		switch {
		case h.Text.Flags&flagIgnored != 0:
			continue
		case h.Text.Offset == 0:
			return nil, 0, &filesystem.Doubt{Reason: "belongs to no volume group"}, nil
		case h.Next.Offset != 0:
			return nil, 0, &filesystem.Doubt{Reason: "a change of the volume group was not finished",
				Remedy: "boot the system once, or run vgck --updatemetadata"}, nil
		}
		b, err := readText(r, area, h.Text)
		if err != nil {
			return nil, 0, nil, err
		}
		if text != nil && string(b) != string(text) {
			return nil, 0, &filesystem.Doubt{Reason: "copies of the metadata differ",
				Remedy: "run vgck --updatemetadata"}, nil
		}
		text, at = b, area.Start+quantity.Bytes(h.Text.Offset)
	}
	if text == nil {
		return nil, 0, &filesystem.Doubt{Reason: "keeps no metadata"}, nil
	}
	return text, at, nil, nil
}

func readAreaHeader(r io.ReaderAt, area quantity.Extent) (areaHeader, error) {
	var h areaHeader
	if area.Length < 2*sectorSize {
		return h, corrupt("metadata area", area.Start, fmt.Sprintf("%d bytes long", int64(area.Length)))
	}
	b := make([]byte, sectorSize)
	if err := filesystem.ReadFull(r, b, area.Start); err != nil {
		return h, fmt.Errorf("lvm metadata area: %w", err)
	}
	if _, err := binary.Decode(b, binary.LittleEndian, &h); err != nil {
		return h, fmt.Errorf("decode lvm metadata area: %w", err)
	}
	switch {
	case string(h.Magic[:]) != areaMagic:
		return h, corrupt("metadata area", area.Start, "wrong magic")
	case checksum(b[4:]) != h.Checksum:
		return h, corrupt("metadata area", area.Start, "checksum does not match")
	case h.Version != 1 || h.Start != uint64(area.Start) || h.Size != uint64(area.Length):
		return h, corrupt("metadata area", area.Start,
			fmt.Sprintf("version %d, %d bytes at %d", h.Version, h.Size, h.Start))
	}
	return h, nil
}

// readText reads a text from an area, which is a ring behind its header.
func readText(r io.ReaderAt, area quantity.Extent, l textLocation) ([]byte, error) {
	if l.Offset < sectorSize || l.Offset >= uint64(area.Length) || l.Size == 0 ||
		l.Size > uint64(min(area.Length-sectorSize, maxText)) {
		return nil, corrupt("metadata area", area.Start, fmt.Sprintf("text of %d bytes at %d", l.Size, l.Offset))
	}
	b := make([]byte, l.Size)
	first := min(l.Size, uint64(area.Length)-l.Offset)
	if err := filesystem.ReadFull(r, b[:first], area.Start+quantity.Bytes(l.Offset)); err != nil {
		return nil, fmt.Errorf("lvm metadata: %w", err)
	}
	if err := filesystem.ReadFull(r, b[first:], area.Start+sectorSize); err != nil {
		return nil, fmt.Errorf("lvm metadata: %w", err)
	}
	if checksum(b) != l.Checksum {
		return nil, corrupt("metadata", area.Start+quantity.Bytes(l.Offset), "checksum does not match")
	}
	return b, nil
}
