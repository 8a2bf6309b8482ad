package ntfs

import (
	"encoding/binary"
	"errors"
	"fmt"

	"clonecast/internal/filesystem"
	"clonecast/internal/quantity"
)

// listEntry is ntfs-3g's ATTR_LIST_ENTRY: where one part of an attribute is.
type listEntry struct {
	Type       uint32    `offset:"0x00"`
	Length     uint16    `offset:"0x04"`
	NameLength uint8     `offset:"0x06"`
	NameOffset uint8     `offset:"0x07"`
	FirstVCN   uint64    `offset:"0x08"`
	Record     reference `offset:"0x10"`
}

const (
	listEntrySize = 0x18
	maxListSize   = 256 * quantity.KiB // the format's own limit
)

// loadMFT maps $MFT, whose first record is where the boot sector says.
func (v *volume) loadMFT() error {
	b := make([]byte, v.recordSize)
	if v.clusterOffset(v.mftCluster)+v.recordSize > v.size {
		return corrupt("boot sector", 0, "$MFT at cluster %d lies outside", v.mftCluster)
	}
	if err := filesystem.ReadFull(v.r, b, v.clusterOffset(v.mftCluster)); err != nil {
		return err
	}
	r, err := parseRecord(b, recordMFT)
	if err != nil {
		return err
	}
	// Assembled in place: extension records of $MFT lie in the part of it that is
	// mapped before them.
	if err := v.assemble(&v.mft, r, typeData, ""); err != nil {
		return required(r, "$DATA", err)
	}
	return v.noHoles(&v.mft, r)
}

// open gives the value of the attribute of that type and name of r.
func (v *volume) open(r record, typ uint32, name string) (stream, error) {
	var s stream
	err := v.assemble(&s, r, typ, name)
	return s, err
}

func (v *volume) assemble(s *stream, r record, typ uint32, name string) error {
	list, err := r.find(typeList, "")
	switch {
	case errors.Is(err, errNoAttribute):
		a, err := r.find(typ, name)
		if err != nil {
			return err
		}
		if err := v.begin(s, a); err != nil {
			return r.corrupt("attribute %#x: %v", typ, err)
		}
	case err != nil:
		return err
	default:
		if err := v.assembleList(s, r, list, typ, name); err != nil {
			return err
		}
	}
	if err := v.finish(s); err != nil {
		return r.corrupt("attribute %#x: %v", typ, err)
	}
	return nil
}

// assembleList joins the parts of an attribute that r's attribute list names.
// The list is sorted by type, name and VCN.
func (v *volume) assembleList(s *stream, r record, list attribute, typ uint32, name string) error {
	entries, err := v.readList(r, list)
	if err != nil {
		return err
	}
	parts := 0
	for len(entries) > 0 {
		e, entryName, err := r.parseListEntry(entries)
		if err != nil {
			return err
		}
		entries = entries[e.Length:]
		if e.Type != typ || entryName != name {
			continue
		}
		if err := v.addPart(s, r, e, name, parts == 0); err != nil {
			return err
		}
		parts++
	}
	if parts == 0 {
		return errNoAttribute
	}
	return nil
}

// readList gives the content of r's attribute list.
func (v *volume) readList(r record, list attribute) ([]byte, error) {
	var s stream
	if err := v.begin(&s, list); err != nil {
		return nil, r.corrupt("attribute list: %v", err)
	}
	if err := v.finish(&s); err != nil {
		return nil, r.corrupt("attribute list: %v", err)
	}
	if s.size > maxListSize {
		return nil, r.corrupt("attribute list of %d bytes", int64(s.size))
	}
	b := make([]byte, s.size)
	if err := v.readStream(&s, b, 0); err != nil {
		return nil, fmt.Errorf("attribute list of %s: %w", r.name(), err)
	}
	return b, nil
}

func (r record) parseListEntry(b []byte) (listEntry, string, error) {
	var e listEntry
	if _, err := binary.Decode(b, binary.LittleEndian, &e); err != nil ||
		e.Length < listEntrySize || int(e.Length) > len(b) {
		return listEntry{}, "", r.corrupt("attribute list entry is cut short")
	}
	name, ok := cut(b[:e.Length], uint32(e.NameOffset), 2*uint32(e.NameLength))
	if !ok {
		return listEntry{}, "", r.corrupt("name in attribute list lies outside its entry")
	}
	return e, decodeName(name), nil
}

// addPart appends to s the part of an attribute that e names.
func (v *volume) addPart(s *stream, base record, e listEntry, name string, first bool) error {
	holder := base
	if e.Record.number() != base.number {
		var err error
		if holder, err = v.readRecord(e.Record.number()); err != nil {
			return err
		}
		if holder.Base.number() != base.number || holder.SequenceNumber != e.Record.sequence() {
			return holder.corrupt("is not an extension of %s", base.name())
		}
	}
	all, err := holder.attributes()
	if err != nil {
		return err
	}
	for _, a := range all {
		if a.Type != e.Type || a.name != name || a.FirstVCN != e.FirstVCN {
			continue
		}
		if first {
			err = v.begin(s, a)
		} else {
			err = v.addRuns(s, a)
		}
		if err != nil {
			return holder.corrupt("attribute %#x: %v", a.Type, err)
		}
		return nil
	}
	return holder.corrupt("lacks the part of attribute %#x at VCN %d that %s lists", e.Type, e.FirstVCN, base.name())
}

// required turns the absence of an attribute into what it is for a system file.
func required(r record, what string, err error) error {
	if errors.Is(err, errNoAttribute) {
		return r.corrupt("has no %s", what)
	}
	return err
}

// noHoles refuses what no system file may have.
func (v *volume) noHoles(s *stream, r record) error {
	if s.used != s.mapped() {
		return r.corrupt("has holes")
	}
	return nil
}
