package lvm

import (
	"encoding/binary"
	"fmt"
	"io"
	"strings"
	"unicode"

	"clonecast/internal/filesystem"
	"clonecast/internal/quantity"
)

// labelHeader is struct label_header, the start of a sector.
type labelHeader struct {
	ID       [8]byte `offset:"0x0"`
	Sector   uint64  `offset:"0x8"`
	Checksum uint32  `offset:"0x10"` // of the sector from Offset's place on
	Offset   uint32  `offset:"0x14"` // of struct pv_header
	Type     [8]byte `offset:"0x18"`
}

const (
	labelSectors    = 4
	labelSize       = 32
	labelChecksumAt = 20

	// struct pv_header: UUID, size of the device, lists of data and metadata areas that end
	// with an empty one.
	pvUUIDSize = 32
	pvAreasAt  = pvUUIDSize + 8
	areaSize   = 16
)

// label is what the label says of a physical volume.
type label struct {
	id       string
	size     uint64 // of the device; not checked
	data     []quantity.Extent
	metadata []quantity.Extent
}

// readLabel looks for the label.
func readLabel(r io.ReaderAt, size quantity.Bytes) (label, error) {
	if size < labelSectors*sectorSize {
		return label{}, filesystem.ErrNotFound
	}
	b := make([]byte, labelSectors*sectorSize)
	if err := filesystem.ReadFull(r, b, 0); err != nil {
		return label{}, fmt.Errorf("lvm label: %w", err)
	}
	for n := range labelSectors {
		sector := b[n*sectorSize:][:sectorSize]
		var h labelHeader
		if _, err := binary.Decode(sector, binary.LittleEndian, &h); err != nil {
			return label{}, fmt.Errorf("decode lvm label: %w", err)
		}
		if string(h.ID[:]) != "LABELONE" || string(h.Type[:]) != "LVM2 001" || h.Sector != uint64(n) {
			continue
		}
		l, problem := parseLabel(h, sector, size)
		if problem != "" {
			return label{}, corrupt("label", quantity.Bytes(n)*sectorSize, problem)
		}
		return l, nil
	}
	return label{}, filesystem.ErrNotFound
}

func parseLabel(h labelHeader, sector []byte, size quantity.Bytes) (label, string) {
	if checksum(sector[labelChecksumAt:]) != h.Checksum {
		return label{}, "checksum does not match"
	}
	if h.Offset < labelSize || h.Offset > sectorSize-pvAreasAt {
		return label{}, fmt.Sprintf("header of the physical volume at byte %d", h.Offset)
	}
	b := sector[h.Offset:]
	l := label{id: string(b[:pvUUIDSize]), size: binary.LittleEndian.Uint64(b[pvUUIDSize:])}
	if strings.ContainsFunc(l.id, notInUUID) {
		return label{}, fmt.Sprintf("UUID %q", l.id)
	}
	var problem string
	if l.data, b, problem = areas(b[pvAreasAt:], size); problem == "" {
		l.metadata, _, problem = areas(b, size)
	}
	return l, problem
}

// areas decodes a list of areas and gives what follows. A data area of length 0 goes to the
// device's end.
func areas(b []byte, size quantity.Bytes) (out []quantity.Extent, rest []byte, problem string) {
	for ; len(b) >= areaSize; b = b[areaSize:] {
		start, length := binary.LittleEndian.Uint64(b), binary.LittleEndian.Uint64(b[8:])
		if start == 0 {
			return out, b[areaSize:], ""
		}
		if start > uint64(size) || length > uint64(size)-start {
			return nil, nil, fmt.Sprintf("area of %d bytes at %d", length, start)
		}
		out = append(out, quantity.Extent{Start: quantity.Bytes(start), Length: quantity.Bytes(length)})
	}
	return nil, nil, "list of areas without an end"
}

// notInUUID tells whether LVM has no such letter in its UUIDs.
func notInUUID(r rune) bool {
	return r > unicode.MaxASCII || !isWord(byte(r)) && r != '#' && r != '!'
}

// uuid formats the UUID as LVM prints it.
func (l *label) uuid() string {
	s := l.id
	return strings.Join([]string{s[:6], s[6:10], s[10:14], s[14:18], s[18:22], s[22:26], s[26:]}, "-")
}
