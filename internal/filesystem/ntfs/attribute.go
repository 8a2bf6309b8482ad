package ntfs

import (
	"encoding/binary"
	"errors"

	"clonecast/internal/quantity"
)

// Types of attributes.
const (
	typeList       = 0x20
	typeVolumeName = 0x60
	typeVolumeInfo = 0x70
	typeData       = 0x80
	typeIndexRoot  = 0x90
	typeIndex      = 0xA0
	typeEnd        = 0xFFFFFFFF
)

// attributeHeader begins every attribute (ntfs-3g's ATTR_RECORD).
type attributeHeader struct {
	Type        uint32 `offset:"0x00"`
	Length      uint32 `offset:"0x04"`
	NonResident uint8  `offset:"0x08"`
	NameLength  uint8  `offset:"0x09"` // in UTF-16 units
	NameOffset  uint16 `offset:"0x0a"`
	Flags       uint16 `offset:"0x0c"`
	_           uint16 `offset:"0x0e"`
}

// residentHeader follows attributeHeader when the value is inside the record.
type residentHeader struct {
	ValueLength uint32 `offset:"0x00"`
	ValueOffset uint16 `offset:"0x04"`
	_           uint16 `offset:"0x06"`
}

// nonResidentHeader follows attributeHeader when the value is in clusters. The
// sizes are valid in the part that begins at VCN 0.
type nonResidentHeader struct {
	FirstVCN        uint64  `offset:"0x00"`
	LastVCN         uint64  `offset:"0x08"`
	RunsOffset      uint16  `offset:"0x10"`
	_               [6]byte `offset:"0x12"`
	AllocatedSize   uint64  `offset:"0x18"`
	DataSize        uint64  `offset:"0x20"`
	InitializedSize uint64  `offset:"0x28"`
}

// attributeHeader.Flags of data that is not stored as it reads.
const attributeTransformed = 0x40ff // encrypted; compressed by some method

const (
	attributeHeaderSize   = 0x10
	residentHeaderSize    = 0x08
	nonResidentHeaderSize = 0x30
)

// errNoAttribute reports that a record lacks the attribute asked for.
var errNoAttribute = errors.New("no such attribute")

// attribute is one attribute, or the part of it that one record holds.
type attribute struct {
	attributeHeader
	name   string
	offset int // in its record

	value []byte // resident

	nonResidentHeader
	runs []byte // encoded
}

// attributes lists the attributes of r.
func (r record) attributes() ([]attribute, error) {
	var list []attribute
	for off := int(r.FirstAttribute); ; {
		rest := r.data[off:]
		if len(rest) < 4 {
			return nil, r.corrupt("attributes do not end")
		}
		if binary.LittleEndian.Uint32(rest) == typeEnd {
			return list, nil
		}
		a, err := r.parseAttribute(rest)
		if err != nil {
			return nil, err
		}
		a.offset = off
		list = append(list, a)
		off += int(a.Length)
	}
}

func (r record) parseAttribute(b []byte) (attribute, error) {
	var a attribute
	if _, err := binary.Decode(b, binary.LittleEndian, &a.attributeHeader); err != nil {
		return attribute{}, r.corrupt("attribute header is cut short")
	}
	if a.Length < attributeHeaderSize+residentHeaderSize || a.Length%8 != 0 || uint64(a.Length) > uint64(len(b)) {
		return attribute{}, r.corrupt("attribute %#x of %d bytes", a.Type, a.Length)
	}
	b = b[:a.Length]
	name, ok := cut(b, uint32(a.NameOffset), 2*uint32(a.NameLength))
	if !ok {
		return attribute{}, r.corrupt("name of attribute %#x lies outside it", a.Type)
	}
	a.name = decodeName(name)
	if a.NonResident == 0 {
		var h residentHeader
		if _, err := binary.Decode(b[attributeHeaderSize:], binary.LittleEndian, &h); err != nil {
			return attribute{}, r.corrupt("attribute %#x is cut short", a.Type)
		}
		if a.value, ok = cut(b, uint32(h.ValueOffset), h.ValueLength); !ok {
			return attribute{}, r.corrupt("value of attribute %#x lies outside it", a.Type)
		}
		return a, nil
	}
	_, err := binary.Decode(b[attributeHeaderSize:], binary.LittleEndian, &a.nonResidentHeader)
	if err != nil || int(a.RunsOffset) < attributeHeaderSize+nonResidentHeaderSize || int(a.RunsOffset) > len(b) {
		return attribute{}, r.corrupt("runs of attribute %#x lie outside it", a.Type)
	}
	a.runs = b[a.RunsOffset:]
	return a, nil
}

// find gives the attribute of that type and name in r itself.
func (r record) find(typ uint32, name string) (attribute, error) {
	list, err := r.attributes()
	if err != nil {
		return attribute{}, err
	}
	for _, a := range list {
		if a.Type == typ && a.name == name {
			return a, nil
		}
	}
	return attribute{}, errNoAttribute
}

func (r record) corrupt(problem string, args ...any) error {
	return corrupt(r.name(), quantity.Bytes(r.number)*1024, problem, args...)
}

// cut is b[off:off+n] if that lies inside b.
func cut(b []byte, off, n uint32) ([]byte, bool) {
	if uint64(off)+uint64(n) > uint64(len(b)) {
		return nil, false
	}
	return b[off:][:n], true
}
